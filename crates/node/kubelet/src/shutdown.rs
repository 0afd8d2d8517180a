//! Graceful node shutdown (KEP-2000, KEP-2712): when the machine is about to go down, pods are ended by priority, each with its time.
//! Where there is systemd, its logind says so and waits for the pods (`logind`); everywhere SIGPWR says so, as init systems tell of
//! failing power. See upstream's pkg/kubelet/nodeshutdown.

mod dbus;
mod logind;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fram_machinery::{Value, meta};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::config::ShutdownGrace;
use crate::kubelet::Kubelet;
use crate::pod;
use crate::worker::{Failure, Letter};

/// Upstream's nodeShutdownReason and nodeShutdownMessage.
const REASON: &str = "Terminated";
const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";
const REFUSED: (&str, &str) = ("NodeShutdown", "Pod was rejected as the node is shutting down.");

/// Pods that are ended together.
#[derive(Debug, PartialEq)]
struct Group {
    period: Duration,
    /// Their places.
    pods: Vec<usize>,
}

/// Who goes when: the least important first. A pod belongs to the highest step that its priority reaches, or to the lowest one.
fn plan(priorities: &[i64], steps: &[ShutdownGrace]) -> Vec<Group> {
    let mut groups: Vec<Group> = steps.iter().map(|s| Group { period: s.period, pods: Vec::new() }).collect();
    for (place, priority) in priorities.iter().enumerate() {
        let step = steps.iter().rposition(|s| s.priority <= *priority).unwrap_or(0);
        if let Some(group) = groups.get_mut(step) {
            group.pods.push(place);
        }
    }
    groups.retain(|g| !g.pods.is_empty());
    groups
}

/// Upstream's dbusReconnectPeriod, grown: a bus that does not answer is not asked every second for ever.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Waits for the machine's word, and ends the pods then.
pub(crate) async fn keep(kubelet: Kubelet, stop: CancellationToken) {
    stop.run_until_cancelled(async {
        tokio::join!(hear_signal(&kubelet), hear_logind(&kubelet, Path::new(logind::BUS), Path::new(logind::DROP_INS)));
    })
    .await;
}

async fn hear_signal(kubelet: &Kubelet) {
    match signal(SignalKind::from_raw(nix::libc::SIGPWR)) {
        Ok(mut word) => {
            if word.recv().await.is_some() {
                end_pods(kubelet).await;
            }
        }
        Err(error) => tracing::error!(%error, "failing power cannot be heard of: pods are not ended then"),
    }
}

/// Where there is no bus there is no systemd, and nobody to wait for.
async fn hear_logind(kubelet: &Kubelet, bus: &Path, drop_ins: &Path) {
    if !bus.exists() {
        return tracing::info!(?bus, "there is no system bus: of shutdowns only SIGPWR tells");
    }
    let mut pause = PAUSES.0;
    loop {
        match talk(kubelet, bus, drop_ins, &mut pause).await {
            Ok(never) => match never {},
            Err(error) => tracing::warn!(%error, "the machine's shutdown is not delayed for pods, it is asked for again"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

async fn talk(
    kubelet: &Kubelet,
    bus: &Path,
    drop_ins: &Path,
    pause: &mut Duration,
) -> Result<std::convert::Infallible, logind::LogindError> {
    let mut talk = logind::Logind::connect(bus).await?;
    let wanted = kubelet.ctx.config.shutdown_grace.iter().map(|step| step.period).sum();
    talk.prepare(wanted, drop_ins).await?;
    let mut lock = Some(talk.lock().await?);
    *pause = PAUSES.0;
    tracing::info!(?wanted, "the machine waits for pods when it is shut down");
    loop {
        match talk.word().await? {
            true => {
                end_pods(kubelet).await;
                // The machine goes on.
                lock = None;
            }
            // It was called off.
            false => {
                kubelet.ctx.shutting_down.send_replace(false);
                if lock.is_none() {
                    lock = Some(talk.lock().await?);
                }
            }
        }
    }
}

async fn end_pods(kubelet: &Kubelet) {
    let ctx = &kubelet.ctx;
    tracing::info!("the machine is about to go down: pods are ended");
    ctx.shutting_down.send_replace(true);
    ctx.node_event(false, "NodeShutdown", "Shutdown manager detected shutdown event");
    let pods = kubelet.active_pods();
    let priorities: Vec<i64> = pods.iter().map(|p| p.int_at(&["spec", "priority"]).unwrap_or(0)).collect();
    for group in plan(&priorities, &ctx.config.shutdown_grace) {
        let group_pods: Vec<&Arc<Value>> = group.pods.iter().map(|i| &pods[*i]).collect();
        let seconds = i64::try_from(group.period.as_secs()).unwrap_or(i64::MAX);
        for pod in &group_pods {
            let failure = Failure { reason: REASON.into(), message: MESSAGE.into(), disruption: true };
            let grace = pod::grace_period(pod).min(seconds);
            kubelet.post(meta::uid(pod), Letter::Failed { failure, grace: Some(grace) });
        }
        let mut happened = ctx.activity.subscribe();
        let ended = async {
            while any_runs(kubelet, &group_pods).await {
                if happened.changed().await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(group.period, ended).await.is_err() {
            tracing::warn!(seconds, "pods did not end in the time that they have when the machine goes down");
        }
    }
}

async fn any_runs(kubelet: &Kubelet, pods: &[&Arc<Value>]) -> bool {
    let ready = fram_cri::PodSandboxFilter { state: Some(fram_cri::PodSandboxState::Ready), ..Default::default() };
    let sandboxes = match kubelet.ctx.runtime.list_pod_sandbox(&ready).await {
        Ok(sandboxes) => sandboxes,
        Err(error) => {
            tracing::warn!(%error, "the runtime does not say what still runs: pods get all of their time");
            return true;
        }
    };
    sandboxes.iter().any(|s| pods.iter().any(|p| meta::uid(p) == s.metadata.uid))
}

/// Nobody comes to a machine that goes down.
pub(crate) fn admit(going: bool) -> Result<(), crate::admit::Rejection> {
    if going { Err((REFUSED.0.into(), REFUSED.1.into())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_go_by_priority_and_each_group_has_its_time() {
        let step = |priority: i64, seconds: u64| ShutdownGrace { priority, period: Duration::from_secs(seconds) };
        let steps = [step(0, 30), step(1000, 20), step(2_000_000_000, 10)];
        let groups = plan(&[0, 2_000_001_000, 999, -5, 1000, 5000], &steps);
        let shown: Vec<(u64, Vec<usize>)> = groups.into_iter().map(|g| (g.period.as_secs(), g.pods)).collect();
        assert_eq!(shown, [(30, vec![0, 2, 3]), (20, vec![4, 5]), (10, vec![1])]);
        assert_eq!(plan(&[2_000_000_000], &steps).len(), 1);
        assert_eq!(plan(&[1], &[]), []);
    }
}
