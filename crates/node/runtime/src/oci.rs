//! The command line of an OCI runtime, as runc has it: containers of bundles, for podman, containerd and CRI-O to drive. Each call is a
//! process of its own, and what one leaves for the next stands in a directory. Pods do not come here: those have a shim.

mod bundle;
mod command;
mod copy_up;
mod create;
mod exec;
mod executor;
mod features;
mod foreground;
mod hooks;
mod lifecycle;
mod record;
mod words;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use thiserror::Error;

pub(crate) use hooks::run as run_hooks;

use crate::durable::DurableError;
use crate::seccomp::SeccompError;
use crate::shim::rootfs::RootfsError;

/// The name by which the program is an OCI runtime without a further word.
pub const PROGRAM: &str = "fram-oci";

/// What `fram oci` does with the words behind that, before it has started a thread. The first word is the name of the program.
pub fn main(words: &[OsString]) -> ExitCode {
    command::main(words)
}

/// Texts that others look for, such as containerd, are runc's.
#[derive(Debug, Error)]
pub(crate) enum OciError {
    #[error("container does not exist")]
    NotFound,
    #[error("container with given ID already exists")]
    Exists,
    #[error("container not running")]
    NotRunning,
    #[error("invalid container ID format: {0:?}")]
    Id(String),
    #[error("{0}")]
    State(String),
    #[error("{operation} {path:?}: {source}")]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("{operation}: {source}")]
    System { operation: &'static str, source: io::Error },
    #[error(transparent)]
    File(#[from] DurableError),
    #[error(transparent)]
    Root(#[from] RootfsError),
    #[error("{path:?} is not understood: {source}")]
    Malformed { path: PathBuf, source: serde_json::Error },
    #[error("{0}")]
    Spec(String),
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    #[error("{stage} hook {path:?}: {reason}")]
    Hook { stage: String, path: PathBuf, reason: String },
    #[error("{0}")]
    Container(String),
    #[error("{0}")]
    Unsupported(&'static str),
}

fn at(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OciError {
    let path = path.to_path_buf();
    move |source| OciError::Io { operation, path, source }
}

fn system<E: Into<io::Error>>(operation: &'static str) -> impl FnOnce(E) -> OciError {
    move |source| OciError::System { operation, source: source.into() }
}

/// An error with its causes; libcontainer says what matters in the last one.
fn chain(error: &dyn std::error::Error) -> OciError {
    OciError::Container(crate::shim::causes(error))
}
