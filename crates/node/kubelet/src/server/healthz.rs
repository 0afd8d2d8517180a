//! Where anybody on the machine may ask whether the kubelet is well: upstream's healthzPort. It answers nothing else.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use fram_streaming::answer::{Body, refuse, text};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(10);
/// As many may ask at once; whoever comes later waits.
const MOST: usize = 16;

fn answer(request: &Request<Incoming>) -> Response<Body> {
    match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/healthz" | "/healthz/ping") => text("ok"),
        _ => *refuse(StatusCode::NOT_FOUND, "404 page not found"),
    }
}

/// Serves until `stop`. Where another program has the port the node works all the same.
pub(crate) async fn serve(address: SocketAddr, stop: CancellationToken) {
    let socket = match TcpListener::bind(address).await {
        Ok(socket) => socket,
        Err(error) => return tracing::warn!(%address, %error, "the kubelet's health is not served"),
    };
    let mut visits = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_) = visits.join_next(), if !visits.is_empty() => {}
            accepted = socket.accept(), if visits.len() < MOST => match accepted {
                Ok((stream, _)) => {
                    visits.spawn(visit(stream));
                }
                // Without descriptors the next try would fail at once.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }
    visits.shutdown().await;
}

async fn visit(stream: tokio::net::TcpStream) {
    let service = hyper::service::service_fn(|request| async move { Ok::<_, Infallible>(answer(&request)) });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(PATIENCE).keep_alive(false);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "who asked for the kubelet's health went early");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn health_is_told_and_nothing_else() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let stop = CancellationToken::new();
        let mut serving = JoinSet::new();
        serving.spawn(serve(free, stop.clone()));
        for (path, expect) in [("/healthz", "HTTP/1.1 200 OK"), ("/pods", "HTTP/1.1 404 Not Found")] {
            let mut stream = loop {
                match tokio::net::TcpStream::connect(free).await {
                    Ok(stream) => break stream,
                    Err(_) => tokio::task::yield_now().await,
                }
            };
            stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
            let mut told = String::new();
            stream.read_to_string(&mut told).await.unwrap();
            assert!(told.starts_with(expect), "{told}");
        }
        stop.cancel();
        serving.join_next().await.unwrap().unwrap();
    }
}
