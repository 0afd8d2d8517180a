//! What may go wrong between a component and the API server: delays, conflicts, refusals, answers that are lost after the
//! deed, watches that lag or end. Counts what was asked, by user.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use fram_apiserver::InProcess;
use fram_client::{Call, ListOptions, Patch, PatchKind, Reply, Resource, Transport, Verb, WatchEvent, WatchStream, WriteOptions};
use fram_machinery::{Reason, Status, object};
use futures_util::StreamExt;
use parking_lot::Mutex;

use crate::random::Chance;

/// What all transports of a simulation have in common.
pub(crate) struct Faults {
    pub(crate) chance: Chance,
    pub(crate) on: AtomicBool,
    /// How often what was asked by whom.
    pub(crate) counts: Mutex<BTreeMap<String, u64>>,
    /// What is never allowed, in the same words.
    pub(crate) refused: Mutex<Option<String>>,
}

impl Faults {
    pub(crate) fn new(chance: Chance) -> Arc<Self> {
        Arc::new(Self { chance, on: AtomicBool::new(true), counts: Mutex::default(), refused: Mutex::default() })
    }

    pub(crate) fn set(&self, on: bool) {
        self.on.store(on, Ordering::Relaxed);
    }

    fn are_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    async fn delay(&self) {
        let delay = match self.chance.between(0, 999) {
            0..=9 => self.chance.millis(500, 3000),
            10..=199 => self.chance.millis(10, 100),
            _ => self.chance.millis(0, 5),
        };
        tokio::time::sleep(delay).await;
    }

    fn count(&self, who: &str, verb: &str, resource: &Resource) {
        *self.counts.lock().entry(format!("{who} {verb} {resource}")).or_default() += 1;
    }

    fn is_refused(&self, who: &str, verb: &str, resource: &Resource) -> bool {
        self.refused.lock().as_ref().is_some_and(|what| *what == format!("{who} {verb} {resource}"))
    }
}

pub(crate) struct Faulty {
    inner: InProcess,
    /// Somebody else, who may change everything.
    other: InProcess,
    faults: Arc<Faults>,
    who: String,
}

impl Faulty {
    pub(crate) fn new(inner: InProcess, other: InProcess, faults: Arc<Faults>, who: &str) -> Self {
        Self { inner, other, faults, who: who.into() }
    }

    /// Changes the object that a call is about, so that the call comes too late. A conflict without a change would be one that
    /// nobody hears of, which no server gives.
    async fn touch(&self, call: &Call) {
        let body = object!({ "metadata": { "annotations": { "sim/touched": (self.faults.chance.next().to_string()) } } });
        let patch = Patch { kind: PatchKind::Merge, body };
        let verb = Verb::Patch { patch, options: WriteOptions::default() };
        let _ = self.other.call(Call { verb, subresource: String::new(), ..call.clone() }).await;
    }
}

fn verb(verb: &Verb) -> &'static str {
    match verb {
        Verb::Get => "get",
        Verb::List(_) => "list",
        Verb::Create { .. } => "create",
        Verb::Update { .. } => "update",
        Verb::Patch { .. } => "patch",
        Verb::Delete(_) => "delete",
        Verb::DeleteCollection { .. } => "deletecollection",
    }
}

#[async_trait]
impl Transport for Faulty {
    async fn call(&self, call: Call) -> Result<Reply, Status> {
        let faults = &self.faults;
        faults.count(&self.who, verb(&call.verb), &call.resource);
        if faults.is_refused(&self.who, verb(&call.verb), &call.resource) {
            return Err(Status::new(Reason::Forbidden, "refused"));
        }
        if !faults.are_on() {
            return self.inner.call(call).await;
        }
        let changes = matches!(call.verb, Verb::Update { .. } | Verb::Patch { .. });
        let writes = !matches!(call.verb, Verb::Get | Verb::List(_));
        faults.delay().await;
        if changes && faults.chance.happens(50) {
            self.touch(&call).await;
        }
        if faults.chance.happens(20) {
            let reason = *faults.chance.one_of(&[Reason::InternalError, Reason::ServiceUnavailable, Reason::TooManyRequests]).unwrap();
            return Err(Status::new(reason, "injected before the deed"));
        }
        let reply = self.inner.call(call).await;
        faults.delay().await;
        if writes && faults.chance.happens(20) {
            return Err(Status::new(Reason::Timeout, "injected after the deed"));
        }
        reply
    }

    async fn watch(&self, resource: &Resource, namespace: &str, options: ListOptions) -> Result<WatchStream, Status> {
        self.faults.count(&self.who, "watch", resource);
        if self.faults.are_on() {
            self.faults.delay().await;
            if self.faults.chance.happens(50) {
                return Err(Status::new(Reason::ServiceUnavailable, "injected"));
            }
        }
        let inner = self.inner.watch(resource, namespace, options).await?;
        let state = Some((inner, self.faults.clone()));
        Ok(Box::pin(futures_util::stream::unfold(state, next)))
    }
}

type State = Option<(WatchStream, Arc<Faults>)>;

async fn next(state: State) -> Option<(Result<WatchEvent, Status>, State)> {
    let (mut inner, faults) = state?;
    if !faults.are_on() {
        let item = inner.next().await?;
        return Some((item, Some((inner, faults))));
    }
    // A watch ends after a while even where nothing happens.
    let patience = Duration::from_secs(faults.chance.between(20, 600));
    let Ok(item) = tokio::time::timeout(patience, inner.next()).await else { return None };
    let item = item?;
    match faults.chance.between(0, 999) {
        0..=3 => return None,
        4..=5 => return Some((Err(Status::expired("injected")), None)),
        6..=15 => tokio::time::sleep(faults.chance.millis(500, 5000)).await,
        16..=199 => tokio::time::sleep(faults.chance.millis(5, 200)).await,
        _ => {}
    }
    Some((item, Some((inner, faults))))
}
