//! What a pod's events say of a pull that takes long. Short ones say nothing on the way.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use fram_cri::{ProgressFn, PullProgress};
use parking_lot::Mutex;

use super::Telling;

/// Often enough to see that it goes on, seldom enough for the recorder of events.
const EVERY: Duration = Duration::from_secs(30);

/// How far a pull is, as the image service has told last.
#[derive(Clone, Default)]
pub(super) struct Progress(Arc<Mutex<PullProgress>>);

impl Progress {
    pub(super) fn listener(&self) -> ProgressFn {
        let latest = self.0.clone();
        Arc::new(move |progress| *latest.lock() = progress)
    }

    /// Runs a pull, and tells of it every now and then until it ends.
    pub(super) async fn follow<T>(&self, image: &str, telling: &dyn Telling, pull: impl Future<Output = T>) -> T {
        let mut pull = std::pin::pin!(pull);
        loop {
            tokio::select! {
                biased;
                done = &mut pull => return done,
                () = tokio::time::sleep(EVERY) => {
                    let progress = *self.0.lock();
                    telling.event(false, "Pulling", describe(image, progress));
                }
            }
        }
    }
}

fn describe(image: &str, progress: PullProgress) -> String {
    let PullProgress { downloaded_bytes, total_bytes, unpacked_layers, layers } = progress;
    if total_bytes == 0 {
        return format!("Still pulling image {image:?}: waiting for the registry");
    }
    let mebibytes = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
    let (here, all) = (mebibytes(downloaded_bytes), mebibytes(total_bytes));
    format!("Still pulling image {image:?}: {here} of {all} MiB here, {unpacked_layers} of {layers} layers unpacked")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Told(Mutex<Vec<String>>);

    impl Telling for Told {
        fn event(&self, _: bool, reason: &'static str, message: String) {
            self.0.lock().push(format!("{reason} {message}"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_pull_tells_how_far_it_is_and_a_short_one_does_not() {
        let (progress, told) = (Progress::default(), Told::default());
        progress.follow("a", &told, tokio::time::sleep(EVERY / 2)).await;
        let listener = progress.listener();
        let pull = async {
            tokio::time::sleep(EVERY + Duration::from_secs(1)).await;
            listener(PullProgress { downloaded_bytes: 3 << 19, total_bytes: 4 << 20, unpacked_layers: 1, layers: 3 });
            tokio::time::sleep(EVERY).await;
        };
        progress.follow("a", &told, pull).await;
        let expected = [
            "Pulling Still pulling image \"a\": waiting for the registry",
            "Pulling Still pulling image \"a\": 1.5 of 4.0 MiB here, 1 of 3 layers unpacked",
        ];
        assert_eq!(*told.0.lock(), expected);
    }
}
