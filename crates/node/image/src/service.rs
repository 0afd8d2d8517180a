//! The image store as CRI's image service: names and errors translated, nothing decided.

use async_trait::async_trait;
use fram_cri::{AuthConfig, FilesystemUsage, Image, ImageConfig, ImageError as CriError, ImageFsInfo, ImageService, ImageSpec};
use fram_cri::{PodSandboxConfig, ProgressFn, RootFilesystem, RootFilesystems};

use crate::error::{ErrorKind, ImageError};
use crate::manifest::{ManifestError, RunConfig};
use crate::registry::Credentials;
use crate::store::{ImageInfo, ImageStore, now};

#[async_trait]
impl ImageService for ImageStore {
    async fn list_images(&self, filter: Option<&ImageSpec>) -> Result<Vec<Image>, CriError> {
        match filter.filter(|spec| !spec.image.is_empty()) {
            Some(spec) => Ok(self.image_status(spec).await?.into_iter().collect()),
            None => Ok(self.list().into_iter().map(image).collect()),
        }
    }

    async fn image_status(&self, spec: &ImageSpec) -> Result<Option<Image>, CriError> {
        Ok(self.status(&spec.image).map_err(|e| translate(&spec.image, &e))?.map(image))
    }

    async fn pull_image(
        &self,
        spec: &ImageSpec,
        auth: Option<&AuthConfig>,
        _sandbox_config: Option<&PodSandboxConfig>,
        progress: Option<ProgressFn>,
    ) -> Result<String, CriError> {
        let pulled = self.pull(&spec.image, auth.and_then(credentials), progress).await;
        pulled.map(|id| id.to_string()).map_err(|e| translate(&spec.image, &e))
    }

    async fn remove_image(&self, spec: &ImageSpec) -> Result<(), CriError> {
        self.remove(&spec.image).await.map(drop).map_err(|e| translate(&spec.image, &e))
    }

    async fn image_fs_info(&self) -> Result<ImageFsInfo, CriError> {
        let (root, bytes, inodes) = self.usage();
        let timestamp = i64::try_from(now()).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
        let mountpoint = root.display().to_string();
        let usage = FilesystemUsage { timestamp, mountpoint, used_bytes: Some(bytes), inodes_used: Some(inodes) };
        Ok(ImageFsInfo { image_filesystems: vec![usage], container_filesystems: Vec::new() })
    }
}

#[async_trait]
impl RootFilesystems for ImageStore {
    async fn root_filesystem(&self, spec: &ImageSpec, holder: &str) -> Result<RootFilesystem, CriError> {
        let fail = |e: ImageError| translate(&spec.image, &e);
        let (info, layers, config) = self.hold_with_config(&spec.image, holder).await.map_err(fail)?;
        let image_ref = info.repo_digests.first().cloned().unwrap_or_else(|| info.id.to_string());
        Ok(RootFilesystem { layers, config: run_config(config.config), image_id: info.id.to_string(), image_ref })
    }

    async fn release_root_filesystem(&self, holder: &str) -> Result<(), CriError> {
        self.release(holder).await.map_err(|e| translate(holder, &e))
    }

    async fn root_filesystem_holders(&self) -> Result<Vec<String>, CriError> {
        Ok(self.holders())
    }
}

fn image(info: ImageInfo) -> Image {
    // As upstream's runtimes do: `uid:gid` counts as its first part, and neither uid nor name means root.
    let user = info.user.split(':').next().unwrap_or_default();
    let uid = user.parse::<i64>().ok();
    Image {
        id: info.id.to_string(),
        repo_tags: info.repo_tags,
        repo_digests: info.repo_digests,
        size: info.size,
        uid,
        username: if uid.is_some() { String::new() } else { user.to_owned() },
        spec: ImageSpec::new(info.id.to_string()),
        pinned: info.pinned,
    }
}

fn run_config(config: RunConfig) -> ImageConfig {
    ImageConfig {
        user: config.user,
        env: config.env,
        entrypoint: config.entrypoint,
        cmd: config.cmd,
        working_dir: config.working_dir,
        stop_signal: config.stop_signal,
        volumes: config.volumes.into_keys().collect(),
        labels: config.labels,
    }
}

fn credentials(auth: &AuthConfig) -> Option<Credentials> {
    let mut credentials = Credentials::from_basic(&auth.auth).unwrap_or_default();
    if !auth.username.is_empty() {
        credentials.username = auth.username.clone();
        credentials.password = auth.password.clone();
    }
    credentials.identity_token = auth.identity_token.clone();
    credentials.registry_token = auth.registry_token.clone();
    Some(credentials).filter(|c| !c.is_empty())
}

fn translate(image: &str, error: &ImageError) -> CriError {
    let text = error.to_string();
    match (error.kind(), error) {
        (ErrorKind::InvalidReference, _) => CriError::InvalidReference { reference: image.to_owned(), reason: text },
        (ErrorKind::NotFound, _) => CriError::NotFound(text),
        (ErrorKind::Unauthorized, _) => CriError::Unauthorized(text),
        (ErrorKind::Network, _) => CriError::RegistryUnavailable(text),
        (ErrorKind::Corrupt, _) => CriError::Corrupt(text),
        (ErrorKind::WrongPlatform, ImageError::Manifest(ManifestError::WrongPlatform { wanted, available })) => {
            CriError::WrongPlatform { reference: image.to_owned(), wanted: format!("{wanted}; available: {available}") }
        }
        (ErrorKind::DiskFull, _) => CriError::DiskFull(text),
        _ => CriError::Internal(text),
    }
}
