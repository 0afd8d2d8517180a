//! Whom a proxy request to a pod or Service means: `[SCHEME:]NAME[:PORT]` as upstream's proxy subresources take it.

use std::net::SocketAddr;
use std::sync::Arc;

use fram_client::unverified;
use fram_machinery::{Status, Value, meta};
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use crate::endpoints::{self, address, of_service};
use crate::nodes::Stream;
use crate::path::ResourcePath;
use crate::registry::Place;
use crate::server::Server;

/// Scheme, name and port of a proxied name; empty where they are not given.
fn split(name: &str) -> (&str, &str, &str) {
    let parts: Vec<&str> = name.split(':').collect();
    match parts.as_slice() {
        [name] => ("", name, ""),
        [name, port] => ("", name, port),
        [scheme, name, port] => (scheme, name, port),
        _ => ("", name, ""),
    }
}

/// Who answers a proxied request.
pub(super) struct Backend {
    pub(super) node: String,
    pub(super) address: SocketAddr,
    /// It speaks TLS. Who it is is not asked, as upstream does not ask it.
    pub(super) tls: bool,
}

impl Backend {
    /// A stream to it, as `endpoints::dial` finds the way.
    pub(super) async fn connect(&self, server: &Server) -> Result<Box<dyn Stream>, Status> {
        let stream = endpoints::dial(&*server.nodes, &self.node, self.address).await?;
        if !self.tls {
            return Ok(stream);
        }
        let config = unverified::config(&[b"http/1.1"]).map_err(Status::internal)?;
        let name = ServerName::IpAddress(self.address.ip().into());
        let secured = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        let failed = |e| Status::new(fram_machinery::Reason::ServiceUnavailable, format!("error trying to reach service: {e}"));
        Ok(Box::new(secured.map_err(failed)?))
    }
}

/// The node and address behind a proxied pod or Service.
pub(super) async fn find(server: &Server, path: &ResourcePath) -> Result<Backend, Status> {
    let (scheme, name, port) = split(&path.name);
    let tls = match scheme {
        "" | "http" => false,
        "https" => true,
        other => return Err(Status::bad_request(format!("invalid proxy request: unknown scheme {other:?}"))),
    };
    let served = server.registry.served("", "v1", &path.plural).ok_or_else(Status::no_such_path)?;
    let object = server.registry.get_object(&Place { served, namespace: path.namespace.clone(), name: name.into() }).await?;
    let (node, address) = if path.plural == "pods" { of_pod(&object, port)? } else { of_service(&server.registry, &object, port).await? };
    Ok(Backend { node, address, tls })
}

/// The port that was asked for, or else the first that the pod declares.
fn of_pod(pod: &Value, port: &str) -> Result<(String, SocketAddr), Status> {
    let declared = pod.list_at(&["spec", "containers"]).iter().flat_map(|c| c.list_at(&["ports"])).collect::<Vec<_>>();
    let number = match port {
        "" => declared.first().and_then(|p| p.int_at(&["containerPort"])).unwrap_or(80),
        text => match text.parse() {
            Ok(number) => number,
            Err(_) => {
                let named = declared.iter().find(|p| p.str_at(&["name"]) == text).and_then(|p| p.int_at(&["containerPort"]));
                named.ok_or_else(|| Status::bad_request(format!("pod {} has no port {text:?}", meta::name(pod))))?
            }
        },
    };
    Ok((pod.str_at(&["spec", "nodeName"]).to_string(), address(pod.str_at(&["status", "podIP"]), number)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    #[test]
    fn proxied_names_are_taken_apart() {
        assert_eq!(split("a"), ("", "a", ""));
        assert_eq!(split("a:80"), ("", "a", "80"));
        assert_eq!(split("https:a:x"), ("https", "a", "x"));
    }

    #[test]
    fn a_port_of_a_pod_goes_by_number_or_name() {
        let pod = object!({ "metadata": { "name": "p" }, "spec": { "nodeName": "n", "containers": [{ "ports": [{ "name": "web", "containerPort": 8080 }] }] },
            "status": { "podIP": "10.0.0.1" } });
        for (port, expect) in [("", "10.0.0.1:8080"), ("web", "10.0.0.1:8080"), ("9", "10.0.0.1:9")] {
            assert_eq!(of_pod(&pod, port).unwrap().1.to_string(), expect);
        }
        assert!(of_pod(&pod, "other").is_err());
    }
}
