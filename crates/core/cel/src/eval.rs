//! Evaluation over a budget. Logical operators take errors as cel-spec has it: what decides wins over what failed.

use std::sync::Arc;

use crate::library;
use crate::schema::unescape;
use crate::syntax::{Expr, Fold, FoldKind, Name, Node};
use crate::types::{dotted_types, type_name};
use crate::value::Value;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    #[error("no such key: {0}")]
    NoSuchKey(String),
    #[error("no such overload")]
    NoSuchOverload,
    #[error("no such attribute(s): {0}")]
    NoSuchAttribute(String),
    #[error("index out of bounds: {0}")]
    OutOfBounds(i64),
    #[error("division by zero")]
    DivideByZero,
    #[error("modulus by zero")]
    ModulusByZero,
    #[error("integer overflow")]
    Overflow,
    #[error("optional.none() dereference")]
    NoValue,
    #[error("operation cancelled: actual cost limit exceeded")]
    Budget,
    #[error("{0}")]
    Other(String),
}

pub(crate) type Result<T> = std::result::Result<T, EvalError>;

/// What evaluations may cost; one unit is about one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    left: u64,
}

impl Budget {
    pub fn new(units: u64) -> Self {
        Self { left: units }
    }

    pub fn left(&self) -> u64 {
        self.left
    }

    /// Runs something that may cost no more than this, and no more than what is left.
    pub fn limited<T>(&mut self, most: u64, run: impl FnOnce(&mut Budget) -> T) -> T {
        let granted = most.min(self.left);
        let mut budget = Budget::new(granted);
        let out = run(&mut budget);
        self.left -= granted - budget.left.min(granted);
        out
    }

    pub fn take(&mut self, units: u64) -> Result<()> {
        match self.left.checked_sub(units) {
            Some(left) => self.left = left,
            None => {
                self.left = 0;
                return Err(EvalError::Budget);
            }
        }
        Ok(())
    }
}

/// The fields of the variable `variables`; see KEP-3488 on variable composition.
pub trait Lazy {
    /// None where there is no such field.
    fn value(&self, name: &str, budget: &mut Budget) -> Option<std::result::Result<Value, EvalError>>;
}

/// The variable whose fields are computed when they are asked for.
const LAZY: &str = "variables";

pub(crate) fn evaluate(expr: &Expr, variables: &[(&str, Value)], lazy: Option<&dyn Lazy>, budget: &mut Budget) -> Result<Value> {
    let value = Evaluation { variables, lazy, bound: Vec::new(), budget }.expr(expr)?;
    // Whoever takes the value looks at all of it.
    library::weigh(budget, &value)?;
    Ok(value)
}

struct Evaluation<'a> {
    variables: &'a [(&'a str, Value)],
    lazy: Option<&'a dyn Lazy>,
    /// Names that macros bind; the last one shadows.
    bound: Vec<(Name, Value)>,
    budget: &'a mut Budget,
}

impl Evaluation<'_> {
    fn expr(&mut self, expr: &Expr) -> Result<Value> {
        self.budget.take(1)?;
        match &expr.node {
            Node::Literal(value) => Ok(value.clone()),
            Node::Ident(name) => self.variable(name),
            Node::Select { operand, field, optional } => self.select(expr, operand, field, *optional),
            Node::Has { operand, field } if self.is_lazy(operand) => match self.lazily(field) {
                Err(EvalError::NoSuchKey(_)) => Ok(Value::Bool(false)),
                found => found.map(|_| Value::Bool(true)),
            },
            Node::Has { operand, field } => {
                let operand = self.expr(operand)?;
                has(&operand, field).map(Value::Bool)
            }
            Node::Index { operand, index, optional } => {
                let (operand, index) = (self.expr(operand)?, self.expr(index)?);
                match (&operand, optional) {
                    (Value::Optional(None), _) => Ok(Value::Optional(None)),
                    (Value::Optional(Some(inner)), _) => found(indexed(inner, &index)),
                    (operand, true) => found(indexed(operand, &index)),
                    (operand, false) => indexed(operand, &index),
                }
            }
            Node::Call { function, args, .. } => {
                let args = args.iter().map(|a| self.expr(a)).collect::<Result<Vec<_>>>()?;
                library::call(function, &args, self.budget)
            }
            Node::And(a, b) => self.logic(a, b, false),
            Node::Or(a, b) => self.logic(a, b, true),
            Node::Conditional(parts) => {
                let [condition, yes, no] = &**parts;
                match self.expr(condition)? {
                    Value::Bool(true) => self.expr(yes),
                    Value::Bool(false) => self.expr(no),
                    _ => Err(EvalError::NoSuchOverload),
                }
            }
            Node::List(items) => self.list(items),
            Node::Map(entries) => self.map(entries),
            Node::Message { name, fields } => self.message(name, fields),
            Node::Fold(fold) => self.fold(fold),
            Node::Bind { name, value, body } => {
                let value = self.expr(value)?;
                self.with(&[(name, value)], |e| e.expr(body))
            }
            Node::OptMap { operand, name, body, flat } => match self.expr(operand)? {
                Value::Optional(None) => Ok(Value::Optional(None)),
                Value::Optional(Some(inner)) => {
                    let made = self.with(&[(name, (*inner).clone())], |e| e.expr(body))?;
                    Ok(if *flat { made } else { optional_of(Some(made)) })
                }
                _ => Err(EvalError::NoSuchOverload),
            },
        }
    }

    fn with<T>(&mut self, names: &[(&Name, Value)], run: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.bound.len();
        self.bound.extend(names.iter().map(|(n, v)| ((*n).clone(), v.clone())));
        let out = run(self);
        self.bound.truncate(before);
        out
    }

    fn variable(&self, name: &str) -> Result<Value> {
        if let Some((_, value)) = self.bound.iter().rev().find(|(n, _)| &**n == name) {
            return Ok(value.clone());
        }
        if let Some((_, value)) = self.variables.iter().find(|(n, _)| *n == name) {
            return Ok(value.clone());
        }
        match type_name(name) {
            Some(ty) => Ok(Value::Type(ty)),
            None => Err(EvalError::NoSuchAttribute(name.into())),
        }
    }

    fn select(&mut self, whole: &Expr, operand: &Expr, field: &str, optional: bool) -> Result<Value> {
        if let Some(ty) = dotted_types().find(|name| whole.is_called(name)) {
            return Ok(Value::Type(ty));
        }
        // Variables may have dots in their names, such as `authorizer.requestResource`.
        if let Some((_, value)) = self.variables.iter().find(|(name, _)| name.contains('.') && whole.is_called(name)) {
            return Ok(value.clone());
        }
        if self.is_lazy(operand) {
            let value = self.lazily(field);
            return if optional { found(value) } else { value };
        }
        match self.expr(operand)? {
            Value::Optional(None) => Ok(Value::Optional(None)),
            Value::Optional(Some(inner)) => found(field_of(&inner, field)),
            operand if optional => found(field_of(&operand, field)),
            operand => field_of(&operand, field),
        }
    }

    fn is_lazy(&self, operand: &Expr) -> bool {
        matches!(&operand.node, Node::Ident(name) if &**name == LAZY)
            && self.lazy.is_some()
            && !self.bound.iter().any(|(n, _)| &**n == LAZY)
    }

    fn lazily(&mut self, field: &str) -> Result<Value> {
        let value = self.lazy.and_then(|lazy| lazy.value(field, self.budget));
        value.unwrap_or_else(|| Err(EvalError::NoSuchKey(field.into())))
    }

    fn message(&mut self, name: &Name, fields: &[(Name, Expr, bool)]) -> Result<Value> {
        let mut out = Vec::with_capacity(fields.len());
        for (field, value, optional) in fields {
            match (self.expr(value)?, optional) {
                (value, false) => out.push((Value::from(unescape(field)), value)),
                (Value::Optional(inner), true) => out.extend(inner.map(|v| (Value::from(unescape(field)), (*v).clone()))),
                _ => return Err(EvalError::NoSuchOverload),
            }
        }
        Ok(Value::Message(name.clone(), Arc::new(out)))
    }

    /// `decides` is the value that settles the result whatever the other side is.
    fn logic(&mut self, a: &Expr, b: &Expr, decides: bool) -> Result<Value> {
        let side = |value: Result<Value>| match value {
            Ok(Value::Bool(b)) => Ok(b),
            Ok(_) => Err(EvalError::NoSuchOverload),
            Err(e) => Err(e),
        };
        let first = side(self.expr(a));
        if first == Ok(decides) || first == Err(EvalError::Budget) {
            return first.map(Value::Bool);
        }
        match (first, side(self.expr(b))) {
            (_, Ok(second)) if second == decides => Ok(Value::Bool(decides)),
            (_, Err(EvalError::Budget)) => Err(EvalError::Budget),
            (Err(e), _) | (_, Err(e)) => Err(e),
            _ => Ok(Value::Bool(!decides)),
        }
    }

    fn list(&mut self, items: &[(Expr, bool)]) -> Result<Value> {
        let mut out = Vec::with_capacity(items.len());
        for (item, optional) in items {
            match (self.expr(item)?, optional) {
                (value, false) => out.push(value),
                (Value::Optional(inner), true) => out.extend(inner.map(|v| (*v).clone())),
                _ => return Err(EvalError::NoSuchOverload),
            }
        }
        Ok(out.into())
    }

    fn map(&mut self, entries: &[(Expr, Expr, bool)]) -> Result<Value> {
        let mut out: Vec<(Value, Value)> = Vec::with_capacity(entries.len());
        for (key, value, optional) in entries {
            let (key, value) = (self.expr(key)?, self.expr(value)?);
            if !matches!(key, Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Text(_)) {
                return Err(EvalError::Other("unsupported key type".into()));
            }
            if out.iter().any(|(k, _)| *k == key) {
                return Err(EvalError::Other("Failed with repeated key".into()));
            }
            match (value, optional) {
                (value, false) => out.push((key, value)),
                (Value::Optional(inner), true) => out.extend(inner.map(|v| (key, (*v).clone()))),
                _ => return Err(EvalError::NoSuchOverload),
            }
        }
        Ok(Value::Map(Arc::new(out)))
    }

    fn fold(&mut self, fold: &Fold) -> Result<Value> {
        let range = self.expr(&fold.range)?;
        let (pairs, is_map): (Vec<(Value, Value)>, bool) = match (range.items(), range.entries()) {
            (Some(items), _) => (items.into_iter().enumerate().map(|(i, v)| (Value::Int(i as i64), v)).collect(), false),
            (None, Some(entries)) => (entries, true),
            (None, None) => return Err(EvalError::NoSuchOverload),
        };
        let mut state = Folding { kind: fold.kind, matches: 0, failed: None, list: Vec::new(), map: Vec::new() };
        for (key, value) in pairs {
            self.budget.take(1)?;
            // With one name that is the element of a list, or the key of a map.
            let names: Vec<(&Name, Value)> = match &fold.second {
                Some(second) => vec![(&fold.first, key.clone()), (second, value.clone())],
                None => vec![(&fold.first, if is_map { key.clone() } else { value.clone() })],
            };
            let element = names[0].1.clone();
            let step = self.with(&names, |e| {
                if let Some(condition) = &fold.condition {
                    match e.expr(condition)? {
                        Value::Bool(true) => {}
                        Value::Bool(false) => return Ok(None),
                        _ => return Err(EvalError::NoSuchOverload),
                    }
                }
                e.expr(&fold.body).map(Some)
            });
            if state.step(step, key, element)? {
                break;
            }
        }
        state.finish()
    }
}

/// What a macro has gathered so far.
struct Folding {
    kind: FoldKind,
    matches: usize,
    failed: Option<EvalError>,
    list: Vec<Value>,
    map: Vec<(Value, Value)>,
}

impl Folding {
    /// Takes the result for one element; true where the rest does not matter.
    fn step(&mut self, step: Result<Option<Value>>, key: Value, element: Value) -> Result<bool> {
        let decides = match self.kind {
            FoldKind::All => Some(false),
            FoldKind::Exists => Some(true),
            _ => None,
        };
        if let Some(decides) = decides {
            match step {
                Ok(Some(Value::Bool(b))) if b == decides => {
                    self.matches += 1;
                    return Ok(true);
                }
                Ok(Some(Value::Bool(_)) | None) => {}
                Ok(_) => self.failed = Some(EvalError::NoSuchOverload),
                Err(EvalError::Budget) => return Err(EvalError::Budget),
                Err(e) => self.failed = Some(e),
            }
            return Ok(false);
        }
        let Some(value) = step? else { return Ok(false) };
        match (self.kind, value) {
            (FoldKind::ExistsOne, Value::Bool(b)) => self.matches += usize::from(b),
            (FoldKind::Filter, Value::Bool(true)) => self.list.push(element),
            (FoldKind::Filter, Value::Bool(false)) => {}
            (FoldKind::ExistsOne | FoldKind::Filter, _) => return Err(EvalError::NoSuchOverload),
            (FoldKind::TransformMap, value) => self.map.push((key, value)),
            (FoldKind::TransformMapEntry, value) => self.map.extend(value.entries().ok_or(EvalError::NoSuchOverload)?),
            (FoldKind::SortBy, value) => self.map.push((value, element)),
            (_, value) => self.list.push(value),
        }
        Ok(false)
    }

    fn finish(self) -> Result<Value> {
        Ok(match (self.kind, self.matches, self.failed) {
            (FoldKind::All, 0, Some(e)) | (FoldKind::Exists, 0, Some(e)) => return Err(e),
            (FoldKind::All, n, _) => Value::Bool(n == 0),
            (FoldKind::Exists, n, _) => Value::Bool(n > 0),
            (FoldKind::ExistsOne, n, _) => Value::Bool(n == 1),
            (FoldKind::TransformMap | FoldKind::TransformMapEntry, ..) => Value::Map(Arc::new(self.map)),
            (FoldKind::SortBy, ..) => {
                let mut pairs = self.map;
                if pairs.windows(2).any(|w| w[0].0.order(&w[1].0).is_none()) {
                    return Err(EvalError::NoSuchOverload);
                }
                pairs.sort_by(|a, b| a.0.order(&b.0).unwrap_or(std::cmp::Ordering::Equal));
                pairs.into_iter().map(|(_, v)| v).collect::<Vec<_>>().into()
            }
            _ => self.list.into(),
        })
    }
}

/// What an optional selection gives: nothing where there is no such key, and errors as they are.
fn found(value: Result<Value>) -> Result<Value> {
    match value {
        Err(EvalError::NoSuchKey(_) | EvalError::OutOfBounds(_)) => Ok(optional_of(None)),
        other => other.map(|v| optional_of(Some(v))),
    }
}

pub(crate) fn optional_of(value: Option<Value>) -> Value {
    Value::Optional(value.map(Arc::new))
}

fn field_of(operand: &Value, field: &str) -> Result<Value> {
    if !operand.is_map() {
        return Err(EvalError::NoSuchOverload);
    }
    let found = operand.get(&field.into());
    let found = found.or_else(|| field.contains("__").then(|| operand.get(&unescape(field).into())).flatten());
    found.ok_or_else(|| EvalError::NoSuchKey(field.into()))
}

fn has(operand: &Value, field: &str) -> Result<bool> {
    match operand {
        Value::Optional(None) => Ok(false),
        Value::Optional(Some(inner)) => has(inner, field),
        operand => match field_of(operand, field) {
            Ok(_) => Ok(true),
            Err(EvalError::NoSuchKey(_)) => Ok(false),
            Err(e) => Err(e),
        },
    }
}

/// An element of a list or the value of a key.
pub(crate) fn indexed(operand: &Value, index: &Value) -> Result<Value> {
    if operand.is_list() {
        let at = match index {
            Value::Int(i) => *i,
            Value::Uint(u) => i64::try_from(*u).map_err(|_| EvalError::OutOfBounds(i64::MAX))?,
            Value::Double(d) if d.fract() == 0.0 => *d as i64,
            _ => return Err(EvalError::NoSuchOverload),
        };
        return usize::try_from(at).ok().and_then(|i| operand.item(i)).ok_or(EvalError::OutOfBounds(at));
    }
    if !operand.is_map() {
        return Err(EvalError::NoSuchOverload);
    }
    operand.get(index).ok_or_else(|| EvalError::NoSuchKey(crate::value::text(index).to_string()))
}
