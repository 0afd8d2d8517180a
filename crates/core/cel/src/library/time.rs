//! Timestamps and durations.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned};

use crate::eval::{Budget, EvalError, Result};
use crate::value::Value;

/// The longest duration, some three hundred years.
const LONGEST: i128 = i64::MAX as i128;

/// The first second of the year 1, before which there are no timestamps.
pub(super) fn is_in_range(time: Timestamp) -> bool {
    time.as_nanosecond() >= -62_135_596_800_000_000_000
}

pub(super) fn operate(name: &str, a: &Value, b: &Value) -> Result<Option<Value>> {
    let moved = |time: &Timestamp, by: i128| {
        let by = i64::try_from(by).map_err(|_| EvalError::Other("timestamp overflow".into()))?;
        let moved = time.checked_add(SignedDuration::from_nanos(by)).ok().filter(|t| is_in_range(*t));
        moved.map(Value::Timestamp).ok_or_else(|| EvalError::Other("timestamp overflow".into()))
    };
    let duration = |nanos: i128| match nanos.abs() <= LONGEST {
        true => Ok(Value::Duration(nanos)),
        false => Err(EvalError::Other("duration overflow".into())),
    };
    Ok(Some(match (name, a, b) {
        ("_+_", Value::Timestamp(t), Value::Duration(d)) | ("_+_", Value::Duration(d), Value::Timestamp(t)) => moved(t, *d)?,
        ("_-_", Value::Timestamp(t), Value::Duration(d)) => moved(t, -d)?,
        ("_-_", Value::Timestamp(a), Value::Timestamp(b)) => duration(a.as_nanosecond() - b.as_nanosecond())?,
        ("_+_", Value::Duration(a), Value::Duration(b)) => duration(a + b)?,
        ("_-_", Value::Duration(a), Value::Duration(b)) => duration(a - b)?,
        _ => return Ok(None),
    }))
}

pub(super) fn call(name: &str, args: &[Value], _budget: &mut Budget) -> Result<Option<Value>> {
    match args {
        [Value::Duration(nanos)] => Ok(of_duration(name, *nanos).map(Value::Int)),
        [Value::Timestamp(time), zone @ ..] => {
            let zone = match zone {
                [] => TimeZone::UTC,
                [Value::Text(zone)] => read_zone(zone)?,
                _ => return Ok(None),
            };
            Ok(of_time(name, &time.to_zoned(zone)).map(Value::Int))
        }
        _ => Ok(None),
    }
}

fn of_duration(name: &str, nanos: i128) -> Option<i64> {
    let seconds = nanos / 1_000_000_000;
    let number = match name {
        "getHours" => seconds / 3600,
        "getMinutes" => seconds / 60,
        "getSeconds" => seconds,
        "getMilliseconds" => nanos / 1_000_000 % 1000,
        _ => return None,
    };
    i64::try_from(number).ok()
}

fn of_time(name: &str, time: &Zoned) -> Option<i64> {
    Some(match name {
        "getFullYear" => time.year().into(),
        "getMonth" => i64::from(time.month()) - 1,
        "getDayOfYear" => i64::from(time.day_of_year()) - 1,
        "getDayOfMonth" => i64::from(time.day()) - 1,
        "getDate" => time.day().into(),
        "getDayOfWeek" => time.weekday().to_sunday_zero_offset().into(),
        "getHours" => time.hour().into(),
        "getMinutes" => time.minute().into(),
        "getSeconds" => time.second().into(),
        "getMilliseconds" => time.millisecond().into(),
        _ => return None,
    })
}

/// `UTC`, an offset such as `+02:00` or `-1:30`, or a name of the time zone database.
fn read_zone(text: &str) -> Result<TimeZone> {
    let unknown = || EvalError::Other(format!("unknown time zone {text}"));
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if let Some((hours, minutes)) = digits.split_once(':') {
        let hours: i32 = hours.parse().map_err(|_| unknown())?;
        let minutes: i32 = minutes.parse().map_err(|_| unknown())?;
        let offset = jiff::tz::Offset::from_seconds(sign * (hours * 3600 + minutes * 60)).map_err(|_| unknown())?;
        return Ok(offset.to_time_zone());
    }
    if matches!(text, "UTC" | "Z" | "") {
        return Ok(TimeZone::UTC);
    }
    TimeZone::get(text).map_err(|_| unknown())
}
