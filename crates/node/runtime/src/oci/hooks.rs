//! Hooks of a bundle: each is told the state on its standard input, and has its time. libcontainer runs what comes before the
//! container's process exists to the user, in the right namespaces and at the right moment, but knows a bundle that is not the user's; so
//! it is given one hook, this program, which runs those that the user wrote.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oci_spec::runtime::Hook;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{OciError, system};

/// What the hook that libcontainer is given carries.
const PLAN: &str = "FRAM_OCI_HOOKS";
/// The word that makes this program that hook.
pub(super) const COMMAND: &str = "run-hooks";

#[derive(Serialize, Deserialize)]
struct Plan {
    bundle: PathBuf,
    stages: Vec<(String, Vec<Hook>)>,
    /// Where they begin; where the container is being made that is not the runtime's place.
    enter: bool,
}

/// One hook in place of those of `stages`, for the specification that libcontainer reads; none where there are none.
pub(super) fn standing_for(stages: &[(&str, Option<&Vec<Hook>>)], bundle: &Path, enter: bool) -> Option<Value> {
    let named = |(name, hooks): &(&str, Option<&Vec<Hook>>)| hooks.map(|hooks| ((*name).to_owned(), hooks.clone()));
    let stages: Vec<(String, Vec<Hook>)> = stages.iter().filter_map(named).filter(|(_, hooks)| !hooks.is_empty()).collect();
    if stages.is_empty() {
        return None;
    }
    let plan = serde_json::to_string(&Plan { bundle: bundle.to_path_buf(), stages, enter }).ok()?;
    Some(json!([{ "path": "/proc/self/exe", "args": ["fram", "oci", COMMAND], "env": [format!("{PLAN}={plan}")] }]))
}

/// What that hook does.
pub(super) fn run_planned() -> Result<(), OciError> {
    let plan = std::env::var(PLAN).map_err(|_| OciError::Unsupported("this is for the runtime itself"))?;
    let malformed = |source| OciError::Malformed { path: PLAN.into(), source };
    let plan: Plan = serde_json::from_str(&plan).map_err(malformed)?;
    let mut text = String::new();
    io::stdin().read_to_string(&mut text).map_err(system("read the state"))?;
    let mut state: Value = serde_json::from_str(&text).map_err(malformed)?;
    state["bundle"] = json!(plan.bundle);
    // Hooks come after the second step of the lifecycle, from which on a container is created; libcontainer calls it creating until then.
    state["status"] = json!("created");
    for (stage, hooks) in &plan.stages {
        run(stage, hooks, &state, plan.enter.then_some(plan.bundle.as_path()), &BTreeMap::new())?;
    }
    Ok(())
}

/// Runs hooks one after the other; the first that fails ends it.
pub(crate) fn run(
    stage: &str,
    hooks: &[Hook],
    state: &Value,
    directory: Option<&Path>,
    environment: &BTreeMap<String, String>,
) -> Result<(), OciError> {
    hooks.iter().try_for_each(|hook| run_one(stage, hook, state, directory, environment))
}

fn run_one(
    stage: &str,
    hook: &Hook,
    state: &Value,
    directory: Option<&Path>,
    environment: &BTreeMap<String, String>,
) -> Result<(), OciError> {
    let failed = |reason: String| OciError::Hook { stage: stage.to_owned(), path: hook.path().clone(), reason };
    let mut command = Command::new(hook.path());
    if let Some((name, args)) = hook.args().as_deref().and_then(<[String]>::split_first) {
        command.arg0(name).args(args);
    }
    command.env_clear();
    match hook.env() {
        Some(variables) => command.envs(variables.iter().filter_map(|variable| variable.split_once('='))),
        None => command.envs(environment),
    };
    if let Some(directory) = directory {
        command.current_dir(directory);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::inherit());
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    if let Some(mut input) = child.stdin.take() {
        // One that ends without reading has not failed by that.
        let _ = input.write_all(state.to_string().as_bytes());
    }
    let status = wait(&mut child, hook.timeout()).map_err(|error| failed(error.to_string()))?;
    match status {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(failed(status.to_string())),
        None => Err(failed(format!("has not ended within {} s", hook.timeout().unwrap_or_default()))),
    }
}

/// `None` when the time was over, and the child was killed.
fn wait(child: &mut Child, timeout: Option<i64>) -> io::Result<Option<ExitStatus>> {
    let Some(seconds) = timeout.filter(|seconds| *seconds > 0) else { return child.wait().map(Some) };
    let milliseconds = i32::try_from(seconds.saturating_mul(1000)).unwrap_or(i32::MAX);
    if ended_within(&open_process(child.id() as i32)?, milliseconds)? {
        return child.wait().map(Some);
    }
    child.kill()?;
    child.wait().map(|_| None)
}

/// A descriptor that becomes readable when the process ends (pidfd_open(2)).
pub(super) fn open_process(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

pub(super) fn ended_within(process: &OwnedFd, milliseconds: i32) -> io::Result<bool> {
    let mut fds = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX);
    loop {
        match poll(&mut fds, timeout) {
            Err(nix::Error::EINTR) => {}
            polled => return Ok(polled? > 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(json: Value) -> Hook {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_hook_is_told_the_state_and_has_the_environment_that_it_names() {
        let directory = tempfile::tempdir().unwrap();
        let script = "cat > state; echo \"$A-$HOME\" > env";
        let it = hook(json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["A=b"] }));
        run("prestart", &[it], &json!({ "id": "x" }), Some(directory.path()), &BTreeMap::new()).unwrap();
        let read = |name| std::fs::read_to_string(directory.path().join(name)).unwrap();
        assert_eq!((read("state"), read("env")), ("{\"id\":\"x\"}".to_owned(), "b-\n".to_owned()));
    }

    #[test]
    fn a_hook_that_fails_or_takes_too_long_is_named_and_ends_the_rest() {
        let false_one = hook(json!({ "path": "/bin/false" }));
        let error = run("poststop", &[false_one], &json!({}), None, &BTreeMap::new()).unwrap_err();
        assert_eq!(error.to_string(), "poststop hook \"/bin/false\": exit status: 1");
        let slow = hook(json!({ "path": "/bin/sleep", "args": ["sleep", "600"], "timeout": 1 }));
        let error = run("poststop", &[slow], &json!({}), None, &BTreeMap::new()).unwrap_err();
        assert!(error.to_string().ends_with("has not ended within 1 s"), "{error}");
        let none = hook(json!({ "path": "/nonexistent" }));
        assert!(run("poststop", &[none], &json!({}), None, &BTreeMap::new()).is_err());
    }
}
