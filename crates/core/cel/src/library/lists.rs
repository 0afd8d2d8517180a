//! Lists and sets: Kubernetes' list functions, the extensions `lists` and `sets`.

use std::cmp::Ordering;

use crate::eval::{Budget, EvalError, Result};
use crate::value::Value;

pub(super) fn call(name: &str, args: &[Value], budget: &mut Budget) -> Result<Option<Value>> {
    if let ("lists.range", [Value::Int(n)]) = (name, args) {
        budget.take(u64::try_from(*n).unwrap_or(0))?;
        return Ok(Some((0..*n).map(Value::Int).collect::<Vec<_>>().into()));
    }
    let Some((list, rest)) = args.split_first() else { return Ok(None) };
    let Some(items) = list.items() else { return Ok(None) };
    budget.take(items.len() as u64)?;
    if matches!(
        name,
        "indexOf" | "lastIndexOf" | "includes" | "flatten" | "distinct" | "sets.contains" | "sets.equivalent" | "sets.intersects"
    ) {
        super::weigh(budget, list)?;
    }
    if let ("sets.contains" | "sets.equivalent" | "sets.intersects", [other]) = (name, rest) {
        let Some(other) = other.items() else { return Ok(None) };
        budget.take((items.len() * other.len()) as u64)?;
        return Ok(Some(Value::Bool(match name {
            "sets.contains" => other.iter().all(|v| items.contains(v)),
            "sets.equivalent" => other.iter().all(|v| items.contains(v)) && items.iter().all(|v| other.contains(v)),
            _ => other.iter().any(|v| items.contains(v)),
        })));
    }
    Ok(Some(match (name, rest) {
        ("isSorted", []) => Value::Bool(items.windows(2).all(|w| w[0].order(&w[1]).is_some_and(Ordering::is_le))),
        ("sum", []) => {
            let Some((first, rest)) = items.split_first() else { return Ok(Some(Value::Int(0))) };
            rest.iter().try_fold(first.clone(), |sum, v| super::call("_+_", &[sum, v.clone()], budget))?
        }
        ("min" | "max", []) => {
            let wanted = if name == "min" { Ordering::Less } else { Ordering::Greater };
            let better = |a: Value, b: Value| if b.order(&a) == Some(wanted) { b } else { a };
            let empty = || EvalError::Other(format!("{name} called on empty list"));
            items.into_iter().reduce(better).ok_or_else(empty)?
        }
        ("indexOf", [value]) => Value::Int(items.iter().position(|v| v == value).map_or(-1, |i| i as i64)),
        ("lastIndexOf", [value]) => Value::Int(items.iter().rposition(|v| v == value).map_or(-1, |i| i as i64)),
        ("includes", [value]) => Value::Bool(items.contains(value)),
        ("reverse", []) => items.into_iter().rev().collect::<Vec<_>>().into(),
        ("slice", [Value::Int(from), Value::Int(to)]) => slice(&items, *from, *to)?,
        ("flatten", []) => flatten(items, 1).into(),
        ("flatten", [Value::Int(depth)]) if *depth < 0 => return Err(EvalError::Other("level must be non-negative".into())),
        ("flatten", [Value::Int(depth)]) => flatten(items, *depth).into(),
        ("distinct", []) => {
            budget.take((items.len() * items.len()) as u64)?;
            let mut out: Vec<Value> = Vec::new();
            items.into_iter().for_each(|v| {
                if !out.contains(&v) {
                    out.push(v)
                }
            });
            out.into()
        }
        ("sort", []) => {
            if items.windows(2).any(|w| w[0].order(&w[1]).is_none() || w[0].type_name() != w[1].type_name()) {
                return Err(EvalError::Other("list elements must have the same type".into()));
            }
            let mut items = items;
            items.sort_by(|a, b| a.order(b).unwrap_or(Ordering::Equal));
            items.into()
        }
        ("first", []) => crate::eval::optional_of(items.first().cloned()),
        ("last", []) => crate::eval::optional_of(items.last().cloned()),
        _ => return Ok(None),
    }))
}

fn slice(items: &[Value], from: i64, to: i64) -> Result<Value> {
    let bad = |why: &str| EvalError::Other(format!("cannot slice({from}, {to}), {why}"));
    let (Ok(start), Ok(end)) = (usize::try_from(from), usize::try_from(to)) else { return Err(bad("negative indexes not supported")) };
    if end < start {
        return Err(bad("start index must be less than or equal to end index"));
    }
    items.get(start..end).map(|part| part.to_vec().into()).ok_or_else(|| bad("list is length exceeded"))
}

fn flatten(items: Vec<Value>, depth: i64) -> Vec<Value> {
    let below = |v: Value| match v.items().filter(|_| depth > 0) {
        Some(inner) => flatten(inner, depth - 1),
        None => vec![v],
    };
    items.into_iter().flat_map(below).collect()
}
