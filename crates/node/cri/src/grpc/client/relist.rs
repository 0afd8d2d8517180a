//! Events out of lists: what differs between what there was and what there is. See upstream's generic PLEG (pleg/generic.go).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fram_grpc::UnixEndpoint;
use tokio::sync::mpsc;

use super::super::RUNTIME;
use super::super::messages::*;
use super::super::status::CallError;
use super::call;
use crate::*;

/// What is known of a sandbox or container: the sandbox that it is or belongs to, and its state.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    sandbox: String,
    state: ContainerState,
}

/// By id; sandboxes are among them, as events have it.
type World = BTreeMap<String, Known>;

/// One thing that happened: to which id, in which sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Change {
    id: String,
    sandbox: String,
    kind: ContainerEventType,
}

/// What must have happened between two lists, in an order that makes sense for each id.
fn changes(old: &World, new: &World) -> Vec<Change> {
    let mut found = Vec::new();
    let mut tell = |id: &str, known: &Known, kind| found.push(Change { id: id.to_owned(), sandbox: known.sandbox.clone(), kind });
    for (id, now) in new {
        let before = old.get(id).map(|known| known.state);
        if before.is_none() {
            tell(id, now, ContainerEventType::Created);
        }
        let ran = before.is_some_and(|state| state != ContainerState::Created);
        match now.state {
            ContainerState::Running if !ran => tell(id, now, ContainerEventType::Started),
            ContainerState::Exited if before != Some(ContainerState::Exited) => {
                if !ran {
                    tell(id, now, ContainerEventType::Started);
                }
                tell(id, now, ContainerEventType::Stopped);
            }
            _ => {}
        }
    }
    for (id, before) in old.iter().filter(|(id, _)| !new.contains_key(*id)) {
        if before.state != ContainerState::Exited {
            tell(id, before, ContainerEventType::Stopped);
        }
        tell(id, before, ContainerEventType::Deleted);
    }
    found
}

/// Asks again and again until nobody listens. What is there at the beginning is no news, but what has ended already is: nobody may
/// have been told.
pub(super) async fn follow(server: Arc<UnixEndpoint>, events: mpsc::Sender<ContainerEvent>, every: Duration) {
    let mut known: Option<World> = None;
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = events.closed() => return,
            _ = ticks.tick() => {}
        }
        let world = match list(&server).await {
            Ok(world) => world,
            Err(error) => {
                tracing::debug!(%error, "the runtime did not list what it has");
                continue;
            }
        };
        let news = match &known {
            Some(known) => changes(known, &world),
            None => ended(&world),
        };
        for change in news {
            // One that does not keep up is ended: it subscribes again and lists.
            if events.try_send(event(&server, change).await).is_err() {
                return;
            }
        }
        known = Some(world);
    }
}

fn ended(world: &World) -> Vec<Change> {
    let ended = world.iter().filter(|(id, known)| known.state == ContainerState::Exited && **id != known.sandbox);
    ended.map(|(id, known)| Change { id: id.clone(), sandbox: known.sandbox.clone(), kind: ContainerEventType::Stopped }).collect()
}

async fn list(server: &UnixEndpoint) -> Result<World, CallError> {
    let sandboxes: PodSandboxes = call(server, RUNTIME, "ListPodSandbox", &ListPodSandboxRequest::default()).await?;
    let containers: Containers = call(server, RUNTIME, "ListContainers", &ListContainersRequest::default()).await?;
    let sandboxes = sandboxes.items.into_iter().map(|sandbox| {
        let state = match sandbox.state {
            PodSandboxState::Ready => ContainerState::Running,
            PodSandboxState::NotReady => ContainerState::Exited,
        };
        (sandbox.id.clone(), Known { sandbox: sandbox.id, state })
    });
    let containers = containers.items.into_iter().map(|c| (c.id, Known { sandbox: c.pod_sandbox_id, state: c.state }));
    Ok(sandboxes.chain(containers).collect())
}

/// The event with the pod as it is now. Where the sandbox is gone, who reads it knows the pod by the sandbox's id.
async fn event(server: &UnixEndpoint, change: Change) -> ContainerEvent {
    let request = IdVerbose { id: change.sandbox.clone(), verbose: false };
    let sandbox: Result<PodSandboxStatusResponse, _> = call(server, RUNTIME, "PodSandboxStatus", &request).await;
    let filter = ContainerFilter { pod_sandbox_id: Some(change.sandbox.clone()), ..ContainerFilter::default() };
    let containers: Result<Containers, _> = call(server, RUNTIME, "ListContainers", &ListContainersRequest { filter }).await;
    let mut containers_statuses = Vec::new();
    for container in containers.map(|found| found.items).unwrap_or_default() {
        let request = IdVerbose { id: container.id, verbose: false };
        let status: Result<ContainerStatusResponse, _> = call(server, RUNTIME, "ContainerStatus", &request).await;
        // One may go away meanwhile.
        containers_statuses.extend(status.ok().map(|it| ContainerStatus { pod_sandbox_id: change.sandbox.clone(), ..it.status }));
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    ContainerEvent {
        container_id: change.id,
        pod_sandbox_id: change.sandbox,
        container_event_type: change.kind,
        created_at: i64::try_from(now.as_nanos()).unwrap_or(i64::MAX),
        pod_sandbox_status: sandbox.ok().map(|found| found.status),
        containers_statuses,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ContainerEventType::*;
    use ContainerState as State;

    fn world(of: &[(&str, State)]) -> World {
        of.iter().map(|(id, state)| (id.to_string(), Known { sandbox: "s".into(), state: *state })).collect()
    }

    #[test]
    fn what_differs_between_two_lists_has_happened() {
        for (old, new, expect) in [
            (&[][..], &[("a", State::Created)][..], &[Created][..]),
            (&[], &[("a", State::Running)], &[Created, Started]),
            (&[], &[("a", State::Exited)], &[Created, Started, Stopped]),
            (&[("a", State::Created)], &[("a", State::Running)], &[Started]),
            (&[("a", State::Created)], &[("a", State::Exited)], &[Started, Stopped]),
            (&[("a", State::Running)], &[("a", State::Running)], &[]),
            (&[("a", State::Running)], &[("a", State::Exited)], &[Stopped]),
            (&[("a", State::Running)], &[], &[Stopped, Deleted]),
            (&[("a", State::Exited)], &[], &[Deleted]),
        ] {
            let kinds: Vec<_> = changes(&world(old), &world(new)).into_iter().map(|change| change.kind).collect();
            assert_eq!(kinds, expect, "{old:?} {new:?}");
        }
    }

    #[test]
    fn at_the_beginning_only_ends_are_told() {
        let ends = ended(&world(&[("a", State::Exited), ("b", State::Running), ("s", State::Exited)]));
        assert_eq!(ends.into_iter().map(|change| change.id).collect::<Vec<_>>(), ["a"]);
    }
}
