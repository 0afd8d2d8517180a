//! Reads the current context of a kubeconfig file.

use std::path::Path;

use base64::Engine;
use fram_machinery::{Value, yaml};

use super::RemoteError;

/// Where a server is, whom to trust, and who one is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kubeconfig {
    /// `https://HOST:PORT`.
    pub server: String,
    /// Certificates, as PEM.
    pub ca: String,
    /// Certificate and key, as PEM.
    pub identity: Option<(String, String)>,
    pub token: Option<String>,
}

impl Kubeconfig {
    /// TLS with this trust and identity, for connections that speak one protocol, as ALPN names it.
    pub fn tls(&self, protocol: &[u8]) -> Result<rustls::ClientConfig, RemoteError> {
        super::connection::tls_config(self, protocol)
    }

    pub fn read(path: &Path) -> Result<Self, RemoteError> {
        let text = std::fs::read_to_string(path).map_err(|source| RemoteError::Read { path: path.into(), source })?;
        Self::parse(&text, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, RemoteError> {
        let fail = |reason: String| RemoteError::Kubeconfig { path: path.into(), reason };
        let config = yaml::from_str(text).map_err(|e| fail(e.to_string()))?;
        let named = |list: &str, name: &str| {
            let found = config.list_at(&[list]).iter().find(|e| e.str_at(&["name"]) == name).cloned();
            found.ok_or_else(|| fail(format!("{list} has no entry {name:?}")))
        };
        let context = named("contexts", config.str_at(&["current-context"]))?;
        let cluster = named("clusters", context.str_at(&["context", "cluster"]))?.get("cluster").cloned().unwrap_or_default();
        let user = named("users", context.str_at(&["context", "user"]))?.get("user").cloned().unwrap_or_default();
        let (certificate, key) = (data(&user, "client-certificate", path)?, data(&user, "client-key", path)?);
        Ok(Self {
            server: cluster.str_at(&["server"]).into(),
            ca: data(&cluster, "certificate-authority", path)?.unwrap_or_default(),
            identity: certificate.zip(key),
            token: Some(user.str_at(&["token"]).to_string()).filter(|t| !t.is_empty()),
        })
    }
}

/// A field that is given as `NAME-data` in base64, or as the path `NAME`.
fn data(entry: &Value, name: &str, path: &Path) -> Result<Option<String>, RemoteError> {
    let fail = |reason: String| RemoteError::Kubeconfig { path: path.into(), reason };
    let encoded = entry.str_at(&[&format!("{name}-data")]);
    if !encoded.is_empty() {
        let raw = base64::engine::general_purpose::STANDARD.decode(encoded).map_err(|e| fail(format!("{name}-data: {e}")))?;
        return String::from_utf8(raw).map(Some).map_err(|e| fail(format!("{name}-data: {e}")));
    }
    match entry.str_at(&[name]) {
        "" => Ok(None),
        file => {
            let file = path.parent().unwrap_or(Path::new(".")).join(file);
            std::fs::read_to_string(&file).map(Some).map_err(|source| RemoteError::Read { path: file, source })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_current_context_is_read() {
        let text = "current-context: b\ncontexts:\n- {name: a, context: {cluster: x, user: x}}\n- {name: b, context: {cluster: c, user: u}}\nclusters:\n- {name: c, cluster: {server: 'https://h:1', certificate-authority-data: Q0E=}}\nusers:\n- {name: u, user: {token: t}}\n";
        let config = Kubeconfig::parse(text, Path::new("k")).unwrap();
        assert_eq!(config, Kubeconfig { server: "https://h:1".into(), ca: "CA".into(), identity: None, token: Some("t".into()) });
        assert!(Kubeconfig::parse("current-context: z\n", Path::new("k")).is_err());
    }
}
