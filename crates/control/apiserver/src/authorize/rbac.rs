//! RBAC over an index of all roles and bindings, replaced as a whole when one of them changes.

use std::collections::HashMap;
use std::sync::Arc;

use fram_machinery::{Status, Value, meta};
use parking_lot::RwLock;

use super::rules::Rule;
use super::{Attributes, Decision};
use crate::registry::{Place, Registry};
use crate::user::User;

/// A subject as an index key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Subject {
    User(String),
    Group(String),
}

/// A binding's effect for a subject: these rules, in this namespace or everywhere.
#[derive(Debug, Clone)]
struct Grant {
    /// None for cluster role bindings.
    namespace: Option<String>,
    rules: Arc<Vec<Rule>>,
    /// The binding, the role and the subject, in the words of upstream's RBAC authorizer.
    why: Arc<str>,
}

#[derive(Debug, Default)]
struct Index {
    grants: HashMap<Subject, Vec<Grant>>,
    /// The rules of the cluster role `system:node`, for the Node authorizer.
    node: Arc<Vec<Rule>>,
}

/// The role-based authorizer.
#[derive(Default)]
pub struct Rbac {
    index: RwLock<Arc<Index>>,
}

const GROUP: &str = "rbac.authorization.k8s.io";

async fn all(registry: &Registry, plural: &str) -> Result<Vec<Value>, Status> {
    let served = registry.served(GROUP, "v1", plural).ok_or_else(Status::no_such_path)?;
    let place = Place { served, namespace: String::new(), name: String::new() };
    let listing = registry.list(&place, &Default::default()).await?;
    listing.items.iter().map(|entry| registry.decode(&place.served, entry)).collect()
}

impl Rbac {
    /// Builds the index anew from what is stored.
    pub async fn refresh(&self, registry: &Registry) -> Result<(), Status> {
        let mut roles: HashMap<(String, String), Arc<Vec<Rule>>> = HashMap::new();
        for plural in ["roles", "clusterroles"] {
            for role in all(registry, plural).await? {
                let rules = role.list_at(&["rules"]).iter().map(Rule::from_object).collect();
                roles.insert((meta::namespace(&role).into(), meta::name(&role).into()), Arc::new(rules));
            }
        }
        let node = roles.get(&(String::new(), "system:node".to_string())).cloned().unwrap_or_default();
        let mut index = Index { node, ..Default::default() };
        for plural in ["rolebindings", "clusterrolebindings"] {
            for binding in all(registry, plural).await? {
                index.add(&binding, &roles);
            }
        }
        *self.index.write() = Arc::new(index);
        Ok(())
    }

    pub fn decide(&self, user: &User, attributes: &Attributes) -> Decision {
        self.grant(user, attributes).map_or_else(|| Decision::NoOpinion(String::new()), |_| Decision::Allow)
    }

    /// By which binding a user may.
    pub(super) fn grant(&self, user: &User, attributes: &Attributes) -> Option<Arc<str>> {
        let index = self.index.read().clone();
        let user_key = std::iter::once(Subject::User(user.name.clone()));
        for subject in user_key.chain(user.groups.iter().map(|g| Subject::Group(g.clone()))) {
            for grant in index.grants.get(&subject).into_iter().flatten() {
                let here = grant.namespace.as_ref().is_none_or(|ns| attributes.is_resource() && *ns == attributes.namespace);
                if here && grant.rules.iter().any(|rule| rule.covers(attributes)) {
                    return Some(grant.why.clone());
                }
            }
        }
        None
    }

    pub(super) fn node_rules(&self) -> Arc<Vec<Rule>> {
        self.index.read().node.clone()
    }

    /// Every rule that holds for a user in a namespace.
    pub(crate) fn rules_for(&self, user: &User, namespace: &str) -> Vec<Rule> {
        let index = self.index.read().clone();
        let subjects = std::iter::once(Subject::User(user.name.clone())).chain(user.groups.iter().map(|g| Subject::Group(g.clone())));
        let grants = subjects.flat_map(|s| index.grants.get(&s).cloned().unwrap_or_default());
        grants.filter(|g| g.namespace.as_deref().is_none_or(|ns| ns == namespace)).flat_map(|g| g.rules.to_vec()).collect()
    }
}

impl Index {
    fn add(&mut self, binding: &Value, roles: &HashMap<(String, String), Arc<Vec<Rule>>>) {
        let namespace = meta::namespace(binding);
        let of_role = if binding.str_at(&["roleRef", "kind"]) == "Role" { namespace } else { "" };
        let Some(rules) = roles.get(&(of_role.to_string(), binding.str_at(&["roleRef", "name"]).to_string())) else { return };
        let (kind, role) = (binding.str_at(&["kind"]), binding.str_at(&["roleRef", "kind"]));
        let by = format!("RBAC: allowed by {kind} {:?} of {role} {:?}", meta::key(binding), binding.str_at(&["roleRef", "name"]));
        for subject in binding.list_at(&["subjects"]) {
            let name = subject.str_at(&["name"]);
            let why: Arc<str> = match (subject.str_at(&["kind"]), subject.str_at(&["namespace"])) {
                (kind @ "ServiceAccount", namespace) => format!("{by} to {kind} \"{name}/{namespace}\"").into(),
                (kind, _) => format!("{by} to {kind} {name:?}").into(),
            };
            let subject = match subject.str_at(&["kind"]) {
                "User" => Subject::User(name.into()),
                "Group" => Subject::Group(name.into()),
                "ServiceAccount" => {
                    let ns = Some(subject.str_at(&["namespace"])).filter(|ns| !ns.is_empty()).unwrap_or(namespace);
                    Subject::User(format!("system:serviceaccount:{ns}:{name}"))
                }
                _ => continue,
            };
            let namespace = (!namespace.is_empty()).then(|| namespace.to_string());
            self.grants.entry(subject).or_default().push(Grant { namespace, rules: rules.clone(), why });
        }
    }
}
