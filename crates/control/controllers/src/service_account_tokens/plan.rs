//! What a Secret for a service account's token lacks. Pure; see generateTokenIfNeeded.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fram_machinery::{Value, meta};

pub(super) const TYPE: &str = "kubernetes.io/service-account-token";
pub(crate) const ACCOUNT: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
/// The longest that a token may live, in seconds: 136 years. It ends with its Secret.
pub(super) const LIFETIME: i64 = 1 << 32;

#[derive(Debug, PartialEq)]
pub(super) enum Step {
    Nothing,
    /// Its account is gone.
    Delete,
    /// Write the Secret, with a token where it has none.
    Fill {
        secret: Value,
        wants_token: bool,
    },
}

pub(super) fn set(secret: &mut Value, field: &str, text: &str) {
    secret.set(&["data", field], STANDARD.encode(text));
}

pub(super) fn plan(secret: &Value, account: Option<&Value>, root_ca: &str) -> Step {
    let Some(account) = account else { return Step::Delete };
    let known = meta::annotation(secret, ACCOUNT_UID).unwrap_or_default();
    if !known.is_empty() && known != meta::uid(account) {
        return Step::Delete;
    }
    let mut filled = secret.clone();
    meta::set_annotation(&mut filled, ACCOUNT_UID, meta::uid(account));
    set(&mut filled, "ca.crt", root_ca);
    if filled.str_at(&["data", "namespace"]).is_empty() {
        set(&mut filled, "namespace", meta::namespace(secret));
    }
    let wants_token = secret.str_at(&["data", "token"]).is_empty();
    if filled == *secret && !wants_token { Step::Nothing } else { Step::Fill { secret: filled, wants_token } }
}

/// The account without a Secret among its own; None where it does not name it. See removeSecretReference.
pub(super) fn without(account: &Value, secret: &Value) -> Option<Value> {
    let uid = meta::annotation(secret, ACCOUNT_UID).unwrap_or_default();
    let named = account.list_at(&["secrets"]);
    let others: Vec<Value> = named.iter().filter(|s| s.str_at(&["name"]) != meta::name(secret)).cloned().collect();
    if others.len() == named.len() || !uid.is_empty() && uid != meta::uid(account) {
        return None;
    }
    let mut out = account.clone();
    match others.is_empty() {
        true => drop(out.remove(&["secrets"])),
        false => out.set(&["secrets"], others),
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    #[test]
    fn an_account_does_not_name_a_secret_that_is_gone() {
        let account = object!({ "metadata": { "name": "a", "uid": "u" }, "secrets": [{ "name": "s" }, { "name": "t" }] });
        let secret =
            |name: &str, uid: &str| object!({ "metadata": { "name": name, "annotations": { "kubernetes.io/service-account.uid": uid } } });
        let left = |secret: Value| without(&account, &secret).map(|a| a.list_at(&["secrets"]).to_vec());
        assert_eq!(left(secret("s", "u")), Some(vec![object!({ "name": "t" })]));
        assert_eq!(left(secret("s", "")), Some(vec![object!({ "name": "t" })]));
        assert_eq!(left(secret("s", "v")), None, "it was of an account of that name before");
        assert_eq!(left(secret("x", "u")), None);
    }

    #[test]
    fn a_secret_is_filled_once_and_goes_with_its_account() {
        let account = object!({ "metadata": { "name": "a", "uid": "u" } });
        let empty =
            object!({ "metadata": { "namespace": "ns", "name": "s", "annotations": { "kubernetes.io/service-account.name": "a" } } });
        let Step::Fill { mut secret, wants_token: true } = plan(&empty, Some(&account), "ca") else { panic!("not filled") };
        assert_eq!(meta::annotation(&secret, ACCOUNT_UID), Some("u"));
        assert_eq!((secret.str_at(&["data", "ca.crt"]), secret.str_at(&["data", "namespace"])), ("Y2E=", "bnM="));
        set(&mut secret, "token", "t");
        assert_eq!(plan(&secret, Some(&account), "ca"), Step::Nothing);
        assert!(matches!(plan(&secret, Some(&account), "another"), Step::Fill { wants_token: false, .. }));
        let successor = object!({ "metadata": { "name": "a", "uid": "v" } });
        assert_eq!(plan(&secret, Some(&successor), "ca"), Step::Delete);
        assert_eq!(plan(&empty, None, "ca"), Step::Delete);
    }
}
