//! Registry credentials from pull secrets, and which of them fit an image. Pure; see upstream's pkg/credentialprovider.

use base64::Engine;
use fram_cri::AuthConfig;
use fram_machinery::{Value, json};

use super::access::{PullSecret, Used};
use super::provider::PodIdentity;
use crate::pod::environment::value_of;

/// Credentials by the registry, or part of a registry, that they are for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Keyring {
    entries: Vec<Entry>,
    /// For whom images are pulled with it.
    pub(super) pod: PodIdentity,
}

#[derive(Debug, Clone)]
struct Entry {
    place: String,
    auth: AuthConfig,
    used: Used,
}

impl Keyring {
    pub(crate) fn of(pod: PodIdentity) -> Self {
        Self { entries: Vec::new(), pod }
    }

    /// Adds the credentials of a Secret of type kubernetes.io/dockerconfigjson or kubernetes.io/dockercfg.
    pub(crate) fn add_secret(&mut self, secret: &Value) {
        let read = |key: &str| value_of(secret, key, true).and_then(|bytes| json::from_slice(&bytes).ok());
        let modern = read(".dockerconfigjson").and_then(|config| config.get("auths").cloned());
        if let Some(auths) = modern.or_else(|| read(".dockercfg")) {
            let text = |path: &[&str]| secret.str_at(path).to_string();
            let (uid, namespace, name) = (text(&["metadata", "uid"]), text(&["metadata", "namespace"]), text(&["metadata", "name"]));
            self.add(&auths, |auth| {
                let (uid, namespace, name) = (uid.clone(), namespace.clone(), name.clone());
                Used::Secret(PullSecret { uid, namespace, name, hash: hash(auth) })
            });
        }
    }

    /// Adds credentials by the places that they are for, and whose they are.
    pub(crate) fn add_auths(&mut self, auths: &Value, used: &Used) {
        self.add(auths, |_| used.clone());
    }

    fn add(&mut self, auths: &Value, of: impl Fn(&AuthConfig) -> Used) {
        for (place, entry) in auths.as_map().into_iter().flat_map(|m| m.iter()) {
            let auth = auth(entry);
            self.entries.push(Entry { place: bare(place), used: of(&auth), auth });
        }
        // The longest, most special place comes first.
        self.entries.sort_by_key(|entry| std::cmp::Reverse(entry.place.len()));
    }

    /// What may open the image's repository, the most special first.
    pub(crate) fn lookup(&self, image: &str) -> Vec<(AuthConfig, Used)> {
        let repository = repository(image);
        self.entries.iter().filter(|entry| fits(&entry.place, &repository)).map(|entry| (entry.auth.clone(), entry.used.clone())).collect()
    }

    /// The secrets among what may open the image's repository.
    pub(super) fn secrets(&self, image: &str) -> Vec<PullSecret> {
        let secret = |(_, used)| match used {
            Used::Secret(secret) => Some(secret),
            Used::Node | Used::Account(_) => None,
        };
        self.lookup(image).into_iter().filter_map(secret).collect()
    }
}

/// Whether a place covers an image's repository.
pub(crate) fn matches_image(place: &str, image: &str) -> bool {
    fits(&bare(place), &repository(image))
}

/// The host and port of an image's registry.
pub(crate) fn registry_of(image: &str) -> String {
    repository(image).split('/').next().unwrap_or_default().to_string()
}

/// Of what a registry is shown: the same for the same credentials, wherever they are kept.
fn hash(auth: &AuthConfig) -> String {
    let AuthConfig { username, password, auth, identity_token, registry_token, .. } = auth;
    sha256(&json::to_vec(&Value::from(
        [username, password, auth, identity_token, registry_token].map(|text| text.as_str().into()).to_vec(),
    )))
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn auth(entry: &Value) -> AuthConfig {
    let text = |key: &str| entry.str_at(&[key]).to_string();
    let mut auth = AuthConfig {
        username: text("username"),
        password: text("password"),
        identity_token: text("identitytoken"),
        registry_token: text("registrytoken"),
        // As upstream's, which says of no secret whose it is: containerd would show none whose address is not spelt as it does it itself.
        server_address: String::new(),
        auth: String::new(),
    };
    let joined = base64::engine::general_purpose::STANDARD.decode(entry.str_at(&["auth"])).ok().and_then(|b| String::from_utf8(b).ok());
    if let Some((user, password)) = joined.as_deref().and_then(|j| j.split_once(':')) {
        auth.username = user.into();
        auth.password = password.trim_end_matches('\0').into();
    }
    auth
}

/// Without scheme and the API version that docker writes.
fn bare(place: &str) -> String {
    let place = place.strip_prefix("https://").or_else(|| place.strip_prefix("http://")).unwrap_or(place);
    let place = place.trim_end_matches('/');
    let place = place.strip_suffix("/v1").or_else(|| place.strip_suffix("/v2")).unwrap_or(place);
    match place {
        "registry-1.docker.io" | "docker.io" => "index.docker.io".to_string(),
        place => place.to_string(),
    }
}

/// The image's registry and repository, without tag and digest.
fn repository(image: &str) -> String {
    let name = image.split('@').next().unwrap_or(image);
    let (head, tail) = name.rsplit_once('/').map_or(("", name), |(h, t)| (h, t));
    let tail = tail.split(':').next().unwrap_or(tail);
    let name = if head.is_empty() { tail.to_string() } else { format!("{head}/{tail}") };
    let registry = name.split('/').next().unwrap_or_default();
    let explicit = name.contains('/') && (registry.contains(['.', ':']) || registry == "localhost");
    match explicit {
        true => bare_registry(&name),
        false => format!("index.docker.io/{name}"),
    }
}

fn bare_registry(name: &str) -> String {
    match name.split_once('/') {
        Some(("docker.io", rest)) => format!("index.docker.io/{rest}"),
        _ => name.to_string(),
    }
}

/// Whether a place covers a repository: same host (with `*` for one label), and the path a prefix of its own.
fn fits(place: &str, repository: &str) -> bool {
    let split = |text: &str| text.split_once('/').map_or((text.to_string(), String::new()), |(h, p)| (h.to_string(), p.to_string()));
    let ((host, path), (own_host, own_path)) = (split(place), split(repository));
    let labels = |h: &str| h.split('.').map(String::from).collect::<Vec<_>>();
    let (wanted, found) = (labels(&host), labels(&own_host));
    let same = |(w, f): (&String, &String)| match w.strip_prefix('*') {
        Some(suffix) => f.ends_with(suffix),
        None => w == f,
    };
    wanted.len() == found.len() && wanted.iter().zip(&found).all(same) && own_path.starts_with(&path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    #[test]
    fn a_secret_opens_the_registries_that_it_names() {
        let config = r#"{"auths":{"https://index.docker.io/v1/":{"auth":"dTpw"},"reg.example:5000/team":{"username":"t","password":"q"},"*.example.org":{"username":"w"}}}"#;
        let data = base64::engine::general_purpose::STANDARD.encode(config);
        let mut keyring = Keyring::default();
        keyring.add_secret(&object!({ "data": { ".dockerconfigjson": data } }));
        let users = |image: &str| keyring.lookup(image).into_iter().map(|(a, _)| a.username).collect::<Vec<_>>();
        assert_eq!(users("busybox"), ["u"]);
        assert!(keyring.lookup("busybox").iter().all(|(auth, _)| auth.server_address.is_empty()));
        assert_eq!(users("docker.io/library/busybox:1"), ["u"]);
        assert_eq!(users("reg.example:5000/team/app@sha256:0"), ["t"]);
        assert!(users("reg.example:5000/other/app").is_empty() && users("reg.example/team/app").is_empty());
        assert_eq!((users("a.example.org/x"), users("a.b.example.org/x")), (vec!["w".to_string()], vec![]));
    }
}
