//! Turns: writers who would only take from one another what they all want come one after another, by namespace.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

#[derive(Default)]
pub(super) struct Turns {
    locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Turns {
    /// Waits for the turn in a namespace; it lasts for as long as what is returned.
    pub(super) async fn wait(&self, namespace: &str) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock();
            // Those that nobody holds or waits for are forgotten.
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            locks.entry(namespace.to_string()).or_default().clone()
        };
        lock.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn there_is_one_turn_at_a_time_in_a_namespace() {
        let turns = Turns::default();
        let first = turns.wait("a").await;
        let other = turns.wait("b").await;
        assert!(tokio::time::timeout(std::time::Duration::from_millis(10), turns.wait("a")).await.is_err());
        drop((first, other));
        let again = turns.wait("a").await;
        assert_eq!(turns.locks.lock().len(), 1);
        drop(again);
    }
}
