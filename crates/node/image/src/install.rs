//! From a manifest to an image on disk: downloads layers side by side, unpacks them from the base up while later ones still
//! download, then records the image. Pull and import both end here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::content::Lease;
use crate::digest::Digest;
use crate::download::{Downloader, Tracker, blocking};
use crate::error::ImageError;
use crate::import::ArchiveError;
use crate::index::Record;
use crate::layer::{LayerSource, LayerUsage};
use crate::manifest::{Descriptor, Document, ImageConfig, MAX_CONFIG, MAX_MANIFEST, Manifest, ManifestError};
use crate::registry::Repository;
use crate::store::{ImageStore, Inner, now};

/// An index may point to an index once; more is no image that any tool writes.
const MAX_INDEX_DEPTH: usize = 3;

/// The manifest for this platform, found by way of the indexes above it.
pub(crate) struct Resolved {
    pub(crate) digest: Digest,
    pub(crate) manifest: Manifest,
    /// The documents on the way, the manifest included, to keep with the image.
    pub(crate) documents: Vec<Digest>,
    pub(crate) leases: Vec<Lease>,
}

/// Where manifests below an index come from.
pub(crate) enum Documents<'a> {
    Registry(&'a Repository),
    /// The content store: an archive brought them.
    Local,
}

/// The names to record an image under.
#[derive(Default)]
pub(crate) struct Names {
    pub(crate) repo_tags: BTreeSet<String>,
    pub(crate) repo_digests: BTreeSet<String>,
}

type Downloads = JoinSet<Result<usize, ImageError>>;
type Unpacking = tokio::task::JoinHandle<Result<LayerUsage, ImageError>>;

/// The layers of one image on their way to disk.
struct Layers {
    descriptors: Vec<Descriptor>,
    diff_ids: Vec<Digest>,
    chain: Vec<Digest>,
    ready: Vec<bool>,
    usage: BTreeMap<Digest, LayerUsage>,
    /// The lowest that is not unpacked.
    next: usize,
}

impl ImageStore {
    /// Follows indexes to the manifest for this platform. What an index points to comes from `documents_from`.
    pub(crate) async fn resolve(&self, root: Digest, bytes: Vec<u8>, documents_from: &Documents<'_>) -> Result<Resolved, ImageError> {
        let (mut digest, mut bytes) = (root, bytes);
        let (mut documents, mut leases) = (Vec::new(), Vec::new());
        for _ in 0..MAX_INDEX_DEPTH {
            leases.push(self.inner.content.lease(&digest));
            documents.push(digest.clone());
            let document = Document::parse(&bytes)?;
            let (content, key) = (self.inner.content.clone(), digest.clone());
            blocking(move || content.put(&key, &bytes)).await?;
            match document {
                Document::Manifest(manifest) => {
                    manifest.check()?;
                    return Ok(Resolved { digest, manifest, documents, leases });
                }
                Document::Index(index) => {
                    let chosen = index.select(&self.inner.config.platform)?;
                    if chosen.size > MAX_MANIFEST {
                        return Err(ManifestError::TooBig { what: "manifest", size: chosen.size, limit: MAX_MANIFEST }.into());
                    }
                    digest = chosen.digest.clone();
                    bytes = self.document(documents_from, &digest).await?;
                }
            }
        }
        Err(ManifestError::Nested.into())
    }

    /// Brings in whatever is missing of a resolved image and records it; gives its ID. Without a downloader everything has
    /// to be in the content store already.
    pub(crate) async fn install(
        &self,
        resolved: Resolved,
        names: Names,
        downloader: Option<Arc<Downloader>>,
        tracker: Arc<Tracker>,
    ) -> Result<Digest, ImageError> {
        let Resolved { digest: manifest_digest, manifest, mut documents, mut leases } = resolved;
        let id = manifest.config.digest.clone();
        leases.push(self.inner.content.lease(&id));
        if let Some(downloader) = &downloader {
            downloader.fetch(&manifest.config).await?;
        }
        let (content, key) = (self.inner.content.clone(), id.clone());
        let config = ImageConfig::parse(&blocking(move || content.read(&key, MAX_CONFIG)).await?)?;
        config.check(&manifest, &self.inner.config.platform)?;

        let chain = config.chain_ids();
        leases.extend(chain.iter().chain(manifest.layers.iter().map(|l| &l.digest)).map(|d| self.inner.content.lease(d)));
        let leases = Arc::new(leases);
        let layers = Layers::new(&manifest, &config, chain.clone());
        let usage = self.install_layers(layers, downloader, tracker, &leases).await?;

        documents.push(id.clone());
        if self.inner.config.keep_layer_blobs {
            documents.extend(manifest.layers.iter().map(|l| l.digest.clone()));
        }
        let record = Record {
            manifest: manifest_digest,
            layers: chain,
            user: config.config.user,
            repo_tags: names.repo_tags,
            repo_digests: names.repo_digests,
            blobs: documents.into_iter().collect(),
            last_used: now(),
            pinned: false,
        };
        let (inner, key) = (self.inner.clone(), id.clone());
        blocking(move || inner.record(key, record, usage)).await?;
        drop(leases);
        Ok(id)
    }

    async fn document(&self, from: &Documents<'_>, digest: &Digest) -> Result<Vec<u8>, ImageError> {
        match from {
            Documents::Registry(repository) => Ok(repository.manifest(&digest.to_string()).await?.bytes.to_vec()),
            Documents::Local => {
                let (content, digest) = (self.inner.content.clone(), digest.clone());
                blocking(move || match content.size(&digest) {
                    Some(_) => content.read(&digest, MAX_MANIFEST),
                    None => Err(ArchiveError::Missing(digest.to_string()).into()),
                })
                .await
            }
        }
    }

    async fn install_layers(
        &self,
        mut layers: Layers,
        downloader: Option<Arc<Downloader>>,
        tracker: Arc<Tracker>,
        leases: &Arc<Vec<Lease>>,
    ) -> Result<BTreeMap<Digest, LayerUsage>, ImageError> {
        let mut downloads = self.start_downloads(&mut layers, downloader, &tracker);
        let mut unpacking = None;
        let result = loop {
            if unpacking.is_none() {
                unpacking = self.start_unpacking(&mut layers, leases).await;
            }
            tokio::select! {
                Some(downloaded) = downloads.join_next() => match flatten(downloaded) {
                    Ok(position) => layers.ready[position] = true,
                    Err(error) => break Err(error),
                },
                unpacked = async { flatten(unpacking.as_mut()?.await).into() }, if unpacking.is_some() => match unpacked {
                    None => {}
                    Some(Ok(usage)) => {
                        unpacking = None;
                        layers.usage.insert(layers.chain[layers.next].clone(), usage);
                        layers.next += 1;
                        tracker.unpacked();
                    }
                    Some(Err(error)) => {
                        unpacking = None;
                        break Err(error);
                    }
                },
                else => break Ok(layers.usage),
            }
        };
        // What still runs after a failure is given up, but a thread in the kernel cannot be: it is waited for, so that nothing
        // of a failed pull goes on behind the caller's back.
        downloads.shutdown().await;
        if let Some(thread) = unpacking {
            let _ = thread.await;
        }
        result
    }

    /// Starts fetching every layer that is not unpacked already. Each task gives the position of its layer.
    fn start_downloads(&self, layers: &mut Layers, downloader: Option<Arc<Downloader>>, tracker: &Tracker) -> Downloads {
        let permits = Arc::new(Semaphore::new(self.inner.registry.config().parallel_layers.max(1)));
        let mut downloads = JoinSet::new();
        for (position, descriptor) in layers.descriptors.iter().enumerate() {
            if self.inner.layers.contains(&layers.chain[position]) {
                layers.ready[position] = true;
                continue;
            }
            tracker.expect(descriptor.size, 1);
            let Some(downloader) = downloader.clone() else {
                layers.ready[position] = true;
                continue;
            };
            let (descriptor, permits) = (descriptor.clone(), permits.clone());
            downloads.spawn(async move {
                let _permit = permits.acquire().await.map_err(|e| ImageError::Worker(e.to_string()))?;
                downloader.fetch(&descriptor).await.map(|()| position)
            });
        }
        downloads
    }

    /// Starts the next layer from the base up, if it has arrived.
    async fn start_unpacking(&self, layers: &mut Layers, leases: &Arc<Vec<Lease>>) -> Option<Unpacking> {
        while self.inner.layers.contains(layers.chain.get(layers.next)?) {
            layers.next += 1;
        }
        let position = layers.next;
        if !layers.ready[position] {
            return None;
        }
        let parents: Vec<PathBuf> = layers.chain[..position].iter().rev().map(|c| self.inner.layers.path(c)).collect();
        let (blob, diff_id) = (layers.descriptors[position].digest.clone(), layers.diff_ids[position].clone());
        let (chain_id, inner, leases) = (layers.chain[position].clone(), self.inner.clone(), leases.clone());
        let guard = inner.content.writer_lock(&chain_id).lock_owned().await;
        Some(tokio::task::spawn_blocking(move || {
            // Lock and leases stay with the thread, which a dropped pull cannot stop.
            let _held = (guard, leases);
            inner.unpack(&LayerSource { blob: &blob, diff_id: &diff_id, chain_id: &chain_id, parents: &parents })
        }))
    }
}

fn flatten<T>(joined: Result<Result<T, ImageError>, tokio::task::JoinError>) -> Result<T, ImageError> {
    joined.map_err(|e| ImageError::Worker(e.to_string()))?
}

impl Layers {
    fn new(manifest: &Manifest, config: &ImageConfig, chain: Vec<Digest>) -> Self {
        Self {
            ready: vec![false; chain.len()],
            descriptors: manifest.layers.clone(),
            diff_ids: config.rootfs.diff_ids.clone(),
            chain,
            usage: BTreeMap::new(),
            next: 0,
        }
    }
}

impl Inner {
    /// Unpacks a layer unless another image's install was faster.
    fn unpack(&self, source: &LayerSource<'_>) -> Result<LayerUsage, ImageError> {
        if self.layers.contains(source.chain_id) {
            let known = self.index().layers.get(source.chain_id).copied();
            return Ok(known.or_else(|| self.layers.usage(source.chain_id)).unwrap_or_default());
        }
        let blob = self.content.open_blob(source.blob)?;
        Ok(self.layers.unpack(blob, source)?)
    }

    /// Makes an image known, after all that it consists of is on disk.
    fn record(&self, id: Digest, record: Record, usage: BTreeMap<Digest, LayerUsage>) -> Result<(), ImageError> {
        let known = self.index().images.get(&id).is_some_and(|old| record.blobs.is_subset(&old.blobs));
        if !known || !usage.is_empty() {
            self.layers.sync()?;
        }
        self.change(|index| {
            // Those that another pull has unpacked, whose image is not recorded yet.
            let shared: Vec<_> = record.layers.iter().filter(|layer| !index.layers.contains_key(*layer)).cloned().collect();
            index.layers.extend(shared.into_iter().filter_map(|layer| Some((layer.clone(), self.layers.usage(&layer)?))));
            index.layers.extend(usage);
            index.insert(id, record);
            Ok(())
        })
    }
}
