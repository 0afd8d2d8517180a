//! From a pod, or something that has pods, to the pods. See kubectl's polymorphichelpers.

use std::sync::Arc;
use std::time::Duration;

use fram_client::{ListOptions, resources};
use fram_machinery::{Value, meta};

use crate::access::Access;
use crate::choose::{Chosen, follow};
use crate::discovery::ResourceType;
use crate::error::{CliError, Result};
use crate::targets::pod_or_owner;

/// What a command line named.
pub(crate) struct Owner {
    pub(crate) ty: ResourceType,
    pub(crate) object: Arc<Value>,
}

pub(crate) async fn owner(access: &Access, argument: &str) -> Result<Owner> {
    let (word, name) = pod_or_owner(argument)?;
    let ty = access.resource_type(&word).await?.clone();
    let object = access.objects(&ty).get(&name).await?;
    Ok(Owner { ty, object })
}

/// The labels by which an owner's pods are known, as a selector; None where the kind has no pods.
pub(crate) fn selector_of(object: &Value) -> Option<String> {
    let selector = object.at(&["spec", "selector"])?;
    let mut parts = Vec::new();
    let labels = if selector.get("matchLabels").is_some() || selector.get("matchExpressions").is_some() {
        selector.get("matchLabels").cloned().unwrap_or_default()
    } else {
        // Services and ReplicationControllers have the bare map.
        selector.clone()
    };
    for (key, value) in labels.as_map().into_iter().flat_map(|m| m.iter()) {
        parts.push(format!("{}={}", key.as_str(), value.as_str()?));
    }
    for expression in selector.list_at(&["matchExpressions"]) {
        let key = expression.str_at(&["key"]);
        let values: Vec<&str> = expression.list_at(&["values"]).iter().filter_map(Value::as_str).collect();
        parts.push(match expression.str_at(&["operator"]) {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "Exists" => key.to_string(),
            _ => format!("!{key}"),
        });
    }
    (!parts.is_empty()).then(|| parts.join(","))
}

/// How good a choice a pod is where one of several is meant: running and ready pods first, then the older ones. See
/// controller.ActivePods.
fn rank(pod: &Value) -> (bool, u8, bool, String) {
    let phase = match pod.str_at(&["status", "phase"]) {
        "Running" => 0,
        "Pending" => 1,
        _ => 2,
    };
    (meta::is_terminating(pod), phase, !meta::condition_is_true(pod, "Ready"), pod.str_at(&["metadata", "creationTimestamp"]).into())
}

/// The pods of an owner, the best first.
pub(crate) async fn pods_of(access: &Access, owner: &Owner) -> Result<Vec<Arc<Value>>> {
    if owner.ty.kind == "Pod" {
        return Ok(vec![owner.object.clone()]);
    }
    let place = Chosen::of(access, &owner.ty, &owner.object);
    let selector = selector_of(&owner.object).ok_or_else(|| CliError::failed(format!("{} has no pods", place.place())))?;
    by_selector(access, &selector, &place.namespace).await
}

pub(crate) async fn by_selector(access: &Access, selector: &str, namespace: &str) -> Result<Vec<Arc<Value>>> {
    let pods = access.resource_type("pods").await?;
    let options = ListOptions { label_selector: selector.into(), ..Default::default() };
    let mut found = access.objects_in(pods, namespace).list(options).await?.items;
    found.sort_by_key(|p| rank(p));
    Ok(found)
}

/// What a pod is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use<'a> {
    /// A command in this container, or in the one that is meant where none is named.
    Exec(Option<&'a str>),
    Forward,
}

/// Whether a pod can be used, in kubectl's words where it never can; one that is about to start will be.
fn usable(pod: &Value, purpose: Use<'_>) -> Result<bool> {
    let runs = match (pod.str_at(&["status", "phase"]), purpose) {
        (phase @ ("Succeeded" | "Failed"), Use::Exec(_)) => {
            return Err(CliError::failed(format!("cannot exec into a container in a completed pod; current phase is {phase}")));
        }
        (phase @ ("Succeeded" | "Failed"), Use::Forward) => {
            return Err(CliError::failed(format!("unable to forward port because pod is not running. Current status={phase}")));
        }
        (phase, _) => phase == "Running",
    };
    let Use::Exec(Some(container)) = purpose else { return Ok(runs) };
    // A container of the init phase runs long before its pod is said to.
    let lists = ["initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"];
    let mut states = lists.iter().flat_map(|l| pod.list_at(&["status", l])).filter(|s| s.str_at(&["name"]) == container);
    Ok(runs || states.any(|s| s.at(&["state", "running"]).is_some()))
}

/// The one pod that is meant, once it can be used; a pod that is about to start is waited for.
pub(crate) async fn usable_pod(access: &Access, argument: &str, purpose: Use<'_>) -> Result<(Owner, Arc<Value>)> {
    const PATIENCE: Duration = Duration::from_secs(60);
    let owner = owner(access, argument).await?;
    let pods = pods_of(access, &owner).await?;
    let pod = pods.first().cloned().ok_or_else(|| CliError::failed(format!("{argument} has no pods now: see `fram get pods`")))?;
    let decide = |pod: Option<&Value>| match pod {
        None => Err(CliError::failed("the pod was deleted")),
        Some(pod) => Ok(usable(pod, purpose)?.then(|| Arc::new(pod.clone()))),
    };
    let objects = access.objects_in(access.resource_type(&resources::PODS.plural).await?, meta::namespace(&pod));
    let waiting = tokio::time::timeout(PATIENCE, follow(&objects, meta::name(&pod), decide)).await;
    let late = |_| CliError::failed(format!("pod {} does not start: see `fram get pod {} -o yaml`", meta::name(&pod), meta::name(&pod)));
    Ok((owner, waiting.map_err(late)??))
}

/// The names of a pod's containers: those that are meant to run, then all others.
pub(crate) fn containers(pod: &Value, with_others: bool) -> Vec<String> {
    let lists: &[&str] = if with_others { &["initContainers", "containers", "ephemeralContainers"] } else { &["containers"] };
    lists.iter().flat_map(|l| pod.list_at(&["spec", l])).map(|c| c.str_at(&["name"]).to_string()).collect()
}

/// The container that is meant where none is named, and whether the user should be told.
pub(crate) fn default_container(pod: &Value) -> Result<(String, bool)> {
    let all = containers(pod, false);
    let annotated = meta::annotation(pod, "kubectl.kubernetes.io/default-container").filter(|c| all.iter().any(|a| a == c));
    match (annotated, all.first()) {
        (Some(name), _) => Ok((name.into(), false)),
        (None, Some(first)) => Ok((first.clone(), all.len() > 1)),
        (None, None) => Err(CliError::failed("the pod has no containers")),
    }
}

pub(crate) fn defaulted(pod: &Value, container: &str) -> String {
    format!("Defaulted container {container:?} out of: {}", containers(pod, true).join(", "))
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    #[test]
    fn an_owners_selector_is_written_for_the_query() {
        let of = |selector: Value| selector_of(&object!({ "spec": { "selector": selector } }));
        assert_eq!(of(object!({ "app": "web", "tier": "a" })).as_deref(), Some("app=web,tier=a"));
        let full = object!({ "matchLabels": { "app": "web" }, "matchExpressions": [
            { "key": "x", "operator": "In", "values": ["1", "2"] }, { "key": "y", "operator": "Exists" }, { "key": "z", "operator": "DoesNotExist" }] });
        assert_eq!(of(full).as_deref(), Some("app=web,x in (1,2),y,!z"));
        assert_eq!(of(object!({})), None);
        assert_eq!(selector_of(&object!({ "spec": {} })), None);
    }

    #[test]
    fn a_ready_pod_comes_before_others_and_a_dying_one_last() {
        let pod = |phase: &str, ready: &str, dying: bool| {
            let mut pod = object!({ "metadata": { "creationTimestamp": "2026-01-01T00:00:00Z" }, "status": { "phase": phase, "conditions": [{ "type": "Ready", "status": ready }] } });
            if dying {
                pod.set(&["metadata", "deletionTimestamp"], "2026-01-01T00:00:00Z");
            }
            pod
        };
        let mut pods =
            [pod("Running", "True", true), pod("Pending", "False", false), pod("Running", "False", false), pod("Running", "True", false)];
        pods.sort_by_key(rank);
        let order: Vec<(&str, bool)> = pods.iter().map(|p| (p.str_at(&["status", "phase"]), meta::condition_is_true(p, "Ready"))).collect();
        assert_eq!(order, [("Running", true), ("Running", false), ("Pending", false), ("Running", true)]);
    }

    #[test]
    fn a_command_may_run_while_the_pod_is_being_prepared() {
        let pod = |phase: &str| {
            object!({ "status": { "phase": phase, "initContainerStatuses": [{ "name": "setup", "state": { "running": {} } }],
                "containerStatuses": [{ "name": "app", "state": { "waiting": {} } }] } })
        };
        let can = |phase: &str, purpose| usable(&pod(phase), purpose).ok();
        assert_eq!(can("Pending", Use::Exec(Some("setup"))), Some(true));
        assert_eq!(can("Pending", Use::Exec(Some("app"))), Some(false));
        assert_eq!((can("Pending", Use::Exec(None)), can("Pending", Use::Forward)), (Some(false), Some(false)));
        assert_eq!((can("Running", Use::Exec(Some("app"))), can("Running", Use::Forward)), (Some(true), Some(true)));
        assert_eq!((can("Succeeded", Use::Exec(None)), can("Failed", Use::Forward)), (None, None));
    }

    #[test]
    fn the_default_container_is_the_annotated_or_the_first() {
        let mut pod = object!({ "spec": { "containers": [{ "name": "a" }, { "name": "b" }], "initContainers": [{ "name": "i" }] } });
        assert_eq!(default_container(&pod).unwrap(), ("a".into(), true));
        assert_eq!(defaulted(&pod, "a"), "Defaulted container \"a\" out of: i, a, b");
        meta::set_annotation(&mut pod, "kubectl.kubernetes.io/default-container", "b");
        assert_eq!(default_container(&pod).unwrap(), ("b".into(), false));
    }
}
