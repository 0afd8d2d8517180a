//! Kills the processes of a container from outside, as an out-of-memory killer or a careless administrator would. It needs to
//! be root of the machine on which they run.

use std::path::Path;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::DemoError;

/// How many hexadecimal digits the ID of a container has.
const ID: usize = 64;

/// Whether a text is a whole ID: by less, processes would be killed that belong to nobody here.
fn is_id(text: &str) -> bool {
    text.len() == ID && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Whether a process, by its cgroups, is one of a container.
fn belongs(cgroups: &str, container: &str) -> bool {
    cgroups.lines().any(|line| line.split('/').any(|part| part == container))
}

/// Kills all processes of a container, which is known by its ID; says how many.
pub(crate) fn container(id: &str) -> Result<usize, DemoError> {
    if !is_id(id) {
        return Err(DemoError::Unexpected(format!("{id:?} is no container's ID")));
    }
    let mut killed = 0;
    for process in std::fs::read_dir("/proc").map_err(DemoError::Kill)?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        // A process that ends meanwhile has no cgroups any more.
        let cgroups = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("cgroup")).unwrap_or_default();
        if belongs(&cgroups, id) {
            match kill(Pid::from_raw(pid), Signal::SIGKILL) {
                // The first that was killed may have taken it along.
                Ok(()) | Err(Errno::ESRCH) => killed += 1,
                Err(error) => return Err(DemoError::Kill(error.into())),
            }
        }
    }
    Ok(killed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_belongs_to_the_container_that_its_cgroup_names() {
        let id = "ab".repeat(32);
        let cgroups = format!("4:pids:/fram/burstable/pod1/{id}\n0::/\n");
        assert!(belongs(&cgroups, &id) && belongs(&format!("0::/fram/{id}/below\n"), &id));
        assert!(!belongs(&cgroups, &id[1..]) && !belongs("0::/\n", &id) && !belongs(&format!("0::/x{id}\n"), &id));
    }

    #[test]
    fn nothing_is_killed_for_less_than_a_whole_id() {
        assert!(is_id(&"0f".repeat(32)));
        for text in ["", "ab", &"0f".repeat(31), &"xy".repeat(32)] {
            assert!(!is_id(text) && container(text).is_err(), "{text:?}");
        }
    }
}
