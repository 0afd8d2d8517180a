//! The cgroups above those of pods: all of them together, and the classes Burstable and BestEffort. See upstream's
//! node_container_manager_linux.go and qos_container_manager_linux.go.

use std::sync::Arc;

use fram_cri::LinuxContainerResources;
use fram_machinery::Value;

use crate::cgroup::Cgroups;
use crate::context::Context;
use crate::node::machine;
use crate::pod::resources::{pod_total, qos_class, shares};

/// Makes the cgroup of all pods, with no more than what is not reserved.
pub(crate) fn found(ctx: &Context) {
    let config = &ctx.config;
    let of = |name: &str| machine::for_pods(config, &ctx.node.capacity, name);
    let pids = machine::process_ids().map_or(0, |(all, _)| all);
    let reserved: i64 = [&config.system_reserved, &config.kube_reserved].iter().filter_map(|m| m.get("pid")?.parse::<i64>().ok()).sum();
    let limits = match config.enforce_node_allocatable {
        true => LinuxContainerResources {
            cpu_shares: shares(of("cpu")),
            memory_limit_in_bytes: of("memory"),
            pids_limit: (pids - reserved).max(0),
            ..LinuxContainerResources::default()
        },
        false => LinuxContainerResources { cpu_shares: shares(of("cpu")), ..LinuxContainerResources::default() },
    };
    let path = format!("{}/kubepods", config.cgroup_root.trim_end_matches('/'));
    if let Err(error) = ctx.cgroups.ensure(&path, &limits).and_then(|()| ctx.cgroups.impose(&path, &limits)) {
        ctx.node_event(true, "FailedNodeAllocatableEnforcement", format!("Failed to update Node Allocatable Limits {path:?}: {error}"));
    }
    share(&ctx.cgroups, &config.cgroup_root, class_shares(&[]));
}

pub(crate) type Shares = [(&'static str, i64); 2];

/// Shares of the classes: what burstable pods ask for together, and the least for those that ask for nothing.
pub(crate) fn class_shares(pods: &[Arc<Value>]) -> Shares {
    let asked = |p: &Arc<Value>| pod_total(p, "requests").get("cpu").map_or(0, |q| q.milli_value());
    let burstable = pods.iter().filter(|p| qos_class(p) == "Burstable").map(asked).sum();
    [("burstable", shares(burstable)), ("besteffort", shares(0))]
}

/// Gives the classes their shares.
pub(crate) fn share(cgroups: &Cgroups, root: &str, shares: Shares) {
    for (class, cpu_shares) in shares {
        let path = format!("{}/kubepods/{class}", root.trim_end_matches('/'));
        let limits = LinuxContainerResources { cpu_shares, ..LinuxContainerResources::default() };
        if let Err(error) = cgroups.ensure(&path, &limits).and_then(|()| cgroups.impose(&path, &limits)) {
            tracing::warn!(%error, "the shares of a class of pods could not be set");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    #[test]
    fn burstable_pods_share_what_they_ask_for_and_others_get_the_least() {
        let pod = |resources: Value| Arc::new(object!({ "spec": { "containers": [{ "name": "c", "resources": resources }] } }));
        let pods = [
            pod(object!({ "requests": { "cpu": "500m" } })),
            pod(object!({ "requests": { "cpu": "1500m" } })),
            pod(object!({})),
            pod(object!({ "requests": { "cpu": "4", "memory": "1" }, "limits": { "cpu": "4", "memory": "1" } })),
        ];
        assert_eq!(class_shares(&pods), [("burstable", 2048), ("besteffort", 2)]);
        assert_eq!(class_shares(&[]), [("burstable", 2), ("besteffort", 2)]);
    }
}
