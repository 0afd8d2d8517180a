//! The queue of a controller: which keys are ready, waiting or being worked on. Pure; see client-go's workqueue, of which
//! these are the rules: a key is worked on once at a time, and a key added meanwhile is ready again afterwards. A key that is asked for
//! without an end, since somebody undoes what its turns do, gets only so many turns a second.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

const FIRST_DELAY: Duration = Duration::from_millis(5);
const LONGEST_DELAY: Duration = Duration::from_secs(1000);
/// So many turns a key may have at once, and then one each so often; upstream's clients are held to numbers like these.
const BURST: u32 = 200;
const PACE: Duration = Duration::from_millis(50);

#[derive(Debug, Default)]
pub struct Queue {
    ready: VecDeque<String>,
    /// Those of `ready`, and those to be ready when their turn under way ends; since when.
    dirty: HashMap<String, Instant>,
    /// By key, since when.
    working: HashMap<String, Instant>,
    waiting: BTreeSet<(Instant, String)>,
    due: HashMap<String, Instant>,
    failures: HashMap<String, u32>,
    /// By key, when all its turns are paid for: it may be in debt for `BURST` of them.
    paid: HashMap<String, Instant>,
    /// When those that owe nothing were last forgotten.
    forgot: Option<Instant>,
}

impl Queue {
    /// Makes a key ready, or ready again after its turn under way.
    pub fn add(&mut self, key: String, now: Instant) {
        if let Some(at) = self.due.remove(&key) {
            self.waiting.remove(&(at, key.clone()));
        }
        if self.dirty.contains_key(&key) {
            return;
        }
        self.dirty.insert(key.clone(), now);
        if self.working.contains_key(&key) {
            return;
        }
        self.ready.push_back(key);
    }

    /// Makes a key ready at a time; of several times the earliest counts.
    pub fn add_at(&mut self, key: String, at: Instant) {
        if self.dirty.contains_key(&key) {
            return;
        }
        if let Some(earlier) = self.due.get(&key).copied() {
            if earlier <= at {
                return;
            }
            self.waiting.remove(&(earlier, key.clone()));
        }
        self.due.insert(key.clone(), at);
        self.waiting.insert((at, key));
    }

    /// Makes ready what has waited long enough, and says when the next key is due.
    pub fn advance(&mut self, now: Instant) -> Option<Instant> {
        while let Some((at, _)) = self.waiting.first() {
            if *at > now {
                return Some(*at);
            }
            if let Some((_, key)) = self.waiting.pop_first() {
                self.due.remove(&key);
                self.add(key, now);
            }
        }
        None
    }

    pub fn next_due(&self) -> Option<Instant> {
        self.waiting.first().map(|(at, _)| *at)
    }

    /// The next ready key, whose turn begins, and how long it waited. A key that has had too many turns is put off.
    pub fn take(&mut self, now: Instant) -> Option<(String, Duration)> {
        loop {
            let key = self.ready.pop_front()?;
            let since = self.dirty.remove(&key).unwrap_or(now);
            if let Some(until) = self.pay(&key, now) {
                self.add_at(key, until);
                continue;
            }
            self.working.insert(key.clone(), now);
            return Some((key, now.saturating_duration_since(since)));
        }
    }

    /// Takes a turn from a key's budget; else says when it has one again.
    fn pay(&mut self, key: &str, now: Instant) -> Option<Instant> {
        if self.forgot.is_none_or(|at| now.saturating_duration_since(at) > PACE * BURST) {
            self.paid.retain(|_, paid| *paid > now);
            self.forgot = Some(now);
        }
        let paid = self.paid.get(key).copied().unwrap_or(now).max(now) + PACE;
        let debt = paid.saturating_duration_since(now);
        if debt > PACE * BURST {
            return Some(now + (debt - PACE * BURST));
        }
        self.paid.insert(key.to_string(), paid);
        None
    }

    /// How long each turn under way has taken so far.
    pub fn under_way(&self, now: Instant) -> impl Iterator<Item = Duration> {
        self.working.values().map(move |since| now.saturating_duration_since(*since))
    }

    fn finish(&mut self, key: &str) {
        self.working.remove(key);
        if self.dirty.contains_key(key) {
            self.ready.push_back(key.to_string());
        }
    }

    /// The key's turn ended well.
    pub fn done(&mut self, key: &str) {
        self.failures.remove(key);
        self.finish(key);
    }

    /// The key's turn ended well, and it wants another one at a time.
    pub fn done_until(&mut self, key: &str, at: Instant) {
        self.done(key);
        self.add_at(key.to_string(), at);
    }

    /// The key's turn failed: it gets another one after a delay that doubles with each failure.
    pub fn failed(&mut self, key: &str, now: Instant) -> Duration {
        let failures = self.failures.entry(key.to_string()).or_default();
        let delay = FIRST_DELAY.saturating_mul(1 << (*failures).min(20)).min(LONGEST_DELAY);
        *failures += 1;
        self.finish(key);
        self.add_at(key.to_string(), now + delay);
        delay
    }

    /// How many keys are ready.
    pub fn ready(&self) -> usize {
        self.ready.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(queue: &mut Queue) -> Option<String> {
        queue.take(Instant::now()).map(|(key, _)| key)
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_many_times_is_worked_on_once() {
        let mut queue = Queue::default();
        for key in ["a", "b", "a"] {
            queue.add(key.into(), Instant::now());
        }
        assert_eq!((take(&mut queue), take(&mut queue), take(&mut queue)), (Some("a".into()), Some("b".into()), None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_during_its_turn_is_ready_afterwards() {
        let mut queue = Queue::default();
        queue.add("a".into(), Instant::now());
        take(&mut queue);
        queue.add("a".into(), Instant::now());
        assert_eq!(take(&mut queue), None);
        queue.done("a");
        assert_eq!(take(&mut queue), Some("a".into()));
        queue.done("a");
        assert_eq!(take(&mut queue), None);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_double_the_delay_up_to_the_longest_and_success_forgets_them() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let fail = |queue: &mut Queue| {
            queue.add("a".into(), Instant::now());
            take(queue);
            queue.failed("a", now)
        };
        let delays: Vec<u64> = (0..3).map(|_| fail(&mut queue).as_millis() as u64).collect();
        assert_eq!(delays, [5, 10, 20]);
        for _ in 0..30 {
            fail(&mut queue);
        }
        assert_eq!(fail(&mut queue), LONGEST_DELAY);
        queue.add("a".into(), Instant::now());
        take(&mut queue);
        queue.done("a");
        assert_eq!(fail(&mut queue), FIRST_DELAY);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_is_asked_for_without_an_end_gets_its_turns_at_a_pace_and_holds_nobody_up() {
        let (mut queue, begun) = (Queue::default(), Instant::now());
        let (mut turns, mut now) = (0, begun);
        while now < begun + Duration::from_secs(10) {
            queue.advance(now);
            queue.add("hot".into(), now);
            // As the loop does, which is asked for keys until there is none.
            while let Some((key, _)) = queue.take(now) {
                turns += 1;
                queue.done(&key);
            }
            now += Duration::from_millis(1);
        }
        assert_eq!(turns, BURST + 10 * 20 - 1);
        queue.add("hot".into(), now);
        queue.add("calm".into(), now);
        assert_eq!(take(&mut queue), Some("calm".into()));
        let due = queue.next_due().unwrap();
        assert!(due <= now + PACE);
        queue.advance(due);
        assert_eq!(queue.take(due).map(|(key, _)| key), Some("hot".into()));
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_counts_from_the_first_time_and_working_from_the_turn() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let at = |s| now + Duration::from_secs(s);
        queue.add("a".into(), now);
        queue.add("a".into(), at(2));
        assert_eq!(queue.take(at(3)), Some(("a".into(), Duration::from_secs(3))));
        queue.add("a".into(), at(4));
        assert_eq!(queue.under_way(at(5)).collect::<Vec<_>>(), [Duration::from_secs(2)]);
        queue.done("a");
        assert_eq!((queue.under_way(at(5)).count(), queue.take(at(6))), (0, Some(("a".into(), Duration::from_secs(2)))));
    }

    #[tokio::test(start_paused = true)]
    async fn of_several_times_the_earliest_counts_and_now_beats_them_all() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let at = |s| now + Duration::from_secs(s);
        queue.add_at("a".into(), at(9));
        queue.add_at("a".into(), at(5));
        queue.add_at("a".into(), at(7));
        assert_eq!(queue.advance(at(4)), Some(at(5)));
        assert_eq!(queue.advance(at(5)), None);
        assert_eq!(take(&mut queue), Some("a".into()));
        queue.done_until("a", at(20));
        queue.add("a".into(), Instant::now());
        assert_eq!((queue.advance(at(6)), take(&mut queue)), (None, Some("a".into())));
    }
}
