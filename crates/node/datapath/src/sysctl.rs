//! Kernel settings below /proc/sys/net, which always mean the calling thread's network namespace.

use std::fs;

use crate::netlink::NetlinkError;

/// Sets `/proc/sys/net/<name>` unless it has the value already: a read-only /proc/sys with the right value is fine.
pub fn set(name: &str, value: &str) -> Result<(), NetlinkError> {
    let path = format!("/proc/sys/net/{name}");
    if fs::read_to_string(&path).is_ok_and(|old| old.trim() == value) {
        return Ok(());
    }
    fs::write(&path, value).map_err(|source| NetlinkError::File { operation: "set", path, source })
}
