//! Signs the ConfigMap kube-public/cluster-info with each bootstrap token, so that who has one can tell that it is the cluster's;
//! `kubeadm join` does.

mod plan;

use fram_client::resources::CONFIG_MAPS;
use fram_client::{Action, Controller, Informer};
use fram_machinery::{Value, meta};

use crate::objects::unless_it_changed;
use crate::{Context, bootstrap_tokens};

const KEY: &str = "kube-public/cluster-info";

pub(crate) const NAME: &str = "bootstrap-signer-controller";

/// `tokens` shows the Secrets of bootstrap tokens.
pub(crate) fn start(context: &Context, tokens: &Informer) {
    let client = context.client("bootstrap-signer");
    let (maps, tokens) = (context.informers.get(&CONFIG_MAPS), tokens.clone());
    let now = context.now.clone();
    let controller = Controller::new("bootstrap_signer_queue", 1)
        .watches(&maps, |map: &Value| if meta::key(map) == KEY { vec![KEY.into()] } else { Vec::new() })
        .watches(&tokens, |_| vec![KEY.into()]);
    context.run(controller, (client, maps, tokens, now), |context, key| async move {
        let (client, maps, tokens, now) = &*context;
        let Some(map) = maps.get(&key) else { return Ok(Action::Done) };
        // A token that expires is deleted, which is heard of.
        let signing = tokens.list().iter().filter_map(|secret| bootstrap_tokens::signing(secret, now())).collect();
        let Some(signed) = plan::signed(&map, &signing) else { return Ok(Action::Done) };
        unless_it_changed(client.within(&CONFIG_MAPS, meta::namespace(&map)).update(signed).await)?;
        Ok(Action::Done)
    });
}
