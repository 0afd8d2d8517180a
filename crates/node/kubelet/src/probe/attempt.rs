//! One try of a probe.

use std::time::Duration;

use fram_cri::CriError;
use fram_machinery::Value;

use crate::context::Context;
use crate::net;

/// As much output as events carry.
const OUTPUT_LIMIT: usize = 10 << 10;

/// Whether the container answered well, and what it said.
pub(super) async fn attempt(
    ctx: &Context,
    probe: &Value,
    container: &Value,
    id: &str,
    pod_ip: Option<&str>,
    timeout: Duration,
) -> (bool, String) {
    if let Some(exec) = probe.get("exec") {
        return run(ctx, exec, id, timeout).await;
    }
    let tried = tokio::time::timeout(timeout, ask(probe, container, pod_ip));
    match tried.await {
        Ok(Ok(said)) => (true, said),
        Ok(Err(said)) => (false, said),
        Err(_) => (false, late(probe, container, pod_ip)),
    }
}

fn late(probe: &Value, container: &Value, pod_ip: Option<&str>) -> String {
    match probe.get("httpGet").and_then(|a| net::HttpTarget::of(a, container, pod_ip).ok()) {
        Some(target) => format!("Get {:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)", target.url()),
        None => "context deadline exceeded".into(),
    }
}

async fn run(ctx: &Context, exec: &Value, id: &str, timeout: Duration) -> (bool, String) {
    let command: Vec<String> = exec.list_at(&["command"]).iter().filter_map(Value::as_str).map(String::from).collect();
    match ctx.runtime.exec_sync(id, &command, Some(timeout)).await {
        Ok(answer) => {
            let mut said = [answer.stdout, answer.stderr].concat();
            said.truncate(OUTPUT_LIMIT);
            (answer.exit_code == 0, String::from_utf8_lossy(&said).into_owned())
        }
        Err(CriError::DeadlineExceeded(_)) => {
            (false, format!("command timed out: {:?} timed out after {}s", command.join(" "), timeout.as_secs()))
        }
        Err(error) => (false, error.to_string()),
    }
}

async fn ask(probe: &Value, container: &Value, pod_ip: Option<&str>) -> Result<String, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    if let Some(action) = probe.get("httpGet") {
        let target = net::HttpTarget::of(action, container, pod_ip).map_err(|e| text(&e))?;
        let answer = net::http_get(&target, "kube-probe/1.36").await.map_err(|e| text(&e))?;
        return match (200..400).contains(&answer.status) {
            true => Ok(answer.body),
            false => Err(format!("HTTP probe failed with statuscode: {}", answer.status)),
        };
    }
    if let Some(action) = probe.get("tcpSocket") {
        let host = net::host(action, pod_ip).map_err(|e| text(&e))?;
        let port = net::port(action, container).map_err(|e| text(&e))?;
        return net::tcp(&host, port).await.map(|_| String::new()).map_err(|e| text(&e));
    }
    if let Some(action) = probe.get("grpc") {
        let host = pod_ip.ok_or("no address to connect to")?;
        let port = net::port(action, container).map_err(|e| text(&e))?;
        return match net::grpc_health(host, port, action.str_at(&["service"])).await {
            Ok(true) => Ok("service healthy".into()),
            Ok(false) => Err("service unhealthy (responded with \"NOT_SERVING\")".into()),
            Err(error) => Err(text(&error)),
        };
    }
    Err("missing probe handler".into())
}
