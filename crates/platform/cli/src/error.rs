//! What can go wrong for a user of the client, in kubectl's words, with what to do about it.

use std::path::PathBuf;

use fram_client::remote::RemoteError;
use fram_machinery::{Reason, Status};

#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error("Error from server{}: {}", reason(.0), .0.message)]
    Server(Box<Status>),
    #[error("error when {doing}: {}", .status.message)]
    Doing { doing: String, status: Box<Status> },
    #[error(
        "The connection to the server {server} was refused: is fram running? Start it with `fram up`, or name another cluster with --kubeconfig"
    )]
    Refused { server: String },
    #[error("error: {0}")]
    Remote(#[from] RemoteError),
    #[error("error: there is no kubeconfig {}: start a cluster with `fram up`, or name a file with --kubeconfig or KUBECONFIG", looked.join(", "))]
    NoKubeconfig { looked: Vec<String> },
    #[error("error: {0}")]
    Usage(String),
    #[error("error: {0}")]
    Failed(String),
    #[error("error: cannot {operation} {}: {source}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: std::io::Error },
    #[error("error: no fram runs with its data in {}: start it with `fram up`, or say with --data-dir where its data is", .0.display())]
    NoNode(PathBuf),
    /// A remote command ended so; kubectl's words and its code.
    #[error("command terminated with exit code {0}")]
    Exit(u8),
    /// Each on a line of its own.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Several(Vec<CliError>),
    /// The reader of the output has gone, as `head` does.
    #[error("the output was closed")]
    OutputClosed,
}

fn reason(status: &Status) -> String {
    if status.reason == Reason::Unknown { String::new() } else { format!(" ({})", status.reason.as_str()) }
}

impl From<Status> for CliError {
    fn from(status: Status) -> Self {
        Self::Server(Box::new(status))
    }
}

impl CliError {
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self::Usage(text.into())
    }

    pub(crate) fn failed(text: impl Into<String>) -> Self {
        Self::Failed(text.into())
    }

    /// What the program's own exit code is.
    pub fn code(&self) -> u8 {
        match self {
            Self::Exit(code) => *code,
            _ => 1,
        }
    }

    pub(crate) fn is(&self, reason: Reason) -> bool {
        matches!(self, Self::Server(status) if status.is(reason))
    }

    /// One error for several; nothing where there were none. That nobody reads any more counts where all else went well.
    pub(crate) fn all(errors: Vec<CliError>) -> Result<(), CliError> {
        let (closed, mut errors): (Vec<_>, Vec<_>) = errors.into_iter().partition(|e| matches!(e, Self::OutputClosed));
        match (errors.len(), closed.is_empty()) {
            (0, true) => Ok(()),
            (0, false) => Err(Self::OutputClosed),
            (1, _) => Err(errors.remove(0)),
            _ => Err(Self::Several(errors)),
        }
    }
}

pub(crate) type Result<T, E = CliError> = std::result::Result<T, E>;
