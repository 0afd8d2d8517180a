//! Pods from files: a directory is watched, and what stands in it runs whatever the API server
//! says. See upstream's pkg/kubelet/config/file.go. What a URL gives runs likewise (`url`).

pub(crate) mod manifest;
pub(crate) mod mirror;
pub(crate) mod url;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fram_api::Api;
use fram_cri::PodSandbox;
use fram_machinery::{Value, meta};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::activity::Activity;
use crate::clock;
use crate::context::Context;
use manifest::{HASH, SEEN, SOURCE, read};

/// The pods of the files and of the URL, as they were read last. Clones share it.
#[derive(Clone)]
pub(crate) struct StaticPods {
    pods: watch::Sender<Vec<Arc<Value>>>,
    /// Held until what changed in it is told: two at once would tell of an old one last.
    sources: Arc<Mutex<Sources>>,
}

type Pods = Vec<Arc<Value>>;

#[derive(Default)]
struct Sources {
    files: Pods,
    /// None until the URL has given anything.
    url: Option<Pods>,
}

impl Sources {
    /// Of two pods with one name the first one counts, and one of a file before one of the URL.
    fn joined(&self) -> Pods {
        let mut pods = Pods::new();
        for pod in self.files.iter().chain(self.url.iter().flatten()) {
            if !pods.iter().any(|p| meta::key(p) == meta::key(pod)) {
                pods.push(pod.clone());
            }
        }
        pods
    }
}

impl Default for StaticPods {
    fn default() -> Self {
        Self { pods: watch::Sender::new(Vec::new()), sources: Arc::default() }
    }
}

impl StaticPods {
    pub(crate) fn list(&self) -> Vec<Arc<Value>> {
        self.pods.borrow().clone()
    }

    pub(crate) fn get(&self, key: &str) -> Option<Arc<Value>> {
        self.pods.borrow().iter().find(|p| meta::key(p) == key).cloned()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Vec<Arc<Value>>> {
        self.pods.subscribe()
    }

    /// Those who wait for changes look again.
    pub(crate) fn touch(&self) {
        self.pods.send_modify(|_| {});
    }

    fn set_files(&self, pods: Pods) {
        self.change(|sources| sources.files = pods);
    }

    fn set_url(&self, pods: Pods) {
        if self.change(|sources| sources.url.replace(pods).is_none()) {
            self.touch();
        }
    }

    /// Whether it is known what the URL gives.
    pub(crate) fn url_is_known(&self) -> bool {
        self.sources.lock().url.is_some()
    }

    fn change<T>(&self, change: impl FnOnce(&mut Sources) -> T) -> T {
        let mut sources = self.sources.lock();
        let done = change(&mut sources);
        let pods = sources.joined();
        self.pods.send_if_modified(|known| {
            let news = *known != pods;
            *known = pods;
            news
        });
        done
    }
}

/// Whether a sandbox is that of a pod which the URL has given. The source alone would be an annotation that any pod may have; the hash is
/// the uid only of those that the kubelet has read itself.
pub(crate) fn is_of_url(sandbox: &PodSandbox) -> bool {
    let annotation = |key| sandbox.annotations.get(key).map(String::as_str);
    annotation(SOURCE) == Some("http") && annotation(HASH) == Some(&sandbox.metadata.uid)
}

pub(crate) type Files = BTreeMap<PathBuf, Known>;

/// What was read of one file.
pub(crate) struct Known {
    text: String,
    pod: Option<Arc<Value>>,
}

/// Reads the directory again whenever something in it changes, until `stop`. `known` is what was read at first.
pub(crate) async fn keep(ctx: Arc<Context>, dir: PathBuf, mut known: Files, stop: CancellationToken) {
    let mut activity = Activity::of_folders(&[&dir]);
    stop.run_until_cancelled(async {
        loop {
            load(&ctx, &dir, &mut known);
            activity.changed().await;
        }
    })
    .await;
}

/// Reads every file for the first time; the directory is made where there is none.
pub(crate) fn begin(ctx: &Context, dir: &Path) -> Files {
    if let Err(error) = std::fs::create_dir_all(dir) {
        tracing::error!(?dir, %error, "there are no static pods: the directory cannot be made");
    }
    let mut known = Files::new();
    load(ctx, dir, &mut known);
    known
}

fn load(ctx: &Context, dir: &Path, known: &mut Files) {
    let mut texts = BTreeMap::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        // Editors and package managers leave files that begin with a dot.
        if !entry.file_name().to_string_lossy().starts_with('.') && path.is_file() {
            match std::fs::read_to_string(&path) {
                // One that was only just made is about to be written.
                Ok(text) if text.is_empty() => {}
                Ok(text) => drop(texts.insert(path, text)),
                Err(error) => tracing::warn!(?path, %error, "the file of a static pod cannot be read"),
            }
        }
    }
    known.retain(|path, _| texts.contains_key(path));
    // The descriptions of kinds are only needed while files are read.
    let mut api: Option<Api> = None;
    for (path, text) in texts {
        if known.get(&path).is_some_and(|k| k.text == text) {
            continue;
        }
        let pod = match api.take().map_or_else(Api::builtin, Ok) {
            Ok(built) => {
                let read = read(&built, &text, &path, &ctx.config.node_name).map_err(|error| error.to_string());
                api = Some(built);
                read
            }
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = &pod {
            tracing::error!(?path, error, "a static pod cannot be run");
            ctx.node_event(true, "InvalidStaticPod", format!("{path:?}: {error}"));
        }
        let seen = clock::time(ctx.clock.now());
        let pod = pod.ok().map(|mut pod| {
            pod.set(&["metadata", "annotations", SEEN], seen);
            Arc::new(pod)
        });
        known.insert(path, Known { text, pod });
    }
    ctx.statics.set_files(known.values().filter_map(|k| k.pod.clone()).collect());
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use fram_machinery::object;

    use super::*;

    fn pods(name: &str) -> Pods {
        vec![Arc::new(object!({ "metadata": { "name": name } }))]
    }

    #[test]
    fn a_pod_is_of_the_url_where_its_uid_is_made_of_what_it_says() {
        let sandbox = |annotations: &[(&str, &str)]| PodSandbox {
            metadata: fram_cri::PodSandboxMetadata { uid: "u".into(), ..Default::default() },
            annotations: annotations.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
            ..PodSandbox::default()
        };
        assert!(is_of_url(&sandbox(&[(SOURCE, "http"), (HASH, "u")])));
        for annotations in [&[(SOURCE, "http")][..], &[(SOURCE, "http"), (HASH, "v")], &[(SOURCE, "file"), (HASH, "u")], &[]] {
            assert!(!is_of_url(&sandbox(annotations)), "{annotations:?}");
        }
    }

    #[test]
    fn one_source_waits_until_what_the_other_has_said_is_told() {
        let statics = StaticPods::default();
        std::thread::scope(|threads| {
            // A reader keeps what files say from being told.
            let reader = statics.pods.borrow();
            threads.spawn(|| statics.set_files(pods("file")));
            let began = Instant::now();
            while !statics.sources.is_locked() && began.elapsed() < Duration::from_secs(5) {
                std::thread::yield_now();
            }
            let seen = Instant::now();
            while seen.elapsed() < Duration::from_millis(50) {
                assert!(statics.sources.is_locked(), "the URL could tell of what was before");
            }
            drop(reader);
        });
        statics.set_url([pods("url"), pods("file")].concat());
        assert_eq!(statics.list(), [pods("file"), pods("url")].concat());
    }
}
