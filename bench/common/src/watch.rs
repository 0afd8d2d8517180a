//! Watches, line by line as they come.

use std::sync::Arc;

use anyhow::{Result, anyhow, bail};
use bytes::Bytes;
use fram_client::remote::{Lines, Remote};

use crate::load::ask;
use crate::requests::request;

/// A watch from now on; `selector` begins with an ampersand or is empty.
pub async fn watch(remote: &Remote, path: &str, selector: &str) -> Result<Lines> {
    let version = version(remote, path, selector).await?;
    begin(remote, path, selector, &version).await
}

/// The version at which a collection is.
async fn version(remote: &Remote, path: &str, selector: &str) -> Result<String> {
    let list = ask(remote, request("GET", &format!("{path}?limit=1{selector}"), "")).await?;
    Ok(fram_machinery::json::from_slice(&list)?.str_at(&["metadata", "resourceVersion"]).to_string())
}

async fn begin(remote: &Remote, path: &str, selector: &str, version: &str) -> Result<Lines> {
    let path = format!("{path}?watch=true&resourceVersion={version}{selector}");
    let response = remote.send(request("GET", &path, "identity")).await.map_err(|s| anyhow!("{s:?}"))?;
    if !response.status().is_success() {
        bail!("{path}: {}", response.status());
    }
    Ok(Lines::new(response))
}

/// A watch that is taken up again where a server ends it, as it does to who reads too slowly. Objects may be told of twice.
pub struct Following {
    remote: Arc<Remote>,
    path: String,
    selector: String,
    lines: Lines,
    /// The last object that was seen; its version is where a new watch begins.
    last: Bytes,
}

impl Following {
    /// What happens from now on.
    pub async fn begin(remote: &Arc<Remote>, path: &str, selector: &str) -> Result<Self> {
        let lines = watch(remote, path, selector).await?;
        Ok(Self { remote: remote.clone(), path: path.into(), selector: selector.into(), lines, last: Bytes::new() })
    }

    /// The next change.
    pub async fn next(&mut self) -> Result<Bytes> {
        loop {
            match self.lines.next().await {
                Ok(Some(line)) if !line.starts_with(br#"{"type":"ERROR""#) => {
                    self.last = line.clone();
                    return Ok(line);
                }
                Ok(None) | Err(_) => {
                    // Without a version everything that is there comes first.
                    let version = resource_version(&self.last).unwrap_or_default().to_string();
                    self.lines = begin(&self.remote, &self.path, &self.selector, &version).await?;
                }
                // The version is forgotten.
                Ok(Some(_)) => self.lines = begin(&self.remote, &self.path, &self.selector, "").await?,
            }
        }
    }
}

/// That of the object in a line: nothing stands before it that has one too.
fn resource_version(line: &[u8]) -> Option<&str> {
    const MARK: &[u8] = br#""resourceVersion":""#;
    let at = line.windows(MARK.len()).position(|w| w == MARK)?;
    std::str::from_utf8(line[at + MARK.len()..].split(|b| *b == b'"').next()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_watch_begins_at_the_version_of_the_last_object() {
        let line = br#"{"type":"ADDED","object":{"kind":"Pod","metadata":{"name":"a","resourceVersion":"17","uid":"u"}}}"#;
        assert_eq!(resource_version(line), Some("17"));
        assert_eq!(resource_version(b""), None);
    }
}
