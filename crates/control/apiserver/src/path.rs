//! What a URL asks for: a resource, or something beside the resources. See upstream's RequestInfoFactory.

use http::Method;

use crate::authorize::Attributes;

/// The parts of a resource path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ResourcePath {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) namespace: String,
    pub(crate) plural: String,
    pub(crate) name: String,
    pub(crate) subresource: String,
    /// What follows the subresource, for proxies.
    pub(crate) rest: String,
    /// The deprecated `/watch/` prefix stood in front.
    pub(crate) watch: bool,
}

impl ResourcePath {
    /// What doing this with it is to authorization.
    pub(crate) fn attributes(&self, verb: &str) -> Attributes {
        // A namespace is within itself, so that roles in it may speak of it.
        let is_namespace = self.plural == "namespaces" && self.group.is_empty();
        Attributes {
            verb: verb.into(),
            group: self.group.clone(),
            version: self.version.clone(),
            resource: self.plural.clone(),
            subresource: self.subresource.clone(),
            namespace: if is_namespace { self.name.clone() } else { self.namespace.clone() },
            name: self.name.clone(),
            ..Default::default()
        }
    }
}

/// Reads a resource path; None where the path is not one.
pub(crate) fn parse(path: &str) -> Option<ResourcePath> {
    let mut parts = path.trim_matches('/').split('/');
    let mut out = ResourcePath::default();
    match parts.next()? {
        "api" => out.version = parts.next()?.into(),
        "apis" => {
            out.group = parts.next().filter(|group| !group.is_empty())?.into();
            out.version = parts.next()?.into();
        }
        _ => return None,
    }
    if out.version.is_empty() {
        return None;
    }
    let mut rest: Vec<&str> = parts.collect();
    if rest.first() == Some(&"watch") {
        out.watch = true;
        rest.remove(0);
    }
    if rest.is_empty() || rest.iter().any(|p| p.is_empty()) {
        return None;
    }
    // What stands for a slash, or for another segment, would be a different path to whoever reads it next.
    if rest.iter().map(|p| decode(p)).any(|p| p == "." || p == ".." || p.contains('/')) && !leads_on(&rest) {
        return None;
    }
    // `namespaces/x/status` and `namespaces/x/finalize` are about the namespace itself.
    let within =
        rest[0] == "namespaces" && rest.len() > 2 && !(out.group.is_empty() && matches!(rest[2], "status" | "finalize") && rest.len() == 3);
    if within {
        out.namespace = decode(rest[1]);
        rest.drain(..2);
    }
    let mut rest = rest.into_iter();
    out.plural = rest.next()?.to_string();
    out.name = rest.next().map(decode).unwrap_or_default();
    out.subresource = rest.next().unwrap_or_default().to_string();
    out.rest = rest.collect::<Vec<_>>().join("/");
    if out.plural == "namespaces" && out.group.is_empty() {
        out.namespace = String::new();
    }
    Some(out)
}

/// Whether a path goes on behind a proxy, where anything may stand, and nothing odd before it.
fn leads_on(rest: &[&str]) -> bool {
    let Some(proxy) = rest.iter().position(|p| *p == "proxy") else { return false };
    rest[..proxy].iter().map(|p| decode(p)).all(|p| p != "." && p != ".." && !p.contains('/'))
}

/// Percent-decodes one path segment or query value.
pub(crate) fn decode(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// The verb that authorization knows for a request.
pub(crate) fn verb(method: &Method, path: &ResourcePath, watch: bool) -> &'static str {
    let collection = path.name.is_empty();
    match *method {
        // Who names one object gets it, whatever else the query says.
        Method::GET | Method::HEAD if path.watch || (watch && collection) => "watch",
        Method::GET | Method::HEAD if collection => "list",
        Method::GET | Method::HEAD => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if collection => "deletecollection",
        Method::DELETE => "delete",
        _ => "",
    }
}

/// The query parameters of a URL, decoded.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(text: Option<&str>) -> Self {
        let value = |v: &str| decode(&v.replace('+', " "));
        let pairs = text.unwrap_or_default().split('&').filter(|p| !p.is_empty());
        Self(pairs.map(|p| p.split_once('=').unwrap_or((p, ""))).map(|(k, v)| (value(k), value(v))).collect())
    }

    pub(crate) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(k, _)| k == name).map_or("", |(_, v)| v)
    }

    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(k, _)| k == name)
    }

    /// `true` and `1` are true, as in Go's conversion of query parameters.
    pub(crate) fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), "true" | "1" | "True" | "TRUE" | "t")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, expect: [&str; 6]) {
        let p = parse(path).unwrap();
        assert_eq!([&p.group, &p.version, &p.namespace, &p.plural, &p.name, &p.subresource], expect, "{path}");
    }

    #[test]
    fn resource_paths_are_taken_apart() {
        check("/api/v1/pods", ["", "v1", "", "pods", "", ""]);
        check("/api/v1/namespaces/a/pods/b/log", ["", "v1", "a", "pods", "b", "log"]);
        check("/api/v1/namespaces/a", ["", "v1", "", "namespaces", "a", ""]);
        check("/api/v1/namespaces/a/finalize", ["", "v1", "", "namespaces", "a", "finalize"]);
        check("/apis/apps/v1/namespaces/a/deployments/b/scale", ["apps", "v1", "a", "deployments", "b", "scale"]);
        check(
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:x",
            ["rbac.authorization.k8s.io", "v1", "", "clusterroles", "system:x", ""],
        );
        check("/api/v1/nodes/n/proxy/logs/x", ["", "v1", "", "nodes", "n", "proxy"]);
        assert!(parse("/api/v1/watch/namespaces/a/pods").unwrap().watch);
        assert_eq!(parse("/api/v1/nodes/n/proxy/a%2Fb/../c").unwrap().rest, "a%2Fb/../c");
        let odd = ["/api/v1/pods/x%2Fy", "/api/v1/namespaces/a/pods/..%2Fb", "/api/v1/namespaces/../pods", "/api/v1/nodes/%2E/proxy/x"];
        for other in
            ["/healthz", "/api", "/apis/apps", "/apis/apps/v1", "/api/v1//pods", "/apis/apps//v1/x", "/apis//v1/x"].into_iter().chain(odd)
        {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn who_names_an_object_gets_it_and_watches_nothing() {
        let asked = |path: &str, watch| verb(&Method::GET, &parse(path).unwrap(), watch);
        assert_eq!(asked("/api/v1/pods", true), "watch");
        assert_eq!(asked("/api/v1/namespaces/a/pods/b", true), "get");
        assert_eq!(asked("/api/v1/namespaces/a/secrets/b/scale", true), "get");
        assert_eq!(asked("/api/v1/watch/namespaces/a/pods/b", false), "watch");
    }

    #[test]
    fn query_values_are_decoded() {
        let q = Query::parse(Some("labelSelector=a%3Db&command=ls&command=-l+x&watch=1"));
        assert_eq!(q.get("labelSelector"), "a=b");
        assert_eq!(q.all("command").collect::<Vec<_>>(), ["ls", "-l x"]);
        assert!(q.flag("watch") && !q.flag("limit"));
    }
}
