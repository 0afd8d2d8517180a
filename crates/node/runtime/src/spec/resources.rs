//! Limits and device rules in the form of the OCI specification.

use fram_cri::{ContainerConfig, LinuxContainerResources};
use serde_json::{Map, Value, json};

use super::HostDevice;

pub(super) fn resources(container: &ContainerConfig, devices: &[HostDevice], cgroup_v2: bool) -> Value {
    let mut resources = oci_resources(&container.resources, cgroup_v2);
    let rules = if container.security_context.privileged {
        vec![json!({ "allow": true, "access": "rwm" })]
    } else {
        let deny = json!({ "allow": false, "access": "rwm" });
        std::iter::once(deny).chain(devices.iter().map(allow)).collect()
    };
    resources.insert("devices".into(), rules.into());
    resources.into()
}

fn allow(device: &HostDevice) -> Value {
    json!({
        "allow": true,
        "type": if device.block { "b" } else { "c" },
        "major": device.major,
        "minor": device.minor,
        "access": device.permissions,
    })
}

/// `linux.resources` without devices; what is zero or empty is left out.
pub(super) fn oci_resources(resources: &LinuxContainerResources, cgroup_v2: bool) -> Map<String, Value> {
    let mut memory = Map::new();
    let mut cpu = Map::new();
    let mut all = Map::new();
    let positive = |map: &mut Map<String, Value>, name: &str, value: i64| {
        if value > 0 {
            map.insert(name.into(), value.into());
        }
    };
    positive(&mut memory, "limit", resources.memory_limit_in_bytes);
    positive(&mut memory, "swap", resources.memory_swap_limit_in_bytes);
    positive(&mut cpu, "shares", resources.cpu_shares);
    positive(&mut cpu, "period", resources.cpu_period);
    if resources.cpu_quota != 0 {
        cpu.insert("quota".into(), resources.cpu_quota.into());
    }
    for (name, list) in [("cpus", &resources.cpuset_cpus), ("mems", &resources.cpuset_mems)] {
        if !list.is_empty() {
            cpu.insert(name.into(), list.as_str().into());
        }
    }
    for (name, map) in [("memory", memory), ("cpu", cpu)] {
        if !map.is_empty() {
            all.insert(name.into(), map.into());
        }
    }
    if resources.pids_limit > 0 {
        all.insert("pids".into(), json!({ "limit": resources.pids_limit }));
    }
    if !resources.hugepage_limits.is_empty() {
        let limits: Vec<Value> =
            resources.hugepage_limits.iter().map(|limit| json!({ "pageSize": limit.page_size, "limit": limit.limit })).collect();
        all.insert("hugepageLimits".into(), limits.into());
    }
    if cgroup_v2 && !resources.unified.is_empty() {
        all.insert("unified".into(), json!(resources.unified));
    }
    all
}
