//! Making a container, or a process inside one, without another runtime: what the specification says becomes what the first process, or
//! one that joins it, is to do.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use fram_cri::ContainerUser;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use oci_spec::runtime::{Hook, LinuxNamespaceType, Process, Spec};
use serde_json::{Value, json};

use super::{CreateError, Joinable, Made, Report, Stdio, io_at, joining};
use crate::cgroup::Cgroups;
use crate::oci::run_hooks;
use crate::protocol::{Exec, IdRange, MountSource, StartContainer};
use crate::seccomp::Instruction;
use crate::shim::first::{CgroupMount, First, Hooks, Pids};
use crate::shim::join::{self, Target};
use crate::shim::process::{Command, Join, Listener, ProcessError, Said, line};
use crate::shim::{USERNS, devices};
use crate::spec::Privileges;

fn malformed(dir: &Path) -> impl FnOnce(serde_json::Error) -> CreateError {
    let path = dir.join("config.json");
    move |source| CreateError::Spec { path, source }
}

/// Limits are there before anything is that they limit. What they were made of is not needed any more.
pub(super) fn make_cgroup(spec: &mut Value, request: &StartContainer, cgroups: &Cgroups) -> Result<(), CreateError> {
    let resources = serde_json::from_value(spec["linux"]["resources"].take()).map_err(malformed(&request.dir))?;
    cgroups.create(&request.cgroup, &resources).map_err(io_at("make cgroup", Path::new(&request.cgroup)))
}

/// The first process' pid, and the master of its terminal.
pub(super) fn create(
    spec: Value,
    request: &StartContainer,
    cgroups: &Cgroups,
    pid_path: Option<&Path>,
    stdio: Stdio,
) -> Result<(i32, Option<OwnedFd>), CreateError> {
    let spec: Spec = serde_json::from_value(spec).map_err(malformed(&request.dir))?;
    fill_dev(&spec, request)?;
    let stages = Stages::of(&spec, request);
    let first = first(&spec, request, cgroups, pid_path, !stages.are_none())?;
    let (listener, line) = line().map_err(io_at("open a line to the process of", &request.dir))?;
    let (create, start) = (|| stages.run("createContainer", None), || stages.run("startContainer", None));
    let hooks = Hooks { before_pivot: &create, before_start: &start };
    let started = first.start(stdio, (!stages.are_none()).then_some(&hooks), line)?;
    let ready = |pid| stages.run("prestart", Some(pid)).and_then(|()| stages.run("createRuntime", Some(pid)));
    let heard = follow(&listener, started, ready).map_err(io_at("hear of the process of", &request.dir))??;
    stages.run("poststart", heard.pid)?;
    let pid = heard.pid.ok_or_else(|| CreateError::Container("the process that makes the container's died".into()))?;
    Ok((pid.as_raw(), heard.terminal))
}

pub(super) fn join(request: &Exec, container: &Joinable<'_>, stdio: Stdio) -> Result<Made, CreateError> {
    let dir = container.dir;
    let process: Process = serde_json::from_value(joining(request, dir)?).map_err(malformed(dir))?;
    let joins = request.ids.map(|ids| joined(&process, ids, dir)).transpose()?;
    let command = Command { joins, ..command(&process, request.privileges, &request.seccomp)? };
    let cgroup = container.cgroups.entrances(container.cgroup).map_err(io_at("join the cgroup of", dir))?;
    let target = Target { first: container.first.as_fd(), cgroup, cgroup_namespace: container.cgroups.is_v2() };
    let (listener, line) = line().map_err(io_at("open a line to a process in", dir))?;
    let pid = join::join(&target, &command, stdio, request.tty, line)?;
    let heard = follow(&listener, Some(pid), |_| Ok(())).map_err(io_at("hear of a process in", dir))??;
    Ok((Report::Running { pid: pid.as_raw(), user: ContainerUser::default(), warnings: Vec::new() }, heard.terminal))
}

/// A pod that brings its own /dev knows what is to be in it.
fn fill_dev(spec: &Spec, request: &StartContainer) -> Result<(), CreateError> {
    let is_ours = |source: &MountSource| matches!(source, MountSource::Filesystem { .. });
    if !request.mounts.iter().any(|mount| mount.destination == Path::new("/dev") && is_ours(&mount.source)) {
        return Ok(());
    }
    let given = spec.linux().as_ref().and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
    let target = &request.rootfs.target;
    let filled = File::open(target).and_then(|root| devices::populate(root.as_fd(), given));
    filled.map_err(io_at("make the devices of", target))
}

fn first(spec: &Spec, request: &StartContainer, cgroups: &Cgroups, pids: Option<&Path>, hooks: bool) -> Result<First, CreateError> {
    let missing = |what: &str| CreateError::Container(format!("the specification has no {what}"));
    let linux = spec.linux().as_ref().ok_or_else(|| missing("linux"))?;
    let root = spec.root().as_ref().ok_or_else(|| missing("root"))?;
    let process = spec.process().as_ref().ok_or_else(|| missing("process"))?;
    let has = |kind| linux.namespaces().iter().flatten().any(|namespace| namespace.typ() == kind);
    let pids = match pids {
        Some(path) => Pids::Joined(File::open(path).map_err(io_at("open", path))?),
        None if has(LinuxNamespaceType::Pid) => Pids::New,
        None => Pids::Inherited,
    };
    let mount = spec.mounts().iter().flatten().find(|mount| mount.typ().as_deref() == Some("cgroup"));
    let cgroup_mount = mount.map(|mount| CgroupMount {
        namespace: has(LinuxNamespaceType::Cgroup),
        readonly: mount.options().iter().flatten().any(|option| option == "ro"),
        source: cgroups.paths(&request.cgroup).next().unwrap_or_default(),
    });
    Ok(First {
        root: root.path().clone(),
        users: request.ids.map(|_| userns(&request.dir)).transpose()?,
        pids,
        cgroup: cgroups.entrances(&request.cgroup).map_err(io_at("enter cgroup", Path::new(&request.cgroup)))?,
        cgroup_mount,
        own_mounts: request.ids.is_some() || hooks,
        shared_root: linux.rootfs_propagation().as_deref() == Some("shared"),
        readonly_root: root.readonly().unwrap_or(false),
        readonly_paths: linux.readonly_paths().clone().unwrap_or_default(),
        masked_paths: linux.masked_paths().clone().unwrap_or_default(),
        terminal: request.tty,
        command: command(process, request.privileges, &request.seccomp)?,
    })
}

fn command(process: &Process, privileges: Privileges, filter: &[Instruction]) -> Result<Command, CreateError> {
    let texts = |list: &Option<Vec<String>>| list.iter().flatten().map(|text| CString::new(text.as_str())).collect::<Result<Vec<_>, _>>();
    let zero = |what: &'static str| move |_| CreateError::Container(format!("{what} holds a zero byte"));
    let user = process.user();
    Ok(Command {
        args: texts(process.args()).map_err(zero("an argument"))?,
        environment: texts(process.env()).map_err(zero("a variable"))?,
        cwd: process.cwd().clone(),
        uid: user.uid(),
        gid: user.gid(),
        groups: user.additional_gids().clone().unwrap_or_default(),
        privileges,
        filter: filter.to_vec(),
        joins: None,
    })
}

/// The sandbox's user namespace; a container's directory is two below its sandbox's.
fn userns(dir: &Path) -> Result<File, CreateError> {
    let path = dir.ancestors().nth(2).unwrap_or(dir).join(USERNS);
    File::open(&path).map_err(io_at("open", &path))
}

/// A process that joins a user namespace comes as the node's root, and becomes who it is to be inside.
fn joined(process: &Process, ids: IdRange, dir: &Path) -> Result<Join, CreateError> {
    let user = process.user();
    Ok(Join {
        namespace: userns(dir)?,
        owner: ids.uid.checked_add(user.uid()),
        uid: user.uid(),
        gid: user.gid(),
        groups: user.additional_gids().clone().unwrap_or_default(),
        keeps: true,
    })
}

/// What a process has told until it became its command.
struct Heard {
    pid: Option<Pid>,
    terminal: Option<OwnedFd>,
}

/// Listens until the process has become its command, or why it has not. `ready` is what it waits for.
fn follow(
    listener: &Listener,
    pid: Option<Pid>,
    ready: impl Fn(Pid) -> Result<(), ProcessError>,
) -> io::Result<Result<Heard, CreateError>> {
    let mut heard = Heard { pid, terminal: None };
    let mut waits = false;
    loop {
        match listener.hear()? {
            Said::Failed(message) => return Ok(Err(CreateError::Container(message))),
            Said::Terminal(terminal) => heard.terminal = Some(terminal),
            Said::Pid(pid) => heard.pid = Some(pid),
            Said::Ready => waits = true,
            Said::Closed => return Ok(Ok(heard)),
        }
        if let Some(pid) = heard.pid.filter(|_| waits) {
            waits = false;
            if let Err(error) = ready(pid) {
                // It would wait for ever. One that has ended is what is wanted.
                let _ = kill(pid, Signal::SIGKILL);
                return Ok(Err(error.into()));
            }
            listener.go_on()?;
        }
    }
}

/// The hooks of a container, which devices bring along.
struct Stages {
    stages: Vec<(&'static str, Vec<Hook>)>,
    state: Value,
    /// What hooks in the container have where they say nothing else.
    environment: BTreeMap<String, String>,
}

impl Stages {
    fn of(spec: &Spec, request: &StartContainer) -> Stages {
        let hooks = spec.hooks().clone().unwrap_or_default();
        let stages = [
            ("prestart", hooks.prestart()),
            ("createRuntime", hooks.create_runtime()),
            ("createContainer", hooks.create_container()),
            ("startContainer", hooks.start_container()),
            ("poststart", hooks.poststart()),
        ];
        let given = stages.into_iter().filter_map(|(name, hooks)| Some((name, hooks.clone()?)));
        let environment = spec.process().as_ref().and_then(|process| process.env().as_deref()).unwrap_or_default();
        let variable = |text: &String| text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        Stages {
            stages: given.filter(|(_, hooks)| !hooks.is_empty()).collect(),
            state: json!({ "ociVersion": spec.version(), "id": request.container_id, "bundle": request.dir }),
            environment: environment.iter().filter_map(variable).collect(),
        }
    }

    fn are_none(&self) -> bool {
        self.stages.is_empty()
    }

    /// Without a pid it is that of the calling process.
    fn run(&self, stage: &str, pid: Option<Pid>) -> Result<(), ProcessError> {
        let Some((_, hooks)) = self.stages.iter().find(|(name, _)| *name == stage) else { return Ok(()) };
        let mut state = self.state.clone();
        state["pid"] = pid.unwrap_or_else(nix::unistd::getpid).as_raw().into();
        state["status"] = match stage {
            "poststart" => "running",
            // From the second step of the lifecycle on, before any hook; see OCI runtime-spec's runtime.md, "State".
            _ => "created",
        }
        .into();
        let environment = if stage == "startContainer" { self.environment.clone() } else { BTreeMap::new() };
        run_hooks(stage, hooks, &state, None, &environment).map_err(|error| ProcessError::Hook(error.to_string()))
    }
}
