//! One real etcd on loopback, for a test; it ends, and its data goes, with the value.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

pub(crate) struct EtcdServer {
    child: Child,
    pub(crate) url: String,
    _data: tempfile::TempDir,
}

impl EtcdServer {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let data = tempfile::tempdir().unwrap();
        let [url, peer] = [free_port(), free_port()].map(|port| format!("http://127.0.0.1:{port}"));
        let child = Command::new("etcd")
            .args(["--name", "a", "--log-level", "fatal", "--logger", "zap"])
            // As quick as can be: nobody disturbs its elections.
            .args(["--heartbeat-interval", "10", "--election-timeout", "100"])
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer, "--initial-cluster", &format!("a={peer}")])
            .args(arguments)
            .arg("--data-dir")
            .arg(data.path().join("etcd"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd cannot be started: is etcd-server installed?");
        Self { child, url, _data: data }
    }
}

impl Drop for EtcdServer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that nobody listens on at present.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
