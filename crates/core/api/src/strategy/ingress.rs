//! Ingresses and their classes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use fram_machinery::status::FieldError;
use fram_machinery::{Value, names};

use super::{Strategy, joined, named_default};

pub(super) struct Ingress;
impl Strategy for Ingress {
    fn cell(&self, object: &Value, column: &str) -> Value {
        match column {
            "Hosts" => hosts(object),
            "Address" => addresses(object),
            "Ports" if object.list_at(&["spec", "tls"]).is_empty() => "80".into(),
            "Ports" => "80, 443".into(),
            _ => Value::Null,
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let backend = object.at(&["spec", "defaultBackend"]).filter(|b| !b.is_null());
        let rules = object.list_at(&["spec", "rules"]);
        if backend.is_none() && rules.is_empty() {
            errors.push(FieldError::invalid("spec", object.get("spec").cloned(), "either `defaultBackend` or `rules` must be specified"));
        }
        if let Some(backend) = backend {
            backend_errors(backend, "spec.defaultBackend", &mut errors);
        }
        if let Some(class) = object.at(&["spec", "ingressClassName"]).and_then(Value::as_str)
            && let Err(why) = names::dns_subdomain(class)
        {
            errors.push(FieldError::invalid("spec.ingressClassName", class, why));
        }
        for (i, tls) in object.list_at(&["spec", "tls"]).iter().enumerate() {
            for (h, host) in tls.list_at(&["hosts"]).iter().enumerate() {
                host_errors(host.as_str().unwrap_or_default(), &format!("spec.tls[{i}].hosts[{h}]"), &mut errors);
            }
            let secret = tls.str_at(&["secretName"]);
            if !secret.is_empty()
                && let Err(why) = names::dns_subdomain(secret)
            {
                errors.push(FieldError::invalid(format!("spec.tls[{i}].secretName"), secret, why));
            }
        }
        for (i, rule) in rules.iter().enumerate() {
            let at = format!("spec.rules[{i}]");
            let host = rule.str_at(&["host"]);
            if !host.is_empty() {
                if host.parse::<IpAddr>().is_ok() {
                    errors.push(FieldError::invalid(format!("{at}.host"), host, "must be a DNS name, not an IP address"));
                }
                host_errors(host, &format!("{at}.host"), &mut errors);
            }
            let Some(http) = rule.get("http").filter(|h| !h.is_null()) else { continue };
            if http.list_at(&["paths"]).is_empty() {
                errors.push(FieldError::required(format!("{at}.http.paths"), ""));
            }
            for (p, path) in http.list_at(&["paths"]).iter().enumerate() {
                path_errors(path, &format!("{at}.http.paths[{p}]"), &mut errors);
            }
        }
        errors
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let annotation = "kubernetes.io/ingress.class";
        let named = fram_machinery::meta::annotation(object, annotation);
        let class = object.at(&["spec", "ingressClassName"]).and_then(Value::as_str);
        match (named, class) {
            (Some(named), Some(class)) if named != class => {
                let why = "must match `ingressClassName` when both are specified";
                vec![FieldError::invalid(format!("annotations.{annotation}"), named, why)]
            }
            _ => Vec::new(),
        }
    }

    fn validate_subresource(&self, _: &str, object: &Value, _: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        for (i, entry) in object.list_at(&["status", "loadBalancer", "ingress"]).iter().enumerate() {
            let at = format!("status.loadBalancer.ingress[{i}]");
            let (ip, hostname) = (entry.str_at(&["ip"]), entry.str_at(&["hostname"]));
            if !ip.is_empty() && ip.parse::<IpAddr>().is_err() {
                let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
                errors.push(FieldError::invalid(format!("{at}.ip"), ip, why));
            }
            if !hostname.is_empty()
                && let Err(why) = names::dns_subdomain(hostname)
            {
                errors.push(FieldError::invalid(format!("{at}.hostname"), hostname, why));
            }
        }
        errors
    }
}

/// A name, or one with `*` in the place of its first part.
fn host_errors(host: &str, at: &str, errors: &mut Vec<FieldError>) {
    let rest = host.strip_prefix("*.").unwrap_or(host);
    if let Err(why) = names::dns_subdomain(rest) {
        errors.push(FieldError::invalid(at, host, why));
    }
}

fn path_errors(path: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let text = path.str_at(&["path"]);
    let ty = path.get("pathType").and_then(Value::as_str);
    let field = format!("{at}.path");
    match ty {
        None => errors.push(FieldError::required(format!("{at}.pathType"), "pathType must be specified")),
        Some("Exact" | "Prefix") => {
            if !text.starts_with('/') {
                errors.push(FieldError::invalid(&field, text, "must be an absolute path"));
            } else {
                let segments = |s: &str| text.split('/').any(|part| part == s);
                let lower = text.to_lowercase();
                if text.contains("//") || segments(".") || segments("..") || lower.contains("%2f") {
                    errors.push(FieldError::invalid(&field, text, "must not contain '//', './', '../' or '%2f'"));
                }
            }
        }
        Some("ImplementationSpecific") if !text.is_empty() && !text.starts_with('/') => {
            errors.push(FieldError::invalid(field, text, "must be an absolute path"));
        }
        Some(_) => {}
    }
    backend_errors(path.get("backend").unwrap_or(&Value::Null), &format!("{at}.backend"), errors);
}

fn backend_errors(backend: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let (service, resource) = (backend.get("service").filter(|v| !v.is_null()), backend.get("resource").filter(|v| !v.is_null()));
    match (service, resource) {
        (Some(_), Some(_)) => errors.push(FieldError::invalid(at, "", "cannot set both resource and service backends")),
        (None, None) => errors.push(FieldError::invalid(at, "", "resource or service backend is required")),
        (None, Some(resource)) => {
            for part in ["kind", "name"].into_iter().filter(|p| resource.str_at(&[p]).is_empty()) {
                errors.push(FieldError::required(format!("{at}.resource.{part}"), ""));
            }
            if let Some(group) = resource.get("apiGroup").and_then(Value::as_str)
                && let Err(why) = names::dns_subdomain(group)
            {
                errors.push(FieldError::invalid(format!("{at}.resource.apiGroup"), group, why));
            }
        }
        (Some(service), None) => {
            let name = service.str_at(&["name"]);
            if name.is_empty() {
                errors.push(FieldError::required(format!("{at}.service.name"), ""));
            } else if let Err(why) = names::dns_label(name) {
                errors.push(FieldError::invalid(format!("{at}.service.name"), name, why));
            }
            let (port, number) = (service.str_at(&["port", "name"]), service.int_at(&["port", "number"]).unwrap_or(0));
            match (port, number) {
                ("", 0) => errors.push(FieldError::required(at, "port name or number is required")),
                ("", n) => {
                    errors.extend(names::port_number(n).err().map(|why| FieldError::invalid(format!("{at}.service.port.number"), n, why)))
                }
                (_, n) if n != 0 => errors.push(FieldError::invalid(at, "", "cannot set both port name & port number")),
                (name, _) => {
                    errors.extend(names::port_name(name).err().map(|why| FieldError::invalid(format!("{at}.service.port.name"), name, why)))
                }
            }
        }
    }
}

/// The hosts of the first rules that name one.
fn hosts(ingress: &Value) -> Value {
    const SHOWN: usize = 3;
    let rules = ingress.list_at(&["spec", "rules"]);
    let mut named = rules.iter().enumerate().filter(|(_, rule)| !rule.str_at(&["host"]).is_empty());
    let shown: Vec<(usize, &str)> = named.by_ref().take(SHOWN).map(|(i, rule)| (i, rule.str_at(&["host"]))).collect();
    let text = shown.iter().map(|(_, host)| *host).collect::<Vec<_>>().join(",");
    match shown.last() {
        None => "*".into(),
        // Rules without a host count here, as upstream.
        Some((last, _)) if shown.len() == SHOWN && last + 1 < rules.len() => format!("{text} + {} more...", rules.len() - SHOWN).into(),
        Some(_) => text.into(),
    }
}

fn addresses(ingress: &Value) -> Value {
    let one = |point: &Value| match point.str_at(&["ip"]) {
        "" => point.str_at(&["hostname"]).to_string(),
        ip => ip.to_string(),
    };
    let all: BTreeSet<String> = ingress.list_at(&["status", "loadBalancer", "ingress"]).iter().map(one).collect();
    joined(all.into_iter().filter(|address| !address.is_empty()), "")
}

pub(super) struct IngressClass;
impl Strategy for IngressClass {
    fn cell(&self, object: &Value, column: &str) -> Value {
        match column {
            "Name" => named_default(object, "ingressclass.kubernetes.io/is-default-class"),
            "Parameters" => {
                let part = |field: &str| object.str_at(&["spec", "parameters", field]);
                let dot = if part("apiGroup").is_empty() { "" } else { "." };
                match part("name") {
                    "" => Value::Null,
                    name => format!("{}{dot}{}/{name}", part("kind"), part("apiGroup")).into(),
                }
            }
            _ => Value::Null,
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let controller = object.str_at(&["spec", "controller"]);
        if controller.is_empty() {
            errors.push(FieldError::required("spec.controller", ""));
        } else if !controller.split_once('/').is_some_and(|(d, p)| names::dns_subdomain(d).is_ok() && !p.is_empty()) {
            errors.push(FieldError::invalid("spec.controller", controller, "must be a domain-prefixed path (such as \"acme.io/foo\")"));
        }
        if controller.len() > 250 {
            errors.push(FieldError::too_long("spec.controller", 250));
        }
        let Some(parameters) = object.at(&["spec", "parameters"]).filter(|p| !p.is_null()) else { return errors };
        let at = "spec.parameters";
        for part in ["kind", "name"] {
            match parameters.str_at(&[part]) {
                "" => errors.push(FieldError::required(format!("{at}.{part}"), "")),
                text => errors.extend(names::path_segment(text).err().map(|why| FieldError::invalid(format!("{at}.{part}"), text, why))),
            }
        }
        if let Some(group) = parameters.get("apiGroup").and_then(Value::as_str)
            && let Err(why) = names::dns_subdomain(group)
        {
            errors.push(FieldError::invalid(format!("{at}.apiGroup"), group, why));
        }
        let namespace = parameters.get("namespace").and_then(Value::as_str);
        match (parameters.str_at(&["scope"]), namespace) {
            ("Namespace", None) => errors.push(FieldError::required(format!("{at}.namespace"), "`parameters.scope` is set to 'Namespace'")),
            ("Namespace", Some(name)) => {
                errors.extend(names::dns_label(name).err().map(|why| FieldError::invalid(format!("{at}.namespace"), name, why)));
            }
            ("Cluster", Some(_)) => errors.push(FieldError::forbidden(format!("{at}.namespace"), "`parameters.scope` is set to 'Cluster'")),
            _ => {}
        }
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let controller = |o: &Value| o.str_at(&["spec", "controller"]).to_string();
        if controller(object) == controller(old) {
            return Vec::new();
        }
        vec![FieldError::invalid("spec.controller", controller(object), "field is immutable")]
    }
}
