//! Authorization: who may do what. The authorizers are asked in turn; the first that allows wins.

mod node;
mod rbac;
pub(crate) mod rules;

use std::sync::Arc;

use fram_machinery::Status;

use crate::audit;
use crate::registry::Registry;
use crate::user::{MASTERS, User};

pub use rbac::Rbac;

/// What is asked, as authorization sees it.
#[derive(Debug, Clone, Default)]
pub struct Attributes {
    pub verb: String,
    pub group: String,
    pub version: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    /// The selectors of lists and watches.
    pub fields: String,
    pub labels: String,
    /// Of requests that are not about resources.
    pub path: String,
}

impl Attributes {
    pub fn is_resource(&self) -> bool {
        self.path.is_empty()
    }

    /// `pods` or `pods/log`.
    pub fn full_resource(&self) -> String {
        if self.subresource.is_empty() { self.resource.clone() } else { format!("{}/{}", self.resource, self.subresource) }
    }
}

/// Allowed, or why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Allow,
    NoOpinion(String),
}

/// Node and RBAC authorization over one registry.
pub struct Authorizer {
    registry: Arc<Registry>,
    rbac: Arc<Rbac>,
}

impl Authorizer {
    pub fn new(registry: Arc<Registry>) -> Self {
        let rbac = registry.admission.rbac.clone();
        Self { registry, rbac }
    }

    pub fn rbac(&self) -> &Rbac {
        &self.rbac
    }

    pub fn decide(&self, user: &User, attributes: &Attributes) -> Decision {
        if user.is_in(MASTERS) {
            return Decision::Allow;
        }
        let mut reasons = Vec::new();
        if let Some(node) = user.node() {
            match node::decide(&self.registry, node, attributes, &self.rbac.node_rules()) {
                Decision::Allow => return Decision::Allow,
                Decision::NoOpinion(why) => reasons.push(why),
            }
        }
        match self.rbac.decide(user, attributes) {
            Decision::Allow => Decision::Allow,
            Decision::NoOpinion(why) => {
                reasons.push(why);
                Decision::NoOpinion(reasons.into_iter().filter(|r| !r.is_empty()).collect::<Vec<_>>().join(", "))
            }
        }
    }

    /// Fails with the 403 that kubectl prints, and tells the auditor.
    pub fn check(&self, user: &User, attributes: &Attributes) -> Result<(), Status> {
        let allowed = self.allows(user, attributes);
        if let Some(trail) = audit::current() {
            let decision = if allowed.is_ok() { "allow" } else { "forbid" };
            trail.annotate("authorization.k8s.io/decision", || decision.into());
            let why = || if allowed.is_ok() { self.reason(user, attributes) } else { String::new() };
            trail.annotate("authorization.k8s.io/reason", why);
        }
        allowed
    }

    /// By what a user may; empty for who may everything.
    fn reason(&self, user: &User, attributes: &Attributes) -> String {
        if user.is_in(MASTERS) {
            return String::new();
        }
        self.rbac.grant(user, attributes).map(|why| why.to_string()).unwrap_or_default()
    }

    /// The same, of which the auditor hears nothing: not what is asked, but something that it needs.
    pub(crate) fn allows(&self, user: &User, attributes: &Attributes) -> Result<(), Status> {
        match self.decide(user, attributes) {
            Decision::Allow => Ok(()),
            Decision::NoOpinion(why) => Err(forbidden(user, attributes, &why)),
        }
    }
}

fn forbidden(user: &User, a: &Attributes, why: &str) -> Status {
    let name = &user.name;
    if !a.is_resource() {
        let text = format!("forbidden: User {name:?} cannot {} path {:?}", a.verb, a.path);
        return Status::new(fram_machinery::Reason::Forbidden, text);
    }
    let scope = if a.namespace.is_empty() { "at the cluster scope".to_string() } else { format!("in the namespace {:?}", a.namespace) };
    let why = if why.is_empty() { String::new() } else { format!(": {why}") };
    let text = format!("User {name:?} cannot {} resource {:?} in API group {:?} {scope}{why}", a.verb, a.full_resource(), a.group);
    Status::forbidden(&a.group, &a.resource, &a.name, &text)
}
