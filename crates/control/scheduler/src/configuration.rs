//! KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1): read strictly and checked. See upstream's
//! pkg/scheduler/apis/config/validation.

mod profile;
mod types;
mod unheeded;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fram_machinery::{view, yaml};

use crate::devices::Grants;
use crate::extender::{Extender, ExtenderError};
use crate::plugins::{Arguments, Slot, standard};
use crate::preemption::Limits;
use crate::queue::Backoff;
use types::Document;
#[cfg(test)]
pub(crate) use types::ManagedResource;
pub(crate) use types::{ExtenderSpec, ExtenderTls};

const API_VERSION: &str = "kubescheduler.config.k8s.io/v1";
const KIND: &str = "KubeSchedulerConfiguration";

/// The scheduler of pods that name none.
pub(crate) const DEFAULT_SCHEDULER: &str = "default-scheduler";

#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    #[error("read {path:?}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path:?}: {message}")]
    Load { path: PathBuf, message: String },
    #[error("invalid configuration: {}", .0.join("; "))]
    Invalid(Vec<String>),
    #[error(transparent)]
    Extender(#[from] ExtenderError),
}

/// How the pods of one `schedulerName` are scheduled.
#[derive(Clone)]
pub(crate) struct ProfileSpec {
    pub(crate) name: String,
    pub(crate) slots: Vec<Slot>,
    /// How many nodes preemption compares; None where the profile does not preempt.
    pub(crate) preemption: Option<Limits>,
    /// How long a pod waits for its volumes before its place is given up.
    pub(crate) bind_timeout: Duration,
    /// So long pods wait for devices to be made ready.
    pub(crate) devices: Grants,
    /// How many of a hundred nodes are looked for; 0 for what suits the size of the cluster.
    pub(crate) percentage: usize,
}

/// What a configuration says.
#[derive(Clone)]
pub struct Configuration {
    pub(crate) profiles: Vec<ProfileSpec>,
    pub(crate) extenders: Vec<Extender>,
    pub(crate) backoff: Backoff,
    /// Fields that were set and have no meaning here.
    pub(crate) unheeded: Vec<&'static str>,
}

impl std::fmt::Debug for Configuration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let profiles: Vec<&str> = self.profiles.iter().map(|p| p.name.as_str()).collect();
        f.debug_struct("Configuration").field("profiles", &profiles).field("extenders", &self.extenders.len()).finish_non_exhaustive()
    }
}

/// See VolumeBindingArgs.
const BIND_TIMEOUT: Duration = Duration::from_secs(600);

impl Default for Configuration {
    fn default() -> Self {
        let (slots, preemption) = (standard(&Arguments::default()), Some(Limits::default()));
        let profile = ProfileSpec {
            name: DEFAULT_SCHEDULER.into(),
            slots,
            preemption,
            bind_timeout: BIND_TIMEOUT,
            devices: Grants::default(),
            percentage: 0,
        };
        Self { profiles: vec![profile], extenders: Vec::new(), backoff: Backoff::default(), unheeded: Vec::new() }
    }
}

impl Configuration {
    pub fn load(path: &Path) -> Result<Self, ConfigurationError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigurationError::Read { path: path.into(), source })?;
        let document = parse(&text).map_err(|message| ConfigurationError::Load { path: path.into(), message })?;
        Self::read(document)
    }

    fn read(document: Document) -> Result<Self, ConfigurationError> {
        let (mut faults, unheeded) = (faults(&document), unheeded::fields(&document));
        let mut arguments = Vec::new();
        let resources = document.extenders.iter().flat_map(|e| &e.managed_resources);
        let ignored: Vec<String> = resources.filter(|r| r.ignored_by_scheduler).map(|r| r.name.clone()).collect();
        let mut named = if document.profiles.is_empty() { vec![types::Profile::default()] } else { document.profiles };
        for profile in &mut named {
            profile.percentage_of_nodes_to_score = profile.percentage_of_nodes_to_score.or(document.percentage_of_nodes_to_score);
        }
        for (n, said) in named.iter().enumerate() {
            match profile::read(said, &ignored) {
                Ok(read) => arguments.push(read),
                Err(found) => faults.extend(found.into_iter().map(|fault| format!("profiles[{n}].{fault}"))),
            }
        }
        let names: BTreeSet<&str> = arguments.iter().map(|p| p.name.as_str()).collect();
        if faults.is_empty() && names.len() < arguments.len() {
            faults.push("profiles: Duplicate value: every profile needs a schedulerName of its own".into());
        }
        if !faults.is_empty() {
            return Err(ConfigurationError::Invalid(faults));
        }
        let seconds = |n: Option<i64>, default: Duration| n.map_or(default, |n| Duration::from_secs(n.unsigned_abs()));
        let backoff = Backoff {
            first: seconds(document.pod_initial_backoff_seconds, Backoff::default().first),
            last: seconds(document.pod_max_backoff_seconds, Backoff::default().last),
        };
        let extenders = document.extenders.iter().map(Extender::new).collect::<Result<_, _>>()?;
        Ok(Self { profiles: arguments, extenders, backoff, unheeded })
    }
}

fn parse(text: &str) -> Result<Document, String> {
    let value = yaml::from_str(text).map_err(|error| error.to_string())?;
    let (version, kind) = (value.str_at(&["apiVersion"]), value.str_at(&["kind"]));
    if (version, kind) != (API_VERSION, KIND) {
        return Err(format!("unknown apiVersion/kind: {version:?} {kind:?}: {API_VERSION} {KIND} is known"));
    }
    view::from_value(&value).map_err(|error| format!("strict decoding error: {error}"))
}

fn percentage(path: &str, percentage: Option<i64>) -> Option<String> {
    let wrong = percentage.filter(|n| !(0..=100).contains(n))?;
    Some(format!("{path}: Invalid value: {wrong}: not in valid range [0-100]"))
}

fn faults(document: &Document) -> Vec<String> {
    let mut faults = Vec::new();
    if let Some(n) = document.parallelism.filter(|n| *n <= 0) {
        faults.push(format!("parallelism: Invalid value: {n}: should be an integer value greater than zero"));
    }
    faults.extend(percentage("percentageOfNodesToScore", document.percentage_of_nodes_to_score));
    for (n, profile) in document.profiles.iter().enumerate() {
        faults.extend(percentage(&format!("profiles[{n}].percentageOfNodesToScore"), profile.percentage_of_nodes_to_score));
    }
    let (first, last) = (document.pod_initial_backoff_seconds.unwrap_or(1), document.pod_max_backoff_seconds.unwrap_or(10));
    if first <= 0 {
        faults.push(format!("podInitialBackoffSeconds: Invalid value: {first}: must be greater than 0"));
    }
    if last < first {
        faults.push(format!("podMaxBackoffSeconds: Invalid value: {last}: must be greater than or equal to PodInitialBackoffSeconds"));
    }
    let election = &document.leader_election;
    if !matches!(election.resource_lock.as_str(), "" | "leases") && election.leader_elect != Some(false) {
        let lock = &election.resource_lock;
        faults.push(format!("leaderElection.resourceLock: Invalid value: {lock:?}: resourceLock value must be \"leases\""));
    }
    for (n, _) in document.profiles.iter().enumerate().filter(|(_, p)| p.scheduler_name.is_none() && document.profiles.len() > 1) {
        faults.push(format!("profiles[{n}].schedulerName: Required value"));
    }
    let mut managed = BTreeSet::new();
    for (n, extender) in document.extenders.iter().enumerate() {
        for (m, resource) in extender.managed_resources.iter().enumerate() {
            let mut fault =
                |why: &str| faults.push(format!("extenders[{n}].managedResources[{m}].name: Invalid value: {:?}: {why}", resource.name));
            match fram_machinery::names::qualified_name(&resource.name) {
                Err(why) => fault(why),
                Ok(()) if !fram_api::strategy::is_extended(&resource.name) => fault("is an invalid extended resource name"),
                Ok(()) if !managed.insert(&resource.name) => fault("duplicate extender managed resource name"),
                Ok(()) => {}
            }
        }
        if !extender.prioritize_verb.is_empty() && extender.weight <= 0 {
            let weight = extender.weight;
            faults.push(format!("extenders[{n}].weight: Invalid value: {weight}: must have a positive weight applied to it"));
        }
    }
    if document.extenders.iter().filter(|e| !e.bind_verb.is_empty()).count() > 1 {
        faults.push("extenders: Invalid value: only one extender can implement bind".into());
    }
    faults
}

#[cfg(test)]
mod tests;
