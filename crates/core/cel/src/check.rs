//! Names: every variable is declared, every function is known and takes that many arguments.

use crate::CompileError;
use crate::library;
use crate::syntax::{Expr, Name};

/// Names of types, which are values.
pub(crate) const TYPES: [&str; 15] = [
    "bool",
    "int",
    "uint",
    "double",
    "string",
    "bytes",
    "list",
    "map",
    "null_type",
    "type",
    "optional_type",
    "google.protobuf.Timestamp",
    "google.protobuf.Duration",
    "net.IP",
    "net.CIDR",
];

/// `messages` are the first parts of the names of the messages that may be made.
pub(crate) fn check(expr: &Expr, variables: &[&str], messages: &[&str]) -> Result<(), CompileError> {
    let mut bound = Vec::new();
    Check { variables, messages }.expr(expr, &mut bound)
}

struct Check<'a> {
    variables: &'a [&'a str],
    messages: &'a [&'a str],
}

impl Check<'_> {
    fn expr(&self, expr: &Expr, bound: &mut Vec<Name>) -> Result<(), CompileError> {
        match expr {
            Expr::Ident(name) => {
                let known = bound.contains(name) || self.variables.contains(&&**name) || TYPES.contains(&&**name);
                return if known { Ok(()) } else { Err(CompileError::Undeclared(name.to_string())) };
            }
            // The names of types with dots.
            Expr::Select { .. } if qualified(expr).is_some_and(|name| TYPES.contains(&name.as_str())) => return Ok(()),
            Expr::Message { name, .. } if !self.messages.contains(&name.split('.').next().unwrap_or_default()) => {
                return Err(CompileError::Undeclared(name.to_string()));
            }
            Expr::Call { function, args, receiver } => {
                let counts = library::arity(function, *receiver).ok_or_else(|| CompileError::Undeclared(function.to_string()))?;
                if !counts.contains(&args.len()) {
                    return Err(CompileError::Overload { name: function.to_string(), count: args.len() });
                }
            }
            _ => {}
        }
        for part in expr.parts() {
            self.expr(part, bound)?;
        }
        let before = bound.len();
        match expr {
            Expr::Fold(fold) => {
                bound.push(fold.first.clone());
                bound.extend(fold.second.clone());
                if let Some(condition) = &fold.condition {
                    self.expr(condition, bound)?;
                }
                self.expr(&fold.body, bound)?;
            }
            Expr::Bind { name, body, .. } | Expr::OptMap { name, body, .. } => {
                bound.push(name.clone());
                self.expr(body, bound)?;
            }
            _ => {}
        }
        bound.truncate(before);
        Ok(())
    }
}

/// `a.b.c` where an expression is nothing but names.
pub(crate) fn qualified(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Ident(name) => Some(name.to_string()),
        Expr::Select { operand, field, optional: false } => Some(format!("{}.{field}", qualified(operand)?)),
        _ => None,
    }
}

/// Fields below a variable; of `self.a.b` that is the whole path.
pub(crate) fn selections(expr: &Expr, variable: &str, out: &mut Vec<Vec<String>>) {
    if let Some(path) = path_below(expr, variable).filter(|p| !p.is_empty()) {
        out.push(path);
        return;
    }
    let mut parts = expr.parts();
    match expr {
        // A macro may bind the name to something else.
        Expr::Fold(fold) if *fold.first != *variable => parts.extend(fold.condition.iter().chain([&fold.body])),
        Expr::Bind { name, body, .. } | Expr::OptMap { name, body, .. } if **name != *variable => parts.push(body),
        _ => {}
    }
    parts.into_iter().for_each(|part| selections(part, variable, out));
}

fn path_below(expr: &Expr, variable: &str) -> Option<Vec<String>> {
    match expr {
        Expr::Ident(name) => (&**name == variable).then(Vec::new),
        Expr::Select { operand, field, .. } | Expr::Has { operand, field } => {
            let mut path = path_below(operand, variable)?;
            path.push(crate::eval::unescaped(field));
            Some(path)
        }
        _ => None,
    }
}

/// Whether a name occurs anywhere.
pub(crate) fn mentions(expr: &Expr, name: &str) -> bool {
    let below = |e: &Expr| mentions(e, name);
    let own = match expr {
        Expr::Ident(ident) => &**ident == name,
        Expr::Fold(fold) => below(&fold.body) || fold.condition.as_ref().is_some_and(below),
        Expr::Bind { body, .. } | Expr::OptMap { body, .. } => below(body),
        _ => false,
    };
    own || expr.parts().into_iter().any(below)
}
