//! Answers that their clients have yet to take. A client of HTTP/2 can leave one where it is for ever and still answer pings, so
//! there is a time by which it must have been taken; until then it takes up the seats under which it was made, as in upstream,
//! whose handlers write what they answer.

use std::collections::BTreeSet;
use std::sync::Arc;

use http_body::Body as _;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::respond::{self, Body};

/// Smaller answers fit into what a connection keeps for its client anyway.
const LARGE: u64 = 64 * 1024;

/// The large answers of one connection.
#[derive(Default)]
pub(crate) struct Unsent {
    due: Mutex<Due>,
    more: Notify,
}

#[derive(Default)]
struct Due {
    last: u64,
    answers: BTreeSet<(Instant, u64)>,
}

/// One of them; gone when it has been sent or given up.
struct Sending {
    unsent: Arc<Unsent>,
    entry: (Instant, u64),
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.unsent.due.lock().answers.remove(&self.entry);
    }
}

impl Unsent {
    /// A body that is to be taken by then. What is `held` goes with it.
    pub(crate) fn hold<T: Send + Unpin + 'static>(self: &Arc<Self>, body: Body, by: Instant, held: T) -> Body {
        if body.size_hint().lower() <= LARGE {
            return body;
        }
        let entry = {
            let mut due = self.due.lock();
            due.last += 1;
            let entry = (by, due.last);
            due.answers.insert(entry);
            entry
        };
        self.more.notify_one();
        respond::holding(body, (Sending { unsent: self.clone(), entry }, held))
    }

    /// Waits until one has not been taken in time.
    pub(crate) async fn overdue(&self) {
        loop {
            let first = self.due.lock().answers.first().map(|(by, _)| *by);
            match first {
                Some(by) if by <= Instant::now() => return,
                Some(by) => tokio::time::sleep_until(by).await,
                None => self.more.notified().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;

    fn body(size: usize) -> Body {
        respond::bytes(200, "text/plain", Bytes::from(vec![b'x'; size])).into_body()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_taken_in_time_is_noticed_and_what_is_taken_is_not() {
        let unsent = Arc::new(Unsent::default());
        let in_seconds = |n| Instant::now() + Duration::from_secs(n);
        let waits = |seconds| tokio::time::timeout(Duration::from_secs(seconds), unsent.overdue());
        let small = unsent.hold(body(100), in_seconds(1), ());
        let taken = unsent.hold(body(100_000), in_seconds(5), ());
        let left = unsent.hold(body(100_000), in_seconds(20), ());
        assert!(waits(2).await.is_err(), "a small answer needs no time");
        drop(taken);
        assert!(waits(15).await.is_err());
        assert!(waits(10).await.is_ok());
        drop((left, small));
        assert!(waits(100).await.is_err());
    }
}
