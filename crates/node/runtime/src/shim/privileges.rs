//! The last steps of a process before it becomes the container's: seccomp filter and capabilities, in the one order that
//! works: without `no_new_privs` a filter can only be installed by who still has CAP_SYS_ADMIN (seccomp(2)).

use std::io;

use serde::{Deserialize, Serialize};

use crate::protocol::ProtocolError;
use crate::seccomp::Instruction;
use crate::spec::{CAPABILITIES, Privileges};

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// Low and high halves follow each other.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Capabilities as bits, in the kernel's numbering.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct CapabilitySets {
    pub bounding: u64,
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
    pub ambient: u64,
}

impl From<&Privileges> for CapabilitySets {
    fn from(Privileges { capabilities, ambient, .. }: &Privileges) -> CapabilitySets {
        let (all, ambient) = (*capabilities, *ambient);
        CapabilitySets { bounding: all, effective: all, permitted: all, inheritable: ambient, ambient }
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum PrivilegeError {
    #[error("{step}: {source}")]
    System { step: &'static str, source: io::Error },
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
}

fn check(step: &'static str, result: libc::c_long) -> Result<(), PrivilegeError> {
    if result == -1 {
        return Err(PrivilegeError::System { step, source: io::Error::last_os_error() });
    }
    Ok(())
}

/// Called once, right before execve, in a process of one thread.
pub(crate) fn apply(privileges: &Privileges, filter: &[Instruction]) -> Result<(), PrivilegeError> {
    confine(Some(&privileges.into()), privileges.no_new_privs, filter, 0)
}

/// The same with sets that differ; without any, what the process has stays. `flags` are those of the filter.
pub(crate) fn confine(sets: Option<&CapabilitySets>, no_new_privs: bool, filter: &[Instruction], flags: u32) -> Result<(), PrivilegeError> {
    if !no_new_privs {
        install(filter, flags)?;
    }
    sets.map_or(Ok(()), limit_capabilities)?;
    if no_new_privs {
        install(filter, flags)?;
    }
    Ok(())
}

fn install(filter: &[Instruction], flags: u32) -> Result<(), PrivilegeError> {
    if filter.is_empty() {
        return Ok(());
    }
    let mut program: Vec<libc::sock_filter> =
        filter.iter().map(|Instruction(code, jt, jf, k)| libc::sock_filter { code: *code, jt: *jt, jf: *jf, k: *k }).collect();
    // The compiler of profiles keeps programs below 4096 instructions.
    let header = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the header points to a program of that length, both live until the call returns, and the kernel copies it.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &header) };
    check("install the seccomp filter", result)
}

fn limit_capabilities(sets: &CapabilitySets) -> Result<(), PrivilegeError> {
    let held = permitted()?;
    for number in 0..CAPABILITIES.len() {
        if sets.bounding & (1 << number) == 0 {
            // SAFETY: takes numbers only. A capability that this kernel does not know is dropped already.
            let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) };
            if result == -1 && io::Error::last_os_error().raw_os_error() != Some(libc::EINVAL) {
                return check("drop a capability from the bounding set", -1);
            }
        }
    }
    // What the node itself does not have cannot be given; `ALL` means all that there are.
    let permitted = sets.permitted & held;
    let inheritable = sets.inheritable & held;
    let ambient = sets.ambient & permitted & inheritable;
    set(sets.effective & permitted, permitted, inheritable)?;
    // SAFETY: takes numbers only.
    let result = unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
    check("clear the ambient capabilities", result.into())?;
    for number in (0..CAPABILITIES.len()).filter(|number| ambient & (1 << number) != 0) {
        // SAFETY: takes numbers only.
        let result = unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, number, 0, 0) };
        check("raise an ambient capability", result.into())?;
    }
    Ok(())
}

/// Changes who the process is without what that takes away.
pub(super) fn keeping(change: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let keep = |on: libc::c_ulong| {
        // SAFETY: takes numbers only.
        let result = unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, on, 0, 0, 0) };
        if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    keep(1)?;
    change()?;
    let held = permitted().map_err(io::Error::other)?;
    set(held, held, 0).map_err(io::Error::other)?;
    keep(0)
}

fn permitted() -> Result<u64, PrivilegeError> {
    let header = Header { version: CAPABILITY_VERSION_3, pid: 0 };
    let mut sets = [Sets::default(); 2];
    // SAFETY: version 3 writes exactly two elements.
    let result = unsafe { libc::syscall(libc::SYS_capget, &header, sets.as_mut_ptr()) };
    check("read the capabilities", result)?;
    Ok(u64::from(sets[0].permitted) | u64::from(sets[1].permitted) << 32)
}

fn set(effective: u64, permitted: u64, inheritable: u64) -> Result<(), PrivilegeError> {
    let header = Header { version: CAPABILITY_VERSION_3, pid: 0 };
    let half = |shift: u32| Sets {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: (inheritable >> shift) as u32,
    };
    let sets = [half(0), half(32)];
    // SAFETY: version 3 reads exactly two elements.
    let result = unsafe { libc::syscall(libc::SYS_capset, &header, sets.as_ptr()) };
    check("set the capabilities", result)
}
