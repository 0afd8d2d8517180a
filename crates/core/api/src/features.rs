//! Fields that belong to APIs which are served only where somebody asks for them. Where such an API is off, its fields are dropped from
//! what is written, as upstream drops those of features that are off; a field that an object has already stays.

use fram_machinery::Value;

use crate::gates::FeatureGates;
use crate::kind::Kind;

/// The address families that Services can have; the first is the one that they have unasked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ServiceFamilies {
    #[default]
    V4,
    V6,
    V4V6,
    V6V4,
}

impl ServiceFamilies {
    /// As Services name them.
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Self::V4 => &["IPv4"],
            Self::V6 => &["IPv6"],
            Self::V4V6 => &["IPv4", "IPv6"],
            Self::V6V4 => &["IPv6", "IPv4"],
        }
    }
}

/// Which of the optional APIs other kinds have fields for, and what else of the cluster decides about fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Features {
    /// ClusterTrustBundles, which projected volumes show.
    pub trust_bundles: bool,
    /// PodCertificateRequests, by which the kubelet fills projected volumes.
    pub pod_certificates: bool,
    /// PodGroups, to which pods belong.
    pub pod_groups: bool,
    /// LeaseCandidates, among whom the holder of a Lease is chosen.
    pub lease_candidates: bool,
    /// How many pods of a StatefulSet may be away while it is updated.
    pub max_unavailable: bool,
    /// DeviceTaintRules, which taint devices from outside.
    pub taint_rules: bool,
    /// What Services can ask for as the addresses of their families, which the server's own ranges decide.
    pub service_families: ServiceFamilies,
}

/// The gate without which a kind is not served.
pub(crate) fn gate_of(kind: &Kind) -> Option<&'static str> {
    Some(match (kind.group.as_str(), kind.plural.as_str()) {
        ("certificates.k8s.io", "clustertrustbundles") => "ClusterTrustBundle",
        ("certificates.k8s.io", "podcertificaterequests") => "PodCertificateRequest",
        ("scheduling.k8s.io", "workloads" | "podgroups") => "GenericWorkload",
        ("coordination.k8s.io", "leasecandidates") => "CoordinatedLeaderElection",
        ("resource.k8s.io", "devicetaintrules") => "DRADeviceTaintRules",
        _ => return None,
    })
}

impl Features {
    /// What goes with the kinds that are served, where the gates say nothing else.
    pub(crate) fn of<'a>(served: impl Iterator<Item = &'a Kind>, gates: &FeatureGates) -> Self {
        let served: Vec<&str> = served.filter_map(gate_of).collect();
        let is_on = |api: &str, gate: &str| gates.said(gate).unwrap_or(served.contains(&api));
        Self {
            trust_bundles: is_on("ClusterTrustBundle", "ClusterTrustBundleProjection"),
            pod_certificates: is_on("PodCertificateRequest", "PodCertificateRequest"),
            pod_groups: is_on("GenericWorkload", "GenericWorkload"),
            lease_candidates: is_on("CoordinatedLeaderElection", "CoordinatedLeaderElection"),
            taint_rules: is_on("DRADeviceTaintRules", "DRADeviceTaintRules"),
            max_unavailable: gates.is_on("MaxUnavailableStatefulSet"),
            service_families: ServiceFamilies::default(),
        }
    }

    /// Whether a gate is on that goes with an API, of those that are here.
    pub(crate) fn gate(&self, name: &str) -> Option<bool> {
        Some(match name {
            "ClusterTrustBundle" | "ClusterTrustBundleProjection" => self.trust_bundles,
            "PodCertificateRequest" => self.pod_certificates,
            "GenericWorkload" => self.pod_groups,
            "CoordinatedLeaderElection" => self.lease_candidates,
            "DRADeviceTaintRules" => self.taint_rules,
            _ => return None,
        })
    }
}

/// Where the spec of pods is in an object of a kind.
fn pod_spec(kind: &Kind) -> Option<&'static [&'static str]> {
    Some(match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Pod") => &["spec"],
        ("", "PodTemplate") => &["template", "spec"],
        ("", "ReplicationController") | ("apps", "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet") | ("batch", "Job") => {
            &["spec", "template", "spec"]
        }
        ("batch", "CronJob") => &["spec", "jobTemplate", "spec", "template", "spec"],
        _ => return None,
    })
}

/// Drops what belongs to APIs that are off from an object that is about to replace `old`.
pub fn drop_unserved(kind: &Kind, object: &mut Value, old: Option<&Value>) {
    let features = kind.features;
    if kind.is("coordination.k8s.io", "Lease") && !features.lease_candidates {
        for field in ["strategy", "preferredHolder"] {
            if old.and_then(|old| old.at(&["spec", field])).is_none_or(Value::is_null) {
                object.remove(&["spec", field]);
            }
        }
    }
    if kind.is("apps", "StatefulSet") && !features.max_unavailable {
        let path = ["spec", "updateStrategy", "rollingUpdate", "maxUnavailable"];
        if old.is_none_or(|old| old.at(&path).is_none()) {
            object.remove(&path);
        }
    }
    let Some(path) = pod_spec(kind) else { return };
    let before = old.and_then(|old| old.at(path));
    if !features.pod_groups && before.is_none_or(|b| b.get("schedulingGroup").is_none()) {
        remove(object, path, "schedulingGroup");
    }
    for (field, on) in [("clusterTrustBundle", features.trust_bundles), ("podCertificate", features.pod_certificates)] {
        if !on && !before.is_some_and(|b| has_source(b, field)) && object.at(path).is_some_and(|spec| has_source(spec, field)) {
            drop_source(object.place(path), field);
        }
    }
}

fn remove(object: &mut Value, path: &[&'static str], field: &'static str) {
    if object.at(path).is_some_and(|spec| spec.get(field).is_some()) {
        object.place(path).remove(&[field]);
    }
}

fn has_source(spec: &Value, field: &str) -> bool {
    let volumes = spec.list_at(&["volumes"]).iter();
    volumes.flat_map(|v| v.list_at(&["projected", "sources"])).any(|source| source.get(field).is_some())
}

fn drop_source(spec: &mut Value, field: &'static str) {
    for volume in spec.place(&["volumes"]).make_list().make_mut() {
        if !volume.list_at(&["projected", "sources"]).is_empty() {
            let sources = volume.place(&["projected", "sources"]).make_list();
            sources.make_mut().iter_mut().for_each(|source| drop(source.remove(&[field])));
        }
    }
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;
    use crate::Api;

    #[test]
    fn fields_of_apis_that_are_off_are_dropped_unless_they_are_there_already() {
        let pod = object!({ "spec": { "schedulingGroup": { "podGroupName": "g" },
            "volumes": [{ "name": "v", "projected": { "sources": [{ "clusterTrustBundle": { "path": "c" } }, { "podCertificate": {} }] } }] } });
        let written = |config: &str, old: Option<&Value>| {
            let api = Api::chosen(&config.parse().unwrap()).unwrap();
            let mut pod = pod.clone();
            drop_unserved(api.kind("", "v1", "Pod").unwrap(), &mut pod, old);
            pod
        };
        let dropped = object!({ "spec": { "volumes": [{ "name": "v", "projected": { "sources": [{}, {}] } }] } });
        assert_eq!(written("", None), dropped);
        assert_eq!(written("", Some(&dropped)), dropped);
        assert_eq!(written("", Some(&pod)), pod);
        assert_eq!(written("api/beta=true,api/alpha=true", None), pod);
    }

    #[test]
    fn a_custom_resource_of_a_known_name_keeps_its_fields() {
        let api = Api::builtin().unwrap();
        let own = api.kind("coordination.k8s.io", "v1", "Lease").unwrap();
        let other = Kind { group: "dhcp.example.com".into(), ..(**own).clone() };
        let lease = object!({ "spec": { "strategy": "s", "preferredHolder": "p" } });
        for (kind, kept) in [(&**own, false), (&other, true)] {
            let mut object = lease.clone();
            drop_unserved(kind, &mut object, None);
            assert_eq!(object == lease, kept, "{}", kind.group);
        }
    }

    #[test]
    fn gates_decide_of_fields_whatever_is_served() {
        let lease = object!({ "spec": { "strategy": "s" } });
        let set = object!({ "spec": { "updateStrategy": { "rollingUpdate": { "maxUnavailable": 2 } } } });
        for (config, gates, kept) in [
            ("", "", [false, false]),
            ("", "CoordinatedLeaderElection=true,MaxUnavailableStatefulSet=true", [true, true]),
            ("coordination.k8s.io/v1beta1", "", [true, false]),
            ("coordination.k8s.io/v1beta1", "CoordinatedLeaderElection=false", [false, false]),
        ] {
            let api = Api::gated(&config.parse().unwrap(), &gates.parse().unwrap()).unwrap();
            let kinds = [("coordination.k8s.io", "Lease", &lease), ("apps", "StatefulSet", &set)];
            let found = kinds.map(|(group, kind, object)| {
                let mut written = object.clone();
                drop_unserved(api.kind(group, "v1", kind).unwrap(), &mut written, None);
                written == *object
            });
            assert_eq!(found, kept, "{config:?} {gates:?}");
            let served = api.resource("coordination.k8s.io", "v1beta1", "leasecandidates").is_some();
            assert_eq!(served, !config.is_empty() && gates.is_empty(), "{config:?} {gates:?}");
        }
    }

    #[test]
    fn a_deployment_s_pods_keep_the_group_where_groups_are_served() {
        let deployment = object!({ "spec": { "template": { "spec": { "schedulingGroup": { "podGroupName": "g" } } } } });
        for (config, kept) in [("", false), ("scheduling.k8s.io/v1alpha2", true)] {
            let api = Api::chosen(&config.parse().unwrap()).unwrap();
            let mut object = deployment.clone();
            drop_unserved(api.kind("apps", "v1", "Deployment").unwrap(), &mut object, None);
            assert_eq!(object == deployment, kept, "{config:?}: {object:?}");
        }
    }
}
