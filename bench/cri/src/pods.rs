//! What is asked of a runtime for a pod and its container: what a kubelet asks for an ordinary pod with limits.

use std::path::Path;

use fram_cri::{
    ContainerConfig, ContainerMetadata, DnsConfig, ImageSpec, LinuxContainerResources, LinuxContainerSecurityContext,
    LinuxPodSandboxConfig, NamespaceMode, NamespaceOption, PodSandboxConfig, PodSandboxMetadata, SecurityProfile,
};

/// As kubelets ask, see upstream's pkg/securitycontext.
const MASKED: [&str; 9] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn namespaces() -> NamespaceOption {
    NamespaceOption { pid: NamespaceMode::Container, ..NamespaceOption::default() }
}

pub(crate) fn sandbox(name: &str, logs: &Path, cgroup: &str) -> PodSandboxConfig {
    let mut config = PodSandboxConfig {
        metadata: PodSandboxMetadata { name: name.into(), uid: format!("uid-{name}"), namespace: "bench".into(), attempt: 0 },
        hostname: name.into(),
        log_directory: logs.join(name).display().to_string(),
        dns_config: Some(DnsConfig { servers: vec!["10.96.0.10".into()], ..DnsConfig::default() }),
        linux: LinuxPodSandboxConfig { cgroup_parent: format!("{cgroup}/{name}"), ..LinuxPodSandboxConfig::default() },
        ..PodSandboxConfig::default()
    };
    config.linux.security_context.namespace_options = namespaces();
    config.linux.security_context.seccomp = Some(SecurityProfile::RuntimeDefault);
    config
}

pub(crate) fn container(image: String, attempt: u32) -> ContainerConfig {
    let list = |paths: &[&str]| paths.iter().map(ToString::to_string).collect();
    ContainerConfig {
        metadata: ContainerMetadata { name: "main".into(), attempt },
        image: ImageSpec::new(image),
        command: vec!["/bin/sleep".into(), "1000000".into()],
        log_path: format!("main/{attempt}.log"),
        resources: LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: 100_000,
            cpu_shares: 102,
            memory_limit_in_bytes: 64 << 20,
            oom_score_adj: 999,
            ..LinuxContainerResources::default()
        },
        security_context: LinuxContainerSecurityContext {
            namespace_options: namespaces(),
            seccomp: Some(SecurityProfile::RuntimeDefault),
            no_new_privs: true,
            masked_paths: list(&MASKED),
            readonly_paths: list(&READ_ONLY),
            ..LinuxContainerSecurityContext::default()
        },
        ..ContainerConfig::default()
    }
}
