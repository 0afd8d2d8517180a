//! The files by which a kubelet knows which images it has pulled and with whose credentials, in upstream's form and place
//! (`image_manager` below its directory): an intent before each pull, and a record after it. A pull that a kill cut off is the kubelet's
//! too, since its intent is still there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

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
    under_way: BTreeMap<String, UnderWay>,
    ended: u64,
}

#[derive(Default)]
struct UnderWay {
    pulls: Vec<Weak<str>>,
    /// One of them, or one before them, may have left the image on the node without a record: the intent says so, and stays.
    is_unsure: bool,
}

impl UnderWay {
    /// Whether any is left. Of one that was given up nobody knows what came of it: who did the work may have gone on.
    fn look(&mut self) -> bool {
        let before = self.pulls.len();
        self.pulls.retain(|pull| pull.strong_count() > 0);
        self.is_unsure |= self.pulls.len() < before;
        !self.pulls.is_empty()
    }
}

/// A pull under way, of this image. Where it is dropped before [`Records::end`], its intent stays.
pub(super) struct Pull(Arc<str>);

/// What came of a pull.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum End {
    /// The image's id, and whose credentials opened it.
    Pulled(String, Used),
    /// The registry did not give it: nothing has come to the node.
    Failed,
    /// It may be on the node.
    Unsure,
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
    pub(super) fn begin(&self, image: &str) -> Result<Pull, DurableError> {
        let intent = object!({ "kind": "ImagePullIntent", "apiVersion": "kubelet.config.k8s.io/v1beta1", "image": image });
        let path = file(&self.intents(), image);
        let mut pulls = self.pulls.lock();
        let is_first = !pulls.under_way.contains_key(image);
        // That of a pull that ended nobody knows how.
        let is_left = is_first && path.exists();
        durable::replace(&path, &json::to_vec(&intent), Flush::Yes)?;
        let pull: Arc<str> = image.into();
        let entry = pulls.under_way.entry(image.to_owned()).or_default();
        entry.is_unsure |= is_left;
        entry.pulls.push(Arc::downgrade(&pull));
        Ok(Pull(pull))
    }

    /// The image is on the node; the pull has not ended, since it may go by another id than the runtime has returned.
    pub(super) fn came(&self, pull: &Pull, id: &str, used: &Used, now: &str) {
        let _whole = self.pulls.lock();
        if let Err(error) = self.note(&pull.0, id, Some(used), now) {
            tracing::error!(image = &*pull.0, %error, "that an image was pulled could not be recorded");
        }
    }

    /// A record that cannot be written leaves the intent, so that the image does not pass for one that was there before.
    pub(super) fn end(&self, pull: Pull, end: &End, now: &str) {
        let mut pulls = self.pulls.lock();
        pulls.ended += 1;
        let image = &*pull.0;
        let mut entry = pulls.under_way.remove(image).unwrap_or_default();
        let own = Arc::downgrade(&pull.0);
        entry.pulls.retain(|other| !other.ptr_eq(&own));
        match end {
            End::Pulled(id, used) => match self.note(image, id, Some(used), now) {
                Ok(()) => entry.is_unsure = false,
                Err(error) => {
                    tracing::error!(image, %error, "that an image was pulled could not be recorded");
                    entry.is_unsure = true;
                }
            },
            End::Failed => {}
            End::Unsure => entry.is_unsure = true,
        }
        if entry.look() {
            pulls.under_way.insert(image.to_owned(), entry);
        } else if !entry.is_unsure {
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
        let mut pulls = self.pulls.lock();
        pulls.under_way.retain(|_, entry| entry.look());
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
        let pull = records.begin("reg/app:1").unwrap();
        assert!(records.must_ask("reg/app:1", "id", &[], None, "now"));
        records.end(pull, &End::Pulled("id".into(), Used::Secret(secret("a"))), "now");
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
        let (one, other) = (records.begin("reg/b").unwrap(), records.begin("reg/b").unwrap());
        records.end(one, &End::Failed, "now");
        assert!(records.must_ask("reg/b", "b", &[], None, "now"));
        records.end(other, &End::Failed, "now");
        assert!(!records.must_ask("reg/b", "b", &[], None, "now"));
    }

    #[test]
    fn what_may_have_come_to_the_node_stays_the_kubelets_until_it_is_recorded() {
        let root = tempfile::tempdir().unwrap();
        let records = Records::new(root.path(), Verification::default());
        let must_ask = |image: &str| records.must_ask(image, "id", &[], None, "now");
        let unsure: [(&str, &dyn Fn(Pull)); 2] =
            [("reg/dropped", &drop::<Pull>), ("reg/unsure", &|pull| records.end(pull, &End::Unsure, "now"))];
        for (image, end) in unsure {
            end(records.begin(image).unwrap());
            assert!(must_ask(image), "{image}");
            // Somebody without the right credentials comes next; that says nothing of what was there before.
            records.end(records.begin(image).unwrap(), &End::Failed, "now");
            assert!(must_ask(image), "{image}");
            records.prune(&[], records.ended());
            assert!(must_ask(image), "{image}");
            records.end(records.begin(image).unwrap(), &End::Failed, "now");
            assert!(must_ask(image), "{image}");
        }
        let (dropped, failed) = (records.begin("reg/both").unwrap(), records.begin("reg/both").unwrap());
        drop(dropped);
        records.end(failed, &End::Failed, "now");
        assert!(must_ask("reg/both"));
        records.end(records.begin("reg/both").unwrap(), &End::Pulled("id".into(), Used::Node), "now");
        assert!(!must_ask("reg/both"));
        assert_eq!(files(&records.intents()).len(), 2);
    }
}
