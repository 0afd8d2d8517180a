//! Services: what depends on the type, and the cells of the table. Addresses and node ports are allocated by the server.

use fram_machinery::labels::Selector;
use fram_machinery::status::FieldError;
use fram_machinery::{Value, names, object};

use super::{NameRule, Strategy};

pub(super) struct Service;

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];

impl Strategy for Service {
    fn name_rule(&self) -> NameRule {
        // 1.36 allows names that start with a digit (RelaxedServiceNameValidation is off by default): RFC 1035.
        names::dns1035_label
    }

    fn default(&self, object: &mut Value) {
        let ty = object.str_at(&["spec", "type"]).to_string();
        let affinity = object.str_at(&["spec", "sessionAffinity"]).to_string();
        if affinity == "ClientIP" {
            if object.at(&["spec", "sessionAffinityConfig", "clientIP", "timeoutSeconds"]).is_none() {
                object.set(&["spec", "sessionAffinityConfig"], object!({ "clientIP": { "timeoutSeconds": 10800 } }));
            }
        } else {
            object.remove(&["spec", "sessionAffinityConfig"]);
        }
        if !object.list_at(&["spec", "ports"]).is_empty() {
            for port in object.place(&["spec", "ports"]).make_list() {
                let unset = matches!(port.get("targetPort"), None | Some(Value::Null | Value::Int(0)))
                    || port.str_at(&["targetPort"]).is_empty() && port.int_at(&["targetPort"]).is_none();
                if unset {
                    let number = port.get("port").cloned();
                    port.set(&["targetPort"], number);
                }
            }
        }
        let external = matches!(ty.as_str(), "NodePort" | "LoadBalancer")
            || (ty == "ClusterIP" && !object.list_at(&["spec", "externalIPs"]).is_empty());
        if external && object.str_at(&["spec", "externalTrafficPolicy"]).is_empty() {
            object.set(&["spec", "externalTrafficPolicy"], "Cluster");
        }
        if ty != "ExternalName" && object.str_at(&["spec", "internalTrafficPolicy"]).is_empty() {
            object.set(&["spec", "internalTrafficPolicy"], "Cluster");
        }
        if ty == "LoadBalancer" && object.at(&["spec", "allocateLoadBalancerNodePorts"]).is_none() {
            object.set(&["spec", "allocateLoadBalancerNodePorts"], true);
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        object.set(&["status"], object!({ "loadBalancer": {} }));
        let headless_without_selector =
            object.str_at(&["spec", "clusterIP"]) == "None" && object.at(&["spec", "selector"]).is_none_or(Value::is_empty);
        if object.str_at(&["spec", "type"]) != "ExternalName" {
            if object.str_at(&["spec", "ipFamilyPolicy"]).is_empty() {
                object.set(&["spec", "ipFamilyPolicy"], if headless_without_selector { "RequireDualStack" } else { "SingleStack" });
            }
            if object.list_at(&["spec", "ipFamilies"]).is_empty() {
                object.set(&["spec", "ipFamilies"], object!(["IPv4"]));
            }
        }
    }

    fn prepare_update(&self, object: &mut Value, old: &Value) {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "healthCheckNodePort"] {
            let external = object.str_at(&["spec", "type"]) == "ExternalName";
            if external {
                if object.at(&["spec", field]) == old.at(&["spec", field]) {
                    object.remove(&["spec", field]);
                }
            } else if object.at(&["spec", field]).is_none_or(|v| v.is_empty() || v.as_str() == Some(""))
                && let Some(kept) = old.at(&["spec", field]).cloned()
            {
                object.set(&["spec", field], kept);
            }
        }
        keep_or_clear_node_ports(object, old);
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let ty = object.str_at(&["spec", "type"]);
        let headless = object.str_at(&["spec", "clusterIP"]) == "None";
        if !TYPES.contains(&ty) {
            errors.push(FieldError::not_supported("spec.type", ty, TYPES));
        }
        let ports = object.list_at(&["spec", "ports"]);
        if ports.is_empty() && !headless && ty != "ExternalName" {
            errors.push(FieldError::required("spec.ports", ""));
        }
        if ty == "ExternalName" && names::dns_subdomain(object.str_at(&["spec", "externalName"]).trim_end_matches('.')).is_err() {
            errors.push(FieldError::invalid("spec.externalName", object.str_at(&["spec", "externalName"]), names::DNS_SUBDOMAIN));
        }
        if ty == "LoadBalancer" && headless {
            errors.push(FieldError::invalid("spec.clusterIPs[0]", "None", "may not be set to 'None' for LoadBalancer services"));
        }
        let affinity = object.str_at(&["spec", "sessionAffinity"]);
        if !["None", "ClientIP"].contains(&affinity) {
            errors.push(FieldError::not_supported("spec.sessionAffinity", affinity, &["ClientIP", "None"]));
        }
        validate_ports(ports, &mut errors);
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let (new_ip, old_ip) = (object.str_at(&["spec", "clusterIP"]), old.str_at(&["spec", "clusterIP"]));
        let was_external = old.str_at(&["spec", "type"]) == "ExternalName" || object.str_at(&["spec", "type"]) == "ExternalName";
        if !was_external && !old_ip.is_empty() && new_ip != old_ip {
            return vec![FieldError::invalid("spec.clusterIPs[0]", new_ip, "may not change once set")];
        }
        Vec::new()
    }

    fn cell(&self, object: &Value, column: &str) -> Value {
        match column {
            "External-IP" => external_ip(object).into(),
            "Port(s)" => ports_text(object).into(),
            "Selector" => {
                let map = object.at(&["spec", "selector"]).and_then(Value::as_map).cloned().unwrap_or_default();
                if map.is_empty() { "<none>".into() } else { Selector::from_map(&map).to_string().into() }
            }
            _ => Value::Null,
        }
    }
}

fn uses_node_ports(service: &Value) -> bool {
    matches!(service.str_at(&["spec", "type"]), "NodePort" | "LoadBalancer")
}

fn keep_or_clear_node_ports(object: &mut Value, old: &Value) {
    if object.list_at(&["spec", "ports"]).is_empty() {
        return;
    }
    let keeps = uses_node_ports(object);
    let old_ports = old.list_at(&["spec", "ports"]).to_vec();
    let taken: Vec<i64> = object.list_at(&["spec", "ports"]).iter().filter_map(|p| p.int_at(&["nodePort"])).collect();
    for port in object.place(&["spec", "ports"]).make_list() {
        let before = old_ports.iter().find(|o| o.str_at(&["name"]) == port.str_at(&["name"]));
        let before = before.and_then(|o| o.int_at(&["nodePort"]));
        match (keeps, port.int_at(&["nodePort"]), before) {
            (true, None, Some(number)) if !taken.contains(&number) => port.set(&["nodePort"], number),
            (false, Some(now), Some(number)) if now == number => drop(port.remove(&["nodePort"])),
            _ => {}
        }
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
        if !["TCP", "UDP", "SCTP"].contains(&protocol) {
            errors.push(FieldError::not_supported(format!("{at}.protocol"), protocol, &["SCTP", "TCP", "UDP"]));
        }
        if let Some(target) = port.int_at(&["targetPort"])
            && let Err(why) = names::port_number(target)
        {
            errors.push(FieldError::invalid(format!("{at}.targetPort"), target, why));
        }
    }
}

fn external_ip(service: &Value) -> String {
    let ingress = service.list_at(&["status", "loadBalancer", "ingress"]);
    let mut all: Vec<String> = service.list_at(&["spec", "externalIPs"]).iter().filter_map(Value::as_str).map(String::from).collect();
    match service.str_at(&["spec", "type"]) {
        "ExternalName" => return service.str_at(&["spec", "externalName"]).to_string(),
        "LoadBalancer" => {
            let address = |i: &Value| if i.str_at(&["ip"]).is_empty() { i.str_at(&["hostname"]) } else { i.str_at(&["ip"]) }.to_string();
            all.extend(ingress.iter().map(address));
            if all.is_empty() {
                return "<pending>".into();
            }
        }
        _ => {}
    }
    if all.is_empty() { "<none>".into() } else { all.join(",") }
}

fn ports_text(service: &Value) -> String {
    let one = |p: &Value| {
        let (port, protocol) = (p.int_at(&["port"]).unwrap_or(0), p.str_at(&["protocol"]));
        match p.int_at(&["nodePort"]) {
            Some(node) if node > 0 => format!("{port}:{node}/{protocol}"),
            _ => format!("{port}/{protocol}"),
        }
    };
    let all: Vec<String> = service.list_at(&["spec", "ports"]).iter().map(one).collect();
    if all.is_empty() { "<none>".into() } else { all.join(",") }
}
