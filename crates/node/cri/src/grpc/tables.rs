//! The numbers of the fields of shared values, as upstream's api.proto (`runtime.v1`) has them.

use fram_grpc::{enumeration, message};

use super::forms::{CdiDevices, ContainerStateValue, PodIps, PodSandboxStateValue, Profile, Reason, SignalForm};
use crate::*;

enumeration!(Protocol { Tcp = 0, Udp = 1, Sctp = 2 });
enumeration!(MountPropagation { Private = 0, HostToContainer = 1, Bidirectional = 2 });
enumeration!(NamespaceMode { Pod = 0, Container = 1, Node = 2, Target = 3 });
enumeration!(SupplementalGroupsPolicy { Merge = 0, Strict = 1 });
enumeration!(PodSandboxState { Ready = 0, NotReady = 1 });
enumeration!(ContainerState { Created = 0, Running = 1, Exited = 2, Unknown = 3 });

// What names and configures a sandbox.
message!(PodSandboxMetadata { name = 1, uid = 2, namespace = 3, attempt = 4 });
message!(DnsConfig { servers = 1, searches = 2, options = 3 });
message!(PortMapping { protocol = 1, container_port = 2, host_port = 3, host_ip = 4 });
message!(PodSandboxConfig {
    metadata = 1,
    hostname = 2,
    log_directory = 3,
    dns_config = 4,
    port_mappings = 5,
    labels = 6,
    annotations = 7,
    linux = 8
});
message!(LinuxPodSandboxConfig { cgroup_parent = 1, security_context = 2, sysctls = 3, overhead = 4, resources = 5 });
message!(LinuxSandboxSecurityContext {
    namespace_options = 1,
    selinux_options = 2,
    run_as_user = 3,
    readonly_rootfs = 4,
    supplemental_groups = 5,
    privileged = 6,
    run_as_group = 8,
    seccomp = 9 as Profile,
    apparmor = 10 as Profile,
    supplemental_groups_policy = 11,
});
message!(NamespaceOption { network = 1, pid = 2, ipc = 3, target_id = 4, userns_options = 5 });
message!(UserNamespace { mode = 1, uids = 2, gids = 3 });
message!(IdMapping { host_id = 1, container_id = 2, length = 3 });
message!(SeLinuxOption { user = 1, role = 2, r#type = 3, level = 4 });

// What a sandbox is like.
message!(PodSandboxNetworkStatus { ip = 1, additional_ips = 2 as PodIps });
message!(PodSandboxStatus {
    id = 1,
    metadata = 2,
    state = 3,
    created_at = 4,
    network = 5,
    { { namespaces = 2 } = 1 } = 6,
    labels = 7,
    annotations = 8,
    runtime_handler = 9,
});
message!(PodSandbox { id = 1, metadata = 2, state = 3, created_at = 4, labels = 5, annotations = 6, runtime_handler = 7 });
message!(PodSandboxFilter { id = 1, state = 2 as PodSandboxStateValue, label_selector = 3 });

// What names and configures a container.
message!(ContainerMetadata { name = 1, attempt = 2 });
message!(ImageSpec { image = 1, annotations = 2, user_specified_image = 18, runtime_handler = 19, image_ref = 20 });
message!(KeyValue { key = 1, value = 2 });
message!(Mount {
    container_path = 1,
    host_path = 2,
    readonly = 3,
    selinux_relabel = 4,
    propagation = 5,
    uid_mappings = 6,
    gid_mappings = 7,
    recursive_read_only = 8,
    image = 9,
    image_sub_path = 10,
});
message!(Device { container_path = 1, host_path = 2, permissions = 3 });
message!(ContainerConfig {
    metadata = 1,
    image = 2,
    command = 3,
    args = 4,
    working_dir = 5,
    envs = 6,
    mounts = 7,
    devices = 8,
    labels = 9,
    annotations = 10,
    log_path = 11,
    stdin = 12,
    stdin_once = 13,
    tty = 14,
    { resources = 1, security_context = 2 } = 15,
    cdi_devices = 17 as CdiDevices,
    stop_signal = 18 as SignalForm,
});
message!(LinuxContainerResources {
    cpu_period = 1,
    cpu_quota = 2,
    cpu_shares = 3,
    memory_limit_in_bytes = 4,
    oom_score_adj = 5,
    cpuset_cpus = 6,
    cpuset_mems = 7,
    hugepage_limits = 8,
    unified = 9,
    memory_swap_limit_in_bytes = 10,
});
message!(HugepageLimit { page_size = 1, limit = 2 });
message!(Capability { add_capabilities = 1, drop_capabilities = 2, add_ambient_capabilities = 3 });
message!(LinuxContainerSecurityContext {
    capabilities = 1,
    privileged = 2,
    namespace_options = 3,
    selinux_options = 4,
    run_as_user = 5,
    run_as_username = 6,
    readonly_rootfs = 7,
    supplemental_groups = 8,
    no_new_privs = 11,
    run_as_group = 12,
    masked_paths = 13,
    readonly_paths = 14,
    seccomp = 15 as Profile,
    apparmor = 16 as Profile,
    supplemental_groups_policy = 17,
});

// What a container is like.
message!(ContainerUser { { uid = 1, gid = 2, supplemental_groups = 3 } = 1 });
message!(ContainerStatus {
    id = 1,
    metadata = 2,
    state = 3,
    created_at = 4,
    started_at = 5,
    finished_at = 6,
    exit_code = 7,
    image = 8,
    image_ref = 9,
    reason = 10 as Reason,
    message = 11,
    labels = 12,
    annotations = 13,
    mounts = 14,
    log_path = 15,
    { resources = 1 } = 16,
    image_id = 17,
    user = 18,
    stop_signal = 19 as SignalForm,
});
message!(Container {
    id = 1,
    pod_sandbox_id = 2,
    metadata = 3,
    image = 4,
    image_ref = 5,
    state = 6,
    created_at = 7,
    labels = 8,
    annotations = 9,
    image_id = 10,
});
message!(ContainerFilter { id = 1, state = 2 as ContainerStateValue, pod_sandbox_id = 3, label_selector = 4 });

// Usage.
message!(ContainerAttributes { id = 1, metadata = 2, labels = 3, annotations = 4 });
message!(ContainerStats { attributes = 1, cpu = 2, memory = 3, writable_layer = 4, swap = 5, io = 6 });
message!(PsiData { total = 1, avg10 = 2, avg60 = 3, avg300 = 4 });
message!(PsiStats { full = 1, some = 2 });
message!(CpuUsage { timestamp = 1, usage_core_nano_seconds = 2, usage_nano_cores = 3, psi = 4 });
message!(MemoryUsage {
    timestamp = 1,
    working_set_bytes = 2,
    available_bytes = 3,
    usage_bytes = 4,
    rss_bytes = 5,
    page_faults = 6,
    major_page_faults = 7,
    psi = 8,
});
message!(SwapUsage { timestamp = 1, swap_available_bytes = 2, swap_usage_bytes = 3 });
message!(IoUsage { timestamp = 1, psi = 2 });
message!(ProcessUsage { timestamp = 1, process_count = 2 });
message!(NetworkInterfaceUsage { name = 1, rx_bytes = 2, rx_errors = 3, tx_bytes = 4, tx_errors = 5 });
message!(NetworkUsage { timestamp = 1, default_interface = 2, interfaces = 3 });
message!(PodSandboxStats {
    { id = 1, metadata = 2, labels = 3, annotations = 4 } = 1,
    { cpu = 1, memory = 2, network = 3, process = 4, containers = 5, io = 6 } = 2,
});
message!(ContainerStatsFilter { id = 1, pod_sandbox_id = 2, label_selector = 3 });
message!(PodSandboxStatsFilter { id = 1, label_selector = 2 });

// Images.
message!(Image { id = 1, repo_tags = 2, repo_digests = 3, size = 4, uid = 5, username = 6, spec = 7, pinned = 8 });
message!(AuthConfig { username = 1, password = 2, auth = 3, server_address = 4, identity_token = 5, registry_token = 6 });
message!(FilesystemUsage { timestamp = 1, { mountpoint = 1 } = 2, used_bytes = 3, inodes_used = 4 });
message!(ImageFsInfo { image_filesystems = 1, container_filesystems = 2 });

// The runtime itself.
message!(VersionResponse { version = 1, runtime_name = 2, runtime_version = 3, runtime_api_version = 4 });
message!(RuntimeCondition { r#type = 1, status = 2, reason = 3, message = 4 });
message!(RuntimeHandlerFeatures { recursive_read_only_mounts = 1, user_namespaces = 2 });
message!(RuntimeHandler { name = 1, features = 2 });
message!(RuntimeFeatures { supplemental_groups_policy = 1, user_namespaces_host_network = 2 });
message!(RuntimeStatus { { conditions = 1 } = 1, info = 2, runtime_handlers = 3, features = 4 });
message!(RuntimeConfig { { pod_cidr = 1 } = 1 });
message!(ExecSyncResponse { stdout = 1, stderr = 2, exit_code = 3 });
