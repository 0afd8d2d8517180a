//! Which resources a server has, and which of them a user's word means. Pure; the documents are fetched elsewhere.

use fram_client::Resource;
use fram_machinery::Value;

/// A resource as the aggregated discovery (apidiscovery.k8s.io/v2) describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceType {
    pub group: String,
    pub version: String,
    pub plural: String,
    pub singular: String,
    pub short: Vec<String>,
    pub categories: Vec<String>,
    pub kind: String,
    pub namespaced: bool,
    pub verbs: Vec<String>,
    pub subresources: Vec<String>,
}

impl ResourceType {
    pub fn resource(&self) -> Resource {
        Resource { group: self.group.clone().into(), version: self.version.clone().into(), plural: self.plural.clone().into() }
    }

    /// `pods`, `deployments.apps`.
    pub fn qualified(&self) -> String {
        with_group(&self.plural, &self.group)
    }

    /// What stands before the slash in kubectl's messages: `pod`, `deployment.apps`.
    pub fn label(&self) -> String {
        with_group(&self.kind.to_lowercase(), &self.group)
    }

    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }

    fn is_called(&self, word: &str) -> bool {
        [&self.plural, &self.singular].into_iter().chain(&self.short).any(|n| n == word) || self.kind.eq_ignore_ascii_case(word)
    }
}

fn with_group(name: &str, group: &str) -> String {
    if group.is_empty() { name.to_string() } else { format!("{name}.{group}") }
}

/// All resources, in the order in which the server prefers them.
#[derive(Debug, Clone, Default)]
pub struct Discovery {
    types: Vec<ResourceType>,
}

fn texts(value: &Value, key: &str) -> Vec<String> {
    value.list_at(&[key]).iter().filter_map(Value::as_str).map(String::from).collect()
}

impl Discovery {
    /// Reads the documents at /api and /apis.
    pub fn parse(documents: &[Value]) -> Self {
        let mut types = Vec::new();
        for group in documents.iter().flat_map(|d| d.list_at(&["items"])) {
            for version in group.list_at(&["versions"]) {
                for resource in version.list_at(&["resources"]) {
                    types.push(resource_type(group.str_at(&["metadata", "name"]), version.str_at(&["version"]), resource));
                }
            }
        }
        Self { types }
    }

    /// What a word means: `po`, `pods`, `Pod`, `deployments.apps`, `deployments.v1.apps`.
    pub fn find(&self, word: &str) -> Option<&ResourceType> {
        let word = word.to_lowercase();
        let mut parts = word.splitn(3, '.');
        let (name, second, third) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
        let group = word.split_once('.').map(|(_, group)| group);
        let exact = |t: &&ResourceType| t.is_called(name) && second == Some(t.version.as_str()) && third.unwrap_or_default() == t.group;
        let by_group = |t: &&ResourceType| t.is_called(name) && group.is_none_or(|g| t.group == g || t.group.starts_with(&format!("{g}.")));
        self.types.iter().find(exact).or_else(|| self.types.iter().find(by_group))
    }

    pub fn of_kind(&self, api_version: &str, kind: &str) -> Option<&ResourceType> {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        self.types.iter().find(|t| t.kind == kind && t.group == group && t.version == version)
    }

    /// The resources of a category such as `all`, each in its preferred version.
    pub fn category(&self, name: &str) -> Vec<&ResourceType> {
        let mut found: Vec<&ResourceType> = Vec::new();
        for one in self.types.iter().filter(|t| t.categories.iter().any(|c| c == name)) {
            if !found.iter().any(|t| t.group == one.group && t.plural == one.plural) {
                found.push(one);
            }
        }
        found
    }

    pub fn all(&self) -> &[ResourceType] {
        &self.types
    }
}

fn resource_type(group: &str, version: &str, resource: &Value) -> ResourceType {
    let subresources = resource.list_at(&["subresources"]).iter().map(|s| s.str_at(&["subresource"]).to_string()).collect();
    ResourceType {
        group: group.into(),
        version: version.into(),
        plural: resource.str_at(&["resource"]).into(),
        singular: resource.str_at(&["singularResource"]).into(),
        short: texts(resource, "shortNames"),
        categories: texts(resource, "categories"),
        kind: resource.str_at(&["responseKind", "kind"]).into(),
        namespaced: resource.str_at(&["scope"]) == "Namespaced",
        verbs: texts(resource, "verbs"),
        subresources,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use fram_machinery::object;

    use super::*;

    fn entry(plural: &str, singular: &str, kind: &str, short: &str, version: &str) -> Value {
        object!({ "resource": plural, "singularResource": singular, "scope": "Namespaced", "shortNames": [short],
            "categories": ["all"], "verbs": ["get", "list"],
            "responseKind": { "group": "", "version": version, "kind": kind } })
    }

    pub(crate) fn sample() -> Discovery {
        let version = |version: &str, resources: Vec<Value>| object!({ "version": version, "resources": resources });
        let core = object!({ "items": [{ "metadata": {}, "versions": [(version("v1", vec![
            entry("pods", "pod", "Pod", "po", "v1"), entry("services", "service", "Service", "svc", "v1")]))] }] });
        let apps = version("v1", vec![entry("deployments", "deployment", "Deployment", "deploy", "v1")]);
        let scalers = || vec![entry("horizontalpodautoscalers", "horizontalpodautoscaler", "HorizontalPodAutoscaler", "hpa", "v2")];
        let groups = object!({ "items": [
            { "metadata": { "name": "apps" }, "versions": [apps] },
            { "metadata": { "name": "autoscaling" }, "versions": [(version("v2", scalers())), (version("v1", scalers()))] },
            { "metadata": { "name": "example.k8s.io" }, "versions": [(version("v1", vec![entry("pods", "pod", "Pod", "", "v1")]))] }] });
        Discovery::parse(&[core, groups])
    }

    #[test]
    fn a_word_finds_its_resource() {
        let discovery = sample();
        let find = |word: &str| discovery.find(word).map(|t| format!("{} {}", t.qualified(), t.version)).unwrap_or_default();
        let cases = [
            ("po", "pods v1"),
            ("Pod", "pods v1"),
            ("deploy", "deployments.apps v1"),
            ("deployment.apps", "deployments.apps v1"),
            ("deployments.v1.apps", "deployments.apps v1"),
            ("hpa", "horizontalpodautoscalers.autoscaling v2"),
            ("hpa.v1.autoscaling", "horizontalpodautoscalers.autoscaling v1"),
            ("pods.example", "pods.example.k8s.io v1"),
            ("pods.v1", "pods v1"),
            ("nothing", ""),
            ("pods.apps", ""),
        ];
        for (word, expect) in cases {
            assert_eq!(find(word), expect, "{word}");
        }
        assert_eq!(discovery.of_kind("apps/v1", "Deployment").map(ResourceType::label).as_deref(), Some("deployment.apps"));
        assert_eq!(discovery.category("all").len(), 5);
    }
}
