//! Capabilities of a container: the default set, what the pod adds and drops, and their numbers.

use fram_cri::LinuxContainerSecurityContext;

use super::{Privileges, SpecError};

/// Names without `CAP_`, at their numbers (linux/capability.h).
pub(crate) const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What containerd, CRI-O and Docker give when nothing is said.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

const ALL: u64 = (1 << CAPABILITIES.len()) - 1;

pub(crate) fn capability_names(bits: u64) -> impl Iterator<Item = &'static str> {
    CAPABILITIES.iter().enumerate().filter(move |(number, _)| bits & (1 << number) != 0).map(|(_, name)| *name)
}

/// The bit of one name, or every bit for `ALL`.
fn bits(name: &str) -> Result<u64, SpecError> {
    let upper = name.to_ascii_uppercase();
    let plain = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if plain == "ALL" {
        return Ok(ALL);
    }
    let number = CAPABILITIES.iter().position(|known| *known == plain);
    number.map(|number| 1 << number).ok_or_else(|| SpecError::Capability(name.to_owned()))
}

pub(crate) fn capability_bits(names: &[String]) -> Result<u64, SpecError> {
    names.iter().try_fold(0, |all, name| Ok(all | bits(name)?))
}

/// `ALL` is applied before single names, so that "drop ALL, add NET_ADMIN" and "add ALL, drop NET_ADMIN" both mean what
/// they say.
pub(super) fn privileges(context: &LinuxContainerSecurityContext) -> Result<Privileges, SpecError> {
    let named = &context.capabilities;
    let is_all = |name: &String| name.eq_ignore_ascii_case("ALL") || name.eq_ignore_ascii_case("CAP_ALL");
    let single = |names: &[String]| capability_bits(&names.iter().filter(|name| !is_all(name)).cloned().collect::<Vec<_>>());
    let mut capabilities = DEFAULT.iter().try_fold(0, |all, name| Ok(all | bits(name)?))?;
    if named.add_capabilities.iter().any(is_all) {
        capabilities = ALL;
    }
    if named.drop_capabilities.iter().any(is_all) {
        capabilities = 0;
    }
    capabilities |= single(&named.add_capabilities)?;
    capabilities &= !single(&named.drop_capabilities)?;
    if context.privileged {
        capabilities = ALL;
    }
    let ambient = capability_bits(&named.add_ambient_capabilities)?;
    Ok(Privileges { capabilities: capabilities | ambient, ambient, no_new_privs: context.no_new_privs })
}
