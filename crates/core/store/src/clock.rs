//! Time as the store sees it: a clock that is handed in, so that expiry and history windows also run under a simulated
//! clock. Nothing else in this crate asks the system for the time of day.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

/// Milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// The time that comes `duration` later, at the latest the end of the representable time.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long it is from `earlier` to here; zero when `earlier` is not earlier.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for UnixMillis {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ms", self.0)
    }
}

/// What a clock calls when its time was set or moved by hand.
pub type ClockListener = Box<dyn Fn() + Send + Sync>;

/// A source of time and of the waits that depend on it.
pub trait Clock: Send + Sync {
    /// The time of day.
    fn now(&self) -> UnixMillis;

    /// How long to wait until the clock shows `time`; `None` when waiting does not help, because the clock moves only
    /// by hand and calls its listeners when it does.
    fn wait_until(&self, time: UnixMillis) -> Option<Duration>;

    /// Has `listener` called after every movement that `wait_until` could not foresee.
    fn on_change(&self, listener: ClockListener);
}

/// The system's time of day.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> UnixMillis {
        UnixMillis::default().after(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    fn wait_until(&self, time: UnixMillis) -> Option<Duration> {
        Some(time.since(self.now()))
    }

    fn on_change(&self, _listener: ClockListener) {}
}

/// A clock that stands still until it is moved.
#[derive(Default)]
pub struct ManualClock {
    now: Mutex<UnixMillis>,
    listeners: Mutex<Vec<ClockListener>>,
}

impl ManualClock {
    /// A clock that shows `now`.
    pub fn at(now: UnixMillis) -> Self {
        Self { now: Mutex::new(now), listeners: Mutex::default() }
    }

    /// Sets the time, forwards or backwards.
    pub fn set(&self, time: UnixMillis) {
        *self.now.lock() = time;
        for listener in self.listeners.lock().iter() {
            listener();
        }
    }

    /// Moves the time forward.
    pub fn advance(&self, duration: Duration) {
        let later = self.now().after(duration);
        self.set(later);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> UnixMillis {
        *self.now.lock()
    }

    fn wait_until(&self, time: UnixMillis) -> Option<Duration> {
        (time <= self.now()).then_some(Duration::ZERO)
    }

    fn on_change(&self, listener: ClockListener) {
        self.listeners.lock().push(listener);
    }
}
