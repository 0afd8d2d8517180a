//! CertificateSigningRequests of nodes: which are approved without a human, and how they are signed. Pure but for the key;
//! the reconciler that acts on it lives where the components are wired. See upstream's pkg/controller/certificates.

use fram_machinery::{Value, meta, object};
use rcgen::{CertificateSigningRequestParams, DnType, DnValue, ExtendedKeyUsagePurpose, KeyUsagePurpose};

use crate::pki::{Pki, PkiError};

pub const SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
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
}

fn decoded(csr: &Value) -> Option<CertificateSigningRequestParams> {
    let raw = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, csr.str_at(&["spec", "request"])).ok()?;
    CertificateSigningRequestParams::from_pem(std::str::from_utf8(&raw).ok()?).ok()
}

fn text(value: &DnValue) -> Option<&str> {
    match value {
        DnValue::Utf8String(text) => Some(text),
        DnValue::PrintableString(text) => Some(text.as_str()),
        _ => None,
    }
}

/// The user that a request wants to be; None where it is not a node's client request. See IsNodeClientCSR.
fn node_of(csr: &Value) -> Option<String> {
    let params = decoded(csr)?.params;
    let name: Vec<(&DnType, &str)> =
        params.distinguished_name.iter().map(|(kind, value)| text(value).map(|v| (kind, v))).collect::<Option<_>>()?;
    let (mut common, mut organisation) = (None, None);
    for (kind, value) in name {
        match kind {
            DnType::CommonName => common = Some(value),
            DnType::OrganizationName => organisation = Some(value),
            _ => return None,
        }
    }
    let usages: Vec<&str> = csr.list_at(&["spec", "usages"]).iter().filter_map(Value::as_str).collect();
    let allowed = ["digital signature", "key encipherment", "client auth"];
    let usual = usages.contains(&"digital signature") && usages.contains(&"client auth") && usages.iter().all(|u| allowed.contains(u));
    let common = common?;
    let is_node = organisation == Some("system:nodes") && common.strip_prefix("system:node:").is_some_and(|n| !n.is_empty());
    (is_node && usual && params.subject_alt_names.is_empty()).then(|| common.to_string())
}

/// What is to be done about a request.
pub fn step(csr: &Value) -> Step {
    if csr.str_at(&["spec", "signerName"]) != SIGNER || !csr.str_at(&["status", "certificate"]).is_empty() {
        return Step::Wait;
    }
    let given = |ty: &str| meta::condition(csr, ty).is_some();
    if given("Denied") || given("Failed") {
        return Step::Wait;
    }
    let Some(node) = node_of(csr) else { return Step::Wait };
    if meta::condition_is_true(csr, "Approved") {
        return Step::Sign;
    }
    // A node may renew what it is; anyone else needs the right to let nodes in.
    let own = csr.str_at(&["spec", "username"]) == node;
    Step::Approve { permission: if own { "selfnodeclient" } else { "nodeclient" } }
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

/// Signs an approved request of a node; the answer is the certificate as PEM. The subject is checked again: what is
/// signed is what was looked at.
pub fn sign(csr: &Value, pki: &Pki) -> Result<Option<String>, PkiError> {
    if step(csr) != Step::Sign {
        return Ok(None);
    }
    let Some(mut request) = decoded(csr) else { return Ok(None) };
    let seconds = csr.int_at(&["spec", "expirationSeconds"]).unwrap_or(MOST_SECONDS).clamp(LEAST_SECONDS, MOST_SECONDS);
    request.params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    request.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
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
