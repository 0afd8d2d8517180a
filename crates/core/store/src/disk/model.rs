//! A file system in memory that can lose power, tear writes, fill up and fail. It also serves stores that shall leave
//! nothing behind. It models what POSIX promises and no more: content is durable after a sync of the file, names are
//! durable after a sync of their directory, everything else may or may not survive.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Disk, DiskFile};

/// What the model does when a planned operation comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The disk is full: part of a write may have happened.
    Full,
    /// The device fails: what was not durable yet is lost or not.
    Broken,
}

impl Fault {
    fn error(self) -> io::Error {
        match self {
            Self::Full => io::Error::from(io::ErrorKind::StorageFull),
            Self::Broken => io::Error::other("input/output error of the modelled device"),
        }
    }
}

/// The unit in which an unsynced write survives a loss of power.
const SECTOR: usize = 512;

/// A file system in memory. Clones are the same file system.
#[derive(Clone, Default)]
pub struct ModelDisk(Arc<Mutex<Model>>);

#[derive(Default)]
struct Model {
    names: BTreeMap<PathBuf, usize>,
    /// The names as they are on the medium.
    durable_names: BTreeMap<PathBuf, usize>,
    files: Vec<ModelFile>,
    locked: BTreeSet<PathBuf>,
    /// How many writing operations there were.
    operations: u64,
    faults: BTreeMap<u64, Fault>,
    /// The operation from which on all fail.
    standing: Option<(u64, Fault)>,
    /// Raised by a loss of power, so that handles from before it fail.
    generation: u64,
}

#[derive(Clone, Default)]
struct ModelFile {
    content: Vec<u8>,
    durable: Vec<u8>,
    /// Up to where the two are the same for certain.
    clean: usize,
}

impl ModelFile {
    fn sync(&mut self) {
        self.durable.truncate(self.clean);
        self.durable.extend_from_slice(&self.content[self.clean..]);
        self.clean = self.content.len();
    }

    /// A flush that fails: the medium keeps what it had, and the system forgets that the pages are dirty, so that no
    /// later flush writes them either, while readers still see them. That is what Linux does.
    fn fail_to_sync(&mut self) {
        self.durable.resize(self.content.len(), 0);
        self.clean = self.content.len();
    }

    fn overwrite(&mut self, offset: usize, bytes: &[u8]) {
        if let Some(target) = self.content.get_mut(offset..offset + bytes.len()) {
            target.copy_from_slice(bytes);
            self.clean = self.clean.min(offset);
        }
    }

    fn truncate(&mut self, length: usize) {
        self.content.resize(length, 0);
        self.clean = self.clean.min(length);
    }
}

impl ModelDisk {
    /// How many writing operations (create, append, sync, truncate, rename, remove) there were so far.
    pub fn operations(&self) -> u64 {
        self.0.lock().operations
    }

    /// Has the writing operation with this number, counted as `operations` does, fail once.
    pub fn fail_at(&self, operation: u64, fault: Fault) {
        self.0.lock().faults.insert(operation, fault);
    }

    /// Has every writing operation from this number on fail, until `heal`.
    pub fn fail_from(&self, operation: u64, fault: Fault) {
        self.0.lock().standing = Some((operation, fault));
    }

    /// Takes all planned faults away.
    pub fn heal(&self) {
        let mut model = self.0.lock();
        model.faults.clear();
        model.standing = None;
    }

    /// Loses power: each sector that was not synced survives or not, and so does each change of names that was not
    /// synced, as `random` decides. Handles and locks from before are dead.
    pub fn lose_power(&self, mut random: impl FnMut() -> bool) {
        let mut model = self.0.lock();
        model.generation += 1;
        model.locked.clear();
        model.faults.clear();
        model.standing = None;
        for file in &mut model.files {
            let content = after_power_loss(file, &mut random);
            *file = ModelFile { clean: content.len(), durable: content.clone(), content };
        }
        let changed: Vec<PathBuf> = model.names.keys().chain(model.durable_names.keys()).cloned().collect();
        for name in changed {
            let (now, durable) = (model.names.get(&name).copied(), model.durable_names.get(&name).copied());
            if now != durable && random() {
                match now {
                    Some(file) => model.durable_names.insert(name, file),
                    None => model.durable_names.remove(&name),
                };
            }
        }
        model.names = model.durable_names.clone();
    }

    /// The content of a file as a running process would read it.
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let model = self.0.lock();
        model.names.get(path).map(|file| model.files[*file].content.clone())
    }

    /// Replaces the content of a file behind everybody's back, durably.
    pub fn overwrite(&self, path: &Path, content: Vec<u8>) {
        let mut model = self.0.lock();
        let file = model.file(path);
        model.files[file] = ModelFile { clean: content.len(), durable: content.clone(), content };
        model.durable_names.insert(path.to_owned(), file);
    }

    /// The paths of all files.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.0.lock().names.keys().cloned().collect()
    }

    fn handle(&self, file: usize, generation: u64) -> Box<dyn DiskFile> {
        Box::new(Handle { disk: self.clone(), file, generation })
    }
}

fn after_power_loss(file: &ModelFile, random: &mut impl FnMut() -> bool) -> Vec<u8> {
    let (old, new) = (&file.durable, &file.content);
    let mut result = vec![0; if random() { new.len() } else { old.len() }];
    for (sector, bytes) in result.chunks_mut(SECTOR).enumerate() {
        let from = if random() { new } else { old };
        for (offset, byte) in bytes.iter_mut().enumerate() {
            let at = sector * SECTOR + offset;
            // What did not reach the medium reads as what was there before, beyond the old end as zeros. What is the
            // same before and after never changes.
            let same = old.get(at).filter(|byte| new.get(at) == Some(byte));
            *byte = same.or(from.get(at)).copied().unwrap_or_default();
        }
    }
    result
}

impl Model {
    /// Counts a writing operation and says whether it fails.
    fn step(&mut self) -> Result<(), Fault> {
        let operation = self.operations;
        self.operations += 1;
        let standing = self.standing.filter(|(from, _)| operation >= *from).map(|(_, fault)| fault);
        self.faults.remove(&operation).or(standing).map_or(Ok(()), Err)
    }

    fn file(&mut self, path: &Path) -> usize {
        if let Some(file) = self.names.get(path) {
            return *file;
        }
        self.files.push(ModelFile::default());
        let file = self.files.len() - 1;
        self.names.insert(path.to_owned(), file);
        file
    }

    /// Frees the content of files that no name leads to, now or after a loss of power.
    fn forget_unnamed(&mut self) {
        let named: BTreeSet<usize> = self.names.values().chain(self.durable_names.values()).copied().collect();
        for (_, file) in self.files.iter_mut().enumerate().filter(|(file, _)| !named.contains(file)) {
            *file = ModelFile::default();
        }
    }

    fn find(&self, path: &Path) -> io::Result<usize> {
        self.names.get(path).copied().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }
}

impl Disk for ModelDisk {
    fn create_directory(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let model = self.0.lock();
        let names = model.names.keys().filter(|path| path.parent() == Some(directory));
        Ok(names.filter_map(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned()).collect())
    }

    fn read(&self, path: &Path) -> io::Result<Box<dyn Read + '_>> {
        let model = self.0.lock();
        let file = model.find(path)?;
        Ok(Box::new(Cursor::new(model.files[file].content.clone())))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut model = self.0.lock();
        model.step().map_err(Fault::error)?;
        let file = model.file(path);
        model.files[file].truncate(0);
        let generation = model.generation;
        drop(model);
        Ok(self.handle(file, generation))
    }

    fn append_to(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let model = self.0.lock();
        let (file, generation) = (model.find(path)?, model.generation);
        drop(model);
        Ok(self.handle(file, generation))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut model = self.0.lock();
        model.step().map_err(Fault::error)?;
        let file = model.find(from)?;
        model.names.remove(from);
        model.names.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut model = self.0.lock();
        model.step().map_err(Fault::error)?;
        model.find(path)?;
        model.names.remove(path);
        Ok(())
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        let mut model = self.0.lock();
        model.step().map_err(Fault::error)?;
        model.durable_names.retain(|path, _| path.parent() != Some(directory));
        let here = model.names.iter().filter(|(path, _)| path.parent() == Some(directory));
        let here: Vec<(PathBuf, usize)> = here.map(|(path, file)| (path.clone(), *file)).collect();
        model.durable_names.extend(here);
        model.forget_unnamed();
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>> {
        let mut model = self.0.lock();
        let file = model.file(path);
        model.durable_names.insert(path.to_owned(), file);
        if !model.locked.insert(path.to_owned()) {
            return Ok(None);
        }
        Ok(Some(Box::new(Lock { disk: self.clone(), path: path.to_owned(), generation: model.generation })))
    }
}

struct Lock {
    disk: ModelDisk,
    path: PathBuf,
    generation: u64,
}

impl Drop for Lock {
    fn drop(&mut self) {
        let mut model = self.disk.0.lock();
        if model.generation == self.generation {
            model.locked.remove(&self.path);
        }
    }
}

struct Handle {
    disk: ModelDisk,
    file: usize,
    generation: u64,
}

impl Handle {
    /// Runs one writing operation on the file; `half` is what a failing one leaves behind.
    fn run(&mut self, whole: impl FnOnce(&mut ModelFile), half: impl FnOnce(&mut ModelFile)) -> io::Result<()> {
        let mut model = self.disk.0.lock();
        if model.generation != self.generation {
            return Err(io::Error::other("the modelled machine lost power"));
        }
        let step = model.step();
        let file = &mut model.files[self.file];
        match step {
            Ok(()) => whole(file),
            Err(_) => half(file),
        }
        step.map_err(Fault::error)
    }
}

impl DiskFile for Handle {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.run(|file| file.content.extend_from_slice(bytes), |file| file.content.extend_from_slice(&bytes[..bytes.len() / 2]))
    }

    fn overwrite(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        self.run(|file| file.overwrite(offset, bytes), |file| file.overwrite(offset, &bytes[..bytes.len() / 2]))
    }

    fn sync(&mut self) -> io::Result<()> {
        self.run(ModelFile::sync, ModelFile::fail_to_sync)
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        self.run(|file| file.truncate(length), |_| ())
    }
}
