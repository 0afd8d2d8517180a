//! Credential provider plugins (KEP-2133): programs of the node that are asked for credentials of registries. Configuration and answers
//! are read purely; running the programs is here. See upstream's pkg/credentialprovider/plugin.

mod account;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use fram_cri::AuthConfig;
use fram_machinery::normalize::parse_duration;
use fram_machinery::{Map, Status, Value, json, object, yaml};
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt;

use super::access::Used;
use super::keyring::{Keyring, matches_image, registry_of};
pub(crate) use account::{Accounts, ApiAccounts, PodIdentity};
use account::{TokenAttributes, Told};

const CONFIG: (&str, &str) = ("kubelet.config.k8s.io/v1", "CredentialProviderConfig");
const PROTOCOL: &str = "credentialprovider.kubelet.k8s.io/v1";
/// Upstream's maxExecTimeout.
const TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    #[error("{operation} {path:?}: {source}")]
    Io { operation: &'static str, path: PathBuf, source: std::io::Error },
    #[error("credential provider configuration {path:?}: {why}")]
    Config { path: PathBuf, why: String },
    #[error("credential provider {name}: {why}")]
    Answer { name: String, why: String },
    #[error("credential provider {name}: the service account {account} cannot be told of: {status}")]
    Account { name: String, account: String, status: Box<Status> },
}

#[derive(Debug, Clone, PartialEq)]
struct Provider {
    name: String,
    match_images: Vec<String>,
    default_cache: Duration,
    args: Vec<String>,
    env: Vec<(String, String)>,
    tokens: Option<TokenAttributes>,
}

/// What a program answered.
#[derive(Debug, Clone, PartialEq)]
struct Answer {
    key: CacheKey,
    /// None for the provider's own time.
    cache: Option<Duration>,
    /// In the form of a docker configuration's `auths`.
    auths: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CacheKey {
    Image,
    Registry,
    Global,
}

/// By provider, what the answer is for, and whom.
type Cached = HashMap<(String, String, String), (Instant, Value)>;

/// The providers of a node. Without a configuration there are none.
#[derive(Debug, Default)]
pub struct CredentialProviders {
    bin_dir: PathBuf,
    providers: Vec<Provider>,
    cache: Mutex<Cached>,
}

impl CredentialProviders {
    /// Reads the configuration; each provider's program has to be in `bin_dir`.
    pub fn load(config: &Path, bin_dir: &Path) -> Result<Self, ProviderError> {
        let text =
            std::fs::read_to_string(config).map_err(|source| ProviderError::Io { operation: "read", path: config.into(), source })?;
        let wrong = |why: String| ProviderError::Config { path: config.into(), why };
        let providers = read_config(&yaml::from_str(&text).map_err(|e| wrong(e.to_string()))?).map_err(wrong)?;
        for provider in &providers {
            let path = bin_dir.join(&provider.name);
            std::fs::metadata(&path).map_err(|source| ProviderError::Io { operation: "find the program", path, source })?;
        }
        Ok(Self { bin_dir: bin_dir.into(), providers, cache: Mutex::default() })
    }

    /// What the providers that know the image's registry give for it to this pod. One that fails gives nothing; the pull may succeed
    /// without it.
    pub(crate) async fn credentials(&self, image: &str, pod: &PodIdentity, accounts: &dyn Accounts) -> Vec<(AuthConfig, Used)> {
        let mut keyring = Keyring::default();
        for provider in self.providers.iter().filter(|p| p.match_images.iter().any(|m| matches_image(m, image))) {
            match self.ask(provider, image, pod, accounts).await {
                Ok(Some((auths, used))) => keyring.add_auths(&auths, &used),
                Ok(None) => {}
                Err(error) => tracing::warn!(image, %error, "a credential provider failed"),
            }
        }
        keyring.lookup(image)
    }

    /// Whether one that knows the image's registry is told of accounts.
    pub(crate) fn concern_accounts(&self, image: &str) -> bool {
        self.providers.iter().any(|p| p.tokens.is_some() && p.match_images.iter().any(|m| matches_image(m, image)))
    }

    /// None where the provider has nothing to do with this pod.
    async fn ask(
        &self,
        provider: &Provider,
        image: &str,
        pod: &PodIdentity,
        accounts: &dyn Accounts,
    ) -> Result<Option<(Value, Used)>, ProviderError> {
        let mut told = None;
        if let Some(tokens) = &provider.tokens {
            match pod.account.is_empty() {
                true if tokens.requires_account => return Ok(None),
                true => {}
                false => {
                    let failed = |status| ProviderError::Account {
                        name: provider.name.clone(),
                        account: pod.account.clone(),
                        status: Box::new(status),
                    };
                    match tokens.tell(pod, accounts).await.map_err(failed)? {
                        Some(account) => told = Some(account),
                        None => return Ok(None),
                    }
                }
            }
        }
        let (whose, used) = match &told {
            Some(told) => (told.cache_key(), Used::Account(told.account.clone())),
            None => (String::new(), Used::Node),
        };
        let key = |kind| (provider.name.clone(), cache_key(kind, image), whose.clone());
        {
            let mut cache = self.cache.lock();
            cache.retain(|_, (until, _)| *until > Instant::now());
            let keys = [CacheKey::Image, CacheKey::Registry, CacheKey::Global].map(key);
            if let Some((_, auths)) = keys.iter().find_map(|key| cache.get(key)) {
                return Ok(Some((auths.clone(), used)));
            }
        }
        let answer = self.run(provider, image, told.as_ref()).await?;
        if told.is_some_and(|told| told.is_echoed(&answer.auths)) {
            let why = "it returned the service account token as the password, which is not allowed when cacheType is not Token".into();
            return Err(ProviderError::Answer { name: provider.name.clone(), why });
        }
        let time = answer.cache.unwrap_or(provider.default_cache);
        if !time.is_zero() {
            self.cache.lock().insert(key(answer.key), (Instant::now() + time, answer.auths.clone()));
        }
        Ok(Some((answer.auths, used)))
    }

    async fn run(&self, provider: &Provider, image: &str, told: Option<&Told>) -> Result<Answer, ProviderError> {
        let path = self.bin_dir.join(&provider.name);
        let failed = |operation| {
            let path = path.clone();
            move |source| ProviderError::Io { operation, path, source }
        };
        let mut request = object!({ "apiVersion": PROTOCOL, "kind": "CredentialProviderRequest", "image": image });
        if let Some(told) = told {
            request.set(&["serviceAccountToken"], told.token.as_str());
            if !told.annotations.is_empty() {
                let annotations: Map = told.annotations.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
                request.set(&["serviceAccountAnnotations"], annotations);
            }
        }
        let mut command = tokio::process::Command::new(&path);
        command.args(&provider.args).envs(provider.env.iter().cloned());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(failed("run"))?;
        let wrong = |why: String| ProviderError::Answer { name: provider.name.clone(), why };
        let talk = async {
            if let Some(mut input) = child.stdin.take()
                && let Err(error) = input.write_all(&json::to_vec(&request)).await
                && error.kind() != std::io::ErrorKind::BrokenPipe
            {
                return Err(failed("write to")(error));
            }
            child.wait_with_output().await.map_err(failed("read from"))
        };
        let output = tokio::time::timeout(TIMEOUT, talk).await.map_err(|_| wrong("it did not answer within a minute".into()))??;
        if !output.status.success() {
            // What it says may tell why, and must not flood the log.
            let said: String = String::from_utf8_lossy(&output.stderr).chars().take(500).collect();
            return Err(wrong(format!("{}: {said}", output.status)));
        }
        let answer = json::from_slice(&output.stdout).map_err(|error| wrong(error.to_string()))?;
        read_answer(&answer).map_err(wrong)
    }
}

fn cache_key(kind: CacheKey, image: &str) -> String {
    match kind {
        CacheKey::Image => format!("image/{image}"),
        CacheKey::Registry => format!("registry/{}", registry_of(image)),
        CacheKey::Global => "global".into(),
    }
}

fn read_config(document: &Value) -> Result<Vec<Provider>, String> {
    let (version, kind) = (document.str_at(&["apiVersion"]), document.str_at(&["kind"]));
    if (version, kind) != CONFIG {
        return Err(format!("unknown apiVersion/kind {version:?} {kind:?}: {} {} is known", CONFIG.0, CONFIG.1));
    }
    let list = document.list_at(&["providers"]);
    if list.is_empty() {
        return Err("at least 1 item in plugins is required".into());
    }
    let mut out: Vec<Provider> = Vec::new();
    for one in list {
        let provider = read_provider(one)?;
        if out.iter().any(|p| p.name == provider.name) {
            return Err(format!("provider name {:?} is not unique", provider.name));
        }
        out.push(provider);
    }
    Ok(out)
}

fn read_provider(one: &Value) -> Result<Provider, String> {
    let known = ["name", "matchImages", "defaultCacheDuration", "apiVersion", "args", "env", "tokenAttributes"];
    let name = one.str_at(&["name"]).to_string();
    if let Some(unknown) = one.as_map().into_iter().flat_map(|m| m.keys()).find(|k| !known.contains(&k.as_str())) {
        return Err(format!("strict decoding error: unknown field \"providers.{unknown}\""));
    }
    if name.is_empty() || name.contains('/') || matches!(name.as_str(), "." | "..") {
        return Err(format!("provider name {name:?} must name a file"));
    }
    let tokens = one.get("tokenAttributes").filter(|t| !t.is_null()).map(|t| TokenAttributes::read(&name, t)).transpose()?;
    let version = one.str_at(&["apiVersion"]);
    if version != PROTOCOL {
        return Err(format!("provider {name}: unsupported apiVersion {version:?}: {PROTOCOL} is supported"));
    }
    let texts = |key: &str| -> Vec<String> { one.list_at(&[key]).iter().filter_map(Value::as_str).map(String::from).collect() };
    let match_images = texts("matchImages");
    if match_images.is_empty() {
        return Err(format!("provider {name}: matchImages is required"));
    }
    let default_cache =
        duration(one, "defaultCacheDuration")?.ok_or_else(|| format!("provider {name}: defaultCacheDuration is required"))?;
    let env = one.list_at(&["env"]).iter().map(|e| (e.str_at(&["name"]).to_string(), e.str_at(&["value"]).to_string())).collect();
    Ok(Provider { name, match_images, default_cache, args: texts("args"), env, tokens })
}

fn duration(of: &Value, key: &str) -> Result<Option<Duration>, String> {
    let text = of.str_at(&[key]);
    if text.is_empty() {
        return Ok(None);
    }
    let nanos = parse_duration(text).and_then(|n| u64::try_from(n).ok()).ok_or_else(|| format!("{key}: {text:?} is no duration"))?;
    Ok(Some(Duration::from_nanos(nanos)))
}

fn read_answer(answer: &Value) -> Result<Answer, String> {
    let (version, kind) = (answer.str_at(&["apiVersion"]), answer.str_at(&["kind"]));
    if (version, kind) != (PROTOCOL, "CredentialProviderResponse") {
        return Err(format!("it answered with {version:?} {kind:?}"));
    }
    let key = match answer.str_at(&["cacheKeyType"]) {
        "Image" => CacheKey::Image,
        "Registry" => CacheKey::Registry,
        "Global" => CacheKey::Global,
        other => return Err(format!("the cache key type {other:?} is not valid")),
    };
    Ok(Answer { key, cache: duration(answer, "cacheDuration")?, auths: answer.get("auth").cloned().unwrap_or_default() })
}

#[cfg(test)]
mod tests;
