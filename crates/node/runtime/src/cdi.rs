//! Devices by the Container Device Interface (CNCF CDI 1.x): files say what a container needs for a device that is named
//! `vendor/class=name`. Only looks up and lays over; nothing is opened but those files and the device nodes that they name.

mod form;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use fram_cri::{ContainerConfig, CriError, CriResult, KeyValue, Mount, MountPropagation};
use serde_json::{Value, json};
use thiserror::Error;

use crate::devices;
use crate::spec::HostDevice;
use form::{Edits, Specification};

#[derive(Debug, Error)]
pub(crate) enum CdiError {
    #[error("CDI device {0:?} is not of the form vendor/class=name")]
    Name(String),
    #[error("unresolvable CDI devices {}", .0.join(", "))]
    Unknown(Vec<String>),
    #[error("CDI device {0:?} is in more than one file: {1:?} and {2:?}")]
    Ambiguous(String, PathBuf, PathBuf),
    #[error("CDI device {0:?}: {1}")]
    Unsupported(String, &'static str),
}

impl From<CdiError> for CriError {
    fn from(error: CdiError) -> CriError {
        CriError::InvalidArgument(error.to_string())
    }
}

/// What files say, by device; a later directory comes before an earlier one.
#[derive(Debug, Default)]
struct Registry {
    /// By `vendor/class`: the file, which directory it is in, and what it says.
    specifications: Vec<(PathBuf, usize, Specification)>,
}

impl Registry {
    /// Files that cannot be understood are left out: those of one vendor must not keep the others' devices from being had.
    fn read(folders: &[PathBuf]) -> Registry {
        let mut registry = Registry::default();
        for (priority, folder) in folders.iter().enumerate() {
            let mut files: Vec<PathBuf> = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
            files.sort();
            for path in files {
                match read(&path) {
                    Ok(Some(specification)) => registry.specifications.push((path, priority, specification)),
                    Ok(None) => {}
                    Err(error) => tracing::warn!(?path, %error, "a file of CDI devices is left out"),
                }
            }
        }
        registry
    }

    /// The edits of a device, and those of all devices in its file with the file's name.
    fn find(&self, name: &str) -> Result<Option<(&Path, &Edits, &Edits)>, CdiError> {
        let (kind, device) = name
            .split_once('=')
            .filter(|(kind, device)| kind.contains('/') && !device.is_empty())
            .ok_or_else(|| CdiError::Name(name.into()))?;
        let mut found: Option<(&Path, usize, &Edits, &Edits)> = None;
        for (path, priority, specification) in self.specifications.iter().filter(|(_, _, s)| s.kind == kind) {
            let Some(own) = specification.devices.iter().find(|d| d.name == device) else { continue };
            match &found {
                Some((other, same, ..)) if same == priority => {
                    return Err(CdiError::Ambiguous(name.into(), other.to_path_buf(), path.clone()));
                }
                _ => found = Some((path, *priority, &own.edits, &specification.edits)),
            }
        }
        Ok(found.map(|(path, _, own, all)| (path, own, all)))
    }
}

fn read(path: &Path) -> io::Result<Option<Specification>> {
    let wrong = |error: String| io::Error::new(io::ErrorKind::InvalidData, error);
    let text = || fs::read_to_string(path);
    match path.extension().and_then(|end| end.to_str()) {
        Some("json") => serde_json::from_str(&text()?).map(Some).map_err(|error| wrong(error.to_string())),
        Some("yaml" | "yml") => serde_saphyr::from_str(&text()?).map(Some).map_err(|error| wrong(error.to_string())),
        _ => Ok(None),
    }
}

/// What a container gets beside its configuration.
#[derive(Debug, Default)]
pub(crate) struct Injected {
    pub(crate) devices: Vec<HostDevice>,
    /// `hooks` of the OCI specification; null where there are none.
    pub(crate) hooks: Value,
}

/// Lays what the container's CDI devices need over its configuration.
pub(crate) fn inject(folders: &[PathBuf], config: &mut ContainerConfig) -> CriResult<Injected> {
    let mut injected = Injected::default();
    if config.cdi_devices.is_empty() {
        return Ok(injected);
    }
    let (registry, names) = (Registry::read(folders), config.cdi_devices.clone());
    let (mut unknown, mut files, mut edits) = (Vec::new(), Vec::new(), Vec::new());
    for name in &names {
        match registry.find(name)? {
            None => unknown.push(name.clone()),
            Some((path, own, all)) => {
                // What is for all devices of a file is for the container once.
                if !files.contains(&path) {
                    files.push(path);
                    edits.push((name, all));
                }
                edits.push((name, own));
            }
        }
    }
    if !unknown.is_empty() {
        return Err(CdiError::Unknown(unknown).into());
    }
    let mut hooks: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for (name, edits) in edits {
        lay_over(name, edits, config, &mut injected.devices)?;
        for hook in &edits.hooks {
            let place =
                form::hook_place(&hook.name).ok_or_else(|| CdiError::Unsupported(name.clone(), "it has a hook of an unknown kind"))?;
            hooks.entry(place).or_default().push(json!({ "path": hook.path, "args": hook.args, "env": hook.env, "timeout": hook.timeout }));
        }
    }
    if !hooks.is_empty() {
        injected.hooks = json!(hooks);
    }
    Ok(injected)
}

fn lay_over(name: &str, edits: &Edits, config: &mut ContainerConfig, nodes: &mut Vec<HostDevice>) -> CriResult<()> {
    if edits.intel_rdt.is_some() || !edits.net_devices.is_empty() {
        return Err(CdiError::Unsupported(name.to_owned(), "it needs intelRdt or network devices, which this runtime has not").into());
    }
    for variable in &edits.env {
        let (key, value) = variable.split_once('=').ok_or_else(|| CdiError::Unsupported(name.to_owned(), "a variable has no value"))?;
        config.envs.retain(|known| known.key != key);
        config.envs.push(KeyValue { key: key.into(), value: value.into() });
    }
    for node in &edits.device_nodes {
        let host = if node.host_path.is_empty() { &node.path } else { &node.host_path };
        let permissions = if node.permissions.is_empty() { "rwm" } else { &node.permissions };
        let found = devices::node(Path::new(host), Path::new(&node.path), permissions);
        let found = found.map_err(|error| CriError::io("look up device", host, error))?;
        let mut device = found.ok_or_else(|| CriError::InvalidArgument(format!("{host:?} is not a device")))?;
        device.uid = node.uid.unwrap_or(device.uid);
        device.gid = node.gid.unwrap_or(device.gid);
        device.mode = node.file_mode.unwrap_or(device.mode);
        nodes.push(device);
    }
    for mount in &edits.mounts {
        let has = |option: &str| mount.options.iter().any(|o| o == option);
        let propagation = match () {
            () if has("rshared") || has("shared") => MountPropagation::Bidirectional,
            () if has("rslave") || has("slave") => MountPropagation::HostToContainer,
            () => MountPropagation::Private,
        };
        config.mounts.push(Mount {
            container_path: mount.container_path.clone(),
            host_path: mount.host_path.clone(),
            readonly: has("ro"),
            propagation,
            ..Mount::default()
        });
    }
    let groups = edits.additional_gids.iter().map(|gid| i64::from(*gid));
    config.security_context.supplemental_groups.extend(groups);
    Ok(())
}
