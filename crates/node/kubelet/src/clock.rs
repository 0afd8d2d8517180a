//! Wall-clock time as the kubelet is given it, and the forms in which the API and the CRI write times. Timers use tokio's clock.

use jiff::Timestamp;

pub trait Clock: Send + Sync {
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// `metav1.Time`: RFC 3339 in whole seconds.
pub fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `metav1.MicroTime`.
pub fn micro_time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

pub fn parse(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

/// Nanoseconds since the epoch, as the CRI has them; 0 is "not yet".
pub fn from_nanos(nanos: i64) -> Option<Timestamp> {
    if nanos == 0 { None } else { Timestamp::from_nanosecond(nanos.into()).ok() }
}

/// The API's form of a CRI time; null where there is none.
pub fn time_of_nanos(nanos: i64) -> fram_machinery::Value {
    from_nanos(nanos).map(time).into()
}

/// The time between two moments, zero where the second is not later.
pub fn since(later: Timestamp, earlier: Timestamp) -> std::time::Duration {
    std::time::Duration::try_from(later.duration_since(earlier)).unwrap_or_default()
}
