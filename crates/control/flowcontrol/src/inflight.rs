//! Limits on requests in flight for servers without priority and fairness: so many that read, so many that write, and no queue. See
//! upstream's WithMaxInFlightLimit.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The two limits; 0 is without limit.
pub struct InFlight {
    reading: Option<Arc<Semaphore>>,
    writing: Option<Arc<Semaphore>>,
}

/// A place among the requests in flight.
pub struct Permit(#[allow(dead_code, reason = "it counts by being held")] Option<OwnedSemaphorePermit>);

impl InFlight {
    pub fn new(reading: usize, writing: usize) -> Self {
        let limit = |n: usize| (n > 0).then(|| Arc::new(Semaphore::new(n)));
        Self { reading: limit(reading), writing: limit(writing) }
    }

    /// A place for a request of this verb; None where all are taken.
    pub fn enter(&self, verb: &str) -> Option<Permit> {
        let limit = if matches!(verb, "get" | "list" | "watch" | "head" | "options") { &self.reading } else { &self.writing };
        match limit {
            None => Some(Permit(None)),
            Some(limit) => limit.clone().try_acquire_owned().ok().map(|p| Permit(Some(p))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_are_limited_apart() {
        let limits = InFlight::new(1, 0);
        let first = limits.enter("list");
        assert!(first.is_some() && limits.enter("get").is_none() && limits.enter("create").is_some());
        drop(first);
        assert!(limits.enter("get").is_some());
    }
}
