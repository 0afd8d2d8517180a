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

/// A kind whose objects name a class, and the kind of these classes.
pub(super) struct DefaultClass {
    name: &'static str,
    group: &'static str,
    kind: &'static str,
    field: &'static str,
    /// Where objects named their class before there was a field for it.
    annotation: &'static str,
    /// Group and plural of the classes.
    classes: (&'static str, &'static str),
    /// The annotation of the default one.
    mark: &'static str,
}

pub(super) const STORAGE: DefaultClass = DefaultClass {
    name: "DefaultStorageClass",
    group: "",
    kind: "PersistentVolumeClaim",
    field: "storageClassName",
    annotation: fram_api::storage::CLASS,
    classes: ("storage.k8s.io", "storageclasses"),
    mark: "storageclass.kubernetes.io/is-default-class",
};

pub(super) const INGRESS: DefaultClass = DefaultClass {
    name: "DefaultIngressClass",
    group: "networking.k8s.io",
    kind: "Ingress",
    field: "ingressClassName",
    annotation: "kubernetes.io/ingress.class",
    classes: ("networking.k8s.io", "ingressclasses"),
    mark: "ingressclass.kubernetes.io/is-default-class",
};

#[async_trait::async_trait]
impl Plugin for DefaultClass {
    fn name(&self) -> &'static str {
        self.name
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.creates(self.group, self.kind)
    }

    async fn admit(&self, request: &Request<'_>, mut object: Value, _old: Option<&Value>) -> Result<Value, Status> {
        let named = object.at(&["spec", self.field]).is_some_and(|class| !class.is_null());
        if named || meta::annotation(&object, self.annotation).is_some() {
            return Ok(object);
        }
        let (group, plural) = self.classes;
        let classes = request.list(group, "v1", plural, "").await?;
        if let Some(class) = default_class(&classes, self.mark) {
            object.set(&["spec", self.field], class);
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
