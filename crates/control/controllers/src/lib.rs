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
mod metrics;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod nodes;
mod objects;
mod pod_certificate_request_cleaner;
mod pod_gc;
mod pod_group_protection;
mod pods;
mod replicaset;
mod resource_claim;
mod resource_quota;
mod revisions;
mod root_ca;
mod selection;
mod service_account;
mod service_account_tokens;
mod service_cidr;
mod service_repair;
mod serving_approver;
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
pub use metrics::Metrics;
pub use node_ipam::{NodeMasks, PodNetwork, PodNetworkError};
pub use node_lifecycle::EvictionRates;
pub use selection::{CSR_APPROVING, CSR_SIGNING, Selection, UnknownController};

type Start = fn(&Context);

/// What starts controllers, by the names of those that it starts: upstream's, and in the second part Fram's own.
const ALL: &[(&[&str], Start)] = &[
    (&["namespace-controller"], namespace::start),
    (&["garbage-collector-controller"], garbage_collector::start),
    (&["serviceaccount-controller"], service_account::start),
    (&[service_account_tokens::NAME, legacy_token_cleaner::NAME], service_account_tokens::start),
    (&["root-ca-certificate-publisher-controller"], root_ca::start),
    (&["node-ipam-controller"], node_ipam::start),
    (&["replicaset-controller"], replicaset::start),
    (&["replicationcontroller-controller"], replicaset::start_replication_controllers),
    (&["deployment-controller"], deployment::start),
    (&["daemonset-controller"], daemonset::start),
    (&["statefulset-controller"], statefulset::start),
    (&["job-controller"], job::start),
    (&["node-lifecycle-controller"], node_lifecycle::start),
    (&["taint-eviction-controller"], taint_eviction::start),
    (&["pod-garbage-collector-controller"], pod_gc::start),
    (&["clusterrole-aggregation-controller"], clusterrole_aggregation::start),
    (&["disruption-controller"], disruption::start),
    (&["resourcequota-controller"], resource_quota::start),
    (&["endpointslice-mirroring-controller"], endpoint_slice_mirroring::start),
    (&["horizontal-pod-autoscaler-controller"], horizontal::start),
    (&["persistentvolumeclaim-protection-controller"], volume_protection::start_for_claims),
    (&["persistentvolume-protection-controller"], volume_protection::start_for_volumes),
    (&["volumeattributesclass-protection-controller"], volume_protection::start_for_classes),
    (&["persistentvolume-binder-controller"], volume_binder::start),
    (&["persistentvolume-expander-controller"], expand::start),
    (&["certificatesigningrequest-cleaner-controller"], csr_cleaner::start),
    (&[bootstrap_signer::NAME, token_cleaner::NAME], bootstrap_tokens::start),
    (&["ephemeral-volume-controller"], ephemeral_volume::start),
    (&["resourceclaim-controller"], resource_claim::start),
    (&["device-taint-eviction-controller"], device_taint_eviction::start),
    (&["ttl-after-finished-controller"], ttl_after_finished::start),
    (&["cronjob-controller"], cronjob::start),
    (&[endpoint_slice::SLICES, endpoint_slice::ENDPOINTS_THEMSELVES], endpoint_slice::start),
    (&["service-cidr-controller"], service_cidr::start),
    // Of kinds that are served where somebody asks for them.
    (&["kube-apiserver-serving-clustertrustbundle-publisher-controller"], cluster_trust_bundle::start),
    (&["podcertificaterequest-cleaner-controller"], pod_certificate_request_cleaner::start),
    (&["podgroup-protection-controller"], pod_group_protection::start),
    (&["storage-version-migrator-controller"], storage_version_migrator::start),
    // Fram's own.
    (&["leader-election-controller"], leader_election::start),
    (&["local-path-provisioner-controller"], local_path::start),
    (&["host-path-provisioner-controller"], host_path::start),
    (&["service-lb-controller"], load_balancer::start),
    (&[service_repair::NAME], service_repair::start),
    (&["kubelet-serving-approving-controller"], serving_approver::start),
];

/// The names of all controllers, those of certificate requests among them, which others run.
fn names() -> Vec<&'static str> {
    ALL.iter().flat_map(|(names, _)| names.iter().copied()).chain([CSR_SIGNING, CSR_APPROVING]).collect()
}

/// Starts every controller that is to run; they belong to the context's tasks and end with its token.
pub fn start(context: &Context) {
    for (names, start) in ALL {
        if names.iter().any(|name| context.selection.runs(name)) {
            start(context);
        }
    }
}
