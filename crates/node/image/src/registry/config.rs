//! Which addresses stand behind a registry's name, and how patient to be. Pure, but for the CA files that it names.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;

use super::Credentials;
use crate::reference::DEFAULT_REGISTRY;

pub(super) const USER_AGENT: &str = concat!("fram/", env!("CARGO_PKG_VERSION"));
/// The key of [`RegistryConfig::hosts`] that stands for every registry without an entry of its own.
const ANY: &str = "*";

/// How to reach registries. Keys of `hosts` are registry names as in references (`docker.io`, `10.0.0.5:5000`), or `*`.
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    pub hosts: BTreeMap<String, HostConfig>,
    pub connect_timeout: Duration,
    /// How long a server may send nothing.
    pub read_timeout: Duration,
    /// Attempts without any progress before a pull fails.
    pub attempts: u32,
    /// The first pause between attempts; each next one is twice as long.
    pub retry_pause: Duration,
    /// Layers of one image that download at the same time.
    pub parallel_layers: usize,
}

#[derive(Debug, Clone, Default)]
pub struct HostConfig {
    /// Hosts (with an optional path prefix, `cache.example/docker`) to ask first, in order; each may have its own entry.
    pub mirrors: Vec<String>,
    /// No TLS. Loopback registries never need it said.
    pub plain_http: bool,
    /// PEM file with the certificates to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Used when a pull brings none of its own.
    pub credentials: Option<Credentials>,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            hosts: BTreeMap::new(),
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(30),
            attempts: 5,
            retry_pause: Duration::from_millis(250),
            parallel_layers: 3,
        }
    }
}

/// One address to try.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    pub(super) authority: String,
    scheme: &'static str,
    prefix: String,
    pub(super) credentials: Option<Credentials>,
    /// The registry a mirror stands in for (containerd's `ns` query parameter), since one mirror may serve many.
    namespace: Option<String>,
}

impl Endpoint {
    pub(super) fn uri(&self, repository: &str, what: &str) -> Result<Uri, String> {
        let query = self.namespace.as_ref().map(|n| format!("?ns={n}")).unwrap_or_default();
        let text = format!("{}://{}{}/v2/{repository}/{what}{query}", self.scheme, self.authority, self.prefix);
        text.parse().map_err(|e| format!("{text}: {e}"))
    }

    pub(super) fn is_plain_http(&self) -> bool {
        self.scheme == "http"
    }
}

impl RegistryConfig {
    fn host(&self, name: &str) -> Option<&HostConfig> {
        self.hosts.get(name).or_else(|| self.hosts.get(ANY))
    }

    /// Mirrors first, then the registry. A pull's own credentials go to the registry they are for, never to a mirror.
    pub(super) fn endpoints(&self, registry: &str, credentials: Option<Credentials>) -> Vec<Endpoint> {
        let host = self.host(registry);
        let mirrors = host.map(|h| h.mirrors.as_slice()).unwrap_or_default();
        let mut endpoints: Vec<_> = mirrors
            .iter()
            .map(|mirror| {
                let (authority, prefix) = mirror.split_once('/').unwrap_or((mirror, ""));
                let prefix = if prefix.is_empty() { String::new() } else { format!("/{}", prefix.trim_end_matches('/')) };
                let credentials = self.hosts.get(authority).and_then(|h| h.credentials.clone());
                let (scheme, authority) = (self.scheme(authority), authority.to_owned());
                Endpoint { authority, scheme, prefix, credentials, namespace: Some(registry.to_owned()) }
            })
            .collect();
        // Docker Hub's API does not live under the name that its images carry.
        let authority = if registry == DEFAULT_REGISTRY { "registry-1.docker.io" } else { registry }.to_owned();
        let credentials = credentials.or_else(|| host.and_then(|h| h.credentials.clone()));
        endpoints.push(Endpoint { authority, scheme: self.scheme(registry), prefix: String::new(), credentials, namespace: None });
        endpoints
    }

    fn scheme(&self, name: &str) -> &'static str {
        let plain = self.hosts.get(name).map_or_else(|| is_loopback(name), |h| h.plain_http || (is_loopback(name) && h.ca_file.is_none()));
        if plain { "http" } else { "https" }
    }

    /// The pause after the given number of failures, at most ten seconds.
    pub(crate) fn pause(&self, failures: u32) -> Duration {
        self.retry_pause.saturating_mul(1 << failures.min(10)).min(Duration::from_secs(10))
    }
}

fn is_loopback(name: &str) -> bool {
    let host = match name.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => name.split(':').next().unwrap_or(name),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(hosts: &[(&str, HostConfig)]) -> RegistryConfig {
        RegistryConfig { hosts: hosts.iter().map(|(n, h)| ((*n).to_owned(), h.clone())).collect(), ..Default::default() }
    }

    fn uris(config: &RegistryConfig, registry: &str) -> Vec<String> {
        config.endpoints(registry, None).iter().map(|e| e.uri("a", "manifests/b").unwrap().to_string()).collect()
    }

    #[test]
    fn tls_is_left_out_for_loopback_and_for_registries_named_insecure() {
        let insecure = config(&[("10.0.0.5:5000", HostConfig { plain_http: true, ..Default::default() })]);
        for (registry, expect) in [
            ("docker.io", "https://registry-1.docker.io/v2/a/manifests/b"),
            ("quay.io", "https://quay.io/v2/a/manifests/b"),
            ("localhost:5000", "http://localhost:5000/v2/a/manifests/b"),
            ("127.0.0.9:1", "http://127.0.0.9:1/v2/a/manifests/b"),
            ("[::1]:5000", "http://[::1]:5000/v2/a/manifests/b"),
            ("10.0.0.5:5000", "http://10.0.0.5:5000/v2/a/manifests/b"),
            ("10.0.0.6:5000", "https://10.0.0.6:5000/v2/a/manifests/b"),
        ] {
            assert_eq!(uris(&insecure, registry), [expect]);
        }
    }

    #[test]
    fn mirrors_come_first_and_are_told_what_they_mirror() {
        let mirrored = config(&[("*", HostConfig { mirrors: vec!["m.example/hub/".into(), "localhost:1".into()], ..Default::default() })]);
        assert_eq!(
            uris(&mirrored, "docker.io"),
            [
                "https://m.example/hub/v2/a/manifests/b?ns=docker.io",
                "http://localhost:1/v2/a/manifests/b?ns=docker.io",
                "https://registry-1.docker.io/v2/a/manifests/b",
            ]
        );
    }

    #[test]
    fn a_pulls_credentials_go_to_the_registry_and_not_to_its_mirrors() {
        let mirrored = config(&[("docker.io", HostConfig { mirrors: vec!["m.example".into()], ..Default::default() })]);
        let credentials = Credentials { username: "u".into(), password: "p".into(), ..Default::default() };
        let endpoints = mirrored.endpoints("docker.io", Some(credentials));
        assert!(endpoints[0].credentials.is_none() && endpoints[1].credentials.is_some());
    }
}
