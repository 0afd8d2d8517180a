//! Join tokens: a bootstrap token and the hash of the CA's public key, `ID.SECRET.HASH`.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use fram_apiserver::bootstrap_token::{BootstrapToken, NAMESPACE, SECRET_TYPE};
use fram_apiserver::pki::public_key_hash;
use fram_client::remote::{Kubeconfig, Remote};
use fram_client::resources::SECRETS;
use fram_client::{Client, ListOptions};

use crate::cli::TokenCreate;

/// What a machine needs to join: who lets it in, and whom it may trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JoinToken {
    pub(crate) bootstrap: BootstrapToken,
    /// SHA-256 of the CA's SubjectPublicKeyInfo in hexadecimal.
    pub(crate) ca_hash: String,
}

impl JoinToken {
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let form = "a join token has the form abcdef.0123456789abcdef.HASH, as `fram token create` prints it";
        let Some((bootstrap, ca_hash)) = text.trim().rsplit_once('.') else { bail!("{form}") };
        let bootstrap = BootstrapToken::parse(bootstrap).context(form)?;
        let is_hash = ca_hash.len() == 64 && ca_hash.bytes().all(|b| b.is_ascii_hexdigit());
        anyhow::ensure!(is_hash, "{form}; HASH has 64 hexadecimal digits");
        Ok(Self { bootstrap, ca_hash: ca_hash.to_lowercase() })
    }
}

impl std::fmt::Display for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.bootstrap.id, self.bootstrap.secret, self.ca_hash)
    }
}

/// For how long a server's own token lets nodes in; kubeadm's default.
const HOURS: u32 = 24;

/// `fram token create`: through the API of the running server, as its administrator.
pub(crate) fn create(create: &TokenCreate) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let token = runtime.block_on(async {
        let config = Kubeconfig::read(&create.data_dir.join("admin.kubeconfig")).context("is this a server's data directory?")?;
        let client = Client::new(Arc::new(Remote::new(&config)?), "fram-token");
        anyhow::Ok(JoinToken { bootstrap: make(&client, create.hours).await?, ca_hash: hash(&config.ca)? })
    })?;
    fram_cli::say(&token.to_string());
    Ok(())
}

fn hash(ca: &str) -> anyhow::Result<String> {
    public_key_hash(ca).map_err(|why| anyhow::anyhow!("the certificate authority cannot be read: {why}"))
}

async fn make(client: &Client, hours: u32) -> anyhow::Result<BootstrapToken> {
    let token = BootstrapToken::generate(rand::random);
    let expires = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(hours.into());
    let secrets = client.within(&SECRETS, NAMESPACE);
    secrets.create(token.to_secret(expires)).await.map_err(|s| anyhow::anyhow!("cannot store the token: {s}"))?;
    Ok(token)
}

/// A token that is good now: one that the cluster has, or a new one.
pub(crate) async fn current(client: &Client, ca: &str) -> anyhow::Result<JoinToken> {
    let options = ListOptions { field_selector: format!("type={SECRET_TYPE}"), ..Default::default() };
    let page = client.within(&SECRETS, NAMESPACE).list(options).await.map_err(|s| anyhow::anyhow!("cannot list tokens: {s}"))?;
    let now = jiff::Timestamp::now();
    let known = page.items.iter().find_map(|secret| BootstrapToken::from_secret(secret, now));
    let bootstrap = match known {
        Some(token) => token,
        None => make(client, HOURS).await?,
    };
    Ok(JoinToken { bootstrap, ca_hash: hash(ca)? })
}

/// Reads what a file says, or None where there is none.
pub(crate) fn read(path: &Path) -> anyhow::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_join_token_is_read_as_it_is_written() {
        let text = format!("abcdef.0123456789abcdef.{}", "0f".repeat(32));
        assert_eq!(JoinToken::parse(&text).unwrap().to_string(), text);
        for bad in ["", "abcdef.0123456789abcdef", "abcdef.0123456789abcdef.00", &text[1..], &text.replace("0f", "xy")] {
            assert!(JoinToken::parse(bad).is_err(), "{bad}");
        }
    }
}
