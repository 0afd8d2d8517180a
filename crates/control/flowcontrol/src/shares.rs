//! How the server's seats are divided among the priority levels: each has a nominal part, lends some of it while it has little to
//! do, and borrows from others while it has much. Pure. See the sections on borrowing in KEP-1040.

use crate::config::Level;

/// How the demand of levels that fell decays from one period to the next; see upstream's seatDemandSmoothingCoefficient.
const SMOOTHING: f64 = 0.977;

/// The limits of a level, in seats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Limits {
    pub(crate) nominal: u64,
    /// What is left when it lends all that it may.
    pub(crate) lower: u64,
    /// What it may have when it borrows all that it can.
    pub(crate) upper: u64,
}

/// The limits of all levels of a server with so many seats.
pub(crate) fn limits(levels: &[Level], seats: u64) -> Vec<Limits> {
    let all: i64 = levels.iter().map(|l| l.shares).sum();
    let of = |level: &Level| {
        let nominal = if all == 0 { 0 } else { (seats as f64 * level.shares as f64 / all as f64).ceil() as u64 };
        let part = |percent: i64| (nominal as f64 * percent as f64 / 100.0).round() as u64;
        let lower = nominal.saturating_sub(part(level.lendable_percent));
        let upper = level.borrowing_percent.map_or(seats.max(nominal), |percent| nominal + part(percent.max(0)));
        Limits { nominal, lower, upper }
    };
    levels.iter().map(of).collect()
}

/// How many seats were wanted over a period.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Demand {
    pub(crate) average: f64,
    pub(crate) deviation: f64,
    pub(crate) highest: f64,
}

/// The demand by which a level is given its part: what was wanted of late, and less and less of what was wanted before.
pub(crate) fn smoothed(before: f64, demand: &Demand) -> f64 {
    let envelope = demand.average + demand.deviation;
    envelope.max(SMOOTHING * before + (1.0 - SMOOTHING) * envelope)
}

/// What a level asks of the division.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Claim {
    pub(crate) least: f64,
    pub(crate) most: f64,
    pub(crate) target: f64,
}

pub(crate) fn claim(limits: Limits, smoothed: f64, highest: f64) -> Claim {
    let (nominal, lower) = (limits.nominal as f64, limits.lower as f64);
    let least = lower.max(nominal.min(highest));
    Claim { least, most: (limits.upper as f64).max(least), target: smoothed.max(least) }
}

/// The parts: each its target times one factor for all, but no less and no more than it may have, together what there is.
pub(crate) fn divide(seats: f64, claims: &[Claim]) -> Vec<u64> {
    let given = |factor: f64| claims.iter().map(move |c| (factor * c.target).clamp(c.least, c.most));
    let total = |factor: f64| given(factor).sum::<f64>();
    let (mut low, mut high) = (0.0, 1.0);
    while total(high) < seats && high < 1e9 {
        high *= 2.0;
    }
    // The sum grows with the factor, so that halving finds it.
    for _ in 0..64 {
        let middle = (low + high) / 2.0;
        if total(middle) < seats { low = middle } else { high = middle }
    }
    given(high).map(|part| part.round().max(1.0) as u64).collect()
}

/// Follows a number over time: its average, deviation and highest value.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Integral {
    /// Seconds.
    began: f64,
    last: f64,
    value: f64,
    sum: f64,
    squares: f64,
    highest: f64,
}

impl Integral {
    pub(crate) fn set(&mut self, now: f64, value: f64) {
        self.advance(now);
        self.value = value;
        self.highest = self.highest.max(value);
    }

    fn advance(&mut self, now: f64) {
        let elapsed = (now - self.last).max(0.0);
        self.sum += self.value * elapsed;
        self.squares += self.value * self.value * elapsed;
        self.last = now;
    }

    /// What was, and begins anew.
    pub(crate) fn take(&mut self, now: f64) -> Demand {
        self.advance(now);
        let elapsed = now - self.began;
        let (average, deviation) = if elapsed > 0.0 {
            let average = self.sum / elapsed;
            (average, (self.squares / elapsed - average * average).max(0.0).sqrt())
        } else {
            (self.value, 0.0)
        };
        let demand = Demand { average, deviation, highest: self.highest };
        *self = Self { began: now, last: now, value: self.value, highest: self.value, ..Self::default() };
        demand
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::defaults;

    fn defaults_of(name: &str) -> Limits {
        let levels: Vec<Level> = defaults::priority_levels().iter().map(Level::read).collect();
        let place = levels.iter().position(|l| l.name == name).unwrap();
        limits(&levels, 600)[place]
    }

    #[test]
    fn seats_are_divided_by_shares() {
        assert_eq!(defaults_of("exempt"), Limits { nominal: 0, lower: 0, upper: 600 });
        assert_eq!(defaults_of("catch-all"), Limits { nominal: 13, lower: 13, upper: 600 });
        assert_eq!(defaults_of("workload-low"), Limits { nominal: 245, lower: 24, upper: 600 });
        assert_eq!(defaults_of("leader-election"), Limits { nominal: 25, lower: 25, upper: 600 });
        let mut bounded = Level::read(&defaults::priority_levels()[2]);
        bounded.borrowing_percent = Some(50);
        assert_eq!(limits(&[bounded], 100), [Limits { nominal: 100, lower: 67, upper: 150 }]);
    }

    #[test]
    fn who_has_much_to_do_borrows_from_who_has_little() {
        let of = |nominal, lower, upper| Limits { nominal, lower, upper };
        let busy = claim(of(50, 25, 100), 90.0, 100.0);
        let idle = claim(of(50, 25, 100), 0.0, 0.0);
        assert_eq!(divide(100.0, &[busy, idle]), [75, 25]);
        // What is lent comes back as soon as it is wanted.
        assert_eq!(divide(100.0, &[busy, busy]), [50, 50]);
        // Nobody wants anything: the parts are in proportion to what each must keep.
        assert_eq!(divide(100.0, &[idle, idle]), [50, 50]);
        let bounded = claim(of(50, 25, 55), 90.0, 100.0);
        assert_eq!(divide(100.0, &[bounded, idle]), [55, 45]);
    }

    #[test]
    fn demand_rises_at_once_and_falls_slowly() {
        let high = Demand { average: 10.0, deviation: 2.0, highest: 20.0 };
        assert_eq!(smoothed(0.0, &high), 12.0);
        assert!((smoothed(12.0, &Demand::default()) - 11.724).abs() < 1e-9);
    }

    #[test]
    fn an_integral_knows_average_deviation_and_highest() {
        let mut integral = Integral::default();
        integral.set(0.0, 0.0);
        integral.set(5.0, 4.0);
        assert_eq!(integral.take(10.0), Demand { average: 2.0, deviation: 2.0, highest: 4.0 });
        assert_eq!(integral.take(20.0), Demand { average: 4.0, deviation: 0.0, highest: 4.0 });
    }
}
