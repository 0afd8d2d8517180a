//! What a node needs of its machine, checked before anything is started; each missing thing is named with its remedy.

use std::path::Path;

use fram_runtime::kernel;

/// Something that is missing.
#[derive(Debug)]
struct Missing {
    what: String,
    remedy: &'static str,
}

/// Fails with the list of everything that is missing.
pub(crate) fn check() -> anyhow::Result<()> {
    // SAFETY: geteuid has no preconditions and cannot fail.
    let uid = unsafe { libc::geteuid() };
    if uid != 0 {
        anyhow::bail!("a node is run by root: start it with sudo");
    }
    let missing: Vec<Missing> =
        [old_kernel(), filesystem("overlay"), cgroups(), network_namespaces(), netfilter()].into_iter().flatten().collect();
    if missing.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = missing.iter().map(|m| format!("\n  - {}: {}", m.what, m.remedy)).collect();
    anyhow::bail!("this machine lacks what a node needs:{}", lines.concat())
}

/// `mount_setattr` and `openat2` are what the runtime cannot do without; the younger of them came with this version.
const OLDEST_KERNEL: (u32, u32) = (5, 12);

fn old_kernel() -> Option<Missing> {
    let release = kernel::release();
    (!kernel::is_at_least(&release, OLDEST_KERNEL)).then(|| Missing {
        what: format!("Linux {}.{} or newer (this is {release})", OLDEST_KERNEL.0, OLDEST_KERNEL.1),
        remedy: "start the machine with a newer kernel; Debian 12 has one",
    })
}

fn filesystem(name: &str) -> Option<Missing> {
    // To ask for it loads the kernel's module where it is one. The answer is read below, whatever it was.
    if let Ok(name) = std::ffi::CString::new(name) {
        // SAFETY: the name is a string that ends with a zero byte; a descriptor that is returned is closed at once.
        unsafe {
            let context = libc::syscall(libc::SYS_fsopen, name.as_ptr(), 1);
            if context >= 0 {
                libc::close(context as i32);
            }
        }
    }
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let there = known.lines().any(|l| l.split_whitespace().last() == Some(name));
    (!there).then(|| Missing {
        what: format!("the file system {name}"),
        remedy: "load it with `modprobe overlay`, or use a kernel built with it",
    })
}

fn cgroups() -> Option<Missing> {
    let v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let v1 = ["memory", "cpu", "pids", "devices", "freezer"].iter().all(|c| Path::new("/sys/fs/cgroup").join(c).is_dir());
    (!v1 && !v2).then(|| Missing {
        what: "cgroup controllers at /sys/fs/cgroup".into(),
        remedy: "mount cgroup2, or the v1 controllers memory, cpu, pids, devices and freezer",
    })
}

fn network_namespaces() -> Option<Missing> {
    let there = Path::new("/proc/self/ns/net").exists() && Path::new("/proc/self/ns/pid").exists();
    (!there).then(|| Missing { what: "network and pid namespaces".into(), remedy: "use a kernel with CONFIG_NET_NS and CONFIG_PID_NS" })
}

fn netfilter() -> Option<Missing> {
    match fram_datapath::nft::Handle::open() {
        Ok(_) => None,
        Err(error) => Some(Missing {
            what: format!("nftables ({error})"),
            remedy: "load it with `modprobe nf_tables`, or use a kernel built with it",
        }),
    }
}
