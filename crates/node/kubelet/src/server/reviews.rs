//! Who a visitor of the kubelet's port is, and what they may: asked of the API server, and remembered for a while. See upstream's
//! webhook authenticator and authorizer.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use fram_client::{Client, Resource};
use fram_machinery::{Status, Value, object};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::config::ReviewTimes;

const TOKEN_REVIEWS: Resource = Resource::new("authentication.k8s.io", "v1", "tokenreviews");
const ACCESS_REVIEWS: Resource = Resource::new("authorization.k8s.io", "v1", "subjectaccessreviews");
/// Answers that are remembered; who asks for more is asked about again.
const MOST: usize = 1024;

/// As a certificate or the API server says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Visitor {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) groups: Vec<String>,
    /// The map of further facts, as JSON.
    pub(super) extra: String,
}

impl Visitor {
    /// The subject of a client certificate that the handshake has found good.
    pub(super) fn of_certificate(der: &[u8]) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        let subject = certificate.subject();
        let name = subject.iter_common_name().next()?.as_str().ok()?.to_string();
        let mut groups: Vec<String> = subject.iter_organization().filter_map(|o| o.as_str().ok()).map(String::from).collect();
        groups.push("system:authenticated".into());
        Some(Self { name, groups, ..Self::default() })
    }

    fn of_review(review: &Value) -> Option<Self> {
        let user = review.at(&["status", "user"]).filter(|_| review.bool_at(&["status", "authenticated"]) == Some(true))?;
        let groups = user.list_at(&["groups"]).iter().filter_map(Value::as_str).map(String::from).collect();
        let extra = user.get("extra").map(fram_machinery::json::to_string).unwrap_or_default();
        Some(Self { name: user.str_at(&["username"]).into(), uid: user.str_at(&["uid"]).into(), groups, extra })
    }

    fn spec(&self) -> Value {
        let groups: Vec<Value> = self.groups.iter().map(|g| g.as_str().into()).collect();
        let mut spec = object!({ "user": (self.name.as_str()), "uid": (self.uid.as_str()), "groups": groups });
        if let Ok(extra) = fram_machinery::json::from_slice(self.extra.as_bytes()) {
            spec.set(&["extra"], extra);
        }
        spec
    }
}

/// Answers until they are too old.
struct Remembered<K, V>(Mutex<HashMap<K, (V, Instant)>>);

impl<K: Eq + Hash, V: Clone> Remembered<K, V> {
    fn new() -> Self {
        Self(Mutex::default())
    }

    fn get(&self, key: &K) -> Option<V> {
        let known = self.0.lock();
        known.get(key).filter(|(_, until)| *until > Instant::now()).map(|(value, _)| value.clone())
    }

    fn keep(&self, key: K, value: V, time: Duration) {
        let (mut known, now) = (self.0.lock(), Instant::now());
        if known.len() >= MOST {
            known.retain(|_, (_, until)| *until > now);
        }
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(key, (value, now + time));
    }
}

/// No token of an API server is as long as this.
const LONGEST: usize = 16 << 10;

pub(super) struct Reviews {
    client: Client,
    node: String,
    times: ReviewTimes,
    /// By the hash of their tokens.
    visitors: Remembered<Vec<u8>, Option<Visitor>>,
    strangers: Remembered<Vec<u8>, Option<Visitor>>,
    rights: Remembered<(Visitor, &'static str, &'static str), bool>,
}

impl Reviews {
    pub(super) fn new(client: Client, node: String, times: ReviewTimes) -> Self {
        Self { client, node, times, visitors: Remembered::new(), strangers: Remembered::new(), rights: Remembered::new() }
    }

    /// Who has this token; None where it is nobody's.
    pub(super) async fn visitor(&self, token: &str) -> Result<Option<Visitor>, Status> {
        if token.len() > LONGEST {
            return Ok(None);
        }
        // Neither the tokens nor their lengths are kept in memory.
        let key = ring::digest::digest(&ring::digest::SHA256, token.as_bytes()).as_ref().to_vec();
        if let Some(known) = self.visitors.get(&key).or_else(|| self.strangers.get(&key)) {
            return Ok(known);
        }
        let asked = object!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": { "token": token } });
        let review = self.client.all(&TOKEN_REVIEWS).create(asked).await?;
        let visitor = Visitor::of_review(&review);
        // Tokens of nobody push out nobody who is known.
        let kept = if visitor.is_some() { &self.visitors } else { &self.strangers };
        kept.keep(key, visitor.clone(), self.times.known);
        Ok(visitor)
    }

    /// Whether a visitor may do this with a subresource of the node.
    pub(super) async fn allows(&self, visitor: &Visitor, verb: &'static str, subresource: &'static str) -> Result<bool, Status> {
        let key = (visitor.clone(), verb, subresource);
        if let Some(known) = self.rights.get(&key) {
            return Ok(known);
        }
        let mut spec = visitor.spec();
        let attributes =
            object!({ "verb": verb, "version": "v1", "resource": "nodes", "subresource": subresource, "name": (self.node.as_str()) });
        spec.set(&["resourceAttributes"], attributes);
        let asked = object!({ "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec });
        let answer = self.client.all(&ACCESS_REVIEWS).create(asked).await?;
        let allowed = answer.bool_at(&["status", "allowed"]) == Some(true);
        self.rights.keep(key, allowed, if allowed { self.times.allowed } else { self.times.refused });
        Ok(allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn answers_are_remembered_for_their_time_and_never_without_end() {
        let known = Remembered::new();
        known.keep(0, "a", Duration::from_secs(10));
        assert_eq!((known.get(&0), known.get(&1)), (Some("a"), None));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(known.get(&0), None);
        for n in 0..3 * MOST {
            known.keep(n, "b", Duration::from_secs(10));
        }
        assert!(known.0.lock().len() <= MOST);
    }

    #[test]
    fn a_review_says_who_it_is_and_what_else_is_known_is_handed_on() {
        let review = object!({ "status": { "authenticated": true, "user": {
            "username": "u", "uid": "1", "groups": ["g"], "extra": { "pod": ["p"] } } } });
        let visitor = Visitor::of_review(&review).unwrap();
        let expect = object!({ "user": "u", "uid": "1", "groups": ["g"], "extra": { "pod": ["p"] } });
        assert_eq!(visitor.spec(), expect);
        assert_eq!(Visitor::of_review(&object!({ "status": { "authenticated": false, "user": { "username": "u" } } })), None);
    }
}
