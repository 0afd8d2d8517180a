//! What a configuration says of rates and times, and of what the node itself has to be like.

use std::time::Duration;

use fram_client::Rate;
use fram_machinery::Value;
use fram_machinery::normalize::format_duration;

use super::Reading;
use crate::config::{KernelDefaults, KubeletConfig, ReservedCgroup, StaticPodUrl};

const SYSTEM: (&str, &str) = ("system-reserved", "systemReservedCgroup");
const KUBE: (&str, &str) = ("kube-reserved", "kubeReservedCgroup");

impl Reading<'_> {
    /// Of two fields, the first of which is 0 for no limit. Where only one is given, the other is as upstream has it by default.
    fn rate(&mut self, names: (&str, &str), defaults: Rate, into: &mut Option<Rate>) {
        let (mut per_second, mut burst) = (defaults.per_second, defaults.burst);
        let given = [names.0, names.1].iter().any(|name| self.document.int_at(&[name]).is_some());
        self.number(names.0, 0, i64::from(i32::MAX), &mut per_second);
        self.number(names.1, 0, i64::from(i32::MAX), &mut burst);
        // A burst of 0 is as good as not given.
        let burst = if burst == 0 { defaults.burst } else { burst };
        if given {
            *into = (per_second > 0).then_some(Rate { per_second, burst });
        }
    }

    pub(super) fn rates(&mut self, config: &mut KubeletConfig) {
        let pulls = Rate { per_second: 5, burst: 10 };
        self.rate(("registryPullQPS", "registryBurst"), pulls, &mut config.registry_pulls);
        let events = Rate { per_second: 50, burst: 100 };
        self.rate(("eventRecordQPS", "eventBurst"), events, &mut config.event_rate);
    }

    pub(super) fn kernel(&mut self, config: &mut KubeletConfig) {
        if let Some(protect) = self.document.bool_at(&["protectKernelDefaults"]) {
            config.kernel_defaults = if protect { KernelDefaults::Protect } else { KernelDefaults::Set };
        }
        self.duration(&["cpuCFSQuotaPeriod"], &mut config.cpu_cfs_quota_period);
        let period = config.cpu_cfs_quota_period;
        if !(Duration::from_millis(1)..=Duration::from_secs(1)).contains(&period) {
            self.faults.push(format!("cpuCFSQuotaPeriod {period:?} must be between 1ms and 1sec, inclusive"));
        }
        config.oom_score_adj = self.document.int_at(&["oomScoreAdj"]);
        config.max_open_files = self.document.int_at(&["maxOpenFiles"]).and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0);
        if self.document.bool_at(&["failCgroupV1"]) == Some(true) && crate::cgroup::Cgroups::detect(&config.cgroup_mount).version() == 1 {
            self.faults.push("kubelet is configured to not run on a host using cgroup v1".into());
        }
    }

    /// What is enforced of that which pods cannot have; see validation of enforceNodeAllocatable.
    pub(super) fn enforcement(&mut self, config: &mut KubeletConfig) {
        let Some(what) = self.texts("enforceNodeAllocatable") else { return };
        let what: Vec<&str> = what.iter().map(String::as_str).filter(|w| !w.is_empty()).collect();
        config.enforce_node_allocatable = what.contains(&"pods");
        if what.contains(&"none") && what.len() > 1 {
            self.faults.push("enforceNodeAllocatable may not contain additional enforcements when \"none\" is specified".into());
        }
        let mut cgroups: Vec<ReservedCgroup> = Vec::new();
        for one in what.iter().filter(|w| !matches!(**w, "pods" | "none")) {
            let (kind, compressible) = one.strip_suffix("-compressible").map_or((*one, false), |kind| (kind, true));
            let Some((of, field)) = [SYSTEM, KUBE].into_iter().find(|(known, _)| *known == kind) else {
                let known = "\"pods\", \"system-reserved\", \"system-reserved-compressible\", \"kube-reserved\", \"kube-reserved-compressible\" or \"none\"";
                self.faults.push(format!("option {one:?} specified for enforceNodeAllocatable. Valid options are {known}"));
                continue;
            };
            let amounts = if of == SYSTEM.0 { config.system_reserved.clone() } else { config.kube_reserved.clone() };
            match self.text(field).map(String::from) {
                None => self.faults.push(format!("{field} must be specified when {one:?} included in enforceNodeAllocatable")),
                Some(path) if cgroups.iter().any(|known| known.path == path) => {
                    self.faults.push(format!("{one:?} cannot be specified together with another of {path:?} in enforceNodeAllocatable"));
                }
                Some(path) => cgroups.push(ReservedCgroup { of, path, amounts, compressible }),
            }
        }
        if !cgroups.is_empty() && self.text("reservedSystemCPUs").is_some() {
            self.faults.push("can't use reservedSystemCPUs with systemReservedCgroup or kubeReservedCgroup".into());
        }
        config.reserved_cgroups = cgroups;
    }

    pub(super) fn static_pod_url(&mut self, config: &mut KubeletConfig) {
        let mut every = Duration::from_secs(20);
        self.duration(&["httpCheckFrequency"], &mut every);
        let Some(text) = self.text("staticPodURL").map(String::from) else { return };
        let url = text.parse::<http::Uri>().ok().filter(|url| url.host().is_some() && matches!(url.scheme_str(), Some("http" | "https")));
        let Some(url) = url else {
            return self.faults.push(format!("staticPodURL {text:?} must be an http or https URL"));
        };
        let mut headers = Vec::new();
        for (name, values) in self.document.get("staticPodURLHeader").and_then(Value::as_map).into_iter().flat_map(|m| m.iter()) {
            let values = values.as_list().into_iter().flat_map(|list| list.iter()).filter_map(Value::as_str);
            headers.extend(values.map(|value| (name.to_string(), value.to_string())));
        }
        let is_header = |(name, value): &(String, String)| {
            http::HeaderName::try_from(name.as_str()).is_ok() && http::HeaderValue::try_from(value.as_str()).is_ok()
        };
        if !headers.iter().all(is_header) {
            self.faults.push("staticPodURLHeader must be names and values of HTTP headers".into());
        }
        config.static_pod_url = Some(StaticPodUrl { url, headers, every });
    }
}

/// The same, as it is in force.
pub(super) fn shown(config: &KubeletConfig, out: &mut Value) {
    for (names, rate) in
        [(["registryPullQPS", "registryBurst"], config.registry_pulls), (["eventRecordQPS", "eventBurst"], config.event_rate)]
    {
        out.set(&[names[0]], rate.map_or(0, |rate| i64::from(rate.per_second)));
        out.set(&[names[1]], rate.map_or(0, |rate| i64::from(rate.burst)));
    }
    match config.kernel_defaults {
        KernelDefaults::Tell => {}
        other => out.set(&["protectKernelDefaults"], other == KernelDefaults::Protect),
    }
    if let Some(score) = config.oom_score_adj {
        out.set(&["oomScoreAdj"], score);
    }
    if let Some(files) = config.max_open_files {
        out.set(&["maxOpenFiles"], i64::try_from(files).unwrap_or(i64::MAX));
    }
    if let Some(source) = &config.static_pod_url {
        // The headers may carry secrets: upstream masks them too.
        out.set(&["staticPodURL"], source.url.to_string());
        out.set(&["httpCheckFrequency"], format_duration(i64::try_from(source.every.as_nanos()).unwrap_or(i64::MAX)));
    }
    let mut enforced: Vec<Value> = Vec::new();
    if config.enforce_node_allocatable {
        enforced.push("pods".into());
    }
    for cgroup in &config.reserved_cgroups {
        let field = if cgroup.of == SYSTEM.0 { SYSTEM.1 } else { KUBE.1 };
        enforced.push(format!("{}{}", cgroup.of, if cgroup.compressible { "-compressible" } else { "" }).into());
        out.set(&[field], cgroup.path.as_str());
    }
    if enforced.is_empty() {
        enforced.push("none".into());
    }
    out.set(&["enforceNodeAllocatable"], enforced);
}
