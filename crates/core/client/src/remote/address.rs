//! Where a server is: what its URL says. Pure.

use http::uri::{PathAndQuery, Scheme, Uri};
use rustls::pki_types::ServerName;

use super::RemoteError;

/// A server's URL, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    /// Without the brackets of an IPv6 address.
    pub(super) host: String,
    pub(super) port: u16,
    /// `HOST:PORT`, as requests name it.
    pub(super) authority: String,
    /// What the server's paths begin with, where it stands behind others; without a slash at its end.
    prefix: String,
}

impl Address {
    /// Reads `https://HOST[:PORT][/PREFIX]`.
    pub(super) fn parse(url: &str) -> Result<Self, RemoteError> {
        let bad = || RemoteError::Address(url.into());
        let uri: Uri = url.parse().map_err(|_| bad())?;
        if uri.scheme().is_some_and(|s| *s != Scheme::HTTPS) {
            return Err(RemoteError::NotTls(url.into()));
        }
        let host = uri.host().filter(|h| !h.is_empty()).ok_or_else(bad)?;
        let port = uri.port_u16().unwrap_or(443);
        Ok(Self {
            authority: format!("{host}:{port}"),
            host: host.trim_matches(['[', ']']).into(),
            port,
            prefix: uri.path().trim_end_matches('/').into(),
        })
    }

    /// The name that the server's certificate has to show.
    pub(super) fn server_name(&self) -> Result<ServerName<'static>, RemoteError> {
        ServerName::try_from(self.host.clone()).map_err(|_| RemoteError::Address(self.authority.clone()))
    }

    /// A request's path with query, below the prefix.
    pub(super) fn path(&self, uri: &Uri) -> Result<PathAndQuery, RemoteError> {
        let bad = || RemoteError::Address(uri.to_string());
        let path = uri.path_and_query().ok_or_else(bad)?;
        if self.prefix.is_empty() { Ok(path.clone()) } else { format!("{}{path}", self.prefix).parse().map_err(|_| bad()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_url_is_taken_apart() {
        let cases = [
            ("https://10.0.0.1:6443", Some(("10.0.0.1", 6443, "10.0.0.1:6443", "/api?x=1"))),
            ("https://host", Some(("host", 443, "host:443", "/api?x=1"))),
            ("https://[::1]:6443/", Some(("::1", 6443, "[::1]:6443", "/api?x=1"))),
            ("https://host/k8s/clusters/c-1/", Some(("host", 443, "host:443", "/k8s/clusters/c-1/api?x=1"))),
            ("http://host", None),
            ("https://", None),
            ("", None),
        ];
        for (url, expect) in cases {
            let read = Address::parse(url).ok();
            let path = read.as_ref().map(|a| a.path(&"/api?x=1".parse().unwrap()).unwrap().to_string());
            let read = read.as_ref().zip(path.as_ref()).map(|(a, p)| (a.host.as_str(), a.port, a.authority.as_str(), p.as_str()));
            assert_eq!(read, expect, "{url}");
        }
        assert!(matches!(Address::parse("http://host"), Err(RemoteError::NotTls(_))));
        assert!(Address::parse("https://[::1]").unwrap().server_name().is_ok());
    }
}
