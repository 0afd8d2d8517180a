//! The metadata index: which images are here, under which names, made of which layers. One JSON file,
//! replaced atomically; the rules of names live here, the files themselves elsewhere.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::content::replace_file;
use crate::digest::Digest;
use crate::error::{ImageError, IoContext};
use crate::holders::Holder;
use crate::layer::LayerUsage;
use crate::reference::Reference;

const VERSION: u32 = 1;
/// Of a shortened image ID: fewer are rather a name that is misspelt.
const FEWEST_DIGITS: usize = 4;

/// One image, identified by the digest of its configuration as in CRI.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The manifest for this platform.
    pub(crate) manifest: Digest,
    /// Chain IDs, the base first.
    pub(crate) layers: Vec<Digest>,
    /// The image configuration's user, for CRI's uid and username.
    pub(crate) user: String,
    pub(crate) repo_tags: BTreeSet<String>,
    pub(crate) repo_digests: BTreeSet<String>,
    /// Blobs to keep: index, manifest, configuration and, if configured, layers.
    pub(crate) blobs: BTreeSet<Digest>,
    /// Seconds since the epoch.
    pub(crate) last_used: u64,
    #[serde(default)]
    pub(crate) pinned: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Index {
    version: u32,
    pub(crate) images: BTreeMap<Digest, Record>,
    pub(crate) layers: BTreeMap<Digest, LayerUsage>,
    /// Each is in a file of its own; those before had them here, which is why they are read.
    #[serde(default, skip_serializing)]
    pub(crate) holders: BTreeMap<String, Holder>,
}

impl Default for Index {
    fn default() -> Self {
        Self { version: VERSION, images: BTreeMap::new(), layers: BTreeMap::new(), holders: BTreeMap::new() }
    }
}

impl Index {
    pub(crate) fn path(root: &Path) -> PathBuf {
        root.join("images.json")
    }

    pub(crate) fn load(root: &Path) -> Result<Self, ImageError> {
        let path = Self::path(root);
        let bytes = match std::fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            read => read.at("read", &path)?,
        };
        let index: Self = serde_json::from_slice(&bytes).map_err(|e| ImageError::BadIndex { path: path.clone(), reason: e.to_string() })?;
        if index.version != VERSION {
            let reason = format!("version {} was written by another release, this one reads version {VERSION}", index.version);
            return Err(ImageError::BadIndex { path, reason });
        }
        Ok(index)
    }

    pub(crate) fn save(&self, root: &Path) -> Result<(), ImageError> {
        let path = Self::path(root);
        let bytes = serde_json::to_vec(self).map_err(|e| ImageError::BadIndex { path: path.clone(), reason: e.to_string() })?;
        Ok(replace_file(&path, &bytes)?)
    }

    /// The image that a name, a digested name or an image ID (with or without `sha256:`) stands for.
    pub(crate) fn find(&self, text: &str) -> Result<Option<(&Digest, &Record)>, ImageError> {
        let id = text.parse::<Digest>().or_else(|_| format!("sha256:{text}").parse());
        if let Ok(id) = id {
            return Ok(self.images.get_key_value(&id));
        }
        let reference: Reference = text.parse()?;
        let found = match reference.digest() {
            Some(digest) => {
                let name = reference.repo_digest(digest);
                self.images.iter().find(|(_, record)| record.repo_digests.contains(&name))
            }
            None => {
                let name = reference.repo_tag().unwrap_or_default();
                self.images.iter().find(|(_, record)| record.repo_tags.contains(&name))
            }
        };
        Ok(found)
    }

    /// The same for an operator, who may also give the first digits of an image ID, as lists show it.
    pub(crate) fn find_meant(&self, text: &str) -> Result<Option<&Digest>, ImageError> {
        let found = self.find(text);
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        if matches!(found, Ok(Some(_))) || digits.len() < FEWEST_DIGITS {
            return Ok(found?.map(|(id, _)| id));
        }
        let mut meant = self.images.keys().filter(|id| id.hex().starts_with(digits));
        match (meant.next(), meant.next()) {
            (Some(id), None) => Ok(Some(id)),
            _ => Ok(found?.map(|(id, _)| id)),
        }
    }

    /// Adds an image or new names for one. A tag belongs to one image only: the one it was given last. Who pins an image means its name:
    /// with the last one the pin goes to whoever has that now.
    pub(crate) fn insert(&mut self, id: Digest, mut record: Record) {
        for (other, old) in &mut self.images {
            if *other != id {
                let before = old.repo_tags.len();
                old.repo_tags.retain(|tag| !record.repo_tags.contains(tag));
                if old.repo_tags.is_empty() && before > 0 {
                    record.pinned |= std::mem::take(&mut old.pinned);
                }
            }
        }
        match self.images.get_mut(&id) {
            Some(old) => {
                old.repo_tags.extend(record.repo_tags);
                old.repo_digests.extend(record.repo_digests);
                old.blobs.extend(record.blobs);
                old.manifest = record.manifest;
                old.last_used = old.last_used.max(record.last_used);
                old.pinned |= record.pinned;
            }
            None => {
                self.images.insert(id, record);
            }
        }
    }

    /// All chain IDs that must stay on disk.
    pub(crate) fn kept_layers(&self) -> HashSet<Digest> {
        let of_images = self.images.values().flat_map(|r| &r.layers);
        of_images.chain(self.holders.values().flat_map(|h| &h.layers)).cloned().collect()
    }

    pub(crate) fn kept_blobs(&self) -> HashSet<Digest> {
        self.images.values().flat_map(|r| &r.blobs).cloned().collect()
    }

    /// What an image's layers take together.
    pub(crate) fn usage(&self, layers: &[Digest]) -> LayerUsage {
        layers
            .iter()
            .filter_map(|layer| self.layers.get(layer))
            .fold(LayerUsage::default(), |sum, layer| LayerUsage { bytes: sum.bytes + layer.bytes, inodes: sum.inodes + layer.inodes })
    }

    /// Drops images whose layers are no longer on disk, as after someone deleted files by hand; gives their IDs.
    pub(crate) fn drop_incomplete(&mut self, is_present: impl Fn(&Digest) -> bool) -> Vec<Digest> {
        let broken: Vec<_> = self.images.iter().filter(|(_, r)| !r.layers.iter().all(&is_present)).map(|(id, _)| id.clone()).collect();
        for id in &broken {
            self.images.remove(id);
        }
        broken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(n: u8, tags: &[&str], digests: &[String]) -> Record {
        Record {
            manifest: Digest::of(&[n, 1]),
            layers: vec![Digest::of(&[n, 2])],
            user: String::new(),
            repo_tags: tags.iter().map(|t| (*t).to_owned()).collect(),
            repo_digests: digests.iter().cloned().collect(),
            blobs: BTreeSet::new(),
            last_used: 0,
            pinned: false,
        }
    }

    fn id(n: u8) -> Digest {
        Digest::of(&[n])
    }

    #[test]
    fn an_image_is_found_by_short_name_digest_and_id() {
        let mut index = Index::default();
        let by_digest = format!("docker.io/library/a@{}", id(9));
        index.insert(id(1), record(1, &["docker.io/library/a:latest"], std::slice::from_ref(&by_digest)));
        for text in ["a", "a:latest", "docker.io/library/a", &by_digest, &format!("a:other@{}", id(9)), &id(1).to_string(), id(1).hex()] {
            assert!(index.find(text).unwrap().is_some(), "{text}");
        }
        for text in ["b", "a:1", id(2).hex()] {
            assert!(index.find(text).unwrap().is_none(), "{text}");
        }
        assert!(index.find("Not A Name").is_err());
    }

    #[test]
    fn a_tag_moves_to_the_image_it_was_given_last() {
        let mut index = Index::default();
        index.insert(id(1), record(1, &["r/a:x", "r/a:y"], &[]));
        index.insert(id(2), record(2, &["r/a:x"], &[]));
        assert_eq!(index.images[&id(1)].repo_tags, BTreeSet::from(["r/a:y".to_owned()]));
        index.insert(id(1), record(1, &["r/a:z"], &[]));
        assert_eq!(index.images[&id(1)].repo_tags.len(), 2, "names of the same image add up");
    }

    #[test]
    fn a_pin_goes_with_the_last_tag() {
        let mut index = Index::default();
        index.insert(id(1), Record { pinned: true, ..record(1, &["r/a:x", "r/a:y"], &[]) });
        let pinned = |index: &Index| index.images.values().filter(|r| r.pinned).map(|r| r.manifest.clone()).collect::<Vec<_>>();
        index.insert(id(2), record(2, &["r/a:x"], &[]));
        assert_eq!(pinned(&index), [Digest::of(&[1, 1])]);
        index.insert(id(2), record(2, &["r/a:y"], &[]));
        assert_eq!(pinned(&index), [Digest::of(&[2, 1])]);
    }

    #[test]
    fn the_first_digits_of_an_id_do_where_they_are_of_one_image_only() {
        let mut index = Index::default();
        let ids = ["abcd1", "abcd2"].map(|start| format!("sha256:{start:0<64}").parse::<Digest>().unwrap());
        for id in &ids {
            index.insert(id.clone(), record(1, &[], &[]));
        }
        assert_eq!(
            ["abcd1", "sha256:abcd2", "abcd", "abc"].map(|text| index.find_meant(text).unwrap()),
            [Some(&ids[0]), Some(&ids[1]), None, None]
        );
        index.insert(id(3), record(3, &["docker.io/library/abcd1:latest"], &[]));
        assert_eq!(index.find_meant("abcd1").unwrap(), Some(&id(3)), "a name comes first");
        assert!(index.find_meant("Not A Name").is_err());
    }

    #[test]
    fn held_layers_are_kept_when_their_image_is_gone() {
        let mut index = Index::default();
        index.holders.insert("container".into(), Holder { image: id(1), layers: vec![id(3)] });
        assert_eq!(index.kept_layers(), HashSet::from([id(3)]));
    }

    #[test]
    fn an_index_of_another_version_is_refused_and_one_of_ours_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut index = Index::load(folder.path()).unwrap();
        index.insert(id(1), record(1, &["r/a:x"], &[]));
        index.save(folder.path()).unwrap();
        assert_eq!(Index::load(folder.path()).unwrap(), index);
        index.version = 99;
        index.save(folder.path()).unwrap();
        assert!(matches!(Index::load(folder.path()), Err(ImageError::BadIndex { .. })));
    }
}
