//! DefaultStorageClass and DefaultIngressClass: who names no class gets the default one.

use std::cmp::Reverse;

use fram_machinery::{Status, Value, meta};

use super::{Plugin, Request};

/// The name of the default class: the newest, where there are several, and of those made at once the first by name, as upstream's
/// GetDefaultClass and getDefaultClass have it.
fn default_class<'a>(classes: &'a [Value], mark: &str) -> Option<&'a str> {
    let defaults = classes.iter().filter(|class| meta::annotation(class, mark) == Some("true"));
    let newest = defaults.max_by_key(|class| (class.str_at(&["metadata", "creationTimestamp"]), Reverse(meta::name(class))));
    newest.map(meta::name)
}

pub(super) struct DefaultStorageClass;

#[async_trait::async_trait]
impl Plugin for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.creates("", "PersistentVolumeClaim")
    }

    async fn admit(&self, request: &Request<'_>, mut object: Value, _old: Option<&Value>) -> Result<Value, Status> {
        let named = object.at(&["spec", "storageClassName"]).is_some_and(|class| !class.is_null());
        if named || meta::annotation(&object, fram_api::storage::CLASS).is_some() {
            return Ok(object);
        }
        let classes = request.list("storage.k8s.io", "v1", "storageclasses", "").await?;
        if let Some(class) = default_class(&classes, "storageclass.kubernetes.io/is-default-class") {
            object.set(&["spec", "storageClassName"], class);
        }
        Ok(object)
    }
}

pub(super) struct DefaultIngressClass;

#[async_trait::async_trait]
impl Plugin for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.creates("networking.k8s.io", "Ingress")
    }

    async fn admit(&self, request: &Request<'_>, mut object: Value, _old: Option<&Value>) -> Result<Value, Status> {
        let named = object.at(&["spec", "ingressClassName"]).is_some_and(|class| !class.is_null());
        if named || meta::annotation(&object, "kubernetes.io/ingress.class").is_some() {
            return Ok(object);
        }
        let classes = request.list("networking.k8s.io", "v1", "ingressclasses", "").await?;
        if let Some(class) = default_class(&classes, "ingressclass.kubernetes.io/is-default-class") {
            object.set(&["spec", "ingressClassName"], class);
        }
        Ok(object)
    }
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    #[test]
    fn the_newest_default_wins_and_then_the_first_by_name() {
        let class = |name: &str, made: &str, default: &str| object!({ "metadata": { "name": name, "creationTimestamp": made, "annotations": { "default": default } } });
        let mut classes = vec![class("a", "2026-01-01T00:00:00Z", "true"), class("z", "2026-03-01T00:00:00Z", "false")];
        assert_eq!(default_class(&classes, "default"), Some("a"));
        classes.extend([class("c", "2026-02-01T00:00:00Z", "true"), class("b", "2026-02-01T00:00:00Z", "true")]);
        assert_eq!(default_class(&classes, "default"), Some("b"));
        assert_eq!(default_class(&classes, "other"), None);
    }
}
