//! One member of an etcd cluster: its address, and how a connection to it is made.

use std::sync::Arc;
use std::time::Duration;

use fram_grpc::{Channel, Options};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::TaskTracker;

use crate::error::StoreError;

use super::cluster::Failure;

/// What is asked of each connection, and for how long its answer is waited for. etcd takes pings every five seconds at most; see
/// its --grpc-keepalive-min-time.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(6), Duration::from_secs(3));
/// The largest answer: pages of a thousand objects, or the changes that a watch missed.
const MAX_MESSAGE: usize = 1 << 30;
/// A member that lost its leader refuses at once, in place of waiting for it; see rpctypes' MetadataRequireLeaderKey.
const METADATA: (&str, &str) = ("hasleader", "true");

/// How servers are told to be the right ones, and clients to be theirs.
#[derive(Clone)]
pub struct Tls(Arc<rustls::ClientConfig>);

impl Tls {
    /// Trusts the authorities of `ca`; shows a certificate where one is given. All in PEM. Fails with what is wrong.
    pub fn new(ca: &[u8], identity: Option<(&[u8], &[u8])>) -> Result<Self, String> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca) {
            roots.add(certificate.map_err(|e| format!("the authority is not PEM: {e}"))?).map_err(|e| e.to_string())?;
        }
        if roots.is_empty() {
            return Err("the file of the authority holds no certificate".into());
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.map_err(|e| e.to_string())?.with_root_certificates(roots);
        let mut config = match identity {
            Some((certificate, key)) => {
                let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>();
                let chain = chain.map_err(|e| format!("the certificate is not PEM: {e}"))?;
                let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| format!("the key is not PEM: {e}"))?;
                config.with_client_auth_cert(chain, key).map_err(|e| e.to_string())?
            }
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self(Arc::new(config)))
    }
}

pub(crate) struct Endpoint {
    host: String,
    authority: String,
    tls: Option<(Tls, ServerName<'static>)>,
}

impl Endpoint {
    /// Reads `https://host:port`, `http://host:port` or `host:port`.
    pub(crate) fn parse(server: &str, tls: Option<&Tls>) -> Result<Self, StoreError> {
        let wrong = |why: &str| StoreError::Options(format!("etcd server {server:?}: {why}"));
        let (secure, authority) = match server.split_once("://") {
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            None => (false, server),
            Some(_) => return Err(wrong("http or https is needed")),
        };
        let authority = authority.trim_end_matches('/');
        let (host, port) = authority.rsplit_once(':').ok_or_else(|| wrong("host and port are needed"))?;
        port.parse::<u16>().map_err(|_| wrong("the port is not a number"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_string();
        let tls = match (secure, tls) {
            (false, _) => None,
            (true, None) => return Err(wrong("https needs --etcd-cafile")),
            (true, Some(tls)) => {
                let name = ServerName::try_from(host.clone()).map_err(|_| wrong("the host is neither a DNS name nor an address"))?;
                Some((tls.clone(), name))
            }
        };
        Ok(Self { host, authority: authority.into(), tls })
    }

    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// Makes a connection.
    pub(crate) async fn dial(&self, tasks: &TaskTracker) -> Result<Channel, Failure> {
        let failed = |error: std::io::Error| Failure::Unsent(format!("cannot connect to {}: {error}", self.authority));
        let options =
            Options { authority: self.authority.clone(), metadata: vec![METADATA], max_message: MAX_MESSAGE, keep_alive: Some(KEEP_ALIVE) };
        let port = self.authority.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok()).unwrap_or_default();
        let stream = TcpStream::connect((self.host.as_str(), port)).await.map_err(failed)?;
        // Requests are small and wait for one another.
        stream.set_nodelay(true).map_err(failed)?;
        let channel = match &self.tls {
            None => Channel::new(stream, options, tasks).await,
            Some((tls, name)) => {
                let stream = TlsConnector::from(tls.0.clone()).connect(name.clone(), stream).await.map_err(failed)?;
                Channel::new(stream, options, tasks).await
            }
        };
        channel.map_err(|error| Failure::Unsent(format!("cannot connect to {}: {error}", self.authority)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_named_by_scheme_host_and_port() {
        let cases = [("http://127.0.0.1:2379", "127.0.0.1"), ("etcd-1.example:2379/", "etcd-1.example"), ("http://[::1]:2379", "::1")];
        for (server, host) in cases {
            assert_eq!(Endpoint::parse(server, None).ok().map(|e| e.host), Some(host.into()), "{server}");
        }
        for server in ["https://127.0.0.1:2379", "ftp://a:1", "http://127.0.0.1", "a:b", ""] {
            assert!(Endpoint::parse(server, None).is_err(), "{server}");
        }
    }
}
