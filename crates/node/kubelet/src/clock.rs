//! Wall-clock time as the kubelet is given it, and the forms in which the API and the CRI write times. Timers use tokio's clock.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

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
pub fn since(later: Timestamp, earlier: Timestamp) -> Duration {
    Duration::try_from(later.duration_since(earlier)).unwrap_or_default()
}

/// What a clock that is merely regulated may be off between two looks.
const REGULATED: SignedDuration = SignedDuration::from_secs(2);

/// Notices when the wall clock is set: it has moved by something else than the time that has passed.
pub struct Steps {
    wall: Timestamp,
    at: Instant,
}

impl Steps {
    pub fn new(wall: Timestamp) -> Self {
        Self { wall, at: Instant::now() }
    }

    /// By how much it was set since the last look: forward, or back where that is negative.
    pub fn look(&mut self, wall: Timestamp) -> Option<SignedDuration> {
        let now = Instant::now();
        let passed = SignedDuration::try_from(now - self.at).unwrap_or(SignedDuration::MAX);
        let step = wall.duration_since(self.wall).checked_sub(passed)?;
        *self = Self { wall, at: now };
        (step.abs() > REGULATED).then_some(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_set_is_noticed_once_and_one_that_runs_is_not() {
        let at = |seconds: i64| Timestamp::from_second(1_700_000_000 + seconds).unwrap();
        let mut steps = Steps::new(at(0));
        let mut look = async |wall: i64| {
            tokio::time::advance(Duration::from_secs(10)).await;
            steps.look(at(wall)).map(|step| step.as_secs())
        };
        assert_eq!(look(10).await, None);
        // A second is what regulation takes.
        assert_eq!(look(21).await, None);
        assert_eq!(look(3631).await, Some(3600));
        assert_eq!(look(3641).await, None);
        assert_eq!(look(51).await, Some(-3600));
        assert_eq!(look(61).await, None);
    }
}
