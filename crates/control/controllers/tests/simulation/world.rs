//! A control plane in one process under simulated time: the real API server on the real store in memory, and components that
//! crash and start again.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use async_trait::async_trait;
use fram_api::Api;
use fram_apiserver::admission::Chain;
use fram_apiserver::allocate::Allocators;
use fram_apiserver::bootstrap::Cluster;
use fram_apiserver::nodes::NoNodes;
use fram_apiserver::registry::Registry;
use fram_apiserver::token::{DEFAULT_ISSUER, Tokens};
use fram_apiserver::{Environment, InProcess, Server, User};
use fram_client::controller::Queues;
use fram_client::resources::POD_GROUPS;
use fram_client::{Client, EventRecorder, SharedInformers};
use fram_controllers::{Context, KindInfo, Metrics, Selection};
use fram_scheduler::{Scheduler, SchedulerConfig};
use fram_store::{
    Clock, ClockListener, Committed, Embedded, Facet, Options, Revision, Selected, Snapshot, Store, StoreError, Transaction, UnixMillis,
    Watch,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::faults::{Faults, Faulty};
use crate::random::Chance;

/// 2026-01-01T00:00:00Z.
const EPOCH: u64 = 1_767_225_600_000;

/// The runtime's time as the time of day. The store's thread, which has no runtime, sees it as it last was here.
pub(crate) struct SimulatedClock {
    start: tokio::time::Instant,
    millis: AtomicU64,
    /// What it was set ahead by, or back.
    ahead: AtomicI64,
}

impl SimulatedClock {
    /// Somebody sets it, by so many seconds.
    pub(crate) fn jump(&self, seconds: i64) {
        self.ahead.fetch_add(seconds * 1000, Ordering::Relaxed);
    }

    pub(crate) fn timestamp(&self) -> jiff::Timestamp {
        jiff::Timestamp::from_millisecond(self.now().0 as i64).unwrap()
    }
}

impl Clock for SimulatedClock {
    fn now(&self) -> UnixMillis {
        if tokio::runtime::Handle::try_current().is_ok() {
            let time = EPOCH + self.start.elapsed().as_millis() as u64;
            self.millis.store(time.saturating_add_signed(self.ahead.load(Ordering::Relaxed)), Ordering::Relaxed);
        }
        UnixMillis(self.millis.load(Ordering::Relaxed))
    }

    fn wait_until(&self, time: UnixMillis) -> Option<std::time::Duration> {
        (time <= self.now()).then_some(std::time::Duration::ZERO)
    }

    fn on_change(&self, _listener: ClockListener) {}
}

/// The store, whose thread is waited for without letting simulated time pass.
struct Instantaneous(Embedded);

#[async_trait]
impl Store for Instantaneous {
    async fn commit(&self, transaction: Transaction) -> Result<Committed, StoreError> {
        // Within the runtime's budget a wait could be told to yield, which nobody here would grant.
        futures_executor(tokio::task::unconstrained(self.0.commit(transaction)))
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.0.revision().await
    }

    async fn snapshot(&self, at: Option<Revision>) -> Result<Snapshot, StoreError> {
        self.0.snapshot(at).await
    }

    fn seen(&self) -> Result<Snapshot, StoreError> {
        self.0.seen()
    }

    fn seen_of(&self, collection: &str, facet: &Facet) -> Result<Selected, StoreError> {
        self.0.seen_of(collection, facet)
    }

    async fn watch_facet(&self, prefix: &str, facet: Option<Facet>, after: Revision) -> Result<Watch, StoreError> {
        self.0.watch_facet(prefix, facet, after).await
    }

    async fn compact(&self, to: Revision) -> Result<(), StoreError> {
        self.0.compact(to).await
    }

    async fn oldest(&self) -> Result<Revision, StoreError> {
        self.0.oldest().await
    }

    async fn size(&self) -> Result<u64, StoreError> {
        self.0.size().await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.0.close().await
    }
}

/// Blocks this thread until the future, which another thread completes, is ready.
fn futures_executor<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut context = std::task::Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(output) => return output,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}

fn admin() -> User {
    User::authenticated("admin", &["system:masters"])
}

pub(crate) struct World {
    pub(crate) server: Arc<Server>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<SimulatedClock>,
    pub(crate) faults: Arc<Faults>,
    pub(crate) chance: Chance,
    /// Those of the controllers, in this life of theirs.
    pub(crate) queues: Queues,
    pub(crate) metrics: Metrics,
    /// What the server says of kinds that are not built in, which nobody tells unasked.
    pub(crate) custom_kinds: watch::Sender<Arc<[KindInfo]>>,
    pub(crate) undiscovered: watch::Sender<Arc<[String]>>,
    components: Option<Components>,
    /// Which controllers run from the next start on.
    pub(crate) selection: Selection,
}

/// One life of controllers and scheduler.
struct Components {
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl World {
    pub(crate) async fn new(seed: u64) -> Self {
        Self::serving(seed, Api::builtin().unwrap()).await
    }

    /// A world in which these kinds are served.
    pub(crate) async fn serving(seed: u64, api: Api) -> Self {
        let chance = Chance::new(seed);
        let clock =
            Arc::new(SimulatedClock { start: tokio::time::Instant::now(), millis: AtomicU64::new(EPOCH), ahead: AtomicI64::new(0) });
        let options = Options { clock: clock.clone(), seed, ..Options::in_memory() };
        let store: Arc<dyn Store> = Arc::new(Instantaneous(Embedded::open(options).unwrap()));
        let environment = Environment { clock: clock.clone(), random: Arc::new(chance.branch("environment")) };
        let registry = Registry::new(Arc::new(api), store.clone(), "/registry/", environment, Chain::standard(), Allocators::default());
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let tokens = Tokens::new(registry.clone(), DEFAULT_ISSUER, &key).unwrap();
        let server = Arc::new(Server::new(registry, tokens, Arc::new(NoNodes)));
        let cluster = Cluster {
            ca_pem: "ca".into(),
            front_proxy_ca_pem: "front".into(),
            address: [192, 0, 2, 1].into(),
            port: 6443,
            cluster_domain: "cluster.local".into(),
            shared: false,
        };
        server.bootstrap(&cluster).await.unwrap();
        let faults = Faults::new(chance.branch("faults"));
        Self {
            server,
            store,
            clock,
            faults,
            chance,
            queues: Queues::default(),
            metrics: Metrics::default(),
            selection: Selection::default(),
            custom_kinds: watch::Sender::new(Arc::default()),
            undiscovered: watch::Sender::new(Arc::default()),
            components: None,
        }
    }

    /// A client whose calls arrive, and whose answers do.
    pub(crate) fn admin(&self) -> Client {
        Client::new(Arc::new(InProcess::new(self.server.clone(), admin())), "admin")
    }

    /// Starts controllers and scheduler with empty caches.
    pub(crate) fn start(&mut self) {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        self.queues = Queues::default();
        self.metrics = Metrics::default();
        let (server, faults) = (self.server.clone(), self.faults.clone());
        let client = move |user: &str, groups: &[&str], name: &str| {
            let inner = InProcess::new(server.clone(), User::authenticated(user, groups));
            let other = InProcess::new(server.clone(), admin());
            Client::new(Arc::new(Faulty::new(inner, other, faults.clone(), name)), name)
        };
        let manager = client("system:kube-controller-manager", &[], "kube-controller-manager");
        let informers = SharedInformers::new(manager.clone(), tasks.clone(), stop.clone());
        let clock = self.clock.clone();
        let now: fram_controllers::Clock = Arc::new(move || clock.timestamp());
        let scheduling = client("system:kube-scheduler", &[], "kube-scheduler");
        let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system"];
        let context = Context {
            clients: Arc::new(move |name| client(&format!("system:serviceaccount:kube-system:{name}"), &groups, name)),
            manager,
            informers: informers.clone(),
            queues: self.queues.clone(),
            metrics: self.metrics.clone(),
            now: now.clone(),
            tasks: tasks.clone(),
            stop: stop.clone(),
            root_ca: "ca".into(),
            kinds: fram_controllers::stored_kinds(&self.server.registry.api()),
            custom_kinds: self.custom_kinds.subscribe(),
            undiscovered: self.undiscovered.subscribe(),
            pod_network: Default::default(),
            selection: self.selection.clone(),
            eviction_rates: Default::default(),
            host_path_directories: None,
            legacy_token_clean_up_period: std::time::Duration::from_secs(8760 * 3600),
            load_balancer_pool: "192.0.2.64/28".parse().unwrap(),
        };
        fram_controllers::start(&context);
        let environment = self.server.registry.environment().clone();
        let config = SchedulerConfig {
            name: "default-scheduler".into(),
            events: EventRecorder::start(scheduling.clone(), "default-scheduler", "", now, &tasks, stop.clone()),
            client: scheduling,
            informers,
            now: Arc::new(move || environment.now_text()),
            pod_groups: context.kinds.iter().any(|kind| kind.resource == POD_GROUPS),
            device_taint_rules: context.served("resource.k8s.io", "devicetaintrules"),
        };
        tasks.spawn(Scheduler::new(config).run(stop.clone()));
        self.components = Some(Components { tasks, stop });
    }

    /// Ends controllers and scheduler wherever they are.
    pub(crate) async fn crash(&mut self) {
        let Some(Components { tasks, stop }) = self.components.take() else { return };
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    }
}
