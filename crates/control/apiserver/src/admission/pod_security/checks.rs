//! What the levels of the Pod Security Standards forbid, in upstream's words. Pure; see
//! https://kubernetes.io/docs/concepts/security/pod-security-standards/.

use fram_machinery::Value;

/// The later ones forbid what the earlier ones do, and more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    pub(super) fn parse(text: &str) -> Option<Self> {
        [Self::Privileged, Self::Baseline, Self::Restricted].into_iter().find(|level| level.name() == text)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }
}

/// A level as one minor version of Kubernetes had it, `NEWEST` for the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) level: Level,
    pub(super) minor: u32,
}

pub(super) const NEWEST: u32 = u32::MAX;

/// Capabilities that containers may add at the level baseline.
const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Sysctls that pods may set, each with the minor version that first allowed it.
const SYSCTLS: [(u32, &str); 12] = [
    (0, "kernel.shm_rmid_forced"),
    (0, "net.ipv4.ip_local_port_range"),
    (0, "net.ipv4.tcp_syncookies"),
    (0, "net.ipv4.ping_group_range"),
    (0, "net.ipv4.ip_unprivileged_port_start"),
    (27, "net.ipv4.ip_local_reserved_ports"),
    (29, "net.ipv4.tcp_keepalive_time"),
    (29, "net.ipv4.tcp_fin_timeout"),
    (29, "net.ipv4.tcp_keepalive_intvl"),
    (29, "net.ipv4.tcp_keepalive_probes"),
    (32, "net.ipv4.tcp_rmem"),
    (32, "net.ipv4.tcp_wmem"),
];

/// The kinds of volumes of the level restricted.
const VOLUMES: [&str; 9] =
    ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret"];

/// Allowed SELinux types, the last one since 1.31.
const SELINUX_TYPES: [&str; 5] = ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];

/// What a pod breaks, if it does, of the policy of a minor version.
type Run = fn(&Value, u32) -> Option<String>;

struct Check {
    level: Level,
    /// The minor version since which it belongs to the level.
    since: u32,
    /// The minor version since which a stricter check takes its place at the level restricted.
    replaced: Option<u32>,
    run: Run,
}

const fn check(level: Level, since: u32, replaced: Option<u32>, run: Run) -> Check {
    Check { level, since, replaced, run }
}

/// Every check, in the order in which they are told.
const CHECKS: [Check; 20] = [
    check(Level::Restricted, 8, None, privilege_escalation),
    check(Level::Baseline, 0, None, |pod, _| app_armor(pod)),
    check(Level::Baseline, 0, Some(22), |pod, _| capabilities_baseline(pod)),
    check(Level::Restricted, 22, None, capabilities_restricted),
    check(Level::Baseline, 0, None, |pod, _| host_namespaces(pod)),
    check(Level::Baseline, 0, Some(0), |pod, _| host_paths(pod)),
    check(Level::Baseline, 0, None, |pod, _| host_ports(pod)),
    check(Level::Baseline, 34, None, |pod, _| probe_hosts(pod)),
    check(Level::Baseline, 0, None, |pod, _| privileged(pod)),
    check(Level::Baseline, 0, Some(35), proc_mount_baseline),
    check(Level::Restricted, 35, None, |pod, _| proc_mount(pod)),
    check(Level::Restricted, 0, None, |pod, _| volumes(pod)),
    check(Level::Restricted, 0, None, run_as_non_root),
    check(Level::Restricted, 23, None, run_as_user),
    check(Level::Baseline, 0, None, selinux),
    check(Level::Baseline, 0, Some(19), seccomp_baseline),
    check(Level::Restricted, 19, None, seccomp_restricted),
    check(Level::Baseline, 0, None, sysctls),
    check(Level::Baseline, 0, None, |pod, _| windows_host_process(pod)),
    check(Level::Baseline, 0, None, |pod, _| app_armor_annotations(pod)),
];

/// What a pod, or a template of one, breaks of a policy: each a reason with its details in parentheses.
pub(super) fn violations(policy: Policy, pod: &Value) -> Vec<String> {
    let Policy { level, minor } = policy;
    let replaced = |check: &Check| level == Level::Restricted && check.replaced.is_some_and(|since| minor >= since);
    let counts = |check: &&Check| level >= check.level && minor >= check.since && !replaced(check);
    CHECKS.iter().filter(counts).filter_map(|check| (check.run)(pod, minor)).collect()
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(|list| pod.list_at(&["spec", list]))
}

fn quoted<T: AsRef<str>>(names: &[T]) -> String {
    names.iter().map(|n| format!("{:?}", n.as_ref())).collect::<Vec<_>>().join(", ")
}

fn plural(word: &str, count: usize) -> String {
    if count == 1 { word.into() } else { format!("{word}s") }
}

/// The names of the containers for which something holds.
fn named(pod: &Value, holds: impl Fn(&Value) -> bool) -> Vec<String> {
    containers(pod).filter(|c| holds(c)).map(|c| c.str_at(&["name"]).to_string()).collect()
}

/// `reason (container "a" must …)` where there are such containers.
fn told(reason: &str, names: &[String], must: &str) -> Option<String> {
    (!names.is_empty()).then(|| format!("{reason} ({} {} {must})", plural("container", names.len()), quoted(names)))
}

/// Who sets something bad: the pod, and containers.
fn setters(of_pod: bool, names: &[String]) -> Option<String> {
    let pod = of_pod.then(|| "pod".to_string());
    let some = (!names.is_empty()).then(|| format!("{} {}", plural("container", names.len()), quoted(names)));
    let both: Vec<String> = pod.into_iter().chain(some).collect();
    (!both.is_empty()).then(|| both.join(" and "))
}

fn of_pod<'a>(pod: &'a Value, path: &[&str]) -> Option<&'a Value> {
    pod.at(&["spec", "securityContext"])?.at(path)
}

fn of_container<'a>(container: &'a Value, path: &[&str]) -> Option<&'a Value> {
    container.get("securityContext")?.at(path)
}

fn is(value: Option<&Value>, wanted: bool) -> bool {
    matches!(value, Some(Value::Bool(b)) if *b == wanted)
}

fn text(value: Option<&Value>) -> &str {
    value.and_then(Value::as_str).unwrap_or_default()
}

/// Whether what only Linux knows is not asked of the pod; since 1.25.
fn is_windows(pod: &Value, minor: u32) -> bool {
    minor >= 25 && pod.str_at(&["spec", "os", "name"]) == "windows"
}

fn privilege_escalation(pod: &Value, minor: u32) -> Option<String> {
    let bad = named(pod, |c| !is(of_container(c, &["allowPrivilegeEscalation"]), false) && !is_windows(pod, minor));
    told("allowPrivilegeEscalation != false", &bad, "must set securityContext.allowPrivilegeEscalation=false")
}

fn app_armor(pod: &Value) -> Option<String> {
    let bad = |ty: &str| !matches!(ty, "" | "RuntimeDefault" | "Localhost");
    let pod_bad = bad(text(of_pod(pod, &["appArmorProfile", "type"])));
    let names = named(pod, |c| bad(text(of_container(c, &["appArmorProfile", "type"]))));
    let who = setters(pod_bad, &names)?;
    let count = names.len() + usize::from(pod_bad);
    Some(format!("forbidden AppArmor {} ({who} must not set AppArmor profile type to \"Unconfined\")", plural("profile", count)))
}

fn app_armor_annotations(pod: &Value) -> Option<String> {
    const PREFIX: &str = "container.apparmor.security.beta.kubernetes.io/";
    let annotations = pod.at(&["metadata", "annotations"]).and_then(Value::as_map).into_iter().flat_map(|m| m.iter());
    let bad: Vec<String> = annotations
        .filter_map(|(key, value)| Some((key.strip_prefix(PREFIX).map(|_| key)?, value.as_str().unwrap_or_default())))
        .filter(|(_, value)| !matches!(*value, "" | "runtime/default") && !value.starts_with("localhost/"))
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    (!bad.is_empty()).then(|| {
        let annotations = plural("annotation", bad.len());
        format!("forbidden AppArmor {} ({annotations} {})", plural("profile", bad.len()), bad.join(", "))
    })
}

fn added(container: &Value) -> impl Iterator<Item = &str> {
    let add = container.at(&["securityContext", "capabilities"]).map(|c| c.list_at(&["add"])).unwrap_or_default();
    add.iter().filter_map(Value::as_str)
}

/// Containers that add capabilities but these, and which those are.
fn excessive(pod: &Value, allowed: &[&str]) -> (Vec<String>, Vec<String>) {
    let beyond = |c: &Value| added(c).any(|a| !allowed.contains(&a));
    let mut which: Vec<String> = containers(pod).flat_map(added).filter(|a| !allowed.contains(a)).map(String::from).collect();
    which.sort();
    which.dedup();
    (named(pod, beyond), which)
}

fn capabilities_baseline(pod: &Value) -> Option<String> {
    let (names, which) = excessive(pod, &CAPABILITIES);
    told("non-default capabilities", &names, &format!("must not include {} in securityContext.capabilities.add", quoted(&which)))
}

fn capabilities_restricted(pod: &Value, minor: u32) -> Option<String> {
    if is_windows(pod, minor) {
        return None;
    }
    let drops_all = |c: &Value| {
        let drop = c.at(&["securityContext", "capabilities"]).map(|c| c.list_at(&["drop"])).unwrap_or_default();
        drop.iter().any(|d| d.as_str() == Some("ALL"))
    };
    let keeping = named(pod, |c| !drops_all(c));
    let (adding, which) = excessive(pod, &["NET_BIND_SERVICE"]);
    let mut details = Vec::new();
    if !keeping.is_empty() {
        let who = plural("container", keeping.len());
        details.push(format!("{who} {} must set securityContext.capabilities.drop=[\"ALL\"]", quoted(&keeping)));
    }
    if !adding.is_empty() {
        let who = plural("container", adding.len());
        details.push(format!("{who} {} must not include {} in securityContext.capabilities.add", quoted(&adding), quoted(&which)));
    }
    (!details.is_empty()).then(|| format!("unrestricted capabilities ({})", details.join("; ")))
}

fn host_namespaces(pod: &Value) -> Option<String> {
    let set = ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|f| pod.bool_at(&["spec", f]) == Some(true));
    let set: Vec<String> = set.map(|f| format!("{f}=true")).collect();
    (!set.is_empty()).then(|| format!("host namespaces ({})", set.join(", ")))
}

fn host_paths(pod: &Value) -> Option<String> {
    let volumes = pod.list_at(&["spec", "volumes"]).iter().filter(|v| v.get("hostPath").is_some_and(|h| !h.is_null()));
    let names: Vec<&str> = volumes.map(|v| v.str_at(&["name"])).collect();
    (!names.is_empty()).then(|| format!("hostPath volumes ({} {})", plural("volume", names.len()), quoted(&names)))
}

fn host_ports(pod: &Value) -> Option<String> {
    let used =
        |c: &Value| -> Vec<i64> { c.list_at(&["ports"]).iter().filter_map(|p| p.int_at(&["hostPort"])).filter(|n| *n != 0).collect() };
    let names = named(pod, |c| !used(c).is_empty());
    let mut ports: Vec<i64> = containers(pod).flat_map(used).collect();
    ports.sort_unstable();
    ports.dedup();
    let list = ports.iter().map(i64::to_string).collect::<Vec<_>>().join(", ");
    let uses = if names.len() == 1 { "uses" } else { "use" };
    told("hostPort", &names, &format!("{uses} {} {list}", plural("hostPort", ports.len())))
}

/// Hosts that probes and hooks of a container ask instead of their pod.
fn asked_hosts(container: &Value) -> Vec<String> {
    let probes = ["livenessProbe", "readinessProbe", "startupProbe"].into_iter().filter_map(|p| container.get(p));
    let hooks = ["postStart", "preStop"].into_iter().filter_map(|h| container.at(&["lifecycle", h]));
    let hosts = probes.chain(hooks).flat_map(|handler| ["httpGet", "tcpSocket"].map(|way| handler.str_at(&[way, "host"]).to_string()));
    // The node asks: its own loopback is not the pod's.
    hosts.filter(|host| !host.is_empty()).collect()
}

fn probe_hosts(pod: &Value) -> Option<String> {
    let names = named(pod, |c| !asked_hosts(c).is_empty());
    let mut hosts: Vec<String> = containers(pod).flat_map(asked_hosts).collect();
    hosts.sort();
    hosts.dedup();
    let uses = if names.len() == 1 { "uses" } else { "use" };
    told("probe or lifecycle host", &names, &format!("{uses} probe or lifecycle {} {}", plural("host", hosts.len()), quoted(&hosts)))
}

fn privileged(pod: &Value) -> Option<String> {
    let bad = named(pod, |c| is(of_container(c, &["privileged"]), true));
    told("privileged", &bad, "must not set securityContext.privileged=true")
}

/// Whether the pod has a user namespace of its own, in which root is nobody outside; that counts since 1.35.
fn has_own_users(pod: &Value, minor: u32) -> bool {
    minor >= 35 && pod.bool_at(&["spec", "hostUsers"]) == Some(false)
}

fn proc_mount_baseline(pod: &Value, minor: u32) -> Option<String> {
    // There an unmasked /proc shows nothing of the host.
    if has_own_users(pod, minor) { None } else { proc_mount(pod) }
}

fn proc_mount(pod: &Value) -> Option<String> {
    let bad = |c: &Value| !matches!(text(of_container(c, &["procMount"])), "" | "Default");
    let mut kinds: Vec<&str> = containers(pod).filter(|c| bad(c)).map(|c| text(of_container(c, &["procMount"]))).collect();
    kinds.sort_unstable();
    kinds.dedup();
    told("procMount", &named(pod, bad), &format!("must not set securityContext.procMount to {}", quoted(&kinds)))
}

fn volumes(pod: &Value) -> Option<String> {
    let kind = |v: &Value| -> Option<String> {
        let set = v.as_map()?.iter().find(|(key, value)| key.as_str() != "name" && !value.is_null());
        set.map(|(key, _)| key.to_string())
    };
    let bad = pod.list_at(&["spec", "volumes"]).iter().filter_map(|v| Some((v.str_at(&["name"]), kind(v)?)));
    let bad: Vec<(&str, String)> = bad.filter(|(_, kind)| !VOLUMES.contains(&kind.as_str())).collect();
    let names: Vec<&str> = bad.iter().map(|(name, _)| *name).collect();
    let mut kinds: Vec<&str> = bad.iter().map(|(_, kind)| kind.as_str()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let uses = if names.len() == 1 { "uses" } else { "use" };
    let types = plural("type", kinds.len());
    (!bad.is_empty()).then(|| {
        let who = format!("{} {}", plural("volume", names.len()), quoted(&names));
        format!("restricted volume types ({who} {uses} restricted volume {types} {})", quoted(&kinds))
    })
}

fn run_as_non_root(pod: &Value, minor: u32) -> Option<String> {
    if has_own_users(pod, minor) {
        return None;
    }
    let pod_value = of_pod(pod, &["runAsNonRoot"]);
    let refusing = named(pod, |c| is(of_container(c, &["runAsNonRoot"]), false));
    if let Some(who) = setters(is(pod_value, false), &refusing) {
        return Some(format!("runAsNonRoot != true ({who} must not set securityContext.runAsNonRoot=false)"));
    }
    if is(pod_value, true) {
        return None;
    }
    let silent = named(pod, |c| !is(of_container(c, &["runAsNonRoot"]), true));
    let who = plural("container", silent.len());
    let text = format!("pod or {who} {} must set securityContext.runAsNonRoot=true", quoted(&silent));
    (!silent.is_empty()).then(|| format!("runAsNonRoot != true ({text})"))
}

fn run_as_user(pod: &Value, minor: u32) -> Option<String> {
    if has_own_users(pod, minor) {
        return None;
    }
    let root = |value: Option<&Value>| value.and_then(Value::as_int) == Some(0);
    let names = named(pod, |c| root(of_container(c, &["runAsUser"])));
    let who = setters(root(of_pod(pod, &["runAsUser"])), &names)?;
    Some(format!("runAsUser=0 ({who} must not set runAsUser=0)"))
}

fn selinux(pod: &Value, minor: u32) -> Option<String> {
    let options = |value: Option<&'_ Value>| value.cloned().unwrap_or_default();
    let allowed = &SELINUX_TYPES[..if minor < 31 { 4 } else { 5 }];
    let bad = |o: &Value| !allowed.contains(&o.str_at(&["type"])) || !o.str_at(&["user"]).is_empty() || !o.str_at(&["role"]).is_empty();
    let own = options(of_pod(pod, &["seLinuxOptions"]));
    let names = named(pod, |c| bad(&options(of_container(c, &["seLinuxOptions"]))));
    let who = setters(bad(&own), &names)?;
    let all: Vec<Value> = containers(pod).map(|c| options(of_container(c, &["seLinuxOptions"]))).chain([own]).collect();
    let mut types: Vec<&str> = all.iter().map(|o| o.str_at(&["type"])).filter(|t| !allowed.contains(t)).collect();
    types.sort_unstable();
    types.dedup();
    let mut data = Vec::new();
    if !types.is_empty() {
        data.push(format!("{} {}", plural("type", types.len()), quoted(&types)));
    }
    for field in ["user", "role"] {
        if all.iter().any(|o| !o.str_at(&[field]).is_empty()) {
            data.push(format!("{field} may not be set"));
        }
    }
    Some(format!("seLinuxOptions ({who} set forbidden securityContext.seLinuxOptions: {})", data.join("; ")))
}

/// The annotations that came before the fields of 1.19.
fn seccomp_annotations(pod: &Value) -> Option<String> {
    const POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
    const CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
    let keys = containers(pod).map(|c| format!("{CONTAINER}{}", c.str_at(&["name"]))).chain([POD.to_string()]);
    let value = |key: String| Some((pod.at(&["metadata", "annotations", &key])?.as_str().unwrap_or_default(), key));
    let bad = |value: &str| !matches!(value, "runtime/default" | "docker/default") && !value.starts_with("localhost/");
    let mut found: Vec<String> = keys.filter_map(value).filter(|(v, _)| bad(v)).map(|(v, key)| format!("{key}={v:?}")).collect();
    found.sort();
    found.dedup();
    (!found.is_empty()).then(|| format!("seccompProfile (forbidden {} {})", plural("annotation", found.len()), found.join(", ")))
}

fn seccomp_baseline(pod: &Value, minor: u32) -> Option<String> {
    if minor < 19 {
        return seccomp_annotations(pod);
    }
    let bad = |value: Option<&Value>| !matches!(text(value), "" | "RuntimeDefault" | "Localhost");
    let names = named(pod, |c| bad(of_container(c, &["seccompProfile", "type"])));
    let who = setters(bad(of_pod(pod, &["seccompProfile", "type"])), &names)?;
    Some(format!("seccompProfile ({who} must not set securityContext.seccompProfile.type to \"Unconfined\")"))
}

fn seccomp_restricted(pod: &Value, minor: u32) -> Option<String> {
    if is_windows(pod, minor) {
        return None;
    }
    if let Some(worse) = seccomp_baseline(pod, minor) {
        return Some(worse);
    }
    if !text(of_pod(pod, &["seccompProfile", "type"])).is_empty() {
        return None;
    }
    let silent = named(pod, |c| text(of_container(c, &["seccompProfile", "type"])).is_empty());
    let who = plural("container", silent.len());
    let must = "must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"";
    (!silent.is_empty()).then(|| format!("seccompProfile (pod or {who} {} {must})", quoted(&silent)))
}

fn sysctls(pod: &Value, minor: u32) -> Option<String> {
    let allowed = |name: &str| SYSCTLS.iter().any(|(since, sysctl)| *sysctl == name && minor >= *since);
    let set = of_pod(pod, &["sysctls"]).and_then(Value::as_list).map_or(&[][..], |l| l.as_slice());
    let bad: Vec<&str> = set.iter().map(|s| s.str_at(&["name"])).filter(|name| !allowed(name)).collect();
    (!bad.is_empty()).then(|| format!("forbidden sysctls ({})", bad.join(", ")))
}

fn windows_host_process(pod: &Value) -> Option<String> {
    let names = named(pod, |c| is(of_container(c, &["windowsOptions", "hostProcess"]), true));
    let who = setters(is(of_pod(pod, &["windowsOptions", "hostProcess"]), true), &names)?;
    Some(format!("hostProcess ({who} must not set securityContext.windowsOptions.hostProcess=true)"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    #[track_caller]
    fn check(level: Level, spec: Value, expect: &[&str]) {
        assert_eq!(violations(Policy { level, minor: NEWEST }, &object!({ "spec": spec })), expect);
    }

    /// How many of its rules a pod breaks at minor versions.
    #[track_caller]
    fn over_time(level: Level, pod: &Value, expect: &[(u32, usize)]) {
        for (minor, count) in expect {
            let found = violations(Policy { level, minor: *minor }, pod);
            assert_eq!(found.len(), *count, "1.{minor}: {found:?}");
        }
    }

    #[test]
    fn levels_are_those_of_the_version_that_was_asked_for() {
        let plain = object!({ "spec": { "containers": [{ "name": "a" }] } });
        // Users, escalation, capabilities and seccomp came one after the other.
        over_time(Level::Restricted, &plain, &[(0, 1), (7, 1), (8, 2), (18, 2), (19, 3), (22, 4), (36, 4), (NEWEST, 4)]);
        let windows = object!({ "spec": { "os": { "name": "windows" }, "containers": [{ "name": "a" }] } });
        over_time(Level::Restricted, &windows, &[(24, 4), (25, 1)]);
        let own_users = object!({ "spec": { "hostUsers": false, "securityContext": { "runAsUser": 0 },
            "containers": [{ "name": "a", "securityContext": { "procMount": "Unmasked" } }] } });
        over_time(Level::Baseline, &own_users, &[(34, 1), (35, 0)]);
        over_time(Level::Restricted, &own_users, &[(22, 5), (23, 6), (34, 6), (35, 4)]);
        let sysctls = object!({ "spec": { "securityContext": { "sysctls": [{ "name": "net.ipv4.tcp_rmem" }] } } });
        over_time(Level::Baseline, &sysctls, &[(31, 1), (32, 0)]);
        let engine = object!({ "spec": { "securityContext": { "seLinuxOptions": { "type": "container_engine_t" } } } });
        over_time(Level::Baseline, &engine, &[(30, 1), (31, 0)]);
        let probe = object!({ "spec": { "containers": [{ "name": "a", "livenessProbe": { "tcpSocket": { "host": "192.0.2.1" } } }] } });
        over_time(Level::Baseline, &probe, &[(33, 0), (34, 1)]);
        let annotated =
            object!({ "metadata": { "annotations": { "seccomp.security.alpha.kubernetes.io/pod": "unconfined" } }, "spec": {} });
        over_time(Level::Baseline, &annotated, &[(18, 1), (19, 0)]);
        let adding =
            object!({ "spec": { "containers": [{ "name": "a", "securityContext": { "capabilities": { "add": ["SYS_ADMIN"] } } }] } });
        over_time(Level::Restricted, &adding, &[(7, 2), (21, 4), (22, 4)]);
    }

    fn with(context: Value) -> Value {
        object!({ "containers": [{ "name": "a", "securityContext": context }] })
    }

    #[test]
    fn a_plain_pod_keeps_the_baseline_and_breaks_the_rest() {
        check(Level::Baseline, object!({ "containers": [{ "name": "a" }] }), &[]);
        check(
            Level::Restricted,
            object!({ "containers": [{ "name": "a" }, { "name": "b" }] }),
            &[
                "allowPrivilegeEscalation != false (containers \"a\", \"b\" must set securityContext.allowPrivilegeEscalation=false)",
                "unrestricted capabilities (containers \"a\", \"b\" must set securityContext.capabilities.drop=[\"ALL\"])",
                "runAsNonRoot != true (pod or containers \"a\", \"b\" must set securityContext.runAsNonRoot=true)",
                "seccompProfile (pod or containers \"a\", \"b\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
            ],
        );
    }

    #[test]
    fn a_pod_can_keep_all_levels() {
        let mut spec =
            with(object!({ "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"], "add": ["NET_BIND_SERVICE"] } }));
        spec.set(
            &["securityContext"],
            object!({ "runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": { "type": "RuntimeDefault" } }),
        );
        spec.set(&["volumes"], object!([{ "name": "v", "emptyDir": {} }]));
        check(Level::Restricted, spec, &[]);
    }

    #[test]
    fn the_baseline_keeps_pods_from_the_host() {
        let volumes = object!([{ "name": "v", "hostPath": { "path": "/" } }]);
        check(Level::Baseline, object!({ "hostNetwork": true, "hostPID": true }), &["host namespaces (hostNetwork=true, hostPID=true)"]);
        check(Level::Baseline, object!({ "volumes": volumes }), &["hostPath volumes (volume \"v\")"]);
        check(
            Level::Baseline,
            with(object!({ "privileged": true })),
            &["privileged (container \"a\" must not set securityContext.privileged=true)"],
        );
        check(
            Level::Baseline,
            with(object!({ "capabilities": { "add": ["SYS_ADMIN", "CHOWN"] } })),
            &["non-default capabilities (container \"a\" must not include \"SYS_ADMIN\" in securityContext.capabilities.add)"],
        );
        let ports = object!({ "containers": [{ "name": "a", "ports": [{ "hostPort": 80 }, { "hostPort": 443 }] }] });
        check(Level::Baseline, ports, &["hostPort (container \"a\" uses hostPorts 80, 443)"]);
        let probe = object!({ "containers": [{ "name": "a", "livenessProbe": { "httpGet": { "host": "192.0.2.1" } } }] });
        check(Level::Baseline, probe, &["probe or lifecycle host (container \"a\" uses probe or lifecycle host \"192.0.2.1\")"]);
        check(
            Level::Baseline,
            object!({ "securityContext": { "sysctls": [{ "name": "kernel.msgmax" }], "seccompProfile": { "type": "Unconfined" } } }),
            &[
                "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")",
                "forbidden sysctls (kernel.msgmax)",
            ],
        );
        check(
            Level::Baseline,
            with(object!({ "seLinuxOptions": { "type": "x", "user": "u" }, "procMount": "Unmasked" })),
            &[
                "procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\")",
                "seLinuxOptions (container \"a\" set forbidden securityContext.seLinuxOptions: type \"x\"; user may not be set)",
            ],
        );
        let everything = with(object!({ "privileged": true, "procMount": "Unmasked" }));
        check(Level::Privileged, everything, &[]);
    }
}
