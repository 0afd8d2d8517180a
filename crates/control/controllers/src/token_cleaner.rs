//! Deletes bootstrap tokens that have expired.

use std::time::Duration;

use fram_client::resources::SECRETS;
use fram_client::{Action, Controller, DeleteOptions, Informer, Preconditions};
use fram_machinery::meta;

use crate::objects::settled;
use crate::{Context, bootstrap_tokens};

pub(crate) const NAME: &str = "token-cleaner-controller";

/// `tokens` shows the Secrets of bootstrap tokens.
pub(crate) fn start(context: &Context, tokens: &Informer) {
    let client = context.client("token-cleaner");
    let (tokens, now) = (tokens.clone(), context.now.clone());
    let controller = Controller::new("token_cleaner", 1).owns(&tokens);
    context.run(controller, (client, tokens, now), |context, key| async move {
        let (client, tokens, now) = &*context;
        let Some(secret) = tokens.get(&key) else { return Ok(Action::Done) };
        let Some(expires) = bootstrap_tokens::expires(&secret) else { return Ok(Action::Done) };
        let left = Duration::try_from(expires.duration_since(now())).unwrap_or_default();
        if !left.is_zero() {
            return Ok(Action::After(left));
        }
        let preconditions = Preconditions { uid: Some(meta::uid(&secret).into()), resource_version: None };
        let secrets = client.within(&SECRETS, bootstrap_tokens::NAMESPACE);
        settled(secrets.delete(meta::name(&secret), DeleteOptions { preconditions, ..Default::default() }).await)?;
        Ok(Action::Done)
    });
}
