//! What calls to servers inside the cluster have in common: whom they trust, and who they are themselves.

use std::sync::{Arc, OnceLock};

use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore};

use crate::pki::Identity;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("caBundle: {0}")]
    Bundle(String),
    #[error("the client certificate is not usable: {0}")]
    Identity(String),
    #[error(transparent)]
    Setup(#[from] rustls::Error),
}

/// The certificate by which this server is known to others.
#[derive(Debug, Clone)]
pub(crate) struct ClientIdentity(Arc<SingleCertAndKey>);

impl ClientIdentity {
    pub(crate) fn read(identity: &Identity) -> Result<Self, TlsError> {
        let bad = |e: rustls::pki_types::pem::Error| TlsError::Identity(e.to_string());
        let chain = CertificateDer::pem_slice_iter(identity.certificate.as_bytes()).collect::<Result<Vec<_>, _>>().map_err(bad)?;
        let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).map_err(bad)?;
        let certified = CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider())?;
        Ok(Self(Arc::new(certified.into())))
    }
}

/// The authorities that the system trusts, read from disk once.
fn of_the_system() -> RootCertStore {
    static ROOTS: OnceLock<RootCertStore> = OnceLock::new();
    let read = || {
        let found = rustls_native_certs::load_native_certs();
        for error in found.errors {
            tracing::debug!(%error, "an authority that the system trusts cannot be read");
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        roots
    };
    ROOTS.get_or_init(read).clone()
}

/// TLS to a server that the authorities of a bundle (PEM) vouch for, over HTTP/1.1; without a bundle those that the system trusts.
pub(crate) fn trusting(bundle: &[u8]) -> Result<ClientConfig, TlsError> {
    let mut roots = if bundle.is_empty() { of_the_system() } else { RootCertStore::empty() };
    for certificate in CertificateDer::pem_slice_iter(bundle) {
        let certificate = certificate.map_err(|e| TlsError::Bundle(e.to_string()))?;
        roots.add(certificate).map_err(|e| TlsError::Bundle(e.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// The same, as somebody.
pub(crate) fn as_client(mut config: ClientConfig, identity: Option<&ClientIdentity>) -> ClientConfig {
    if let Some(ClientIdentity(certificate)) = identity {
        config.client_auth_cert_resolver = certificate.clone() as Arc<dyn ResolvesClientCert>;
    }
    config
}
