//! From a manifest to an image on disk: downloads layers side by side, unpacks each when it is there, puts them in their places from
//! the base up, then records the image. Pull and import both end here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::content::Lease;
use crate::digest::Digest;
use crate::download::{Downloader, Tracker, blocking};
use crate::error::ImageError;
use crate::import::ArchiveError;
use crate::index::Record;
use crate::layer::{LayerSource, LayerUsage, Unpacked};
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
/// Each gives its position and, if it was it that unpacked the layer, what that takes.
type Unpackings = JoinSet<Result<(usize, Option<LayerUsage>), ImageError>>;

/// Layers of one image that are unpacked at once, at most: the disk has one queue.
const MOST_UNPACKINGS: usize = 4;

/// One for every two processors. The others have to fetch, check and decompress what comes next; on two processors two layers at once took
/// as long as one after the other and 40 % more time of the processors, since they wait for each other in the file system.
fn unpackers(processors: usize) -> usize {
    (processors / 2).clamp(1, MOST_UNPACKINGS)
}

/// The layers of one image on their way to disk.
struct Layers {
    descriptors: Vec<Descriptor>,
    diff_ids: Vec<Digest>,
    chain: Vec<Digest>,
    /// Those that are in their places.
    placed: Vec<bool>,
    usage: BTreeMap<Digest, LayerUsage>,
}

/// What the unpacking of one image's layers shares.
struct Unpacking {
    permits: Arc<Semaphore>,
    /// How many layers from the base up are in their places. Closed when the pull has failed.
    height: watch::Sender<usize>,
    leases: Arc<Vec<Lease>>,
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
        let mut unpackings = JoinSet::new();
        let threads = unpackers(std::thread::available_parallelism().map_or(1, usize::from));
        let unpacking = Unpacking { permits: Arc::new(Semaphore::new(threads)), height: watch::Sender::new(0), leases: leases.clone() };
        let mut downloads = self.start_downloads(&mut layers, downloader, &tracker);
        let result = loop {
            unpacking.height.send_replace(layers.height());
            tokio::select! {
                Some(downloaded) = downloads.join_next() => match flatten(downloaded) {
                    Ok(position) => self.start_unpacking(&layers, position, &unpacking, &mut unpackings),
                    Err(error) => break Err(error),
                },
                Some(unpacked) = unpackings.join_next() => match flatten(unpacked) {
                    Ok((position, usage)) => {
                        layers.placed[position] = true;
                        layers.usage.extend(usage.map(|usage| (layers.chain[position].clone(), usage)));
                        tracker.unpacked();
                    }
                    Err(error) => break Err(error),
                },
                else => break Ok(layers.usage),
            }
        };
        // What still runs after a failure is given up, but a thread in the kernel cannot be: it is waited for, so that nothing
        // of a failed pull goes on behind the caller's back.
        downloads.shutdown().await;
        drop(unpacking);
        while unpackings.join_next().await.is_some() {}
        result
    }

    /// Starts fetching every layer that is not unpacked already. Each task gives the position of its layer.
    fn start_downloads(&self, layers: &mut Layers, downloader: Option<Arc<Downloader>>, tracker: &Tracker) -> Downloads {
        let permits = Arc::new(Semaphore::new(self.inner.registry.config().parallel_layers.max(1)));
        let mut downloads = JoinSet::new();
        for (position, descriptor) in layers.descriptors.iter().enumerate() {
            if self.inner.layers.contains(&layers.chain[position]) {
                layers.placed[position] = true;
                continue;
            }
            tracker.expect(descriptor.size, 1);
            let (descriptor, permits, downloader) = (descriptor.clone(), permits.clone(), downloader.clone());
            downloads.spawn(async move {
                let Some(downloader) = downloader else { return Ok(position) };
                let _permit = permits.acquire().await.map_err(|e| ImageError::Worker(e.to_string()))?;
                downloader.fetch(&descriptor).await.map(|()| position)
            });
        }
        downloads
    }

    /// Starts unpacking a layer that has arrived. It waits for those below it only with its place.
    fn start_unpacking(&self, layers: &Layers, position: usize, shared: &Unpacking, unpackings: &mut Unpackings) {
        let parents: Vec<PathBuf> = layers.chain[..position].iter().rev().map(|c| self.inner.layers.path(c)).collect();
        let (blob, diff_id) = (layers.descriptors[position].digest.clone(), layers.diff_ids[position].clone());
        let (chain_id, inner, leases) = (layers.chain[position].clone(), self.inner.clone(), shared.leases.clone());
        let (permits, mut height) = (shared.permits.clone(), shared.height.subscribe());
        unpackings.spawn(async move {
            // Who wants the same layer for another image waits while it is unpacked, and no longer: what is below it may come late.
            let guard = inner.content.writer_lock(&chain_id).lock_owned().await;
            let permit = permits.acquire_owned().await.map_err(|e| ImageError::Worker(e.to_string()))?;
            if height.has_changed().is_err() {
                // Another layer has failed, which is what the pull fails with.
                return Ok((position, None));
            }
            let (store, wanted) = (inner.clone(), (blob.clone(), diff_id.clone(), chain_id.clone()));
            let unpacked = blocking(move || {
                // Lock and leases stay with the threads, which a dropped pull cannot stop.
                let _held = (guard, permit);
                let source = LayerSource { blob: &wanted.0, diff_id: &wanted.1, chain_id: &wanted.2 };
                Ok((store.unpack(&source)?, leases))
            });
            let (unpacked, leases) = unpacked.await?;
            let Some(unpacked) = unpacked else { return Ok((position, inner.usage(&chain_id))) };
            let below = height.wait_for(|height| *height >= position).await.is_ok();
            blocking(move || {
                let _leases = leases;
                let source = LayerSource { blob: &blob, diff_id: &diff_id, chain_id: &chain_id };
                let placed = below.then(|| inner.layers.place(unpacked, &source, &parents));
                Ok((position, placed.transpose()?))
            })
            .await
        });
    }
}

fn flatten<T>(joined: Result<Result<T, ImageError>, tokio::task::JoinError>) -> Result<T, ImageError> {
    joined.map_err(|e| ImageError::Worker(e.to_string()))?
}

impl Layers {
    fn new(manifest: &Manifest, config: &ImageConfig, chain: Vec<Digest>) -> Self {
        Self {
            placed: vec![false; chain.len()],
            descriptors: manifest.layers.clone(),
            diff_ids: config.rootfs.diff_ids.clone(),
            chain,
            usage: BTreeMap::new(),
        }
    }

    /// How many from the base up are in their places.
    fn height(&self) -> usize {
        self.placed.iter().take_while(|placed| **placed).count()
    }
}

impl Inner {
    /// Unpacks a layer unless another image's install was faster.
    fn unpack(&self, source: &LayerSource<'_>) -> Result<Option<Unpacked>, ImageError> {
        if self.layers.contains(source.chain_id) {
            return Ok(None);
        }
        let blob = self.content.open_blob(source.blob)?;
        Ok(Some(self.layers.unpack(blob, source)?))
    }

    /// What a layer takes that is in its place.
    fn usage(&self, chain_id: &Digest) -> Option<LayerUsage> {
        self.index().layers.get(chain_id).copied().or_else(|| self.layers.usage(chain_id))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_processors_unpack_layers() {
        for (processors, expect) in [(1, 1), (2, 1), (3, 1), (4, 2), (8, 4), (64, 4)] {
            assert_eq!(unpackers(processors), expect, "{processors}");
        }
    }
}
