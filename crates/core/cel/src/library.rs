//! The functions: the language's own, and those of Kubernetes' environment. Each family stands in a file.

mod arithmetic;
mod convert;
mod format;
mod kubernetes;
mod lists;
mod semver;
mod strings;
mod time;

pub use semver::Semver;

use crate::eval::{Budget, EvalError, Result, optional_of};
use crate::value::Value;

/// Calls a function. Families answer None for what is not theirs.
pub(crate) fn call(name: &str, args: &[Value], budget: &mut Budget) -> Result<Value> {
    if let [Value::Opaque(receiver), arguments @ ..] = args {
        return receiver.call(name, arguments, budget)?.ok_or(EvalError::NoSuchOverload);
    }
    if let Some(value) = own(name, args, budget)? {
        return Ok(value);
    }
    for family in [arithmetic::call, convert::call, strings::call, lists::call, time::call, kubernetes::call] {
        if let Some(value) = family(name, args, budget)? {
            return Ok(value);
        }
    }
    let own = semver::call(name, args)?.map_or_else(|| format::call(name, args), |value| Ok(Some(value)))?;
    own.ok_or(EvalError::NoSuchOverload)
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
        ("optional.unwrap" | "unwrapOpt", [list]) if list.is_list() => {
            let inner = |value: Value| match value {
                Value::Optional(inner) => Ok(inner.as_deref().cloned()),
                _ => Err(EvalError::NoSuchOverload),
            };
            let items = list.items().unwrap_or_default().into_iter().filter_map(|v| inner(v).transpose());
            items.collect::<Result<Vec<_>>>()?.into()
        }
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
