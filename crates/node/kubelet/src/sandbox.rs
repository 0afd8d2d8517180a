//! The sandbox of a pod: names, DNS, ports, namespaces and cgroup as the runtime wants them. Pure; see kuberuntime_sandbox.go.

pub(crate) mod dns;
pub(crate) mod hosts;

use std::collections::BTreeMap;
use std::path::Path;

use fram_cri::{
    LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption, PodSandboxConfig, PodSandboxMetadata, PortMapping,
    Protocol, SeLinuxOption, SecurityProfile, SupplementalGroupsPolicy,
};
use fram_machinery::{Value, meta};

use crate::config::KubeletConfig;
use crate::observed::{ANNOTATION_POD_GRACE, LABEL_POD_NAME, LABEL_POD_NAMESPACE, LABEL_POD_UID};
use crate::pod::{self, PodId, resources};

/// The host name of a pod: its own field or its name, cut to what the kernel takes. See util.GeneratePodHostNameAndDomain.
pub(crate) fn hostname(pod: &Value, cluster_domain: &str) -> (String, String) {
    let name = match (pod.str_at(&["spec", "hostnameOverride"]), pod.str_at(&["spec", "hostname"])) {
        ("", "") => meta::name(pod),
        ("", name) => name,
        (name, _) => return (name.to_string(), String::new()),
    };
    let name = name[..name.len().min(63)].trim_end_matches(['-', '.']).to_string();
    let subdomain = pod.str_at(&["spec", "subdomain"]);
    let domain = match subdomain {
        "" => String::new(),
        sub => format!("{sub}.{}.svc.{cluster_domain}", meta::namespace(pod)),
    };
    (name, domain)
}

/// The kernel's name of the host: the fully qualified one where the pod asks for it.
fn kernel_hostname(pod: &Value, config: &KubeletConfig) -> String {
    let (name, domain) = hostname(pod, &config.cluster_domain);
    let qualified = pod.bool_at(&["spec", "setHostnameAsFQDN"]) == Some(true) && !domain.is_empty();
    if qualified { format!("{name}.{domain}") } else { name }
}

/// Labels by which everything of a pod is found again after a restart.
pub(crate) fn labels(pod: &Value) -> BTreeMap<String, String> {
    let id = PodId::of(pod);
    BTreeMap::from([(LABEL_POD_NAME.into(), id.name), (LABEL_POD_NAMESPACE.into(), id.namespace), (LABEL_POD_UID.into(), id.uid)])
}

fn text_map(value: &Value) -> BTreeMap<String, String> {
    let entries = value.as_map().into_iter().flat_map(|m| m.iter());
    entries.map(|(k, v)| (k.to_string(), v.as_str().unwrap_or_default().to_string())).collect()
}

/// The sandbox's configuration. `host` is the node's resolv.conf.
pub(crate) fn config(pod: &Value, attempt: u32, config: &KubeletConfig, host: &dns::ResolvConf) -> PodSandboxConfig {
    let id = PodId::of(pod);
    let mut all_labels = text_map(meta::labels(pod));
    all_labels.extend(labels(pod));
    let mut annotations = pod.at(&["metadata", "annotations"]).map(text_map).unwrap_or_default();
    annotations.insert(ANNOTATION_POD_GRACE.into(), pod.int_at(&["spec", "terminationGracePeriodSeconds"]).unwrap_or(30).to_string());
    let host_network = pod::is_host_network(pod);
    PodSandboxConfig {
        log_directory: config.pod_log_dir(&id.namespace, &id.name, &id.uid).display().to_string(),
        hostname: if host_network { String::new() } else { kernel_hostname(pod, config) },
        dns_config: Some(dns::config(pod, config, host)),
        port_mappings: if host_network { Vec::new() } else { port_mappings(pod) },
        labels: all_labels,
        annotations,
        linux: linux(pod, config),
        metadata: PodSandboxMetadata { name: id.name, uid: id.uid, namespace: id.namespace, attempt },
    }
}

fn port_mappings(pod: &Value) -> Vec<PortMapping> {
    let port = |p: &Value| {
        let number = |key: &str| p.int_at(&[key]).and_then(|n| u16::try_from(n).ok()).unwrap_or(0);
        PortMapping {
            protocol: match p.str_at(&["protocol"]) {
                "UDP" => Protocol::Udp,
                "SCTP" => Protocol::Sctp,
                _ => Protocol::Tcp,
            },
            container_port: number("containerPort"),
            host_port: number("hostPort"),
            host_ip: p.str_at(&["hostIP"]).parse().ok(),
        }
    };
    let sidecars = pod::init_containers(pod).iter().filter(|c| pod::is_sidecar(c));
    pod::containers(pod).iter().chain(sidecars).flat_map(|c| c.list_at(&["ports"])).map(port).collect()
}

/// Whose namespaces the pod's containers share; `pid` of one container may differ (ephemeral containers with a target).
pub(crate) fn namespaces(pod: &Value) -> NamespaceOption {
    let flag = |name: &str| pod.bool_at(&["spec", name]) == Some(true);
    let node = |is: bool, otherwise| if is { NamespaceMode::Node } else { otherwise };
    let shared = if flag("shareProcessNamespace") { NamespaceMode::Pod } else { NamespaceMode::Container };
    NamespaceOption {
        network: node(flag("hostNetwork"), NamespaceMode::Pod),
        pid: node(flag("hostPID"), shared),
        ipc: node(flag("hostIPC"), NamespaceMode::Pod),
        target_id: String::new(),
        userns_options: None,
    }
}

/// A seccomp or AppArmor profile of a security context.
pub(crate) fn profile(context: &Value, field: &str) -> Option<SecurityProfile> {
    let profile = context.get(field)?;
    match profile.str_at(&["type"]) {
        "RuntimeDefault" => Some(SecurityProfile::RuntimeDefault),
        "Unconfined" => Some(SecurityProfile::Unconfined),
        "Localhost" => Some(SecurityProfile::Localhost(profile.str_at(&["localhostProfile"]).to_string())),
        _ => None,
    }
}

/// A seccomp profile, of which those of the node are files below the kubelet's directory; see upstream's fieldSeccompProfile.
pub(crate) fn seccomp(context: &Value, root: &Path) -> Option<SecurityProfile> {
    profile(context, "seccompProfile").map(|found| match found {
        SecurityProfile::Localhost(name) => {
            SecurityProfile::Localhost(root.join("seccomp").join(name.trim_start_matches('/')).display().to_string())
        }
        other => other,
    })
}

pub(crate) fn supplemental_groups(pod: &Value) -> Vec<i64> {
    let context = ["spec", "securityContext"];
    let own = pod.at(&context).map(|c| c.list_at(&["supplementalGroups"])).unwrap_or_default();
    let fs_group = pod.at(&context).and_then(|c| c.int_at(&["fsGroup"]));
    own.iter().filter_map(Value::as_int).chain(fs_group).collect()
}

/// A label for SELinux; one that says nothing is none.
pub(crate) fn selinux(options: &Value) -> Option<SeLinuxOption> {
    let text = |field: &str| options.str_at(&[field]).to_string();
    let label = SeLinuxOption { user: text("user"), role: text("role"), r#type: text("type"), level: text("level") };
    (label != SeLinuxOption::default()).then_some(label)
}

/// Whether a pod, or a container of it, is to have a label.
pub(crate) fn wants_selinux(pod: &Value) -> bool {
    let contexts =
        std::iter::once(pod.at(&["spec", "securityContext"])).chain(pod::all_containers(pod).map(|(_, c)| c.get("securityContext")));
    contexts.flatten().filter_map(|context| context.get("seLinuxOptions")).any(|options| selinux(options).is_some())
}

/// Why processes have no labels here, if they have none.
pub(crate) fn unlabelled(has_selinux: bool, runtime: &str) -> Option<&'static str> {
    match (has_selinux, runtime) {
        (false, _) => Some("SELinux is not enabled on the host"),
        (true, fram_cri::OWN_NAME) => Some("the node's own runtime sets no labels; use another one by --container-runtime-endpoint"),
        _ => None,
    }
}

pub(crate) fn groups_policy(pod: &Value) -> SupplementalGroupsPolicy {
    match pod.str_at(&["spec", "securityContext", "supplementalGroupsPolicy"]) {
        "Strict" => SupplementalGroupsPolicy::Strict,
        _ => SupplementalGroupsPolicy::Merge,
    }
}

fn linux(pod: &Value, config: &KubeletConfig) -> LinuxPodSandboxConfig {
    let none = Value::Null;
    let context = pod.at(&["spec", "securityContext"]).unwrap_or(&none);
    let privileged =
        pod::all_containers(pod).any(|(_, c)| c.at(&["securityContext"]).and_then(|s| s.bool_at(&["privileged"])) == Some(true));
    let sysctl = |s: &Value| (s.str_at(&["name"]).replace('/', "."), s.str_at(&["value"]).to_string());
    LinuxPodSandboxConfig {
        cgroup_parent: resources::cgroup_parent(&config.cgroup_root, pod),
        security_context: LinuxSandboxSecurityContext {
            namespace_options: namespaces(pod),
            run_as_user: context.int_at(&["runAsUser"]),
            run_as_group: context.int_at(&["runAsGroup"]),
            supplemental_groups: supplemental_groups(pod),
            supplemental_groups_policy: groups_policy(pod),
            privileged,
            selinux_options: context.get("seLinuxOptions").and_then(selinux),
            seccomp: Some(seccomp(context, &config.root_dir).unwrap_or(SecurityProfile::RuntimeDefault)),
            ..LinuxSandboxSecurityContext::default()
        },
        sysctls: context.list_at(&["sysctls"]).iter().map(sysctl).collect(),
        overhead: None,
        resources: Some(resources::pod_resources(pod)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    #[test]
    fn a_pod_is_named_by_its_hostname_and_subdomain() {
        let mut pod = object!({ "metadata": { "namespace": "ns", "name": "p" }, "spec": { "hostname": "h", "subdomain": "s" } });
        assert_eq!(hostname(&pod, "cluster.local"), ("h".into(), "s.ns.svc.cluster.local".into()));
        pod.set(&["spec"], object!({}));
        pod.set(&["metadata", "name"], format!("{}-x", "a".repeat(62)));
        assert_eq!(hostname(&pod, "cluster.local").0, "a".repeat(62));
    }

    #[test]
    fn each_container_has_a_pid_namespace_of_its_own_unless_the_pod_shares_it() {
        let of = |spec: Value| namespaces(&object!({ "spec": spec }));
        assert_eq!(of(object!({})).pid, NamespaceMode::Container);
        assert_eq!(of(object!({ "shareProcessNamespace": true })).pid, NamespaceMode::Pod);
        let host = of(object!({ "hostPID": true, "hostNetwork": true, "hostIPC": true }));
        assert_eq!((host.pid, host.network, host.ipc), (NamespaceMode::Node, NamespaceMode::Node, NamespaceMode::Node));
    }

    #[test]
    fn a_seccomp_profile_of_the_node_is_a_file_below_the_kubelets_directory() {
        let of = |profile: Value| seccomp(&object!({ "seccompProfile": profile }), Path::new("/k"));
        let local = of(object!({ "type": "Localhost", "localhostProfile": "profiles/a.json" }));
        assert_eq!(local, Some(SecurityProfile::Localhost("/k/seccomp/profiles/a.json".into())));
        assert_eq!(of(object!({ "type": "Unconfined" })), Some(SecurityProfile::Unconfined));
    }

    #[test]
    fn a_pod_wants_a_label_where_it_or_one_of_its_containers_says_which() {
        let of = |spec: Value| wants_selinux(&object!({ "spec": spec }));
        let label = object!({ "seLinuxOptions": { "type": "t" } });
        assert!(of(object!({ "securityContext": (label.clone()) })) && of(object!({ "initContainers": [{ "securityContext": label }] })));
        assert!(!of(object!({ "securityContext": { "seLinuxOptions": {} }, "containers": [{ "name": "c" }] })));
    }

    #[test]
    fn processes_have_labels_where_both_the_kernel_and_the_runtime_know_them() {
        assert!(unlabelled(false, "containerd").unwrap().contains("not enabled on the host"));
        assert!(unlabelled(true, fram_cri::OWN_NAME).unwrap().contains("runtime"));
        assert_eq!(unlabelled(true, "containerd"), None);
    }

    #[test]
    fn ports_of_main_containers_and_sidecars_are_mapped() {
        let spec = object!({
            "containers": [{ "ports": [{ "containerPort": 80, "hostPort": 8080, "hostIP": "192.0.2.1" }] }],
            "initContainers": [{ "restartPolicy": "Always", "ports": [{ "containerPort": 53, "protocol": "UDP" }] }, { "ports": [{ "containerPort": 1 }] }]
        });
        let mapped = port_mappings(&object!({ "spec": spec }));
        let told: Vec<_> = mapped.iter().map(|m| (m.container_port, m.host_port, m.protocol)).collect();
        assert_eq!(told, [(80, 8080, Protocol::Tcp), (53, 0, Protocol::Udp)]);
        assert_eq!(mapped[0].host_ip.map(|ip| ip.to_string()), Some("192.0.2.1".into()));
    }
}
