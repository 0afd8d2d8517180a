//! `fram port-forward`: local ports that lead into a pod, each connection over a WebSocket of its own (v4.channel.k8s.io).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use fram_machinery::{Value, meta};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

use crate::access::{Access, collection_path, query};
use crate::error::{CliError, Result};
use crate::pods;
use crate::print::{note, out};

#[derive(clap::Args, Debug, Clone)]
pub struct PortForward {
    /// A pod, or TYPE/NAME: service/web, deployment/web.
    #[arg(value_name = "POD|TYPE/NAME")]
    target: String,
    /// LOCAL:REMOTE, PORT for both, or :REMOTE for any free local port. REMOTE may be a name.
    #[arg(required = true, value_name = "[LOCAL:]REMOTE")]
    ports: Vec<String>,
    /// Where to listen.
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    address: IpAddr,
}

/// What one argument asks for; 0 is any free port.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pair {
    local: u16,
    remote: String,
}

fn pair(text: &str) -> Result<Pair> {
    let bad = || CliError::usage(format!("invalid port mapping {text:?}: write LOCAL:REMOTE, such as 8080:80"));
    let number = |text: &str| text.parse::<u16>().ok().filter(|p| *p > 0);
    match text.split_once(':') {
        None => number(text)
            .map(|p| Pair { local: p, remote: text.into() })
            .or_else(|| named(text).then(|| Pair { local: 0, remote: text.into() })),
        Some((_, "")) => None,
        Some(("" | "0", remote)) => Some(Pair { local: 0, remote: remote.into() }),
        Some((local, remote)) => number(local).map(|local| Pair { local, remote: remote.into() }),
    }
    .filter(|p| named(&p.remote) || number(&p.remote).is_some())
    .ok_or_else(bad)
}

fn named(text: &str) -> bool {
    text.contains(|c: char| c.is_ascii_alphabetic()) && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

/// The pod's port for what the user named: of a Service, its port; else the container's.
fn pod_port(remote: &str, service: Option<&Value>, pod: &Value) -> Result<u16> {
    let ports = || pod.list_at(&["spec", "containers"]).iter().flat_map(|c| c.list_at(&["ports"]));
    let by_name = |name: &str| {
        let found = ports().find(|p| p.str_at(&["name"]) == name).and_then(|p| p.int_at(&["containerPort"]));
        found.ok_or_else(|| CliError::failed(format!("pod {:?} does not have a named port {name:?}", meta::name(pod))))
    };
    let target = match service {
        None => remote.to_string(),
        Some(service) => {
            let is_meant = |p: &&Value| p.str_at(&["name"]) == remote || p.int_at(&["port"]).is_some_and(|n| n.to_string() == remote);
            let port = service.list_at(&["spec", "ports"]).iter().find(is_meant);
            let port =
                port.ok_or_else(|| CliError::failed(format!("Service {} does not have a service port {remote}", meta::name(service))))?;
            match port.get("targetPort") {
                Some(Value::String(name)) => name.to_string(),
                Some(Value::Int(number)) if service.str_at(&["spec", "clusterIP"]) != "None" => number.to_string(),
                _ => port.int_at(&["port"]).unwrap_or(0).to_string(),
            }
        }
    };
    let number = match target.parse::<i64>() {
        Ok(number) => number,
        Err(_) => by_name(&target)?,
    };
    u16::try_from(number).map_err(|_| CliError::failed(format!("{number} is no port")))
}

pub(crate) async fn run(access: &Access, forward: &PortForward) -> Result<()> {
    let pairs = forward.ports.iter().map(|p| pair(p)).collect::<Result<Vec<_>>>()?;
    let (owner, pod) = pods::running_pod(access, &forward.target).await?;
    let service = (owner.ty.kind == "Service").then_some(&*owner.object);
    let mut listeners = Vec::new();
    for Pair { local, remote } in pairs {
        let port = pod_port(&remote, service, &pod)?;
        let address = SocketAddr::new(forward.address, local);
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|e| CliError::failed(format!("unable to listen on {address}: {e}; choose another local port")))?;
        let bound = listener.local_addr().map_err(|e| CliError::failed(format!("unable to listen on {address}: {e}")))?;
        out(format!("Forwarding from {bound} -> {port}\n"))?;
        listeners.push((listener, bound.port(), port));
    }
    let collection = collection_path(access.resource_type("pods").await?, meta::namespace(&pod));
    let path = Arc::new(format!("{collection}/{}/portforward", meta::name(&pod)));
    let serving = listeners.into_iter().map(|(listener, local, port)| serve(access, listener, local, port, path.clone()));
    futures_util::future::try_join_all(serving).await.map(drop)
}

async fn serve(access: &Access, listener: TcpListener, local: u16, port: u16, path: Arc<String>) -> Result<()> {
    let mut connections = futures_util::stream::FuturesUnordered::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.map_err(|e| CliError::failed(format!("cannot accept a connection: {e}")))?;
                // Who started this and reads no more still wants the ports.
                let _ = out(format!("Handling connection for {local}\n"));
                connections.push(carry(access, stream, port, path.clone()));
            }
            Some(ended) = connections.next(), if !connections.is_empty() => {
                if let Err(error) = ended {
                    note(&format!("error forwarding port {port}: {error}"));
                }
            }
        }
    }
}

const PROTOCOL: &str = "v4.channel.k8s.io";
/// Of a socket with one port: its data, what goes wrong, and the closing of a channel.
const DATA: u8 = 0;
const ERROR: u8 = 1;
const CLOSE: u8 = 255;
const CHUNK: usize = 32 << 10;

/// Carries one connection to its end.
async fn carry(access: &Access, stream: TcpStream, port: u16, path: Arc<String>) -> Result<()> {
    let socket = access.websocket(&format!("{path}{}", query(&[("ports", &port.to_string())])), PROTOCOL).await?;
    let (mut sink, mut messages) = socket.split();
    let (mut reader, mut writer) = stream.into_split();
    let mut upward = JoinSet::new();
    upward.spawn(async move {
        let mut chunk = vec![DATA; CHUNK];
        while let Ok(read @ 1..) = reader.read(&mut chunk[1..]).await {
            if sink.send(Message::binary(chunk[..=read].to_vec())).await.is_err() {
                return;
            }
        }
        // What the pod still says after our end is delivered, so the socket stays.
        let _ = sink.send(Message::binary(vec![CLOSE, DATA])).await;
        std::future::pending::<()>().await;
    });
    // Each channel begins with the port's number.
    let mut begun = [false; 2];
    while let Some(Ok(message)) = messages.next().await {
        let Message::Binary(bytes) = message else { continue };
        let Some((channel, data)) = bytes.split_first() else { continue };
        let Some(begun) = begun.get_mut(usize::from(*channel)) else { continue };
        if !std::mem::replace(begun, true) {
            continue;
        }
        match *channel {
            ERROR => return Err(CliError::failed(String::from_utf8_lossy(data).into_owned())),
            _ => {
                if writer.write_all(data).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    #[test]
    fn port_arguments_are_read() {
        let read = |text: &str| pair(text).ok().map(|p| (p.local, p.remote));
        let cases = [
            ("8080:80", Some((8080, "80"))),
            ("80", Some((80, "80"))),
            (":80", Some((0, "80"))),
            ("0:80", Some((0, "80"))),
            ("8080:http", Some((8080, "http"))),
            ("http", Some((0, "http"))),
            ("8080:", None),
            ("x:80", None),
            ("70000:80", None),
            ("0", None),
        ];
        for (text, expect) in cases {
            assert_eq!(read(text), expect.map(|(l, r): (u16, &str)| (l, r.to_string())), "{text}");
        }
    }

    #[test]
    fn a_services_port_leads_to_its_target() {
        let pod =
            object!({ "metadata": { "name": "p" }, "spec": { "containers": [{ "ports": [{ "name": "web", "containerPort": 8080 }] }] } });
        let service = object!({ "metadata": { "name": "s" }, "spec": { "clusterIP": "10.0.0.1", "ports": [
            { "name": "http", "port": 80, "targetPort": "web" }, { "name": "other", "port": 81, "targetPort": 9000 }, { "port": 82 }] } });
        let port = |remote: &str, service: Option<&Value>| pod_port(remote, service, &pod).ok();
        assert_eq!(port("80", Some(&service)), Some(8080));
        assert_eq!(port("http", Some(&service)), Some(8080));
        assert_eq!(port("81", Some(&service)), Some(9000));
        assert_eq!(port("82", Some(&service)), Some(82));
        assert_eq!(port("83", Some(&service)), None);
        assert_eq!((port("8080", None), port("web", None), port("nothing", None)), (Some(8080), Some(8080), None));
    }
}
