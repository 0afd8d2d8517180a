//! What a change of a running pod's resources asks for (KEP-1287): which containers are updated or restarted, what their status
//! shows, and whether a limit may be lowered. Pure; see kuberuntime's computePodResizeAction and validatePodResizeAction.

use std::sync::Arc;

use fram_cri::{ContainerState, ContainerStatus, LinuxContainerResources};
use fram_machinery::quantity::{Format, Quantity};
use fram_machinery::{Map, Value, json, meta, object};

use crate::observed::{ANNOTATION_RESOURCES, Observed};
use crate::pod::{self, Role, resources};

/// The types of the conditions that tell of a resize.
pub(crate) const PENDING: &str = "PodResizePending";
pub(crate) const IN_PROGRESS: &str = "PodResizeInProgress";

/// What a running container needs to get the resources that are allocated to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    Update,
    /// One of its resources changes that its resizePolicy gives only to a new instance.
    Restart,
}

/// A container as it was made: noted with it, since memory requests leave no trace in cgroups.
pub(crate) fn annotation(pod: &Value, container: &Value) -> String {
    json::to_string(&effective(pod, container))
}

/// The resources of a container, with the limits of its pod where it has none of its own; see containerResourcesFromRequirements.
fn effective(pod: &Value, container: &Value) -> Value {
    let mut out = container.get("resources").cloned().unwrap_or_else(|| Map::new().into());
    for name in ["cpu", "memory"] {
        let own = resources::quantity(&out, "limits", name).filter(|q| !q.is_zero());
        if let Some(limit) = pod.at(&["spec", "resources", "limits", name]).filter(|_| own.is_none()) {
            out.set(&["limits", name], limit.clone());
        }
    }
    out
}

/// What `container`, whose resources are those allocated, needs.
pub(crate) fn change(pod: &Value, container: &Value, status: &ContainerStatus) -> Change {
    if status.state != ContainerState::Running {
        return Change::None;
    }
    if needs_restart(pod, container, status) {
        return Change::Restart;
    }
    let wanted = wanted(pod, container, &status.resources);
    let same = !says(&status.resources) || limits(&wanted, &status.resources) == limits(&status.resources, &status.resources);
    if same { Change::None } else { Change::Update }
}

/// The limits of a container, counted over the periods over which those are counted that it has.
fn wanted(pod: &Value, container: &Value, actual: &LinuxContainerResources) -> LinuxContainerResources {
    let mut wanted = resources::container_resources(pod, container, 1);
    resources::count_over(&mut wanted, actual.cpu_period);
    wanted
}

/// A runtime need not tell what limits a container has.
fn says(known: &LinuxContainerResources) -> bool {
    known.cpu_shares != 0
}

/// A container that is made without any quota (it has processors for itself, or quotas are off) keeps it so.
fn limits(resources: &LinuxContainerResources, actual: &LinuxContainerResources) -> [i64; 3] {
    let quota = if actual.cpu_quota < 0 { 0 } else { resources.cpu_quota };
    [resources.cpu_shares, quota, resources.memory_limit_in_bytes]
}

fn needs_restart(pod: &Value, container: &Value, status: &ContainerStatus) -> bool {
    let Some(made) = status.annotations.get(ANNOTATION_RESOURCES).and_then(|text| json::from_slice(text.as_bytes()).ok()) else {
        return false;
    };
    let now = effective(pod, container);
    container.list_at(&["resizePolicy"]).iter().filter(|p| p.str_at(&["restartPolicy"]) == "RestartContainer").any(|policy| {
        let name = policy.str_at(&["resourceName"]);
        ["requests", "limits"].into_iter().any(|kind| resources::quantity(&made, kind, name) != resources::quantity(&now, kind, name))
    })
}

/// Containers whose resources can change.
fn resizable(pod: &Value) -> impl Iterator<Item = &Value> {
    pod::all_containers(pod).filter(|(role, _)| matches!(role, Role::Main | Role::Init)).map(|(_, c)| c)
}

/// Whether containers run with other resources than are allocated to them.
pub(crate) fn in_progress(pod: &Value, observed: &Observed) -> bool {
    resizable(pod).any(|c| observed.latest(pod::container_name(c)).is_some_and(|s| change(pod, c, s) != Change::None))
}

/// The resources of a container as its status shows them: those allocated, and where it runs with others, those. See
/// convertContainerStatusResources.
pub(crate) fn shown(pod: &Value, container: &Value, status: &ContainerStatus) -> Option<Value> {
    let mut shown = container.get("resources")?.clone();
    let actual = &status.resources;
    if status.state != ContainerState::Running || !says(actual) {
        return Some(shown);
    }
    let wanted = wanted(pod, container, actual);
    let milli = |n: i64| Value::from(Quantity::from_milli(n).to_string());
    let mut replace = |path: [&str; 2], differs: bool, value: Value| {
        if differs && shown.at(&path[..1]).is_some_and(|m| !m.is_empty()) {
            shown.set(&path, value);
        }
    };
    let share = actual.cpu_shares * 1000;
    replace(["requests", "cpu"], wanted.cpu_shares != actual.cpu_shares, milli(share / 1024 + i64::from(share % 1024 > 0)));
    let period = if actual.cpu_period > 0 { actual.cpu_period } else { 100_000 };
    if actual.cpu_quota > 0 {
        replace(["limits", "cpu"], wanted.cpu_quota != actual.cpu_quota, milli(actual.cpu_quota * 1000 / period));
    }
    if actual.memory_limit_in_bytes > 0 {
        let bytes = Quantity::from_units(actual.memory_limit_in_bytes, Format::BinarySi).to_string();
        replace(["limits", "memory"], wanted.memory_limit_in_bytes != actual.memory_limit_in_bytes, bytes.into());
    }
    if let Some(made) = status.annotations.get(ANNOTATION_RESOURCES).filter(|_| needs_restart(pod, container, status))
        && let Ok(made) = json::from_slice(made.as_bytes())
        && let Some(memory) = made.at(&["requests", "memory"])
    {
        replace(["requests", "memory"], true, memory.clone());
    }
    Some(shown)
}

/// The text of an event about a resize; see events.makeResourceSummaryFromSpec.
pub(crate) fn summary(prefix: &str, pod: &Value, generation: i64, error: &str) -> String {
    let of = |role: Role| -> Vec<Value> {
        let list = pod.list_at(&["spec", role.field()]).iter();
        list.map(|c| object!({ "name": (pod::container_name(c)), "resources": (c.get("resources").cloned()) })).collect()
    };
    let mut summary = object!({ "containers": (of(Role::Main)), "generation": generation });
    if !pod::init_containers(pod).is_empty() {
        summary.set(&["initContainers"], of(Role::Init));
    }
    if !error.is_empty() {
        summary.set(&["error"], error);
    }
    format!("{prefix}: {}", json::to_string(&summary))
}

/// Why memory limits cannot be lowered now: `usage` is in bytes, for the pod (named "") and its containers.
pub(crate) fn too_low(limits: &[(String, i64)], usage: impl Fn(&str) -> Option<i64>) -> Option<String> {
    let low = limits.iter().filter_map(|(name, limit)| {
        let used = usage(name).filter(|used| used >= limit)?;
        let what = if name.is_empty() { "pod".to_string() } else { format!("container {name:?}") };
        Some(format!("attempting to set {what} memory limit ({limit}) below current usage ({used})"))
    });
    let low: Vec<String> = low.collect();
    match low.len() {
        0 => None,
        1 => Some(format!("cannot decrease memory limits: {}", low[0])),
        _ => Some(format!("cannot decrease memory limits: [{}]", low.join(", "))),
    }
}

/// A pod with the resources of another of its versions.
pub(crate) fn with_resources(pod: &Value, allocated: &Value) -> Value {
    let mut out = pod.clone();
    for role in [Role::Init, Role::Main] {
        if pod.list_at(&["spec", role.field()]).is_empty() {
            continue;
        }
        for container in out.place(&["spec", role.field()]).make_list().make_mut() {
            let name = pod::container_name(container).to_string();
            if let Some(resources) = allocated.at(&["containers", &name]) {
                container.set(&["resources"], resources.clone());
            }
        }
    }
    if let Some(level) = allocated.get("pod") {
        out.set(&["spec", "resources"], level.clone());
    }
    out
}

/// The resources of a pod in the form that `with_resources` takes.
pub(crate) fn resources_of(pod: &Value) -> Value {
    let containers: Map = [Role::Init, Role::Main]
        .into_iter()
        .flat_map(|role| pod.list_at(&["spec", role.field()]))
        .map(|c| (pod::container_name(c), c.get("resources").cloned().unwrap_or_else(|| Map::new().into())))
        .fold(Map::new(), |mut map, (name, resources)| {
            map.insert(name, resources);
            map
        });
    let mut out = object!({ "containers": containers });
    if let Some(level) = pod.at(&["spec", "resources"]) {
        out.set(&["pod"], level.clone());
    }
    out
}

/// The conditions of a pod's resize, without their times.
pub(crate) fn condition(ty: &str, reason: &str, message: &str, generation: i64) -> Value {
    let mut condition = object!({ "type": ty, "status": "True", "observedGeneration": generation });
    for (field, text) in [("reason", reason), ("message", message)] {
        if !text.is_empty() {
            condition.set(&[field], text);
        }
    }
    condition
}

/// Whether a pod asks for more than it did.
pub(crate) fn raises_requests(desired: &Value, allocated: &Value) -> bool {
    let (new, old) = (resources::pod_total(desired, "requests"), resources::pod_total(allocated, "requests"));
    ["cpu", "memory"].into_iter().any(|name| match (new.get(name), old.get(name)) {
        (Some(new), Some(old)) => new > old,
        (Some(new), None) => !new.is_zero(),
        _ => false,
    })
}

/// Those first that need no more, then the more important, then those that asked first; see sortPendingResizes.
pub(crate) fn in_turn(pending: &mut [(Arc<Value>, Arc<Value>)]) {
    let class = |pod: &Value| match pod::qos_class(pod) {
        "Guaranteed" => 0,
        "Burstable" => 1,
        _ => 2,
    };
    let since = |pod: &Value| meta::condition(pod, PENDING).map(|c| c.str_at(&["lastTransitionTime"]).to_string());
    pending.sort_by_cached_key(|(desired, allocated)| {
        let priority = desired.int_at(&["spec", "priority"]).unwrap_or(0);
        // One that was not told of yet has waited the least.
        let since = since(desired);
        (raises_requests(desired, allocated), std::cmp::Reverse(priority), class(desired), since.is_none(), since)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(policy: &str, cpu: &str, memory: &str) -> Value {
        object!({
            "name": "c",
            "resources": { "requests": { "cpu": cpu, "memory": memory }, "limits": { "cpu": cpu, "memory": memory } },
            "resizePolicy": [{ "resourceName": "memory", "restartPolicy": policy }]
        })
    }

    fn pod(container: &Value) -> Value {
        object!({ "spec": { "containers": [(container.clone())] } })
    }

    fn made_of(container: &Value) -> ContainerStatus {
        let mut status = ContainerStatus { state: ContainerState::Running, ..Default::default() };
        status.resources = resources::container_resources(&pod(container), container, 1);
        status.annotations.insert(ANNOTATION_RESOURCES.into(), annotation(&pod(container), container));
        status
    }

    #[test]
    fn a_container_is_updated_in_place_unless_its_policy_asks_for_a_new_one() {
        let check = |policy: &str, cpu: &str, memory: &str| {
            let (old, new) = (container(policy, "1", "1Gi"), container(policy, cpu, memory));
            change(&pod(&new), &new, &made_of(&old))
        };
        assert_eq!(check("NotRequired", "1", "1Gi"), Change::None);
        assert_eq!(check("NotRequired", "1000m", "1Gi"), Change::None);
        assert_eq!(check("NotRequired", "2", "1Gi"), Change::Update);
        assert_eq!(check("NotRequired", "1", "2Gi"), Change::Update);
        assert_eq!(check("RestartContainer", "2", "1Gi"), Change::Update);
        assert_eq!(check("RestartContainer", "2", "2Gi"), Change::Restart);
    }

    #[test]
    fn a_limit_of_the_pod_is_that_of_a_container_without_one() {
        let mut container = container("RestartContainer", "1", "1Gi");
        container.remove(&["resources"]);
        let with = |cpu: &str, memory: &str| {
            let mut pod = pod(&container);
            pod.set(&["spec", "resources"], object!({ "limits": { "cpu": cpu, "memory": memory } }));
            pod
        };
        let mut status = ContainerStatus { state: ContainerState::Running, ..Default::default() };
        status.resources = resources::container_resources(&with("1", "1Gi"), &container, 1);
        status.annotations.insert(ANNOTATION_RESOURCES.into(), annotation(&with("1", "1Gi"), &container));
        for (cpu, memory, expect) in [("1", "1Gi", Change::None), ("2", "1Gi", Change::Update), ("1", "2Gi", Change::Restart)] {
            assert_eq!(change(&with(cpu, memory), &container, &status), expect);
        }
    }

    #[test]
    fn the_status_shows_what_a_container_runs_with() {
        let (old, new) = (container("NotRequired", "500m", "1Gi"), container("NotRequired", "1", "2Gi"));
        assert_eq!(shown(&pod(&new), &new, &made_of(&new)), new.get("resources").cloned());
        let shown = shown(&pod(&new), &new, &made_of(&old)).unwrap();
        assert_eq!([shown.str_at(&["limits", "cpu"]), shown.str_at(&["limits", "memory"])], ["500m", "1Gi"]);
        assert_eq!([shown.str_at(&["requests", "cpu"]), shown.str_at(&["requests", "memory"])], ["500m", "2Gi"]);
    }

    #[test]
    fn resources_of_another_version_are_put_in_place() {
        let (old, new) = (pod(&container("", "1", "1Gi")), pod(&container("", "2", "1Gi")));
        assert_eq!(with_resources(&new, &resources_of(&old)), old);
    }

    #[test]
    fn a_limit_below_what_is_used_is_refused() {
        let limits = [(String::new(), 100), ("c".to_string(), 5)];
        let told = too_low(&limits, |_| Some(10)).unwrap();
        assert_eq!(told, r#"cannot decrease memory limits: attempting to set container "c" memory limit (5) below current usage (10)"#);
        assert_eq!(too_low(&limits, |_| None), None);
    }

    #[test]
    fn pending_resizes_take_turns_by_need_and_priority() {
        let of = |name: &str, cpu: &str, priority: i64| {
            let mut p = pod(&container("", cpu, "1Gi"));
            p.set(&["metadata", "name"], name);
            p.set(&["spec", "priority"], priority);
            p
        };
        let one = |name: &str, cpu: &str, priority: i64| (Arc::new(of(name, cpu, priority)), Arc::new(of(name, "2", priority)));
        let mut pending = vec![one("low", "3", 0), one("high", "3", 5), one("less", "1", 0)];
        in_turn(&mut pending);
        let names: Vec<&str> = pending.iter().map(|(p, _)| meta::name(p)).collect();
        assert_eq!(names, ["less", "high", "low"]);
    }
}
