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

fn attributes<B>(request: &Request<B>, resource: &ResourcePath, query: &Query) -> Attributes {
    let watch = query.flag("watch") && request.method() == http::Method::GET;
    // A name makes it a get of one object, but not for streams, whose flags are the kubelet's.
    let watch = watch && resource.subresource.is_empty();
    let verb = verb(request.method(), resource, watch);
    let many = matches!(verb, "list" | "watch" | "deletecollection");
    let selected = if many && resource.name.is_empty() { crate::server::selected_name(query.get("fieldSelector")) } else { None };
    let asked = resource.attributes(verb);
    Attributes { name: selected.unwrap_or_else(|| resource.name.clone()), fields: query.get("fieldSelector").into(), ..asked }
}
