//! Making a data directory of what another store holds. It is made beside the place where it is to be, and put there as a whole.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::error::StoreError;
use crate::snapshot::{Root, Snapshot};

use super::checkpoint::{self, Contents};
use super::directory::{Directory, FIRST_LOG};
use super::log::Log;
use super::{Embedded, Options, salt_of};

impl Embedded {
    /// Copies all entries of a snapshot for which `is_wanted` holds, as they are, with its revision, to the directory of `options`, which
    /// must not be there or be empty; gives how many there are. What an import that was cut off left beside it is cleared away.
    pub fn import(source: &Snapshot, is_wanted: impl Fn(&str) -> bool, options: &Options) -> Result<usize, StoreError> {
        let (disk, target) = (&options.disk, &options.directory);
        let failed = |path: &PathBuf, operation| {
            let path = path.clone();
            move |source| StoreError::io(path, operation, source)
        };
        disk.create_directory(target).map_err(failed(target, "create data directory"))?;
        if let Some(found) = disk.list(target).map_err(failed(target, "list"))?.into_iter().next() {
            return Err(StoreError::Options(format!("{} is not empty: it has {found}", target.display())));
        }
        let mut beside = target.clone().into_os_string();
        beside.push(".copy");
        let beside = PathBuf::from(beside);
        let directory = Arc::new(Directory::open(Arc::clone(disk), beside.clone())?);
        let left = directory.contents()?;
        for name in disk.list(&beside).map_err(failed(&beside, "list"))? {
            if !left.foreign.contains(&name) && !Directory::is_lock(&name) {
                directory.remove(&beside.join(name))?;
            }
        }
        let root: Root =
            source.range(..).filter(|entry| is_wanted(&entry.key)).map(|entry| (entry.key.clone(), Arc::clone(entry))).collect();
        let (count, revision) = (root.len(), source.revision());
        let contents = Contents { number: FIRST_LOG, revision, root };
        checkpoint::write(&directory, &contents, salt_of(options, FIRST_LOG), options.cipher.as_deref(), &AtomicBool::new(false))?;
        drop(Log::create(&directory, FIRST_LOG, revision, options)?);
        directory.sync()?;
        directory.format()?;
        directory.sync()?;
        disk.rename(&beside, target).map_err(failed(target, "rename into place"))?;
        if let Some(parent) = target.parent() {
            disk.sync_directory(parent).map_err(|source| StoreError::io(parent, "flush", source))?;
        }
        Ok(count)
    }
}
