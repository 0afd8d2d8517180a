//! What whoever starts the runtime decides.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// Sandboxes and containers live below it; must be on a disk that can hold overlay upper directories.
    pub root: PathBuf,
    /// Program and first arguments of a shim; the sandbox's directory is added.
    pub shim_command: Vec<OsString>,
    /// Where the cgroup hierarchies are mounted.
    pub cgroup_mount: PathBuf,
    /// Parent of the containers' cgroups for sandboxes whose configuration names none.
    pub cgroup_root: String,
    /// Where the shims run, outside of Fram's own cgroup; empty leaves them where they are started.
    pub shim_cgroup: String,
    /// What containers see when their pod has no DNS configuration.
    pub resolv_conf: PathBuf,
    /// Size of each pod's /dev/shm, bytes.
    pub shm_size: u64,
    /// OCI runtimes by the handlers that RuntimeClasses name; containers of other handlers are made by the shim itself.
    pub handlers: BTreeMap<String, PathBuf>,
    /// Where files say what CDI devices need; later ones come first.
    pub cdi_dirs: Vec<PathBuf>,
    /// As many files as shims, and so containers, may have open: the soft and the hard limit. None is what this program may when it starts
    /// them.
    pub open_files: Option<(u64, u64)>,
    /// Events that a subscriber may be behind before it is ended.
    pub event_buffer: usize,
}

impl RuntimeConfig {
    pub fn new(root: impl Into<PathBuf>) -> Self {
        RuntimeConfig {
            root: root.into(),
            shim_command: vec!["/proc/self/exe".into(), "shim".into()],
            cgroup_mount: "/sys/fs/cgroup".into(),
            cgroup_root: "/fram".into(),
            shim_cgroup: "/fram-shim".into(),
            resolv_conf: "/etc/resolv.conf".into(),
            shm_size: 64 << 20,
            handlers: BTreeMap::new(),
            cdi_dirs: vec!["/etc/cdi".into(), "/var/run/cdi".into()],
            open_files: None,
            event_buffer: 4096,
        }
    }
}
