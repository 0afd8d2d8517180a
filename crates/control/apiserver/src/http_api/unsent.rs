//! Answers that their clients have yet to take. A client of HTTP/2 can leave one where it is for ever and still answer pings, so
//! there is a time by which it must have been taken; until then it takes up the seats under which it was made, as in upstream,
//! whose handlers write what they answer.

use std::collections::BTreeSet;
use std::sync::Arc;

use http::Response;
use http_body::Body as _;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::compress::Whole;
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
    /// An answer that is to be taken by then. What is `held` goes with it.
    pub(crate) fn hold<T: Send + Unpin + 'static>(self: &Arc<Self>, answer: Response<Body>, by: Instant, held: T) -> Response<Body> {
        // Of what is made of many pieces its maker says the size, and nobody else.
        let size = answer.extensions().get::<Whole>().map_or_else(|| answer.body().size_hint().lower(), |whole| whole.0);
        if size <= LARGE {
            return answer;
        }
        let entry = {
            let mut due = self.due.lock();
            due.last += 1;
            let entry = (by, due.last);
            due.answers.insert(entry);
            entry
        };
        self.more.notify_one();
        let held = (Sending { unsent: self.clone(), entry }, held);
        answer.map(|body| respond::holding(body, held))
    }

    /// Waits until one has not been taken in time.
    pub(crate) async fn overdue(&self) {
        loop {
            let first = self.due.lock().answers.first().map(|(by, _)| *by);
            match first {
                Some(by) if by <= Instant::now() => return,
                // The next one may be due before it: what took long to make has less time left.
                Some(by) => drop(tokio::time::timeout_at(by, self.more.notified()).await),
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

    fn answer(size: usize) -> Response<Body> {
        respond::bytes(200, "text/plain", Bytes::from(vec![b'x'; size]))
    }

    /// As lists are made: nobody but its maker knows its size.
    fn pieces(size: usize) -> Response<Body> {
        let mut response = respond::stream("application/json", futures_util::stream::empty());
        response.extensions_mut().insert(Whole(size as u64));
        response
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_taken_in_time_is_noticed_and_what_is_taken_is_not() {
        let unsent = Arc::new(Unsent::default());
        let in_seconds = |n| Instant::now() + Duration::from_secs(n);
        let waits = |seconds| tokio::time::timeout(Duration::from_secs(seconds), unsent.overdue());
        let small = unsent.hold(answer(100), in_seconds(1), ());
        let taken = unsent.hold(answer(100_000), in_seconds(5), ());
        let left = unsent.hold(pieces(100_000), in_seconds(20), ());
        assert!(waits(2).await.is_err(), "a small answer needs no time");
        drop(taken);
        assert!(waits(15).await.is_err());
        assert!(waits(10).await.is_ok());
        drop((left, small));
        assert!(waits(100).await.is_err());
    }
}
