//! What a Service must look like: what each type may have, its ports, families and load balancer.

use std::net::IpAddr;

use fram_machinery::status::FieldError;
use fram_machinery::{Value, names};

use super::families;
use crate::ServiceFamilies;
use crate::strategy::network::special_address;
use crate::strategy::pod::port_or_name;

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];

fn is_given(spec: &Value, field: &str) -> bool {
    spec.get(field).is_some_and(|v| !v.is_null() && v.as_str() != Some("") && v.as_list().is_none_or(|l| !l.is_empty()))
}

pub(super) fn validate(object: &Value, cluster: ServiceFamilies) -> Vec<FieldError> {
    let mut errors = families::errors(object);
    if errors.is_empty() {
        errors = families::lacking(object, cluster);
    }
    if !errors.is_empty() {
        return errors;
    }
    let null = Value::Null;
    let spec = object.get("spec").unwrap_or(&null);
    let ty = spec.str_at(&["type"]);
    let headless = spec.str_at(&["clusterIP"]) == "None";
    if !TYPES.contains(&ty) {
        errors.push(FieldError::not_supported("spec.type", ty, TYPES));
    }
    let ports = spec.list_at(&["ports"]);
    if ports.is_empty() && !headless && ty != "ExternalName" {
        errors.push(FieldError::required("spec.ports", ""));
    }
    by_type(spec, ty, headless, &mut errors);
    let affinity = spec.str_at(&["sessionAffinity"]);
    if !["None", "ClientIP"].contains(&affinity) {
        errors.push(FieldError::not_supported("spec.sessionAffinity", affinity, &["ClientIP", "None"]));
    }
    if let Some(seconds) = spec.int_at(&["sessionAffinityConfig", "clientIP", "timeoutSeconds"]).filter(|n| !(1..=86400).contains(n)) {
        let at = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        errors.push(FieldError::invalid(at, seconds, "must be greater than 0 and less than 86400"));
    }
    let selector = spec.get("selector").and_then(Value::as_map).cloned().unwrap_or_default();
    crate::strategy::label_map_errors(&selector, "spec.selector", &mut errors);
    validate_ports(ports, &mut errors);
    traffic(spec, ty, &mut errors);
    load_balancer(spec, ty, &mut errors);
    for (i, address) in spec.list_at(&["externalIPs"]).iter().enumerate() {
        special_address(address.as_str().unwrap_or_default(), &format!("spec.externalIPs[{i}]"), &mut errors);
    }
    errors
}

fn by_type(spec: &Value, ty: &str, headless: bool, errors: &mut Vec<FieldError>) {
    if ty == "ExternalName" {
        let name = spec.str_at(&["externalName"]);
        if name.is_empty() {
            errors.push(FieldError::required("spec.externalName", ""));
        } else if names::dns_subdomain(name.trim_end_matches('.')).is_err() {
            errors.push(FieldError::invalid("spec.externalName", name, names::DNS_SUBDOMAIN));
        }
        if is_given(spec, "clusterIP") || is_given(spec, "clusterIPs") {
            errors.push(FieldError::forbidden("spec.clusterIPs", "may not be set for ExternalName services"));
        }
        for field in ["ipFamilies", "ipFamilyPolicy"].into_iter().filter(|f| is_given(spec, f)) {
            errors.push(FieldError::forbidden(format!("spec.{field}"), "may not be set for ExternalName services"));
        }
        return;
    }
    if headless && matches!(ty, "LoadBalancer" | "NodePort") {
        errors.push(FieldError::invalid("spec.clusterIPs[0]", "None", format!("may not be set to 'None' for {ty} services")));
    }
}

fn validate_ports(ports: &[Value], errors: &mut Vec<FieldError>) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, port) in ports.iter().enumerate() {
        let at = format!("spec.ports[{i}]");
        let name = port.str_at(&["name"]);
        if name.is_empty() && ports.len() > 1 {
            errors.push(FieldError::required(format!("{at}.name"), ""));
        } else if !name.is_empty() {
            if let Err(why) = names::dns_label(name) {
                errors.push(FieldError::invalid(format!("{at}.name"), name, why));
            }
            if seen.contains(&name) {
                errors.push(FieldError::duplicate(format!("{at}.name"), name));
            }
        }
        seen.push(name);
        let number = port.int_at(&["port"]).unwrap_or(0);
        errors.extend(names::port_number(number).err().map(|why| FieldError::invalid(format!("{at}.port"), number, why)));
        let protocol = port.str_at(&["protocol"]);
        if protocol.is_empty() {
            errors.push(FieldError::required(format!("{at}.protocol"), ""));
        }
        if port.get("targetPort").is_some() {
            port_or_name(port.get("targetPort"), format_args!("{at}.targetPort"), errors);
        }
        if let Some(protocol) = port.get("appProtocol").and_then(Value::as_str)
            && let Err(why) = names::qualified_name(protocol)
        {
            errors.push(FieldError::invalid(format!("{at}.appProtocol"), protocol, why));
        }
        let same = |p: &Value| p.get("port") == port.get("port") && p.str_at(&["protocol"]) == protocol;
        if ports[..i].iter().any(same) {
            errors.push(FieldError::duplicate(&at, port.clone()));
        }
    }
}

fn traffic(spec: &Value, ty: &str, errors: &mut Vec<FieldError>) {
    let external = spec.str_at(&["externalTrafficPolicy"]);
    let exposed = matches!(ty, "NodePort" | "LoadBalancer") || (ty == "ClusterIP" && !spec.list_at(&["externalIPs"]).is_empty());
    if !external.is_empty() && !exposed {
        let why = "may only be set for externally-accessible services";
        errors.push(FieldError::invalid("spec.externalTrafficPolicy", external, why));
    }
    if !matches!(ty, "NodePort" | "LoadBalancer") {
        for (i, port) in spec.list_at(&["ports"]).iter().enumerate() {
            if port.int_at(&["nodePort"]).is_some_and(|n| n != 0) {
                let why = "may not be used when `type` is 'ClusterIP'";
                errors.push(FieldError::forbidden(format!("spec.ports[{i}].nodePort"), why));
            }
        }
    }
    let check = spec.int_at(&["healthCheckNodePort"]).unwrap_or(0);
    if check < 0 {
        errors.push(FieldError::invalid("spec.healthCheckNodePort", check, "must be greater than or equal to 0"));
    }
    if check != 0 && !(ty == "LoadBalancer" && external == "Local") {
        let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.push(FieldError::invalid("spec.healthCheckNodePort", check, why));
    }
}

fn load_balancer(spec: &Value, ty: &str, errors: &mut Vec<FieldError>) {
    const ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
    let class = spec.get("loadBalancerClass").and_then(Value::as_str);
    if ty != "LoadBalancer" {
        for (field, at) in [
            ("loadBalancerSourceRanges", "spec.LoadBalancerSourceRanges"),
            ("allocateLoadBalancerNodePorts", "spec.allocateLoadBalancerNodePorts"),
            ("loadBalancerClass", "spec.loadBalancerClass"),
        ] {
            if is_given(spec, field) {
                errors.push(FieldError::forbidden(at, ONLY));
            }
        }
        return;
    }
    if let Some(class) = class
        && let Err(why) = names::qualified_name(class)
    {
        errors.push(FieldError::invalid("spec.loadBalancerClass", class, why));
    }
    for (i, range) in spec.list_at(&["loadBalancerSourceRanges"]).iter().enumerate() {
        let text = range.as_str().unwrap_or_default().trim();
        if crate::strategy::network::cidr(text).is_none() {
            let why = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            errors.push(FieldError::invalid(format!("spec.LoadBalancerSourceRanges[{i}]"), text, why));
        }
    }
}

pub(super) fn validate_update(object: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = families::changes(object, old);
    let text = |service: &Value, field: &str| service.str_at(&["spec", field]).to_string();
    let external = text(old, "type") == "ExternalName" || text(object, "type") == "ExternalName";
    if !external && !text(old, "clusterIP").is_empty() && text(object, "clusterIP") != text(old, "clusterIP") {
        errors.push(FieldError::invalid("spec.clusterIPs[0]", text(object, "clusterIP"), "may not change once set"));
    }
    let check = |service: &Value| service.int_at(&["spec", "healthCheckNodePort"]).unwrap_or(0);
    if super::needs_health_check(object) && super::needs_health_check(old) && check(object) != check(old) {
        errors.push(FieldError::invalid("spec.healthCheckNodePort", check(object), "field is immutable"));
    }
    let balances = |service: &Value| text(service, "type") == "LoadBalancer";
    if balances(object) && balances(old) && text(object, "loadBalancerClass") != text(old, "loadBalancerClass") {
        errors.push(FieldError::invalid("spec.loadBalancerClass", text(object, "loadBalancerClass"), "may not change once set"));
    }
    errors
}

pub(super) fn validate_status(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let at = "status.loadBalancer.ingress";
    let ingress = object.list_at(&["status", "loadBalancer", "ingress"]);
    if !ingress.is_empty() && object.str_at(&["spec", "type"]) != "LoadBalancer" {
        errors.push(FieldError::forbidden(at, "may only be used when `spec.type` is LoadBalancer"));
        return errors;
    }
    for (i, entry) in ingress.iter().enumerate() {
        let at = format!("{at}[{i}]");
        let (ip, hostname) = (entry.str_at(&["ip"]), entry.str_at(&["hostname"]));
        if !ip.is_empty() && ip.parse::<IpAddr>().is_err() {
            let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            errors.push(FieldError::invalid(format!("{at}.ip"), ip, why));
        }
        match entry.get("ipMode").and_then(Value::as_str) {
            Some(_) if ip.is_empty() => {
                errors.push(FieldError::forbidden(format!("{at}.ipMode"), "may not be specified when `ip` is not set"))
            }
            Some(mode) if !["Proxy", "VIP"].contains(&mode) => {
                errors.push(FieldError::not_supported(format!("{at}.ipMode"), mode, &["Proxy", "VIP"]));
            }
            _ => {}
        }
        if !hostname.is_empty() {
            if let Err(why) = names::dns_subdomain(hostname) {
                errors.push(FieldError::invalid(format!("{at}.hostname"), hostname, why));
            }
            if hostname.parse::<IpAddr>().is_ok() {
                errors.push(FieldError::invalid(format!("{at}.hostname"), hostname, "must be a DNS name, not an IP address"));
            }
        }
    }
    errors
}
