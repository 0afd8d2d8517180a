//! What is known of the certificate of one source of a volume, and what to do next about it. Pure; see upstream's credState.

use std::time::Duration;

use fram_machinery::{Value, meta};
use jiff::Timestamp;

use crate::clock;

/// A certificate is overdue when it was not renewed for so long.
const OVERDUE: Duration = Duration::from_secs(600);

/// Key and certificates, both as PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub key: String,
    pub chain: String,
}

#[derive(Debug, Clone, PartialEq)]
struct Issued {
    credentials: Credentials,
    refresh_at: Timestamp,
    not_after: Timestamp,
    told_overdue: bool,
    told_expired: bool,
}

#[derive(Debug, Clone, PartialEq)]
struct Pending {
    key: String,
    request: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoCredentials {
    #[error("credential bundle is not issued yet")]
    NotYet,
    #[error("PodCertificateRequest was permanently {state}: reason={reason:?} message={message:?}")]
    Refused { state: &'static str, reason: String, message: String },
}

/// What people are told: reason and message of a warning.
pub(super) type Told = (&'static str, String);

#[derive(Debug, PartialEq)]
pub(super) enum Next<'a> {
    Ask,
    Look(&'a str),
    Nothing,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Record {
    issued: Option<Issued>,
    pending: Option<Pending>,
    refused: Option<NoCredentials>,
}

impl Record {
    pub(super) fn next(&self, now: Timestamp) -> Next<'_> {
        match (&self.refused, &self.pending, &self.issued) {
            (Some(_), _, _) => Next::Nothing,
            (None, Some(pending), _) => Next::Look(&pending.request),
            (None, None, Some(issued)) if now < issued.refresh_at => Next::Nothing,
            _ => Next::Ask,
        }
    }

    pub(super) fn asked(&mut self, key: String, request: &str) {
        self.pending = Some(Pending { key, request: request.into() });
    }

    /// The request as it is now; None where somebody deleted it, and another one is made. Returns what is to be told. `jitter` keeps
    /// pods that began together from renewing together.
    pub(super) fn see(&mut self, request: Option<&Value>, jitter: Duration) -> Option<Told> {
        let Some(request) = request else {
            self.pending = None;
            return None;
        };
        for condition in request.list_at(&["status", "conditions"]) {
            let (reason, message) = (condition.str_at(&["reason"]), condition.str_at(&["message"]));
            let (state, event, verb) = match condition.str_at(&["type"]) {
                "Denied" => ("denied", "Denied", "was denied"),
                "Failed" => ("failed", "Failed", "failed"),
                "Issued" => {
                    self.take(request, jitter);
                    return None;
                }
                _ => continue,
            };
            self.refused = Some(NoCredentials::Refused { state, reason: reason.into(), message: message.into() });
            return Some((event, format!("PodCertificateRequest {} {verb}, reason={reason:?}, message={message:?}", meta::key(request))));
        }
        None
    }

    fn take(&mut self, request: &Value, jitter: Duration) {
        let Some(pending) = self.pending.take() else { return };
        let time = |field: &str| clock::parse(request.str_at(&["status", field]));
        // The API server has held these against the certificate.
        let (Some(refresh_at), Some(not_after)) = (time("beginRefreshAt"), time("notAfter")) else { return };
        let chain = super::clean(request.str_at(&["status", "certificateChain"]));
        self.issued = Some(Issued {
            credentials: Credentials { key: pending.key, chain },
            refresh_at: refresh_at + jitter,
            not_after,
            told_overdue: false,
            told_expired: false,
        });
    }

    /// Tells once that a certificate is overdue, and once that it has expired.
    pub(super) fn complaints(&mut self, now: Timestamp) -> Vec<Told> {
        let mut out = Vec::new();
        let Some(issued) = &mut self.issued else { return out };
        if now > issued.refresh_at + OVERDUE && !std::mem::replace(&mut issued.told_overdue, true) {
            out.push(("CertificateOverdueForRefresh", "PodCertificate refresh overdue".into()));
        }
        if now > issued.not_after && !std::mem::replace(&mut issued.told_expired, true) {
            out.push(("CertificateExpired", "PodCertificate expired".into()));
        }
        out
    }

    pub(super) fn credentials(&self) -> Result<Credentials, NoCredentials> {
        match (&self.refused, &self.issued) {
            (Some(refused), _) => Err(refused.clone()),
            (None, Some(issued)) => Ok(issued.credentials.clone()),
            (None, None) => Err(NoCredentials::NotYet),
        }
    }

    /// When there is something to do or to tell that no change of the request announces.
    pub(super) fn due(&self, now: Timestamp) -> Option<Timestamp> {
        let issued = self.issued.as_ref().filter(|_| self.refused.is_none())?;
        if self.pending.is_none() {
            return Some(issued.refresh_at);
        }
        let moment = Duration::from_secs(1);
        [issued.refresh_at + OVERDUE + moment, issued.not_after + moment].into_iter().filter(|at| *at > now).min()
    }
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn request(kind: &str) -> Value {
        let mut request = object!({ "metadata": { "namespace": "ns", "name": "req-1" } });
        if !kind.is_empty() {
            let chain = super::super::super::certificates_pem([b"leaf".to_vec()]);
            let condition = object!({ "type": kind, "status": "True", "reason": "R", "message": "why" });
            let status = object!({
                "conditions": [condition], "certificateChain": (format!("# chain\n{chain}")),
                "beginRefreshAt": (clock::time(at(10_000))), "notAfter": (clock::time(at(20_000)))
            });
            request.set(&["status"], status);
        }
        request
    }

    fn issued() -> Record {
        let mut record = Record::default();
        record.asked("key".into(), "req-1");
        assert_eq!(record.see(Some(&request("Issued")), Duration::from_secs(60)), None);
        record
    }

    #[test]
    fn a_certificate_is_asked_for_awaited_and_renewed_when_its_signer_says_so() {
        let mut record = Record::default();
        assert_eq!(record.next(at(0)), Next::Ask);
        record.asked("key".into(), "req-1");
        assert_eq!(record.see(Some(&request("")), Duration::ZERO), None);
        assert_eq!(record.next(at(0)), Next::Look("req-1"));
        assert_eq!((record.credentials(), record.due(at(0))), (Err(NoCredentials::NotYet), None));
        let mut record = issued();
        let shown = record.credentials().unwrap();
        assert_eq!((shown.key.as_str(), shown.chain.starts_with("-----BEGIN CERTIFICATE")), ("key", true));
        // The jitter counts.
        assert_eq!((record.next(at(10_059)), record.due(at(0)), record.next(at(10_060))), (Next::Nothing, Some(at(10_060)), Next::Ask));
        record.asked("other".into(), "req-2");
        assert_eq!(record.credentials().unwrap().key, "key", "the old one is shown until the new one is there");
        record.see(Some(&request("Issued")), Duration::ZERO);
        assert_eq!(record.credentials().unwrap().key, "other");
    }

    #[test]
    fn a_request_that_is_deleted_is_made_again_and_one_that_is_refused_is_not() {
        let mut record = Record::default();
        record.asked("key".into(), "req-1");
        assert_eq!((record.see(None, Duration::ZERO), record.next(at(0))), (None, Next::Ask));
        for (kind, said) in [("Denied", "was denied"), ("Failed", "failed")] {
            let mut record = issued();
            record.asked("other".into(), "req-1");
            let told = record.see(Some(&request(kind)), Duration::ZERO).unwrap();
            assert_eq!(told, (kind, format!("PodCertificateRequest ns/req-1 {said}, reason=\"R\", message=\"why\"")));
            assert_eq!((record.next(at(99_999)), record.due(at(0))), (Next::Nothing, None));
            assert!(record.credentials().unwrap_err().to_string().contains("permanently"));
        }
    }

    #[test]
    fn that_a_renewal_is_overdue_and_that_the_end_has_come_is_told_once_each() {
        let mut record = issued();
        record.asked("other".into(), "req-2");
        let told = |record: &mut Record, now| record.complaints(at(now)).into_iter().map(|(reason, _)| reason).collect::<Vec<_>>();
        assert!(told(&mut record, 10_660).is_empty());
        assert_eq!(record.due(at(10_100)), Some(at(10_661)));
        assert_eq!(told(&mut record, 10_661), ["CertificateOverdueForRefresh"]);
        assert!(told(&mut record, 10_662).is_empty());
        assert_eq!(record.due(at(10_662)), Some(at(20_001)));
        assert_eq!(told(&mut record, 20_001), ["CertificateExpired"]);
        assert!(told(&mut record, 20_002).is_empty());
        assert_eq!(record.due(at(20_002)), None);
    }
}
