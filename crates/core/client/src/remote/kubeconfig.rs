//! Reads the current context of a kubeconfig file.

use std::path::{Path, PathBuf};

use base64::Engine;
use fram_machinery::{Value, yaml};

use super::RemoteError;

/// Where a server is, whom to trust, and who one is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kubeconfig {
    /// `https://HOST:PORT`, with a path where the server stands behind another.
    pub server: String,
    /// Certificates, as PEM.
    pub ca: String,
    /// The name that the server's certificate shows, where it is not the server's host.
    pub server_name: Option<String>,
    /// Nobody is asked who the server is.
    pub insecure: bool,
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

    pub(super) fn find(files: &[File], context: Option<&str>) -> Result<Self, RemoteError> {
        let first = files.first().map_or(Path::new(""), |f| &f.path);
        let named = |list: &str, name: &str| {
            let entry =
                |file: &File| Some((file.value.list_at(&[list]).iter().find(|e| e.str_at(&["name"]) == name)?.clone(), file.path.clone()));
            files.iter().find_map(entry).ok_or_else(|| fail(first, format!("{list} has no entry {name:?}")))
        };
        let current = files.iter().map(|f| f.value.str_at(&["current-context"])).find(|c| !c.is_empty()).unwrap_or_default();
        let chosen = context.unwrap_or(current);
        if chosen.is_empty() {
            return Err(fail(first, "current-context is not set: name a context".into()));
        }
        let (context, _) = named("contexts", chosen)?;
        let (cluster, file) = named("clusters", context.str_at(&["context", "cluster"]))?;
        let cluster = cluster.get("cluster").cloned().unwrap_or_default();
        let (user, users) = match context.str_at(&["context", "user"]) {
            // Who is nobody may still ask.
            "" => (Value::default(), first.to_path_buf()),
            name => named("users", name)?,
        };
        let user = user.get("user").cloned().unwrap_or_default();
        known(&cluster, &UNKNOWN_OF_CLUSTERS, &file)?;
        known(&user, &UNKNOWN_OF_USERS, &users)?;
        let access = Kubeconfig {
            server: cluster.str_at(&["server"]).into(),
            ca: data(&cluster, "certificate-authority", &file)?.unwrap_or_default(),
            server_name: Some(cluster.str_at(&["tls-server-name"])).filter(|n| !n.is_empty()).map(String::from),
            insecure: cluster.bool_at(&["insecure-skip-tls-verify"]) == Some(true),
            identity: identity(&user, &users)?,
            token: token(&user, &users)?,
        };
        if access.insecure && !access.ca.is_empty() {
            return Err(fail(&file, "a certificate authority and insecure-skip-tls-verify exclude each other".into()));
        }
        Ok(Self { access, namespace: context.str_at(&["context", "namespace"]).into(), file })
    }
}

/// What would change where requests go, or as whom, and is not done here; a file that says it is refused rather than misread.
const UNKNOWN_OF_CLUSTERS: [&str; 1] = ["proxy-url"];
const UNKNOWN_OF_USERS: [&str; 8] = ["exec", "auth-provider", "username", "password", "as", "as-uid", "as-groups", "as-user-extra"];

fn known(entry: &Value, unknown: &[&str], path: &Path) -> Result<(), RemoteError> {
    match unknown.iter().find(|name| entry.get(name).is_some_and(|v| !v.is_empty())) {
        Some(name) => Err(fail(path, format!("{name} is not supported"))),
        None => Ok(()),
    }
}

fn identity(user: &Value, path: &Path) -> Result<Option<(String, String)>, RemoteError> {
    match (data(user, "client-certificate", path)?, data(user, "client-key", path)?) {
        (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
        (None, None) => Ok(None),
        _ => Err(fail(path, "client-certificate and client-key belong together".into())),
    }
}

/// A kubeconfig file that was read.
pub(super) struct File {
    pub(super) value: Value,
    pub(super) path: PathBuf,
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
        let access = Kubeconfig { server: "https://h:1".into(), ca: "CA".into(), token: Some("t".into()), ..Default::default() };
        let expect = Context { access, namespace: "team".into(), file: "k".into() };
        assert_eq!(Context::find(&files, None).unwrap(), expect);
        assert_eq!(Context::find(&files, Some("a")).unwrap(), Context { namespace: String::new(), ..expect });
        assert!(Context::find(&files, Some("z")).is_err() && Context::find(&files[..1], None).is_err());
    }
    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        let read = |cluster: &str, user: &str| {
            let text = format!(
                "current-context: a\ncontexts: [{{name: a, context: {{cluster: c, user: u}}}}]\nclusters: [{{name: c, cluster: {{server: 'https://h', {cluster}}}}}]\nusers: [{{name: u, user: {{{user}}}}}]\n"
            );
            Context::find(&[file("k", &text)], None).map(|c| c.access).map_err(|e| e.to_string())
        };
        let plain = Kubeconfig { server: "https://h".into(), ..Default::default() };
        assert_eq!(read("", ""), Ok(plain.clone()));
        assert_eq!(read("insecure-skip-tls-verify: true", ""), Ok(Kubeconfig { insecure: true, ..plain.clone() }));
        assert_eq!(read("tls-server-name: x", ""), Ok(Kubeconfig { server_name: Some("x".into()), ..plain }));
        for (cluster, user, why) in [
            ("proxy-url: 'http://p'", "", "proxy-url is not supported"),
            ("", "exec: {command: aws}", "exec is not supported"),
            ("", "auth-provider: {name: gcp}", "auth-provider is not supported"),
            ("", "username: a, password: b", "username is not supported"),
            ("", "client-certificate-data: Q0E=", "client-certificate and client-key belong together"),
            ("insecure-skip-tls-verify: true, certificate-authority-data: Q0E=", "", "exclude each other"),
        ] {
            let refused = read(cluster, user).unwrap_err();
            assert!(refused.contains(why), "{cluster} {user}: {refused}");
        }
    }

    #[test]
    fn a_context_needs_no_user() {
        let text =
            "current-context: a\ncontexts: [{name: a, context: {cluster: c}}]\nclusters: [{name: c, cluster: {server: 'https://h'}}]\n";
        let nobody = Context::find(&[file("k", text)], None).unwrap().access;
        assert_eq!(nobody, Kubeconfig { server: "https://h".into(), ..Default::default() });
        assert!(
            Context::find(&[file("k", &text.replace("current-context: a", "x: y"))], None)
                .unwrap_err()
                .to_string()
                .contains("current-context is not set")
        );
    }
}
