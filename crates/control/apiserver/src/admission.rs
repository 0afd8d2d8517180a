//! The in-process admission chain: each plugin may change an object before it is checked, and refuse it after.

mod authorizer;
mod certificates;
mod choice;
mod classes;
mod demanded;
mod escalation;
mod limit_ranger;
mod namespace;
mod node_restriction;
mod nodes;
mod owners;
mod pod_groups;
mod pod_security;
mod pods;
mod policy;
mod references;
mod restrictions;
mod rules;
mod service_account;
mod storage;
mod times;
mod trust;
mod webhook;

use std::sync::Arc;
use std::time::Instant;

use fram_api::Kind;
use fram_machinery::{Status, Value};
use fram_store::Entry;
use parking_lot::Mutex;

use crate::authorize::Rbac;
use crate::registry::{Place, Record, Registry, Write};
use crate::user::User;

pub use choice::{Choice, ChoiceError};
pub use policy::Policies;
use times::{AllTimes, Step, Times};
pub use webhook::Webhooks;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

/// What is asked, as plugins see it.
pub struct Request<'a> {
    pub registry: &'a Registry,
    pub place: &'a Place,
    pub subresource: &'a str,
    pub operation: Operation,
    pub user: &'a User,
    pub dry_run: bool,
    /// Whether the object is yet to get its name: that of the place is what it will begin with.
    pub(crate) is_unnamed: bool,
    /// What is to be said to the client though the request is admitted.
    warnings: Mutex<Vec<String>>,
}

impl<'a> Request<'a> {
    pub fn new(registry: &'a Registry, place: &'a Place, subresource: &'a str, operation: Operation, write: &'a Write) -> Self {
        let (user, dry_run) = (&write.user, write.dry_run);
        Self { registry, place, subresource, operation, user, dry_run, is_unnamed: false, warnings: Mutex::default() }
    }

    /// Adds a warning for the client.
    pub fn warn(&self, text: &str) {
        self.warnings.lock().push(text.into());
    }

    pub(crate) fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut self.warnings.lock())
    }

    /// The kind as which the object is stored, and admitted.
    pub fn stored_kind(&self) -> &Kind {
        &self.place.served.stored
    }

    /// Whether the request is about this kind itself, not a subresource of it.
    pub fn is_about(&self, group: &str, kind: &str) -> bool {
        self.stored_kind().is(group, kind) && self.subresource.is_empty()
    }

    /// The name of the object, as far as it has one yet.
    pub fn name(&self) -> &str {
        if self.is_unnamed { "" } else { &self.place.name }
    }

    /// Whether an object of this kind is to be made.
    fn creates(&self, group: &str, kind: &str) -> bool {
        self.operation == Operation::Create && self.is_about(group, kind)
    }

    /// An object of another kind, or None where there is none.
    pub async fn find(&self, group: &str, version: &str, plural: &str, namespace: &str, name: &str) -> Result<Option<Value>, Status> {
        let Some(served) = self.registry.served(group, version, plural) else { return Ok(None) };
        let place = Place { served, namespace: namespace.into(), name: name.into() };
        let Some(entry) = self.entry(&place).await? else { return Ok(None) };
        self.registry.consult(&place.served, &entry).await.map(Some)
    }

    /// The labels of these keys that a node has, without a look at the rest of it; None where there is no such node.
    async fn labels_of_node<'k>(&self, name: &str, keys: &[&'k str]) -> Result<Option<Vec<(&'k str, String)>>, Status> {
        let Some(served) = self.registry.served("", "v1", "nodes") else { return Ok(None) };
        let place = Place { served, namespace: String::new(), name: name.into() };
        let Some(entry) = self.entry(&place).await? else { return Ok(None) };
        let record = Record::parse(&entry.value).map_err(Status::internal)?;
        Ok(Some(keys.iter().filter_map(|key| Some((*key, record.label(key)?.to_string()))).collect()))
    }

    async fn entry(&self, place: &Place) -> Result<Option<Arc<Entry>>, Status> {
        match self.registry.get(place).await {
            Ok(entry) => Ok(Some(entry)),
            Err(status) if status.is(fram_machinery::Reason::NotFound) => Ok(None),
            Err(status) => Err(status),
        }
    }

    /// What changes from now on among the objects of another kind in a namespace.
    pub(crate) async fn changes(&self, group: &str, version: &str, plural: &str, namespace: &str) -> Result<fram_store::Watch, Status> {
        let served = self.registry.served(group, version, plural).ok_or_else(Status::no_such_path)?;
        let revision = self.registry.store.revision().await.map_err(Status::internal)?;
        let prefix = self.registry.collection_prefix(&served.stored, namespace);
        self.registry.store.watch(&prefix, revision).await.map_err(Status::internal)
    }

    /// All objects of another kind in a namespace.
    pub async fn list(&self, group: &str, version: &str, plural: &str, namespace: &str) -> Result<Vec<Value>, Status> {
        let Some(served) = self.registry.served(group, version, plural) else { return Ok(Vec::new()) };
        let place = Place { served, namespace: namespace.into(), name: String::new() };
        let listing = self.registry.list(&place, &Default::default()).await?;
        if listing.items.len() > FEW {
            return listing.items.iter().map(|entry| self.registry.decode(&place.served, entry)).collect();
        }
        let mut objects = Vec::with_capacity(listing.items.len());
        for entry in &listing.items {
            objects.push(self.registry.consult(&place.served, entry).await?);
        }
        Ok(objects)
    }
}

/// So many objects of a list are kept for whoever asks for it next: more would drive out all else.
const FEW: usize = 16;

const GROUP: &str = "admissionregistration.k8s.io";

/// All objects of a kind by which admission is configured, in the order of their names.
async fn configurations(registry: &Registry, plural: &str) -> Result<Vec<Value>, Status> {
    let Some(served) = registry.served(GROUP, "v1", plural) else { return Ok(Vec::new()) };
    let place = Place { served, namespace: String::new(), name: String::new() };
    let listing = registry.list(&place, &Default::default()).await?;
    listing.items.iter().map(|entry| registry.decode(&place.served, entry)).collect()
}

/// The changes of some kinds by which admission is configured.
struct Changes {
    watches: Vec<fram_store::Watch>,
}

impl Changes {
    async fn of(registry: &Registry, plurals: &[&str]) -> Result<Self, Status> {
        let revision = registry.store.revision().await.map_err(Status::internal)?;
        let mut watches = Vec::new();
        for plural in plurals {
            let prefix = format!("{}{GROUP}/{plural}/", registry.prefix);
            watches.push(registry.store.watch(&prefix, revision).await.map_err(Status::internal)?);
        }
        Ok(Self { watches })
    }

    /// Waits until something changed.
    async fn next(&mut self) -> Result<(), Status> {
        let changed = self.watches.iter_mut().map(|w| Box::pin(w.next()));
        futures_util::future::select_all(changed).await.0.map(drop).map_err(Status::internal)
    }
}

/// One admission plugin. `object` is null for deletions.
#[async_trait::async_trait]
pub trait Plugin: Send + Sync {
    /// Its name, which is upstream's.
    fn name(&self) -> &'static str;

    /// Whether it may have to do with a request: of others it is told nothing.
    fn handles(&self, request: &Request<'_>) -> bool;

    async fn admit(&self, _request: &Request<'_>, object: Value, _old: Option<&Value>) -> Result<Value, Status> {
        Ok(object)
    }

    async fn validate(&self, _request: &Request<'_>, _object: Option<&Value>, _old: Option<&Value>) -> Result<(), Status> {
        Ok(())
    }
}

/// The plugins in the order in which they run.
#[derive(Clone)]
pub struct Chain {
    plugins: Vec<(Arc<dyn Plugin>, Arc<Times>)>,
    /// Also of what stands elsewhere in the server.
    choice: Choice,
    pub(crate) times: AllTimes,
    beside: Beside,
    /// After all others, as upstream orders them.
    pub(crate) webhooks: Option<Arc<Webhooks>>,
    /// Between the plugins and the webhooks, in both halves of the chain.
    pub(crate) policies: Arc<Policies>,
    /// Who holds which rights: the authorizer's own index.
    pub(crate) rbac: Arc<Rbac>,
}

/// How long what stands beside the plugins takes, under the names that upstream's have.
#[derive(Clone)]
struct Beside {
    mutating_policies: Arc<Times>,
    mutating_webhooks: Arc<Times>,
    validating_policies: Arc<Times>,
    validating_webhooks: Arc<Times>,
}

impl Beside {
    fn of(times: &AllTimes) -> Self {
        Self {
            mutating_policies: times.plugin("MutatingAdmissionPolicy"),
            mutating_webhooks: times.plugin("MutatingAdmissionWebhook"),
            validating_policies: times.plugin("ValidatingAdmissionPolicy"),
            validating_webhooks: times.plugin("ValidatingAdmissionWebhook"),
        }
    }
}

/// Who has changed an object in one request, and how each left it: what changes it later may concern them again.
#[derive(Default)]
pub(crate) struct Round {
    again: bool,
    seen: Vec<(String, Value)>,
}

impl Round {
    /// Whether one of that name is to be asked about an object: in a later round only if it was asked, wants to be asked
    /// again, and the object is not what it left.
    fn asks(&self, name: &str, reinvoked: bool, object: &Value) -> bool {
        !self.again || self.seen.iter().any(|(n, left)| n == name && reinvoked && left != object)
    }

    fn is_again(&self) -> bool {
        self.again
    }

    fn saw(&mut self, name: &str, object: &Value) {
        match self.seen.iter_mut().find(|(n, _)| n == name) {
            Some((_, left)) => *left = object.clone(),
            None => self.seen.push((name.into(), object.clone())),
        }
    }
}

impl Chain {
    /// The plugins that run unasked.
    pub fn standard() -> Self {
        Self::chosen(Choice::default())
    }

    /// The chosen ones in upstream's recommended order.
    pub fn chosen(choice: Choice) -> Self {
        let rbac = Arc::<Rbac>::default();
        let plugins: Vec<Arc<dyn Plugin>> = vec![
            Arc::new(demanded::AlwaysAdmit),
            Arc::new(namespace::NamespaceAutoProvision),
            Arc::new(namespace::NamespaceLifecycle),
            Arc::new(namespace::NamespaceExists),
            Arc::new(demanded::LimitPodHardAntiAffinityTopology),
            Arc::new(limit_ranger::LimitRanger),
            Arc::new(service_account::ServiceAccount),
            Arc::new(node_restriction::NodeRestriction),
            Arc::new(nodes::TaintNodesByCondition),
            Arc::new(demanded::AlwaysPullImages),
            Arc::new(pod_security::PodSecurity),
            Arc::new(restrictions::PodNodeSelector),
            Arc::new(pods::Priority),
            Arc::new(pods::DefaultTolerationSeconds),
            Arc::new(restrictions::PodTolerationRestriction),
            Arc::new(demanded::ExtendedResourceToleration),
            Arc::new(classes::STORAGE),
            Arc::new(storage::StorageObjectInUseProtection),
            Arc::new(pod_groups::PodGroupProtection),
            Arc::new(owners::OwnerReferencesPermissionEnforcement),
            Arc::new(storage::PersistentVolumeClaimResize),
            Arc::new(pods::RuntimeClass),
            Arc::new(certificates::CertificateSubjectRestriction),
            Arc::new(classes::INGRESS),
            Arc::new(demanded::DenyServiceExternalIPs),
            Arc::new(nodes::PodTopologyLabels),
            Arc::new(pod_groups::PodGroupWorkloadExists),
            Arc::new(nodes::NodeDeclaredFeatureValidator),
            Arc::new(nodes::PodResizeValidator),
            Arc::new(demanded::AlwaysDeny),
        ];
        let times = AllTimes::default();
        let chosen = plugins.into_iter().filter(|plugin| choice.has(plugin.name()));
        let plugins = chosen.map(|plugin| (plugin.clone(), times.plugin(plugin.name()))).collect();
        let beside = Beside::of(&times);
        Self { plugins, choice, times, beside, webhooks: None, policies: Arc::default(), rbac }
    }

    /// The same with webhooks behind.
    #[must_use]
    pub fn with_webhooks(self, webhooks: Webhooks) -> Self {
        Self { webhooks: Some(Arc::new(webhooks)), ..self }
    }

    /// Whether a plugin runs.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.choice.has(name)
    }

    pub(crate) async fn admit(&self, request: &mut Request<'_>, object: Value, old: Option<&Value>) -> Result<Value, Status> {
        let operation = request.operation;
        self.times.steps.of(Step::Admit, operation, self.change(request, object, old)).await
    }

    fn concerned(&self, request: &Request<'_>) -> impl Iterator<Item = &(Arc<dyn Plugin>, Arc<Times>)> {
        self.plugins.iter().filter(|(plugin, _)| plugin.handles(request))
    }

    async fn ask_plugins(&self, request: &mut Request<'_>, mut object: Value, old: Option<&Value>) -> Result<Value, Status> {
        let mut begun = Instant::now();
        for (plugin, times) in self.concerned(request) {
            let result = plugin.admit(request, object, old).await;
            times.note(Step::Admit, request.operation, &result, &mut begun);
            object = result?;
        }
        Ok(object)
    }

    async fn change(&self, request: &mut Request<'_>, object: Value, old: Option<&Value>) -> Result<Value, Status> {
        let object = self.ask_plugins(request, object, old).await?;
        let webhooks = self.webhooks.as_deref().filter(|w| w.mutates() && self.has("MutatingAdmissionWebhook"));
        if webhooks.is_none() && !self.mutates_by_policy() {
            return Ok(object);
        }
        let mut rounds = [Round::default(), Round::default()];
        // Boxed, since the future of a request that nobody changes should not be as large.
        let mut changed = Box::pin(self.mutate(webhooks, request, object.clone(), old, &mut rounds)).await?;
        if changed == object || changed.is_null() {
            return Ok(changed);
        }
        // What a policy or webhook changed may concern the plugins, policies and webhooks before it.
        changed = self.ask_plugins(request, changed, old).await?;
        rounds.iter_mut().for_each(|round| round.again = true);
        Box::pin(self.mutate(webhooks, request, changed, old, &mut rounds)).await
    }

    fn mutates_by_policy(&self) -> bool {
        self.policies.mutates() && self.has("MutatingAdmissionPolicy")
    }

    /// Policies, then webhooks, as upstream orders them.
    async fn mutate(
        &self,
        webhooks: Option<&Webhooks>,
        request: &Request<'_>,
        object: Value,
        old: Option<&Value>,
        [policies, hooks]: &mut [Round; 2],
    ) -> Result<Value, Status> {
        let operation = request.operation;
        let object = match self.mutates_by_policy() {
            true => {
                let changed = self.policies.mutate(request, object, old, policies);
                self.beside.mutating_policies.of(Step::Admit, operation, changed).await?
            }
            false => object,
        };
        match webhooks {
            Some(webhooks) => {
                let changed = webhooks.mutate(request, object, old, hooks);
                self.beside.mutating_webhooks.of(Step::Admit, operation, changed).await
            }
            None => Ok(object),
        }
    }

    pub(crate) async fn validate(&self, request: &Request<'_>, object: Option<&Value>, old: Option<&Value>) -> Result<(), Status> {
        self.times.steps.of(Step::Validate, request.operation, self.check(request, object, old)).await
    }

    async fn check(&self, request: &Request<'_>, object: Option<&Value>, old: Option<&Value>) -> Result<(), Status> {
        let mut begun = Instant::now();
        for (plugin, times) in self.concerned(request) {
            let result = plugin.validate(request, object, old).await;
            times.note(Step::Validate, request.operation, &result, &mut begun);
            result?;
        }
        if let Some(object) = object {
            escalation::check(&self.rbac, request, object, old).await?;
            trust::check(&self.rbac, request, object, old, self.has("ClusterTrustBundleAttest"))?;
            references::check(&self.rbac, request, object, old).await?;
            trust::tell(request, object);
        }
        let (operation, object) = (request.operation, object.unwrap_or(&Value::Null));
        if self.has("ValidatingAdmissionPolicy") {
            let checked = self.policies.validate(request, object, old);
            self.beside.validating_policies.of(Step::Validate, operation, checked).await?;
        }
        match &self.webhooks {
            Some(webhooks) if self.has("ValidatingAdmissionWebhook") => {
                let checked = webhooks.validate(request, object, old);
                self.beside.validating_webhooks.of(Step::Validate, operation, checked).await
            }
            _ => Ok(()),
        }
    }
}
