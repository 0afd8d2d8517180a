//! Every namespace has the ConfigMap `kube-root-ca.crt`, by which pods trust the API server.

use fram_client::resources::{CONFIG_MAPS, NAMESPACES};
use fram_client::{Action, Controller};
use fram_machinery::{Reason, Value, meta, object};

use crate::Context;

const NAME: &str = "kube-root-ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";
const ABOUT: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

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
            Some(map) => match repaired(&map, root_ca) {
                Some(map) => here.update(map).await,
                None => return Ok(Action::Done),
            },
            None => {
                here.create(object!({
                    "apiVersion": "v1", "kind": "ConfigMap",
                    "metadata": { "name": NAME, "annotations": { "kubernetes.io/description": ABOUT } },
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

/// The ConfigMap as it should be; None where it is. It has nothing else in it, and is described if only by somebody else.
fn repaired(map: &Value, root_ca: &str) -> Option<Value> {
    let mut out = map.clone();
    out.set(&["data"], object!({ "ca.crt": root_ca }));
    if meta::annotation(map, DESCRIPTION).unwrap_or_default().is_empty() {
        meta::set_annotation(&mut out, DESCRIPTION, ABOUT);
    }
    (out != *map).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_has_the_authority_and_nothing_else_and_is_described() {
        let map = |data: Value, about: &str| {
            let mut map = object!({ "metadata": { "name": NAME }, "data": data });
            if !about.is_empty() {
                meta::set_annotation(&mut map, DESCRIPTION, about);
            }
            map
        };
        let right = map(object!({ "ca.crt": "ca" }), ABOUT);
        assert_eq!(repaired(&right, "ca"), None);
        assert_eq!(repaired(&map(object!({ "ca.crt": "ca" }), "mine"), "ca"), None);
        for wrong in [
            map(object!({ "ca.crt": "old" }), ABOUT),
            map(object!({ "ca.crt": "ca", "more": "x" }), ABOUT),
            map(object!({}), ABOUT),
            map(object!({ "ca.crt": "ca" }), ""),
        ] {
            assert_eq!(repaired(&wrong, "ca").as_ref(), Some(&right), "{wrong:?}");
        }
    }
}
