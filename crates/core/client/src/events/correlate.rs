//! Which events are one, which are summed up and which are cut short. Pure; see client-go's EventCorrelator.
//!
//! What is remembered is known by hashes, with a seed that nobody else knows: in a large cluster thousands of objects are told of, and
//! their names would be most of what is held.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use jiff::Timestamp;

use super::Event;

/// A source may tell this much about an object at once, then one event each `REFILL`.
const BURST: f64 = 25.0;
const REFILL: Duration = Duration::from_secs(300);
/// More different messages than this, within the window, are summed up.
const SIMILAR: usize = 10;
const WINDOW: Duration = Duration::from_secs(600);
/// So much of each sort is remembered at least, and twice as much at most.
const REMEMBERED: usize = 4096;

/// Stands for an object, for what is told of it, or for the words in which it is.
pub(super) type Hash = u64;

/// What became of the keys that were asked for last: those that were not for long are forgotten.
struct Memory<T> {
    young: HashMap<Hash, T>,
    old: HashMap<Hash, T>,
}

impl<T> Default for Memory<T> {
    fn default() -> Self {
        Self { young: HashMap::new(), old: HashMap::new() }
    }
}

impl<T> Memory<T> {
    fn get(&mut self, key: Hash) -> Option<&mut T> {
        if let Some(value) = self.old.remove(&key) {
            self.insert(key, value);
        }
        self.young.get_mut(&key)
    }

    fn insert(&mut self, key: Hash, value: T) {
        self.old.remove(&key);
        if self.young.len() >= REMEMBERED && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    fn remove(&mut self, key: Hash) {
        self.young.remove(&key);
        self.old.remove(&key);
    }
}

struct Bucket {
    tokens: f64,
    at: Timestamp,
}

struct Group {
    messages: Vec<Hash>,
    last: Timestamp,
}

/// Under which key an event is told, and in which words: its own, or those of its group.
#[derive(Debug, PartialEq)]
pub(super) struct Told {
    pub(super) key: Hash,
    pub(super) message: String,
}

#[derive(Default)]
pub(super) struct Correlator {
    hasher: RandomState,
    buckets: Memory<Bucket>,
    groups: Memory<Group>,
    /// Name and count of the event that was written for a key.
    written: Memory<(String, u32)>,
}

fn elapsed(now: Timestamp, then: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then)).unwrap_or_default()
}

impl Correlator {
    /// The object that an event is about; not which part of it, nor in which version.
    fn subject(&self, event: &Event) -> Hash {
        self.hasher.hash_one(["apiVersion", "kind", "namespace", "name", "uid"].map(|field| event.object.str_at(&[field])))
    }

    /// Takes note of an event.
    pub(super) fn tell(&mut self, event: &Event) -> Told {
        let group = self.hasher.hash_one((self.subject(event), event.warning, &event.reason));
        let words = self.hasher.hash_one(&event.message);
        if self.groups.get(group).is_none() {
            self.groups.insert(group, Group { messages: Vec::new(), last: event.at });
        }
        let key = self.hasher.hash_one((group, event.object.str_at(&["fieldPath"]), words));
        let own = || Told { key, message: event.message.clone() };
        let Some(known) = self.groups.get(group) else { return own() };
        if elapsed(event.at, known.last) > WINDOW {
            known.messages.clear();
        }
        known.last = event.at;
        let is_new = !known.messages.contains(&words);
        if known.messages.len() + usize::from(is_new) < SIMILAR {
            if is_new {
                // Most objects are told of in one way.
                known.messages.reserve_exact(1);
                known.messages.push(words);
            }
            return own();
        }
        Told { key: group, message: format!("(combined from similar events): {}", event.message) }
    }

    /// Whether one more may be sent about the object now.
    pub(super) fn may_be_sent(&mut self, event: &Event) -> bool {
        let (subject, now) = (self.subject(event), event.at);
        let Some(bucket) = self.buckets.get(subject) else {
            self.buckets.insert(subject, Bucket { tokens: BURST - 1.0, at: now });
            return true;
        };
        bucket.tokens = (bucket.tokens + elapsed(now, bucket.at).as_secs_f64() / REFILL.as_secs_f64()).min(BURST);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }

    /// So many more are about to be sent under a key; the name and count of what was written for it.
    pub(super) fn count(&mut self, key: Hash, more: u32) -> Option<(String, u32)> {
        let (name, count) = self.written.get(key)?;
        *count += more;
        Some((name.clone(), *count))
    }

    /// One more happened that is not sent: the next tells of it.
    pub(super) fn count_unsent(&mut self, key: Hash) {
        self.count(key, 1);
    }

    pub(super) fn created(&mut self, key: Hash, name: String, count: u32) {
        self.written.insert(key, (name, count));
    }

    pub(super) fn forget(&mut self, key: Hash) {
        self.written.remove(key);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use fram_machinery::object;

    pub(in super::super) fn event(name: &str, message: &str, at: i64) -> Event {
        Event {
            object: object!({ "kind": "Pod", "name": name }),
            warning: false,
            reason: "R".into(),
            message: message.into(),
            at: Timestamp::from_second(at).unwrap(),
        }
    }

    #[test]
    fn many_different_messages_are_summed_up_until_there_are_none_for_a_while() {
        let mut correlator = Correlator::default();
        let mut tell = |n: i64, at: i64| correlator.tell(&event("p", &n.to_string(), at));
        let told: Vec<Told> = (0..12).map(|n| tell(n, 1)).collect();
        assert_eq!(told[8].message, "8");
        assert_eq!(told[9].message, "(combined from similar events): 9");
        assert_eq!((told[11].key, told[8].key != told[9].key), (told[9].key, true));
        assert_eq!(tell(12, 602).message, "12");
    }

    #[test]
    fn the_same_words_about_another_part_of_an_object_are_another_event() {
        let mut correlator = Correlator::default();
        let whole = event("p", "m", 1);
        let mut part = whole.clone();
        part.object.set(&["fieldPath"], "spec.containers{c}");
        assert_ne!(correlator.tell(&whole), correlator.tell(&part));
    }

    #[test]
    fn what_was_asked_for_last_is_remembered_and_there_is_an_end_to_it() {
        let mut memory = Memory::default();
        for n in 0..10 * REMEMBERED as u64 {
            memory.insert(n, n);
            assert_eq!(memory.get(0), Some(&mut 0));
        }
        assert!(memory.young.len() + memory.old.len() <= 2 * REMEMBERED);
        let mut last = 9 * REMEMBERED as u64 + 2..10 * REMEMBERED as u64;
        assert!(last.all(|n| memory.get(n) == Some(&mut { n })));
    }
}
