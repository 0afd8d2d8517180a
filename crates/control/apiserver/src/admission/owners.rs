//! OwnerReferencesPermissionEnforcement: who names owners of an object may delete it, and who keeps an owner from going before it may
//! write that owner's finalizers.

use std::sync::Arc;

use fram_machinery::{Status, Value, meta};

use super::{Operation, Plugin, Request};
use crate::authorize::{Attributes, Decision, Rbac};
use crate::user::MASTERS;

pub(super) struct OwnerReferencesPermissionEnforcement {
    pub(super) rbac: Arc<Rbac>,
}

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
    fn may(&self, request: &Request<'_>, asked: &Attributes) -> bool {
        request.user.is_in(MASTERS) || self.rbac.decide(request.user, asked) == Decision::Allow
    }

    /// The right to write the finalizers of an owner.
    fn finalizers(request: &Request<'_>, owner: &Value) -> Result<Attributes, Status> {
        let (api_version, kind) = (owner.str_at(&["apiVersion"]), owner.str_at(&["kind"]));
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let api = request.registry.api();
        let Some(kind) = api.kind(group, version, kind) else {
            let why = format!(
                "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion {api_version} Kind {kind}"
            );
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
        matches!(request.operation, Operation::Create | Operation::Update)
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
        if request.operation != Operation::Create && !self.may(request, &asked) {
            return Err(place.forbidden("cannot set an ownerRef on a resource you can't delete"));
        }
        for owner in newly_held(object, old) {
            if !self.may(request, &Self::finalizers(request, owner)?) {
                let why = "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on";
                return Err(place.forbidden(why));
            }
        }
        Ok(())
    }
}
