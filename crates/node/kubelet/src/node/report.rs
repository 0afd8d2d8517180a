//! The node's status from what is known of it. Pure.

use std::collections::{BTreeMap, BTreeSet};

use fram_client::local_path;
use fram_cri::{Image, RuntimeStatus, VersionResponse};
use fram_machinery::quantity::Quantity;
use fram_machinery::{Map, Value, object};
use jiff::Timestamp;

use super::machine;
use crate::admit::is_extended;
use crate::clock;
use crate::config::KubeletConfig;
use crate::context::Context;
use crate::eviction::NodeCondition;

const MOST_NAMES: usize = 5;
/// What pods may need of a node and not every node of a cluster has (KEP-5328), sorted; see component-helpers/nodedeclaredfeatures.
const DECLARED: [&str; 4] = [
    "ExtendWebSocketsToKubelet",
    "InPlacePodLevelResourcesVerticalScaling",
    "InPlacePodVerticalScalingInitContainers",
    "RestartAllContainersOnContainerExits",
];

pub(super) struct Facts<'a> {
    pub(super) ctx: &'a Context,
    /// The last status.
    pub(super) old: &'a Value,
    /// What the runtime says of itself, or why nothing can run.
    pub(super) runtime: Result<RuntimeStatus, String>,
    pub(super) version: VersionResponse,
    pub(super) images: Vec<Image>,
    pub(super) pressures: BTreeSet<NodeCondition>,
    pub(super) now: Timestamp,
}

/// Labels that the kubelet gives its node.
pub(super) fn labels(config: &KubeletConfig) -> BTreeMap<String, String> {
    let arch = machine::architecture();
    let mut out = BTreeMap::from([("kubernetes.io/hostname".to_string(), config.node_name.clone())]);
    for (key, value) in
        [("kubernetes.io/os", "linux"), ("kubernetes.io/arch", arch), ("beta.kubernetes.io/os", "linux"), ("beta.kubernetes.io/arch", arch)]
    {
        out.insert(key.into(), value.into());
    }
    out.extend(config.node_labels.clone());
    out
}

/// Annotations that the kubelet gives its node.
pub(super) fn annotations(config: &KubeletConfig) -> BTreeMap<String, String> {
    let directory = config.volumes_dir.as_ref().map(|dir| (local_path::DIRECTORY.to_string(), dir.display().to_string()));
    directory.into_iter().collect()
}

pub(super) fn status(facts: &Facts) -> Value {
    let config = &facts.ctx.config;
    let mut addresses: Vec<Value> =
        config.node_ips.iter().map(|ip| object!({ "type": "InternalIP", "address": (ip.to_string()) })).collect();
    addresses.push(object!({ "type": "Hostname", "address": (config.node_name.as_str()) }));
    let quantities = |map: &BTreeMap<String, Quantity>| -> Map { map.iter().map(|(k, v)| (k.as_str(), v.to_string())).collect() };
    let mut info = machine::info();
    info.set(&["kubeletVersion"], config.version.as_str());
    info.set(&["containerRuntimeVersion"], format!("{}://{}", facts.version.runtime_name, facts.version.runtime_version));
    let (mut capacity, mut allocatable) = (quantities(&facts.ctx.node.capacity), quantities(&facts.ctx.node.allocatable));
    for (resource, (all, healthy)) in facts.ctx.devices.amounts() {
        capacity.insert(resource.as_str(), all.to_string());
        allocatable.insert(resource.as_str(), healthy.to_string());
    }
    keep_given(facts.old, &mut capacity, &mut allocatable);
    let mut out = object!({
        "addresses": addresses, "capacity": capacity, "allocatable": allocatable,
        "conditions": (conditions(facts)), "nodeInfo": info, "images": (images(&facts.images, usize::try_from(config.status_max_images).unwrap_or(usize::MAX)))
    });
    if config.port > 0 {
        out.set(&["daemonEndpoints", "kubeletEndpoint", "Port"], i64::from(config.port));
    }
    if let Ok(runtime) = &facts.runtime {
        let handler = |h: &fram_cri::RuntimeHandler| {
            object!({ "name": (h.name.as_str()), "features": {
                "recursiveReadOnlyMounts": (h.features.recursive_read_only_mounts), "userNamespaces": (h.features.user_namespaces) } })
        };
        if !runtime.runtime_handlers.is_empty() {
            out.set(&["runtimeHandlers"], runtime.runtime_handlers.iter().map(handler).collect::<Vec<_>>());
        }
        out.set(&["features", "supplementalGroupsPolicy"], runtime.features.supplemental_groups_policy);
    }
    out.set(&["declaredFeatures"], DECLARED.iter().map(|name| Value::from(*name)).collect::<Vec<_>>());
    out
}

/// Extended resources that others have given the node, as its capacity, can be had by pods as long as they are there; see upstream's
/// MachineInfo and "Advertise Extended Resources for a Node".
fn keep_given(old: &Value, capacity: &mut Map, allocatable: &mut Map) {
    let extended = |field: &str| {
        let all = old.get(field).and_then(Value::as_map).cloned().unwrap_or_default();
        all.into_entries().into_iter().filter(|(name, _)| is_extended(name))
    };
    for (name, amount) in extended("capacity").filter(|(_, amount)| !amount.is_null()) {
        if !capacity.contains(&name) {
            capacity.insert(name.clone(), amount.clone());
            allocatable.insert(name, amount);
        }
    }
    for (name, _) in extended("allocatable") {
        if !capacity.contains(&name) {
            // The status is a merge patch, in which this takes it away.
            allocatable.insert(name, Value::Null);
        }
    }
}

/// As many as `most`, the largest first.
fn images(images: &[Image], most: usize) -> Vec<Value> {
    let mut sorted: Vec<&Image> = images.iter().filter(|i| !i.repo_tags.is_empty() || !i.repo_digests.is_empty()).collect();
    sorted.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    let image = |i: &&Image| {
        let names: Vec<Value> = i.repo_digests.iter().chain(&i.repo_tags).take(MOST_NAMES).map(|n| n.as_str().into()).collect();
        object!({ "names": names, "sizeBytes": (i64::try_from(i.size).unwrap_or(i64::MAX)) })
    };
    sorted.iter().take(most).map(image).collect()
}

fn conditions(facts: &Facts) -> Vec<Value> {
    let old = facts.old.list_at(&["conditions"]);
    let own = [
        pressure(
            "MemoryPressure",
            facts.pressures.contains(&NodeCondition::Memory),
            ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
        ),
        pressure(
            "DiskPressure",
            facts.pressures.contains(&NodeCondition::Disk),
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            ("KubeletHasDiskPressure", "kubelet has disk pressure"),
        ),
        pressure(
            "PIDPressure",
            facts.pressures.contains(&NodeCondition::Pid),
            ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
        ),
        ready(&facts.runtime),
    ];
    let is_own = |c: &&Value| own.iter().any(|(ty, ..)| c.str_at(&["type"]) == *ty);
    let mut out: Vec<Value> = old.iter().filter(|c| !is_own(c)).cloned().collect();
    for (ty, is_true, reason, message) in &own {
        let status = if *is_true { "True" } else { "False" };
        let before = old.iter().find(|c| c.str_at(&["type"]) == *ty && c.str_at(&["status"]) == status);
        let now = clock::time(facts.now);
        let since = before.map(|c| c.str_at(&["lastTransitionTime"]).to_string()).filter(|t| !t.is_empty()).unwrap_or_else(|| now.clone());
        out.push(object!({
            "type": (*ty), "status": status, "reason": (*reason), "message": (message.as_str()),
            "lastHeartbeatTime": now, "lastTransitionTime": since
        }));
    }
    out
}

type Condition = (&'static str, bool, &'static str, String);

fn pressure(ty: &'static str, is_true: bool, no: (&'static str, &'static str), yes: (&'static str, &'static str)) -> Condition {
    let (reason, message) = if is_true { yes } else { no };
    (ty, is_true, reason, message.to_string())
}

fn ready(runtime: &Result<RuntimeStatus, String>) -> Condition {
    let lacking = match runtime {
        Err(error) => Some(error.clone()),
        Ok(status) => {
            let unmet: Vec<String> = status
                .conditions
                .iter()
                .filter(|c| !c.status)
                .map(|c| {
                    let what =
                        if c.r#type == "NetworkReady" { "container runtime network not ready" } else { "container runtime not ready" };
                    format!("{what}: {}=false reason:{} message:{}", c.r#type, c.reason, c.message)
                })
                .collect();
            (!unmet.is_empty()).then(|| format!("[{}]", unmet.join(", ")))
        }
    };
    match lacking {
        None => ("Ready", true, "KubeletReady", "kubelet is posting ready status".into()),
        Some(message) => ("Ready", false, "KubeletNotReady", message),
    }
}

pub(super) fn is_ready(status: &Value) -> bool {
    status.list_at(&["conditions"]).iter().any(|c| c.str_at(&["type"]) == "Ready" && c.str_at(&["status"]) == "True")
}

/// A status as far as a change of it matters.
pub(super) fn without_heartbeats(status: &Value) -> Value {
    let mut out = status.clone();
    for condition in out.place(&["conditions"]).make_list().make_mut() {
        condition.remove(&["lastHeartbeatTime"]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_have_given_a_node_can_be_had_until_they_take_it_away() {
        let own = || object!({ "cpu": "2", "example.com/device": "3" });
        let table = [
            (object!({}), own(), own()),
            (
                object!({ "capacity": { "cpu": "4", "example.com/given": "1k", "example.com/device": "9" }, "allocatable": { "cpu": "4" } }),
                object!({ "cpu": "2", "example.com/device": "3", "example.com/given": "1k" }),
                object!({ "cpu": "2", "example.com/device": "3", "example.com/given": "1k" }),
            ),
            (
                object!({ "capacity": { "cpu": "2" }, "allocatable": { "example.com/given": "1k", "example.com/device": "9" } }),
                own(),
                object!({ "cpu": "2", "example.com/device": "3", "example.com/given": null }),
            ),
            (object!({ "capacity": { "kubernetes.io/own": "1", "hugepages-2Mi": "0" } }), own(), own()),
        ];
        for (old, capacity, allocatable) in table {
            let map = || own().as_map().cloned().unwrap_or_default();
            let (mut has, mut gives) = (map(), map());
            keep_given(&old, &mut has, &mut gives);
            assert_eq!((Value::Map(has), Value::Map(gives)), (capacity, allocatable), "{old:?}");
        }
    }
}
