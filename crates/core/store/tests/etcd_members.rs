//! The engine on etcd while members are killed, paused, cut off and made to lead: two stores, as of two servers, are written and read by
//! many; each register's history has to be linearizable, and both stores' watches have to tell the same, with all that was
//! acknowledged. FRAM_STORE_FAULT_ROUNDS says how often each fault comes; once where it is not set.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/members.rs"]
mod members;
#[path = "support/registers.rs"]
mod registers;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fram_store::{Condition, Etcd, EtcdOptions, Operation, Revision, Store, StoreError, Transaction, WatchItem};
use members::{MEMBERS, Members, url};
use nix::sys::signal::Signal;
use parking_lot::Mutex;
use registers::{Act, Call, is_linearizable};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const REGISTERS: u64 = 4;
const WORKERS: u64 = 3;
/// How long a fault lasts.
const FAULT: Duration = Duration::from_secs(2);

/// How long all faults may take, once each.
const ROUND: Duration = Duration::from_secs(120);

#[derive(Default)]
struct Observations {
    calls: Mutex<BTreeMap<String, Vec<Call>>>,
    acknowledged: Mutex<BTreeMap<Revision, (String, u64)>>,
    value: AtomicU64,
    succeeded: AtomicU64,
}

impl Observations {
    fn note(&self, key: &str, act: Act, begin: Instant, is_known: bool) {
        let call = Call { act, begin, end: is_known.then(Instant::now) };
        self.calls.lock().entry(key.into()).or_default().push(call);
        self.succeeded.fetch_add(u64::from(is_known), Ordering::Relaxed);
    }
}

async fn open() -> Arc<Etcd> {
    let servers = (0..MEMBERS).map(url).collect();
    Arc::new(Etcd::open(EtcdOptions::new(servers, "/registry/")).await.unwrap())
}

fn number(value: &[u8]) -> u64 {
    u64::from_le_bytes(value.try_into().unwrap())
}

/// Reads, writes and replaces, one call after the other.
async fn work(store: Arc<Etcd>, worker: u64, seen: Arc<Observations>, stop: CancellationToken) {
    let mut turn = worker;
    while !stop.is_cancelled() {
        turn = turn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(worker * 2 + 1);
        let key = format!("/registry/{}", (turn >> 33) % REGISTERS);
        let begin = Instant::now();
        let read = async {
            let snapshot = store.snapshot(None).await?;
            Ok::<_, StoreError>(snapshot.get(&key).map(|entry| (number(&entry.value), entry.modified)))
        };
        if (turn >> 40).is_multiple_of(4) {
            let value = seen.value.fetch_add(1, Ordering::Relaxed);
            write(&store, &key, Transaction::default(), Act::Write(value), begin, &seen).await;
        } else if let Ok(found) = read.await {
            seen.note(&key, Act::Read(found.map(|(value, _)| value)), begin, true);
            if (turn >> 44).is_multiple_of(2) {
                let condition = match found {
                    Some((_, revision)) => Condition::ModifiedAt(key.as_str().into(), revision),
                    None => Condition::Absent(key.as_str().into()),
                };
                let value = seen.value.fetch_add(1, Ordering::Relaxed);
                let act = Act::Replace(found.map(|(value, _)| value), value);
                write(&store, &key, Transaction::default().when(condition), act, Instant::now(), &seen).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn write(store: &Etcd, key: &str, mut transaction: Transaction, act: Act, begin: Instant, seen: &Observations) {
    let (Act::Write(value) | Act::Replace(_, value)) = act else { unreachable!("reads write nothing") };
    transaction.operations.push(Operation::put(key, value.to_le_bytes().to_vec()));
    match store.commit(transaction).await {
        Ok(committed) => {
            seen.note(key, act, begin, true);
            seen.acknowledged.lock().insert(committed.revision, (key.into(), value));
        }
        Err(StoreError::Conflict { current, .. }) => {
            seen.note(key, Act::Read(current.map(|entry| number(&entry.value))), begin, true);
        }
        Err(StoreError::OutcomeUnknown { .. }) => seen.note(key, act, begin, false),
        // Nothing was applied.
        Err(StoreError::Unavailable { .. }) => {}
        Err(error) => panic!("{error}"),
    }
}

/// All that a watch tells until a revision.
async fn watched(store: Arc<Etcd>, until: tokio::sync::oneshot::Receiver<Revision>) -> Vec<(Revision, String, u64)> {
    let (mut seen, mut last) = (Vec::<(Revision, String, u64)>::new(), None);
    let mut watch = store.watch("/registry/", Revision::EMPTY).await.unwrap();
    let mut until = std::pin::pin!(until);
    while last.is_none_or(|last| seen.last().is_none_or(|(revision, ..)| *revision < last)) {
        tokio::select! {
            biased;
            found = &mut until, if last.is_none() => last = Some(found.unwrap()),
            item = watch.next() => {
                let WatchItem::Events(events) = item.unwrap() else { continue };
                seen.extend(events.iter().map(|e| (e.revision, e.key.to_string(), number(&e.entry.as_ref().unwrap().value))));
            }
        }
    }
    seen
}

/// Waits until calls succeed again: what a fault takes away comes back without being asked for.
async fn recovered(seen: &Observations, what: &str) {
    let before = seen.succeeded.load(Ordering::Relaxed);
    let deadline = Instant::now() + Duration::from_secs(15);
    while seen.succeeded.load(Ordering::Relaxed) < before + 30 {
        assert!(Instant::now() < deadline, "nothing succeeds after: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn faults(members: &mut Members, seen: &Observations) {
    let leader = members.leader().await;
    members.kill(leader);
    recovered(seen, "the leader is killed").await;
    members.launch(leader);

    let leader = members.leader().await;
    members.signal(leader, Signal::SIGSTOP);
    tokio::time::sleep(FAULT).await;
    members.signal(leader, Signal::SIGCONT);
    recovered(seen, "the leader is paused for a while").await;

    let leader = members.leader().await;
    members.cut(leader, true);
    recovered(seen, "the leader is cut off").await;
    members.cut(leader, false);

    for _ in 0..MEMBERS {
        let leader = members.leader().await;
        members.move_leader(leader, (leader + 1) % MEMBERS).await;
        recovered(seen, "another member is made to lead").await;
    }

    // Without a majority nothing goes, and nothing is lost.
    let leader = members.leader().await;
    let others = [(leader + 1) % MEMBERS, (leader + 2) % MEMBERS];
    others.iter().for_each(|other| members.cut(*other, true));
    tokio::time::sleep(FAULT).await;
    others.iter().for_each(|other| members.cut(*other, false));
    recovered(seen, "there is no majority for a while").await;
}

#[test]
fn whatever_happens_to_members_registers_are_linearizable_and_nothing_acknowledged_is_lost() {
    let rounds = std::env::var("FRAM_STORE_FAULT_ROUNDS").map_or(1, |rounds| rounds.parse().unwrap());
    let mut members = Members::start();
    // One thread: it alone is in the namespace.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stores = [open().await, open().await];
        let (seen, stop) = (Arc::<Observations>::default(), CancellationToken::new());
        let (mut workers, mut watches) = (JoinSet::new(), JoinSet::new());
        let mut ends = Vec::new();
        for (store, index) in stores.iter().zip(0..) {
            let (end, until) = tokio::sync::oneshot::channel();
            ends.push(end);
            watches.spawn(watched(store.clone(), until));
            for worker in 0..WORKERS {
                workers.spawn(work(store.clone(), index * WORKERS + worker + 1, seen.clone(), stop.clone()));
            }
        }
        for _ in 0..rounds {
            tokio::time::timeout(ROUND, faults(&mut members, &seen)).await.expect("a round takes too long");
        }
        stop.cancel();
        while let Some(worker) = workers.join_next().await {
            worker.unwrap();
        }
        let last = *seen.acknowledged.lock().keys().next_back().unwrap();
        ends.into_iter().for_each(|end| end.send(last).unwrap());
        let watched = tokio::time::timeout(Duration::from_secs(10), watches.join_all()).await.unwrap();
        let upto = |events: &[(Revision, String, u64)]| events.iter().filter(|(r, ..)| *r <= last).cloned().collect::<Vec<_>>();
        let first = upto(&watched[0]);
        assert_eq!(first, upto(&watched[1]), "both servers tell the same");
        assert!(first.is_sorted_by_key(|(revision, ..)| *revision));
        let told: BTreeMap<Revision, (String, u64)> = first.into_iter().map(|(revision, key, value)| (revision, (key, value))).collect();
        for (revision, written) in seen.acknowledged.lock().iter() {
            assert_eq!(told.get(revision), Some(written), "what was acknowledged at revision {revision}");
        }
        let calls = std::mem::take(&mut *seen.calls.lock());
        let count: usize = calls.values().map(Vec::len).sum();
        let unknown = calls.values().flatten().filter(|call| call.end.is_none()).count();
        println!("{count} calls, {unknown} with unknown outcome, {} acknowledged writes", seen.acknowledged.lock().len());
        for (key, calls) in calls {
            assert!(is_linearizable(&calls), "{key} is not linearizable");
        }
        for store in stores {
            store.close().await.unwrap();
        }
    });
}
