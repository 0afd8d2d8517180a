//! The kubelet's own port: HTTPS, and nobody comes in unknown. Client certificates of the authorities that are trusted here (the cluster's,
//! and those of clientCAFile) and tokens that the API server knows say who somebody is; what they may, the API server says.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use fram_streaming::answer::{Body, refuse};
use http::{Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::access;
use super::reviews::{Reviews, Visitor};
use crate::kubelet::Kubelet;

/// How long a visitor may take for the handshake, and then for the head of a request.
const PATIENCE: Duration = Duration::from_secs(10);
/// After a failure to accept: without descriptors the next try would fail at once.
const PAUSE: Duration = Duration::from_millis(100);

impl Kubelet {
    /// Serves the port until `stop`. The certificate may change meanwhile; whoever comes then sees the new one. Until there is one,
    /// nobody is let in.
    pub async fn serve_port(self, socket: TcpListener, tls: watch::Receiver<Option<Arc<rustls::ServerConfig>>>, stop: CancellationToken) {
        let reviews = Arc::new(Reviews::new(self.client().clone(), self.ctx.config.node_name.clone(), self.ctx.config.reviews));
        let mut visits = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ended) = visits.join_next(), if !visits.is_empty() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a connection's task failed");
                    }
                }
                accepted = socket.accept() => match accepted {
                    Ok((stream, _)) => {
                        if let Some(config) = tls.borrow().clone() {
                            visits.spawn(visit(self.clone(), stream, TlsAcceptor::from(config), reviews.clone()));
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        }
        visits.shutdown().await;
    }

    /// Answers who may ask.
    async fn admit(&self, request: Request<Incoming>, certificate: Option<&Visitor>, reviews: &Reviews) -> Response<Body> {
        let failed = |why: String| *refuse(StatusCode::INTERNAL_SERVER_ERROR, &why);
        let bearer = request.headers().get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).and_then(|v| v.strip_prefix("Bearer "));
        let visitor = match (bearer, certificate) {
            (Some(token), _) => reviews.visitor(token.trim()).await,
            (None, certificate) => Ok(certificate.cloned()),
        };
        let visitor = match visitor {
            Ok(Some(visitor)) => visitor,
            Ok(None) => return *refuse(StatusCode::UNAUTHORIZED, "Unauthorized"),
            Err(status) => return failed(format!("the credentials could not be checked: {status}")),
        };
        let first = request.uri().path().trim_start_matches('/').split('/').next().unwrap_or_default();
        let needed = access::needed(request.method(), first);
        let mut allowed = false;
        for subresource in &needed.subresources {
            match reviews.allows(&visitor, needed.verb, subresource).await {
                Ok(answer) => allowed |= answer,
                Err(status) => {
                    let (user, verb) = (&visitor.name, needed.verb);
                    return failed(format!(
                        "Authorization error (user={user}, verb={verb}, resource=nodes, subresource={subresource}): {status}"
                    ));
                }
            }
            if allowed {
                break;
            }
        }
        if !allowed {
            let (user, verb, subresources) = (&visitor.name, needed.verb, needed.subresources.join(" "));
            let why = format!("Forbidden (user={user}, verb={verb}, resource=nodes, subresource(s)=[{subresources}])");
            return *refuse(StatusCode::FORBIDDEN, &why);
        }
        self.answer(request).await
    }
}

async fn visit(kubelet: Kubelet, stream: TcpStream, acceptor: TlsAcceptor, reviews: Arc<Reviews>) {
    let stream = match tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => return tracing::debug!("TLS handshake took too long"),
    };
    let certificates = stream.get_ref().1.peer_certificates();
    let certificate = Arc::new(certificates.and_then(|c| c.first()).and_then(|c| Visitor::of_certificate(c)));
    let service = hyper::service::service_fn(|request| {
        let (kubelet, certificate, reviews) = (kubelet.clone(), certificate.clone(), reviews.clone());
        async move { Ok::<_, Infallible>(kubelet.admit(request, certificate.as_ref().as_ref(), &reviews).await) }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).with_upgrades().await {
        tracing::debug!(%error, "a connection to the kubelet ended early");
    }
}
