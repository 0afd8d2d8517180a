//! Service account tokens bound to a pod: asked for by TokenRequest and renewed well before they expire. See upstream's
//! pkg/kubelet/token.

use std::collections::HashMap;
use std::time::Duration;

use fram_client::{Client, resources::SERVICE_ACCOUNTS};
use fram_machinery::{Status, Value, meta, object};
use jiff::Timestamp;
use parking_lot::Mutex;

use crate::clock;

const LONGEST: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Clone)]
struct Token {
    text: String,
    renew_at: Timestamp,
}

/// The tokens of all pods of the node.
pub(crate) struct Tokens {
    client: Client,
    known: Mutex<HashMap<String, Token>>,
}

impl Tokens {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, known: Mutex::default() }
    }

    /// A token for one source of a projected volume, and when it is to be renewed.
    pub(crate) async fn get(&self, pod: &Value, source: &Value, now: Timestamp) -> Result<(String, Timestamp), Status> {
        self.of_account(pod, "", source, now).await
    }

    /// The same, of the account with this uid, and of no successor by the same name. Empty is whichever has the name.
    pub(crate) async fn of_account(
        &self,
        pod: &Value,
        account_uid: &str,
        source: &Value,
        now: Timestamp,
    ) -> Result<(String, Timestamp), Status> {
        let (uid, account) = (meta::uid(pod), super::service_account(pod));
        let seconds = source.int_at(&["expirationSeconds"]).unwrap_or(3600);
        let key = format!("{uid}/{account}/{account_uid}/{}/{seconds}", source.str_at(&["audience"]));
        let known = self.known.lock().get(&key).filter(|t| now < t.renew_at).cloned();
        if let Some(token) = known {
            return Ok((token.text, token.renew_at));
        }
        let token = self.request(pod, account_uid, source.str_at(&["audience"]), seconds, now).await?;
        self.known.lock().insert(key, token.clone());
        Ok((token.text, token.renew_at))
    }

    async fn request(&self, pod: &Value, account_uid: &str, audience: &str, seconds: i64, now: Timestamp) -> Result<Token, Status> {
        let bound = object!({ "apiVersion": "v1", "kind": "Pod", "name": (meta::name(pod)), "uid": (meta::uid(pod)) });
        let mut request = object!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "metadata": {},
            "spec": { "expirationSeconds": seconds, "boundObjectRef": bound }
        });
        if !audience.is_empty() {
            request.set(&["spec", "audiences"], object!([audience]));
        }
        if !account_uid.is_empty() {
            request.set(&["metadata", "uid"], account_uid);
        }
        let accounts = self.client.within(&SERVICE_ACCOUNTS, meta::namespace(pod));
        let answer = accounts.create_subresource(super::service_account(pod), "token", request).await?;
        let expires = clock::parse(answer.str_at(&["status", "expirationTimestamp"]));
        let granted = answer.int_at(&["spec", "expirationSeconds"]).unwrap_or(seconds);
        Ok(Token { text: answer.str_at(&["status", "token"]).to_string(), renew_at: renewal(now, expires, granted) })
    }

    pub(crate) fn forget(&self, uid: &str) {
        let prefix = format!("{uid}/");
        self.known.lock().retain(|key, _| !key.starts_with(&prefix));
    }
}

/// After four fifths of its life, or a day: see token_manager's requiresRefresh.
fn renewal(now: Timestamp, expires: Option<Timestamp>, seconds: i64) -> Timestamp {
    let life = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    let end = expires.unwrap_or(now + life);
    (end - life.mul_f64(0.2)).min(now + LONGEST)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fram_client::{Call, ListOptions, Reply, Resource, Transport, Verb, WatchStream};

    use super::*;
    use crate::images::provider::{Accounts, ApiAccounts, PodIdentity};

    #[test]
    fn a_token_is_renewed_after_four_fifths_of_its_life_or_a_day() {
        let at = |s| Timestamp::from_second(s).unwrap();
        assert_eq!(renewal(at(0), Some(at(3600)), 3600), at(2880));
        assert_eq!(renewal(at(0), Some(at(1_000_000)), 1_000_000), at(86_400));
    }
    /// Gives each token a number.
    #[derive(Default)]
    struct Api(Mutex<Vec<Value>>);

    #[async_trait::async_trait]
    impl Transport for Api {
        async fn call(&self, call: Call) -> Result<Reply, Status> {
            let Verb::Create { object, .. } = call.verb else { return Err(Status::internal("only tokens are asked for")) };
            let mut asked = self.0.lock();
            asked.push(object);
            Ok(Reply::Object(Arc::new(object!({ "status": { "token": (format!("token-{}", asked.len())) } }))))
        }

        async fn watch(&self, _: &Resource, _: &str, _: ListOptions) -> Result<WatchStream, Status> {
            Ok(Box::pin(futures_util::stream::pending()))
        }
    }

    #[tokio::test]
    async fn a_token_for_a_registry_is_kept_like_that_of_a_volume_and_is_for_one_account_only() {
        let api = Arc::new(Api::default());
        let client = Client::new(api.clone(), "test");
        let tokens = Arc::new(Tokens::new(client.clone()));
        let accounts = ApiAccounts { client, tokens: tokens.clone(), clock: Arc::new(clock::SystemClock) };
        let pod = PodIdentity { namespace: "ns".into(), name: "p".into(), uid: "u".into(), account: "a".into() };
        for (uid, audience, expect) in [("1", "reg", "token-1"), ("1", "reg", "token-1"), ("2", "reg", "token-2"), ("1", "x", "token-3")] {
            assert_eq!(accounts.token(&pod, uid, audience).await.unwrap(), expect, "{uid} {audience}");
        }
        let asked = api.0.lock()[1].clone();
        assert_eq!((asked.str_at(&["metadata", "uid"]), asked.list_at(&["spec", "audiences"])), ("2", &[Value::from("reg")][..]));
        tokens.forget("u");
        assert_eq!(accounts.token(&pod, "1", "reg").await.unwrap(), "token-4");
    }
}
