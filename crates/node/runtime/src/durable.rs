//! Files that are replaced as a whole: a reader sees the old contents or the new, whenever the writer dies.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

#[derive(Debug, Error)]
pub enum DurableError {
    #[error("{operation} {path:?}: {source}")]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("{path:?} is not understood: {source}")]
    Malformed { path: PathBuf, source: serde_json::Error },
}

/// Whether the contents must be on the disk when the call returns, or only must not be torn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sync {
    Yes,
    No,
}

pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T, sync: Sync) -> Result<(), DurableError> {
    let json = serde_json::to_vec(value).map_err(|source| DurableError::Malformed { path: path.to_path_buf(), source })?;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let failed = |operation, source| DurableError::Io { operation, path: path.to_path_buf(), source };
    let mut file = File::create(&temporary).map_err(|source| failed("create", source))?;
    file.write_all(&json).map_err(|source| failed("write", source))?;
    if sync == Sync::Yes {
        file.sync_data().map_err(|source| failed("sync", source))?;
    }
    fs::rename(&temporary, path).map_err(|source| failed("rename", source))?;
    if sync == Sync::Yes
        && let Some(parent) = path.parent()
    {
        File::open(parent).and_then(|parent| parent.sync_all()).map_err(|source| failed("sync directory of", source))?;
    }
    Ok(())
}

/// `None` when there is no such file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, DurableError> {
    let json = match fs::read(path) {
        Ok(json) => json,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(DurableError::Io { operation: "read", path: path.to_path_buf(), source }),
    };
    let value = serde_json::from_slice(&json).map_err(|source| DurableError::Malformed { path: path.to_path_buf(), source })?;
    Ok(Some(value))
}
