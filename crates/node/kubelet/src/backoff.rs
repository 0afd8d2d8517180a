//! Waiting times that double with each failure and are forgotten after a quiet time. Pure; see client-go's flowcontrol.Backoff,
//! of which these are the rules for restarts (CrashLoopBackOff) and image pulls.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::clock::since;

pub(crate) const FIRST: Duration = Duration::from_secs(10);
pub(crate) const LONGEST: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Copy)]
struct Entry {
    delay: Duration,
    updated: Timestamp,
}

#[derive(Debug)]
pub(crate) struct Backoff {
    entries: HashMap<String, Entry>,
    first: Duration,
    longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { entries: HashMap::new(), first: FIRST, longest: LONGEST }
    }
}

impl Backoff {
    /// Waits of no more than this; a shorter one is the first wait too.
    pub(crate) fn up_to(longest: Duration) -> Self {
        Self { first: FIRST.min(longest), longest, ..Self::default() }
    }

    fn live(&self, key: &str, at: Timestamp) -> Option<&Entry> {
        self.entries.get(key).filter(|e| since(at, e.updated) <= LONGEST * 2)
    }

    /// The delay after something that happened at `event`, where it has not passed yet. An event of the future is one before the
    /// clock was set back: nobody knows how long ago it was, and to wait for the clock to catch up could take hours.
    pub(crate) fn remaining(&self, key: &str, event: Timestamp, now: Timestamp) -> Option<(Duration, Duration)> {
        if event > now {
            return None;
        }
        let entry = self.live(key, event)?;
        let passed = since(now, event);
        (passed < entry.delay).then(|| (entry.delay, entry.delay - passed))
    }

    /// A try begins because of something that happened at `event`: the next delay is twice as long.
    pub(crate) fn next(&mut self, key: &str, event: Timestamp, now: Timestamp) {
        let delay = self.live(key, event).map_or(self.first, |e| (e.delay * 2).min(self.longest));
        self.entries.insert(key.to_string(), Entry { delay, updated: now });
    }

    pub(crate) fn reset(&mut self, key: &str) {
        self.entries.remove(key);
    }

    /// Forgets every key that does not satisfy `keep`.
    pub(crate) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.entries.retain(|key, _| keep(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restart_is_immediate_and_the_next_wait_doubles_up_to_five_minutes() {
        let mut backoff = Backoff::default();
        let at = |s| Timestamp::from_second(s).unwrap();
        let mut now = 1000;
        let mut delays = Vec::new();
        for _ in 0..8 {
            let exit = now;
            if let Some((delay, _)) = backoff.remaining("c", at(exit), at(now)) {
                delays.push(delay.as_secs());
                now += delay.as_secs() as i64;
            }
            assert_eq!(backoff.remaining("c", at(exit), at(now)), None);
            backoff.next("c", at(exit), at(now));
        }
        assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn a_clock_that_is_set_keeps_nobody_waiting_and_forgets_no_failure() {
        let at = |s| Timestamp::from_second(s).unwrap();
        for (name, now) in [("back", 1000), ("forward", 9000)] {
            let mut backoff = Backoff::default();
            backoff.next("c", at(5000), at(5000));
            assert_eq!(backoff.remaining("c", at(5000), at(now)), None, "{name}");
        }
        let mut backoff = Backoff::default();
        backoff.next("c", at(5000), at(5000));
        backoff.next("c", at(5000), at(1000));
        assert_eq!(backoff.remaining("c", at(1001), at(1002)).map(|d| d.0.as_secs()), Some(20), "the delay has doubled all the same");
    }

    #[test]
    fn ten_quiet_minutes_forget_the_failures() {
        let mut backoff = Backoff::default();
        let at = |s| Timestamp::from_second(s).unwrap();
        backoff.next("c", at(0), at(0));
        backoff.next("c", at(10), at(10));
        assert_eq!(backoff.remaining("c", at(600), at(600)).map(|d| d.0.as_secs()), Some(20));
        assert_eq!(backoff.remaining("c", at(611), at(611)), None);
        backoff.next("c", at(611), at(611));
        assert_eq!(backoff.remaining("c", at(612), at(612)).map(|d| d.0.as_secs()), Some(10));
    }
}
