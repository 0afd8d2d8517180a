//! One try of a probe.

use std::time::Duration;

use fram_cri::CriError;
use fram_machinery::Value;

use crate::context::Context;
use crate::net;

/// As much output as events carry.
const OUTPUT_LIMIT: usize = 10 << 10;

/// How a try ended, and what was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Success,
    /// As good as success; people are told all the same.
    Warning(String),
    Failure(String),
}

impl Answer {
    pub(super) fn is_good(&self) -> bool {
        !matches!(self, Self::Failure(_))
    }
}

/// Asks a container once.
pub(super) async fn attempt(ctx: &Context, probe: &Value, container: &Value, id: &str, pod_ip: Option<&str>, timeout: Duration) -> Answer {
    if let Some(exec) = probe.get("exec") {
        return run(ctx, exec, id, timeout).await;
    }
    let tried = tokio::time::timeout(timeout, ask(probe, container, pod_ip));
    match tried.await {
        Ok(Ok(answer)) => answer,
        Ok(Err(said)) => Answer::Failure(said),
        Err(_) => Answer::Failure(late(probe, container, pod_ip)),
    }
}

fn late(probe: &Value, container: &Value, pod_ip: Option<&str>) -> String {
    match probe.get("httpGet").and_then(|a| net::HttpTarget::of(a, container, pod_ip).ok()) {
        Some(target) => format!("Get {:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)", target.url()),
        None => "context deadline exceeded".into(),
    }
}

async fn run(ctx: &Context, exec: &Value, id: &str, timeout: Duration) -> Answer {
    let command: Vec<String> = exec.list_at(&["command"]).iter().filter_map(Value::as_str).map(String::from).collect();
    match ctx.runtime.exec_sync(id, &command, Some(timeout)).await {
        Ok(answer) if answer.exit_code == 0 => Answer::Success,
        Ok(answer) => {
            let mut said = [answer.stdout, answer.stderr].concat();
            said.truncate(OUTPUT_LIMIT);
            Answer::Failure(String::from_utf8_lossy(&said).into_owned())
        }
        Err(CriError::DeadlineExceeded(_)) => {
            Answer::Failure(format!("command timed out: {:?} timed out after {}s", command.join(" "), timeout.as_secs()))
        }
        Err(error) => Answer::Failure(error.to_string()),
    }
}

async fn ask(probe: &Value, container: &Value, pod_ip: Option<&str>) -> Result<Answer, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    if let Some(action) = probe.get("httpGet") {
        let target = net::HttpTarget::of(action, container, pod_ip).map_err(|e| text(&e))?;
        let answer = net::http_get(&target, "kube-probe/1.36").await.map_err(|e| text(&e))?;
        return Ok(judged(&answer));
    }
    if let Some(action) = probe.get("tcpSocket") {
        let host = net::host(action, pod_ip).map_err(|e| text(&e))?;
        let port = net::port(action, container).map_err(|e| text(&e))?;
        return net::tcp(&host, port).await.map(|_| Answer::Success).map_err(|e| text(&e));
    }
    if let Some(action) = probe.get("grpc") {
        let host = pod_ip.ok_or("no address to connect to")?;
        let port = net::port(action, container).map_err(|e| text(&e))?;
        return match net::grpc_health(host, port, action.str_at(&["service"])).await {
            Ok(true) => Ok(Answer::Success),
            Ok(false) => Err("service unhealthy (responded with \"NOT_SERVING\")".into()),
            Err(error) => Err(text(&error)),
        };
    }
    Err("missing probe handler".into())
}

/// A redirect that was not followed, to another host, is no failure, but hardly what was meant; see upstream's DoHTTPProbe.
fn judged(answer: &net::HttpAnswer) -> Answer {
    match answer.status {
        200..300 => Answer::Success,
        300..400 => Answer::Warning(format!("Probe terminated redirects, Response body: {}", answer.body)),
        status => Answer::Failure(format!("HTTP probe failed with statuscode: {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_that_is_not_followed_is_told_and_does_not_count_as_a_failure() {
        let of = |status| judged(&net::HttpAnswer { status, body: "away".into() });
        assert_eq!((of(200), of(399).is_good(), of(400).is_good(), of(199).is_good()), (Answer::Success, true, false, false));
        assert_eq!(of(302), Answer::Warning("Probe terminated redirects, Response body: away".into()));
        assert_eq!(of(500), Answer::Failure("HTTP probe failed with statuscode: 500".into()));
    }
}
