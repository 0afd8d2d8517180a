//! The parts of a process that go on until it is told to stop, and the signals that tell it. A part that ends earlier ends the
//! process; what does not end when it should is not waited for longer than people wait.

use std::time::Duration;

use anyhow::Context;
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{JoinError, JoinSet};
use tokio_util::task::TaskTracker;

/// How long parts may take to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long, after them, streams that clients hold open.
const STREAMS: Duration = Duration::from_secs(2);

/// SIGINT and SIGTERM.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(crate) fn listen() -> anyhow::Result<Self> {
        let listen = |kind, name| signal(kind).with_context(|| format!("cannot wait for {name}"));
        Ok(Self { interrupt: listen(SignalKind::interrupt(), "SIGINT")?, terminate: listen(SignalKind::terminate(), "SIGTERM")? })
    }

    pub(crate) async fn next(&mut self) {
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// The user asked twice: nothing is waited for any more.
#[derive(Debug, thiserror::Error)]
#[error("a second signal: what had not ended yet is broken off")]
pub(crate) struct Impatience;

#[derive(Default)]
pub(crate) struct Parts {
    tasks: JoinSet<(&'static str, anyhow::Result<()>)>,
}

impl Parts {
    pub(crate) fn spawn(&mut self, name: &'static str, part: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(async move {
            part.await;
            (name, Ok(()))
        });
    }

    /// A part that has threads of its own, and can fail.
    pub(crate) fn spawn_on(
        &mut self,
        threads: &Handle,
        name: &'static str,
        part: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        self.tasks.spawn_on(async move { (name, part.await) }, threads);
    }

    /// Waits until a part ends, which none should; says how it did.
    pub(crate) async fn ended(&mut self) -> anyhow::Error {
        match self.tasks.join_next().await {
            Some(Ok((name, Ok(())))) => anyhow::anyhow!("{name} ended unasked"),
            Some(Ok((name, Err(error)))) => error.context(format!("{name} failed")),
            Some(Err(error)) => panicked(error),
            None => std::future::pending().await,
        }
    }

    /// Ends a run that came to `outcome`; whoever does not want to wait for it wants no more waiting at all.
    pub(crate) async fn end(self, outcome: anyhow::Result<()>, tasks: &TaskTracker, signals: &mut Signals) -> anyhow::Result<()> {
        match (outcome, self.drain(tasks, signals).await) {
            (Err(error), Err(late)) if late.is::<Impatience>() => Err(late.context(format!("{error:#}"))),
            (outcome, drained) => outcome.and(drained),
        }
    }

    /// Waits until all have ended that were told to, and then `tasks`; gives the first failure.
    async fn drain(mut self, tasks: &TaskTracker, signals: &mut Signals) -> anyhow::Result<()> {
        tasks.close();
        let draining = async {
            let all = tokio::time::timeout(PATIENCE, self.all()).await;
            let late = tokio::time::timeout(STREAMS, tasks.wait()).await.is_err();
            (all, late)
        };
        let (all, late) = tokio::select! {
            biased;
            () = signals.next() => return Err(Impatience.into()),
            drained = draining => drained,
        };
        if late {
            tracing::info!(tasks = tasks.len(), "ended before everything in it had");
        }
        all.unwrap_or_else(|_| Err(anyhow::anyhow!("a part did not end within {} s", PATIENCE.as_secs())))
    }

    async fn all(&mut self) -> anyhow::Result<()> {
        let mut outcome = Ok(());
        while let Some(ended) = self.tasks.join_next().await {
            let ended = ended.map_err(panicked).and_then(|(name, ended)| ended.with_context(|| format!("{name} failed")));
            outcome = outcome.and(ended);
        }
        outcome
    }
}

/// Where it panicked stands in the log.
fn panicked(error: JoinError) -> anyhow::Error {
    anyhow::Error::new(error).context("a part failed")
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;

    #[tokio::test]
    async fn a_part_that_ends_unasked_is_noticed() {
        let mut parts = Parts::default();
        parts.spawn("the first", std::future::pending());
        parts.spawn("the second", async {});
        assert_eq!(parts.ended().await.to_string(), "the second ended unasked");
        parts.spawn_on(&Handle::current(), "the third", async { anyhow::bail!("no luck") });
        assert_eq!(format!("{:#}", parts.ended().await), "the third failed: no luck");
    }

    #[tokio::test]
    async fn parts_that_were_told_to_end_are_waited_for() {
        let (mut parts, stop, tasks) = (Parts::default(), CancellationToken::new(), TaskTracker::new());
        let mut signals = Signals::listen().unwrap();
        parts.spawn("the server", stop.clone().cancelled_owned());
        tasks.spawn(stop.clone().cancelled_owned());
        stop.cancel();
        parts.end(Ok(()), &tasks, &mut signals).await.unwrap();
        assert!(tasks.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_does_not_end_is_not_waited_for_for_ever() {
        let mut parts = Parts::default();
        parts.spawn("the server", std::future::pending());
        let mut signals = Signals::listen().unwrap();
        assert!(parts.drain(&TaskTracker::new(), &mut signals).await.is_err());
    }

    #[tokio::test]
    async fn a_second_signal_ends_the_waiting() {
        let mut parts = Parts::default();
        parts.spawn("the server", std::future::pending());
        let mut signals = Signals::listen().unwrap();
        nix::sys::signal::raise(nix::sys::signal::SIGTERM).unwrap();
        let ended = parts.end(Err(anyhow::anyhow!("the kubelet failed")), &TaskTracker::new(), &mut signals).await.unwrap_err();
        assert!(ended.is::<Impatience>() && ended.to_string() == "the kubelet failed", "{ended:#}");
    }
}
