//! What one call leaves for the next: a directory for each container, with its record. Which state a container is in is told by the
//! record and by the kernel together.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::bundle::Given;
use super::{OciError, at};
use crate::durable::{self, Sync};

const RECORD: &str = "record.json";
const LOCK: &str = "lock";

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Record {
    pub(super) id: String,
    /// RFC 3339.
    pub(super) created: String,
    /// 0 until it is there.
    pub(super) pid: i32,
    /// In ticks since the machine started, which tells a process from a later one of the same number.
    pub(super) start_time: u64,
    pub(super) started: bool,
    pub(super) paused: bool,
    #[serde(flatten)]
    pub(super) given: Given,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub(super) fn name(self) -> &'static str {
        match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        }
    }
}

/// State and start time of a process, out of /proc/PID/stat.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    // The name is in parentheses, and may hold any.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// When a process that lives began; `None` when it has ended.
pub(super) fn start_time(pid: i32) -> Option<u64> {
    let (state, time) = parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
    (!matches!(state, 'Z' | 'X')).then_some(time)
}

impl Record {
    pub(super) fn status(&self) -> Status {
        match self {
            Record { pid: 0, .. } => Status::Creating,
            record if start_time(record.pid) != Some(record.start_time) => Status::Stopped,
            Record { started: false, .. } => Status::Created,
            Record { paused: true, .. } => Status::Paused,
            _ => Status::Running,
        }
    }

    /// The state as the runtime specification has it, which hooks are told. A container that has stopped has no process.
    pub(super) fn state(&self, status: Status) -> Value {
        let mut state = serde_json::json!({
            "ociVersion": self.given.version,
            "id": self.id,
            "status": status.name(),
            "bundle": self.given.directory,
            "annotations": self.given.annotations,
        });
        if status != Status::Creating || self.pid != 0 {
            state["pid"] = if status == Status::Stopped { 0 } else { self.pid }.into();
        }
        state
    }
}

/// A lock of the process (fcntl(2)): the container's process inherits the descriptor and would hold one of flock(2) for as long as it waits
/// to be started, when its creator is killed. Closing any descriptor of the file unlocks it, so that a call has one lock at a time.
pub(super) struct Lock(#[allow(dead_code, reason = "it is held by being open")] File);

fn lock_exclusively(file: &File) -> io::Result<()> {
    // SAFETY: all zeros is a valid one: the whole file.
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    range.l_type = libc::F_WRLCK as libc::c_short;
    range.l_whence = libc::SEEK_SET as libc::c_short;
    loop {
        match fcntl(file, FcntlArg::F_SETLKW(&range)) {
            Err(Errno::EINTR) => {}
            locked => return locked.map(drop).map_err(io::Error::from),
        }
    }
}

/// Whether the path still names this file.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let own = file.metadata()?;
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        there => there.map(|there| (there.dev(), there.ino()) == (own.dev(), own.ino())),
    }
}

/// All containers below one directory.
pub(super) struct Containers {
    root: PathBuf,
}

impl Containers {
    pub(super) fn new(root: &Path) -> Result<Containers, OciError> {
        // A directory may be named from where the caller is, who is elsewhere later.
        let root = std::path::absolute(root).map_err(at("find", root))?;
        Ok(Containers { root })
    }

    pub(super) fn directory(&self, id: &str) -> Result<PathBuf, OciError> {
        let is_fine = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
        if id.is_empty() || id.len() > 1024 || id == "." || id == ".." || !id.chars().all(is_fine) {
            return Err(OciError::Id(id.to_owned()));
        }
        Ok(self.root.join(id))
    }

    /// Takes an id. Of two that want it one is refused. Records hold the variables of processes, which are for root alone to read.
    pub(super) fn claim(&self, id: &str) -> Result<PathBuf, OciError> {
        let directory = self.directory(id)?;
        DirBuilder::new().recursive(true).mode(0o700).create(&self.root).map_err(at("create", &self.root))?;
        match DirBuilder::new().mode(0o700).create(&directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(OciError::Exists),
            made => made.map(|()| directory.clone()).map_err(at("create", &directory)),
        }
    }

    pub(super) fn load(&self, id: &str) -> Result<Record, OciError> {
        let directory = self.directory(id)?;
        if let Some(record) = durable::read_json(&directory.join(RECORD))? {
            return Ok(record);
        }
        // Somebody has the id, and has not come further.
        let claimed = directory.is_dir();
        claimed.then(|| Record { id: id.to_owned(), ..Record::default() }).ok_or(OciError::NotFound)
    }

    pub(super) fn save(&self, record: &Record) -> Result<(), OciError> {
        Ok(durable::write_json(&self.directory(&record.id)?.join(RECORD), record, Sync::No)?)
    }

    /// Two that start, pause or delete one container do it one after the other. A container that was deleted meanwhile is not found, even
    /// where there is a new one of the same id.
    pub(super) fn lock(&self, id: &str) -> Result<Lock, OciError> {
        let path = self.directory(id)?.join(LOCK);
        let file = match File::create(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(OciError::NotFound),
            opened => opened.map_err(at("create", &path))?,
        };
        lock_exclusively(&file).map_err(at("lock", &path))?;
        let is_there = is_at(&file, &path).map_err(at("look at", &path))?;
        is_there.then_some(Lock(file)).ok_or(OciError::NotFound)
    }

    /// In the order of their names. One that is deleted meanwhile is not there.
    pub(super) fn list(&self) -> Result<Vec<Record>, OciError> {
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(at("read", &self.root))?,
        };
        let mut ids: Vec<String> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        ids.sort();
        Ok(ids.iter().filter_map(|id| self.load(id).ok()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_by_its_start_whatever_its_name_is() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 99 1";
        assert_eq!(parse_stat(stat), Some(('S', 4711)));
        assert_eq!(parse_stat("7 (a"), None);
        assert!(start_time(std::process::id() as i32).is_some());
    }

    #[test]
    fn an_id_never_names_another_place() {
        let containers = Containers::new(Path::new("/run/x")).unwrap();
        assert_eq!(containers.directory("a-b_1.2+c").unwrap(), Path::new("/run/x/a-b_1.2+c"));
        for id in ["", ".", "..", "a/b", "../a", "a b", "ä", &"a".repeat(1025)] {
            assert!(containers.directory(id).is_err(), "{id}");
        }
    }

    #[test]
    fn the_state_follows_from_the_record_and_from_the_process() {
        let pid = std::process::id() as i32;
        let living = Record { pid, start_time: start_time(pid).unwrap(), ..Record::default() };
        assert_eq!(Record::default().status(), Status::Creating);
        assert_eq!(living.status(), Status::Created);
        assert_eq!(Record { started: true, ..living.clone() }.status(), Status::Running);
        assert_eq!(Record { started: true, paused: true, ..living.clone() }.status(), Status::Paused);
        // The number belongs to somebody else by now.
        let other = Record { start_time: 1, started: true, ..living };
        assert_eq!(other.status(), Status::Stopped);
        assert_eq!(other.state(Status::Stopped)["pid"], 0);
    }
}
