//! Import of archives: OCI layouts and `docker save` files, plain or compressed, so that images come without a registry.
//! Every file of the archive becomes a blob by its own digest; what no image needs is swept afterwards.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use crate::content::{ContentStore, Lease};
use crate::digest::Digest;
use crate::download::{Tracker, blocking};
use crate::error::{ErrorKind, ImageError, IoContext};
use crate::install::{Documents, Names};
use crate::layer::{Decompressed, Rationed};
use crate::manifest::{DOCKER_MANIFEST, Descriptor, Index, MAX_CONFIG, MAX_MANIFEST, Manifest};
use crate::reference::Reference;
use crate::store::ImageStore;

/// Annotation under which containerd and nerdctl store the full name.
const IMAGE_NAME: &str = "io.containerd.image.name";
/// OCI image-spec annotations.md: often a bare tag, sometimes a full name.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("the archive cannot be read: {0}")]
    Unreadable(io::Error),
    #[error("the archive holds neither index.json nor manifest.json: it is no image")]
    NotAnImage,
    #[error("the archive lacks {0}, which its index names")]
    Missing(String),
    #[error("file {name} of the archive is not what its name says: its digest is {found}")]
    WrongDigest { name: String, found: Digest },
    #[error("{name} in the archive is not valid: {reason}")]
    Invalid { name: &'static str, reason: String },
}

impl ArchiveError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotAnImage => ErrorKind::Unsupported,
            _ => ErrorKind::Corrupt,
        }
    }
}

/// An archive's files, now blobs.
struct Files {
    by_path: HashMap<PathBuf, (Digest, u64)>,
    links: HashMap<PathBuf, PathBuf>,
    leases: Vec<Lease>,
}

/// One image found in an archive.
struct Found {
    digest: Digest,
    bytes: Vec<u8>,
    names: Names,
}

/// One element of docker's manifest.json.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

impl ImageStore {
    /// Imports all images of an archive file for this platform; gives their IDs.
    pub async fn import(&self, archive: &Path) -> Result<Vec<Digest>, ImageError> {
        let file = std::fs::File::open(archive).at("open", archive)?;
        self.import_from(Box::new(file)).await
    }

    /// Like [`Self::import`], from a stream.
    pub async fn import_from(&self, archive: Box<dyn Read + Send>) -> Result<Vec<Digest>, ImageError> {
        let (content, limit) = (self.inner.content.clone(), self.inner.config.limits.max_bytes);
        let (images, leases) = blocking(move || {
            let files = Files::read(archive, &content, limit)?;
            let images = files.images(&content)?;
            Ok((images, files.leases))
        })
        .await?;
        let mut ids = Vec::new();
        for image in images {
            let content = &self.inner.content;
            let resolved = self.resolve(image.digest, image.bytes, &Documents::Local).await?;
            let parts = resolved.manifest.layers.iter().chain([&resolved.manifest.config]);
            if let Some(part) = parts.into_iter().find(|d| content.size(&d.digest) != Some(d.size)) {
                return Err(ArchiveError::Missing(part.digest.to_string()).into());
            }
            ids.push(self.install(resolved, image.names, None, Arc::new(Tracker::default())).await?);
        }
        drop(leases);
        self.sweep_blobs().await?;
        Ok(ids)
    }
}

impl Files {
    fn read(archive: Box<dyn Read + Send>, content: &ContentStore, limit: u64) -> Result<Self, ImageError> {
        let unreadable = |e: io::Error| ImageError::from(ArchiveError::Unreadable(e));
        let (stream, ration) = Rationed::new(Decompressed::new(archive).map_err(unreadable)?);
        let mut archive = tar::Archive::new(stream);
        let mut files = Self { by_path: HashMap::new(), links: HashMap::new(), leases: Vec::new() };
        for entry in archive.entries().map_err(unreadable)? {
            let mut entry = entry.map_err(unreadable)?;
            ration.content();
            let unread = entry.size();
            let path = normal(&entry.path().map_err(unreadable)?);
            if let Some(target) = entry.link_name().map_err(unreadable)? {
                // docker save before version 25 linked a layer that occurs twice to its first occurrence.
                let base = if entry.header().entry_type().is_symlink() { path.parent().unwrap_or(Path::new("")) } else { Path::new("") };
                files.links.insert(path.clone(), normal(&base.join(target)));
            } else if entry.header().entry_type().is_file() {
                let (digest, size, lease) = content.ingest(&mut entry, limit)?;
                check_name(&path, &digest)?;
                files.leases.push(lease);
                files.by_path.insert(path, (digest, size));
            }
            ration.headers(unread);
        }
        Ok(files)
    }

    fn find(&self, path: &str) -> Option<&(Digest, u64)> {
        let path = normal(Path::new(path));
        self.by_path.get(&path).or_else(|| self.by_path.get(self.links.get(&path)?))
    }

    fn images(&self, content: &ContentStore) -> Result<Vec<Found>, ImageError> {
        // Docker 25 and later write both forms; index.json keeps the manifests' own digests.
        match (self.find("index.json"), self.find("manifest.json")) {
            (Some((digest, _)), docker) => self.oci_images(&content.read(digest, MAX_MANIFEST)?, docker.is_some(), content),
            (None, Some(_)) => self.docker_images(content),
            (None, None) => Err(ArchiveError::NotAnImage.into()),
        }
    }

    fn oci_images(&self, index: &[u8], with_docker_names: bool, content: &ContentStore) -> Result<Vec<Found>, ImageError> {
        let invalid = |e: serde_json::Error| ArchiveError::Invalid { name: "index.json", reason: e.to_string() };
        let index: Index = serde_json::from_slice(index).map_err(invalid)?;
        let mut images = Vec::new();
        for descriptor in &index.manifests {
            if content.size(&descriptor.digest).is_none() {
                return Err(ArchiveError::Missing(descriptor.digest.to_string()).into());
            }
            let bytes = content.read(&descriptor.digest, MAX_MANIFEST)?;
            let mut names = oci_names(descriptor);
            if with_docker_names && names.repo_tags.is_empty() && index.manifests.len() == 1 {
                names = self.docker_names(content)?;
            }
            images.push(Found { digest: descriptor.digest.clone(), bytes, names });
        }
        Ok(images)
    }

    fn docker_manifest(&self, content: &ContentStore) -> Result<Vec<DockerImage>, ImageError> {
        let Some((digest, _)) = self.find("manifest.json") else { return Ok(Vec::new()) };
        let bytes = content.read(digest, MAX_MANIFEST)?;
        let invalid = |e: serde_json::Error| ArchiveError::Invalid { name: "manifest.json", reason: e.to_string() };
        Ok(serde_json::from_slice(&bytes).map_err(invalid)?)
    }

    fn docker_names(&self, content: &ContentStore) -> Result<Names, ImageError> {
        let mut names = Names::default();
        for image in self.docker_manifest(content)? {
            names.repo_tags.extend(docker_tags(&image));
        }
        Ok(names)
    }

    /// `docker save` has no manifests: one is written here, with the layers as they lie in the archive.
    fn docker_images(&self, content: &ContentStore) -> Result<Vec<Found>, ImageError> {
        let mut images = Vec::new();
        for image in self.docker_manifest(content)? {
            let descriptor = |path: &str, media_type: &str| {
                let (digest, size) = self.find(path).ok_or_else(|| ArchiveError::Missing(path.to_owned()))?;
                let (media_type, digest) = (media_type.to_owned(), digest.clone());
                Ok::<_, ArchiveError>(Descriptor { media_type, digest, size: *size, platform: None, annotations: Default::default() })
            };
            let config = descriptor(&image.config, "application/vnd.docker.container.image.v1+json")?;
            if config.size > MAX_CONFIG {
                return Err(ArchiveError::Invalid { name: "image configuration", reason: format!("{} bytes", config.size) }.into());
            }
            let layer = |path: &String| descriptor(path, "application/vnd.docker.image.rootfs.diff.tar");
            let layers = image.layers.iter().map(layer).collect::<Result<Vec<_>, _>>()?;
            let manifest = Manifest { schema_version: 2, media_type: DOCKER_MANIFEST.into(), config, layers };
            let invalid = |e: serde_json::Error| ArchiveError::Invalid { name: "manifest.json", reason: e.to_string() };
            let bytes = serde_json::to_vec(&manifest).map_err(invalid)?;
            let names = Names { repo_tags: docker_tags(&image), ..Names::default() };
            images.push(Found { digest: Digest::of(&bytes), bytes, names });
        }
        Ok(images)
    }
}

fn docker_tags(image: &DockerImage) -> BTreeSet<String> {
    let tags = image.repo_tags.iter().flatten();
    tags.filter_map(|t| t.parse::<Reference>().ok()).filter_map(|r| r.repo_tag()).collect()
}

/// The names that an index gives one of its images. A bare tag without a repository names nothing on a node.
fn oci_names(descriptor: &Descriptor) -> Names {
    let mut names = Names::default();
    let full = descriptor.annotations.get(IMAGE_NAME);
    let written = full.or_else(|| descriptor.annotations.get(REF_NAME).filter(|n| n.contains(['/', ':'])));
    if let Some(reference) = written.and_then(|name| name.parse::<Reference>().ok()) {
        names.repo_digests.insert(reference.repo_digest(&descriptor.digest));
        names.repo_tags.extend(reference.repo_tag());
    }
    names
}

/// A file under blobs/ is named by its digest; one that lies is told apart here rather than as a missing blob later.
fn check_name(path: &Path, found: &Digest) -> Result<(), ArchiveError> {
    let parts: Vec<_> = path.iter().filter_map(|p| p.to_str()).collect();
    match parts.as_slice() {
        ["blobs", "sha256", hex] if *hex != found.hex() => {
            Err(ArchiveError::WrongDigest { name: path.display().to_string(), found: found.clone() })
        }
        _ => Ok(()),
    }
}

/// Resolves `.` and `..` in names, which only key a map here and never reach the disk.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => normal.push(name),
            Component::ParentDir => {
                normal.pop();
            }
            _ => {}
        }
    }
    normal
}
