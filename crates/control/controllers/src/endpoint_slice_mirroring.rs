//! Mirrors Endpoints that people write to EndpointSlices, which are what proxies and DNS read.

mod plan;

use fram_client::resources::{ENDPOINT_SLICES, ENDPOINTS, SERVICES};
use fram_client::{Action, Client, Controller, DeleteOptions, EventRecorder, Informer};
use fram_machinery::{Reason, Status, meta};

use crate::Context;
use crate::objects::{Objects, settled};

pub(crate) fn start(context: &Context) {
    let (endpoints, services) = (context.informers.get(&ENDPOINTS), context.informers.get(&SERVICES));
    let slices = context.informers.get(&ENDPOINT_SLICES);
    context.metrics.inventory.follow(&slices, &context.stop);
    let client = context.client("endpointslicemirroring-controller");
    let mirror = Mirror {
        slices: Objects::new(&client, &slices),
        client,
        endpoints: endpoints.clone(),
        services: services.clone(),
        events: context.recorder("endpointslicemirroring-controller", "endpoint-slice-mirroring-controller"),
    };
    let controller = Controller::new("endpointslicemirroring", 5).owns(&endpoints).owns(&services).watches(&slices, |slice| {
        match (meta::label(slice, plan::MANAGED_BY), meta::label(slice, plan::SERVICE)) {
            (Some(plan::MANAGER), Some(service)) => vec![format!("{}/{service}", meta::namespace(slice))],
            _ => Vec::new(),
        }
    });
    context.run(controller, mirror, |m, key| async move { m.reconcile(&key).await });
}

struct Mirror {
    client: Client,
    endpoints: Informer,
    services: Informer,
    slices: Objects,
    events: EventRecorder,
}

impl Mirror {
    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let (namespace, name) = key.split_once('/').unwrap_or(("", key));
        let mut seen = self.slices.within(namespace).await?;
        seen.objects.retain(|s| meta::label(s, plan::MANAGED_BY) == Some(plan::MANAGER) && meta::label(s, plan::SERVICE) == Some(name));
        let mirrored = self.endpoints.get(key).filter(|e| self.services.get(key).is_some_and(|s| plan::is_mirrored(e, &s)));
        let Some(endpoints) = mirrored else {
            for slice in &seen.objects {
                self.slices.delete(slice, DeleteOptions::default()).await?;
            }
            return Ok(seen.again(None).map_or(Action::Done, Action::After));
        };
        for (reason, message) in plan::left_out(&endpoints) {
            self.events.event(&endpoints, true, reason, message);
        }
        let plan = plan::plan(&endpoints, &seen.objects);
        for slice in plan.create {
            match self.slices.create(namespace, slice).await {
                // The namespace ends.
                Err(status) if matches!(status.reason, Reason::Forbidden | Reason::NotFound) => return Ok(Action::Done),
                other => drop(other?),
            }
        }
        for slice in plan.update {
            self.slices.update(slice).await?;
        }
        for name in plan.delete {
            settled(self.client.within(&ENDPOINT_SLICES, namespace).delete(&name, DeleteOptions::default()).await)?;
        }
        Ok(seen.again(None).map_or(Action::Done, Action::After))
    }
}
