//! Types: what every part of an expression is, and what is wrong where parts do not go together. Says the same as cel-go's
//! checker, in its words; evaluates nothing.

mod calls;
mod macros;

use std::collections::HashMap;

use crate::declarations::{Library, Overload};
use crate::environment::Environment;
use crate::syntax::{Expr, Name, Node};
use crate::types::{Fields, Type};
use crate::unify::Bindings;
use crate::value::Value;

/// More is not said about one expression.
const MOST_ISSUES: usize = 100;

/// What is wrong at a place, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Issue {
    pub(crate) at: u32,
    pub(crate) message: String,
}

/// What is known of an expression that has no issues.
pub(crate) struct Checked<'a> {
    /// By the number of the expression.
    types: Vec<Type>,
    bindings: Bindings,
    /// The overloads that a call may mean, by its number.
    pub(crate) overloads: HashMap<u32, Vec<&'a Overload>>,
    pub(crate) result: Type,
}

impl Checked<'_> {
    /// The type of an expression; what is inside of it may be open.
    pub(crate) fn head(&self, expr: &Expr) -> Type {
        match self.bindings.head(&self.types[expr.id as usize]) {
            Type::Param(_) => Type::Dyn,
            known => known,
        }
    }

    pub(crate) fn inner(&self, ty: &Type) -> Type {
        match self.bindings.head(ty) {
            Type::Param(_) => Type::Dyn,
            known => known,
        }
    }
}

struct Checker<'a> {
    environment: &'a Environment,
    /// Names that macros bind; the last one shadows.
    bound: Vec<(Name, Type)>,
    types: Vec<Type>,
    bindings: Bindings,
    overloads: HashMap<u32, Vec<&'a Overload>>,
    issues: Vec<Issue>,
    /// Expressions below a call of `format`, which may mix types.
    in_format: u32,
}

pub(crate) fn check<'a>(expr: &Expr, count: u32, environment: &'a Environment) -> Result<Checked<'a>, Vec<Issue>> {
    let mut checker = Checker {
        environment,
        bound: Vec::new(),
        types: vec![Type::Error; count as usize],
        bindings: Bindings::new(),
        overloads: HashMap::new(),
        issues: Vec::new(),
        in_format: 0,
    };
    checker.expr(expr);
    if checker.issues.is_empty() {
        checker.literals(expr);
    }
    if checker.bindings.is_spent() {
        checker.issues = vec![Issue { at: 0, message: "types of the expression are too large".into() }];
    }
    let result = checker.bindings.settled(&checker.types[expr.id as usize].clone());
    if checker.issues.is_empty() {
        return Ok(Checked { types: checker.types, bindings: checker.bindings, overloads: checker.overloads, result });
    }
    checker.issues.sort_by_key(|issue| issue.at);
    Err(checker.issues)
}

impl Checker<'_> {
    fn issue(&mut self, at: u32, message: impl Into<String>) {
        if self.issues.len() < MOST_ISSUES {
            self.issues.push(Issue { at, message: message.into() });
        }
    }

    fn mismatch(&mut self, at: u32, wanted: &Type, found: &Type) {
        let (wanted, found) = (self.bindings.settled(wanted), self.bindings.settled(found));
        self.issue(at, format!("expected type '{wanted}' but found '{found}'"));
    }

    fn undeclared(&mut self, at: u32, name: &str) -> Type {
        self.issue(at, format!("undeclared reference to '{name}' (in container '')"));
        Type::Error
    }

    /// The type of an expression, which is remembered by its number.
    fn expr(&mut self, expr: &Expr) -> Type {
        let ty = self.kind_of(expr);
        self.types[expr.id as usize] = ty.clone();
        ty
    }

    fn kind_of(&mut self, expr: &Expr) -> Type {
        match &expr.node {
            Node::Literal(value) => literal(value),
            Node::Ident(name) => match self.name(name) {
                Some(ty) => ty,
                None => self.undeclared(expr.at, name),
            },
            Node::Select { operand, field, optional } => self.select(expr, operand, field, *optional),
            Node::Has { operand, field } => {
                self.field(expr, operand, field, false);
                Type::Bool
            }
            Node::Index { operand, index, optional } => {
                let given = [self.expr(operand), self.expr(index)];
                self.call(expr, if *optional { "_[?_]" } else { "_[_]" }, false, &given)
            }
            Node::Call { function, receiver, args } => self.function(expr, function, *receiver, args),
            Node::And(a, b) | Node::Or(a, b) => {
                let given = [self.expr(a), self.expr(b)];
                for (part, ty) in [a, b].into_iter().zip(&given) {
                    self.is_bool(part, ty);
                }
                Type::Bool
            }
            Node::Conditional(parts) => {
                let given: Vec<Type> = parts.iter().map(|part| self.expr(part)).collect();
                self.call(expr, "_?_:_", false, &given)
            }
            Node::List(items) => self.list(items),
            Node::Map(entries) => self.map(entries),
            Node::Message { name, fields } => self.message(expr, name, fields),
            Node::Fold(fold) => self.fold(expr, fold),
            Node::Bind { name, value, body } => {
                if !self.environment.has(Library::Bindings) {
                    self.undeclared(expr.at, "cel");
                    self.undeclared(expr.at, "bind");
                }
                let value = self.expr(value);
                self.within(&[(name, value)], |c| c.expr(body))
            }
            Node::OptMap { operand, name, body, flat } => self.opt_map(expr, operand, name, body, *flat),
        }
    }

    fn within<T>(&mut self, names: &[(&Name, Type)], run: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.bound.len();
        self.bound.extend(names.iter().map(|(n, t)| ((*n).clone(), t.clone())));
        let out = run(self);
        self.bound.truncate(before);
        out
    }

    /// The type of a variable, or that of a name for a type.
    fn name(&self, name: &str) -> Option<Type> {
        if let Some((_, ty)) = self.bound.iter().rev().find(|(n, _)| **n == *name) {
            return Some(ty.clone());
        }
        let declared = self.environment.variable(name).map(|d| d.ty.clone());
        declared.or_else(|| Type::called(name).map(|ty| Type::Type(Some(ty.into()))))
    }

    fn is_bool(&mut self, expr: &Expr, ty: &Type) {
        if !self.bindings.assignable(ty, &Type::Bool) {
            self.mismatch(expr.at, &Type::Bool, ty);
        }
    }

    fn select(&mut self, expr: &Expr, operand: &Expr, field: &str, optional: bool) -> Type {
        // A name with dots, unless its first part is a name of its own.
        if let Some(name) = expr.qualified() {
            if let Some(ty) = Type::called(&name) {
                return Type::Type(Some(ty.into()));
            }
            if let Some(declared) = self.environment.variable(&name) {
                return declared.ty.clone();
            }
        }
        self.field(expr, operand, field, optional)
    }

    fn field(&mut self, expr: &Expr, operand: &Expr, field: &str, optional: bool) -> Type {
        let operand = self.expr(operand);
        let operand = self.bindings.head(&operand);
        let (target, inside) = match operand.inside() {
            Some(inside) => (self.bindings.head(inside), true),
            None => (operand.clone(), false),
        };
        let found = match &target {
            Type::Map(pair) => pair.1.clone(),
            Type::Object(object) => match (&object.fields, object.field(field)) {
                (Fields::Any, _) => Type::Dyn,
                (_, Some(declared)) => declared.ty.clone(),
                (_, None) => {
                    self.issue(expr.at, format!("undefined field '{field}'"));
                    Type::Error
                }
            },
            Type::Param(_) => {
                self.bindings.assignable(&Type::Dyn, &target);
                Type::Dyn
            }
            Type::Dyn | Type::Error => Type::Dyn,
            _ => {
                let target = self.bindings.settled(&target);
                self.issue(expr.at, format!("type '{target}' does not support field selection"));
                Type::Dyn
            }
        };
        if inside || optional { Type::optional(found) } else { found }
    }

    /// Of what is left out where it is an empty optional: what it is otherwise.
    fn unwrapped(&mut self, expr: &Expr, ty: Type, optional: bool) -> Type {
        let head = self.bindings.head(&ty);
        match (optional, head.inside()) {
            (false, _) => ty,
            (true, Some(inside)) => inside.clone(),
            (true, None) => {
                if !matches!(head, Type::Dyn | Type::Error) {
                    self.mismatch(expr.at, &Type::optional(ty.clone()), &ty);
                }
                ty
            }
        }
    }

    /// The type of the elements of a literal, with one more of them.
    fn joined(&mut self, expr: &Expr, before: Option<Type>, ty: Type) -> Type {
        let Some(before) = before else { return ty };
        match self.bindings.join(&before, &ty) {
            Some(joined) => joined,
            None if self.environment.mixes() => Type::Dyn,
            None => {
                self.mismatch(expr.at, &before, &ty);
                Type::Error
            }
        }
    }

    fn list(&mut self, items: &[(Expr, bool)]) -> Type {
        let mut of = None;
        for (item, optional) in items {
            let ty = self.expr(item);
            let ty = self.unwrapped(item, ty, *optional);
            of = Some(self.joined(item, of, ty));
        }
        Type::list(of.unwrap_or_else(|| self.bindings.fresh()))
    }

    fn map(&mut self, entries: &[(Expr, Expr, bool)]) -> Type {
        let (mut keys, mut values) = (None, None);
        for (key, value, optional) in entries {
            let ty = self.expr(key);
            keys = Some(self.joined(key, keys, ty));
            let ty = self.expr(value);
            let ty = self.unwrapped(value, ty, *optional);
            values = Some(self.joined(value, values, ty));
        }
        match (keys, values) {
            (Some(keys), Some(values)) => Type::map(keys, values),
            _ => Type::map(self.bindings.fresh(), self.bindings.fresh()),
        }
    }

    fn message(&mut self, expr: &Expr, name: &str, fields: &[(Name, Expr, bool)]) -> Type {
        let declared = self.environment.message(name);
        let Some(made) = declared else {
            fields.iter().for_each(|(_, value, _)| drop(self.expr(value)));
            return self.undeclared(expr.at, name);
        };
        for (field, value, optional) in fields {
            let ty = self.expr(value);
            let ty = self.unwrapped(value, ty, *optional);
            let Type::Object(object) = &made else { continue };
            match (&object.fields, object.field(field)) {
                (Fields::Any, _) => {}
                (_, Some(declared)) if self.bindings.assignable(&declared.ty, &ty) => {}
                (_, Some(declared)) => {
                    let ty = self.bindings.settled(&ty);
                    let message = format!("expected type of field '{field}' is '{}' but provided type is '{ty}'", declared.ty);
                    self.issue(value.at, message);
                }
                (_, None) => self.issue(value.at, format!("undefined field '{field}'")),
            }
        }
        made
    }
}

fn literal(value: &Value) -> Type {
    match value {
        Value::Null => Type::Null,
        Value::Bool(_) => Type::Bool,
        Value::Int(_) => Type::Int,
        Value::Uint(_) => Type::Uint,
        Value::Double(_) => Type::Double,
        Value::Text(_) => Type::Text,
        Value::Bytes(_) => Type::Bytes,
        _ => Type::Dyn,
    }
}
