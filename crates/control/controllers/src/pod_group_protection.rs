//! PodGroups that a pod uses do not go away, where that kind is served: a finalizer holds them. See upstream's
//! pkg/controller/scheduling/podgroupprotection.

use std::sync::Arc;

use fram_client::resources::{POD_GROUPS, PODS};
use fram_client::{Action, Controller};
use fram_machinery::{Value, meta};

use crate::volume_protection::{is_held, protect};
use crate::{Context, pods};

const FINALIZER: &str = "scheduling.k8s.io/podgroup-protection";

pub(crate) fn start(context: &Context) {
    if context.served(&POD_GROUPS.group, &POD_GROUPS.plural).is_none() {
        return;
    }
    let (groups, all) = (context.informers.get(&POD_GROUPS), context.informers.get(&PODS));
    let client = context.client("podgroup-protection-controller");
    let controller = Controller::new("podgroup-protection", 2).owns(&groups).watches_deltas(&all, |delta| {
        // Only a pod that comes to its end can set a group free.
        let ends = delta.new.as_deref().is_none_or(pods::has_ended) && !group(delta.object()).is_empty();
        if ends { vec![format!("{}/{}", meta::namespace(delta.object()), group(delta.object()))] } else { Vec::new() }
    });
    context.run(controller, (client, groups, all), |context, key| async move {
        let (client, groups, all) = &*context;
        let Some(object) = groups.get(&key) else { return Ok(Action::Done) };
        let uses = |p: &Arc<Value>| !pods::has_ended(p) && group(p) == meta::name(&object);
        let used = is_held(&object, FINALIZER) && all.by_namespace(meta::namespace(&object)).iter().any(uses);
        protect(client, &POD_GROUPS, &object, FINALIZER, used).await
    });
}

/// The PodGroup that a pod names.
fn group(pod: &Value) -> &str {
    pod.str_at(&["spec", "schedulingGroup", "podGroupName"])
}
