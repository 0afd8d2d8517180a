//! What the runtime and a shim say to each other: messages, versions and framing. No I/O.
//!
//! A connection carries frames of a 32-bit little-endian length and that many bytes of JSON. The first frame in each
//! direction is a `Hello`. Then the client asks and the shim answers, in order; `Exec`, `Attach` and `Watch` turn the
//! connection over to what they began. What all versions know may be asked before the shim's `Hello` is there; one who is too
//! old or too new for it is not answered. File descriptors travel with the first byte of the frame they belong to.
//!
//! A shim lives as long as its pod, so it is met by later versions of the runtime: fields are only ever added, with a
//! default, and a runtime of version N drives shims of N, N-1 and N-2.

use std::path::PathBuf;

use fram_cri::{ContainerUser, MountPropagation};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;

use crate::seccomp::Instruction;
use crate::spec::{Privileges, UserRequest};

/// The version that this code speaks.
pub(crate) const VERSION: u32 = 2;
/// The oldest version that this code still understands.
pub(crate) const OLDEST: u32 = 1;
/// Longest frame; a longer one is a fault of the other side.
pub(crate) const MAX_FRAME: usize = 4 << 20;
/// Most file descriptors that go with one frame.
pub(crate) const MAX_FDS: usize = 4;

#[derive(Debug, Error)]
pub(crate) enum ProtocolError {
    #[error("frame of {0} bytes is longer than {MAX_FRAME}")]
    FrameTooLong(usize),
    #[error("message is not understood: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("the other side speaks versions {oldest} to {version}, this one {OLDEST} to {VERSION}")]
    Version { version: u32, oldest: u32 },
}

/// The version that two sides use with each other: the older one's, if the newer one still understands it.
pub(crate) fn negotiate(version: u32, oldest: u32) -> Result<u32, ProtocolError> {
    let common = version.min(VERSION);
    if common < OLDEST || common < oldest {
        return Err(ProtocolError::Version { version, oldest });
    }
    Ok(common)
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    Hello {
        version: u32,
        oldest: u32,
    },
    /// Answer: `State`.
    State,
    /// Answer: `Started` or `StartFailed`.
    Start(Box<StartContainer>),
    /// Answer: `Ok`, also when the container has ended.
    Signal {
        container_id: String,
        signal: i32,
        /// Every process in the container's cgroup instead of the first one.
        all: bool,
    },
    /// With the descriptors of stdin, stdout, stderr in this order as far as asked for, when there is no terminal.
    /// Answer: `ExecStarted` (with the terminal), later `Exited`. Closing the connection kills the process.
    Exec(Box<Exec>),
    /// With writing ends for stdout and stderr as far as asked for. Answer: `Attached` (with a writing end for stdin or
    /// the terminal), later `Exited`. Closing the connection detaches.
    Attach {
        container_id: String,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    },
    /// On a connection that is attached: what came on it was the whole input. Where the container takes its input once, that ends;
    /// the outputs go on. No answer. Since version 2.
    CloseStdin,
    /// Answer: `Ok`.
    ReopenLog {
        container_id: String,
    },
    /// Answer: `Connected` with a stream socket connected to the port on the sandbox's loopback.
    PortForward {
        port: u16,
    },
    /// The container is removed: its record is not needed any more. Answer: `Ok`.
    Forget {
        container_id: String,
    },
    /// Answer: `State`, then `ContainerRunning` and `ContainerExited` for ever.
    Watch,
    /// Kills everything and ends the shim. Answer: `Ok` when all containers have ended.
    Shutdown,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Response {
    Hello { version: u32, oldest: u32 },
    Ok,
    State { pid: i32, containers: Vec<ContainerRun> },
    Started { run: ContainerRun, warnings: Vec<String> },
    StartFailed { run: ContainerRun },
    ExecStarted { pid: i32 },
    Exited { code: i32 },
    Attached,
    Connected,
    ContainerRunning { run: ContainerRun },
    ContainerExited { run: ContainerRun },
    Error { kind: ErrorKind, message: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ErrorKind {
    NotFound,
    InvalidState,
    CannotRun,
    Unsupported,
    Internal,
    /// A kind that a newer shim knows.
    #[serde(other)]
    Other,
}

/// What the shim knows of a container; also the durable record `state.json` in the container's directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ContainerRun {
    pub container_id: String,
    /// Of the first process, in the shim's pid namespace.
    pub pid: i32,
    /// Nanoseconds since the epoch.
    pub started_at: i64,
    pub user: ContainerUser,
    pub exit: Option<Exit>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Exit {
    /// 128 + signal number when a signal ended the process.
    pub code: i32,
    pub finished_at: i64,
    pub oom_killed: bool,
    /// The first process was never started; `message` says why.
    pub cannot_run: bool,
    /// The shim died with the exit code.
    pub lost: bool,
    pub message: String,
}

/// What a shim makes its sandbox from: `shim.json` in the sandbox's directory, written before the shim starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SandboxSetup {
    pub pod_sandbox_id: String,
    pub hostname: String,
    pub host_network: bool,
    pub host_ipc: bool,
    /// One pid namespace for all containers, kept by a small first process.
    pub shared_pid: bool,
    /// `name` with dots, and value.
    pub sysctls: Vec<(String, String)>,
    /// Size of /dev/shm, bytes.
    pub shm_size: u64,
    /// Where the shim itself runs, below each cgroup hierarchy; empty leaves it where it was started.
    pub cgroup: String,
    pub cgroup_mount: PathBuf,
    /// Of the pod's own user namespace.
    pub ids: Option<IdRange>,
    /// The soft and the hard limit of open files; None is what the shim was started with.
    pub open_files: Option<(u64, u64)>,
}

/// The users and groups of the node that those of a pod from 0 on are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IdRange {
    pub uid: u32,
    pub gid: u32,
    pub length: u32,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct StartContainer {
    pub container_id: String,
    /// The container's directory with `config.json`, the OCI specification but for the user.
    pub dir: PathBuf,
    pub rootfs: OverlayMount,
    pub mounts: Vec<RootMount>,
    pub user: UserRequest,
    pub privileges: Privileges,
    pub seccomp: Vec<Instruction>,
    pub pid_namespace: PidNamespace,
    /// Below each hierarchy.
    pub cgroup: String,
    /// Absolute; `None` drops the output.
    pub log_path: Option<PathBuf>,
    pub stdin: bool,
    pub stdin_once: bool,
    pub tty: bool,
    pub oom_score_adj: Option<i32>,
    /// Of the pod's own user namespace.
    pub ids: Option<IdRange>,
    /// The OCI runtime that makes the container, where the shim does not; then privileges and filter stand in `config.json`.
    pub runtime: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum PidNamespace {
    #[default]
    Container,
    Pod,
    Node,
    /// That of another container of the sandbox.
    Target(String),
}

/// A writable stack of image layers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct OverlayMount {
    /// The lowest layer first.
    pub layers: Vec<PathBuf>,
    pub upper: PathBuf,
    pub work: PathBuf,
    pub target: PathBuf,
}

/// A mount that is made on the container's root before its first process is there, in a mount namespace where nothing else is: the
/// only moment when the propagation of a bind mount can be chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RootMount {
    /// Absolute, in the container. It is made if it is missing.
    pub destination: PathBuf,
    pub source: MountSource,
    /// `ro`, `rro`, `nosuid`, `nodev`, `noexec`.
    pub attributes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum MountSource {
    Bind {
        path: PathBuf,
        propagation: MountPropagation,
    },
    /// The layers of an image, read-only; or a part of them, resolved inside.
    Image {
        layers: Vec<PathBuf>,
        sub_path: PathBuf,
    },
    /// A file system of the kernel with its options; those without a value are flags.
    Filesystem {
        kind: String,
        options: Vec<(String, String)>,
    },
    /// The container's own cgroup in each hierarchy of version 1.
    Cgroup,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Exec {
    pub container_id: String,
    pub args: Vec<String>,
    pub tty: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub privileges: Privileges,
    pub seccomp: Vec<Instruction>,
    /// As those of the container.
    pub ids: Option<IdRange>,
    pub runtime: Option<PathBuf>,
}

/// One frame with its length in front.
pub(crate) fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, ProtocolError> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message)?;
    with_length(frame)
}

/// The frame of `Request::Start` for a `StartContainer` that is JSON already: its filter is long, and need not be read to be passed on.
pub(crate) fn encode_start(start: &[u8]) -> Result<Vec<u8>, ProtocolError> {
    with_length([b"\0\0\0\0{\"Start\":", start, b"}"].concat())
}

/// Writes its length into a frame's first four bytes.
fn with_length(mut frame: Vec<u8>) -> Result<Vec<u8>, ProtocolError> {
    let length = frame.len() - 4;
    if length > MAX_FRAME {
        return Err(ProtocolError::FrameTooLong(length));
    }
    // The length was just checked to fit.
    frame[..4].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(frame)
}

/// Takes one message off the front of `buffer`; `None` when it is not complete yet.
pub(crate) fn decode<T: DeserializeOwned>(buffer: &mut Vec<u8>) -> Result<Option<T>, ProtocolError> {
    let Some(head) = buffer.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_le_bytes(*head) as usize;
    if length > MAX_FRAME {
        return Err(ProtocolError::FrameTooLong(length));
    }
    let Some(body) = buffer.get(4..4 + length) else { return Ok(None) };
    let message = serde_json::from_slice(body)?;
    buffer.drain(..4 + length);
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_whole_however_they_arrive() {
        let mut bytes = encode(&Request::PortForward { port: 80 }).unwrap();
        bytes.extend(encode(&Request::State).unwrap());
        let mut buffer = Vec::new();
        let mut seen = Vec::new();
        for byte in bytes {
            buffer.push(byte);
            if let Some(request) = decode::<Request>(&mut buffer).unwrap() {
                seen.push(request);
            }
        }
        assert!(matches!(seen[..], [Request::PortForward { port: 80 }, Request::State]), "{seen:?}");
        assert!(buffer.is_empty());
    }

    #[test]
    fn a_start_that_was_written_down_is_passed_on_as_it_is() {
        let start = StartContainer { container_id: "a\"}".into(), seccomp: vec![Instruction(6, 0, 0, 7)], ..StartContainer::default() };
        let passed_on = encode_start(&serde_json::to_vec(&start).unwrap()).unwrap();
        assert_eq!(passed_on, encode(&Request::Start(Box::new(start))).unwrap());
        assert!(matches!(encode_start(&vec![b' '; MAX_FRAME]), Err(ProtocolError::FrameTooLong(_))));
    }

    #[test]
    fn a_frame_that_is_too_long_or_not_a_message_is_refused() {
        let mut long = u32::MAX.to_le_bytes().to_vec();
        assert!(matches!(decode::<Request>(&mut long), Err(ProtocolError::FrameTooLong(_))));
        let mut noise = encode(&"noise").unwrap();
        assert!(matches!(decode::<Request>(&mut noise), Err(ProtocolError::Malformed(_))));
    }

    #[test]
    fn a_record_of_another_version_is_read_with_defaults_and_without_unknown_fields() {
        let run: ContainerRun = serde_json::from_str(r#"{"container_id":"a","from_the_future":[1]}"#).unwrap();
        assert_eq!(run, ContainerRun { container_id: "a".into(), ..ContainerRun::default() });
        let kind: ErrorKind = serde_json::from_str(r#""FromTheFuture""#).unwrap();
        assert_eq!(kind, ErrorKind::Other);
    }

    #[test]
    fn two_sides_agree_on_the_older_version_or_not_at_all() {
        assert_eq!(negotiate(VERSION + 2, VERSION).unwrap(), VERSION);
        assert!(negotiate(VERSION + 3, VERSION + 1).is_err());
        assert!(negotiate(0, 0).is_err());
    }
}
