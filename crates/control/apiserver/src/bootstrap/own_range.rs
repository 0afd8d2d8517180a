//! The range of Services that the server is told, beside that by which the cluster was made. Certificate, nodes and DNS go by the former:
//! another one would cut off all pods from the API, unless somebody has said before that the cluster is to move there, by a ServiceCIDR.

use std::sync::Arc;

use fram_client::DeleteOptions;
use fram_machinery::{Reason, Status, Value, meta};

use super::BootstrapError;
use crate::allocate::{OWN_RANGES, is_given_from};
use crate::definitions::{settled, write};
use crate::registry::{Place, Registry};

const SERVICES: (&str, &str) = ("", "services");
const RANGES: (&str, &str) = ("networking.k8s.io", "servicecidrs");

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
pub(super) async fn take(registry: &Arc<Registry>) -> Result<(), BootstrapError> {
    let fail = BootstrapError::OwnService;
    let own = place(registry, SERVICES, "default", "kubernetes").map_err(fail)?;
    let Some(service) = find(registry, &own).await.map_err(fail)? else { return Ok(()) };
    let (stored, first) = (service.str_at(&["spec", "clusterIP"]), registry.allocators.service_ip(1).to_string());
    if stored == first {
        return Ok(());
    }
    let told = registry.allocators.service_cidrs().join(",");
    if !is_announced(registry).await.map_err(fail)? {
        return Err(BootstrapError::OtherRange { stored: stored.into(), told, first });
    }
    tracing::warn!(
        from = stored,
        to = first,
        range = told,
        "the cluster's own Services move to another range: pods find them when they are made anew"
    );
    move_out(registry, &own).await.map_err(fail)
}

/// Whether a ServiceCIDR besides the cluster's own gives addresses of each range that the server is told.
async fn is_announced(registry: &Arc<Registry>) -> Result<bool, Status> {
    let all = place(registry, RANGES, "", "")?;
    let listing = registry.list(&all, &Default::default()).await?;
    let objects = listing.items.iter().map(|entry| registry.decode(&all.served, entry)).collect::<Result<Vec<_>, _>>()?;
    let others = objects.iter().filter(|range| meta::name(range) != OWN_RANGES && is_given_from(range));
    let given: Vec<fram_api::AddressRange> =
        others.flat_map(|range| range.list_at(&["spec", "cidrs"])).filter_map(|cidr| cidr.as_str()?.parse().ok()).collect();
    Ok(registry.allocators.service_ranges.iter().all(|range| given.iter().any(|other| other.covers(*range))))
}

/// Takes away what has its place in the old range, to be made anew in the other. The Service by which all of this is seen goes last, so that
/// it is done again where it is cut off. The old range goes when no Service has an address of it any more.
async fn move_out(registry: &Arc<Registry>, own: &Place) -> Result<(), Status> {
    let dns = place(registry, SERVICES, "kube-system", "kube-dns")?;
    let range = place(registry, RANGES, "", OWN_RANGES)?;
    for place in [&dns, &range, own] {
        settled(registry.delete(place, &DeleteOptions::default(), &write()).await.map(drop))?;
    }
    Ok(())
}
