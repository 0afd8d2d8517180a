//! Making a container of a bundle: by libcontainer, whose own record of it is below the container's directory.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use nix::sys::stat::Mode;
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::mkfifo;
use oci_spec::runtime::LinuxDeviceCgroup;
use serde::Deserialize;
use serde_json::Value;

use super::bundle::{self, Bundle};
use super::executor::OciExecutor;
use super::record::{Containers, Record, Status, start_time};
use super::words::Handed;
use super::{OciError, at, chain, copy_up, lifecycle, system};
use crate::shim::rootfs::{make_directory_in_root, remove_nodes_in_root};
use crate::shim::{clock, mount};

/// Inside a container's directory: what libcontainer reads and keeps, and on what line a process says why it could not be executed.
const BUNDLE: &str = "bundle";
const KEPT: &str = "libcontainer";
const LINE: &str = "failure";

#[derive(Clone, Debug, Default)]
pub(super) struct Creation {
    pub(super) bundle: PathBuf,
    pub(super) handed: Handed,
    pub(super) no_pivot: bool,
}

/// libcontainer's own directory of a container.
pub(super) fn kept(directory: &Path, id: &str) -> PathBuf {
    directory.join(KEPT).join(id)
}

pub(super) fn line(directory: &Path) -> PathBuf {
    directory.join(LINE)
}

/// When it fails nothing is left. As with runc the cgroup may be there, but not with processes of others, who would be killed with it.
pub(super) fn create(containers: &Containers, id: &str, creation: &Creation) -> Result<(), OciError> {
    let bundle = bundle::read(&creation.bundle, id)?;
    check_terminal(&bundle.given.process, creation.handed.console_socket.as_deref())?;
    // Of an id that is taken the better message is `claim`'s.
    if matches!(containers.load(id), Err(OciError::NotFound)) && lifecycle::cgroups()?.is_occupied(&bundle.given.cgroup) {
        return Err(OciError::State(format!("container's cgroup is not empty: {}", bundle.given.cgroup)));
    }
    let directory = containers.claim(id)?;
    let _lock = containers.lock(id)?;
    let made = make(containers, id, &directory, &bundle, creation);
    if made.is_err() {
        lifecycle::clean_up(&bundle.given.cgroup, &directory);
    }
    made
}

pub(super) fn check_terminal(process: &Value, socket: Option<&Path>) -> Result<(), OciError> {
    match (process["terminal"].as_bool().unwrap_or(false), socket) {
        (true, None) => Err(OciError::Unsupported("cannot allocate a terminal without --console-socket")),
        (false, Some(_)) => Err(OciError::Unsupported("cannot use --console-socket where the process has no terminal")),
        _ => Ok(()),
    }
}

fn make(containers: &Containers, id: &str, directory: &Path, bundle: &Bundle, creation: &Creation) -> Result<(), OciError> {
    let given = bundle.given.clone();
    let mut record = Record { id: id.to_owned(), created: clock::rfc3339_nano(clock::now()), given, ..Record::default() };
    containers.save(&record)?;
    make_working_directory(bundle)?;
    make_room_in_dev(containers, id, bundle)?;
    let place = directory.join(BUNDLE);
    fs::create_dir(&place).map_err(at("create", &place))?;
    let config = place.join("config.json");
    fs::write(&config, bundle.specification.to_string()).map_err(at("write", &config))?;
    let line = failure_line(directory)?;
    let start_hooks = record.given.hooks.as_ref().and_then(|hooks| hooks.start_container().clone()).unwrap_or_default();
    let executor = OciExecutor {
        confinement: record.given.confinement.clone(),
        failure: line.as_raw_fd(),
        start_hooks,
        state: record.state(Status::Created),
        joins: None,
    };
    // Hooks, and what the bundle names from where it is, expect that.
    std::env::set_current_dir(&bundle.given.directory).map_err(at("enter", &bundle.given.directory))?;
    let container = ContainerBuilder::new(id.to_owned(), SyscallType::default())
        .with_root_path(directory.join(KEPT))
        .map_err(|error| chain(&error))?
        .with_console_socket(creation.handed.console_socket.clone())
        .with_preserved_fds(creation.handed.preserve_fds)
        .with_executor(executor)
        .as_init(place)
        .with_systemd(false)
        .with_no_pivot(creation.no_pivot)
        .build()
        .map_err(|error| reason(&line).unwrap_or_else(|| chain(&error)))?;
    record.pid = container.pid().map_or(0, |pid| pid.as_raw());
    record.start_time = start_time(record.pid).unwrap_or_default();
    containers.save(&record)?;
    copy_up::fill(&bundle.given.rootfs, record.pid, &bundle.copied_up)?;
    limit_devices(bundle)?;
    if bundle.specification["linux"]["resources"]["memory"]["disableOOMKiller"] == true {
        // Which libcontainer does not read.
        lifecycle::cgroups()?.disable_oom_killer(&bundle.given.cgroup).map_err(system("disable the OOM killer"))?;
    }
    creation.handed.pid_file.as_deref().map_or(Ok(()), |path| write_pid(path, record.pid))
}

/// What libcontainer leaves out where cgroups are of version 2. The process waits to be started.
fn limit_devices(bundle: &Bundle) -> Result<(), OciError> {
    let given = &bundle.specification["linux"]["resources"]["devices"];
    let rules = Option::deserialize(given).map_err(|error| OciError::Spec(format!("linux.resources.devices: {error}")))?;
    let rules: Vec<LinuxDeviceCgroup> = rules.unwrap_or_default();
    lifecycle::cgroups()?.limit_devices_by_program(&bundle.given.cgroup, &rules).map_err(system("limit the devices"))
}

/// As runc does; where something is mounted it is not known before.
fn make_working_directory(bundle: &Bundle) -> Result<(), OciError> {
    let Some(cwd) = bundle.given.process["cwd"].as_str().map(Path::new).filter(|cwd| cwd.is_absolute()) else {
        return Err(OciError::Spec("process.cwd must be an absolute path".into()));
    };
    let mounts = bundle.specification["mounts"].as_array();
    let mut targets = mounts.into_iter().flatten().filter_map(|mount| mount["destination"].as_str());
    if targets.any(|target| target != "/" && cwd.starts_with(target)) {
        return Ok(());
    }
    // A root that cannot be written to may have it.
    let made = make_directory_in_root(&bundle.given.rootfs, cwd);
    made.or_else(|error| if bundle.given.rootfs.join(cwd.strip_prefix("/").unwrap_or(cwd)).is_dir() { Ok(()) } else { Err(chain(&error)) })
}

/// What libcontainer makes below /dev, beside the devices of the bundle.
const IN_DEV: [&str; 11] = ["fd", "stdin", "stdout", "stderr", "kcore", "null", "zero", "full", "random", "urandom", "tty"];

/// Where nothing is mounted at /dev its links and devices are made in the root itself, where they may be already, as after an earlier run; runc
/// takes them as they are, libcontainer fails. A container that uses the same root would miss them, so that there are no two such at a time.
fn make_room_in_dev(containers: &Containers, id: &str, bundle: &Bundle) -> Result<(), OciError> {
    let mounts = bundle.specification["mounts"].as_array();
    let mut targets = mounts.into_iter().flatten().filter_map(|mount| mount["destination"].as_str());
    if targets.any(|target| target.trim_end_matches('/') == "/dev") {
        return Ok(());
    }
    let own = bundle.specification["linux"]["devices"].as_array().into_iter().flatten().filter_map(|device| device["path"].as_str());
    let own = own.filter_map(|path| path.strip_prefix("/dev/").filter(|name| !name.contains('/')));
    let names: Vec<&str> = IN_DEV.into_iter().chain(own).collect();
    let rootfs = &bundle.given.rootfs;
    remove_nodes_in_root(rootfs, Path::new("/dev"), &names, || match user_of(&containers.list()?, id, rootfs) {
        Some(other) => Err(OciError::State(format!(
            "container {other} uses the root file system {rootfs:?} and its /dev; delete it first, or give this bundle a mount at /dev or a root of its own"
        ))),
        None => Ok(()),
    })
}

/// Another container that is not over and has the same root.
fn user_of<'a>(records: &'a [Record], id: &str, rootfs: &Path) -> Option<&'a str> {
    let same = |record: &&Record| record.id != id && record.given.rootfs == rootfs && record.status() != Status::Stopped;
    records.iter().find(same).map(|record| record.id.as_str())
}

/// Open for writing too, so that it is open for as long as somebody may write.
fn failure_line(directory: &Path) -> Result<OwnedFd, OciError> {
    let path = line(directory);
    mkfifo(&path, Mode::from_bits_truncate(0o600)).map_err(|errno| at("make", &path)(errno.into()))?;
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
    let opened = OpenOptions::new().read(true).write(true).custom_flags(flags).open(&path);
    opened.map(OwnedFd::from).map_err(at("open", &path))
}

/// What the process itself has said, which is the better message.
fn reason(line: &OwnedFd) -> Option<OciError> {
    let mut said = [0; 4096];
    let length = nix::unistd::read(line, &mut said).ok().filter(|length| *length > 0)?;
    Some(OciError::Container(String::from_utf8_lossy(&said[..length]).into_owned()))
}

/// Whoever waits for the file finds it whole.
pub(super) fn write_pid(path: &Path, pid: i32) -> Result<(), OciError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = path.with_file_name(format!(".{name}.new"));
    fs::write(&new, pid.to_string()).and_then(|()| fs::rename(&new, path)).map_err(at("write", path))
}

/// The calling process' program, from a read-only mount of its own: what a container can reach by /proc/self/exe must not be the program
/// on the machine's disk (CVE-2019-5736). Comes back at once where it is that already.
pub(super) fn seal(words: &[OsString]) -> Result<(), OciError> {
    const SELF: &str = "/proc/self/exe";
    let mounted = statvfs(SELF).map_err(system("look at the program"))?;
    if mounted.flags().contains(FsFlags::ST_RDONLY) {
        return Ok(());
    }
    let sealed = mount::clone_tree(Path::new(SELF)).and_then(|program| {
        mount::restrict(program.as_fd(), &["ro".to_owned()])?;
        mount::execute(program.as_fd(), words)
    });
    match sealed {
        Ok(never) => match never {},
        Err(source) => Err(OciError::System { operation: "execute from a read-only mount", source }),
    }
}
