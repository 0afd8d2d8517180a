//! How fast replicas may follow what metrics ask for: stabilization windows and policies. Pure; see upstream's
//! normalizeDesiredReplicasWithBehaviors.

use fram_machinery::Value;
use jiff::Timestamp;

/// Something that was recommended, or added, or taken away.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Mark {
    pub(super) at: Timestamp,
    pub(super) replicas: i64,
}

/// What is remembered of one autoscaler.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct History {
    pub(super) recommended: Vec<Mark>,
    pub(super) added: Vec<Mark>,
    pub(super) removed: Vec<Mark>,
}

/// Nothing is remembered longer than the longest window that there may be.
const LONGEST: i64 = 3600;

impl History {
    /// The first look at a target: what it has now was recommended, so that it shrinks no sooner after a restart than otherwise. See
    /// recordInitialRecommendation.
    pub(super) fn begin(&mut self, current: i64, at: Timestamp) {
        if self.recommended.is_empty() {
            self.recommended.push(Mark { at, replicas: current });
        }
    }

    /// Notes that the target was scaled.
    pub(super) fn scaled(&mut self, from: i64, to: i64, at: Timestamp) {
        let marks = if to > from { &mut self.added } else { &mut self.removed };
        marks.push(Mark { at, replicas: (to - from).abs() });
        for marks in [&mut self.added, &mut self.removed, &mut self.recommended] {
            marks.retain(|m| at.as_second() - m.at.as_second() <= LONGEST);
        }
    }
}

fn within(marks: &[Mark], seconds: i64, now: Timestamp) -> impl Iterator<Item = i64> {
    marks.iter().filter(move |m| now.as_second() - m.at.as_second() < seconds).map(|m| m.replicas)
}

#[derive(Debug, Clone, PartialEq)]
struct Policy {
    percent: bool,
    value: i64,
    period: i64,
}

/// The rules of one direction.
#[derive(Debug, Clone, PartialEq)]
struct Rules {
    window: i64,
    select: String,
    policies: Vec<Policy>,
}

impl Rules {
    fn read(spec: &Value, direction: &str) -> Self {
        let none = Value::Null;
        let rules = spec.at(&["behavior", direction]).unwrap_or(&none);
        let up = direction == "scaleUp";
        let policy = |p: &Value| Policy {
            percent: p.str_at(&["type"]) == "Percent",
            value: p.int_at(&["value"]).unwrap_or(0),
            period: p.int_at(&["periodSeconds"]).unwrap_or(15),
        };
        let mut policies: Vec<Policy> = rules.list_at(&["policies"]).iter().map(policy).collect();
        if policies.is_empty() {
            // As the API documents them.
            policies.push(Policy { percent: true, value: 100, period: 15 });
            if up {
                policies.push(Policy { percent: false, value: 4, period: 15 });
            }
        }
        Self {
            window: rules.int_at(&["stabilizationWindowSeconds"]).unwrap_or(if up { 0 } else { 300 }),
            select: rules.str_at(&["selectPolicy"]).to_string(),
            policies,
        }
    }

    /// As many replicas as growing may lead to now.
    fn highest(&self, current: i64, history: &History, now: Timestamp) -> i64 {
        let limit = |p: &Policy| {
            let changed = within(&history.added, p.period, now).sum::<i64>() - within(&history.removed, p.period, now).sum::<i64>();
            let start = current - changed;
            if p.percent { (start as f64 * (1.0 + p.value as f64 / 100.0)).ceil() as i64 } else { start + p.value }
        };
        self.chosen(current, self.policies.iter().map(limit).collect(), true)
    }

    /// As few replicas as shrinking may lead to now.
    fn lowest(&self, current: i64, history: &History, now: Timestamp) -> i64 {
        let limit = |p: &Policy| {
            let changed = within(&history.removed, p.period, now).sum::<i64>() - within(&history.added, p.period, now).sum::<i64>();
            let start = current + changed;
            if p.percent { (start as f64 * (1.0 - p.value as f64 / 100.0)) as i64 } else { start - p.value }
        };
        self.chosen(current, self.policies.iter().map(limit).collect(), false)
    }

    /// The policy that allows the most, unless the rules say otherwise.
    fn chosen(&self, current: i64, limits: Vec<i64>, up: bool) -> i64 {
        let (least, most) = (limits.iter().min().copied(), limits.iter().max().copied());
        match (self.select.as_str(), up) {
            ("Disabled", _) => current,
            ("Min", true) | ("" | "Max", false) => least.unwrap_or(current),
            _ => most.unwrap_or(current),
        }
    }
}

/// The replicas that are to be, with the reasons that the conditions AbleToScale and ScalingLimited give.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Verdict {
    pub(super) replicas: i64,
    pub(super) stabilized: Option<(&'static str, &'static str)>,
    pub(super) limited: Option<(&'static str, &'static str)>,
}

/// What becomes of a recommendation.
pub(super) fn limit(spec: &Value, current: i64, recommended: i64, history: &mut History, now: Timestamp) -> Verdict {
    let (up, down) = (Rules::read(spec, "scaleUp"), Rules::read(spec, "scaleDown"));
    let least_of_late = within(&history.recommended, up.window, now).chain([recommended]).min().unwrap_or(recommended);
    let most_of_late = within(&history.recommended, down.window, now).chain([recommended]).max().unwrap_or(recommended);
    history.recommended.retain(|m| now.as_second() - m.at.as_second() <= LONGEST);
    history.recommended.push(Mark { at: now, replicas: recommended });
    let mut replicas = current.max(least_of_late);
    replicas = if replicas > most_of_late { most_of_late } else { replicas };
    let stabilized = match replicas == recommended {
        true => None,
        false if recommended > replicas => {
            Some(("ScaleUpStabilized", "recent recommendations were lower than current one, applying the lowest recent recommendation"))
        }
        false => {
            Some(("ScaleDownStabilized", "recent recommendations were higher than current one, applying the highest recent recommendation"))
        }
    };
    let (minimum, maximum) = (spec.int_at(&["minReplicas"]).unwrap_or(1), spec.int_at(&["maxReplicas"]).unwrap_or(1));
    let (mut limited, wanted) = (None, replicas);
    if wanted > current {
        let highest = up.highest(current, history, now).max(current);
        let (allowed, reason) = match maximum > highest {
            true => (highest, ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate")),
            false => (maximum, ("TooManyReplicas", "the desired replica count is more than the maximum replica count")),
        };
        if wanted > allowed {
            (replicas, limited) = (allowed, Some(reason));
        }
    } else if wanted < current {
        let lowest = down.lowest(current, history, now).min(current);
        let (allowed, reason) = match minimum < lowest {
            true => (lowest, ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate")),
            false => (minimum, ("TooFewReplicas", "the desired replica count is less than the minimum replica count")),
        };
        if wanted < allowed {
            (replicas, limited) = (allowed, Some(reason));
        }
    }
    Verdict { replicas, stabilized, limited }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn spec(behavior: Value) -> Value {
        object!({ "minReplicas": 1, "maxReplicas": 100, "behavior": behavior })
    }

    #[track_caller]
    fn check(spec: &Value, history: &mut History, current: i64, recommended: i64, second: i64, expect: i64, reason: &str) {
        let verdict = limit(spec, current, recommended, history, at(second));
        assert_eq!((verdict.replicas, verdict.limited.or(verdict.stabilized).map_or("", |r| r.0)), (expect, reason));
    }

    #[test]
    fn growing_is_limited_to_twice_as_many_or_four_more() {
        let (spec, mut history) = (spec(object!({})), History::default());
        check(&spec, &mut history, 1, 50, 0, 5, "ScaleUpLimit");
        history.scaled(1, 5, at(0));
        // In the same period nothing more is allowed.
        check(&spec, &mut history, 5, 50, 5, 5, "ScaleUpLimit");
        check(&spec, &mut history, 5, 50, 20, 10, "ScaleUpLimit");
        check(&spec, &mut history, 80, 300, 100, 100, "TooManyReplicas");
    }

    #[test]
    fn shrinking_waits_for_five_minutes_of_low_recommendations() {
        let (spec, mut history) = (spec(object!({})), History::default());
        check(&spec, &mut history, 10, 10, 0, 10, "");
        check(&spec, &mut history, 10, 2, 100, 10, "ScaleDownStabilized");
        check(&spec, &mut history, 10, 2, 301, 2, "");
        check(&spec, &mut history, 5, 0, 1000, 1, "TooFewReplicas");
    }

    #[test]
    fn nothing_shrinks_at_the_first_look() {
        let (spec, mut history) = (spec(object!({})), History::default());
        history.begin(10, at(0));
        check(&spec, &mut history, 10, 2, 0, 10, "ScaleDownStabilized");
        history.begin(50, at(100));
        check(&spec, &mut history, 10, 2, 299, 10, "ScaleDownStabilized");
        check(&spec, &mut history, 10, 2, 301, 2, "");
    }

    #[test]
    fn policies_and_windows_are_those_that_the_autoscaler_names() {
        let behavior = object!({
            "scaleUp": { "selectPolicy": "Disabled" },
            "scaleDown": { "stabilizationWindowSeconds": 0, "selectPolicy": "Min",
                "policies": [{ "type": "Pods", "value": 2, "periodSeconds": 60 }, { "type": "Percent", "value": 10, "periodSeconds": 60 }] }
        });
        let (spec, mut history) = (spec(behavior), History::default());
        check(&spec, &mut history, 10, 20, 0, 10, "ScaleUpLimit");
        check(&spec, &mut history, 10, 1, 1, 9, "ScaleDownLimit");
    }
}
