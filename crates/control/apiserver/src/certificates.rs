//! CertificateSigningRequests of upstream's signers: which are approved without a human, which are signed, and how. Pure but for
//! the key; the reconciler that acts on it lives where the components are wired. See upstream's pkg/controller/certificates. The
//! signer legacy-unknown is not there: certificates.k8s.io/v1 refuses its requests.

use fram_machinery::{Value, meta, object};
use rcgen::{CertificateSigningRequestParams, DnType, DnValue, ExtendedKeyUsagePurpose, KeyUsagePurpose, SanType};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::ParsedExtension;
use x509_parser::oid_registry;
use x509_parser::prelude::FromDer;

use crate::pki::{Pki, PkiError};

/// Clients that are nodes.
pub const SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Any client of the API.
const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// Servers on nodes.
pub const SERVING: &str = "kubernetes.io/kubelet-serving";
/// Upstream's --cluster-signing-duration.
const MOST_SECONDS: i64 = 365 * 24 * 3600;
const LEAST_SECONDS: i64 = 600;

/// What a request wants next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing that happens without a human.
    Wait,
    /// Approve it, if its author may create this subresource of requests.
    Approve {
        permission: &'static str,
    },
    Sign,
    /// Say that it is nothing that its signer signs, and why.
    Fail {
        reason: String,
    },
}

fn decoded(csr: &Value) -> Result<CertificateSigningRequestParams, String> {
    let raw = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, csr.str_at(&["spec", "request"]));
    let pem = pem::parse(raw.map_err(|error| unread(&error))?).map_err(|error| unread(&error))?;
    CertificateSigningRequestParams::from_der(&pem.contents().into()).map_err(|error| match error {
        rcgen::Error::InvalidCertificationRequestSignature | rcgen::Error::UnsupportedSignatureAlgorithm => OTHER_KEY.into(),
        rcgen::Error::UnsupportedExtension => unsupported(pem.contents()),
        other => unread(&other),
    })
}

fn unread(why: &dyn std::fmt::Display) -> String {
    format!("the request cannot be read: {why}")
}

/// Says which extensions have to be left out of a request.
fn unsupported(request: &[u8]) -> String {
    let Ok((_, request)) = X509CertificationRequest::from_der(request) else { return unread(&"it is not DER") };
    let known = oid_registry::OidRegistry::default().with_x509();
    let mut names = Vec::new();
    for attribute in request.certification_request_info.iter_attributes() {
        let ParsedCriAttribute::ExtensionRequest(asked) = attribute.parsed_attribute() else { continue };
        names.extend(asked.extensions.iter().filter(|extension| !is_supported(extension.parsed_extension())).map(|extension| {
            let oid = &extension.oid;
            known.get(oid).map_or_else(|| oid.to_id_string(), |entry| format!("{} ({})", entry.sn(), oid.to_id_string()))
        }));
    }
    format!("certificates with these extensions are not signed here, leave them out of the request: {}", names.join(", "))
}

/// Whether an extension is one that can be read here.
fn is_supported(extension: &ParsedExtension<'_>) -> bool {
    match extension {
        ParsedExtension::KeyUsage(_) | ParsedExtension::SubjectAlternativeName(_) | ParsedExtension::BasicConstraints(_) => true,
        ParsedExtension::ExtendedKeyUsage(usage) => usage.other.is_empty(),
        _ => false,
    }
}

fn text(value: &DnValue) -> Option<&str> {
    match value {
        DnValue::Utf8String(text) => Some(text),
        DnValue::PrintableString(text) => Some(text.as_str()),
        _ => None,
    }
}

fn usages(csr: &Value) -> Vec<&str> {
    csr.list_at(&["spec", "usages"]).iter().filter_map(Value::as_str).collect()
}

/// The common name and the organisations of a request; None where its subject has anything else.
fn subject(request: &CertificateSigningRequestParams) -> Option<(String, Vec<String>)> {
    let (mut common, mut organisations) = (String::new(), Vec::new());
    for (kind, value) in request.params.distinguished_name.iter() {
        match kind {
            DnType::CommonName => common = text(value)?.into(),
            DnType::OrganizationName => organisations.push(text(value)?.into()),
            _ => return None,
        }
    }
    Some((common, organisations))
}

/// The common name that a request asks for; None where it cannot be read, or its subject has more than that and organisations.
pub(crate) fn common_name(csr: &Value) -> Option<String> {
    Some(subject(&decoded(csr).ok()?)?.0)
}

/// The user that a request of a node wants to be, or why it is none; see ValidateKubeletClientCSR and ValidateKubeletServingCSR,
/// which have the words. What else a subject may say is refused too.
fn node(csr: &Value, request: &CertificateSigningRequestParams, purpose: &str) -> Result<String, String> {
    let (common, organisations) = subject(request).ok_or("subject has more than a common name and organizations")?;
    if organisations != ["system:nodes"] {
        return Err("subject organization is not system:nodes".into());
    }
    alternatives(&request.params.subject_alt_names, purpose)?;
    if common.strip_prefix("system:node:").is_none_or(str::is_empty) {
        return Err("subject common name does not begin with system:node:".into());
    }
    let (usages, allowed) = (usages(csr), ["digital signature", "key encipherment", purpose]);
    let complete = usages.contains(&"digital signature") && usages.contains(&purpose);
    if !complete || !usages.iter().all(|u| allowed.contains(u)) {
        let mut words = allowed;
        words.sort_unstable();
        return Err(format!("usages did not match [{}]", words.join(" ")));
    }
    Ok(common)
}

/// Servers have names or addresses, clients have none.
fn alternatives(names: &[SanType], purpose: &str) -> Result<(), String> {
    let serves = purpose == "server auth";
    for name in names {
        match name {
            SanType::DnsName(_) if !serves => return Err("DNS subjectAltNames are not allowed".into()),
            SanType::IpAddress(_) if !serves => return Err("IP subjectAltNames are not allowed".into()),
            SanType::DnsName(_) | SanType::IpAddress(_) => {}
            SanType::Rfc822Name(_) => return Err("Email subjectAltNames are not allowed".into()),
            SanType::URI(_) => return Err("URI subjectAltNames are not allowed".into()),
            _ => return Err("subjectAltNames of this sort are not allowed".into()),
        }
    }
    if serves && names.is_empty() { Err("DNS or IP subjectAltName is required".into()) } else { Ok(()) }
}

/// See validAPIServerClientUsages.
fn client(csr: &Value) -> Result<(), String> {
    let usages = usages(csr);
    if let Some(other) = usages.iter().find(|u| !matches!(**u, "digital signature" | "key encipherment" | "client auth")) {
        return Err(format!("invalid usage for client certificate: {other}"));
    }
    if usages.contains(&"client auth") { Ok(()) } else { Err("missing required usage for client certificate: client auth".into()) }
}

const OTHER_KEY: &str = "the request cannot be verified here: its key and signature have to be of RSA, of ECDSA on curve P-256 or P-384 (P-521 is not there), or Ed25519";

/// What is to be done about a request.
pub fn step(csr: &Value) -> Step {
    let signer = csr.str_at(&["spec", "signerName"]);
    if !matches!(signer, SIGNER | CLIENT | SERVING) || !csr.str_at(&["status", "certificate"]).is_empty() {
        return Step::Wait;
    }
    let given = |ty: &str| meta::condition(csr, ty).is_some();
    if given("Denied") || given("Failed") {
        return Step::Wait;
    }
    let is_approved = meta::condition_is_true(csr, "Approved");
    let request = match decoded(csr) {
        Ok(request) => request,
        // What can be read has been looked at when it was made.
        Err(reason) => return if is_approved { Step::Fail { reason } } else { Step::Wait },
    };
    let valid = match signer {
        CLIENT => client(csr).map(|()| String::new()),
        SERVING => node(csr, &request, "server auth"),
        _ => node(csr, &request, "client auth"),
    };
    match (is_approved, valid) {
        (true, Ok(_)) => Step::Sign,
        (true, Err(reason)) => Step::Fail { reason },
        // A node may renew what it is; anyone else needs the right to let nodes in.
        (false, Ok(node)) if signer == SIGNER => {
            let own = csr.str_at(&["spec", "username"]) == node;
            Step::Approve { permission: if own { "selfnodeclient" } else { "nodeclient" } }
        }
        (false, _) => Step::Wait,
    }
}

/// The SubjectAccessReview that says whether a request's author may have it approved.
pub fn review(csr: &Value, permission: &str) -> Value {
    object!({ "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": { "user": (csr.str_at(&["spec", "username"])), "uid": (csr.str_at(&["spec", "uid"])),
            "groups": (csr.at(&["spec", "groups"]).cloned().unwrap_or_default()),
            "extra": (csr.at(&["spec", "extra"]).cloned().unwrap_or_default()),
            "resourceAttributes": { "group": "certificates.k8s.io", "version": "v1", "resource": "certificatesigningrequests",
                "verb": "create", "subresource": permission } } })
}

/// The request with the condition that upstream's approver sets.
pub fn approved(mut csr: Value, now: &str) -> Value {
    csr.place(&["status", "conditions"]).make_list().push(object!({
        "type": "Approved", "status": "True", "reason": "AutoApproved", "lastUpdateTime": now, "lastTransitionTime": now,
        "message": "Auto approving kubelet client certificate after SubjectAccessReview." }));
    csr
}

/// The request with the condition that upstream's signer sets where it cannot sign.
pub fn failed(mut csr: Value, reason: &str, now: &str) -> Value {
    csr.place(&["status", "conditions"]).make_list().push(object!({
        "type": "Failed", "status": "True", "reason": "SignerValidationFailure", "message": reason,
        "lastUpdateTime": now, "lastTransitionTime": now }));
    csr
}

/// Signs an approved request; the answer is the certificate as PEM. What is signed is looked at again.
pub fn sign(csr: &Value, pki: &Pki) -> Result<Option<String>, PkiError> {
    if step(csr) != Step::Sign {
        return Ok(None);
    }
    let Ok(mut request) = decoded(csr) else { return Ok(None) };
    let seconds = csr.int_at(&["spec", "expirationSeconds"]).unwrap_or(MOST_SECONDS).clamp(LEAST_SECONDS, MOST_SECONDS);
    let usages = usages(csr);
    let has = |usage: &str| usages.contains(&usage);
    let key = [("digital signature", KeyUsagePurpose::DigitalSignature), ("key encipherment", KeyUsagePurpose::KeyEncipherment)];
    let extended = [("client auth", ExtendedKeyUsagePurpose::ClientAuth), ("server auth", ExtendedKeyUsagePurpose::ServerAuth)];
    request.params.key_usages = key.into_iter().filter(|(usage, _)| has(usage)).map(|(_, purpose)| purpose).collect();
    request.params.extended_key_usages = extended.into_iter().filter(|(usage, _)| has(usage)).map(|(_, purpose)| purpose).collect();
    request.params.is_ca = rcgen::IsCa::ExplicitNoCa;
    pki.sign(request, seconds).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(common: &str, organisation: &str, sans: &[&str]) -> String {
        let mut params = rcgen::CertificateParams::new(sans.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common);
        params.distinguished_name.push(DnType::OrganizationName, organisation);
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        base64::Engine::encode(&base64::engine::general_purpose::STANDARD, pem)
    }

    fn csr(request: String, username: &str) -> Value {
        object!({ "spec": { "signerName": SIGNER, "request": request, "username": username,
            "usages": ["digital signature", "client auth"] } })
    }

    #[test]
    fn a_nodes_request_is_approved_by_what_its_author_may() {
        let node = || request("system:node:a", "system:nodes", &[]);
        assert_eq!(step(&csr(node(), "system:bootstrap:x")), Step::Approve { permission: "nodeclient" });
        assert_eq!(step(&csr(node(), "system:node:a")), Step::Approve { permission: "selfnodeclient" });
        assert_eq!(step(&csr(node(), "system:node:b")), Step::Approve { permission: "nodeclient" });
    }

    #[test]
    fn what_is_not_a_nodes_client_request_waits() {
        for (common, organisation, sans) in [
            ("admin", "system:nodes", &[][..]),
            ("system:node:a", "system:masters", &[]),
            ("system:node:a", "system:nodes", &["a.example"]),
        ] {
            assert_eq!(step(&csr(request(common, organisation, sans), "u")), Step::Wait, "{common} {organisation} {sans:?}");
        }
        let mut other = csr(request("system:node:a", "system:nodes", &[]), "u");
        other.set(&["spec", "usages"], vec![Value::from("client auth"), Value::from("digital signature"), Value::from("cert sign")]);
        assert_eq!(step(&other), Step::Wait);
        assert_eq!(step(&csr("bm9uc2Vuc2U=".into(), "u")), Step::Wait);
        let mut denied = csr(request("system:node:a", "system:nodes", &[]), "u");
        denied.set(&["status", "conditions"], vec![object!({ "type": "Denied", "status": "True" })]);
        assert_eq!(step(&denied), Step::Wait);
    }

    fn of(signer: &str, request: String, usages: &[&str], is_approved: bool) -> Value {
        let usages: Vec<Value> = usages.iter().map(|u| Value::from(*u)).collect();
        let csr = object!({ "spec": { "signerName": signer, "request": request, "username": "u", "usages": usages } });
        if is_approved { approved(csr, "2030-01-01T00:00:00Z") } else { csr }
    }

    #[test]
    fn what_a_human_approved_is_signed_by_the_rules_of_its_signer_or_fails() {
        let fails = |reason: &str| Step::Fail { reason: reason.into() };
        let serving = ["digital signature", "server auth"];
        for (signer, common, organisation, sans, usages, expect) in [
            (CLIENT, "jane", "dev", &[][..], &["client auth"][..], Step::Sign),
            (CLIENT, "jane", "dev", &["a.example"], &["client auth", "digital signature"], Step::Sign),
            (CLIENT, "jane", "dev", &[], &["client auth", "cert sign"], fails("invalid usage for client certificate: cert sign")),
            (CLIENT, "jane", "dev", &[], &["digital signature"], fails("missing required usage for client certificate: client auth")),
            (SERVING, "system:node:a", "system:nodes", &["a.example", "192.0.2.1"], &serving, Step::Sign),
            (SERVING, "system:node:a", "system:nodes", &[], &serving, fails("DNS or IP subjectAltName is required")),
            (SERVING, "system:node:a", "dev", &["a.example"], &serving, fails("subject organization is not system:nodes")),
            (
                SERVING,
                "system:node:a",
                "system:nodes",
                &["a.example"],
                &["client auth"],
                fails("usages did not match [digital signature key encipherment server auth]"),
            ),
            (SIGNER, "system:node:a", "system:nodes", &["a.example"], &["client auth"], fails("DNS subjectAltNames are not allowed")),
            ("example.com/own", "jane", "dev", &[], &["client auth"], Step::Wait),
        ] {
            let made = || request(common, organisation, sans);
            assert_eq!(step(&of(signer, made(), usages, true)), expect, "{signer} {common} {sans:?} {usages:?}");
            // None of these is approved by itself.
            assert_eq!(step(&of(signer, made(), usages, false)), Step::Wait, "{signer} {common} {sans:?} {usages:?}");
        }
        let failure = failed(of(CLIENT, request("jane", "dev", &[]), &["cert sign"], true), "why", "2030-01-01T00:00:00Z");
        assert_eq!(step(&failure), Step::Wait);
    }

    /// `openssl req` with a key on P-521.
    const P521: &str = include_str!("certificates/p521.csr");

    #[test]
    fn of_a_key_that_is_not_known_here_the_author_is_told() {
        let request = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, P521);
        assert_eq!(step(&of(CLIENT, request.clone(), &["client auth"], false)), Step::Wait);
        assert_eq!(step(&of(CLIENT, request, &["client auth"], true)), Step::Fail { reason: OTHER_KEY.into() });
    }

    /// `openssl req` with an RSA key and `-addext subjectKeyIdentifier=hash`.
    const IDENTIFIER: &str = include_str!("certificates/identifier.csr");

    #[test]
    fn the_extension_that_has_to_be_left_out_is_named() {
        let request = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, IDENTIFIER);
        let Step::Fail { reason } = step(&of(CLIENT, request, &["client auth"], true)) else { panic!("it is signed") };
        assert!(reason.ends_with("leave them out of the request: subjectKeyIdentifier (2.5.29.14)"), "{reason}");
    }

    #[test]
    fn an_approved_request_is_signed_with_the_asked_for_time_and_no_more() {
        let folder = std::env::temp_dir().join(format!("fram-certificates-{}", std::process::id()));
        let pki = Pki::open(&folder).unwrap();
        let mut csr = csr(request("system:node:a", "system:nodes", &[]), "system:bootstrap:x");
        csr.set(&["spec", "expirationSeconds"], 3600);
        assert_eq!(sign(&csr, &pki).unwrap(), None);
        let pem = sign(&approved(csr, "2030-01-01T00:00:00Z"), &pki).unwrap().unwrap();
        std::fs::remove_dir_all(folder).unwrap();
        let der = pem::parse(pem).unwrap();
        let user = crate::authenticate::certificate_user(der.contents()).unwrap();
        assert_eq!(user.node(), Some("a"));
        let (_, certificate) = x509_parser::parse_x509_certificate(der.contents()).unwrap();
        let left = certificate.validity().not_after.timestamp() - jiff::Timestamp::now().as_second();
        assert!((3500..=3600).contains(&left), "{left}");
        assert!(!certificate.is_ca());
    }
}
