//! Inputs of a target: those that are kept in the repository, and those that a search leaves for the next one.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};

use crate::Target;

pub(crate) struct Inputs {
    all: Vec<Vec<u8>>,
    work: PathBuf,
    /// Holds the input at hand, for the case that the process does not come back from it.
    current: Option<fs::File>,
    name: &'static str,
}

fn read(folder: &Path) -> Vec<Vec<u8>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
    paths.sort();
    paths.iter().filter_map(|path| fs::read(path).ok()).collect()
}

fn name_of(input: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    input.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

impl Inputs {
    pub(crate) fn kept(target: &Target, folder: &Path) -> Self {
        let mut all: Vec<Vec<u8>> = target.seeds.iter().map(|s| s.to_vec()).collect();
        all.extend(read(&folder.join("fuzz").join(target.name)));
        Self { all, work: PathBuf::new(), current: None, name: target.name }
    }

    pub(crate) fn all(&self) -> &[Vec<u8>] {
        &self.all
    }

    /// Adds what earlier searches left, and leaves there what this one finds.
    pub(crate) fn open(&mut self, work: &Path, name: &str) {
        let folder = work.join("corpus").join(name);
        fs::create_dir_all(&folder).unwrap_or_else(|e| panic!("create {}: {e}", folder.display()));
        self.all.extend(read(&folder));
        if self.all.is_empty() {
            self.all.push(Vec::new());
        }
        let current = work.join(format!("{name}.current"));
        self.current = Some(fs::File::create(&current).unwrap_or_else(|e| panic!("create {}: {e}", current.display())));
        self.work = work.into();
    }

    /// Says which input is tried now.
    pub(crate) fn note(&mut self, input: &[u8]) {
        if let Some(file) = &mut self.current {
            // Nothing depends on it but the search for what ended the process.
            let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(input));
        }
    }

    pub(crate) fn add(&mut self, input: Vec<u8>) {
        let path = self.work.join("corpus").join(self.name).join(name_of(&input));
        // The search goes on without it.
        let _ = fs::write(path, &input);
        self.all.push(input);
    }

    /// Leaves an input that something is wrong with.
    pub(crate) fn found(&self, input: &[u8]) -> PathBuf {
        let path = self.work.join(format!("{}-{}", self.name, name_of(input)));
        fs::write(&path, input).unwrap_or_else(|e| panic!("write {}: {e}", path.display()));
        path
    }
}

/// Cuts an input into the pieces that a target of several arguments takes: at each byte 0.
pub struct Pieces<'a> {
    rest: &'a [u8],
}

impl<'a> Pieces<'a> {
    pub fn of(input: &'a [u8]) -> Self {
        Self { rest: input }
    }

    /// The next piece, which is empty behind the last.
    pub fn bytes(&mut self) -> &'a [u8] {
        let (piece, rest) = match self.rest.iter().position(|b| *b == 0) {
            Some(end) => (&self.rest[..end], &self.rest[end + 1..]),
            None => (self.rest, &[][..]),
        };
        self.rest = rest;
        piece
    }

    /// The same as text, up to where it is none.
    pub fn text(&mut self) -> &'a str {
        let piece = self.bytes();
        std::str::from_utf8(piece).unwrap_or_else(|e| std::str::from_utf8(&piece[..e.valid_up_to()]).unwrap_or_default())
    }
}
