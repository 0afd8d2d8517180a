//! Every namespace has the ConfigMap `kube-root-ca.crt`, by which pods trust the API server.

use fram_client::resources::{CONFIG_MAPS, NAMESPACES};
use fram_client::{Action, Controller};
use fram_machinery::{Reason, meta, object};

use crate::Context;

const NAME: &str = "kube-root-ca.crt";
const KEY: &str = "ca.crt";

pub(crate) fn start(context: &Context) {
    let (namespaces, maps) = (context.informers.get(&NAMESPACES), context.informers.get(&CONFIG_MAPS));
    let client = context.client("root-ca-cert-publisher");
    let root_ca = context.root_ca.clone();
    let controller = Controller::new("root-ca-certificate-publisher", 4)
        .watches(&namespaces, |n| vec![meta::name(n).to_string()])
        .watches(&maps, |m| if meta::name(m) == NAME { vec![meta::namespace(m).to_string()] } else { Vec::new() });
    context.run(controller, (client, namespaces, maps, root_ca), |context, namespace| async move {
            let (client, namespaces, maps, root_ca) = &*context;
            let active = namespaces.get(&namespace).is_some_and(|n| n.str_at(&["status", "phase"]) == "Active");
            if !active {
                return Ok(Action::Done);
            }
            let here = client.within(&CONFIG_MAPS, &namespace);
            let written = match maps.get_in(&namespace, NAME) {
                Some(map) if map.str_at(&["data", KEY]) == &**root_ca => return Ok(Action::Done),
                Some(map) => {
                    let mut map = (*map).clone();
                    map.set(&["data"], object!({ "ca.crt": (&**root_ca) }));
                    here.update(map).await
                }
                None => {
                    let about = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";
                    here.create(object!({
                        "apiVersion": "v1", "kind": "ConfigMap",
                        "metadata": { "name": NAME, "annotations": { "kubernetes.io/description": about } },
                        "data": { "ca.crt": (&**root_ca) }
                    }))
                    .await
                }
            };
            match written {
                Err(status) if !matches!(status.reason, Reason::AlreadyExists | Reason::Forbidden | Reason::NotFound) => Err(status),
                _ => Ok(Action::Done),
            }
    });
}
