//! Tokens that stand in Secrets: the day of their last use is noted on the Secret, and one that was marked as invalid lets nobody in.
//! See upstream's legacyValidator; a token that is merely bound to a Secret is another matter.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fram_machinery::{Status, Value, meta};
use jiff::ToSpan;

use super::{Tokens, Verified};
use crate::definitions;
use crate::registry::Place;

const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

/// A day as labels say it.
pub(crate) fn day(now: jiff::Timestamp) -> String {
    now.strftime("%Y-%m-%d").to_string()
}

/// What a token is to the Secret that it is bound to.
#[derive(Debug, PartialEq, Eq)]
enum Use {
    /// Another than that which stands in it.
    Foreign,
    /// That which stands in it.
    Own,
    Invalid,
}

fn classify(secret: &Value, token: &str) -> Use {
    let stands =
        secret.str_at(&["type"]) == "kubernetes.io/service-account-token" && secret.str_at(&["data", "token"]) == STANDARD.encode(token);
    match () {
        () if !stands => Use::Foreign,
        () if meta::label(secret, INVALID_SINCE).is_some_and(|since| !since.is_empty()) => Use::Invalid,
        () => Use::Own,
    }
}

/// The Secret with the day of its token's use; None where it says it, or that of a server whose day has begun already.
fn used(secret: &Value, now: jiff::Timestamp) -> Option<Value> {
    let tomorrow = now.checked_add(24.hours()).unwrap_or(now);
    let known = meta::label(secret, LAST_USED).unwrap_or_default();
    if [now, tomorrow].into_iter().any(|at| known == day(at)) {
        return None;
    }
    let mut next = secret.clone();
    meta::set_label(&mut next, LAST_USED, &day(now));
    Some(next)
}

impl Tokens {
    /// Notes the use of a token that stands in a Secret. False for one that was marked as invalid.
    pub(super) async fn note_use(&self, verified: &Verified, token: &str) -> Result<bool, Status> {
        let claim = &verified.claims.kubernetes;
        let (namespace, name) = (claim.str_at(&["namespace"]), claim.str_at(&["secret", "name"]));
        let Some(secret) = self.seen_or_found(namespace, name).await? else { return Ok(false) };
        let what = classify(&secret, token);
        if what == Use::Foreign {
            return Ok(true);
        }
        if let Err(status) = self.label(&secret).await {
            tracing::warn!(%status, namespace, name, "the use of a Secret's token could not be noted");
        }
        Ok(what != Use::Invalid)
    }

    /// A Secret as this process has seen it; the store is asked where it has not.
    async fn seen_or_found(&self, namespace: &str, name: &str) -> Result<Option<Value>, Status> {
        let served = self.registry.served("", "v1", "secrets").ok_or_else(Status::no_such_path)?;
        let place = Place { served, namespace: namespace.into(), name: name.into() };
        if let Some(entry) = self.registry.seen()?.get(&self.registry.key_of(&place)) {
            return Ok(Some(self.registry.decode(&place.served, entry)?));
        }
        self.find("secrets", namespace, name).await
    }

    async fn label(&self, secret: &Value) -> Result<(), Status> {
        let now = self.registry.environment.now();
        if used(secret, now).is_none() {
            return Ok(());
        }
        let served = self.registry.served("", "v1", "secrets").ok_or_else(Status::no_such_path)?;
        let place = Place { served, namespace: meta::namespace(secret).into(), name: meta::name(secret).into() };
        let same = |current: &Value| meta::uid(current) == meta::uid(secret);
        let decide = |current: &Value| Ok(used(current, now).filter(|_| same(current)).unwrap_or_else(|| current.clone()));
        let written = self.registry.update(&place, "", &definitions::write(), decide).await;
        definitions::settled(written.map(drop))
    }
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    fn secret(label: &str, value: &str) -> Value {
        let mut secret = object!({ "metadata": { "name": "s", "namespace": "ns" }, "type": "kubernetes.io/service-account-token",
            "data": { "token": (STANDARD.encode("token")) } });
        meta::set_label(&mut secret, label, value);
        secret
    }

    #[test]
    fn only_the_token_that_stands_in_a_secret_is_the_secrets() {
        let (good, invalid) = (secret("a", "b"), secret(INVALID_SINCE, "2026-01-01"));
        for (secret, token, expected) in [
            (&good, "token", Use::Own),
            (&good, "another", Use::Foreign),
            (&invalid, "token", Use::Invalid),
            (&invalid, "another", Use::Foreign),
        ] {
            assert_eq!(classify(secret, token), expected, "{secret:?} {token}");
        }
    }

    #[test]
    fn a_day_is_noted_once_and_another_servers_tomorrow_counts() {
        let now = "2026-02-03T23:59:59Z".parse().unwrap();
        for (known, noted) in [("", true), ("2026-02-02", true), ("2026-02-03", false), ("2026-02-04", false), ("2026-02-05", true)] {
            let noted_on = used(&secret(LAST_USED, known), now);
            assert_eq!(noted_on.as_ref().and_then(|s| meta::label(s, LAST_USED)), noted.then_some("2026-02-03"), "{known}");
        }
    }
}
