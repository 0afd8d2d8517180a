//! `fram port-forward`: local ports that lead into a pod, each connection over a WebSocket of its own (v4.channel.k8s.io).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use fram_client::remote::{Query, path};
use fram_machinery::{Value, meta};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

use crate::access::Access;
use crate::error::{CliError, Result};
use crate::pods;
use crate::print::{note, out, say};

#[derive(clap::Args, Debug, Clone)]
pub struct PortForward {
    /// A pod, or TYPE/NAME: service/web, deployment/web.
    #[arg(value_name = "POD|TYPE/NAME")]
    target: String,
    /// LOCAL:REMOTE, PORT for both, or :REMOTE for any free local port. REMOTE and PORT may be names.
    #[arg(required = true, value_name = "[LOCAL:]REMOTE")]
    ports: Vec<String>,
    /// Where to listen: IP addresses, or localhost for those of both versions.
    #[arg(long, value_name = "IP|localhost", value_delimiter = ',', default_value = "localhost")]
    address: Vec<String>,
}

/// Where to listen on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Local {
    /// At the number of the port that is named.
    Same,
    /// At this port; 0 is any free one.
    Port(u16),
}

/// What one argument asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pair {
    local: Local,
    remote: String,
}

/// Addresses to listen at, and which of them may fail: of localhost's two, one suffices.
fn addresses(words: &[String]) -> Result<Vec<(IpAddr, bool)>> {
    let mut found: Vec<(IpAddr, bool)> = Vec::new();
    for word in words {
        let meant = match word.as_str() {
            "localhost" => vec![(Ipv4Addr::LOCALHOST.into(), true), (Ipv6Addr::LOCALHOST.into(), true)],
            ip => vec![(ip.parse().map_err(|_| CliError::usage(format!("{ip} is not a valid IP")))?, false)],
        };
        for (ip, may_fail) in meant {
            match found.iter_mut().find(|(known, _)| *known == ip) {
                Some((_, known)) => *known &= may_fail,
                None => found.push((ip, may_fail)),
            }
        }
    }
    Ok(found)
}

fn pair(text: &str) -> Result<Pair> {
    let bad = || CliError::usage(format!("invalid port mapping {text:?}: write LOCAL:REMOTE, such as 8080:80"));
    let number = |text: &str| text.parse::<u16>().ok().filter(|p| *p > 0);
    match text.split_once(':') {
        None => Some(Pair { local: Local::Same, remote: text.into() }),
        Some((_, "")) => None,
        Some(("" | "0", remote)) => Some(Pair { local: Local::Port(0), remote: remote.into() }),
        Some((local, remote)) => number(local).map(|local| Pair { local: Local::Port(local), remote: remote.into() }),
    }
    .filter(|p| named(&p.remote) || number(&p.remote).is_some())
    .ok_or_else(bad)
}

fn named(text: &str) -> bool {
    text.contains(|c: char| c.is_ascii_alphabetic()) && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

/// A port that the user named: its own number, and that of the pod's port behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Port {
    own: u16,
    pod: u16,
}

/// The pod's port for what the user named: of a Service, its port; else the container's.
fn port_of(remote: &str, service: Option<&Value>, pod: &Value) -> Result<Port> {
    let ports = || pod.list_at(&["spec", "containers"]).iter().flat_map(|c| c.list_at(&["ports"]));
    let by_name = |name: &str| {
        let found = ports().find(|p| p.str_at(&["name"]) == name).and_then(|p| p.int_at(&["containerPort"]));
        found.ok_or_else(|| CliError::failed(format!("pod {:?} does not have a named port {name:?}", meta::name(pod))))
    };
    let (own, target) = match service {
        None => (None, remote.to_string()),
        Some(service) => {
            let is_meant = |p: &&Value| p.str_at(&["name"]) == remote || p.int_at(&["port"]).is_some_and(|n| n.to_string() == remote);
            let port = service.list_at(&["spec", "ports"]).iter().find(is_meant);
            let port =
                port.ok_or_else(|| CliError::failed(format!("Service {} does not have a service port {remote}", meta::name(service))))?;
            let own = port.int_at(&["port"]).unwrap_or(0);
            let target = match port.get("targetPort") {
                Some(Value::String(name)) => name.to_string(),
                Some(Value::Int(number)) if service.str_at(&["spec", "clusterIP"]) != "None" => number.to_string(),
                _ => own.to_string(),
            };
            (Some(own), target)
        }
    };
    let number = match target.parse::<i64>() {
        Ok(number) => number,
        Err(_) => by_name(&target)?,
    };
    let checked = |number: i64| u16::try_from(number).map_err(|_| CliError::failed(format!("{number} is no port")));
    Ok(Port { own: checked(own.unwrap_or(number))?, pod: checked(number)? })
}

/// Listens at all addresses at one port: the first that was free where any will do.
async fn listen(addresses: &[(IpAddr, bool)], mut local: u16) -> Result<Vec<(TcpListener, SocketAddr)>> {
    let (mut listeners, mut failures) = (Vec::new(), Vec::new());
    for (ip, may_fail) in addresses {
        let address = SocketAddr::new(*ip, local);
        let failed = |e| CliError::failed(format!("unable to listen on {address}: {e}; choose another local port"));
        match TcpListener::bind(address).await.and_then(|l| l.local_addr().map(|bound| (l, bound))) {
            Ok((listener, bound)) => {
                local = bound.port();
                listeners.push((listener, bound));
            }
            Err(error) if *may_fail => failures.push(failed(error)),
            Err(error) => return Err(failed(error)),
        }
    }
    if listeners.is_empty() {
        Err(CliError::all(failures).err().unwrap_or(CliError::usage("no address to listen on")))
    } else {
        Ok(listeners)
    }
}

pub(crate) async fn run(access: &Access, forward: &PortForward) -> Result<()> {
    let pairs = forward.ports.iter().map(|p| pair(p)).collect::<Result<Vec<_>>>()?;
    let addresses = addresses(&forward.address)?;
    let (owner, pod) = pods::usable_pod(access, &forward.target, pods::Use::Forward).await?;
    let service = (owner.ty.kind == "Service").then_some(&*owner.object);
    let mut listeners = Vec::new();
    for Pair { local, remote } in pairs {
        let port = port_of(&remote, service, &pod)?;
        let local = if let Local::Port(local) = local { local } else { port.own };
        for (listener, bound) in listen(&addresses, local).await? {
            out(format!("Forwarding from {bound} -> {}\n", port.pod))?;
            listeners.push((listener, bound.port(), port.pod));
        }
    }
    let pods = access.resource_type("pods").await?.resource();
    let path = Arc::new(path(&pods, meta::namespace(&pod), meta::name(&pod), "portforward"));
    let serving = listeners.into_iter().map(|(listener, local, port)| serve(access, listener, local, port, path.clone()));
    futures_util::future::try_join_all(serving).await.map(drop)
}

async fn serve(access: &Access, listener: TcpListener, local: u16, port: u16, path: Arc<String>) -> Result<()> {
    let mut connections = futures_util::stream::FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            Some(ended) = connections.next(), if !connections.is_empty() => {
                if let Err(error) = ended {
                    note(&format!("error forwarding port {port}: {error}"));
                }
            }
            accepted = listener.accept() => {
                let (stream, _) = accepted.map_err(|e| CliError::failed(format!("cannot accept a connection: {e}")))?;
                // Who started this and reads no more still wants the ports.
                say(&format!("Handling connection for {local}"));
                connections.push(carry(access, stream, port, path.clone()));
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
    let socket = access.websocket(&format!("{path}{}", Query::of(&[("ports", &port.to_string())])), PROTOCOL).await?;
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
            ("8080:80", Some((Local::Port(8080), "80"))),
            ("80", Some((Local::Same, "80"))),
            (":80", Some((Local::Port(0), "80"))),
            ("0:80", Some((Local::Port(0), "80"))),
            ("8080:http", Some((Local::Port(8080), "http"))),
            ("http", Some((Local::Same, "http"))),
            ("8080:", None),
            ("x:80", None),
            ("70000:80", None),
            ("0", None),
        ];
        for (text, expect) in cases {
            assert_eq!(read(text), expect.map(|(l, r): (Local, &str)| (l, r.to_string())), "{text}");
        }
    }

    #[test]
    fn a_services_port_leads_to_its_target() {
        let pod =
            object!({ "metadata": { "name": "p" }, "spec": { "containers": [{ "ports": [{ "name": "web", "containerPort": 8080 }] }] } });
        let service = object!({ "metadata": { "name": "s" }, "spec": { "clusterIP": "10.0.0.1", "ports": [
            { "name": "http", "port": 80, "targetPort": "web" }, { "name": "other", "port": 81, "targetPort": 9000 }, { "port": 82 }] } });
        let port = |remote: &str, service: Option<&Value>| port_of(remote, service, &pod).ok().map(|p| (p.own, p.pod));
        assert_eq!(port("80", Some(&service)), Some((80, 8080)));
        assert_eq!(port("http", Some(&service)), Some((80, 8080)));
        assert_eq!(port("81", Some(&service)), Some((81, 9000)));
        assert_eq!(port("82", Some(&service)), Some((82, 82)));
        assert_eq!(port("83", Some(&service)), None);
        assert_eq!((port("8080", None), port("web", None), port("nothing", None)), (Some((8080, 8080)), Some((8080, 8080)), None));
    }

    #[test]
    fn of_localhosts_addresses_one_suffices() {
        let read = |words: &[&str]| addresses(&words.iter().map(|w| w.to_string()).collect::<Vec<_>>()).ok();
        let (four, six) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST));
        assert_eq!(read(&["localhost"]), Some(vec![(four, true), (six, true)]));
        assert_eq!(read(&["127.0.0.1", "localhost"]), Some(vec![(four, false), (six, true)]));
        assert_eq!(read(&["elsewhere"]), None);
    }
}
