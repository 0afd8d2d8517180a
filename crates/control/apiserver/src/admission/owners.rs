//! OwnerReferencesPermissionEnforcement: who names owners of an object may delete it, and who keeps an owner from going before it may
//! write that owner's finalizers.

use fram_machinery::{Status, Value, meta};

use super::{Operation, Plugin, Request};
use crate::authorize::{Attributes, Authorizer, Decision};

pub(super) struct OwnerReferencesPermissionEnforcement;

/// The owners that an object is to hold back, and did not.
fn newly_held<'a>(object: &'a Value, old: Option<&Value>) -> Vec<&'a Value> {
    let holds = |owner: &Value| owner.bool_at(&["blockOwnerDeletion"]) == Some(true);
    let held: Vec<&str> = old
        .map(meta::owner_references)
        .unwrap_or_default()
        .iter()
        .filter(|owner| holds(owner))
        .map(|owner| owner.str_at(&["uid"]))
        .collect();
    meta::owner_references(object).iter().filter(|owner| holds(owner) && !held.contains(&owner.str_at(&["uid"]))).collect()
}

impl OwnerReferencesPermissionEnforcement {
    /// All authorizers are asked, as of every request.
    fn may(request: &Request<'_>, asked: &Attributes) -> bool {
        let registry = request.registry.weak().upgrade();
        registry.is_some_and(|registry| Authorizer::new(registry).decide(request.user, asked) == Decision::Allow)
    }

    /// Whether the user may write the finalizers of everything.
    fn may_finalize_all(request: &Request<'_>) -> bool {
        let all = || "*".to_string();
        let finalizers = "finalizers".into();
        let asked = Attributes {
            verb: "update".into(),
            group: all(),
            version: all(),
            resource: all(),
            subresource: finalizers,
            name: all(),
            ..Default::default()
        };
        Self::may(request, &asked)
    }

    /// The right to write the finalizers of an owner.
    fn finalizers(request: &Request<'_>, owner: &Value) -> Result<Attributes, Status> {
        let (api_version, kind) = (owner.str_at(&["apiVersion"]), owner.str_at(&["kind"]));
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let api = request.registry.api();
        let Some(kind) = api.kind(group, version, kind) else {
            let why = format!("its owner {} holds it back, but no {kind} of {api_version} is served here", owner.str_at(&["name"]));
            return Err(request.place.forbidden(&why));
        };
        let namespace = if kind.is_namespaced() { request.place.namespace.clone() } else { String::new() };
        let (resource, name) = (kind.plural.to_string(), owner.str_at(&["name"]).to_string());
        let (group, version) = (group.to_string(), version.to_string());
        Ok(Attributes {
            verb: "update".into(),
            group,
            version,
            resource,
            subresource: "finalizers".into(),
            namespace,
            name,
            ..Default::default()
        })
    }
}

#[async_trait::async_trait]
impl Plugin for OwnerReferencesPermissionEnforcement {
    fn name(&self) -> &'static str {
        "OwnerReferencesPermissionEnforcement"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        // A write of a pod's status leaves its owners as they are.
        let is_status = request.subresource == "status" && request.is_about("", "Pod");
        matches!(request.operation, Operation::Create | Operation::Update) && !is_status
    }

    async fn validate(&self, request: &Request<'_>, object: Option<&Value>, old: Option<&Value>) -> Result<(), Status> {
        let Some(object) = object else { return Ok(()) };
        if meta::owner_references(object) == old.map(meta::owner_references).unwrap_or_default() {
            return Ok(());
        }
        let (place, kind) = (request.place, request.place.kind());
        let asked = Attributes {
            verb: "delete".into(),
            group: kind.group.to_string(),
            version: kind.version.to_string(),
            resource: kind.plural.to_string(),
            subresource: request.subresource.into(),
            namespace: place.namespace.clone(),
            name: request.name().into(),
            ..Default::default()
        };
        if request.operation != Operation::Create && !Self::may(request, &asked) {
            return Err(place.forbidden("who gives an object owners has to have the right to delete it: the verb delete is missing"));
        }
        let held = newly_held(object, old);
        if held.is_empty() || Self::may_finalize_all(request) {
            return Ok(());
        }
        for owner in held {
            let asked = Self::finalizers(request, owner)?;
            if !Self::may(request, &asked) {
                let (resource, name) = (asked.full_resource(), asked.name);
                let why = format!("blockOwnerDeletion holds back {name}: the right to update {resource} is missing, or leave it out");
                return Err(place.forbidden(&why));
            }
        }
        Ok(())
    }
}
