//! GET /containerLogs: which instance of a container is meant, and its log as a stream that may follow it.

use std::io;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fram_cri::{ContainerState, CriError};
use fram_machinery::Value;
use futures_util::{SinkExt, stream};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use tokio_tungstenite::tungstenite::Message;

use super::log_file::{Formatter, LogOptions, LogReader};
use super::{Chunk, Kubelet};
use crate::activity::Activity;
use crate::clock;
use fram_streaming::answer::{Answer, Body, refuse};
use fram_streaming::query::Query;
use fram_streaming::websocket;

pub(super) async fn serve(kubelet: &Kubelet, key: &str, container: &str, query: &Query, request: Request<Incoming>) -> Answer {
    let pod = kubelet.pod_with(key, Some(container))?;
    let options = options(query, kubelet.ctx.clock.now()).map_err(|why| refuse(StatusCode::BAD_REQUEST, &why))?;
    let id = instance(&pod, container, query.flag(&["previous"])).map_err(|why| refuse(StatusCode::BAD_REQUEST, &why))?;
    let runtime = &kubelet.ctx.runtime;
    let status = runtime.container_status(&id).await.map_err(|error| match error {
        CriError::NotFound { .. } => refuse(StatusCode::BAD_REQUEST, &format!("unable to retrieve container logs for fram://{id}")),
        error => refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    })?;
    let path = PathBuf::from(&status.log_path);
    let reader = LogReader::open(&path, options.tail_lines).await;
    let reader = reader.map_err(|e| refuse(StatusCode::INTERNAL_SERVER_ERROR, &format!("failed to open log file {path:?}: {e}")))?;
    let following = match options.follow {
        true => Some(Activity::watch(&path, kubelet.ctx.activity.subscribe())),
        false => None,
    };
    let log = Log { kubelet: kubelet.clone(), id, reader, formatter: Formatter::new(options), following };
    if websocket::is_websocket(request.headers()) {
        return over_websocket(kubelet, request, log);
    }
    let frames = stream::unfold(log, |mut log| async move {
        let next = log.next().await.transpose()?;
        Some((next.map(Frame::data), log))
    });
    let body: Body = StreamBody::new(frames).boxed_unsync();
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}

/// A log as messages of a WebSocket; see wsstream's Reader.
fn over_websocket(kubelet: &Kubelet, mut request: Request<Incoming>, mut log: Log) -> Answer {
    const PROTOCOLS: [&str; 2] = ["binary.k8s.io", "base64.binary.k8s.io"];
    let offered = websocket::offers(request.headers());
    let protocol = PROTOCOLS.into_iter().find(|p| offered.iter().any(|o| o == p)).unwrap_or_default();
    let (response, upgraded) = websocket::upgrade(&mut request, protocol)?;
    kubelet.spawn(async move {
        let mut socket = match websocket::socket(upgraded, None).await {
            Ok(socket) => socket,
            Err(error) => {
                tracing::debug!(%error, "a stream was not upgraded");
                return;
            }
        };
        while let Ok(Some(chunk)) = log.next().await {
            let message = if protocol == PROTOCOLS[1] { Message::text(STANDARD.encode(&chunk)) } else { Message::binary(chunk) };
            if socket.send(message).await.is_err() {
                return;
            }
        }
        websocket::close(&mut socket).await;
    });
    Ok(response)
}

fn options(query: &Query, now: jiff::Timestamp) -> Result<LogOptions, String> {
    let since = match (query.number("sinceSeconds"), query.get("sinceTime")) {
        // Before the beginning of time nothing was written.
        (Some(seconds), _) => Some(now.checked_sub(std::time::Duration::from_secs(seconds)).unwrap_or(jiff::Timestamp::MIN)),
        (None, "") => None,
        (None, text) => Some(clock::parse(text).ok_or_else(|| format!("invalid sinceTime {text:?}"))?),
    };
    let stream = match query.get("stream") {
        "Stdout" => Some("stdout".to_string()),
        "Stderr" => Some("stderr".to_string()),
        _ => None,
    };
    Ok(LogOptions {
        follow: query.flag(&["follow"]),
        timestamps: query.flag(&["timestamps"]),
        tail_lines: query.number("tailLines"),
        since,
        limit_bytes: query.number("limitBytes"),
        stream,
    })
}

/// The instance whose log is meant; see kubelet_pods.go's validateContainerLogStatus.
fn instance(pod: &Value, container: &str, previous: bool) -> Result<String, String> {
    let name = fram_machinery::meta::name(pod);
    let lists = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
    let status = lists.iter().flat_map(|l| pod.list_at(&["status", l])).find(|s| s.str_at(&["name"]) == container);
    let status = status.ok_or_else(|| format!("container {container:?} in pod {name:?} is not available"))?;
    let bare = |id: &str| id.rsplit("://").next().unwrap_or(id).to_string();
    let last = status.str_at(&["lastState", "terminated", "containerID"]);
    if previous {
        return match last {
            "" => Err(format!("previous terminated container {container:?} in pod {name:?} not found")),
            id => Ok(bare(id)),
        };
    }
    let waiting = status.at(&["state", "waiting"]);
    match (waiting, status.str_at(&["containerID"])) {
        (None, id) if !id.is_empty() => Ok(bare(id)),
        (Some(_), _) if !last.is_empty() => Ok(bare(last)),
        (Some(waiting), _) => {
            let reason = match waiting.str_at(&["reason"]) {
                "ErrImagePull" => "image can't be pulled",
                "ImagePullBackOff" => "trying and failing to pull image",
                other => other,
            };
            Err(format!("container {container:?} in pod {name:?} is waiting to start: {reason}"))
        }
        _ => Err(format!("container {container:?} in pod {name:?} is not available")),
    }
}

/// A log while it is read.
struct Log {
    kubelet: Kubelet,
    id: String,
    reader: LogReader,
    formatter: Formatter,
    following: Option<Activity>,
}

impl Log {
    async fn next(&mut self) -> io::Result<Option<Chunk>> {
        loop {
            if self.formatter.is_full() {
                return Ok(None);
            }
            // Asked before reading: what an ended container wrote is in the file by then.
            let ended = self.following.is_none() || !self.is_running().await;
            if let Some(lines) = self.reader.next().await? {
                let mut out = Vec::new();
                lines.split(|b| *b == b'\n').for_each(|line| self.formatter.add(line, &mut out));
                if !out.is_empty() {
                    return Ok(Some(out.into()));
                }
                continue;
            }
            match &mut self.following {
                Some(activity) if !ended => activity.changed().await,
                _ => return Ok(None),
            }
        }
    }

    async fn is_running(&self) -> bool {
        let status = self.kubelet.ctx.runtime.container_status(&self.id).await;
        status.is_ok_and(|s| s.state == ContainerState::Running)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    #[test]
    fn more_seconds_than_time_has_ask_for_everything() {
        let now = jiff::Timestamp::from_second(1_000).unwrap();
        let since = |text: &str| options(&Query::parse(text), now).unwrap().since;
        assert_eq!(since("sinceSeconds=100").unwrap().as_second(), 900);
        assert_eq!(since("sinceSeconds=18446744073709551615"), Some(jiff::Timestamp::MIN));
        assert_eq!(since(""), None);
    }

    #[test]
    fn a_container_without_its_image_has_no_log_and_the_reason_is_said() {
        for (reason, words) in [
            ("ErrImagePull", "image can't be pulled"),
            ("ImagePullBackOff", "trying and failing to pull image"),
            ("ContainerCreating", "ContainerCreating"),
        ] {
            let statuses = object!([{ "name": "a", "state": { "waiting": { "reason": reason } } }]);
            let pod = object!({ "metadata": { "name": "p" }, "status": { "containerStatuses": statuses } });
            let refused = instance(&pod, "a", false).unwrap_err();
            assert_eq!(refused, format!("container \"a\" in pod \"p\" is waiting to start: {words}"));
        }
    }
}
