//! Which servers there are: each has a Lease in kube-system that it renews, and takes away those of servers that are long gone. See
//! upstream's APIServerIdentity.

use std::sync::Arc;
use std::time::Duration;

use fram_client::{DeleteOptions, Preconditions};
use fram_machinery::normalize::format_time;
use fram_machinery::{Reason, Status, Value, meta, object};
use jiff::Timestamp;

use crate::bootstrap::Cluster;
use crate::definitions::{settled, write};
use crate::keeping::keep;
use crate::registry::{ListRequest, Place, Registry, Selection};
use crate::server::Server;

/// How often a server says that it is there, how long one counts that is not heard of, and how often those are looked for; see
/// IdentityLeaseRenewIntervalPeriod, IdentityLeaseDurationSeconds and IdentityLeaseGCPeriod.
const INTERVAL: Duration = Duration::from_secs(10);
const DURATION_SECONDS: i64 = 3600;
const CLEARING: Duration = Duration::from_secs(3600);

const LABEL: &str = "apiserver.kubernetes.io/identity";
const COMPONENT: &str = "kube-apiserver";

/// One server, as its Lease shows it.
struct Identity {
    name: String,
    /// Another one each time that the server starts.
    holder: String,
    host: String,
}

impl Identity {
    /// Servers of one machine are told apart by their addresses, where upstream has one for each machine.
    fn new(host: &str, cluster: &Cluster, uid: &str) -> Self {
        let text = format!("{host}\n{}:{}\n{COMPONENT}", cluster.address, cluster.port);
        let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
        let name = format!("apiserver-{}", data_encoding::BASE32_NOPAD.encode(&digest.as_ref()[..16]).to_lowercase());
        Self { holder: format!("{name}_{uid}"), name, host: host.into() }
    }

    /// The Lease, renewed; `current` is what it says so far.
    fn renewed(&self, current: Option<&Value>, now: Timestamp) -> Value {
        let mut lease = current.cloned().unwrap_or_else(|| {
            object!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": { "name": (self.name.as_str()), "namespace": "kube-system" } })
        });
        let labels = lease.place(&["metadata", "labels"]).make_map();
        labels.insert(LABEL, COMPONENT);
        labels.insert("kubernetes.io/hostname", self.host.as_str());
        lease.set(&["spec", "holderIdentity"], self.holder.as_str());
        lease.set(&["spec", "leaseDurationSeconds"], DURATION_SECONDS);
        lease.set(&["spec", "renewTime"], format_time(now, 6));
        lease
    }
}

/// Whether the server of a Lease has not been heard of for as long as it may be silent.
fn is_over(lease: &Value, now: Timestamp) -> bool {
    let seconds = lease.int_at(&["spec", "leaseDurationSeconds"]).unwrap_or_default();
    let renewed: Option<Timestamp> = lease.str_at(&["spec", "renewTime"]).parse().ok();
    renewed.is_none_or(|at| now.duration_since(at).as_secs() > seconds)
}

impl Server {
    /// Keeps the Lease of this server where the gate says so, which runs on the machine `host`, until `stop`.
    pub async fn keep_identity(self: Arc<Self>, host: String, cluster: Arc<Cluster>, stop: tokio_util::sync::CancellationToken) {
        if !self.switches.has_lease {
            return stop.cancelled().await;
        }
        let identity = Identity::new(&host, &cluster, &self.registry.environment.uid());
        let state = (self.registry.clone(), identity);
        keep(stop, "keeping the server's Lease", state, |(registry, identity)| Box::pin(keep_once(registry, identity))).await;
    }
}

async fn keep_once(registry: &Arc<Registry>, identity: &Identity) -> Result<(), Status> {
    let mut clearing = tokio::time::interval(CLEARING);
    let mut renewal = tokio::time::interval(INTERVAL);
    renewal.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = renewal.tick() => renew(registry, identity).await?,
            _ = clearing.tick() => clear(registry).await?,
        }
    }
}

fn place(registry: &Registry, name: &str) -> Result<Place, Status> {
    let served = registry.served("coordination.k8s.io", "v1", "leases").ok_or_else(Status::no_such_path)?;
    Ok(Place { served, namespace: "kube-system".into(), name: name.into() })
}

async fn renew(registry: &Arc<Registry>, identity: &Identity) -> Result<(), Status> {
    let place = place(registry, &identity.name)?;
    let now = registry.environment.now();
    let renewed = registry.update(&place, "", &write(), |current| Ok(identity.renewed(Some(current), now))).await;
    match renewed {
        Err(status) if status.is(Reason::NotFound) => registry.create(&place, identity.renewed(None, now), &write()).await.map(drop),
        other => other.map(drop),
    }
}

/// Takes away what servers that are gone left behind.
async fn clear(registry: &Arc<Registry>) -> Result<(), Status> {
    let all = place(registry, "")?;
    let selection = Selection::parse(&all.served.kind, &format!("{LABEL}={COMPONENT}"), "")?;
    let listing = registry.list(&all, &ListRequest { selection, ..Default::default() }).await?;
    for lease in registry.objects(&all.served, &listing.items).await? {
        if is_over(&lease, registry.environment.now()) {
            let preconditions =
                Preconditions { uid: Some(meta::uid(&lease).into()), resource_version: Some(meta::resource_version(&lease).into()) };
            let options = DeleteOptions { preconditions, ..Default::default() };
            settled(registry.delete(&place(registry, meta::name(&lease))?, &options, &write()).await.map(drop))?;
        }
    }
    Ok(())
}
