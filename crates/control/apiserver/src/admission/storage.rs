//! PersistentVolumeClaimResize: a claim grows only where it is bound and its class allows that. StorageObjectInUseProtection: volumes,
//! claims and classes of attributes stay while somebody uses them.

use fram_api::storage::class;
use fram_machinery::quantity::Quantity;
use fram_machinery::{Status, Value, meta};

use super::{Operation, Plugin, Request};

pub(super) struct PersistentVolumeClaimResize;

#[async_trait::async_trait]
impl Plugin for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.operation == Operation::Update && request.is_about("", "PersistentVolumeClaim")
    }

    async fn validate(&self, request: &Request<'_>, object: Option<&Value>, old: Option<&Value>) -> Result<(), Status> {
        let (Some(claim), Some(old)) = (object, old) else { return Ok(()) };
        let size = |c: &Value| c.str_at(&["spec", "resources", "requests", "storage"]).parse::<Quantity>().unwrap_or(Quantity::zero());
        if size(claim) <= size(old) {
            return Ok(());
        }
        if old.str_at(&["status", "phase"]) != "Bound" {
            return Err(request.place.forbidden("Only bound persistent volume claims can be expanded"));
        }
        let name = class(claim);
        if !name.is_empty() && name == class(old) {
            let found = request.find("storage.k8s.io", "v1", "storageclasses", "", name).await?;
            if found.is_some_and(|c| c.bool_at(&["allowVolumeExpansion"]) == Some(true)) {
                return Ok(());
            }
        }
        let why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
        Err(request.place.forbidden(why))
    }
}

pub(super) struct StorageObjectInUseProtection;

/// The finalizer of a kind, which a controller takes away.
fn protection(request: &Request<'_>) -> Option<&'static str> {
    let kind = request.stored_kind();
    Some(match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "PersistentVolume") => "kubernetes.io/pv-protection",
        ("", "PersistentVolumeClaim") => "kubernetes.io/pvc-protection",
        ("storage.k8s.io", "VolumeAttributesClass") => "kubernetes.io/vac-protection",
        _ => return None,
    })
}

#[async_trait::async_trait]
impl Plugin for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.operation == Operation::Create && request.subresource.is_empty() && protection(request).is_some()
    }

    async fn admit(&self, request: &Request<'_>, mut object: Value, _old: Option<&Value>) -> Result<Value, Status> {
        if let Some(finalizer) = protection(request) {
            meta::add_finalizer(&mut object, finalizer);
        }
        Ok(object)
    }
}
