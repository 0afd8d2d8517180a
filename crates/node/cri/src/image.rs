//! The image service: pulling, listing and removing images, and giving an image's file system to the runtime as layers.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::sandbox::PodSandboxConfig;

/// What the kubelet tells apart to choose a reason (`ErrImagePull`, `ImageInspectError`, `InvalidImageName`) and a back-off.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ImageError {
    /// Not on the node, or (while pulling) not in the registry.
    #[error("{0}: not found")]
    NotFound(String),
    #[error("{reference:?} is not an image reference: {reason}")]
    InvalidReference { reference: String, reason: String },
    /// The registry wants other credentials.
    #[error("{0}: access denied")]
    Unauthorized(String),
    /// Name resolution, connection, TLS, a server's 5xx, too many requests: a later try may succeed. Upstream's
    /// `RegistryUnavailable`.
    #[error("registry unavailable: {0}")]
    RegistryUnavailable(String),
    /// A digest or a length does not match, or a layer cannot be unpacked safely.
    #[error("corrupt image: {0}")]
    Corrupt(String),
    /// The image exists, but not for this architecture and system.
    #[error("{reference}: no image for platform {wanted}")]
    WrongPlatform { reference: String, wanted: String },
    #[error("no space left: {0}")]
    DiskFull(String),
    /// A container uses it.
    #[error("image {0} is in use")]
    InUse(String),
    /// A verifier refused it. Upstream's `SignatureValidationFailed`.
    #[error("signature validation failed: {0}")]
    SignatureValidationFailed(String),
    #[error("{0}")]
    Internal(String),
}

impl ImageError {
    pub fn is_retriable(&self) -> bool {
        matches!(self, ImageError::RegistryUnavailable(_) | ImageError::DiskFull(_) | ImageError::InUse(_) | ImageError::Internal(_))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageSpec {
    /// An image id, or a reference `registry/repository:tag` or `@digest`.
    pub image: String,
    pub annotations: BTreeMap<String, String>,
    /// As the pod has it; only for display.
    pub user_specified_image: String,
    pub runtime_handler: String,
    pub image_ref: String,
}

impl ImageSpec {
    pub fn new(image: impl Into<String>) -> Self {
        ImageSpec { image: image.into(), ..ImageSpec::default() }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Image {
    /// `sha256:<digest of the image's configuration>`.
    pub id: String,
    pub repo_tags: Vec<String>,
    pub repo_digests: Vec<String>,
    /// Bytes, unpacked.
    pub size: u64,
    /// The user of the image's configuration when it is a number.
    pub uid: Option<i64>,
    /// The user of the image's configuration when it is a name. Neither means root.
    pub username: String,
    pub spec: ImageSpec,
    /// Never collected.
    pub pinned: bool,
}

/// Credentials for a registry. `Debug` shows no secret.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AuthConfig {
    pub username: String,
    pub password: String,
    /// Base64 of `username:password`, as docker's config.json has it.
    pub auth: String,
    pub server_address: String,
    pub identity_token: String,
    pub registry_token: String,
}

impl fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthConfig").field("username", &self.username).field("server_address", &self.server_address).finish_non_exhaustive()
    }
}

/// How far a pull is. `total` grows while manifests and layer sizes become known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PullProgress {
    pub downloaded_bytes: u64,
    pub total_bytes: u64,
    pub unpacked_layers: u32,
    pub layers: u32,
}

/// Called from the pull's own tasks, often; must not block.
pub type ProgressFn = Arc<dyn Fn(PullProgress) + Send + Sync>;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FilesystemUsage {
    /// Nanoseconds since the epoch.
    pub timestamp: i64,
    /// A directory on the file system.
    pub mountpoint: String,
    pub used_bytes: Option<u64>,
    pub inodes_used: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageFsInfo {
    pub image_filesystems: Vec<FilesystemUsage>,
    /// Where writable layers are.
    pub container_filesystems: Vec<FilesystemUsage>,
}

/// `config` of the OCI image configuration (image-spec config.md), as far as it concerns running.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// `user`, `uid`, `user:group`, `uid:gid`; empty is root.
    pub user: String,
    /// `NAME=value`.
    pub env: Vec<String>,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub working_dir: String,
    /// As written in the image: `SIGTERM`, `15`.
    pub stop_signal: String,
    /// Paths that get an empty directory of their own when nothing is mounted there.
    pub volumes: Vec<String>,
    pub labels: BTreeMap<String, String>,
}

/// An image's root file system as directories to stack with overlayfs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RootFilesystem {
    /// Unpacked layers, in overlayfs form (whiteouts as character device 0/0, `trusted.overlay.opaque`), the lowest
    /// (base) first as in the image's manifest. Read-only for everybody.
    pub layers: Vec<PathBuf>,
    pub config: ImageConfig,
    /// `Image::id`.
    pub image_id: String,
    /// What `ContainerStatus::image_ref` says: a digested reference when there is one, otherwise the id.
    pub image_ref: String,
}

#[async_trait]
pub trait ImageService: Send + Sync {
    /// Images that match; `None` is all.
    async fn list_images(&self, filter: Option<&ImageSpec>) -> Result<Vec<Image>, ImageError>;

    /// `None` when the image is not on the node.
    async fn image_status(&self, image: &ImageSpec) -> Result<Option<Image>, ImageError>;

    /// Pulls and unpacks the image, and returns its id or digested reference. Concurrent pulls of one image share the work.
    async fn pull_image(
        &self,
        image: &ImageSpec,
        auth: Option<&AuthConfig>,
        sandbox_config: Option<&PodSandboxConfig>,
        progress: Option<ProgressFn>,
    ) -> Result<String, ImageError>;

    /// Idempotent: an image that is not there is removed already.
    async fn remove_image(&self, image: &ImageSpec) -> Result<(), ImageError>;

    async fn image_fs_info(&self) -> Result<ImageFsInfo, ImageError>;
}

/// What a runtime of the same process needs of images beyond the CRI.
#[async_trait]
pub trait RootFilesystems: Send + Sync {
    /// The file system of an image on the node, for `holder` (a container's id). Its layers stay, whatever is removed or
    /// collected meanwhile and across restarts, until the holder lets go. A second call by the same holder is allowed.
    async fn root_filesystem(&self, image: &ImageSpec, holder: &str) -> Result<RootFilesystem, ImageError>;

    /// The holder is gone. Idempotent.
    async fn release_root_filesystem(&self, holder: &str) -> Result<(), ImageError>;

    /// Who holds layers now, so that the runtime can let go of what a crash left behind.
    async fn root_filesystem_holders(&self) -> Result<Vec<String>, ImageError>;
}
