//! A watch, line by line as it comes.

use anyhow::{Result, bail};
use fram_client::remote::{Lines, Remote};

use crate::load::ask;
use crate::requests::request;

/// A watch from now on; `selector` begins with an ampersand or is empty.
pub async fn watch(remote: &Remote, path: &str, selector: &str) -> Result<Lines> {
    let list = ask(remote, request("GET", &format!("{path}?limit=1{selector}"), "")).await?;
    let version = fram_machinery::json::from_slice(&list)?.str_at(&["metadata", "resourceVersion"]).to_string();
    let path = format!("{path}?watch=true&resourceVersion={version}{selector}");
    let response = remote.send(request("GET", &path, "identity")).await.map_err(|s| anyhow::anyhow!("{s:?}"))?;
    if !response.status().is_success() {
        bail!("{path}: {}", response.status());
    }
    Ok(Lines::new(response))
}
