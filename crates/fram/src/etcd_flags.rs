//! The flags about etcd in place of the embedded store, and about what servers on one etcd share; by kube-apiserver's names and with
//! its defaults.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use fram_apiserver::Checks;
use fram_encryption::Encryption;
use fram_store::etcd::Tls;
use fram_store::{Embedded, Etcd, EtcdOptions, Options, Store};

use crate::api_flags::duration;

/// Where the cluster's objects are kept.
#[derive(clap::Args, Debug, Clone)]
#[command(next_help_heading = "Store")]
pub(crate) struct EtcdFlags {
    /// Keep objects in this etcd, in place of the data directory: https://IP:PORT of each member, separated by commas.
    #[arg(long, value_name = "URLS", value_delimiter = ',')]
    etcd_servers: Vec<String>,
    /// The authority of etcd's certificates, in PEM.
    #[arg(long, value_name = "FILE", requires = "etcd_servers")]
    etcd_cafile: Option<PathBuf>,
    /// The certificate that is shown to etcd, in PEM.
    #[arg(long, value_name = "FILE", requires = "etcd_keyfile")]
    etcd_certfile: Option<PathBuf>,
    /// The key of that certificate, in PEM.
    #[arg(long, value_name = "FILE", requires = "etcd_certfile")]
    etcd_keyfile: Option<PathBuf>,
    /// What all keys in etcd start with.
    #[arg(long, value_name = "PREFIX", default_value = "/registry")]
    etcd_prefix: String,
    /// How often etcd is compacted; 0s for never.
    #[arg(long, value_name = "DURATION", default_value = "5m0s", value_parser = duration)]
    etcd_compaction_interval: Duration,
    /// The directory of the cluster's keys and certificates, which servers on one etcd must have in common; by default `pki`
    /// in the data directory.
    #[arg(long, value_name = "DIR")]
    cert_dir: Option<PathBuf>,
}

impl EtcdFlags {
    /// Whether other servers may use the same store.
    pub(crate) fn is_shared(&self) -> bool {
        !self.etcd_servers.is_empty()
    }

    pub(crate) fn cert_dir(&self, data: &Path) -> PathBuf {
        self.cert_dir.clone().unwrap_or_else(|| data.join("pki"))
    }

    /// What all keys of the cluster start with; see upstream's storagebackend.Config, whose prefix has no slash at its end.
    pub(crate) fn prefix(&self) -> String {
        format!("/{}/", self.etcd_prefix.trim_matches('/'))
    }

    /// Opens the store; it is told when values are to be written anew. With it, what its health check says.
    pub(crate) async fn open(&self, data: &Path, encryption: &Arc<Encryption>) -> anyhow::Result<(Arc<dyn Store>, Checks)> {
        let of_encryption = encryption.clone();
        if !self.is_shared() {
            let store = Embedded::open(Options { cipher: Some(encryption.clone()), ..Options::new(data.join("store")) })?;
            return Ok((follow(&Arc::new(store), encryption, Embedded::rewrite), Arc::new(move || of_encryption.health())));
        }
        let options = self.options(encryption)?;
        let store = Etcd::open(options).await.with_context(|| format!("cannot use etcd at {}", self.etcd_servers.join(",")))?;
        let store = Arc::new(store);
        let etcd = store.clone();
        let health = move || {
            let own = ("etcd".to_string(), etcd.health().map_err(|error| error.to_string()));
            std::iter::once(own).chain(of_encryption.health()).collect()
        };
        Ok((follow(&store, encryption, Etcd::rewrite), Arc::new(health)))
    }

    /// How the store on etcd is opened.
    pub(crate) fn options(&self, encryption: &Arc<Encryption>) -> anyhow::Result<EtcdOptions> {
        let interval = self.etcd_compaction_interval;
        Ok(EtcdOptions {
            tls: self.tls()?,
            compaction_interval: (!interval.is_zero()).then_some(interval),
            cipher: Some(encryption.clone()),
            ..EtcdOptions::new(self.etcd_servers.clone(), &self.prefix())
        })
    }

    fn tls(&self) -> anyhow::Result<Option<Tls>> {
        let read = |path: &PathBuf| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        let Some(ca) = &self.etcd_cafile else { return Ok(None) };
        let identity = match (&self.etcd_certfile, &self.etcd_keyfile) {
            (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
            _ => None,
        };
        let identity = identity.as_ref().map(|(certificate, key)| (certificate.as_slice(), key.as_slice()));
        let tls = Tls::new(&read(ca)?, identity).map_err(|why| anyhow::anyhow!("the connection to etcd cannot be secured: {why}"))?;
        Ok(Some(tls))
    }
}

/// Has the store write values anew when the encryption changes.
fn follow<S: Store + 'static>(store: &Arc<S>, encryption: &Encryption, rewrite: impl Fn(&S) + Send + Sync + 'static) -> Arc<dyn Store> {
    let rewritten = Arc::downgrade(store);
    encryption.on_change(Arc::new(move || {
        if let Some(store) = rewritten.upgrade() {
            rewrite(&store);
        }
    }));
    store.clone()
}
