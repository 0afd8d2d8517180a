//! What controllers are given: clients, shared informers, the time, and the owner of their tasks.

use std::borrow::Cow;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use fram_client::controller::Queues;
use fram_client::{Action, Client, Controller, EventRecorder, Resource, SharedInformers};
use fram_machinery::Status;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::{AddressPool, Directories, EvictionRates, Metrics, PodNetwork, Selection};

/// The time of day, handed in so that tests can move it.
pub type Clock = Arc<dyn Fn() -> jiff::Timestamp + Send + Sync>;

/// A kind as controllers that deal with all kinds need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KindInfo {
    pub resource: Resource,
    pub kind: String,
    pub namespaced: bool,
    /// Its objects have owners and dependents, and end with their namespace.
    pub collected: bool,
    /// A CustomResourceDefinition says what it is; without it there are none of its objects.
    pub defined: bool,
}

impl KindInfo {
    pub fn of(kind: &fram_api::Kind) -> Self {
        let text = |key: &fram_machinery::Key| Cow::Owned(key.to_string());
        Self {
            resource: Resource { group: text(&kind.group), version: text(&kind.version), plural: text(&kind.plural) },
            kind: kind.kind.to_string(),
            namespaced: kind.is_namespaced(),
            collected: kind.has_verb("watch") && !kind.is("", "Event"),
            defined: kind.custom.is_some(),
        }
    }
}

/// Every built-in kind that is stored, in its storage version.
pub fn stored_kinds(api: &fram_api::Api) -> Arc<[KindInfo]> {
    let stored = api.kinds().filter(|k| k.custom.is_none() && k.storage && k.has_verb("list") && k.has_verb("delete"));
    stored.map(|kind| KindInfo::of(kind)).collect()
}

#[derive(Clone)]
pub struct Context {
    /// A client as the service account `kube-system/NAME`, under which each controller acts.
    pub clients: Arc<dyn Fn(&str) -> Client + Send + Sync>,
    /// A client as kube-controller-manager itself, for what no controller's service account may.
    pub manager: Client,
    pub informers: SharedInformers,
    /// Where the controllers' queues are counted.
    pub queues: Queues,
    /// What else they count.
    pub metrics: Metrics,
    pub now: Clock,
    pub tasks: TaskTracker,
    pub stop: CancellationToken,
    /// The cluster's CA, as PEM, for the ConfigMap kube-root-ca.crt.
    pub root_ca: Arc<str>,
    /// Every built-in kind that is stored, once.
    pub kinds: Arc<[KindInfo]>,
    /// The kinds of custom resources, as they come and go.
    pub custom_kinds: watch::Receiver<Arc<[KindInfo]>>,
    /// Group versions whose servers do not say which kinds they have.
    pub undiscovered: watch::Receiver<Arc<[String]>>,
    pub pod_network: PodNetwork,
    /// What Services of type LoadBalancer are given addresses of; empty where they get none.
    pub load_balancer_pool: AddressPool,
    /// Which controllers run.
    pub selection: Selection,
    /// How fast pods are evicted from nodes that fail.
    pub eviction_rates: EvictionRates,
    /// How long a token in a Secret that an account was given unasked may go unused before it is marked, and then before it goes.
    pub legacy_token_clean_up_period: Duration,
    /// Where the provisioner `kubernetes.io/host-path` makes its directories; None where there is none.
    pub host_path_directories: Option<Arc<dyn Directories>>,
}

impl Context {
    /// The client of a controller, by the name of its service account.
    pub(crate) fn client(&self, service_account: &str) -> Client {
        (self.clients)(service_account)
    }

    /// A resource in the version in which it is stored; None where it is not served.
    pub fn served(&self, group: &str, plural: &str) -> Option<Resource> {
        let kind = self.kinds.iter().find(|kind| kind.resource.group == group && kind.resource.plural == plural)?;
        Some(kind.resource.clone())
    }

    /// A recorder of events as a controller; `component` is what people see as their source.
    pub(crate) fn recorder(&self, service_account: &str, component: &str) -> EventRecorder {
        EventRecorder::start(self.client(service_account), component, "", self.now.clone(), &self.tasks, self.stop.clone())
    }

    /// Runs a reconciler on the harness until the context stops.
    pub(crate) fn run<T, F>(&self, controller: Controller, reconciler: T, reconcile: impl Fn(Arc<T>, String) -> F + Send + Sync + 'static)
    where
        T: Send + Sync + 'static,
        F: Future<Output = Result<Action, Status>> + Send + 'static,
    {
        self.queues.add(&controller);
        let (reconciler, stop) = (Arc::new(reconciler), self.stop.clone());
        self.tasks.spawn(async move { controller.run(move |key| reconcile(reconciler.clone(), key), stop).await });
    }
}
