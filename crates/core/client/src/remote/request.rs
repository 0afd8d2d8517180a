//! Calls as HTTP requests. Pure.

use std::fmt::Write;

use bytes::Bytes;
use fram_machinery::{Map, Value, json};
use http::{Method, Request, header};
use http_body_util::Full;

use crate::options::{DeleteOptions, ListOptions, WriteOptions};
use crate::resources::Resource;
use crate::transport::{Call, Verb};

fn path(resource: &Resource, namespace: &str, name: &str, subresource: &str) -> String {
    let mut path = resource.root_path();
    if !namespace.is_empty() {
        path.extend(["/namespaces/", namespace]);
    }
    path.extend(["/", &resource.plural]);
    for part in [name, subresource].into_iter().filter(|p| !p.is_empty()) {
        path.extend(["/", part]);
    }
    path
}

/// Query parameters, those without a value left out.
#[derive(Default)]
struct Query(String);

impl Query {
    fn add(&mut self, name: &str, value: impl std::fmt::Display) {
        let value = value.to_string();
        if !value.is_empty() {
            let separator = if self.0.is_empty() { '?' } else { '&' };
            let value = percent_encoding::utf8_percent_encode(&value, percent_encoding::NON_ALPHANUMERIC);
            // Writing to a String cannot fail.
            let _ = write!(self.0, "{separator}{name}={value}");
        }
    }

    fn flag(&mut self, name: &str, on: bool) {
        if on {
            self.add(name, "true");
        }
    }

    fn list(&mut self, options: &ListOptions) {
        self.add("labelSelector", &options.label_selector);
        self.add("fieldSelector", &options.field_selector);
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

pub(super) fn of_call(call: &Call) -> Result<Request<Full<Bytes>>, http::Error> {
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
    request(method, path + &query.0, content, body)
}

pub(super) fn of_watch(resource: &Resource, namespace: &str, options: &ListOptions) -> Result<Request<Full<Bytes>>, http::Error> {
    let mut query = Query::default();
    query.add("watch", "true");
    query.list(options);
    query.flag("allowWatchBookmarks", options.allow_bookmarks);
    query.flag("sendInitialEvents", options.send_initial_events);
    request(Method::GET, path(resource, namespace, "", "") + &query.0, JSON, Vec::new())
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
}
