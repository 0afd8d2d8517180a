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
    /// A map of lists of texts.
    Lists,
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
    /// Only what is so anyway may be said; see `only`.
    Checked,
    /// What it says does not apply to Fram, whose parts stand in one process and wait for what happens instead of asking again.
    Moot,
}

type Field = (&'static str, Form, Use);

use Form::{Any, Duration, Flag, FlagMap, Fraction, Lists, Number, Numbers, Struct, Structs, Text, TextMap, Texts};
use Use::{Checked, Honoured, Moot};

const TAINT: &[Field] = &[("key", Text, Honoured), ("value", Text, Honoured), ("effect", Text, Honoured), ("timeAdded", Text, Honoured)];
const BY_PRIORITY: &[Field] = &[("priority", Number, Honoured), ("shutdownGracePeriodSeconds", Number, Honoured)];
const RESERVATION: &[Field] = &[("numaNode", Number, Honoured), ("limits", TextMap, Honoured)];
const X509: &[Field] = &[("clientCAFile", Text, Honoured)];
const WEBHOOK: &[Field] = &[("enabled", Flag, Checked), ("cacheTTL", Duration, Honoured)];
const ANONYMOUS: &[Field] = &[("enabled", Flag, Checked)];
const AUTHENTICATION: &[Field] =
    &[("x509", Struct(X509), Honoured), ("webhook", Struct(WEBHOOK), Honoured), ("anonymous", Struct(ANONYMOUS), Checked)];
const AUTHORIZATION_WEBHOOK: &[Field] = &[("cacheAuthorizedTTL", Duration, Honoured), ("cacheUnauthorizedTTL", Duration, Honoured)];
const AUTHORIZATION: &[Field] = &[("mode", Text, Checked), ("webhook", Struct(AUTHORIZATION_WEBHOOK), Honoured)];
const SWAP: &[Field] = &[("swapBehavior", Text, Honoured)];
const CRASH_LOOP: &[Field] = &[("maxContainerRestartPeriod", Duration, Honoured)];
const TRACING: &[Field] = &[("endpoint", Text, Checked), ("samplingRatePerMillion", Number, Checked)];
const USER_NAMESPACES: &[Field] = &[("idsPerPod", Number, Honoured)];

const FIELDS: &[Field] = &[
    ("apiVersion", Text, Honoured),
    ("kind", Text, Honoured),
    ("enableServer", Flag, Honoured),
    ("staticPodPath", Text, Honoured),
    ("podLogsDir", Text, Honoured),
    ("syncFrequency", Duration, Moot),
    ("fileCheckFrequency", Duration, Moot),
    ("httpCheckFrequency", Duration, Honoured),
    ("staticPodURL", Text, Honoured),
    ("staticPodURLHeader", Lists, Honoured),
    ("address", Text, Honoured),
    ("port", Number, Honoured),
    ("readOnlyPort", Number, Checked),
    ("tlsCertFile", Text, Honoured),
    ("tlsPrivateKeyFile", Text, Honoured),
    ("tlsCipherSuites", Texts, Honoured),
    ("tlsCurvePreferences", Numbers, Honoured),
    ("tlsMinVersion", Text, Honoured),
    ("rotateCertificates", Flag, Moot),
    ("serverTLSBootstrap", Flag, Moot),
    ("authentication", Struct(AUTHENTICATION), Honoured),
    ("authorization", Struct(AUTHORIZATION), Honoured),
    ("registryPullQPS", Number, Honoured),
    ("registryBurst", Number, Honoured),
    ("imagePullCredentialsVerificationPolicy", Text, Honoured),
    ("preloadedImagesVerificationAllowlist", Texts, Honoured),
    ("eventRecordQPS", Number, Honoured),
    ("eventBurst", Number, Honoured),
    ("enableDebuggingHandlers", Flag, Honoured),
    ("enableContentionProfiling", Flag, Checked),
    ("healthzPort", Number, Honoured),
    ("healthzBindAddress", Text, Honoured),
    ("oomScoreAdj", Number, Honoured),
    ("clusterDomain", Text, Honoured),
    ("clusterDNS", Texts, Honoured),
    ("streamingConnectionIdleTimeout", Duration, Honoured),
    ("nodeStatusUpdateFrequency", Duration, Honoured),
    ("nodeStatusReportFrequency", Duration, Honoured),
    ("nodeLeaseDurationSeconds", Number, Honoured),
    ("imageMinimumGCAge", Duration, Honoured),
    ("imageMaximumGCAge", Duration, Honoured),
    ("imageGCHighThresholdPercent", Number, Honoured),
    ("imageGCLowThresholdPercent", Number, Honoured),
    ("volumeStatsAggPeriod", Duration, Moot),
    ("kubeletCgroups", Text, Checked),
    ("systemCgroups", Text, Checked),
    ("cgroupRoot", Text, Checked),
    ("cgroupsPerQOS", Flag, Checked),
    ("cgroupDriver", Text, Moot),
    ("cpuManagerPolicy", Text, Honoured),
    ("singleProcessOOMKill", Flag, Honoured),
    ("cpuManagerPolicyOptions", TextMap, Honoured),
    ("cpuManagerReconcilePeriod", Duration, Moot),
    ("memoryManagerPolicy", Text, Honoured),
    ("topologyManagerPolicy", Text, Honoured),
    ("topologyManagerScope", Text, Honoured),
    ("topologyManagerPolicyOptions", TextMap, Honoured),
    ("qosReserved", TextMap, Checked),
    ("runtimeRequestTimeout", Duration, Honoured),
    ("hairpinMode", Text, Checked),
    ("maxPods", Number, Honoured),
    ("podCIDR", Text, Honoured),
    ("podPidsLimit", Number, Honoured),
    ("resolvConf", Text, Honoured),
    ("runOnce", Flag, Checked),
    ("cpuCFSQuota", Flag, Honoured),
    ("cpuCFSQuotaPeriod", Duration, Honoured),
    ("nodeStatusMaxImages", Number, Honoured),
    ("maxOpenFiles", Number, Honoured),
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
    ("protectKernelDefaults", Flag, Honoured),
    ("makeIPTablesUtilChains", Flag, Moot),
    ("iptablesMasqueradeBit", Number, Moot),
    ("iptablesDropBit", Number, Moot),
    ("featureGates", FlagMap, Checked),
    ("failSwapOn", Flag, Honoured),
    ("memorySwap", Struct(SWAP), Honoured),
    ("containerLogMaxSize", Text, Honoured),
    ("containerLogMaxFiles", Number, Honoured),
    ("containerLogMaxWorkers", Number, Honoured),
    ("containerLogMonitorInterval", Duration, Honoured),
    ("configMapAndSecretChangeDetectionStrategy", Text, Checked),
    ("systemReserved", TextMap, Honoured),
    ("kubeReserved", TextMap, Honoured),
    ("reservedSystemCPUs", Text, Honoured),
    ("showHiddenMetricsForVersion", Text, Moot),
    ("systemReservedCgroup", Text, Honoured),
    ("kubeReservedCgroup", Text, Honoured),
    ("enforceNodeAllocatable", Texts, Honoured),
    ("allowedUnsafeSysctls", Texts, Honoured),
    ("volumePluginDir", Text, Moot),
    ("providerID", Text, Honoured),
    ("kernelMemcgNotification", Flag, Checked),
    ("logging", Any, Checked),
    ("enableSystemLogHandler", Flag, Honoured),
    ("enableSystemLogQuery", Flag, Honoured),
    ("shutdownGracePeriod", Duration, Honoured),
    ("shutdownGracePeriodCriticalPods", Duration, Honoured),
    ("shutdownGracePeriodByPodPriority", Structs(BY_PRIORITY), Honoured),
    ("crashLoopBackOff", Struct(CRASH_LOOP), Honoured),
    ("reservedMemory", Structs(RESERVATION), Honoured),
    ("enableProfilingHandler", Flag, Moot),
    ("enableDebugFlagsHandler", Flag, Moot),
    ("seccompDefault", Flag, Honoured),
    ("memoryThrottlingFactor", Fraction, Moot),
    ("memoryReservationPolicy", Text, Checked),
    ("registerWithTaints", Structs(TAINT), Honoured),
    ("registerNode", Flag, Honoured),
    ("tracing", Struct(TRACING), Checked),
    ("localStorageCapacityIsolation", Flag, Honoured),
    ("containerRuntimeEndpoint", Text, Honoured),
    ("imageServiceEndpoint", Text, Honoured),
    ("failCgroupV1", Flag, Honoured),
    ("userNamespaces", Struct(USER_NAMESPACES), Honoured),
];

/// Everything about a document that is not as it should be, in the words of upstream's strict decoding.
pub(super) fn faults(document: &Value) -> Vec<String> {
    let mut out = Vec::new();
    check_struct(document, FIELDS, "", &mut out);
    out
}

/// Fields that are set and mean nothing to Fram.
pub(super) fn moot(document: &Value) -> Vec<String> {
    let set = |name: &str| document.get(name).is_some_and(|v| !v.is_null());
    let mut out: Vec<String> =
        FIELDS.iter().filter(|(name, _, used)| *used == Moot && set(name)).map(|(name, ..)| name.to_string()).collect();
    // What is written to the log is for the program's own switches to say.
    let logging = document.get("logging").and_then(Value::as_map);
    let said = logging.into_iter().flat_map(|map| map.iter()).filter(|(name, value)| *name != "format" && says_anything(value));
    out.extend(said.map(|(name, _)| format!("logging.{name}")));
    out
}

/// Tools write all fields of a configuration, those of no value too.
fn says_anything(value: &Value) -> bool {
    match value {
        Value::Map(map) => map.iter().any(|(_, value)| says_anything(value)),
        Value::String(text) => !matches!(text.as_str(), "" | "0" | "0s"),
        Value::List(list) => !list.is_empty(),
        Value::Bool(flag) => *flag,
        other => !other.is_null() && other.as_int() != Some(0),
    }
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
        Lists => expect("a map of lists", map(|v| v.as_list().is_some_and(|l| l.iter().all(|one| one.as_str().is_some())))),
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
            "registerWithTaints": [{ "key": "k", "effect": "NoSchedule" }], "imageMinimumGCAge": "2m", "contentType": "x", "staticPodPath": null
        });
        assert_eq!(faults(&fine), Vec::<String>::new());
        assert_eq!(moot(&fine), ["contentType"]);
        let as_tools_write_it = object!({
            "authentication": { "x509": { "clientCAFile": "/etc/kubernetes/pki/ca.crt" } },
            "logging": { "format": "text", "flushFrequency": 0, "verbosity": 0, "options": { "json": { "infoBufferSize": "0" }, "text": {} } }
        });
        assert_eq!(faults(&as_tools_write_it), Vec::<String>::new());
        assert_eq!(moot(&as_tools_write_it), Vec::<String>::new());
        let wordy = object!({ "logging": { "flushFrequency": "5s", "verbosity": 4, "options": { "json": { "splitStream": true } } } });
        assert_eq!(moot(&wordy), ["logging.flushFrequency", "logging.options", "logging.verbosity"]);
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
