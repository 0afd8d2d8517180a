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

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

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
