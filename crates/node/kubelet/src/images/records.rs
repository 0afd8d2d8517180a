//! The files by which a kubelet knows which images it has pulled and with whose credentials, in upstream's form and place
//! (`image_manager` below its directory): an intent before each pull, and a record after it. A pull that a kill cut off is the kubelet's
//! too, since its intent is still there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use fram_cri::Image;
use fram_machinery::{Value, json, object};
use parking_lot::Mutex;

use super::access::{PullAccount, PullSecret, Used, Verdict, Verification, noted, verdict};
use crate::durable::{self, DurableError, Flush};

pub(super) struct Records {
    dir: PathBuf,
    policy: Verification,
    /// Held while files are read or written.
    pulls: Mutex<Pulls>,
}

#[derive(Default)]
struct Pulls {
    /// Those under way by image.
    under_way: BTreeMap<String, usize>,
    ended: u64,
}

/// Of a folder, the file of an image; the name itself may have signs that no file name has.
fn file(folder: &Path, of: &str) -> PathBuf {
    folder.join(format!("sha256-{}", super::keyring::sha256(of.as_bytes())))
}

/// None where there is none; one that cannot be read is as good as a pull of which nothing is known.
fn read(path: &Path) -> Option<Value> {
    let bytes = fs::read(path).ok()?;
    Some(json::from_slice(&bytes).unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), %error, "a record of a pulled image cannot be read: the image is verified anew");
        object!({})
    }))
}

impl Records {
    pub(super) fn new(root: &Path, policy: Verification) -> Self {
        Self { dir: root.join("image_manager"), policy, pulls: Mutex::default() }
    }

    fn intents(&self) -> PathBuf {
        self.dir.join("pulling")
    }

    fn pulled(&self) -> PathBuf {
        self.dir.join("pulled")
    }

    /// To be called before a pull, and [`Records::end`] after it.
    pub(super) fn begin(&self, image: &str) -> Result<(), DurableError> {
        let intent = object!({ "kind": "ImagePullIntent", "apiVersion": "kubelet.config.k8s.io/v1beta1", "image": image });
        let mut pulls = self.pulls.lock();
        durable::replace(&file(&self.intents(), image), &json::to_vec(&intent), Flush::Yes)?;
        *pulls.under_way.entry(image.to_owned()).or_default() += 1;
        Ok(())
    }

    /// `outcome` is the image's id and whose credentials opened it, None where it could not be pulled. A record that cannot be written leaves
    /// the intent, so that the image does not pass for one that was there before.
    pub(super) fn end(&self, image: &str, outcome: Option<(&str, &Used)>, now: &str) {
        let mut pulls = self.pulls.lock();
        pulls.ended += 1;
        let left = pulls.under_way.get(image).map_or(0, |count| count.saturating_sub(1));
        if left > 0 {
            pulls.under_way.insert(image.to_owned(), left);
        } else {
            pulls.under_way.remove(image);
        }
        if let Some((id, used)) = outcome
            && let Err(error) = self.note(image, id, Some(used), now)
        {
            tracing::error!(image, %error, "that an image was pulled could not be recorded");
            return;
        }
        if left == 0 {
            remove(&file(&self.intents(), image));
        }
    }

    fn note(&self, image: &str, id: &str, used: Option<&Used>, now: &str) -> Result<(), DurableError> {
        let path = file(&self.pulled(), id);
        match noted(read(&path).as_ref(), image, id, used, now) {
            Some(record) => durable::replace(&path, &json::to_vec(&record), Flush::Yes),
            None => Ok(()),
        }
    }

    /// Whether a pod with these secrets has to ask the registry for an image that is on the node.
    pub(super) fn must_ask(&self, image: &str, id: &str, own: &[PullSecret], account: Option<&PullAccount>, now: &str) -> bool {
        let _whole = self.pulls.lock();
        let record = read(&file(&self.pulled(), id));
        let pulled_here = record.is_some() || file(&self.intents(), image).exists();
        if !self.policy.concerns(image, pulled_here) {
            return false;
        }
        match record.map_or(Verdict::Ask, |record| verdict(&record, image, own, account)) {
            Verdict::Allowed => false,
            Verdict::AllowedBy(secret) => {
                if let Err(error) = self.note(image, id, Some(&Used::Secret(secret)), now) {
                    tracing::warn!(image, %error, "whose credentials open an image could not be recorded");
                }
                false
            }
            Verdict::Ask => true,
        }
    }

    /// After a start: what was being pulled when the kubelet ended.
    pub(super) fn interrupted(&self) -> Vec<String> {
        let _whole = self.pulls.lock();
        let name = |path: PathBuf| read(&path).map(|intent| intent.str_at(&["image"]).to_string()).filter(|name| !name.is_empty());
        files(&self.intents()).into_iter().filter_map(name).collect()
    }

    /// One of these is there: it is recorded as pulled by nobody knows whom.
    pub(super) fn recover(&self, image: &str, id: &str, now: &str) {
        let _whole = self.pulls.lock();
        match self.note(image, id, None, now) {
            Ok(()) => remove(&file(&self.intents(), image)),
            Err(error) => tracing::error!(image, %error, "that an image was pulled could not be recorded"),
        }
    }

    /// Forgets an image that was removed from the node.
    pub(super) fn forget(&self, id: &str) {
        let _whole = self.pulls.lock();
        remove(&file(&self.pulled(), id));
    }

    /// To be asked before images are listed for [`Records::prune`].
    pub(super) fn ended(&self) -> u64 {
        self.pulls.lock().ended
    }

    /// Forgets images that others have removed: those that are not among `images`, listed when `ended` pulls had ended.
    pub(super) fn prune(&self, images: &[Image], ended: u64) {
        let pulls = self.pulls.lock();
        // What was pulled since is recorded and not in the list; the next look finds it.
        if !pulls.under_way.is_empty() || pulls.ended != ended {
            return;
        }
        let is_gone = |record: Value| {
            let id = record.str_at(&["imageRef"]);
            !id.is_empty() && images.iter().all(|image| image.id != id)
        };
        for path in files(&self.pulled()) {
            if read(&path).is_some_and(is_gone) {
                remove(&path);
            }
        }
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).filter(|path| path.extension().is_none()).collect()
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "a record of a pull could not be removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(name: &str) -> PullSecret {
        PullSecret { uid: name.into(), namespace: "ns".into(), name: name.into(), hash: name.into() }
    }

    fn image(id: &str, tag: &str) -> Image {
        Image { id: id.into(), repo_tags: vec![tag.into()], ..Image::default() }
    }

    #[test]
    fn what_a_secret_has_opened_is_closed_to_others_also_after_a_restart() {
        let root = tempfile::tempdir().unwrap();
        let open = || Records::new(root.path(), Verification::default());
        let records = open();
        // What was there before the kubelet is everybody's.
        assert!(!records.must_ask("reg/app:1", "id", &[], None, "now"));
        records.begin("reg/app:1").unwrap();
        assert!(records.must_ask("reg/app:1", "id", &[], None, "now"));
        records.end("reg/app:1", Some(("id", &Used::Secret(secret("a")))), "now");
        for records in [records, open()] {
            assert!(
                records.must_ask("reg/app:1", "id", &[], None, "now") && records.must_ask("reg/app:1", "id", &[secret("b")], None, "now")
            );
            assert!(!records.must_ask("reg/app:1", "id", &[secret("a")], None, "now"));
        }
        let left = || files(&root.path().join("image_manager/pulled")).len();
        open().prune(&[image("other", "x")], 1);
        assert_eq!(left(), 1);
        open().prune(&[image("other", "x")], 0);
        assert_eq!(left(), 0);
    }

    #[test]
    fn a_pull_that_was_cut_off_is_the_kubelets_and_one_that_failed_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        Records::new(root.path(), Verification::default()).begin("reg/app:1").unwrap();
        let records = Records::new(root.path(), Verification::default());
        assert_eq!(records.interrupted(), ["reg/app:1"]);
        records.recover("reg/app:1", "id", "now");
        assert!(files(&records.intents()).is_empty());
        assert!(records.must_ask("reg/app:1", "id", &[secret("a")], None, "now"));
        records.forget("id");
        assert!(!records.must_ask("reg/app:1", "id", &[], None, "now"));
        records.begin("reg/b").unwrap();
        records.begin("reg/b").unwrap();
        records.end("reg/b", None, "now");
        assert!(records.must_ask("reg/b", "b", &[], None, "now"));
        records.end("reg/b", None, "now");
        assert!(!records.must_ask("reg/b", "b", &[], None, "now"));
    }
}
