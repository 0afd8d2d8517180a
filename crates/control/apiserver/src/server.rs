//! One API server: registry, authentication, authorization and what answers requests. Both ways in, HTTP and in process,
//! meet here in `perform`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fram_api::{FeatureGates, Kind};
use fram_audit::Audit;
use fram_client::{Call, Resource, Verb};
use fram_flowcontrol::{FlowControl, InFlight};
use fram_machinery::status::FieldError;
use fram_machinery::{Key, Status, Value};

use crate::audit;
use crate::authorize::{Attributes, Authorizer};
use crate::bootstrap::stages::Stages;
use crate::flow::Flow;
use crate::gates::{self, Switches};
use crate::kubelets::Kubelets;
use crate::limits::Limits;
use crate::nodes::Nodes;
use crate::path::ResourcePath;
use crate::registry::{FieldValidation, Listing, Place, Registry, Served, Stored, Write};
use crate::requests::Requests;
use crate::requests::stored::StoredObjects;
use crate::token::Tokens;
use crate::user::User;

/// Says how parts of the server are that it does not know itself.
pub type Checks = Arc<dyn Fn() -> Vec<(String, Result<(), String>)> + Send + Sync>;

pub struct Server {
    pub registry: Arc<Registry>,
    pub authorizer: Authorizer,
    pub tokens: Tokens,
    pub nodes: Arc<dyn Nodes>,
    pub(crate) kubelets: Kubelets,
    pub(crate) aggregator: crate::aggregator::Aggregator,
    pub(crate) metrics: crate::metrics::Metrics,
    pub(crate) documents: crate::openapi::Documents,
    pub(crate) requests: crate::requests::Requests,
    /// The size of the store's files, as it was last told.
    pub(crate) stored_bytes: Arc<AtomicU64>,
    pub(crate) slis: crate::http_api::Slis,
    /// What is told of each pod, which is too much to be among the other metrics.
    pub(crate) pod_resources: parking_lot::Mutex<prometheus_client::registry::Registry>,
    /// What else works in this process, by upstream's names.
    pub(crate) components: parking_lot::Mutex<Vec<(&'static str, tokio_util::task::TaskTracker)>>,
    /// None without a policy; then nothing is recorded.
    pub(crate) audit: Option<Arc<Audit>>,
    /// What keeps requests from overwhelming the server.
    pub(crate) flow: Flow,
    pub(crate) limits: Limits,
    /// What is switched on and off of it.
    pub(crate) switches: Switches,
    /// Requests that are carried out, but for those that last as long as their clients like.
    pub(crate) busy: tokio_util::task::TaskTracker,
    /// Those.
    pub(crate) long: tokio_util::task::TaskTracker,
    /// The server is about to end: who asks whether it is ready is sent elsewhere.
    pub(crate) leaving: std::sync::atomic::AtomicBool,
    /// Watches end.
    pub(crate) ending: tokio_util::sync::CancellationToken,
    /// Health checks of others, by their names.
    pub(crate) checks: Option<Checks>,
    /// How far its start has come.
    pub(crate) stages: Stages,
    /// Streams to nodes that outlive their request.
    pub(crate) streams: tokio_util::task::TaskTracker,
}

/// What a request led to, before it is encoded.
pub(crate) enum Answer {
    /// A stored object as it is.
    Stored {
        served: Served,
        entry: Arc<fram_store::Entry>,
    },
    /// An object that was written or made; `created` says 201.
    Object {
        served: Served,
        object: Value,
        /// The same as it was stored, where that is at hand.
        entry: Option<Stored>,
        created: bool,
    },
    /// An object of another kind than the resource's: a Scale, a token, a review.
    Other {
        object: Value,
        created: bool,
    },
    List {
        place: Place,
        listing: Listing,
    },
    /// What a deletion of many found.
    Objects {
        place: Place,
        objects: Vec<Value>,
    },
    /// The object is gone.
    Deleted {
        served: Served,
        object: Value,
    },
}

/// An answer with the warnings to send along.
pub(crate) struct Performed {
    pub(crate) answer: Answer,
    pub(crate) warnings: Vec<String>,
}

impl Server {
    pub fn new(registry: Arc<Registry>, tokens: Tokens, nodes: Arc<dyn Nodes>) -> Self {
        let authorizer = Authorizer::new(registry.clone());
        let (requests, stored_bytes) = (Requests::default(), Arc::<AtomicU64>::default());
        requests.register(|others| {
            others.register_collector(Box::new(registry.admission.times.clone()));
            others.register_collector(Box::new(StoredObjects::of(&registry, stored_bytes.clone())));
        });
        Self {
            kubelets: Kubelets::new(nodes.clone(), registry.clone()),
            registry,
            authorizer,
            tokens,
            nodes,
            aggregator: Default::default(),
            metrics: Default::default(),
            requests,
            stored_bytes,
            slis: Default::default(),
            pod_resources: Default::default(),
            components: Default::default(),
            audit: None,
            flow: Flow::default(),
            limits: Limits::default(),
            switches: Switches::of(&FeatureGates::default()),
            busy: tokio_util::task::TaskTracker::new(),
            long: tokio_util::task::TaskTracker::new(),
            leaving: false.into(),
            ending: tokio_util::sync::CancellationToken::new(),
            checks: None,
            documents: Default::default(),
            stages: Stages::default(),
            streams: tokio_util::task::TaskTracker::new(),
        }
    }

    /// The same server, with priority and fairness.
    #[must_use]
    pub fn with_flow_control(self, control: Arc<FlowControl>) -> Self {
        self.requests.register(|registry| control.register(registry));
        Self { flow: Flow::Fair(control), ..self }
    }

    /// The same server, which refuses what is more than so many requests at once.
    #[must_use]
    pub fn with_in_flight_limits(self, limits: InFlight) -> Self {
        Self { flow: Flow::InFlight(Arc::new(limits)), ..self }
    }

    /// The same server, whose health is that of others too.
    #[must_use]
    pub fn with_checks(self, checks: Checks) -> Self {
        Self { checks: Some(checks), ..self }
    }

    /// The same server, which records what it is asked.
    #[must_use]
    pub fn with_audit(self, audit: Arc<Audit>) -> Self {
        self.requests.register(|registry| audit.register(registry));
        Self { audit: Some(audit), ..self }
    }

    /// The same server, with other limits on what clients may ask for.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// The same server, with features switched on and off; its kinds are of the same mind.
    #[must_use]
    pub fn with_feature_gates(self, gates: &FeatureGates) -> Self {
        let shown = gates::Shown(gates.all(&self.registry.api().features()));
        self.requests.register(|registry| registry.register_collector(Box::new(shown)));
        Self { switches: Switches::of(gates), ..self }
    }

    /// All metrics, in the text format of OpenMetrics.
    pub(crate) async fn metrics_text(&self) -> String {
        // A store that does not tell is left out; whether it is there at all is said by /readyz.
        if let Ok(size) = self.registry.store.size().await {
            self.stored_bytes.store(size, Ordering::Relaxed);
        }
        self.requests.text()
    }

    /// How many requests are carried out now, but for those that last as long as their clients like.
    pub fn requests_in_flight(&self) -> usize {
        self.busy.len()
    }

    /// How many watches and streams go on over HTTP.
    pub fn long_running_requests(&self) -> usize {
        self.long.len()
    }

    /// From now on /readyz says that the server ends, and everything else goes on.
    pub fn leave(&self) {
        self.leaving.store(true, std::sync::atomic::Ordering::Release);
    }

    /// The kind and place that a call is about; NotFound where there is no such resource.
    pub(crate) fn place(&self, call: &Call) -> Result<Place, Status> {
        let collection = matches!(call.verb, Verb::List(_) | Verb::DeleteCollection { .. });
        self.place_of(&call.resource, &call.namespace, &call.name, collection)
    }

    /// As `place`, before authorization: a namespace in the path of what has none would be taken for a right within it.
    /// A `collection` may be that of all namespaces.
    pub(crate) fn place_of(&self, resource: &Resource, namespace: &str, name: &str, collection: bool) -> Result<Place, Status> {
        let served = self.registry.served(&resource.group, &resource.version, &resource.plural).ok_or_else(Status::no_such_path)?;
        let fits = match (served.kind.is_namespaced(), namespace.is_empty()) {
            (true, true) => collection && name.is_empty(),
            (true, false) | (false, true) => true,
            (false, false) => false,
        };
        if !fits {
            return Err(Status::no_such_path());
        }
        Ok(Place { served, namespace: namespace.into(), name: name.into() })
    }

    /// Authorizes, carries out and counts a call.
    pub(crate) async fn perform(&self, user: &User, call: Call, duplicates: Vec<String>) -> Result<Performed, Status> {
        let attributes = attributes_of(&call);
        let known = self.is_known(&attributes);
        let trail = audit::current();
        if let Some(trail) = &trail {
            audit::asked(trail, &call);
        }
        let (begun, dry_run) = (tokio::time::Instant::now(), is_dry_run(&call.verb));
        let result = self.carry_out(user, &attributes, call, duplicates).await;
        self.requests.count(&attributes, known, dry_run, &result, Some(begun.elapsed()));
        if let Some(trail) = &trail {
            audit::answered(trail, &self.registry, &result);
        }
        result
    }

    /// Checks a write by its path, before its body is read.
    pub(crate) async fn may_send(&self, user: &User, verb: &str, resource: &Resource, path: &ResourcePath) -> Result<(), Status> {
        self.place_of(resource, &path.namespace, &path.name, false)?;
        self.authorizer.check(user, &path.attributes(verb))
    }

    /// Whether what is asked for is served: only that is counted by its name, or anybody could make names without end.
    pub(crate) fn is_known(&self, asked: &Attributes) -> bool {
        let served = self.registry.served(&asked.group, &asked.version, &asked.resource);
        served.is_some_and(|s| asked.subresource.is_empty() || s.kind.subresource(&asked.subresource).is_some())
    }

    /// What is to be said of the version that is asked for, which is noted: it is on its way out, and somebody uses it.
    pub(crate) fn deprecation(&self, kind: &Kind, asked: &Attributes) -> Option<Key> {
        let deprecation = kind.deprecation.as_ref()?;
        self.requests.outdated(asked, deprecation.removed_release);
        Some(deprecation.warning.clone())
    }

    async fn carry_out(&self, user: &User, attributes: &Attributes, call: Call, duplicates: Vec<String>) -> Result<Performed, Status> {
        let place = self.place(&call)?;
        self.authorizer.check(user, attributes)?;
        let kind = place.kind();
        let supported = if call.subresource.is_empty() {
            kind.has_verb(&attributes.verb)
        } else {
            let sub = kind.subresource(&call.subresource).ok_or_else(Status::no_such_path)?;
            sub.verbs.contains(&attributes.verb.as_str())
        };
        if !supported {
            return Err(Status::method_not_allowed(&kind.group, &kind.plural, &attributes.verb));
        }
        let deprecation = self.deprecation(kind, attributes);
        let mut performed = crate::verbs::execute(self, user, place, call.subresource, call.verb, duplicates).await?;
        performed.warnings.extend(deprecation.map(|text| text.to_string()));
        Ok(performed)
    }
}

fn is_dry_run(verb: &Verb) -> bool {
    match verb {
        Verb::Create { options, .. } | Verb::Update { options, .. } | Verb::Patch { options, .. } => options.dry_run,
        Verb::Delete(options) | Verb::DeleteCollection { delete: options, .. } => options.dry_run,
        Verb::Get | Verb::List(_) => false,
    }
}

/// What a call is to authorization.
pub(crate) fn attributes_of(call: &Call) -> Attributes {
    let verb = match &call.verb {
        Verb::Get => "get",
        Verb::List(_) => "list",
        Verb::Create { .. } => "create",
        Verb::Update { .. } => "update",
        Verb::Patch { .. } => "patch",
        Verb::Delete(_) => "delete",
        Verb::DeleteCollection { .. } => "deletecollection",
    };
    let selected = match &call.verb {
        Verb::List(options) if call.name.is_empty() => selected_name(&options.field_selector),
        _ => None,
    };
    let options = match &call.verb {
        Verb::List(options) | Verb::DeleteCollection { list: options, .. } => Some(options),
        _ => None,
    };
    Attributes {
        verb: verb.into(),
        group: call.resource.group.to_string(),
        version: call.resource.version.to_string(),
        resource: call.resource.plural.to_string(),
        subresource: call.subresource.clone(),
        namespace: if call.resource.plural == "namespaces" && call.resource.group.is_empty() {
            call.name.clone()
        } else {
            call.namespace.clone()
        },
        name: selected.unwrap_or_else(|| call.name.clone()),
        fields: options.map(|options| options.field_selector.clone()).unwrap_or_default(),
        labels: options.map(|options| options.label_selector.clone()).unwrap_or_default(),
        path: String::new(),
    }
}

/// The one object that a field selector asks for: a list or watch of it is authorized by its name, as upstream's
/// RequestInfoFactory has it.
pub(crate) fn selected_name(field_selector: &str) -> Option<String> {
    let selector = fram_machinery::labels::FieldSelector::parse(field_selector).ok()?;
    selector.exact("metadata.name").map(String::from)
}

/// How strictly unknown fields are taken; the default warns. `options` is the kind of the options that say so.
pub(crate) fn field_validation(options: &str, text: &str) -> Result<FieldValidation, Status> {
    match text {
        "Strict" => Ok(FieldValidation::Strict),
        "Ignore" => Ok(FieldValidation::Ignore),
        "" | "Warn" => Ok(FieldValidation::Warn),
        other => {
            let error = FieldError::not_supported("fieldValidation", other, &["", "Ignore", "Strict", "Warn"]);
            Err(Status::invalid("meta.k8s.io", options, "", vec![error]))
        }
    }
}

pub(crate) fn write_of(user: &User, options: &fram_client::WriteOptions) -> Write {
    Write { user: user.clone(), dry_run: options.dry_run, field_manager: options.field_manager.clone(), ..Default::default() }
}
