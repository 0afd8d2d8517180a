//! Work that never ends by itself: it begins anew after a failure, later each time that it fails at once.

use std::time::Duration;

use fram_machinery::Status;
use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The first pause and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(30));
/// What ran for so long had recovered.
const RECOVERED: Duration = Duration::from_secs(60);

/// Runs `once` over the state again and again until `stop`.
pub(crate) async fn keep<T: Send>(
    stop: CancellationToken,
    what: &str,
    mut state: T,
    once: impl for<'a> Fn(&'a mut T) -> BoxFuture<'a, Result<(), Status>>,
) {
    let mut pause = PAUSES.0;
    loop {
        let begun = Instant::now();
        let Some(ended) = stop.run_until_cancelled(once(&mut state)).await else { return };
        if let Err(status) = ended {
            tracing::warn!(%status, "{what} begins anew");
        }
        if begun.elapsed() >= RECOVERED {
            pause = PAUSES.0;
        }
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
        pause = (pause * 2).min(PAUSES.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_fails_at_once_is_begun_ever_later() {
        let begun = Instant::now();
        let stop = CancellationToken::new();
        let mut times = Vec::new();
        let ended = stop.clone();
        keep(stop, "a test", &mut times, |times| {
            times.push(begun.elapsed().as_millis());
            if times.len() == 5 {
                ended.cancel();
            }
            Box::pin(std::future::ready(Err(Status::internal("no"))))
        })
        .await;
        assert_eq!(times, [0, 20, 60, 140, 300]);
    }
}
