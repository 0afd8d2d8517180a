//! What is done of a server's start, as /healthz, /livez and /readyz tell it: each stage by the names of upstream's hooks that stand for
//! the same, so that whoever looks for one or leaves one out finds it.

use std::sync::atomic::{AtomicU8, Ordering};

/// In the order in which a start takes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Stage {
    /// The first objects are there: namespaces, roles, priority classes, the network of Services, the server's own APIServices.
    Objects,
    /// The roles are read: from now on users have their rights.
    Rights,
    /// It is said in ConfigMaps by what others know this server.
    Published,
    /// Custom resources are served.
    Definitions,
    /// It is known what other servers answer.
    Services,
    /// What is configured to admit requests is known.
    Admission,
    /// Requests are told apart by their priorities.
    Flow,
}

const STAGES: [(Stage, &[&str]); 7] = [
    (
        Stage::Objects,
        &[
            "poststarthook/storage-readiness",
            "poststarthook/generic-apiserver-start-informers",
            "poststarthook/start-system-namespaces-controller",
            "poststarthook/bootstrap-controller",
            "poststarthook/start-service-ip-repair-controllers",
            "poststarthook/scheduling/bootstrap-system-priority-classes",
            "poststarthook/kube-apiserver-autoregistration",
            "autoregister-completion",
        ],
    ),
    (Stage::Rights, &["poststarthook/rbac/bootstrap-roles"]),
    (
        Stage::Published,
        &[
            "poststarthook/start-cluster-authentication-info-controller",
            "poststarthook/start-legacy-token-tracking-controller",
            "poststarthook/start-kube-apiserver-identity-lease-controller",
            "poststarthook/start-kube-apiserver-identity-lease-garbage-collector",
        ],
    ),
    (
        Stage::Definitions,
        &[
            "poststarthook/start-apiextensions-informers",
            "poststarthook/start-apiextensions-controllers",
            "poststarthook/crd-informer-synced",
        ],
    ),
    (
        Stage::Services,
        &[
            "poststarthook/start-kube-aggregator-informers",
            "poststarthook/apiservice-registration-controller",
            "poststarthook/apiservice-status-local-available-controller",
            "poststarthook/apiservice-status-remote-available-controller",
            "poststarthook/apiservice-discovery-controller",
            "poststarthook/apiservice-openapi-controller",
            "poststarthook/apiservice-openapiv3-controller",
        ],
    ),
    (Stage::Admission, &["poststarthook/start-apiserver-admission-initializer"]),
    (Stage::Flow, &["poststarthook/priority-and-fairness-config-producer", "poststarthook/priority-and-fairness-config-consumer"]),
];

/// The stages that are over.
#[derive(Debug, Default)]
pub(crate) struct Stages(AtomicU8);

impl Stages {
    pub(crate) fn reach(&self, stage: Stage) {
        self.0.fetch_or(1 << stage as u8, Ordering::Release);
    }

    /// Each hook, and whether it is done.
    pub(crate) fn hooks(&self) -> impl Iterator<Item = (&'static str, bool)> {
        let reached = self.0.load(Ordering::Acquire);
        STAGES.into_iter().flat_map(move |(stage, names)| names.iter().map(move |name| (*name, reached & (1 << stage as u8) != 0)))
    }

    pub(crate) fn all(&self) -> bool {
        self.hooks().all(|(_, done)| done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_is_done_with_its_stage() {
        let stages = Stages::default();
        let done = |name: &str| stages.hooks().find(|(hook, _)| *hook == name).unwrap().1;
        assert!(!done("poststarthook/crd-informer-synced"));
        stages.reach(Stage::Definitions);
        assert!(done("poststarthook/crd-informer-synced") && !done("poststarthook/rbac/bootstrap-roles") && !stages.all());
        STAGES.iter().for_each(|(stage, _)| stages.reach(*stage));
        assert!(stages.all());
    }
}
