//! Feature gates by which a KubeletConfiguration may name them: those of Kubernetes 1.36, and how each is there when nobody says
//! anything. What a gate switches is switched nowhere in Fram, so a gate can only say what is so already. Pure.
//!
//! The lists are facts of upstream's pkg/features, with the gates of component-base and client-go that kubelets know.

use fram_machinery::Value;

/// What a document says of gates that is not so.
pub(super) fn faults(document: &Value) -> Vec<String> {
    let gates = document.get("featureGates").and_then(Value::as_map);
    let said = gates.into_iter().flat_map(|map| map.iter()).filter_map(|(name, value)| Some((name.as_str(), value.as_bool()?)));
    said.filter_map(|(name, wanted)| fault(name, wanted)).collect()
}

fn fault(name: &str, wanted: bool) -> Option<String> {
    if EITHER.contains(&name) {
        return None;
    }
    // Some of them are on and some are off, so neither is so.
    if name == "AllBeta" {
        return Some(format!("featureGates: cannot set feature gate AllBeta to {wanted}: on this node each is as it is by default"));
    }
    let is = match (ON.contains(&name), OFF.contains(&name)) {
        (false, false) => return Some(format!("featureGates: unrecognized feature gate: {name}")),
        (is, _) => is,
    };
    (is != wanted).then(|| format!("featureGates: cannot set feature gate {name} to {wanted}: on this node it is {is}"))
}

/// Of some the API server decides by what it serves, and the node follows; what the others allow may always be asked for.
const EITHER: &[&str] = &[
    "ClusterTrustBundle",
    "ClusterTrustBundleProjection",
    "PodCertificateRequest",
    "DRADeviceTaintRules",
    "GenericWorkload",
    "CPUManagerPolicyAlphaOptions",
    "CPUManagerPolicyBetaOptions",
    "TopologyManagerPolicyAlphaOptions",
    "TopologyManagerPolicyBetaOptions",
];

#[rustfmt::skip]
const ON: &[&str] = &[
    "APIResponseCompression", "APIServerIdentity", "APIServerTracing", "AggregatedDiscoveryRemoveBetaType",
    "AllowParsingUserUIDFromCertAuth", "AllowServiceExternalIPs", "AnonymousAuthConfigurableEndpoints", "AnyVolumeDataSource", "AtomicFIFO",
    "AuthorizeNodeWithSelectors", "AuthorizePodWebsocketUpgradeCreatePermission", "AuthorizeWithSelectors", "BtreeWatchCache",
    "CPUManagerPolicyOptions", "CRDObservedGenerationTracking", "CRDValidationRatcheting",
    "CSIServiceAccountTokenSecrets", "ClearingNominatedNodeNameAfterBinding", "ClientsAllowCARotation", "ClientsAllowTLSCacheGC", "ComponentFlagz", "ComponentStatusz",
    "ConsistentListFromCache", "ConstrainedImpersonation", "ContainerCheckpoint", "ContainerRestartRules", "ContextualLogging",
    "CustomCPUCFSQuotaPeriod", "CustomResourceFieldSelectors", "DRAAdminAccess", "DRAConsumableCapacity",
    "DRADeviceBindingConditions", "DRADeviceTaints", "DRAExtendedResource", "DRAPartitionableDevices", "DRAPrioritizedList",
    "DRAResourceClaimDeviceStatus", "DRAResourceClaimGranularStatusAuthorization", "DRASchedulerFilterTimeout",
    "DeclarativeValidation", "DeclarativeValidationBeta", "DeploymentReplicaSetTerminatingReplicas", "DetectCacheInconsistency",
    "DisableAllocatorDualWrite", "DisableCPUQuotaWithExclusiveCPUs", "DisableNodeKubeProxyVersion", "DynamicResourceAllocation",
    "EnvFiles", "ExecProbeTimeout", "ExtendWebSocketsToKubelet", "ExternalServiceAccountTokenSigner", "GracefulNodeShutdown",
    "GracefulNodeShutdownBasedOnPodPriority", "HPAConfigurableTolerance", "HostnameOverride", "ImageMaximumGCAge", "ImageVolume",
    "InOrderInformers", "InOrderInformersBatchProcess", "InPlacePodLevelResourcesVerticalScaling", "InPlacePodVerticalScaling",
    "InPlacePodVerticalScalingInitContainers", "InformerResourceVersion", "JobBackoffLimitPerIndex", "JobManagedBy",
    "JobPodReplacementPolicy", "JobSuccessPolicy", "KubeletCgroupDriverFromCRI", "KubeletCrashLoopBackOffMax",
    "KubeletEnsureSecretPulledImages", "KubeletFineGrainedAuthz", "KubeletPSI", "KubeletPodResourcesDynamicResources",
    "KubeletPodResourcesGet", "KubeletPodResourcesListUseActivePods", "KubeletSeparateDiskGC",
    "KubeletServiceAccountTokenForCredentialProviders", "ListFromCacheSnapshot", "LogarithmicScaleDown",
    "LoggingBetaOptions", "MatchLabelKeysInPodAffinity", "MatchLabelKeysInPodTopologySpread",
    "MatchLabelKeysInPodTopologySpreadSelectorMerge", "MultiCIDRServiceAllocator", "MutableCSINodeAllocatableCount",
    "MutablePodResourcesForSuspendedJobs", "MutableSchedulingDirectivesForSuspendedJobs", "MutatingAdmissionPolicy",
    "NFTablesProxyMode", "NodeDeclaredFeatures", "NodeLogQuery", "NodeInclusionPolicyInPodTopologySpread", "NodeSwap",
    "NominatedNodeNameForExpectation", "OpenAPIEnums", "OpportunisticBatching", "OrderedNamespaceDeletion", "PLEGOnDemandRelist",
    "PodDeletionCost", "PodLevelResources", "PodLifecycleSleepAction", "PodLifecycleSleepActionAllowZero",
    "PodObservedGenerationTracking", "PodReadyToStartContainersCondition", "PodSchedulingReadiness", "PodTopologyLabelsAdmission",
    "PortForwardWebsockets", "PreferSameTrafficDistribution", "PreventStaticPodAPIReferences", "ProcMountType",
    "RecoverVolumeExpansionFailure", "RecursiveReadOnlyMounts", "RelaxedDNSSearchValidation",
    "RelaxedEnvironmentVariableValidation", "RelaxedServiceNameValidation", "ReloadKubeletClientCAFile",
    "ReloadKubeletServerCertificateFile", "RemoteRequestHeaderUID", "ResilientWatchCacheInitialization", "ResourceHealthStatus",
    "ResourceHealthStatusMessage", "RestartAllContainersOnContainerExits", "RetryGenerateName", "RotateKubeletServerCertificate",
    "SELinuxChangePolicy", "SELinuxMountReadWriteOncePod", "SchedulerAsyncPreemption", "SchedulerPopFromBackoffQ",
    "SchedulerQueueingHints", "SeparateTaintEvictionController", "ServiceAccountNodeAudienceRestriction", "ServiceAccountTokenJTI",
    "ServiceAccountTokenNodeBinding", "ServiceAccountTokenNodeBindingValidation", "ServiceAccountTokenPodNodeInfo",
    "ServiceCIDRStatusFieldWiping", "SidecarContainers", "SizeBasedListCostEstimate", "StaleControllerConsistencyDaemonSet",
    "StaleControllerConsistencyJob", "StaleControllerConsistencyReplicaSet", "StaleControllerConsistencyStatefulSet",
    "StatefulSetSemanticRevisionComparison", "StorageNamespaceIndex", "StorageVersionHash", "StreamingCollectionEncodingToJSON",
    "StreamingCollectionEncodingToProtobuf", "StrictIPCIDRValidation", "StructuredAuthenticationConfiguration",
    "StructuredAuthenticationConfigurationEgressSelector", "StructuredAuthenticationConfigurationJWKSMetrics",
    "SupplementalGroupsPolicy", "SystemdWatchdog", "TokenRequestServiceAccountUIDValidation",
    "TopologyManagerPolicyOptions", "TranslateStreamCloseWebsocketRequests", "UnauthenticatedHTTP2DOSMitigation",
    "UnknownVersionInteroperabilityProxy", "UnlockWhileProcessingFIFO", "UserNamespacesSupport", "VolumeAttributesClass",
    "WatchCacheInitializationPostStartHook", "WatchList", "WatchListClient", "WinDSR", "WinOverlay", "WindowsGracefulNodeShutdown",
];

#[rustfmt::skip]
const OFF: &[&str] = &[
    "APIServingWithRoutine", "AllAlpha", "AllowDNSOnlyNodeCSR", "AllowInsecureKubeletCertificateSigningRequests",
    "AllowOverwriteTerminationGracePeriodSeconds", "AllowUnsafeMalformedObjectDeletion", "CBORServingAndStorage",
    "CRIListStreaming", "CSIVolumeHealth", "ChangeContainerStatusOnKubeletRestart",
    "ClientsAllowCBOR", "ClientsPreferCBOR",
    "CloudControllerManagerWatchBasedRoutesReconciliation", "CloudControllerManagerWebhook",
    "ConcurrentWatchObjectDecode", "ContainerStopSignals", "CoordinatedLeaderElection",
    "CrossNamespaceVolumeDataSource", "DRAListTypeAttributes", "DRANodeAllocatableResources",
    "DRAResourcePoolStatus", "DRAWorkloadResourceClaims", "DeclarativeValidationTakeover", "EventedPLEG", "GangScheduling",
    "GitRepoVolumeDriver", "HPAScaleToZero", "ImageVolumeWithDigest", "InPlacePodVerticalScalingExclusiveCPUs",
    "InPlacePodVerticalScalingExclusiveMemory", "KMSv1", "KubeletInUserNamespace", "KubeletTracing", "KubeletRegistrationGetOnExistsOnly",
    "LocalStorageCapacityIsolationFSQuotaMonitoring", "LoggingAlphaOptions", "ManifestBasedAdmissionControlConfig",
    "MaxUnavailableStatefulSet", "MemoryQoS", "MutablePVNodeAffinity", "PersistentVolumeClaimUnusedSinceTime",
    "PodAndContainerStatsFromCRI", "PodLevelResourceManagers", "PodLogsQuerySplitStreams", "PodsAPI",
    "QOSReserved", "ReduceDefaultCrashLoopBackOffDecay", "RuntimeClassInImageCriApi", "SELinuxMount", "SchedulerAsyncAPICalls",
    "SeparateCacheWatchRPC", "ShardedListAndWatch", "StorageCapacityScoring", "StorageVersionAPI", "StorageVersionMigrator",
    "TaintTolerationComparisonOperators", "TopologyAwareWorkloadScheduling",
    "UserNamespacesHostNetworkSupport", "VolumeLimitScaling", "WindowsCPUAndMemoryAffinity", "WindowsHostNetwork",
    "WorkloadAwarePreemption", "WorkloadWithJob",
];

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    #[test]
    fn a_gate_can_say_what_is_so_and_nothing_else() {
        let of = |name: &'static str, wanted: bool| {
            let mut document = object!({});
            document.set(&["featureGates", name], wanted);
            faults(&document)
        };
        for (name, wanted) in
            [("SidecarContainers", true), ("MemoryQoS", false), ("ClusterTrustBundle", true), ("ClusterTrustBundle", false)]
        {
            assert!(of(name, wanted).is_empty(), "{name}");
        }
        assert_eq!(of("MemoryQoS", true), ["featureGates: cannot set feature gate MemoryQoS to true: on this node it is false"]);
        assert_eq!(
            of("SidecarContainers", false),
            ["featureGates: cannot set feature gate SidecarContainers to false: on this node it is true"]
        );
        for (name, is) in [
            ("AtomicFIFO", true),
            ("UnlockWhileProcessingFIFO", true),
            ("ClientsPreferCBOR", false),
            ("AllAlpha", false),
            ("NodeLogQuery", true),
        ] {
            assert_eq!((of(name, is).len(), of(name, !is).len()), (0, 1), "{name}");
        }
        assert_eq!((of("AllBeta", false).len(), of("AllBeta", true).len()), (1, 1));
        assert_eq!(of("Sidecars", true), ["featureGates: unrecognized feature gate: Sidecars"]);
        let mut all = [EITHER, ON, OFF].concat();
        all.sort_unstable();
        assert!(all.is_sorted_by(|one, next| one < next), "each gate stands once");
    }
}
