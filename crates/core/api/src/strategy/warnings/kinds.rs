//! What authors of other objects than pods and their makers should know; see WarningsOnCreate and WarningsOnUpdate of upstream's strategies.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fram_machinery::quantity::Quantity;
use fram_machinery::{Value, meta};

use super::Warnings;
use crate::kind::Kind;

/// The names of what servers have from files of their own.
const FROM_FILES: &str = ".static.k8s.io";
const MANAGED_BY: [&str; 2] = ["endpoints.kubernetes.io/managed-by", "endpointslice.kubernetes.io/managed-by"];
const MOUNTABLE: &str = "kubernetes.io/enforce-mountable-secrets";
const INGRESS_CLASS: &str = "kubernetes.io/ingress.class";

/// The warnings about an object of any of these kinds.
pub(crate) fn of(kind: &Kind, subresource: &str, object: &Value, old: Option<&Value>) -> Vec<String> {
    let mut out = Warnings { before: "", said: Vec::new() };
    match (kind.group.as_str(), kind.kind.as_str(), subresource) {
        ("admissionregistration.k8s.io", _, "") if meta::name(object).ends_with(FROM_FILES) => {
            out.say("metadata.name", format_args!("names that end in {FROM_FILES} are kept for configurations from files of the server"));
        }
        ("apps", "StatefulSet", "") => of_set(&mut out, object),
        ("batch", "Job", "") => of_indexes(&mut out, object, old, "spec"),
        ("batch", "CronJob", "") => {
            of_indexes(&mut out, object, old, "spec.jobTemplate.spec");
            out.said.extend(super::of_maker(object, old, &["spec", "jobTemplate", "spec", "template"]));
            if old.is_some() && object.str_at(&["spec", "schedule"]).contains("TZ") {
                out.say("spec.schedule", "TZ and CRON_TZ have no place there; use the field \"timeZone\"");
            }
        }
        ("", "Endpoints", "") if !is_made(object) => of_endpoints(&mut out, object),
        ("discovery.k8s.io", "EndpointSlice", "") => of_slice(&mut out, object, old),
        ("", "Node", "") => of_node(&mut out, object),
        ("", "Pod", "status") => {
            of_addresses(&mut out, object, &["status", "podIPs"]);
            of_addresses(&mut out, object, &["status", "hostIPs"]);
        }
        ("", "Service", "status") | ("networking.k8s.io", "Ingress", "status") => {
            for (i, given) in object.list_at(&["status", "loadBalancer", "ingress"]).iter().enumerate() {
                of_address(&mut out, format_args!("status.loadBalancer.ingress[{i}]"), given.str_at(&["ip"]));
            }
        }
        ("", "ResourceQuota", "") if old.is_none() => of_quota(&mut out, object),
        ("", "ServiceAccount", "") if is_new_annotation(MOUNTABLE, object, old) => {
            out.say(
                format_args!("metadata.annotations[{MOUNTABLE}]"),
                "deprecated since v1.32; give those their own namespace who may not see each other's secrets",
            );
        }
        ("networking.k8s.io", "Ingress", "") if old.is_none() && names_class_by_annotation(object) => {
            out.say(format_args!("metadata.annotations[{INGRESS_CLASS}]"), "deprecated; use the field \"spec.ingressClassName\"");
        }
        ("networking.k8s.io", "NetworkPolicy", "") => of_policy(&mut out, object),
        ("node.k8s.io", "RuntimeClass", "") => {
            for (label, _) in object.at(&["scheduling", "nodeSelector"]).and_then(Value::as_map).into_iter().flat_map(|m| m.iter()) {
                out.of_label("scheduling.nodeSelector", label.as_str());
            }
        }
        ("resource.k8s.io", "ResourceSlice", "") if object.str_at(&["spec", "driver"]).contains(|c: char| c.is_ascii_uppercase()) => {
            out.say(
                "spec.driver",
                format_args!("names of drivers should be in lower case, and {:?} is not", object.str_at(&["spec", "driver"])),
            );
        }
        ("storage.k8s.io", "StorageClass", "") => {
            for (i, term) in object.list_at(&["allowedTopologies"]).iter().enumerate() {
                for (j, expression) in term.list_at(&["matchLabelExpressions"]).iter().enumerate() {
                    let at = format_args!("allowedTopologies[{i}].matchLabelExpressions[{j}].key").to_string();
                    out.of_label(at, expression.str_at(&["key"]));
                }
            }
        }
        ("storage.k8s.io", "CSIStorageCapacity", "") => of_topology(&mut out, object),
        _ => {}
    }
    out.said
}

fn is_new_annotation(name: &str, object: &Value, old: Option<&Value>) -> bool {
    meta::annotation(object, name).is_some() && old.is_none_or(|old| meta::annotation(old, name).is_none())
}

fn names_class_by_annotation(ingress: &Value) -> bool {
    meta::annotation(ingress, INGRESS_CLASS).is_some() && ingress.at(&["spec", "ingressClassName"]).is_none_or(Value::is_null)
}

/// Whether controllers wrote an object, who put addresses right by themselves.
fn is_made(object: &Value) -> bool {
    let makers = ["endpoint-controller", "endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io"];
    MANAGED_BY.iter().any(|label| makers.contains(&object.str_at(&["metadata", "labels", label])))
}

fn of_set(out: &mut Warnings, set: &Value) {
    for (i, claim) in set.list_at(&["spec", "volumeClaimTemplates"]).iter().enumerate() {
        let spec = claim.get("spec").unwrap_or(&Value::Null);
        super::warn_of_claim(out, spec, format_args!("spec.volumeClaimTemplates[{i}].spec"));
    }
    if set.int_at(&["spec", "revisionHistoryLimit"]).is_some_and(|limit| limit < 0) {
        out.say("spec.revisionHistoryLimit", "less than nothing keeps all revisions there ever were");
    }
}

/// A Job of so many indexes, of which so many run at once, cannot say of all of them how they ended.
fn of_indexes(out: &mut Warnings, object: &Value, old: Option<&Value>, at: &str) {
    if old.is_some_and(|old| meta::generation(old) == meta::generation(object)) {
        return;
    }
    let path: Vec<&str> = at.split('.').collect();
    let spec = object.at(&path).unwrap_or(&Value::Null);
    let number = |field: &str| spec.int_at(&[field]).unwrap_or(0);
    if spec.str_at(&["completionMode"]) == "Indexed" && number("completions") > 100_000 && number("parallelism") > 10_000 {
        out.say(
            at,
            "of more than 10^5 completions with a parallelism of more than 10^4 not all may be told in completedIndexes where many fail",
        );
    }
}

fn of_endpoints(out: &mut Warnings, endpoints: &Value) {
    for (i, subset) in endpoints.list_at(&["subsets"]).iter().enumerate() {
        for list in ["addresses", "notReadyAddresses"] {
            for (j, address) in subset.list_at(&[list]).iter().enumerate() {
                of_address(out, format_args!("subsets[{i}].{list}[{j}].ip"), address.str_at(&["ip"]));
            }
        }
    }
}

fn of_slice(out: &mut Warnings, slice: &Value, old: Option<&Value>) {
    if old.is_none() && slice.str_at(&["addressType"]) == "FQDN" {
        out.say("addressType", "endpoints by names (FQDN) are deprecated");
    }
    if is_made(slice) {
        return;
    }
    for (i, endpoint) in slice.list_at(&["endpoints"]).iter().enumerate() {
        for (j, address) in endpoint.list_at(&["addresses"]).iter().enumerate() {
            of_address(out, format_args!("endpoints[{i}].addresses[{j}]"), address.as_str().unwrap_or_default());
        }
    }
}

fn of_node(out: &mut Warnings, node: &Value) {
    if node.at(&["spec", "configSource"]).is_some_and(|source| !source.is_null()) {
        out.say("spec.configSource", "without effect, the feature is gone");
    }
    if !node.str_at(&["spec", "externalID"]).is_empty() {
        out.say("spec.externalID", "deprecated, and nobody reads it");
    }
    for (i, range) in node.list_at(&["spec", "podCIDRs"]).iter().enumerate() {
        of_range(out, format_args!("spec.podCIDRs[{i}]"), range.as_str().unwrap_or_default());
    }
}

fn of_quota(out: &mut Warnings, quota: &Value) {
    let hard = |name: &str| Some((name.to_string(), quota.str_at(&["spec", "hard", name]).parse::<Quantity>().ok()?));
    for name in ["cpu", "memory", "storage", "ephemeral-storage"] {
        let bare = || hard(name).filter(|_| matches!(name, "cpu" | "memory"));
        let (request, limit) = (hard(&format!("requests.{name}")).or_else(bare), hard(&format!("limits.{name}")));
        if let (Some((asked, request)), Some((limited, limit))) = (request, limit)
            && request > limit
        {
            out.say("spec.hard", format_args!("{asked} ({request}) should be less than {limited} ({limit})"));
        }
    }
}

fn of_policy(out: &mut Warnings, policy: &Value) {
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for (i, rule) in policy.list_at(&["spec", direction]).iter().enumerate() {
            for (j, peer) in rule.list_at(&[peers]).iter().enumerate() {
                let at = format!("spec.{direction}[{i}].{peers}[{j}].ipBlock");
                of_range(out, format_args!("{at}.cidr"), peer.str_at(&["ipBlock", "cidr"]));
                for (k, except) in peer.list_at(&["ipBlock", "except"]).iter().enumerate() {
                    of_range(out, format_args!("{at}.except[{k}]"), except.as_str().unwrap_or_default());
                }
            }
        }
    }
}

fn of_topology(out: &mut Warnings, capacity: &Value) {
    for (i, expression) in capacity.list_at(&["nodeTopology", "matchExpressions"]).iter().enumerate() {
        out.of_label(format_args!("nodeTopology.matchExpressions[{i}].key"), expression.str_at(&["key"]));
    }
    for (label, _) in capacity.at(&["nodeTopology", "matchLabels"]).and_then(Value::as_map).into_iter().flat_map(|m| m.iter()) {
        out.of_label(format_args!("nodeTopology.matchLabels.{label}"), label.as_str());
    }
}

fn of_addresses(out: &mut Warnings, object: &Value, path: &[&str]) {
    for (i, address) in object.list_at(path).iter().enumerate() {
        of_address(out, format_args!("{}[{i}].ip", path.join(".")), address.str_at(&["ip"]));
    }
}

/// An address as everybody reads it, where this is another one: without zeros at the front of its parts, and not of IPv4 in IPv6.
fn plain(text: &str) -> Option<IpAddr> {
    match text.parse() {
        Ok(IpAddr::V6(six)) => Some(six.to_ipv4_mapped().map_or(IpAddr::V6(six), IpAddr::V4)),
        Ok(four) => Some(four),
        Err(_) => {
            let part = |part: &str| part.trim_start_matches('0').parse::<u8>().ok().or((part.trim_matches('0').is_empty()).then_some(0));
            let parts: Vec<u8> = text.split('.').map(part).collect::<Option<_>>()?;
            Some(Ipv4Addr::from(<[u8; 4]>::try_from(parts).ok()?).into())
        }
    }
}

fn of_address(out: &mut Warnings, field: impl Display, text: &str) {
    let Some(address) = plain(text) else { return };
    let read: Result<IpAddr, _> = text.parse();
    match read {
        Ok(IpAddr::V6(six)) if six.to_ipv4_mapped().is_none() => {
            if six.to_string() != text {
                out.say(field, format_args!("the IPv6 address {text:?} should be in the form of RFC 5952, {:?}", six.to_string()));
            }
        }
        Ok(IpAddr::V4(_)) => {}
        _ => out.say(field, format_args!("the address {text:?} is not in standard form; use {:?}", address.to_string())),
    }
}

/// The first address of a range of this many fixed bits.
fn first(address: IpAddr, bits: u32) -> IpAddr {
    match address {
        IpAddr::V4(four) => Ipv4Addr::from_bits(four.to_bits() & u32::MAX.checked_shl(32 - bits.min(32)).unwrap_or(0)).into(),
        IpAddr::V6(six) => Ipv6Addr::from_bits(six.to_bits() & u128::MAX.checked_shl(128 - bits.min(128)).unwrap_or(0)).into(),
    }
}

fn of_range(out: &mut Warnings, field: impl Display, text: &str) {
    let Some((given, bits)) = text.split_once('/').and_then(|(address, bits)| Some((address, bits.parse::<u32>().ok()?))) else { return };
    let Some(address) = plain(given) else { return };
    let read: Result<IpAddr, _> = given.parse();
    // The fixed bits of IPv4 in IPv6 begin with those that say that it is IPv4.
    let is_mapped = address.is_ipv4() && matches!(read, Ok(IpAddr::V6(_)));
    let bits = if is_mapped { bits.saturating_sub(96) } else { bits };
    let start = first(address, bits);
    let all = if address.is_ipv4() { 32 } else { 128 };
    if start != address {
        out.say(&field, format_args!("{text:?} is a range or an address: say \"{start}/{bits}\" or \"{address}/{all}\""));
    }
    match read {
        Ok(read) if read == address => {
            if start == address && format!("{address}/{bits}") != text {
                out.say(&field, format_args!("the range {text:?} should be in the form of RFC 5952, \"{start}/{bits}\""));
            }
        }
        _ => out.say(&field, format_args!("the range {text:?} is not in standard form; use \"{start}/{bits}\"")),
    }
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;
    use crate::Api;

    #[track_caller]
    fn check(kind: (&str, &str, &str), object: &Value, old: Option<&Value>, wanted: &[&str]) {
        let (group, name, subresource) = kind;
        let api = Api::chosen(&"api/alpha=true,api/beta=true".parse().unwrap()).unwrap();
        let kind = api.kinds().find(|k| k.is(group, name)).unwrap();
        let said = of(kind, subresource, object, old);
        assert_eq!(said.len(), wanted.len(), "{said:?}");
        assert!(said.iter().zip(wanted).all(|(said, wanted)| said.starts_with(wanted)), "{said:?}");
    }

    #[test]
    fn authors_of_the_smaller_kinds_are_told_what_they_should_know() {
        let named = object!({ "metadata": { "name": "a.static.k8s.io" } });
        for kind in ["ValidatingWebhookConfiguration", "MutatingAdmissionPolicyBinding"] {
            check(("admissionregistration.k8s.io", kind, ""), &named, Some(&named), &["metadata.name: names that end in .static.k8s.io"]);
        }
        let claim = object!({ "spec": { "resources": { "requests": { "storage": "1.5" } } } });
        let set = object!({ "spec": { "revisionHistoryLimit": (-1), "volumeClaimTemplates": [(claim)] } });
        let of_set = ["spec.volumeClaimTemplates[0].spec.resources.requests[storage]: ", "spec.revisionHistoryLimit: "];
        check(("apps", "StatefulSet", ""), &set, None, &of_set);
        let job = object!({ "metadata": { "generation": 1 },
            "spec": { "completionMode": "Indexed", "completions": 100_001, "parallelism": 10_001 } });
        check(("batch", "Job", ""), &job, None, &["spec: of more than 10^5 completions"]);
        check(("batch", "Job", ""), &job, Some(&job), &[]);
        let pod = object!({ "spec": { "nodeSelector": { "beta.kubernetes.io/os": "linux" } } });
        let cron = object!({ "metadata": { "name": "a.b", "generation": 1 },
            "spec": { "schedule": "TZ=UTC * * * * *", "jobTemplate": { "spec": { "template": (pod) } } } });
        let of_cron = ["metadata.name: ", "spec.jobTemplate.spec.template.spec.nodeSelector"];
        check(("batch", "CronJob", ""), &cron, None, &of_cron);
        check(("batch", "CronJob", ""), &cron, Some(&cron), &["spec.schedule: "]);
        let node = object!({ "spec": { "externalID": "x", "configSource": {}, "podCIDRs": ["10.1.2.3/24"] } });
        let of_node = [
            "spec.configSource: ",
            "spec.externalID: ",
            "spec.podCIDRs[0]: \"10.1.2.3/24\" is a range or an address: say \"10.1.2.0/24\" or \"10.1.2.3/32\"",
        ];
        check(("", "Node", ""), &node, None, &of_node);
        let hard = object!({ "cpu": "2", "limits.cpu": "1", "requests.memory": "1Gi", "limits.memory": "1Gi" });
        let quota = object!({ "spec": { "hard": (hard) } });
        check(("", "ResourceQuota", ""), &quota, None, &["spec.hard: cpu (2) should be less than limits.cpu (1)"]);
        check(("", "ResourceQuota", ""), &quota, Some(&quota), &[]);
        let account = object!({ "metadata": { "annotations": { "kubernetes.io/enforce-mountable-secrets": "true" } } });
        check(("", "ServiceAccount", ""), &account, None, &["metadata.annotations[kubernetes.io/enforce-mountable-secrets]: deprecated"]);
        check(("", "ServiceAccount", ""), &account, Some(&account), &[]);
        let ingress = object!({ "metadata": { "annotations": { "kubernetes.io/ingress.class": "c" } }, "spec": {} });
        check(("networking.k8s.io", "Ingress", ""), &ingress, None, &["metadata.annotations[kubernetes.io/ingress.class]: deprecated"]);
        let class = object!({ "scheduling": { "nodeSelector": { "beta.kubernetes.io/os": "linux", "os": "x" } } });
        check(("node.k8s.io", "RuntimeClass", ""), &class, None, &["scheduling.nodeSelector: the label beta.kubernetes.io/os is"]);
        check(("resource.k8s.io", "ResourceSlice", ""), &object!({ "spec": { "driver": "A.example" } }), None, &["spec.driver: "]);
        let expression = object!({ "key": "beta.kubernetes.io/arch" });
        let class = object!({ "allowedTopologies": [{ "matchLabelExpressions": [(expression.clone())] }] });
        check(("storage.k8s.io", "StorageClass", ""), &class, None, &["allowedTopologies[0].matchLabelExpressions[0].key: the label"]);
        let topology = object!({ "matchExpressions": [(expression)], "matchLabels": { "beta.kubernetes.io/os": "linux" } });
        let of_capacity = ["nodeTopology.matchExpressions[0].key: ", "nodeTopology.matchLabels.beta.kubernetes.io/os: "];
        check(("storage.k8s.io", "CSIStorageCapacity", ""), &object!({ "nodeTopology": (topology) }), None, &of_capacity);
    }

    #[test]
    fn addresses_and_ranges_in_odd_forms_are_named_with_the_form_that_they_should_have() {
        let subsets =
            object!([{ "addresses": [{ "ip": "010.0.0.1" }], "notReadyAddresses": [{ "ip": "fe80:0::1" }, { "ip": "192.0.2.1" }] }]);
        let endpoints = object!({ "subsets": (subsets) });
        let wanted = [
            "subsets[0].addresses[0].ip: the address \"010.0.0.1\" is not in standard form; use \"10.0.0.1\"",
            "subsets[0].notReadyAddresses[0].ip: the IPv6 address \"fe80:0::1\" should be in the form of RFC 5952, \"fe80::1\"",
        ];
        check(("", "Endpoints", ""), &endpoints, None, &wanted);
        let mut made = endpoints.clone();
        made.set(&["metadata", "labels", "endpoints.kubernetes.io/managed-by"], "endpoint-controller");
        check(("", "Endpoints", ""), &made, None, &[]);
        let slice = object!({ "addressType": "FQDN", "endpoints": [{ "addresses": ["::ffff:192.0.2.1"] }] });
        let of_slice =
            ["addressType: ", "endpoints[0].addresses[0]: the address \"::ffff:192.0.2.1\" is not in standard form; use \"192.0.2.1\""];
        check(("discovery.k8s.io", "EndpointSlice", ""), &slice, None, &of_slice);
        check(("discovery.k8s.io", "EndpointSlice", ""), &slice, Some(&slice), &of_slice[1..]);
        let block = object!({ "cidr": "fd00:0::/8", "except": ["fd00::1/64", "fd00:0::1/64", "::ffff:1.2.3.0/120"] });
        let policy = object!({ "spec": { "egress": [{ "to": [{ "ipBlock": (block) }] }] } });
        let of_policy = [
            "spec.egress[0].to[0].ipBlock.cidr: the range \"fd00:0::/8\" should be in the form of RFC 5952, \"fd00::/8\"",
            "spec.egress[0].to[0].ipBlock.except[0]: \"fd00::1/64\" is a range or an address: say \"fd00::/64\" or \"fd00::1/128\"",
            "spec.egress[0].to[0].ipBlock.except[1]: \"fd00:0::1/64\" is a range or an address: say \"fd00::/64\" or \"fd00::1/128\"",
            "spec.egress[0].to[0].ipBlock.except[2]: the range \"::ffff:1.2.3.0/120\" is not in standard form; use \"1.2.3.0/24\"",
        ];
        check(("networking.k8s.io", "NetworkPolicy", ""), &policy, None, &of_policy);
        let status = object!({ "status": { "podIPs": [{ "ip": "FE80::1" }], "loadBalancer": { "ingress": [{ "ip": "FE80::2" }, {}] } } });
        check(("", "Pod", "status"), &status, None, &["status.podIPs[0].ip: "]);
        check(("networking.k8s.io", "Ingress", "status"), &status, None, &["status.loadBalancer.ingress[0]: "]);
    }
}
