//! Which pods that have no node yet use which claims: claims that wait for their first consumer say so. Pure.

use std::collections::{BTreeSet, HashMap};

use fram_api::storage;
use fram_machinery::{Value, meta};

use crate::pods;

/// By the keys of claims. Only pods that wait for a node are in it, which are few and soon gone.
#[derive(Debug, Default)]
pub(super) struct Consumers {
    claims: HashMap<String, Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    pods: BTreeSet<String>,
    told: bool,
}

fn claims(pod: Option<&Value>) -> BTreeSet<String> {
    let waits = |pod: &&Value| pod.str_at(&["spec", "nodeName"]).is_empty() && pods::is_active(pod);
    let key = |pod: &Value| storage::claims_of(pod).map(|claim| format!("{}/{claim}", meta::namespace(pod))).collect();
    pod.filter(waits).map(key).unwrap_or_default()
}

impl Consumers {
    /// Takes in a change of a pod; gives the claims that it uses and did not before.
    pub(super) fn note(&mut self, old: Option<&Value>, new: Option<&Value>) -> Vec<String> {
        let (before, after) = (claims(old), claims(new));
        let Some(name) = new.or(old).map(meta::name) else { return Vec::new() };
        for key in before.difference(&after) {
            let Some(waiting) = self.claims.get_mut(key) else { continue };
            waiting.pods.remove(name);
            if waiting.pods.is_empty() {
                self.claims.remove(key);
            }
        }
        let added: Vec<String> = after.difference(&before).cloned().collect();
        for key in &added {
            let waiting = self.claims.entry(key.clone()).or_default();
            waiting.told &= !waiting.pods.insert(name.to_string());
        }
        added
    }

    /// The pods that wait with a claim, unless that was told already.
    pub(super) fn take_news(&mut self, claim: &str) -> Option<String> {
        let waiting = self.claims.get_mut(claim).filter(|waiting| !waiting.told)?;
        waiting.told = true;
        let names: Vec<&str> = waiting.pods.iter().map(String::as_str).collect();
        Some(format!("{} {}", if names.len() == 1 { "pod" } else { "pods" }, names.join(",")))
    }
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    #[test]
    fn a_claim_tells_once_which_pods_it_waits_for() {
        let pod = |name: &str, node: &str| {
            let volumes = object!([{ "name": "v", "persistentVolumeClaim": { "claimName": "c" } }, { "name": "w", "emptyDir": {} }]);
            object!({ "metadata": { "name": name, "namespace": "ns" }, "spec": { "nodeName": node, "volumes": volumes } })
        };
        let mut consumers = Consumers::default();
        assert_eq!(consumers.take_news("ns/c"), None);
        assert_eq!(consumers.note(None, Some(&pod("b", ""))), ["ns/c"]);
        assert_eq!(consumers.take_news("ns/c").as_deref(), Some("pod b"));
        assert_eq!(consumers.take_news("ns/c"), None);
        assert!(consumers.note(Some(&pod("b", "")), Some(&pod("b", ""))).is_empty());
        assert_eq!(consumers.take_news("ns/c"), None);
        assert_eq!(consumers.note(None, Some(&pod("a", ""))), ["ns/c"]);
        assert_eq!(consumers.take_news("ns/c").as_deref(), Some("pods a,b"));
        assert!(consumers.note(None, Some(&pod("c", "n"))).is_empty());
        assert!(consumers.note(Some(&pod("a", "")), Some(&pod("a", "n"))).is_empty());
        assert!(consumers.note(Some(&pod("b", "")), None).is_empty());
        assert!(consumers.claims.is_empty());
    }
}
