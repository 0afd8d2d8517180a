//! The functions: the language's own, and those of Kubernetes' environment. Each family stands in a file.

mod arithmetic;
mod convert;
mod kubernetes;
mod lists;
mod strings;
mod time;

use std::ops::RangeInclusive;

use crate::eval::{Budget, EvalError, Result, optional_of};
use crate::value::Value;

/// Names of functions with how many arguments they take, receivers included.
const FUNCTIONS: &[(&str, usize, usize)] = &[
    ("_==_", 2, 2),
    ("_!=_", 2, 2),
    ("_<_", 2, 2),
    ("_<=_", 2, 2),
    ("_>_", 2, 2),
    ("_>=_", 2, 2),
    ("_+_", 2, 2),
    ("_-_", 2, 2),
    ("_*_", 2, 2),
    ("_/_", 2, 2),
    ("_%_", 2, 2),
    ("-_", 1, 1),
    ("!_", 1, 1),
    ("@in", 2, 2),
    ("size", 1, 1),
    ("type", 1, 1),
    ("dyn", 1, 1),
    ("optional.of", 1, 1),
    ("optional.none", 0, 0),
    ("optional.ofNonZeroValue", 1, 1),
    ("hasValue", 1, 1),
    ("value", 1, 1),
    ("orValue", 2, 2),
    ("or", 2, 2),
];

/// How many arguments a function takes; None where there is no such function.
pub(crate) fn arity(name: &str, _receiver: bool) -> Option<RangeInclusive<usize>> {
    let families = [
        FUNCTIONS,
        convert::FUNCTIONS,
        strings::FUNCTIONS,
        lists::FUNCTIONS,
        time::FUNCTIONS,
        arithmetic::FUNCTIONS,
        kubernetes::FUNCTIONS,
    ];
    let mut found = families.into_iter().flatten().filter(|(n, _, _)| *n == name).map(|(_, least, most)| *least..=*most);
    let first = found.next()?;
    Some(found.fold(first, |all, more| *all.start().min(more.start())..=*all.end().max(more.end())))
}

/// Calls a function. Families answer None for what is not theirs.
pub(crate) fn call(name: &str, args: &[Value], budget: &mut Budget) -> Result<Value> {
    if let Some(value) = own(name, args, budget)? {
        return Ok(value);
    }
    for family in [arithmetic::call, convert::call, strings::call, lists::call, time::call, kubernetes::call] {
        if let Some(value) = family(name, args, budget)? {
            return Ok(value);
        }
    }
    Err(EvalError::NoSuchOverload)
}

/// What reading so many elements or characters costs beyond the step itself.
pub(crate) fn traversal(budget: &mut Budget, size: usize) -> Result<()> {
    budget.take((size / 10) as u64)
}

fn own(name: &str, args: &[Value], budget: &mut Budget) -> Result<Option<Value>> {
    Ok(Some(match (name, args) {
        ("_==_", [a, b]) => {
            weigh(budget, a)?;
            Value::Bool(a == b)
        }
        ("_!=_", [a, b]) => {
            weigh(budget, a)?;
            Value::Bool(a != b)
        }
        ("_<_", [a, b]) => Value::Bool(order(a, b)?.is_some_and(|o| o.is_lt())),
        ("_<=_", [a, b]) => Value::Bool(order(a, b)?.is_some_and(|o| o.is_le())),
        ("_>_", [a, b]) => Value::Bool(order(a, b)?.is_some_and(|o| o.is_gt())),
        ("_>=_", [a, b]) => Value::Bool(order(a, b)?.is_some_and(|o| o.is_ge())),
        ("!_", [Value::Bool(b)]) => Value::Bool(!b),
        ("@in", [element, range]) => {
            budget.take(range.size().unwrap_or(0) as u64)?;
            weigh(budget, range)?;
            if range.is_map() {
                Value::Bool(range.get(element).is_some())
            } else {
                Value::Bool(range.items().ok_or(EvalError::NoSuchOverload)?.contains(element))
            }
        }
        ("size", [value]) => match value.size() {
            Some(size) => Value::Int(size as i64),
            None => return Ok(None),
        },
        ("type", [value]) => Value::Type(value.type_name()),
        ("dyn", [value]) => value.clone(),
        ("optional.of", [value]) => optional_of(Some(value.clone())),
        ("optional.none", []) => optional_of(None),
        ("optional.ofNonZeroValue", [value]) => optional_of((!is_zero(value)).then(|| value.clone())),
        ("hasValue", [Value::Optional(inner)]) => Value::Bool(inner.is_some()),
        ("value", [Value::Optional(inner)]) => inner.as_deref().cloned().ok_or(EvalError::NoValue)?,
        ("orValue", [Value::Optional(inner), other]) => inner.as_deref().unwrap_or(other).clone(),
        ("or", [Value::Optional(inner), other @ Value::Optional(_)]) => {
            if inner.is_some() {
                Value::Optional(inner.clone())
            } else {
                other.clone()
            }
        }
        _ => return Ok(None),
    }))
}

/// Charges for looking at a value to its bottom. What is shared is looked at as often as it occurs, so a small expression can
/// make a value that nobody could print.
pub(crate) fn weigh(budget: &mut Budget, value: &Value) -> Result<()> {
    let mut open = vec![value.clone()];
    while let Some(value) = open.pop() {
        match &value {
            // The trees of objects are as large as what was sent.
            Value::Tree(_) | Value::Text(_) | Value::Bytes(_) => traversal(budget, value.size().unwrap_or(1))?,
            Value::List(items) => {
                budget.take(items.len().div_ceil(10) as u64)?;
                open.extend(items.iter().cloned());
            }
            Value::Map(entries) | Value::Message(_, entries) => {
                budget.take(entries.len().div_ceil(10) as u64)?;
                open.extend(entries.iter().flat_map(|(k, v)| [k.clone(), v.clone()]));
            }
            Value::Optional(Some(inner)) => open.push((**inner).clone()),
            _ => {}
        }
    }
    Ok(())
}

/// The order of two values of types that have one; None for what is not a number.
fn order(a: &Value, b: &Value) -> Result<Option<std::cmp::Ordering>> {
    use Value::*;
    match (a, b) {
        (Bool(_), Bool(_)) | (Text(_), Text(_)) | (Bytes(_), Bytes(_)) | (Timestamp(_), Timestamp(_)) | (Duration(_), Duration(_)) => {}
        (Int(_) | Uint(_) | Double(_), Int(_) | Uint(_) | Double(_)) => {}
        _ => return Err(EvalError::NoSuchOverload),
    }
    Ok(a.order(b))
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null | Value::Optional(None) | Value::Bool(false) | Value::Int(0) | Value::Uint(0) | Value::Duration(0) => true,
        Value::Double(d) => *d == 0.0,
        other => other.size() == Some(0),
    }
}
