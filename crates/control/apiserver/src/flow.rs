//! Flow control in the server: the way of each request past it, and the objects by which it is configured, which are followed,
//! repaired and given their status. What runs, waits or is refused is fram-flowcontrol's business.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use fram_client::ListOptions;
use fram_flowcontrol::{Class, Digest, FlowControl, InFlight, Listed, Permit, Ticket, Watched, defaults};
use fram_machinery::{Reason, Status, Value, meta, object};
use fram_store::Revision;
use http::HeaderValue;
use tokio_util::sync::CancellationToken;

use crate::authorize::Attributes;
use crate::bootstrap::ensure;
use crate::definitions::{settled, write};
use crate::keeping::keep;
use crate::registry::{CORE, Place, Registry};
use crate::server::Server;
use crate::user::{MASTERS, User};

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const SCHEMAS: &str = "flowschemas";
const LEVELS: &str = "prioritylevelconfigurations";
/// How often seats are lent and borrowed anew; see upstream's borrowingAdjustmentPeriod.
const PERIOD: Duration = Duration::from_secs(10);

/// How often it is counted how much there is of each resource, as upstream does.
const COUNTED: Duration = Duration::from_secs(60);

/// How requests are kept from overwhelming the server.
#[derive(Clone, Default)]
pub(crate) enum Flow {
    #[default]
    Unlimited,
    Fair(Arc<FlowControl>),
    InFlight(Arc<InFlight>),
}

/// What a request holds while it is carried out.
pub(crate) enum Held {
    Nothing,
    Seats(#[allow(dead_code, reason = "held until the request ends")] Ticket),
    Place(#[allow(dead_code, reason = "held until the request ends")] Permit),
}

impl Flow {
    /// Lets a request in, now or later. Its class is told even where it is refused.
    pub(crate) async fn enter(&self, user: &User, a: &Attributes, listed: Listed) -> (Option<Class>, Result<Held, Status>) {
        match self {
            Self::Unlimited => (None, Ok(Held::Nothing)),
            // A watch is there for long and costs little; see WithMaxInFlightLimit.
            Self::InFlight(_) if user.is_in(MASTERS) || a.verb == "watch" => (None, Ok(Held::Nothing)),
            Self::InFlight(limits) => (None, limits.enter(&a.verb).map(Held::Place).ok_or_else(too_many)),
            Self::Fair(control) => {
                let digest = Digest {
                    user: &user.name,
                    groups: &user.groups,
                    verb: &a.verb,
                    group: &a.group,
                    resource: &a.resource,
                    subresource: &a.subresource,
                    // A namespace itself is at cluster scope, whatever it is called.
                    namespace: if a.resource == "namespaces" && a.group.is_empty() { "" } else { &a.namespace },
                    path: &a.path,
                };
                let (class, ticket) = control.enter(&digest, listed).await;
                (class, ticket.map(Held::Seats).map_err(|_| too_many()))
            }
        }
    }

    /// Counts a watch for as long as what is returned lives.
    pub(crate) fn watch(&self, a: &Attributes) -> Option<Watched> {
        match self {
            Self::Fair(control) => Some(control.estimator.watch(&a.group, &a.resource, &a.namespace)),
            _ => None,
        }
    }

    /// What one sees of the queues; None where there are none, or none of that name.
    pub(crate) fn dump(&self, table: &str) -> Option<String> {
        match self {
            Self::Fair(control) => control.dump(table),
            _ => None,
        }
    }
}

fn too_many() -> Status {
    let mut status = Status::new(Reason::TooManyRequests, "Too many requests, please try again later.");
    status.retry_after_seconds = 1;
    status
}

/// The headers that tell a client how its request was classified.
pub(crate) fn headers(class: &Class) -> impl Iterator<Item = (&'static str, HeaderValue)> {
    let pairs = [("x-kubernetes-pf-flowschema-uid", &class.schema_uid), ("x-kubernetes-pf-prioritylevel-uid", &class.level_uid)];
    pairs.map(|(name, uid)| Some((name, HeaderValue::try_from(&**uid).ok()?))).into_iter().flatten()
}

/// What a list's width goes by.
pub(crate) fn listed(a: &Attributes, options: &ListOptions) -> Listed {
    let changes = !options.send_initial_events && !matches!(options.resource_version.as_str(), "" | "0");
    Listed { limit: options.limit.into(), single: !a.name.is_empty(), only_changes: a.verb == "watch" && changes }
}

async fn all(registry: &Registry, plural: &str) -> Result<Vec<Value>, Status> {
    let place = place(registry, plural, "")?;
    let listing = registry.list(&place, &Default::default()).await?;
    listing.items.iter().map(|entry| registry.decode(&place.served, entry)).collect()
}

fn place(registry: &Registry, plural: &str, name: &str) -> Result<Place, Status> {
    let served = registry.served(GROUP, "v1", plural).ok_or_else(Status::no_such_path)?;
    Ok(Place { served, namespace: String::new(), name: name.into() })
}

impl Server {
    /// Makes the objects that flow control needs and takes them over.
    pub(crate) async fn start_flow_control(&self) -> Result<(), Status> {
        let Flow::Fair(control) = &self.flow else { return Ok(()) };
        self.configure_flow_control(control).await
    }

    /// Keeps flow control true to its objects, and these as they have to be, until `stop`.
    pub async fn follow_flow_control(self: Arc<Self>, stop: CancellationToken) {
        let Flow::Fair(control) = self.flow.clone() else { return stop.cancelled().await };
        let what = "following flow schemas and priority levels";
        keep(stop, what, (self, control), |(server, control)| Box::pin(server.follow_flow_control_once(control))).await;
    }

    async fn follow_flow_control_once(&self, control: &FlowControl) -> Result<(), Status> {
        let prefix = format!("{}{GROUP}/", self.registry.prefix);
        let revision = self.registry.store.revision().await.map_err(Status::internal)?;
        let mut watch = self.registry.store.watch(&prefix, revision).await.map_err(Status::internal)?;
        let mut period = tokio::time::interval(PERIOD);
        period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut count, mut counted) = (tokio::time::interval(COUNTED), None);
        count.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.configure_flow_control(control).await?;
        loop {
            tokio::select! {
                biased;
                changed = watch.next() => {
                    changed.map_err(Status::internal)?;
                    self.configure_flow_control(control).await?;
                }
                _ = period.tick() => control.adjust(),
                _ = count.tick() => match self.count_objects(control, counted).await {
                    Ok(revision) => counted = Some(revision),
                    Err(status) => tracing::warn!(%status, "what there is of each resource could not be counted"),
                },
            }
        }
    }

    /// Counts what there is of each resource, by which the width of lists goes; see upstream's StorageObjectCountTracker.
    /// Nothing is done where the store is at the revision `counted` still.
    async fn count_objects(&self, control: &FlowControl, counted: Option<Revision>) -> Result<Revision, Status> {
        let snapshot = self.registry.store.snapshot(None).await.map_err(Status::internal)?;
        if counted == Some(snapshot.revision()) {
            return Ok(snapshot.revision());
        }
        let mut found: HashMap<(&str, &str), (usize, usize)> = HashMap::new();
        for entry in snapshot.prefix(&self.registry.prefix) {
            let mut parts = entry.key[self.registry.prefix.len()..].split('/');
            let counted = found.entry((parts.next().unwrap_or_default(), parts.next().unwrap_or_default())).or_default();
            *counted = (counted.0 + 1, counted.1 + entry.value.len());
        }
        control.estimator.replace(found.into_iter().map(|((group, resource), (objects, bytes))| {
            let group = if group == CORE { "" } else { group };
            (group, resource, objects, bytes)
        }));
        Ok(snapshot.revision())
    }

    async fn configure_flow_control(&self, control: &FlowControl) -> Result<(), Status> {
        let registry = &self.registry;
        repair(registry, LEVELS, defaults::priority_levels()).await?;
        repair(registry, SCHEMAS, defaults::flow_schemas()).await?;
        let (schemas, levels) = (all(registry, SCHEMAS).await?, all(registry, LEVELS).await?);
        control.configure(&schemas, &levels);
        for schema in &schemas {
            observe(registry, schema, &levels).await?;
        }
        Ok(())
    }
}

/// Makes what is missing and puts right what is not as it should be.
async fn repair(registry: &Arc<Registry>, plural: &str, wanted: Vec<Value>) -> Result<(), Status> {
    let found = all(registry, plural).await?;
    for wanted in wanted {
        let name = meta::name(&wanted);
        let Some(found) = found.iter().find(|f| meta::name(f) == name) else {
            ensure(registry, wanted).await.map_err(|e| Status::internal(e.to_string()))?;
            continue;
        };
        if meta::is_terminating(found) || defaults::repaired(&wanted, found).is_none() {
            continue;
        }
        let place = place(registry, plural, name)?;
        let decide = |current: &Value| Ok(defaults::repaired(&wanted, current).unwrap_or_else(|| current.clone()));
        settled(registry.update(&place, "", &write(), decide).await.map(drop))?;
    }
    Ok(())
}

/// The condition by which a schema says whether its level is there; see upstream's syncFlowSchemaStatus.
fn dangling(schema: &Value, levels: &[Value]) -> (&'static str, &'static str, String) {
    let level = schema.str_at(&["spec", "priorityLevelConfiguration", "name"]);
    let about = format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?}");
    match levels.iter().any(|l| meta::name(l) == level) {
        true => ("False", "Found", format!("{about} and it exists")),
        false => ("True", "NotFound", format!("{about} but there is no such object")),
    }
}

fn condition(object: &Value) -> Option<&Value> {
    object.list_at(&["status", "conditions"]).iter().find(|c| c.str_at(&["type"]) == "Dangling")
}

async fn observe(registry: &Registry, schema: &Value, levels: &[Value]) -> Result<(), Status> {
    let (status, reason, message) = dangling(schema, levels);
    let says = |object: &Value| condition(object).is_some_and(|c| c.str_at(&["status"]) == status && c.str_at(&["message"]) == message);
    if says(schema) {
        return Ok(());
    }
    let now = registry.environment.now_text();
    let decide = |current: &Value| {
        let mut next = current.clone();
        if says(current) {
            return Ok(next);
        }
        let since = condition(current).filter(|c| c.str_at(&["status"]) == status).map(|c| c.str_at(&["lastTransitionTime"]).to_string());
        let wanted = object!({ "type": "Dangling", "status": status, "reason": reason, "message": (message.as_str()),
            "lastTransitionTime": (since.unwrap_or_else(|| now.clone())) });
        let conditions = next.place(&["status", "conditions"]).make_list();
        conditions.retain(|c| c.str_at(&["type"]) != "Dangling");
        conditions.push(wanted);
        Ok(next)
    };
    let place = place(registry, SCHEMAS, meta::name(schema))?;
    settled(registry.update(&place, "status", &write(), decide).await.map(drop))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_says_whether_its_level_is_there() {
        let levels = defaults::priority_levels();
        let schema = object!({ "spec": { "priorityLevelConfiguration": { "name": "exempt" } } });
        assert_eq!(dangling(&schema, &levels).1, "Found");
        let (status, reason, message) = dangling(&schema, &[]);
        assert_eq!((status, reason), ("True", "NotFound"));
        assert_eq!(
            message,
            "This FlowSchema references the PriorityLevelConfiguration object named \"exempt\" but there is no such object"
        );
    }
}
