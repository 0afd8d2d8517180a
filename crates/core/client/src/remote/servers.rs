//! The servers of a cluster, of which any answers: who answered last is asked first, and the others where it does not. One that says
//! for a while that it cannot serve, such as for want of its etcd, is passed over too.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::address::Address;
use super::{Kubeconfig, RemoteError};

/// How long a server may take to be connected to.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same where there are others.
const SHORT: Duration = Duration::from_secs(3);

/// How long a server may say that it cannot serve, and nothing else, before another one is asked.
const ILL: Duration = Duration::from_secs(10);
/// How often it says so at least within that time: one answer says little.
const ILL_ANSWERS: u32 = 3;
/// Where all of them are ill, as without their etcd, turning round helps nobody: after each round it takes twice as long, up to
/// this many times.
const MOST_DOUBLINGS: usize = 4;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Server {
    address: Address,
    name: ServerName<'static>,
}

impl Server {
    fn of(url: &str, name: Option<&String>) -> Result<Self, RemoteError> {
        let address = Address::parse(url)?;
        let name = match name {
            Some(name) => ServerName::try_from(name.clone()).map_err(|_| RemoteError::Address(name.clone()))?,
            None => address.server_name()?,
        };
        Ok(Self { address, name })
    }

    async fn connect(&self, tls: &TlsConnector, patience: Duration) -> Result<TlsStream<TcpStream>, RemoteError> {
        let connected = async {
            let stream = TcpStream::connect((self.address.host.as_str(), self.address.port)).await?;
            stream.set_nodelay(true)?;
            tls.connect(self.name.clone(), stream).await
        };
        let failed = |source| RemoteError::Connect { address: self.address.authority.clone(), source };
        tokio::time::timeout(patience, connected).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())).map_err(failed)
    }
}

#[derive(Debug)]
struct Asked {
    /// In the order in which they are asked.
    all: Vec<Server>,
    /// Since when the first says only that it cannot serve, and how often it has.
    ill: Option<(Instant, u32)>,
    /// How many were passed over since one of them gave a good answer.
    passed: usize,
}

/// Where a cluster is served. Clones are of the same list.
#[derive(Debug, Clone)]
pub struct Servers {
    /// The one of the kubeconfig, which is always among them.
    home: Server,
    /// The name that all of them have to show, if it is not that of their address.
    name: Option<String>,
    asked: Arc<Mutex<Asked>>,
    /// How many times a server was passed over: connections made before have no future.
    passed_over: watch::Sender<u64>,
}

impl Servers {
    /// The one server of a kubeconfig.
    pub fn of(config: &Kubeconfig) -> Result<Self, RemoteError> {
        let name = config.server_name.clone();
        let home = Server::of(&config.server, name.as_ref())?;
        let asked = Asked { all: vec![home.clone()], ill: None, passed: 0 };
        Ok(Self { asked: Arc::new(Mutex::new(asked)), home, name, passed_over: watch::Sender::new(0) })
    }

    /// These URLs (`https://HOST:PORT`) are the other servers from now on. Where one of them is none, all stays as it is.
    pub fn set_others(&self, urls: &[String]) -> Result<(), RemoteError> {
        let mut next = vec![self.home.clone()];
        for url in urls {
            let server = Server::of(url, self.name.as_ref())?;
            if next.iter().all(|known| known.address.authority != server.address.authority) {
                next.push(server);
            }
        }
        let mut asked = self.asked.lock();
        match asked.all.first().and_then(|first| next.iter().position(|server| server == first)) {
            Some(at) => next.swap(0, at),
            None => asked.ill = None,
        }
        asked.all = next;
        Ok(())
    }

    /// Their URLs, in the order in which they are asked.
    pub fn urls(&self) -> Vec<String> {
        self.asked.lock().all.iter().map(|server| format!("https://{}", server.address.authority)).collect()
    }

    pub(super) fn home(&self) -> &Address {
        &self.home.address
    }

    /// A connection to the first that answers. What is said of a failure is what the first of them said.
    pub async fn dial(&self, tls: &TlsConnector) -> Result<TlsStream<TcpStream>, RemoteError> {
        let all = self.asked.lock().all.clone();
        let patience = if all.len() > 1 { SHORT } else { PATIENCE };
        let mut said = None;
        for server in &all {
            match server.connect(tls, patience).await {
                Ok(stream) => {
                    self.prefer(server);
                    return Ok(stream);
                }
                Err(error) => {
                    if all.len() > 1 {
                        tracing::info!(%error, "a server does not answer, another one is asked");
                    }
                    said.get_or_insert(error);
                }
            }
        }
        Err(said.unwrap_or_else(|| RemoteError::Address(self.home.address.authority.clone())))
    }

    /// Takes note of an answer. After some time in which it only says that it cannot serve, the server is the last that is asked from then
    /// on, and connections to it end. Other failures, such as those of a webhook, would be the same at any server.
    pub(super) fn answered(&self, status: StatusCode) {
        let mut asked = self.asked.lock();
        if status != StatusCode::SERVICE_UNAVAILABLE {
            if !status.is_server_error() {
                (asked.ill, asked.passed) = (None, 0);
            }
            return;
        }
        let (since, times) = asked.ill.map_or_else(|| (Instant::now(), 1), |(since, times)| (since, times.saturating_add(1)));
        asked.ill = Some((since, times));
        if asked.all.len() < 2 {
            return;
        }
        let rounds = (asked.passed / asked.all.len()).min(MOST_DOUBLINGS);
        if times < ILL_ANSWERS || since.elapsed() < ILL * (1 << rounds) {
            return;
        }
        asked.ill = None;
        asked.passed += 1;
        asked.all.rotate_left(1);
        if let Some(passed) = asked.all.last() {
            tracing::warn!(server = passed.address.authority, "a server says that it cannot serve, another one is asked");
        }
        self.passed_over.send_modify(|times| *times += 1);
    }

    /// For who makes a connection next: `changed` says that its server has been passed over.
    pub fn passings(&self) -> watch::Receiver<u64> {
        self.passed_over.subscribe()
    }

    fn prefer(&self, server: &Server) {
        let mut asked = self.asked.lock();
        if let Some(at) = asked.all.iter().position(|known| known == server).filter(|at| *at > 0) {
            asked.all[..=at].rotate_right(1);
            // What the one before said is not held against it.
            asked.ill = None;
        }
    }
}

/// A connection to the server of a URL, for who speaks over it in another way than by requests.
pub async fn dial(server: &str, tls: rustls::ClientConfig) -> Result<TlsStream<TcpStream>, RemoteError> {
    Server::of(server, None)?.connect(&TlsConnector::from(Arc::new(tls)), PATIENCE).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers() -> Servers {
        let config = Kubeconfig { server: "https://192.0.2.1:6443".into(), ..Default::default() };
        Servers::of(&config).unwrap()
    }

    #[test]
    fn who_answered_is_asked_first_for_as_long_as_it_is_there() {
        let servers = servers();
        let urls = |numbers: &[u8]| numbers.iter().map(|n| format!("https://192.0.2.{n}:6443")).collect::<Vec<_>>();
        servers.set_others(&urls(&[1, 2, 3])).unwrap();
        assert_eq!(servers.urls(), urls(&[1, 2, 3]));
        servers.prefer(&Server::of("https://192.0.2.3:6443", None).unwrap());
        assert_eq!(servers.urls(), urls(&[3, 1, 2]));
        servers.set_others(&urls(&[2, 3, 4])).unwrap();
        assert_eq!(servers.urls(), urls(&[3, 2, 1, 4]), "the one of the kubeconfig stays");
        assert!(servers.set_others(&["http://192.0.2.9".into()]).is_err());
        assert_eq!(servers.urls().len(), 4);
        servers.set_others(&[]).unwrap();
        assert_eq!(servers.urls(), urls(&[1]));
    }

    #[tokio::test(start_paused = true)]
    async fn who_answers_with_nothing_but_failures_is_passed_over() {
        let servers = servers();
        let urls = |numbers: &[u8]| numbers.iter().map(|n| format!("https://192.0.2.{n}:6443")).collect::<Vec<_>>();
        let mut passings = servers.passings();
        let ill = async |seconds: u64| {
            for _ in 0..seconds {
                servers.answered(StatusCode::SERVICE_UNAVAILABLE);
                tokio::time::advance(Duration::from_secs(1)).await;
            }
        };
        ill(20).await;
        assert!(!passings.has_changed().unwrap(), "there is no other");
        servers.set_others(&urls(&[1, 2])).unwrap();
        servers.answered(StatusCode::NOT_FOUND);
        ill(9).await;
        servers.answered(StatusCode::OK);
        ill(10).await;
        assert_eq!(servers.urls(), urls(&[1, 2]), "not for long enough");
        ill(1).await;
        assert_eq!(servers.urls(), urls(&[2, 1]));
        assert!(passings.has_changed().unwrap() && *passings.borrow_and_update() == 1);
        ill(10).await;
        assert_eq!(servers.urls(), urls(&[2, 1]), "the next one has as long");
        servers.prefer(&Server::of("https://192.0.2.1:6443", None).unwrap());
        ill(10).await;
        assert_eq!(servers.urls(), urls(&[1, 2]), "who is asked instead is not blamed for what the other said");
    }

    #[tokio::test(start_paused = true)]
    async fn where_all_are_ill_they_are_passed_over_ever_less_often() {
        let servers = servers();
        servers.set_others(&["https://192.0.2.2:6443".into()]).unwrap();
        let passed = || *servers.passings().borrow();
        let mut at = Vec::new();
        for second in 0..=100 {
            let before = passed();
            servers.answered(StatusCode::SERVICE_UNAVAILABLE);
            if passed() > before {
                at.push(second);
            }
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(at, [10, 21, 42, 63], "a second later the next one is asked");
        servers.answered(StatusCode::OK);
        for _ in 0..=10 {
            servers.answered(StatusCode::SERVICE_UNAVAILABLE);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(passed(), 5, "a good answer makes it as it was");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_passed_over_for_what_others_would_say_too() {
        let servers = servers();
        servers.set_others(&["https://192.0.2.2:6443".into()]).unwrap();
        for _ in 0..60 {
            servers.answered(StatusCode::INTERNAL_SERVER_ERROR);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        servers.answered(StatusCode::SERVICE_UNAVAILABLE);
        tokio::time::advance(Duration::from_secs(60)).await;
        servers.answered(StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(*servers.passings().borrow(), 0, "nor for two answers");
        servers.answered(StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(*servers.passings().borrow(), 1);
    }

    #[tokio::test]
    async fn another_one_is_asked_where_the_first_does_not_answer() {
        let tls = TlsConnector::from(Arc::new(crate::unverified::config(&[b"h2"]).unwrap()));
        let (dead, alive) =
            (tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap(), tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap());
        let url = |socket: &tokio::net::TcpListener| format!("https://{}", socket.local_addr().unwrap());
        let servers = Servers::of(&Kubeconfig { server: url(&dead), ..Default::default() }).unwrap();
        let refused = dead.local_addr().unwrap().to_string();
        drop(dead);
        assert!(servers.dial(&tls).await.unwrap_err().is_refused());
        servers.set_others(&[url(&alive)]).unwrap();
        // Who answers is not one who speaks TLS, and that is said of the second; of a failure of all the first is told.
        let answering = async { drop(alive.accept().await.unwrap()) };
        let (error, ()) = tokio::join!(servers.dial(&tls), answering);
        let error = error.unwrap_err();
        assert!(error.is_refused() && error.to_string().contains(&refused), "{error}");
    }
}
