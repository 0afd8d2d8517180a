//! Address families of Services in a cluster of one family, IPv4: what is inferred from what, and what cannot be had. See
//! upstream's initIPFamilyFields and ValidateServiceClusterIPsRelatedFields.

use std::net::IpAddr;

use fram_machinery::status::FieldError;
use fram_machinery::{Value, object};

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

/// Fills in the policy, then the families.
pub(super) fn infer(service: &mut Value, old: Option<&Value>) {
    if service.str_at(&["spec", "type"]) == "ExternalName" {
        return;
    }
    let given = |field: &str, service: &Value| service.at(&["spec", field]).is_some_and(|v| !v.is_null());
    if !given("ipFamilyPolicy", service) {
        let before = old.map(policy).filter(|p| !p.is_empty()).map(String::from);
        let inferred = if is_open(service) { "RequireDualStack" } else { "SingleStack" };
        service.set(&["spec", "ipFamilyPolicy"], before.unwrap_or_else(|| inferred.into()));
    }
    let kept = |field: &str, service: &Value| old.is_some_and(|old| old.list_at(&["spec", field]) == service.list_at(&["spec", field]));
    for field in ["clusterIPs", "ipFamilies"] {
        if policy(service) == "SingleStack" && kept(field, service) && service.list_at(&["spec", field]).len() > 1 {
            service.place(&["spec", field]).make_list().truncate(1);
        }
    }
    if service.list_at(&["spec", "ipFamilies"]).is_empty() {
        service.set(&["spec", "ipFamilies"], object!(["IPv4"]));
    }
    let families = texts(service, "ipFamilies");
    if is_open(service) && families.len() == 1 && policy(service) != "SingleStack" {
        let other = if families[0] == "IPv4" { "IPv6" } else { "IPv4" };
        service.place(&["spec", "ipFamilies"]).make_list().push(other.into());
    }
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

/// What a cluster of one family cannot give. Where there is something, upstream tells nothing else, either.
pub(super) fn lacking(service: &Value) -> Vec<FieldError> {
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
        if address.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()) {
            wrong(format!("spec.clusterIPs[{i}]"), address, "IPv6 is not configured on this cluster");
        }
    }
    if is_open(service) {
        return errors;
    }
    if policy(service) == "RequireDualStack" {
        wrong("spec.ipFamilyPolicy".into(), policy(service), "this cluster is not configured for dual-stack services");
    }
    for (i, family) in families.iter().enumerate().filter(|(_, f)| **f != "IPv4") {
        wrong(format!("spec.ipFamilies[{i}]"), family, "not configured on this cluster");
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_inferred_and_those_that_the_cluster_lacks_refused() {
        let table: [(Value, &str, &[&str], &[&str]); 6] = [
            (object!({}), "SingleStack", &["IPv4"], &[]),
            (object!({ "ipFamilyPolicy": "PreferDualStack" }), "PreferDualStack", &["IPv4"], &[]),
            (object!({ "ipFamilyPolicy": "RequireDualStack" }), "RequireDualStack", &["IPv4"], &["spec.ipFamilyPolicy"]),
            (object!({ "ipFamilies": ["IPv6"] }), "SingleStack", &["IPv6"], &["spec.ipFamilies[0]"]),
            (object!({ "clusterIP": "None" }), "RequireDualStack", &["IPv4", "IPv6"], &[]),
            (object!({ "clusterIP": "None", "selector": { "a": "b" } }), "SingleStack", &["IPv4"], &[]),
        ];
        for (spec, expect_policy, families, refused) in table {
            let mut service = object!({ "spec": spec });
            agree(&mut service, None);
            infer(&mut service, None);
            assert_eq!((policy(&service), texts(&service, "ipFamilies")), (expect_policy, families.to_vec()), "{service:?}");
            assert_eq!(lacking(&service).iter().map(|e| e.field.as_str()).collect::<Vec<_>>(), refused, "{service:?}");
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
