//! The control plane: store, keys, API server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use fram_api::Api;
use fram_apiserver::admission::{Chain, Webhooks};
use fram_apiserver::allocate::Allocators;
use fram_apiserver::bootstrap::Cluster;
use fram_apiserver::http_api::Listener;
use fram_apiserver::nodes::Nodes;
use fram_apiserver::pki::{Identity, Pki, write_private};
use fram_apiserver::registry::Registry;
use fram_apiserver::token::{DEFAULT_ISSUER, Tokens};
use fram_apiserver::{AggregatedKind, Environment, InProcess, Server, User};
use fram_client::{Client, EventRecorder, Resource, SharedInformers};
use fram_controllers::KindInfo;
use fram_scheduler::{Scheduler, SchedulerConfig};
use fram_store::{Embedded, Options};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api_flags::ApiFlags;
use crate::desk::Desk;
use crate::signer::{CERTIFICATE_SIGNING_REQUESTS, Signer};

/// Every key of the cluster starts with it.
const PREFIX: &str = "/registry/";

pub(crate) async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

pub(crate) struct ControlPlane {
    pub(crate) server: Arc<Server>,
    pub(crate) pki: Arc<Pki>,
    identity: Identity,
    url: String,
    pub(crate) cluster: Arc<Cluster>,
    /// What posts records to the audit webhook.
    pub(crate) audit_sender: Option<fram_audit::Sender>,
    pub(crate) encryption: Arc<fram_encryption::Encryption>,
}

impl ControlPlane {
    /// Opens the data directory; nothing is served on the socket yet.
    pub(crate) async fn open(
        data: &Path,
        flags: &ApiFlags,
        socket: TcpListener,
        node_ip: IpAddr,
        nodes: Arc<dyn Nodes>,
    ) -> anyhow::Result<(Self, Listener)> {
        let listen = socket.local_addr().context("the socket has no address")?;
        let environment = Environment::system();
        let (audit, audit_sender) = flags.auditor(&environment)?;
        let encryption = flags.encryption(PREFIX)?;
        let store = Arc::new(Embedded::open(Options { cipher: Some(encryption.clone()), ..Options::new(data.join("store")) })?);
        let rewritten = Arc::downgrade(&store);
        encryption.on_change(Arc::new(move || {
            if let Some(store) = rewritten.upgrade() {
                store.rewrite();
            }
        }));
        let pki = Arc::new(Pki::open(&data.join("pki"))?);
        let api = Arc::new(Api::builtin()?);
        let allocators = Allocators::default();
        let address = match listen.ip() {
            IpAddr::V4(ip) if !ip.is_unspecified() => ip,
            _ => Ipv4Addr::LOCALHOST,
        };
        let mut names = server_names(&allocators, address);
        names.push(node_ip.to_string());
        names.dedup();
        let identity = pki.server("kube-apiserver", &names)?;
        let listener = Listener::new(socket, pki.server_config(&identity)?);
        let port = listen.port();
        let admission = Chain::standard().with_webhooks(Webhooks::new(nodes.clone()));
        let registry = Arc::new(Registry::new(api, store, PREFIX, environment, admission, allocators));
        let tokens = Tokens::new(registry.clone(), DEFAULT_ISSUER, &pki.service_account_key)?;
        let server = Server::new(registry, tokens, nodes).with_front_proxy(&pki.front_proxy()?)?;
        let health = encryption.clone();
        let server = flags.limited(server).with_checks(Arc::new(move || health.health()));
        let server = Arc::new(match audit {
            Some(audit) => server.with_audit(audit),
            None => server,
        });
        // The Service's endpoint must be an address that is not loopback; see the validation of Endpoints.
        let advertised = match node_ip {
            IpAddr::V4(ip) if address.is_loopback() => ip,
            _ => address,
        };
        let cluster = Arc::new(Cluster {
            ca_pem: pki.ca_pem.clone(),
            front_proxy_ca_pem: pki.front_proxy_ca_pem.clone(),
            address: advertised,
            port,
            cluster_domain: "cluster.local".into(),
        });
        Ok((Self { server, pki, identity, url: format!("https://{address}:{port}"), cluster, audit_sender, encryption }, listener))
    }

    /// Makes the first objects.
    pub(crate) async fn bootstrap(&self) -> anyhow::Result<()> {
        Ok(self.server.bootstrap(&self.cluster).await?)
    }

    /// The URL at which clients reach the server.
    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// Serves the same API at another address.
    pub(crate) async fn listen_also(&self, address: SocketAddr) -> anyhow::Result<Listener> {
        let tls = self.pki.server_config(&self.identity)?;
        Ok(Listener::new(bind(address).await?, tls))
    }

    /// Writes the administrator's kubeconfig.
    pub(crate) fn write_kubeconfig(&self, path: &Path) -> anyhow::Result<()> {
        let identity = self.pki.client("kubernetes-admin", &["system:masters"])?;
        let text = self.pki.kubeconfig(&self.url(), "kubernetes-admin", &identity);
        Ok(write_private(path, &text)?)
    }

    /// A client in process for a component.
    pub(crate) fn client(&self, user: User, field_manager: &str) -> Client {
        Client::new(Arc::new(InProcess::new(self.server.clone(), user)), field_manager)
    }
}

fn server_names(allocators: &Allocators, address: Ipv4Addr) -> Vec<String> {
    let mut names: Vec<String> =
        ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"]
            .into_iter()
            .map(String::from)
            .collect();
    names.extend([allocators.service_ip(1).to_string(), "127.0.0.1".into()]);
    if !address.is_loopback() {
        names.push(address.to_string());
    }
    names
}

/// Starts scheduler and controllers.
pub(crate) fn start_components(
    control_plane: &ControlPlane,
    desk: &Desk,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> SharedInformers {
    let user = |name: &str| User::authenticated(name, &[]);
    let manager = control_plane.client(user("system:kube-controller-manager"), "kube-controller-manager");
    let informers = SharedInformers::new(manager, tasks.clone(), stop.clone());
    let environment = control_plane.server.registry.environment().clone();
    let now = {
        let environment = environment.clone();
        Arc::new(move || environment.now())
    };
    let server = control_plane.server.clone();
    let clients = move |name: &str| {
        let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system"];
        let user = User::authenticated(&format!("system:serviceaccount:kube-system:{name}"), &groups);
        Client::new(Arc::new(InProcess::new(server.clone(), user)), name)
    };
    // Each component has tasks of its own, so that one that has ended is seen to have.
    let (controllers, scheduling, signing, aggregating) = (TaskTracker::new(), TaskTracker::new(), TaskTracker::new(), TaskTracker::new());
    let context = fram_controllers::Context {
        clients: Arc::new(clients),
        informers: informers.clone(),
        now,
        tasks: controllers.clone(),
        stop: stop.clone(),
        root_ca: control_plane.pki.ca_pem.as_str().into(),
        kinds: stored_kinds(&control_plane.server.registry.api()),
        custom_kinds: follow_custom_kinds(&control_plane.server, tasks, stop),
        pod_network: Default::default(),
    };
    fram_controllers::start(&context);
    desk.started("kube-controller-manager", &controllers);
    let client = control_plane.client(user("system:kube-scheduler"), "kube-scheduler");
    let scheduler = Scheduler::new(SchedulerConfig {
        name: "default-scheduler".into(),
        events: EventRecorder::start(client.clone(), "default-scheduler", "", context.now.clone(), &scheduling, stop.clone()),
        client,
        informers: informers.clone(),
        now: Arc::new(move || environment.now_text()),
    });
    scheduling.spawn(scheduler.run(stop.clone()));
    desk.started("kube-scheduler", &scheduling);
    control_plane.server.start_aggregation(&informers, &aggregating, stop);
    desk.started("kube-aggregator", &aggregating);
    let environment = control_plane.server.registry.environment().clone();
    let signer = Signer {
        client: (context.clients)("certificate-controller"),
        requests: informers.get(&CERTIFICATE_SIGNING_REQUESTS),
        pki: control_plane.pki.clone(),
        now: Arc::new(move || environment.now_text()),
    };
    signing.spawn(signer.run(stop.clone()));
    desk.started("certificate-signer", &signing);
    // Whoever waits for all tasks waits for these.
    for component in [controllers, scheduling, signing, aggregating] {
        let stop = stop.clone();
        tasks.spawn(async move {
            stop.cancelled().await;
            component.close();
            component.wait().await;
        });
    }
    informers
}

fn kind_info(kind: &Arc<fram_api::Kind>) -> KindInfo {
    let text = |key: &fram_machinery::Key| std::borrow::Cow::Owned(key.to_string());
    KindInfo {
        resource: Resource { group: text(&kind.group), version: text(&kind.version), plural: text(&kind.plural) },
        kind: kind.kind.to_string(),
        namespaced: kind.is_namespaced(),
        collected: kind.has_verb("watch") && !kind.is("", "Event"),
    }
}

/// Every built-in kind that is stored, in its storage version.
fn stored_kinds(api: &Api) -> Arc<[KindInfo]> {
    let stored = api.kinds().filter(|k| k.custom.is_none() && k.storage && k.has_verb("list") && k.has_verb("delete"));
    stored.map(kind_info).collect()
}

/// Every custom resource, in its storage version or else in one that is served, and what other servers keep.
fn custom_kinds(api: &Api, aggregated: &[AggregatedKind]) -> Arc<[KindInfo]> {
    let shown = |c: &Arc<fram_api::CustomResource>| c.served.iter().find(|k| k.storage).or(c.served.first()).map(kind_info);
    let elsewhere = |kind: &AggregatedKind| KindInfo {
        resource: kind.resource.clone(),
        kind: kind.kind.clone(),
        namespaced: kind.namespaced,
        collected: true,
    };
    api.custom().filter_map(shown).chain(aggregated.iter().map(elsewhere)).collect()
}

/// Tells the controllers which custom resources there are.
fn follow_custom_kinds(server: &Server, tasks: &TaskTracker, stop: &CancellationToken) -> watch::Receiver<Arc<[KindInfo]>> {
    let (mut api, mut aggregated) = (server.registry.follow_api(), server.follow_aggregated());
    let (sender, receiver) = watch::channel(custom_kinds(&api.borrow_and_update(), &aggregated.borrow_and_update()));
    let stop = stop.clone();
    tasks.spawn(stop.run_until_cancelled_owned(async move {
        loop {
            let changed = tokio::select! {
                changed = api.changed() => changed,
                changed = aggregated.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
            let kinds = custom_kinds(&api.borrow_and_update(), &aggregated.borrow_and_update());
            sender.send_if_modified(|known| {
                *known != kinds && {
                    *known = kinds;
                    true
                }
            });
        }
    }));
    receiver
}
