//! One API server: registry, authentication, authorization and what answers requests. Both ways in, HTTP and in process,
//! meet here in `perform`.

use std::sync::Arc;

use fram_audit::Audit;
use fram_client::{Call, Verb};
use fram_flowcontrol::{FlowControl, InFlight};
use fram_machinery::{Status, Value};

use crate::audit;
use crate::authorize::{Attributes, Authorizer};
use crate::flow::Flow;
use crate::nodes::Nodes;
use crate::registry::{FieldValidation, Listing, Place, Registry, Served, Write};
use crate::token::Tokens;
use crate::user::User;

/// Says how parts of the server are that it does not know itself.
pub type Checks = Arc<dyn Fn() -> Vec<(String, Result<(), String>)> + Send + Sync>;

pub struct Server {
    pub registry: Arc<Registry>,
    pub authorizer: Authorizer,
    pub tokens: Tokens,
    pub nodes: Arc<dyn Nodes>,
    pub(crate) metrics: crate::metrics::Metrics,
    pub(crate) documents: crate::openapi::Documents,
    pub(crate) requests: crate::requests::Requests,
    /// None without a policy; then nothing is recorded.
    pub(crate) audit: Option<Arc<Audit>>,
    /// What keeps requests from overwhelming the server.
    pub(crate) flow: Flow,
    /// Health checks of others, by their names.
    pub(crate) checks: Option<Checks>,
    pub(crate) ready: std::sync::atomic::AtomicBool,
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
        Self {
            registry,
            authorizer,
            tokens,
            nodes,
            metrics: Default::default(),
            requests: Default::default(),
            audit: None,
            flow: Flow::default(),
            checks: None,
            documents: Default::default(),
            ready: false.into(),
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

    /// From now on /readyz says ok.
    pub fn set_ready(&self) {
        self.ready.store(true, std::sync::atomic::Ordering::Release);
    }

    /// The kind and place that a call is about; NotFound where there is no such resource.
    pub(crate) fn place(&self, call: &Call) -> Result<Place, Status> {
        let resource = &call.resource;
        let served = self.registry.served(&resource.group, &resource.version, &resource.plural).ok_or_else(Status::no_such_path)?;
        let whole = call.namespace.is_empty() && call.name.is_empty() && matches!(call.verb, Verb::List(_) | Verb::DeleteCollection { .. });
        if served.kind.is_namespaced() == call.namespace.is_empty()
            && !(served.kind.is_namespaced() && whole)
            && !served.kind.verbs.is_empty()
        {
            let reviews = served.kind.verbs == ["create"];
            if !reviews {
                return Err(Status::no_such_path());
            }
        }
        Ok(Place { served, namespace: call.namespace.clone(), name: call.name.clone() })
    }

    /// Authorizes, carries out and counts a call.
    pub(crate) async fn perform(&self, user: &User, call: Call, duplicates: Vec<String>) -> Result<Performed, Status> {
        let attributes = attributes_of(&call);
        let trail = audit::current();
        if let Some(trail) = &trail {
            audit::asked(trail, &call);
        }
        let whole = matches!(&call.verb, Verb::List(o) if o.limit == 0 && o.label_selector.is_empty() && o.field_selector.is_empty());
        let whole = whole && call.namespace.is_empty();
        let result = self.carry_out(user, &attributes, call, duplicates).await;
        if whole {
            self.flow.listed(&attributes, &result);
        }
        self.requests.count(&attributes, &result);
        if let Some(trail) = &trail {
            audit::answered(trail, &self.registry, &result);
        }
        result
    }

    async fn carry_out(&self, user: &User, attributes: &Attributes, call: Call, duplicates: Vec<String>) -> Result<Performed, Status> {
        let place = self.place(&call)?;
        self.authorizer.check(user, attributes).await?;
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
        let deprecation = kind.custom.as_ref().and_then(|c| c.deprecation.clone());
        let mut performed = crate::verbs::execute(self, user, place, call.subresource, call.verb, duplicates).await?;
        performed.warnings.extend(deprecation.map(|text| text.to_string()));
        Ok(performed)
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
        Verb::List(options) | Verb::DeleteCollection { list: options, .. } if call.name.is_empty() => {
            selected_name(&options.field_selector)
        }
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
        path: String::new(),
    }
}

/// The one object that a field selector asks for: a list or watch of it is authorized by its name, as upstream's
/// RequestInfoFactory has it.
pub(crate) fn selected_name(field_selector: &str) -> Option<String> {
    let selector = fram_machinery::labels::FieldSelector::parse(field_selector).ok()?;
    selector.exact("metadata.name").map(String::from)
}

/// How strictly unknown fields are taken; the default warns.
pub(crate) fn field_validation(text: &str) -> Result<FieldValidation, Status> {
    match text {
        "Strict" => Ok(FieldValidation::Strict),
        "Ignore" => Ok(FieldValidation::Ignore),
        "" | "Warn" => Ok(FieldValidation::Warn),
        other => Err(Status::bad_request(format!(
            "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
        ))),
    }
}

pub(crate) fn write_of(user: &User, options: &fram_client::WriteOptions) -> Write {
    Write { user: user.clone(), dry_run: options.dry_run, field_manager: options.field_manager.clone(), ..Default::default() }
}
