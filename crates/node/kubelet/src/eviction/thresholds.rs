//! When the node is short of something: signals, thresholds with their grace periods and minimum reclaims, and the conditions that
//! follow from them. Pure; see upstream's pkg/kubelet/eviction/helpers.go.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use fram_machinery::normalize::parse_duration;
use fram_machinery::quantity::{Format, Quantity};

/// What is watched, by upstream's names. The order is that in which pressures are relieved: memory first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Signal {
    MemoryAvailable,
    NodeFsAvailable,
    NodeFsInodesFree,
    ImageFsAvailable,
    ImageFsInodesFree,
    ContainerFsAvailable,
    ContainerFsInodesFree,
    PidAvailable,
}

const NAMES: [(Signal, &str); 8] = [
    (Signal::MemoryAvailable, "memory.available"),
    (Signal::NodeFsAvailable, "nodefs.available"),
    (Signal::NodeFsInodesFree, "nodefs.inodesFree"),
    (Signal::ImageFsAvailable, "imagefs.available"),
    (Signal::ImageFsInodesFree, "imagefs.inodesFree"),
    (Signal::ContainerFsAvailable, "containerfs.available"),
    (Signal::ContainerFsInodesFree, "containerfs.inodesFree"),
    (Signal::PidAvailable, "pid.available"),
];

impl Signal {
    pub(crate) fn name(self) -> &'static str {
        NAMES.iter().find(|(signal, _)| *signal == self).map_or("", |(_, name)| name)
    }

    /// The resource that is reclaimed, as events name it.
    pub(crate) fn resource(self) -> &'static str {
        match self {
            Self::MemoryAvailable => "memory",
            Self::NodeFsAvailable | Self::ImageFsAvailable | Self::ContainerFsAvailable => "ephemeral-storage",
            Self::NodeFsInodesFree | Self::ImageFsInodesFree | Self::ContainerFsInodesFree => "inodes",
            Self::PidAvailable => "pids",
        }
    }

    pub(crate) fn condition(self) -> NodeCondition {
        match self {
            Self::MemoryAvailable => NodeCondition::Memory,
            Self::PidAvailable => NodeCondition::Pid,
            _ => NodeCondition::Disk,
        }
    }

    /// Whether an amount of it is written in bytes.
    fn format(self) -> Format {
        match self.resource() {
            "memory" | "ephemeral-storage" => Format::BinarySi,
            _ => Format::DecimalSi,
        }
    }
}

/// A condition of the node that says what it is short of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum NodeCondition {
    Memory,
    Disk,
    Pid,
}

impl NodeCondition {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Memory => "MemoryPressure",
            Self::Disk => "DiskPressure",
            Self::Pid => "PIDPressure",
        }
    }
}

/// An amount, or a share of the capacity.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Amount {
    Units(i64),
    Share(f64),
}

impl Amount {
    fn parse(text: &str) -> Result<Self, ThresholdError> {
        let wrong = || ThresholdError::Amount(text.to_string());
        if let Some(percent) = text.strip_suffix('%') {
            let share = percent.parse::<f64>().map_err(|_| wrong())? / 100.0;
            return if (0.0..1.0).contains(&share) || share == 1.0 { Ok(Self::Share(share)) } else { Err(wrong()) };
        }
        let amount: Quantity = text.parse().map_err(|_| wrong())?;
        if amount.is_negative() { Err(wrong()) } else { Ok(Self::Units(amount.value())) }
    }

    pub(crate) fn of(self, capacity: i64) -> i64 {
        match self {
            Self::Units(units) => units,
            Self::Share(share) => (capacity as f64 * share) as i64,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Threshold {
    pub(crate) signal: Signal,
    pub(crate) value: Amount,
    /// None for a hard threshold, which counts at once.
    pub(crate) grace: Option<Duration>,
    /// So much more than the threshold has to be available before it counts as left.
    pub(crate) reclaim: Amount,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ThresholdError {
    #[error("unsupported eviction signal {0}")]
    Signal(String),
    #[error("eviction threshold {0:?} is no amount and no percentage")]
    Amount(String),
    #[error("grace period must be specified for the soft eviction threshold {0}")]
    NoGrace(String),
    #[error("invalid eviction grace period {0:?}")]
    Grace(String),
}

type Words = BTreeMap<String, String>;

/// What a configuration says about eviction, as texts by signal.
#[derive(Debug, Clone, PartialEq)]
pub struct EvictionSettings {
    pub hard: Words,
    pub soft: Words,
    pub soft_grace_period: Words,
    pub minimum_reclaim: Words,
    /// A condition holds on for this time after it was last seen, so that it does not flap.
    pub pressure_transition_period: Duration,
    /// Seconds that pods have at most after a soft threshold.
    pub max_pod_grace_period: i64,
}

/// Upstream's DefaultEvictionHard, and a threshold for processes, since one machine's process ids are shared by all its pods.
pub(crate) fn default_hard() -> Words {
    [
        ("memory.available", "100Mi"),
        ("nodefs.available", "10%"),
        ("nodefs.inodesFree", "5%"),
        ("imagefs.available", "15%"),
        ("imagefs.inodesFree", "5%"),
        ("pid.available", "10%"),
    ]
    .map(|(signal, amount)| (signal.to_string(), amount.to_string()))
    .into()
}

impl Default for EvictionSettings {
    fn default() -> Self {
        Self {
            hard: default_hard(),
            soft: Words::new(),
            soft_grace_period: Words::new(),
            minimum_reclaim: Words::new(),
            pressure_transition_period: Duration::from_secs(300),
            max_pod_grace_period: 0,
        }
    }
}

impl EvictionSettings {
    /// The thresholds, those of memory first.
    pub(crate) fn thresholds(&self) -> Result<Vec<Threshold>, ThresholdError> {
        let mut out = Vec::new();
        for name in self.soft_grace_period.keys().chain(self.minimum_reclaim.keys()) {
            signal(name)?;
        }
        for (name, amount) in &self.hard {
            out.extend(self.threshold(name, amount, None)?);
        }
        for (name, amount) in &self.soft {
            let grace = self.soft_grace_period.get(name).ok_or_else(|| ThresholdError::NoGrace(name.clone()))?;
            let nanos = parse_duration(grace).and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0);
            let nanos = nanos.ok_or_else(|| ThresholdError::Grace(grace.clone()))?;
            out.extend(self.threshold(name, amount, Some(Duration::from_nanos(nanos)))?);
        }
        out.sort_by_key(|t| (t.signal, t.grace));
        Ok(out)
    }

    /// None where the amount says that there is no threshold: nothing, or all.
    fn threshold(&self, name: &str, amount: &str, grace: Option<Duration>) -> Result<Option<Threshold>, ThresholdError> {
        let signal = signal(name)?;
        if matches!(amount, "0%" | "100%") {
            return Ok(None);
        }
        let reclaim = self.minimum_reclaim.get(name).map_or(Ok(Amount::Units(0)), |text| Amount::parse(text))?;
        Ok(Some(Threshold { signal, value: Amount::parse(amount)?, grace, reclaim }))
    }
}

fn signal(name: &str) -> Result<Signal, ThresholdError> {
    let known = NAMES.iter().find(|(_, known)| *known == name).map(|(signal, _)| *signal);
    known.ok_or_else(|| ThresholdError::Signal(name.to_string()))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Observation {
    pub(crate) available: i64,
    pub(crate) capacity: i64,
}

pub(crate) type Observations = BTreeMap<Signal, Observation>;

impl Threshold {
    fn is_met(&self, seen: &Observations, reclaiming: bool) -> bool {
        let Some(seen) = seen.get(&self.signal) else { return false };
        let extra = if reclaiming { self.reclaim.of(seen.capacity) } else { 0 };
        seen.available < self.value.of(seen.capacity).saturating_add(extra)
    }

    /// What was wanted and what there was, for people.
    pub(crate) fn words(&self, seen: &Observations) -> String {
        let Some(seen) = seen.get(&self.signal) else { return String::new() };
        let quantity = |n: i64| Quantity::from_units(n, self.signal.format());
        format!("Threshold quantity: {}, available: {}. ", quantity(self.value.of(seen.capacity)), quantity(seen.available))
    }
}

/// What is remembered from one look to the next.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pressure {
    /// By the place of the threshold: since when it is met.
    since: BTreeMap<usize, Instant>,
    last_seen: BTreeMap<NodeCondition, Instant>,
    /// Thresholds that asked for something to be reclaimed.
    acting: BTreeSet<usize>,
}

/// What a look came to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) conditions: BTreeSet<NodeCondition>,
    /// What has to be reclaimed now, the most urgent one.
    pub(crate) reclaim: Option<Threshold>,
}

impl Pressure {
    pub(crate) fn look(&mut self, thresholds: &[Threshold], seen: &Observations, transition: Duration, now: Instant) -> Verdict {
        let met: Vec<usize> = (0..thresholds.len())
            .filter(|i| thresholds[*i].is_met(seen, false) || (self.acting.contains(i) && thresholds[*i].is_met(seen, true)))
            .collect();
        self.since.retain(|i, _| met.contains(i));
        for i in &met {
            self.since.entry(*i).or_insert(now);
            self.last_seen.insert(thresholds[*i].signal.condition(), now);
        }
        self.last_seen.retain(|_, at| now.duration_since(*at) < transition || *at == now);
        let due = |i: &&usize| self.since.get(i).is_some_and(|at| now.duration_since(*at) >= thresholds[**i].grace.unwrap_or_default());
        let due: Vec<usize> = met.iter().filter(due).copied().collect();
        // They are in the order of urgency.
        let reclaim = due.first().map(|i| thresholds[*i]);
        self.acting = due.into_iter().collect();
        Verdict { conditions: self.last_seen.keys().copied().collect(), reclaim }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(pairs: &[(&str, &str)]) -> Words {
        pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }

    fn settings(hard: &[(&str, &str)]) -> EvictionSettings {
        EvictionSettings { hard: words(hard), ..Default::default() }
    }

    fn seen(signal: Signal, available: i64) -> Observations {
        Observations::from([(signal, Observation { available, capacity: 1000 })])
    }

    #[test]
    fn thresholds_are_amounts_or_shares_of_known_signals_and_soft_ones_have_a_grace_period() {
        let read = |s: EvictionSettings| s.thresholds();
        assert_eq!(read(EvictionSettings::default()).unwrap().len(), 6);
        let made = read(settings(&[("memory.available", "1Ki"), ("nodefs.available", "10%")])).unwrap();
        assert_eq!((made[0].value, made[1].value), (Amount::Units(1024), Amount::Share(0.1)));
        assert_eq!(read(settings(&[("nodefs.available", "0%"), ("imagefs.available", "100%")])), Ok(Vec::new()));
        assert_eq!(read(settings(&[("memory.free", "1")])), Err(ThresholdError::Signal("memory.free".into())));
        assert_eq!(read(settings(&[("memory.available", "-1")])), Err(ThresholdError::Amount("-1".into())));
        let soft = EvictionSettings { soft: words(&[("pid.available", "5")]), ..settings(&[]) };
        assert_eq!(read(soft.clone()), Err(ThresholdError::NoGrace("pid.available".into())));
        let grace = |text: &str| EvictionSettings { soft_grace_period: words(&[("pid.available", text)]), ..soft.clone() };
        assert_eq!(read(grace("1m30s")).unwrap()[0].grace, Some(Duration::from_secs(90)));
        assert_eq!(read(grace("0s")), Err(ThresholdError::Grace("0s".into())));
    }

    #[test]
    fn a_hard_threshold_acts_at_once_and_its_condition_outlasts_it() {
        let thresholds = settings(&[("memory.available", "100")]).thresholds().unwrap();
        let (mut pressure, begin, transition) = (Pressure::default(), Instant::now(), Duration::from_secs(300));
        let at = |s: u64| begin + Duration::from_secs(s);
        let memory = BTreeSet::from([NodeCondition::Memory]);
        for (second, available, conditions, reclaims) in [
            (0, 100, BTreeSet::new(), false),
            (10, 99, memory.clone(), true),
            (20, 100, memory.clone(), false),
            (309, 100, memory, false),
            (310, 100, BTreeSet::new(), false),
        ] {
            let verdict = pressure.look(&thresholds, &seen(Signal::MemoryAvailable, available), transition, at(second));
            assert_eq!((verdict.conditions, verdict.reclaim.is_some()), (conditions, reclaims), "{second}");
        }
    }

    #[test]
    fn a_soft_threshold_acts_after_its_grace_period_without_a_break() {
        let soft = EvictionSettings {
            soft: words(&[("memory.available", "100")]),
            soft_grace_period: words(&[("memory.available", "30s")]),
            ..settings(&[])
        };
        let thresholds = soft.thresholds().unwrap();
        let (mut pressure, begin) = (Pressure::default(), Instant::now());
        for (second, available, reclaims) in
            [(0, 50, false), (20, 50, false), (25, 200, false), (30, 50, false), (59, 50, false), (60, 50, true)]
        {
            let now = begin + Duration::from_secs(second);
            let verdict = pressure.look(&thresholds, &seen(Signal::MemoryAvailable, available), Duration::ZERO, now);
            assert_eq!(verdict.reclaim.is_some(), reclaims, "{second}");
            assert_eq!(verdict.conditions.is_empty(), available == 200, "{second}");
        }
    }

    #[test]
    fn once_it_reclaims_it_goes_on_until_the_minimum_is_reclaimed() {
        let with = EvictionSettings { minimum_reclaim: words(&[("nodefs.available", "5%")]), ..settings(&[("nodefs.available", "10%")]) };
        let thresholds = with.thresholds().unwrap();
        let (mut pressure, now) = (Pressure::default(), Instant::now());
        for (available, reclaims) in [(120, false), (99, true), (120, true), (149, true), (150, false), (120, false)] {
            let verdict = pressure.look(&thresholds, &seen(Signal::NodeFsAvailable, available), Duration::ZERO, now);
            assert_eq!(verdict.reclaim.is_some(), reclaims, "{available}");
        }
    }

    #[test]
    fn memory_is_relieved_before_anything_else() {
        let thresholds =
            settings(&[("memory.available", "10"), ("nodefs.inodesFree", "10"), ("pid.available", "10")]).thresholds().unwrap();
        let low = Observation { available: 1, capacity: 1000 };
        let mut seen = Observations::from([(Signal::PidAvailable, low), (Signal::MemoryAvailable, low), (Signal::NodeFsInodesFree, low)]);
        let look = |seen: &Observations| Pressure::default().look(&thresholds, seen, Duration::ZERO, Instant::now());
        assert_eq!(look(&seen).reclaim.map(|t| t.signal), Some(Signal::MemoryAvailable));
        assert_eq!(look(&seen).conditions.len(), 3);
        seen.remove(&Signal::MemoryAvailable);
        assert_eq!(look(&seen).reclaim.map(|t| t.words(&seen)), Some("Threshold quantity: 10, available: 1. ".into()));
    }
}
