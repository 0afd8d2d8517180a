//! The cluster's own public key infrastructure: its CA, the server's certificate, client certificates, the key that signs
//! service-account tokens, and the kubeconfig files made of them.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("cannot {operation} {}: {source}", path.display())]
    Io { path: PathBuf, operation: &'static str, source: std::io::Error },
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    #[error("{} is not a PEM file of the expected sort: {reason}", path.display())]
    Pem { path: PathBuf, reason: String },
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("{0:?} is not a DNS name or an IP address")]
    Name(String),
    #[error("the signer has expired: NotAfter={0}")]
    Expired(time::OffsetDateTime),
}

/// A certificate with its key, as PEM.
#[derive(Debug, Clone)]
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

/// The keys of a cluster, in one directory.
pub struct Pki {
    directory: PathBuf,
    ca: CertifiedIssuer<'static, KeyPair>,
    pub ca_pem: String,
    /// When the certificate that clients trust ends; nothing that it signs is valid for longer.
    ca_ends: time::OffsetDateTime,
    /// Signs nothing but the front proxy's certificate: who takes its word for users must not take that of any other client.
    front_proxy: CertifiedIssuer<'static, KeyPair>,
    pub front_proxy_ca_pem: String,
    /// ECDSA P-256 in PKCS#8, as PEM.
    pub service_account_key: String,
}

/// Who the server is where it asks kubelets; the name is kubeadm's.
pub const KUBELET_CLIENT: &str = "kube-apiserver-kubelet-client";
/// The name by which servers behind the aggregator know it; kubeadm's.
pub const FRONT_PROXY: &str = "front-proxy-client";

/// How long leaf certificates are valid; they are made anew at each start.
const LEAF_DAYS: i64 = 365;
const CA_DAYS: i64 = 3650;

fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::Io { path: path.into(), operation: "read", source }),
    }
}

/// Writes a file that only its owner reads, whole or not at all.
pub fn write_private(path: &Path, text: &str) -> Result<(), PkiError> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let io = |operation| move |source| PkiError::Io { path: path.into(), operation, source };
    let temporary = path.with_extension("tmp");
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary).map_err(io("create"))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io("write"))?;
    std::fs::rename(&temporary, path).map_err(io("rename"))
}

/// The SHA-256 of a certificate's SubjectPublicKeyInfo in hexadecimal, as kubeadm's --discovery-token-ca-cert-hash; the
/// first certificate counts. Fails with what is wrong with the PEM.
pub fn public_key_hash(pem: &str) -> Result<String, String> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| e.to_string())?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).map_err(|e| e.to_string())?;
    let digest = ring::digest::digest(&ring::digest::SHA256, certificate.public_key().raw);
    Ok(digest.as_ref().iter().map(|b| format!("{b:02x}")).collect())
}

/// When a certificate ends; of several the first counts.
fn end_of(pem: &str) -> Result<time::OffsetDateTime, String> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| e.to_string())?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).map_err(|e| e.to_string())?;
    Ok(certificate.validity().not_after.to_datetime())
}

/// How far before now signed requests are valid, and how short a lifetime counts from now; see the signer of kube-controller-manager.
const BACKDATE: time::Duration = time::Duration::minutes(5);
const SHORT: time::Duration = time::Duration::hours(8);

/// This machine's clock may be found wrong, and be set back by so much: what it has made itself goes on being valid.
const STEP: time::Duration = time::Duration::hours(25);

fn validity(params: &mut CertificateParams, days: i64) {
    let now = time::OffsetDateTime::now_utc();
    params.not_before = now - STEP;
    params.not_after = now + time::Duration::days(days);
}

fn ca_params(name: &str) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    validity(&mut params, CA_DAYS);
    Ok(params)
}

/// An authority in a directory, made where it is missing, and the certificate that others trust.
fn authority(directory: &Path, file: &str, name: &str) -> Result<(CertifiedIssuer<'static, KeyPair>, String), PkiError> {
    let path = |extension: &str| directory.join(format!("{file}.{extension}"));
    let key = match read(&path("key"))? {
        Some(pem) => KeyPair::from_pem(&pem)?,
        None => {
            let key = KeyPair::generate()?;
            write_private(&path("key"), &key.serialize_pem())?;
            key
        }
    };
    // The issuer is made of the same name and key each time; the certificate that clients trust is the stored one.
    let issuer = CertifiedIssuer::self_signed(ca_params(name)?, key)?;
    let pem = match read(&path("crt"))? {
        Some(pem) => pem,
        None => {
            write_private(&path("crt"), &issuer.pem())?;
            issuer.pem()
        }
    };
    Ok((issuer, pem))
}

impl Pki {
    /// Opens the keys in a directory, making those that are missing.
    pub fn open(directory: &Path) -> Result<Self, PkiError> {
        std::fs::create_dir_all(directory).map_err(|source| PkiError::Io {
            path: directory.into(),
            operation: "create directory",
            source,
        })?;
        let path = |name: &str| directory.join(name);
        let (ca, ca_pem) = authority(directory, "ca", "fram-ca")?;
        let (front_proxy, front_proxy_ca_pem) = authority(directory, "front-proxy-ca", "fram-front-proxy-ca")?;
        let service_account_key = match read(&path("sa.key"))? {
            Some(pem) => pem,
            None => {
                let pem = KeyPair::generate()?.serialize_pem();
                write_private(&path("sa.key"), &pem)?;
                pem
            }
        };
        let ca_ends = end_of(&ca_pem).map_err(|reason| PkiError::Pem { path: path("ca.crt"), reason })?;
        Ok(Self { directory: directory.into(), ca, ca_pem, ca_ends, front_proxy, front_proxy_ca_pem, service_account_key })
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn leaf(&self, name: &str, groups: &[&str], usage: ExtendedKeyUsagePurpose, sans: Vec<SanType>) -> Result<Identity, PkiError> {
        let key = KeyPair::generate()?;
        let params = leaf_params(name, groups, usage, sans)?;
        let certificate = params.signed_by(&key, &self.ca)?;
        Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// Signs a request whose subject was checked, for so many seconds; the answer is the certificate as PEM.
    pub fn sign(&self, mut request: rcgen::CertificateSigningRequestParams, seconds: i64) -> Result<String, PkiError> {
        let now = time::OffsetDateTime::now_utc();
        request.params.not_before = now - BACKDATE;
        let lifetime = time::Duration::seconds(seconds);
        // What is short is not shortened by the past; see PermissiveSigningPolicy.
        let end = if lifetime < SHORT { now + lifetime } else { now - BACKDATE + lifetime };
        if now >= self.ca_ends {
            return Err(PkiError::Expired(self.ca_ends));
        }
        request.params.not_after = end.min(self.ca_ends);
        Ok(request.signed_by(&self.ca)?.pem())
    }

    /// A hash by which others see that they have the same keys. It tells nothing of them.
    pub fn fingerprint(&self) -> String {
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        for pem in [&self.ca_pem, &self.front_proxy_ca_pem, &self.service_account_key] {
            context.update(pem.trim().as_bytes());
        }
        context.finish().as_ref().iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The hash of the CA's public key that join tokens carry.
    pub fn ca_hash(&self) -> Result<String, PkiError> {
        public_key_hash(&self.ca_pem).map_err(|reason| PkiError::Pem { path: self.directory.join("ca.crt"), reason })
    }

    /// A serving certificate for these DNS names and addresses.
    pub fn server(&self, name: &str, names: &[String]) -> Result<Identity, PkiError> {
        let sans = names.iter().map(|n| san(n)).collect::<Result<_, _>>()?;
        self.leaf(name, &[], ExtendedKeyUsagePurpose::ServerAuth, sans)
    }

    /// A client certificate: the name is the user, the organisations are the groups.
    pub fn client(&self, name: &str, groups: &[&str]) -> Result<Identity, PkiError> {
        self.leaf(name, groups, ExtendedKeyUsagePurpose::ClientAuth, Vec::new())
    }

    /// The certificate with which the server hands requests on to others.
    pub fn front_proxy(&self) -> Result<Identity, PkiError> {
        let key = KeyPair::generate()?;
        let params = leaf_params(FRONT_PROXY, &[], ExtendedKeyUsagePurpose::ClientAuth, Vec::new())?;
        Ok(Identity { certificate: params.signed_by(&key, &self.front_proxy)?.pem(), key: key.serialize_pem() })
    }

    /// TLS as the server does it: client certificates of the CA are taken, and not asked for.
    pub fn server_config(&self, identity: &Identity) -> Result<rustls::ServerConfig, PkiError> {
        server_config(&self.ca_pem, identity, &self.directory)
    }

    /// A kubeconfig for a user with a client certificate.
    pub fn kubeconfig(&self, server: &str, user: &str, identity: &Identity) -> String {
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: fram\n  cluster:\n    server: {server}\n    certificate-authority-data: {}\nusers:\n- name: {user}\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\ncontexts:\n- name: fram\n  context:\n    cluster: fram\n    user: {user}\ncurrent-context: fram\n",
            encode(&self.ca_pem),
            encode(&identity.certificate),
            encode(&identity.key)
        )
    }
}

/// TLS with this identity; client certificates of the CA are taken, and not asked for. `directory` is where both are from.
pub fn server_config(ca_pem: &str, identity: &Identity, directory: &Path) -> Result<rustls::ServerConfig, PkiError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    server_config_with(ca_pem, identity, directory, provider, rustls::ALL_VERSIONS)
}

/// The same, of which only these versions and what the provider has are spoken.
pub fn server_config_with(
    ca_pem: &str,
    identity: &Identity,
    directory: &Path,
    provider: Arc<rustls::crypto::CryptoProvider>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Result<rustls::ServerConfig, PkiError> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates(ca_pem, &directory.join("ca.crt"))? {
        roots.add(certificate)?;
    }
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|e| PkiError::Pem { path: directory.join("ca.crt"), reason: e.to_string() })?;
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes())
        .map_err(|e| PkiError::Pem { path: directory.into(), reason: e.to_string() })?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&identity.certificate, &directory.join("server"))?, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(pem: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| PkiError::Pem { path: path.into(), reason: e.to_string() })
}

fn leaf_params(name: &str, groups: &[&str], usage: ExtendedKeyUsagePurpose, sans: Vec<SanType>) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name.push(DnType::CommonName, name);
    for group in groups {
        params.distinguished_name.push(DnType::OrganizationName, *group);
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![usage];
    params.subject_alt_names = sans;
    validity(&mut params, LEAF_DAYS);
    Ok(params)
}

fn san(name: &str) -> Result<SanType, PkiError> {
    match name.parse::<IpAddr>() {
        Ok(ip) => Ok(SanType::IpAddress(ip)),
        Err(_) => Ok(SanType::DnsName(name.try_into().map_err(|_| PkiError::Name(name.into()))?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The end of what an authority that is valid for so much longer signs for a day, since now.
    fn signed(authority: time::Duration) -> Result<time::Duration, PkiError> {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = ca_params("fram-ca").unwrap();
        params.not_after = time::OffsetDateTime::now_utc() + authority;
        write_private(&folder.path().join("ca.key"), &key.serialize_pem()).unwrap();
        write_private(&folder.path().join("ca.crt"), &params.self_signed(&key).unwrap().pem()).unwrap();
        let pki = Pki::open(folder.path())?;
        let asked = CertificateParams::new(Vec::<String>::new()).unwrap().serialize_request(&KeyPair::generate().unwrap()).unwrap();
        let request = rcgen::CertificateSigningRequestParams::from_der(asked.der()).unwrap();
        Ok(end_of(&pki.sign(request, 24 * 3600)?).unwrap() - time::OffsetDateTime::now_utc())
    }

    #[test]
    fn nothing_that_is_signed_outlives_the_authority() {
        let around = |hours: i64, is: time::Duration| (is - time::Duration::hours(hours)).abs() < time::Duration::minutes(6);
        assert!(around(24, signed(time::Duration::days(10)).unwrap()));
        assert!(around(2, signed(time::Duration::hours(2)).unwrap()));
        assert!(matches!(signed(-time::Duration::minutes(1)), Err(PkiError::Expired(_))));
    }
}
