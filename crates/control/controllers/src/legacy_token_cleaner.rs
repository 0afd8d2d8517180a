//! Tokens in Secrets that accounts were given unasked, in former times, and that nobody uses: they are marked as invalid, and deleted
//! later. See upstream's legacy-serviceaccount-token-cleaner-controller.

mod plan;

use std::time::Duration;

use fram_client::resources::{CONFIG_MAPS, PODS, SECRETS, SERVICE_ACCOUNTS};
use fram_client::{Action, Client, Controller, DeleteOptions, Informer, PatchKind, Preconditions};
use fram_machinery::{Status, Value, meta, object};

use crate::objects::settled;
use crate::service_account_tokens::ACCOUNT;
use crate::{Clock, Context};
use plan::Step;

const TRACKING: (&str, &str) = ("kube-system", "kube-apiserver-legacy-service-account-token-tracking");

pub(crate) const NAME: &str = "legacy-serviceaccount-token-cleaner-controller";

/// Works on the Secrets that `secrets` shows, which are tokens of service accounts.
pub(crate) fn start(context: &Context, secrets: &Informer) {
    let get = |resource| context.informers.get(resource);
    let cleaner = Cleaner {
        client: context.client("legacy-service-account-token-cleaner"),
        secrets: secrets.clone(),
        accounts: get(&SERVICE_ACCOUNTS),
        pods: get(&PODS),
        period: context.legacy_token_clean_up_period,
        now: context.now.clone(),
    };
    let (of_account, pods) = (secrets.clone(), cleaner.pods.clone());
    let of_pod = secrets.clone();
    let controller = Controller::new("legacy-service-account-token-cleaner", 1)
        .owns(secrets)
        .watches(&cleaner.accounts, move |account| {
            let tokens = of_account.by_namespace(meta::namespace(account));
            tokens.iter().filter(|s| meta::annotation(s, ACCOUNT) == Some(meta::name(account))).map(|s| meta::key(s)).collect()
        })
        // A pod that goes may have been the last to name one.
        .watches_deltas(&pods, move |delta| match (&delta.old, &delta.new) {
            (Some(pod), None) => {
                let tokens = of_pod.by_namespace(meta::namespace(pod));
                tokens.iter().filter(|s| plan::mounts(pod, meta::name(s))).map(|s| meta::key(s)).collect()
            }
            _ => Vec::new(),
        });
    context.run(controller, cleaner, |c, key| async move { c.reconcile(&key).await });
}

struct Cleaner {
    client: Client,
    secrets: Informer,
    accounts: Informer,
    pods: Informer,
    period: Duration,
    now: Clock,
}

impl Cleaner {
    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let Some(secret) = self.secrets.get(key) else { return Ok(Action::Done) };
        let name = meta::annotation(&secret, ACCOUNT).unwrap_or_default();
        let Some(account) = self.accounts.get(&format!("{}/{name}", meta::namespace(&secret))) else { return Ok(Action::Done) };
        if !plan::is_auto_generated(&secret, &account) || self.is_mounted(&secret) {
            return Ok(Action::Done);
        }
        // Asked of the server, as upstream's: few such Secrets are left anywhere.
        let Some(tracking) = self.client.within(&CONFIG_MAPS, TRACKING.0).find(TRACKING.1).await? else { return Ok(Action::Done) };
        let secrets = self.client.within(&SECRETS, meta::namespace(&secret));
        match plan::plan(&secret, tracking.str_at(&["data", "since"]), self.period, (self.now)()) {
            Step::Nothing => {}
            Step::After(left) => return Ok(Action::After(left)),
            Step::Invalidate(day) => {
                let mut body = object!({ "metadata": { "uid": (meta::uid(&secret)), "labels": {} } });
                meta::set_label(&mut body, plan::INVALID_SINCE, &day);
                let patched = secrets.patch(meta::name(&secret), "", PatchKind::Merge, body).await;
                settled(patched.map(drop))?;
            }
            Step::Delete => {
                let preconditions = Preconditions { uid: None, resource_version: Some(meta::resource_version(&secret).into()) };
                settled(secrets.delete(meta::name(&secret), DeleteOptions { preconditions, ..Default::default() }).await)?;
            }
        }
        Ok(Action::Done)
    }

    fn is_mounted(&self, secret: &Value) -> bool {
        self.pods.by_namespace(meta::namespace(secret)).iter().any(|pod| plan::mounts(pod, meta::name(secret)))
    }
}
