//! Files that are replaced as a whole: who is killed meanwhile finds the old contents or the new. What they hold is their writers'.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
#[error("{operation} {path:?}: {source}")]
pub struct DurableError {
    operation: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Whether the contents have to be on the disk before the name leads to them, so that they survive a loss of power too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flush {
    Yes,
    No,
}

/// The folder is made where it is missing.
pub(crate) fn replace(path: &Path, contents: &[u8], flush: Flush) -> Result<(), DurableError> {
    let new = path.with_added_extension("new");
    let failed = |operation| {
        let path = new.clone();
        move |source| DurableError { operation, path, source }
    };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed("create the folder of"))?;
    }
    let mut file = File::create(&new).map_err(failed("create"))?;
    file.write_all(contents).map_err(failed("write"))?;
    if flush == Flush::Yes {
        file.sync_all().map_err(failed("flush"))?;
    }
    fs::rename(&new, path).map_err(failed("rename"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_a_failure_names_it_and_leaves_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        replace(&path, b"old", Flush::Yes).unwrap();
        replace(&path, b"new", Flush::No).unwrap();
        assert_eq!((fs::read(&path).unwrap(), fs::read_dir(folder.path()).unwrap().count()), (b"new".to_vec(), 1));
        fs::create_dir(folder.path().join("state.json.new")).unwrap();
        let error = replace(&path, b"newer", Flush::Yes).unwrap_err().to_string();
        assert!(error.starts_with("create ") && error.contains("state.json.new"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }
}
