//! The shell: classifies requests, lets them run, wait or go, and gives freed seats to those who wait. What is decided is decided in
//! `config`, `queues` and `shares`.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fram_machinery::Value;
use parking_lot::{Mutex, RwLock};
use prometheus_client::registry::Registry;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use crate::config::{Digest, Level, Schema, ordered};
use crate::estimate::{Estimator, Listed, Width};
use crate::metrics::{Handles, Metrics};
use crate::queues::{Arrival, Queues, Waiting};
use crate::shares::{self, Integral, Limits};

/// Which flow schema and priority level a request belongs to, by the UIDs that response headers carry.
#[derive(Debug, Clone)]
pub struct Class {
    pub schema_uid: Arc<str>,
    pub level_uid: Arc<str>,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    ConcurrencyLimit,
    QueueFull,
    TimeOut,
}

impl Refused {
    fn reason(self) -> &'static str {
        match self {
            Self::ConcurrencyLimit => "concurrency-limit",
            Self::QueueFull => "queue-full",
            Self::TimeOut => "time-out",
        }
    }
}

/// The seats of a request; they are given back when it is dropped.
pub struct Ticket {
    seat: Option<Seat>,
    afterwards: Duration,
}

struct Seat {
    control: Arc<FlowControl>,
    schema: Arc<Active>,
    queue: usize,
    seats: u64,
    began: f64,
}

/// A flow schema in force, with its level.
pub(crate) struct Active {
    schema: Schema,
    pub(crate) level: Arc<LevelState>,
    class: Class,
    handles: Handles,
}

pub(crate) struct LevelState {
    pub(crate) name: String,
    exempt: bool,
    nominal: AtomicU64,
    pub(crate) inner: Mutex<Inner>,
}

pub(crate) struct Inner {
    pub(crate) queues: Queues,
    waiters: HashMap<u64, oneshot::Sender<usize>>,
    limits: Limits,
    demand: Integral,
    smoothed: f64,
    pub(crate) dispatched: u64,
    pub(crate) refused: u64,
    pub(crate) timed_out: u64,
    pub(crate) cancelled: u64,
}

/// What is in force.
#[derive(Default)]
pub(crate) struct InForce {
    schemas: Vec<Arc<Active>>,
    pub(crate) levels: BTreeMap<String, Arc<LevelState>>,
}

/// Priority and fairness of one server.
pub struct FlowControl {
    seats: u64,
    /// How long a request waits at most.
    patience: Duration,
    pub estimator: Estimator,
    in_force: RwLock<Arc<InForce>>,
    metrics: Metrics,
    ids: AtomicU64,
    epoch: Instant,
    /// Seats that stay taken for a while.
    tasks: TaskTracker,
}

impl FlowControl {
    /// With so many seats for all levels together, and the default configuration until there is another.
    pub fn new(seats: u64, patience: Duration) -> Self {
        let control = Self {
            seats,
            patience,
            estimator: Estimator::default(),
            in_force: RwLock::default(),
            metrics: Metrics::default(),
            ids: AtomicU64::new(0),
            epoch: Instant::now(),
            tasks: TaskTracker::new(),
        };
        control.configure(&crate::defaults::flow_schemas(), &crate::defaults::priority_levels());
        control
    }

    /// Shows the counters among others.
    pub fn register(&self, registry: &mut Registry) {
        self.metrics.register(registry);
    }

    pub(crate) fn now(&self) -> f64 {
        self.epoch.elapsed().as_secs_f64()
    }

    pub(crate) fn in_force(&self) -> Arc<InForce> {
        self.in_force.read().clone()
    }

    /// Takes over FlowSchemas and PriorityLevelConfigurations. Levels go on with what they hold; a schema whose level is not there
    /// counts for nothing.
    pub fn configure(&self, schemas: &[Value], levels: &[Value]) {
        let now = self.now();
        let former = self.in_force();
        let configured: Vec<Level> = levels.iter().map(Level::read).collect();
        let limits = shares::limits(&configured, self.seats);
        let mut next = InForce::default();
        for (level, limits) in configured.iter().zip(limits) {
            let kept = former.levels.get(&level.name).filter(|l| l.exempt == level.exempt).cloned();
            let state = kept.unwrap_or_else(|| Arc::new(LevelState::new(level, limits)));
            state.nominal.store(limits.nominal, Ordering::Relaxed);
            let mut inner = state.inner.lock();
            if inner.limits != limits {
                inner.queues.limit = limits.nominal.max(1);
            }
            inner.limits = limits;
            inner.queues.reshape(level.queuing);
            inner.dispatch(now);
            self.metrics.limits(&level.name, limits);
            self.metrics.limit(&level.name, inner.queues.limit);
            drop(inner);
            next.levels.insert(level.name.clone(), state);
        }
        let uids: HashMap<&str, Arc<str>> = configured.iter().map(|l| (l.name.as_str(), Arc::from(l.uid.as_str()))).collect();
        for schema in ordered(schemas.iter().map(Schema::read).collect()) {
            let Some(level) = next.levels.get(&schema.level).cloned() else { continue };
            let level_uid = uids.get(schema.level.as_str()).cloned().unwrap_or_default();
            let class = Class { schema_uid: schema.uid.as_str().into(), level_uid };
            let handles = self.metrics.of(&level.name, &schema.name);
            next.schemas.push(Arc::new(Active { schema, level, class, handles }));
        }
        for gone in former.levels.keys().filter(|name| !next.levels.contains_key(*name)) {
            self.metrics.forget(gone);
        }
        *self.in_force.write() = Arc::new(next);
    }

    /// Divides the seats anew by what was wanted since the last time; to be called every ten seconds, see upstream's
    /// borrowingAdjustmentPeriod.
    pub fn adjust(&self) {
        let (now, in_force) = (self.now(), self.in_force());
        let levels: Vec<&Arc<LevelState>> = in_force.levels.values().filter(|l| !l.exempt).collect();
        let claims: Vec<_> = levels
            .iter()
            .map(|level| {
                let mut inner = level.inner.lock();
                let demand = inner.demand.take(now);
                inner.smoothed = shares::smoothed(inner.smoothed, &demand);
                shares::claim(inner.limits, inner.smoothed, demand.highest)
            })
            .collect();
        for (level, limit) in levels.iter().zip(shares::divide(self.seats as f64, &claims)) {
            let mut inner = level.inner.lock();
            inner.queues.limit = limit;
            inner.dispatch(now);
            self.metrics.limit(&level.name, limit);
        }
    }

    /// Lets a request in: at once where there are seats, or after others. Says what it is even where it is refused.
    pub async fn enter(self: &Arc<Self>, digest: &Digest<'_>, listed: Listed) -> (Option<Class>, Result<Ticket, Refused>) {
        let in_force = self.in_force();
        let Some(active) = in_force.schemas.iter().find(|s| s.schema.matches(digest)) else {
            // There is a catch-all for everybody who is authenticated or not; only a broken configuration leads here.
            return (None, Ok(Ticket { seat: None, afterwards: Duration::ZERO }));
        };
        let class = Some(active.class.clone());
        if active.level.exempt {
            active.handles.dispatched.inc();
            return (class, Ok(Ticket { seat: None, afterwards: Duration::ZERO }));
        }
        let width = self.estimator.width(digest, listed, active.level.nominal.load(Ordering::Relaxed));
        let now = self.now();
        let waiter = match self.arrive(active, digest, width, now) {
            Ok(Place::Run(seat)) => return (class, Ok(Ticket { seat: Some(seat), afterwards: width.afterwards })),
            Ok(Place::Wait(waiter)) => waiter,
            Err(refused) => return (class, Err(refused)),
        };
        let outcome = waiter.wait(self.patience).await;
        active.handles.waited.observe(self.now() - now);
        if outcome.is_err() {
            self.metrics.refuse(&active.level.name, &active.schema.name, Refused::TimeOut.reason());
        }
        (class, outcome.map(|seat| Ticket { seat: Some(seat), afterwards: width.afterwards }))
    }

    fn arrive(self: &Arc<Self>, active: &Arc<Active>, digest: &Digest<'_>, width: Width, now: f64) -> Result<Place, Refused> {
        let flow = active.schema.flow(digest);
        let mut hasher = DefaultHasher::new();
        (active.schema.name.as_str(), flow).hash(&mut hasher);
        let seats = width.seats;
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let waiting = || Waiting { id, seats, since: now, schema: active.schema.name.clone(), flow: flow.into() };
        let seat = |queue| Seat { control: self.clone(), schema: active.clone(), queue, seats, began: now };
        let mut inner = active.level.inner.lock();
        let arrival = inner.queues.arrive(now, hasher.finish(), waiting, seats);
        let demand = inner.queues.demand();
        inner.demand.set(now, demand as f64);
        match arrival {
            Arrival::Run { queue } => {
                inner.dispatched += 1;
                drop(inner);
                active.handles.began(seats);
                active.handles.waited.observe(0.0);
                Ok(Place::Run(seat(queue)))
            }
            Arrival::Wait => {
                let (sender, receiver) = oneshot::channel();
                inner.waiters.insert(id, sender);
                drop(inner);
                active.handles.waiting.inc();
                Ok(Place::Wait(Waiter { seat: Some(seat(usize::MAX)), id, receiver }))
            }
            Arrival::Limit | Arrival::Full => {
                inner.refused += 1;
                drop(inner);
                let refused = if arrival == Arrival::Limit { Refused::ConcurrencyLimit } else { Refused::QueueFull };
                self.metrics.refuse(&active.level.name, &active.schema.name, refused.reason());
                Err(refused)
            }
        }
    }
}

enum Place {
    Run(Seat),
    Wait(Waiter),
}

/// A request that waits. Who stops waiting leaves its queue; who got its seats meanwhile gives them back.
struct Waiter {
    /// Its queue is known when it runs.
    seat: Option<Seat>,
    id: u64,
    receiver: oneshot::Receiver<usize>,
}

impl Waiter {
    async fn wait(mut self, patience: Duration) -> Result<Seat, Refused> {
        let granted = tokio::time::timeout(patience, &mut self.receiver).await;
        match granted {
            Ok(Ok(queue)) => self.seated(queue).ok_or(Refused::TimeOut),
            _ => match self.leave(true) {
                // It was let in in the last moment.
                Some(queue) => self.seated(queue).ok_or(Refused::TimeOut),
                None => {
                    self.seat = None;
                    Err(Refused::TimeOut)
                }
            },
        }
    }

    fn seated(&mut self, queue: usize) -> Option<Seat> {
        let seat = self.seat.take()?;
        seat.schema.handles.waiting.dec();
        seat.schema.handles.began(seat.seats);
        let began = seat.control.now();
        Some(Seat { queue, began, ..seat })
    }

    /// Leaves the queue; Some where it already runs.
    fn leave(&mut self, timed_out: bool) -> Option<usize> {
        let seat = self.seat.as_ref()?;
        let now = seat.control.now();
        let mut inner = seat.schema.level.inner.lock();
        if !inner.queues.give_up(now, self.id) {
            return self.receiver.try_recv().ok();
        }
        inner.waiters.remove(&self.id);
        if timed_out {
            inner.timed_out += 1;
        } else {
            inner.cancelled += 1;
        }
        let demand = inner.queues.demand();
        inner.demand.set(now, demand as f64);
        // It may have stood before others that fit.
        inner.dispatch(now);
        drop(inner);
        seat.schema.handles.waiting.dec();
        None
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if self.seat.is_some()
            && let Some(queue) = self.leave(false)
            && let Some(seat) = self.seated(queue)
        {
            seat.give_back();
        }
    }
}

impl Handles {
    fn began(&self, seats: u64) {
        self.dispatched.inc();
        self.executing.inc();
        self.seats.inc_by(seats as i64);
    }
}

impl LevelState {
    fn new(level: &Level, limits: Limits) -> Self {
        let inner = Inner {
            queues: Queues::new(level.queuing, limits.nominal.max(1)),
            waiters: HashMap::new(),
            limits,
            demand: Integral::default(),
            smoothed: 0.0,
            dispatched: 0,
            refused: 0,
            timed_out: 0,
            cancelled: 0,
        };
        Self { name: level.name.clone(), exempt: level.exempt, nominal: AtomicU64::new(limits.nominal), inner: Mutex::new(inner) }
    }
}

impl Inner {
    /// Lets those run for whom there are seats.
    fn dispatch(&mut self, now: f64) {
        while let Some((waiting, queue)) = self.queues.next(now) {
            self.dispatched += 1;
            // Who is gone has left its queue before, under the same lock.
            if let Some(waiter) = self.waiters.remove(&waiting.id) {
                let _ = waiter.send(queue);
            }
        }
    }
}

impl Seat {
    fn give_back(self) {
        let now = self.control.now();
        let handles = &self.schema.handles;
        handles.executing.dec();
        handles.seats.dec_by(self.seats as i64);
        handles.executed.observe(now - self.began);
        let mut inner = self.schema.level.inner.lock();
        inner.queues.finish(now, self.queue, self.seats, now - self.began);
        inner.dispatch(now);
        let demand = inner.queues.demand();
        inner.demand.set(now, demand as f64);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let Some(seat) = self.seat.take() else { return };
        if self.afterwards.is_zero() {
            return seat.give_back();
        }
        // Who watches is served after the request has ended; its seats stay taken for as long as that takes.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => {
                let (tasks, afterwards) = (seat.control.tasks.clone(), self.afterwards);
                let given_back = async move {
                    tokio::time::sleep(afterwards).await;
                    seat.give_back();
                };
                drop(tasks.spawn_on(given_back, &runtime));
            }
            Err(_) => seat.give_back(),
        }
    }
}

#[cfg(test)]
mod tests;
