//! Which controllers run, as kube-controller-manager's flag --controllers says it. Pure.

use std::sync::Arc;

/// What `Selection::runs` is asked by whoever signs and approves certificate requests, which is not one of this crate's.
pub const CSR_SIGNING: &str = "certificatesigningrequest-signing-controller";
/// See `CSR_SIGNING`.
pub const CSR_APPROVING: &str = "certificatesigningrequest-approving-controller";

/// Upstream's controllers that have nothing to do here: known, since somebody may name them, and never asked for.
const IDLE: &[&str] = &[
    "cloud-node-lifecycle-controller",
    "node-route-controller",
    "persistentvolume-attach-detach-controller",
    "resourcepoolstatusrequest-controller",
    "selinux-warning-controller",
    "service-ca-certificate-publisher-controller",
    "storageversion-garbage-collector-controller",
    "ttl-controller",
    "validatingadmissionpolicy-status-controller",
];

/// The names that controllers had upstream before those that they have, which it still takes. See its ControllerDescriptors.
const ALIASES: &[(&str, &str)] = &[
    ("attachdetach", "persistentvolume-attach-detach-controller"),
    ("bootstrapsigner", "bootstrap-signer-controller"),
    ("cloud-node-lifecycle", "cloud-node-lifecycle-controller"),
    ("clusterrole-aggregation", "clusterrole-aggregation-controller"),
    ("cronjob", "cronjob-controller"),
    ("csrapproving", CSR_APPROVING),
    ("csrcleaner", "certificatesigningrequest-cleaner-controller"),
    ("csrsigning", CSR_SIGNING),
    ("daemonset", "daemonset-controller"),
    ("deployment", "deployment-controller"),
    ("disruption", "disruption-controller"),
    ("endpoint", "endpoints-controller"),
    ("endpointslice", "endpointslice-controller"),
    ("endpointslicemirroring", "endpointslice-mirroring-controller"),
    ("ephemeral-volume", "ephemeral-volume-controller"),
    ("garbagecollector", "garbage-collector-controller"),
    ("horizontalpodautoscaling", "horizontal-pod-autoscaler-controller"),
    ("job", "job-controller"),
    ("legacy-service-account-token-cleaner", "legacy-serviceaccount-token-cleaner-controller"),
    ("namespace", "namespace-controller"),
    ("nodeipam", "node-ipam-controller"),
    ("nodelifecycle", "node-lifecycle-controller"),
    ("persistentvolume-binder", "persistentvolume-binder-controller"),
    ("persistentvolume-expander", "persistentvolume-expander-controller"),
    ("podgc", "pod-garbage-collector-controller"),
    ("pv-protection", "persistentvolume-protection-controller"),
    ("pvc-protection", "persistentvolumeclaim-protection-controller"),
    ("replicaset", "replicaset-controller"),
    ("replicationcontroller", "replicationcontroller-controller"),
    ("resource-claim-controller", "resourceclaim-controller"),
    ("resourcequota", "resourcequota-controller"),
    ("root-ca-cert-publisher", "root-ca-certificate-publisher-controller"),
    ("route", "node-route-controller"),
    ("service", "service-lb-controller"),
    ("service-ca-cert-publisher", "service-ca-certificate-publisher-controller"),
    ("serviceaccount", "serviceaccount-controller"),
    ("serviceaccount-token", "serviceaccount-token-controller"),
    ("statefulset", "statefulset-controller"),
    ("storage-version-gc", "storageversion-garbage-collector-controller"),
    ("svm", "storage-version-migrator-controller"),
    ("tokencleaner", "token-cleaner-controller"),
    ("ttl", "ttl-controller"),
    ("ttl-after-finished", "ttl-after-finished-controller"),
];

/// Names: `*` for all, `NAME` for one, `-NAME` for all but one. What is said of a name first holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection(Arc<[String]>);

impl Default for Selection {
    fn default() -> Self {
        Self(Arc::new(["*".to_string()]))
    }
}

/// A name that no controller has.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{name:?} is not in the list of known controllers: {known}")]
pub struct UnknownController {
    name: String,
    known: String,
}

impl Selection {
    /// Takes a list of words like those above, with names that are or were upstream's, or are Fram's own.
    pub fn new(words: Vec<String>) -> Result<Self, UnknownController> {
        let known: Vec<&str> = crate::names().into_iter().chain(IDLE.iter().copied()).collect();
        let canonical = |word: String| {
            let (off, name) = word.strip_prefix('-').map_or(("", word.as_str()), |name| ("-", name));
            let name = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, name)| name);
            match word == "*" || known.contains(&name) {
                true => Ok(format!("{off}{name}")),
                false => Err(UnknownController { name: name.into(), known: known.join(", ") }),
            }
        };
        Ok(Self(words.into_iter().map(canonical).collect::<Result<_, _>>()?))
    }

    /// Whether the controller of this name runs.
    pub fn runs(&self, name: &str) -> bool {
        let said = self.0.iter().find_map(|word| match word.strip_prefix('-') {
            Some(off) => (off == name).then_some(false),
            None => (word == name).then_some(true),
        });
        said.unwrap_or_else(|| self.0.iter().any(|word| word == "*"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(words: &[&str]) -> Result<Selection, UnknownController> {
        Selection::new(words.iter().map(|word| word.to_string()).collect())
    }

    fn runs(words: &[&str], name: &str) -> bool {
        of(words).unwrap().runs(name)
    }

    #[test]
    fn what_is_said_of_a_controller_holds_and_else_what_is_said_of_all() {
        assert!(Selection::default().runs("job-controller"));
        assert!(!runs(&["*", "-job-controller"], "job-controller") && runs(&["*", "-job-controller"], "cronjob-controller"));
        assert!(runs(&["job-controller"], "job-controller") && !runs(&["job-controller"], "cronjob-controller"));
        assert!(runs(&["job-controller", "-job-controller"], "job-controller"));
        assert!(!runs(&[], "job-controller"));
    }

    #[test]
    fn a_name_that_no_controller_has_is_refused_and_so_is_to_switch_off_all() {
        for (words, name) in [(["*", "-jobs"], "\"jobs\""), (["*", "-*"], "\"*\""), (["*", ""], "\"\"")] {
            let told = of(&words).unwrap_err().to_string();
            assert!(told.starts_with(&format!("{name} is not in the list of known controllers: ")), "{told}");
        }
    }

    #[test]
    fn a_controller_is_known_by_the_name_that_it_had_before() {
        assert!(runs(&["podgc"], "pod-garbage-collector-controller"));
        assert!(!runs(&["*", "-csrsigning"], CSR_SIGNING) && runs(&["*", "-csrsigning"], CSR_APPROVING));
        let known = crate::names();
        for (alias, name) in ALIASES {
            assert!(known.contains(name) || IDLE.contains(name), "{alias}: {name}");
            assert!(of(&[alias]).is_ok() && !known.contains(alias), "{alias}");
        }
    }

    #[test]
    fn upstreams_controllers_that_have_nothing_to_do_here_may_be_named() {
        let known = crate::names();
        for name in IDLE {
            assert!(of(&["*", &format!("-{name}")]).is_ok() && !known.contains(name), "{name}");
        }
    }
}
