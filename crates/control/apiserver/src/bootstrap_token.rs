//! Bootstrap tokens: who may ask for a node's first certificate. Each is a Secret of type bootstrap.kubernetes.io/token in
//! kube-system; see upstream's plugin/pkg/auth/authenticator/token/bootstrap. What decides is pure.

use fram_machinery::{Status, Value, meta, object};

use crate::registry::{Place, Registry};
use crate::user::{AUTHENTICATED, User};

pub const NAMESPACE: &str = "kube-system";
pub const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
/// The group that kubeadm's bindings know, and that made tokens carry.
pub const NODE_GROUP: &str = "system:bootstrappers:kubeadm:default-node-token";
const GROUP: &str = "system:bootstrappers";

/// A token's parts: `ID.SECRET`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootstrapToken {
    pub id: String,
    pub secret: String,
}

impl BootstrapToken {
    /// None where the text has not the form `[a-z0-9]{6}.[a-z0-9]{16}`.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.split_once('.')?;
        let plain = |t: &str| t.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        (id.len() == 6 && secret.len() == 16 && plain(id) && plain(secret)).then(|| Self { id: id.into(), secret: secret.into() })
    }

    /// A token of 30 random bits and 80, out of random numbers.
    pub fn generate(random: impl Fn() -> u64) -> Self {
        const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
        // The remainder of 64 random bits by 36 favours no letter that anyone could measure.
        let text = |length| (0..length).map(|_| char::from(LETTERS[(random() % 36) as usize])).collect();
        Self { id: text(6), secret: text(16) }
    }

    pub fn secret_name(&self) -> String {
        format!("bootstrap-token-{}", self.id)
    }

    /// The Secret that lets this token in until `expiration`.
    pub fn to_secret(&self, expiration: jiff::Timestamp) -> Value {
        object!({ "apiVersion": "v1", "kind": "Secret", "type": SECRET_TYPE,
            "metadata": { "name": (self.secret_name()), "namespace": NAMESPACE },
            "stringData": {
                "token-id": (self.id.as_str()), "token-secret": (self.secret.as_str()),
                "expiration": (fram_machinery::normalize::format_time(expiration, 0)),
                "usage-bootstrap-authentication": "true", "usage-bootstrap-signing": "true", "auth-extra-groups": NODE_GROUP,
                "description": "Lets nodes join the cluster." } })
    }

    /// The usable token that a Secret holds.
    pub fn from_secret(secret: &Value, now: jiff::Timestamp) -> Option<Self> {
        let token = Self { id: field(secret, "token-id")?, secret: field(secret, "token-secret")? };
        usable(secret, &token.id, now).then_some(token)
    }
}

fn field(secret: &Value, name: &str) -> Option<String> {
    let raw = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, secret.str_at(&["data", name])).ok()?;
    String::from_utf8(raw).ok()
}

fn usable(secret: &Value, id: &str, now: jiff::Timestamp) -> bool {
    let expires = field(secret, "expiration").filter(|t| !t.is_empty());
    // A time that cannot be read is a time that has passed, as upstream has it.
    let alive = expires.is_none_or(|text| text.parse::<jiff::Timestamp>().is_ok_and(|at| at > now));
    secret.str_at(&["type"]) == SECRET_TYPE
        && !meta::is_terminating(secret)
        && field(secret, "token-id").as_deref() == Some(id)
        && field(secret, "usage-bootstrap-authentication").as_deref() == Some("true")
        && alive
}

/// The user of a token, as its Secret says.
fn user(secret: &Value, token: &BootstrapToken, now: jiff::Timestamp) -> Option<User> {
    let expected = field(secret, "token-secret")?;
    // How long the comparison takes must not tell how much of a guess was right.
    let same = ring::digest::digest(&ring::digest::SHA256, expected.as_bytes()).as_ref()
        == ring::digest::digest(&ring::digest::SHA256, token.secret.as_bytes()).as_ref();
    if !same || expected.is_empty() || !usable(secret, &token.id, now) {
        return None;
    }
    let mut groups = vec![GROUP.to_string()];
    let extra = field(secret, "auth-extra-groups").unwrap_or_default();
    for group in extra.split(',').map(str::trim).filter(|g| !g.is_empty()) {
        // Only groups of bootstrappers may be given; any other makes the token void.
        group.strip_prefix("system:bootstrappers:")?;
        groups.push(group.into());
    }
    groups.push(AUTHENTICATED.into());
    Some(User { name: format!("system:bootstrap:{}", token.id), groups, ..Default::default() })
}

/// The user of a bearer token; None where it is no bootstrap token that is good now.
pub(crate) async fn authenticate(registry: &Registry, token: &BootstrapToken) -> Result<Option<User>, Status> {
    let served = registry.served("", "v1", "secrets").ok_or_else(Status::no_such_path)?;
    let place = Place { served, namespace: NAMESPACE.into(), name: token.secret_name() };
    match registry.get_object(&place).await {
        Ok(secret) => Ok(user(&secret, token, registry.environment().now())),
        Err(status) if status.is(fram_machinery::Reason::NotFound) => Ok(None),
        Err(status) => Err(status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> jiff::Timestamp {
        text.parse().unwrap()
    }

    fn secret(change: &[(&str, &str)]) -> Value {
        let token = BootstrapToken { id: "abcdef".into(), secret: "0123456789abcdef".into() };
        let mut made = token.to_secret(at("2030-01-01T00:00:00Z"));
        let fields = made.remove(&["stringData"]).unwrap();
        let encode = |text: &str| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text);
        for (key, value) in fields.as_map().unwrap().iter() {
            made.set(&["data", key.as_str()], encode(value.as_str().unwrap()));
        }
        for (key, value) in change {
            made.set(&["data", key], encode(value));
        }
        made
    }

    #[test]
    fn a_token_is_six_characters_a_dot_and_sixteen() {
        assert!(BootstrapToken::parse("abcdef.0123456789abcdef").is_some());
        for bad in ["abcdef.0123456789abcde", "ABCDEF.0123456789abcdef", "abcdef0123456789abcdef", "abcde/.0123456789abcdef", ""] {
            assert!(BootstrapToken::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_token_is_good_while_its_secret_says_so() {
        let token = BootstrapToken::parse("abcdef.0123456789abcdef").unwrap();
        let now = at("2029-01-01T00:00:00Z");
        let good = user(&secret(&[]), &token, now).unwrap();
        assert_eq!(good.name, "system:bootstrap:abcdef");
        assert_eq!(good.groups, ["system:bootstrappers", NODE_GROUP, "system:authenticated"]);
        for change in [
            ("token-secret", "0123456789abcdeg"),
            ("token-secret", ""),
            ("token-id", "fedcba"),
            ("usage-bootstrap-authentication", "false"),
            ("expiration", "2028-01-01T00:00:00Z"),
            ("expiration", "soon"),
            ("auth-extra-groups", "system:masters"),
        ] {
            assert_eq!(user(&secret(&[change]), &token, now), None, "{change:?}");
        }
    }
}
