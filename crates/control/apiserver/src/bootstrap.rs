//! What a cluster has before anyone does anything: namespaces, default roles and bindings, priority classes, the
//! `kubernetes` Service, the service range, the default StorageClass. What exists already is left as it is.

mod authentication;
mod own_range;
mod policy;
pub(crate) mod stages;
mod token_tracking;

use std::net::Ipv4Addr;
use std::sync::Arc;

use fram_client::local_path;
use fram_machinery::{Reason, Status, Value, object};

use crate::aggregator::local;
use crate::allocate::OWN_RANGES;
use crate::definitions;
use crate::keeping::keep;
use crate::masters;
use crate::registry::{Place, Registry};
use crate::server::Server;
use stages::Stage;

#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    #[error("default policy, line {line}: {message}")]
    Policy { line: usize, message: String },
    #[error("cannot create {what}: {status}")]
    Create { what: String, status: Status },
    #[error("cannot take away what is no default any more, {what}: {status}")]
    Retire { what: String, status: Status },
    #[error(
        "the Service default/kubernetes has the address {stored}, which pods call, and with --service-cluster-ip-range {told} it would be {first}: start with the range that the cluster was made with, and add others as ServiceCIDRs. To move the cluster to {told}, make a ServiceCIDR of it first"
    )]
    OtherRange { stored: String, told: String, first: String },
    #[error(
        "the cluster's own Services were being moved out of {left}, and no ServiceCIDR besides gives addresses of {told}: start with --service-cluster-ip-range of the range that they move to, of which there is a ServiceCIDR"
    )]
    LeftRange { left: String, told: String },
    #[error(
        "the cluster cannot move to {told} while other servers are there, by the addresses {others}: stop them first. One that could not say that it ends counts for some seconds more"
    )]
    OthersServe { told: String, others: String },
    #[error(
        "the cluster cannot move to {told}: its Service {wanted_by} would get {address}, which the Service {holder} has. Delete that one, or have it take another address"
    )]
    AddressTaken { told: String, address: String, wanted_by: String, holder: String },
    #[error("cannot move the Service default/kubernetes, or look at it: {0}")]
    OwnService(Status),
    #[error("cannot read roles and bindings: {0}")]
    Rbac(Status),
    #[error("cannot read custom resource definitions: {0}")]
    Definitions(Status),
    #[error("cannot read webhook configurations: {0}")]
    Webhooks(Status),
    #[error("cannot set up flow control: {0}")]
    FlowControl(Status),
    #[error("cannot read APIServices: {0}")]
    Services(Status),
    #[error("reading the admission policies failed: {0}")]
    Policies(Status),
}

/// Facts that the first objects carry.
pub struct Cluster {
    pub ca_pem: String,
    /// Whose client certificate speaks for users before servers behind the aggregator.
    pub front_proxy_ca_pem: String,
    /// Where clients reach this server.
    pub address: Ipv4Addr,
    pub port: u16,
    pub cluster_domain: String,
    /// Other servers may use the same store.
    pub shared: bool,
}

/// How long a server that ends tries to tell the others.
const LEAVING: std::time::Duration = std::time::Duration::from_secs(2);

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

impl Server {
    /// Makes what is missing and reads the roles; afterwards the server is ready.
    pub async fn bootstrap(&self, cluster: &Cluster) -> Result<(), BootstrapError> {
        own_range::take(&self.registry, cluster).await?;
        for name in NAMESPACES {
            ensure(&self.registry, object!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } })).await?;
        }
        let mut objects = policy::default_objects(&self.registry.api())?;
        objects.extend(system_objects(&self.registry, cluster));
        objects.extend(local::wanted(&self.registry.api()).values().map(local::Local::object));
        let mut tasks = tokio::task::JoinSet::new();
        for object in objects {
            let registry = self.registry.clone();
            tasks.spawn(async move { ensure_whole(&registry, object).await });
        }
        while let Some(done) = tasks.join_next().await {
            done.map_err(|e| BootstrapError::Create { what: "the first objects".into(), status: Status::internal(e) })??;
        }
        for (plural, name) in policy::RETIRED {
            retire(&self.registry, plural, name).await?;
        }
        self.stages.reach(Stage::Objects);
        self.authorizer.rbac().refresh(&self.registry).await.map_err(BootstrapError::Rbac)?;
        self.stages.reach(Stage::Rights);
        self.publish(cluster).await?;
        self.stages.reach(Stage::Published);
        self.serve_definitions().await.map_err(BootstrapError::Definitions)?;
        self.stages.reach(Stage::Definitions);
        self.load_services().await.map_err(BootstrapError::Services)?;
        self.stages.reach(Stage::Services);
        if let Some(webhooks) = &self.registry.admission.webhooks {
            webhooks.refresh(&self.registry).await.map_err(BootstrapError::Webhooks)?;
        }
        self.registry.admission.policies.refresh(&self.registry).await.map_err(BootstrapError::Policies)?;
        self.stages.reach(Stage::Admission);
        self.start_flow_control().await.map_err(BootstrapError::FlowControl)?;
        self.stages.reach(Stage::Flow);
        Ok(())
    }

    /// Says in ConfigMaps by what servers behind the aggregator know this one, and since when the use of Secrets' tokens is noted.
    async fn publish(&self, cluster: &Cluster) -> Result<(), BootstrapError> {
        let now = self.registry.environment.now();
        let authentication = |current: Option<&Value>| authentication::data(current, cluster);
        self.publish_in(authentication::NAMESPACE, authentication::NAME, authentication).await?;
        self.publish_in(token_tracking::NAMESPACE, token_tracking::NAME, |current| token_tracking::data(current, now)).await
    }

    /// Keeps a ConfigMap at the data that `data` makes of what it says now.
    async fn publish_in(&self, namespace: &str, name: &str, data: impl Fn(Option<&Value>) -> Value + Sync) -> Result<(), BootstrapError> {
        let fail = |status| BootstrapError::Create { what: format!("ConfigMap {namespace}/{name}"), status };
        let served = self.registry.served("", "v1", "configmaps").ok_or_else(|| fail(Status::no_such_path()))?;
        let place = Place { served, namespace: namespace.into(), name: name.into() };
        match self.registry.get_object(&place).await {
            Err(status) if status.is(Reason::NotFound) => {
                let object = object!({ "apiVersion": "v1", "kind": "ConfigMap",
                    "metadata": { "name": name, "namespace": namespace }, "data": (data(None)) });
                ensure(&self.registry, object).await
            }
            Err(status) => Err(fail(status)),
            Ok(current) if current.get("data") == Some(&data(Some(&current))) => Ok(()),
            Ok(_) => {
                let decide = |current: &Value| {
                    let mut next = current.clone();
                    next.set(&["data"], data(Some(current)));
                    Ok(next)
                };
                let written = self.registry.update(&place, "", &definitions::write(), decide).await;
                definitions::settled(written.map(drop)).map_err(fail)
            }
        }
    }

    /// Makes the `kubernetes` Service, the ServiceCIDR of that name and what other servers know this one by anew when someone deletes
    /// them, and keeps its endpoints true to the servers that are there, until `stop`.
    pub async fn keep_own_service(self: Arc<Self>, cluster: Arc<Cluster>, stop: tokio_util::sync::CancellationToken) {
        let state = (self.clone(), cluster.clone());
        keep(stop, "keeping the kubernetes Service", state, |(server, cluster)| {
            Box::pin(async { server.keep_own_service_once(cluster).await.map_err(Status::internal) })
        })
        .await;
        // Others need not wait then; they find out where they cannot be told.
        if cluster.shared && tokio::time::timeout(LEAVING, masters::leave(&self.registry, &cluster)).await.is_err() {
            tracing::debug!("the other servers could not be told of the end");
        }
    }

    async fn keep_own_service_once(&self, cluster: &Cluster) -> Result<(), BootstrapError> {
        let fail = |status| BootstrapError::Create { what: "the kubernetes Service".into(), status };
        let registry = &self.registry;
        let own = |o: &Value| fram_machinery::meta::key(o) == "default/kubernetes" || o.str_at(&["kind"]) == "ServiceCIDR";
        let objects: Vec<Value> = system_objects(registry, cluster).into_iter().filter(own).collect();
        let store = &registry.store;
        let revision = store.revision().await.map_err(|e| fail(Status::internal(e)))?;
        let mut watches = Vec::new();
        let map = |namespace: &str, name: &str| format!("core/configmaps/{namespace}/{name}");
        let maps = [map(authentication::NAMESPACE, authentication::NAME), map(token_tracking::NAMESPACE, token_tracking::NAME)];
        let own = ["core/services", "core/endpoints", "discovery.k8s.io/endpointslices"].map(|c| format!("{c}/default/kubernetes"));
        let range = format!("networking.k8s.io/servicecidrs/{OWN_RANGES}");
        let keys = own.iter().chain(&maps).chain([&range]).map(|key| format!("{}{key}", registry.prefix));
        for key in keys.chain([masters::prefix(registry)]) {
            watches.push(store.watch(&key, revision).await.map_err(|e| fail(Status::internal(e)))?);
        }
        let mut renewal = tokio::time::interval(masters::INTERVAL);
        if cluster.shared {
            renewal.tick().await;
            masters::renew(registry, cluster).await.map_err(fail)?;
        }
        loop {
            let is_others = own_range::is_others(registry, cluster).await.map_err(fail)?;
            for object in objects.iter().filter(|object| !(is_others && is_of_ranges(object))) {
                ensure(registry, object.clone()).await?;
            }
            self.correct_endpoints(cluster).await.map_err(fail)?;
            self.publish(cluster).await?;
            let changed = futures_util::future::select_all(watches.iter_mut().map(|w| Box::pin(w.next())));
            tokio::select! {
                changed = changed => drop(changed.0.map_err(|e| fail(Status::internal(e)))?),
                _ = renewal.tick(), if cluster.shared => masters::renew(registry, cluster).await.map_err(fail)?,
            }
        }
    }

    /// Has the Service lead to the servers that are there.
    async fn correct_endpoints(&self, cluster: &Cluster) -> Result<(), Status> {
        let registry = &self.registry;
        let addresses = masters::addresses(&registry.snapshot().await?, &masters::prefix(registry), cluster);
        let port = i64::from(cluster.port);
        let kinds = [
            ("", "endpoints", masters::endpoints(&addresses, port)),
            ("discovery.k8s.io", "endpointslices", masters::slice(&addresses, port)),
        ];
        for (group, plural, wanted) in kinds {
            let served = registry.served(group, "v1", plural).ok_or_else(Status::no_such_path)?;
            let place = Place { served, namespace: "default".into(), name: "kubernetes".into() };
            if masters::corrected(&registry.get_object(&place).await?, &wanted).is_none() {
                continue;
            }
            let decide = |current: &Value| Ok(masters::corrected(current, &wanted).unwrap_or_else(|| current.clone()));
            let written = registry.update(&place, "", &definitions::write(), decide).await;
            // Another server that was faster saw the same.
            definitions::settled(written.map(drop))?;
        }
        Ok(())
    }

    /// Keeps the index of roles and bindings true until `stop`.
    pub async fn follow_roles(self: Arc<Self>, stop: tokio_util::sync::CancellationToken) {
        keep(stop, "following roles and bindings", self, |server| Box::pin(server.follow_roles_once())).await;
    }

    /// Keeps the admission webhooks true to their configurations until `stop`.
    pub async fn follow_webhooks(self: Arc<Self>, stop: tokio_util::sync::CancellationToken) {
        let Some(webhooks) = self.registry.admission.webhooks.clone() else { return };
        let state = (webhooks, self.registry.clone());
        keep(stop, "following webhook configurations", state, |(webhooks, registry)| Box::pin(webhooks.follow(registry))).await;
    }

    /// Keeps the admission policies true to their configurations, and their status, until `stop`.
    pub async fn follow_policies(self: Arc<Self>, stop: tokio_util::sync::CancellationToken) {
        let policies = self.registry.admission.policies.clone();
        let state = (policies, self.registry.clone());
        keep(stop, "following admission policies", state, |(policies, registry)| Box::pin(policies.follow(registry))).await;
    }

    async fn follow_roles_once(&self) -> Result<(), Status> {
        let prefix = format!("{}rbac.authorization.k8s.io/", self.registry.prefix);
        let revision = self.registry.store.revision().await.map_err(Status::internal)?;
        let mut watch = self.registry.store.watch(&prefix, revision).await.map_err(Status::internal)?;
        loop {
            self.authorizer.rbac().refresh(&self.registry).await?;
            watch.next().await.map_err(Status::internal)?;
        }
    }
}

/// What says of which range the cluster's Services are.
fn is_of_ranges(object: &Value) -> bool {
    matches!(object.str_at(&["kind"]), "Service" | "ServiceCIDR")
}

/// Makes an object, or adds to what is there already what it lacks.
async fn ensure_whole(registry: &Arc<Registry>, object: Value) -> Result<(), BootstrapError> {
    ensure(registry, object.clone()).await?;
    let completed: fn(&Value, &Value) -> Option<Value> = match object.str_at(&["kind"]) {
        "ServiceCIDR" => with_second_family,
        _ if object.str_at(&["apiVersion"]).starts_with(policy::GROUP) => policy::completed,
        _ => return Ok(()),
    };
    let fail = |status| refused(&object, status);
    let place = place_of(registry, &object).map_err(fail)?;
    if completed(&registry.get_object(&place).await.map_err(fail)?, &object).is_none() {
        return Ok(());
    }
    let decide = |current: &Value| Ok(completed(current, &object).unwrap_or_else(|| current.clone()));
    let written = registry.update(&place, "", &definitions::write(), decide).await;
    definitions::settled(written.map(drop)).map_err(fail)
}

/// The ServiceCIDR of the server's own ranges, in a cluster that had one and has two now. Other differences stay, and are told.
fn with_second_family(current: &Value, wanted: &Value) -> Option<Value> {
    let (had, has) = (current.list_at(&["spec", "cidrs"]), wanted.list_at(&["spec", "cidrs"]));
    if had != has && !(had.len() == 1 && has.starts_with(had)) {
        tracing::warn!(?had, ?has, "the default ServiceCIDR is not what the server is told by --service-cluster-ip-range");
        return None;
    }
    (had != has).then(|| {
        let mut grown = current.clone();
        grown.set(&["spec", "cidrs"], has.to_vec());
        grown
    })
}

/// Takes away a role or binding that was a default once.
async fn retire(registry: &Arc<Registry>, plural: &str, name: &str) -> Result<(), BootstrapError> {
    let fail = |status| BootstrapError::Retire { what: format!("{plural} {name}"), status };
    let served = registry.served(policy::GROUP, "v1", plural).ok_or_else(|| fail(Status::no_such_path()))?;
    let place = Place { served, namespace: String::new(), name: name.into() };
    match registry.get_object(&place).await {
        Err(status) if status.is(Reason::NotFound) => Ok(()),
        Err(status) => Err(fail(status)),
        Ok(object) if !policy::is_default(&object) => Ok(()),
        Ok(_) => {
            let deleted = registry.delete(&place, &Default::default(), &definitions::write()).await;
            definitions::settled(deleted.map(drop)).map_err(fail)
        }
    }
}

/// Creates an object unless it is there.
pub(crate) async fn ensure(registry: &Arc<Registry>, object: Value) -> Result<(), BootstrapError> {
    let place = place_of(registry, &object).map_err(|status| refused(&object, status))?;
    if registry.get(&place).await.is_ok() {
        return Ok(());
    }
    match registry.create(&place, object.clone(), &definitions::write()).await {
        Ok(_) => Ok(()),
        Err(status) if status.is(Reason::AlreadyExists) => Ok(()),
        Err(status) => Err(refused(&object, status)),
    }
}

fn refused(object: &Value, status: Status) -> BootstrapError {
    BootstrapError::Create { what: format!("{} {}", object.str_at(&["kind"]), fram_machinery::meta::key(object)), status }
}

/// Where an object belongs.
fn place_of(registry: &Registry, object: &Value) -> Result<Place, Status> {
    let (group, version) = object.str_at(&["apiVersion"]).rsplit_once('/').unwrap_or(("", object.str_at(&["apiVersion"])));
    let api = registry.api();
    let kind = api.kind(group, version, object.str_at(&["kind"])).ok_or_else(Status::no_such_path)?;
    let served = registry.served(group, version, &kind.plural).ok_or_else(Status::no_such_path)?;
    let (namespace, name) = (fram_machinery::meta::namespace(object).to_string(), fram_machinery::meta::name(object).to_string());
    Ok(Place { served, namespace, name })
}

fn system_objects(registry: &Registry, cluster: &Cluster) -> Vec<Value> {
    let allocators = &registry.allocators;
    let kubernetes_ip = allocators.service_ip(1).to_string();
    let address = [cluster.address.to_string()];
    let port = i64::from(cluster.port);
    let dns_ip = allocators.service_ip(10).to_string();
    let priority = |name: &str, value: i64, what: &str| {
        object!({ "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": { "name": name },
            "value": value, "description": what, "preemptionPolicy": "PreemptLowerPriority" })
    };
    vec![
        priority(
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
        priority("system-node-critical", 2_000_001_000, "Used for system critical pods that must not be moved from their current node."),
        object!({ "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": { "name": OWN_RANGES },
            "spec": { "cidrs": (Value::from(allocators.service_cidrs().into_iter().map(Value::from).collect::<Vec<_>>())) } }),
        object!({ "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": "kubernetes", "namespace": "default", "labels": { "component": "apiserver", "provider": "kubernetes" } },
            "spec": { "clusterIP": kubernetes_ip, "type": "ClusterIP", "sessionAffinity": "None",
                "ports": [{ "name": "https", "port": 443, "protocol": "TCP", "targetPort": port }] } }),
        masters::endpoints(&address, port),
        masters::slice(&address, port),
        object!({ "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": "kube-dns", "namespace": "kube-system",
                "labels": { "k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS" } },
            "spec": { "clusterIP": dns_ip, "type": "ClusterIP",
                "ports": [{ "name": "dns", "port": 53, "protocol": "UDP" }, { "name": "dns-tcp", "port": 53, "protocol": "TCP" }] } }),
        cluster_info(cluster),
        object!({ "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
            "metadata": { "name": (local_path::CLASS), "annotations": { "storageclass.kubernetes.io/is-default-class": "true" } },
            "provisioner": (local_path::PROVISIONER), "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer",
            "allowVolumeExpansion": true }),
    ]
}

/// What a machine that wants to join reads before it trusts anyone: a kubeconfig without credentials, in kubeadm's place.
fn cluster_info(cluster: &Cluster) -> Value {
    let ca = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &cluster.ca_pem);
    let (address, port) = (cluster.address, cluster.port);
    let kubeconfig = format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: \"\"\n  cluster:\n    server: https://{address}:{port}\n    certificate-authority-data: {ca}\ncontexts: []\ncurrent-context: \"\"\nusers: []\n"
    );
    object!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "cluster-info", "namespace": "kube-public" },
        "data": { "kubeconfig": kubeconfig } })
}
