//! Services: what depends on the type, and the cells of the table. Addresses and node ports are allocated by the server.

mod families;
mod validation;

use fram_machinery::labels::Selector;
use fram_machinery::status::FieldError;
use fram_machinery::{Value, meta, names, object};

use super::{NameRule, Strategy};
use crate::ServiceFamilies;

/// Services in a cluster that has these families for them.
pub(super) struct Service(ServiceFamilies);

impl Service {
    pub(super) fn of(families: ServiceFamilies) -> &'static Self {
        match families {
            ServiceFamilies::V4 => &Self(ServiceFamilies::V4),
            ServiceFamilies::V6 => &Self(ServiceFamilies::V6),
            ServiceFamilies::V4V6 => &Self(ServiceFamilies::V4V6),
            ServiceFamilies::V6V4 => &Self(ServiceFamilies::V6V4),
        }
    }
}

impl Strategy for Service {
    fn warnings(&self, object: &Value, _: Option<&Value>) -> Vec<String> {
        warnings(object)
    }

    fn name_rule(&self) -> NameRule {
        // Names may start with a digit since 1.36; see RelaxedServiceNameValidation.
        names::dns_label
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
            for port in object.place(&["spec", "ports"]).make_list().make_mut() {
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
        if ty != "ExternalName" && object.at(&["spec", "internalTrafficPolicy"]).is_none_or(Value::is_null) {
            object.set(&["spec", "internalTrafficPolicy"], "Cluster");
        }
        if ty == "LoadBalancer" && object.at(&["spec", "allocateLoadBalancerNodePorts"]).is_none() {
            object.set(&["spec", "allocateLoadBalancerNodePorts"], true);
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        object.set(&["status"], object!({ "loadBalancer": {} }));
        families::agree(object, None);
        families::infer(object, None, self.0);
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
        if object.str_at(&["spec", "type"]) != "ExternalName" {
            families::agree(object, Some(old));
            families::infer(object, Some(old), self.0);
        }
        keep_or_clear_node_ports(object, old);
        drop_what_the_type_lost(object, old);
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        validation::validate(object, self.0)
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        validation::validate_update(object, old)
    }

    fn prepare_subresource(&self, _: &str, object: &mut Value, _: &Value) {
        if object.list_at(&["status", "loadBalancer", "ingress"]).is_empty() {
            return;
        }
        for entry in object.place(&["status", "loadBalancer", "ingress"]).make_list().make_mut() {
            if entry.get("ipMode").is_none() && !entry.str_at(&["ip"]).is_empty() {
                entry.set(&["ipMode"], "VIP");
            }
        }
    }

    fn validate_subresource(&self, subresource: &str, object: &Value, _: &Value) -> Vec<FieldError> {
        // A Service that is no load balancer any more may still say where it was one; its controller takes that back.
        if subresource == "status" { validation::validate_status(object) } else { Vec::new() }
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

/// Whether the nodes of a Service say on a port of their own if they have endpoints of it; see upstream's NeedsHealthCheck.
pub fn needs_health_check(service: &Value) -> bool {
    service.str_at(&["spec", "type"]) == "LoadBalancer" && service.str_at(&["spec", "externalTrafficPolicy"]) == "Local"
}

/// What only the former type could have goes with it, unless the author has just changed it; see upstream's
/// dropTypeDependentFields.
fn drop_what_the_type_lost(object: &mut Value, old: &Value) {
    let ty = |service: &Value| service.str_at(&["spec", "type"]).to_string();
    let exposed = |service: &Value| {
        matches!(ty(service).as_str(), "NodePort" | "LoadBalancer")
            || (ty(service) == "ClusterIP" && !service.list_at(&["spec", "externalIPs"]).is_empty())
    };
    let mut lost: Vec<&str> = Vec::new();
    if ty(old) == "LoadBalancer" && ty(object) != "LoadBalancer" {
        lost.extend(["allocateLoadBalancerNodePorts", "loadBalancerClass"]);
    }
    if exposed(old) && !exposed(object) {
        lost.push("externalTrafficPolicy");
    }
    if ty(object) == "ExternalName" && ty(old) != "ExternalName" {
        lost.push("internalTrafficPolicy");
    }
    if needs_health_check(old) && !needs_health_check(object) {
        lost.push("healthCheckNodePort");
    }
    for field in lost {
        if object.at(&["spec", field]) == old.at(&["spec", field]) {
            object.remove(&["spec", field]);
        }
    }
}

fn keep_or_clear_node_ports(object: &mut Value, old: &Value) {
    if object.list_at(&["spec", "ports"]).is_empty() {
        return;
    }
    let keeps = uses_node_ports(object);
    let old_ports = old.list_at(&["spec", "ports"]).to_vec();
    let taken: Vec<i64> = object.list_at(&["spec", "ports"]).iter().filter_map(|p| p.int_at(&["nodePort"])).collect();
    for port in object.place(&["spec", "ports"]).make_list().make_mut() {
        let before = old_ports.iter().find(|o| o.str_at(&["name"]) == port.str_at(&["name"]));
        let before = before.and_then(|o| o.int_at(&["nodePort"]));
        match (keeps, port.int_at(&["nodePort"]), before) {
            (true, None, Some(number)) if !taken.contains(&number) => port.set(&["nodePort"], number),
            (false, Some(now), Some(number)) if now == number => drop(port.remove(&["nodePort"])),
            _ => {}
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

/// What has no effect, or soon has none; see GetWarningsForService.
fn warnings(service: &Value) -> Vec<String> {
    const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
    let text = |field: &str| service.str_at(&["spec", field]);
    let mut out = Vec::new();
    if meta::annotation(service, HINTS).is_some() {
        out.push(format!("annotation {HINTS} is deprecated, please use service.kubernetes.io/topology-mode instead"));
    }
    let external = !service.list_at(&["spec", "externalIPs"]).is_empty();
    let elsewhere = text("type") == "ExternalName";
    if text("type") == "ClusterIP" && text("clusterIP") == "None" {
        let ignored = [
            ("loadBalancerIP", !text("loadBalancerIP").is_empty()),
            ("externalIPs", external),
            ("SessionAffinity", !matches!(text("sessionAffinity"), "" | "None")),
        ];
        out.extend(ignored.iter().filter(|(_, given)| *given).map(|(field, _)| format!("spec.{field} is ignored for headless services")));
    } else if external && !elsewhere {
        out.push("spec.externalIPs is deprecated and may no longer be implemented in some clusters".into());
    }
    if elsewhere && external {
        out.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".into());
    }
    if !elsewhere && !text("externalName").is_empty() {
        out.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".into());
    }
    if text("trafficDistribution") == "PreferClose" {
        out.push("spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".into());
    }
    out
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
