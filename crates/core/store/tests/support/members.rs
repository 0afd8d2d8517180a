//! Three real etcd members, each in a network namespace of its own, on a bridge in the namespace of the calling thread; they can be
//! killed, paused and cut off. Everything goes with the value.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fram_grpc::wire::{Writer, fields};
use fram_grpc::{Channel, GrpcError, Options};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;

pub(crate) const MEMBERS: usize = 3;

pub(crate) struct Members {
    members: Vec<Member>,
    data: tempfile::TempDir,
    tasks: TaskTracker,
}

struct Member {
    namespace: String,
    child: Option<Child>,
}

fn run(line: &str) {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().expect(line);
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

fn address(index: usize) -> String {
    format!("10.79.0.{}", index + 1)
}

pub(crate) fn url(index: usize) -> String {
    format!("http://{}:2379", address(index))
}

impl Members {
    /// Gives the calling thread a namespace of its own, and starts the members. Has to be called before the thread has made
    /// sockets that it needs later.
    pub(crate) fn start() -> Self {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a network namespace is needed, and root for it");
        run("ip link set lo up");
        run("ip link add switch type bridge");
        run("ip addr add 10.79.0.254/24 dev switch");
        run("ip link set switch up");
        let mut members = Self { members: Vec::new(), data: tempfile::tempdir().unwrap(), tasks: TaskTracker::new() };
        for index in 0..MEMBERS {
            let namespace = format!("fram-etcd-{}-{index}", std::process::id());
            members.members.push(Member { namespace: namespace.clone(), child: None });
            run(&format!("ip netns add {namespace}"));
            run(&format!("ip link add member{index} type veth peer name eth0 netns {namespace}"));
            run(&format!("ip link set member{index} master switch up"));
            run(&format!("ip -n {namespace} addr add {}/24 dev eth0", address(index)));
            run(&format!("ip -n {namespace} link set eth0 up"));
            run(&format!("ip -n {namespace} link set lo up"));
        }
        (0..MEMBERS).for_each(|index| members.launch(index));
        members
    }

    pub(crate) fn launch(&mut self, index: usize) {
        let name = |index: usize| format!("member{index}");
        let peer = |index: usize| format!("http://{}:2380", address(index));
        let all: Vec<String> = (0..MEMBERS).map(|index| format!("{}={}", name(index), peer(index))).collect();
        let member = &mut self.members[index];
        let child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", member.namespace))
            .args(["etcd", "--name", &name(index), "--log-level", "fatal", "--logger", "zap"])
            .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
            .args(["--listen-client-urls", &url(index), "--advertise-client-urls", &url(index)])
            .args(["--listen-peer-urls", &peer(index), "--initial-advertise-peer-urls", &peer(index)])
            .args(["--initial-cluster", &all.join(","), "--initial-cluster-state", "new"])
            .arg("--data-dir")
            .arg(self.data.path().join(name(index)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd cannot be started: is etcd-server installed?");
        member.child = Some(child);
    }

    pub(crate) fn kill(&mut self, index: usize) {
        let mut child = self.members[index].child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub(crate) fn signal(&self, index: usize, signal: Signal) {
        let child = self.members[index].child.as_ref().unwrap();
        kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Cuts a member off from the others and from clients, or takes it back.
    pub(crate) fn cut(&self, index: usize, is_cut: bool) {
        run(&format!("ip link set member{index} {}", if is_cut { "down" } else { "up" }));
    }

    /// A call to one member.
    pub(crate) async fn call(&self, index: usize, method: &str, message: &Writer) -> Result<bytes::Bytes, GrpcError> {
        let authority = format!("{}:2379", address(index));
        let stream = TcpStream::connect(&authority).await.map_err(|_| GrpcError::Malformed)?;
        let options = Options { authority, metadata: Vec::new(), max_message: 1 << 20, keep_alive: None };
        Channel::new(stream, options, &self.tasks).await?.unary(method, &message.0).await
    }

    /// The member that leads, once all have one and the same leader.
    pub(crate) async fn leader(&self) -> usize {
        let deadline = Instant::now() + Duration::from_secs(30);
        while Instant::now() < deadline {
            let mut views = Vec::new();
            for index in 0..MEMBERS {
                let view = tokio::time::timeout(Duration::from_secs(1), self.view(index)).await;
                views.extend(view.ok().flatten());
            }
            let (_, leader) = views.first().copied().unwrap_or_default();
            if views.len() == MEMBERS && leader != 0 && views.iter().all(|view| view.1 == leader) {
                return views.iter().position(|view| view.0 == leader).unwrap();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the members do not agree on a leader");
    }

    /// A member's own number, and that of the leader as it sees it.
    pub(crate) async fn view(&self, index: usize) -> Option<(u64, u64)> {
        let status = self.call(index, "/etcdserverpb.Maintenance/Status", &Writer::default()).await.ok()?;
        let (mut own, mut leader) = (0, 0);
        for field in fields(&status) {
            match field.ok()? {
                (1, header) => {
                    let numbers = fields(header.bytes().ok()?).filter_map(Result::ok);
                    own = numbers.filter(|(number, _)| *number == 2).find_map(|(_, value)| value.number().ok())?;
                }
                (4, value) => leader = value.number().ok()?,
                _ => {}
            }
        }
        Some((own, leader))
    }

    /// Asks a member to hand its lead over. It goes on trying for as long as it is asked; whether it succeeds in time is its affair.
    pub(crate) async fn move_leader(&self, from: usize, to: usize) {
        let moving = async {
            let (number, _) = self.view(to).await?;
            self.call(from, "/etcdserverpb.Maintenance/MoveLeader", &Writer::default().number(1, number)).await.ok()
        };
        let _ = tokio::time::timeout(Duration::from_secs(3), moving).await;
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        for member in &mut self.members {
            if let Some(child) = &mut member.child {
                // It may have ended by itself.
                let _ = child.kill();
                let _ = child.wait();
            }
            let _ = Command::new("ip").args(["netns", "del", &member.namespace]).status();
        }
    }
}
