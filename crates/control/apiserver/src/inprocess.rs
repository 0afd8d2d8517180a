//! Access for components of the same process: no socket and no encoding, and the same law as outside. Each call carries its
//! user and passes authorization and admission.

use std::sync::Arc;

use fram_audit::Trail;
use fram_client::{Call, EventKind, ListOptions, Page, Reply, Resource, Transport, Verb, WatchEvent, WatchStream};
use fram_flowcontrol::{Listed, Watched};
use fram_machinery::{Status, Value, meta, object};

use crate::aggregator::inprocess as aggregated;
use crate::audit;
use crate::authorize::Attributes;
use crate::flow;
use crate::registry::{Change, ChangeKind, Place, Registry, Selection, WatchRequest, Watching};
use crate::server::{Answer, Performed, Server, attributes_of};
use crate::user::User;

/// A transport into a server of the same process, as one user.
pub struct InProcess {
    server: Arc<Server>,
    user: User,
}

impl InProcess {
    pub fn new(server: Arc<Server>, user: User) -> Self {
        Self { server, user }
    }

    fn reply(&self, answer: Answer) -> Result<Reply, Status> {
        let registry = &self.server.registry;
        Ok(match answer {
            Answer::Stored { served, entry } => Reply::Object(Arc::new(registry.decode(&served, &entry)?)),
            Answer::Object { object, .. } | Answer::Other { object, .. } | Answer::Deleted { object, .. } => {
                Reply::Object(Arc::new(object))
            }
            Answer::List { place, listing } => {
                if let Some(objects) = listing.objects {
                    let items = objects.into_iter().map(Arc::new).collect();
                    let (resource_version, continue_token) = (listing.revision.to_string(), listing.continue_token);
                    return Ok(Reply::Page(Page { resource_version, continue_token, items }));
                }
                let decode = |entry: &Arc<fram_store::Entry>| registry.decode(&place.served, entry).map(Arc::new);
                let items = listing.items.iter().map(decode).collect::<Result<_, _>>()?;
                Reply::Page(Page { resource_version: listing.revision.to_string(), continue_token: listing.continue_token, items })
            }
            Answer::Objects { objects, .. } => {
                Reply::Page(Page { items: objects.into_iter().map(Arc::new).collect(), ..Default::default() })
            }
        })
    }
}

#[async_trait::async_trait]
impl Transport for InProcess {
    async fn call(&self, call: Call) -> Result<Reply, Status> {
        let attributes = attributes_of(&call);
        let trail = self.server.audit.as_ref().and_then(|a| audit::of_call(&self.server, a, &self.user, &attributes));
        let services = self.server.aggregator.services();
        if let Some(service) = services.answering(&call.resource.group, &call.resource.version) {
            let reply = audit::within(trail.clone(), Box::pin(aggregated::call(&self.server, &self.user, service, call))).await;
            tell(trail.as_ref(), &reply);
            return reply;
        }
        let performed = audit::within(trail.clone(), Box::pin(self.carry_out(call, &attributes))).await;
        if performed.is_err() {
            tell(trail.as_ref(), &performed);
        }
        self.reply(performed?.answer)
    }

    async fn watch(&self, resource: &Resource, namespace: &str, options: ListOptions) -> Result<WatchStream, Status> {
        let attributes = Attributes {
            verb: "watch".into(),
            group: resource.group.to_string(),
            version: resource.version.to_string(),
            resource: resource.plural.to_string(),
            namespace: namespace.into(),
            name: crate::server::selected_name(&options.field_selector).unwrap_or_default(),
            fields: options.field_selector.clone(),
            labels: options.label_selector.clone(),
            ..Default::default()
        };
        let trail = self.server.audit.as_ref().and_then(|a| audit::of_call(&self.server, a, &self.user, &attributes));
        let services = self.server.aggregator.services();
        if let Some(service) = services.answering(&resource.group, &resource.version) {
            let watch = aggregated::watch(&self.server, &self.user, service, (resource, namespace), options, &attributes);
            let watch = audit::within(trail.clone(), Box::pin(watch)).await;
            tell(trail.as_ref(), &watch);
            return watch;
        }
        let watch = audit::within(trail.clone(), self.begin_watch(resource, namespace, options, &attributes)).await;
        tell(trail.as_ref(), &watch);
        if let Some(trail) = &trail {
            trail.started();
        }
        let (watching, place) = watch?;
        let held = (trail, self.server.flow.watch(&attributes));
        Ok(Box::pin(futures_util::stream::unfold(Some((watching, (self.server.registry.clone(), place), held)), next)))
    }
}

/// Tells the auditor what came of a call.
fn tell<T>(trail: Option<&Trail>, outcome: &Result<T, Status>) {
    if let Some(trail) = trail {
        let failure = outcome.as_ref().err();
        trail.answered(failure.map_or(200, |status| status.code), failure);
    }
}

impl InProcess {
    async fn carry_out(&self, call: Call, attributes: &Attributes) -> Result<Performed, Status> {
        let listed = match &call.verb {
            Verb::List(options) => flow::listed(attributes, options),
            _ => Listed::default(),
        };
        let _seats = self.server.flow.enter(&self.user, attributes, listed).await.1?;
        self.server.perform(&self.user, call, Vec::new()).await
    }

    async fn begin_watch(
        &self,
        resource: &Resource,
        namespace: &str,
        options: ListOptions,
        attributes: &Attributes,
    ) -> Result<(Watching, Place), Status> {
        let _seats = self.server.flow.enter(&self.user, attributes, flow::listed(attributes, &options)).await.1?;
        let place = self.server.place_of(resource, namespace, "", true)?;
        self.server.authorizer.check(&self.user, attributes)?;
        let request = WatchRequest {
            selection: Selection::parse(place.kind(), &options.label_selector, &options.field_selector)?,
            resource_version: options.resource_version,
            resource_version_match: options.resource_version_match,
            send_initial_events: options.send_initial_events.then_some(true),
            bookmarks: options.allow_bookmarks,
        };
        let watching = self.server.registry.watch(&place, request).await;
        self.server.requests.count(attributes, true, false, &watching, None);
        Ok((watching?, place))
    }
}

/// A watch, what it is about and where, and what lasts as long as it: its trail, and being counted.
type State = Option<(Watching, (Arc<Registry>, Place), (Option<Trail>, Option<Watched>))>;

async fn next(state: State) -> Option<(Result<WatchEvent, Status>, State)> {
    let (mut watching, (registry, place), held) = state?;
    match watching.next().await.and_then(|change| event(&registry, &place, &change)) {
        Ok(event) => Some((Ok(event), Some((watching, (registry, place), held)))),
        Err(status) => Some((Err(status), None)),
    }
}

fn event(registry: &Registry, place: &Place, change: &Change) -> Result<WatchEvent, Status> {
    let kind = match change.kind {
        ChangeKind::Added => EventKind::Added,
        ChangeKind::Modified => EventKind::Modified,
        ChangeKind::Deleted => EventKind::Deleted,
        ChangeKind::Bookmark | ChangeKind::InitialEventsEnd => EventKind::Bookmark,
    };
    let object = match &change.entry {
        Some(entry) => change.unmanaged(registry, &place.served, entry)?,
        None => bookmark(place, change),
    };
    Ok(WatchEvent { kind, object: Arc::new(object) })
}

fn bookmark(place: &Place, change: &Change) -> Value {
    let kind = place.kind();
    let mut object = object!({ "kind": (&kind.kind), "apiVersion": (kind.api_version()), "metadata": { "resourceVersion": (change.revision.to_string()) } });
    if change.kind == ChangeKind::InitialEventsEnd {
        meta::set_annotation(&mut object, "k8s.io/initial-events-end", "true");
    }
    object
}
