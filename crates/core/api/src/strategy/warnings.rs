//! What the author of a pod, of a template of pods, of a volume or a claim should know though it is valid; see upstream's
//! GetWarningsForPod and its like.

mod kinds;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use fram_machinery::quantity::Quantity;
use fram_machinery::{Value, meta, names};

use super::pod::At;
use crate::storage::CLASS;

pub(crate) use kinds::of as of_kind;

/// Labels of nodes that have another name by now, and what to do about each.
const OLD_LABELS: [(&str, &str); 8] = [
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\""),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\""),
    ("failure-domain.beta.kubernetes.io/region", "deprecated since v1.17; use \"topology.kubernetes.io/region\""),
    ("failure-domain.beta.kubernetes.io/zone", "deprecated since v1.17; use \"topology.kubernetes.io/zone\""),
    ("beta.kubernetes.io/instance-type", "deprecated since v1.17; use \"node.kubernetes.io/instance-type\""),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    ("scheduler.alpha.kubernetes.io/preferAvoidPods", "deprecated since v1.22; use taints and tolerations"),
    ("node-role.kubernetes.io/master", "use \"node-role.kubernetes.io/control-plane\""),
];

/// Annotations that did something once.
const OLD_ANNOTATIONS: [(&str, &str); 3] = [
    ("scheduler.alpha.kubernetes.io/critical-pod", "without effect since v1.16; use the field \"priorityClassName\""),
    ("security.alpha.kubernetes.io/sysctls", "without effect since v1.11; use the field \"sysctls\""),
    ("security.alpha.kubernetes.io/unsafe-sysctls", "without effect since v1.11; use the field \"sysctls\""),
];

/// Sorts of volumes that were: the version that advised against them, and that which dropped them.
const OLD_VOLUMES: [(&str, &str, &str); 9] = [
    ("photonPersistentDisk", "v1.11", "v1.16"),
    ("gitRepo", "v1.11", "v1.33"),
    ("scaleIO", "v1.16", "v1.22"),
    ("flocker", "v1.22", "v1.25"),
    ("storageos", "v1.22", "v1.25"),
    ("quobyte", "v1.22", "v1.25"),
    ("glusterfs", "v1.25", "v1.26"),
    ("cephfs", "v1.28", "v1.31"),
    ("rbd", "v1.28", "v1.31"),
];

const MOUNT_OPTIONS: &str = "volume.beta.kubernetes.io/mount-options";
/// The resources of containers that are counted in bytes.
const OF_BYTES: [&str; 2] = ["memory", "ephemeral-storage"];
const SECCOMP_OF_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_OF_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";

/// Collects warnings, each with the field that it is about.
struct Warnings<'a> {
    before: &'a str,
    said: Vec<String>,
}

impl Warnings<'_> {
    fn say(&mut self, field: impl Display, what: impl Display) {
        self.said.push(format!("{}{field}: {what}", self.before));
    }

    fn of_label(&mut self, field: impl Display, label: &str) {
        if let Some((_, what)) = OLD_LABELS.iter().find(|(old, _)| *old == label) {
            self.say(field, format_args!("the label {label} is {what}"));
        }
    }
}

/// The warnings about a new pod. Of changes nobody is told: it is rarely people who make them, and they are many.
pub(crate) fn of_pod(pod: &Value) -> Vec<String> {
    let mut out = Warnings { before: "", said: Vec::new() };
    warn_of_name(&mut out, pod);
    warn(&mut out, pod);
    out.said
}

/// The warnings about what makes pods that are called after it.
pub(crate) fn of_maker(object: &Value, old: Option<&Value>, at: &[&str]) -> Vec<String> {
    let mut out = Warnings { before: "", said: Vec::new() };
    if old.is_none() {
        warn_of_name(&mut out, object);
    }
    out.said.extend(of_template(object, old, at));
    out.said
}

/// The warnings about the template of pods that stands at this path, where that may have changed.
pub(crate) fn of_template(object: &Value, old: Option<&Value>, at: &[&str]) -> Vec<String> {
    if old.is_some_and(|old| meta::generation(old) == meta::generation(object)) {
        return Vec::new();
    }
    let before = format!("{}.", at.join("."));
    let mut out = Warnings { before: &before, said: Vec::new() };
    warn(&mut out, object.at(at).unwrap_or(&Value::Null));
    out.said
}

fn warn_of_name(out: &mut Warnings, object: &Value) {
    if let Err(why) = names::dns_label(meta::name(object)) {
        out.say("metadata.name", format_args!("it becomes part of host names, for which it should be a DNS label: {why}"));
    }
}

fn warn(out: &mut Warnings, pod: &Value) {
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    warn_of_placement(out, spec);
    warn_of_annotations(out, pod, spec);
    for (i, volume) in spec.list_at(&["volumes"]).iter().enumerate() {
        warn_of_old_sorts(out, volume, format_args!("spec.volumes[{i}]"));
        if let Some(claim) = volume.at(&["ephemeral", "volumeClaimTemplate", "spec"]) {
            warn_of_claim(out, claim, format_args!("spec.volumes[{i}].ephemeral.volumeClaimTemplate.spec"));
        }
    }
    warn_of_repeated(out, spec, "hostAliases", "ip");
    warn_of_repeated(out, spec, "imagePullSecrets", "name");
    for (i, _) in spec.list_at(&["imagePullSecrets"]).iter().enumerate().filter(|(_, s)| s.str_at(&["name"]).is_empty()) {
        out.say(format_args!("spec.imagePullSecrets[{i}].name"), "names no secret");
    }
    warn_of_parts_of_bytes(out, spec, format_args!("spec"), "overhead", &OF_BYTES);
    for (of, i, container) in containers(spec) {
        for list in ["limits", "requests"] {
            let resources = container.get("resources").unwrap_or(&Value::Null);
            warn_of_parts_of_bytes(out, resources, format_args!("spec.{of}[{i}].resources"), list, &OF_BYTES);
        }
        warn_of_hidden_variables(out, container, format_args!("spec.{of}[{i}]"));
    }
    warn_of_ports(out, spec);
    if spec.int_at(&["terminationGracePeriodSeconds"]).is_some_and(|n| n < 0) {
        out.say("spec.terminationGracePeriodSeconds", "less than nothing counts as 1");
    }
}

fn warn_of_old_sorts(out: &mut Warnings, volume: &Value, at: At<'_>) {
    for (sort, warned, dropped) in OLD_VOLUMES.iter().filter(|(sort, ..)| volume.get(sort).is_some_and(|v| !v.is_null())) {
        out.say(format_args!("{at}.{sort}"), format_args!("deprecated in {warned}, without effect since {dropped}"));
    }
}

/// The warnings about a volume.
pub(crate) fn of_volume(volume: &Value) -> Vec<String> {
    let mut out = Warnings { before: "", said: Vec::new() };
    warn_of_fields_of_annotations(&mut out, volume, &[(CLASS, "storageClassName"), (MOUNT_OPTIONS, "mountOptions")]);
    if volume.str_at(&["spec", "persistentVolumeReclaimPolicy"]) == "Recycle" {
        out.say("spec.persistentVolumeReclaimPolicy", "Recycle is deprecated; let volumes be made as they are claimed");
    }
    let terms = ["spec", "nodeAffinity", "required", "nodeSelectorTerms"];
    for (i, term) in volume.list_at(&terms).iter().enumerate() {
        warn_of_term(&mut out, term, &format!("{}[{i}]", terms.join(".")), false);
    }
    warn_of_old_sorts(&mut out, volume.get("spec").unwrap_or(&Value::Null), format_args!("spec"));
    out.said
}

/// The warnings about a claim.
pub(crate) fn of_claim(claim: &Value) -> Vec<String> {
    let mut out = Warnings { before: "", said: Vec::new() };
    warn_of_fields_of_annotations(&mut out, claim, &[(CLASS, "storageClassName")]);
    warn_of_claim(&mut out, claim.get("spec").unwrap_or(&Value::Null), format_args!("spec"));
    out.said
}

fn warn_of_claim(out: &mut Warnings, spec: &Value, at: At<'_>) {
    for list in ["requests", "limits"] {
        let resources = spec.get("resources").unwrap_or(&Value::Null);
        warn_of_parts_of_bytes(out, resources, format_args!("{at}.resources"), list, &["storage"]);
    }
}

/// Annotations that became fields.
fn warn_of_fields_of_annotations(out: &mut Warnings, object: &Value, fields: &[(&str, &str)]) {
    for (key, field) in fields.iter().filter(|(key, _)| meta::annotation(object, key).is_some()) {
        out.say(format_args!("metadata.annotations[{key}]"), format_args!("deprecated; use the field {field:?}"));
    }
}

/// All containers, each with the list that it is in and its place there.
fn containers(spec: &Value) -> impl Iterator<Item = (&'static str, usize, &Value)> {
    let of = |list: &'static str| spec.list_at(&[list]).iter().enumerate().map(move |(i, c)| (list, i, c));
    ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(of)
}

fn warn_of_placement(out: &mut Warnings, spec: &Value) {
    for label in spec.get("nodeSelector").and_then(Value::as_map).into_iter().flat_map(|m| m.keys()) {
        out.of_label(format_args!("spec.nodeSelector[{label}]"), label);
    }
    let required = ["affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"];
    for (i, term) in spec.list_at(&required).iter().enumerate() {
        warn_of_term(out, term, &format!("spec.{}[{i}]", required.join(".")), false);
    }
    let preferred = ["affinity", "nodeAffinity", "preferredDuringSchedulingIgnoredDuringExecution"];
    for (i, term) in spec.list_at(&preferred).iter().enumerate() {
        let term = term.get("preference").unwrap_or(&Value::Null);
        warn_of_term(out, term, &format!("spec.{}[{i}].preference", preferred.join(".")), true);
    }
    for (i, constraint) in spec.list_at(&["topologySpreadConstraints"]).iter().enumerate() {
        let at = format!("spec.topologySpreadConstraints[{i}]");
        out.of_label(format_args!("{at}.topologyKey"), constraint.str_at(&["topologyKey"]));
        warn_of_no_selector(out, constraint, &at);
    }
    for sort in ["podAffinity", "podAntiAffinity"] {
        let terms = |when: &'static str| spec.list_at(&["affinity", sort, when]).iter().enumerate();
        let when = "requiredDuringSchedulingIgnoredDuringExecution";
        terms(when).for_each(|(i, term)| warn_of_no_selector(out, term, &format!("spec.affinity.{sort}.{when}[{i}]")));
        let when = "preferredDuringSchedulingIgnoredDuringExecution";
        for (i, term) in terms(when) {
            let term = term.get("podAffinityTerm").unwrap_or(&Value::Null);
            warn_of_no_selector(out, term, &format!("spec.affinity.{sort}.{when}[{i}].podAffinityTerm"));
        }
    }
}

fn warn_of_term(out: &mut Warnings, term: &Value, at: &str, with_values: bool) {
    for (e, expression) in term.list_at(&["matchExpressions"]).iter().enumerate() {
        let at = format!("{at}.matchExpressions[{e}]");
        out.of_label(format_args!("{at}.key"), expression.str_at(&["key"]));
        let values = expression.list_at(&["values"]).iter().filter_map(Value::as_str).enumerate();
        for (v, value) in values.filter(|_| with_values) {
            if let Err(why) = names::label_value(value) {
                out.say(format_args!("{at}.values[{v}]"), format_args!("no label has the value {value}: {why}"));
            }
        }
    }
}

fn warn_of_no_selector(out: &mut Warnings, of: &Value, at: &str) {
    if of.get("labelSelector").is_none_or(Value::is_null) {
        out.say(format_args!("{at}.labelSelector"), "where there is none it matches no pod");
    }
}

fn warn_of_annotations(out: &mut Warnings, pod: &Value, spec: &Value) {
    if pod.at(&["metadata", "annotations"]).is_none_or(Value::is_empty) {
        return;
    }
    let is_there = |key: &str| meta::annotation(pod, key).is_some();
    let field = |key: &str| format!("metadata.annotations[{key}]");
    for (key, what) in OLD_ANNOTATIONS.iter().filter(|(key, _)| is_there(key)) {
        out.say(field(key), what);
    }
    let lacks_profile = |of: &Value| of.at(&["securityContext", "seccompProfile"]).is_none_or(Value::is_null);
    let of_containers =
        containers(spec).filter(|(.., c)| lacks_profile(c)).map(|(.., c)| format!("{SECCOMP_OF_CONTAINER}{}", c.str_at(&["name"])));
    let of_pod = lacks_profile(spec).then(|| SECCOMP_OF_POD.to_string());
    for key in of_pod.into_iter().chain(of_containers).filter(|key| is_there(key)) {
        out.say(field(&key), "without effect since v1.27; use the field \"seccompProfile\"");
    }
}

fn warn_of_repeated(out: &mut Warnings, spec: &Value, list: &str, field: &str) {
    let mut known = BTreeSet::new();
    for (i, item) in spec.list_at(&[list]).iter().enumerate() {
        let text = item.str_at(&[field]);
        if !known.insert(text) {
            out.say(format_args!("spec.{list}[{i}].{field}"), format_args!("{text:?} stands here a second time"));
        }
    }
}

/// Memory and storage are counted in whole bytes.
fn warn_of_parts_of_bytes(out: &mut Warnings, of: &Value, at: At<'_>, list: &str, names: &[&str]) {
    for name in names {
        let text = of.str_at(&[list, name]);
        if text.parse::<Quantity>().is_ok_and(|amount| amount.milli_value() % 1000 != 0) {
            out.say(format_args!("{at}.{list}[{name}]"), format_args!("{text:?} is no whole number of bytes"));
        }
    }
}

/// A variable may be set again to what it was and more; anything else hides the first value.
fn warn_of_hidden_variables(out: &mut Warnings, container: &Value, at: At<'_>) {
    let mut known = BTreeSet::new();
    for (i, variable) in container.list_at(&["env"]).iter().enumerate() {
        let (name, value) = (variable.str_at(&["name"]), variable.str_at(&["value"]));
        if known.insert(name) {
            continue;
        }
        let before = format!("$({name})");
        let from_elsewhere = variable.get("valueFrom").is_some_and(|v| !v.is_null());
        if from_elsewhere || value == before || !value.contains(&before) {
            let what = format!("{name:?} was set before; that value is hidden, and an apply may drop it");
            out.say(format_args!("{at}.env[{i}]"), what);
        }
    }
}

/// Ports that more than one container, or one container twice, has.
fn warn_of_ports(out: &mut Warnings, spec: &Value) {
    let mut by_number: BTreeMap<(i64, &str), Vec<(String, &Value)>> = BTreeMap::new();
    let mut by_name: BTreeMap<&str, String> = BTreeMap::new();
    for (of, place, container) in containers(spec) {
        for (i, port) in container.list_at(&["ports"]).iter().enumerate() {
            let (at, name) = (format!("spec.{of}[{place}].ports[{i}]"), port.str_at(&["name"]));
            if !port.str_at(&["hostIP"]).is_empty() && host_port(port) == 0 {
                out.say(&at, "hostIP has no effect without hostPort");
            }
            let number = port.int_at(&["containerPort"]).unwrap_or(0);
            let others = by_number.entry((number, port.str_at(&["protocol"]))).or_default();
            for (other, known) in others.iter() {
                if let Some(what) = clash(port, known) {
                    out.say(&at, format_args!("{what} {other}"));
                }
            }
            others.push((at.clone(), port));
            match by_name.get(name) {
                Some(first) => out.say(&at, format_args!("the name {name:?} is that of {first}, which is meant wherever it is used")),
                None if name.is_empty() => {}
                None => drop(by_name.insert(name, at)),
            }
        }
    }
}

fn host_port(port: &Value) -> i64 {
    port.int_at(&["hostPort"]).unwrap_or(0)
}

/// What is wrong between two ports of the same number and protocol.
fn clash(port: &Value, other: &Value) -> Option<&'static str> {
    let address = |port: &'_ Value| port.str_at(&["hostIP"]).to_string();
    let (same_address, same_port) = (address(port) == address(other), host_port(port) == host_port(other));
    match () {
        () if same_address && same_port => Some("the same port as"),
        () if host_port(port) == 0 || host_port(other) == 0 => Some("a port that overlaps"),
        () if same_port && (address(port).is_empty() || address(other).is_empty()) => Some("on the host it cannot be told from"),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    #[track_caller]
    fn check(spec: Value, fields: &[&str]) {
        let told = of_pod(&object!({ "metadata": { "name": "x" }, "spec": (spec.clone()) }));
        let about: Vec<&str> = told.iter().filter_map(|w| w.split(": ").next()).collect();
        assert_eq!(about, fields, "{spec:?}");
    }

    #[test]
    fn what_a_pod_says_in_vain_is_told_with_its_field() {
        check(object!({ "containers": [{ "name": "a" }] }), &[]);
        check(object!({ "nodeSelector": { "beta.kubernetes.io/os": "linux" } }), &["spec.nodeSelector[beta.kubernetes.io/os]"]);
        check(object!({ "topologySpreadConstraints": [{ "topologyKey": "a" }] }), &["spec.topologySpreadConstraints[0].labelSelector"]);
        check(object!({ "volumes": [{ "name": "a", "rbd": {} }, { "name": "b", "emptyDir": {} }] }), &["spec.volumes[0].rbd"]);
        check(
            object!({ "imagePullSecrets": [{ "name": "a" }, { "name": "a" }, {}] }),
            &["spec.imagePullSecrets[1].name", "spec.imagePullSecrets[2].name"],
        );
        let memory = |amount: &str| object!({ "containers": [{ "resources": { "requests": { "memory": amount } } }] });
        check(memory("1500m"), &["spec.containers[0].resources.requests[memory]"]);
        check(memory("1500"), &[]);
        check(object!({ "terminationGracePeriodSeconds": (-1) }), &["spec.terminationGracePeriodSeconds"]);
    }

    #[test]
    fn a_variable_may_be_set_again_to_more_than_it_was() {
        let twice =
            |second: &str| object!({ "containers": [{ "env": [{ "name": "A", "value": "a" }, { "name": "A", "value": second }] }] });
        check(twice("$(A)b"), &[]);
        check(twice("$(A)"), &["spec.containers[0].env[1]"]);
        check(twice("b"), &["spec.containers[0].env[1]"]);
    }

    #[test]
    fn ports_that_get_in_each_others_way_are_told() {
        let two = |a: Value, b: Value| object!({ "containers": [{ "ports": [a] }, { "ports": [b] }] });
        let port = || object!({ "containerPort": 1, "protocol": "TCP" });
        let on = |address: &str| object!({ "containerPort": 1, "protocol": "TCP", "hostPort": 2, "hostIP": address });
        check(two(port(), port()), &["spec.containers[1].ports[0]"]);
        check(two(port(), on("192.0.2.1")), &["spec.containers[1].ports[0]"]);
        check(two(on("192.0.2.1"), on("192.0.2.2")), &[]);
        check(two(on("192.0.2.1"), on("")), &["spec.containers[1].ports[0]"]);
        check(two(port(), object!({ "containerPort": 1, "protocol": "UDP" })), &[]);
    }

    #[test]
    fn of_volumes_and_claims_it_is_told_what_is_old_and_what_is_no_whole_number() {
        let volume = object!({ "metadata": { "annotations": { "volume.beta.kubernetes.io/storage-class": "a" } },
            "spec": { "persistentVolumeReclaimPolicy": "Recycle", "glusterfs": {} } });
        assert_eq!(of_volume(&volume).len(), 3);
        let claim = |amount: &str| object!({ "spec": { "resources": { "requests": { "storage": amount } } } });
        assert_eq!([of_claim(&claim("1")).len(), of_claim(&claim("100m")).len()], [0, 1]);
    }

    #[test]
    fn a_template_is_told_of_when_it_changes() {
        let made = |generation: i64| {
            object!({ "metadata": { "name": "a.b", "generation": generation },
                "spec": { "template": { "spec": { "nodeSelector": { "beta.kubernetes.io/os": "linux" } } } } })
        };
        let told = |old: Option<Value>| of_maker(&made(2), old.as_ref(), &["spec", "template"]);
        assert_eq!([told(None).len(), told(Some(made(1))).len(), told(Some(made(2))).len()], [2, 1, 0]);
        assert!(told(Some(made(1)))[0].starts_with("spec.template.spec.nodeSelector["));
    }
}
