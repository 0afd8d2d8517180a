//! Bootstrap tokens as the controllers of them see them: Secrets in kube-system. Pure but for the informer; what lets a token in
//! is the API server's. See bootstrap's util.

use fram_client::resources::SECRETS;
use fram_client::{Informer, InformerOptions};
use fram_machinery::{Value, meta};
use jiff::Timestamp;

use crate::{Context, bootstrap_signer, token_cleaner};

pub(crate) const NAMESPACE: &str = "kube-system";
const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";

/// Starts both of them over the same Secrets, these alone and not all the others of the cluster.
pub(crate) fn start(context: &Context) {
    let (client, options) = (context.client("bootstrap-signer"), InformerOptions::fields(format!("type={SECRET_TYPE}")));
    let tokens = Informer::start(client, SECRETS, NAMESPACE, options, &context.tasks, context.stop.clone());
    if context.selection.runs(bootstrap_signer::NAME) {
        bootstrap_signer::start(context, &tokens);
    }
    if context.selection.runs(token_cleaner::NAME) {
        token_cleaner::start(context, &tokens);
    }
}

pub(crate) fn field(secret: &Value, name: &str) -> Option<String> {
    let raw = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, secret.str_at(&["data", name])).ok()?;
    String::from_utf8(raw).ok()
}

/// When a token expires: None for never. A time that cannot be read has passed.
pub(crate) fn expires(secret: &Value) -> Option<Timestamp> {
    let text = field(secret, "expiration").filter(|t| !t.is_empty())?;
    Some(text.parse().unwrap_or(Timestamp::MIN))
}

/// Id and secret of a token that may sign; see validateSecretForSigning.
pub(crate) fn signing(secret: &Value, now: Timestamp) -> Option<(String, String)> {
    let id = meta::name(secret).strip_prefix("bootstrap-token-")?;
    let is_id = id.len() == 6 && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let key = field(secret, "token-secret").filter(|key| !key.is_empty())?;
    let may = field(secret, "usage-bootstrap-signing").as_deref() == Some("true");
    let named = is_id && field(secret, "token-id").as_deref() == Some(id);
    let alive = expires(secret).is_none_or(|at| at > now) && !meta::is_terminating(secret);
    (may && named && alive).then(|| (id.to_string(), key))
}

#[cfg(test)]
pub(crate) fn secret(name: &str, fields: &[(&str, &str)]) -> Value {
    let mut secret = fram_machinery::object!({ "metadata": { "namespace": NAMESPACE, "name": name, "uid": name }, "type": SECRET_TYPE });
    for (key, value) in fields {
        let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, value);
        secret.set(&["data", key], encoded);
    }
    secret
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_signs_while_its_secret_says_so() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let good = [("token-id", "abcdef"), ("token-secret", "0123456789abcdef"), ("usage-bootstrap-signing", "true")];
        let with = |change: (&str, &str)| {
            let fields: Vec<_> = good.into_iter().filter(|(key, _)| *key != change.0).chain([change]).collect();
            signing(&secret("bootstrap-token-abcdef", &fields), now)
        };
        assert_eq!(with(("description", "")), Some(("abcdef".into(), "0123456789abcdef".into())));
        assert!(with(("expiration", "2026-01-01T00:00:01Z")).is_some());
        for change in [
            ("token-id", "fedcba"),
            ("token-secret", ""),
            ("usage-bootstrap-signing", "false"),
            ("expiration", "2025-12-31T00:00:00Z"),
            ("expiration", "soon"),
        ] {
            assert_eq!(with(change), None, "{change:?}");
        }
        assert_eq!(signing(&secret("token-abcdef", &good), now), None);
    }
}
