//! Which versions of the built-in APIs are served: `--runtime-config` of kube-apiserver, by its keys and in their order of rank; see
//! upstream's resourceconfig.MergeAPIResourceConfigs.

use std::str::FromStr;

use crate::description::DescriptionError;
use crate::kind::Kind;

/// What is switched on and off. Made of `KEY[=true|false],…`, where a key is `api/all`, `api/ga`, `api/beta`, `api/alpha`,
/// `VERSION` of the core group, `GROUP/VERSION` or `GROUP/VERSION/RESOURCE`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuntimeConfig {
    rules: Vec<(Rule, bool)>,
}

/// In order of rank: a later one is held against fewer kinds, and wins.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Rule {
    All,
    Ga,
    Beta,
    Alpha,
    /// The first part is empty for the core group.
    Version(String, String),
    Resource(String, String, String),
}

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RuntimeConfigError {
    #[error("{0:?} is neither api/all, api/ga, api/beta, api/alpha, VERSION, GROUP/VERSION nor GROUP/VERSION/RESOURCE")]
    Key(String),
    #[error("{key}: {value:?} is neither true nor false")]
    Value { key: String, value: String },
    #[error("{0} is not an API that is known here")]
    Unknown(String),
    #[error("{0} cannot be switched off: components of the cluster need it")]
    Needed(String),
    #[error(transparent)]
    Description(#[from] DescriptionError),
}

/// Whether a kind is of an alpha or a beta, and off where nobody asks for it.
pub(crate) fn is_preliminary(kind: &Kind) -> bool {
    is_of(kind, "alpha") || is_of(kind, "beta")
}

/// Metrics have had no other version for years, and everybody counts on them; upstream's come from an add-on.
fn is_of(kind: &Kind, level: &str) -> bool {
    kind.version.contains(level) && kind.group != "metrics.k8s.io"
}

impl Rule {
    fn parse(key: &str) -> Result<Self, RuntimeConfigError> {
        let parts: Vec<&str> = key.split('/').collect();
        Ok(match parts.as_slice() {
            ["api", "all"] => Self::All,
            ["api", "ga"] => Self::Ga,
            ["api", "beta"] => Self::Beta,
            ["api", "alpha"] => Self::Alpha,
            [version] | ["", version] | ["api", version] if !version.is_empty() => Self::Version(String::new(), (*version).into()),
            [group, version] if !group.is_empty() && !version.is_empty() => Self::Version((*group).into(), (*version).into()),
            [group, version, resource] if !version.is_empty() && !resource.is_empty() => {
                Self::Resource((*group).into(), (*version).into(), (*resource).into())
            }
            _ => return Err(RuntimeConfigError::Key(key.into())),
        })
    }

    fn concerns(&self, kind: &Kind) -> bool {
        let version = kind.version.as_str();
        match self {
            Self::All => true,
            Self::Ga => !is_preliminary(kind),
            Self::Beta => is_of(kind, "beta"),
            Self::Alpha => is_of(kind, "alpha"),
            Self::Version(group, named) => kind.group == group.as_str() && version == named,
            Self::Resource(group, named, plural) => kind.group == group.as_str() && version == named && kind.plural == plural.as_str(),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::All => "api/all".into(),
            Self::Ga => "api/ga".into(),
            Self::Beta => "api/beta".into(),
            Self::Alpha => "api/alpha".into(),
            Self::Version(group, version) if group.is_empty() => version.clone(),
            Self::Version(group, version) => format!("{group}/{version}"),
            Self::Resource(group, version, resource) => format!("{group}/{version}/{resource}"),
        }
    }
}

impl FromStr for RuntimeConfig {
    type Err = RuntimeConfigError;

    fn from_str(text: &str) -> Result<Self, RuntimeConfigError> {
        let mut rules = Vec::new();
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let (key, value) = item.split_once('=').unwrap_or((item, "true"));
            let on = match value {
                "true" | "1" | "" => true,
                "false" | "0" => false,
                other => return Err(RuntimeConfigError::Value { key: key.into(), value: other.into() }),
            };
            rules.push((Rule::parse(key)?, on));
        }
        Ok(Self { rules }.ranked())
    }
}

impl RuntimeConfig {
    /// What several flags say together; a later one wins over an earlier one of the same key.
    #[must_use]
    pub fn merged(configs: &[Self]) -> Self {
        Self { rules: configs.iter().flat_map(|c| c.rules.clone()).collect() }.ranked()
    }

    fn ranked(mut self) -> Self {
        self.rules.sort_by(|(a, _), (b, _)| a.cmp(b));
        self
    }

    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether a kind is served. Bodies of subresources always are.
    pub(crate) fn serves(&self, kind: &Kind) -> bool {
        let said = self.rules.iter().filter(|(rule, _)| rule.concerns(kind)).map(|(_, on)| *on).next_back();
        kind.plural.is_empty() || said.unwrap_or(!is_preliminary(kind))
    }

    /// Every key names what is there, and nothing is off that the cluster itself needs.
    pub(crate) fn check(&self, kinds: &[Kind]) -> Result<(), RuntimeConfigError> {
        for (rule, _) in &self.rules {
            if !kinds.iter().any(|kind| rule.concerns(kind)) {
                return Err(RuntimeConfigError::Unknown(rule.name()));
            }
        }
        let off = kinds.iter().find(|kind| !is_preliminary(kind) && !self.serves(kind));
        match off {
            Some(kind) => Err(RuntimeConfigError::Needed(format!("{}/{}", kind.api_version(), kind.plural))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Api;

    fn versions(config: &str) -> Vec<String> {
        let api = Api::chosen(&config.parse().unwrap()).unwrap();
        let served = api.kinds().filter(|k| is_preliminary(k));
        let mut all: Vec<String> = served.map(|k| format!("{}/{}", k.api_version(), k.plural)).collect();
        all.sort();
        all
    }

    #[test]
    fn nothing_preliminary_is_served_unless_it_is_asked_for() {
        assert!(versions("").is_empty());
        assert_eq!(
            versions("networking.k8s.io/v1beta1"),
            ["networking.k8s.io/v1beta1/ipaddresses", "networking.k8s.io/v1beta1/servicecidrs"]
        );
        let alpha = versions("api/alpha=true");
        assert!(alpha.contains(&"scheduling.k8s.io/v1alpha2/workloads".into()) && alpha.iter().all(|v| v.contains("alpha")), "{alpha:?}");
        assert!(versions("api/all").len() > alpha.len());
    }

    #[test]
    fn the_narrower_key_wins_in_whatever_order_they_are_written() {
        let one = "coordination.k8s.io/v1beta1/leasecandidates=false,api/beta=true";
        assert!(!versions(one).iter().any(|v| v.ends_with("leasecandidates")), "{:?}", versions(one));
        assert!(versions("api/beta=false,resource.k8s.io/v1beta2=true").iter().all(|v| v.starts_with("resource.k8s.io/v1beta2/")));
    }

    #[test]
    fn what_is_not_known_or_needed_is_refused() {
        let error = |config: &str| Api::chosen(&config.parse().unwrap()).unwrap_err().to_string();
        assert_eq!(error("batch/v3=true"), "batch/v3 is not an API that is known here");
        assert!(error("batch/v1=false").starts_with("batch/v1/cronjobs cannot be switched off"), "{}", error("batch/v1=false"));
        assert!(error("api/all=false").contains("cannot be switched off"));
        assert_eq!("api/beta=maybe".parse::<RuntimeConfig>().unwrap_err().to_string(), "api/beta: \"maybe\" is neither true nor false");
        assert!("a/b/c/d".parse::<RuntimeConfig>().is_err());
    }

    #[test]
    fn what_is_stored_keeps_its_version_though_that_is_not_served() {
        let api = Api::chosen(&"certificates.k8s.io/v1alpha1".parse().unwrap()).unwrap();
        let kind = api.resource("certificates.k8s.io", "v1alpha1", "clustertrustbundles").unwrap();
        assert_eq!(api.storage_of(kind).version, "v1beta1");
        assert!(api.resource("certificates.k8s.io", "v1beta1", "clustertrustbundles").is_none());
    }
}
