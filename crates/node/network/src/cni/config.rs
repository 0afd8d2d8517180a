//! Network configurations: which one counts, and what each plugin of it is told. But for reading the files pure. See the CNI
//! specification 1.1, sections 1 and 4.

use std::path::Path;

use fram_cri::{Protocol, SandboxNetworkConfig};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::CniError;

/// A network as a list of plugins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct NetworkList {
    pub(super) cni_version: String,
    pub(super) name: String,
    pub(super) plugins: Vec<Map<String, Value>>,
}

/// What a file says: a list, or one plugin by itself.
pub(super) fn parse(text: &str) -> Result<NetworkList, String> {
    let value: Map<String, Value> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let string = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let plugins = match value.get("plugins") {
        Some(Value::Array(plugins)) => plugins.iter().map(|plugin| plugin.as_object().cloned()).collect::<Option<Vec<_>>>(),
        Some(_) => None,
        None => Some(vec![value.clone()]),
    };
    let plugins = plugins.filter(|plugins| !plugins.is_empty()).ok_or("it names no plugins")?;
    if let Some(wrong) = plugins.iter().map(kind).find(|kind| kind.is_empty() || kind.contains('/')) {
        return Err(format!("{wrong:?} is no plugin's type"));
    }
    let name = string("name");
    if name.is_empty() {
        return Err("it has no name".into());
    }
    let version = string("cniVersion");
    Ok(NetworkList { cni_version: if version.is_empty() { "0.1.0".into() } else { version }, name, plugins })
}

/// The plugin's program.
pub(super) fn kind(plugin: &Map<String, Value>) -> &str {
    plugin.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// The first configuration of a folder that can be understood, by the files' names; an error where there are only others.
pub(super) fn first(folder: &Path) -> Result<Option<NetworkList>, CniError> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        entries => entries.map_err(|source| CniError::Io { operation: "list", path: folder.to_path_buf(), source })?,
    };
    let known = |path: &Path| path.extension().is_some_and(|end| ["conflist", "conf", "json"].iter().any(|known| end == *known));
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(|path| known(path)).collect();
    files.sort();
    let mut wrong = None;
    for path in files {
        let text = std::fs::read_to_string(&path);
        let text = text.map_err(|source| CniError::Io { operation: "read", path: path.clone(), source })?;
        match parse(&text) {
            Ok(list) => return Ok(Some(list)),
            Err(why) => wrong = wrong.or(Some(CniError::Config { path, why })),
        }
    }
    wrong.map_or(Ok(None), Err)
}

/// What a plugin reads: its own part, the list's name and version, the answer of the one before it, and what it is capable of.
pub(super) fn request(list: &NetworkList, plugin: &Map<String, Value>, sandbox: &SandboxNetworkConfig, previous: &Value) -> Vec<u8> {
    let mut request = plugin.clone();
    request.insert("cniVersion".into(), list.cni_version.as_str().into());
    request.insert("name".into(), list.name.as_str().into());
    if !previous.is_null() {
        request.insert("prevResult".into(), previous.clone());
    }
    if let Some(Value::Object(capabilities)) = request.remove("capabilities") {
        let runtime = runtime_config(&capabilities, sandbox);
        if !runtime.is_empty() {
            request.insert("runtimeConfig".into(), runtime.into());
        }
    }
    Value::Object(request).to_string().into_bytes()
}

/// See containernetworking's CONVENTIONS.md.
fn runtime_config(capabilities: &Map<String, Value>, sandbox: &SandboxNetworkConfig) -> Map<String, Value> {
    let mut config = Map::new();
    let wanted = |name: &str| capabilities.get(name).and_then(Value::as_bool) == Some(true);
    let ports: Vec<Value> = sandbox.port_mappings.iter().filter(|port| port.host_port > 0).map(port_mapping).collect();
    if wanted("portMappings") && !ports.is_empty() {
        config.insert("portMappings".into(), ports.into());
    }
    if wanted("io.kubernetes.cri.pod-annotations") && !sandbox.annotations.is_empty() {
        config.insert("io.kubernetes.cri.pod-annotations".into(), json!(sandbox.annotations));
    }
    config
}

fn port_mapping(port: &fram_cri::PortMapping) -> Value {
    let protocol = match port.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    };
    let address = port.host_ip.map(|ip| ip.to_string()).unwrap_or_default();
    json!({ "hostPort": port.host_port, "containerPort": port.container_port, "protocol": protocol, "hostIP": address })
}

/// `CNI_ARGS` as Kubernetes' runtimes set them.
pub(super) fn args(sandbox: &SandboxNetworkConfig) -> String {
    let pod = &sandbox.metadata;
    format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
        pod.namespace, pod.name, sandbox.pod_sandbox_id, pod.uid
    )
}
