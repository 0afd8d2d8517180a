//! Deletes CertificateSigningRequests that are over: answered ones after an hour, or when their certificate has expired, and those that
//! nobody answers or signs after a day. Approving and signing is not done here.

use std::time::Duration;

use fram_client::{Action, Controller, DeleteOptions, Preconditions, Resource};
use fram_machinery::{Value, meta};
use jiff::Timestamp;

use crate::objects::settled;
use crate::{Context, pods};

const REQUESTS: Resource = Resource::new("certificates.k8s.io", "v1", "certificatesigningrequests");
/// See certificates/cleaner: approvedExpiration, deniedExpiration and pendingExpiration.
const ANSWERED: Duration = Duration::from_secs(60 * 60);
const PENDING: Duration = Duration::from_secs(24 * 60 * 60);

pub(crate) fn start(context: &Context) {
    let requests = context.informers.get(&REQUESTS);
    let client = context.client("certificate-controller");
    let now = context.now.clone();
    let controller = Controller::new("certificatesigningrequest-cleaner", 1).owns(&requests);
    context.run(controller, (client, requests, now), |context, name| async move {
        let (client, requests, now) = &*context;
        let Some(request) = requests.get(&name) else { return Ok(Action::Done) };
        let Some(left) = left(&request, now()) else { return Ok(Action::Done) };
        if !left.is_zero() {
            return Ok(Action::After(left));
        }
        let preconditions = Preconditions { uid: Some(meta::uid(&request).into()), resource_version: None };
        settled(client.all(&REQUESTS).delete(&name, DeleteOptions { preconditions, ..Default::default() }).await)?;
        Ok(Action::Done)
    });
}

/// How long a request may still stay; None for one of which somebody said what is no answer.
fn left(request: &Value, now: Timestamp) -> Option<Duration> {
    let conditions = request.list_at(&["status", "conditions"]);
    let certificate = request.str_at(&["status", "certificate"]);
    let signed_in = if certificate.is_empty() { PENDING } else { ANSWERED };
    let limit = |condition: &Value| match condition.str_at(&["type"]) {
        "Approved" => Some(signed_in),
        "Denied" | "Failed" => Some(ANSWERED),
        _ => None,
    };
    let ends = conditions.iter().filter_map(|c| pods::time(c, &["lastUpdateTime"])?.checked_add(limit(c)?).ok());
    let unanswered = || pods::created(request)?.checked_add(PENDING).ok();
    let pending = if conditions.is_empty() { unanswered() } else { None };
    let is_approved = meta::condition(request, "Approved").is_some();
    let expiry = if is_approved { expiry(certificate) } else { None };
    let end = ends.chain(pending).chain(expiry).min()?;
    Some(Duration::try_from(now.duration_until(end)).unwrap_or_default())
}

/// When the first certificate ends that is in this PEM, in base64.
fn expiry(certificate: &str) -> Option<Timestamp> {
    let pem = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, certificate).ok()?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).ok()?;
    Timestamp::from_second(pem.parse_x509().ok()?.validity().not_after.timestamp()).ok()
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    fn condition(ty: &str, at: &str) -> Value {
        object!({ "type": ty, "lastUpdateTime": at })
    }

    #[test]
    fn answered_requests_stay_for_an_hour_and_others_for_a_day() {
        let (now, yesterday) = ("2026-01-02T00:00:00Z".parse().unwrap(), "2026-01-01T12:00:00Z");
        let recently = "2026-01-01T23:30:00Z";
        let hour = Duration::from_secs(3600);
        for (conditions, certificate, expect) in [
            (vec![], "", Some(12 * hour)),
            (vec![condition("Denied", recently)], "", Some(hour / 2)),
            (vec![condition("Failed", recently)], "", Some(hour / 2)),
            (vec![condition("Approved", recently)], "", Some(24 * hour - hour / 2)),
            (vec![condition("Approved", recently)], "c2lnbmVk", Some(hour / 2)),
            (vec![condition("Approved", yesterday), condition("Failed", recently)], "", Some(hour / 2)),
            (vec![condition("Approved", "")], "c2lnbmVk", None),
            (vec![condition("Considered", yesterday)], "", None),
        ] {
            let request = object!({ "metadata": { "creationTimestamp": yesterday },
                "status": { "conditions": (conditions.clone()), "certificate": certificate } });
            assert_eq!(left(&request, now), expect, "{conditions:?} {certificate}");
        }
    }

    #[test]
    fn a_request_does_not_outlive_its_certificate() {
        let mut params = rcgen::CertificateParams::new(vec!["a.example".to_string()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2026, 1, 2);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, params.self_signed(&key).unwrap().pem());
        let at = "2026-01-01T23:59:00Z";
        let request = object!({ "status": { "conditions": [(condition("Approved", at))], "certificate": certificate } });
        assert_eq!(left(&request, at.parse().unwrap()), Some(Duration::from_secs(60)));
        assert_eq!(left(&request, "2026-01-03T00:00:00Z".parse().unwrap()), Some(Duration::ZERO));
    }
}
