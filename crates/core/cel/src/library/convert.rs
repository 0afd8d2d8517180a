//! Conversions between types.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use jiff::Timestamp;

use crate::eval::{Budget, EvalError, Result};
use crate::value::{Value, read_duration, text};

fn unreadable(what: &str, text: &str) -> EvalError {
    EvalError::Other(format!("type conversion error: cannot convert {text:?} to {what}"))
}

pub(super) fn call(name: &str, args: &[Value], budget: &mut Budget) -> Result<Option<Value>> {
    use Value::*;
    let [value] = args else { return Ok(None) };
    Ok(Some(match (name, value) {
        ("int", Int(_)) | ("uint", Uint(_)) | ("double", Double(_)) | ("bool", Bool(_)) | ("bytes", Bytes(_)) => value.clone(),
        ("timestamp", Timestamp(_)) | ("duration", Duration(_)) => value.clone(),
        ("int", Uint(u)) => Int(i64::try_from(*u).map_err(|_| EvalError::Overflow)?),
        ("int", Double(d)) if *d > -9.223_372_036_854_775e18 && *d < 9.223_372_036_854_775e18 => Int(*d as i64),
        ("int" | "uint", Double(_)) if name == "int" => return Err(EvalError::Overflow),
        ("int", Text(t)) => Int(t.parse().map_err(|_| unreadable("int", t))?),
        ("int", Timestamp(t)) => Int(t.as_second()),
        ("int", Duration(d)) => Int((d / 1_000_000_000) as i64),
        ("uint", Int(i)) => Uint(u64::try_from(*i).map_err(|_| EvalError::Overflow)?),
        ("uint", Double(d)) if *d >= 0.0 && *d < 1.844_674_407_370_955e19 => Uint(*d as u64),
        ("uint", Double(_)) => return Err(EvalError::Overflow),
        ("uint", Text(t)) => Uint(t.parse().map_err(|_| unreadable("uint", t))?),
        ("double", Int(i)) => Double(*i as f64),
        ("double", Uint(u)) => Double(*u as f64),
        ("double", Text(t)) => Double(t.parse().map_err(|_| unreadable("double", t))?),
        ("string", Bytes(b)) => match std::str::from_utf8(b) {
            Ok(text) => text.into(),
            Err(_) => return Err(EvalError::Other("invalid UTF-8 in bytes, cannot convert to string".into())),
        },
        ("string", Null | List(_) | Map(_) | Tree(_) | Optional(_) | Type(_)) => return Ok(None),
        ("string", value) => {
            super::traversal(budget, value.size().unwrap_or(0))?;
            Text(text(value))
        }
        ("bytes", Text(t)) => Bytes(t.as_bytes().into()),
        ("bool", Text(t)) => Bool(match &**t {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
            "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
            other => return Err(unreadable("bool", other)),
        }),
        ("timestamp", Text(t)) => {
            Timestamp(t.parse().ok().filter(|t| super::time::is_in_range(*t)).ok_or_else(|| unreadable("timestamp", t))?)
        }
        ("timestamp", Int(seconds)) => {
            let time = self::Timestamp::from_second(*seconds).ok().filter(|t| super::time::is_in_range(*t));
            Timestamp(time.ok_or_else(|| EvalError::Other("timestamp overflow".into()))?)
        }
        ("duration", Text(t)) => read_duration(t).ok_or_else(|| unreadable("duration", t))?,
        ("duration", Int(nanos)) => Duration(i128::from(*nanos)),
        ("base64.encode", Bytes(b)) => STANDARD.encode(b).into(),
        ("base64.decode", Text(t)) => {
            let decoded = STANDARD.decode(t.as_bytes()).or_else(|_| STANDARD_NO_PAD.decode(t.as_bytes()));
            Bytes(decoded.map_err(|_| unreadable("bytes", t))?.into())
        }
        _ => return Ok(None),
    }))
}
