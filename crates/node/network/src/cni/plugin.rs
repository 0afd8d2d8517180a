//! Running one plugin: its environment, its input, its answer. See the CNI specification 1.1, sections 2 and 5.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// After how long a plugin is given up.
const PATIENCE: Duration = Duration::from_secs(120);
/// "Try again later".
const AGAIN: u32 = 11;

#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    #[error("plugin {kind:?} is in none of {bin_dirs:?}")]
    Missing { kind: String, bin_dirs: Vec<PathBuf> },
    #[error("run plugin {path:?}: {source}")]
    Run { path: PathBuf, source: std::io::Error },
    #[error("plugin {kind:?} did not end within {} s", PATIENCE.as_secs())]
    Timeout { kind: String },
    #[error("plugin {kind:?} failed: {message} {details}")]
    Failed { kind: String, code: u32, message: String, details: String },
    #[error("plugin {kind:?} answered what cannot be understood: {why}")]
    Answer { kind: String, why: String },
}

impl PluginError {
    pub(super) fn is_temporary(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::Failed { code: AGAIN, .. })
    }
}

pub(super) struct Invocation<'a> {
    pub(super) command: &'static str,
    pub(super) container_id: &'a str,
    /// None when it is gone already.
    pub(super) netns: Option<&'a Path>,
    pub(super) interface: &'static str,
    pub(super) args: String,
    pub(super) bin_dirs: &'a [PathBuf],
}

impl Invocation<'_> {
    /// What the plugin answered; null where it has nothing to say.
    pub(super) async fn run(&self, kind: &str, stdin: &[u8]) -> Result<Value, PluginError> {
        let found = self.bin_dirs.iter().map(|folder| folder.join(kind)).find(|path| path.is_file());
        let path = found.ok_or_else(|| PluginError::Missing { kind: kind.to_owned(), bin_dirs: self.bin_dirs.to_vec() })?;
        let bin_dirs: Vec<String> = self.bin_dirs.iter().map(|folder| folder.display().to_string()).collect();
        let mut command = Command::new(&path);
        // Plugins call ip and iptables by their names; nothing else of the environment is theirs.
        command.env_clear().envs(std::env::var_os("PATH").map(|paths| ("PATH", paths)));
        command.env("CNI_COMMAND", self.command).env("CNI_CONTAINERID", self.container_id).env("CNI_IFNAME", self.interface);
        command.env("CNI_NETNS", self.netns.unwrap_or(Path::new(""))).env("CNI_ARGS", &self.args).env("CNI_PATH", bin_dirs.join(":"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let failed = |source| PluginError::Run { path: path.clone(), source };
        let mut child = command.spawn().map_err(failed)?;
        let input = child.stdin.take();
        let writing = async move {
            if let Some(mut input) = input {
                // One that reads nothing says by its answer what it thinks of that.
                let _ = input.write_all(stdin).await;
            }
        };
        let running = async { tokio::join!(child.wait_with_output(), writing).0 };
        let output = tokio::time::timeout(PATIENCE, running).await.map_err(|_| PluginError::Timeout { kind: kind.to_owned() })?;
        let output = output.map_err(failed)?;
        answer(kind, output.status.success(), &output.stdout, &output.stderr)
    }
}

#[derive(Deserialize)]
struct Failure {
    #[serde(default)]
    code: u32,
    msg: String,
    #[serde(default)]
    details: String,
}

pub(super) fn answer(kind: &str, success: bool, stdout: &[u8], stderr: &[u8]) -> Result<Value, PluginError> {
    let kind = kind.to_owned();
    if !success {
        let failure = serde_json::from_slice(stdout).unwrap_or_else(|_| {
            let said = if stderr.is_empty() { stdout } else { stderr };
            Failure { code: 0, msg: String::from_utf8_lossy(said).trim().to_owned(), details: String::new() }
        });
        return Err(PluginError::Failed { kind, code: failure.code, message: failure.msg, details: failure.details });
    }
    if stdout.trim_ascii().is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(stdout).map_err(|error| PluginError::Answer { kind, why: error.to_string() })
}
