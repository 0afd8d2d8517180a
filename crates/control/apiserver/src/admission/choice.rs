//! Which plugins of admission run: upstream's names, those that do unasked, and what is said by `--enable-admission-plugins` and
//! `--disable-admission-plugins`. Pure.

use std::collections::BTreeSet;

/// What runs where nothing is said. NodeRestriction is not among upstream's; without it a node's kubelet could write other nodes'.
const UNASKED: &[&str] = &[
    "CertificateApproval",
    "CertificateSigning",
    "CertificateSubjectRestriction",
    "ClusterTrustBundleAttest",
    "DefaultIngressClass",
    "DefaultStorageClass",
    "DefaultTolerationSeconds",
    "JobValidation",
    "LimitRanger",
    "MutatingAdmissionPolicy",
    "MutatingAdmissionWebhook",
    "NamespaceLifecycle",
    "NodeDeclaredFeatureValidator",
    "NodeRestriction",
    "PersistentVolumeClaimResize",
    "PodGroupProtection",
    "PodGroupWorkloadExists",
    "PodResizeValidator",
    "PodSecurity",
    "PodTopologyLabels",
    "Priority",
    "ResourceQuota",
    "RuntimeClass",
    "ServiceAccount",
    "StorageObjectInUseProtection",
    "TaintNodesByCondition",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionWebhook",
];

/// What runs where it is asked for.
const ON_DEMAND: &[&str] = &[
    "AlwaysAdmit",
    "AlwaysDeny",
    "AlwaysPullImages",
    "DenyServiceExternalIPs",
    "ExtendedResourceToleration",
    "LimitPodHardAntiAffinityTopology",
    "NamespaceAutoProvision",
    "NamespaceExists",
    "OwnerReferencesPermissionEnforcement",
    "PodNodeSelector",
    "PodTolerationRestriction",
];

/// Those of upstream's that nothing can do without a configuration of its own, which is not read here.
const CONFIGURED: &[&str] = &["EventRateLimit", "ImagePolicyWebhook"];

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChoiceError {
    #[error("{flag} plugin {name:?} is unknown")]
    Unknown { flag: &'static str, name: String },
    #[error("{name} in enable-admission-plugins and disable-admission-plugins overlapped")]
    Both { name: String },
    #[error("enable-admission-plugins plugin {name:?} needs a configuration file of admission, which is not there yet")]
    Configured { name: String },
}

/// The names of plugins that run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice(BTreeSet<&'static str>);

impl Default for Choice {
    fn default() -> Self {
        Self(UNASKED.iter().copied().collect())
    }
}

impl Choice {
    /// What runs unasked and what is `enabled`, without what is `disabled`.
    pub fn new(enabled: &[String], disabled: &[String]) -> Result<Self, ChoiceError> {
        let mut chosen = Self::default();
        for name in disabled {
            let known = known(name).ok_or_else(|| ChoiceError::Unknown { flag: "disable-admission-plugins", name: name.clone() })?;
            if enabled.contains(name) {
                return Err(ChoiceError::Both { name: name.clone() });
            }
            chosen.0.remove(known);
        }
        for name in enabled {
            let known = known(name).ok_or_else(|| ChoiceError::Unknown { flag: "enable-admission-plugins", name: name.clone() })?;
            if CONFIGURED.contains(&known) {
                return Err(ChoiceError::Configured { name: name.clone() });
            }
            chosen.0.insert(known);
        }
        Ok(chosen)
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.contains(name)
    }
}

fn known(name: &str) -> Option<&'static str> {
    [UNASKED, ON_DEMAND, CONFIGURED].into_iter().flatten().copied().find(|known| *known == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(enabled: &[&str], disabled: &[&str], wanted: Result<(&[&str], &[&str]), &str>) {
        let [enabled, disabled] = [enabled, disabled].map(|names| names.iter().map(ToString::to_string).collect::<Vec<_>>());
        match (Choice::new(&enabled, &disabled), wanted) {
            (Ok(chosen), Ok((on, off))) => {
                assert!(on.iter().all(|name| chosen.has(name)), "{chosen:?}");
                assert!(off.iter().all(|name| !chosen.has(name)), "{chosen:?}");
            }
            (chosen, wanted) => assert_eq!(chosen.map(drop).map_err(|e| e.to_string()), wanted.map(drop).map_err(String::from)),
        }
    }

    #[test]
    fn plugins_are_those_that_run_unasked_and_what_is_said() {
        check(&[], &[], Ok((&["NodeRestriction", "ResourceQuota"], &["AlwaysPullImages"])));
        check(
            &["AlwaysPullImages", "ResourceQuota"],
            &["NodeRestriction"],
            Ok((&["AlwaysPullImages", "ResourceQuota"], &["NodeRestriction"])),
        );
        check(&[], &["AlwaysDeny"], Ok((&["Priority"], &["AlwaysDeny"])));
        check(&["Priorities"], &[], Err("enable-admission-plugins plugin \"Priorities\" is unknown"));
        check(&[], &["priority"], Err("disable-admission-plugins plugin \"priority\" is unknown"));
        check(&["Priority"], &["Priority"], Err("Priority in enable-admission-plugins and disable-admission-plugins overlapped"));
        let why = "enable-admission-plugins plugin \"EventRateLimit\" needs a configuration file of admission, which is not there yet";
        check(&["EventRateLimit"], &[], Err(why));
        check(&[], &["EventRateLimit"], Ok((&[], &["EventRateLimit"])));
    }
}
