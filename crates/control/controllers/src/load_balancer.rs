//! Load balancers without a cloud: Services get addresses out of a pool, and a node that answers for each. That node takes the
//! address itself; see the follower of Services where nodes are wired. Without a pool it gives nobody anything, as a cluster without a
//! cloud, and takes back what it gave when there was one. See cloud-provider's service controller.

mod plan;
mod pool;

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;

use fram_client::resources::{ENDPOINT_SLICES, NODES, SERVICES};
use fram_client::{Action, Client, Controller, EventRecorder, Informer};
use fram_machinery::{Status, Value, meta};
use parking_lot::Mutex;

use crate::Context;
use crate::objects::unless_it_changed;

pub use pool::{AddressPool, PoolError};

const SERVICE_NAME: &str = "kubernetes.io/service-name";

pub(crate) fn start(context: &Context) {
    let (services, nodes) = (context.informers.get(&SERVICES), context.informers.get(&NODES));
    let slices = context.informers.get(&ENDPOINT_SLICES);
    let reconciler = Reconciler {
        client: context.client("service-controller"),
        events: context.recorder("service-controller", "service-controller"),
        pool: context.load_balancer_pool.clone(),
        services: services.clone(),
        nodes: nodes.clone(),
        slices: slices.clone(),
        given: Mutex::default(),
    };
    let (all, waiting) = (services.clone(), services.clone());
    let (pool, of_nodes) = (reconciler.pool.clone(), reconciler.pool.clone());
    // One at a time: no two Services are ever given the same address.
    let controller = Controller::new("service-lb", 1)
        .watches_deltas(&services, move |delta| {
            let mut keys = vec![delta.key()];
            if plan::gives_back(delta.old.as_deref(), delta.new.as_deref()) {
                // Others may have waited for it.
                let waits = |s: &Value| plan::wants(s, &pool) && plan::current(s).is_none();
                keys.extend(waiting.list().iter().filter(|s| waits(s)).map(|s| meta::key(s)));
            }
            keys
        })
        .watches_deltas(&nodes, move |delta| {
            let may = |n: &Value| (meta::condition_is_true(n, "Ready"), meta::is_terminating(n), meta::labels(n).clone());
            let sides = (delta.old.as_deref().map(may), delta.new.as_deref().map(may));
            let balanced = || all.list().iter().filter(|s| plan::wants(s, &of_nodes)).map(|s| meta::key(s)).collect();
            if sides.0 == sides.1 { Vec::new() } else { balanced() }
        })
        .watches(&slices, |slice| {
            let service = meta::label(slice, SERVICE_NAME);
            service.map(|name| format!("{}/{name}", meta::namespace(slice))).into_iter().collect()
        });
    context.run(controller, reconciler, |r, key| async move { r.reconcile(&key).await });
}

struct Reconciler {
    client: Client,
    events: EventRecorder,
    pool: AddressPool,
    services: Informer,
    nodes: Informer,
    slices: Informer,
    /// By Service, what it was given and the cache may not show yet.
    given: Mutex<HashMap<String, Ipv4Addr>>,
}

impl Reconciler {
    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let Some(service) = self.services.get(key) else {
            self.given.lock().remove(key);
            return Ok(Action::Done);
        };
        let wanted = if plan::wants(&service, &self.pool) { self.balance(key, &service) } else { plan::released(&service) };
        let gives_back = plan::current(&wanted).is_none();
        if wanted != *service {
            let services = self.client.within(&SERVICES, meta::namespace(&service));
            if unless_it_changed(services.update_status(wanted).await)?.is_none() {
                return Ok(Action::Done);
            }
            if !gives_back && plan::current(&service).is_none() {
                self.events.event(&service, false, "EnsuredLoadBalancer", "Ensured load balancer");
            }
        }
        if gives_back && self.given.lock().remove(key).is_some() {
            // Somebody may wait for it.
            self.events.event(&service, false, "DeletedLoadBalancer", "Deleted load balancer");
        }
        Ok(Action::Done)
    }

    /// The Service with its address; without one, where it cannot have any.
    fn balance(&self, key: &str, service: &Value) -> Value {
        let taken = self.taken(key);
        match plan::address(service, &self.pool, &taken) {
            Ok(address) => {
                self.given.lock().insert(key.into(), address);
                let (namespace, name) = (meta::namespace(service), meta::name(service));
                let mut slices = self.slices.by_namespace(namespace);
                slices.retain(|s| meta::label(s, SERVICE_NAME) == Some(name));
                let nodes = self.nodes.list();
                let holder = plan::holder(service, &plan::eligible(service, &nodes, &slices));
                plan::balanced(service, address, holder)
            }
            Err(why) => {
                self.events.event(service, true, "SyncLoadBalancerFailed", format!("Error syncing load balancer: {why}"));
                plan::released(service)
            }
        }
    }

    /// What Services other than this one have.
    fn taken(&self, key: &str) -> BTreeSet<Ipv4Addr> {
        let services = self.services.list();
        let shown = services.iter().filter(|s| meta::key(s) != key).filter_map(|s| plan::current(s));
        let mut given = self.given.lock();
        given.retain(|k, _| k == key || self.services.get(k).is_some());
        shown.chain(given.iter().filter(|(k, _)| *k != key).map(|(_, address)| *address)).collect()
    }
}
