//! What the runtime keeps on disk, and where. A sandbox is `sandboxes/<id>`; its containers are inside it, so that
//! removing the directory removes all of it.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use fram_cri::{ContainerConfig, NamespaceMode, NamespaceOption, PodSandboxConfig, PodSandboxNetworkStatus, Signal, UserNamespace};
use serde::{Deserialize, Serialize};

use crate::protocol::IdRange;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SandboxRecord {
    pub(crate) id: String,
    pub(crate) config: PodSandboxConfig,
    pub(crate) runtime_handler: String,
    pub(crate) created_at: i64,
    pub(crate) network: PodSandboxNetworkStatus,
    /// Set once `run_pod_sandbox` has succeeded; what is found without it after a crash was half made.
    pub(crate) complete: bool,
    /// The shim has ended and the network is gone.
    pub(crate) stopped: bool,
}

impl SandboxRecord {
    pub(crate) fn host_network(&self) -> bool {
        self.config.linux.security_context.namespace_options.network == fram_cri::NamespaceMode::Node
    }

    /// What the users of the pod's own user namespace are on the node.
    pub(crate) fn ids(&self) -> Option<IdRange> {
        id_range(&self.config.linux.security_context.namespace_options).ok().flatten()
    }
}

/// Of a pod's namespaces: one range for users and one for groups, of the same length and from 0 on. Anything else is refused.
pub(crate) fn id_range(options: &NamespaceOption) -> Result<Option<IdRange>, &'static str> {
    let own = match &options.userns_options {
        None | Some(UserNamespace { mode: NamespaceMode::Node, .. }) => return Ok(None),
        Some(own) if own.mode == NamespaceMode::Pod => own,
        Some(_) => return Err("a user namespace is the pod's or the node's"),
    };
    let ([uids], [gids]) = (own.uids.as_slice(), own.gids.as_slice()) else {
        return Err("a user namespace needs one mapping of users and one of groups");
    };
    if uids.container_id != 0 || gids.container_id != 0 || uids.length != gids.length || uids.length == 0 {
        return Err("the mappings of a user namespace have to be of the same length and begin at 0");
    }
    if options.network == NamespaceMode::Node || options.ipc == NamespaceMode::Node || options.pid == NamespaceMode::Node {
        return Err("a pod with a user namespace of its own cannot have namespaces of the node");
    }
    Ok(Some(IdRange { uid: uids.host_id, gid: gids.host_id, length: uids.length }))
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ContainerRecord {
    pub(crate) id: String,
    pub(crate) pod_sandbox_id: String,
    pub(crate) config: ContainerConfig,
    pub(crate) image_ref: String,
    pub(crate) image_id: String,
    pub(crate) created_at: i64,
    pub(crate) log_path: String,
    pub(crate) cgroup: String,
    pub(crate) stop_signal: Signal,
    /// A subscriber has been told of the exit.
    pub(crate) exit_reported: bool,
}

pub(crate) const SANDBOX_FILE: &str = "sandbox.json";
pub(crate) const CONTAINER_FILE: &str = "container.json";
/// The request by which the shim starts the container.
pub(crate) const START_FILE: &str = "start.json";

#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) sandboxes: PathBuf,
    /// A layer, the lowest one of every container.
    pub(crate) mount_points: PathBuf,
    /// Where every container's root is mounted while it is made, in a mount namespace of its own.
    pub(crate) rootfs: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: &Path) -> Layout {
        Layout { sandboxes: root.join("sandboxes"), mount_points: root.join("mount-points"), rootfs: root.join("rootfs") }
    }

    /// What something is mounted on in every container, so that a container whose image lacks it does not have to be given it, and
    /// nothing of that is to be removed with it.
    pub(crate) fn make_mount_points(&self) -> io::Result<()> {
        // Whoever runs in a container may look, whatever the mask of this process is.
        let open_to_all = |mode, path: &Path| fs::set_permissions(path, Permissions::from_mode(mode));
        for name in ["dev", "etc", "proc", "sys"] {
            let path = self.mount_points.join(name);
            fs::create_dir_all(&path).and_then(|()| open_to_all(0o755, &path))?;
        }
        for name in ["hostname", "hosts", "resolv.conf"] {
            let path = self.mount_points.join("etc").join(name);
            File::create(&path).and_then(|_| open_to_all(0o644, &path))?;
        }
        open_to_all(0o755, &self.mount_points)
    }

    pub(crate) fn sandbox(&self, id: &str) -> PathBuf {
        self.sandboxes.join(id)
    }

    pub(crate) fn containers(&self, sandbox: &str) -> PathBuf {
        self.sandbox(sandbox).join("containers")
    }

    pub(crate) fn container(&self, sandbox: &str, id: &str) -> PathBuf {
        self.containers(sandbox).join(id)
    }
}

/// 64 hexadecimal digits, as the ids of other runtimes.
pub(crate) fn new_id() -> std::io::Result<String> {
    let mut bytes = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Contents of a pod's resolv.conf (resolv.conf(5)).
pub(crate) fn resolv_conf(dns: &fram_cri::DnsConfig) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    text
}

/// For containers whose pod does not bring a hosts file of its own.
pub(crate) const HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";

/// Whether a sysctl is one of the sandbox's own namespaces, and which of them it needs.
pub(crate) fn sysctl_is_namespaced(name: &str, host_network: bool, host_ipc: bool) -> bool {
    let name = name.replace('/', ".");
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
    let ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|prefix| name.starts_with(prefix));
    plain && !name.contains("..") && (name.starts_with("net.") && !host_network || (ipc || name == "kernel.sem") && !host_ipc)
}

/// The sysctls of a sandbox: those asked for, and the defaults of containerd 2: every user may listen on low ports of a network that is the
/// pod's own and, where its users are the node's, may ping.
pub(crate) fn sysctls(asked: &BTreeMap<String, String>, host_network: bool, own_users: bool) -> Vec<(String, String)> {
    let mut out = asked.clone();
    let defaults = [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")];
    let count = if host_network { 0 } else { 2 - usize::from(own_users) };
    for (name, value) in defaults.into_iter().take(count) {
        if !asked.keys().any(|k| k.replace('/', ".") == name) {
            out.insert(name.into(), value.into());
        }
    }
    out.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_user_may_use_low_ports_and_ping_where_the_network_is_the_pods_own() {
        let asked = BTreeMap::from([("net/ipv4/ip_unprivileged_port_start".to_owned(), "7".to_owned())]);
        let names = |asked: &BTreeMap<String, String>, host_network, own_users| {
            sysctls(asked, host_network, own_users).into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>()
        };
        let (ports, ping) = ("net.ipv4.ip_unprivileged_port_start=0", "net.ipv4.ping_group_range=0 2147483647");
        assert_eq!(names(&BTreeMap::new(), false, false), [ports, ping]);
        assert_eq!(names(&BTreeMap::new(), false, true), [ports]);
        assert!(names(&BTreeMap::new(), true, false).is_empty());
        assert_eq!(names(&asked, false, false), [ping, "net/ipv4/ip_unprivileged_port_start=7"]);
    }

    #[test]
    fn a_resolv_conf_has_only_the_lines_that_are_given() {
        let list = |text: &str| text.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let dns = fram_cri::DnsConfig { servers: list("10.0.0.10 1.1.1.1"), searches: list("a.svc b"), options: list("ndots:5") };
        assert_eq!(resolv_conf(&dns), "search a.svc b\nnameserver 10.0.0.10\nnameserver 1.1.1.1\noptions ndots:5\n");
        assert_eq!(resolv_conf(&fram_cri::DnsConfig::default()), "");
    }

    #[test]
    fn a_user_namespace_is_the_pods_with_its_mappings_or_the_nodes() {
        let mapping = || vec![fram_cri::IdMapping { host_id: 65_536, container_id: 0, length: 65_536 }];
        let range = |mode| {
            let own = UserNamespace { mode, uids: mapping(), gids: mapping() };
            id_range(&NamespaceOption { userns_options: Some(own), ..NamespaceOption::default() })
        };
        assert_eq!(range(NamespaceMode::Pod).unwrap().map(|range| range.uid), Some(65_536));
        assert!(range(NamespaceMode::Node).unwrap().is_none() && id_range(&NamespaceOption::default()).unwrap().is_none());
        assert!(range(NamespaceMode::Container).is_err() && range(NamespaceMode::Target).is_err());
    }

    #[test]
    fn only_sysctls_of_the_sandbox_s_own_namespaces_pass() {
        for (name, host_network, host_ipc, expect) in [
            ("net.ipv4.ip_forward", false, false, true),
            ("net/ipv4/ip_forward", false, false, true),
            ("net.ipv4.ip_forward", true, false, false),
            ("kernel.shm_rmid_forced", false, false, true),
            ("kernel.shm_rmid_forced", false, true, false),
            ("kernel.sem", false, false, true),
            ("fs.mqueue.msg_max", false, false, true),
            ("kernel.hostname", false, false, false),
            ("vm.swappiness", false, false, false),
            ("net...kernel.core_pattern", false, false, false),
        ] {
            assert_eq!(sysctl_is_namespaced(name, host_network, host_ipc), expect, "{name}");
        }
    }
}
