//! Nobody gives away rights that they do not have: who writes a role or a binding holds what it grants, or may `escalate` or
//! `bind`. Upstream has this in the storage of these kinds (pkg/registry/rbac/*/policybased).

use fram_machinery::{Status, Value};

use super::{Operation, Request};
use crate::authorize::rules::Rule;
use crate::authorize::{Attributes, Decision, Rbac};
use crate::user::MASTERS;

const GROUP: &str = "rbac.authorization.k8s.io";

/// Fails with the rights that the user lacks.
pub(super) async fn check(rbac: &Rbac, request: &Request<'_>, object: &Value, old: Option<&Value>) -> Result<(), Status> {
    let kind = request.stored_kind();
    let writes = matches!(request.operation, Operation::Create | Operation::Update);
    if kind.group != GROUP || !request.subresource.is_empty() || !writes || request.user.is_in(MASTERS) {
        return Ok(());
    }
    let rules = match kind.kind.as_str() {
        "Role" | "ClusterRole" | "RoleBinding" | "ClusterRoleBinding" if old.is_some_and(|old| is_for_its_end(object, old)) => {
            return Ok(());
        }
        // A label too gives rights away, where an aggregation gathers what has it.
        "Role" | "ClusterRole" => {
            let name = &request.place.name;
            if may(rbac, request, "escalate", &kind.plural, &request.place.namespace, name) {
                return Ok(());
            }
            // An aggregation gathers whatever there is, and without it the role would be loosened for good.
            let gathers = |role: &Value| !role.list_at(&["aggregationRule", "clusterRoleSelectors"]).is_empty();
            let mut rules = rules_of(object);
            if gathers(object) || old.is_some_and(gathers) {
                rules.extend([everything(), every_path()]);
            }
            rules
        }
        "RoleBinding" | "ClusterRoleBinding" => {
            let role = object.str_at(&["roleRef", "name"]);
            let (plural, of) = match object.str_at(&["roleRef", "kind"]) {
                "Role" => ("roles", request.place.namespace.as_str()),
                _ => ("clusterroles", ""),
            };
            if may(rbac, request, "bind", plural, &request.place.namespace, role) {
                return Ok(());
            }
            let found = request.find(GROUP, "v1", plural, of, role).await?;
            rules_of(&found.ok_or_else(|| Status::not_found(GROUP, plural, role))?)
        }
        _ => return Ok(()),
    };
    let held = rbac.rules_for(request.user, &request.place.namespace);
    let missing: Vec<String> =
        rules.iter().flat_map(Rule::single).filter(|one| !held.iter().any(|h| h.includes(one))).map(|r| r.words()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let user = &request.user.name;
    let groups = request.user.groups.iter().map(|g| format!("{g:?}")).collect::<Vec<_>>().join(" ");
    let why =
        format!("user {user:?} (groups=[{groups}]) is attempting to grant RBAC permissions not currently held:\n{}", missing.join("\n"));
    Err(request.place.forbidden(&why))
}

/// Whether nothing changes but what an object's end needs, which the garbage collector writes; see IsOnlyMutatingGCFields.
pub(super) fn is_for_its_end(object: &Value, old: &Value) -> bool {
    let apart = |object: &Value| {
        let mut object = object.clone();
        for field in ["finalizers", "ownerReferences", "managedFields", "resourceVersion"] {
            object.remove(&["metadata", field]);
        }
        object
    };
    apart(object) == apart(old)
}

fn rules_of(role: &Value) -> Vec<Rule> {
    role.list_at(&["rules"]).iter().map(Rule::from_object).collect()
}

fn everything() -> Rule {
    let all = || vec!["*".to_string()];
    Rule { verbs: all(), groups: all(), resources: all(), ..Rule::default() }
}

fn every_path() -> Rule {
    let all = || vec!["*".to_string()];
    Rule { verbs: all(), urls: all(), ..Rule::default() }
}

fn may(rbac: &Rbac, request: &Request<'_>, verb: &str, plural: &str, namespace: &str, name: &str) -> bool {
    let attributes = Attributes {
        verb: verb.into(),
        group: GROUP.into(),
        version: "v1".into(),
        resource: plural.into(),
        namespace: namespace.into(),
        name: name.into(),
        ..Default::default()
    };
    rbac.decide(request.user, &attributes) == Decision::Allow
}
