//! Pod Security Standards by the labels of namespaces: pods that break a level are refused, warned of, noted for the audit, or let
//! pass. See upstream's plugin PodSecurity and KEP-2579. What the levels forbid is in `checks`.

mod checks;

use std::collections::{BTreeMap, HashSet};

use fram_machinery::status::FieldError;
use fram_machinery::{Status, Value, meta};

use super::{Operation, Plugin, Request};
use checks::{Level, NEWEST, Policy};

const PREFIX: &str = "pod-security.kubernetes.io/";

/// A level as a label names it, with its version.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Asked {
    policy: Policy,
    version: String,
}

impl Asked {
    fn latest(level: Level) -> Self {
        Self { policy: Policy { level, minor: NEWEST }, version: "latest".into() }
    }

    fn words(&self) -> String {
        format!("{}:{}", self.policy.level.name(), self.version)
    }
}

/// What a namespace asks for, and what is wrong with its labels. A level that cannot be read is the strictest for what is
/// enforced and nothing for warnings, as upstream has it.
fn asked(namespace: &Value, mode: &str, errors: &mut Vec<FieldError>) -> Asked {
    let label = |suffix: &str| meta::label(namespace, &format!("{PREFIX}{mode}{suffix}"));
    let level = match label("").map(|text| (text, Level::parse(text))) {
        None => Level::Privileged,
        Some((_, Some(level))) => level,
        Some((text, None)) => {
            let allowed = ["privileged", "baseline", "restricted"];
            errors.push(FieldError::not_supported(format!("metadata.labels[{PREFIX}{mode}]"), text, &allowed));
            if mode == "enforce" { Level::Restricted } else { Level::Privileged }
        }
    };
    let version = label("-version").unwrap_or("latest");
    if version == "latest" {
        return Asked::latest(level);
    }
    let minor = version.strip_prefix("v1.").filter(|m| *m == "0" || !m.starts_with('0') && m.bytes().all(|b| b.is_ascii_digit()));
    let Some(minor) = minor.and_then(|minor| minor.parse().ok()) else {
        let why = "must be \"latest\" or \"v1.x\"";
        errors.push(FieldError::invalid(format!("metadata.labels[{PREFIX}{mode}-version]"), version, why));
        return Asked::latest(level);
    };
    Asked { policy: Policy { level, minor }, version: version.to_string() }
}

/// Whether objects of a kind describe pods.
fn may_have_pod(group: &str, kind: &str) -> bool {
    matches!((group, kind), ("", "Pod" | "PodTemplate" | "ReplicationController") | ("apps" | "batch", _))
}

/// Where the pods of a kind are described.
fn pod_of<'a>(kind: (&str, &str), object: &'a Value) -> Option<&'a Value> {
    match kind {
        ("", "Pod") => Some(object),
        ("", "PodTemplate") => object.get("template"),
        ("", "ReplicationController") | ("apps", "ReplicaSet" | "Deployment" | "StatefulSet" | "DaemonSet") | ("batch", "Job") => {
            object.at(&["spec", "template"])
        }
        ("batch", "CronJob") => object.at(&["spec", "jobTemplate", "spec", "template"]),
        _ => None,
    }
}

/// Whether an update of a pod can break a level that the pod kept before.
fn matters(pod: &Value, old: &Value) -> bool {
    ["initContainers", "containers", "ephemeralContainers"].iter().any(|list| {
        let images = |pod: &'_ Value| -> Vec<(String, String)> {
            let all = pod.list_at(&["spec", list]).iter();
            all.map(|c| (c.str_at(&["name"]).to_string(), c.str_at(&["image"]).to_string())).collect()
        };
        images(pod) != images(old)
    })
}

/// What a pod breaks of a level, in upstream's words.
fn broken(asked: &Asked, pod: &Value) -> Option<String> {
    let found = checks::violations(asked.policy, pod);
    (!found.is_empty()).then(|| format!("PodSecurity {:?}: {}", asked.words(), found.join(", ")))
}

/// Tells the auditor.
fn note(key: &str, value: impl FnOnce() -> String) {
    crate::audit::annotate(&format!("{PREFIX}{key}"), value);
}

pub(super) struct PodSecurity;

#[async_trait::async_trait]
impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        let kind = request.stored_kind();
        matches!(request.operation, Operation::Create | Operation::Update)
            && kind.custom.is_none()
            && (request.is_about("", "Namespace") || may_have_pod(&kind.group, &kind.kind))
    }

    async fn validate(&self, request: &Request<'_>, object: Option<&Value>, old: Option<&Value>) -> Result<(), Status> {
        let (kind, Some(object)) = (request.stored_kind(), object) else { return Ok(()) };
        if request.is_about("", "Namespace") {
            return namespace(request, object, old).await;
        }
        let is_pod = kind.is("", "Pod");
        let counted = request.subresource.is_empty() || is_pod && request.subresource == "ephemeralcontainers";
        let Some(pod) = pod_of((&kind.group, &kind.kind), object).filter(|_| counted) else { return Ok(()) };
        if is_pod && old.is_some_and(|old| !matters(object, old)) {
            return Ok(());
        }
        let Some(namespace) = request.find("", "v1", "namespaces", "", &request.place.namespace).await? else { return Ok(()) };
        let mut errors = Vec::new();
        let [enforced, audited, warned] = ["enforce", "audit", "warn"].map(|mode| asked(&namespace, mode, &mut errors));
        if !errors.is_empty() {
            note("error", || {
                format!("Failed to parse policy: {}", Status::invalid("", "Namespace", meta::name(&namespace), errors).message)
            });
        }
        if is_pod {
            note("enforce-policy", || enforced.words());
        }
        if let Some(why) = broken(&audited, pod) {
            note("audit-violations", || format!("would violate {why}"));
        }
        // Controllers' templates are warned of only: their pods are judged when they come.
        if is_pod && let Some(why) = broken(&enforced, pod) {
            return Err(request.place.forbidden(&format!("violates {why}")));
        }
        if let Some(why) = broken(&warned, pod) {
            request.warn(&format!("would violate {why}"));
        }
        Ok(())
    }
}

/// Labels that cannot be read are refused; a stricter level warns of the pods that are there already.
async fn namespace(request: &Request<'_>, object: &Value, old: Option<&Value>) -> Result<(), Status> {
    let policy = |namespace: &Value| {
        let mut errors = Vec::new();
        let all = ["enforce", "audit", "warn"].map(|mode| asked(namespace, mode, &mut errors));
        (all, errors)
    };
    let ([enforced, ..], errors) = policy(object);
    let before = old.map(policy);
    if !errors.is_empty() && before.as_ref().is_none_or(|(_, before)| *before != errors) {
        return Err(Status::invalid("", "Namespace", meta::name(object), errors));
    }
    let Some(([was, ..], _)) = before else { return Ok(()) };
    if enforced == was || enforced.version == was.version && enforced.policy.level <= was.policy.level {
        return Ok(());
    }
    let name = meta::name(object);
    let pods = request.list("", "v1", "pods", name).await?;
    let told = of_existing(enforced.policy, &pods);
    if !told.is_empty() {
        request.warn(&format!("existing pods in namespace {name:?} violate the new PodSecurity enforce level {:?}", enforced.words()));
        told.iter().for_each(|text| request.warn(text));
    }
    if pods.len() > MOST_PODS {
        let all = pods.len();
        request.warn(&format!("new PodSecurity enforce level only checked against the first {MOST_PODS} of {all} existing pods"));
    }
    Ok(())
}

/// As many pods as there may be are looked at when a level is raised; upstream's namespaceMaxPodsToCheck.
const MOST_PODS: usize = 3000;

/// What pods that are there break of a level, one line for all that break the same. Of a controller's pods one is looked at.
fn of_existing(policy: Policy, pods: &[Value]) -> Vec<String> {
    let (mut controllers, mut found) = (HashSet::new(), BTreeMap::<String, Vec<&str>>::new());
    for pod in pods.iter().take(MOST_PODS) {
        if meta::controller_of(pod).is_some_and(|owner| !controllers.insert(owner.str_at(&["uid"]))) {
            continue;
        }
        let broken = checks::violations(policy, pod);
        let reasons: Vec<&str> = broken.iter().map(|text| text.split(" (").next().unwrap_or(text)).collect();
        if !reasons.is_empty() {
            found.entry(reasons.join(", ")).or_default().push(meta::name(pod));
        }
    }
    let line = |(reasons, mut names): (String, Vec<&str>)| {
        names.sort_unstable();
        let others = match names.len() - 1 {
            0 => String::new(),
            1 => " (and 1 other pod)".into(),
            more => format!(" (and {more} other pods)"),
        };
        format!("{}{others}: {reasons}", names[0])
    };
    let mut lines: Vec<String> = found.into_iter().map(line).collect();
    lines.sort();
    lines
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    #[test]
    fn pods_that_break_the_same_are_told_of_in_one_line() {
        let pod = |name: &str, owner: &str, network: bool| {
            let mut pod = object!({ "metadata": { "name": name }, "spec": { "hostNetwork": network, "containers": [{ "name": "c" }] } });
            if !owner.is_empty() {
                pod.set(&["metadata", "ownerReferences"], vec![object!({ "uid": owner, "controller": true })]);
            }
            pod
        };
        let pods =
            [pod("c", "", true), pod("a", "", true), pod("b", "", true), pod("r1", "x", true), pod("r2", "x", true), pod("ok", "", false)];
        assert_eq!(of_existing(Asked::latest(Level::Baseline).policy, &pods), ["a (and 3 other pods): host namespaces"]);
    }
}
