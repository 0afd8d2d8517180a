//! Where the containers of measured pods call: the time of each name's call is kept.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Instant;

use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

pub(crate) struct Answers {
    address: SocketAddr,
    calls: UnboundedReceiver<(String, Instant)>,
    seen: HashMap<String, Instant>,
    /// Ends with the value.
    _listener: JoinSet<()>,
}

impl Answers {
    /// Listens at an address that pods reach.
    pub(crate) async fn listen(host: &str) -> Self {
        let listener = TcpListener::bind((host, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (said, calls) = unbounded_channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(hear(listener, said));
        Self { address, calls, seen: HashMap::new(), _listener: tasks }
    }

    pub(crate) fn address(&self) -> (String, u16) {
        (self.address.ip().to_string(), self.address.port())
    }

    /// When a container called, which may be in the future.
    pub(crate) async fn of(&mut self, name: &str) -> Instant {
        while !self.seen.contains_key(name) {
            let (name, at) = self.calls.recv().await.unwrap();
            self.seen.insert(name, at);
        }
        self.seen[name]
    }
}

async fn hear(listener: TcpListener, said: UnboundedSender<(String, Instant)>) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let at = Instant::now();
        let mut name = String::new();
        // A container that was killed while it spoke has not answered.
        if stream.read_to_string(&mut name).await.is_ok() && said.send((name.trim().to_string(), at)).is_err() {
            return;
        }
    }
}
