//! Keys of pods and the proof that who asks for a certificate holds one: a PKCS#10 request without contents, signed with it. See
//! upstream's generateKeyAndProof.

use rcgen::{CertificateParams, DistinguishedName, KeyPair, SignatureAlgorithm};
use ring::rand::{SecureRandom, SystemRandom};
use rsa::pkcs8::EncodePrivateKey;
use rustls::pki_types::PrivatePkcs8KeyDer;

#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    #[error("unknown key type {0:?}")]
    Unknown(String),
    #[error(
        "keys of type ECDSAP521 are not supported by this node: there is no arithmetic of that curve in it; use ECDSAP256 or ECDSAP384"
    )]
    P521,
    #[error("while generating RSA key: {0}")]
    Rsa(#[from] rsa::Error),
    #[error("while encoding RSA key: {0}")]
    Encode(#[from] rsa::pkcs8::Error),
    #[error("the system gives no random numbers")]
    Random,
    #[error("while generating stub PKCS#10 request: {0}")]
    Sign(#[from] rcgen::Error),
}

/// A private key as PKCS#8 in PEM, and its request in DER.
pub(crate) struct Proof {
    pub key: String,
    pub request: Vec<u8>,
}

/// Makes a key. Those of RSA take seconds.
pub(crate) fn generate(kind: &str) -> Result<Proof, KeyError> {
    let pair = match kind {
        "ECDSAP256" => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?,
        "ECDSAP384" => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384)?,
        "ED25519" => loaded(ed25519()?, &rcgen::PKCS_ED25519)?,
        "RSA3072" => loaded(rsa_key(3072)?, &rcgen::PKCS_RSA_SHA256)?,
        "RSA4096" => loaded(rsa_key(4096)?, &rcgen::PKCS_RSA_SHA256)?,
        "ECDSAP521" => return Err(KeyError::P521),
        other => return Err(KeyError::Unknown(other.into())),
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&pair)?.der().to_vec();
    let key = pem::Pem::new("PRIVATE KEY", pair.serialized_der());
    Ok(Proof { key: super::super::pem_text(&key), request })
}

fn loaded(der: Vec<u8>, algorithm: &'static SignatureAlgorithm) -> Result<KeyPair, KeyError> {
    Ok(KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(der), algorithm)?)
}

/// As PKCS#8 of version 1: what ring makes is of version 2, which OpenSSL does not read.
fn ed25519() -> Result<Vec<u8>, KeyError> {
    const HEAD: [u8; 16] = [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
    let mut seed = [0; 32];
    SystemRandom::new().fill(&mut seed).map_err(|_| KeyError::Random)?;
    Ok([&HEAD[..], &seed].concat())
}

/// Only made by this crate; ring signs with it, in constant time.
fn rsa_key(bits: usize) -> Result<Vec<u8>, KeyError> {
    let key = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, bits)?;
    Ok(key.to_pkcs8_der()?.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use x509_parser::certification_request::X509CertificationRequest;
    use x509_parser::prelude::FromDer;

    use super::*;

    #[test]
    fn a_request_proves_that_its_key_is_held_and_says_nothing_else() {
        for (kind, bits) in [("ECDSAP256", 256), ("ECDSAP384", 384), ("ED25519", 0), ("RSA3072", 3072)] {
            let made = generate(kind).unwrap();
            let block = pem::parse(&made.key).unwrap();
            assert_eq!(block.tag(), "PRIVATE KEY");
            // Version 1, which everybody reads: SEQUENCE, then INTEGER 0.
            let der = block.contents();
            let inner = if der[1] & 0x80 == 0 { 2 } else { 2 + usize::from(der[1] & 0x7f) };
            assert_eq!(der[inner..inner + 3], [2, 1, 0], "{kind}");
            let (_, request) = X509CertificationRequest::from_der(&made.request).unwrap();
            request.verify_signature().unwrap();
            assert_eq!(request.certification_request_info.subject.iter().count(), 0);
            let size = match request.certification_request_info.subject_pki.parsed().unwrap() {
                x509_parser::public_key::PublicKey::RSA(key) => key.key_size(),
                x509_parser::public_key::PublicKey::EC(point) => point.key_size(),
                _ => 0,
            };
            assert_eq!(size, bits, "{kind}");
        }
    }

    #[test]
    fn a_type_that_cannot_be_made_is_named() {
        assert!(generate("ECDSAP521").err().unwrap().to_string().contains("use ECDSAP256 or ECDSAP384"));
        assert_eq!(generate("DSA").err().unwrap().to_string(), "unknown key type \"DSA\"");
    }
}
