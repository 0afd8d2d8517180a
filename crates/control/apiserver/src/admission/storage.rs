//! DefaultStorageClass: a claim that names no class gets the default one. PersistentVolumeClaimResize: a claim grows only where its
//! class allows that.

use fram_machinery::quantity::Quantity;
use fram_machinery::{Status, Value, meta};

use super::{Operation, Plugin, Request};

pub(super) struct DefaultStorageClass;

const DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";

#[async_trait::async_trait]
impl Plugin for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    async fn admit(&self, request: &Request<'_>, mut object: Value, _old: Option<&Value>) -> Result<Value, Status> {
        let named = object.at(&["spec", "storageClassName"]).is_some_and(|c| !c.is_null());
        if !request.is_about("", "PersistentVolumeClaim") || request.operation != Operation::Create || named {
            return Ok(object);
        }
        let classes = request.list("storage.k8s.io", "v1", "storageclasses", "").await?;
        let defaults = classes.iter().filter(|c| meta::annotation(c, DEFAULT) == Some("true"));
        // The newest default wins, as upstream's GetDefaultClass.
        if let Some(class) = defaults.max_by_key(|c| c.str_at(&["metadata", "creationTimestamp"]).to_string()) {
            object.set(&["spec", "storageClassName"], meta::name(class));
        }
        Ok(object)
    }
}

pub(super) struct PersistentVolumeClaimResize;

#[async_trait::async_trait]
impl Plugin for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    async fn validate(&self, request: &Request<'_>, object: Option<&Value>, old: Option<&Value>) -> Result<(), Status> {
        let (Some(claim), Some(old)) = (object, old) else { return Ok(()) };
        if !request.is_about("", "PersistentVolumeClaim") || request.operation != Operation::Update {
            return Ok(());
        }
        let size = |c: &Value| c.str_at(&["spec", "resources", "requests", "storage"]).parse::<Quantity>().ok();
        if size(claim) <= size(old) {
            return Ok(());
        }
        let class = request.find("storage.k8s.io", "v1", "storageclasses", "", claim.str_at(&["spec", "storageClassName"])).await?;
        if class.is_some_and(|c| c.bool_at(&["allowVolumeExpansion"]) == Some(true)) {
            return Ok(());
        }
        let why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
        Err(request.place.forbidden(why))
    }
}
