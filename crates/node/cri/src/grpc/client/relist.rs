//! Events out of lists: what differs between what there was and what there is. See upstream's generic PLEG (pleg/generic.go).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::super::RUNTIME;
use super::super::messages::*;
use super::super::status::CallError;
use super::{Server, call};
use crate::*;

/// What is known of a sandbox or container: the sandbox that it is or belongs to, and its state.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    sandbox: Arc<PodSandboxStatus>,
    state: ContainerState,
}

/// By id; sandboxes are among them, as events have it.
type World = BTreeMap<String, Known>;

/// One thing that happened: to which id, in which sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Change {
    id: String,
    sandbox: Arc<PodSandboxStatus>,
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
pub(super) async fn follow(server: Arc<Server>, events: mpsc::Sender<ContainerEvent>, every: Duration) {
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
    let ended = world.iter().filter(|(id, known)| known.state == ContainerState::Exited && **id != known.sandbox.id);
    ended.map(|(id, known)| Change { id: id.clone(), sandbox: known.sandbox.clone(), kind: ContainerEventType::Stopped }).collect()
}

async fn list(server: &Server) -> Result<World, CallError> {
    let sandboxes: PodSandboxes = call(server, RUNTIME, "ListPodSandbox", &ListPodSandboxRequest::default()).await?;
    let containers: Containers = call(server, RUNTIME, "ListContainers", &ListContainersRequest::default()).await?;
    let mut world: World = sandboxes.items.into_iter().map(of_sandbox).collect();
    for container in containers.items {
        // The list of sandboxes is a moment older; whose it is says the container itself then.
        let sandbox = world.get(&container.pod_sandbox_id).map(|known| known.sandbox.clone());
        let sandbox = sandbox.unwrap_or_else(|| Arc::new(by_labels(container.pod_sandbox_id, container.labels)));
        world.insert(container.id, Known { sandbox, state: container.state });
    }
    Ok(world)
}

fn of_sandbox(listed: PodSandbox) -> (String, Known) {
    let state = match listed.state {
        PodSandboxState::Ready => ContainerState::Running,
        PodSandboxState::NotReady => ContainerState::Exited,
    };
    let PodSandbox { id, metadata, created_at, labels, annotations, runtime_handler, .. } = listed;
    // What is told of one that cannot be asked any more: that it is not ready.
    let state_then = PodSandboxState::NotReady;
    let status =
        PodSandboxStatus { id, metadata, state: state_then, created_at, labels, annotations, runtime_handler, ..Default::default() };
    (status.id.clone(), Known { sandbox: Arc::new(status), state })
}

/// A sandbox of which only the labels of its containers tell.
fn by_labels(id: String, labels: BTreeMap<String, String>) -> PodSandboxStatus {
    let label = |key: &str| labels.get(key).cloned().unwrap_or_default();
    let metadata = PodSandboxMetadata {
        name: label("io.kubernetes.pod.name"),
        uid: label("io.kubernetes.pod.uid"),
        namespace: label("io.kubernetes.pod.namespace"),
        ..Default::default()
    };
    PodSandboxStatus { id, metadata, state: PodSandboxState::NotReady, ..Default::default() }
}

/// The event with the pod as it is now; of a sandbox that is gone or cannot be asked about, with what the lists said. Nobody hears
/// of the change again, so that whose it was must not be lost.
async fn event(server: &Server, change: Change) -> ContainerEvent {
    let id = change.sandbox.id.clone();
    let request = IdVerbose { id: id.clone(), verbose: false };
    let sandbox: Result<PodSandboxStatusResponse, _> = call(server, RUNTIME, "PodSandboxStatus", &request).await;
    let filter = ContainerFilter { pod_sandbox_id: Some(id.clone()), ..ContainerFilter::default() };
    let containers: Result<Containers, _> = call(server, RUNTIME, "ListContainers", &ListContainersRequest { filter }).await;
    let mut containers_statuses = Vec::new();
    for container in containers.map(|found| found.items).unwrap_or_default() {
        let request = IdVerbose { id: container.id, verbose: false };
        let status: Result<ContainerStatusResponse, _> = call(server, RUNTIME, "ContainerStatus", &request).await;
        // One may go away meanwhile.
        containers_statuses.extend(status.ok().map(|it| ContainerStatus { pod_sandbox_id: id.clone(), ..it.status }));
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    ContainerEvent {
        container_id: change.id,
        pod_sandbox_id: id,
        container_event_type: change.kind,
        created_at: i64::try_from(now.as_nanos()).unwrap_or(i64::MAX),
        pod_sandbox_status: Some(sandbox.map_or_else(|_| (*change.sandbox).clone(), |found| found.status)),
        containers_statuses,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ContainerEventType::*;
    use ContainerState as State;

    fn world(of: &[(&str, State)]) -> World {
        let sandbox = Arc::new(PodSandboxStatus { id: "s".into(), ..Default::default() });
        of.iter().map(|(id, state)| (id.to_string(), Known { sandbox: sandbox.clone(), state: *state })).collect()
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

    #[tokio::test]
    async fn whose_container_has_ended_is_told_where_the_runtime_says_nothing_of_its_sandbox() {
        let silent = Server::new("/proc/self/nobody.sock", super::super::PATIENCE).unwrap();
        let metadata = PodSandboxMetadata { name: "p".into(), uid: "u".into(), namespace: "ns".into(), attempt: 0 };
        let (_, listed) = of_sandbox(PodSandbox { id: "s".into(), metadata, ..Default::default() });
        let labels = [("io.kubernetes.pod.uid".to_string(), "u".to_string())].into();
        for sandbox in [listed.sandbox, Arc::new(by_labels("s".into(), labels))] {
            let told = event(&silent, Change { id: "a".into(), sandbox, kind: Stopped }).await;
            let status = told.pod_sandbox_status.unwrap();
            assert_eq!((status.metadata.uid.as_str(), status.state), ("u", PodSandboxState::NotReady));
        }
    }

    #[test]
    fn at_the_beginning_only_ends_are_told() {
        let ends = ended(&world(&[("a", State::Exited), ("b", State::Running), ("s", State::Exited)]));
        assert_eq!(ends.into_iter().map(|change| change.id).collect::<Vec<_>>(), ["a"]);
    }
}
