//! The form of CDI files. Pure.

use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Specification {
    /// `vendor/class`.
    pub(super) kind: String,
    #[serde(default)]
    pub(super) devices: Vec<Device>,
    #[serde(default, rename = "containerEdits")]
    pub(super) edits: Edits,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Device {
    pub(super) name: String,
    #[serde(default, rename = "containerEdits")]
    pub(super) edits: Edits,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Edits {
    pub(super) env: Vec<String>,
    pub(super) device_nodes: Vec<DeviceNode>,
    pub(super) mounts: Vec<Mounted>,
    pub(super) hooks: Vec<Hook>,
    pub(super) additional_gids: Vec<u32>,
    pub(super) intel_rdt: Option<serde_json::Value>,
    pub(super) net_devices: Vec<serde_json::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct DeviceNode {
    pub(super) path: String,
    pub(super) host_path: String,
    pub(super) permissions: String,
    pub(super) file_mode: Option<u32>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Mounted {
    pub(super) host_path: String,
    pub(super) container_path: String,
    pub(super) options: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Hook {
    #[serde(rename = "hookName")]
    pub(super) name: String,
    pub(super) path: String,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<String>,
    pub(super) timeout: Option<i64>,
}

/// Where the OCI specification has hooks of this name.
pub(super) fn hook_place(name: &str) -> Option<&'static str> {
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"].into_iter().find(|known| *known == name)
}
