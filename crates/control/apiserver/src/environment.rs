//! Time, randomness and identity, handed in so that the control plane can run under a simulated clock with a seed.

use std::sync::Arc;

use fram_machinery::normalize::format_time;
use fram_store::{Clock, SystemClock};

/// A source of randomness.
pub trait Random: Send + Sync {
    fn u64(&self) -> u64;
}

/// The operating system's randomness.
pub struct SystemRandom;

impl Random for SystemRandom {
    fn u64(&self) -> u64 {
        rand::random()
    }
}

#[derive(Clone)]
pub struct Environment {
    pub clock: Arc<dyn Clock>,
    pub random: Arc<dyn Random>,
}

impl Environment {
    pub fn system() -> Self {
        Self { clock: Arc::new(SystemClock), random: Arc::new(SystemRandom) }
    }

    pub fn now(&self) -> jiff::Timestamp {
        let millis = i64::try_from(self.clock.now().0).unwrap_or(i64::MAX);
        jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::MAX)
    }

    /// Now, as objects carry it.
    pub fn now_text(&self) -> String {
        format_time(self.now(), 0)
    }

    /// A random UUID, version 4.
    pub fn uid(&self) -> String {
        let bits = (u128::from(self.random.u64()) << 64) | u128::from(self.random.u64());
        uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid().to_string()
    }

    /// A name from a generateName base.
    pub fn generate_name(&self, base: &str) -> String {
        fram_machinery::names::generate_name(base, || (self.random.u64() >> 33) as usize)
    }
}
