//! Layers unpacked in overlayfs form, each under `<root>/layers/<chain ID>/`: decompression, limits, diff ID check, and the
//! change from a temporary folder to the final name. What a tar entry becomes on disk is decided in `unpack`.

mod beneath;
mod decompress;
mod ration;
mod unpack;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

pub(crate) use decompress::Decompressed;
pub(crate) use ration::Rationed;

use crate::digest::{Digest, Hasher};
use crate::error::{ErrorKind, IoContext, IoError, kind_of_io};

#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    #[error("layer {layer} is corrupt: {reason}")]
    Corrupt { layer: String, reason: String },
    #[error("layer {layer}: its content has digest {found}, the image configuration says {wanted}")]
    WrongDiffId { layer: String, found: Digest, wanted: Digest },
    #[error("layer {layer} is refused: entry {entry:?} {reason}")]
    Unsafe { layer: String, entry: String, reason: &'static str },
    #[error("layer {layer} is refused: {reason}")]
    TooBig { layer: String, reason: String },
    #[error("layer {layer}: cannot {operation} {entry:?}: {source}")]
    Entry { layer: String, operation: &'static str, entry: String, source: io::Error },
    #[error(transparent)]
    Io(#[from] IoError),
}

impl LayerError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Corrupt { .. } | Self::WrongDiffId { .. } | Self::Unsafe { .. } => ErrorKind::Corrupt,
            Self::TooBig { .. } => ErrorKind::Unsupported,
            Self::Entry { source, .. } => kind_of_io(source),
            Self::Io(e) => e.kind(),
        }
    }
}

/// What one layer may cost, against archives that are small on the wire and huge on disk.
#[derive(Debug, Clone)]
pub struct LayerLimits {
    /// Bytes of the decompressed archive, and separately of the files in it (sparse files are larger than their archive).
    pub max_bytes: u64,
    pub max_entries: u64,
}

impl Default for LayerLimits {
    fn default() -> Self {
        Self { max_bytes: 64 << 30, max_entries: 4_000_000 }
    }
}

/// What an unpacked layer takes on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct LayerUsage {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

/// One layer to unpack.
pub(crate) struct LayerSource<'a> {
    /// The compressed blob's digest, for messages.
    pub(crate) blob: &'a Digest,
    pub(crate) diff_id: &'a Digest,
    pub(crate) chain_id: &'a Digest,
}

/// A layer on disk that is not in its place yet. Removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Unpacked {
    /// Empty when it is in its place.
    folder: PathBuf,
    usage: LayerUsage,
    /// Folders that the layer does not describe: owner and mode are those in the layers below.
    undescribed: BTreeSet<PathBuf>,
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        // What stays behind is removed when the store is opened again.
        let _ = (!self.folder.as_os_str().is_empty()).then(|| fs::remove_dir_all(&self.folder));
    }
}

pub(crate) struct LayerStore {
    root: PathBuf,
    limits: LayerLimits,
    counter: AtomicU64,
    /// What the layers take that were unpacked since the store was opened. Several images that share a layer may be pulled at
    /// once; each has to know the layer's size, whoever unpacked it and whichever is recorded first.
    usages: Mutex<HashMap<Digest, LayerUsage>>,
}

impl LayerStore {
    pub(crate) fn open(root: &Path, limits: LayerLimits) -> Result<Self, IoError> {
        let root = root.join("layers");
        fs::create_dir_all(&root).at("create folder", &root)?;
        let store = Self { root, limits, counter: AtomicU64::new(0), usages: Mutex::default() };
        store.remove_leftovers()?;
        Ok(store)
    }

    pub(crate) fn path(&self, chain_id: &Digest) -> PathBuf {
        self.root.join(chain_id.hex())
    }

    pub(crate) fn contains(&self, chain_id: &Digest) -> bool {
        self.path(chain_id).is_dir()
    }

    /// What a layer takes that was unpacked since the store was opened.
    pub(crate) fn usage(&self, chain_id: &Digest) -> Option<LayerUsage> {
        self.usages.lock().get(chain_id).copied()
    }

    /// Unpacks a blob where nobody looks for it, which needs nothing of the layers below. Blocks; call it from a blocking thread.
    pub(crate) fn unpack(&self, blob: impl Read, source: &LayerSource<'_>) -> Result<Unpacked, LayerError> {
        // What comes to an error is removed with this.
        let mut unpacked = Unpacked { folder: self.temporary("unpack")?, usage: LayerUsage::default(), undescribed: BTreeSet::new() };
        let layer = source.blob.to_string();
        let corrupt = |e: io::Error| decompress::classify(&layer, e);
        let plain = Decompressed::new(blob).map_err(corrupt)?;
        let mut stream = Metered { inner: plain, hasher: Hasher::new(source.diff_id.algorithm()), left: self.limits.max_bytes };
        (unpacked.usage, unpacked.undescribed) = unpack::Unpacker::new(&layer, &unpacked.folder, &self.limits)?.run(&mut stream)?;
        // tar stops at its end marker; the diff ID covers the padding behind it too.
        io::copy(&mut stream, &mut io::sink()).map_err(corrupt)?;
        let found = stream.hasher.finish();
        if found != *source.diff_id {
            return Err(LayerError::WrongDiffId { layer, found, wanted: source.diff_id.clone() });
        }
        Ok(unpacked)
    }

    /// Puts an unpacked layer in its place on the layers below, which are in theirs; gives what its files take. `parents` are their
    /// folders, top first. Blocks likewise.
    pub(crate) fn place(&self, mut unpacked: Unpacked, source: &LayerSource<'_>, parents: &[PathBuf]) -> Result<LayerUsage, LayerError> {
        let target = self.path(source.chain_id);
        unpack::inherit(&source.blob.to_string(), &unpacked.folder, &unpacked.undescribed, parents)?;
        // Before the layer can be seen: who sees it must find its size.
        self.usages.lock().insert(source.chain_id.clone(), unpacked.usage);
        match fs::rename(&unpacked.folder, &target) {
            Ok(()) => unpacked.folder.clear(),
            // Another image with the same chain was faster; its folder is as good as this one.
            Err(_) if target.is_dir() => {}
            Err(error) => return Err(Err(error).at("rename layer to", &target)?),
        }
        Ok(unpacked.usage)
    }

    fn temporary(&self, purpose: &str) -> Result<PathBuf, IoError> {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let path = self.root.join(format!(".{purpose}-{number}"));
        fs::create_dir(&path).at("create folder", &path)?;
        Ok(path)
    }

    /// Moves a layer out of sight at once; the caller deletes the returned folder when it holds no lock.
    pub(crate) fn retire(&self, chain_id: &Digest) -> Result<Option<PathBuf>, IoError> {
        let path = self.path(chain_id);
        if !path.exists() {
            return Ok(None);
        }
        let grave = self.root.join(format!(".retired-{}", self.counter.fetch_add(1, Ordering::Relaxed)));
        fs::rename(&path, &grave).at("retire layer", &path)?;
        self.usages.lock().remove(chain_id);
        Ok(Some(grave))
    }

    /// The chain IDs' folders that are here but not in `keep`.
    pub(crate) fn unreferenced(&self, keep: &HashSet<Digest>) -> Result<Vec<Digest>, IoError> {
        let kept: HashSet<&str> = keep.iter().map(Digest::hex).collect();
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.root).at("list", &self.root)? {
            let name = entry.at("list", &self.root)?.file_name().to_string_lossy().into_owned();
            if !kept.contains(name.as_str()) && !name.starts_with('.') {
                found.extend(format!("sha256:{name}").parse::<Digest>());
            }
        }
        Ok(found)
    }

    /// Writes everything below the store's file system to disk, so that no image is recorded before its files are there.
    pub(crate) fn sync(&self) -> Result<(), IoError> {
        let folder = fs::File::open(&self.root).at("open", &self.root)?;
        rustix::fs::syncfs(&folder).at("sync file system of", &self.root)
    }

    /// What a process that was killed left half unpacked or half deleted.
    fn remove_leftovers(&self) -> Result<(), IoError> {
        for entry in fs::read_dir(&self.root).at("list", &self.root)? {
            let entry = entry.at("list", &self.root)?;
            if entry.file_name().to_string_lossy().starts_with('.') {
                fs::remove_dir_all(entry.path()).at("remove", entry.path())?;
            }
        }
        Ok(())
    }
}

/// Hashes and counts the decompressed archive as it is read.
struct Metered<R> {
    inner: R,
    hasher: Hasher,
    left: u64,
}

/// Marks the limit inside an `io::Error`, so that it is told apart from a broken archive.
#[derive(Debug, thiserror::Error)]
#[error("more data than the configured limit")]
pub(crate) struct LimitReached;

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| io::Error::other(LimitReached))?;
        Ok(n)
    }
}

#[cfg(test)]
mod tests;
