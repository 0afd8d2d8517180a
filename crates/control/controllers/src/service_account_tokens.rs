//! Secrets of type kubernetes.io/service-account-token: each gets a token of its service account, and goes with it. The token is
//! bound to the Secret and outlives everybody, where upstream's has no end; see serviceaccount/tokens_controller.

mod plan;

use fram_client::resources::{SECRETS, SERVICE_ACCOUNTS};
use fram_client::{Action, Client, Controller, DeleteOptions, Informer, InformerOptions, Preconditions};
use fram_machinery::{Status, Value, meta, object};

use crate::objects::{settled, unless_it_changed};
use crate::{Context, legacy_token_cleaner};
pub(crate) use plan::ACCOUNT;
use plan::{Step, plan};

pub(crate) const NAME: &str = "serviceaccount-token-controller";

/// Starts the one that fills Secrets with tokens, and the one that cleans up after it, over the same Secrets.
pub(crate) fn start(context: &Context) {
    // As upstream's, it acts as the manager itself.
    let client = context.manager.clone();
    let options = InformerOptions::fields(format!("type={}", plan::TYPE));
    let secrets = Informer::start(client.clone(), SECRETS, "", options, &context.tasks, context.stop.clone());
    if context.selection.runs(legacy_token_cleaner::NAME) {
        legacy_token_cleaner::start(context, &secrets);
    }
    if !context.selection.runs(NAME) {
        return;
    }
    let accounts = context.informers.get(&SERVICE_ACCOUNTS);
    let of_account = secrets.clone();
    let known = accounts.clone();
    let controller = Controller::new("serviceaccount_tokens_secret", 2).owns(&secrets);
    // Keys with an account are those of Secrets that are gone, and that it still names.
    let controller = controller.watches_deltas(&secrets, move |delta| {
        let Some(secret) = delta.old.as_deref().filter(|_| delta.new.is_none()) else { return Vec::new() };
        let name = meta::annotation(secret, plan::ACCOUNT).unwrap_or_default();
        let account = known.get_in(meta::namespace(secret), name).filter(|a| plan::without(a, secret).is_some());
        account.map(|_| format!("{}/{name}", delta.key())).into_iter().collect()
    });
    let controller = controller.watches_deltas(&accounts, move |delta| {
        let gone = delta.new.as_deref().map(meta::uid) != delta.old.as_deref().map(meta::uid);
        if !gone {
            return Vec::new();
        }
        let name = Some(meta::name(delta.object()));
        let secrets = of_account.by_namespace(meta::namespace(delta.object()));
        secrets.iter().filter(|s| meta::annotation(s, plan::ACCOUNT) == name).map(|s| meta::key(s)).collect()
    });
    let tokens = Tokens { client, secrets, root_ca: context.root_ca.clone() };
    context.run(controller, tokens, |t, key| async move { t.reconcile(&key).await });
}

struct Tokens {
    client: Client,
    secrets: Informer,
    root_ca: std::sync::Arc<str>,
}

impl Tokens {
    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        if let [namespace, secret, account] = key.split('/').collect::<Vec<_>>()[..] {
            return self.forget(namespace, secret, account).await;
        }
        let Some(secret) = self.secrets.get(key).filter(|s| !meta::is_terminating(s)) else { return Ok(Action::Done) };
        let namespace = meta::namespace(&secret);
        // The account may have been made a moment ago.
        let name = meta::annotation(&secret, plan::ACCOUNT).unwrap_or_default();
        let account = self.client.within(&SERVICE_ACCOUNTS, namespace).find(name).await?;
        let here = self.client.within(&SECRETS, namespace);
        match plan(&secret, account.as_deref(), &self.root_ca) {
            Step::Nothing => {}
            Step::Delete => {
                let preconditions =
                    Preconditions { uid: Some(meta::uid(&secret).into()), resource_version: Some(meta::resource_version(&secret).into()) };
                let deleted = here.delete(meta::name(&secret), DeleteOptions { preconditions, ..Default::default() }).await;
                unless_it_changed(deleted)?;
            }
            Step::Fill { mut secret, wants_token } => {
                if wants_token {
                    let token = self.token(&secret, name).await?;
                    plan::set(&mut secret, "token", &token);
                }
                unless_it_changed(here.update(secret).await)?;
            }
        }
        Ok(Action::Done)
    }

    /// An account names no Secret that is gone.
    async fn forget(&self, namespace: &str, secret: &str, account: &str) -> Result<Action, Status> {
        if self.secrets.get_in(namespace, secret).is_some() {
            return Ok(Action::Done);
        }
        let accounts = self.client.within(&SERVICE_ACCOUNTS, namespace);
        let gone = object!({ "metadata": { "name": secret } });
        if let Some(changed) = accounts.find(account).await?.and_then(|account| plan::without(&account, &gone)) {
            settled(accounts.update(changed).await.map(drop))?;
        }
        Ok(Action::Done)
    }

    async fn token(&self, secret: &Value, account: &str) -> Result<String, Status> {
        let bound = object!({ "apiVersion": "v1", "kind": "Secret", "name": (meta::name(secret)), "uid": (meta::uid(secret)) });
        let request = object!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": { "audiences": [], "expirationSeconds": (plan::LIFETIME), "boundObjectRef": bound } });
        let accounts = self.client.within(&SERVICE_ACCOUNTS, meta::namespace(secret));
        let answer = accounts.create_subresource(account, "token", request).await?;
        Ok(answer.str_at(&["status", "token"]).to_string())
    }
}
