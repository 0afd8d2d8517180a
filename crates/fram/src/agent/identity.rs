//! The node's certificate: kept in `pki`, used after a restart, renewed before it expires. See upstream's
//! client-go/util/certificate.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use fram_apiserver::pki::{Identity, public_key_hash, write_private};
use fram_client::Client;
use fram_client::remote::{Kubeconfig, Remote};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use x509_parser::extensions::GeneralName;

use super::join::{self, Purpose};
use crate::cli::Agent;
use crate::node::Spoken;
use crate::token::{JoinToken, read};

/// By this name servers are known, whatever their addresses: the authority signs for addresses of nodes as well, and for this name nobody else's
/// requests.
pub(super) const SERVER_NAME: &str = "kubernetes.default.svc";
const CA: &str = "ca.crt";
/// Certificate and key in one file, as upstream's, so that they are always of one piece.
const CURRENT: &str = "kubelet-client-current.pem";
/// How long to wait after a renewal that failed.
const AGAIN: Duration = Duration::from_secs(60);

pub(super) fn directory(data: &Path) -> PathBuf {
    data.join("pki")
}

/// What a certificate says, in seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Facts {
    user: String,
    /// The names and addresses that it is for.
    names: BTreeSet<String>,
    not_before: i64,
    not_after: i64,
}

impl Facts {
    fn of(pem: &str) -> Option<Self> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
        let (_, certificate) = x509_parser::parse_x509_certificate(&der).ok()?;
        let user = certificate.subject().iter_common_name().next()?.as_str().ok()?.to_string();
        let validity = certificate.validity();
        let alternatives = certificate.subject_alternative_name().ok().flatten();
        let names = alternatives.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_string()),
            GeneralName::IPAddress(bytes) => ip_text(bytes),
            _ => None,
        });
        let names = names.collect();
        Some(Self { user, names, not_before: validity.not_before.timestamp(), not_after: validity.not_after.timestamp() })
    }

    fn is_for(&self, names: &[String]) -> bool {
        names.iter().all(|name| self.names.contains(name))
    }

    /// When to renew: with a fifth of its time left, as upstream does with a tenth to a third.
    fn renew_at(&self) -> i64 {
        self.not_after - (self.not_after - self.not_before) / 5
    }

    fn is_good_for(&self, node: &str, now: i64) -> bool {
        self.user == format!("system:node:{node}") && self.not_before <= now && now < self.not_after
    }
}

/// An address as certificates have it.
fn ip_text(bytes: &[u8]) -> Option<String> {
    let four = |bytes: [u8; 4]| IpAddr::from(bytes);
    let ip = <[u8; 4]>::try_from(bytes).map(four).or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from));
    ip.ok().map(|ip| ip.to_string())
}

/// Access as the node: with the certificate that is there, or with a new one for the token.
pub(super) async fn obtain(agent: &Agent, node: &str) -> anyhow::Result<Kubeconfig> {
    let directory = directory(&agent.machine.data_dir);
    std::fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let (ca, current) = (read(&directory.join(CA))?, read(&directory.join(CURRENT))?);
    let token = agent.token.as_deref().map(JoinToken::parse).transpose()?;
    if let (Some(ca), Some(pem)) = (ca, current)
        && token.as_ref().is_none_or(|t| is_of(&ca, t))
        && Facts::of(&pem).is_some_and(|f| f.is_good_for(node, jiff::Timestamp::now().as_second()))
    {
        return Ok(access(&agent.server, &ca, &pem));
    }
    let token = token.context(
        "this node has no certificate that is good now: give a join token with --token; `fram token create` on the server prints one",
    )?;
    let ca = join::discover(&agent.server, &token).await?;
    let client = Client::new(Arc::new(Remote::new(&join::with_token(&agent.server, &ca, &token))?), "fram-agent");
    let (certificate, key) = join::certificate(&client, node, Purpose::Client).await?;
    let pem = certificate + &key;
    write_private(&directory.join(CA), &ca)?;
    write_private(&directory.join(CURRENT), &pem)?;
    Ok(access(&agent.server, &ca, &pem))
}

/// Whether a token is for the cluster of this CA. One for another says that the server was made anew.
fn is_of(ca: &str, token: &JoinToken) -> bool {
    public_key_hash(ca).is_ok_and(|hash| hash == token.ca_hash)
}

/// The file has both: readers take the certificates, or the key, and leave the other.
fn access(server: &str, ca: &str, pem: &str) -> Kubeconfig {
    let identity = Some((pem.into(), pem.into()));
    Kubeconfig { server: server.into(), server_name: Some(SERVER_NAME.into()), ca: ca.into(), identity, ..Default::default() }
}

/// Renews the certificate.
pub(super) struct Keeper {
    pub(super) directory: PathBuf,
    pub(super) node: String,
    pub(super) client: Client,
    pub(super) remote: Arc<Remote>,
    pub(super) current: watch::Sender<Kubeconfig>,
}

impl Keeper {
    pub(super) async fn run(self, stop: CancellationToken) {
        loop {
            let until = self.left();
            let renewal = async {
                tokio::time::sleep(until).await;
                self.renew().await
            };
            match stop.run_until_cancelled(renewal).await {
                None => return,
                Some(Ok(())) => tracing::info!("the node's certificate is renewed"),
                Some(Err(error)) => {
                    tracing::warn!(error = format!("{error:#}"), "the node's certificate could not be renewed, will be tried again");
                    if stop.run_until_cancelled(tokio::time::sleep(AGAIN)).await.is_none() {
                        return;
                    }
                }
            }
        }
    }

    /// How long the certificate is good enough.
    fn left(&self) -> Duration {
        let facts = self.current.borrow().identity.as_ref().and_then(|(pem, _)| Facts::of(pem));
        let seconds = facts.map_or(0, |f| f.renew_at() - jiff::Timestamp::now().as_second());
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    }

    async fn renew(&self) -> anyhow::Result<()> {
        let (certificate, key) = join::certificate(&self.client, &self.node, Purpose::Client).await?;
        let pem = certificate + &key;
        write_private(&self.directory.join(CURRENT), &pem)?;
        let old = self.current.borrow().clone();
        let new = access(&old.server, &old.ca, &pem);
        self.remote.renew(&new).await?;
        self.current.send_replace(new);
        Ok(())
    }
}

/// Asks for the certificate of the kubelet's port, keeps it, and renews it.
pub(super) struct ServingKeeper {
    pub(super) directory: PathBuf,
    pub(super) node: String,
    pub(super) ip: IpAddr,
    pub(super) client: Client,
    pub(super) ca: String,
    pub(super) spoken: Spoken,
    pub(super) tls: watch::Sender<Option<Arc<rustls::ServerConfig>>>,
}

const SERVING: &str = "kubelet-server-current.pem";

impl ServingKeeper {
    pub(super) async fn run(self, stop: CancellationToken) {
        let work = async {
            loop {
                if let Err(error) = self.once().await {
                    tracing::warn!(error = format!("{error:#}"), "the kubelet's port has no new certificate, it is asked for again");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        };
        stop.run_until_cancelled(work).await;
    }

    /// Uses the certificate that is there until it is to be renewed, and gets another one.
    async fn once(&self) -> anyhow::Result<()> {
        let (path, now) = (self.directory.join(SERVING), jiff::Timestamp::now().as_second());
        let names = vec![self.node.clone(), self.ip.to_string()];
        let known = read(&path)?.and_then(|pem| Some((Facts::of(&pem)?, pem)));
        if let Some((facts, pem)) = known.filter(|(facts, _)| facts.is_good_for(&self.node, now) && facts.is_for(&names)) {
            let identity = Identity { certificate: pem.clone(), key: pem };
            self.tls.send_replace(crate::node::serving_config(&self.ca, &identity, &self.directory, &self.spoken)?);
            let left = u64::try_from(facts.renew_at() - now).unwrap_or(0);
            tokio::time::sleep(Duration::from_secs(left)).await;
        }
        let (certificate, key) = join::certificate(&self.client, &self.node, Purpose::Serving(names.clone())).await?;
        let now = jiff::Timestamp::now().as_second();
        let is_good = Facts::of(&certificate).is_some_and(|facts| facts.is_good_for(&self.node, now) && facts.is_for(&names));
        anyhow::ensure!(is_good, "the new certificate is not good here and now: is the clock right?");
        Ok(write_private(&path, &(certificate + &key))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_for_another_cluster_is_not_of_this_ca() {
        let folder = tempfile::tempdir().unwrap();
        let ca = fram_apiserver::pki::Pki::open(folder.path()).unwrap().ca_pem;
        let token = |hash: &str| JoinToken::parse(&format!("abcdef.0123456789abcdef.{hash}")).unwrap();
        assert!(is_of(&ca, &token(&public_key_hash(&ca).unwrap())));
        assert!(!is_of(&ca, &token(&"0f".repeat(32))) && !is_of("", &token(&"0f".repeat(32))));
    }

    #[test]
    fn a_certificate_says_for_whom_it_is() {
        let names = vec!["a".to_string(), "192.0.2.1".into(), "2001:db8::1".into()];
        let mut params = rcgen::CertificateParams::new(names.clone()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "system:node:a");
        let pem = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem();
        let facts = Facts::of(&pem).unwrap();
        assert!(facts.is_for(&names));
        assert!(!facts.is_for(&["192.0.2.2".into()]));
    }

    #[test]
    fn a_certificate_is_renewed_with_a_fifth_of_its_time_left() {
        let facts = Facts { user: "system:node:a".into(), names: BTreeSet::new(), not_before: 1000, not_after: 2000 };
        assert_eq!(facts.renew_at(), 1800);
        assert!(facts.is_good_for("a", 1900));
        assert!(!facts.is_good_for("b", 1900) && !facts.is_good_for("a", 2000) && !facts.is_good_for("a", 999));
    }
}
