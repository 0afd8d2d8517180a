//! The image store of a node: one folder, one process. Pulls (shared by all who ask for the same), names, holders of layers,
//! removal and garbage collection. Blocking work runs on blocking threads; readers never wait for writers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fram_cri::ProgressFn;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use parking_lot::{Mutex, RwLock};

use crate::content::ContentStore;
use crate::digest::Digest;
use crate::download::{Downloader, Tracker, blocking};
use crate::error::{ErrorKind, ImageError, IoContext, IoError};
use crate::holders::{Holder, Holders};
use crate::index::{Index, Record};
use crate::install::{Documents, Names};
use crate::layer::{LayerLimits, LayerStore};
use crate::manifest::{ImageConfig, MAX_CONFIG, Platform};
use crate::reference::Reference;
use crate::registry::{Credentials, RegistryClient, RegistryConfig};

#[derive(Debug, Clone)]
pub struct ImageStoreConfig {
    pub root: PathBuf,
    pub registry: RegistryConfig,
    pub limits: LayerLimits,
    pub platform: Platform,
    /// Keep compressed layers after unpacking, as exporting needs; otherwise they would take half as much disk again for nothing.
    pub keep_layer_blobs: bool,
}

impl ImageStoreConfig {
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            registry: RegistryConfig::default(),
            limits: LayerLimits::default(),
            platform: Platform::host(),
            keep_layer_blobs: false,
        }
    }
}

/// How long an interrupted pull may wait for its continuation.
const RESUMABLE: Duration = Duration::from_secs(24 * 3600);

/// A failed pull is told to everyone who waited for it.
pub type SharedError = Arc<ImageError>;
type Flight = Shared<BoxFuture<'static, Result<Digest, SharedError>>>;
type WeakFlight = WeakShared<BoxFuture<'static, Result<Digest, SharedError>>>;
type FlightKey = (Reference, Option<Credentials>);

/// An image that is here, completely.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageInfo {
    /// The digest of its configuration.
    pub id: Digest,
    pub repo_tags: Vec<String>,
    pub repo_digests: Vec<String>,
    /// Bytes, unpacked.
    pub size: u64,
    /// As in the image's configuration: `name`, `uid`, `uid:gid`, or empty.
    pub user: String,
    pub pinned: bool,
    /// Seconds since the epoch.
    pub last_used: u64,
}

/// What a removal or collection freed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    pub images: usize,
    pub blobs: usize,
    pub layers: usize,
    pub bytes: u64,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct ImageStore {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: ImageStoreConfig,
    pub(crate) content: ContentStore,
    pub(crate) layers: LayerStore,
    pub(crate) registry: Arc<RegistryClient>,
    holders: Holders,
    /// What readers see.
    snapshot: RwLock<Arc<Index>>,
    /// Held while the index changes or files are swept by it.
    writing: Mutex<()>,
    flights: Mutex<HashMap<FlightKey, (WeakFlight, Arc<Tracker>)>>,
    _lock: File,
}

impl ImageStore {
    /// Opens the store and removes what a killed process left unfinished. Blocks on the disk.
    pub fn open(config: ImageStoreConfig) -> Result<Self, ImageError> {
        fs::create_dir_all(&config.root).at("create folder", &config.root)?;
        // Images bring setuid programs: nobody but root may reach them by this path.
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs::set_permissions(&config.root, private).at("set mode of", &config.root)?;
        let lock = lock(&config.root)?;
        let content = ContentStore::open(&config.root)?;
        let layers = LayerStore::open(&config.root, config.limits.clone())?;
        let mut index = Index::load(&config.root)?;
        for id in index.drop_incomplete(|layer| layers.contains(layer)) {
            tracing::warn!(image = %id, "image dropped: not all of its layers are on disk");
        }
        let holders = Holders::open(&config.root)?;
        if !index.holders.is_empty() {
            index.holders.iter().try_for_each(|(name, holder)| holders.write(name, holder))?;
            index.save(&config.root)?;
        }
        index.holders = holders.load()?;
        let registry = Arc::new(RegistryClient::new(config.registry.clone()));
        let (snapshot, writing, flights) = (RwLock::new(Arc::new(index)), Mutex::default(), Mutex::default());
        let inner = Arc::new(Inner { config, content, layers, registry, holders, snapshot, writing, flights, _lock: lock });
        // A layer folder that no recorded image has may not have reached the disk before a crash: it must not be reused.
        inner.sweep(RESUMABLE)?;
        Ok(Self { inner })
    }

    /// Pulls an image and gives its ID. Concurrent pulls of the same reference with the same credentials share the work,
    /// which ends when the last of them is dropped.
    pub async fn pull(&self, image: &str, credentials: Option<Credentials>, progress: Option<ProgressFn>) -> Result<Digest, SharedError> {
        let reference: Reference = image.parse().map_err(|e| Arc::new(ImageError::from(e)))?;
        let flight = self.flight(reference, credentials.filter(|c| !c.is_empty()), progress);
        flight.await
    }

    fn flight(&self, reference: Reference, credentials: Option<Credentials>, progress: Option<ProgressFn>) -> Flight {
        let key = (reference.clone(), credentials.clone());
        let mut flights = self.inner.flights.lock();
        flights.retain(|_, (flight, _)| flight.upgrade().is_some_and(|f| f.peek().is_none()));
        if let Some((flight, tracker)) = flights.get(&key)
            && let Some(flight) = flight.upgrade()
        {
            progress.into_iter().for_each(|listener| tracker.listen(listener));
            return flight;
        }
        let tracker = Arc::new(Tracker::default());
        progress.into_iter().for_each(|listener| tracker.listen(listener));
        let (store, watched) = (self.clone(), tracker.clone());
        let flight = async move {
            let pulled = store.pull_now(&reference, credentials, tracker).await;
            if pulled.as_ref().is_err_and(|e| e.kind() == ErrorKind::DiskFull) {
                store.free_unfinished().await;
            }
            pulled.map_err(Arc::new)
        };
        let flight = flight.boxed().shared();
        if let Some(weak) = flight.downgrade() {
            flights.insert(key, (weak, watched));
        }
        flight
    }

    async fn pull_now(&self, reference: &Reference, credentials: Option<Credentials>, tracker: Arc<Tracker>) -> Result<Digest, ImageError> {
        let client = &self.inner.registry;
        let repository = client.repository(reference, credentials).await?;
        let raw = repository.manifest(&reference.target()).await?;
        let mut names = Names::default();
        names.repo_digests.insert(reference.repo_digest(&raw.digest));
        // As in containerd, a reference by tag and digest gives no tag: the tag may mean something else by now.
        if reference.digest().is_none() {
            names.repo_tags.extend(reference.repo_tag());
        }
        let resolved = self.resolve(raw.digest, raw.bytes.to_vec(), &Documents::Registry(&repository)).await?;
        let downloader = Downloader { content: self.inner.content.clone(), repository, tracker: tracker.clone() };
        let id = self.install(resolved, names, Some(Arc::new(downloader)), tracker).await?;
        if !self.inner.config.keep_layer_blobs {
            self.sweep_blobs().await?;
        }
        Ok(id)
    }

    /// All images, by ID.
    pub fn list(&self) -> Vec<ImageInfo> {
        let index = self.inner.index();
        index.images.iter().map(|(id, record)| info(&index, id, record)).collect()
    }

    /// The image that a name, digested name or ID stands for, if it is here.
    pub fn status(&self, image: &str) -> Result<Option<ImageInfo>, ImageError> {
        let index = self.inner.index();
        Ok(index.find(image)?.map(|(id, record)| info(&index, id, record)))
    }

    /// The image's configuration.
    pub async fn image_config(&self, id: &Digest) -> Result<ImageConfig, ImageError> {
        let (inner, id) = (self.inner.clone(), id.clone());
        blocking(move || inner.image_config(&id)).await
    }

    /// Removes an image with all its names. Layers that others use or hold stay. An image that is not here is removed already.
    pub async fn remove(&self, image: &str) -> Result<Removed, ImageError> {
        let (inner, image) = (self.inner.clone(), image.to_owned());
        if inner.index().find_meant(&image)?.is_none() {
            return Ok(Removed::default());
        }
        blocking(move || {
            let mut images = 0;
            inner.change(|index| {
                let found = index.find_meant(&image)?.cloned();
                images = usize::from(found.is_some_and(|id| index.images.remove(&id).is_some()));
                Ok(())
            })?;
            Ok(Removed { images, ..inner.sweep(RESUMABLE)? })
        })
        .await
    }

    /// Keeps an image from being collected (CRI `pinned`), or no longer.
    pub async fn set_pinned(&self, image: &str, pinned: bool) -> Result<(), ImageError> {
        let (inner, image) = (self.inner.clone(), image.to_owned());
        blocking(move || {
            inner.change(|index| {
                let id = index.find_meant(&image)?.cloned().ok_or_else(|| ImageError::NotPresent(image.clone()))?;
                index.images.get_mut(&id).into_iter().for_each(|record| record.pinned = pinned);
                Ok(())
            })
        })
        .await
    }

    /// The folders of an image's layers, base first, which stay until `holder` lets go, even across restarts.
    pub async fn hold(&self, image: &str, holder: &str) -> Result<(ImageInfo, Vec<PathBuf>), ImageError> {
        let (inner, image, holder) = (self.inner.clone(), image.to_owned(), holder.to_owned());
        blocking(move || inner.hold(&image, holder)).await
    }

    /// The same, with what the image says of how it is run.
    pub(crate) async fn hold_with_config(&self, image: &str, holder: &str) -> Result<(ImageInfo, Vec<PathBuf>, ImageConfig), ImageError> {
        let (inner, image, holder) = (self.inner.clone(), image.to_owned(), holder.to_owned());
        blocking(move || {
            let (info, layers) = inner.hold(&image, holder)?;
            let config = inner.image_config(&info.id)?;
            Ok((info, layers, config))
        })
        .await
    }

    pub async fn release(&self, holder: &str) -> Result<(), ImageError> {
        let (inner, holder) = (self.inner.clone(), holder.to_owned());
        blocking(move || {
            let Some(held) = inner.index().holders.get(&holder).cloned() else { return Ok(()) };
            inner.update(|index| {
                inner.holders.remove(&holder)?;
                index.holders.remove(&holder);
                Ok(())
            })?;
            // Only a holder of an image that was removed meanwhile leaves anything behind.
            if !inner.index().images.contains_key(&held.image) {
                inner.sweep(RESUMABLE)?;
            }
            Ok(())
        })
        .await
    }

    pub fn holders(&self) -> Vec<String> {
        self.inner.index().holders.keys().cloned().collect()
    }

    /// Bytes and inodes that images take, and the folder they are in.
    pub fn usage(&self) -> (PathBuf, u64, u64) {
        let index = self.inner.index();
        let all: Vec<_> = index.kept_layers().into_iter().collect();
        let usage = index.usage(&all);
        (self.inner.config.root.clone(), usage.bytes, usage.inodes)
    }

    /// On a full disk the parts of an image that did not fit are no use for a later attempt: others need the room now.
    async fn free_unfinished(&self) {
        let inner = self.inner.clone();
        if let Err(error) = blocking(move || inner.sweep(Duration::ZERO)).await {
            tracing::warn!(%error, "parts of an unfinished image stay on the full disk");
        }
    }

    pub(crate) async fn sweep_blobs(&self) -> Result<(), ImageError> {
        let inner = self.inner.clone();
        blocking(move || {
            let _writing = inner.writing.lock();
            inner.content.sweep(&inner.index().kept_blobs(), RESUMABLE)?;
            Ok(())
        })
        .await
    }
}

impl Inner {
    pub(crate) fn index(&self) -> Arc<Index> {
        self.snapshot.read().clone()
    }

    /// Changes the index: durable first, then visible. Nothing changes if the change or the disk fails.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Index) -> Result<(), ImageError>) -> Result<(), ImageError> {
        self.update(|index| {
            change(index)?;
            index.save(&self.config.root)
        })
    }

    fn image_config(&self, id: &Digest) -> Result<ImageConfig, ImageError> {
        Ok(ImageConfig::parse(&self.content.read(id, MAX_CONFIG)?)?)
    }

    fn hold(&self, image: &str, holder: String) -> Result<(ImageInfo, Vec<PathBuf>), ImageError> {
        let mut held = None;
        self.update(|index| {
            let (id, record) = index.find(image)?.ok_or_else(|| ImageError::NotPresent(image.to_owned()))?;
            let (id, layers) = (id.clone(), record.layers.clone());
            index.images.get_mut(&id).into_iter().for_each(|record| record.last_used = now());
            let info = info(index, &id, &index.images[&id]);
            let folders: Vec<_> = layers.iter().map(|l| self.layers.path(l)).collect();
            let by = Holder { image: id, layers };
            self.holders.write(&holder, &by)?;
            index.holders.insert(holder, by);
            held = Some((info, folders));
            Ok(())
        })?;
        held.ok_or_else(|| ImageError::NotPresent(image.to_owned()))
    }

    /// The same for what the index's file need not know at once.
    fn update(&self, change: impl FnOnce(&mut Index) -> Result<(), ImageError>) -> Result<(), ImageError> {
        let _writing = self.writing.lock();
        let mut index = Index::clone(&self.index());
        change(&mut index)?;
        *self.snapshot.write() = Arc::new(index);
        Ok(())
    }

    /// Deletes blobs and layers that no image, holder or running pull needs.
    fn sweep(&self, partials: Duration) -> Result<Removed, ImageError> {
        let mut removed = Removed::default();
        let mut graves = Vec::new();
        {
            let _writing = self.writing.lock();
            let index = self.index();
            let (blobs, bytes) = self.content.sweep(&index.kept_blobs(), partials)?;
            (removed.blobs, removed.bytes) = (blobs, bytes);
            let unreferenced = self.layers.unreferenced(&index.kept_layers())?;
            let mut failure = None;
            self.content.unless_leased(&unreferenced, |chain_id| match self.layers.retire(chain_id) {
                Ok(grave) => {
                    removed.bytes += index.layers.get(chain_id).map_or(0, |usage| usage.bytes);
                    graves.extend(grave);
                }
                Err(e) => failure = Some(e),
            });
            if let Some(error) = failure {
                return Err(error.into());
            }
        }
        removed.layers = graves.len();
        // Slow for large layers, so outside of the lock.
        for grave in graves {
            fs::remove_dir_all(&grave).at("remove", &grave)?;
        }
        self.forget_usage()?;
        Ok(removed)
    }

    /// Drops the sizes of layers that are gone.
    fn forget_usage(&self) -> Result<(), ImageError> {
        let index = self.index();
        let kept = index.kept_layers();
        if index.layers.keys().all(|layer| kept.contains(layer)) {
            return Ok(());
        }
        self.change(|index| {
            let kept = index.kept_layers();
            index.layers = std::mem::take(&mut index.layers).into_iter().filter(|(l, _)| kept.contains(l)).collect::<BTreeMap<_, _>>();
            Ok(())
        })
    }
}

fn info(index: &Index, id: &Digest, record: &Record) -> ImageInfo {
    let list = |set: &BTreeSet<String>| set.iter().cloned().collect();
    ImageInfo {
        id: id.clone(),
        repo_tags: list(&record.repo_tags),
        repo_digests: list(&record.repo_digests),
        size: index.usage(&record.layers).bytes,
        user: record.user.clone(),
        pinned: record.pinned,
        last_used: record.last_used,
    }
}

fn lock(root: &Path) -> Result<File, ImageError> {
    let path = root.join("lock");
    let file = File::create(&path).at("create", &path)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(ImageError::Locked(root.to_path_buf())),
        Err(e) => Err(IoError { operation: "lock", path, source: e.into() }.into()),
    }
}

/// Seconds since the epoch.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
