//! Service accounts before credential providers (KEP-4412): for whom an image is pulled is told to a provider that asks for it, by a token
//! for an audience of its own. Pure but for the questions to the API server.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use fram_client::Client;
use fram_client::resources::SERVICE_ACCOUNTS;
use fram_machinery::{Status, Value, json, meta, object};

use super::super::access::PullAccount;
use super::super::keyring::sha256;
use crate::clock::Clock;
use crate::volumes::token::Tokens;

/// What a configuration says of it; upstream's ServiceAccountTokenAttributes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TokenAttributes {
    audience: String,
    /// What a provider gives counts for one token only, not for all of an account.
    by_token: bool,
    /// Pods without an account, as those from files, get nothing.
    pub(super) requires_account: bool,
    required: Vec<String>,
    optional: Vec<String>,
}

/// The pod for which an image is pulled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PodIdentity {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    /// Empty where it has none.
    pub(crate) account: String,
}

/// Who tells of accounts.
#[async_trait]
pub(crate) trait Accounts: Send + Sync {
    async fn get(&self, namespace: &str, name: &str) -> Result<Value, Status>;
    /// A token of the pod's account, bound to the pod.
    async fn token(&self, pod: &PodIdentity, account_uid: &str, audience: &str) -> Result<String, Status>;
}

/// Those of the API server. Tokens are the node's, and kept as long as those of volumes are.
pub(crate) struct ApiAccounts {
    pub(crate) client: Client,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) clock: Arc<dyn Clock>,
}

#[async_trait]
impl Accounts for ApiAccounts {
    async fn get(&self, namespace: &str, name: &str) -> Result<Value, Status> {
        self.client.within(&SERVICE_ACCOUNTS, namespace).get(name).await.map(|account| (*account).clone())
    }

    async fn token(&self, pod: &PodIdentity, account_uid: &str, audience: &str) -> Result<String, Status> {
        let PodIdentity { namespace, name, uid, account } = pod;
        let pod = object!({
            "metadata": { "namespace": (namespace.as_str()), "name": (name.as_str()), "uid": (uid.as_str()) },
            "spec": { "serviceAccountName": (account.as_str()) }
        });
        let (token, _) = self.tokens.of_account(&pod, account_uid, &object!({ "audience": audience }), self.clock.now()).await?;
        Ok(token)
    }
}

/// What is told of an account.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Told {
    pub(super) account: PullAccount,
    pub(super) token: String,
    pub(super) annotations: BTreeMap<String, String>,
    by_token: bool,
}

impl Told {
    /// For whom an answer may be kept.
    pub(super) fn cache_key(&self) -> String {
        let PullAccount { uid, namespace, name } = &self.account;
        let mut words: Vec<Value> = [namespace, name, uid].map(|word| word.as_str().into()).to_vec();
        words.extend(self.annotations.iter().flat_map(|(key, value)| [key.as_str().into(), value.as_str().into()]));
        if self.by_token {
            words.push(self.token.as_str().into());
        }
        sha256(&json::to_vec(&Value::from(words)))
    }

    /// A token may be the password only where nobody else gets it.
    pub(super) fn is_echoed(&self, auths: &Value) -> bool {
        let passwords = auths.as_map().into_iter().flat_map(|map| map.iter()).map(|(_, auth)| auth.str_at(&["password"]));
        !self.by_token && passwords.into_iter().any(|password| password == self.token)
    }
}

impl TokenAttributes {
    pub(super) fn read(provider: &str, document: &Value) -> Result<Self, String> {
        let wrong = |why: &str| format!("provider {provider}: tokenAttributes.{why}");
        let texts = |key: &str| -> Vec<String> { document.list_at(&[key]).iter().filter_map(Value::as_str).map(String::from).collect() };
        const REQUIRED: &str = "requiredServiceAccountAnnotationKeys";
        const OPTIONAL: &str = "optionalServiceAccountAnnotationKeys";
        let known = ["serviceAccountTokenAudience", "cacheType", "requireServiceAccount", REQUIRED, OPTIONAL];
        if let Some(unknown) = document.as_map().into_iter().flat_map(|m| m.keys()).find(|k| !known.contains(&k.as_str())) {
            return Err(format!("strict decoding error: unknown field \"providers.tokenAttributes.{unknown}\""));
        }
        let audience = document.str_at(&["serviceAccountTokenAudience"]).to_string();
        if audience.is_empty() {
            return Err(wrong("serviceAccountTokenAudience is required"));
        }
        let by_token = match document.str_at(&["cacheType"]) {
            "Token" => true,
            "ServiceAccount" => false,
            "" => return Err(wrong("cacheType is required. Supported values are: ServiceAccount, Token")),
            other => return Err(wrong(&format!("cacheType {other:?} is not supported: ServiceAccount and Token are"))),
        };
        let requires_account = document.bool_at(&["requireServiceAccount"]).ok_or_else(|| wrong("requireServiceAccount is required"))?;
        let (required, optional) = (texts(REQUIRED), texts(OPTIONAL));
        if !requires_account && !required.is_empty() {
            return Err(wrong(&format!("requireServiceAccount cannot be false when {REQUIRED} is set")));
        }
        let mut seen = std::collections::BTreeSet::new();
        if let Some(twice) = required.iter().chain(&optional).find(|key| !seen.insert(key.as_str())) {
            return Err(wrong(&format!("annotation key {twice:?} is named twice")));
        }
        Ok(Self { audience, by_token, requires_account, required, optional })
    }

    /// What to tell of a pod's account; None where it lacks an annotation by which accounts opt in.
    pub(super) async fn tell(&self, pod: &PodIdentity, accounts: &dyn Accounts) -> Result<Option<Told>, Status> {
        let account = accounts.get(&pod.namespace, &pod.account).await?;
        let of = |key: &String| meta::annotation(&account, key).map(|value| (key.clone(), value.to_string()));
        if self.required.iter().any(|key| of(key).is_none()) {
            return Ok(None);
        }
        let annotations = self.required.iter().chain(&self.optional).filter_map(of).collect();
        let uid = meta::uid(&account).to_string();
        let token = accounts.token(pod, &uid, &self.audience).await?;
        let account = PullAccount { uid, namespace: pod.namespace.clone(), name: pod.account.clone() };
        Ok(Some(Told { account, token, annotations, by_token: self.by_token }))
    }
}
