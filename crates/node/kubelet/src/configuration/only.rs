//! Fields of which only those values can be had that say what Fram does anyway. Others are refused, so that nobody believes that
//! something is as they wrote when it is not. Pure.

use fram_machinery::Value;
use fram_machinery::normalize::parse_duration;

use super::gates;

/// What a field may say, beside nothing at all.
enum Only {
    Flag(bool),
    Number(i64),
    Words(&'static [&'static str]),
    Nothing,
}

use Only::{Flag, Nothing, Number, Words};

/// A field, what it may say, and why nothing else.
const ONLY: &[(&[&str], Only, &str)] = &[
    (&["readOnlyPort"], Number(0), "a port at which nobody says who they are is not served"),
    (&["authentication", "anonymous", "enabled"], Flag(false), "nobody comes in unknown"),
    (&["authentication", "webhook", "enabled"], Flag(true), "tokens are always reviewed by the API server"),
    (&["authorization", "mode"], Words(&["Webhook"]), "what a visitor may is always asked of the API server"),
    (&["cgroupsPerQOS"], Flag(true), "classes of pods always have cgroups of their own"),
    (&["systemCgroups"], Nothing, "processes of the system are not moved"),
    (&["kubeletCgroups"], Nothing, "the program stays in the cgroup in which it was started"),
    (&["qosReserved"], Nothing, "it needs the feature gate QOSReserved, which this node does not have"),
    (&["runOnce"], Flag(false), "Runonce mode has been deprecated and should not be set"),
    (&["memoryReservationPolicy"], Words(&["None"]), "others need the feature gate MemoryQoS, which this node does not have"),
    (&["tracing", "endpoint"], Nothing, "this node writes no traces"),
    (&["tracing", "samplingRatePerMillion"], Number(0), "this node writes no traces"),
    (&["logging", "format"], Words(&["text"]), "the log has one format"),
    (&["hairpinMode"], Words(&["promiscuous-bridge", "hairpin-veth", "none"]), "it is one of these"),
    (&["configMapAndSecretChangeDetectionStrategy"], Words(&["Watch", "Cache", "Get"]), "it is one of these"),
    (&["kernelMemcgNotification"], Flag(false), "free memory is looked at, and not told by the kernel"),
    (&["enableContentionProfiling"], Flag(false), "there is nothing to profile it by"),
];

impl Only {
    fn allows(&self, value: &Value) -> bool {
        match self {
            Flag(only) => value.as_bool() == Some(*only),
            Number(only) => value.as_int() == Some(*only),
            Words(known) => value.as_str().is_some_and(|word| word.is_empty() || known.contains(&word)),
            Nothing => value.is_empty() || value.as_str().is_some_and(str::is_empty),
        }
    }
}

fn fraction(value: &Value) -> Option<f64> {
    match value {
        Value::Float(fraction) => Some(*fraction),
        Value::Int(whole) => Some(*whole as f64),
        _ => None,
    }
}

fn as_written(value: &Value) -> String {
    fram_machinery::json::to_string(value)
}

/// What a document asks for that cannot be had. `cgroup_root` is where the node's pods are.
pub(super) fn faults(document: &Value, cgroup_root: &str) -> Vec<String> {
    let mut out = Vec::new();
    for (path, only, why) in ONLY {
        if let Some(value) = document.at(path).filter(|value| !value.is_null() && !only.allows(value)) {
            out.push(format!("{} {} cannot be had: {why}", path.join("."), as_written(value)));
        }
    }
    let root = document.str_at(&["cgroupRoot"]).trim_end_matches('/');
    if !root.is_empty() && root != cgroup_root.trim_end_matches('/') {
        out.push(format!("cgroupRoot {root:?} is not {cgroup_root:?}, which the program was told by --cgroup-root"));
    }
    if let Some(factor) = document.get("memoryThrottlingFactor").and_then(fraction).filter(|f| *f <= 0.0 || *f > 1.0) {
        out.push(format!("memoryThrottlingFactor {factor} must be greater than 0 and less than or equal to 1.0"));
    }
    let interval = document.str_at(&["containerLogMonitorInterval"]);
    if parse_duration(interval).is_some_and(|nanos| nanos < 3_000_000_000) {
        out.push("containerLogMonitorInterval must be a positive time duration greater than or equal to 3s".into());
    }
    for (name, least, most) in [("iptablesMasqueradeBit", 0, 31), ("iptablesDropBit", 0, 31), ("oomScoreAdj", -1000, 1000)] {
        if let Some(value) = document.int_at(&[name]).filter(|value| !(least..=most).contains(value)) {
            out.push(format!("{name} {value} must be between {least} and {most}, inclusive"));
        }
    }
    for name in ["kubeAPIQPS", "kubeAPIBurst", "maxOpenFiles"] {
        if let Some(value) = document.int_at(&[name]).filter(|value| *value < 0) {
            out.push(format!("{name} {value} must not be a negative number"));
        }
    }
    out.extend(gates::faults(document));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    #[test]
    fn what_says_what_happens_anyway_is_taken_and_all_else_is_refused_by_its_name() {
        let usual = object!({
            "readOnlyPort": 0, "authentication": { "anonymous": { "enabled": false }, "webhook": { "enabled": true, "cacheTTL": "0s" }, "x509": { "clientCAFile": "/ca" } },
            "authorization": { "mode": "Webhook" }, "cgroupDriver": "systemd", "cgroupRoot": "/fram", "logging": { "format": "text" },
            "hairpinMode": "hairpin-veth", "tracing": {}, "qosReserved": {}, "memoryThrottlingFactor": 0.9, "runOnce": null
        });
        assert_eq!(faults(&usual, "/fram/"), Vec::<String>::new());
        for (document, fault) in [
            (object!({ "readOnlyPort": 10255 }), "readOnlyPort 10255 cannot be had"),
            (object!({ "authentication": { "anonymous": { "enabled": true } } }), "authentication.anonymous.enabled true cannot be had"),
            (object!({ "authorization": { "mode": "AlwaysAllow" } }), "authorization.mode \"AlwaysAllow\" cannot be had"),
            (object!({ "qosReserved": { "memory": "50%" } }), "qosReserved {\"memory\":\"50%\"} cannot be had"),
            (object!({ "cgroupRoot": "/other" }), "cgroupRoot \"/other\" is not \"/fram\""),
            (object!({ "containerLogMonitorInterval": "1s" }), "greater than or equal to 3s"),
            (object!({ "memoryThrottlingFactor": 2.0 }), "memoryThrottlingFactor 2 must be"),
            (object!({ "oomScoreAdj": (-2000) }), "oomScoreAdj -2000 must be between"),
        ] {
            let told = faults(&document, "/fram");
            assert!(told.len() == 1 && told[0].contains(fault), "{told:?}");
        }
    }
}
