//! A further process in a container that runs.

use std::fs;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, pipe2};
use serde_json::{Value, json};

use super::bundle::{self, Confinement};
use super::create::{check_terminal, kept, write_pid};
use super::executor::OciExecutor;
use super::record::{Containers, Record, Status};
use super::words::Handed;
use super::{OciError, at, chain, system};
use crate::shim::Join;
use crate::spec::capability_bits;

#[derive(Clone, Debug, Default)]
pub(super) struct Execution {
    /// A file with the whole process; the rest changes that of the container instead.
    pub(super) process: Option<PathBuf>,
    pub(super) args: Vec<String>,
    pub(super) cwd: Option<String>,
    pub(super) env: Vec<String>,
    pub(super) tty: bool,
    /// `UID[:GID]`
    pub(super) user: Option<String>,
    pub(super) additional_gids: Vec<u32>,
    pub(super) capabilities: Vec<String>,
    pub(super) no_new_privs: bool,
    pub(super) ignore_paused: bool,
    pub(super) handed: Handed,
}

/// Gives the pid, of a child of the calling process.
pub(super) fn exec(containers: &Containers, id: &str, execution: &Execution) -> Result<i32, OciError> {
    let record = containers.load(id)?;
    match record.status() {
        Status::Running => {}
        Status::Paused if execution.ignore_paused => {}
        Status::Paused => return Err(OciError::State("cannot exec in a paused container (use --ignore-paused to override)".into())),
        Status::Stopped => return Err(OciError::State("cannot exec in a stopped container".into())),
        _ => return Err(OciError::NotRunning),
    }
    let process = process(&record, execution)?;
    check_terminal(&process, execution.handed.console_socket.as_deref())?;
    let directory = containers.directory(id)?;
    // libcontainer leaves a socket behind for each process, under the directory where it looks for the container's state: so it gets a
    // directory of its own, with a link to the state.
    let scratch = directory.join(format!("exec-{}", std::process::id()));
    let joined = join(&record, process, &directory, &scratch, execution);
    // What is left of it goes with the container at the latest.
    let _ = fs::remove_dir_all(&scratch);
    let pid = joined?;
    if let Err(error) = execution.handed.pid_file.as_deref().map_or(Ok(()), |path| write_pid(path, pid)) {
        abandon(pid);
        return Err(error);
    }
    Ok(pid)
}

/// Ends a child of which the caller is not told.
pub(super) fn abandon(pid: i32) {
    // One that has ended is what is wanted.
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    let _ = waitpid(Pid::from_raw(pid), None);
}

fn join(record: &Record, mut process: Value, directory: &Path, scratch: &Path, execution: &Execution) -> Result<i32, OciError> {
    let confinement = confinement(record, &process)?;
    bundle::strip(&mut process);
    let joins = if record.given.own_users { Some(joined(&mut process, record.pid, confinement.capabilities.is_some())?) } else { None };
    let state = scratch.join(&record.id);
    fs::create_dir_all(&state).map_err(at("create", &state))?;
    let original = kept(directory, &record.id).join("state.json");
    std::os::unix::fs::symlink(original, state.join("state.json")).map_err(at("link the state in", &state))?;
    let path = scratch.join("process.json");
    fs::write(&path, process.to_string()).map_err(at("write", &path))?;
    let (reading, writing) = pipe2(OFlag::O_CLOEXEC).map_err(system("open a pipe"))?;
    let executor = OciExecutor { confinement, failure: writing.as_raw_fd(), start_hooks: Vec::new(), state: Value::Null, joins };
    let built = ContainerBuilder::new(record.id.clone(), SyscallType::default())
        .with_root_path(scratch)
        .map_err(|error| chain(&error))?
        .with_console_socket(execution.handed.console_socket.clone())
        .with_preserved_fds(execution.handed.preserve_fds)
        .with_executor(executor)
        .as_tenant()
        .with_detach(true)
        .with_ignore_paused(execution.ignore_paused)
        .with_process(Some(path))
        .build();
    drop(writing);
    let mut reason = String::new();
    fs::File::from(reading).read_to_string(&mut reason).map_err(system("hear of the process"))?;
    // libcontainer has its own message for a failed execve; the executor's is the better one.
    match (reason.is_empty(), built) {
        (true, built) => built.map(|pid| pid.as_raw()).map_err(|error| chain(&error)),
        (false, _) => Err(OciError::Container(reason)),
    }
}

/// A process that joins a user namespace comes as the machine's root, and becomes who it is to be inside.
fn joined(process: &mut Value, init: i32, keeps: bool) -> Result<Arc<Join>, OciError> {
    let path = PathBuf::from(format!("/proc/{init}/ns/user"));
    let namespace = fs::File::open(&path).map_err(at("open", &path))?;
    let path = PathBuf::from(format!("/proc/{init}/uid_map"));
    let map = fs::read_to_string(&path).map_err(at("read", &path))?;
    let user = std::mem::replace(&mut process["user"], json!({ "uid": 0, "gid": 0 }));
    let number = |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
    let groups = user["additionalGids"].as_array().into_iter().flatten().filter_map(number).collect();
    let (uid, gid) = (number(&user["uid"]).unwrap_or(0), number(&user["gid"]).unwrap_or(0));
    Ok(Arc::new(Join { namespace, owner: outside(&map, uid), uid, gid, groups, keeps }))
}

/// Whom a user of a namespace is outside of it, by its uid_map(5).
fn outside(map: &str, uid: u32) -> Option<u32> {
    map.lines().find_map(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u32>);
        let (first, base, length) = (numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?);
        uid.checked_sub(first).filter(|offset| *offset < length).and_then(|offset| base.checked_add(offset))
    })
}

/// The filter is the container's; rights are the process' own.
fn confinement(record: &Record, process: &Value) -> Result<Confinement, OciError> {
    let own = bundle::confinement(process)?;
    let Confinement { filter, filter_flags, .. } = record.given.confinement.clone();
    Ok(Confinement { filter, filter_flags, ..own })
}

/// The process as the runtime specification has it.
fn process(record: &Record, execution: &Execution) -> Result<Value, OciError> {
    if let Some(path) = &execution.process {
        let json = fs::read(path).map_err(at("read", path))?;
        return serde_json::from_slice(&json).map_err(|source| OciError::Malformed { path: path.clone(), source });
    }
    changed(record.given.process.clone(), execution)
}

/// That of the container with what the command line says. Pure.
fn changed(mut process: Value, execution: &Execution) -> Result<Value, OciError> {
    if execution.args.is_empty() {
        return Err(OciError::Unsupported("a command is needed, or --process"));
    }
    process["args"] = json!(execution.args);
    process["terminal"] = json!(execution.tty);
    if let Some(cwd) = &execution.cwd {
        process["cwd"] = json!(cwd);
    }
    if let Some(user) = &execution.user {
        process["user"] = parse_user(user)?;
    }
    if !execution.additional_gids.is_empty() {
        process["user"]["additionalGids"] = json!(execution.additional_gids);
    }
    if execution.no_new_privs {
        process["noNewPrivileges"] = json!(true);
    }
    let names = |names: &Value| names.as_array().into_iter().flatten().filter_map(|n| n.as_str().map(str::to_owned)).collect::<Vec<_>>();
    // A later variable is the one that counts.
    let mut env = names(&process["env"]);
    env.retain(|old| !execution.env.iter().any(|new| new.split('=').next() == old.split('=').next()));
    env.extend(execution.env.iter().cloned());
    process["env"] = json!(env);
    capability_bits(&execution.capabilities).map_err(|error| OciError::Spec(error.to_string()))?;
    for set in ["bounding", "effective", "permitted"] {
        if !execution.capabilities.is_empty() {
            let mut all = names(&process["capabilities"][set]);
            all.extend(execution.capabilities.iter().cloned());
            process["capabilities"][set] = json!(all);
        }
    }
    Ok(process)
}

fn parse_user(text: &str) -> Result<Value, OciError> {
    let wrong = || OciError::Spec(format!("user {text:?} is not UID[:GID]"));
    let number = |text: &str| text.parse::<u32>().map_err(|_| wrong());
    let (uid, gid) = text.split_once(':').unwrap_or((text, "0"));
    Ok(json!({ "uid": number(uid)?, "gid": number(gid)? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_of_a_namespace_are_others_outside_of_it() {
        let map = "         0     100000       1000\n      2000         50          1\n";
        for (uid, expect) in [(0, Some(100_000)), (999, Some(100_999)), (1000, None), (2000, Some(50)), (2001, None)] {
            assert_eq!(outside(map, uid), expect, "{uid}");
        }
    }

    #[test]
    fn a_further_process_is_like_the_first_but_for_what_is_said() {
        let first = json!({
            "args": ["a"], "cwd": "/", "env": ["A=1", "B=2"], "user": { "uid": 1, "gid": 1 }, "terminal": true,
            "capabilities": { "bounding": ["CAP_KILL"] },
        });
        let execution = Execution {
            args: vec!["b".into()],
            env: vec!["A=3".into()],
            user: Some("5:6".into()),
            capabilities: vec!["CAP_CHOWN".into()],
            additional_gids: vec![7],
            ..Execution::default()
        };
        let expect = json!({
            "args": ["b"], "cwd": "/", "env": ["B=2", "A=3"], "user": { "uid": 5, "gid": 6, "additionalGids": [7] }, "terminal": false,
            "capabilities": { "bounding": ["CAP_KILL", "CAP_CHOWN"], "effective": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"] },
        });
        assert_eq!(changed(first.clone(), &execution).unwrap(), expect);
        assert!(changed(first.clone(), &Execution::default()).is_err());
        let named = Execution { user: Some("root".into()), ..execution };
        assert!(changed(first, &named).is_err());
    }
}
