//! What other servers offer, as it was last heard of them: their resources and where their OpenAPI documents are. Pure; asking them is
//! the business of `documents`.

use std::collections::BTreeMap;
use std::sync::Arc;

use fram_client::Resource;
use fram_machinery::{Map, Value, object};

/// What one APIService's server offers for its group version.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Offer {
    /// The resources of an APIVersionDiscovery; null where nothing was ever heard.
    pub(crate) resources: Value,
    /// It was heard when it was last asked.
    pub(crate) fresh: bool,
    /// The server's own address of its OpenAPI v3 document.
    pub(crate) version_3: Option<String>,
    /// The part of its OpenAPI v2 document that is about the group version.
    pub(crate) version_2: Option<Arc<Value>>,
    /// Of the v2 document, so that it is fetched once.
    pub(crate) tag_2: String,
}

impl Offer {
    /// An APIVersionDiscovery.
    pub(crate) fn version(&self, name: &str) -> Value {
        let mut version = object!({ "version": name, "freshness": (if self.fresh { "Current" } else { "Stale" }) });
        if !self.resources.is_null() {
            version.set(&["resources"], self.resources.clone());
        }
        version
    }
}

/// A kind of objects that another server keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AggregatedKind {
    pub resource: Resource,
    pub kind: String,
    pub namespaced: bool,
}

/// By the names of their APIServices.
#[derive(Debug, Clone, Default)]
pub(crate) struct Offers(BTreeMap<String, Arc<Offer>>);

impl Offers {
    pub(crate) fn get(&self, name: &str) -> Option<&Arc<Offer>> {
        self.0.get(name)
    }

    /// The kinds whose objects can be listed, followed and deleted; the others keep nothing.
    pub(crate) fn kinds(&self) -> Vec<AggregatedKind> {
        let all = self.0.iter().flat_map(|(name, offer)| {
            let (version, group) = name.split_once('.').unwrap_or((name, ""));
            let resources = offer.resources.as_list().cloned().unwrap_or_default();
            let kept = |r: &Value| {
                let verbs = r.list_at(&["verbs"]);
                ["list", "watch", "delete", "deletecollection"].iter().all(|verb| verbs.iter().any(|v| v.as_str() == Some(verb)))
            };
            let kind = |r: &Value| AggregatedKind {
                resource: Resource {
                    group: group.to_string().into(),
                    version: version.to_string().into(),
                    plural: r.str_at(&["resource"]).to_string().into(),
                },
                kind: r.str_at(&["responseKind", "kind"]).into(),
                namespaced: r.str_at(&["scope"]) == "Namespaced",
            };
            resources.iter().filter(|r| kept(r)).map(kind).collect::<Vec<_>>()
        });
        all.collect()
    }

    #[must_use]
    pub(crate) fn with(&self, name: &str, offer: Option<Offer>) -> Self {
        let mut next = self.clone();
        match offer {
            Some(offer) => drop(next.0.insert(name.into(), Arc::new(offer))),
            None => drop(next.0.remove(name)),
        }
        next
    }
}

/// The resources of a group version in an APIGroupDiscoveryList; null where it is not among them.
pub(crate) fn resources_in(document: &Value, group: &str, version: &str) -> Value {
    let groups = document.list_at(&["items"]).iter().filter(|g| g.str_at(&["metadata", "name"]) == group);
    let mut versions = groups.flat_map(|g| g.list_at(&["versions"])).filter(|v| v.str_at(&["version"]) == version);
    versions.next().map_or(Value::Null, |v| v.list_at(&["resources"]).to_vec().into())
}

/// The resources of an APIResourceList in the form of aggregated discovery; see ConvertGroupVersionIntoToDiscovery.
pub(crate) fn from_legacy(document: &Value) -> Value {
    let (group, version) = document.str_at(&["groupVersion"]).split_once('/').unwrap_or(("", document.str_at(&["groupVersion"])));
    let own = |resource: &Value, field: &str, own: &str| match resource.str_at(&[field]) {
        "" => own.to_string(),
        other => other.to_string(),
    };
    let kind =
        |r: &Value| object!({ "group": (own(r, "group", group)), "version": (own(r, "version", version)), "kind": (r.str_at(&["kind"])) });
    let mut all: Vec<Value> = Vec::new();
    for resource in document.list_at(&["resources"]) {
        let name = resource.str_at(&["name"]);
        let scope = if resource.bool_at(&["namespaced"]) == Some(true) { "Namespaced" } else { "Cluster" };
        let verbs = resource.list_at(&["verbs"]).to_vec();
        let Some((parent, sub)) = name.split_once('/') else {
            let mut entry = Map::new();
            entry.insert("resource", name);
            entry.insert("responseKind", kind(resource));
            entry.insert("scope", scope);
            entry.insert("singularResource", resource.str_at(&["singularName"]));
            entry.insert("verbs", verbs);
            for field in ["shortNames", "categories"].into_iter().filter(|f| !resource.list_at(&[f]).is_empty()) {
                entry.insert(field, resource.list_at(&[field]).to_vec());
            }
            all.push(entry.into());
            continue;
        };
        let sub = object!({ "subresource": sub, "responseKind": (kind(resource)), "verbs": verbs });
        let position = all.iter().position(|r| r.str_at(&["resource"]) == parent).unwrap_or_else(|| {
            // A subresource may be served without its resource.
            all.push(object!({ "resource": parent, "responseKind": {}, "scope": scope }));
            all.len() - 1
        });
        all[position].place(&["subresources"]).make_list().push(sub);
    }
    all.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_form_of_discovery_becomes_the_new_one() {
        let old = object!({ "kind": "APIResourceList", "groupVersion": "a.com/v1", "resources": [
            { "name": "things", "singularName": "thing", "namespaced": true, "kind": "Thing", "verbs": ["get"], "shortNames": ["th"] },
            { "name": "things/status", "singularName": "", "namespaced": true, "kind": "Thing", "verbs": ["update"] },
            { "name": "things/scale", "singularName": "", "namespaced": true, "group": "autoscaling", "version": "v1", "kind": "Scale", "verbs": ["get"] },
            { "name": "lone/sub", "singularName": "", "namespaced": false, "kind": "Sub", "verbs": ["get"] }
        ] });
        let expect = object!([
            { "resource": "things", "responseKind": { "group": "a.com", "version": "v1", "kind": "Thing" }, "scope": "Namespaced",
              "singularResource": "thing", "verbs": ["get"], "shortNames": ["th"], "subresources": [
                { "subresource": "status", "responseKind": { "group": "a.com", "version": "v1", "kind": "Thing" }, "verbs": ["update"] },
                { "subresource": "scale", "responseKind": { "group": "autoscaling", "version": "v1", "kind": "Scale" }, "verbs": ["get"] } ] },
            { "resource": "lone", "responseKind": {}, "scope": "Cluster", "subresources": [
                { "subresource": "sub", "responseKind": { "group": "a.com", "version": "v1", "kind": "Sub" }, "verbs": ["get"] } ] }
        ]);
        assert_eq!(from_legacy(&old), expect);
    }

    #[test]
    fn only_the_group_version_that_was_asked_for_is_taken() {
        let document = object!({ "items": [
            { "metadata": { "name": "a.com" }, "versions": [{ "version": "v1", "resources": [{ "resource": "things" }] }, { "version": "v2" }] },
            { "metadata": { "name": "b.com" }, "versions": [{ "version": "v1", "resources": [{ "resource": "others" }] }] }
        ] });
        assert_eq!(resources_in(&document, "a.com", "v1"), object!([{ "resource": "things" }]));
        assert_eq!(resources_in(&document, "a.com", "v3"), Value::Null);
    }

    #[test]
    fn kinds_that_keep_objects_are_told_from_those_that_do_not() {
        let resources = object!([
            { "resource": "things", "scope": "Namespaced", "responseKind": { "kind": "Thing" }, "verbs": ["get", "list", "watch", "delete", "deletecollection"] },
            { "resource": "nodes", "scope": "Cluster", "responseKind": { "kind": "NodeMetrics" }, "verbs": ["get", "list"] }
        ]);
        let offers = Offers::default().with("v1.a.com", Some(Offer { resources, ..Default::default() }));
        let thing = AggregatedKind { resource: Resource::new("a.com", "v1", "things"), kind: "Thing".into(), namespaced: true };
        assert_eq!(offers.kinds(), [thing]);
        assert_eq!(offers.with("v1.a.com", None).kinds(), []);
    }

    #[test]
    fn a_server_that_was_not_heard_is_stale() {
        let mut offer = Offer::default();
        assert_eq!(offer.version("v1"), object!({ "version": "v1", "freshness": "Stale" }));
        offer = Offer { resources: object!([]), fresh: true, ..offer };
        assert_eq!(offer.version("v1"), object!({ "version": "v1", "freshness": "Current", "resources": [] }));
    }
}
