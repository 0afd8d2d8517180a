//! PersistentVolumeClaimResize: a claim grows only where it is bound and its class allows that.

use fram_api::storage::class;
use fram_machinery::quantity::Quantity;
use fram_machinery::{Status, Value};

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
