//! The range of Services that the server is told, beside that by which the cluster was made. Certificate, nodes and DNS go by the former:
//! another one would cut off all pods from the API, unless somebody has said before that the cluster is to move there, by a ServiceCIDR.

use std::sync::Arc;

use fram_api::AddressRange;
use fram_client::DeleteOptions;
use fram_machinery::{Reason, Status, Value, meta, object};

use super::{BootstrapError, Cluster, ensure};
use crate::allocate::{OWN_RANGES, is_given_from};
use crate::definitions::{settled, write};
use crate::masters;
use crate::registry::{Place, Registry};

const SERVICES: (&str, &str) = ("", "services");
const RANGES: (&str, &str) = ("networking.k8s.io", "servicecidrs");
const ADDRESSES: (&str, &str) = ("networking.k8s.io", "ipaddresses");

fn place(registry: &Registry, (group, plural): (&str, &str), namespace: &str, name: &str) -> Result<Place, Status> {
    let served = registry.served(group, "v1", plural).ok_or_else(Status::no_such_path)?;
    Ok(Place { served, namespace: namespace.into(), name: name.into() })
}

async fn find(registry: &Arc<Registry>, place: &Place) -> Result<Option<Value>, Status> {
    match registry.get_object(place).await {
        Err(status) if status.is(Reason::NotFound) => Ok(None),
        found => found.map(Some),
    }
}

/// Refuses another range than the cluster's, or moves the cluster there.
pub(super) async fn take(registry: &Arc<Registry>, cluster: &Cluster) -> Result<(), BootstrapError> {
    let fail = BootstrapError::OwnService;
    let (own, range) = (own(registry).map_err(fail)?, place(registry, RANGES, "", OWN_RANGES).map_err(fail)?);
    let range = find(registry, &range).await.map_err(fail)?;
    let told = registry.allocators.service_cidrs().join(",");
    let Some(service) = find(registry, &own).await.map_err(fail)? else {
        return match range.as_ref().filter(|range| meta::is_terminating(range)) {
            Some(left) if !is_announced(registry).await.map_err(fail)? => {
                let left = left.list_at(&["spec", "cidrs"]).iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",");
                Err(BootstrapError::LeftRange { left, told })
            }
            _ => Ok(()),
        };
    };
    let (stored, first) = (service.str_at(&["spec", "clusterIP"]), registry.allocators.service_ip(1).to_string());
    if stored == first {
        return Ok(());
    }
    if !is_announced(registry).await.map_err(fail)? {
        return Err(BootstrapError::OtherRange { stored: stored.into(), told, first });
    }
    let others = others(registry, cluster).await.map_err(fail)?;
    if !others.is_empty() {
        return Err(BootstrapError::OthersServe { told, others: others.join(", ") });
    }
    let dns = place(registry, SERVICES, "kube-system", "kube-dns").map_err(fail)?;
    let stored_dns = find(registry, &dns).await.map_err(fail)?;
    let old = range.as_ref().map(ranges_of).unwrap_or_default();
    let moves = stored_dns.as_ref().is_some_and(|dns| lies_in(&old, dns));
    let mut needed = vec![(1, &own)];
    if moves || stored_dns.is_none() {
        needed.push((10, &dns));
    }
    for (offset, service) in needed {
        let address = registry.allocators.service_ip(offset).to_string();
        if let Some(holder) = holder(registry, service, &address).await.map_err(fail)? {
            return Err(BootstrapError::AddressTaken {
                told,
                address,
                wanted_by: format!("{}/{}", service.namespace, service.name),
                holder,
            });
        }
    }
    tracing::warn!(
        from = stored,
        to = first,
        range = told,
        "the cluster's own Services move to another range: pods find them when they are made anew"
    );
    move_out(registry, &own, stored_dns.filter(|_| moves).map(|stored| (dns, stored))).await
}

/// Whether the cluster is in another range than this server was told, and other servers are there, which know better.
pub(super) async fn is_others(registry: &Arc<Registry>, cluster: &Cluster) -> Result<bool, Status> {
    if others(registry, cluster).await?.is_empty() {
        return Ok(false);
    }
    let first = registry.allocators.service_ip(1);
    if let Some(service) = find(registry, &own(registry)?).await? {
        return Ok(service.str_at(&["spec", "clusterIP"]) != first.to_string());
    }
    let range = find(registry, &place(registry, RANGES, "", OWN_RANGES)?).await?;
    // One that is left says nothing of where the cluster is.
    let range = range.filter(|range| !meta::is_terminating(range));
    Ok(range.is_some_and(|range| !ranges_of(&range).iter().any(|range| range.offset(first).is_some())))
}

fn own(registry: &Registry) -> Result<Place, Status> {
    place(registry, SERVICES, "default", "kubernetes")
}

/// The addresses of the servers besides this one.
async fn others(registry: &Arc<Registry>, cluster: &Cluster) -> Result<Vec<String>, Status> {
    let own = cluster.address.to_string();
    let mut all = masters::addresses(&registry.snapshot().await?, &masters::prefix(registry), cluster);
    all.retain(|address| *address != own);
    Ok(all)
}

fn ranges_of(range: &Value) -> Vec<AddressRange> {
    range.list_at(&["spec", "cidrs"]).iter().filter_map(|cidr| cidr.as_str()?.parse().ok()).collect()
}

fn lies_in(ranges: &[AddressRange], service: &Value) -> bool {
    let address = service.str_at(&["spec", "clusterIP"]).parse();
    address.is_ok_and(|address| ranges.iter().any(|range| range.offset(address).is_some()))
}

/// Who else than this Service has an address.
async fn holder(registry: &Arc<Registry>, service: &Place, address: &str) -> Result<Option<String>, Status> {
    let found = find(registry, &place(registry, ADDRESSES, "", address)?).await?;
    Ok(found.and_then(|found| {
        let parent = |field: &str| found.str_at(&["spec", "parentRef", field]);
        let is_own = (parent("namespace"), parent("name")) == (&service.namespace, &service.name);
        (!is_own).then(|| format!("{}/{}", parent("namespace"), parent("name")))
    }))
}

/// Whether a ServiceCIDR besides the cluster's own gives addresses of each range that the server is told.
async fn is_announced(registry: &Arc<Registry>) -> Result<bool, Status> {
    let all = place(registry, RANGES, "", "")?;
    let listing = registry.list(&all, &Default::default()).await?;
    let objects = listing.items.iter().map(|entry| registry.decode(&all.served, entry)).collect::<Result<Vec<_>, _>>()?;
    let others = objects.iter().filter(|range| meta::name(range) != OWN_RANGES && is_given_from(range));
    let given: Vec<AddressRange> = others.flat_map(ranges_of).collect();
    Ok(registry.allocators.service_ranges.iter().all(|range| given.iter().any(|other| other.covers(*range))))
}

/// Takes away what has its place in the old range, to be made anew in the other. The Service by which all of this is seen goes last, so that
/// it is done again where it is cut off. The old range goes when no Service has an address of it any more. The DNS' Service is made here: it
/// may have more in it than the one that clusters begin with.
async fn move_out(registry: &Arc<Registry>, own: &Place, dns: Option<(Place, Value)>) -> Result<(), BootstrapError> {
    let delete = async |place: &Place| settled(registry.delete(place, &DeleteOptions::default(), &write()).await.map(drop));
    let fail = BootstrapError::OwnService;
    if let Some((place, stored)) = dns {
        delete(&place).await.map_err(fail)?;
        ensure(registry, moved(registry, &stored)).await?;
    }
    let range = place(registry, RANGES, "", OWN_RANGES).map_err(fail)?;
    delete(&range).await.map_err(fail)?;
    delete(own).await.map_err(fail)
}

/// The DNS' Service as it is to be made in the server's ranges, where nodes look for it.
fn moved(registry: &Registry, stored: &Value) -> Value {
    let mut next = object!({ "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": (meta::name(stored)), "namespace": (meta::namespace(stored)) },
        "spec": (stored.get("spec").cloned().unwrap_or_default()) });
    for part in ["labels", "annotations"] {
        if let Some(said) = stored.at(&["metadata", part]) {
            next.set(&["metadata", part], said.clone());
        }
    }
    for bound_to_ranges in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        next.remove(&["spec", bound_to_ranges]);
    }
    next.set(&["spec", "clusterIP"], registry.allocators.service_ip(10).to_string());
    if stored.str_at(&["spec", "ipFamilyPolicy"]).ends_with("DualStack") {
        // There may be one range only.
        next.set(&["spec", "ipFamilyPolicy"], "PreferDualStack");
    }
    next
}
