//! What one sees at /debug/api_priority_and_fairness: levels, queues and waiting requests as comma-separated tables, with upstream's
//! columns as far as there is something to say.

use std::fmt::Write;

use crate::control::FlowControl;

impl FlowControl {
    /// The table of a path's last part; None where there is none of that name.
    pub fn dump(&self, name: &str) -> Option<String> {
        match name {
            "dump_priority_levels" => Some(self.dump_levels()),
            "dump_queues" => Some(self.dump_queues()),
            "dump_requests" => Some(self.dump_requests()),
            _ => None,
        }
    }

    fn dump_levels(&self) -> String {
        let mut out = String::from(
            "PriorityLevelName, ActiveQueues, IsIdle, IsQuiescing, WaitingRequests, ExecutingRequests, DispatchedRequests, RejectedRequests, TimedoutRequests, CancelledRequests\n",
        );
        for (name, level) in &self.in_force().levels {
            let inner = level.inner.lock();
            let active = inner.queues.queues.iter().filter(|q| q.executing > 0 || !q.waiting.is_empty()).count();
            let idle = inner.queues.demand() == 0;
            let (waiting, executing) = (inner.queues.waiting, inner.queues.executing);
            let counts = (inner.dispatched, inner.refused, inner.timed_out, inner.cancelled);
            // Writing to a String cannot fail.
            let _ = writeln!(
                out,
                "{name}, {active}, {idle}, false, {waiting}, {executing}, {}, {}, {}, {}",
                counts.0, counts.1, counts.2, counts.3
            );
        }
        out
    }

    fn dump_queues(&self) -> String {
        let mut out =
            String::from("PriorityLevelName, Index, PendingRequests, ExecutingRequests, SeatsInUse, NextDispatchR, InitialSeatsSum\n");
        for (name, level) in &self.in_force().levels {
            let inner = level.inner.lock();
            for (index, queue) in inner.queues.queues.iter().enumerate() {
                let sum: u64 = queue.waiting.iter().map(|w| w.seats).sum();
                let (pending, executing, seats, next) = (queue.waiting.len(), queue.executing, queue.seats, queue.next);
                let _ = writeln!(out, "{name}, {index}, {pending}, {executing}, {seats}, {next:.6}ss, {sum}");
            }
        }
        out
    }

    fn dump_requests(&self) -> String {
        let mut out = String::from(
            "PriorityLevelName, FlowSchemaName, QueueIndex, RequestIndexInQueue, FlowDistingsher, WaitedSeconds, InitialSeats\n",
        );
        let now = self.now();
        for (name, level) in &self.in_force().levels {
            let inner = level.inner.lock();
            for (index, queue) in inner.queues.queues.iter().enumerate() {
                for (place, waiting) in queue.waiting.iter().enumerate() {
                    let (schema, flow, since, seats) = (&waiting.schema, &waiting.flow, now - waiting.since, waiting.seats);
                    let _ = writeln!(out, "{name}, {schema}, {index}, {place}, {flow}, {since:.3}, {seats}");
                }
            }
        }
        out
    }
}
