//! Fair queuing of one priority level: flows are dealt to queues by shuffle sharding, and the queue that has had least of the
//! server's time goes first. Pure: time is handed in as seconds. See "Fair Queuing for Server Requests" in KEP-1040.

use std::collections::VecDeque;

use crate::config::Queuing;

/// How long a request is thought to run until it has; see upstream's estimatedServiceDuration.
const GUESS: f64 = 0.003;

/// A request that waits.
#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    pub(crate) id: u64,
    pub(crate) seats: u64,
    pub(crate) since: f64,
    /// The place of its flow schema, and its flow, for those who look.
    pub(crate) schema: String,
    pub(crate) flow: String,
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    pub(crate) waiting: VecDeque<Waiting>,
    pub(crate) executing: u64,
    pub(crate) seats: u64,
    /// The virtual time at which its next request would have begun.
    pub(crate) next: f64,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It runs, on the account of this queue.
    Run {
        queue: usize,
    },
    Wait,
    /// The level does not queue, and all seats are taken.
    Limit,
    /// Its queue is full.
    Full,
}

/// One priority level that is not exempt.
#[derive(Debug)]
pub(crate) struct Queues {
    queuing: Option<Queuing>,
    pub(crate) limit: u64,
    pub(crate) queues: Vec<Queue>,
    pub(crate) executing: u64,
    pub(crate) seats: u64,
    pub(crate) waiting: u64,
    pub(crate) waiting_seats: u64,
    /// Virtual time: how much of the server each busy queue has had.
    pub(crate) virtual_time: f64,
    last: f64,
    /// Where the search for the next queue begins, so that of equals each has its turn.
    turn: usize,
}

impl Queues {
    pub(crate) fn new(queuing: Option<Queuing>, limit: u64) -> Self {
        let queues = (0..queuing.map_or(1, |q| q.queues)).map(|_| Queue::default()).collect();
        Self { queuing, limit, queues, executing: 0, seats: 0, waiting: 0, waiting_seats: 0, virtual_time: 0.0, last: 0.0, turn: 0 }
    }

    /// All seats that are taken or waited for.
    pub(crate) fn demand(&self) -> u64 {
        self.seats + self.waiting_seats
    }

    fn fits(&self, seats: u64) -> bool {
        // A request that is wider than the level runs alone.
        self.seats == 0 || self.seats + seats <= self.limit
    }

    /// Virtual time goes as fast as each busy queue would progress if all shared fairly.
    fn advance(&mut self, now: f64) {
        let elapsed = (now - self.last).max(0.0);
        self.last = self.last.max(now);
        if self.demand() == 0 || elapsed == 0.0 {
            return;
        }
        let busy = self.queues.iter().filter(|q| q.seats > 0 || !q.waiting.is_empty()).count().max(1);
        self.virtual_time += elapsed * self.demand().min(self.limit) as f64 / busy as f64;
    }

    /// A request of a flow arrives. The one that waits is told apart by `waiting.id`.
    pub(crate) fn arrive(&mut self, now: f64, flow: u64, waiting: impl FnOnce() -> Waiting, seats: u64) -> Arrival {
        let Some(queuing) = self.queuing else {
            if !self.fits(seats) {
                return Arrival::Limit;
            }
            self.begin(0, seats);
            return Arrival::Run { queue: 0 };
        };
        self.advance(now);
        let queue = self.choose(flow, &queuing);
        if self.waiting == 0 && self.fits(seats) {
            self.catch_up(queue);
            self.begin(queue, seats);
            return Arrival::Run { queue };
        }
        if self.queues[queue].waiting.len() >= queuing.length {
            return Arrival::Full;
        }
        self.catch_up(queue);
        self.queues[queue].waiting.push_back(waiting());
        self.waiting += 1;
        self.waiting_seats += seats;
        Arrival::Wait
    }

    /// A queue that was idle has no claim on the time that went by.
    fn catch_up(&mut self, queue: usize) {
        let queue = &mut self.queues[queue];
        if queue.seats == 0 && queue.waiting.is_empty() {
            queue.next = queue.next.max(self.virtual_time);
        }
    }

    /// The shortest queue of the flow's hand.
    fn choose(&self, flow: u64, queuing: &Queuing) -> usize {
        let load = |place: usize| {
            let queue = &self.queues[place];
            queue.seats + queue.waiting.iter().map(|w| w.seats).sum::<u64>()
        };
        let mut best = (u64::MAX, 0);
        deal(flow, self.queues.len(), queuing.hand, |place| {
            let candidate = (load(place), place);
            if candidate.0 < best.0 {
                best = candidate;
            }
        });
        best.1
    }

    fn begin(&mut self, queue: usize, seats: u64) {
        self.executing += 1;
        self.seats += seats;
        if let Some(queue) = self.queues.get_mut(queue) {
            queue.executing += 1;
            queue.seats += seats;
            queue.next += GUESS * seats as f64;
        }
    }

    /// A request has run for so long. What may run then is to be asked of `next`.
    pub(crate) fn finish(&mut self, now: f64, queue: usize, seats: u64, duration: f64) {
        self.advance(now);
        self.executing -= 1;
        self.seats -= seats;
        // After a change of the level there may be fewer queues.
        if let Some(queue) = self.queues.get_mut(queue) {
            queue.executing = queue.executing.saturating_sub(1);
            queue.seats = queue.seats.saturating_sub(seats);
            // What was guessed is replaced by what it took.
            queue.next += (duration - GUESS) * seats as f64;
        }
    }

    /// The next request that may run, and on which queue's account.
    pub(crate) fn next(&mut self, now: f64) -> Option<(Waiting, usize)> {
        if self.waiting == 0 {
            return None;
        }
        self.advance(now);
        let count = self.queues.len();
        let turns = (0..count).map(|i| (self.turn + i) % count).filter(|i| !self.queues[*i].waiting.is_empty());
        let place = turns.min_by(|a, b| self.queues[*a].next.total_cmp(&self.queues[*b].next))?;
        if !self.fits(self.queues[place].waiting.front()?.seats) {
            return None;
        }
        let waiting = self.queues[place].waiting.pop_front()?;
        self.turn = (place + 1) % count;
        self.waiting -= 1;
        self.waiting_seats -= waiting.seats;
        self.begin(place, waiting.seats);
        Some((waiting, place))
    }

    /// A request waits no more. False where it already runs.
    pub(crate) fn give_up(&mut self, now: f64, id: u64) -> bool {
        self.advance(now);
        for queue in &mut self.queues {
            if let Some(place) = queue.waiting.iter().position(|w| w.id == id)
                && let Some(gone) = queue.waiting.remove(place)
            {
                self.waiting -= 1;
                self.waiting_seats -= gone.seats;
                return true;
            }
        }
        false
    }

    /// Other queues from now on. Those who wait go on waiting, dealt anew in their order.
    pub(crate) fn reshape(&mut self, queuing: Option<Queuing>) {
        if queuing == self.queuing {
            return;
        }
        let mut all: Vec<Waiting> = self.queues.iter_mut().flat_map(|q| q.waiting.drain(..)).collect();
        all.sort_by(|a, b| a.since.total_cmp(&b.since));
        let count = queuing.map_or(1, |q| q.queues);
        self.queues.resize_with(count, Queue::default);
        for (place, waiting) in all.into_iter().enumerate() {
            self.queues[place % count].waiting.push_back(waiting);
        }
        self.queuing = queuing;
    }
}

/// Deals a hand of different cards out of a deck, the same for the same number; see upstream's shufflesharding.Dealer.
fn deal(mut number: u64, deck: usize, hand: usize, mut take: impl FnMut(usize)) {
    let mut dealt: [usize; MOST] = [0; MOST];
    let hand = hand.min(deck).min(MOST);
    for i in 0..hand {
        let left = (deck - i) as u64;
        let mut card = (number % left) as usize;
        number /= left;
        // The cards before are out of the deck: count past them, lowest first.
        let before = &mut dealt[..i];
        before.sort_unstable();
        for gone in before.iter() {
            if *gone <= card {
                card += 1;
            }
        }
        dealt[i] = card;
        take(card);
    }
}

/// A larger hand means no other queue: 64 bits do not tell so many apart.
const MOST: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn level(limit: u64) -> Queues {
        Queues::new(Some(Queuing { queues: 64, hand: 6, length: 10 }), limit)
    }

    fn arrive(queues: &mut Queues, now: f64, id: u64, flow: u64, seats: u64) -> Arrival {
        let waiting = || Waiting { id, seats, since: now, schema: String::new(), flow: String::new() };
        queues.arrive(now, flow, waiting, seats)
    }

    fn hash(flow: u64) -> u64 {
        flow.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678
    }

    #[test]
    fn hands_have_different_cards_and_are_the_same_for_the_same_flow() {
        for flow in 0..200 {
            let mut hand = Vec::new();
            deal(hash(flow), 16, 8, |c| hand.push(c));
            let mut again = Vec::new();
            deal(hash(flow), 16, 8, |c| again.push(c));
            assert_eq!(hand, again);
            hand.sort_unstable();
            hand.dedup();
            assert!(hand.len() == 8 && hand.iter().all(|c| *c < 16), "{hand:?}");
        }
    }

    #[test]
    fn requests_run_while_there_are_seats_and_wait_then() {
        let mut queues = level(3);
        assert!(matches!(arrive(&mut queues, 0.0, 1, 1, 2), Arrival::Run { .. }));
        assert!(matches!(arrive(&mut queues, 0.0, 2, 2, 2), Arrival::Wait));
        // There would be a seat for it, but somebody is before it.
        assert!(matches!(arrive(&mut queues, 0.0, 3, 3, 1), Arrival::Wait));
        assert_eq!(queues.next(0.1).map(|(w, _)| w.id), None);
        let place = queues.queues.iter().position(|q| q.executing == 1).unwrap();
        queues.finish(0.2, place, 2, 0.2);
        let mut ids = [queues.next(0.2).unwrap().0.id, queues.next(0.2).unwrap().0.id];
        ids.sort_unstable();
        assert_eq!(ids, [2, 3]);
        assert_eq!((queues.seats, queues.waiting, queues.demand()), (3, 0, 3));
    }

    #[test]
    fn a_level_without_queues_refuses_and_a_full_queue_does() {
        let mut reject = Queues::new(None, 1);
        assert!(matches!(arrive(&mut reject, 0.0, 1, 1, 1), Arrival::Run { .. }));
        assert_eq!(arrive(&mut reject, 0.0, 2, 1, 1), Arrival::Limit);
        let mut queues = Queues::new(Some(Queuing { queues: 1, hand: 1, length: 2 }), 1);
        let outcomes: Vec<Arrival> = (0..4).map(|id| arrive(&mut queues, 0.0, id, 1, 1)).collect();
        assert_eq!(outcomes, [Arrival::Run { queue: 0 }, Arrival::Wait, Arrival::Wait, Arrival::Full]);
        assert!(queues.give_up(0.0, 1) && !queues.give_up(0.0, 1));
        assert_eq!(queues.waiting, 1);
    }

    #[test]
    fn a_request_that_is_wider_than_the_level_runs_alone() {
        let mut queues = level(2);
        assert!(matches!(arrive(&mut queues, 0.0, 1, 1, 9), Arrival::Run { .. }));
        assert_eq!(arrive(&mut queues, 0.0, 2, 2, 1), Arrival::Wait);
    }

    /// One flow sends ten times as much as the other, and gets no more of the server while both want it.
    #[test]
    fn a_loud_flow_does_not_drown_out_a_quiet_one() {
        let mut queues = Queues::new(Some(Queuing { queues: 64, hand: 4, length: 1000 }), 4);
        let (mut now, mut id, mut done) = (0.0, 0, [0_u64; 2]);
        let mut flows = std::collections::HashMap::new();
        let mut running: Vec<(f64, usize, u64)> = Vec::new();
        while now < 20.0 {
            // Ten of the loud one and one of the quiet one arrive each hundredth of a second; each runs for a twentieth.
            for (flow, count) in [(0_u64, 10), (1, 1)] {
                for _ in 0..count {
                    id += 1;
                    flows.insert(id, flow);
                    if let Arrival::Run { queue } = arrive(&mut queues, now, id, hash(flow + 7), 1) {
                        running.push((now + 0.05, queue, flow));
                    }
                }
            }
            now += 0.01;
            let (ended, still): (Vec<_>, Vec<_>) = running.into_iter().partition(|r| r.0 <= now);
            running = still;
            for (_, queue, flow) in ended {
                done[flow as usize] += 1;
                queues.finish(now, queue, 1, 0.05);
            }
            while let Some((waiting, queue)) = queues.next(now) {
                running.push((now + 0.05, queue, flows[&waiting.id]));
            }
        }
        // Four seats run about eighty a second. The loud flow has at most four queues, the quiet one has one of its own.
        assert!(done[1] * 6 > done[0], "{done:?}");
        assert!(done[0] + done[1] > 1200, "{done:?}");
    }

    #[test]
    fn who_waits_goes_on_waiting_when_the_queues_change() {
        let mut queues = level(1);
        for id in 0..5 {
            arrive(&mut queues, id as f64, id, hash(id), 1);
        }
        queues.reshape(Some(Queuing { queues: 2, hand: 1, length: 10 }));
        assert_eq!(queues.queues.iter().map(|q| q.waiting.len()).sum::<usize>(), 4);
        queues.limit = 10;
        let mut ids: Vec<u64> = std::iter::from_fn(|| queues.next(9.0)).map(|(w, _)| w.id).collect();
        ids.sort_unstable();
        assert_eq!(ids, [1, 2, 3, 4]);
    }
}
