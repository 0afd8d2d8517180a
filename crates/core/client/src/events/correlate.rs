//! Which events are new, which are counted, summed up or dropped. Pure; see client-go's EventCorrelator.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;

use super::Event;

/// A source may tell this much about an object at once, then one event each `REFILL`.
const BURST: f64 = 25.0;
const REFILL: Duration = Duration::from_secs(300);
/// More different messages than this, within the window, are summed up.
const SIMILAR: usize = 10;
const WINDOW: Duration = Duration::from_secs(600);
/// Keys that are remembered; beyond that the memory begins anew.
const REMEMBERED: usize = 4096;

#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    Drop,
    Create { key: String, message: String },
    Count { key: String, message: String, name: String, count: u32 },
}

struct Bucket {
    tokens: f64,
    at: Timestamp,
}

struct Group {
    messages: HashSet<String>,
    last: Timestamp,
}

#[derive(Default)]
pub(super) struct Correlator {
    buckets: HashMap<String, Bucket>,
    groups: HashMap<String, Group>,
    /// Name and count of the event that was written for a key.
    written: HashMap<String, (String, u32)>,
}

fn elapsed(now: Timestamp, then: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then)).unwrap_or_default()
}

impl Correlator {
    pub(super) fn judge(&mut self, event: &Event) -> Verdict {
        if self.buckets.len() + self.groups.len() + self.written.len() > REMEMBERED {
            *self = Self::default();
        }
        let object = fram_machinery::json::to_string(&{
            let mut object = event.object.clone();
            object.remove(&["resourceVersion"]);
            object
        });
        if !self.spend(&object, event.at) {
            return Verdict::Drop;
        }
        let group = format!("{object}{}{}", event.warning, event.reason);
        let (key, message) = self.group(&group, event);
        match self.written.get_mut(&key) {
            Some((name, count)) => {
                *count += 1;
                Verdict::Count { name: name.clone(), count: *count, key, message }
            }
            None => Verdict::Create { key, message },
        }
    }

    fn spend(&mut self, object: &str, now: Timestamp) -> bool {
        let bucket = self.buckets.entry(object.to_string()).or_insert(Bucket { tokens: BURST, at: now });
        bucket.tokens = (bucket.tokens + elapsed(now, bucket.at).as_secs_f64() / REFILL.as_secs_f64()).min(BURST);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }

    /// The key and message under which an event is told: its own, or those of its group.
    fn group(&mut self, group: &str, event: &Event) -> (String, String) {
        let known = self.groups.entry(group.to_string()).or_insert_with(|| Group { messages: HashSet::new(), last: event.at });
        if elapsed(event.at, known.last) > WINDOW {
            known.messages.clear();
        }
        known.last = event.at;
        known.messages.insert(event.message.clone());
        if known.messages.len() < SIMILAR {
            return (format!("{group}{}", event.message), event.message.clone());
        }
        (group.to_string(), format!("(combined from similar events): {}", event.message))
    }

    pub(super) fn created(&mut self, key: &str, name: String) {
        self.written.insert(key.to_string(), (name, 1));
    }

    pub(super) fn forget(&mut self, key: &str) {
        self.written.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    fn event(name: &str, message: &str, at: i64) -> Event {
        Event {
            object: object!({ "kind": "Pod", "name": name }),
            warning: false,
            reason: "R".into(),
            message: message.into(),
            at: Timestamp::from_second(at).unwrap(),
        }
    }

    fn word(correlator: &mut Correlator, event: &Event) -> String {
        match correlator.judge(event) {
            Verdict::Drop => "drop".into(),
            Verdict::Create { key, message } => {
                correlator.created(&key, "e".into());
                format!("create {message}")
            }
            Verdict::Count { count, message, .. } => format!("count {count} {message}"),
        }
    }

    #[test]
    fn an_event_that_comes_again_is_counted() {
        let mut correlator = Correlator::default();
        let told: Vec<_> = ["a", "a", "b", "a"].iter().map(|m| word(&mut correlator, &event("p", m, 1))).collect();
        assert_eq!(told, ["create a", "count 2 a", "create b", "count 3 a"]);
    }

    #[test]
    fn many_different_messages_are_summed_up() {
        let mut correlator = Correlator::default();
        let told: Vec<_> = (0..12).map(|n| word(&mut correlator, &event("p", &n.to_string(), 1))).collect();
        assert_eq!(told[8], "create 8");
        assert_eq!(told[9], "create (combined from similar events): 9");
        assert_eq!(told[11], "count 3 (combined from similar events): 11");
    }

    #[test]
    fn an_object_that_is_told_of_too_often_is_cut_short_and_others_are_not() {
        let mut correlator = Correlator::default();
        let told: Vec<_> = (0..30).map(|_| word(&mut correlator, &event("p", "a", 1))).collect();
        assert_eq!(told.iter().filter(|t| *t == "drop").count(), 5);
        assert_eq!(word(&mut correlator, &event("q", "a", 1)), "create a");
        assert_eq!(word(&mut correlator, &event("p", "a", 302)), "count 26 a");
    }
}
