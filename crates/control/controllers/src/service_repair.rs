//! Services and their IPAddresses, which are written together, kept together also where somebody writes one of them by hand. See upstream's
//! RepairIPAddress. Node ports are no objects that somebody could write, so nothing has to be repaired of them.

mod plan;

use std::net::IpAddr;
use std::sync::Arc;

use fram_api::AddressRange;
use fram_client::resources::{IP_ADDRESSES, SERVICE_CIDRS, SERVICES};
use fram_client::{ADDRESS_INDEX, Action, Client, Controller, DeleteOptions, EventRecorder, Informer, Preconditions};
use fram_machinery::{Reason, Status, Value, meta};

use crate::Context;
use crate::objects::unless_it_changed;
use plan::{Need, Told};

pub(crate) const NAME: &str = "ipallocator-repair-controller";

pub(crate) fn start(context: &Context) {
    let get = |resource| context.informers.get(resource);
    let (services, addresses, ranges) = (get(&SERVICES), get(&IP_ADDRESSES), get(&SERVICE_CIDRS));
    let reconciler = Reconciler {
        client: context.client(NAME),
        events: context.recorder(NAME, NAME),
        services: services.clone(),
        addresses: addresses.clone(),
        ranges: ranges.clone(),
    };
    let (by_address, all) = (services.clone(), services.clone());
    let controller = Controller::new(NAME, 5)
        .watches_deltas(&services, |delta| {
            let had: Vec<String> = delta.old.iter().flat_map(|old| names_of(old)).collect();
            let has: Vec<String> = delta.new.iter().flat_map(|new| names_of(new)).collect();
            // One that it gave up may be another's, or nobody's.
            let mut keys: Vec<String> = had.iter().filter(|name| !has.contains(name)).cloned().collect();
            if had != has && delta.new.is_some() {
                keys.push(delta.key());
            }
            keys
        })
        .watches_deltas(&addresses, move |delta| {
            let name = meta::name(delta.object());
            let of = by_address.by_index(ADDRESS_INDEX, name);
            of.iter().map(|service| meta::key(service)).chain([name.to_string()]).collect()
        })
        .watches_deltas(&ranges, move |delta| {
            let both = [delta.old.as_ref(), delta.new.as_ref()].map(|range| in_ranges(range.map(std::slice::from_ref).unwrap_or_default()));
            if both[0] == both[1] {
                return Vec::new();
            }
            let within = |ip: IpAddr| both.iter().flatten().any(|range| range.lends(ip));
            let concerned = |service: &&Arc<Value>| plan::names(service).into_iter().any(|(_, ip)| ip.is_some_and(within));
            all.list().iter().filter(concerned).map(|service| meta::key(service)).collect()
        });
    context.run(controller, reconciler, |r, key| async move { r.reconcile(&key).await });
}

/// The names of the IPAddresses that a Service has.
fn names_of(service: &Value) -> Vec<String> {
    plan::names(service).into_iter().filter_map(|(_, ip)| Some(ip?.to_string())).collect()
}

struct Reconciler {
    client: Client,
    events: EventRecorder,
    services: Informer,
    addresses: Informer,
    ranges: Informer,
}

fn in_ranges(ranges: &[Arc<Value>]) -> Vec<AddressRange> {
    let all = ranges.iter().flat_map(|range| range.list_at(&["spec", "cidrs"]));
    all.filter_map(|cidr| cidr.as_str()?.parse().ok()).collect()
}

impl Reconciler {
    /// Keys are those of Services, `namespace/name`, and names of IPAddresses.
    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        match key.split_once('/') {
            Some((namespace, name)) => self.service(namespace, name).await?,
            None => self.address(key).await?,
        }
        Ok(Action::Done)
    }

    async fn service(&self, namespace: &str, name: &str) -> Result<(), Status> {
        let Some(service) = self.services.get_in(namespace, name) else { return Ok(()) };
        let ranges = in_ranges(&self.ranges.list());
        for (text, ip) in plan::names(&service) {
            let address = ip.and_then(|ip| self.addresses.get(&ip.to_string()));
            let of = address.as_deref().and_then(plan::parent).filter(|of| *of != (namespace, name));
            let other = of.and_then(|(namespace, name)| self.services.get_in(namespace, name));
            if plan::of_service(&service, (text, ip), &ranges, address.as_deref(), other.as_deref()) != Need::Nothing {
                self.mend(namespace, name, text, ip).await?;
            }
        }
        Ok(())
    }

    /// Caches of several kinds do not change together, as their objects do: what looks wrong in them is asked of the server. Addresses come
    /// first, since one without a Service is found later, by itself.
    async fn mend(&self, namespace: &str, name: &str, text: &str, ip: Option<IpAddr>) -> Result<(), Status> {
        let addresses = self.client.all(&IP_ADDRESSES);
        let address = match ip {
            Some(ip) => addresses.find(&ip.to_string()).await?,
            None => None,
        };
        let Some(service) = self.client.within(&SERVICES, namespace).find(name).await? else { return Ok(()) };
        if !plan::names(&service).contains(&(text, ip)) {
            return Ok(());
        }
        let other = match address.as_deref().and_then(plan::parent).filter(|of| *of != (namespace, name)) {
            Some((namespace, name)) => self.client.within(&SERVICES, namespace).find(name).await?,
            None => None,
        };
        let ranges = in_ranges(&self.client.all(&SERVICE_CIDRS).list(Default::default()).await?.items);
        let (told, is_stale) = match plan::of_service(&service, (text, ip), &ranges, address.as_deref(), other.as_deref()) {
            Need::Nothing => return Ok(()),
            Need::Tell(told) => {
                self.tell(&service, told);
                return Ok(());
            }
            Need::Make(told) => (Some(told), false),
            Need::Renew(told) => (told, true),
        };
        if let Some(stale) = address.filter(|_| is_stale)
            && !self.delete(&stale).await?
        {
            // Its change brings the Service here again.
            return Ok(());
        }
        let Some(ip) = ip else { return Ok(()) };
        match addresses.create(plan::address_of(&service, ip)).await {
            Err(status) if status.is(Reason::AlreadyExists) => return Ok(()),
            made => made?,
        };
        if let Some(told) = told {
            self.tell(&service, told);
        }
        Ok(())
    }

    async fn address(&self, name: &str) -> Result<(), Status> {
        let Some(address) = self.addresses.get(name) else { return Ok(()) };
        let service = plan::parent(&address).and_then(|(namespace, name)| self.services.get_in(namespace, name));
        if plan::of_address(&address, service.as_deref()).is_none() {
            return Ok(());
        }
        let Some(address) = self.client.all(&IP_ADDRESSES).find(name).await? else { return Ok(()) };
        let service = match plan::parent(&address) {
            Some((namespace, name)) => self.client.within(&SERVICES, namespace).find(name).await?,
            None => None,
        };
        if let Some(told) = plan::of_address(&address, service.as_deref())
            && self.delete(&address).await?
        {
            self.tell(&address, told);
        }
        Ok(())
    }

    /// Whether it was deleted as it was seen.
    async fn delete(&self, address: &Value) -> Result<bool, Status> {
        let preconditions =
            Preconditions { uid: Some(meta::uid(address).into()), resource_version: Some(meta::resource_version(address).into()) };
        let options = DeleteOptions { preconditions, ..Default::default() };
        Ok(unless_it_changed(self.client.all(&IP_ADDRESSES).delete(meta::name(address), options).await)?.is_some())
    }

    fn tell(&self, object: &Value, Told(reason, message): Told) {
        self.events.event(object, true, reason, message);
    }
}
