//! The cluster's servers as the agent knows them: those behind the Service `kubernetes`, remembered over restarts, so that a node goes on
//! when the one that it joined is gone.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use fram_apiserver::pki::write_private;
use fram_client::remote::Servers;
use fram_client::resources::ENDPOINT_SLICES;
use fram_client::{Informer, SharedInformers};
use fram_machinery::Value;
use tokio_util::sync::CancellationToken;

use crate::token::read;

/// How long to wait where what is known cannot be kept.
const AGAIN: Duration = Duration::from_secs(10);

fn file(data: &Path) -> PathBuf {
    data.join("servers")
}

/// Takes up what was known before a restart.
pub(super) fn recall(servers: &Servers, data: &Path) -> anyhow::Result<()> {
    let path = file(data);
    let Some(text) = read(&path)? else { return Ok(()) };
    let urls: Vec<String> = text.lines().map(String::from).collect();
    servers.set_others(&urls).with_context(|| format!("{} is damaged: remove it", path.display()))
}

/// Follows the servers as they come and go, until `stop`.
pub(super) async fn follow(servers: Servers, informers: SharedInformers, data: PathBuf, stop: CancellationToken) {
    let slices = informers.get(&ENDPOINT_SLICES);
    let following = async {
        if !slices.synced().await {
            return;
        }
        let (mut changes, mut known) = (slices.subscribe(), Vec::new());
        loop {
            let urls = urls(&slices);
            if !urls.is_empty() && urls != known {
                match note(&servers, &urls, &data).await {
                    Ok(()) => known = urls,
                    Err(error) => {
                        tracing::warn!(error = format!("{error:#}"), "the cluster's servers cannot be remembered, will be tried again");
                        tokio::time::sleep(AGAIN).await;
                        continue;
                    }
                }
            }
            if changes.changed().await.is_none() {
                return;
            }
        }
    };
    stop.run_until_cancelled(following).await;
}

async fn note(servers: &Servers, urls: &[String], data: &Path) -> anyhow::Result<()> {
    servers.set_others(urls)?;
    let (path, text) = (file(data), urls.join("\n"));
    Ok(tokio::task::spawn_blocking(move || write_private(&path, &text)).await??)
}

/// The slice is the API servers' own; others that say that they are the Service's are somebody else's.
fn urls(slices: &Informer) -> Vec<String> {
    let mut urls = slices.get_in("default", "kubernetes").as_deref().map(urls_of).unwrap_or_default();
    urls.sort_unstable();
    urls.dedup();
    urls
}

/// Those of one slice.
fn urls_of(slice: &Value) -> Vec<String> {
    let port = slice.list_at(&["ports"]).iter().find(|port| port.str_at(&["name"]) == "https").and_then(|port| port.int_at(&["port"]));
    let Some(port) = port else { return Vec::new() };
    let ready = slice.list_at(&["endpoints"]).iter().filter(|endpoint| endpoint.bool_at(&["conditions", "ready"]) != Some(false));
    let host = |ip: &str| if ip.contains(':') { format!("[{ip}]") } else { ip.to_string() };
    let addresses = ready.flat_map(|endpoint| endpoint.list_at(&["addresses"])).filter_map(Value::as_str);
    addresses.map(|ip| format!("https://{}:{port}", host(ip))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_client::remote::Kubeconfig;
    use fram_machinery::object;

    #[test]
    fn servers_are_where_the_service_kubernetes_leads() {
        let slice = object!({ "ports": [{ "name": "https", "port": 6443 }], "endpoints": [
            { "addresses": ["192.0.2.1"] }, { "addresses": ["192.0.2.2"], "conditions": { "ready": false } },
            { "addresses": ["2001:db8::1"], "conditions": { "ready": true } }] });
        assert_eq!(urls_of(&slice), ["https://192.0.2.1:6443", "https://[2001:db8::1]:6443"]);
        assert!(urls_of(&object!({ "endpoints": [{ "addresses": ["192.0.2.1"] }] })).is_empty());
    }

    #[tokio::test]
    async fn what_was_known_is_known_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let servers = || Servers::of(&Kubeconfig { server: "https://192.0.2.1:6443".into(), ..Default::default() }).unwrap();
        let before = servers();
        recall(&before, folder.path()).unwrap();
        let urls = ["https://192.0.2.1:6443".to_string(), "https://192.0.2.2:6443".into()];
        note(&before, &urls, folder.path()).await.unwrap();
        let after = servers();
        recall(&after, folder.path()).unwrap();
        assert_eq!(after.urls(), urls);
        std::fs::write(folder.path().join("servers"), "http://192.0.2.1").unwrap();
        assert!(recall(&servers(), folder.path()).unwrap_err().to_string().contains("is damaged"));
    }
}
