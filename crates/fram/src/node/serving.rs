//! What the kubelet's port shows and speaks: the node's own certificate, or one of files, which is read again when they change.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use fram_apiserver::pki::{Identity, server_config_with};
use fram_kubelet::{Activity, ServingTls};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{SupportedCipherSuite, SupportedProtocolVersion};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Serving;
use super::visitors::ClientCa;

/// What the kubelet's port is told to speak, and whose certificates its visitors may show beside those of the cluster's authority.
#[derive(Debug, Clone)]
pub(crate) struct Spoken {
    tls: ServingTls,
    client_ca: Option<ClientCa>,
}

impl Spoken {
    pub(crate) fn open(tls: ServingTls, tasks: &TaskTracker, stop: &CancellationToken) -> anyhow::Result<Self> {
        let client_ca = tls.client_ca.clone().map(|file| ClientCa::open(file, tasks, stop)).transpose()?;
        Ok(Self { tls, client_ca })
    }
}

/// What a kubelet speaks over TLS: streams need the connection for themselves.
pub(crate) fn serving_config(
    ca: &str,
    identity: &Identity,
    directory: &Path,
    spoken: &Spoken,
) -> anyhow::Result<Option<Arc<rustls::ServerConfig>>> {
    let tls = &spoken.tls;
    let versions: &[&'static SupportedProtocolVersion] = if tls.only_13 { &[&rustls::version::TLS13] } else { rustls::ALL_VERSIONS };
    let mut config = server_config_with(ca, identity, directory, Arc::new(provider(tls)), versions)?;
    if let Some(client_ca) = &spoken.client_ca {
        let provider = config.crypto_provider().clone();
        let verifier = client_ca.verifier(ca, provider.clone())?;
        let builder = rustls::ServerConfig::builder_with_provider(provider).with_protocol_versions(versions)?;
        config = builder.with_client_cert_verifier(verifier).with_cert_resolver(config.cert_resolver.clone());
        // Who comes back shows no certificate again, and would be known still to an authority that vouches for nobody any more.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(Arc::new(config)))
}

/// All suites of version 1.3 stay, as with Go.
fn provider(tls: &ServingTls) -> CryptoProvider {
    let mut provider = rustls::crypto::ring::default_provider();
    if !tls.cipher_suites.is_empty() {
        let is_13 = |suite: &SupportedCipherSuite| suite.version().version == rustls::ProtocolVersion::TLSv1_3;
        provider.cipher_suites.retain(|suite| is_13(suite) || tls.cipher_suites.contains(&suite.suite()));
    }
    if !tls.curves.is_empty() {
        let wanted = |group: &&dyn rustls::crypto::SupportedKxGroup| tls.curves.contains(&group.name());
        provider.kx_groups.retain(wanted);
        provider.kx_groups.sort_by_key(|group| tls.curves.iter().position(|curve| *curve == group.name()));
    }
    provider
}

#[derive(Debug, Clone)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    fn read(&self) -> anyhow::Result<Arc<CertifiedKey>> {
        let chain = CertificateDer::pem_file_iter(&self.certificate).and_then(|all| all.collect::<Result<Vec<_>, _>>());
        let chain = chain.with_context(|| format!("tlsCertFile {:?} cannot be read", self.certificate))?;
        anyhow::ensure!(!chain.is_empty(), "tlsCertFile {:?} holds no certificate", self.certificate);
        let key = PrivateKeyDer::from_pem_file(&self.key).with_context(|| format!("tlsPrivateKeyFile {:?} cannot be read", self.key))?;
        let key =
            rustls::crypto::ring::sign::any_supported_type(&key).context("the key of tlsPrivateKeyFile is of no kind that is known")?;
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().context("tlsCertFile and tlsPrivateKeyFile do not belong together")?;
        Ok(Arc::new(certified))
    }
}

#[derive(Debug)]
struct Shown(watch::Receiver<Arc<CertifiedKey>>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.borrow().clone())
    }
}

/// The same with the certificate of these two files, which have to be good at first, and are read again when they change.
pub(super) fn of_files(
    mut base: Serving,
    (certificate, key): (PathBuf, PathBuf),
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<Serving> {
    let files = Files { certificate, key };
    // What changes while it is read is read again.
    let mut activity = Activity::of_folders(&[&files.certificate, &files.key].map(|path| path.parent().unwrap_or(path)));
    let (shown, resolver) = watch::channel(files.read()?);
    let resolver = Arc::new(Shown(resolver));
    let with = move |base: &Option<Arc<rustls::ServerConfig>>| {
        base.as_ref().map(|base| {
            let mut config = (**base).clone();
            config.cert_resolver = resolver.clone();
            Arc::new(config)
        })
    };
    let (sender, serving) = watch::channel(with(&base.borrow_and_update()));
    let stop = stop.clone();
    tasks.spawn(async move {
        let work = async {
            let mut base_lives = true;
            loop {
                tokio::select! {
                    changed = base.changed(), if base_lives => match changed {
                        Ok(()) => drop(sender.send_replace(with(&base.borrow_and_update()))),
                        Err(_) => base_lives = false,
                    },
                    () = activity.changed() => {
                        let files = files.clone();
                        let read = tokio::task::spawn_blocking(move || files.read()).await;
                        match read.map_err(anyhow::Error::from).flatten() {
                            Ok(read) => drop(shown.send_replace(read)),
                            // One of the two may be yet to come.
                            Err(error) => tracing::warn!(error = format!("{error:#}"), "the former certificate is shown on"),
                        }
                    }
                }
            }
        };
        stop.run_until_cancelled(work).await;
    });
    Ok(serving)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::{CipherSuite, HandshakeKind, NamedGroup};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[test]
    fn suites_of_version_12_and_curves_are_those_that_are_wanted() {
        let all = provider(&ServingTls::default());
        assert_eq!((all.cipher_suites.len(), all.kx_groups.len()), (9, 3));
        let one = CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256;
        let tls = ServingTls { cipher_suites: vec![one], curves: vec![NamedGroup::secp384r1, NamedGroup::X25519], ..ServingTls::default() };
        let some = provider(&tls);
        let old: Vec<CipherSuite> = some.cipher_suites.iter().filter(|s| s.tls13().is_none()).map(|s| s.suite()).collect();
        assert_eq!((old, some.cipher_suites.len()), (vec![one], 4));
        assert_eq!(some.kx_groups.iter().map(|g| g.name()).collect::<Vec<_>>(), [NamedGroup::secp384r1, NamedGroup::X25519]);
    }

    #[tokio::test]
    async fn no_session_outlives_who_vouched_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let pki = fram_apiserver::pki::Pki::open(dir.path()).unwrap();
        let identity = pki.server("system:node:n", &["n".into()]).unwrap();
        let file = dir.path().join("clients.crt");
        std::fs::write(&file, &pki.ca_pem).unwrap();
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        for (client_ca, only_13, expect) in [
            (None, true, HandshakeKind::Resumed),
            (None, false, HandshakeKind::Resumed),
            (Some(file.clone()), true, HandshakeKind::Full),
            (Some(file.clone()), false, HandshakeKind::Full),
        ] {
            let spoken = Spoken::open(ServingTls { client_ca, only_13, ..Default::default() }, &tasks, &stop).unwrap();
            let config = serving_config(&pki.ca_pem, &identity, dir.path(), &spoken).unwrap().unwrap();
            let version = if only_13 { &rustls::version::TLS13 } else { &rustls::version::TLS12 };
            let mut roots = rustls::RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(pki.ca_pem.as_bytes()).unwrap()).unwrap();
            let client = rustls::ClientConfig::builder_with_provider(config.crypto_provider().clone());
            let client = Arc::new(client.with_protocol_versions(&[version]).unwrap().with_root_certificates(roots).with_no_client_auth());
            let mut kinds = Vec::new();
            for _ in 0..2 {
                let (ours, theirs) = tokio::io::duplex(16 << 10);
                let accept = tokio_rustls::TlsAcceptor::from(config.clone()).accept(ours);
                let connect = tokio_rustls::TlsConnector::from(client.clone()).connect("n".try_into().unwrap(), theirs);
                let (server, client) = tokio::join!(accept, connect);
                let (mut server, mut client) = (server.unwrap(), client.unwrap());
                // What may be used again comes before the first word.
                server.write_all(b"x").await.unwrap();
                client.read_u8().await.unwrap();
                kinds.push(client.get_ref().1.handshake_kind());
            }
            assert_eq!(kinds, [Some(HandshakeKind::Full), Some(expect)], "{only_13}");
        }
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    }

    #[tokio::test]
    async fn a_certificate_of_files_is_shown_and_read_again_when_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
        let write = |name: &str| {
            let made = rcgen::generate_simple_self_signed(vec![name.to_string()]).unwrap();
            std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
            std::fs::write(&certificate, made.cert.pem()).unwrap();
            made.cert.der().to_vec()
        };
        let pki = fram_apiserver::pki::Pki::open(dir.path()).unwrap();
        let identity = pki.server("system:node:n", &["n".into()]).unwrap();
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let spoken = Spoken::open(ServingTls { only_13: true, ..Default::default() }, &tasks, &stop).unwrap();
        let base = serving_config(&pki.ca_pem, &identity, dir.path(), &spoken).unwrap();
        let (_kept, base) = watch::channel(base);
        let files = || of_files(base.clone(), (certificate.clone(), key.clone()), &tasks, &stop);
        assert!(files().unwrap_err().to_string().contains("tls.crt"));
        let first = write("one.example");
        let serving = files().unwrap();
        let shown = || async {
            let config = serving.borrow().clone().unwrap();
            let (ours, theirs) = tokio::io::duplex(16 << 10);
            let accept = tokio_rustls::TlsAcceptor::from(config).accept(ours);
            let trusting = Arc::new(fram_client::unverified::config(&[]).unwrap());
            let connect = tokio_rustls::TlsConnector::from(trusting).connect("one.example".try_into().unwrap(), theirs);
            let (server, client) = tokio::join!(accept, connect);
            assert_eq!(server.unwrap().get_ref().1.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
            client.unwrap().get_ref().1.peer_certificates().unwrap()[0].to_vec()
        };
        assert_eq!(shown().await, first);
        let second = write("two.example");
        let changed = async {
            while shown().await != second {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), changed).await.unwrap();
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    }
}
