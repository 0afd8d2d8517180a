//! Variables that tell a container of the Services that existed when it was made. Pure; see upstream's pkg/kubelet/envvars.

use std::collections::BTreeMap;
use std::sync::Arc;

use fram_machinery::{Value, meta};

/// Variables of the `kubernetes` Service and, with service links, of the Services in the pod's namespace.
pub fn variables(services: &[Arc<Value>], pod: &Value) -> BTreeMap<String, String> {
    let links = pod.bool_at(&["spec", "enableServiceLinks"]).unwrap_or(true);
    let namespace = meta::namespace(pod);
    let mut out = BTreeMap::new();
    let is_master = |s: &Value| meta::namespace(s) == "default" && meta::name(s) == "kubernetes";
    let masters = services.iter().filter(|s| is_master(s));
    let linked = services.iter().filter(|s| links && meta::namespace(s) == namespace);
    // Those of the pod's own namespace come last: they win.
    for service in masters.chain(linked) {
        add(service, &mut out);
    }
    out
}

fn add(service: &Value, out: &mut BTreeMap<String, String>) {
    let ip = service.str_at(&["spec", "clusterIP"]);
    let ports = service.list_at(&["spec", "ports"]);
    let Some(first) = ports.first().filter(|_| !ip.is_empty() && ip != "None") else { return };
    let name = meta::name(service).to_uppercase().replace('-', "_");
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_string() };
    let number = |port: &Value| port.int_at(&["port"]).unwrap_or(0);
    out.insert(format!("{name}_SERVICE_HOST"), ip.to_string());
    out.insert(format!("{name}_SERVICE_PORT"), number(first).to_string());
    for (i, port) in ports.iter().enumerate() {
        let named = port.str_at(&["name"]);
        if !named.is_empty() {
            out.insert(format!("{name}_SERVICE_PORT_{}", named.to_uppercase().replace('-', "_")), number(port).to_string());
        }
        let protocol = match port.str_at(&["protocol"]) {
            "" => "TCP",
            protocol => protocol,
        };
        let url = format!("{}://{host}:{}", protocol.to_lowercase(), number(port));
        if i == 0 {
            out.insert(format!("{name}_PORT"), url.clone());
        }
        let prefix = format!("{name}_PORT_{}_{protocol}", number(port));
        out.insert(format!("{prefix}_PROTO"), protocol.to_lowercase());
        out.insert(format!("{prefix}_PORT"), number(port).to_string());
        out.insert(format!("{prefix}_ADDR"), ip.to_string());
        out.insert(prefix, url);
    }
}
