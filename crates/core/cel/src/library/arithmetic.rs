//! Numbers: operators with checks for overflow, and the library `math`.

use std::sync::Arc;

use crate::eval::{Budget, EvalError, Result};
use crate::value::Value;

pub(super) fn call(name: &str, args: &[Value], budget: &mut Budget) -> Result<Option<Value>> {
    match name {
        "_+_" | "_-_" | "_*_" | "_/_" | "_%_" => {
            let [a, b] = args else { return Ok(None) };
            operate(name, a, b, budget)
        }
        "-_" => Ok(Some(match args {
            [Value::Int(i)] => Value::Int(i.checked_neg().ok_or(EvalError::Overflow)?),
            [Value::Double(d)] => Value::Double(-d),
            [Value::Duration(d)] => Value::Duration(-d),
            _ => return Ok(None),
        })),
        _ => match name.strip_prefix("math.") {
            Some(function) => math(function, args),
            None => Ok(None),
        },
    }
}

fn operate(name: &str, a: &Value, b: &Value, budget: &mut Budget) -> Result<Option<Value>> {
    use Value::*;
    Ok(Some(match (name, a, b) {
        (_, Int(a), Int(b)) => Int(integer(name, *a, *b)?),
        (_, Uint(a), Uint(b)) => Uint(unsigned(name, *a, *b)?),
        ("_+_", Double(a), Double(b)) => Double(a + b),
        ("_-_", Double(a), Double(b)) => Double(a - b),
        ("_*_", Double(a), Double(b)) => Double(a * b),
        ("_/_", Double(a), Double(b)) => Double(a / b),
        ("_+_", Text(a), Text(b)) => {
            super::traversal(budget, a.len() + b.len())?;
            format!("{a}{b}").into()
        }
        ("_+_", Bytes(a), Bytes(b)) => {
            super::traversal(budget, a.len() + b.len())?;
            Bytes([&a[..], &b[..]].concat().into())
        }
        ("_+_", a, b) if a.is_list() && b.is_list() => {
            budget.take((a.size().unwrap_or(0) + b.size().unwrap_or(0)).div_ceil(10) as u64)?;
            let mut all = a.items().unwrap_or_default();
            all.extend(b.items().unwrap_or_default());
            List(Arc::new(all))
        }
        _ => return super::time::operate(name, a, b),
    }))
}

fn integer(name: &str, a: i64, b: i64) -> Result<i64> {
    let made = match name {
        "_+_" => a.checked_add(b),
        "_-_" => a.checked_sub(b),
        "_*_" => a.checked_mul(b),
        "_/_" if b == 0 => return Err(EvalError::DivideByZero),
        "_/_" => a.checked_div(b),
        _ if b == 0 => return Err(EvalError::ModulusByZero),
        _ => a.checked_rem(b),
    };
    made.ok_or(EvalError::Overflow)
}

fn unsigned(name: &str, a: u64, b: u64) -> Result<u64> {
    let made = match name {
        "_+_" => a.checked_add(b),
        "_-_" => a.checked_sub(b),
        "_*_" => a.checked_mul(b),
        "_/_" if b == 0 => return Err(EvalError::DivideByZero),
        "_/_" => a.checked_div(b),
        _ if b == 0 => return Err(EvalError::ModulusByZero),
        _ => a.checked_rem(b),
    };
    made.ok_or(EvalError::Overflow)
}

fn math(function: &str, args: &[Value]) -> Result<Option<Value>> {
    use Value::*;
    let shift = |by: i64| u32::try_from(by).map_err(|_| EvalError::Other(format!("math.{function}() negative offset: {by}")));
    Ok(Some(match (function, args) {
        ("greatest" | "least", args) => return extreme(function == "greatest", args).map(Some),
        ("ceil", [Double(d)]) => Double(d.ceil()),
        ("floor", [Double(d)]) => Double(d.floor()),
        ("round", [Double(d)]) => Double(d.round()),
        ("trunc", [Double(d)]) => Double(d.trunc()),
        ("abs", [Double(d)]) => Double(d.abs()),
        ("abs", [Int(i)]) => Int(i.checked_abs().ok_or(EvalError::Overflow)?),
        ("abs" | "sign", [Uint(u)]) => Uint(if function == "abs" { *u } else { u64::from(*u > 0) }),
        ("sign", [Int(i)]) => Int(i.signum()),
        ("sign", [Double(d)]) => Double(if *d == 0.0 || d.is_nan() { *d } else { d.signum() }),
        ("sqrt", [Double(d)]) => Double(d.sqrt()),
        ("sqrt", [Int(i)]) => Double((*i as f64).sqrt()),
        ("sqrt", [Uint(u)]) => Double((*u as f64).sqrt()),
        ("isNaN", [Double(d)]) => Bool(d.is_nan()),
        ("isInf", [Double(d)]) => Bool(d.is_infinite()),
        ("isFinite", [Double(d)]) => Bool(d.is_finite()),
        ("bitAnd", [Int(a), Int(b)]) => Int(a & b),
        ("bitAnd", [Uint(a), Uint(b)]) => Uint(a & b),
        ("bitOr", [Int(a), Int(b)]) => Int(a | b),
        ("bitOr", [Uint(a), Uint(b)]) => Uint(a | b),
        ("bitXor", [Int(a), Int(b)]) => Int(a ^ b),
        ("bitXor", [Uint(a), Uint(b)]) => Uint(a ^ b),
        ("bitNot", [Int(a)]) => Int(!a),
        ("bitNot", [Uint(a)]) => Uint(!a),
        ("bitShiftLeft", [Int(a), Int(by)]) => Int(a.checked_shl(shift(*by)?).unwrap_or(0)),
        ("bitShiftLeft", [Uint(a), Int(by)]) => Uint(a.checked_shl(shift(*by)?).unwrap_or(0)),
        // The sign is not carried along.
        ("bitShiftRight", [Int(a), Int(by)]) => Int((*a as u64).checked_shr(shift(*by)?).unwrap_or(0) as i64),
        ("bitShiftRight", [Uint(a), Int(by)]) => Uint(a.checked_shr(shift(*by)?).unwrap_or(0)),
        _ => return Ok(None),
    }))
}

fn extreme(greatest: bool, args: &[Value]) -> Result<Value> {
    let items = match args {
        [list] if list.is_list() => list.items().unwrap_or_default(),
        args => args.to_vec(),
    };
    if items.iter().any(|v| !matches!(v, Value::Int(_) | Value::Uint(_) | Value::Double(_))) {
        return Err(EvalError::NoSuchOverload);
    }
    let better = |a: Value, b: Value| match b.order(&a) {
        Some(o) if o.is_gt() == greatest && o.is_ne() => b,
        _ => a,
    };
    items.into_iter().reduce(better).ok_or(EvalError::NoSuchOverload)
}
