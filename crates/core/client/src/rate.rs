//! How often something may be done: so often a second, and a few times at once. See client-go's util/flowcontrol. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// What a configuration says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub per_second: u32,
    /// So many at once after a time of quiet; at least one.
    pub burst: u32,
}

/// A bucket of tokens that fills up at a rate, and is full at first.
#[derive(Debug, Clone)]
pub struct Bucket {
    rate: Rate,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    pub fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, tokens: f64::from(rate.burst.max(1)), at: now }
    }

    fn fill(&mut self, now: Instant) {
        let new = now.saturating_duration_since(self.at).as_secs_f64() * f64::from(self.rate.per_second);
        self.tokens = (self.tokens + new).min(f64::from(self.rate.burst.max(1)));
        self.at = now;
    }

    /// Takes a token where there is one.
    pub fn try_take(&mut self, now: Instant) -> bool {
        self.fill(now);
        let has = self.tokens >= 1.0;
        if has {
            self.tokens -= 1.0;
        }
        has
    }

    /// Takes a token, if need be one that is yet to come: how long to wait for it.
    pub fn take(&mut self, now: Instant) -> Duration {
        self.fill(now);
        self.tokens -= 1.0;
        if self.tokens >= 0.0 {
            return Duration::ZERO;
        }
        Duration::try_from_secs_f64(-self.tokens / f64::from(self.rate.per_second.max(1))).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_burst_there_is_one_for_each_part_of_a_second() {
        let begin = Instant::now();
        let at = |ms: u64| begin + Duration::from_millis(ms);
        let mut bucket = Bucket::new(Rate { per_second: 5, burst: 2 }, begin);
        let taken = [0, 0, 0, 199, 200, 210, 5000, 5000, 5000].map(|ms| bucket.try_take(at(ms)));
        assert_eq!(taken, [true, true, false, false, true, false, true, true, false]);
        let waits = [5000, 5000, 5400].map(|ms| bucket.take(at(ms)).as_millis());
        assert_eq!(waits, [200, 400, 200]);
    }
}
