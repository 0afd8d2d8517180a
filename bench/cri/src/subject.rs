//! A runtime under measurement: how it is started, how it is asked, and what all that it has started uses.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use fram_bench_common::pss;
use fram_cri::grpc::{RemoteImages, RemoteRuntime, Streams};
use fram_cri::{ContainerStream, CriError, CriResult, Duplex, ExecOptions, PodSandboxFilter, RuntimeService};

use crate::cgroup::Cgroup;

/// How to start a subject.
pub(crate) struct Recipe {
    pub(crate) name: &'static str,
    command: String,
    socket: PathBuf,
}

impl Recipe {
    pub(crate) fn new(name: &'static str, command: &str, socket: PathBuf) -> Self {
        Self { name, command: command.into(), socket }
    }

    pub(crate) fn beside_this_program(folder: &Path) -> Result<Self> {
        let program = std::env::current_exe().context("this program's path")?.with_file_name("fram");
        let (socket, data) = (folder.join("fram.sock"), folder.join("fram"));
        let (program, listen, data) = (program.display(), socket.display(), data.display());
        let cgroup = format!("/{}/own", cgroup_name("fram"));
        let command = format!("exec {program} runtime --listen unix://{listen} --data-dir {data} --cgroup-root {cgroup}");
        Ok(Self { name: "fram", command, socket })
    }
}

/// Its own in every run, as several may be under way.
fn cgroup_name(subject: &str) -> String {
    format!("bench-cri-{subject}-{}", std::process::id())
}

pub(crate) struct Subject {
    name: &'static str,
    /// Each is measured by itself; an empty one is the default.
    pub(crate) handlers: Vec<String>,
    process: Child,
    cgroup: Cgroup,
    /// How long it took from the command until it answered.
    pub(crate) started: Duration,
    pub(crate) runtime: RemoteRuntime,
    pub(crate) images: RemoteImages,
    logs: tempfile::TempDir,
}

impl Drop for Subject {
    fn drop(&mut self) {
        self.cgroup.kill();
        let _ = self.process.wait();
    }
}

/// Nothing here opens streams.
struct NoStreams;

#[async_trait]
impl Streams for NoStreams {
    async fn open(&self, _: &str, _: ExecOptions) -> CriResult<ContainerStream> {
        Err(CriError::Unimplemented("streams".into()))
    }

    async fn port_forward(&self, _: &str, _: u16) -> CriResult<Box<dyn Duplex>> {
        Err(CriError::Unimplemented("streams".into()))
    }
}

/// How long a runtime may take to answer.
const PATIENCE: Duration = Duration::from_secs(120);

impl Subject {
    pub(crate) async fn start(recipe: Recipe, handlers: Vec<String>) -> Result<Self> {
        let cgroup = Cgroup::make(&cgroup_name(recipe.name))?;
        let log = std::fs::File::create(std::env::temp_dir().join(format!("bench-cri-{}.log", recipe.name))).context("its log")?;
        let begun = Instant::now();
        let command = format!("{} && {}", cgroup.enter(), recipe.command);
        let mut shell = Command::new("sh");
        shell.args(["-c", &command]).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut process = shell.spawn().with_context(|| command.clone())?;
        let endpoint = format!("unix://{}", recipe.socket.display());
        let runtime = loop {
            if let Ok(runtime) = RemoteRuntime::connect(&endpoint, Arc::new(NoStreams), PATIENCE).await {
                break runtime;
            }
            if let Some(status) = process.try_wait()? {
                bail!("{command} ended with {status} before it answered");
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        let (started, logs) = (begun.elapsed(), tempfile::tempdir().context("a folder for logs")?);
        let images = RemoteImages::new(&endpoint, PATIENCE)?;
        Ok(Self { name: recipe.name, handlers, process, cgroup, started, runtime, images, logs })
    }

    /// The name of a row's column.
    pub(crate) fn title(&self, handler: &str) -> String {
        if handler.is_empty() { self.name.into() } else { format!("{} {handler}", self.name) }
    }

    pub(crate) fn logs(&self) -> &Path {
        self.logs.path()
    }

    pub(crate) fn cgroup_parent(&self) -> String {
        self.cgroup.parent()
    }

    /// CPU time so far of the runtime and all that it has started, user and system.
    pub(crate) fn cpu(&self) -> Duration {
        self.cgroup.cpu()
    }

    /// Memory by the names of processes: how many there are, and the sum of their proportional set sizes in kB.
    pub(crate) fn memory(&self) -> std::collections::BTreeMap<String, (usize, u64)> {
        let mut memory = std::collections::BTreeMap::new();
        for pid in self.cgroup.processes() {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned();
            let (count, sum) = memory.entry(name).or_insert((0, 0));
            (*count, *sum) = (*count + 1, *sum + pss(pid));
        }
        memory
    }

    /// Removes all pods, then the runtime.
    pub(crate) async fn end(mut self) -> Result<()> {
        for sandbox in self.runtime.list_pod_sandbox(&PodSandboxFilter::default()).await? {
            self.runtime.stop_pod_sandbox(&sandbox.id).await?;
            self.runtime.remove_pod_sandbox(&sandbox.id).await?;
        }
        // By the signal that lets it put away what it has mounted.
        let pid = nix::unistd::Pid::from_raw(self.process.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        self.process.wait()?;
        self.cgroup.kill();
        let begun = Instant::now();
        while let Err(error) = self.cgroup.remove() {
            if begun.elapsed() > Duration::from_secs(10) {
                return Err(error).context("remove the cgroups");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}
