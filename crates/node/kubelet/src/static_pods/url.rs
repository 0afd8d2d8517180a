//! Pods that a URL gives: asked for again and again, since nobody tells when they change. What cannot be fetched or read changes
//! nothing of what runs. See upstream's pkg/kubelet/config/http.go.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fram_api::Api;
use fram_machinery::Value;
use http::StatusCode;
use tokio_util::sync::CancellationToken;

use super::manifest::{Origin, SEEN, read_all};
use crate::clock;
use crate::config::StaticPodUrl;
use crate::context::Context;
use crate::net::{self, HttpTarget, NetError};

/// As upstream's client has.
const PATIENCE: Duration = Duration::from_secs(10);
/// A list of all pods that a node can run is smaller.
const LARGEST: usize = 10 << 20;

#[derive(Debug, thiserror::Error)]
enum UrlError {
    #[error(transparent)]
    Net(#[from] NetError),
    #[error("no answer within {PATIENCE:?}")]
    Slow,
    #[error("{0}")]
    Refused(StatusCode),
    #[error("zero-length data received")]
    Empty,
    #[error("{0}")]
    Pods(String),
}

/// Asks until `stop`.
pub(crate) async fn keep(ctx: Arc<Context>, source: StaticPodUrl, stop: CancellationToken) {
    let mut last = Bytes::new();
    stop.run_until_cancelled(async {
        loop {
            if let Err(error) = look(&ctx, &source, &mut last).await {
                tracing::warn!(url = %source.url, %error, "static pods could not be read from the URL");
            }
            tokio::time::sleep(source.every).await;
        }
    })
    .await;
}

fn target(source: &StaticPodUrl) -> HttpTarget {
    let url = &source.url;
    let https = url.scheme_str() == Some("https");
    HttpTarget {
        https,
        host: url.host().unwrap_or_default().trim_matches(['[', ']']).to_string(),
        port: url.port_u16().unwrap_or(if https { 443 } else { 80 }),
        path: url.path_and_query().map_or_else(|| "/".to_string(), ToString::to_string),
        headers: source.headers.clone(),
    }
}

async fn look(ctx: &Context, source: &StaticPodUrl, last: &mut Bytes) -> Result<(), UrlError> {
    let (status, body) = tokio::time::timeout(PATIENCE, net::fetch(&target(source), LARGEST)).await.map_err(|_| UrlError::Slow)??;
    if status != StatusCode::OK {
        return Err(UrlError::Refused(status));
    }
    if body.is_empty() {
        // It says so, and not that it failed: there are no pods.
        last.clear();
        ctx.statics.set_url(Vec::new());
        return Err(UrlError::Empty);
    }
    if body == *last {
        return Ok(());
    }
    let text = std::str::from_utf8(&body).map_err(|error| UrlError::Pods(error.to_string()))?;
    let api = Api::builtin().map_err(|error| UrlError::Pods(error.to_string()))?;
    let url = source.url.to_string();
    let pods = read_all(&api, text, Origin::Url(&url), &ctx.config.node_name).map_err(|error| UrlError::Pods(error.to_string()))?;
    let seen = clock::time(ctx.clock.now());
    let marked = |mut pod: Value| {
        pod.set(&["metadata", "annotations", SEEN], seen.as_str());
        Arc::new(pod)
    };
    ctx.statics.set_url(pods.into_iter().map(marked).collect());
    *last = body;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_where_to_ask() {
        let of = |url: &str| target(&StaticPodUrl { url: url.parse().unwrap(), headers: Vec::new(), every: Duration::ZERO });
        let plain = of("http://pods.example:8080/a/b?c=d");
        assert_eq!((plain.https, plain.host.as_str(), plain.port, plain.path.as_str()), (false, "pods.example", 8080, "/a/b?c=d"));
        let safe = of("https://[2001:db8::1]/");
        assert_eq!((safe.https, safe.host.as_str(), safe.port, safe.path.as_str()), (true, "2001:db8::1", 443, "/"));
    }
}
