//! APIServices as the aggregator works by them: who answers a group version, and in which order clients prefer what there is.
//! Pure.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use fram_machinery::{Value, meta, names};

/// The group of APIServices themselves, which nobody else may answer; see apisHandler.
pub(crate) const OWN_GROUP: &str = "apiregistration.k8s.io";

/// The Service behind an APIService.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceRef {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) port: i64,
}

impl ServiceRef {
    /// As its certificate says it.
    pub(crate) fn host(&self) -> String {
        format!("{}.{}.svc", self.name, self.namespace)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ApiService {
    pub(crate) name: String,
    pub(crate) group: String,
    pub(crate) version: String,
    /// None where this server answers itself.
    pub(crate) service: Option<ServiceRef>,
    /// PEM.
    pub(crate) ca_bundle: Vec<u8>,
    pub(crate) insecure: bool,
    pub(crate) priority: Priority,
    pub(crate) available: bool,
}

/// The place of a group version among the others: higher ones come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Priority {
    pub(crate) group: i64,
    pub(crate) version: i64,
}

impl Priority {
    /// What the aggregated discovery manager gives to those of whom nobody says otherwise.
    pub(crate) const DEFAULT: Self = Self { group: 1000, version: 15 };
    /// See APIRegistrationGroupPriority.
    const OWN: Self = Self { group: 20_000, version: 15 };
    /// What metrics-server asks for, in whose place `metrics.k8s.io` stands.
    const METRICS: Self = Self { group: 100, version: 100 };
}

impl ApiService {
    pub(crate) fn read(object: &Value) -> Self {
        let spec = |field: &str| object.str_at(&["spec", field]).to_string();
        let service = object.at(&["spec", "service"]).filter(|s| !s.is_null()).map(|service| ServiceRef {
            namespace: service.str_at(&["namespace"]).into(),
            name: service.str_at(&["name"]).into(),
            port: service.int_at(&["port"]).unwrap_or(443),
        });
        let priority = |field: &str| object.int_at(&["spec", field]).unwrap_or(0);
        Self {
            name: meta::name(object).into(),
            group: spec("group"),
            version: spec("version"),
            service,
            ca_bundle: base64::engine::general_purpose::STANDARD.decode(spec("caBundle")).unwrap_or_default(),
            insecure: object.bool_at(&["spec", "insecureSkipTLSVerify"]) == Some(true),
            priority: Priority { group: priority("groupPriorityMinimum"), version: priority("versionPriority") },
            available: meta::condition_is_true(object, "Available"),
        }
    }

    /// The path below which it answers.
    pub(crate) fn root(&self) -> String {
        root(&self.group, &self.version)
    }
}

pub(crate) fn root(group: &str, version: &str) -> String {
    if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") }
}

/// All APIServices at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Services {
    by_name: BTreeMap<String, Arc<ApiService>>,
    remote: usize,
}

impl Services {
    pub(crate) fn new(all: impl IntoIterator<Item = ApiService>) -> Self {
        let by_name: BTreeMap<_, _> = all.into_iter().map(|s| (s.name.clone(), Arc::new(s))).collect();
        let remote = by_name.values().filter(|s| s.service.is_some()).count();
        Self { by_name, remote }
    }

    /// With one of them changed or gone.
    #[must_use]
    pub(crate) fn with(&self, name: &str, changed: Option<ApiService>) -> Self {
        let others = self.by_name.values().filter(|s| s.name != name).map(|s| (**s).clone());
        Self::new(others.chain(changed))
    }

    fn of(&self, group: &str, version: &str) -> Option<&Arc<ApiService>> {
        self.by_name.get(&format!("{version}.{group}"))
    }

    /// Those that others answer.
    pub(crate) fn remote(&self) -> impl Iterator<Item = &Arc<ApiService>> {
        self.by_name.values().filter(|s| s.service.is_some() && s.group != OWN_GROUP)
    }

    /// Who else answers a group version.
    pub(crate) fn answering(&self, group: &str, version: &str) -> Option<&Arc<ApiService>> {
        if self.remote == 0 || group == OWN_GROUP {
            return None;
        }
        self.of(group, version).filter(|s| s.service.is_some())
    }

    /// Who else answers a path; None where it is this server's own.
    pub(crate) fn route(&self, path: &str) -> Option<&Arc<ApiService>> {
        if self.remote == 0 {
            return None;
        }
        let mut parts = path.trim_start_matches('/').split('/');
        match parts.next()? {
            // The core group has the whole of /api; see legacyAPIServiceName.
            "api" => self.answering("", "v1"),
            "apis" => {
                let (group, version) = (parts.next()?, parts.next()?);
                self.answering(group, version)
            }
            _ => None,
        }
    }

    pub(crate) fn priority(&self, group: &str, version: &str) -> Priority {
        match (self.of(group, version), group) {
            (_, OWN_GROUP) => Priority::OWN,
            (Some(service), _) => service.priority,
            (None, crate::metrics::GROUP) => Priority::METRICS,
            (None, _) => super::local::priority(group, version).unwrap_or(Priority::DEFAULT),
        }
    }

    /// Orders the versions of a group; see ByVersionPriority.
    pub(crate) fn compare_versions(&self, group: &str, a: &str, b: &str) -> Ordering {
        let priority = |version| self.priority(group, version).version;
        priority(b).cmp(&priority(a)).then_with(|| names::compare_versions(b, a))
    }

    /// Orders groups with their versions; see ByGroupPriorityMinimum.
    pub(crate) fn compare_groups<'a>(
        &self,
        (a, of_a): (&str, impl Iterator<Item = &'a str>),
        (b, of_b): (&str, impl Iterator<Item = &'a str>),
    ) -> Ordering {
        let highest = |group: &str, versions: &mut dyn Iterator<Item = &'a str>| versions.map(|v| self.priority(group, v).group).max();
        let (mut of_a, mut of_b) = (of_a, of_b);
        highest(b, &mut of_b).cmp(&highest(a, &mut of_a)).then_with(|| a.cmp(b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    fn service(group: &str, version: &str, remote: bool) -> ApiService {
        let mut object = object!({ "metadata": { "name": (format!("{version}.{group}")) },
            "spec": { "group": group, "version": version, "groupPriorityMinimum": 2000, "versionPriority": 5 } });
        if remote {
            object.set(&["spec", "service"], object!({ "namespace": "ns", "name": "api" }));
        }
        ApiService::read(&object)
    }

    #[test]
    fn a_path_leads_to_whom_its_group_version_names() {
        let services = Services::new([service("a.com", "v1", true), service("a.com", "v2", false), service(OWN_GROUP, "v1", true)]);
        for (path, remote) in [
            ("/apis/a.com/v1", true),
            ("/apis/a.com/v1/namespaces/x/things", true),
            ("/apis/a.com/v2/things", false),
            ("/apis/a.com", false),
            ("/apis", false),
            ("/api/v1/pods", false),
            ("/apis/apiregistration.k8s.io/v1/apiservices", false),
            ("/healthz", false),
        ] {
            assert_eq!(services.route(path).is_some(), remote, "{path}");
        }
        let gone = services.with("v1.a.com", None);
        assert!(gone.route("/apis/a.com/v1").is_none());
    }

    #[test]
    fn priorities_decide_the_order_and_names_where_they_are_equal() {
        let services = Services::new([service("a.com", "v1", true)]);
        let group = |name: &'static str, versions: &'static [&'static str]| (name, versions.iter().copied());
        let mut groups =
            [group("apps", &["v1"]), group("b.com", &["v1"]), group("a.com", &["v1"]), group(OWN_GROUP, &["v1"]), group("a.b", &["v1"])];
        groups.sort_by(|a, b| services.compare_groups(a.clone(), b.clone()));
        assert_eq!(groups.map(|g| g.0), [OWN_GROUP, "apps", "a.com", "a.b", "b.com"]);
        let mut versions = ["v1", "v2"];
        versions.sort_by(|a, b| services.compare_versions("autoscaling", a, b));
        assert_eq!(versions, ["v2", "v1"]);
        let mut versions = ["v1", "v1beta1", "v2"];
        versions.sort_by(|a, b| services.compare_versions("x.com", a, b));
        assert_eq!(versions, ["v2", "v1", "v1beta1"]);
    }

    #[test]
    fn a_service_is_known_by_its_name_in_the_cluster() {
        let service = service("a.com", "v1", true).service.unwrap();
        assert_eq!((service.host().as_str(), service.port), ("api.ns.svc", 443));
    }
}
