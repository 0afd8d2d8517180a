//! Whose certificates visitors of the kubelet's port may show: the cluster's own authority's, and those of the authorities in clientCAFile,
//! which is read again when it changes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use fram_kubelet::Activity;
use parking_lot::Mutex;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

type Authorities = Arc<[CertificateDer<'static>]>;

/// The authorities of a file.
#[derive(Debug, Clone)]
pub(crate) struct ClientCa(watch::Receiver<Authorities>);

impl ClientCa {
    /// The file has to be there at first, and to hold certificates.
    pub(crate) fn open(file: PathBuf, tasks: &TaskTracker, stop: &CancellationToken) -> anyhow::Result<Self> {
        let mut activity = Activity::of_folders(&[file.parent().unwrap_or(&file)]);
        let first = read(&file)?.with_context(|| format!("authentication.x509.clientCAFile {file:?} is not there"))?;
        let (sender, receiver) = watch::channel(first);
        let stop = stop.clone();
        tasks.spawn(async move {
            let work = async {
                loop {
                    activity.changed().await;
                    let path = file.clone();
                    match tokio::task::spawn_blocking(move || read(&path)).await.map_err(anyhow::Error::from).flatten() {
                        // Other files of the folder change too.
                        Ok(Some(new)) => drop(sender.send_if_modified(|known| {
                            *known != new && {
                                *known = new;
                                true
                            }
                        })),
                        // It may be on its way again.
                        Ok(None) => {}
                        Err(error) => tracing::warn!(error = format!("{error:#}"), "the former authorities go on vouching for visitors"),
                    }
                }
            };
            stop.run_until_cancelled(work).await;
        });
        Ok(Self(receiver))
    }

    /// What lets in who is known to these, or to the cluster's own `ca`.
    pub(crate) fn verifier(&self, ca: &str, provider: Arc<CryptoProvider>) -> anyhow::Result<Arc<dyn ClientCertVerifier>> {
        let own: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(ca.as_bytes()).collect();
        let (own, mut authorities) = (own.context("the cluster's authority cannot be read")?, self.0.clone());
        let now = trusting(&own, &authorities.borrow_and_update(), provider.clone())?;
        Ok(Arc::new(Visitors { own, provider, state: Mutex::new((authorities, now)) }))
    }
}

/// None where there is no file.
fn read(file: &Path) -> anyhow::Result<Option<Authorities>> {
    let told = || format!("unable to load client CA file {file:?}");
    let text = match std::fs::read(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        read => read.with_context(told)?,
    };
    let found: Vec<_> = CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().with_context(told)?;
    anyhow::ensure!(!found.is_empty(), "{}: it holds no certificate", told());
    let mut roots = RootCertStore::empty();
    found.iter().try_for_each(|certificate| roots.add(certificate.clone())).with_context(told)?;
    Ok(Some(found.into()))
}

fn trusting(
    own: &[CertificateDer<'static>],
    others: &[CertificateDer<'static>],
    provider: Arc<CryptoProvider>,
) -> anyhow::Result<Arc<dyn ClientCertVerifier>> {
    let mut roots = RootCertStore::empty();
    own.iter().chain(others).try_for_each(|certificate| roots.add(certificate.clone()))?;
    Ok(WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).allow_unauthenticated().build()?)
}

/// Asks whoever is right at the moment.
#[derive(Debug)]
struct Visitors {
    own: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
    state: Mutex<(watch::Receiver<Authorities>, Arc<dyn ClientCertVerifier>)>,
}

impl Visitors {
    fn now(&self) -> Arc<dyn ClientCertVerifier> {
        let mut state = self.state.lock();
        let (authorities, current) = &mut *state;
        // An error is the end of who follows the file: what it said last goes on.
        if authorities.has_changed().unwrap_or(false) {
            match trusting(&self.own, &authorities.borrow_and_update(), self.provider.clone()) {
                Ok(new) => *current = new,
                Err(error) => tracing::error!(error = format!("{error:#}"), "the former authorities go on vouching for visitors"),
            }
        }
        current.clone()
    }
}

impl ClientCertVerifier for Visitors {
    /// They may change, so nobody is told whose certificates are good.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.now().verify_client_cert(certificate, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.now().verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.now().verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An authority, and a certificate of a client that it has signed.
    fn authority() -> (String, CertificateDer<'static>) {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = rcgen::Issuer::new(params, key);
        let mut client = rcgen::CertificateParams::new(Vec::new()).unwrap();
        client.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = client.signed_by(&rcgen::KeyPair::generate().unwrap(), &issuer).unwrap();
        (pem, certificate.der().clone())
    }

    #[tokio::test]
    async fn visitors_are_known_to_the_cluster_or_to_the_file_as_it_is_now() {
        let ((own_ca, own), (one_ca, one), (two_ca, two)) = (authority(), authority(), authority());
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.crt");
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        std::fs::write(&file, "nothing").unwrap();
        assert!(ClientCa::open(file.clone(), &tasks, &stop).unwrap_err().to_string().contains("ca.crt"));
        std::fs::remove_file(&file).unwrap();
        assert!(ClientCa::open(file.clone(), &tasks, &stop).unwrap_err().to_string().contains("is not there"));
        std::fs::write(&file, &one_ca).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = ClientCa::open(file.clone(), &tasks, &stop).unwrap().verifier(&own_ca, provider).unwrap();
        let knows = |certificate: &CertificateDer<'_>| verifier.verify_client_cert(certificate, &[], UnixTime::now()).is_ok();
        assert_eq!([&own, &one, &two].map(knows), [true, true, false]);
        for (ca, known) in [(&two_ca, [true, false, true]), (&one_ca, [true, true, false])] {
            std::fs::write(&file, ca).unwrap();
            let changed = async {
                while [&own, &one, &two].map(knows) != known {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(std::time::Duration::from_secs(20), changed).await.unwrap();
        }
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    }
}
