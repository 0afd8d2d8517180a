//! Every namespace has the service account `default`.

use fram_client::resources::{NAMESPACES, SERVICE_ACCOUNTS};
use fram_client::{Action, Controller};
use fram_machinery::{Reason, meta, object};

use crate::Context;

const NAME: &str = "default";

pub(crate) fn start(context: &Context) {
    let (namespaces, accounts) = (context.informers.get(&NAMESPACES), context.informers.get(&SERVICE_ACCOUNTS));
    let client = context.client("service-account-controller");
    let controller = Controller::new("serviceaccount", 4)
        .watches(&namespaces, |n| vec![meta::name(n).to_string()])
        .watches(&accounts, |a| if meta::name(a) == NAME { vec![meta::namespace(a).to_string()] } else { Vec::new() });
    context.run(controller, (client, namespaces, accounts), |context, namespace| async move {
        let (client, namespaces, accounts) = &*context;
        let active = namespaces.get(&namespace).is_some_and(|n| n.str_at(&["status", "phase"]) == "Active");
        if !active || accounts.get_in(&namespace, NAME).is_some() {
            return Ok(Action::Done);
        }
        let account = object!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": NAME } });
        match client.within(&SERVICE_ACCOUNTS, &namespace).create(account).await {
            Err(status) if !matches!(status.reason, Reason::AlreadyExists | Reason::Forbidden | Reason::NotFound) => Err(status),
            _ => Ok(Action::Done),
        }
    });
}
