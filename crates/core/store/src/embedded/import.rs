//! Making a data directory of what another store holds. It is a store with the last step, and nothing before.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::error::StoreError;
use crate::snapshot::{Root, Snapshot};

use super::checkpoint::{self, Contents};
use super::directory::{Directory, FIRST_LOG};
use super::log::Log;
use super::{Embedded, Options, salt_of};

/// A data directory with all that is to be in it, which is no store before `finish`.
pub struct Import {
    directory: Arc<Directory>,
    count: usize,
}

impl Import {
    /// Makes a store of it; gives how many entries it has.
    pub fn finish(self) -> Result<usize, StoreError> {
        self.directory.format()?;
        self.directory.sync()?;
        Ok(self.count)
    }
}

impl Embedded {
    /// Whether there is a store at the directory of `options`; to open it where there is none would make one.
    pub fn is_there(options: &Options) -> Result<bool, StoreError> {
        let failed = |source| StoreError::io(&options.directory, "list", source);
        Ok(options.disk.list(&options.directory).map_err(failed)?.iter().any(|name| Directory::is_format(name)))
    }

    /// Copies all entries of a snapshot for which `is_wanted` holds, as they are, with its revision, to the directory of `options`, which
    /// must not be there, be empty, or have nothing but what an import left that was cut off.
    pub fn import(source: &Snapshot, is_wanted: impl Fn(&str) -> bool, options: &Options) -> Result<Import, StoreError> {
        let (disk, target) = (&options.disk, &options.directory);
        let directory = Arc::new(Directory::open(Arc::clone(disk), target.clone())?);
        let names = disk.list(target).map_err(|source| StoreError::io(target, "list", source))?;
        let foreign = directory.contents()?.foreign;
        if let Some(found) = names.iter().find(|name| Directory::is_format(name) || foreign.contains(name)) {
            return Err(StoreError::Options(format!("{} is not empty: it has {found}", target.display())));
        }
        for name in names.iter().filter(|name| !Directory::is_lock(name)) {
            directory.remove(&target.join(name))?;
        }
        let root: Root =
            source.range(..).filter(|entry| is_wanted(&entry.key)).map(|entry| (entry.key.clone(), Arc::clone(entry))).collect();
        let (count, revision) = (root.len(), source.revision());
        let contents = Contents { number: FIRST_LOG, revision, root };
        checkpoint::write(&directory, &contents, salt_of(options, FIRST_LOG), options.cipher.as_deref(), &AtomicBool::new(false))?;
        drop(Log::create(&directory, FIRST_LOG, revision, options)?);
        directory.sync()?;
        if let Some(parent) = target.parent() {
            disk.sync_directory(parent).map_err(|source| StoreError::io(parent, "flush", source))?;
        }
        Ok(Import { directory, count })
    }
}
