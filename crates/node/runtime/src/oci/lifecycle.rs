//! What happens to a container that is there: start, signals, pause, and its end with all that it leaves.

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use fram_cri::LinuxContainerResources;
use libcontainer::container::Container;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::create::{kept, line};
use super::record::{Containers, Record, Status};
use super::{OciError, at, chain, hooks, system};
use crate::cgroup::{Cgroups, send};

/// How long a killed process may take to be gone, as runc waits.
const END: i32 = 10_000;

pub(super) fn cgroups() -> Result<Cgroups, OciError> {
    Cgroups::detect(Path::new("/sys/fs/cgroup")).map_err(system("find the cgroups"))
}

/// What is to be told and is no failure.
pub(super) type Warnings = Vec<String>;

/// Returns when the container's process has become its command, or with the reason why it has not.
pub(super) fn start(containers: &Containers, id: &str) -> Result<Warnings, OciError> {
    let _lock = containers.lock(id)?;
    let mut record = containers.load(id)?;
    match record.status() {
        Status::Created => {}
        Status::Stopped => return Err(OciError::State("cannot start a container that has stopped".into())),
        status => return Err(OciError::State(format!("cannot start a container in the {} state", status.name()))),
    }
    let directory = containers.directory(id)?;
    let path = line(&directory);
    let mut failure = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path).map_err(at("open", &path))?;
    let mut container = Container::load(kept(&directory, id)).map_err(|error| chain(&error))?;
    container.start().map_err(|error| chain(&error))?;
    fcntl(failure.as_fd(), FcntlArg::F_SETFL(OFlag::empty())).map_err(system("wait for the process"))?;
    let mut reason = String::new();
    failure.read_to_string(&mut reason).map_err(at("read", &path))?;
    if !reason.is_empty() {
        return Err(OciError::Container(reason));
    }
    record.started = true;
    containers.save(&record)?;
    // As the specification has it: a failure is told, and everything goes on.
    let given = record.given.hooks.as_ref().and_then(|hooks| hooks.poststart().clone()).unwrap_or_default();
    Ok(run_all("poststart", &given, &record, Status::Running))
}

/// Runs each of the hooks, whatever the others did.
fn run_all(stage: &str, given: &[oci_spec::runtime::Hook], record: &Record, status: Status) -> Warnings {
    let state = record.state(status);
    // The bundle may be gone already.
    let place = Some(record.given.directory.as_path()).filter(|bundle| bundle.is_dir());
    let run = |hook: &oci_spec::runtime::Hook| hooks::run(stage, std::slice::from_ref(hook), &state, place, &Default::default());
    given.iter().filter_map(|hook| run(hook).err()).map(|error| error.to_string()).collect()
}

/// The record of a container that has got as far as having a cgroup: the name of none is that of the root of each hierarchy.
fn load_placed(containers: &Containers, id: &str) -> Result<Record, OciError> {
    let record = containers.load(id)?;
    if record.given.cgroup.is_empty() { Err(OciError::NotRunning) } else { Ok(record) }
}

pub(super) fn signal(containers: &Containers, id: &str, signal: i32, all: bool) -> Result<(), OciError> {
    let record = load_placed(containers, id)?;
    let status = record.status();
    let living = !matches!(status, Status::Stopped | Status::Creating);
    if !living && !all {
        return Err(OciError::NotRunning);
    }
    // Who shares the pids of others leaves its children behind when it is killed.
    if all || (signal == libc::SIGKILL && !record.given.own_pids) {
        cgroups()?.signal(&record.given.cgroup, signal);
    } else if let Err(error) = send(record.pid, signal) {
        return Err(if error.raw_os_error() == Some(libc::ESRCH) { OciError::NotRunning } else { system("kill the process")(error) });
    }
    if status == Status::Paused && signal == libc::SIGKILL {
        // Version 2 lets a frozen process die, which then is not paused any more.
        if let Err(error) = resume(containers, id)
            && containers.load(id)?.status() != Status::Stopped
        {
            return Err(error);
        }
    }
    Ok(())
}

pub(super) fn pause(containers: &Containers, id: &str) -> Result<(), OciError> {
    freeze(containers, id, true)
}

pub(super) fn resume(containers: &Containers, id: &str) -> Result<(), OciError> {
    freeze(containers, id, false)
}

fn freeze(containers: &Containers, id: &str, on: bool) -> Result<(), OciError> {
    let _lock = containers.lock(id)?;
    let mut record = containers.load(id)?;
    match (record.status(), on) {
        (Status::Running | Status::Created, true) | (Status::Paused, false) => {}
        (_, true) => return Err(OciError::State("container not running".into())),
        (_, false) => return Err(OciError::State("container not paused".into())),
    }
    let mut container = Container::load(kept(&containers.directory(id)?, id)).map_err(|error| chain(&error))?;
    if on { container.pause() } else { container.resume() }.map_err(|error| chain(&error))?;
    record.paused = on;
    containers.save(&record)
}

pub(super) fn update(containers: &Containers, id: &str, resources: &LinuxContainerResources) -> Result<(), OciError> {
    let record = load_placed(containers, id)?;
    if record.status() == Status::Stopped {
        return Err(OciError::NotRunning);
    }
    cgroups()?.update(&record.given.cgroup, resources).map_err(system("change the limits"))
}

/// The runtime specification's resources as far as limits of a container that runs can be changed.
pub(super) fn resources(given: &Value) -> LinuxContainerResources {
    let number = |group: &str, field: &str| given[group][field].as_i64().unwrap_or(0);
    let text = |field: &str| given["cpu"][field].as_str().unwrap_or_default().to_owned();
    let unified = given["unified"].as_object().into_iter().flatten();
    LinuxContainerResources {
        cpu_period: number("cpu", "period"),
        cpu_quota: number("cpu", "quota"),
        cpu_shares: number("cpu", "shares"),
        memory_limit_in_bytes: number("memory", "limit"),
        memory_swap_limit_in_bytes: number("memory", "swap"),
        cpuset_cpus: text("cpus"),
        cpuset_mems: text("mems"),
        pids_limit: number("pids", "limit"),
        unified: unified.filter_map(|(file, value)| Some((file.clone(), value.as_str()?.to_owned()))).collect(),
        ..LinuxContainerResources::default()
    }
}

/// `force` ends what runs, and finds nothing wrong with a container that is not there.
pub(super) fn delete(containers: &Containers, id: &str, force: bool) -> Result<Warnings, OciError> {
    let _lock = match containers.lock(id) {
        Err(OciError::NotFound) if force => return Ok(Warnings::new()),
        lock => lock?,
    };
    let record = match containers.load(id) {
        Err(OciError::NotFound) if force => return Ok(Warnings::new()),
        record => record?,
    };
    let status = record.status();
    if !matches!(status, Status::Stopped | Status::Created) && !force {
        return Err(OciError::State(format!("cannot delete container {id} that is not stopped: {}", status.name())));
    }
    let directory = containers.directory(id)?;
    if status == Status::Paused {
        // A frozen process does not even die.
        let container = Container::load(kept(&directory, id)).and_then(|mut container| container.resume());
        container.map_err(|error| chain(&error))?;
    }
    end(&record)?;
    let given = record.given.hooks.as_ref().and_then(|hooks| hooks.poststop().clone()).unwrap_or_default();
    remove(&record.given.cgroup, &directory)?;
    Ok(run_all("poststop", &given, &record, Status::Stopped))
}

/// Kills what is left, and waits until the first process is gone.
fn end(record: &Record) -> Result<(), OciError> {
    let cgroups = cgroups()?;
    let living = !matches!(record.status(), Status::Stopped | Status::Creating);
    let process = if living { hooks::open_process(record.pid).ok() } else { None };
    if living {
        // Gone meanwhile is what was wanted.
        let _ = kill(Pid::from_raw(record.pid), Signal::SIGKILL);
    }
    if !record.given.cgroup.is_empty() {
        cgroups.kill(&record.given.cgroup);
    }
    match process {
        Some(process) if !hooks::ended_within(&process, END).map_err(system("wait for the process"))? => {
            Err(OciError::State(format!("process {} does not end", record.pid)))
        }
        _ => Ok(()),
    }
}

fn remove(cgroup: &str, directory: &Path) -> Result<(), OciError> {
    if !cgroup.is_empty() {
        let cgroups = cgroups()?;
        wait_for_processes(&cgroups, cgroup);
        cgroups.remove(cgroup).map_err(at("remove the cgroup", Path::new(cgroup)))?;
    }
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at("remove", directory)(error)),
        _ => Ok(()),
    }
}

/// Children of the first process end with it or a moment later, and a cgroup holds them until they have.
fn wait_for_processes(cgroups: &Cgroups, cgroup: &str) {
    for pid in cgroups.processes(cgroup) {
        if let Ok(process) = hooks::open_process(pid) {
            let _ = hooks::ended_within(&process, END);
        }
    }
}

/// After a creation that failed.
pub(super) fn clean_up(cgroup: &str, directory: &Path) {
    if let Ok(cgroups) = cgroups() {
        cgroups.kill(cgroup);
    }
    // What cannot be removed now is removed by `delete --force`; the reason of the failure is what the user is to be told.
    let _ = remove(cgroup, directory);
}

/// Of the processes in a container, as the machine numbers them.
pub(super) fn processes(containers: &Containers, id: &str) -> Result<Vec<i32>, OciError> {
    let record = load_placed(containers, id)?;
    Ok(cgroups()?.processes(&record.given.cgroup))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_from_where_the_specification_has_them() {
        let given = serde_json::json!({
            "cpu": { "quota": 5000, "period": 100_000, "shares": 2, "cpus": "0" },
            "memory": { "limit": 1 << 20, "swap": -1 },
            "pids": { "limit": 7 },
            "unified": { "memory.high": "1M" },
        });
        let read = resources(&given);
        assert_eq!((read.cpu_quota, read.cpu_period, read.cpu_shares, read.cpuset_cpus.as_str()), (5000, 100_000, 2, "0"));
        assert_eq!((read.memory_limit_in_bytes, read.memory_swap_limit_in_bytes, read.pids_limit), (1 << 20, -1, 7));
        assert_eq!(read.unified["memory.high"], "1M");
        assert_eq!(resources(&serde_json::json!({})), LinuxContainerResources::default());
    }
}
