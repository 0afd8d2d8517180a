//! EndpointSlices (and the Endpoints of old): the addresses of the pods behind each Service.

mod plan;

use std::sync::Arc;

use fram_client::resources::{ENDPOINT_SLICES, ENDPOINTS, PODS, SERVICES};
use fram_client::{Action, Client, Controller, DeleteOptions, Delta, Informer, ListOptions};
use fram_machinery::labels::Selector;
use fram_machinery::{Reason, Status, Value, meta};

use crate::Context;

pub(crate) fn start(context: &Context) {
    let (services, pods) = (context.informers.get(&SERVICES), context.informers.get(&PODS));
    let slices = context.informers.get(&ENDPOINT_SLICES);
    let reconciler = Reconciler {
        slices_client: context.client("endpointslice-controller"),
        endpoints_client: context.client("endpoint-controller"),
        services: services.clone(),
        pods: pods.clone(),
    };
    let selected = services.clone();
    let controller = Controller::new("endpointslice", 5)
        .owns(&services)
        .watches_deltas(&pods, move |delta| services_concerned(delta, &selected))
        .watches(&slices, |slice| match (meta::label(slice, plan::MANAGED_BY), meta::label(slice, plan::SERVICE)) {
            (Some(plan::MANAGER), Some(service)) => vec![format!("{}/{service}", meta::namespace(slice))],
            _ => Vec::new(),
        });
    context.run(controller, reconciler, |r, key| async move { r.reconcile(&key).await });
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

struct Reconciler {
    slices_client: Client,
    endpoints_client: Client,
    services: Informer,
    pods: Informer,
}

impl Reconciler {
    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let (namespace, name) = key.split_once('/').unwrap_or(("", key));
        let slices = self.slices_client.within(&ENDPOINT_SLICES, namespace);
        let labels = format!("{}={name},{}={}", plan::SERVICE, plan::MANAGED_BY, plan::MANAGER);
        let existing = slices.list(ListOptions { label_selector: labels, ..Default::default() }).await?.items;
        let service = self.services.get(key);
        if service.is_none() {
            let endpoints = self.endpoints_client.within(&ENDPOINTS, namespace);
            ignore_missing(endpoints.delete(name, DeleteOptions::default()).await)?;
        }
        let Some((service, selector)) = service.and_then(|s| selector(&s).map(|sel| (s, sel))) else {
            for slice in &existing {
                ignore_missing(slices.delete(meta::name(slice), DeleteOptions::default()).await)?;
            }
            return Ok(Action::Done);
        };
        let mut pods = self.pods.by_namespace(namespace);
        pods.retain(|p| selector.matches(meta::labels(p)));
        let plan = plan::slices(&service, &pods, &existing);
        for slice in plan.create {
            match slices.create(slice).await {
                // The namespace ends: so will the Service.
                Err(status) if status.is(Reason::Forbidden) || status.is(Reason::NotFound) => return Ok(Action::Done),
                other => drop(other?),
            }
        }
        for slice in plan.update {
            slices.update(slice).await?;
        }
        for name in plan.delete {
            ignore_missing(slices.delete(&name, DeleteOptions::default()).await)?;
        }
        self.write_endpoints(&service, &pods).await?;
        Ok(Action::Done)
    }

    async fn write_endpoints(&self, service: &Value, pods: &[Arc<Value>]) -> Result<(), Status> {
        let endpoints = self.endpoints_client.within(&ENDPOINTS, meta::namespace(service));
        let wanted = plan::endpoints(service, pods);
        let written = match endpoints.find(meta::name(service)).await? {
            None => endpoints.create(wanted).await,
            Some(current)
                if current.get("subsets").unwrap_or(&Value::Null) == wanted.get("subsets").unwrap_or(&Value::Null)
                    && meta::labels(&current) == meta::labels(&wanted) =>
            {
                return Ok(());
            }
            Some(current) => {
                let mut next = (*current).clone();
                next.set(&["subsets"], wanted.get("subsets").cloned());
                next.set(&["metadata", "labels"], meta::labels(&wanted).clone());
                endpoints.update(next).await
            }
        };
        match written {
            Err(status) if !matches!(status.reason, Reason::Forbidden | Reason::NotFound | Reason::AlreadyExists) => Err(status),
            _ => Ok(()),
        }
    }
}

fn ignore_missing(result: Result<Arc<Value>, Status>) -> Result<(), Status> {
    match result {
        Err(status) if !status.is(Reason::NotFound) => Err(status),
        _ => Ok(()),
    }
}
