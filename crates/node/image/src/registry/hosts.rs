//! What stands behind a registry's name: `hosts.toml` in a folder named like the registry, as containerd reads it (docs/hosts.md there):
//! mirrors, authorities, client certificates, headers. Read at each pull, so that a change needs no restart.

use std::io;
use std::path::{Path, PathBuf};

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use toml_edit::{Document, Item, TableLike};

/// The folder for registries that have none of their own.
const ANY: &str = "_default";
const FILE: &str = "hosts.toml";

#[derive(Debug, thiserror::Error)]
pub enum HostsError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: {reason}", path.display())]
    Invalid { path: PathBuf, reason: String },
}

/// An address at which images may be had.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Host {
    /// None where the file gives no `server`: the registry itself.
    pub(super) address: Option<Address>,
    /// Says which content a tag stands for.
    pub(super) resolves: bool,
    /// Has that content.
    pub(super) pulls: bool,
    pub(super) tls: Tls,
    pub(super) headers: HeaderMap,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Address {
    pub(super) scheme: &'static str,
    pub(super) authority: String,
    /// What stands before a repository's name, without a slash at its end.
    pub(super) path: String,
}

/// How TLS to an address differs from what the system trusts. Paths are those of PEM files.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Tls {
    /// Trusted beside the system's.
    pub(super) authorities: Vec<PathBuf>,
    /// A certificate and its key.
    pub(super) client: Option<(PathBuf, PathBuf)>,
    pub(super) skip_verify: bool,
}

/// All that is said of a registry: mirrors in their order, and the registry itself.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Hosts {
    pub(super) mirrors: Vec<Host>,
    pub(super) server: Host,
    /// Nobody spoke of this registry in particular.
    pub(super) of_any: bool,
}

impl Host {
    fn plain() -> Self {
        Self { resolves: true, pulls: true, ..Self::default() }
    }
}

/// What is said of `registry` below `directory`; None where nothing is.
pub(super) fn load(directory: &Path, registry: &str) -> Result<Option<Hosts>, HostsError> {
    // Not every file system takes a colon.
    let spelled = registry.rsplit_once(':').map(|(host, port)| format!("{host}_{port}_"));
    let names = spelled.as_deref().into_iter().chain([registry, ANY]);
    let Some(name) = names.into_iter().find(|name| directory.join(name).is_dir()) else { return Ok(None) };
    let folder = directory.join(name);
    let path = folder.join(FILE);
    let hosts = match std::fs::read_to_string(&path) {
        Ok(text) => parse(&text, &folder).map_err(|reason| HostsError::Invalid { path, reason })?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => certificates(&folder)?,
        Err(source) => return Err(HostsError::Read { path, source }),
    };
    Ok(Some(Hosts { of_any: name == ANY, ..hosts }))
}

/// A folder without the file is one of Docker's: authorities in `.crt`, a client's certificate in `.cert` with its key in `.key`, or with
/// both in the one.
fn certificates(folder: &Path) -> Result<Hosts, HostsError> {
    let failed = |source| HostsError::Read { path: folder.to_path_buf(), source };
    let mut tls = Tls::default();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        match path.extension().and_then(|e| e.to_str()) {
            Some("crt") => tls.authorities.push(path),
            Some("cert") => {
                let key = path.with_extension("key");
                let key = if key.exists() { key } else { path.clone() };
                tls.client = Some((path, key));
            }
            _ => {}
        }
    }
    tls.authorities.sort();
    Ok(Hosts { server: Host { tls, ..Host::plain() }, ..Hosts::default() })
}

fn parse(text: &str, folder: &Path) -> Result<Hosts, String> {
    let document = Document::parse(text).map_err(|error| error.to_string())?;
    let mut server = host(document.as_table(), folder)?;
    let mut mirrors = Vec::new();
    for (key, item) in document.iter() {
        match (key, item.as_table_like()) {
            ("host", Some(hosts)) => {
                for (name, item) in hosts.iter() {
                    let table = item.as_table_like().ok_or_else(|| format!("host.{name:?} is no table"))?;
                    let overrides = flag(table, "override_path")?;
                    let address = Some(address(name, overrides).map_err(|why| format!("host.{name:?}: {why}"))?);
                    mirrors.push(Host { address, ..host(table, folder).map_err(|why| format!("host.{name:?}: {why}"))? });
                }
            }
            ("host", None) => return Err("host is no table".into()),
            ("server", _) => {
                let name = item.as_str().ok_or("server is no text")?;
                if !name.is_empty() {
                    server.address =
                        Some(address(name, flag(document.as_table(), "override_path")?).map_err(|why| format!("server: {why}"))?);
                }
            }
            _ => {}
        }
    }
    if server.address.is_none() {
        // What the registry itself can is not for those to say who do not say where it is.
        (server.resolves, server.pulls) = (true, true);
    }
    Ok(Hosts { mirrors, server, of_any: false })
}

/// The keys that the file and each of its hosts have in common. Others are containerd's own concern.
fn host(table: &dyn TableLike, folder: &Path) -> Result<Host, String> {
    let mut host = Host::plain();
    if let Some(item) = table.get("capabilities") {
        let words = texts(item).ok_or("capabilities is no list of texts")?;
        if let Some(other) = words.iter().find(|word| !matches!(word.as_str(), "pull" | "resolve" | "push" | "referrers")) {
            return Err(format!("unknown capability {other:?}"));
        }
        let has = |wanted: &str| words.is_empty() || words.iter().any(|word| word == wanted);
        (host.resolves, host.pulls) = (has("resolve"), has("pull"));
    }
    if let Some(item) = table.get("ca") {
        let names = texts(item).ok_or("ca is neither a text nor a list of them")?;
        host.tls.authorities = names.iter().map(|name| folder.join(name)).collect();
    }
    host.tls.client = table.get("client").map(|item| client(item, folder)).transpose()?;
    host.tls.skip_verify = flag(table, "skip_verify")?;
    if let Some(item) = table.get("header") {
        let headers = item.as_table_like().ok_or("header is no table")?;
        for (name, item) in headers.iter() {
            let bad = || format!("header {name:?} cannot be sent");
            let key: HeaderName = name.parse().map_err(|_| bad())?;
            for value in texts(item).ok_or_else(bad)? {
                let mut value = HeaderValue::from_str(&value).map_err(|_| bad())?;
                value.set_sensitive(true);
                host.headers.append(key.clone(), value);
            }
        }
    }
    Ok(host)
}

/// One file with both, or a list of one pair. Of several pairs a server could choose; containerd shows all, and one is what is used.
fn client(item: &Item, folder: &Path) -> Result<(PathBuf, PathBuf), String> {
    let bad = || "client is neither a file nor a pair of files".to_string();
    if let Some(both) = item.as_str() {
        return Ok((folder.join(both), folder.join(both)));
    }
    let list = item.as_array().ok_or_else(bad)?;
    let first = list.get(0).ok_or_else(bad)?;
    match (list.len(), first.as_str(), first.as_array()) {
        (1, Some(both), _) => Ok((folder.join(both), folder.join(both))),
        (1, _, Some(pair)) => match (pair.len(), pair.get(0).and_then(|v| v.as_str()), pair.get(1).and_then(|v| v.as_str())) {
            (2, Some(certificate), Some("")) => Ok((folder.join(certificate), folder.join(certificate))),
            (2, Some(certificate), Some(key)) => Ok((folder.join(certificate), folder.join(key))),
            _ => Err(bad()),
        },
        _ => Err("client names more than one certificate".into()),
    }
}

fn flag(table: &dyn TableLike, name: &str) -> Result<bool, String> {
    table.get(name).map_or(Ok(false), |item| item.as_bool().ok_or_else(|| format!("{name} is neither true nor false")))
}

/// A text, or a list of texts.
fn texts(item: &Item) -> Option<Vec<String>> {
    match item.as_array() {
        Some(list) => list.iter().map(|value| value.as_str().map(String::from)).collect(),
        None => item.as_str().map(|text| vec![text.to_string()]),
    }
}

/// Without a scheme it is HTTPS. `/v2` is the API's own, and is added unless somebody says that the path is whole.
fn address(text: &str, is_whole: bool) -> Result<Address, String> {
    let full = if text.contains("://") { text.to_string() } else { format!("https://{text}") };
    let uri: Uri = full.parse().map_err(|error| format!("{text:?} is no address: {error}"))?;
    let scheme = match uri.scheme_str() {
        Some("http") => "http",
        Some("https") => "https",
        _ => return Err(format!("{text:?} is neither http nor https")),
    };
    let authority = uri.authority().ok_or_else(|| format!("{text:?} has no host"))?.to_string();
    if authority.contains('@') {
        return Err("an address cannot carry credentials".into());
    }
    let path = uri.path().trim_end_matches('/');
    let path = if is_whole || path.ends_with("/v2") { path.to_string() } else { format!("{path}/v2") };
    Ok(Address { scheme, authority, path })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(scheme: &'static str, authority: &str, path: &str) -> Option<Address> {
        Some(Address { scheme, authority: authority.into(), path: path.into() })
    }

    #[test]
    fn hosts_come_in_their_order_with_what_is_said_of_each() {
        let text = r#"
            server = "https://registry-1.docker.io"
            ca = "own.crt"
            [host."https://mirror.example/hub"]
              capabilities = ["pull"]
              skip_verify = true
              client = [["/c.pem", "/k.pem"]]
              [host."https://mirror.example/hub".header]
                X-One = "a"
                X-Two = ["b", "c"]
            [host."http://10.0.0.5:5000"]
              ca = ["/a.crt", "b.crt"]
            [host."whole.example/api/x"]
              override_path = true
              client = "both.pem"
        "#;
        let hosts = parse(text, Path::new("/d")).unwrap();
        let server = Host { address: at("https", "registry-1.docker.io", "/v2"), ..Host::plain() };
        let tls = Tls { authorities: vec!["/d/own.crt".into()], ..Tls::default() };
        assert_eq!(hosts.server, Host { tls, ..server });
        let [first, second, third] = &hosts.mirrors[..] else { panic!("{hosts:?}") };
        assert_eq!(first.address, at("https", "mirror.example", "/hub/v2"));
        assert!(first.pulls && !first.resolves && first.tls.skip_verify);
        assert_eq!(first.tls.client, Some(("/c.pem".into(), "/k.pem".into())));
        let sent: Vec<_> = first.headers.iter().map(|(name, value)| format!("{name}={}", value.to_str().unwrap())).collect();
        assert_eq!(sent, ["x-one=a", "x-two=b", "x-two=c"]);
        assert_eq!(second.address, at("http", "10.0.0.5:5000", "/v2"));
        assert_eq!(second.tls.authorities, [Path::new("/a.crt"), Path::new("/d/b.crt")]);
        assert_eq!(third.address, at("https", "whole.example", "/api/x"));
        assert_eq!(third.tls.client, Some(("/d/both.pem".into(), "/d/both.pem".into())));
    }

    #[test]
    fn what_cannot_be_meant_is_told_with_its_place() {
        for (text, told) in [
            ("server = 3", "server is no text"),
            ("server = 'ftp://x'", "neither http nor https"),
            ("[host.'https://a'\n", "host"),
            ("host = 'https://a'", "host is no table"),
            ("[host.'https://a']\nskip_verify = 'yes'", "\"https://a\": skip_verify is neither true nor false"),
            ("[host.'https://a']\ncapabilities = ['pul']", "unknown capability \"pul\""),
            ("[host.'https://a']\nclient = [['a','b'],['c','d']]", "more than one certificate"),
            ("[host.'https://u:p@a']", "credentials"),
            ("[host.'https://a'.header]\n'a b' = 'c'", "header \"a b\""),
        ] {
            let why = parse(text, Path::new("/d")).unwrap_err();
            assert!(why.contains(told), "{text}: {why}");
        }
    }

    #[test]
    fn who_is_given_no_capability_in_particular_has_all() {
        let can = |text: &str| {
            let hosts = parse(text, Path::new("/d")).unwrap();
            hosts.mirrors.iter().chain([&hosts.server]).map(|host| (host.resolves, host.pulls)).collect::<Vec<_>>()
        };
        let all = (true, true);
        assert_eq!(can("[host.'https://a']\ncapabilities = []"), [all, all]);
        assert_eq!(can("capabilities = ['push']\n[host.'https://a']\ncapabilities = ['push']"), [(false, false), all]);
        assert_eq!(can("server = 'https://a'\ncapabilities = ['resolve']"), [(true, false)]);
    }

    #[test]
    fn the_folder_is_the_registrys_then_that_of_all_others() {
        let dir = tempfile::tempdir().unwrap();
        let write = |folder: &str, file: &str, text: &str| {
            std::fs::create_dir_all(dir.path().join(folder)).unwrap();
            std::fs::write(dir.path().join(folder).join(file), text).unwrap();
        };
        let server = |registry: &str| load(dir.path(), registry).unwrap().and_then(|h| h.server.address).map(|a| a.authority);
        assert_eq!(load(dir.path(), "quay.io").unwrap(), None);
        write("_default", FILE, "server = 'https://all'");
        write("quay.io", FILE, "server = 'https://q'");
        write("10.0.0.5_5000_", FILE, "server = 'https://five'");
        write("10.0.0.5:5000", FILE, "server = 'https://later'");
        write("[::1]_5000_", FILE, "server = 'https://six'");
        let asked = ["quay.io", "10.0.0.5:5000", "[::1]:5000", "ghcr.io"];
        assert_eq!(asked.map(server), ["q", "five", "six", "all"].map(|a| Some(a.to_string())));
        assert_eq!(asked.map(|registry| load(dir.path(), registry).unwrap().unwrap().of_any), [false, false, false, true]);
        for file in ["b.crt", "a.crt", "c.cert", "c.key"] {
            write("docker.io", file, "");
        }
        let tls = load(dir.path(), "docker.io").unwrap().unwrap().server.tls;
        let in_it = |name: &str| dir.path().join("docker.io").join(name);
        assert_eq!((tls.authorities, tls.client), (vec![in_it("a.crt"), in_it("b.crt")], Some((in_it("c.cert"), in_it("c.key")))));
        std::fs::remove_file(in_it("c.key")).unwrap();
        let tls = load(dir.path(), "docker.io").unwrap().unwrap().server.tls;
        assert_eq!(tls.client, Some((in_it("c.cert"), in_it("c.cert"))));
    }
}
