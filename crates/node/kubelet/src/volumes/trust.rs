//! Trust anchors for projected volumes: ClusterTrustBundles by name, or by signer and labels, as one text of PEM. They are followed by a
//! watch that begins with the first pod that asks for one. See upstream's pkg/kubelet/clustertrustbundle.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use fram_client::resources::{CLUSTER_TRUST_BUNDLES, CLUSTER_TRUST_BUNDLES_ALPHA};
use fram_client::{Client, Informer, InformerOptions};
use fram_machinery::labels::{Selector, SelectorError};
use fram_machinery::{Status, Value, meta};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::served;
use crate::objects::Wake;

/// For so long the first list may take.
const SYNC: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub(crate) enum TrustError {
    #[error("ClusterTrustBundle projection is not supported: the API server serves no version of ClusterTrustBundles")]
    NotServed,
    #[error("clustertrustbundle {0:?} not found")]
    NotFound(String),
    #[error("combination of signerName and labelSelector matched zero ClusterTrustBundles")]
    NoMatch,
    #[error("ClusterTrustBundle projection requires either name or signerName to be set")]
    Neither,
    #[error("while parsing label selector: {0}")]
    Selector(#[from] SelectorError),
    #[error("while normalizing trust anchors: {0}")]
    Malformed(#[from] pem::PemError),
    #[error("ClusterTrustBundle informer has not yet synced")]
    NotSynced,
    #[error("failed to determine which version of ClusterTrustBundles is served: {0}")]
    Api(#[from] Status),
}

/// The bundles that a pod's volumes show.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Wanted {
    Name(String),
    Signer(String),
}

impl Wanted {
    fn by(source: &Value) -> Option<Self> {
        match (source.str_at(&["name"]), source.str_at(&["signerName"])) {
            ("", "") => None,
            ("", signer) => Some(Self::Signer(signer.into())),
            (name, _) => Some(Self::Name(name.into())),
        }
    }

    fn is(&self, bundle: &Value) -> bool {
        match self {
            Self::Name(name) => meta::name(bundle) == name,
            Self::Signer(signer) => bundle.str_at(&["spec", "signerName"]) == signer,
        }
    }
}

fn wanted(pod: &Value) -> BTreeSet<Wanted> {
    let sources = super::used(pod).into_iter().flat_map(|v| v.list_at(&["projected", "sources"]));
    sources.filter_map(|s| Wanted::by(s.get("clusterTrustBundle")?)).collect()
}

/// The anchors of the bundles that a source asks for, each once. Their order is the same as long as `order` is.
fn anchors(source: &Value, bundles: &[Arc<Value>], order: &RandomState) -> Result<String, TrustError> {
    let wanted = Wanted::by(source).ok_or(TrustError::Neither)?;
    let selector = match wanted {
        Wanted::Name(_) => Some(Selector::everything()),
        // None matches nothing, an empty one everything.
        Wanted::Signer(_) => Selector::from_object(source.get("labelSelector"))?,
    };
    let fits = |bundle: &&Arc<Value>| wanted.is(bundle) && selector.as_ref().is_some_and(|s| s.matches(meta::labels(bundle)));
    let mut found = bundles.iter().filter(fits).peekable();
    if found.peek().is_none() && source.bool_at(&["optional"]) != Some(true) {
        return Err(match wanted {
            Wanted::Name(name) => TrustError::NotFound(name),
            Wanted::Signer(_) => TrustError::NoMatch,
        });
    }
    let mut all: Vec<(u64, Vec<u8>)> = Vec::new();
    for bundle in found {
        let blocks = pem::parse_many(bundle.str_at(&["spec", "trustBundle"]))?;
        all.extend(blocks.into_iter().map(|block| (order.hash_one(block.contents()), block.into_contents())));
    }
    all.sort_unstable();
    all.dedup();
    Ok(super::certificates_pem(all.into_iter().map(|(_, der)| der)))
}

/// The bundles as this node sees them.
pub(crate) struct TrustBundles {
    client: Client,
    wake: Wake,
    /// Anchors are in an order that changes with each start of the kubelet, so that nobody comes to rely on one.
    order: RandomState,
    holders: Arc<Mutex<HashMap<String, BTreeSet<Wanted>>>>,
    informer: tokio::sync::Mutex<Option<Informer>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl TrustBundles {
    pub(crate) fn new(client: Client, wake: Wake, tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { client, wake, order: RandomState::new(), holders: Arc::default(), informer: Default::default(), tasks, stop }
    }

    /// What one source shows; the pod is woken when that changes.
    pub(crate) async fn get(&self, pod: &Value, source: &Value) -> Result<String, TrustError> {
        // Before anything is read: no change falls between.
        self.holders.lock().insert(meta::uid(pod).to_string(), wanted(pod));
        let informer = self.informer().await?;
        match tokio::time::timeout(SYNC, informer.synced()).await {
            Ok(true) => anchors(source, &informer.list(), &self.order),
            _ => Err(TrustError::NotSynced),
        }
    }

    async fn informer(&self) -> Result<Informer, TrustError> {
        let mut informer = self.informer.lock().await;
        if let Some(informer) = &*informer {
            return Ok(informer.clone());
        }
        for resource in [CLUSTER_TRUST_BUNDLES, CLUSTER_TRUST_BUNDLES_ALPHA] {
            if served(&self.client, &resource, "").await? {
                let options = InformerOptions::default();
                let begun = Informer::start(self.client.clone(), resource, "", options, &self.tasks, self.stop.clone());
                self.tasks.spawn(wake_holders(begun.clone(), self.holders.clone(), self.wake.clone()));
                return Ok(informer.insert(begun).clone());
            }
        }
        Err(TrustError::NotServed)
    }

    pub(crate) fn forget(&self, uid: &str) {
        self.holders.lock().remove(uid);
    }
}

async fn wake_holders(informer: Informer, holders: Arc<Mutex<HashMap<String, BTreeSet<Wanted>>>>, wake: Wake) {
    let mut changes = informer.subscribe();
    while let Some(deltas) = changes.changed().await {
        let concerned = |wanted: &BTreeSet<Wanted>| {
            let mut bundles = deltas.iter().flat_map(|d| d.old.iter().chain(&d.new));
            bundles.any(|bundle| wanted.iter().any(|w| w.is(bundle)))
        };
        let uids: Vec<String> = holders.lock().iter().filter(|(_, wanted)| concerned(wanted)).map(|(uid, _)| uid.clone()).collect();
        uids.iter().for_each(|uid| wake(uid));
    }
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    fn text(contents: &[&str]) -> String {
        contents.iter().map(|c| format!("about {c}\n{}", super::super::certificates_pem([c.as_bytes().to_vec()]))).collect()
    }

    fn bundles() -> Vec<Arc<Value>> {
        let bundle = |name: &str, signer: &str, alive: &str, contents: &[&str]| {
            let metadata = object!({ "name": name, "labels": { "alive": alive } });
            Arc::new(object!({ "metadata": metadata, "spec": { "signerName": signer, "trustBundle": (text(contents)) } }))
        };
        vec![
            bundle("s:one", "s/x", "yes", &["one", "both"]),
            bundle("s:two", "s/x", "no", &["both", "two"]),
            bundle("t:one", "t/x", "yes", &["other"]),
            bundle("plain", "", "yes", &["plain"]),
        ]
    }

    fn shown(source: Value) -> Result<Vec<String>, String> {
        let text = anchors(&source, &bundles(), &RandomState::new()).map_err(|e| e.to_string())?;
        let blocks = pem::parse_many(text).unwrap();
        assert!(blocks.iter().all(|b| b.tag() == "CERTIFICATE"));
        let mut out: Vec<String> = blocks.into_iter().map(|b| String::from_utf8(b.into_contents()).unwrap()).collect();
        out.sort();
        Ok(out)
    }

    #[test]
    fn bundles_are_found_by_name_or_by_signer_and_labels_and_each_anchor_is_shown_once() {
        assert_eq!(shown(object!({ "name": "plain" })).unwrap(), ["plain"]);
        assert_eq!(shown(object!({ "signerName": "s/x", "labelSelector": {} })).unwrap(), ["both", "one", "two"]);
        let alive = object!({ "matchLabels": { "alive": "yes" } });
        assert_eq!(shown(object!({ "signerName": "s/x", "labelSelector": alive })).unwrap(), ["both", "one"]);
    }

    #[test]
    fn what_is_missing_is_refused_unless_it_is_optional() {
        let fails = |source: Value| shown(source).unwrap_err();
        assert_eq!(fails(object!({ "name": "none" })), "clustertrustbundle \"none\" not found");
        assert!(fails(object!({ "signerName": "s/y", "labelSelector": {} })).contains("matched zero"));
        // Without a selector nothing is selected.
        assert!(fails(object!({ "signerName": "s/x" })).contains("matched zero"));
        assert!(fails(object!({ "path": "p" })).contains("requires either"));
        assert!(shown(object!({ "name": "none", "optional": true })).unwrap().is_empty());
        assert!(shown(object!({ "signerName": "s/x", "optional": true })).unwrap().is_empty());
    }

    #[test]
    fn the_order_stays_while_the_kubelet_runs_and_the_text_has_nothing_but_certificates() {
        let (source, order) = (object!({ "signerName": "s/x", "labelSelector": {} }), RandomState::new());
        let mut turned = bundles();
        turned.reverse();
        let first = anchors(&source, &bundles(), &order).unwrap();
        assert_eq!(first, anchors(&source, &turned, &order).unwrap());
        assert!(!first.contains("about") && first.ends_with("-----END CERTIFICATE-----\n"));
    }

    #[test]
    fn a_pod_asks_for_the_bundles_of_the_volumes_that_it_mounts() {
        let volume = |name: &str, source: Value| object!({ "name": name, "projected": { "sources": [{ "clusterTrustBundle": source }] } });
        let volumes = object!([
            (volume("a", object!({ "name": "plain" }))),
            (volume("b", object!({ "signerName": "s/x" }))),
            (volume("c", object!({ "name": "no" })))
        ]);
        let mounts = object!([{ "name": "a" }, { "name": "b" }]);
        let pod = object!({ "spec": { "volumes": volumes, "containers": [{ "name": "c", "volumeMounts": mounts }] } });
        assert_eq!(wanted(&pod), BTreeSet::from([Wanted::Name("plain".into()), Wanted::Signer("s/x".into())]));
    }
}
