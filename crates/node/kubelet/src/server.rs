//! The kubelet's HTTP API over any byte stream: logs, exec, attach, port-forward, pods, usage. Whoever hands in a stream has made
//! sure who is at its other end. See upstream's pkg/kubelet/server.

mod access;
mod checkpoint;
mod forward;
#[cfg(test)]
mod fuzz;
pub(crate) mod healthz;
mod log_file;
mod log_query;
mod logs;
mod node_logs;
mod port;
mod remote;
mod reviews;
mod running;

use std::convert::Infallible;

use bytes::Bytes;
use fram_machinery::{Value, object};
use fram_streaming::Sessions;
use fram_streaming::answer::{Answer, Body, json, refuse, text};
use fram_streaming::query::Query;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::configuration::configz;
use crate::kubelet::Kubelet;
use crate::metrics::gauges;
use crate::pod;
use crate::stats;
pub(crate) use log_file::tail_messages as log_tail;

impl Kubelet {
    /// Serves one connection until its end, or until the kubelet stops.
    pub async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
        let service = hyper::service::service_fn(|request| {
            let kubelet = self.clone();
            async move { Ok::<_, Infallible>(kubelet.answer(request).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades();
        if let Some(Err(error)) = self.stopping().run_until_cancelled(connection).await {
            tracing::debug!(%error, "a connection to the kubelet ended early");
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path().to_string();
        let steps: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let outcome: Answer = match (request.method(), steps.as_slice()) {
            (_, [first, ..]) if !self.serves(first) => Err(refuse(StatusCode::METHOD_NOT_ALLOWED, DISABLED)),
            (&Method::GET, ["healthz", ..]) => Ok(text("ok")),
            (&Method::GET, ["stats", "summary"]) => match stats::full_summary(&self.ctx).await {
                Ok(summary) => Ok(json(&summary)),
                Err(error) => Err(refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string())),
            },
            (&Method::GET, ["metrics", "resource"]) => match stats::resource_metrics(&self.ctx).await {
                Ok(metrics) => Ok(text(&metrics)),
                Err(error) => Err(refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string())),
            },
            (&Method::GET, ["metrics", "cadvisor"]) => match stats::cadvisor_metrics(&self.ctx).await {
                Ok(metrics) => Ok(text(&metrics)),
                Err(error) => Err(refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string())),
            },
            (&Method::GET, ["metrics", "probes"]) => Ok(text(&self.ctx.metrics.probes())),
            (&Method::GET, ["metrics"]) => match gauges::exposition(self).await {
                Ok(now) => Ok(text(&(now + &self.ctx.metrics.exposition()))),
                Err(error) => Err(refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string())),
            },
            (&Method::GET, ["configz"]) => Ok(json(&configz(&self.ctx.config))),
            (&Method::GET, ["logs", rest @ ..]) => node_logs::serve(rest, &query, self.ctx.config.system_log_query).await,
            (&Method::GET, ["pods"]) => Ok(json(&self.pod_list())),
            (&Method::GET, ["runningpods"]) => running::pods(self).await,
            (&Method::POST, ["run", namespace, name, container]) => {
                running::run(self, &format!("{namespace}/{name}"), container, &query).await
            }
            (&Method::GET, ["containerLogs", namespace, name, container]) => {
                logs::serve(self, &format!("{namespace}/{name}"), container, &query, request).await
            }
            (&Method::POST, ["checkpoint", namespace, name, container]) => checkpoint::make(self, namespace, name, container, &query).await,
            (&Method::GET | &Method::POST, ["exec", namespace, name, container]) => {
                remote::exec(self, &format!("{namespace}/{name}"), container, &query, request).await
            }
            (&Method::GET | &Method::POST, ["attach", namespace, name, container]) => {
                remote::attach(self, &format!("{namespace}/{name}"), container, &query, request).await
            }
            (&Method::GET | &Method::POST, ["portForward", namespace, name]) => {
                forward::serve(self, &format!("{namespace}/{name}"), &query, request).await
            }
            _ => Err(refuse(StatusCode::NOT_FOUND, "404 page not found")),
        };
        outcome.unwrap_or_else(|refusal| *refusal)
    }

    /// Whether the configuration has what is below this path; see InstallDebuggingHandlers and InstallDebuggingDisabledHandlers.
    fn serves(&self, first: &str) -> bool {
        let config = &self.ctx.config;
        match first {
            "run" | "exec" | "attach" | "portForward" | "containerLogs" | "runningpods" => config.debugging_handlers,
            "logs" => config.debugging_handlers && config.system_log_handler,
            _ => true,
        }
    }

    /// The owner of exec, attach and port-forward: they end with the kubelet at the latest.
    fn sessions(&self) -> Sessions {
        Sessions { tasks: self.tasks().clone(), stop: self.stopping().clone(), idle: self.idle() }
    }

    /// After which time streams on which nothing moves are ended; None for never.
    fn idle(&self) -> Option<std::time::Duration> {
        Some(self.ctx.config.streaming_idle).filter(|idle| !idle.is_zero())
    }

    fn pod_list(&self) -> Value {
        let items: Vec<Value> = self.ctx.all_pods().iter().map(|p| (**p).clone()).collect();
        object!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items })
    }

    /// The pod with this key, where its container (if one is named) is one of its own.
    fn pod_with(&self, key: &str, container: Option<&str>) -> Result<std::sync::Arc<Value>, Box<Response<Body>>> {
        let pod = self.ctx.pod(key).ok_or_else(|| refuse(StatusCode::NOT_FOUND, &format!("pod {key:?} not found")))?;
        match container.filter(|name| pod::find_container(&pod, name).is_none()) {
            Some(name) => Err(refuse(StatusCode::NOT_FOUND, &format!("container {name:?} not found in pod {key:?}"))),
            None => Ok(pod),
        }
    }
}

const DISABLED: &str = "Debug endpoints are disabled.";

/// A chunk of a streamed answer.
type Chunk = Bytes;
