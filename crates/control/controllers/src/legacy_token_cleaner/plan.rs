//! When a token that nobody uses is marked, and when it goes. Pure.

use std::time::Duration;

use fram_machinery::{Value, meta};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};

use crate::pods::created;

const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
pub(super) const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

#[derive(Debug, PartialEq)]
pub(super) enum Step {
    Nothing,
    /// Not before this time has passed.
    After(Duration),
    /// Mark it with this day.
    Invalidate(String),
    Delete,
}

/// Whether a token was made for an account unasked: the account names its Secret.
pub(super) fn is_auto_generated(secret: &Value, account: &Value) -> bool {
    let uid = meta::annotation(secret, ACCOUNT_UID).unwrap_or_default();
    let named = account.list_at(&["secrets"]).iter().any(|s| s.str_at(&["name"]) == meta::name(secret));
    named && (uid.is_empty() || uid == meta::uid(account))
}

/// Whether a pod names a Secret anywhere: as `secretName`, or by the name in a reference that is called after secrets, such as
/// imagePullSecrets, secretKeyRef and nodePublishSecretRef.
pub(super) fn mounts(pod: &Value, secret: &str) -> bool {
    fn names(value: &Value, of_secrets: bool, secret: &str) -> bool {
        if let Some(list) = value.as_list() {
            return list.iter().any(|item| names(item, of_secrets, secret));
        }
        let Some(map) = value.as_map() else { return false };
        map.iter().any(|(key, value)| match &**key {
            "secretName" => value.as_str() == Some(secret),
            "name" => of_secrets && value.as_str() == Some(secret),
            key => names(value, key.contains("ecret"), secret),
        })
    }
    pod.get("spec").is_some_and(|spec| names(spec, false, secret))
}

/// The end of a day, of which labels do not say the hour.
fn after(day: &str) -> Option<Timestamp> {
    let day: Date = day.parse().ok()?;
    Some(day.checked_add(1.day()).ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

/// What is to be done with a token that no pod mounts; uses have been noted since the day `tracked`.
pub(super) fn plan(secret: &Value, tracked: &str, period: Duration, now: Timestamp) -> Step {
    let (Some(tracked), Some(created)) = (after(tracked), created(secret)) else { return Step::Nothing };
    if meta::is_terminating(secret) {
        return Step::Nothing;
    }
    let used = match meta::label(secret, LAST_USED) {
        None => created,
        // What cannot be read says nothing of when it was used.
        Some(day) => match after(day) {
            Some(used) => used,
            None => return Step::Nothing,
        },
    };
    let invalid = meta::label(secret, INVALID_SINCE).and_then(after);
    let since = [Some(tracked), Some(created), Some(used), invalid].into_iter().flatten().max().unwrap_or(now);
    let left = SignedDuration::try_from(period).unwrap_or(SignedDuration::MAX).saturating_sub(now.duration_since(since));
    match Duration::try_from(left) {
        Ok(left) if !left.is_zero() => Step::After(left),
        _ if invalid.is_some() => Step::Delete,
        _ => Step::Invalidate(now.strftime("%Y-%m-%d").to_string()),
    }
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn secret(labels: &[(&str, &str)]) -> Value {
        let mut secret = object!({ "metadata": { "name": "s", "creationTimestamp": "2026-01-01T12:00:00Z" } });
        labels.iter().for_each(|(label, day)| meta::set_label(&mut secret, label, day));
        secret
    }

    #[test]
    fn a_token_is_marked_after_a_period_without_use_and_deleted_after_another() {
        let now = at("2026-03-01T00:00:00Z");
        let mark = Step::Invalidate("2026-03-01".into());
        for (labels, tracked, expected) in [
            (&[][..], "2026-01-01", mark),
            (&[], "2026-02-19", Step::After(DAY)),
            (&[], "soon", Step::Nothing),
            (&[(LAST_USED, "2026-02-20")], "2026-01-01", Step::After(2 * DAY)),
            (&[(LAST_USED, "lately")], "2026-01-01", Step::Nothing),
            (&[(INVALID_SINCE, "2026-02-21")], "2026-01-01", Step::After(3 * DAY)),
            (&[(INVALID_SINCE, "2026-02-18"), (LAST_USED, "2026-02-10")], "2026-01-01", Step::Delete),
            (&[(INVALID_SINCE, "2026-02-18"), (LAST_USED, "2026-02-20")], "2026-01-01", Step::After(2 * DAY)),
            (&[(INVALID_SINCE, "what")], "2026-01-01", Step::Invalidate("2026-03-01".into())),
        ] {
            assert_eq!(plan(&secret(labels), tracked, 10 * DAY, now), expected, "{labels:?} {tracked}");
        }
    }

    #[test]
    fn only_tokens_that_their_accounts_name_were_made_unasked() {
        let mut token = secret(&[]);
        let account = |uid: &str, name: &str| object!({ "metadata": { "uid": uid }, "secrets": [{ "name": name }] });
        assert!(is_auto_generated(&token, &account("u", "s")) && !is_auto_generated(&token, &account("u", "t")));
        meta::set_annotation(&mut token, ACCOUNT_UID, "v");
        assert!(!is_auto_generated(&token, &account("u", "s")));
    }

    #[test]
    fn a_pod_mounts_a_secret_wherever_it_names_it() {
        for spec in [
            object!({ "volumes": [{ "name": "v", "secret": { "secretName": "s" } }] }),
            object!({ "volumes": [{ "name": "v", "projected": { "sources": [{ "secret": { "name": "s" } }] } }] }),
            object!({ "volumes": [{ "name": "v", "csi": { "nodePublishSecretRef": { "name": "s" } } }] }),
            object!({ "imagePullSecrets": [{ "name": "s" }] }),
            object!({ "containers": [{ "env": [{ "name": "A", "valueFrom": { "secretKeyRef": { "name": "s", "key": "k" } } }] }] }),
            object!({ "initContainers": [{ "envFrom": [{ "secretRef": { "name": "s" } }] }] }),
        ] {
            assert!(mounts(&object!({ "spec": (spec.clone()) }), "s"), "{spec:?}");
            assert!(!mounts(&object!({ "spec": (spec.clone()) }), "v"), "{spec:?}");
        }
    }
}
