//! Which versions of which kinds are on their way out, as upstream's API lifecycle has it (k8s.io/api, `APILifecycleDeprecated`).

use fram_machinery::Key;

/// What is said to whoever uses a version that is deprecated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deprecation {
    /// Sent along with each answer.
    pub warning: Key,
    /// The minor release that no longer serves it, such as `1.38`; empty where none is fixed.
    pub removed_release: &'static str,
}

/// Group, version, kinds; the release that deprecated them, the one that no longer serves them, and what is to be used instead.
type Row = (&'static str, &'static str, &'static [&'static str], &'static str, &'static str, &'static str);

const ROWS: [Row; 11] = [
    ("", "v1", &["ComponentStatus"], "1.19", "", ""),
    ("", "v1", &["Endpoints"], "1.33", "", "discovery.k8s.io/v1 EndpointSlice"),
    ("admissionregistration.k8s.io", "v1alpha1", &["MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding"], "1.35", "1.38", ""),
    ("certificates.k8s.io", "v1alpha1", &["ClusterTrustBundle"], "1.34", "1.37", ""),
    ("coordination.k8s.io", "v1alpha2", &["LeaseCandidate"], "1.35", "1.38", ""),
    ("coordination.k8s.io", "v1beta1", &["LeaseCandidate"], "1.36", "1.39", ""),
    ("networking.k8s.io", "v1beta1", &["IPAddress", "ServiceCIDR"], "1.34", "1.37", ""),
    ("resource.k8s.io", "v1alpha3", &["DeviceTaintRule"], "1.36", "1.39", ""),
    ("resource.k8s.io", "v1beta1", &["DeviceClass", "ResourceClaim", "ResourceClaimTemplate", "ResourceSlice"], "1.35", "1.38", ""),
    ("resource.k8s.io", "v1beta2", &["DeviceClass", "ResourceClaim", "ResourceClaimTemplate", "ResourceSlice"], "1.36", "1.39", ""),
    ("storage.k8s.io", "v1beta1", &["VolumeAttributesClass"], "1.34", "1.37", "storage.k8s.io/v1 VolumeAttributesClass"),
];

impl Deprecation {
    /// That of a built-in kind.
    pub(crate) fn of(group: &str, version: &str, kind: &str) -> Option<Self> {
        let row = ROWS.iter().find(|(g, v, kinds, ..)| (*g, *v) == (group, version) && kinds.contains(&kind));
        let &(_, _, _, since, removed_release, instead) = row?;
        let version = if group.is_empty() { version.to_string() } else { format!("{group}/{version}") };
        let mut warning = format!("{version} {kind} is deprecated in v{since}+");
        if !removed_release.is_empty() {
            warning.push_str(&format!(", unavailable in v{removed_release}+"));
        }
        if !instead.is_empty() {
            warning.push_str(&format!("; use {instead}"));
        }
        Some(Self { warning: warning.into(), removed_release })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Api;

    #[test]
    fn each_row_is_a_kind_and_each_warning_has_upstreams_words() {
        let api = Api::chosen(&"api/all=true".parse().unwrap()).unwrap();
        for (group, version, kinds, ..) in ROWS {
            for kind in kinds {
                let found = api.kind(group, version, kind).unwrap_or_else(|| panic!("{group}/{version} {kind}"));
                assert_eq!(found.deprecation, Deprecation::of(group, version, kind));
            }
        }
        let warning =
            |group: &str, version: &str, kind: &str| api.kind(group, version, kind).unwrap().deprecation.clone().map(|d| d.warning);
        assert_eq!(
            warning("", "v1", "Endpoints").as_deref(),
            Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
        );
        assert_eq!(
            warning("networking.k8s.io", "v1beta1", "IPAddress").as_deref(),
            Some("networking.k8s.io/v1beta1 IPAddress is deprecated in v1.34+, unavailable in v1.37+")
        );
        assert_eq!(warning("networking.k8s.io", "v1", "IPAddress"), None);
    }
}
