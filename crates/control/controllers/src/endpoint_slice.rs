//! EndpointSlices (and the Endpoints of old): the addresses of the pods behind each Service.

pub(crate) mod figures;
mod packing;
mod plan;
mod topology;
mod trigger;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use fram_client::resources::{ENDPOINT_SLICES, ENDPOINTS, NODES, PODS, SERVICES};
use fram_client::{Action, Controller, DeleteOptions, Delta, Enqueuer, EventRecorder, Informer, NODE_INDEX};
use fram_machinery::labels::Selector;
use fram_machinery::{Reason, Status, Value, meta};
use jiff::Timestamp;
use parking_lot::Mutex;

use crate::Context;
use crate::metrics::Metrics;
use crate::objects::{Objects, Seen, settled};
use plan::{Around, Sizes};
use topology::{Spreads, Zones};
use trigger::Triggers;

pub(crate) const SLICES: &str = "endpointslice-controller";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Of kind Endpoints.
pub(crate) const ENDPOINTS_THEMSELVES: &str = "endpoints-controller";

pub(crate) fn start(context: &Context) {
    let (services, pods) = (context.informers.get(&SERVICES), context.informers.get(&PODS));
    let (slices, nodes) = (context.informers.get(&ENDPOINT_SLICES), context.informers.get(&NODES));
    let endpoints = context.informers.get(&ENDPOINTS);
    let state: Arc<Mutex<State>> = Arc::default();
    context.metrics.slices.begin();
    let reconciler = Reconciler {
        slices: Objects::new(&context.client("endpointslice-controller"), &slices),
        makes_slices: context.selection.runs(SLICES),
        endpoints: context.selection.runs(ENDPOINTS_THEMSELVES).then(|| Objects::new(&context.client("endpoint-controller"), &endpoints)),
        services: services.clone(),
        pods: pods.clone(),
        nodes: nodes.clone(),
        state: state.clone(),
        events: context.recorder("endpointslice-controller", "endpoint-slice-controller"),
        metrics: context.metrics.clone(),
    };
    let (selected, by_node, on_nodes) = (services.clone(), services.clone(), pods.clone());
    let controller = Controller::new("endpointslice", 5)
        .owns(&services)
        .watches_deltas(&pods, move |delta| services_concerned(delta, &selected))
        .watches(&slices, |slice| match (meta::label(slice, plan::MANAGED_BY), meta::label(slice, plan::SERVICE)) {
            (Some(plan::MANAGER), Some(service)) => vec![format!("{}/{service}", meta::namespace(slice))],
            _ => Vec::new(),
        })
        // Those that somebody else makes are no business of this one, and those that it changes are left as upstream leaves them.
        .watches_deltas(&endpoints, |delta| delta.new.is_none().then(|| delta.key()).into_iter().collect())
        .watches_deltas(&nodes, move |delta| {
            let mut concerned = state.lock().note_node(delta);
            // Most changes of nodes are heartbeats.
            let zone = |node: &Option<Arc<Value>>| node.as_deref().and_then(plan::zone_of).map(String::from);
            if zone(&delta.old) != zone(&delta.new) {
                let here = on_nodes.by_index(NODE_INDEX, meta::name(delta.object()));
                let told = |pod: &Arc<Value>| services_concerned(&Delta { old: None, new: Some(pod.clone()) }, &by_node);
                concerned.extend(here.iter().flat_map(told));
            }
            concerned
        });
    if context.selection.runs(ENDPOINTS_THEMSELVES) {
        let leftovers = leftovers(services, endpoints, controller.enqueuer());
        context.tasks.spawn(context.stop.clone().run_until_cancelled_owned(leftovers));
    }
    context.run(controller, reconciler, |r, key| async move { r.reconcile(&key).await });
}

/// Has the Endpoints looked at whose Services went while nobody looked. Others may come before their Services, so once is enough.
async fn leftovers(services: Informer, endpoints: Informer, enqueuer: Enqueuer) {
    if !services.synced().await || !endpoints.synced().await {
        return;
    }
    let all = endpoints.list();
    // Those of old leader elections never had one.
    let left = all.iter().filter(|e| services.get(&meta::key(e)).is_none() && meta::annotation(e, LEADER).is_none());
    left.for_each(|endpoints| enqueuer.add(meta::key(endpoints)));
}

/// The Services whose selector matches a pod, as it is or as it was, where what they tell of it has changed.
fn services_concerned(delta: &Delta, services: &Informer) -> Vec<String> {
    let sides = [delta.old.as_deref(), delta.new.as_deref()];
    if plan::tells_the_same(sides[0], sides[1]) {
        return Vec::new();
    }
    let selects = |service: &Value, pod: &Value| selector(service).is_some_and(|s| s.matches(meta::labels(pod)));
    let all = services.by_namespace(meta::namespace(delta.object()));
    all.iter().filter(|s| sides.into_iter().flatten().any(|pod| selects(s, pod))).map(|s| meta::key(s)).collect()
}

/// The selector of a Service; None for one whose endpoints others write.
fn selector(service: &Value) -> Option<Selector> {
    let map = service.at(&["spec", "selector"]).and_then(Value::as_map).filter(|m| !m.is_empty())?;
    (service.str_at(&["spec", "type"]) != "ExternalName").then(|| Selector::from_map(map))
}

/// What is remembered of Services and nodes.
#[derive(Default)]
struct State {
    zones: Zones,
    /// Of Services that ask for their traffic to be spread over zones.
    spreads: HashMap<String, Spreads>,
    triggers: HashMap<String, Triggers>,
    counted: HashMap<String, Counted>,
}

/// What metrics say of a Service: how much there is of it, and how its traffic is distributed.
#[derive(Default)]
struct Counted {
    sizes: Sizes,
    distribution: String,
}

impl State {
    /// Takes in a change of a node; gives the Services whose traffic is to be spread otherwise.
    fn note_node(&mut self, delta: &Delta) -> Vec<String> {
        if !self.zones.note(&delta.key(), delta.new.as_deref()) || self.spreads.is_empty() {
            return Vec::new();
        }
        let ratios = self.zones.ratios();
        let concerned = self.spreads.iter().filter(|(_, spreads)| topology::is_to_be_spread_again(spreads, &ratios));
        concerned.map(|(key, _)| key.clone()).collect()
    }
}

struct Reconciler {
    slices: Objects,
    makes_slices: bool,
    /// None where somebody else makes them, or nobody.
    endpoints: Option<Objects>,
    services: Informer,
    pods: Informer,
    nodes: Informer,
    state: Arc<Mutex<State>>,
    events: EventRecorder,
    metrics: Metrics,
}

impl Reconciler {
    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let (namespace, name) = key.split_once('/').unwrap_or(("", key));
        let own = |s: &Arc<Value>| meta::label(s, plan::SERVICE) == Some(name) && meta::label(s, plan::MANAGED_BY) == Some(plan::MANAGER);
        let mut seen = self.slices.within(namespace).await?;
        seen.objects.retain(|slice| self.makes_slices && own(slice));
        let service = self.services.get(key);
        if service.is_none()
            && let Some(all) = &self.endpoints
            && let Some(endpoints) = all.get(namespace, name)
        {
            all.delete(&endpoints, DeleteOptions::default()).await?;
        }
        let Some((service, selector)) = service.and_then(|s| selector(&s).map(|sel| (s, sel))) else {
            for slice in &seen.objects {
                self.slices.delete(slice, DeleteOptions::default()).await?;
            }
            let mut state = self.state.lock();
            state.spreads.remove(key);
            state.triggers.remove(key);
            if let Some(gone) = state.counted.remove(key) {
                self.metrics.slices.hold(&gone.sizes, &Sizes::default());
                self.metrics.slices.distribute(&gone.distribution, "");
            }
            return Ok(again(&seen));
        };
        let mut pods = self.pods.by_namespace(namespace);
        pods.retain(|p| selector.matches(meta::labels(p)));
        let told = self.state.lock().triggers.get(key).cloned();
        let (triggers, changed_at) = trigger::since(told.as_ref(), &service, &pods);
        let mut is_old = false;
        if self.makes_slices {
            match self.write_slices(key, &service, &pods, &seen, changed_at).await? {
                // The namespace ends: so will the Service.
                None => return Ok(Action::Done),
                Some(old) => is_old = old,
            }
        }
        if let Some(endpoints) = &self.endpoints {
            write_endpoints(endpoints, &service, &pods, changed_at).await?;
        }
        self.state.lock().triggers.insert(key.into(), triggers);
        Ok(if is_old { Action::After(Duration::from_millis(1)) } else { again(&seen) })
    }

    /// Whether a node changed meanwhile that did not know of this Service; None where no slice may be made any more.
    async fn write_slices(
        &self,
        key: &str,
        service: &Value,
        pods: &[Arc<Value>],
        seen: &Seen,
        changed_at: Option<Timestamp>,
    ) -> Result<Option<bool>, Status> {
        let zone = |node: &str| self.nodes.get(node).as_deref().and_then(plan::zone_of).map(String::from);
        let ratios = self.state.lock().zones.ratios();
        let plan = plan::slices(service, pods, &seen.objects, Around { zone_of: &zone, ratios: &ratios, changed_at });
        for slice in plan.create {
            match self.slices.create(meta::namespace(service), slice).await {
                Err(status) if status.is(Reason::Forbidden) || status.is(Reason::NotFound) => return Ok(None),
                other => drop(other?),
            }
        }
        for slice in plan.update {
            self.slices.update(slice).await?;
        }
        for slice in seen.objects.iter().filter(|slice| plan.delete.iter().any(|name| name == meta::name(slice))) {
            self.slices.delete(slice, DeleteOptions::default()).await?;
        }
        self.count(key, service, plan.sizes);
        let is_asked_for = !plan.spreads.is_empty();
        self.tell(key, service, plan.spreads);
        Ok(Some(is_asked_for && self.state.lock().zones.ratios() != ratios))
    }

    fn count(&self, key: &str, service: &Value, sizes: Sizes) {
        let mut state = self.state.lock();
        let counted = state.counted.entry(key.into()).or_default();
        let distribution = if topology::is_wanted(service) { "" } else { service.str_at(&["spec", "trafficDistribution"]) };
        self.metrics.slices.synced(&sizes);
        self.metrics.slices.hold(&counted.sizes, &sizes);
        self.metrics.slices.distribute(&counted.distribution, distribution);
        *counted = Counted { sizes, distribution: distribution.into() };
    }

    /// Remembers how a Service's traffic is spread, and tells of what is new.
    fn tell(&self, key: &str, service: &Value, spreads: Spreads) {
        let mut state = self.state.lock();
        let before = state.spreads.remove(key).unwrap_or_default();
        for (warning, reason, message) in topology::news(&before, &spreads) {
            self.events.event(service, warning, reason, message);
        }
        if !spreads.is_empty() {
            state.spreads.insert(key.into(), spreads);
        }
    }
}

async fn write_endpoints(all: &Objects, service: &Value, pods: &[Arc<Value>], changed_at: Option<Timestamp>) -> Result<(), Status> {
    let mut wanted = plan::endpoints(service, pods);
    let written = match all.get(meta::namespace(service), meta::name(service)) {
        None => {
            trigger::mark(&mut wanted, changed_at);
            all.create(meta::namespace(service), wanted).await
        }
        Some(current) => match plan::changed_endpoints(&current, &wanted, changed_at) {
            None => return Ok(()),
            Some(next) => all.update(next).await,
        },
    };
    match written {
        Err(status) if status.is(Reason::Forbidden) => Ok(()),
        written => settled(written),
    }
}

fn again(seen: &Seen) -> Action {
    seen.again(None).map_or(Action::Done, Action::After)
}
