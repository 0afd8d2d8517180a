//! Sandboxes and containers in memory, and how what the shim says becomes what the CRI shows.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use fram_cri::{
    Container as CriContainer, ContainerReason, ContainerState, ContainerStatus, PodSandbox, PodSandboxState, PodSandboxStatus,
};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::protocol::{ContainerRun, Exit};
use crate::records::{ContainerRecord, SandboxRecord};

/// Exit code of a container whose shim died with the real one; what containerd's `UnknownExitStatus` is.
pub(crate) const LOST: i32 = 255;

pub(crate) struct Sandbox {
    pub(crate) id: String,
    pub(crate) dir: PathBuf,
    pub(crate) record: Mutex<SandboxRecord>,
    pub(crate) ready: AtomicBool,
    /// Set while the shim is ended on purpose, so that its end is no accident.
    pub(crate) stopping: AtomicBool,
    /// 0 while unknown.
    pub(crate) shim_pid: AtomicI32,
    /// Held through what changes the sandbox.
    pub(crate) turn: tokio::sync::Mutex<()>,
}

impl Sandbox {
    pub(crate) fn new(dir: PathBuf, record: SandboxRecord) -> Sandbox {
        Sandbox {
            id: record.id.clone(),
            dir,
            record: Mutex::new(record),
            ready: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            shim_pid: AtomicI32::new(0),
            turn: tokio::sync::Mutex::new(()),
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::SeqCst)
    }

    fn state(&self) -> PodSandboxState {
        if self.is_ready() { PodSandboxState::Ready } else { PodSandboxState::NotReady }
    }

    pub(crate) fn summary(&self) -> PodSandbox {
        let record = self.record.lock();
        PodSandbox {
            id: record.id.clone(),
            metadata: record.config.metadata.clone(),
            state: self.state(),
            created_at: record.created_at,
            labels: record.config.labels.clone(),
            annotations: record.config.annotations.clone(),
            runtime_handler: record.runtime_handler.clone(),
        }
    }

    pub(crate) fn status(&self) -> PodSandboxStatus {
        let record = self.record.lock();
        PodSandboxStatus {
            id: record.id.clone(),
            metadata: record.config.metadata.clone(),
            state: self.state(),
            created_at: record.created_at,
            network: record.network.clone(),
            namespaces: record.config.linux.security_context.namespace_options.clone(),
            labels: record.config.labels.clone(),
            annotations: record.config.annotations.clone(),
            runtime_handler: record.runtime_handler.clone(),
        }
    }
}

/// A container's way: `Created`, `Running`, `Exited`, never back.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) state: ContainerState,
    pub(crate) run: ContainerRun,
}

impl Run {
    pub(crate) fn of(run: ContainerRun) -> Run {
        let state = match (&run.exit, run.pid) {
            (Some(_), _) => ContainerState::Exited,
            (None, 0) => ContainerState::Created,
            (None, _) => ContainerState::Running,
        };
        Run { state, run }
    }

    fn rank(&self) -> u8 {
        match self.state {
            ContainerState::Created | ContainerState::Unknown => 0,
            ContainerState::Running => 1,
            ContainerState::Exited => 2,
        }
    }
}

pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) sandbox_id: String,
    pub(crate) dir: PathBuf,
    pub(crate) record: Mutex<ContainerRecord>,
    pub(crate) run: watch::Sender<Run>,
    /// Held through what changes the container.
    pub(crate) turn: tokio::sync::Mutex<()>,
    /// Set under the record's lock: from then on nothing is written into the directory.
    pub(crate) removing: AtomicBool,
}

impl Container {
    pub(crate) fn new(dir: PathBuf, record: ContainerRecord, run: ContainerRun) -> Container {
        Container {
            id: record.id.clone(),
            sandbox_id: record.pod_sandbox_id.clone(),
            dir,
            record: Mutex::new(record),
            run: watch::Sender::new(Run::of(run)),
            turn: tokio::sync::Mutex::new(()),
            removing: AtomicBool::new(false),
        }
    }

    pub(crate) fn state(&self) -> ContainerState {
        self.run.borrow().state
    }

    /// Takes in what the shim says; gives the states that were passed through, in order. News that are older than what
    /// is known change nothing: the answer to a start may come after the report of the end.
    pub(crate) fn advance(&self, run: ContainerRun) -> Vec<ContainerState> {
        let mut passed = Vec::new();
        self.run.send_if_modified(|known| {
            let news = Run::of(run);
            if news.rank() <= known.rank() {
                return false;
            }
            if known.rank() == 0 && news.rank() == 2 && news.run.started_at > 0 {
                passed.push(ContainerState::Running);
            }
            passed.push(news.state);
            *known = news;
            true
        });
        passed
    }

    pub(crate) fn summary(&self) -> CriContainer {
        let state = self.state();
        let record = self.record.lock();
        CriContainer {
            id: record.id.clone(),
            pod_sandbox_id: record.pod_sandbox_id.clone(),
            metadata: record.config.metadata.clone(),
            image: record.config.image.clone(),
            image_ref: record.image_ref.clone(),
            image_id: record.image_id.clone(),
            state,
            created_at: record.created_at,
            labels: record.config.labels.clone(),
            annotations: record.config.annotations.clone(),
        }
    }

    pub(crate) fn status(&self) -> ContainerStatus {
        let known = self.run.borrow().clone();
        let record = self.record.lock();
        let exit = known.run.exit.as_ref();
        ContainerStatus {
            id: record.id.clone(),
            pod_sandbox_id: record.pod_sandbox_id.clone(),
            metadata: record.config.metadata.clone(),
            state: known.state,
            created_at: record.created_at,
            started_at: known.run.started_at,
            finished_at: exit.map_or(0, |exit| exit.finished_at),
            exit_code: exit.map_or(0, |exit| exit.code),
            image: record.config.image.clone(),
            image_ref: record.image_ref.clone(),
            image_id: record.image_id.clone(),
            reason: exit.map(reason),
            message: exit.map(|exit| exit.message.clone()).unwrap_or_default(),
            labels: record.config.labels.clone(),
            annotations: record.config.annotations.clone(),
            mounts: record.config.mounts.clone(),
            log_path: record.log_path.clone(),
            resources: record.config.resources.clone(),
            user: (known.run.started_at > 0).then(|| known.run.user.clone()),
            stop_signal: record.stop_signal,
        }
    }
}

pub(crate) fn reason(exit: &Exit) -> ContainerReason {
    match exit {
        Exit { cannot_run: true, .. } => ContainerReason::StartError,
        Exit { lost: true, .. } => ContainerReason::Unknown,
        Exit { oom_killed: true, .. } => ContainerReason::OomKilled,
        Exit { code: 0, .. } => ContainerReason::Completed,
        _ => ContainerReason::Error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container() -> Container {
        Container::new(PathBuf::new(), ContainerRecord::default(), ContainerRun::default())
    }

    fn running() -> ContainerRun {
        ContainerRun { pid: 5, started_at: 10, ..ContainerRun::default() }
    }

    fn exited(exit: Exit) -> ContainerRun {
        ContainerRun { exit: Some(exit), ..running() }
    }

    #[test]
    fn a_container_never_goes_back() {
        let container = container();
        assert_eq!(container.advance(running()), [ContainerState::Running]);
        assert_eq!(container.advance(running()), []);
        assert_eq!(container.advance(exited(Exit::default())), [ContainerState::Exited]);
        assert_eq!(container.advance(running()), []);
        assert_eq!(container.state(), ContainerState::Exited);
    }

    #[test]
    fn an_end_that_comes_before_the_start_passes_through_running() {
        assert_eq!(container().advance(exited(Exit::default())), [ContainerState::Running, ContainerState::Exited]);
        let never = ContainerRun { exit: Some(Exit { cannot_run: true, ..Exit::default() }), ..ContainerRun::default() };
        assert_eq!(container().advance(never), [ContainerState::Exited]);
    }

    #[test]
    fn the_reason_says_how_it_ended() {
        for (exit, expect) in [
            (Exit::default(), ContainerReason::Completed),
            (Exit { code: 3, ..Exit::default() }, ContainerReason::Error),
            (Exit { code: 137, oom_killed: true, ..Exit::default() }, ContainerReason::OomKilled),
            (Exit { code: 128, cannot_run: true, ..Exit::default() }, ContainerReason::StartError),
            (Exit { code: LOST, lost: true, ..Exit::default() }, ContainerReason::Unknown),
        ] {
            assert_eq!(reason(&exit), expect);
        }
    }
}
