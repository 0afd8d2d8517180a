//! Names of a StatefulSet's pods and claims, and the pods and claims themselves. Pure.

use fram_machinery::{Map, Value, meta, object};

use crate::pods;
use crate::revisions::HASH;

const NAME: &str = "statefulset.kubernetes.io/pod-name";
const INDEX: &str = "apps.kubernetes.io/pod-index";

/// What a pod that is not labelled with its identity has to be patched with; one that was adopted never was.
pub(super) fn repair(pod: &Value, ordinal: i64) -> Option<Value> {
    let name = meta::name(pod);
    let labels = || Map::from_iter([(NAME, Value::from(name)), (INDEX, ordinal.to_string().into())]);
    (meta::label(pod, NAME) != Some(name)).then(|| object!({ "metadata": { "labels": (labels()) } }))
}

/// The ordinal that a pod's name says, if it is one of the set's names.
pub(super) fn ordinal(set: &Value, pod: &str) -> Option<i64> {
    let digits = pod.strip_prefix(meta::name(set))?.strip_prefix('-')?;
    let plain = digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    if plain { digits.parse().ok() } else { None }
}

/// The claims of an ordinal, one for each template.
pub(super) fn claims(set: &Value, ordinal: i64) -> Vec<Value> {
    let labels = set.at(&["spec", "selector", "matchLabels"]).and_then(Value::as_map).cloned().unwrap_or_default();
    let claim = |template: &Value| {
        let mut claim = object!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim" });
        claim.set(&["metadata"], template.get("metadata").cloned().unwrap_or(object!({})));
        claim.set(&["metadata", "name"], claim_name(set, template, ordinal));
        claim.set(&["metadata", "namespace"], meta::namespace(set));
        for (key, value) in labels.iter() {
            claim.place(&["metadata", "labels"]).make_map().insert(key.clone(), value.clone());
        }
        claim.remove(&["metadata", "creationTimestamp"]);
        claim.set(&["spec"], template.get("spec").cloned());
        claim
    };
    set.list_at(&["spec", "volumeClaimTemplates"]).iter().map(claim).collect()
}

fn claim_name(set: &Value, template: &Value, ordinal: i64) -> String {
    format!("{}-{}-{ordinal}", meta::name(template), meta::name(set))
}

pub(super) fn pod(set: &Value, template: Option<&Value>, ordinal: i64, revision: &str) -> Value {
    let mut pod = pods::from_template(set, template);
    let name = format!("{}-{ordinal}", meta::name(set));
    pod.remove(&["metadata", "generateName"]);
    pod.set(&["metadata", "name"], name.as_str());
    meta::set_label(&mut pod, NAME, &name);
    meta::set_label(&mut pod, INDEX, &ordinal.to_string());
    meta::set_label(&mut pod, HASH, revision);
    pod.set(&["spec", "hostname"], name.as_str());
    pod.set(&["spec", "subdomain"], set.str_at(&["spec", "serviceName"]));
    let templates = set.list_at(&["spec", "volumeClaimTemplates"]);
    if templates.is_empty() {
        return pod;
    }
    let volumes = pod.place(&["spec", "volumes"]).make_list();
    // A claim takes the place of a volume of its name.
    volumes.retain(|v| !templates.iter().any(|t| meta::name(t) == v.str_at(&["name"])));
    for template in templates {
        let source: Map = [("claimName", claim_name(set, template, ordinal))].into_iter().collect();
        volumes.push(object!({ "name": (meta::name(template)), "persistentVolumeClaim": source }));
    }
    pod
}
