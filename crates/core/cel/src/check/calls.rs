//! Calls: which overloads of a function fit what it is given. And what is looked at behind all types: literals that are read
//! when they are evaluated, and mixed ones.

use crate::declarations::{self, Function};
use crate::eval::Budget;
use crate::library;
use crate::syntax::{Expr, Node};
use crate::types::Type;
use crate::value::Value;

use super::Checker;

impl<'a> Checker<'a> {
    pub(super) fn function(&mut self, expr: &Expr, name: &str, receiver: bool, args: &[Expr]) -> Type {
        let given: Vec<Type> = args.iter().map(|arg| self.expr(arg)).collect();
        self.call(expr, name, receiver, &given)
    }

    /// The type that a call gives.
    pub(super) fn call(&mut self, expr: &Expr, name: &str, receiver: bool, given: &[Type]) -> Type {
        let environment = self.environment;
        let function = environment.function(name).or_else(|| declarations::find(name));
        let known = function.filter(|f| f.overloads.iter().any(|(library, _)| environment.has(*library)));
        let Some(function) = known else {
            // Of a function that a namespace does not have, the namespace is what is not known.
            let missing = if receiver || name.starts_with('_') { name } else { name.split('.').next().unwrap_or(name) };
            return self.undeclared(expr.at, missing);
        };
        self.resolve(expr, function, receiver, given).unwrap_or_else(|| {
            let message = self.no_overload(name, receiver, given);
            self.issue(expr.at, message);
            Type::Error
        })
    }

    fn resolve(&mut self, expr: &Expr, function: &'a Function, receiver: bool, given: &[Type]) -> Option<Type> {
        let mut result: Option<Type> = None;
        let mut fitting = Vec::new();
        for (library, overload) in &function.overloads {
            if overload.receiver != receiver || !self.environment.has(*library) || overload.arguments.len() != given.len() {
                continue;
            }
            let from = self.bindings.next();
            let wanted: Vec<Type> = overload.arguments.iter().map(|ty| self.bindings.instance(ty, from)).collect();
            let made = self.bindings.instance(&overload.result, from);
            if !self.bindings.all_assignable(given, &wanted) {
                continue;
            }
            fitting.push(overload);
            result = Some(match result {
                None => made,
                Some(Type::Dyn) => Type::Dyn,
                Some(before) if self.bindings.same(&before, &made) => before,
                Some(_) => Type::Dyn,
            });
        }
        self.overloads.insert(expr.id, fitting);
        result
    }

    pub(super) fn no_overload(&mut self, name: &str, receiver: bool, given: &[Type]) -> String {
        let given: Vec<String> = given.iter().map(|ty| self.bindings.settled(ty).to_string()).collect();
        let (target, rest) = match given.split_first() {
            Some((target, rest)) if receiver => (format!("{target}."), rest),
            _ => (String::new(), &given[..]),
        };
        format!("found no matching overload for '{name}' applied to '{target}({})'", rest.join(", "))
    }

    /// What cannot be evaluated whatever the variables are, and literals whose elements only went together as `dyn`.
    pub(super) fn literals(&mut self, expr: &Expr) {
        let format = matches!(&expr.node, Node::Call { function, .. } if &**function == "format");
        self.in_format += u32::from(format);
        match &expr.node {
            Node::Call { function, args, .. } => {
                let literal = match (&**function, &args[..]) {
                    ("duration" | "timestamp", [arg]) | ("matches", [_, arg]) => Some(arg),
                    _ => None,
                };
                if let Some((arg, Node::Literal(value))) = literal.map(|arg| (arg, &arg.node))
                    && !is_readable(function, value)
                {
                    self.issue(arg.at, format!("invalid {function} argument"));
                }
            }
            Node::List(items) => self.alike(items.iter().map(|(item, optional)| (item, *optional))),
            Node::Map(entries) => {
                self.alike(entries.iter().map(|(key, ..)| (key, false)));
                self.alike(entries.iter().map(|(_, value, optional)| (value, *optional)));
            }
            _ => {}
        }
        expr.all_parts().into_iter().for_each(|part| self.literals(part));
        self.in_format -= u32::from(format);
    }

    fn alike<'e>(&mut self, items: impl Iterator<Item = (&'e Expr, bool)>) {
        if self.in_format > 0 || self.environment.mixes() {
            return;
        }
        let mut first: Option<Type> = None;
        for (item, optional) in items {
            let ty = self.bindings.head(&self.types[item.id as usize]);
            let ty = ty.inside().filter(|_| optional).cloned().unwrap_or(ty);
            match &first {
                None => first = Some(ty),
                Some(first) if self.bindings.same(first, &ty) => {}
                Some(first) => return self.mismatch(item.at, &first.clone(), &ty),
            }
        }
    }
}

fn is_readable(function: &str, value: &Value) -> bool {
    let mut args = vec![value.clone()];
    if function == "matches" {
        args.insert(0, Value::from(""));
    }
    library::call(function, &args, &mut Budget::new(1_000_000)).is_ok()
}
