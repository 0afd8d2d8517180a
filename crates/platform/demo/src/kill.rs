//! Kills the processes of a container from outside, as an out-of-memory killer or a careless administrator would.

use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::DemoError;

/// Whether a process, by its cgroups, is one of a container.
fn belongs(cgroups: &str, container: &str) -> bool {
    cgroups.lines().any(|line| line.split(['/', ':']).any(|part| part.contains(container)))
}

/// Kills all processes of a container, which is known by its ID; says how many.
pub(crate) fn container(id: &str) -> Result<usize, DemoError> {
    let mut killed = 0;
    for process in std::fs::read_dir("/proc").map_err(DemoError::Kill)?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        // A process that ends meanwhile has no cgroups any more.
        let cgroups = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("cgroup")).unwrap_or_default();
        if belongs(&cgroups, id) {
            kill(Pid::from_raw(pid), Signal::SIGKILL).map_err(|e| DemoError::Kill(e.into()))?;
            killed += 1;
        }
    }
    Ok(killed)
}

#[cfg(test)]
mod tests {
    use super::belongs;

    #[test]
    fn a_process_belongs_to_the_container_that_its_cgroup_names() {
        let cgroups = "4:pids:/fram/burstable/pod1/abc123\n0::/\n";
        assert!(belongs(cgroups, "abc123") && !belongs(cgroups, "def456") && !belongs("0::/\n", "abc123"));
    }
}
