//! Lifecycle hooks of containers: postStart and preStop. See upstream's pkg/kubelet/lifecycle.

use std::time::Duration;

use fram_cri::RuntimeService;
use fram_machinery::Value;

use crate::net;

/// Where a hook is run.
pub(crate) struct Target<'a> {
    pub(crate) runtime: &'a dyn RuntimeService,
    pub(crate) container: &'a Value,
    pub(crate) container_id: &'a str,
    pub(crate) pod_ip: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum HookError {
    #[error("Exec lifecycle hook ({0}) failed: {1}")]
    Exec(String, String),
    #[error("HTTP lifecycle hook ({0}) failed: {1}")]
    Http(String, String),
    #[error("{0}")]
    Target(#[from] net::TargetError),
    #[error("invalid handler: it has no action")]
    Invalid,
}

pub(crate) async fn run(handler: &Value, target: &Target<'_>) -> Result<(), HookError> {
    let ip = target.pod_ip.as_deref();
    if let Some(exec) = handler.get("exec") {
        let command: Vec<String> = exec.list_at(&["command"]).iter().filter_map(Value::as_str).map(String::from).collect();
        let words = command.join(" ");
        return match target.runtime.exec_sync(target.container_id, &command, None).await {
            Ok(answer) if answer.exit_code == 0 => Ok(()),
            Ok(answer) => {
                let said = String::from_utf8_lossy(&[answer.stdout, answer.stderr].concat()).into_owned();
                Err(HookError::Exec(words, format!("exited with {}: {said}", answer.exit_code)))
            }
            Err(error) => Err(HookError::Exec(words, error.to_string())),
        };
    }
    if let Some(action) = handler.get("httpGet") {
        let http = net::HttpTarget::of(action, target.container, ip)?;
        return match net::http_get(&http, "kube-lifecycle/1.36").await {
            Ok(answer) if (200..400).contains(&answer.status) => Ok(()),
            Ok(answer) => Err(HookError::Http(http.url(), format!("status {}", answer.status))),
            Err(error) => Err(HookError::Http(http.url(), error.to_string())),
        };
    }
    if let Some(sleep) = handler.get("sleep") {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.int_at(&["seconds"]).unwrap_or(0)).unwrap_or(0))).await;
        return Ok(());
    }
    if let Some(action) = handler.get("tcpSocket") {
        let (host, port) = (net::host(action, ip)?, net::port(action, target.container)?);
        return net::tcp(&host, port).await.map(drop).map_err(|e| HookError::Http(format!("{host}:{port}"), e.to_string()));
    }
    Err(HookError::Invalid)
}
