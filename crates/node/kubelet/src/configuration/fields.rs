//! The fields of kubelet.config.k8s.io/v1beta1 KubeletConfiguration, and whether a document keeps to them. Pure.

use fram_machinery::Value;
use fram_machinery::normalize::parse_duration;

/// What a field may contain.
#[derive(Debug, Clone, Copy)]
enum Form {
    Text,
    Flag,
    Number,
    Fraction,
    Duration,
    Texts,
    Numbers,
    TextMap,
    FlagMap,
    Struct(&'static [Field]),
    Structs(&'static [Field]),
    /// What is in it, is not looked at.
    Any,
}

/// What becomes of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Fram does as it says.
    Honoured,
    /// What it says does not apply to Fram, whose parts stand in one process.
    Moot,
    /// What it says would apply, and nobody has built it.
    Missing,
}

type Field = (&'static str, Form, Use);

use Form::{Any, Duration, Flag, FlagMap, Fraction, Number, Numbers, Struct, Structs, Text, TextMap, Texts};
use Use::{Honoured, Missing, Moot};

const TAINT: &[Field] = &[("key", Text, Honoured), ("value", Text, Honoured), ("effect", Text, Honoured), ("timeAdded", Text, Honoured)];
const BY_PRIORITY: &[Field] = &[("priority", Number, Honoured), ("shutdownGracePeriodSeconds", Number, Honoured)];
const RESERVATION: &[Field] = &[("numaNode", Number, Honoured), ("limits", TextMap, Honoured)];
const X509: &[Field] = &[("clientCAFile", Text, Moot)];
const WEBHOOK: &[Field] = &[("enabled", Flag, Moot), ("cacheTTL", Duration, Moot)];
const ANONYMOUS: &[Field] = &[("enabled", Flag, Moot)];
const AUTHENTICATION: &[Field] =
    &[("x509", Struct(X509), Moot), ("webhook", Struct(WEBHOOK), Moot), ("anonymous", Struct(ANONYMOUS), Moot)];
const AUTHORIZATION_WEBHOOK: &[Field] = &[("cacheAuthorizedTTL", Duration, Moot), ("cacheUnauthorizedTTL", Duration, Moot)];
const AUTHORIZATION: &[Field] = &[("mode", Text, Moot), ("webhook", Struct(AUTHORIZATION_WEBHOOK), Moot)];
const SWAP: &[Field] = &[("swapBehavior", Text, Honoured)];
const CRASH_LOOP: &[Field] = &[("maxContainerRestartPeriod", Duration, Honoured)];
const USER_NAMESPACES: &[Field] = &[("idsPerPod", Number, Honoured)];

const FIELDS: &[Field] = &[
    ("apiVersion", Text, Honoured),
    ("kind", Text, Honoured),
    ("enableServer", Flag, Moot),
    ("staticPodPath", Text, Honoured),
    ("podLogsDir", Text, Honoured),
    ("syncFrequency", Duration, Moot),
    ("fileCheckFrequency", Duration, Moot),
    ("httpCheckFrequency", Duration, Moot),
    ("staticPodURL", Text, Missing),
    ("staticPodURLHeader", Any, Moot),
    ("address", Text, Honoured),
    ("port", Number, Honoured),
    ("readOnlyPort", Number, Moot),
    ("tlsCertFile", Text, Missing),
    ("tlsPrivateKeyFile", Text, Missing),
    ("tlsCipherSuites", Texts, Missing),
    ("tlsCurvePreferences", Numbers, Moot),
    ("tlsMinVersion", Text, Missing),
    ("rotateCertificates", Flag, Moot),
    ("serverTLSBootstrap", Flag, Moot),
    ("authentication", Struct(AUTHENTICATION), Moot),
    ("authorization", Struct(AUTHORIZATION), Moot),
    ("registryPullQPS", Number, Missing),
    ("registryBurst", Number, Missing),
    ("imagePullCredentialsVerificationPolicy", Text, Honoured),
    ("preloadedImagesVerificationAllowlist", Texts, Honoured),
    ("eventRecordQPS", Number, Missing),
    ("eventBurst", Number, Missing),
    ("enableDebuggingHandlers", Flag, Honoured),
    ("enableContentionProfiling", Flag, Moot),
    ("healthzPort", Number, Moot),
    ("healthzBindAddress", Text, Moot),
    ("oomScoreAdj", Number, Moot),
    ("clusterDomain", Text, Honoured),
    ("clusterDNS", Texts, Honoured),
    ("streamingConnectionIdleTimeout", Duration, Missing),
    ("nodeStatusUpdateFrequency", Duration, Honoured),
    ("nodeStatusReportFrequency", Duration, Honoured),
    ("nodeLeaseDurationSeconds", Number, Honoured),
    ("imageMinimumGCAge", Duration, Honoured),
    ("imageMaximumGCAge", Duration, Honoured),
    ("imageGCHighThresholdPercent", Number, Honoured),
    ("imageGCLowThresholdPercent", Number, Honoured),
    ("volumeStatsAggPeriod", Duration, Moot),
    ("kubeletCgroups", Text, Moot),
    ("systemCgroups", Text, Moot),
    ("cgroupRoot", Text, Moot),
    ("cgroupsPerQOS", Flag, Moot),
    ("cgroupDriver", Text, Moot),
    ("cpuManagerPolicy", Text, Honoured),
    ("singleProcessOOMKill", Flag, Honoured),
    ("cpuManagerPolicyOptions", TextMap, Honoured),
    ("cpuManagerReconcilePeriod", Duration, Moot),
    ("memoryManagerPolicy", Text, Honoured),
    ("topologyManagerPolicy", Text, Honoured),
    ("topologyManagerScope", Text, Honoured),
    ("topologyManagerPolicyOptions", TextMap, Honoured),
    ("qosReserved", TextMap, Missing),
    ("runtimeRequestTimeout", Duration, Missing),
    ("hairpinMode", Text, Moot),
    ("maxPods", Number, Honoured),
    ("podCIDR", Text, Honoured),
    ("podPidsLimit", Number, Honoured),
    ("resolvConf", Text, Honoured),
    ("runOnce", Flag, Moot),
    ("cpuCFSQuota", Flag, Honoured),
    ("cpuCFSQuotaPeriod", Duration, Missing),
    ("nodeStatusMaxImages", Number, Honoured),
    ("maxOpenFiles", Number, Moot),
    ("contentType", Text, Moot),
    ("kubeAPIQPS", Number, Moot),
    ("kubeAPIBurst", Number, Moot),
    ("serializeImagePulls", Flag, Honoured),
    ("maxParallelImagePulls", Number, Honoured),
    ("evictionHard", TextMap, Honoured),
    ("evictionSoft", TextMap, Honoured),
    ("evictionSoftGracePeriod", TextMap, Honoured),
    ("evictionPressureTransitionPeriod", Duration, Honoured),
    ("evictionMaxPodGracePeriod", Number, Honoured),
    ("evictionMinimumReclaim", TextMap, Honoured),
    ("mergeDefaultEvictionSettings", Flag, Honoured),
    ("podsPerCore", Number, Honoured),
    ("enableControllerAttachDetach", Flag, Moot),
    ("protectKernelDefaults", Flag, Missing),
    ("makeIPTablesUtilChains", Flag, Moot),
    ("iptablesMasqueradeBit", Number, Moot),
    ("iptablesDropBit", Number, Moot),
    ("featureGates", FlagMap, Moot),
    ("failSwapOn", Flag, Honoured),
    ("memorySwap", Struct(SWAP), Honoured),
    ("containerLogMaxSize", Text, Honoured),
    ("containerLogMaxFiles", Number, Honoured),
    ("containerLogMaxWorkers", Number, Moot),
    ("containerLogMonitorInterval", Duration, Honoured),
    ("configMapAndSecretChangeDetectionStrategy", Text, Moot),
    ("systemReserved", TextMap, Honoured),
    ("kubeReserved", TextMap, Honoured),
    ("reservedSystemCPUs", Text, Honoured),
    ("showHiddenMetricsForVersion", Text, Moot),
    ("systemReservedCgroup", Text, Moot),
    ("kubeReservedCgroup", Text, Moot),
    ("enforceNodeAllocatable", Texts, Honoured),
    ("allowedUnsafeSysctls", Texts, Honoured),
    ("volumePluginDir", Text, Moot),
    ("providerID", Text, Honoured),
    ("kernelMemcgNotification", Flag, Moot),
    ("logging", Any, Moot),
    ("enableSystemLogHandler", Flag, Honoured),
    ("enableSystemLogQuery", Flag, Moot),
    ("shutdownGracePeriod", Duration, Honoured),
    ("shutdownGracePeriodCriticalPods", Duration, Honoured),
    ("shutdownGracePeriodByPodPriority", Structs(BY_PRIORITY), Honoured),
    ("crashLoopBackOff", Struct(CRASH_LOOP), Honoured),
    ("reservedMemory", Structs(RESERVATION), Honoured),
    ("enableProfilingHandler", Flag, Moot),
    ("enableDebugFlagsHandler", Flag, Moot),
    ("seccompDefault", Flag, Honoured),
    ("memoryThrottlingFactor", Fraction, Moot),
    ("memoryReservationPolicy", Text, Moot),
    ("registerWithTaints", Structs(TAINT), Honoured),
    ("registerNode", Flag, Honoured),
    ("tracing", Any, Moot),
    ("localStorageCapacityIsolation", Flag, Honoured),
    ("containerRuntimeEndpoint", Text, Moot),
    ("imageServiceEndpoint", Text, Moot),
    ("failCgroupV1", Flag, Moot),
    ("userNamespaces", Struct(USER_NAMESPACES), Honoured),
];

/// Everything about a document that is not as it should be, in the words of upstream's strict decoding.
pub(super) fn faults(document: &Value) -> Vec<String> {
    let mut out = Vec::new();
    check_struct(document, FIELDS, "", &mut out);
    out
}

/// Fields that are set and mean nothing to Fram.
pub(super) fn moot(document: &Value) -> Vec<&'static str> {
    set(document, Moot)
}

/// Fields that are set and should mean something to Fram.
pub(super) fn missing(document: &Value) -> Vec<&'static str> {
    set(document, Missing)
}

fn set(document: &Value, of: Use) -> Vec<&'static str> {
    let set = |name: &str| document.get(name).is_some_and(|v| !v.is_null());
    FIELDS.iter().filter(|(name, _, used)| *used == of && set(name)).map(|(name, ..)| *name).collect()
}

fn check_struct(value: &Value, fields: &[Field], at: &str, out: &mut Vec<String>) {
    let Some(map) = value.as_map() else {
        out.push(format!("{}: expected a map, got {}", if at.is_empty() { "document" } else { at }, value.kind_name()));
        return;
    };
    for (name, value) in map.iter() {
        let path = if at.is_empty() { name.as_str().to_string() } else { format!("{at}.{name}") };
        match fields.iter().find(|(known, ..)| *known == name.as_str()) {
            Some((_, form, _)) => check(value, *form, &path, out),
            None => out.push(format!("unknown field {path:?}")),
        }
    }
}

fn check(value: &Value, form: Form, at: &str, out: &mut Vec<String>) {
    if value.is_null() {
        return;
    }
    let mut expect = |what: &str, is: bool| {
        if !is {
            out.push(format!("{at}: expected {what}, got {}", value.kind_name()));
        }
    };
    let each = |is: fn(&Value) -> bool| value.as_list().is_some_and(|l| l.iter().all(is));
    // In a drop-in, null takes a key away.
    let map = |is: fn(&Value) -> bool| value.as_map().is_some_and(|m| m.iter().all(|(_, v)| v.is_null() || is(v)));
    match form {
        Any => {}
        Text => expect("a text", value.as_str().is_some()),
        Flag => expect("true or false", value.as_bool().is_some()),
        Number => expect("a number", value.as_int().is_some()),
        Fraction => expect("a number", matches!(value, Value::Int(_) | Value::Float(_))),
        Duration => expect("a duration", value.as_str().is_some_and(|t| parse_duration(t).is_some())),
        Texts => expect("a list of texts", each(|v| v.as_str().is_some())),
        Numbers => expect("a list of numbers", each(|v| v.as_int().is_some())),
        TextMap => expect("a map of texts", map(|v| v.as_str().is_some())),
        FlagMap => expect("a map of true and false", map(|v| v.as_bool().is_some())),
        Struct(fields) => check_struct(value, fields, at, out),
        Structs(fields) => match value.as_list() {
            Some(list) => list.iter().enumerate().for_each(|(i, v)| check_struct(v, fields, &format!("{at}[{i}]"), out)),
            None => expect("a list", false),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    #[test]
    fn unknown_fields_and_values_of_another_type_are_faults_at_any_depth() {
        let fine = object!({
            "maxPods": 3, "evictionHard": { "memory.available": "1" }, "memorySwap": { "swapBehavior": "NoSwap" }, "clusterDNS": ["1.2.3.4"],
            "registerWithTaints": [{ "key": "k", "effect": "NoSchedule" }], "imageMinimumGCAge": "2m", "logging": { "x": 1 }, "staticPodPath": null
        });
        assert_eq!(faults(&fine), Vec::<String>::new());
        assert_eq!(moot(&fine), ["logging"]);
        assert_eq!(missing(&object!({ "eventRecordQPS": 5, "logging": {} })), ["eventRecordQPS"]);
        for (document, fault) in [
            (object!({ "maxPod": 3 }), "unknown field \"maxPod\""),
            (object!({ "memorySwap": { "behavior": "" } }), "unknown field \"memorySwap.behavior\""),
            (object!({ "registerWithTaints": [{ "k": "" }] }), "unknown field \"registerWithTaints[0].k\""),
            (object!({ "maxPods": "3" }), "maxPods: expected a number, got string"),
            (object!({ "imageMinimumGCAge": "2 minutes" }), "imageMinimumGCAge: expected a duration, got string"),
            (object!({ "evictionHard": { "memory.available": 1 } }), "evictionHard: expected a map of texts, got object"),
        ] {
            assert_eq!(faults(&document), [fault]);
        }
    }
}
