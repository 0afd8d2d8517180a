//! Encryption at rest: which values are encrypted and by what (`config`), the ciphers (`provider`), keys that a key management
//! service holds (`kms`). It is a `Cipher` of the store: it sees keys and bytes, and knows no kinds. What it writes has upstream's
//! form, so that what one wrote the other can read.

mod config;
mod kms;
mod provider;
mod watch;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fram_machinery::yaml;
use fram_store::{Cipher, CipherError, Opened};
use parking_lot::RwLock;

use config::{Config, Resource};
use provider::Chain;

pub use watch::Reloads;

#[derive(Debug, thiserror::Error)]
pub enum EncryptionError {
    #[error("cannot {operation} {}: {source}", path.display())]
    Io { path: PathBuf, operation: &'static str, source: std::io::Error },
    #[error("encryption configuration {}: {reason}", path.display())]
    Config { path: PathBuf, reason: String },
    #[error("encryption configuration {}: the key management service {name} cannot be used: {reason}", path.display())]
    Service { path: PathBuf, name: String, reason: String },
}

/// What every encrypted value starts with.
const MARK: &[u8] = b"k8s:enc:";

/// The chains of one configuration.
#[derive(Default)]
struct Chains {
    exact: HashMap<Resource, Arc<Chain>>,
    /// `*.GROUP`.
    groups: HashMap<String, Arc<Chain>>,
    /// `*.*`.
    all: Option<Arc<Chain>>,
    kms: Vec<Arc<kms::Provider>>,
}

/// Told when values on disk should be written anew.
type Changed = Arc<dyn Fn() + Send + Sync>;

/// The encryption of one store.
pub struct Encryption {
    /// What all keys start with.
    prefix: String,
    /// None without a configuration: then nothing is encrypted, and what is encrypted is refused.
    path: Option<PathBuf>,
    chains: RwLock<Arc<Chains>>,
    /// The file as it is in force.
    text: RwLock<String>,
    changed: Arc<RwLock<Option<Changed>>>,
}

impl Encryption {
    /// No encryption.
    pub fn none(prefix: &str) -> Self {
        Self { prefix: prefix.into(), path: None, chains: RwLock::default(), text: RwLock::default(), changed: Arc::default() }
    }

    /// Encryption as a file says. Asks the key management services that it names, and goes on where one does not answer: its
    /// health check says so.
    pub fn load(path: &Path, prefix: &str) -> Result<Self, EncryptionError> {
        let changed = Arc::default();
        let (chains, text) = read(path, &changed)?;
        let (chains, text) = (RwLock::new(Arc::new(chains)), RwLock::new(text));
        Ok(Self { prefix: prefix.into(), path: Some(path.into()), chains, text, changed })
    }

    /// Whom to tell that values on disk should be written anew: after a reload, and when a service has another key.
    pub fn on_change(&self, tell: Changed) {
        *self.changed.write() = Some(tell);
    }

    /// Reads the file again. What is wrong with it, or with a service that it names, changes nothing.
    pub fn reload(&self) -> Result<(), EncryptionError> {
        let Some(path) = &self.path else { return Ok(()) };
        let (chains, text) = read(path, &self.changed)?;
        // One that does not answer would have every write refused from now on.
        for kms in &chains.kms {
            let name = || kms.name().to_string();
            kms.health().map_err(|reason| EncryptionError::Service { path: path.clone(), name: name(), reason })?;
        }
        *self.chains.write() = Arc::new(chains);
        *self.text.write() = text;
        let tell = self.changed.read().clone();
        if let Some(tell) = tell {
            tell();
        }
        Ok(())
    }

    /// Whether the file says something else than what is in force.
    fn is_outdated(&self) -> bool {
        let text = self.path.as_ref().and_then(|path| std::fs::read_to_string(path).ok());
        text.is_some_and(|text| text != *self.text.read())
    }

    /// Follows the file's changes; None without a file.
    pub fn follow(self: &Arc<Self>) -> Result<Option<Reloads>, EncryptionError> {
        self.path.as_ref().map(|path| Reloads::of(self.clone(), path)).transpose()
    }

    /// The health of the key management services, by the names of upstream's checks.
    pub fn health(&self) -> Vec<(String, Result<(), String>)> {
        let chains = self.chains.read().clone();
        chains.kms.iter().enumerate().map(|(i, kms)| (format!("kms-provider-{i}"), kms.health())).collect()
    }

    fn chain(&self, key: &str) -> Option<Arc<Chain>> {
        let chains = self.chains.read();
        if chains.exact.is_empty() && chains.groups.is_empty() && chains.all.is_none() {
            return None;
        }
        let resource = resource_of(key.strip_prefix(&*self.prefix)?)?;
        let chain = chains.exact.get(&resource).or_else(|| chains.groups.get(&resource.group)).or(chains.all.as_ref());
        chain.cloned()
    }
}

/// Group and resource of a key behind the prefix: `core/secrets/…`. What has fewer parts is no object.
fn resource_of(key: &str) -> Option<Resource> {
    let mut parts = key.split('/');
    let (group, resource) = (parts.next()?, parts.next()?);
    parts.next()?;
    Some(Resource { group: if group == "core" { String::new() } else { group.into() }, resource: resource.into() })
}

impl Cipher for Encryption {
    fn seal(&self, key: &str, value: &[u8]) -> Result<Option<Vec<u8>>, CipherError> {
        if self.is_sealed(value) {
            return Ok(None);
        }
        match self.chain(key) {
            Some(chain) => chain.seal(key, value).map_err(|e| CipherError(e.to_string())),
            None => Ok(None),
        }
    }

    fn seal_again(&self, key: &str, value: &[u8]) -> Result<Option<Vec<u8>>, CipherError> {
        match self.chain(key).filter(|_| !self.is_sealed(value)) {
            Some(chain) => chain.seal_again(key, value).map_err(|e| CipherError(e.to_string())),
            None => Ok(None),
        }
    }

    fn open(&self, key: &str, stored: &[u8]) -> Result<Opened, CipherError> {
        let opened = match self.chain(key) {
            Some(chain) => chain.open(key, stored).map_err(|error| error.to_string()),
            None if stored.starts_with(MARK) => Err("no provider is configured for it".into()),
            None => Ok(Opened::default()),
        };
        // One object that nobody can read must not keep the others from being served: whoever asks for it is told.
        opened.or_else(|why| {
            if !stored.starts_with(MARK) {
                return Err(CipherError(why));
            }
            tracing::error!(key, why, "an object in the store cannot be decrypted");
            Ok(Opened::default())
        })
    }

    fn is_sealed(&self, value: &[u8]) -> bool {
        value.starts_with(MARK)
    }
}

fn read(path: &Path, changed: &Arc<RwLock<Option<Changed>>>) -> Result<(Chains, String), EncryptionError> {
    let text = std::fs::read_to_string(path).map_err(|source| EncryptionError::Io { path: path.into(), operation: "read", source })?;
    let wrong = |reason: String| EncryptionError::Config { path: path.into(), reason };
    let value = yaml::from_str(&text).map_err(|e| wrong(e.to_string()))?;
    let config = Config::read(&value).map_err(wrong)?;
    let mut chains = Chains::default();
    for entry in config.entries {
        let chain = Arc::new(Chain::new(entry.providers, changed, &mut chains.kms).map_err(wrong)?);
        for Resource { group, resource } in entry.resources {
            // Of two entries that name a resource the first counts.
            match (group.as_str(), resource.as_str()) {
                ("*", "*") => drop(chains.all.get_or_insert_with(|| chain.clone())),
                (_, "*") => drop(chains.groups.entry(group).or_insert_with(|| chain.clone())),
                _ => drop(chains.exact.entry(Resource { group, resource }).or_insert_with(|| chain.clone())),
            }
        }
    }
    Ok((chains, text))
}

#[cfg(test)]
mod tests;
