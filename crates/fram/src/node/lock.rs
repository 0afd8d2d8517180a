//! One node per data directory at a time.

use std::path::Path;

use anyhow::Context;
use nix::fcntl::{Flock, FlockArg};

/// Held while a node runs, or is taken down; released with the process at the latest.
pub(crate) struct NodeLock {
    _file: Flock<std::fs::File>,
}

const FILE: &str = "node.lock";

impl NodeLock {
    pub(crate) fn take(data: &Path) -> anyhow::Result<Self> {
        let path = data.join(FILE);
        let file = std::fs::File::options().create(true).append(true).open(&path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        let locked = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| error);
        let file = locked.with_context(|| format!("cannot lock {}: another fram runs on this data", path.display()))?;
        Ok(Self { _file: file })
    }

    /// Whether a node has ever run on this data.
    pub(crate) fn exists(data: &Path) -> bool {
        data.join(FILE).exists()
    }
}
