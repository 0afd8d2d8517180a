//! Rates and amounts from two looks at a kubelet's summary. Pure.

use std::sync::Arc;
use std::time::Duration;

use fram_machinery::quantity::{Format, Quantity};
use fram_machinery::{Value, object};
use tokio::time::Instant;

/// Rates are made over no less than this.
pub(super) const LEAST_WINDOW: Duration = Duration::from_secs(1);
/// Where there are looks for that, rates are made over so much.
const STEADY: Duration = Duration::from_secs(10);
/// Looks that are kept are so far apart.
const SPACING: Duration = Duration::from_secs(4);
/// A look that is older says nothing about now.
const STALE: Duration = Duration::from_secs(60);

/// A kubelet's summary at a moment.
#[derive(Debug, Clone)]
pub(super) struct Look {
    pub(super) at: Instant,
    /// The moment as the API writes it.
    pub(super) time: String,
    pub(super) summary: Arc<Value>,
}

impl Look {
    pub(super) fn is_recent(&self) -> bool {
        self.at.elapsed() < STALE
    }
}

/// The look now, and those before it by which rates are made: the oldest that is not too old, where something is in it, since what is
/// used in one second says little.
#[derive(Debug, Clone)]
pub(super) struct Window {
    /// Oldest first; there is one.
    before: Vec<Look>,
    pub(super) last: Look,
}

impl Window {
    pub(super) fn new(mut before: Vec<Look>, last: Look) -> Self {
        let age = |look: &Look| last.at.duration_since(look.at);
        let steady = before.iter().rposition(|look| age(look) >= STEADY).unwrap_or(0);
        before.drain(..steady);
        Self { before, last }
    }

    /// The looks that the next window may begin with.
    pub(super) fn looks(&self) -> Vec<Look> {
        let mut looks = self.before.clone();
        if looks.last().is_none_or(|look| self.last.at.duration_since(look.at) >= SPACING) {
            looks.push(self.last.clone());
        }
        looks.retain(Look::is_recent);
        looks
    }

    pub(super) fn length(&self) -> Duration {
        self.before.first().map(|look| self.last.at.duration_since(look.at)).unwrap_or_default()
    }
}

/// As Go prints durations of seconds and below.
pub(super) fn go_duration(length: Duration) -> String {
    let text = format!("{:.3}", length.as_secs_f64());
    format!("{}s", text.trim_end_matches('0').trim_end_matches('.'))
}

/// Nanoseconds of an RFC 3339 time, for differences.
fn nanos(time: &str) -> Option<i128> {
    time.parse::<jiff::Timestamp>().ok().map(|t| t.as_nanosecond())
}

/// Cpu and memory of one thing that both summaries have; None for one that began in between.
fn usage(before: &Value, last: &Value) -> Option<Value> {
    let used = |v: &Value| v.int_at(&["cpu", "usageCoreNanoSeconds"]).map(i128::from);
    let at = |v: &Value| nanos(v.str_at(&["cpu", "time"]));
    let time = (at(last)? - at(before)?).max(1);
    let used = used(last)? - used(before)?;
    if used < 0 {
        return None;
    }
    let cores = format!("{}n", used * 1_000_000_000 / time).parse::<Quantity>().ok()?;
    let memory = Quantity::from_units(last.int_at(&["memory", "workingSetBytes"])? >> 10 << 10, Format::BinarySi);
    Some(object!({ "cpu": (cores.to_string()), "memory": (memory.to_string()) }))
}

pub(super) fn of_node(window: &Window) -> Option<Value> {
    let last = window.last.summary.get("node")?;
    window.before.iter().find_map(|before| usage(before.summary.get("node")?, last))
}

/// The containers of a pod with what each uses.
pub(super) fn of_pod(window: &Window, uid: &str) -> Option<Vec<Value>> {
    let find = |look: &Look| look.summary.list_at(&["pods"]).iter().find(|p| p.str_at(&["podRef", "uid"]) == uid).cloned();
    let last = find(&window.last)?;
    window.before.iter().find_map(|look| {
        let before = find(look)?;
        let one = |container: &Value| {
            let name = container.str_at(&["name"]);
            let earlier = before.list_at(&["containers"]).iter().find(|c| c.str_at(&["name"]) == name)?;
            Some(object!({ "name": name, "usage": (usage(earlier, container)?) }))
        };
        let containers: Vec<Value> = last.list_at(&["containers"]).iter().map(one).collect::<Option<_>>()?;
        (!containers.is_empty()).then_some(containers)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(second: u64, cpu: i64) -> Look {
        let time = format!("2026-01-01T00:00:{second:02}.000000Z");
        let usage = object!({ "name": "c", "cpu": { "time": (time.as_str()), "usageCoreNanoSeconds": cpu }, "memory": { "workingSetBytes": 2_100_000 } });
        let pod = object!({ "podRef": { "uid": "u" }, "containers": [(usage.clone())] });
        let summary = Arc::new(object!({ "node": usage, "pods": [pod] }));
        Look { at: Instant::now(), time, summary }
    }

    #[tokio::test]
    async fn a_rate_is_what_was_used_between_two_looks() {
        let window = Window::new(vec![look(0, 1_000_000_000)], look(10, 3_500_000_000));
        let usage = of_node(&window).unwrap();
        assert_eq!((usage.str_at(&["cpu"]), usage.str_at(&["memory"])), ("250m", "2050Ki"));
        assert_eq!(of_pod(&window, "u").unwrap()[0].str_at(&["usage", "cpu"]), "250m");
        assert_eq!(of_pod(&window, "other"), None);
    }

    #[tokio::test]
    async fn rates_are_made_over_ten_seconds_where_something_was_there_then() {
        let begun = Instant::now();
        let at = |second: u64, cpu: i64| Look { at: begun + Duration::from_secs(second), ..look(second, cpu) };
        let mut window = Window::new(vec![at(0, 0)], at(1, 1_000_000_000));
        let mut seen = Vec::new();
        // Busy in the first second only, and looked at each second.
        for second in 2..=14 {
            window = Window::new(window.looks(), at(second, 1_000_000_000));
            seen.push((window.length().as_secs(), of_node(&window).unwrap().str_at(&["cpu"]).to_string()));
        }
        assert_eq!((seen[0].clone(), seen[8].clone()), ((2, "500m".into()), (10, "100m".into())));
        assert_eq!(seen[12], (10, "0".into()));
        assert!(window.before.len() <= 4, "{} looks are kept", window.before.len());
        let mut new = at(15, 9_000_000_000);
        new.summary = Arc::new(object!({ "node": {}, "pods": [] }));
        let window = Window::new(vec![new, at(20, 9_000_000_000)], at(26, 12_000_000_000));
        assert_eq!(of_pod(&window, "u").unwrap()[0].str_at(&["usage", "cpu"]), "500m");
    }

    #[tokio::test]
    async fn what_began_anew_has_no_rate_yet() {
        assert_eq!(of_pod(&Window::new(vec![look(0, 9)], look(10, 3)), "u"), None);
    }

    #[test]
    fn windows_are_written_as_go_writes_durations() {
        for (millis, text) in [(1000, "1s"), (15_250, "15.25s"), (999, "0.999s")] {
            assert_eq!(go_duration(Duration::from_millis(millis)), text);
        }
    }
}
