//! Discovery: which groups, versions and resources there are, in the old form and aggregated.

use std::collections::BTreeMap;

use fram_api::{Api, Kind};
use fram_machinery::{Value, names, object};

/// A group with its versions, the preferred one first, and their kinds.
struct Group<'a> {
    name: &'a str,
    versions: Vec<(&'a str, Vec<&'a Kind>)>,
}

/// Groups in the order in which clients prefer them.
fn groups(api: &Api) -> Vec<Group<'_>> {
    let mut all: BTreeMap<&str, BTreeMap<&str, Vec<&Kind>>> = BTreeMap::new();
    for kind in api.kinds().filter(|k| !k.plural.is_empty()) {
        all.entry(&kind.group).or_default().entry(&kind.version).or_default().push(kind);
    }
    let sorted = |versions: BTreeMap<_, _>| {
        let mut versions: Vec<(&str, Vec<&Kind>)> = versions.into_iter().collect();
        versions.sort_by(|(a, _), (b, _)| names::compare_versions(b, a));
        versions
    };
    all.into_iter().map(|(name, versions)| Group { name, versions: sorted(versions) }).collect()
}

fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_string() } else { format!("{group}/{version}") }
}

/// The document at /api.
pub(crate) fn api_versions(address: &str) -> Value {
    object!({ "kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{ "clientCIDR": "0.0.0.0/0", "serverAddress": address }] })
}

fn group_object(group: &Group) -> Value {
    let one = |v: &str| object!({ "groupVersion": (group_version(group.name, v)), "version": v });
    let all: Vec<Value> = group.versions.iter().map(|(v, _)| one(v)).collect();
    object!({ "name": (group.name), "versions": all, "preferredVersion": (one(group.versions[0].0)) })
}

/// The document at /apis.
pub(crate) fn group_list(api: &Api) -> Value {
    let all: Vec<Value> = groups(api).iter().filter(|g| !g.name.is_empty()).map(group_object).collect();
    object!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": all })
}

/// The document at /apis/GROUP.
pub(crate) fn group(api: &Api, name: &str) -> Option<Value> {
    let group = groups(api).into_iter().find(|g| g.name == name && !name.is_empty())?;
    let mut object = group_object(&group);
    object.set(&["kind"], "APIGroup");
    object.set(&["apiVersion"], "v1");
    Some(object)
}

fn texts<'a>(items: impl IntoIterator<Item = &'a str>) -> Value {
    items.into_iter().map(Value::from).collect::<Vec<_>>().into()
}

fn resources_of<'a>(api: &'a Api, group: &'a str, version: &'a str) -> impl Iterator<Item = &'a Kind> {
    api.kinds().map(|k| &**k).filter(move |k| !k.plural.is_empty() && k.group == group && k.version == version)
}

/// Group, version and kind of a subresource's body.
fn body_of<'a>(kind: &'a Kind, sub: &fram_api::Subresource) -> (&'a str, &'a str, &'a str) {
    sub.kind.unwrap_or((&kind.group, &kind.version, &kind.kind))
}

/// The document at /api/v1 and /apis/GROUP/VERSION.
pub(crate) fn resource_list(api: &Api, group: &str, version: &str) -> Option<Value> {
    let mut all = Vec::new();
    for kind in resources_of(api, group, version) {
        let mut resource = object!({
            "name": (&kind.plural), "singularName": (&kind.singular), "namespaced": (kind.is_namespaced()),
            "kind": (&kind.kind), "verbs": (texts(kind.verbs.iter().copied()))
        });
        for (field, items) in [("shortNames", &kind.short), ("categories", &kind.categories)] {
            if !items.is_empty() {
                resource.set(&[field], texts(items.iter().map(|i| i.as_str())));
            }
        }
        all.push(resource);
        for sub in &kind.subresources {
            let (g, v, k) = body_of(kind, sub);
            let mut resource = object!({
                "name": (format!("{}/{}", kind.plural, sub.name)), "singularName": "", "namespaced": (kind.is_namespaced()),
                "kind": k, "verbs": (texts(sub.verbs.iter().copied()))
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
    for group in groups(api).into_iter().filter(|g| g.name.is_empty() == core) {
        let version = |(v, kinds): &(&str, Vec<&Kind>)| {
            let resources: Vec<Value> = kinds.iter().map(|k| aggregated_resource(k)).collect();
            object!({ "version": (*v), "resources": resources, "freshness": "Current" })
        };
        let versions: Vec<Value> = group.versions.iter().map(version).collect();
        let mut metadata = object!({ "creationTimestamp": null });
        if !group.name.is_empty() {
            metadata.set(&["name"], group.name);
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
        "resource": (&kind.plural), "responseKind": (response_kind(&kind.group, &kind.version, &kind.kind)), "scope": scope,
        "singularResource": (&kind.singular), "verbs": (texts(kind.verbs.iter().copied()))
    });
    for (field, items) in [("shortNames", &kind.short), ("categories", &kind.categories)] {
        if !items.is_empty() {
            out.set(&[field], texts(items.iter().map(|i| i.as_str())));
        }
    }
    let subresource = |sub: &fram_api::Subresource| {
        let (g, v, k) = body_of(kind, sub);
        object!({ "subresource": (sub.name), "responseKind": (response_kind(g, v, k)), "verbs": (texts(sub.verbs.iter().copied())) })
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
