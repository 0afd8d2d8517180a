//! Elections among candidates of one process, over a transport that keeps one lease, in paused time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use fram_machinery::Reason;
use parking_lot::Mutex;
use tokio::task::JoinSet;

use super::*;
use crate::options::ListOptions;
use crate::resources::Resource;
use crate::transport::{Call, Reply, Transport, Verb, WatchStream};

#[test]
fn a_lease_is_taken_when_it_is_free_or_has_not_changed_for_its_time() {
    let lease = |holder: &str| object!({ "spec": { "holderIdentity": holder, "leaseDurationSeconds": 15 } });
    let (old, new) = (Duration::from_secs(15), Duration::from_secs(14));
    assert_eq!(decide(None, "a", new), Step::Create);
    for (holder, unchanged_for, step) in
        [("a", old, Step::Renew), ("", new, Step::Take), ("b", new, Step::Wait), ("b", old, Step::Take), ("a", new, Step::Renew)]
    {
        assert_eq!(decide(Some(&lease(holder)), "a", unchanged_for), step, "{holder} {unchanged_for:?}");
    }
}

/// A server that has one lease, and that candidates can be cut off from.
#[derive(Default)]
struct Server {
    lease: Mutex<Option<(u64, Value)>>,
}

struct Way {
    server: Arc<Server>,
    cut: Arc<AtomicBool>,
}

#[async_trait::async_trait]
impl Transport for Way {
    async fn call(&self, call: Call) -> Result<Reply, Status> {
        if self.cut.load(Ordering::Relaxed) {
            return Err(Status::internal("cut off"));
        }
        let mut lease = self.server.lease.lock();
        let version = lease.as_ref().map_or(0, |(version, _)| *version);
        let object = match call.verb {
            Verb::Get => {
                let found = lease.as_ref().map(|(_, lease)| lease.clone());
                found.ok_or_else(|| Status::new(Reason::NotFound, "there is none"))?
            }
            Verb::Create { .. } if lease.is_some() => return Err(Status::new(Reason::AlreadyExists, "there is one")),
            Verb::Update { ref object, .. } if meta::resource_version(object) != version.to_string() => {
                return Err(Status::new(Reason::Conflict, "it is another by now"));
            }
            Verb::Create { mut object, .. } | Verb::Update { mut object, .. } => {
                object.set(&["metadata", "resourceVersion"], (version + 1).to_string());
                *lease = Some((version + 1, object.clone()));
                object
            }
            other => return Err(Status::internal(format!("{other:?}"))),
        };
        Ok(Reply::Object(Arc::new(object)))
    }

    async fn watch(&self, _: &Resource, _: &str, _: ListOptions) -> Result<WatchStream, Status> {
        Err(Status::internal("nobody watches"))
    }
}

struct Candidate {
    cut: Arc<AtomicBool>,
    stop: CancellationToken,
    leads: Arc<AtomicBool>,
}

/// Starts a candidate; `leaders` counts those who lead, and no two ever do.
fn candidate(server: &Arc<Server>, identity: &str, leaders: &Arc<AtomicUsize>, tasks: &mut JoinSet<()>) -> Candidate {
    let candidate = Candidate { cut: Arc::default(), stop: CancellationToken::new(), leads: Arc::default() };
    let election = LeaderElection {
        client: Client::new(Arc::new(Way { server: server.clone(), cut: candidate.cut.clone() }), "test"),
        name: "test",
        identity: identity.into(),
        now: Arc::new(|| jiff::Timestamp::UNIX_EPOCH),
        timing: Timing::default(),
    };
    let (leads, leaders, stop) = (candidate.leads.clone(), leaders.clone(), candidate.stop.clone());
    tasks.spawn(election.run(stop, move |term| {
        let (leads, leaders) = (leads.clone(), leaders.clone());
        async move {
            assert_eq!(leaders.fetch_add(1, Ordering::Relaxed), 0, "there is one leader at a time");
            leads.store(true, Ordering::Relaxed);
            term.cancelled().await;
            leads.store(false, Ordering::Relaxed);
            leaders.fetch_sub(1, Ordering::Relaxed);
        }
    }));
    candidate
}

async fn seconds(n: u64) {
    tokio::time::sleep(Duration::from_secs(n)).await;
}

#[tokio::test(start_paused = true)]
async fn when_the_leader_is_cut_off_another_goes_on_within_the_lease() {
    let (server, leaders, mut tasks) = (Arc::<Server>::default(), Arc::default(), JoinSet::new());
    let first = candidate(&server, "first", &leaders, &mut tasks);
    seconds(1).await;
    let second = candidate(&server, "second", &leaders, &mut tasks);
    seconds(60).await;
    assert!(first.leads.load(Ordering::Relaxed) && !second.leads.load(Ordering::Relaxed));
    first.cut.store(true, Ordering::Relaxed);
    seconds(11).await;
    assert!(!first.leads.load(Ordering::Relaxed), "who cannot renew gives up before others may take over");
    seconds(9).await;
    assert!(second.leads.load(Ordering::Relaxed));
    first.cut.store(false, Ordering::Relaxed);
    seconds(60).await;
    assert!(second.leads.load(Ordering::Relaxed) && !first.leads.load(Ordering::Relaxed));
    let lease = server.lease.lock().clone().unwrap().1;
    assert_eq!((lease.str_at(&["spec", "holderIdentity"]), lease.int_at(&["spec", "leaseTransitions"])), ("second", Some(1)));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_ends_gives_the_lease_back() {
    let (server, leaders, mut tasks) = (Arc::<Server>::default(), Arc::default(), JoinSet::new());
    let first = candidate(&server, "first", &leaders, &mut tasks);
    seconds(1).await;
    let second = candidate(&server, "second", &leaders, &mut tasks);
    seconds(5).await;
    first.stop.cancel();
    seconds(3).await;
    assert!(second.leads.load(Ordering::Relaxed));
}
