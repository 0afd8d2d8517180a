//! Address families of Services: what is inferred from what, and what cannot be had in a cluster of these families. See upstream's
//! initIPFamilyFields and ValidateServiceClusterIPsRelatedFields.

use std::net::IpAddr;

use fram_machinery::Value;
use fram_machinery::status::FieldError;

use crate::ServiceFamilies;

const POLICIES: [&str; 3] = ["PreferDualStack", "RequireDualStack", "SingleStack"];

fn texts<'a>(service: &'a Value, field: &str) -> Vec<&'a str> {
    service.list_at(&["spec", field]).iter().map(|v| v.as_str().unwrap_or_default()).collect()
}

fn policy(service: &Value) -> &str {
    service.str_at(&["spec", "ipFamilyPolicy"])
}

/// It stands for endpoints that somebody else lists, of whatever family.
fn is_open(service: &Value) -> bool {
    service.str_at(&["spec", "clusterIP"]) == "None" && service.at(&["spec", "selector"]).is_none_or(Value::is_empty)
}

/// The one address and the list of them say the same: who changed one only means both.
pub(super) fn agree(service: &mut Value, old: Option<&Value>) {
    let (one, all) = (service.str_at(&["spec", "clusterIP"]).to_string(), service.list_at(&["spec", "clusterIPs"]).to_vec());
    let changed = old.is_none_or(|old| old.str_at(&["spec", "clusterIP"]) != one);
    let same = old.map_or(all.is_empty(), |old| old.list_at(&["spec", "clusterIPs"]) == all);
    if one.is_empty() || !changed || !same {
        return;
    }
    let mut all = all;
    match all.first_mut() {
        Some(first) => *first = one.into(),
        None => all.push(one.into()),
    }
    service.set(&["spec", "clusterIPs"], all);
}

fn family(address: &str) -> Option<&'static str> {
    address.parse::<IpAddr>().ok().map(|ip| if ip.is_ipv4() { "IPv4" } else { "IPv6" })
}

fn other(family: &str) -> &'static str {
    if family == "IPv4" { "IPv6" } else { "IPv4" }
}

fn is_same(service: &Value, old: &Value, field: &str) -> bool {
    old.list_at(&["spec", field]) == service.list_at(&["spec", field])
}

/// A Service that prefers two families has those that it has, whatever has become of the cluster since; see upstream's
/// isMatchingPreferDualStackClusterIPFields.
fn is_settled(service: &Value, old: &Value) -> bool {
    let prefers = |service: &Value| matches!(policy(service), "PreferDualStack");
    let ty = |service: &Value| service.str_at(&["spec", "type"]).to_string();
    prefers(service)
        && (prefers(old) || policy(old).is_empty())
        && ty(service) == ty(old)
        && is_same(service, old, "clusterIPs")
        && is_same(service, old, "ipFamilies")
        && !service.list_at(&["spec", "ipFamilies"]).is_empty()
}

/// It has fewer addresses or families than it had, of those that it names.
fn reduced(service: &Value, old: &Value, field: &str) -> bool {
    let (now, before) = (service.list_at(&["spec", field]).len(), old.list_at(&["spec", field]).len());
    now > 0 && now < before
}

/// Fills in the policy, then the families.
pub(super) fn infer(service: &mut Value, old: Option<&Value>, cluster: ServiceFamilies) {
    if service.str_at(&["spec", "type"]) == "ExternalName" || old.is_some_and(|old| is_settled(service, old)) {
        return;
    }
    let given = |field: &str, service: &Value| service.at(&["spec", field]).is_some_and(|v| !v.is_null());
    if !given("ipFamilyPolicy", service) {
        let before = old.map(policy).filter(|p| !p.is_empty()).map(String::from);
        let inferred = if is_open(service) { "RequireDualStack" } else { "SingleStack" };
        service.set(&["spec", "ipFamilyPolicy"], before.unwrap_or_else(|| inferred.into()));
    }
    let kept = |field: &str, service: &Value| old.is_some_and(|old| is_same(service, old, field));
    for field in ["clusterIPs", "ipFamilies"] {
        if policy(service) == "SingleStack" && kept(field, service) && service.list_at(&["spec", field]).len() > 1 {
            service.place(&["spec", field]).make_list().truncate(1);
        }
    }
    if old.is_some_and(|old| reduced(service, old, "ipFamilies")) {
        // Who takes one away has to say so by the policy.
        return;
    }
    let single = policy(service) == "SingleStack";
    let of_addresses: Vec<&str> = texts(service, "clusterIPs").into_iter().map_while(family).collect();
    let named = service.list_at(&["spec", "ipFamilies"]).len();
    if of_addresses.iter().skip(named).any(|family| !cluster.names().contains(family)) {
        // It is refused for that.
        return;
    }
    let mut families: Vec<&str> = texts(service, "ipFamilies");
    // Two addresses are refused beside this policy, and not two families that nobody named.
    families.extend(of_addresses.into_iter().take(if single { 1 } else { 2 }).skip(named));
    if families.is_empty() {
        families.push(cluster.names()[0]);
    }
    if let [one] = families[..]
        && !single
        && (is_open(service) || cluster.names().len() == 2)
    {
        families.push(other(one));
    }
    let families: Vec<Value> = families.into_iter().map(Value::from).collect();
    service.set(&["spec", "ipFamilies"], families);
}

/// What is wrong with addresses and families by themselves. Where something is, upstream tells nothing else of the object.
pub(super) fn errors(service: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if service.str_at(&["spec", "type"]) == "ExternalName" {
        return errors;
    }
    let (first, all, families) = (service.str_at(&["spec", "clusterIP"]), texts(service, "clusterIPs"), texts(service, "ipFamilies"));
    let shown = || service.at(&["spec", "clusterIPs"]).cloned();
    let mismatch = match (first, all.first()) {
        ("", Some(_)) => Some("must be empty when `clusterIP` is not specified"),
        (first, Some(listed)) if first != *listed => Some("first value must match `clusterIP`"),
        _ => None,
    };
    errors.extend(mismatch.map(|why| FieldError::invalid("spec.clusterIPs", shown(), why)));
    for (i, family) in families.iter().enumerate() {
        let at = format!("spec.ipFamilies[{i}]");
        if !["IPv4", "IPv6"].contains(family) {
            errors.push(FieldError::not_supported(&at, *family, &["IPv4", "IPv6"]));
        }
        if families[..i].contains(family) {
            errors.push(FieldError::duplicate(at, *family));
        }
    }
    if !POLICIES.contains(&policy(service)) {
        errors.push(FieldError::not_supported("spec.ipFamilyPolicy", policy(service), &POLICIES));
    }
    addresses(&all, &families, shown(), &mut errors);
    errors
}

fn addresses(all: &[&str], families: &[&str], shown: Option<Value>, errors: &mut Vec<FieldError>) {
    let mut wrong = |at: &str, why: &str| errors.push(FieldError::invalid(at, shown.clone(), why));
    if all.first() == Some(&"None") && all.len() > 1 {
        wrong("spec.clusterIPs", "'None' must be the first and only value");
    }
    if all.len() > 2 {
        wrong("spec.clusterIPs", "may only hold up to 2 values");
    }
    let parsed: Vec<Option<IpAddr>> = all.iter().map(|a| a.parse().ok()).collect();
    let is_none = |i: usize| i == 0 && all[i] == "None";
    if parsed.iter().enumerate().any(|(i, ip)| ip.is_none() && !is_none(i)) {
        for (i, address) in all.iter().enumerate().filter(|(i, _)| parsed[*i].is_none() && !is_none(*i)) {
            let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            errors.push(FieldError::invalid(format!("spec.clusterIPs[{i}]"), *address, why));
        }
        return;
    }
    if let [Some(one), Some(other), ..] = parsed.as_slice()
        && one.is_ipv4() == other.is_ipv4()
    {
        wrong("spec.clusterIPs", "may specify no more than one IP for each IP family");
    }
    for (i, (ip, family)) in parsed.iter().zip(families).enumerate() {
        if ip.is_some_and(|ip| ip.is_ipv4() != (*family == "IPv4")) {
            let why = format!("expected an {family} value as indicated by `ipFamilies[{i}]`");
            errors.push(FieldError::invalid(format!("spec.clusterIPs[{i}]"), all[i], why));
        }
    }
}

/// What a cluster of these families cannot give. Where there is something, upstream tells nothing else, either.
pub(super) fn lacking(service: &Value, cluster: ServiceFamilies) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if service.str_at(&["spec", "type"]) == "ExternalName" {
        return errors;
    }
    let (all, families) = (texts(service, "clusterIPs"), texts(service, "ipFamilies"));
    let mut wrong = |at: String, value: &str, why: &str| errors.push(FieldError::invalid(at, value, why));
    if policy(service) == "SingleStack" {
        for (field, what) in [(&all, "cluster IPs"), (&families, "IP families")] {
            if field.len() == 2 {
                let why = format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified");
                wrong("spec.ipFamilyPolicy".into(), policy(service), &why);
            }
        }
    }
    for (i, address) in all.iter().enumerate().skip(families.len()) {
        if let Some(family) = family(address).filter(|f| !cluster.names().contains(f)) {
            wrong(format!("spec.clusterIPs[{i}]"), address, &format!("{family} is not configured on this cluster"));
        }
    }
    if is_open(service) {
        return errors;
    }
    if policy(service) == "RequireDualStack" && cluster.names().len() < 2 {
        wrong("spec.ipFamilyPolicy".into(), policy(service), "this cluster is not configured for dual-stack services");
    }
    for (i, family) in families.iter().enumerate().filter(|(_, f)| !cluster.names().contains(f)) {
        wrong(format!("spec.ipFamilies[{i}]"), family, "not configured on this cluster");
    }
    errors
}

/// What of its addresses and families a Service cannot change, but for the second, which comes and goes as the policy says. See
/// upstream's validateUpgradeDowngradeClusterIPs and validateUpgradeDowngradeIPFamilies; the first address is looked at elsewhere.
pub(super) fn changes(service: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if [service, old].iter().any(|s| s.str_at(&["spec", "type"]) == "ExternalName") {
        return errors;
    }
    let shown = |field: &str| service.at(&["spec", field]).cloned();
    if policy(service) != "SingleStack" {
        for (field, what) in [("clusterIPs", "cluster IP"), ("ipFamilies", "IP family")] {
            if reduced(service, old, field) {
                let why = format!("must be 'SingleStack' to release the secondary {what}");
                errors.push(FieldError::invalid("spec.ipFamilyPolicy", policy(service), why));
            }
        }
    }
    if !errors.is_empty() || [service, old].iter().any(|s| s.str_at(&["spec", "clusterIP"]) == "None") {
        return errors;
    }
    if let ([_, now], [_, before]) = (&texts(service, "clusterIPs")[..], &texts(old, "clusterIPs")[..])
        && now != before
    {
        errors.push(FieldError::invalid("spec.clusterIPs[1]", shown("clusterIPs"), "may not change once set"));
    }
    let changed = texts(service, "ipFamilies").into_iter().zip(texts(old, "ipFamilies")).filter(|(now, before)| now != before);
    errors.extend(changed.map(|_| FieldError::invalid("spec.ipFamilies[0]", shown("ipFamilies"), "may not change once set")));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    use ServiceFamilies::{V4, V4V6, V6, V6V4};

    fn inferred(cluster: ServiceFamilies, spec: Value, old: Option<Value>) -> (String, String, String) {
        let (mut service, old) = (object!({ "spec": spec }), old.map(|spec| object!({ "spec": spec })));
        agree(&mut service, old.as_ref());
        infer(&mut service, old.as_ref(), cluster);
        let mut wrong = lacking(&service, cluster);
        wrong.extend(old.iter().flat_map(|old| changes(&service, old)));
        let wrong: Vec<&str> = wrong.iter().map(|e| e.field.as_str()).collect();
        (policy(&service).to_string(), texts(&service, "ipFamilies").join(","), wrong.join(","))
    }

    #[test]
    fn families_are_inferred_and_those_that_the_cluster_lacks_refused() {
        let (prefer, require) = (object!({ "ipFamilyPolicy": "PreferDualStack" }), object!({ "ipFamilyPolicy": "RequireDualStack" }));
        let six = object!({ "ipFamilies": ["IPv6"] });
        let open = object!({ "clusterIP": "None" });
        let headless = object!({ "clusterIP": "None", "selector": { "a": "b" } });
        let (at_six, at_both) =
            (object!({ "clusterIP": "fd00::9" }), object!({ "clusterIPs": ["fd00::9", "10.0.0.9"], "clusterIP": "fd00::9" }));
        let both_wanted = object!({ "clusterIPs": ["fd00::9"], "clusterIP": "fd00::9", "ipFamilyPolicy": "RequireDualStack" });
        let table: [(ServiceFamilies, Value, &str, &str, &str); 24] = [
            (V4, object!({}), "SingleStack", "IPv4", ""),
            (V4, prefer.clone(), "PreferDualStack", "IPv4", ""),
            (V4, require.clone(), "RequireDualStack", "IPv4", "spec.ipFamilyPolicy"),
            (V4, six.clone(), "SingleStack", "IPv6", "spec.ipFamilies[0]"),
            (V4, open.clone(), "RequireDualStack", "IPv4,IPv6", ""),
            (V4, headless.clone(), "SingleStack", "IPv4", ""),
            (V4, at_six.clone(), "SingleStack", "", "spec.clusterIPs[0]"),
            (V6, object!({}), "SingleStack", "IPv6", ""),
            (V6, prefer.clone(), "PreferDualStack", "IPv6", ""),
            (V6, require.clone(), "RequireDualStack", "IPv6", "spec.ipFamilyPolicy"),
            (V6, six.clone(), "SingleStack", "IPv6", ""),
            (V6, open.clone(), "RequireDualStack", "IPv6,IPv4", ""),
            (V6, at_six.clone(), "SingleStack", "IPv6", ""),
            (V4V6, object!({}), "SingleStack", "IPv4", ""),
            (V4V6, prefer.clone(), "PreferDualStack", "IPv4,IPv6", ""),
            (V4V6, require.clone(), "RequireDualStack", "IPv4,IPv6", ""),
            (V4V6, six, "SingleStack", "IPv6", ""),
            (V4V6, object!({ "ipFamilies": ["IPv6"], "ipFamilyPolicy": "PreferDualStack" }), "PreferDualStack", "IPv6,IPv4", ""),
            (V4V6, object!({ "ipFamilies": ["IPv6", "IPv4"] }), "SingleStack", "IPv6,IPv4", "spec.ipFamilyPolicy"),
            (V4V6, at_six, "SingleStack", "IPv6", ""),
            (V4V6, at_both, "SingleStack", "IPv6", "spec.ipFamilyPolicy"),
            (V4V6, both_wanted, "RequireDualStack", "IPv6,IPv4", ""),
            (V4V6, headless, "SingleStack", "IPv4", ""),
            (V6V4, require, "RequireDualStack", "IPv6,IPv4", ""),
        ];
        for (cluster, spec, policy, families, refused) in table {
            let expect = (policy.to_string(), families.to_string(), refused.to_string());
            assert_eq!(inferred(cluster, spec.clone(), None), expect, "{cluster:?} {spec:?}");
        }
    }

    #[test]
    fn the_second_family_comes_and_goes_as_the_policy_says() {
        let with = |policy: &str, ips: Value, families: Value| {
            let first = ips.as_list().and_then(|ips| ips.first()).cloned();
            object!({ "type": "ClusterIP", "clusterIP": first, "clusterIPs": ips, "ipFamilies": families, "ipFamilyPolicy": policy })
        };
        let (one, both) = (object!(["10.0.0.9"]), object!(["10.0.0.9", "fd00::9"]));
        let (four, four_six) = (object!(["IPv4"]), object!(["IPv4", "IPv6"]));
        let single = with("SingleStack", one.clone(), four.clone());
        let dual = with("RequireDualStack", both.clone(), four_six.clone());
        let preferring = with("PreferDualStack", one.clone(), four.clone());
        let table = [
            // It gets the second.
            (V4V6, with("RequireDualStack", one.clone(), four.clone()), &single, "RequireDualStack", "IPv4,IPv6", ""),
            (V4V6, with("PreferDualStack", one.clone(), four.clone()), &single, "PreferDualStack", "IPv4,IPv6", ""),
            (V4V6, with("RequireDualStack", one.clone(), four_six.clone()), &single, "RequireDualStack", "IPv4,IPv6", ""),
            (V4, with("PreferDualStack", one.clone(), four.clone()), &single, "PreferDualStack", "IPv4", ""),
            // And gives it back, by the policy alone or with all that goes with it.
            (V4V6, with("SingleStack", both.clone(), four_six.clone()), &dual, "SingleStack", "IPv4", ""),
            (V4V6, with("SingleStack", one.clone(), four.clone()), &dual, "SingleStack", "IPv4", ""),
            (V4V6, with("RequireDualStack", one.clone(), four_six.clone()), &dual, "RequireDualStack", "IPv4,IPv6", "spec.ipFamilyPolicy"),
            (V4V6, with("PreferDualStack", both.clone(), four.clone()), &dual, "PreferDualStack", "IPv4", "spec.ipFamilyPolicy"),
            // The first stays.
            (
                V4V6,
                with("RequireDualStack", both.clone(), object!(["IPv6", "IPv4"])),
                &dual,
                "RequireDualStack",
                "IPv6,IPv4",
                "spec.ipFamilies[0],spec.ipFamilies[0]",
            ),
            // A cluster that has got a second family gives it to nobody unasked.
            (V4V6, preferring.clone(), &preferring, "PreferDualStack", "IPv4", ""),
            (V4V6, with("RequireDualStack", one.clone(), four.clone()), &preferring, "RequireDualStack", "IPv4,IPv6", ""),
        ];
        for (cluster, spec, old, policy, families, refused) in table {
            let expect = (policy.to_string(), families.to_string(), refused.to_string());
            assert_eq!(inferred(cluster, spec.clone(), Some(old.clone())), expect, "{cluster:?} {spec:?}");
        }
    }

    #[test]
    fn who_changes_the_one_address_means_the_list_too() {
        let service =
            |one: &str, all: &str| object!({ "spec": { "clusterIP": one, "clusterIPs": [all], "ipFamilyPolicy": "SingleStack" } });
        let mut changed = service("10.0.0.2", "10.0.0.1");
        agree(&mut changed, Some(&service("10.0.0.1", "10.0.0.1")));
        assert_eq!(texts(&changed, "clusterIPs"), ["10.0.0.2"]);
        assert_eq!(errors(&service("10.0.0.2", "10.0.0.1"))[0].field, "spec.clusterIPs");
    }
}
