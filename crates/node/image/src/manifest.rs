//! Manifests, indexes and image configurations (OCI image-spec 1.1 and Docker schema 2): parsing, choice of platform,
//! chain IDs. Pure. Parsing is lenient in what the image runs with and strict in what it is made of.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use crate::digest::Digest;
use crate::error::ErrorKind;

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// Registries refuse more than 4 MiB; so do we, before holding it in memory.
pub(crate) const MAX_MANIFEST: u64 = 4 << 20;
pub(crate) const MAX_CONFIG: u64 = 8 << 20;
/// overlayfs takes up to 500 lower layers (`OVL_MAX_STACK`).
pub(crate) const MAX_LAYERS: usize = 500;

#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum ManifestError {
    #[error("{what} is not valid JSON: {reason}")]
    Json { what: &'static str, reason: String },
    #[error("manifest of type {0:?} is not supported (Docker schema 1 images have to be pushed again by a current tool)")]
    UnsupportedType(String),
    #[error("artifact of type {0:?} is not a container image")]
    NotAnImage(String),
    #[error("no image for {wanted}; available: {available}")]
    WrongPlatform { wanted: Platform, available: String },
    #[error("the manifest has {layers} layers, the configuration {diff_ids} diff IDs")]
    LayerCount { layers: usize, diff_ids: usize },
    #[error("the image has {0} layers, more than {MAX_LAYERS}")]
    TooManyLayers(usize),
    #[error("{what} has {size} bytes, more than {limit}")]
    TooBig { what: &'static str, size: u64, limit: u64 },
    #[error(
        "layer {digest} is of type {media_type:?}: layers that may not be given on are not pulled; push the image again with its non-distributable layers as ordinary ones"
    )]
    ForeignLayer { media_type: String, digest: Digest },
    #[error("image indexes are nested too deeply")]
    Nested,
}

impl ManifestError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Json { .. } | Self::LayerCount { .. } => ErrorKind::Corrupt,
            Self::WrongPlatform { .. } => ErrorKind::WrongPlatform,
            _ => ErrorKind::Unsupported,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
pub struct Platform {
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub architecture: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// The platform this program was built for, in Go's names as OCI uses them.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "aarch64" => ("arm64", Some("v8")),
            "powerpc64" => ("ppc64le", None),
            other => (other, None),
        };
        Self { os: "linux".into(), architecture: architecture.into(), variant: variant.map(Into::into) }
    }

    /// Whether an image for `self` runs on `host`. A missing variant means any; for amd64 a higher level (v2, v3...)
    /// is taken only when asked for, because it may use instructions the machine lacks.
    fn runs_on(&self, host: &Self) -> bool {
        let baseline = |v: &Option<String>| v.as_deref().filter(|v| !matches!(*v, "" | "v1")).map(str::to_owned);
        self.os == host.os
            && self.architecture == host.architecture
            && match (baseline(&self.variant), baseline(&host.variant)) {
                (None, _) => true,
                (Some(image), Some(host)) => image == host,
                (Some(_), None) => false,
            }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match self.variant.as_deref() {
            Some(variant) if !variant.is_empty() => write!(f, "/{variant}"),
            _ => Ok(()),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    #[serde(default)]
    pub media_type: String,
    #[serde(default, deserialize_with = "null_is_default")]
    pub manifests: Vec<Descriptor>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub schema_version: u32,
    #[serde(default)]
    pub media_type: String,
    pub config: Descriptor,
    #[serde(default, deserialize_with = "null_is_default")]
    pub layers: Vec<Descriptor>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Document {
    Index(Index),
    Manifest(Manifest),
}

/// What to look at before deciding how to read a document.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    #[serde(default)]
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    manifests: Option<serde_json::Value>,
    config: Option<serde_json::Value>,
}

impl Document {
    /// Reads a manifest or an index; the document's own `mediaType` counts, then its shape. The transport's type is not
    /// trusted (OCI image-spec: mediaType confusion, CVE-2021-41190): a document with both shapes is refused.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let json = |e: serde_json::Error| ManifestError::Json { what: "manifest", reason: e.to_string() };
        let probe: Probe = serde_json::from_slice(bytes).map_err(json)?;
        if probe.manifests.is_some() && probe.config.is_some() {
            return Err(ManifestError::Json { what: "manifest", reason: "both an index and a manifest".into() });
        }
        let index = matches!(probe.media_type.as_str(), OCI_INDEX | DOCKER_LIST);
        if index && probe.config.is_some() {
            return Err(ManifestError::Json { what: "manifest", reason: "called an index, with the contents of a manifest".into() });
        }
        match probe.media_type.as_str() {
            OCI_INDEX | DOCKER_LIST => Ok(Self::Index(serde_json::from_slice(bytes).map_err(json)?)),
            OCI_MANIFEST | DOCKER_MANIFEST => Ok(Self::Manifest(serde_json::from_slice(bytes).map_err(json)?)),
            "" if probe.schema_version == 2 && probe.manifests.is_some() => Ok(Self::Index(serde_json::from_slice(bytes).map_err(json)?)),
            "" if probe.schema_version == 2 => Ok(Self::Manifest(serde_json::from_slice(bytes).map_err(json)?)),
            "" => Err(ManifestError::UnsupportedType(format!("schemaVersion {}", probe.schema_version))),
            other => Err(ManifestError::UnsupportedType(other.to_owned())),
        }
    }
}

impl Index {
    /// The manifest for `host`: the exact variant first, then the first that runs.
    pub(crate) fn select(&self, host: &Platform) -> Result<&Descriptor, ManifestError> {
        let candidates = || self.manifests.iter().filter(|d| !is_attestation(d));
        let exact = candidates().find(|d| d.platform.as_ref() == Some(host));
        let running = || candidates().find(|d| d.platform.as_ref().is_some_and(|p| p.runs_on(host)));
        // An index written by a local tool often names no platform; the image's configuration is checked later anyway.
        let unnamed = || candidates().find(|d| d.platform.is_none());
        exact.or_else(running).or_else(unnamed).ok_or_else(|| {
            let available: Vec<_> = candidates().filter_map(|d| d.platform.as_ref()).map(ToString::to_string).collect();
            let available = if available.is_empty() { "none".to_owned() } else { available.join(", ") };
            ManifestError::WrongPlatform { wanted: host.clone(), available }
        })
    }
}

/// BuildKit stores attestations as manifests for the platform unknown/unknown.
fn is_attestation(descriptor: &Descriptor) -> bool {
    descriptor.annotations.contains_key("vnd.docker.reference.type")
        || descriptor.platform.as_ref().is_some_and(|p| p.os == "unknown" && p.architecture == "unknown")
}

impl Manifest {
    /// Refuses what is no container image and what nothing could mount.
    pub fn check(&self) -> Result<(), ManifestError> {
        let config = self.config.media_type.as_str();
        if !matches!(config, OCI_CONFIG | "application/vnd.docker.container.image.v1+json" | "application/octet-stream" | "") {
            return Err(ManifestError::NotAnImage(config.to_owned()));
        }
        if self.layers.len() > MAX_LAYERS {
            return Err(ManifestError::TooManyLayers(self.layers.len()));
        }
        if let Some(layer) = self.layers.iter().find(|layer| is_foreign(&layer.media_type)) {
            return Err(ManifestError::ForeignLayer { media_type: layer.media_type.clone(), digest: layer.digest.clone() });
        }
        if self.config.size > MAX_CONFIG {
            return Err(ManifestError::TooBig { what: "image configuration", size: self.config.size, limit: MAX_CONFIG });
        }
        Ok(())
    }
}

/// Whether a layer is one that only its author may hand out, from addresses that the manifest names; also where a registry has it.
/// See OCI image-spec's layer.md, "Non-Distributable Layers", and Docker's image manifest version 2, schema 2.
fn is_foreign(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.docker.image.rootfs.foreign.")
        || media_type.starts_with("application/vnd.oci.image.layer.nondistributable.")
}

/// The image configuration, as far as anything reads it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ImageConfig {
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub variant: Option<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub config: RunConfig,
    #[serde(default, deserialize_with = "null_is_default")]
    pub rootfs: RootFs,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RootFs {
    #[serde(default, deserialize_with = "null_is_default")]
    pub diff_ids: Vec<Digest>,
}

/// The image's defaults for running a container (OCI image-spec config.md, `config`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RunConfig {
    #[serde(deserialize_with = "null_is_default")]
    pub user: String,
    #[serde(deserialize_with = "null_is_default")]
    pub env: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub entrypoint: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub cmd: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub working_dir: String,
    #[serde(deserialize_with = "null_is_default")]
    pub stop_signal: String,
    #[serde(deserialize_with = "null_is_default")]
    pub labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "null_is_default")]
    pub exposed_ports: BTreeMap<String, serde_json::Value>,
    #[serde(deserialize_with = "null_is_default")]
    pub volumes: BTreeMap<String, serde_json::Value>,
}

impl ImageConfig {
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        serde_json::from_slice(bytes).map_err(|e| ManifestError::Json { what: "image configuration", reason: e.to_string() })
    }

    /// Checks the platform and that each layer has its diff ID.
    pub fn check(&self, manifest: &Manifest, host: &Platform) -> Result<(), ManifestError> {
        let platform = Platform { os: self.os.clone(), architecture: self.architecture.clone(), variant: self.variant.clone() };
        if !platform.runs_on(host) {
            return Err(ManifestError::WrongPlatform { wanted: host.clone(), available: platform.to_string() });
        }
        if manifest.layers.len() != self.rootfs.diff_ids.len() {
            return Err(ManifestError::LayerCount { layers: manifest.layers.len(), diff_ids: self.rootfs.diff_ids.len() });
        }
        Ok(())
    }

    /// The identity of each layer on top of those below it (OCI image-spec config.md, ChainID).
    pub fn chain_ids(&self) -> Vec<Digest> {
        let mut chain: Vec<Digest> = Vec::with_capacity(self.rootfs.diff_ids.len());
        for diff_id in &self.rootfs.diff_ids {
            let next = match chain.last() {
                None => diff_id.clone(),
                Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
            };
            chain.push(next);
        }
        chain
    }
}

fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests;
