//! The data directory: its lock, its format version and the names of the files in it.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::Disk;
use crate::error::StoreError;

/// What the format file says. Another version of the format has another text.
const FORMAT: &str = "fram-store 1\n";

const FORMAT_FILE: &str = "format";
const LOCK_FILE: &str = "lock";
const UNFINISHED: &str = ".tmp";

/// A data directory that this process holds the lock of.
pub(crate) struct Directory {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) path: PathBuf,
    _lock: Box<dyn Send + Sync>,
}

/// The numbers of the files that a directory holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    pub(crate) logs: Vec<u64>,
    pub(crate) checkpoints: Vec<u64>,
    /// Files that a crash left half-written under a temporary name.
    pub(crate) unfinished: Vec<String>,
    /// Files that are not the store's.
    pub(crate) foreign: Vec<String>,
}

impl Directory {
    /// Creates the directory where needed and takes its lock.
    pub(crate) fn open(disk: Arc<dyn Disk>, path: PathBuf) -> Result<Self, StoreError> {
        disk.create_directory(&path).map_err(|source| StoreError::io(&path, "create data directory", source))?;
        let lock_path = path.join(LOCK_FILE);
        let lock = disk.lock(&lock_path).map_err(|source| StoreError::io(&lock_path, "lock", source))?;
        let lock = lock.ok_or_else(|| StoreError::Locked { path: path.clone() })?;
        Ok(Self { disk, path, _lock: lock })
    }

    /// Whether the directory was formatted, by this version.
    pub(crate) fn check_format(&self) -> Result<bool, StoreError> {
        let names = self.names()?;
        let path = self.path.join(FORMAT_FILE);
        if !names.iter().any(|name| name == FORMAT_FILE) {
            return self.check_unformatted(&names).map(|()| false);
        }
        let mut found = Vec::new();
        self.disk
            .read(&path)
            // Another version's file may be anything; what matters is how it begins.
            .and_then(|file| file.take(128).read_to_end(&mut found))
            .map_err(|source| StoreError::io(&path, "read", source))?;
        if found != FORMAT.as_bytes() {
            let found = String::from_utf8_lossy(&found).trim_end().to_owned();
            return Err(StoreError::Version { path: self.path.clone(), found, expected: FORMAT.trim_end() });
        }
        Ok(true)
    }

    /// A directory without a format file may hold what an interrupted first start leaves, and nothing else: somebody's
    /// files are not written among.
    fn check_unformatted(&self, names: &[String]) -> Result<(), StoreError> {
        let contents = sort(names);
        let later = contents.logs.iter().find(|number| **number != FIRST_LOG).map(|number| log_name(*number));
        let checkpoint = contents.checkpoints.first().map(|number| checkpoint_name(*number));
        match contents.foreign.into_iter().next().or(later).or(checkpoint) {
            Some(found) => Err(StoreError::NotAStore { path: self.path.clone(), found }),
            None => Ok(()),
        }
    }

    /// Marks the directory as formatted: the last step of its creation.
    pub(crate) fn format(&self) -> Result<(), StoreError> {
        self.write_whole(FORMAT_FILE, FORMAT.as_bytes())
    }

    pub(crate) fn is_format(name: &str) -> bool {
        name == FORMAT_FILE
    }

    pub(crate) fn is_lock(name: &str) -> bool {
        name == LOCK_FILE
    }

    pub(crate) fn contents(&self) -> Result<Contents, StoreError> {
        Ok(sort(&self.names()?))
    }

    fn names(&self) -> Result<Vec<String>, StoreError> {
        self.disk.list(&self.path).map_err(|source| StoreError::io(&self.path, "list", source))
    }

    pub(crate) fn log_path(&self, number: u64) -> PathBuf {
        self.path.join(log_name(number))
    }

    pub(crate) fn checkpoint_path(&self, number: u64) -> PathBuf {
        self.path.join(checkpoint_name(number))
    }

    /// The name under which a file is written before it is whole.
    pub(crate) fn unfinished(path: &Path) -> PathBuf {
        let mut name = path.as_os_str().to_owned();
        name.push(UNFINISHED);
        PathBuf::from(name)
    }

    /// Writes a small file so that it is there as a whole or not at all.
    fn write_whole(&self, name: &str, content: &[u8]) -> Result<(), StoreError> {
        let path = self.path.join(name);
        let unfinished = Self::unfinished(&path);
        let error = |operation| move |source| StoreError::io(self.path.join(name), operation, source);
        let mut file = self.disk.create(&unfinished).map_err(error("create"))?;
        file.append(content).map_err(error("write"))?;
        file.sync().map_err(error("flush"))?;
        self.rename(&unfinished, &path)?;
        self.sync()
    }

    pub(crate) fn rename(&self, from: &Path, to: &Path) -> Result<(), StoreError> {
        self.disk.rename(from, to).map_err(|source| StoreError::io(to, "rename into place", source))
    }

    pub(crate) fn remove(&self, path: &Path) -> Result<(), StoreError> {
        self.disk.remove(path).map_err(|source| StoreError::io(path, "remove", source))
    }

    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        self.disk.sync_directory(&self.path).map_err(|source| StoreError::io(&self.path, "flush", source))
    }

    /// Removes the logs and checkpoints that the checkpoint with this number makes superfluous.
    pub(crate) fn remove_before(&self, number: u64) -> Result<(), StoreError> {
        let contents = self.contents()?;
        // Logs go oldest first, so that what an interruption leaves is still a row without gaps.
        for log in contents.logs.into_iter().filter(|log| *log < number) {
            self.remove(&self.log_path(log))?;
        }
        for checkpoint in contents.checkpoints.into_iter().filter(|checkpoint| *checkpoint < number) {
            self.remove(&self.checkpoint_path(checkpoint))?;
        }
        self.sync()
    }
}

/// The number of the first log of a store.
pub(crate) const FIRST_LOG: u64 = 1;

fn log_name(number: u64) -> String {
    format!("log-{number:016}")
}

fn checkpoint_name(number: u64) -> String {
    format!("checkpoint-{number:016}")
}

fn sort(names: &[String]) -> Contents {
    let mut contents = Contents::default();
    for name in names {
        let number = |prefix: &str| name.strip_prefix(prefix).filter(|digits| digits.len() == 16)?.parse().ok();
        if let Some(number) = number("log-") {
            contents.logs.push(number);
        } else if let Some(number) = number("checkpoint-") {
            contents.checkpoints.push(number);
        } else if name.ends_with(UNFINISHED) {
            contents.unfinished.push(name.clone());
        } else if name != LOCK_FILE && name != FORMAT_FILE {
            contents.foreign.push(name.clone());
        }
    }
    contents.logs.sort_unstable();
    contents.checkpoints.sort_unstable();
    contents
}
