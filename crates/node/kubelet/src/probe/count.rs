//! Thresholds of a probe: how many results in a row make a verdict. Pure.

use fram_machinery::Value;

#[derive(Debug, Clone, Copy)]
pub(super) struct Thresholds {
    pub(super) success: i64,
    pub(super) failure: i64,
}

impl Thresholds {
    pub(super) fn of(probe: &Value) -> Self {
        let number = |field: &str, default: i64| probe.int_at(&[field]).filter(|n| *n > 0).unwrap_or(default);
        Self { success: number("successThreshold", 1), failure: number("failureThreshold", 3) }
    }
}

pub(super) struct Count {
    thresholds: Thresholds,
    last: Option<bool>,
    run: i64,
    /// A success counts at once: the startup probe has no success threshold.
    eager: bool,
}

impl Count {
    pub(super) fn new(thresholds: Thresholds, eager: bool) -> Self {
        Self { thresholds, last: None, run: 0, eager }
    }

    /// The verdict that this result leads to, if any.
    pub(super) fn add(&mut self, success: bool) -> Option<bool> {
        self.run = if self.last == Some(success) { self.run + 1 } else { 1 };
        self.last = Some(success);
        let needed = match success {
            true if self.eager => 1,
            true => self.thresholds.success,
            false => self.thresholds.failure,
        };
        (self.run >= needed).then_some(success)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_takes_as_many_equal_results_as_its_threshold() {
        let mut count = Count::new(Thresholds { success: 2, failure: 3 }, false);
        let verdicts: Vec<_> = [true, true, false, false, true, false, false, false].map(|r| count.add(r)).into();
        assert_eq!(verdicts, [None, Some(true), None, None, None, None, None, Some(false)]);
    }
}
