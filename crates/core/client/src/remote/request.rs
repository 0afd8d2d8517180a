//! Calls as HTTP requests. Pure.

use std::fmt::Write;

use bytes::Bytes;
use fram_machinery::{Map, Status, Value, json};
use http::{Method, Request, header};
use http_body_util::Full;

use crate::options::{DeleteOptions, ListOptions, WriteOptions};
use crate::resources::Resource;
use crate::transport::{Call, Verb};

/// The path of a collection, of an object where a name is given, or of its subresource.
pub fn path(resource: &Resource, namespace: &str, name: &str, subresource: &str) -> String {
    let mut path = resource.root_path();
    if !namespace.is_empty() {
        path.extend(["/namespaces/", &encoded(namespace)]);
    }
    path.extend(["/", &resource.plural]);
    for part in [&encoded(name), subresource].into_iter().filter(|p| !p.is_empty()) {
        path.extend(["/", part]);
    }
    path
}

/// A text as it may stand in a path or query.
pub fn encoded(text: &str) -> String {
    /// Names are of these and letters; see RFC 3986's unreserved characters, and the colons of RBAC's names.
    const MEANT: percent_encoding::AsciiSet =
        percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':');
    percent_encoding::utf8_percent_encode(text, &MEANT).to_string()
}

/// Query parameters, those without a value left out.
#[derive(Debug, Clone, Default)]
pub struct Query(String);

impl Query {
    /// A query from pairs.
    pub fn of(pairs: &[(&str, &str)]) -> Self {
        let mut query = Self::default();
        pairs.iter().for_each(|(name, value)| query.add(name, value));
        query
    }

    pub fn add(&mut self, name: &str, value: impl std::fmt::Display) {
        let value = value.to_string();
        if !value.is_empty() {
            self.put(name, &value);
        }
    }

    /// Adds a parameter, be its value empty.
    pub fn put(&mut self, name: &str, value: &str) {
        let separator = if self.0.is_empty() { '?' } else { '&' };
        let value = percent_encoding::utf8_percent_encode(value, percent_encoding::NON_ALPHANUMERIC);
        // Writing to a String cannot fail.
        let _ = write!(self.0, "{separator}{name}={value}");
    }

    fn flag(&mut self, name: &str, on: bool) {
        if on {
            self.add(name, "true");
        }
    }

    fn list(&mut self, options: &ListOptions) {
        self.add("labelSelector", &options.label_selector);
        self.add("fieldSelector", &options.field_selector);
        self.add("metricLabelSelector", &options.metric_selector);
        if options.limit > 0 {
            self.add("limit", options.limit);
        }
        self.add("continue", &options.continue_token);
        self.add("resourceVersion", &options.resource_version);
        self.add("resourceVersionMatch", &options.resource_version_match);
        if let Some(seconds) = options.timeout_seconds {
            self.add("timeoutSeconds", seconds);
        }
    }

    fn write(&mut self, options: &WriteOptions) {
        self.add("fieldManager", &options.field_manager);
        self.add("fieldValidation", &options.field_validation);
        if options.dry_run {
            self.add("dryRun", "All");
        }
        self.flag("force", options.force);
    }
}

impl std::fmt::Display for Query {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A name that a path can carry; one that is empty would mean the whole collection. See upstream's rest.Request.Name and
/// path.IsValidPathSegmentName.
fn check_name(name: &str, needed: bool) -> Result<(), Status> {
    let why = match name {
        "" if needed => return Err(Status::bad_request("resource name may not be empty")),
        "." | ".." => format!("may not be '{name}'"),
        _ => match name.chars().find(|c| matches!(c, '/' | '%')) {
            Some(c) => format!("may not contain '{c}'"),
            None => return Ok(()),
        },
    };
    Err(Status::bad_request(format!("invalid resource name {name:?}: [{why}]")))
}

fn request(method: Method, uri: String, content: &str, body: Vec<u8>) -> Result<Request<Full<Bytes>>, http::Error> {
    Request::builder()
        .method(method)
        .uri(uri)
        .header(header::ACCEPT, "application/json")
        .header(header::CONTENT_TYPE, content)
        .header(header::USER_AGENT, concat!("fram/", env!("CARGO_PKG_VERSION")))
        .body(Full::new(body.into()))
}

const JSON: &str = "application/json";

/// A call as the request that carries it, for a path with query.
pub fn of_call(call: &Call) -> Result<Request<Full<Bytes>>, Status> {
    let about_one = matches!(call.verb, Verb::Get | Verb::Update { .. } | Verb::Patch { .. } | Verb::Delete(_));
    check_name(&call.name, about_one)?;
    let path = path(&call.resource, &call.namespace, &call.name, &call.subresource);
    let mut query = Query::default();
    let (method, content, body) = match &call.verb {
        Verb::Get => (Method::GET, JSON, Vec::new()),
        Verb::List(options) => {
            query.list(options);
            (Method::GET, JSON, Vec::new())
        }
        Verb::Create { object, options } => {
            query.write(options);
            (Method::POST, JSON, json::to_vec(object))
        }
        Verb::Update { object, options } => {
            query.write(options);
            (Method::PUT, JSON, json::to_vec(object))
        }
        Verb::Patch { patch, options } => {
            query.write(options);
            (Method::PATCH, patch.kind.content_type(), json::to_vec(&patch.body))
        }
        Verb::Delete(options) => (Method::DELETE, JSON, delete_body(options)),
        Verb::DeleteCollection { delete, list } => {
            query.list(list);
            (Method::DELETE, JSON, delete_body(delete))
        }
    };
    request(method, path + &query.0, content, body).map_err(Status::internal)
}

/// A watch as the request that begins it.
pub fn of_watch(resource: &Resource, namespace: &str, options: &ListOptions) -> Result<Request<Full<Bytes>>, Status> {
    let mut query = Query::default();
    query.add("watch", "true");
    query.list(options);
    query.flag("allowWatchBookmarks", options.allow_bookmarks);
    query.flag("sendInitialEvents", options.send_initial_events);
    request(Method::GET, path(resource, namespace, "", "") + &query.0, JSON, Vec::new()).map_err(Status::internal)
}

fn delete_body(options: &DeleteOptions) -> Vec<u8> {
    let mut body = Map::new();
    body.insert("kind", "DeleteOptions");
    body.insert("apiVersion", "v1");
    if let Some(seconds) = options.grace_period_seconds {
        body.insert("gracePeriodSeconds", seconds);
    }
    if let Some(policy) = options.propagation {
        body.insert("propagationPolicy", policy.as_str());
    }
    let mut preconditions = Map::new();
    for (name, value) in [("uid", &options.preconditions.uid), ("resourceVersion", &options.preconditions.resource_version)] {
        if let Some(value) = value {
            preconditions.insert(name, value.as_str());
        }
    }
    if !preconditions.is_empty() {
        body.insert("preconditions", preconditions);
    }
    if options.dry_run {
        body.insert("dryRun", vec![Value::from("All")]);
    }
    json::to_vec(&Value::Map(body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::{DEPLOYMENTS, PODS};

    #[test]
    fn paths_and_queries_are_those_of_the_api() {
        let call = Call { resource: DEPLOYMENTS, namespace: "ns".into(), name: "d".into(), subresource: "scale".into(), verb: Verb::Get };
        assert_eq!(of_call(&call).unwrap().uri(), "/apis/apps/v1/namespaces/ns/deployments/d/scale");
        let options = ListOptions { label_selector: "a=b".into(), allow_bookmarks: true, ..Default::default() };
        assert_eq!(of_watch(&PODS, "", &options).unwrap().uri(), "/api/v1/pods?watch=true&labelSelector=a%3Db&allowWatchBookmarks=true");
    }

    #[test]
    fn a_call_about_one_object_names_it() {
        let call =
            |name: &str, verb: Verb| Call { resource: PODS, namespace: "ns".into(), name: name.into(), subresource: String::new(), verb };
        let asked = |name: &str, verb: Verb| of_call(&call(name, verb)).map(|r| r.uri().to_string()).map_err(|s| s.message);
        let patch = || crate::Patch { kind: crate::PatchKind::Merge, body: Value::default() };
        for verb in [
            Verb::Get,
            Verb::Delete(DeleteOptions::default()),
            Verb::Update { object: Value::default(), options: WriteOptions::default() },
            Verb::Patch { patch: patch(), options: WriteOptions::default() },
        ] {
            assert_eq!(asked("", verb), Err("resource name may not be empty".into()));
        }
        assert_eq!(asked("", Verb::List(ListOptions::default())), Ok("/api/v1/namespaces/ns/pods".into()));
        assert_eq!(asked("a?b", Verb::Get), Ok("/api/v1/namespaces/ns/pods/a%3Fb".into()));
        assert_eq!(asked("system:a", Verb::Get), Ok("/api/v1/namespaces/ns/pods/system:a".into()));
        assert_eq!(asked("..", Verb::Get), Err("invalid resource name \"..\": [may not be '..']".into()));
        assert_eq!(asked("a/b", Verb::Get), Err("invalid resource name \"a/b\": [may not contain '/']".into()));
    }

    #[test]
    fn queries_are_encoded_and_leave_out_what_is_empty() {
        assert_eq!(Query::of(&[("labelSelector", "a=b,c"), ("x", "")]).to_string(), "?labelSelector=a%3Db%2Cc");
        assert_eq!(Query::of(&[("x", "")]).to_string(), "");
        let mut query = Query::of(&[("command", "echo")]);
        query.put("command", "");
        assert_eq!(query.to_string(), "?command=echo&command=");
    }
}
