//! What a request asks for, read once, before anything else is done with it; see upstream's RequestInfo.

use std::sync::Arc;

use fram_client::ListOptions;
use fram_flowcontrol::Listed;
use http::Request;

use crate::aggregator::ApiService;
use crate::authorize::Attributes;
use crate::flow;
use crate::path::{self, Query, ResourcePath, verb};
use crate::server::Server;

pub(super) struct Info {
    /// The server that answers in this one's place.
    pub(super) elsewhere: Option<Arc<ApiService>>,
    /// None for requests that are not about resources of this server.
    pub(super) resource: Option<ResourcePath>,
    pub(super) query: Query,
    pub(super) attributes: Attributes,
}

impl Info {
    pub(super) fn read<B>(server: &Server, request: &Request<B>) -> Self {
        let query = Query::parse(request.uri().query());
        let path = request.uri().path();
        let served = |r: &ResourcePath| server.registry.served(&r.group, &r.version, &r.plural).is_some();
        let elsewhere = server.aggregator.services().route(path).cloned();
        match path::parse(path).filter(|r| elsewhere.is_some() || served(r)) {
            Some(resource) => {
                let attributes = attributes(request, &resource, &query);
                Self { resource: Some(resource).filter(|_| elsewhere.is_none()), elsewhere, query, attributes }
            }
            None => {
                let verb = request.method().as_str().to_lowercase();
                Self { elsewhere, resource: None, query, attributes: Attributes { verb, path: path.into(), ..Default::default() } }
            }
        }
    }

    /// What the width of a list or watch goes by.
    pub(super) fn listed(&self) -> Listed {
        let options = ListOptions {
            limit: self.query.get("limit").parse().unwrap_or(0),
            resource_version: self.query.get("resourceVersion").into(),
            send_initial_events: self.query.flag("sendInitialEvents"),
            ..Default::default()
        };
        flow::listed(&self.attributes, &options)
    }

    /// Whether the request goes on for as long as its client likes; see upstream's BasicLongRunningRequestCheck.
    pub(super) fn is_long_running(&self) -> bool {
        let streams = ["attach", "exec", "proxy", "log", "portforward"];
        self.attributes.verb == "watch" || streams.contains(&self.attributes.subresource.as_str())
    }
}

/// What the request is to authorization; see RequestInfoFactory.
fn attributes<B>(request: &Request<B>, resource: &ResourcePath, query: &Query) -> Attributes {
    let verb = verb(request.method(), resource, query.flag("watch"));
    // Who selects one object by its name may do so by a right to that one.
    let selects = matches!(verb, "list" | "watch") && resource.name.is_empty();
    let selected = if selects { crate::server::selected_name(query.get("fieldSelector")) } else { None };
    let asked = resource.attributes(verb);
    Attributes {
        name: selected.unwrap_or_else(|| resource.name.clone()),
        fields: query.get("fieldSelector").into(),
        labels: query.get("labelSelector").into(),
        ..asked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_authorized_by_what_it_asks() {
        let of = |method: &str, uri: &str| {
            let request = Request::builder().method(method).uri(uri).body(()).unwrap();
            let resource = path::parse(request.uri().path()).unwrap();
            let a = attributes(&request, &resource, &Query::parse(request.uri().query()));
            (a.verb, a.resource, a.namespace, a.name)
        };
        let text = |v: &str, r: &str, ns: &str, n: &str| (v.to_string(), r.to_string(), ns.to_string(), n.to_string());
        assert_eq!(of("GET", "/apis/a.com/v1/namespaces/x/things?watch=true"), text("watch", "things", "x", ""));
        assert_eq!(of("GET", "/apis/a.com/v1/things?fieldSelector=metadata.name%3Dy"), text("list", "things", "", "y"));
        assert_eq!(of("DELETE", "/apis/a.com/v1/namespaces/x/things/y"), text("delete", "things", "x", "y"));
        // A right to one object is no right to make or to delete others.
        assert_eq!(of("POST", "/apis/a.com/v1/things?fieldSelector=metadata.name%3Dy"), text("create", "things", "", ""));
        assert_eq!(of("DELETE", "/apis/a.com/v1/things?fieldSelector=metadata.name%3Dy"), text("deletecollection", "things", "", ""));
    }
}
