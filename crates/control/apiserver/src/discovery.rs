//! Discovery: which groups, versions and resources there are, in the old form and aggregated.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fram_api::{Api, Kind};
use fram_machinery::{Value, object};

use crate::aggregator::{ApiService, Offer, Offers, Services};

/// All that can be discovered: what this server serves, and what others answer.
pub(crate) struct Known<'a> {
    pub(crate) api: &'a Api,
    pub(crate) services: &'a Services,
    pub(crate) offers: &'a Offers,
}

impl<'a> Known<'a> {
    /// Who else has the OpenAPI v3 document at a path.
    pub(crate) fn version_3_elsewhere(&self, parts: &[&str]) -> Option<&'a ApiService> {
        match parts {
            ["openapi", "v3", "apis", group, version] => self.services.answering(group, version).map(|s| &**s),
            _ => None,
        }
    }
}

/// The order in which upstream writes the fields of these documents: there are scripts that look at their text.
pub(crate) const RESOURCES: &[&str] = &[
    "name",
    "singularName",
    "namespaced",
    "group",
    "version",
    "kind",
    "apiVersion",
    "groupVersion",
    "verbs",
    "shortNames",
    "categories",
    "storageVersionHash",
];
pub(crate) const GROUPS: &[&str] = &["kind", "apiVersion", "name", "versions", "groupVersion", "version", "preferredVersion"];
pub(crate) const AGGREGATED: &[&str] = &[
    "group",
    "version",
    "resources",
    "kind",
    "apiVersion",
    "metadata",
    "resource",
    "subresource",
    "responseKind",
    "scope",
    "singularResource",
    "acceptedTypes",
    "verbs",
    "shortNames",
    "categories",
];

pub(crate) const VERSION: &[&str] = &[
    "major",
    "minor",
    "emulationMajor",
    "emulationMinor",
    "minCompatibilityMajor",
    "minCompatibilityMinor",
    "gitVersion",
    "gitCommit",
    "gitTreeState",
    "buildDate",
    "goVersion",
    "compiler",
    "platform",
];

/// A group with its versions, the preferred one first.
struct Group<'a> {
    name: &'a str,
    versions: Vec<(&'a str, Content<'a>)>,
}

/// Who answers a group version.
enum Content<'a> {
    Own(Vec<&'a Kind>),
    Elsewhere(&'a ApiService),
}

/// Groups in the order in which clients prefer them.
fn groups<'a>(known: &Known<'a>) -> Vec<Group<'a>> {
    let mut all: BTreeMap<&str, BTreeMap<&str, Content>> = BTreeMap::new();
    for service in known.services.remote() {
        all.entry(&service.group).or_default().insert(&service.version, Content::Elsewhere(service));
    }
    for kind in known.api.kinds().filter(|k| !k.plural.is_empty()) {
        let version = all.entry(&kind.group).or_default().entry(&kind.version).or_insert_with(|| Content::Own(Vec::new()));
        if let Content::Own(kinds) = version {
            kinds.push(kind);
        }
    }
    let mut all: Vec<Group> = all
        .into_iter()
        .map(|(name, versions)| {
            let mut versions: Vec<_> = versions.into_iter().collect();
            versions.sort_by(|(a, _), (b, _)| known.services.compare_versions(name, a, b));
            Group { name, versions }
        })
        .collect();
    let versions = |group: &Group<'a>| group.versions.iter().map(|(v, _)| *v).collect::<Vec<_>>().into_iter();
    all.sort_by(|a, b| known.services.compare_groups((a.name, versions(a)), (b.name, versions(b))));
    all
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
pub(crate) fn group_list(known: &Known) -> Value {
    let all: Vec<Value> = groups(known).iter().filter(|g| !g.name.is_empty()).map(group_object).collect();
    object!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": all })
}

/// The document at /apis/GROUP.
pub(crate) fn group(known: &Known, name: &str) -> Option<Value> {
    let group = groups(known).into_iter().find(|g| g.name == name && !name.is_empty())?;
    let mut object = group_object(&group);
    object.set(&["kind"], "APIGroup");
    object.set(&["apiVersion"], "v1");
    Some(object)
}

fn texts<'a>(items: impl IntoIterator<Item = &'a str>) -> Value {
    items.into_iter().map(Value::from).collect::<Vec<_>>().into()
}

fn resources_of<'a>(api: &'a Api, group: &'a str, version: &'a str) -> impl Iterator<Item = &'a Arc<Kind>> {
    api.kinds().filter(move |k| !k.plural.is_empty() && k.group == group && k.version == version)
}

/// Changes when objects of the kind are stored in another version; see StorageVersionHash.
fn storage_version_hash(stored: &Kind) -> String {
    let name = format!("{}/{}/{}", stored.group, stored.version, stored.kind);
    let digest = ring::digest::digest(&ring::digest::SHA256, name.as_bytes());
    base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &digest.as_ref()[..8])
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
        let stored = api.storage_of(kind);
        if stored.storage && kind.has_verb("get") {
            resource.set(&["storageVersionHash"], storage_version_hash(&stored));
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
pub(crate) fn aggregated(known: &Known, core: bool) -> Value {
    let mut items = Vec::new();
    for group in groups(known).into_iter().filter(|g| g.name.is_empty() == core) {
        let version = |(name, content): &(&str, Content)| match content {
            Content::Own(kinds) => {
                let resources: Vec<Value> = kinds.iter().map(|k| aggregated_resource(k)).collect();
                object!({ "version": (*name), "resources": resources, "freshness": "Current" })
            }
            Content::Elsewhere(service) => {
                let offer = known.offers.get(&service.name);
                offer.map_or_else(|| Offer::default().version(name), |offer| offer.version(name))
            }
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

/// Paths that are about no objects.
const BESIDE: [&str; 11] = [
    "/.well-known/openid-configuration",
    "/apis",
    "/healthz",
    "/livez",
    "/metrics",
    "/metrics/slis",
    "/openapi/v2",
    "/openapi/v3",
    "/openid/v1/jwks",
    "/readyz",
    "/version",
];

/// The document at /: where there is something to be read.
pub(crate) fn index(known: &Known) -> Value {
    let mut paths: BTreeSet<String> = BESIDE.map(String::from).into();
    for group in groups(known) {
        let root = if group.name.is_empty() { "/api".to_string() } else { format!("/apis/{}", group.name) };
        paths.extend(group.versions.iter().map(|(version, _)| format!("{root}/{version}")));
        paths.insert(root);
    }
    object!({ "paths": (paths.into_iter().map(Value::from).collect::<Vec<_>>()) })
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
        let hash = |name: &str| {
            let found = pods.list_at(&["resources"]).iter().find(|r| r.str_at(&["name"]) == name).unwrap();
            found.str_at(&["storageVersionHash"]).to_string()
        };
        // Upstream's own, as `kubectl get --raw /api/v1` of any cluster shows it.
        assert_eq!((hash("pods").as_str(), hash("bindings").as_str()), ("xPOwRZ+Yhw8=", ""));
        assert!(resource_list(&api, "apps", "v2").is_none());
        let known = Known { api: &api, services: &Services::default(), offers: &Offers::default() };
        let autoscaling = group(&known, "autoscaling").unwrap();
        assert_eq!(autoscaling.str_at(&["preferredVersion", "version"]), "v2");
        assert_eq!(aggregated(&known, true).list_at(&["items"]).len(), 1);
        let first = group_list(&known).list_at(&["groups"])[0].str_at(&["name"]).to_string();
        assert_eq!(first, "apiregistration.k8s.io");
        let index = index(&known);
        let paths: Vec<&str> = index.list_at(&["paths"]).iter().filter_map(Value::as_str).collect();
        assert!(["/api/v1", "/apis/apps", "/apis/apps/v1", "/version"].iter().all(|path| paths.contains(path)), "{paths:?}");
        assert!(paths.is_sorted() && !paths.contains(&"/apis/"), "{paths:?}");
    }

    #[test]
    fn documents_are_written_in_the_order_of_upstreams_fields() {
        let api = Api::builtin().unwrap();
        let text = |value: &Value, order| String::from_utf8(fram_machinery::json::to_vec_in_order(value, order)).unwrap();
        let resources = text(&resource_list(&api, "", "v1").unwrap(), RESOURCES);
        let pods = r#"{"name":"pods","singularName":"pod","namespaced":true,"kind":"Pod","verbs":["create","delete","deletecollection","get","list","patch","update","watch"],"shortNames":["po"],"categories":["all"],"storageVersionHash":"xPOwRZ+Yhw8="}"#;
        assert!(
            resources.starts_with(r#"{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"v1","resources":[{"name":"#),
            "{resources}"
        );
        assert!(resources.contains(pods), "{resources}");
        let known = Known { api: &api, services: &Services::default(), offers: &Offers::default() };
        let apps = r#"{"kind":"APIGroup","apiVersion":"v1","name":"apps","versions":[{"groupVersion":"apps/v1","version":"v1"}],"preferredVersion":{"groupVersion":"apps/v1","version":"v1"}}"#;
        assert_eq!(text(&group(&known, "apps").unwrap(), GROUPS), apps);
        let all = text(&aggregated(&known, true), AGGREGATED);
        let pods = r#"{"resource":"pods","responseKind":{"group":"","version":"v1","kind":"Pod"},"scope":"Namespaced","singularResource":"pod","verbs":["#;
        assert!(
            all.starts_with(r#"{"kind":"APIGroupDiscoveryList","apiVersion":"apidiscovery.k8s.io/v2","metadata":{},"items":["#),
            "{all}"
        );
        assert!(all.contains(pods), "{all}");
        assert!(all.contains(r#""versions":[{"version":"v1","resources":["#), "{all}");
        assert!(text(&version(), VERSION).starts_with(r#"{"major":"1","minor":"36","emulationMajor":"#));
    }

    #[test]
    fn what_another_server_answers_is_discovered_too_and_stale_until_it_was_heard() {
        let api = Api::builtin().unwrap();
        let service = object!({ "metadata": { "name": "v1.a.com" }, "spec": { "group": "a.com", "version": "v1",
            "groupPriorityMinimum": 19000, "versionPriority": 1, "service": { "namespace": "ns", "name": "api" } } });
        let services = Services::new([ApiService::read(&service)]);
        let mut known = Known { api: &api, services: &services, offers: &Offers::default() };
        let found = |known: &Known| aggregated(known, false).list_at(&["items"])[1].clone();
        let stale = object!({ "metadata": { "creationTimestamp": null, "name": "a.com" }, "versions": [{ "version": "v1", "freshness": "Stale" }] });
        assert_eq!(found(&known), stale);
        let heard = Offer { resources: object!([{ "resource": "things" }]), fresh: true, ..Default::default() };
        let offers = Offers::default().with("v1.a.com", Some(heard));
        known.offers = &offers;
        assert_eq!(found(&known).list_at(&["versions"])[0].str_at(&["freshness"]), "Current");
        assert_eq!(group(&known, "a.com").unwrap().str_at(&["preferredVersion", "groupVersion"]), "a.com/v1");
        assert!(known.version_3_elsewhere(&["openapi", "v3", "apis", "a.com", "v1"]).is_some());
    }
}
