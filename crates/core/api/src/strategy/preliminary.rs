//! Kinds of alpha and beta APIs: groups of pods, candidates for a lease, rewriting what is stored, and what servers store.

use fram_machinery::status::FieldError;
use fram_machinery::{Value, meta, names};

use super::limits::condition_errors;
use super::resource::is_semantic_version;
use super::{NameRule, Strategy};

/// What belongs to features that are off while these kinds are served (TopologyAwareWorkloadScheduling, WorkloadAwarePreemption,
/// DRAWorkloadResourceClaims).
const OFF: [&str; 5] = ["schedulingConstraints", "disruptionMode", "priorityClassName", "priority", "resourceClaims"];

/// See PodGroup and Workload of scheduling.k8s.io/v1alpha2, and KEP-4671.
pub(super) struct PodGroup;
impl Strategy for PodGroup {
    fn prepare_create(&self, group: &mut Value) {
        OFF.iter().for_each(|field| drop(group.remove(&["spec", field])));
    }

    fn prepare_update(&self, group: &mut Value, old: &Value) {
        let unused = |field: &&&str| old.at(&["spec", field]).is_none();
        OFF.iter().filter(unused).for_each(|field| drop(group.remove(&["spec", field])));
    }

    fn validate_create(&self, group: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        policy(group.at(&["spec", "schedulingPolicy"]), "spec.schedulingPolicy", &mut errors);
        if let Some(reference) = group.at(&["spec", "podGroupTemplateRef"]).filter(|r| !r.is_null())
            && reference.get("workload").is_none_or(Value::is_null)
        {
            errors.push(FieldError::invalid("spec.podGroupTemplateRef", "", "must specify one of: `workload`"));
        }
        errors
    }

    fn validate_subresource(&self, _: &str, group: &Value, _: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        condition_errors(group.list_at(&["status", "conditions"]), "status.conditions", &mut errors);
        let claims = group.list_at(&["spec", "resourceClaims"]);
        for (i, status) in group.list_at(&["status", "resourceClaimStatuses"]).iter().enumerate() {
            let name = status.str_at(&["name"]);
            if !claims.iter().any(|c| c.str_at(&["name"]) == name) {
                let why = "must match the name of an entry in `spec.resourceClaims`";
                errors.push(FieldError::invalid(format!("status.resourceClaimStatuses[{i}].name"), name, why));
            }
        }
        errors
    }

    fn cell(&self, group: &Value, column: &str) -> Value {
        match column {
            "Policy" if group.at(&["spec", "schedulingPolicy", "gang"]).is_some() => "Gang".into(),
            "Policy" => "Basic".into(),
            "Status" => match (meta::condition(group, "DisruptionTarget"), meta::condition(group, "PodGroupScheduled")) {
                (Some(target), _) => target.str_at(&["reason"]).into(),
                (None, Some(scheduled)) if scheduled.str_at(&["status"]) == "True" => "Scheduled".into(),
                (None, Some(_)) => "Unschedulable".into(),
                (None, None) => "Pending".into(),
            },
            _ => Value::Null,
        }
    }
}

pub(super) struct Workload;
impl Strategy for Workload {
    fn prepare_create(&self, workload: &mut Value) {
        if workload.list_at(&["spec", "podGroupTemplates"]).is_empty() {
            return;
        }
        for template in workload.place(&["spec", "podGroupTemplates"]).make_list().make_mut() {
            OFF.iter().for_each(|field| drop(template.remove(&[field])));
        }
    }

    fn validate_create(&self, workload: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        for (i, template) in workload.list_at(&["spec", "podGroupTemplates"]).iter().enumerate() {
            policy(template.get("schedulingPolicy"), &format!("spec.podGroupTemplates[{i}].schedulingPolicy"), &mut errors);
        }
        errors
    }
}

/// Exactly one policy is chosen.
fn policy(policy: Option<&Value>, at: &str, errors: &mut Vec<FieldError>) {
    let has = |name: &str| policy.and_then(|p| p.get(name)).is_some_and(|p| !p.is_null());
    if has("basic") == has("gang") {
        let why = "must specify exactly one of: `basic`, `gang`";
        errors.push(FieldError::invalid(at, "", why));
    }
}

/// See ValidateLeaseCandidate.
pub(super) struct LeaseCandidate;
impl Strategy for LeaseCandidate {
    fn name_rule(&self) -> NameRule {
        names::config_key
    }

    fn validate(&self, candidate: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let version = |field: &str, errors: &mut Vec<FieldError>| {
            let text = candidate.str_at(&["spec", field]);
            let version = semantic_version(text);
            if !text.is_empty() && version.is_none() {
                errors.push(FieldError::invalid(format!("spec.{field}"), text, "must be a valid semantic version"));
            }
            version
        };
        let (emulated, binary) = (version("emulationVersion", &mut errors), version("binaryVersion", &mut errors));
        if let (Some(emulated), Some(binary)) = (emulated, binary)
            && binary < emulated
        {
            let why = "must be greater than or equal to `emulationVersion`";
            errors.push(FieldError::invalid("spec.binaryVersion", candidate.str_at(&["spec", "binaryVersion"]), why));
        }
        let strategy = candidate.str_at(&["spec", "strategy"]);
        if strategy == OLDEST && emulated.is_none_or(|v| v == (0, 0, 0)) {
            let why = "must be specified when `strategy` is 'OldestEmulationVersion'";
            errors.push(FieldError::required("spec.emulationVersion", why));
        }
        if !strategy.is_empty() {
            lease_strategy(strategy, "spec.strategy", &mut errors);
        }
        errors
    }
}

const OLDEST: &str = "OldestEmulationVersion";

/// How the holder of a lease is chosen: by a name of Kubernetes, or by one with a domain.
fn lease_strategy(strategy: &str, at: &str, errors: &mut Vec<FieldError>) {
    if !strategy.contains('/') {
        if strategy != OLDEST {
            errors.push(FieldError::not_supported(at, strategy, &[OLDEST]));
        }
    } else if let Err(why) = names::qualified_name(strategy) {
        errors.push(FieldError::invalid(at, strategy, why));
    }
}

/// The three numbers of a version; what follows them is not compared.
fn semantic_version(text: &str) -> Option<(u64, u64, u64)> {
    let core = text.split(['-', '+']).next().filter(|_| is_semantic_version(text))?;
    let mut parts = core.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??, parts.next()??))
}

/// Leases say how their holder is chosen where candidates are served.
pub(super) struct Lease;
impl Strategy for Lease {
    fn validate(&self, lease: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let strategy = lease.str_at(&["spec", "strategy"]);
        if lease.at(&["spec", "strategy"]).is_some_and(|s| !s.is_null()) {
            lease_strategy(strategy, "spec.strategy", &mut errors);
        }
        if !lease.str_at(&["spec", "preferredHolder"]).is_empty() && strategy.is_empty() {
            errors.push(FieldError::forbidden("spec.preferredHolder", "may only be specified if `strategy` is defined"));
        }
        errors
    }
}

/// See ValidateStorageVersionMigration.
pub(super) struct StorageVersionMigration;
impl Strategy for StorageVersionMigration {
    fn validate(&self, migration: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let (group, resource) = (migration.str_at(&["spec", "resource", "group"]), migration.str_at(&["spec", "resource", "resource"]));
        if resource.is_empty() {
            errors.push(FieldError::required("spec.resource.resource", "resource is required to be set"));
        } else if let Err(why) = names::dns1035_label(resource) {
            errors.push(FieldError::invalid("spec.resource.resource", resource, why));
        }
        if let Some(why) = names::dns_subdomain(group).err().filter(|_| !group.is_empty()) {
            errors.push(FieldError::invalid("spec.resource.group", group, why));
        }
        errors
    }

    fn validate_subresource(&self, _: &str, migration: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let (now, before) = (migration.str_at(&["status", "resourceVersion"]), old.str_at(&["status", "resourceVersion"]));
        if !now.is_empty() && now.parse::<u64>().is_err() {
            errors.push(FieldError::invalid("status.resourceVersion", now, "resource version is not well formed"));
        }
        condition_errors(migration.list_at(&["status", "conditions"]), "status.conditions", &mut errors);
        if !before.is_empty() && now != before {
            errors.push(FieldError::invalid("status.resourceVersion", now, "field is immutable"));
        }
        let is = |object: &Value, ty: &str| meta::condition(object, ty).is_some_and(|c| c.str_at(&["status"]) == "True");
        let conditions = || migration.at(&["status", "conditions"]).cloned();
        if is(migration, "Succeeded") && is(migration, "Failed") {
            let why = "Both success and failed conditions cannot be true at the same time";
            errors.push(FieldError::invalid("status.conditions", conditions(), why));
        }
        for (ty, name) in [("Succeeded", "Success"), ("Failed", "Failed")] {
            if is(old, ty) && !is(migration, ty) {
                let why = format!("{name} condition cannot be set to false once it is true");
                errors.push(FieldError::invalid("status.conditions", conditions(), &why));
            }
        }
        errors
    }

    fn cell(&self, migration: &Value, column: &str) -> Value {
        match column {
            "Resource" => match (migration.str_at(&["spec", "resource", "resource"]), migration.str_at(&["spec", "resource", "group"])) {
                (resource, "") => resource.into(),
                (resource, group) => format!("{resource}.{group}").into(),
            },
            "Status" => {
                let conditions = migration.list_at(&["status", "conditions"]).iter();
                let known = |ty: &&str| matches!(*ty, "Running" | "Succeeded" | "Failed");
                let now = conditions.filter(|c| c.str_at(&["status"]) == "True").map(|c| c.str_at(&["type"])).rfind(known);
                now.unwrap_or("Unknown").into()
            }
            _ => Value::Null,
        }
    }
}

/// See ValidateStorageVersion of internal.apiserver.k8s.io.
pub(super) struct StorageVersion;
impl Strategy for StorageVersion {
    fn name_rule(&self) -> NameRule {
        |name| match name.rsplit_once('.') {
            None => Err("name must be in the form of <group>.<resource>"),
            Some((group, resource)) => names::dns_subdomain(group).and_then(|()| names::dns1035_label(resource)),
        }
    }

    fn validate_subresource(&self, _: &str, object: &Value, _: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let servers = object.list_at(&["status", "storageVersions"]);
        for (i, server) in servers.iter().enumerate() {
            let (at, encoding) = (format!("status.storageVersions[{i}]"), server.str_at(&["encodingVersion"]));
            let decodable = server.list_at(&["decodableVersions"]);
            if !decodable.iter().any(|v| v.as_str() == Some(encoding)) {
                let why = format!("decodableVersions must include encodingVersion {encoding}");
                errors.push(FieldError::invalid(format!("{at}.decodableVersions"), server.get("decodableVersions").cloned(), &why));
            }
            for (j, version) in server.list_at(&["servedVersions"]).iter().enumerate().filter(|(_, v)| !decodable.contains(v)) {
                let why = "an individual served version must be included in decodableVersions";
                errors.push(FieldError::invalid(format!("{at}.servedVersions[{j}]"), version.clone(), why));
            }
        }
        let encodings = || servers.iter().map(|s| s.str_at(&["encodingVersion"]));
        let agreed = encodings().next().filter(|first| encodings().all(|e| e == *first));
        let said = object.at(&["status", "commonEncodingVersion"]).and_then(Value::as_str);
        if agreed != said {
            let why = match agreed {
                Some(version) => format!("the common encoding version is {version}"),
                None => "should be nil if servers do not agree on the same encoding version".into(),
            };
            errors.push(FieldError::invalid("status.commonEncodingVersion", said.unwrap_or_default(), &why));
        }
        errors
    }

    fn cell(&self, object: &Value, column: &str) -> Value {
        if column != "StorageVersions" {
            return Value::Null;
        }
        let servers = object.list_at(&["status", "storageVersions"]);
        let one = |s: &Value| format!("{}={}", s.str_at(&["apiServerID"]), s.str_at(&["encodingVersion"]));
        let shown: Vec<String> = servers.iter().take(3).map(one).collect();
        match servers.len() {
            0 => "<unset>".into(),
            n if n > 3 => format!("{} + {} more...", shown.join(","), n - 3).into(),
            _ => shown.join(",").into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    #[test]
    fn a_group_has_exactly_one_policy() {
        let errors = |policy: Value| PodGroup.validate_create(&object!({ "spec": { "schedulingPolicy": (policy) } })).len();
        assert_eq!(errors(object!({ "gang": { "minCount": 2 } })), 0);
        assert_eq!(errors(object!({ "basic": {} })), 0);
        assert_eq!(errors(object!({})), 1);
        assert_eq!(errors(object!({ "basic": {}, "gang": { "minCount": 2 } })), 1);
    }

    #[test]
    fn a_candidate_is_at_least_as_new_as_what_it_emulates() {
        let errors = |binary: &str, emulated: &str, strategy: &str| {
            let candidate = object!({ "spec": { "leaseName": "l", "binaryVersion": (binary), "emulationVersion": (emulated), "strategy": (strategy) } });
            LeaseCandidate.validate(&candidate).into_iter().map(|e| e.field).collect::<Vec<_>>()
        };
        assert!(errors("1.36.0", "1.35.0", OLDEST).is_empty());
        assert_eq!(errors("1.34.0", "1.35.0", OLDEST), ["spec.binaryVersion"]);
        assert_eq!(errors("1.34", "", OLDEST), ["spec.binaryVersion", "spec.emulationVersion"]);
        assert_eq!(errors("1.34.0+?", "", "x"), ["spec.binaryVersion", "spec.strategy"]);
        assert!(errors("1.34.0-rc.1", "", "example.com/mine").is_empty());
    }

    #[test]
    fn a_migration_that_has_ended_stays_ended() {
        let with = |ty: &str, status: &str| {
            object!({ "status": { "resourceVersion": "5", "conditions": [{ "type": (ty), "status": (status),
            "reason": "R", "lastTransitionTime": "2026-01-01T00:00:00Z" }] } })
        };
        let count = |now: &Value, old: &Value| StorageVersionMigration.validate_subresource("status", now, old).len();
        assert_eq!(count(&with("Succeeded", "True"), &with("Running", "True")), 0);
        assert_eq!(count(&with("Succeeded", "False"), &with("Succeeded", "True")), 1);
        assert_eq!(count(&with("Running", "True"), &with("Failed", "True")), 1);
        let mut other = with("Running", "True");
        other.set(&["status", "resourceVersion"], "6");
        assert_eq!(count(&other, &with("Running", "True")), 1);
        assert_eq!(StorageVersionMigration.cell(&with("Succeeded", "True"), "Status"), "Succeeded".into());
    }

    #[test]
    fn servers_that_agree_have_a_common_version() {
        let server =
            |id: &str, version: &str| object!({ "apiServerID": (id), "encodingVersion": (version), "decodableVersions": ["v1", "v2"] });
        let count = |servers: Vec<Value>, common: Value| {
            let status = object!({ "status": { "storageVersions": (Value::from(servers)), "commonEncodingVersion": (common) } });
            StorageVersion.validate_subresource("status", &status, &Value::Null).len()
        };
        assert_eq!(count(vec![server("a", "v1"), server("b", "v1")], "v1".into()), 0);
        assert_eq!(count(vec![server("a", "v1"), server("b", "v2")], Value::Null), 0);
        assert_eq!(count(vec![server("a", "v1"), server("b", "v2")], "v1".into()), 1);
        assert_eq!(count(vec![server("a", "v3")], "v3".into()), 1);
    }
}
