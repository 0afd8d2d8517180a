//! KubeletConfiguration (kubelet.config.k8s.io/v1beta1): read from a file and its drop-ins, checked, and laid over what a node is
//! told otherwise. Unknown fields are errors. See upstream's cmd/kubelet/app and pkg/kubelet/apis/config/validation.

mod fields;
mod gates;
mod images;
mod limits;
mod only;
mod server;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fram_machinery::normalize::{format_duration, parse_duration};
use fram_machinery::quantity::Quantity;
use fram_machinery::{Map, Value, object, patch, yaml};

use crate::cgroup::Cgroups;
use crate::config::{KubeletConfig, MemoryReservation, ShutdownGrace, SwapBehavior};
use crate::eviction::thresholds::default_hard;
use crate::images::access::Verification;
use crate::resource::cpuset::CpuSet;
use crate::resource::topology::{Policy, Scope};
use crate::user_namespaces::RANGE;

const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";
const KIND: &str = "KubeletConfiguration";
/// Fields with paths of files of the node's own. See upstream's KubeletConfigurationPathRefs.
const PATHS: [&[&str]; 4] = [&["staticPodPath"], &["authentication", "x509", "clientCAFile"], &["tlsCertFile"], &["tlsPrivateKeyFile"]];

#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    #[error("read {path:?}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("failed to load kubelet config file {path:?}: {message}")]
    Load { path: PathBuf, message: String },
    #[error("invalid configuration: {}", .0.join("; "))]
    Invalid(Vec<String>),
}

/// What files say, merged: drop-ins over the file, in the order of their paths.
#[derive(Debug, Clone, Default)]
pub struct Configuration {
    document: Value,
}

impl Configuration {
    /// Reads a file and the `.conf` files below a directory; either may be absent.
    pub fn load(file: Option<&Path>, directory: Option<&Path>) -> Result<Self, ConfigurationError> {
        let mut document = object!({});
        let drop_ins = directory.map(drop_ins).transpose()?.unwrap_or_default();
        let own = file.map(|file| (file.to_path_buf(), false));
        for (path, is_drop_in) in own.into_iter().chain(drop_ins.into_iter().map(|path| (path, true))) {
            let text = std::fs::read_to_string(&path).map_err(|source| ConfigurationError::Read { path: path.clone(), source })?;
            let mut part = parse(&text).map_err(|message| ConfigurationError::Load { path: path.clone(), message })?;
            let place = std::path::absolute(&path).map_err(|source| ConfigurationError::Read { path: path.clone(), source })?;
            resolve(&mut part, place.parent().unwrap_or(&place));
            if is_drop_in {
                settle(&mut document);
            }
            document = patch::merge(&document, &part);
        }
        Ok(Self { document })
    }

    /// Where a container runtime beside this program is asked to run pods, and another one for images; see containerRuntimeEndpoint.
    pub fn endpoints(&self) -> (Option<String>, Option<String>) {
        let text = |name: &str| Some(self.document.str_at(&[name])).filter(|t| !t.is_empty()).map(String::from);
        (text("containerRuntimeEndpoint"), text("imageServiceEndpoint"))
    }

    /// What the kubelet's port shows and speaks.
    pub fn serving_tls(&self) -> crate::config::ServingTls {
        let mut config = KubeletConfig::new("", Vec::new(), PathBuf::new(), PathBuf::new());
        // Faults are told by `apply`.
        Reading { document: &self.document, faults: Vec::new() }.server(&mut config);
        config.serving_tls
    }

    /// How long that runtime may take for an answer.
    pub fn runtime_request_timeout(&self) -> Duration {
        let mut patience = Duration::from_secs(120);
        // What is no time is told by `apply`.
        Reading { document: &self.document, faults: Vec::new() }.duration(&["runtimeRequestTimeout"], &mut patience);
        patience
    }

    /// Lays what is said over a node's configuration, which stands for the defaults.
    pub fn apply(&self, config: &mut KubeletConfig) -> Result<(), ConfigurationError> {
        let moot = fields::moot(&self.document);
        if !moot.is_empty() {
            tracing::warn!(fields = moot.join(", "), "fields of the kubelet's configuration that have no meaning here");
        }
        let mut reading = Reading { document: &self.document, faults: only::faults(&self.document, &config.cgroup_root) };
        reading.node(config);
        reading.server(config);
        reading.static_pod_url(config);
        reading.rates(config);
        reading.kernel(config);
        reading.image_verification(config);
        reading.image_pulls(config);
        reading.resources(config);
        reading.eviction(config);
        reading.managers(config);
        reading.shutdown(config);
        reading.duration(&["runtimeRequestTimeout"], &mut Duration::default());
        if let Err(error) = config.eviction.thresholds() {
            reading.faults.push(error.to_string());
        }
        if reading.faults.is_empty() { Ok(()) } else { Err(ConfigurationError::Invalid(reading.faults)) }
    }
}

fn parse(text: &str) -> Result<Value, String> {
    let value = yaml::from_str(text).map_err(|error| error.to_string())?;
    let (version, kind) = (value.str_at(&["apiVersion"]), value.str_at(&["kind"]));
    if (version, kind) != (API_VERSION, KIND) {
        return Err(format!("unknown apiVersion/kind: {version:?} {kind:?}: {API_VERSION} {KIND} is known"));
    }
    match fields::faults(&value) {
        faults if faults.is_empty() => Ok(value),
        faults => Err(format!("strict decoding error: {}", faults.join(", "))),
    }
}

/// Defaults that depend on other fields are those of the file alone, since upstream fills them in before drop-ins are laid over it.
fn settle(document: &mut Value) {
    if document.str_at(&["nodeStatusReportFrequency"]).is_empty() {
        let look = Some(document.str_at(&["nodeStatusUpdateFrequency"])).filter(|look| !look.is_empty()).unwrap_or("5m0s").to_string();
        document.set(&["nodeStatusReportFrequency"], look);
    }
}

/// Paths that are relative begin at the folder of the file that has them.
fn resolve(part: &mut Value, folder: &Path) {
    for field in PATHS {
        let path = part.str_at(field);
        if !path.is_empty() && Path::new(path).is_relative() {
            let whole = folder.join(path).display().to_string();
            part.set(field, whole);
        }
    }
}

/// The `.conf` files below a directory, in the order of their paths.
fn drop_ins(directory: &Path) -> Result<Vec<PathBuf>, ConfigurationError> {
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        move |source| ConfigurationError::Read { path, source }
    };
    let (mut out, mut todo) = (Vec::new(), vec![directory.to_path_buf()]);
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).map_err(failed(&dir))? {
            let entry = entry.map_err(failed(&dir))?;
            let path = entry.path();
            // A link to a directory is none: it could lead back here.
            if entry.file_type().map_err(failed(&path))?.is_dir() {
                todo.push(path);
            } else if path.extension().is_some_and(|e| e == "conf") {
                out.push(path);
            } else {
                tracing::warn!(?path, "a file beside the kubelet's drop-ins does not end in .conf and is not read");
            }
        }
    }
    out.sort();
    Ok(out)
}

struct Reading<'a> {
    document: &'a Value,
    faults: Vec<String>,
}

impl Reading<'_> {
    fn text(&self, name: &str) -> Option<&str> {
        self.document.get(name).and_then(Value::as_str).filter(|t| !t.is_empty())
    }

    fn flag(&self, name: &str, into: &mut bool) {
        if let Some(value) = self.document.bool_at(&[name]) {
            *into = value;
        }
    }

    /// A whole number within bounds; zero is "not given" where `least` is above it.
    fn number<T: TryFrom<i64>>(&mut self, name: &str, least: i64, most: i64, into: &mut T) {
        let Some(value) = self.document.int_at(&[name]) else { return };
        if value == 0 && least > 0 {
            return;
        }
        match T::try_from(value) {
            Ok(fits) if (least..=most).contains(&value) => *into = fits,
            _ => self.faults.push(format!("{name} {value} must be between {least} and {most}, inclusive")),
        }
    }

    fn duration(&mut self, path: &[&str], into: &mut Duration) {
        let text = self.document.str_at(path);
        if text.is_empty() {
            return;
        }
        match parse_duration(text).map(u64::try_from) {
            Some(Ok(0)) | None => {}
            Some(Ok(nanos)) => *into = Duration::from_nanos(nanos),
            Some(Err(_)) => self.faults.push(format!("{} {text} must not be negative", path.join("."))),
        }
    }

    fn map(&self, name: &str) -> Option<BTreeMap<String, String>> {
        let map = self.document.get(name)?.as_map()?;
        Some(map.iter().map(|(k, v)| (k.to_string(), v.as_str().unwrap_or_default().to_string())).collect())
    }

    fn texts(&self, name: &str) -> Option<Vec<String>> {
        let list = self.document.get(name)?.as_list()?;
        Some(list.iter().filter_map(Value::as_str).map(String::from).collect())
    }

    /// One of the words that an enumeration knows.
    fn word<T: Copy>(&mut self, name: &str, known: &[(&str, T)], into: &mut T) {
        let Some(text) = self.text(name).map(String::from) else { return };
        match known.iter().find(|(word, _)| *word == text) {
            Some((_, value)) => *into = *value,
            None => {
                let words: Vec<&str> = known.iter().map(|(word, _)| *word).collect();
                self.faults.push(format!("{name} {text:?} must be one of: {words:?}"));
            }
        }
    }

    fn node(&mut self, config: &mut KubeletConfig) {
        if let Some(domain) = self.text("clusterDomain") {
            config.cluster_domain = domain.to_string();
        }
        if let Some(addresses) = self.texts("clusterDNS") {
            let read: Result<Vec<_>, _> = addresses.iter().map(|a| a.parse()).collect();
            match read {
                Ok(addresses) => config.cluster_dns = addresses,
                Err(_) => self.faults.push(format!("clusterDNS {addresses:?} must be addresses")),
            }
        }
        if let Some(path) = self.text("resolvConf") {
            config.resolv_conf = path.into();
        }
        if let Some(path) = self.text("staticPodPath") {
            config.static_pod_path = Some(path.into());
        }
        if let Some(path) = self.text("podLogsDir").map(String::from) {
            let is_clean = path.is_ascii() && path.len() > 1 && path[1..].split('/').all(|part| !matches!(part, "" | "." | ".."));
            match path.starts_with('/') && is_clean {
                true => config.log_dir = path.into(),
                false => self.faults.push(format!("podLogsDir {path:?} must be a normalized absolute path")),
            }
        }
        config.single_process_oom_kill = self.document.bool_at(&["singleProcessOOMKill"]);
        if config.single_process_oom_kill == Some(false) && Cgroups::detect(&config.cgroup_mount).version() == 1 {
            self.faults.push("singleProcessOOMKill must not be explicitly set to false when using cgroup v1".into());
        }
        if let Some(cidr) = self.text("podCIDR") {
            config.pod_cidr = Some(cidr.to_string());
        }
        if let Some(id) = self.text("providerID") {
            config.provider_id = Some(id.to_string());
        }
        if let Some(ids) = self.document.int_at(&["userNamespaces", "idsPerPod"]) {
            match u32::try_from(ids) {
                Ok(ids) if ids > 0 && ids.is_multiple_of(RANGE) => config.ids_per_pod = ids,
                _ => self.faults.push(format!("userNamespaces.idsPerPod {ids} must be a multiple of {RANGE}")),
            }
        }
        self.flag("registerNode", &mut config.register_node);
        self.flag("seccompDefault", &mut config.seccomp_default);
        self.flag("failSwapOn", &mut config.fail_swap_on);
        if let Some(taints) = self.document.get("registerWithTaints").and_then(Value::as_list) {
            if taints
                .iter()
                .any(|t| t.str_at(&["key"]).is_empty() || !matches!(t.str_at(&["effect"]), "NoSchedule" | "PreferNoSchedule" | "NoExecute"))
            {
                self.faults.push("registerWithTaints: each taint has a key and a known effect".into());
            }
            if taints.iter().any(|t| t.get("timeAdded").is_some_and(|v| !v.is_null())) {
                self.faults.push("taint.TimeAdded is not nil".into());
            }
            config.taints = taints.iter().cloned().collect();
        }
        if let Some(allowed) = self.texts("allowedUnsafeSysctls") {
            config.allowed_unsafe_sysctls = allowed;
        }
        // Where statuses are written as often as they are looked at, upstream writes them as often.
        let mut look = config.status_update_frequency;
        self.duration(&["nodeStatusUpdateFrequency"], &mut look);
        if look != config.status_update_frequency {
            (config.status_update_frequency, config.status_report_frequency) = (look, look);
        }
        self.duration(&["nodeStatusReportFrequency"], &mut config.status_report_frequency);
        self.number("nodeLeaseDurationSeconds", 1, i64::from(i32::MAX), &mut config.lease_duration_seconds);
        self.number("nodeStatusMaxImages", -1, i64::from(i32::MAX), &mut config.status_max_images);
    }

    fn resources(&mut self, config: &mut KubeletConfig) {
        self.number("maxPods", 1, i64::from(u32::MAX), &mut config.max_pods);
        self.number("podsPerCore", 0, i64::from(u32::MAX), &mut config.pods_per_core);
        let mut pids = if config.pod_pids_limit == 0 { -1 } else { config.pod_pids_limit };
        self.number("podPidsLimit", -1, i64::MAX, &mut pids);
        config.pod_pids_limit = pids.max(0);
        self.flag("cpuCFSQuota", &mut config.cpu_cfs_quota);
        self.flag("localStorageCapacityIsolation", &mut config.local_storage_capacity_isolation);
        let swap = [("NoSwap", SwapBehavior::NoSwap), ("LimitedSwap", SwapBehavior::LimitedSwap)];
        if let Some(memory_swap) = self.document.get("memorySwap").cloned() {
            let mut inner = Reading { document: &memory_swap, faults: Vec::new() };
            inner.word("swapBehavior", &swap, &mut config.swap_behavior);
            self.faults.extend(inner.faults.into_iter().map(|f| format!("memorySwap.{f}")));
        }
        if let Some(size) = self.text("containerLogMaxSize") {
            match size.parse::<Quantity>().map(|q| u64::try_from(q.value())) {
                Ok(Ok(bytes)) if bytes > 0 => config.container_log_max_size = bytes,
                _ => self.faults.push(format!("containerLogMaxSize {size:?} must be a positive quantity")),
            }
        }
        self.number("containerLogMaxFiles", 2, i64::from(i32::MAX), &mut config.container_log_max_files);
        self.number("containerLogMaxWorkers", 1, i64::from(i32::MAX), &mut config.container_log_max_workers);
        self.duration(&["containerLogMonitorInterval"], &mut config.container_log_monitor_interval);
        self.duration(&["crashLoopBackOff", "maxContainerRestartPeriod"], &mut config.max_container_restart_period);
        if !(1..=300).contains(&config.max_container_restart_period.as_secs()) {
            self.faults.push("crashLoopBackOff.maxContainerRestartPeriod must be set between 1s and 300s".into());
        }
        for (name, into) in [("systemReserved", &mut config.system_reserved), ("kubeReserved", &mut config.kube_reserved)] {
            if let Some(map) = self.map(name) {
                let bad = map.iter().find(|(key, amount)| {
                    !matches!(key.as_str(), "cpu" | "memory" | "ephemeral-storage" | "pid")
                        || !amount.parse::<Quantity>().is_ok_and(|q| !q.is_negative())
                });
                if let Some((key, amount)) = bad {
                    self.faults.push(format!("{name}: {key} {amount:?} cannot be reserved"));
                }
                *into = map;
            }
        }
        self.enforcement(config);
    }

    fn eviction(&mut self, config: &mut KubeletConfig) {
        let merge = self.document.bool_at(&["mergeDefaultEvictionSettings"]) == Some(true);
        let eviction = &mut config.eviction;
        if let Some(mut hard) = self.map("evictionHard") {
            if merge {
                for (signal, amount) in default_hard() {
                    hard.entry(signal).or_insert(amount);
                }
            }
            eviction.hard = hard;
        }
        for (name, into) in [
            ("evictionSoft", &mut eviction.soft),
            ("evictionSoftGracePeriod", &mut eviction.soft_grace_period),
            ("evictionMinimumReclaim", &mut eviction.minimum_reclaim),
        ] {
            if let Some(map) = self.map(name) {
                *into = map;
            }
        }
        self.duration(&["evictionPressureTransitionPeriod"], &mut eviction.pressure_transition_period);
        self.number("evictionMaxPodGracePeriod", 0, i64::from(i32::MAX), &mut eviction.max_pod_grace_period);
        let gc = &mut config.image_gc;
        self.number("imageGCHighThresholdPercent", 0, 100, &mut gc.high_threshold);
        self.number("imageGCLowThresholdPercent", 0, 100, &mut gc.low_threshold);
        self.duration(&["imageMinimumGCAge"], &mut gc.min_age);
        self.duration(&["imageMaximumGCAge"], &mut gc.max_age);
        if gc.low_threshold >= gc.high_threshold {
            let (low, high) = (gc.low_threshold, gc.high_threshold);
            self.faults.push(format!("imageGCLowThresholdPercent {low} must be less than imageGCHighThresholdPercent {high}"));
        }
        if !gc.max_age.is_zero() && gc.max_age <= gc.min_age {
            self.faults.push(format!("imageMaximumGCAge {:?} must be greater than imageMinimumGCAge {:?}", gc.max_age, gc.min_age));
        }
    }

    fn managers(&mut self, config: &mut KubeletConfig) {
        let managers = &mut config.managers;
        self.word("cpuManagerPolicy", &[("none", false), ("static", true)], &mut managers.static_cpus);
        self.word("memoryManagerPolicy", &[("None", false), ("Static", true)], &mut managers.static_memory);
        self.word("topologyManagerPolicy", &Policy::WORDS, &mut managers.topology_policy);
        self.word("topologyManagerScope", &Scope::WORDS, &mut managers.topology_scope);
        if let Some(list) = self.text("reservedSystemCPUs").map(String::from) {
            match CpuSet::parse(&list) {
                Some(cpus) => {
                    // They take the place of what is reserved by number.
                    config.system_reserved.insert("cpu".into(), cpus.len().to_string());
                    config.kube_reserved.remove("cpu");
                    managers.reserved_cpus = Some(cpus);
                }
                None => self.faults.push(format!("unable to parse reservedSystemCPUs {list}")),
            }
        }
        for (name, known, into) in [
            (
                "cpuManagerPolicyOptions",
                &[
                    "full-pcpus-only",
                    "distribute-cpus-across-numa",
                    "align-by-socket",
                    "strict-cpu-reservation",
                    "prefer-align-cpus-by-uncorecache",
                    "distribute-cpus-across-cores",
                ][..],
                &mut managers.cpu_options,
            ),
            (
                "topologyManagerPolicyOptions",
                &["prefer-closest-numa-nodes", "max-allowable-numa-nodes"][..],
                &mut managers.topology_options,
            ),
        ] {
            let Some(options) = self.map(name) else { continue };
            if let Some(unknown) = options.keys().find(|k| !known.contains(&k.as_str())) {
                self.faults.push(format!("{name}: unknown option {unknown:?}"));
            }
            *into = options;
        }
        if let Some(list) = self.document.get("reservedMemory").and_then(Value::as_list) {
            let mut out = Vec::new();
            for one in list.iter() {
                let limits = one.get("limits").and_then(Value::as_map).cloned().unwrap_or_default();
                let read = limits.iter().map(|(k, v)| Some((k.to_string(), v.as_str()?.parse::<Quantity>().ok()?.value())));
                match (u32::try_from(one.int_at(&["numaNode"]).unwrap_or(-1)), read.collect::<Option<BTreeMap<_, _>>>()) {
                    (Ok(numa_node), Some(limits)) if !limits.is_empty() => out.push(MemoryReservation { numa_node, limits }),
                    _ => self.faults.push("the reserved memory configuration must name a NUMA node and amounts".into()),
                }
            }
            managers.reserved_memory = out;
        }
    }

    fn shutdown(&mut self, config: &mut KubeletConfig) {
        let (mut all, mut critical) = (Duration::ZERO, Duration::ZERO);
        self.duration(&["shutdownGracePeriod"], &mut all);
        self.duration(&["shutdownGracePeriodCriticalPods"], &mut critical);
        if critical > all {
            self.faults.push(format!("shutdownGracePeriodCriticalPods {critical:?} must be <= shutdownGracePeriod {all:?}"));
        }
        let by_priority = self.document.list_at(&["shutdownGracePeriodByPodPriority"]);
        if !by_priority.is_empty() && !all.is_zero() {
            self.faults.push("Cannot specify both shutdownGracePeriodByPodPriority and shutdownGracePeriod at the same time".into());
        }
        let seconds = |v: &Value| u64::try_from(v.int_at(&["shutdownGracePeriodSeconds"]).unwrap_or(0)).unwrap_or(0);
        let mut grace: Vec<ShutdownGrace> = by_priority
            .iter()
            .map(|v| ShutdownGrace { priority: v.int_at(&["priority"]).unwrap_or(0), period: Duration::from_secs(seconds(v)) })
            .collect();
        if !all.is_zero() {
            grace = ShutdownGrace::two_steps(all, critical);
        }
        if !grace.is_empty() {
            grace.sort_by_key(|g| g.priority);
            config.shutdown_grace = grace;
        }
    }
}

/// What is in force, as /configz shows it: the honoured fields with their defaults filled in.
pub(crate) fn in_force(config: &KubeletConfig) -> Value {
    let texts = |map: &BTreeMap<String, String>| -> Map { map.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect() };
    let time = |d: Duration| format_duration(i64::try_from(d.as_nanos()).unwrap_or(i64::MAX));
    let (eviction, gc, managers) = (&config.eviction, &config.image_gc, &config.managers);
    let dns: Vec<Value> = config.cluster_dns.iter().map(|ip| ip.to_string().into()).collect();
    let mut out = object!({
        "kind": KIND, "apiVersion": API_VERSION,
        "clusterDomain": (config.cluster_domain.as_str()), "clusterDNS": dns, "resolvConf": (config.resolv_conf.display().to_string()),
        "registerNode": (config.register_node), "registerWithTaints": (config.taints.clone()),
        "nodeStatusUpdateFrequency": (time(config.status_update_frequency)), "nodeStatusReportFrequency": (time(config.status_report_frequency)),
        "nodeLeaseDurationSeconds": (config.lease_duration_seconds), "nodeStatusMaxImages": (config.status_max_images),
        "maxPods": (i64::from(config.max_pods)), "podsPerCore": (i64::from(config.pods_per_core)),
        "podPidsLimit": (if config.pod_pids_limit == 0 { -1 } else { config.pod_pids_limit }), "cpuCFSQuota": (config.cpu_cfs_quota),
        "cpuCFSQuotaPeriod": (time(config.cpu_cfs_quota_period)),
        "cgroupRoot": (config.cgroup_root.as_str()), "cgroupsPerQOS": true, "cgroupDriver": "cgroupfs",
        "seccompDefault": (config.seccomp_default), "failSwapOn": (config.fail_swap_on),
        "memorySwap": { "swapBehavior": (config.swap_behavior.word()) },
        "containerLogMaxSize": (config.container_log_max_size.to_string()), "containerLogMaxFiles": (i64::from(config.container_log_max_files)),
        "containerLogMaxWorkers": (i64::try_from(config.container_log_max_workers).unwrap_or(i64::MAX)),
        "containerLogMonitorInterval": (time(config.container_log_monitor_interval)),
        "crashLoopBackOff": { "maxContainerRestartPeriod": (time(config.max_container_restart_period)) },
        "systemReserved": (texts(&config.system_reserved)), "kubeReserved": (texts(&config.kube_reserved)),
        "allowedUnsafeSysctls": (config.allowed_unsafe_sysctls.iter().map(|s| s.as_str().into()).collect::<Vec<Value>>()),
        "localStorageCapacityIsolation": (config.local_storage_capacity_isolation),
        "evictionHard": (texts(&eviction.hard)), "evictionSoft": (texts(&eviction.soft)),
        "evictionSoftGracePeriod": (texts(&eviction.soft_grace_period)), "evictionMinimumReclaim": (texts(&eviction.minimum_reclaim)),
        "evictionPressureTransitionPeriod": (time(eviction.pressure_transition_period)), "evictionMaxPodGracePeriod": (eviction.max_pod_grace_period),
        "imageGCHighThresholdPercent": (i64::from(gc.high_threshold)), "imageGCLowThresholdPercent": (i64::from(gc.low_threshold)),
        "imageMinimumGCAge": (time(gc.min_age)), "imageMaximumGCAge": (time(gc.max_age)),
        "cpuManagerPolicy": (if managers.static_cpus { "static" } else { "none" }), "cpuManagerPolicyOptions": (texts(&managers.cpu_options)),
        "memoryManagerPolicy": (if managers.static_memory { "Static" } else { "None" }),
        "topologyManagerPolicy": (managers.topology_policy.word()), "topologyManagerScope": (managers.topology_scope.word()),
        "topologyManagerPolicyOptions": (texts(&managers.topology_options)),
        "reservedSystemCPUs": (managers.reserved_cpus.as_ref().map(CpuSet::to_string).unwrap_or_default())
    });
    let cgroups = Cgroups::detect(&config.cgroup_mount);
    out.set(&["singleProcessOOMKill"], !config.kills_together(cgroups.version()));
    out.set(&["podLogsDir"], config.log_dir.display().to_string());
    out.set(&["serializeImagePulls"], config.parallel_image_pulls == Some(NonZeroUsize::MIN));
    if let Some(limit) = config.parallel_image_pulls {
        out.set(&["maxParallelImagePulls"], i64::try_from(limit.get()).unwrap_or(i64::MAX));
    }
    out.set(&["imagePullCredentialsVerificationPolicy"], config.image_verification.word());
    if let Verification::NeverVerifyAllowlistedImages(patterns) = &config.image_verification {
        out.set(&["preloadedImagesVerificationAllowlist"], patterns.iter().map(|p| p.as_str().into()).collect::<Vec<Value>>());
    }
    if let Some(path) = &config.static_pod_path {
        out.set(&["staticPodPath"], path.display().to_string());
    }
    server::shown(config, &mut out);
    limits::shown(config, &mut out);
    let grace = |g: &ShutdownGrace| object!({ "priority": (g.priority), "shutdownGracePeriodSeconds": (i64::try_from(g.period.as_secs()).unwrap_or(0)) });
    out.set(&["shutdownGracePeriodByPodPriority"], config.shutdown_grace.iter().map(grace).collect::<Vec<_>>());
    out
}

/// The document at /configz.
pub(crate) fn configz(config: &KubeletConfig) -> Value {
    object!({ "kubeletconfig": (in_force(config)) })
}

#[cfg(test)]
mod tests;
