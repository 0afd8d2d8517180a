//! Which addresses stand behind a registry's name, and how patient to be. Pure.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderMap, Uri};

use super::Credentials;
use super::hosts::{Address, Host, Hosts, Tls};
use crate::reference::DEFAULT_REGISTRY;

pub(super) const USER_AGENT: &str = concat!("fram/", env!("CARGO_PKG_VERSION"));

/// How to reach registries.
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    /// Folders named like registries, each with what is said of it; see `hosts`.
    pub hosts_dir: Option<PathBuf>,
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

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            hosts_dir: None,
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(30),
            attempts: 5,
            retry_pause: Duration::from_millis(250),
            parallel_layers: 3,
        }
    }
}

impl RegistryConfig {
    /// The pause after the given number of failures, at most ten seconds.
    pub(crate) fn pause(&self, failures: u32) -> Duration {
        self.retry_pause.saturating_mul(1 << failures.min(10)).min(Duration::from_secs(10))
    }
}

/// One address to try.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    pub(super) authority: String,
    pub(super) scheme: &'static str,
    pub(super) path: String,
    pub(super) credentials: Option<Credentials>,
    /// The registry a mirror stands in for (containerd's `ns` query parameter), since one mirror may serve many.
    namespace: Option<String>,
    pub(super) resolves: bool,
    pub(super) pulls: bool,
    pub(super) tls: Tls,
    pub(super) headers: HeaderMap,
}

impl Endpoint {
    pub(super) fn uri(&self, repository: &str, what: &str) -> Result<Uri, String> {
        let query = self.namespace.as_ref().map(|n| format!("?ns={n}")).unwrap_or_default();
        let text = format!("{}://{}{}/{repository}/{what}{query}", self.scheme, self.authority, self.path);
        text.parse().map_err(|e| format!("{text}: {e}"))
    }

    /// Where it is, without a path.
    pub(super) fn base(&self) -> Result<Uri, http::uri::InvalidUri> {
        format!("{}://{}/", self.scheme, self.authority).parse()
    }

    pub(super) fn is_plain_http(&self) -> bool {
        self.scheme == "http"
    }
}

/// Mirrors first, then the registry. A pull's own credentials go to the registry they are for, wherever it is said in particular to be, and
/// to no mirror; nor in the clear to one that is known to speak TLS.
pub(super) fn endpoints(registry: &str, hosts: Option<Hosts>, credentials: Option<&Credentials>) -> Vec<Endpoint> {
    let Hosts { mirrors, server, of_any } =
        hosts.unwrap_or_else(|| Hosts { server: Host { resolves: true, pulls: true, ..Host::default() }, ..Hosts::default() });
    // Docker Hub's API does not live under the name that its images carry.
    let own = if registry == DEFAULT_REGISTRY { "registry-1.docker.io" } else { registry };
    // Who configures an authority for a registry on loopback means TLS, but not who configures one for all others.
    let plain = is_loopback(registry) && (of_any || server.tls == Tls::default());
    let own = Address { scheme: if plain { "http" } else { "https" }, authority: own.to_owned(), path: "/v2".to_owned() };
    let said = server.address.clone().filter(|_| !of_any);
    let homes = [Some(own.clone()), said];
    let endpoint = |host: Host| {
        let Address { scheme, authority, path } = host.address.unwrap_or_else(|| own.clone());
        let is_home = homes.iter().flatten().any(|home| home.authority == authority && (scheme == "https" || home.scheme == scheme));
        let namespace = (authority != own.authority).then(|| registry.to_owned());
        let credentials = credentials.filter(|_| is_home).cloned();
        let Host { resolves, pulls, tls, headers, .. } = host;
        Endpoint { authority, scheme, path, credentials, namespace, resolves, pulls, tls, headers }
    };
    mirrors.into_iter().chain([server]).map(endpoint).collect()
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

    fn host(scheme: &'static str, authority: &str, path: &str) -> Host {
        let address = Some(Address { scheme, authority: authority.into(), path: path.into() });
        Host { address, resolves: true, pulls: true, ..Host::default() }
    }

    fn uris(hosts: Option<Hosts>, registry: &str) -> Vec<String> {
        endpoints(registry, hosts, None).iter().map(|e| e.uri("a", "manifests/b").unwrap().to_string()).collect()
    }

    #[test]
    fn tls_is_left_out_for_loopback_and_for_registries_said_to_be_without() {
        for (registry, expect) in [
            ("docker.io", "https://registry-1.docker.io/v2/a/manifests/b"),
            ("quay.io", "https://quay.io/v2/a/manifests/b"),
            ("localhost:5000", "http://localhost:5000/v2/a/manifests/b"),
            ("127.0.0.9:1", "http://127.0.0.9:1/v2/a/manifests/b"),
            ("[::1]:5000", "http://[::1]:5000/v2/a/manifests/b"),
            ("10.0.0.6:5000", "https://10.0.0.6:5000/v2/a/manifests/b"),
        ] {
            assert_eq!(uris(None, registry), [expect]);
        }
        let plain = Hosts { server: host("http", "10.0.0.6:5000", "/v2"), ..Hosts::default() };
        assert_eq!(uris(Some(plain), "10.0.0.6:5000"), ["http://10.0.0.6:5000/v2/a/manifests/b"]);
        let tls = Tls { authorities: vec!["/ca".into()], ..Tls::default() };
        let trusted = Hosts { server: Host { tls, ..Host::default() }, ..Hosts::default() };
        assert_eq!(uris(Some(trusted.clone()), "127.0.0.1:5000"), ["https://127.0.0.1:5000/v2/a/manifests/b"]);
        let for_all = Hosts { of_any: true, ..trusted };
        assert_eq!(uris(Some(for_all), "127.0.0.1:5000"), ["http://127.0.0.1:5000/v2/a/manifests/b"]);
    }

    #[test]
    fn mirrors_come_first_and_are_told_what_they_mirror() {
        let mirrors = vec![host("https", "m.example", "/hub/v2"), host("http", "localhost:1", "/v2")];
        assert_eq!(
            uris(Some(Hosts { mirrors, ..Hosts::default() }), "docker.io"),
            [
                "https://m.example/hub/v2/a/manifests/b?ns=docker.io",
                "http://localhost:1/v2/a/manifests/b?ns=docker.io",
                "https://registry-1.docker.io/v2/a/manifests/b",
            ]
        );
    }

    #[test]
    fn a_pulls_credentials_go_to_the_registry_and_not_to_its_mirrors() {
        let credentials = Credentials { username: "u".into(), password: "p".into(), ..Default::default() };
        let elsewhere = |scheme| host(scheme, "elsewhere.example", "/v2");
        for (registry, of_any, server, told) in [
            ("docker.io", false, Host::default(), [false, false, false, true]),
            ("m.example", false, Host::default(), [true, false, false, true]),
            ("r.example", false, elsewhere("https"), [false, true, false, true]),
            ("r.example", false, elsewhere("http"), [false, true, true, true]),
            ("r.example", true, elsewhere("https"), [false, false, false, false]),
            ("m.example", true, elsewhere("https"), [true, false, false, false]),
        ] {
            let mirrors = vec![host("https", "m.example", "/v2"), elsewhere("https"), elsewhere("http")];
            let of = endpoints(registry, Some(Hosts { mirrors, server, of_any }), Some(&credentials));
            assert_eq!(of.iter().map(|e| e.credentials.is_some()).collect::<Vec<_>>(), told, "{registry} {of_any}");
        }
    }
}
