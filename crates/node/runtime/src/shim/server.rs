//! The shim's loop: one thread that waits for clients, for output, for creators and for children that end.

mod requests;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::clock;
use super::connection::{Connection, Role};
use super::container::{self, Container, Pipes};
use super::creator::{self, Creator, Report};
use super::log::LogFile;
use crate::cgroup::Cgroups;
use crate::durable::Sync;
use crate::protocol::{ContainerRun, ErrorKind, Exit, Response, StartContainer};

/// Exit code of a container whose first process could not be started; what runc and containerd say.
const CANNOT_RUN: i32 = 128;

enum Purpose {
    Start { request: Box<StartContainer>, pipes: Pipes, log: Option<LogFile> },
    Exec { container_id: String },
}

/// What a creator at work is for.
struct Creation {
    creator: Creator,
    connection: u64,
    purpose: Purpose,
}

enum Source {
    Listener,
    Signals,
    Connection(u64),
    Creation(u64),
    Container(String),
}

pub(super) struct Server {
    pub(super) dir: PathBuf,
    pub(super) cgroups: Cgroups,
    listener: UnixListener,
    signals: SignalFd,
    /// First process of a pid namespace that the containers share.
    first_process: Option<Pid>,
    connections: BTreeMap<u64, Connection>,
    creations: BTreeMap<u64, Creation>,
    containers: BTreeMap<String, Container>,
    /// Connections by the pid of their process.
    execs: BTreeMap<i32, u64>,
    /// Children that ended before their creator could say who they are.
    strays: BTreeMap<i32, i32>,
    next: u64,
    shutdown: Option<u64>,
}

impl Server {
    pub(super) fn new(dir: PathBuf, cgroups: Cgroups, listener: UnixListener, signals: SignalFd, first_process: Option<Pid>) -> Server {
        Server {
            dir,
            cgroups,
            listener,
            signals,
            first_process,
            connections: BTreeMap::new(),
            creations: BTreeMap::new(),
            containers: BTreeMap::new(),
            execs: BTreeMap::new(),
            strays: BTreeMap::new(),
            next: 0,
            shutdown: None,
        }
    }

    /// Serves until a client has asked for the end and everything has ended.
    pub(super) fn run(mut self) -> io::Result<()> {
        loop {
            for source in self.wait()? {
                match source {
                    Source::Listener => self.accept(),
                    Source::Signals => self.reap(),
                    Source::Connection(id) => self.serve(id),
                    Source::Creation(id) => self.created(id),
                    Source::Container(id) => self.containers.get_mut(&id).into_iter().for_each(Container::pump),
                }
            }
            if let Some(connection) = self.shutdown
                && self.creations.is_empty()
                && self.containers.values().all(|container| container.run.exit.is_some())
            {
                self.end_first_process();
                self.respond(connection, &Response::Ok);
                return Ok(());
            }
        }
    }

    /// It would end with the shim, but a moment later, when the sandbox is already said to be gone.
    fn end_first_process(&self) {
        if let Some(pid) = self.first_process {
            kill(pid.as_raw(), libc::SIGKILL);
            let _ = waitpid(pid, None);
        }
    }

    fn wait(&mut self) -> io::Result<Vec<Source>> {
        let mut sources = vec![Source::Listener, Source::Signals];
        let mut polled = vec![(self.listener.as_raw_fd(), libc::POLLIN), (self.signals.as_raw_fd(), libc::POLLIN)];
        for (id, connection) in &self.connections {
            let events = if connection.wants_to_write() { libc::POLLIN | libc::POLLOUT } else { libc::POLLIN };
            polled.push((connection.raw(), events));
            sources.push(Source::Connection(*id));
        }
        for (id, creation) in &self.creations {
            polled.push((creation.creator.line.as_raw_fd(), libc::POLLIN));
            sources.push(Source::Creation(*id));
        }
        for (id, container) in &self.containers {
            for interest in container.interests() {
                polled.push(interest);
                sources.push(Source::Container(id.clone()));
            }
        }
        let mut fds: Vec<libc::pollfd> = polled.into_iter().map(|(fd, events)| libc::pollfd { fd, events, revents: 0 }).collect();
        let deadline = self.containers.values().filter_map(Container::deadline).min();
        let timeout = deadline.map_or(-1, |deadline| {
            let left = deadline.saturating_duration_since(Instant::now()).as_millis() + 1;
            i32::try_from(left).unwrap_or(i32::MAX)
        });
        // SAFETY: the vector holds that many elements until the call returns.
        let ready = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout) };
        match ready {
            // Nothing but a stalled client: its container looks after it.
            0 => return Ok(self.containers.keys().cloned().map(Source::Container).collect()),
            -1 if Errno::last() == Errno::EINTR => return Ok(Vec::new()),
            -1 => return Err(io::Error::last_os_error()),
            _ => {}
        }
        let happened = sources.into_iter().zip(&fds).filter(|(_, fd)| fd.revents != 0);
        Ok(happened.map(|(source, _)| source).collect())
    }

    fn accept(&mut self) {
        // A client that is gone already is no client.
        if let Ok((socket, _)) = self.listener.accept()
            && let Ok(connection) = Connection::new(socket)
        {
            self.connections.insert(self.next, connection);
            self.next += 1;
        }
    }

    fn serve(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.flush();
        let open = connection.fill();
        while let Some(connection) = self.connections.get_mut(&id) {
            match connection.next() {
                Ok(Some(request)) => self.handle(id, request),
                Ok(None) => break,
                Err(error) => {
                    self.refuse(id, ErrorKind::Unsupported, error.to_string());
                    self.close(id);
                }
            }
        }
        if !open {
            self.close(id);
        }
    }

    fn close(&mut self, id: u64) {
        let Some(connection) = self.connections.remove(&id) else { return };
        match connection.role {
            Role::Exec(Some(pid)) if self.execs.remove(&pid).is_some() => kill_session(pid),
            Role::Attached(container_id) => {
                if let Some(container) = self.containers.get_mut(&container_id) {
                    container.detach(id);
                    if container.stdin_once && !container.tty {
                        container.stdin = None;
                    }
                }
            }
            _ => {}
        }
    }

    pub(super) fn respond(&mut self, connection: u64, response: &Response) {
        self.respond_with(connection, response, Vec::new());
    }

    fn respond_with(&mut self, connection: u64, response: &Response, fds: Vec<OwnedFd>) {
        if let Some(connection) = self.connections.get_mut(&connection) {
            connection.send(response, fds);
        }
    }

    fn refuse(&mut self, connection: u64, kind: ErrorKind, message: impl Into<String>) {
        self.respond(connection, &Response::Error { kind, message: message.into() });
    }

    /// A creator has reported, or died.
    fn created(&mut self, id: u64) {
        let Some(creation) = self.creations.remove(&id) else { return };
        let (report, terminal) = creator::report(&creation.creator.line)
            .unwrap_or_else(|| (Report::Failed { message: "the creator of the container died".into() }, None));
        match creation.purpose {
            Purpose::Start { request, pipes, log } => {
                self.started(creation.connection, &request, (pipes, log), (report, terminal));
            }
            Purpose::Exec { container_id } => self.joined(creation.connection, &container_id, report, terminal),
        }
        if self.creations.is_empty() {
            // Nobody is left to ask for them: they are orphans of containers.
            self.strays.clear();
        }
    }

    fn started(
        &mut self,
        connection: u64,
        request: &StartContainer,
        (mut pipes, log): (Pipes, Option<LogFile>),
        (report, terminal): (Report, Option<OwnedFd>),
    ) {
        let mut run = ContainerRun { container_id: request.container_id.clone(), started_at: clock::now(), ..ContainerRun::default() };
        match report {
            Report::Running { pid, user, warnings } => {
                (run.pid, run.user) = (pid, user);
                if let Some(terminal) = terminal {
                    set_nonblocking(&terminal);
                    pipes.stdout = terminal.try_clone().ok();
                    pipes.stdin = Some(terminal);
                }
                let container = Container::new(request, run.clone(), pipes, log);
                // If it cannot be written now, the record of the end will be tried again.
                let _ = container.record(Sync::No);
                self.containers.insert(request.container_id.clone(), container);
                // Who asked may have been killed meanwhile; whoever watches now must know that it runs.
                self.tell_watchers(&Response::ContainerRunning { run: run.clone() });
                self.respond(connection, &Response::Started { run, warnings });
                if let Some(code) = self.strays.remove(&pid) {
                    self.ended(&request.container_id, code);
                }
            }
            Report::Failed { message } => {
                self.cgroups.kill(&request.cgroup);
                let _ = self.cgroups.remove(&request.cgroup);
                (run.started_at, run.exit) =
                    (0, Some(Exit { code: CANNOT_RUN, finished_at: clock::now(), cannot_run: true, message, ..Exit::default() }));
                let _ = container::record(&request.dir, &run, Sync::Yes);
                self.respond(connection, &Response::StartFailed { run });
            }
        }
        if self.shutdown.is_some() {
            self.kill_all();
        }
    }

    fn joined(&mut self, connection: u64, container_id: &str, report: Report, terminal: Option<OwnedFd>) {
        let pid = match report {
            Report::Running { pid, .. } => pid,
            Report::Failed { message } => {
                let kind = if self.containers.get(container_id).is_some_and(|container| container.run.exit.is_none()) {
                    ErrorKind::CannotRun
                } else {
                    ErrorKind::InvalidState
                };
                return self.refuse(connection, kind, message);
            }
        };
        let stray = self.strays.remove(&pid);
        match self.connections.get_mut(&connection) {
            Some(client) => {
                client.role = Role::Exec(Some(pid));
                client.send(&Response::ExecStarted { pid }, terminal.into_iter().collect());
                match stray {
                    Some(code) => client.send(&Response::Exited { code }, Vec::new()),
                    None => drop(self.execs.insert(pid, connection)),
                }
            }
            // Whoever asked for it has gone.
            None if stray.is_none() => kill_session(pid),
            None => {}
        }
    }

    /// Takes in every child that has ended.
    fn reap(&mut self) {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        loop {
            let (pid, code) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid.as_raw(), code),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid.as_raw(), 128 + signal as i32),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(_) => return,
            };
            if let Some(connection) = self.execs.remove(&pid) {
                self.respond(connection, &Response::Exited { code });
                continue;
            }
            let by_pid = |creation: &&mut Creation| creation.creator.pid.is_some_and(|creator| creator.as_raw() == pid);
            if let Some(creation) = self.creations.values_mut().find(by_pid) {
                // Its number may be another's from now on. What it had to say is still on the line.
                creation.creator.pid = None;
                continue;
            }
            let runs = |container: &Container| container.run.pid == pid && container.run.exit.is_none();
            let container = self.containers.iter().find(|(_, container)| runs(container)).map(|(id, _)| id.clone());
            match container {
                Some(id) => self.ended(&id, code),
                None if self.first_process.is_some_and(|first| first.as_raw() == pid) => self.first_process = None,
                None if !self.creations.is_empty() => drop(self.strays.insert(pid, code)),
                None => {}
            }
        }
    }

    /// The first process of a container has ended: nothing of the container stays, and the end is on disk before anybody
    /// hears of it.
    fn ended(&mut self, id: &str, code: i32) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let oom_killed = self.cgroups.oom_kills(&container.cgroup) > 0;
        // Where it can be removed nobody is in it, as where the container had a pid namespace of its own.
        let removed = self.cgroups.remove(&container.cgroup);
        if removed.is_err() {
            self.cgroups.kill(&container.cgroup);
        }
        container.drain();
        container.run.exit = Some(Exit { code, finished_at: clock::now(), oom_killed, ..Exit::default() });
        // A full disk must not hide the end from those who listen now.
        let _ = container.record(Sync::Yes);
        if removed.is_err() {
            // It fails while a killed process is still dying; whoever removes the container tries again.
            let _ = self.cgroups.remove(&container.cgroup);
        }
        let run = container.run.clone();
        self.tell_watchers(&Response::ContainerExited { run });
        let attached = Role::Attached(id.to_owned());
        for connection in self.connections.values_mut().filter(|connection| connection.role == attached) {
            connection.send(&Response::Exited { code }, Vec::new());
        }
    }

    fn tell_watchers(&mut self, response: &Response) {
        for connection in self.connections.values_mut().filter(|connection| connection.role == Role::Watching) {
            connection.send(response, Vec::new());
        }
    }

    /// Ends whatever runs or is being made.
    fn kill_all(&mut self) {
        for pid in self.creations.values().filter_map(|creation| creation.creator.pid) {
            kill(pid.as_raw(), libc::SIGKILL);
        }
        for container in self.containers.values().filter(|container| container.run.exit.is_none()) {
            kill(container.run.pid, libc::SIGKILL);
            self.cgroups.kill(&container.cgroup);
        }
    }
}

/// Signals a child that was not reaped yet, so that its number is still its own.
fn kill(pid: i32, signal: i32) {
    // SAFETY: takes numbers only. A process that has just ended is not an error here.
    unsafe { libc::kill(pid, signal) };
}

/// Kills an exec's process with what it has started; it leads a session and a process group of its own.
fn kill_session(pid: i32) {
    kill(-pid, libc::SIGKILL);
    kill(pid, libc::SIGKILL);
}

pub(crate) fn set_nonblocking(fd: &OwnedFd) {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = fcntl(fd, FcntlArg::F_GETFL).map(OFlag::from_bits_truncate).unwrap_or(OFlag::empty());
    // Fails on no descriptor that can be read or written.
    let _ = fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK));
}
