//! Which webhooks and policies a request concerns: rules, match policy, selectors.

use std::sync::Arc;

use fram_api::{Api, Kind};
use fram_machinery::labels::Selector;
use fram_machinery::{Status, Value, meta};

use super::{Operation, Request};

/// A RuleWithOperations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    scope: String,
    /// Policies may be about some names only; empty where any is meant.
    names: Vec<String>,
}

/// As which kind a hook sees the request.
pub(super) struct Matched {
    pub(super) kind: Arc<Kind>,
}

impl Rule {
    pub(super) fn read(rule: &Value) -> Self {
        let texts = |name: &str| rule.list_at(&[name]).iter().filter_map(Value::as_str).map(String::from).collect();
        Self {
            operations: texts("operations"),
            groups: texts("apiGroups"),
            versions: texts("apiVersions"),
            resources: texts("resources"),
            scope: rule.str_at(&["scope"]).into(),
            names: texts("resourceNames"),
        }
    }

    fn matches(&self, operation: &str, kind: &Kind, plural: &str, subresource: &str, namespaced: bool) -> bool {
        let any = |list: &[String], text: &str| list.iter().any(|i| i == "*" || i == text);
        let scope = match self.scope.as_str() {
            "Namespaced" => namespaced,
            "Cluster" => !namespaced,
            _ => true,
        };
        scope
            && any(&self.operations, operation)
            && any(&self.groups, &kind.group)
            && any(&self.versions, &kind.version)
            && self.resources.iter().any(|r| covers(r, plural, subresource))
    }
}

/// Whether a resource of a rule means a resource: `pods`, `pods/status`, `pods/*`, `*/status`, `*`, `*/*`.
fn covers(rule: &str, plural: &str, subresource: &str) -> bool {
    let (resource, sub) = rule.split_once('/').unwrap_or((rule, ""));
    (resource == "*" || resource == plural) && (sub == "*" || sub == subresource)
}

/// The operation as clients know it: a binding is created, though it changes its pod.
pub(super) fn operation_name(request: &Request<'_>) -> &'static str {
    match request.operation {
        Operation::Update if request.subresource == "binding" => "CREATE",
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
        Operation::Connect => "CONNECT",
    }
}

/// The kinds by which hooks could be changed are not for hooks to decide about.
pub(super) fn is_exempt(kind: &Kind) -> bool {
    const KINDS: [&str; 6] = [
        "MutatingWebhookConfiguration",
        "ValidatingWebhookConfiguration",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
        "MutatingAdmissionPolicy",
        "MutatingAdmissionPolicyBinding",
    ];
    kind.group == "admissionregistration.k8s.io" && KINDS.contains(&kind.kind.as_str())
}

/// As which kind the rules mean a request: as it was asked or, if the hook takes equivalents, as another version of it.
pub(super) fn matched(equivalent: bool, rules: &[Rule], request: &Request<'_>, api: &Api) -> Option<Matched> {
    let asked = &request.place.served.kind;
    let operation = operation_name(request);
    // A namespace counts as an object within itself, as upstream's attributes have it.
    let namespaced = asked.is_namespaced() || asked.is("", "Namespace");
    let named = |rule: &&Rule| rule.names.is_empty() || rule.names.iter().any(|name| name == request.name());
    let meant = |kind: &Kind| rules.iter().filter(named).any(|r| r.matches(operation, kind, &kind.plural, request.subresource, namespaced));
    if meant(asked) {
        return Some(Matched { kind: asked.clone() });
    }
    if !equivalent {
        return None;
    }
    let same = |kind: &&Arc<Kind>| !kind.plural.is_empty() && Arc::ptr_eq(&api.storage_of(kind), &request.place.served.stored);
    let group = asked.group.clone();
    let candidates = api.kinds().filter(|k| k.group == group && k.kind == asked.kind || k.kind == "Event").filter(same);
    candidates.into_iter().find(|k| meant(k)).map(|k| Matched { kind: k.clone() })
}

/// The selectors of a hook or policy; one that cannot be read selects nothing.
pub(super) struct Selectors {
    object: Option<Selector>,
    namespace: Option<Selector>,
}

impl Selectors {
    pub(super) fn read(hook: &Value) -> Self {
        let read = |field: &str| match hook.get(field).filter(|s| !s.is_empty()) {
            Some(selector) => Selector::from_object(Some(selector)).ok().flatten(),
            None => Some(Selector::everything()),
        };
        Self { object: read("objectSelector"), namespace: read("namespaceSelector") }
    }

    /// Either side of a change is enough.
    fn match_object(&self, object: &Value, old: Option<&Value>) -> bool {
        let Some(selector) = &self.object else { return false };
        let sides = [Some(object).filter(|o| !o.is_null()), old];
        selector.is_everything() || sides.into_iter().flatten().any(|o| selector.matches(meta::labels(o)))
    }

    fn any_namespace(&self) -> bool {
        self.namespace.as_ref().is_some_and(Selector::is_everything)
    }

    fn match_namespace(&self, labels: &Value) -> bool {
        self.namespace.as_ref().is_some_and(|s| s.matches(labels))
    }
}

/// Whether the selectors take a request.
pub(super) async fn selected(selectors: &Selectors, request: &Request<'_>, object: &Value, old: Option<&Value>) -> Result<bool, Status> {
    if !selectors.match_object(object, old) {
        return Ok(false);
    }
    if selectors.any_namespace() {
        return Ok(true);
    }
    let labels = match namespace_of(request, object, old) {
        Namespace::None => return Ok(true),
        Namespace::Labels(labels) => labels,
        Namespace::Named(name) => {
            let namespace = request.find("", "v1", "namespaces", "", &name).await?;
            meta::labels(&namespace.ok_or_else(|| Status::not_found("", "namespaces", &name))?).clone()
        }
    };
    Ok(selectors.match_namespace(&labels))
}

/// The namespace by which a request is selected.
enum Namespace {
    /// At cluster scope every selector matches.
    None,
    Labels(Value),
    Named(String),
}

fn namespace_of(request: &Request<'_>, object: &Value, old: Option<&Value>) -> Namespace {
    if request.place.kind().is("", "Namespace") {
        // A namespace that is made or changed has its labels with it.
        let own = match request.operation {
            Operation::Delete => old,
            _ => Some(object).filter(|o| !o.is_null()),
        };
        return own.map_or(Namespace::None, |o| Namespace::Labels(meta::labels(o).clone()));
    }
    match request.place.namespace.as_str() {
        "" => Namespace::None,
        name => Namespace::Named(name.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    #[test]
    fn resources_of_rules_have_wildcards_on_both_sides() {
        for (rule, plural, sub, expect) in [
            ("pods", "pods", "", true),
            ("pods", "pods", "status", false),
            ("pods/*", "pods", "attach", true),
            ("pods/*", "pods", "", true),
            ("*", "pods", "", true),
            ("*", "pods", "status", false),
            ("*/*", "pods", "status", true),
            ("*/status", "pods", "status", true),
            ("*/status", "pods", "", false),
            ("pods/attach", "pods", "attach", true),
        ] {
            assert_eq!(covers(rule, plural, sub), expect, "{rule} {plural}/{sub}");
        }
    }

    #[test]
    fn a_rule_needs_operation_group_version_and_scope() {
        let api = Api::builtin().unwrap();
        let kind = api.kind("apps", "v1", "Deployment").unwrap();
        let rule = |scope: &str| {
            Rule::read(
                &object!({ "operations": ["CREATE"], "apiGroups": ["apps"], "apiVersions": ["*"], "resources": ["deployments"], "scope": scope }),
            )
        };
        assert!(rule("*").matches("CREATE", kind, "deployments", "", true));
        assert!(!rule("*").matches("UPDATE", kind, "deployments", "", true));
        assert!(!rule("Cluster").matches("CREATE", kind, "deployments", "", true));
        assert!(rule("Namespaced").matches("CREATE", kind, "deployments", "", true));
    }

    #[test]
    fn an_object_is_selected_by_what_it_was_or_is() {
        let selectors = Selectors::read(&object!({ "objectSelector": { "matchLabels": { "a": "b" } } }));
        let with = object!({ "metadata": { "labels": { "a": "b" } } });
        let without = object!({ "metadata": {} });
        assert!(selectors.match_object(&without, Some(&with)) && selectors.match_object(&with, None));
        assert!(!selectors.match_object(&without, None));
        assert!(selectors.any_namespace());
    }
}
