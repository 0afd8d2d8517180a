//! Reads the current context of a kubeconfig file.

use std::path::{Path, PathBuf};

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
        Ok(Context::load(&[path.into()], None)?.access)
    }
}

/// A context: access, and where one works with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Context {
    pub access: Kubeconfig,
    /// Empty where the context names none.
    pub namespace: String,
    /// The file that names the server.
    pub file: PathBuf,
}

impl Context {
    /// Reads a context, the current one where none is named, from files of which the first that says something counts; see
    /// clientcmd's ClientConfigLoadingRules.
    pub fn load(paths: &[PathBuf], context: Option<&str>) -> Result<Self, RemoteError> {
        let read = |path: &PathBuf| {
            let text = std::fs::read_to_string(path).map_err(|source| RemoteError::Read { path: path.clone(), source })?;
            Ok::<_, RemoteError>(File { value: yaml::from_str(&text).map_err(|e| fail(path, e.to_string()))?, path: path.clone() })
        };
        let files = paths.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        Self::find(&files, context)
    }

    fn find(files: &[File], context: Option<&str>) -> Result<Self, RemoteError> {
        let first = files.first().map_or(Path::new(""), |f| &f.path);
        let named = |list: &str, name: &str| {
            let entry =
                |file: &File| Some((file.value.list_at(&[list]).iter().find(|e| e.str_at(&["name"]) == name)?.clone(), file.path.clone()));
            files.iter().find_map(entry).ok_or_else(|| fail(first, format!("{list} has no entry {name:?}")))
        };
        let current = files.iter().map(|f| f.value.str_at(&["current-context"])).find(|c| !c.is_empty()).unwrap_or_default();
        let (context, _) = named("contexts", context.unwrap_or(current))?;
        let (cluster, file) = named("clusters", context.str_at(&["context", "cluster"]))?;
        let cluster = cluster.get("cluster").cloned().unwrap_or_default();
        let (user, users) = named("users", context.str_at(&["context", "user"]))?;
        let user = user.get("user").cloned().unwrap_or_default();
        let (certificate, key) = (data(&user, "client-certificate", &users)?, data(&user, "client-key", &users)?);
        let access = Kubeconfig {
            server: cluster.str_at(&["server"]).into(),
            ca: data(&cluster, "certificate-authority", &file)?.unwrap_or_default(),
            identity: certificate.zip(key),
            token: token(&user, &users)?,
        };
        Ok(Self { access, namespace: context.str_at(&["context", "namespace"]).into(), file })
    }
}

/// A kubeconfig file that was read.
struct File {
    value: Value,
    path: PathBuf,
}

fn fail(path: &Path, reason: String) -> RemoteError {
    RemoteError::Kubeconfig { path: path.into(), reason }
}

fn read_beside(path: &Path, name: &str) -> Result<String, RemoteError> {
    let file = path.parent().unwrap_or(Path::new(".")).join(name);
    std::fs::read_to_string(&file).map_err(|source| RemoteError::Read { path: file, source })
}

fn token(user: &Value, path: &Path) -> Result<Option<String>, RemoteError> {
    match (user.str_at(&["tokenFile"]), user.str_at(&["token"])) {
        ("", "") => Ok(None),
        ("", token) => Ok(Some(token.into())),
        (file, _) => Ok(Some(read_beside(path, file)?.trim().into())),
    }
}

/// A field that is given as `NAME-data` in base64, or as the path `NAME`.
fn data(entry: &Value, name: &str, path: &Path) -> Result<Option<String>, RemoteError> {
    let fail = |reason: String| fail(path, reason);
    let encoded = entry.str_at(&[&format!("{name}-data")]);
    if !encoded.is_empty() {
        let raw = base64::engine::general_purpose::STANDARD.decode(encoded).map_err(|e| fail(format!("{name}-data: {e}")))?;
        return String::from_utf8(raw).map(Some).map_err(|e| fail(format!("{name}-data: {e}")));
    }
    match entry.str_at(&[name]) {
        "" => Ok(None),
        file => read_beside(path, file).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { value: yaml::from_str(text).unwrap(), path: path.into() }
    }

    const FIRST: &str = "current-context: b\ncontexts:\n- {name: a, context: {cluster: c, user: u}}\n- {name: b, context: {cluster: c, user: u, namespace: team}}\nclusters:\n- {name: c, cluster: {server: 'https://h:1', certificate-authority-data: Q0E=}}\n";

    #[test]
    fn the_current_context_is_read_from_whichever_file_has_its_parts() {
        let files = [file("k", FIRST), file("l", "current-context: z\nusers:\n- {name: u, user: {token: t}}\n")];
        let access = Kubeconfig { server: "https://h:1".into(), ca: "CA".into(), identity: None, token: Some("t".into()) };
        let expect = Context { access, namespace: "team".into(), file: "k".into() };
        assert_eq!(Context::find(&files, None).unwrap(), expect);
        assert_eq!(Context::find(&files, Some("a")).unwrap(), Context { namespace: String::new(), ..expect });
        assert!(Context::find(&files, Some("z")).is_err() && Context::find(&files[..1], None).is_err());
    }
}
