//! What a parser of certificates has to say on admission: trust bundles hold authorities, and who writes a signer's bundle may vouch for
//! it (upstream's plugin ClusterTrustBundleAttest and validateTrustBundle); who asks for a pod's certificate holds its key, and what is
//! issued is for that key and as long as was asked (upstream's validation of PodCertificateRequests).

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use base64::Engine;
use fram_machinery::status::FieldError;
use fram_machinery::{Status, Value};
use ring::signature;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::{Operation, Request};
use crate::authorize::{Attributes, Decision, Rbac};
use crate::user::MASTERS;

const GROUP: &str = "certificates.k8s.io";
const CHAIN: &str = "status.certificateChain";

/// Fails with what is wrong with a bundle or a pod's request; where it is `attested`, who writes a bundle needs the right to.
pub(super) fn check(rbac: &Rbac, request: &Request<'_>, object: &Value, old: Option<&Value>, attested: bool) -> Result<(), Status> {
    let kind = request.stored_kind();
    if kind.group != GROUP || !matches!(request.operation, Operation::Create | Operation::Update) {
        return Ok(());
    }
    let errors = match (kind.kind.as_str(), request.subresource) {
        ("ClusterTrustBundle", "") => {
            if attested {
                attest(rbac, request, object, old)?;
            }
            let bundle = object.str_at(&["spec", "trustBundle"]);
            match old {
                Some(old) if old.str_at(&["spec", "trustBundle"]) == bundle => Vec::new(),
                _ => bundle_errors(bundle),
            }
        }
        ("PodCertificateRequest", "") if request.operation == Operation::Create => proof_error(object).into_iter().collect(),
        ("PodCertificateRequest", "status") if old.is_some_and(|old| old.get("status") != object.get("status")) => {
            chain_error(object, &request.registry.environment.now_text()).into_iter().collect()
        }
        _ => Vec::new(),
    };
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Status::invalid(GROUP, &kind.kind, &request.place.name, errors)),
    }
}

/// Tells the author of a Secret with a certificate and its key where they are none, or do not belong together. Of keys that are not known
/// here nothing is said.
pub(super) fn tell(request: &Request<'_>, secret: &Value) {
    if !request.is_about("", "Secret") || secret.str_at(&["type"]) != "kubernetes.io/tls" {
        return;
    }
    let part = |name: &str| {
        let encoded = secret.str_at(&["data", name]);
        base64::engine::general_purpose::STANDARD.decode(encoded).unwrap_or_default()
    };
    let (certificates, key) = (part("tls.crt"), part("tls.key"));
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&certificates).collect();
    let chain = chain.unwrap_or_default();
    if chain.is_empty() || X509Certificate::from_der(&chain[0]).is_err() {
        return request.warn("data[tls.crt]: there is no certificate in PEM");
    }
    let Ok(key) = PrivateKeyDer::from_pem_slice(&key) else {
        return request.warn("data[tls.key]: there is no private key in PEM");
    };
    let pair = rustls::sign::CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider());
    if matches!(pair, Err(rustls::Error::InconsistentKeys(_))) {
        request.warn("data[tls.key]: the key is not that of the certificate");
    }
}

/// Who writes a signer's bundle may `attest` for that signer, or for all of its domain.
fn attest(rbac: &Rbac, request: &Request<'_>, object: &Value, old: Option<&Value>) -> Result<(), Status> {
    let signer = object.str_at(&["spec", "signerName"]);
    let for_its_end = old.is_some_and(|old| super::escalation::is_for_its_end(object, old));
    if signer.is_empty() || for_its_end || request.user.is_in(MASTERS) {
        return Ok(());
    }
    let may = |name: String| {
        let (verb, resource) = ("attest".into(), "signers".into());
        let attributes = Attributes { verb, group: GROUP.into(), version: "*".into(), resource, name, ..Default::default() };
        rbac.decide(request.user, &attributes) == Decision::Allow
    };
    let domain = signer.split('/').next().unwrap_or_default();
    match may(signer.into()) || may(format!("{domain}/*")) {
        true => Ok(()),
        false => Err(request.place.forbidden(&format!("user not permitted to attest for signerName {signer:?}"))),
    }
}

fn bundle_errors(bundle: &str) -> Vec<FieldError> {
    let mut seen: HashMap<Vec<u8>, usize> = HashMap::new();
    let mut errors = Vec::new();
    let mut fail = |why: String| errors.push(FieldError::invalid("spec.trustBundle", "<value omitted>", &why));
    let mut any = false;
    for (i, block) in Pem::iter_from_buffer(bundle.as_bytes()).enumerate() {
        any = true;
        let Ok(block) = block else {
            fail(format!("entry {i} is not a PEM block"));
            continue;
        };
        if block.label != "CERTIFICATE" {
            fail(format!("entry {i} has bad block type: {}", block.label));
            continue;
        }
        match X509Certificate::from_der(&block.contents) {
            Ok(([], certificate)) => match certificate.basic_constraints() {
                Ok(Some(constraints)) if constraints.value.ca => {}
                Ok(_) => fail(format!("entry {i} does not have the CA bit set")),
                Err(_) => fail(format!("entry {i} has invalid basic constraints")),
            },
            _ => fail(format!("entry {i} does not parse as X.509")),
        }
        match seen.entry(block.contents) {
            Entry::Occupied(first) => fail(format!("duplicate trust anchor (indices [{} {i}])", first.get())),
            Entry::Vacant(place) => drop(place.insert(i)),
        }
    }
    if !any {
        fail("at least one trust anchor must be provided".into());
    }
    errors
}

/// Bytes of an object, which stand in it as base64.
fn bytes(object: &Value, field: &str) -> Vec<u8> {
    base64::engine::general_purpose::STANDARD.decode(object.str_at(&["spec", field])).unwrap_or_default()
}

/// A key of a sort and a size that is good enough.
fn key_problem(key: &SubjectPublicKeyInfo<'_>) -> Option<String> {
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) if matches!(rsa.key_size(), 3072 | 4096) => None,
        Ok(PublicKey::RSA(_)) => Some("RSA keys must have modulus size 3072 or 4096".into()),
        Ok(PublicKey::EC(point)) if matches!(point.key_size(), 256 | 384) => None,
        // ring has no such curve, which upstream takes.
        Ok(PublicKey::EC(point)) if matches!(point.key_size(), 521 | 528) => {
            Some("keys on curve P521 cannot be verified here; use P256 or P384".into())
        }
        Ok(PublicKey::EC(_)) => Some("elliptic public keys must use curve P256 or P384".into()),
        Ok(PublicKey::Unknown(_)) if key.algorithm.algorithm.to_id_string() == ED25519 => None,
        _ => Some("unknown public key type; supported types are Ed25519, ECDSA, and RSA".into()),
    }
}

const ED25519: &str = "1.3.101.112";

/// Why a request does not show that who makes it holds the key.
fn proof_error(object: &Value) -> Option<FieldError> {
    let (stub, key) = (bytes(object, "stubPKCS10Request"), bytes(object, "pkixPublicKey"));
    if !stub.is_empty() {
        let fail = |why: &str| Some(FieldError::invalid("spec.stubPKCS10Request", "", why));
        let Ok((_, request)) = X509CertificationRequest::from_der(&stub) else { return fail("must be a valid PKCS#10 CSR") };
        if let Some(why) = key_problem(&request.certification_request_info.subject_pki) {
            return fail(&why);
        }
        return request.verify_signature().is_err().then(|| fail("invalid signature")).flatten();
    }
    let fail = |why: &str| Some(FieldError::invalid("spec.pkixPublicKey", "", why));
    let Ok((_, key)) = SubjectPublicKeyInfo::from_der(&key) else { return fail("must be a valid PKIX-serialized public key") };
    if let Some(why) = key_problem(&key) {
        return fail(&why);
    }
    let (uid, proof) = (object.str_at(&["spec", "podUID"]), bytes(object, "proofOfPossession"));
    let algorithm: &dyn signature::VerificationAlgorithm = match key.parsed() {
        Ok(PublicKey::RSA(_)) => &signature::RSA_PSS_2048_8192_SHA256,
        Ok(PublicKey::EC(point)) if point.key_size() == 256 => &signature::ECDSA_P256_SHA256_ASN1,
        Ok(PublicKey::EC(point)) if point.key_size() == 384 => &signature::ECDSA_P384_SHA256_ASN1,
        Ok(PublicKey::EC(_)) => return fail("elliptic public keys must use curve P256 or P384"),
        _ => &signature::ED25519,
    };
    let public = signature::UnparsedPublicKey::new(algorithm, key.subject_public_key.data.as_ref());
    let why = "could not verify proof-of-possession signature";
    public.verify(uid.as_bytes(), &proof).is_err().then(|| FieldError::invalid("spec.proofOfPossession", "", why))
}

/// Why an issued chain is not what was asked for.
fn chain_error(object: &Value, now: &str) -> Option<FieldError> {
    let chain = object.str_at(&["status", "certificateChain"]);
    if chain.is_empty() {
        return None;
    }
    let fail = |field: &str, why: &str| Some(FieldError::invalid(field, "", why));
    let mut blocks = Vec::new();
    for block in Pem::iter_from_buffer(chain.as_bytes()) {
        match block {
            Ok(block) if block.label == "CERTIFICATE" => blocks.push(block),
            _ => return fail(CHAIN, "issued certificate chain must consist entirely of CERTIFICATE PEM blocks"),
        }
    }
    let Some((first, others)) = blocks.split_first() else {
        return fail(CHAIN, "issued certificate chain must contain at least one certificate");
    };
    let Ok((_, leaf)) = X509Certificate::from_der(&first.contents) else {
        return fail(CHAIN, "leaf certificate does not parse as valid X.509");
    };
    if others.iter().any(|block| X509Certificate::from_der(&block.contents).is_err()) {
        return fail(CHAIN, "intermediate certificate does not parse as valid X.509");
    }
    if asked_key(object).is_none_or(|key| key != leaf.public_key().raw) {
        return fail(CHAIN, "leaf certificate was not issued to the requested public key");
    }
    let time = |text: &str| text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_second);
    let said = |field: &str| time(object.str_at(&["status", field]));
    let (from, to) = (leaf.validity().not_before.timestamp(), leaf.validity().not_after.timestamp());
    if said("notBefore") != Some(from) {
        return fail("status.notBefore", "must be set to the NotBefore time encoded in the leaf certificate");
    }
    if time(now).is_none_or(|now| (now - from).abs() > 300) {
        return fail("status.notBefore", "must be set to within 5 minutes of kube-apiserver's current time");
    }
    if said("notAfter") != Some(to) {
        return fail("status.notAfter", "must be set to the NotAfter time encoded in the leaf certificate");
    }
    if to - from < 3600 {
        return fail(CHAIN, "leaf certificate lifetime must be >= 1 hour");
    }
    let most = object.int_at(&["spec", "maxExpirationSeconds"]).unwrap_or_default();
    if to - from > most {
        return fail(CHAIN, &format!("leaf certificate lifetime must be <= spec.maxExpirationSeconds ({most})"));
    }
    match said("beginRefreshAt") {
        Some(at) if at >= from + 600 && at <= to - 600 => None,
        _ => fail("status.beginRefreshAt", "must be at least 10 minutes after status.notBefore and before status.notAfter"),
    }
}

/// The key that a request is about, as it stands in a certificate.
fn asked_key(object: &Value) -> Option<Vec<u8>> {
    let stub = bytes(object, "stubPKCS10Request");
    if stub.is_empty() {
        return Some(bytes(object, "pkixPublicKey"));
    }
    let (_, request) = X509CertificationRequest::from_der(&stub).ok()?;
    Some(request.certification_request_info.subject_pki.raw.to_vec())
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;
    use fram_machinery::object;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    use super::*;

    fn authority() -> String {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
    }

    fn texts(bundle: &str) -> Vec<String> {
        let why = |e: FieldError| e.to_string().rsplit(": ").next().unwrap_or_default().to_string();
        bundle_errors(bundle).into_iter().map(why).collect()
    }

    #[test]
    fn a_bundle_holds_authorities_each_once() {
        let (one, two) = (authority(), authority());
        assert!(texts(&format!("{one}{two}")).is_empty());
        assert_eq!(texts(&format!("{one}{two}{one}")), ["duplicate trust anchor (indices [0 2])"]);
        assert_eq!(texts(""), ["at least one trust anchor must be provided"]);
        let leaf = CertificateParams::default().self_signed(&KeyPair::generate().unwrap()).unwrap().pem();
        assert_eq!(texts(&leaf), ["entry 0 does not have the CA bit set"]);
        assert_eq!(texts(&KeyPair::generate().unwrap().serialize_pem()), ["PRIVATE KEY"]);
    }

    fn request(key: &KeyPair) -> Value {
        let stub = CertificateParams::default().serialize_request(key).unwrap();
        object!({ "spec": { "podUID": "u", "maxExpirationSeconds": 86_400, "stubPKCS10Request": (STANDARD.encode(stub.der())) } })
    }

    #[test]
    fn a_request_is_signed_by_the_key_that_it_names() {
        for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let good = request(&key);
            assert!(proof_error(&good).is_none(), "{algorithm:?}: {:?}", proof_error(&good));
            let mut der = STANDARD.decode(good.str_at(&["spec", "stubPKCS10Request"])).unwrap();
            let last = der.len() - 1;
            der[last] ^= 1;
            let mut bad = good.clone();
            bad.set(&["spec", "stubPKCS10Request"], STANDARD.encode(der));
            assert!(proof_error(&bad).is_some(), "{algorithm:?}");
        }
    }

    #[test]
    fn what_is_issued_is_for_the_key_and_no_longer_than_was_asked() {
        let key = KeyPair::generate().unwrap();
        let now = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second()).unwrap();
        let at = |seconds: i64| (now + jiff::SignedDuration::from_secs(seconds)).to_string();
        let chain = |key: &KeyPair, seconds: i64| {
            let mut params = CertificateParams::default();
            params.not_before = time::OffsetDateTime::from_unix_timestamp(now.as_second()).unwrap();
            params.not_after = time::OffsetDateTime::from_unix_timestamp(now.as_second() + seconds).unwrap();
            params.self_signed(key).unwrap().pem()
        };
        let error = |chain: String, seconds: i64, refresh: i64| {
            let mut object = request(&key);
            let status =
                object!({ "certificateChain": (chain), "notBefore": (at(0)), "notAfter": (at(seconds)), "beginRefreshAt": (at(refresh)) });
            object.set(&["status"], status);
            chain_error(&object, &at(5)).map(|e| e.to_string())
        };
        assert_eq!(error(chain(&key, 7200), 7200, 3600), None);
        let other = KeyPair::generate().unwrap();
        assert!(error(chain(&other, 7200), 7200, 3600).unwrap().ends_with("was not issued to the requested public key"));
        assert!(error(chain(&key, 90_000), 90_000, 3600).unwrap().contains("<= spec.maxExpirationSeconds"));
        assert!(error(chain(&key, 600), 600, 300).unwrap().contains(">= 1 hour"));
        assert!(error(chain(&key, 7200), 7300, 3600).unwrap().contains("NotAfter"));
        assert!(error(chain(&key, 7200), 7200, 7190).unwrap().contains("10 minutes"));
        assert!(error("x".into(), 7200, 3600).is_some());
    }
}
