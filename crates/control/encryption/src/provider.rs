//! The ciphers, and which of them writes and reads. A value is `k8s:enc:CIPHER:v1:KEY:` and what the cipher makes of it, as in
//! upstream's value transformers; the associated data of those that have any is the value's key in the store.

use std::sync::Arc;

use aes_gcm::aead::consts::U12;
use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::aes::{Aes128, Aes192, Aes256};
use aes_gcm::{Aes128Gcm, Aes256Gcm, AesGcm};
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockDecryptMut, BlockEncryptMut, KeyIvInit};
use crypto_secretbox::XSalsa20Poly1305;
use fram_store::Opened;
use parking_lot::RwLock;

use crate::config::{Key, Provider as Configured};
use crate::{Changed, MARK, kms};

#[derive(Debug, thiserror::Error)]
pub(crate) enum CryptError {
    #[error("no provider can read it")]
    NoProvider,
    #[error("it is shorter than what the cipher needs")]
    Short,
    #[error("it was changed, or the key is another one")]
    Authentication,
    #[error("the key has a wrong length")]
    Key,
    #[error("it is not encrypted, and identity is not among the providers")]
    Plain,
    #[error("with key {name:?}: {source}")]
    With { name: String, source: Box<CryptError> },
    #[error("{0}")]
    Kms(#[from] kms::KmsError),
}

/// The providers of a resource: the first writes, all read.
pub(crate) struct Chain {
    ciphers: Vec<Keyed>,
}

/// A cipher with what the values that it wrote start with.
struct Keyed {
    prefix: Vec<u8>,
    name: String,
    cipher: Kind,
}

enum Kind {
    Identity,
    Gcm(Gcm),
    Cbc(Vec<u8>),
    Secretbox(Box<XSalsa20Poly1305>),
    Kms(Arc<kms::Provider>),
}

impl Chain {
    /// The chain of what is configured; adds its key management services to `services`.
    pub(crate) fn new(
        configured: Vec<Configured>,
        changed: &Arc<RwLock<Option<Changed>>>,
        services: &mut Vec<Arc<kms::Provider>>,
    ) -> Result<Self, String> {
        let mut ciphers = Vec::new();
        for provider in configured {
            match provider {
                Configured::Identity => ciphers.push(Keyed { prefix: Vec::new(), name: String::new(), cipher: Kind::Identity }),
                Configured::AesGcm(keys) => keyed(&mut ciphers, "aesgcm", keys, |k| Gcm::new(k).map(Kind::Gcm))?,
                Configured::AesCbc(keys) => keyed(&mut ciphers, "aescbc", keys, |k| Ok(Kind::Cbc(k.to_vec())))?,
                Configured::Secretbox(keys) => keyed(&mut ciphers, "secretbox", keys, |k| {
                    XSalsa20Poly1305::new_from_slice(k).map(|c| Kind::Secretbox(Box::new(c))).map_err(|_| CryptError::Key)
                })?,
                Configured::Kms { name, socket, timeout } => {
                    let service = Arc::new(kms::Provider::start(&name, &socket, timeout, changed.clone()).map_err(|e| e.to_string())?);
                    services.push(service.clone());
                    let prefix = format!("k8s:enc:kms:v2:{name}:").into_bytes();
                    ciphers.push(Keyed { prefix, name, cipher: Kind::Kms(service) });
                }
            }
        }
        Ok(Self { ciphers })
    }

    pub(crate) fn seal(&self, key: &str, value: &[u8]) -> Result<Option<Vec<u8>>, CryptError> {
        self.seal_by(key, value, kms::Provider::seal)
    }

    /// The same for a value that is stored already.
    pub(crate) fn seal_again(&self, key: &str, value: &[u8]) -> Result<Option<Vec<u8>>, CryptError> {
        self.seal_by(key, value, kms::Provider::seal_again)
    }

    fn seal_by(
        &self,
        key: &str,
        value: &[u8],
        by_service: impl Fn(&kms::Provider, &str, &[u8]) -> Result<Vec<u8>, CryptError>,
    ) -> Result<Option<Vec<u8>>, CryptError> {
        let first = self.ciphers.first().ok_or(CryptError::NoProvider)?;
        let sealed = match &first.cipher {
            Kind::Identity => return Ok(None),
            Kind::Gcm(gcm) => gcm.seal(key.as_bytes(), value)?,
            Kind::Cbc(secret) => cbc_seal(secret, value)?,
            Kind::Secretbox(cipher) => secretbox_seal(cipher, value)?,
            Kind::Kms(service) => by_service(service, key, value)?,
        };
        let mut out = first.prefix.clone();
        out.extend_from_slice(&sealed);
        Ok(Some(out))
    }

    pub(crate) fn open(&self, key: &str, stored: &[u8]) -> Result<Opened, CryptError> {
        if !stored.starts_with(MARK) {
            let place = self.ciphers.iter().position(|c| matches!(c.cipher, Kind::Identity)).ok_or(CryptError::Plain)?;
            return Ok(Opened { value: None, stale: place > 0 });
        }
        let mut failed = None;
        for (place, keyed) in self.ciphers.iter().enumerate() {
            let Some(sealed) = stored.strip_prefix(keyed.prefix.as_slice()).filter(|_| !keyed.prefix.is_empty()) else { continue };
            // Of two keys with one name either may have written it.
            match keyed.open(key, sealed) {
                Ok((value, stale)) => return Ok(Opened { value: Some(value), stale: stale || place > 0 }),
                Err(error) => failed = failed.or(Some(CryptError::With { name: keyed.name.clone(), source: Box::new(error) })),
            }
        }
        Err(failed.unwrap_or(CryptError::NoProvider))
    }
}

fn keyed(ciphers: &mut Vec<Keyed>, cipher: &str, keys: Vec<Key>, make: impl Fn(&[u8]) -> Result<Kind, CryptError>) -> Result<(), String> {
    for Key { name, secret } in keys {
        let prefix = format!("k8s:enc:{cipher}:v1:{name}:").into_bytes();
        let cipher = make(&secret).map_err(|e| format!("{cipher} key {name:?}: {e}"))?;
        ciphers.push(Keyed { prefix, name, cipher });
    }
    Ok(())
}

impl Keyed {
    fn open(&self, key: &str, sealed: &[u8]) -> Result<(Vec<u8>, bool), CryptError> {
        match &self.cipher {
            Kind::Identity => Err(CryptError::NoProvider),
            Kind::Gcm(gcm) => Ok((gcm.open(key.as_bytes(), sealed)?, false)),
            Kind::Cbc(secret) => Ok((cbc_open(secret, sealed)?, false)),
            Kind::Secretbox(cipher) => Ok((secretbox_open(cipher, sealed)?, false)),
            Kind::Kms(service) => Ok(service.open(key, sealed)?),
        }
    }
}

const GCM_NONCE: usize = 12;

/// AES-GCM with a random nonce in front of the ciphertext.
pub(crate) enum Gcm {
    Short(Box<Aes128Gcm>),
    Middle(Box<AesGcm<Aes192, U12>>),
    Long(Box<Aes256Gcm>),
}

impl Gcm {
    pub(crate) fn new(key: &[u8]) -> Result<Self, CryptError> {
        let bad = |_| CryptError::Key;
        Ok(match key.len() {
            16 => Self::Short(Box::new(Aes128Gcm::new_from_slice(key).map_err(bad)?)),
            24 => Self::Middle(Box::new(AesGcm::new_from_slice(key).map_err(bad)?)),
            _ => Self::Long(Box::new(Aes256Gcm::new_from_slice(key).map_err(bad)?)),
        })
    }

    pub(crate) fn seal(&self, aad: &[u8], msg: &[u8]) -> Result<Vec<u8>, CryptError> {
        let nonce: [u8; GCM_NONCE] = rand::random();
        let payload = Payload { msg, aad };
        let sealed = match self {
            Self::Short(cipher) => cipher.encrypt(&nonce.into(), payload),
            Self::Middle(cipher) => cipher.encrypt(&nonce.into(), payload),
            Self::Long(cipher) => cipher.encrypt(&nonce.into(), payload),
        };
        let mut out = nonce.to_vec();
        out.extend(sealed.map_err(|_| CryptError::Authentication)?);
        Ok(out)
    }

    pub(crate) fn open(&self, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, CryptError> {
        let (nonce, msg) = sealed.split_first_chunk::<GCM_NONCE>().ok_or(CryptError::Short)?;
        let payload = Payload { msg, aad };
        let opened = match self {
            Self::Short(cipher) => cipher.decrypt(nonce.into(), payload),
            Self::Middle(cipher) => cipher.decrypt(nonce.into(), payload),
            Self::Long(cipher) => cipher.decrypt(nonce.into(), payload),
        };
        opened.map_err(|_| CryptError::Authentication)
    }
}

const BLOCK: usize = 16;

/// AES-CBC with its initialization vector in front. It authenticates nothing, as upstream's does not: the store's checksums see
/// accidents, not intent.
fn cbc_seal(secret: &[u8], value: &[u8]) -> Result<Vec<u8>, CryptError> {
    let iv: [u8; BLOCK] = rand::random();
    let bad = |_| CryptError::Key;
    let sealed = match secret.len() {
        16 => cbc::Encryptor::<Aes128>::new_from_slices(secret, &iv).map_err(bad)?.encrypt_padded_vec_mut::<Pkcs7>(value),
        24 => cbc::Encryptor::<Aes192>::new_from_slices(secret, &iv).map_err(bad)?.encrypt_padded_vec_mut::<Pkcs7>(value),
        _ => cbc::Encryptor::<Aes256>::new_from_slices(secret, &iv).map_err(bad)?.encrypt_padded_vec_mut::<Pkcs7>(value),
    };
    Ok([iv.as_slice(), &sealed].concat())
}

fn cbc_open(secret: &[u8], sealed: &[u8]) -> Result<Vec<u8>, CryptError> {
    let (iv, sealed) = sealed.split_first_chunk::<BLOCK>().ok_or(CryptError::Short)?;
    let bad = |_| CryptError::Key;
    let opened = match secret.len() {
        16 => cbc::Decryptor::<Aes128>::new_from_slices(secret, iv).map_err(bad)?.decrypt_padded_vec_mut::<Pkcs7>(sealed),
        24 => cbc::Decryptor::<Aes192>::new_from_slices(secret, iv).map_err(bad)?.decrypt_padded_vec_mut::<Pkcs7>(sealed),
        _ => cbc::Decryptor::<Aes256>::new_from_slices(secret, iv).map_err(bad)?.decrypt_padded_vec_mut::<Pkcs7>(sealed),
    };
    opened.map_err(|_| CryptError::Authentication)
}

const BOX_NONCE: usize = 24;

/// NaCl's secretbox with its nonce in front.
fn secretbox_seal(cipher: &XSalsa20Poly1305, value: &[u8]) -> Result<Vec<u8>, CryptError> {
    let nonce: [u8; BOX_NONCE] = rand::random();
    let sealed = crypto_secretbox::aead::Aead::encrypt(cipher, &nonce.into(), value).map_err(|_| CryptError::Authentication)?;
    Ok([nonce.as_slice(), &sealed].concat())
}

fn secretbox_open(cipher: &XSalsa20Poly1305, sealed: &[u8]) -> Result<Vec<u8>, CryptError> {
    let (nonce, sealed) = sealed.split_first_chunk::<BOX_NONCE>().ok_or(CryptError::Short)?;
    crypto_secretbox::aead::Aead::decrypt(cipher, nonce.into(), sealed).map_err(|_| CryptError::Authentication)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(providers: Vec<Configured>) -> Chain {
        Chain::new(providers, &Arc::default(), &mut Vec::new()).unwrap()
    }

    fn key(name: &str, length: usize) -> Key {
        Key { name: name.into(), secret: vec![name.len() as u8; length] }
    }

    const PLACE: &str = "/registry/core/secrets/a/b";

    #[test]
    fn what_a_cipher_seals_it_opens_and_a_changed_bit_is_seen() {
        for (provider, mark, authenticated) in [
            (Configured::AesGcm(vec![key("k", 16)]), "k8s:enc:aesgcm:v1:k:", true),
            (Configured::AesGcm(vec![key("k", 24)]), "k8s:enc:aesgcm:v1:k:", true),
            (Configured::AesGcm(vec![key("k", 32)]), "k8s:enc:aesgcm:v1:k:", true),
            (Configured::AesCbc(vec![key("k", 16)]), "k8s:enc:aescbc:v1:k:", false),
            (Configured::AesCbc(vec![key("k", 24)]), "k8s:enc:aescbc:v1:k:", false),
            (Configured::AesCbc(vec![key("k", 32)]), "k8s:enc:aescbc:v1:k:", false),
            (Configured::Secretbox(vec![key("k", 32)]), "k8s:enc:secretbox:v1:k:", true),
        ] {
            let chain = chain(vec![provider]);
            let mut sealed = chain.seal(PLACE, b"top secret").unwrap().unwrap();
            assert!(
                sealed.starts_with(mark.as_bytes()) && !sealed.windows(6).any(|w| w == b"secret" && !mark.contains("secretbox")),
                "{mark}"
            );
            assert_eq!(chain.open(PLACE, &sealed).unwrap(), Opened { value: Some(b"top secret".to_vec()), stale: false });
            assert_ne!(chain.seal(PLACE, b"top secret").unwrap().unwrap(), sealed, "{mark}");
            *sealed.last_mut().unwrap() ^= 1;
            match chain.open(PLACE, &sealed) {
                Err(error) => assert!(error.to_string().contains("with key \"k\""), "{error}"),
                Ok(opened) => assert!(!authenticated && opened.value.as_deref() != Some(b"top secret"), "{mark}"),
            }
            assert!(chain.open(PLACE, mark.as_bytes()).is_err());
        }
    }

    #[test]
    fn a_value_that_is_moved_to_another_key_is_refused() {
        let chain = chain(vec![Configured::AesGcm(vec![key("k", 32)])]);
        let sealed = chain.seal(PLACE, b"x").unwrap().unwrap();
        assert!(chain.open("/registry/core/secrets/a/c", &sealed).is_err());
    }

    #[test]
    fn the_first_key_writes_all_read_and_others_are_stale() {
        let old = chain(vec![Configured::AesCbc(vec![key("old", 32)])]);
        let new =
            chain(vec![Configured::Secretbox(vec![key("newer", 32)]), Configured::AesCbc(vec![key("old", 32)]), Configured::Identity]);
        let sealed = old.seal(PLACE, b"x").unwrap().unwrap();
        assert_eq!(new.open(PLACE, &sealed).unwrap(), Opened { value: Some(b"x".to_vec()), stale: true });
        assert_eq!(new.open(PLACE, b"plain").unwrap(), Opened { value: None, stale: true });
        assert!(new.seal(PLACE, b"x").unwrap().unwrap().starts_with(b"k8s:enc:secretbox:v1:newer:"));
        assert!(matches!(old.open(PLACE, b"plain"), Err(CryptError::Plain)));
        let identity = chain(vec![Configured::Identity]);
        assert!(matches!(identity.open(PLACE, &sealed), Err(CryptError::NoProvider)));
        assert_eq!(identity.seal(PLACE, b"x").unwrap(), None);
    }

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
    }

    /// The test vector of NaCl's own secretbox tests: the tag stands in front, as Go's secretbox has it.
    #[test]
    fn secretbox_is_that_of_nacl() {
        let cipher = XSalsa20Poly1305::new_from_slice(&bytes("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389")).unwrap();
        let nonce = "69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37";
        let sealed = "f3ffc7703f9400e52a7dfb4b3d3305d98e993b9f48681273c29650ba32fc76ce48332ea7164d96a4476fb8c531a1186ac0dfc17c98dce87b4da7f011ec48c97271d2c20f9b928fe2270d6fb863d51738b48eeee314a7cc8ab932164548e526ae90224368517acfeabd6bb3732bc0e9da99832b61ca01b6de56244a9e88d5f9b37973f622a43d14a6599b1f654cb45a74e355a5";
        let opened = secretbox_open(&cipher, &bytes(&format!("{nonce}{sealed}"))).unwrap();
        assert!(opened.starts_with(&bytes("be075fc53c81f2d5cf141316ebeb0c7b5228c52a4c62cbd44b66849b64244ffc")));
    }
}
