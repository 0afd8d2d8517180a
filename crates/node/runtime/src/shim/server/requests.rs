//! What the shim does for each request.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket};
use nix::unistd::pipe2;

use super::{Creation, Purpose, Server, kill, set_nonblocking};
use crate::protocol::{self, ErrorKind, Exec, OLDEST, PidNamespace, Request, Response, StartContainer, VERSION};
use crate::shim::connection::Role;
use crate::shim::container::Pipes;
use crate::shim::creator::{self, Creator, Joinable, Stdio};
use crate::shim::join;
use crate::shim::log::LogFile;

/// Why a request is refused.
type Refusal = (ErrorKind, String);

fn internal(error: impl std::fmt::Display) -> Refusal {
    (ErrorKind::Internal, error.to_string())
}

fn unknown(container_id: &str) -> Refusal {
    (ErrorKind::NotFound, format!("container {container_id:?} is not running in this sandbox"))
}

impl Server {
    pub(super) fn handle(&mut self, id: u64, request: Request) {
        let outcome = match request {
            Request::Hello { version, oldest } => match protocol::negotiate(version, oldest) {
                Ok(version) => Ok(Response::Hello { version, oldest: OLDEST }),
                Err(error) => {
                    self.respond(id, &Response::Hello { version: VERSION, oldest: OLDEST });
                    self.refuse(id, ErrorKind::Unsupported, error.to_string());
                    // What may have come along is not understood either.
                    return self.close(id);
                }
            },
            Request::State => Ok(self.state()),
            Request::Watch => {
                self.set_role(id, Role::Watching);
                Ok(self.state())
            }
            Request::Signal { container_id, signal, all } => self.signal(&container_id, signal, all),
            Request::ReopenLog { container_id } => self.reopen_log(&container_id),
            Request::Forget { container_id } => self.forget(&container_id),
            Request::Start(request) => return self.start(id, request),
            Request::Exec(request) => return self.exec(id, &request),
            Request::Attach { container_id, stdin, stdout, stderr } => {
                return self.attach(id, container_id, stdin, [stdout, stderr]);
            }
            Request::CloseStdin => return self.close_stdin(id),
            Request::PortForward { port } => return self.port_forward(id, port),
            Request::Shutdown => {
                self.shutdown = Some(id);
                return self.kill_all();
            }
        };
        match outcome {
            Ok(response) => self.respond(id, &response),
            Err((kind, message)) => self.refuse(id, kind, message),
        }
    }

    fn close_stdin(&mut self, id: u64) {
        if let Some(Role::Attached(container_id)) = self.connections.get(&id).map(|connection| &connection.role)
            && let Some(container) = self.containers.get_mut(container_id)
            && container.stdin_once
            && !container.tty
        {
            container.stdin = None;
        }
    }

    fn set_role(&mut self, id: u64, role: Role) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.role = role;
        }
    }

    fn state(&self) -> Response {
        let containers = self.containers.values().map(|container| container.run.clone()).collect();
        // A pid fits an int.
        Response::State { pid: std::process::id() as i32, containers }
    }

    fn signal(&mut self, container_id: &str, signal: i32, all: bool) -> Result<Response, Refusal> {
        let container = self.containers.get(container_id).ok_or_else(|| unknown(container_id))?;
        if container.run.exit.is_none() {
            kill(container.run.pid, signal);
            if all && signal == libc::SIGKILL {
                self.cgroups.kill(&container.cgroup);
            } else if all {
                self.cgroups.processes(&container.cgroup).into_iter().for_each(|pid| kill(pid, signal));
            }
        }
        Ok(Response::Ok)
    }

    fn reopen_log(&mut self, container_id: &str) -> Result<Response, Refusal> {
        let container = self.containers.get_mut(container_id).ok_or_else(|| unknown(container_id))?;
        container.reopen_log().map_err(internal)?;
        Ok(Response::Ok)
    }

    fn forget(&mut self, container_id: &str) -> Result<Response, Refusal> {
        if self.is_starting(container_id) {
            return Err((ErrorKind::InvalidState, format!("container {container_id:?} is being started")));
        }
        match self.containers.get(container_id) {
            Some(container) if container.run.exit.is_none() => {
                Err((ErrorKind::InvalidState, format!("container {container_id:?} is running")))
            }
            _ => {
                self.containers.remove(container_id);
                Ok(Response::Ok)
            }
        }
    }

    fn is_starting(&self, container_id: &str) -> bool {
        self.creations.values().any(|creation| match &creation.purpose {
            Purpose::Start { request, .. } => request.container_id == container_id,
            Purpose::Exec { .. } => false,
        })
    }

    fn start(&mut self, id: u64, request: Box<StartContainer>) {
        if let Err((kind, message)) = self.begin_start(id, request) {
            self.refuse(id, kind, message);
        }
    }

    fn begin_start(&mut self, id: u64, request: Box<StartContainer>) -> Result<(), Refusal> {
        let container_id = &request.container_id;
        if self.containers.contains_key(container_id) || self.is_starting(container_id) {
            return Err((ErrorKind::InvalidState, format!("container {container_id:?} was started already")));
        }
        if self.shutdown.is_some() {
            return Err((ErrorKind::InvalidState, "the sandbox is stopping".into()));
        }
        let pid_path = self.pid_namespace(&request.pid_namespace)?;
        // A container whose output would be lost does not start.
        let log = request.log_path.as_deref().map(LogFile::open).transpose();
        let log = log.map_err(|error| internal(format_args!("open log {:?}: {error}", request.log_path)))?;
        let (stdio, pipes) = pipes(&request).map_err(internal)?;
        let creator = creator::start(&request, &self.cgroups, pid_path, stdio).map_err(internal)?;
        self.begin(creator, id, Purpose::Start { request, pipes, log });
        Ok(())
    }

    fn begin(&mut self, creator: Creator, connection: u64, purpose: Purpose) {
        self.creations.insert(self.next, Creation { creator, connection, purpose });
        self.next += 1;
    }

    /// The namespace to join, if it is neither a new one nor the node's.
    fn pid_namespace(&self, wanted: &PidNamespace) -> Result<Option<PathBuf>, Refusal> {
        let pid = match wanted {
            PidNamespace::Container | PidNamespace::Node => return Ok(None),
            PidNamespace::Pod => {
                let missing = || (ErrorKind::InvalidState, "the sandbox has no shared pid namespace".to_owned());
                self.first_process.ok_or_else(missing)?.as_raw()
            }
            PidNamespace::Target(target) => {
                let container = self.containers.get(target).filter(|container| container.run.exit.is_none());
                container.ok_or_else(|| unknown(target))?.run.pid
            }
        };
        Ok(Some(PathBuf::from(format!("/proc/{pid}/ns/pid"))))
    }

    fn exec(&mut self, id: u64, request: &Exec) {
        if let Err((kind, message)) = self.begin_exec(id, request) {
            self.refuse(id, kind, message);
        }
    }

    fn begin_exec(&mut self, id: u64, request: &Exec) -> Result<(), Refusal> {
        let container = self.containers.get(&request.container_id);
        let container = container.filter(|container| container.run.exit.is_none());
        let container = container.ok_or_else(|| unknown(&request.container_id))?;
        let (dir, init, cgroup) = (container.dir.clone(), container.run.pid, container.cgroup.clone());
        // It was not reaped yet, so its number is its own.
        let first = join::open_process(init).map_err(internal)?;
        let connection = self.connections.get_mut(&id).ok_or_else(|| internal("the client has gone"))?;
        connection.role = Role::Exec(None);
        let mut stdio = Stdio::default();
        if !request.tty {
            let mut given = |wanted| connection.take_fd(wanted).map_or_else(creator::null, Ok);
            stdio.stdin = Some(given(request.stdin).map_err(internal)?);
            stdio.stdout = Some(given(request.stdout).map_err(internal)?);
            stdio.stderr = Some(given(request.stderr).map_err(internal)?);
        }
        let joinable = Joinable { dir: &dir, first, init, cgroup: &cgroup, cgroups: &self.cgroups };
        let creator = creator::exec(request, &joinable, stdio).map_err(internal)?;
        self.begin(creator, id, Purpose::Exec { container_id: request.container_id.clone() });
        Ok(())
    }

    fn attach(&mut self, id: u64, container_id: String, stdin: bool, outputs: [bool; 2]) {
        let running = |container: &&mut super::Container| container.run.exit.is_none();
        let Some(container) = self.containers.get_mut(&container_id).filter(running) else {
            let (kind, message) = unknown(&container_id);
            return self.refuse(id, kind, message);
        };
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let [stdout, stderr] = outputs.map(|wanted| connection.take_fd(wanted));
        [&stdout, &stderr].into_iter().flatten().for_each(set_nonblocking);
        let stdin = container.stdin.as_ref().filter(|_| stdin || container.tty).and_then(|fd| fd.try_clone().ok());
        container.attach(id, stdout, stderr);
        connection.role = Role::Attached(container_id);
        self.respond_with(id, &Response::Attached, stdin.into_iter().collect());
    }

    fn port_forward(&mut self, id: u64, port: u16) {
        let outcome = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
            .into_iter()
            .map(|address| connect_to(SocketAddr::new(address, port)))
            .reduce(Result::or);
        match outcome {
            Some(Ok(socket)) => self.respond_with(id, &Response::Connected, vec![socket]),
            Some(Err(error)) => {
                let message = format!("connect to port {port} in the sandbox: {}", error.desc());
                self.refuse(id, ErrorKind::InvalidState, message);
            }
            None => {}
        }
    }
}

/// On the loopback a connection is refused at once or there; one that waits for a full backlog is completed by the client.
fn connect_to(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Stream, flags, None)?;
    match connect(std::os::fd::AsRawFd::as_raw_fd(&socket), &SockaddrStorage::from(address)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(socket),
        Err(error) => Err(error),
    }
}

/// The container's ends of its pipes, and ours.
fn pipes(request: &StartContainer) -> io::Result<(Stdio, Pipes)> {
    let (mut stdio, mut ours) = (Stdio::default(), Pipes::default());
    if request.tty {
        return Ok((stdio, ours));
    }
    if request.stdin {
        let (reading, writing) = pipe2(OFlag::O_CLOEXEC)?;
        set_nonblocking(&writing);
        (stdio.stdin, ours.stdin) = (Some(reading), Some(writing));
    } else {
        stdio.stdin = Some(creator::null()?);
    }
    for (theirs, ours) in [(&mut stdio.stdout, &mut ours.stdout), (&mut stdio.stderr, &mut ours.stderr)] {
        let (reading, writing) = pipe2(OFlag::O_CLOEXEC)?;
        set_nonblocking(&reading);
        (*ours, *theirs) = (Some(reading), Some(writing));
    }
    Ok((stdio, ours))
}
