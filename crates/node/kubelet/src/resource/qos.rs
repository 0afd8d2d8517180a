//! The cgroups above those of pods: all of them together, and the classes Burstable and BestEffort. See upstream's
//! node_container_manager_linux.go and qos_container_manager_linux.go.

use std::sync::Arc;

use fram_cri::LinuxContainerResources;
use fram_machinery::Value;
use fram_machinery::quantity::Quantity;

use crate::cgroup::Cgroups;
use crate::config::{KubeletConfig, ReservedCgroup};
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

/// Holds the cgroups of what is reserved to that: they are there already, since whoever made them has put something into them. See
/// enforceNodeAllocatableCgroups.
pub(crate) fn hold_reserved(config: &KubeletConfig, cgroups: &Cgroups) -> Result<(), ReservedError> {
    for cgroup in &config.reserved_cgroups {
        let ReservedCgroup { of, path, amounts, compressible } = cgroup;
        if !cgroups.exists(path) {
            return Err(ReservedError::Absent { of, path: path.clone() });
        }
        let amount = |name: &str| amounts.get(name).and_then(|text| text.parse::<Quantity>().ok());
        let mut limits = LinuxContainerResources { cpu_shares: amount("cpu").map_or(0, |q| shares(q.milli_value())), ..Default::default() };
        if !compressible {
            limits.memory_limit_in_bytes = amount("memory").map_or(0, |q| q.value());
            limits.pids_limit = amount("pid").map_or(0, |q| q.value());
        }
        cgroups.impose(path, &limits).map_err(|error| ReservedError::Limits { of, path: path.clone(), why: error.to_string() })?;
    }
    Ok(())
}

#[derive(Debug, thiserror::Error)]
pub enum ReservedError {
    #[error("failed to enforce {of} limits on {path:?}: there is no such cgroup")]
    Absent { of: &'static str, path: String },
    #[error("failed to enforce {of} limits on {path:?}: {why}")]
    Limits { of: &'static str, path: String, why: String },
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
    fn what_is_reserved_holds_the_cgroups_that_are_there() {
        let mount = tempfile::tempdir().unwrap();
        for file in ["cpu/sys/cpu.shares", "memory/sys/memory.limit_in_bytes", "pids/sys/pids.max"] {
            let path = mount.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "-").unwrap();
        }
        let amounts = [("cpu", "500m"), ("memory", "1Ki"), ("pid", "7")].map(|(k, v)| (k.to_string(), v.to_string())).into();
        let cgroup = ReservedCgroup { of: "system-reserved", path: "/sys".into(), amounts, compressible: true };
        let hold = |cgroup: &ReservedCgroup| {
            let config = KubeletConfig {
                reserved_cgroups: vec![cgroup.clone()],
                ..KubeletConfig::new("n", Vec::new(), "/tmp".into(), "/tmp".into())
            };
            hold_reserved(&config, &Cgroups::detect(mount.path())).map_err(|error| error.to_string())
        };
        let read = || {
            ["cpu/sys/cpu.shares", "memory/sys/memory.limit_in_bytes", "pids/sys/pids.max"]
                .map(|f| std::fs::read_to_string(mount.path().join(f)).unwrap())
        };
        assert_eq!((hold(&cgroup), read()), (Ok(()), ["512", "-", "-"].map(String::from)));
        assert_eq!(
            (hold(&ReservedCgroup { compressible: false, ..cgroup.clone() }), read()),
            (Ok(()), ["512", "1024", "7"].map(String::from))
        );
        let absent = hold(&ReservedCgroup { path: "/nowhere".into(), ..cgroup });
        assert_eq!(absent, Err("failed to enforce system-reserved limits on \"/nowhere\": there is no such cgroup".into()));
    }

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
