//! DefaultStorageClass: a claim that names no class gets the default one.

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
