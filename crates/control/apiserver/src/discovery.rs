//! Discovery: which groups, versions and resources there are, in the old form and aggregated.

use std::collections::BTreeMap;

use fram_api::{Api, Kind};
use fram_machinery::{Value, object};

/// Groups in the order in which clients prefer them.
fn groups(api: &Api) -> Vec<(&'static str, Vec<&'static str>)> {
    let mut all: BTreeMap<&str, Vec<&'static str>> = BTreeMap::new();
    for kind in api.kinds.iter().filter(|k| !k.plural.is_empty()) {
        let versions = all.entry(kind.group).or_default();
        if !versions.contains(&kind.version) {
            versions.push(kind.version);
        }
    }
    // Later versions are preferred: autoscaling is served as v2 and v1.
    all.values_mut().for_each(|versions| versions.sort_by(|a, b| b.cmp(a)));
    all.into_iter().collect()
}

fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_string() } else { format!("{group}/{version}") }
}

/// The document at /api.
pub(crate) fn api_versions(address: &str) -> Value {
    object!({ "kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{ "clientCIDR": "0.0.0.0/0", "serverAddress": address }] })
}

fn group_object(group: &str, versions: &[&'static str]) -> Value {
    let one = |v: &&str| object!({ "groupVersion": (group_version(group, v)), "version": (*v) });
    let all: Vec<Value> = versions.iter().map(one).collect();
    object!({ "name": group, "versions": all, "preferredVersion": (one(&versions[0])) })
}

/// The document at /apis.
pub(crate) fn group_list(api: &Api) -> Value {
    let named = groups(api).into_iter().filter(|(g, _)| !g.is_empty());
    let all: Vec<Value> = named.map(|(group, versions)| group_object(group, &versions)).collect();
    object!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": all })
}

/// The document at /apis/GROUP.
pub(crate) fn group(api: &Api, name: &str) -> Option<Value> {
    let (group, versions) = groups(api).into_iter().find(|(g, _)| *g == name && !g.is_empty())?;
    let mut object = group_object(group, &versions);
    object.set(&["kind"], "APIGroup");
    object.set(&["apiVersion"], "v1");
    Some(object)
}

fn texts(items: &[&str]) -> Value {
    items.iter().map(|s| Value::from(*s)).collect::<Vec<_>>().into()
}

fn resources_of<'a>(api: &'a Api, group: &'a str, version: &'a str) -> impl Iterator<Item = &'a Kind> {
    let served = move |k: &&&std::sync::Arc<Kind>| !k.plural.is_empty() && k.group == group && k.version == version;
    api.kinds.iter().filter(move |k| served(&k)).map(|k| &**k)
}

/// The document at /api/v1 and /apis/GROUP/VERSION.
pub(crate) fn resource_list(api: &Api, group: &str, version: &str) -> Option<Value> {
    let mut all = Vec::new();
    for kind in resources_of(api, group, version) {
        let mut resource = object!({
            "name": (kind.plural), "singularName": (kind.singular), "namespaced": (kind.is_namespaced()),
            "kind": (kind.kind), "verbs": (texts(&kind.verbs))
        });
        for (field, items) in [("shortNames", &kind.short), ("categories", &kind.categories)] {
            if !items.is_empty() {
                resource.set(&[field], texts(items));
            }
        }
        all.push(resource);
        for sub in &kind.subresources {
            let (g, v, k) = sub.kind.unwrap_or((kind.group, kind.version, kind.kind));
            let mut resource = object!({
                "name": (format!("{}/{}", kind.plural, sub.name)), "singularName": "", "namespaced": (kind.is_namespaced()),
                "kind": k, "verbs": (texts(&sub.verbs))
            });
            if sub.kind.is_some() {
                resource.set(&["group"], g);
                resource.set(&["version"], v);
            }
            all.push(resource);
        }
    }
    if all.is_empty() {
        return None;
    }
    Some(object!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": (group_version(group, version)), "resources": all }))
}

/// The aggregated documents (apidiscovery.k8s.io/v2): the core group at /api, all others at /apis.
pub(crate) fn aggregated(api: &Api, core: bool) -> Value {
    let mut items = Vec::new();
    for (group, versions) in groups(api).into_iter().filter(|(g, _)| g.is_empty() == core) {
        let version = |v: &&'static str| {
            let resources: Vec<Value> = resources_of(api, group, v).map(aggregated_resource).collect();
            object!({ "version": (*v), "resources": resources, "freshness": "Current" })
        };
        let versions: Vec<Value> = versions.iter().map(version).collect();
        let mut metadata = object!({ "creationTimestamp": null });
        if !group.is_empty() {
            metadata.set(&["name"], group);
        }
        items.push(object!({ "metadata": metadata, "versions": versions }));
    }
    object!({ "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items })
}

fn response_kind(group: &str, version: &str, kind: &str) -> Value {
    object!({ "group": group, "version": version, "kind": kind })
}

fn aggregated_resource(kind: &Kind) -> Value {
    let scope = if kind.is_namespaced() { "Namespaced" } else { "Cluster" };
    let mut out = object!({
        "resource": (kind.plural), "responseKind": (response_kind(kind.group, kind.version, kind.kind)), "scope": scope,
        "singularResource": (kind.singular), "verbs": (texts(&kind.verbs))
    });
    for (field, items) in [("shortNames", &kind.short), ("categories", &kind.categories)] {
        if !items.is_empty() {
            out.set(&[field], texts(items));
        }
    }
    let subresource = |sub: &fram_api::Subresource| {
        let (g, v, k) = sub.kind.unwrap_or((kind.group, kind.version, kind.kind));
        object!({ "subresource": (sub.name), "responseKind": (response_kind(g, v, k)), "verbs": (texts(&sub.verbs)) })
    };
    if !kind.subresources.is_empty() {
        out.set(&["subresources"], kind.subresources.iter().map(subresource).collect::<Vec<_>>());
    }
    out
}

/// The document at /version.
pub(crate) fn version() -> Value {
    object!({
        "major": "1", "minor": "36", "gitVersion": "v1.36.2+fram", "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "", "compiler": "rustc", "platform": "linux/amd64",
        "emulationMajor": "1", "emulationMinor": "36", "minCompatibilityMajor": "1", "minCompatibilityMinor": "35"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_served_kind_is_discovered() {
        let api = Api::builtin().unwrap();
        let pods = resource_list(&api, "", "v1").unwrap();
        let names: Vec<&str> = pods.list_at(&["resources"]).iter().map(|r| r.str_at(&["name"])).collect();
        assert!(names.contains(&"pods") && names.contains(&"pods/log") && names.contains(&"serviceaccounts/token"));
        assert!(resource_list(&api, "apps", "v2").is_none());
        let autoscaling = group(&api, "autoscaling").unwrap();
        assert_eq!(autoscaling.str_at(&["preferredVersion", "version"]), "v2");
        assert_eq!(aggregated(&api, true).list_at(&["items"]).len(), 1);
    }
}
