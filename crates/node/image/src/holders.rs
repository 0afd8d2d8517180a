//! Who holds layers, a small file for each. It outlives the process, not a loss of power, after which nothing runs any more that could
//! hold anything: so a container that comes or goes does not wait for the disk, nor for the index of all images to be written.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{ImageError, IoContext};

/// Someone (a container) that uses an image's layers, whatever becomes of the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    pub(crate) image: Digest,
    pub(crate) layers: Vec<Digest>,
}

/// What a file says.
#[derive(Serialize, Deserialize)]
struct Held {
    name: String,
    #[serde(flatten)]
    holder: Holder,
}

pub(crate) struct Holders {
    folder: PathBuf,
}

impl Holders {
    pub(crate) fn open(root: &Path) -> Result<Self, ImageError> {
        let folder = root.join("holders");
        fs::create_dir_all(&folder).at("create folder", &folder)?;
        Ok(Self { folder })
    }

    /// A name may be any text, so files are named by its digest.
    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(Digest::of(name.as_bytes()).hex())
    }

    /// All of them. Those that a loss of power has left in part are gone with what they were for.
    pub(crate) fn load(&self) -> Result<BTreeMap<String, Holder>, ImageError> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(&self.folder).at("list", &self.folder)? {
            let path = entry.at("list", &self.folder)?.path();
            match serde_json::from_slice::<Held>(&fs::read(&path).at("read", &path)?) {
                Ok(Held { name, holder }) if path == self.path(&name) => drop(found.insert(name, holder)),
                _ => {
                    tracing::warn!(path = %path.display(), "a holder of layers that is not understood is forgotten");
                    fs::remove_file(&path).at("remove", &path)?;
                }
            }
        }
        Ok(found)
    }

    pub(crate) fn write(&self, name: &str, holder: &Holder) -> Result<(), ImageError> {
        let (path, holder) = (self.path(name), holder.clone());
        let bytes = serde_json::to_vec(&Held { name: name.to_owned(), holder });
        let bytes = bytes.map_err(|e| ImageError::BadIndex { path: path.clone(), reason: e.to_string() })?;
        // Whole or not at all, whenever the process is killed.
        let temporary = path.with_extension("new");
        fs::write(&temporary, bytes).at("write", &temporary)?;
        Ok(fs::rename(&temporary, &path).at("rename to", &path)?)
    }

    pub(crate) fn remove(&self, name: &str) -> Result<(), ImageError> {
        let path = self.path(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => Ok(removed.at("remove", &path)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_whole_is_found_again_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let holders = Holders::open(folder.path()).unwrap();
        let holder = |n: u8| Holder { image: Digest::of(&[n]), layers: vec![Digest::of(&[n, n])] };
        holders.write("a/../b", &holder(1)).unwrap();
        holders.write("c", &holder(2)).unwrap();
        holders.write("c", &holder(3)).unwrap();
        fs::write(holders.path("torn"), b"{\"name\":").unwrap();
        fs::write(holders.folder.join("half.new"), b"").unwrap();
        let expect = BTreeMap::from([("a/../b".to_owned(), holder(1)), ("c".to_owned(), holder(3))]);
        assert_eq!(Holders::open(folder.path()).unwrap().load().unwrap(), expect);
        holders.remove("c").unwrap();
        holders.remove("c").unwrap();
        assert_eq!(holders.load().unwrap().len(), 1);
        assert_eq!(fs::read_dir(&holders.folder).unwrap().count(), 1);
    }
}
