//! ServiceCIDRs: each is told to be ready, and stays while Services have addresses that no other one covers. See KEP-1880 and upstream's
//! pkg/controller/servicecidrs. The API server allocates from those that are ready.

mod plan;

use std::sync::Arc;

use fram_client::resources::{IP_ADDRESSES, SERVICE_CIDRS};
use fram_client::{Action, Client, Controller, Informer, PatchKind};
use fram_machinery::normalize::format_time;
use fram_machinery::{Status, Value, meta, object};

use crate::Context;
use crate::objects::unless_it_changed;
use plan::Step;

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";

pub(crate) fn start(context: &Context) {
    let (ranges, addresses) = (context.informers.get(&SERVICE_CIDRS), context.informers.get(&IP_ADDRESSES));
    let reconciler = Reconciler {
        client: context.client("service-cidrs-controller"),
        ranges: ranges.clone(),
        addresses: addresses.clone(),
        now: context.now.clone(),
    };
    let (known, all) = (ranges.clone(), ranges.clone());
    let controller = Controller::new("service-cidr-controller", 5)
        .watches_deltas(&ranges, move |delta| {
            // Another range may take over what one that goes leaves.
            let waits = |range: &Arc<Value>| meta::is_terminating(range) && plan::overlap(range, delta.object());
            let mut keys: Vec<String> = all.list().into_iter().filter(waits).map(|range| meta::key(&range)).collect();
            keys.push(delta.key());
            keys
        })
        .watches_deltas(&addresses, move |delta| {
            let ends = |range: &Arc<Value>| meta::is_terminating(range) && plan::lends(range, meta::name(delta.object()));
            known.list().into_iter().filter(ends).map(|range| meta::key(&range)).collect()
        });
    context.run(controller, reconciler, |r, name| async move { r.reconcile(&name).await });
}

struct Reconciler {
    client: Client,
    ranges: Informer,
    addresses: Informer,
    now: crate::Clock,
}

impl Reconciler {
    async fn reconcile(&self, name: &str) -> Result<Action, Status> {
        let Some(range) = self.ranges.get(name) else { return Ok(Action::Done) };
        let now = (self.now)();
        let addresses = if meta::is_terminating(&range) { self.addresses.list() } else { Vec::new() };
        match plan::plan(&range, &self.ranges.list(), &addresses, FINALIZER, now) {
            Step::Nothing => {}
            Step::Wait(time) => return Ok(Action::After(time)),
            Step::Hold => self.hold(&range, true).await?,
            Step::Release => self.hold(&range, false).await?,
            Step::Say(status, reason, message) => {
                let condition = object!({ "type": "Ready", "status": status, "reason": reason, "message": message,
                    "lastTransitionTime": (format_time(now, 0)) });
                let patch = object!({ "metadata": { "uid": (meta::uid(&range)) }, "status": { "conditions": [condition] } });
                unless_it_changed(self.client.all(&SERVICE_CIDRS).patch(name, "status", PatchKind::Strategic, patch).await)?;
            }
        }
        Ok(Action::Done)
    }

    async fn hold(&self, range: &Value, held: bool) -> Result<(), Status> {
        let mut changed = range.clone();
        match held {
            true => meta::add_finalizer(&mut changed, FINALIZER),
            false => meta::remove_finalizer(&mut changed, FINALIZER),
        }
        unless_it_changed(self.client.all(&SERVICE_CIDRS).update(changed).await).map(drop)
    }
}
