//! Events that wait to be sent, those that became one as one. Pure.

use std::collections::{HashMap, VecDeque};

use jiff::Timestamp;

use super::Event;
use super::correlate::{Correlator, Hash, Told};

/// So many different events wait to be sent; beyond that new ones are dropped.
pub(super) const LONGEST: usize = 4096;

/// Something to be sent.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Waiting {
    pub(super) key: Hash,
    /// The last of those that became one.
    pub(super) event: Event,
    pub(super) message: String,
    /// When the first of them happened, and how many they are.
    pub(super) first: Timestamp,
    pub(super) count: u32,
    /// The name of the event that was written before, and how often it happened, with these.
    pub(super) written: Option<(String, u32)>,
}

#[derive(Default)]
pub(super) struct Backlog {
    correlator: Correlator,
    /// Keys in the order in which they are sent.
    order: VecDeque<Hash>,
    waiting: HashMap<Hash, Waiting>,
    dropped: u64,
}

impl Backlog {
    pub(super) fn add(&mut self, event: Event) {
        let Told { key, message } = self.correlator.tell(&event);
        if let Some(waiting) = self.waiting.get_mut(&key) {
            waiting.count += 1;
            waiting.message = message;
            waiting.event = event;
            return;
        }
        if !self.correlator.may_be_sent(&event) {
            self.correlator.count_unsent(key);
            return;
        }
        if self.waiting.len() >= LONGEST {
            self.dropped += 1;
            return;
        }
        let first = event.at;
        self.order.push_back(key);
        self.waiting.insert(key, Waiting { key, event, message, first, count: 1, written: None });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// What is to be sent next.
    pub(super) fn take(&mut self) -> Option<Waiting> {
        let mut next = self.waiting.remove(&self.order.pop_front()?)?;
        next.written = self.correlator.count(next.key, next.count);
        Some(next)
    }

    /// An event was written for a key.
    pub(super) fn created(&mut self, key: Hash, name: String, count: u32) {
        self.correlator.created(key, name, count);
    }

    /// The event that was written for a key is gone.
    pub(super) fn forget(&mut self, key: Hash) {
        self.correlator.forget(key);
    }

    /// How many were dropped since this was asked for last.
    pub(super) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::super::correlate::tests::event;
    use super::*;

    /// Sends all that waits: the message, and the count, with `new` in front where the event is created.
    fn send(backlog: &mut Backlog) -> Vec<String> {
        let mut sent = Vec::new();
        while let Some(waiting) = backlog.take() {
            sent.push(match waiting.written {
                Some((_, count)) => format!("{} {count}", waiting.message),
                None => {
                    backlog.created(waiting.key, "e".into(), waiting.count);
                    format!("new {} {}", waiting.message, waiting.count)
                }
            });
        }
        sent
    }

    #[test]
    fn events_that_become_one_take_one_place_and_nothing_of_them_is_lost_however_many_they_are() {
        let mut backlog = Backlog::default();
        for round in 0..3 {
            for n in 0..LONGEST {
                backlog.add(event(&n.to_string(), "m", round));
            }
        }
        assert_eq!((backlog.waiting.len(), backlog.take_dropped()), (LONGEST, 0));
        backlog.add(event("one more", "m", 3));
        assert_eq!((backlog.take_dropped(), backlog.take_dropped()), (1, 0));
        let first = backlog.take().unwrap();
        assert_eq!((first.count, first.first.as_second(), first.event.at.as_second()), (3, 0, 2));
    }

    #[test]
    fn what_was_told_of_many_objects_takes_little() {
        let mut backlog = Backlog::default();
        let before = fram_fuzz::held();
        for n in 0..LONGEST {
            let name = format!("a-deployment-of-somebody-5d4f8c7b9-{n}");
            let mut about = event(&name, &format!("Successfully assigned a-namespace/{name} to a-node-of-many-{n}"), 1);
            about.object.set(&["uid"], format!("9db0fd61-cd2f-4a4c-b0f5-{n:012}"));
            backlog.add(about);
            let sent = backlog.take().unwrap();
            backlog.created(sent.key, format!("{name}.17f5a2b3c4d5e6f7"), 1);
        }
        let each = (fram_fuzz::held() - before) / LONGEST;
        assert!(each <= 400, "{each} bytes an object");
    }

    #[test]
    fn an_event_that_comes_again_is_counted_in_the_order_of_first_times() {
        let mut backlog = Backlog::default();
        ["a", "a", "b", "a"].into_iter().for_each(|message| backlog.add(event("p", message, 1)));
        assert_eq!(send(&mut backlog), ["new a 3", "new b 1"]);
        ["b", "a", "b"].into_iter().for_each(|message| backlog.add(event("p", message, 2)));
        assert_eq!(send(&mut backlog), ["b 3", "a 4"]);
    }

    #[test]
    fn one_that_happens_while_it_is_sent_is_sent_after_it() {
        let mut backlog = Backlog::default();
        backlog.add(event("p", "a", 1));
        let sent = backlog.take().unwrap();
        backlog.add(event("p", "a", 2));
        backlog.created(sent.key, "e".into(), sent.count);
        assert_eq!(send(&mut backlog), ["a 2"]);
    }

    #[test]
    fn an_object_that_is_told_of_too_often_is_cut_short_with_the_count_kept_and_others_are_not() {
        let mut backlog = Backlog::default();
        let mut sent = Vec::new();
        for _ in 0..30 {
            backlog.add(event("p", "a", 1));
            sent.extend(send(&mut backlog));
        }
        assert_eq!((sent.len(), sent.last().map(String::as_str)), (25, Some("a 25")));
        backlog.add(event("q", "a", 1));
        assert_eq!(send(&mut backlog), ["new a 1"]);
        backlog.add(event("p", "a", 302));
        assert_eq!(send(&mut backlog), ["a 31"]);
    }

    #[test]
    fn an_event_that_is_gone_is_written_anew() {
        let mut backlog = Backlog::default();
        backlog.add(event("p", "a", 1));
        send(&mut backlog);
        backlog.add(event("p", "a", 2));
        let waiting = backlog.take().unwrap();
        assert_eq!(waiting.written, Some(("e".into(), 2)));
        backlog.forget(waiting.key);
        backlog.add(event("p", "a", 3));
        assert_eq!(send(&mut backlog), ["new a 1"]);
    }
}
