//! The controllers: each a reconciler on the one harness, in a file of its own, with a pure plan where it decides
//! something.

mod bootstrap_signer;
mod bootstrap_tokens;
mod claim;
mod cluster_trust_bundle;
mod clusterrole_aggregation;
mod context;
mod cronjob;
mod csr_cleaner;
mod custom_kinds;
mod daemonset;
mod deployment;
mod device_taint_eviction;
mod disruption;
mod endpoint_slice;
mod endpoint_slice_mirroring;
mod ephemeral_volume;
mod expand;
mod garbage_collector;
mod horizontal;
mod host_path;
mod job;
mod leader_election;
mod legacy_token_cleaner;
mod load_balancer;
mod local_path;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod nodes;
mod objects;
mod pod_certificate_request_cleaner;
mod pod_gc;
mod pods;
mod replicaset;
mod resource_claim;
mod resource_quota;
mod revisions;
mod root_ca;
mod service_account;
mod service_account_tokens;
mod statefulset;
mod storage_version_migrator;
mod taint_eviction;
mod token_cleaner;
mod ttl_after_finished;
mod volume_binder;
mod volume_protection;

pub use context::{Clock, Context, KindInfo, stored_kinds};
pub use host_path::Directories;
pub use load_balancer::{AddressPool, PoolError};
pub use node_ipam::PodNetwork;
pub use node_lifecycle::EvictionRates;

/// Starts every controller; they belong to the context's tasks and end with its token.
pub fn start(context: &Context) {
    namespace::start(context);
    garbage_collector::start(context);
    service_account::start(context);
    service_account_tokens::start(context);
    root_ca::start(context);
    node_ipam::start(context);
    replicaset::start(context);
    deployment::start(context);
    daemonset::start(context);
    statefulset::start(context);
    job::start(context);
    node_lifecycle::start(context);
    taint_eviction::start(context);
    pod_gc::start(context);
    clusterrole_aggregation::start(context);
    disruption::start(context);
    resource_quota::start(context);
    endpoint_slice_mirroring::start(context);
    horizontal::start(context);
    volume_protection::start(context);
    volume_binder::start(context);
    local_path::start(context);
    host_path::start(context);
    expand::start(context);
    load_balancer::start(context);
    csr_cleaner::start(context);
    bootstrap_tokens::start(context);
    ephemeral_volume::start(context);
    resource_claim::start(context);
    device_taint_eviction::start(context);
    ttl_after_finished::start(context);
    cronjob::start(context);
    endpoint_slice::start(context);
    // Of kinds that are served where somebody asks for them.
    cluster_trust_bundle::start(context);
    pod_certificate_request_cleaner::start(context);
    leader_election::start(context);
    storage_version_migrator::start(context);
}
