//! The content store: blobs under `<root>/blobs/<algorithm>/<hex>`, written to `<root>/ingest/`, verified while they stream,
//! then renamed. They reach the disk with the image that needs them, in one sync before it is recorded; others are swept at
//! the next start. Leases keep what a pull is using out of a sweep's way. Knows nothing of images.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use crate::digest::{Algorithm, Digest, Hasher};
use crate::error::{ImageError, IoContext, IoError};

const COPY_BUFFER: usize = 128 << 10;

/// The store's folders and the leases on what lies in them. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ContentStore {
    inner: Arc<Inner>,
}

struct Inner {
    root: PathBuf,
    leases: Mutex<HashMap<Digest, usize>>,
    writers: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
    counter: AtomicU64,
}

/// Keeps one digest (a blob's or a layer's chain ID) from being swept for as long as it lives.
pub(crate) struct Lease {
    inner: Arc<Inner>,
    digest: Digest,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut leases = self.inner.leases.lock();
        if let Some(count) = leases.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                leases.remove(&self.digest);
            }
        }
    }
}

impl ContentStore {
    pub(crate) fn open(root: &Path) -> Result<Self, IoError> {
        for folder in ["blobs/sha256", "blobs/sha512", "ingest"] {
            let path = root.join(folder);
            fs::create_dir_all(&path).at("create folder", &path)?;
        }
        let (leases, writers) = (Mutex::default(), Mutex::default());
        Ok(Self { inner: Arc::new(Inner { root: root.to_path_buf(), leases, writers, counter: AtomicU64::new(0) }) })
    }

    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.inner.root.join("blobs").join(algorithm_folder(digest.algorithm())).join(digest.hex())
    }

    fn ingest_path(&self, name: &str) -> PathBuf {
        self.inner.root.join("ingest").join(name)
    }

    pub(crate) fn lease(&self, digest: &Digest) -> Lease {
        *self.inner.leases.lock().entry(digest.clone()).or_default() += 1;
        Lease { inner: self.inner.clone(), digest: digest.clone() }
    }

    /// The lock under which one blob is written, so that two pulls sharing a layer download it once.
    pub(crate) fn writer_lock(&self, digest: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut writers = self.inner.writers.lock();
        writers.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = writers.get(digest).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        writers.insert(digest.clone(), Arc::downgrade(&lock));
        lock
    }

    /// The size of a blob that is wholly here.
    pub(crate) fn size(&self, digest: &Digest) -> Option<u64> {
        fs::metadata(self.path(digest)).ok().map(|m| m.len())
    }

    pub(crate) fn open_blob(&self, digest: &Digest) -> Result<File, IoError> {
        let path = self.path(digest);
        File::open(&path).at("open blob", &path)
    }

    /// A small blob (manifest, configuration) whole, verified once more: what was written soundly may have rotted since.
    pub(crate) fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, ImageError> {
        let path = self.path(digest);
        let mut bytes = Vec::new();
        self.open_blob(digest)?.take(limit + 1).read_to_end(&mut bytes).at("read blob", &path)?;
        let mut hasher = Hasher::new(digest.algorithm());
        hasher.update(&bytes);
        let found = hasher.finish();
        if found != *digest {
            return Err(ImageError::CorruptBlob { digest: digest.to_string(), reason: format!("its content on disk has digest {found}") });
        }
        Ok(bytes)
    }

    /// Stores bytes whose digest is already known to be theirs.
    pub(crate) fn put(&self, digest: &Digest, bytes: &[u8]) -> Result<(), ImageError> {
        if self.size(digest) == Some(bytes.len() as u64) {
            return Ok(());
        }
        let mut writer = self.writer(digest, bytes.len() as u64)?;
        writer.restart()?;
        writer.write(bytes)?;
        writer.commit()
    }

    /// Opens the partial file of a blob for appending; what an earlier attempt left there counts. The caller holds
    /// [`Self::writer_lock`] when others may write the same blob.
    pub(crate) fn writer(&self, digest: &Digest, size: u64) -> Result<BlobWriter, IoError> {
        let partial = self.ingest_path(&format!("{}.partial", digest.hex()));
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&partial).at("open partial blob", &partial)?;
        let mut hasher = Hasher::new(digest.algorithm());
        let offset = hash_all(&mut file, &mut hasher).at("read partial blob", &partial)?;
        let mut writer = BlobWriter { target: self.path(digest), partial, file, hasher, digest: digest.clone(), size, offset };
        if offset > size {
            writer.restart()?;
        }
        Ok(writer)
    }

    /// Stores a stream whose digest is not known beforehand; gives the digest, the size and a lease on it.
    pub(crate) fn ingest(&self, reader: &mut dyn Read, limit: u64) -> Result<(Digest, u64, Lease), ImageError> {
        let number = self.inner.counter.fetch_add(1, Ordering::Relaxed);
        let path = self.ingest_path(&format!("import-{number}.tmp"));
        let guard = RemoveOnDrop(&path);
        let mut file = File::create(&path).at("create blob", &path)?;
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let size = copy_hashing(reader, &mut file, &mut hasher, limit).at("write blob", &path)?;
        let digest = hasher.finish();
        let lease = self.lease(&digest);
        if self.size(&digest) != Some(size) {
            let target = self.path(&digest);
            fs::rename(&path, &target).at("rename blob to", &target)?;
        }
        drop(guard);
        Ok((digest, size, lease))
    }

    /// Removes every blob that is neither in `keep` nor leased, and what interrupted pulls left longer ago than `partials`.
    /// Gives the number of removed files and their bytes.
    pub(crate) fn sweep(&self, keep: &HashSet<Digest>, partials: Duration) -> Result<(usize, u64), IoError> {
        // Held throughout: a pull that leases a blob now either sees it removed, and fetches it, or keeps it.
        let leases = self.inner.leases.lock();
        let mut removed = (0, 0);
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let folder = self.inner.root.join("blobs").join(algorithm_folder(algorithm));
            for entry in fs::read_dir(&folder).at("list", &folder)? {
                let entry = entry.at("list", &folder)?;
                let name = format!("{}:{}", algorithm_folder(algorithm), entry.file_name().to_string_lossy());
                let kept = name.parse::<Digest>().is_ok_and(|d| keep.contains(&d) || leases.contains_key(&d));
                if !kept {
                    remove_counted(&entry, &mut removed)?;
                }
            }
        }
        let folder = self.inner.root.join("ingest");
        for entry in fs::read_dir(&folder).at("list", &folder)? {
            let entry = entry.at("list", &folder)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let stem = name.split('.').next().unwrap_or_default();
            let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|time| time.elapsed().ok()).unwrap_or_default();
            if age >= partials && !leases.keys().any(|d| d.hex() == stem) {
                remove_counted(&entry, &mut removed)?;
            }
        }
        Ok(removed)
    }

    /// Runs `action` for each of `digests` that is not leased, with new leases held off meanwhile.
    pub(crate) fn unless_leased(&self, digests: &[Digest], mut action: impl FnMut(&Digest)) {
        let leases = self.inner.leases.lock();
        digests.iter().filter(|d| !leases.contains_key(d)).for_each(&mut action);
    }
}

fn remove_counted(entry: &fs::DirEntry, removed: &mut (usize, u64)) -> Result<(), IoError> {
    let path = entry.path();
    let size = entry.metadata().map(|m| m.len()).unwrap_or(0);
    fs::remove_file(&path).at("remove", &path)?;
    removed.0 += 1;
    removed.1 += size;
    Ok(())
}

fn algorithm_folder(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Sha256 => "sha256",
        Algorithm::Sha512 => "sha512",
    }
}

/// A blob on its way in.
pub(crate) struct BlobWriter {
    target: PathBuf,
    partial: PathBuf,
    file: File,
    hasher: Hasher,
    digest: Digest,
    size: u64,
    offset: u64,
}

impl BlobWriter {
    /// How many bytes are here already; the next write goes there.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Forgets what is here, for a server that does not continue where it was asked to.
    pub(crate) fn restart(&mut self) -> Result<(), IoError> {
        self.file.set_len(0).at("truncate", &self.partial)?;
        self.file.seek(SeekFrom::Start(0)).at("seek in", &self.partial)?;
        self.hasher = Hasher::new(self.digest.algorithm());
        self.offset = 0;
        Ok(())
    }

    /// Appends; more than the descriptor's size is refused at once, so that a lying server cannot fill the disk.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        if self.offset + bytes.len() as u64 > self.size {
            let reason = format!("more than the {} bytes its descriptor promises", self.size);
            self.restart()?;
            return Err(ImageError::CorruptBlob { digest: self.digest.to_string(), reason });
        }
        self.file.write_all(bytes).at("write", &self.partial)?;
        self.hasher.update(bytes);
        self.offset += bytes.len() as u64;
        Ok(())
    }

    /// Verifies and publishes the blob. On a wrong digest nothing of it stays.
    pub(crate) fn commit(self) -> Result<(), ImageError> {
        let found = self.hasher.finish();
        if self.offset != self.size || found != self.digest {
            fs::remove_file(&self.partial).at("remove", &self.partial)?;
            let reason = format!("got {} bytes with digest {found}, wanted {} bytes", self.offset, self.size);
            return Err(ImageError::CorruptBlob { digest: self.digest.to_string(), reason });
        }
        Ok(fs::rename(&self.partial, &self.target).at("rename blob to", &self.target)?)
    }
}

struct RemoveOnDrop<'a>(&'a Path);

impl Drop for RemoveOnDrop<'_> {
    fn drop(&mut self) {
        // Gone already when the blob was renamed into place.
        let _ = fs::remove_file(self.0);
    }
}

fn hash_all(file: &mut File, hasher: &mut Hasher) -> std::io::Result<u64> {
    let mut buffer = vec![0; COPY_BUFFER];
    let mut total = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(total),
            n => {
                hasher.update(&buffer[..n]);
                total += n as u64;
            }
        }
    }
}

fn copy_hashing(reader: &mut dyn Read, writer: &mut File, hasher: &mut Hasher, limit: u64) -> std::io::Result<u64> {
    let mut buffer = vec![0; COPY_BUFFER];
    let mut total = 0;
    loop {
        let n = reader.read(&mut buffer)?;
        if n == 0 {
            return Ok(total);
        }
        total += n as u64;
        if total > limit {
            return Err(std::io::Error::other(format!("more than {limit} bytes")));
        }
        hasher.update(&buffer[..n]);
        writer.write_all(&buffer[..n])?;
    }
}

/// Makes a rename in a folder durable.
pub(crate) fn sync_parent(path: &Path) -> Result<(), IoError> {
    let parent = path.parent().unwrap_or(path);
    File::open(parent).and_then(|folder| folder.sync_all()).at("sync folder", parent)
}

/// Replaces a file's content such that a crash leaves the old or the new, never a mixture.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> Result<(), IoError> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary).at("create", &temporary)?;
    file.write_all(bytes).at("write", &temporary)?;
    file.sync_all().at("sync", &temporary)?;
    fs::rename(&temporary, path).at("rename to", path)?;
    sync_parent(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, ContentStore) {
        let folder = tempfile::tempdir().unwrap();
        let store = ContentStore::open(folder.path()).unwrap();
        (folder, store)
    }

    #[test]
    fn a_blob_is_visible_only_once_whole_and_verified() {
        let (_folder, store) = store();
        let digest = Digest::of(b"hello");
        let mut writer = store.writer(&digest, 5).unwrap();
        writer.write(b"hel").unwrap();
        drop(writer);
        assert_eq!(store.size(&digest), None);
        let mut writer = store.writer(&digest, 5).unwrap();
        assert_eq!(writer.offset(), 3, "what an interrupted attempt wrote is continued");
        writer.write(b"lo").unwrap();
        writer.commit().unwrap();
        assert_eq!(store.read(&digest, 10).unwrap(), b"hello");
    }

    #[test]
    fn wrong_or_excess_content_is_refused_and_leaves_nothing() {
        let (folder, store) = store();
        let digest = Digest::of(b"hello");
        let mut writer = store.writer(&digest, 5).unwrap();
        writer.write(b"jello").unwrap();
        assert!(matches!(writer.commit(), Err(ImageError::CorruptBlob { .. })));
        let mut writer = store.writer(&digest, 5).unwrap();
        assert!(writer.write(b"hello, world").is_err());
        assert_eq!(writer.offset(), 0);
        drop(writer);
        assert_eq!(store.size(&digest), None);
        store.sweep(&HashSet::new(), Duration::ZERO).unwrap();
        assert_eq!(fs::read_dir(folder.path().join("ingest")).unwrap().count(), 0);
    }

    #[test]
    fn a_sweep_spares_what_is_kept_or_leased() {
        let (_folder, store) = store();
        let digests: Vec<_> = [b"a", b"b", b"c"].iter().map(|b| Digest::of(*b)).collect();
        for (digest, bytes) in digests.iter().zip([b"a", b"b", b"c"]) {
            store.put(digest, bytes).unwrap();
        }
        let lease = store.lease(&digests[1]);
        let keep = HashSet::from([digests[0].clone()]);
        assert_eq!(store.sweep(&keep, Duration::ZERO).unwrap(), (1, 1));
        drop(lease);
        assert_eq!(store.sweep(&keep, Duration::ZERO).unwrap(), (1, 1));
        assert_eq!(store.size(&digests[0]), Some(1));
    }

    #[test]
    fn a_blob_that_rotted_on_disk_is_reported_as_corrupt() {
        let (_folder, store) = store();
        let digest = Digest::of(b"hello");
        store.put(&digest, b"hello").unwrap();
        fs::write(store.path(&digest), b"hullo").unwrap();
        assert!(matches!(store.read(&digest, 10), Err(ImageError::CorruptBlob { .. })));
    }
}
