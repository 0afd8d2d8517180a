//! One real etcd on loopback, for a test; it ends, and its data goes, with the value.

#![allow(dead_code, reason = "not every test that starts an etcd does everything with it")]

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;

pub(crate) struct EtcdServer {
    child: Child,
    arguments: Vec<String>,
    pub(crate) url: String,
    data: tempfile::TempDir,
}

impl EtcdServer {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::start_as("http", arguments)
    }

    pub(crate) fn start_by_tls(arguments: &[&str]) -> Self {
        Self::start_as("https", arguments)
    }

    fn start_as(scheme: &str, arguments: &[&str]) -> Self {
        let data = tempfile::tempdir().unwrap();
        let (url, peer) = (format!("{scheme}://127.0.0.1:{}", free_port()), format!("http://127.0.0.1:{}", free_port()));
        let cluster = format!("a={peer}");
        let folder = data.path().join("etcd").to_str().unwrap().to_string();
        let own = ["--name", "a", "--log-level", "fatal", "--logger", "zap", "--data-dir", &folder];
        // As quick as can be: nobody disturbs its elections.
        let pace = ["--heartbeat-interval", "10", "--election-timeout", "100"];
        let clients = ["--listen-client-urls", &url, "--advertise-client-urls", &url];
        let peers = ["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer, "--initial-cluster", &cluster];
        let all = [&own[..], &pace, &clients, &peers, arguments].concat();
        let arguments: Vec<String> = all.into_iter().map(String::from).collect();
        Self { child: launch(&arguments), arguments, url, data }
    }

    /// Ends etcd as a crash does, and starts it again on what it left.
    pub(crate) fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = launch(&self.arguments);
    }

    /// Another way to the same etcd, which can be cut.
    pub(crate) async fn relay(&self) -> Relay {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (url, target) = (format!("http://{}", listener.local_addr().unwrap()), self.url.trim_start_matches("http://").to_string());
        let open = Arc::new(watch::Sender::new(true));
        let (mut tasks, changes) = (JoinSet::new(), open.subscribe());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let (target, mut changes) = (target.clone(), changes.clone());
                connections.spawn(async move {
                    if !*changes.borrow_and_update() {
                        return;
                    }
                    let Ok(mut far) = tokio::net::TcpStream::connect(target).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = changes.changed() => {}
                    }
                });
            }
        });
        Relay { url, open, _tasks: tasks }
    }
}

fn launch(arguments: &[String]) -> Child {
    let mut command = Command::new("etcd");
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("etcd cannot be started: is etcd-server installed?")
}

impl Drop for EtcdServer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A way to an etcd that can be cut.
pub(crate) struct Relay {
    pub(crate) url: String,
    open: Arc<watch::Sender<bool>>,
    _tasks: JoinSet<()>,
}

impl Relay {
    /// Ends all connections and makes no new ones.
    pub(crate) fn cut(&self) {
        self.open.send_replace(false);
    }

    pub(crate) fn mend(&self) {
        self.open.send_replace(true);
    }
}

/// A port that nobody listens on at present.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
