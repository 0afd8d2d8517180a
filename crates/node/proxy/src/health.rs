//! Health-check ports of Services that want to keep their clients' addresses (type LoadBalancer, external traffic policy Local): a
//! load balancer asks each node there whether it has endpoints, over HTTP; see upstream's pkg/proxy/healthcheck. Which Service
//! has which port is the API server's business.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use fram_datapath::NetlinkError;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::proxy::Proxy;
use crate::service::{EndpointSlice, Service};

/// How long a client may take to say what it wants, and how many may be there at once on one port.
const PATIENCE: Duration = Duration::from_secs(5);
const MOST_CLIENTS: usize = 64;
/// How long nobody is let in after a failure: the first pause and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// What is answered on one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Check {
    namespace: String,
    name: String,
    /// The ready endpoints of the Service on this node.
    endpoints: usize,
}

/// The checks of a node by their ports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checks {
    by_port: BTreeMap<u16, Check>,
    /// The rules of Services are as they should be.
    healthy: bool,
}

impl Checks {
    pub fn new(services: &[Service], slices: &[EndpointSlice], node: &str, healthy: bool) -> Self {
        let mut local: HashMap<(&str, &str), BTreeSet<IpAddr>> = HashMap::new();
        for slice in slices {
            let here = slice.endpoints.iter().filter(|e| e.ready && e.node_name.as_deref() == Some(node));
            let all = local.entry((&slice.namespace, &slice.service)).or_default();
            all.extend(here.filter_map(|e| e.addresses.first()));
        }
        let check = |s: &Service| {
            let endpoints = local.get(&(s.namespace.as_str(), s.name.as_str())).map_or(0, BTreeSet::len);
            Some((s.health_check_port?, Check { namespace: s.namespace.clone(), name: s.name.clone(), endpoints }))
        };
        Self { by_port: services.iter().filter_map(check).collect(), healthy }
    }

    /// Code and body of the answer on a port.
    fn answer(&self, port: u16) -> Option<(u16, usize, String)> {
        let check = self.by_port.get(&port)?;
        let code = if check.endpoints > 0 && self.healthy { 200 } else { 503 };
        let body = format!(
            "{{\n\t\"service\": {{\n\t\t\"namespace\": {:?},\n\t\t\"name\": {:?}\n\t}},\n\t\"localEndpoints\": {},\n\t\"serviceProxyHealthy\": {}\n}}",
            check.namespace, check.name, check.endpoints, self.healthy
        );
        Some((code, check.endpoints, body))
    }
}

/// Answers on the ports of the checks; ends with this value.
pub struct HealthServer {
    proxy: Proxy,
    told: watch::Sender<Arc<Checks>>,
    open: BTreeMap<u16, CancellationToken>,
    tasks: JoinSet<()>,
}

impl HealthServer {
    pub fn new(proxy: Proxy) -> Self {
        Self { proxy, told: watch::Sender::default(), open: BTreeMap::new(), tasks: JoinSet::new() }
    }

    /// Answers by these checks from now on; says which ports cannot be listened on.
    pub fn apply(&mut self, checks: Checks) -> Vec<(u16, String)> {
        while self.tasks.try_join_next().is_some() {}
        self.open.retain(|port, stop| {
            let stays = checks.by_port.contains_key(port);
            if !stays {
                stop.cancel();
            }
            stays
        });
        let wanted: Vec<u16> = checks.by_port.keys().filter(|port| !self.open.contains_key(port)).copied().collect();
        self.told.send_replace(Arc::new(checks));
        wanted.into_iter().filter_map(|port| Some((port, self.listen(port).err()?))).collect()
    }

    fn listen(&mut self, port: u16) -> Result<(), String> {
        let addresses: Vec<SocketAddr> = self.proxy.config().node_ips.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
        let open = || -> Result<Vec<std::io::Result<TcpListener>>, NetlinkError> {
            Ok(addresses.iter().map(|address| TcpListener::bind(*address).and_then(|l| l.set_nonblocking(true).map(|()| l))).collect())
        };
        let opened = match &self.proxy.config().namespace {
            Some(namespace) => namespace.run(open),
            None => open(),
        };
        let listeners = opened.map_err(|e| e.to_string())?;
        let stop = CancellationToken::new();
        let all = listeners.into_iter().zip(&addresses).map(|(listener, address)| {
            listener.and_then(tokio::net::TcpListener::from_std).map_err(|e| format!("listening on {address}: {e}"))
        });
        for listener in all.collect::<Result<Vec<_>, _>>()? {
            self.tasks.spawn(serve(listener, port, self.told.subscribe(), stop.clone()));
        }
        self.open.insert(port, stop);
        Ok(())
    }
}

async fn serve(listener: tokio::net::TcpListener, port: u16, told: watch::Receiver<Arc<Checks>>, stop: CancellationToken) {
    let (mut clients, mut pause) = (JoinSet::new(), PAUSES.0);
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            Some(_) = clients.join_next(), if !clients.is_empty() => continue,
            accepted = listener.accept(), if clients.len() < MOST_CLIENTS => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                clients.spawn(converse(stream, port, told.clone()));
                pause = PAUSES.0;
            }
            // Without descriptors the next try would fail at once, and the one after it.
            Err(error) => {
                tracing::warn!(%error, port, "a client of a health check could not be accepted");
                if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                    return;
                }
                pause = (pause * 2).min(PAUSES.1);
            }
        }
    }
}

async fn converse(stream: tokio::net::TcpStream, port: u16, told: watch::Receiver<Arc<Checks>>) {
    let answer = service_fn(move |_: Request<Incoming>| {
        let checks = told.borrow().clone();
        async move { Ok::<_, Infallible>(response(checks.answer(port))) }
    });
    let connection =
        http1::Builder::new().timer(TokioTimer::new()).header_read_timeout(PATIENCE).serve_connection(TokioIo::new(stream), answer);
    if let Err(error) = connection.await {
        tracing::debug!(%error, port, "a health check ended early");
    }
}

fn response(answer: Option<(u16, usize, String)>) -> Response<Full<Bytes>> {
    let (code, endpoints, body) = answer.unwrap_or((404, 0, String::new()));
    let built = Response::builder()
        .status(code)
        .header("content-type", "application/json")
        .header("x-content-type-options", "nosniff")
        .header("x-load-balancing-endpoint-weight", endpoints)
        .body(Full::new(Bytes::from(body)));
    built.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Endpoint;

    fn endpoint(ip: &str, ready: bool, node: &str) -> Endpoint {
        Endpoint { addresses: vec![ip.parse().unwrap()], ready, node_name: Some(node.into()), ..Default::default() }
    }

    #[test]
    fn a_node_is_asked_for_the_ready_endpoints_that_it_has_itself() {
        let service =
            |name: &str, port| Service { namespace: "ns".into(), name: name.into(), health_check_port: port, ..Default::default() };
        let slice = |name: &str, endpoints| EndpointSlice { namespace: "ns".into(), service: name.into(), endpoints, ..Default::default() };
        let services = [service("here", Some(30001)), service("there", Some(30002)), service("plain", None)];
        let slices = [
            slice("here", vec![endpoint("10.0.0.1", true, "n"), endpoint("10.0.0.2", true, "n"), endpoint("10.0.0.3", false, "n")]),
            slice("here", vec![endpoint("10.0.0.1", true, "n")]),
            slice("there", vec![endpoint("10.0.0.9", true, "other")]),
        ];
        let checks = Checks::new(&services, &slices, "n", true);
        let told = |checks: &Checks, port| checks.answer(port).map(|(code, endpoints, _)| (code, endpoints));
        assert_eq!([30001, 30002, 30003].map(|port| told(&checks, port)), [Some((200, 2)), Some((503, 0)), None]);
        assert_eq!(told(&Checks::new(&services, &slices, "n", false), 30001), Some((503, 2)), "rules that are not in place");
        let (_, _, body) = checks.answer(30001).unwrap();
        assert!(body.contains("\"namespace\": \"ns\"") && body.contains("\"localEndpoints\": 2"), "{body}");
    }
}
