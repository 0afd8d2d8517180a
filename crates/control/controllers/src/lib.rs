//! The controllers: each a reconciler on the one harness, in a file of its own, with a pure plan where it decides
//! something.

mod claim;
mod context;
mod cronjob;
mod daemonset;
mod deployment;
mod endpoint_slice;
mod garbage_collector;
mod job;
mod namespace;
mod node_ipam;
mod nodes;
mod objects;
mod pods;
mod replicaset;
mod revisions;
mod root_ca;
mod service_account;
mod statefulset;
mod ttl_after_finished;

pub use context::{Clock, Context, KindInfo};
pub use node_ipam::PodNetwork;

/// Starts every controller; they belong to the context's tasks and end with its token.
pub fn start(context: &Context) {
    namespace::start(context);
    garbage_collector::start(context);
    service_account::start(context);
    root_ca::start(context);
    node_ipam::start(context);
    replicaset::start(context);
    deployment::start(context);
    daemonset::start(context);
    statefulset::start(context);
    job::start(context);
    ttl_after_finished::start(context);
    cronjob::start(context);
    endpoint_slice::start(context);
}
