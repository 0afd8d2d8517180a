//! Image references as users write them and as they are normalised (distribution/reference grammar):
//! `busybox` means `docker.io/library/busybox:latest`. Pure; knows nothing of registries' addresses.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;

pub(crate) const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";
/// distribution/reference `NameTotalLengthMax`.
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[error("invalid image reference {reference:?}: {reason}")]
pub struct ReferenceError {
    pub reference: String,
    pub reason: &'static str,
}

/// A normalised reference: the registry and the full repository are always present; a reference with neither tag nor
/// digest got the tag `latest`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry's host as in the name, for example `docker.io` or `localhost:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository below the registry, for example `library/busybox`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// `registry/repository`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// `registry/repository:tag`, the form of CRI's `repo_tags`.
    pub fn repo_tag(&self) -> Option<String> {
        self.tag.as_ref().map(|tag| format!("{}:{tag}", self.name()))
    }

    /// `registry/repository@digest`, the form of CRI's `repo_digests`.
    pub fn repo_digest(&self, digest: &Digest) -> String {
        format!("{}@{digest}", self.name())
    }

    /// What to ask the registry for: the digest if there is one (it wins over the tag), else the tag.
    pub fn target(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.to_owned(),
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let fail = |reason| ReferenceError { reference: text.chars().take(300).collect(), reason };
        if text.is_empty() {
            return Err(fail("empty"));
        }
        if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(fail("64 hexadecimal digits are an image ID, not a name"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse().map_err(|_| fail("invalid digest"))?)),
            None => (text, None),
        };
        let (name, tag) = split_tag(rest);
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(fail("invalid tag"));
        }
        let (registry, path) = split_registry(name);
        if !is_registry(registry) {
            return Err(fail("invalid registry host"));
        }
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(fail("the repository name must be lower case"));
        }
        if !path.split('/').all(is_path_component) {
            return Err(fail("invalid repository name"));
        }
        let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
        let repository = if registry == DEFAULT_REGISTRY && !path.contains('/') { format!("library/{path}") } else { path.to_owned() };
        if registry.len() + 1 + repository.len() > MAX_NAME {
            return Err(fail("the name is longer than 255 characters"));
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some(DEFAULT_TAG.to_owned()),
        };
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// A colon after the last slash starts the tag; one before it belongs to the registry's port.
fn split_tag(text: &str) -> (&str, Option<&str>) {
    let slash = text.rfind('/').map_or(0, |i| i + 1);
    match text[slash..].find(':') {
        Some(colon) => (&text[..slash + colon], Some(&text[slash + colon + 1..])),
        None => (text, None),
    }
}

/// The first component is a registry if it looks like a host (distribution/reference `splitDockerDomain`).
fn split_registry(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase()) => {
            (first, rest)
        }
        _ => (DEFAULT_REGISTRY, name),
    }
}

fn is_registry(host: &str) -> bool {
    if host.starts_with('[') {
        return host.parse::<http::uri::Authority>().is_ok();
    }
    let (name, port) = host.split_once(':').unwrap_or((host, "0"));
    let label =
        |l: &str| !l.is_empty() && !l.starts_with('-') && !l.ends_with('-') && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    name.split('.').all(label) && port.parse::<u16>().is_ok()
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    if !alphanumeric(*first) || !alphanumeric(*last) {
        return false;
    }
    text.split(|c: char| c.is_ascii_alphanumeric())
        .filter(|separator| !separator.is_empty())
        .all(|separator| matches!(separator, "." | "_" | "__") || separator.bytes().all(|b| b == b'-'))
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = text.as_bytes();
    bytes.len() <= MAX_TAG && bytes.first().is_some_and(|b| word(*b)) && bytes.iter().all(|b| word(*b) || matches!(b, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn references_are_normalised_as_docker_does() {
        let with_digest = format!("busybox@{SHA}");
        for (input, expect) in [
            ("busybox", "docker.io/library/busybox:latest".to_owned()),
            ("busybox:1.36", "docker.io/library/busybox:1.36".to_owned()),
            ("index.docker.io/busybox", "docker.io/library/busybox:latest".to_owned()),
            ("grafana/loki:2", "docker.io/grafana/loki:2".to_owned()),
            ("localhost/a", "localhost/a:latest".to_owned()),
            ("127.0.0.1:5000/a/b__c:T-1.0", "127.0.0.1:5000/a/b__c:T-1.0".to_owned()),
            ("[::1]:5000/a", "[::1]:5000/a:latest".to_owned()),
            ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10".to_owned()),
            (&with_digest, format!("docker.io/library/busybox@{SHA}")),
            (&format!("a.b/c:d@{SHA}"), format!("a.b/c:d@{SHA}")),
        ] {
            assert_eq!(input.parse::<Reference>().unwrap().to_string(), expect, "{input}");
        }
    }

    #[test]
    fn malformed_references_are_refused_with_a_reason() {
        for input in [
            "",
            "Busybox",
            "a.b/Upper",
            "a//b",
            "/a",
            "a/",
            "a:",
            "a:-x",
            "a@sha256:12",
            "a..b",
            "a/../b",
            "-a.b/c",
            "a.b:99999/c",
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "a b",
            "a___b",
        ] {
            assert!(input.parse::<Reference>().is_err(), "{input}");
        }
        assert!(format!("a.b/{}", "c".repeat(300)).parse::<Reference>().is_err());
    }
}
