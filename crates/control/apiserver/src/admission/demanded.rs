//! Plugins that run where somebody asks for them and that look at nothing but the object: AlwaysAdmit, AlwaysDeny, AlwaysPullImages,
//! DenyServiceExternalIPs, ExtendedResourceToleration, LimitPodHardAntiAffinityTopology.

use std::collections::BTreeSet;

use fram_machinery::status::FieldError;
use fram_machinery::{Status, Value, object};

use super::{Operation, Plugin, Request};

fn writes(request: &Request<'_>, kind: &str) -> bool {
    matches!(request.operation, Operation::Create | Operation::Update) && request.is_about("", kind)
}

/// It admits everything, as not having it does.
pub(super) struct AlwaysAdmit;

#[async_trait::async_trait]
impl Plugin for AlwaysAdmit {
    fn name(&self) -> &'static str {
        "AlwaysAdmit"
    }

    fn handles(&self, _request: &Request<'_>) -> bool {
        false
    }
}

pub(super) struct AlwaysDeny;

#[async_trait::async_trait]
impl Plugin for AlwaysDeny {
    fn name(&self) -> &'static str {
        "AlwaysDeny"
    }

    fn handles(&self, _request: &Request<'_>) -> bool {
        true
    }

    async fn validate(&self, request: &Request<'_>, _object: Option<&Value>, _old: Option<&Value>) -> Result<(), Status> {
        Err(request.place.forbidden("the plugin AlwaysDeny is on, which refuses every change"))
    }
}

/// AlwaysPullImages: images are pulled with the pod's own credentials, so that nobody runs what a neighbour was let to pull.
pub(super) struct AlwaysPullImages;

const LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

fn containers(pod: &Value) -> impl Iterator<Item = (&'static str, usize, &Value)> {
    LISTS.into_iter().flat_map(|list| pod.list_at(&["spec", list]).iter().enumerate().map(move |(i, c)| (list, i, c)))
}

/// Whether a change brings an image that was not there.
fn brings_images(pod: &Value, old: Option<&Value>) -> bool {
    let Some(old) = old else { return true };
    let known: BTreeSet<&str> = containers(old).map(|(.., c)| c.str_at(&["image"])).collect();
    containers(pod).any(|(.., c)| !known.contains(c.str_at(&["image"])))
}

#[async_trait::async_trait]
impl Plugin for AlwaysPullImages {
    fn name(&self) -> &'static str {
        "AlwaysPullImages"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        writes(request, "Pod")
    }

    async fn admit(&self, _request: &Request<'_>, mut object: Value, old: Option<&Value>) -> Result<Value, Status> {
        if !brings_images(&object, old) {
            return Ok(object);
        }
        for list in LISTS {
            if !object.list_at(&["spec", list]).is_empty() {
                object.place(&["spec", list]).make_list().make_mut().iter_mut().for_each(|c| c.set(&["imagePullPolicy"], "Always"));
            }
        }
        if object.list_at(&["spec", "volumes"]).iter().any(|volume| volume.get("image").is_some()) {
            let volumes = object.place(&["spec", "volumes"]).make_list().make_mut().iter_mut();
            volumes.filter(|v| v.get("image").is_some()).for_each(|v| v.set(&["image", "pullPolicy"], "Always"));
        }
        Ok(object)
    }

    async fn validate(&self, request: &Request<'_>, object: Option<&Value>, old: Option<&Value>) -> Result<(), Status> {
        let Some(pod) = object.filter(|pod| brings_images(pod, old)) else { return Ok(()) };
        let of_containers =
            containers(pod).map(|(list, i, c)| (format!("spec.{list}[{i}].imagePullPolicy"), c.str_at(&["imagePullPolicy"])));
        let images = pod.list_at(&["spec", "volumes"]).iter().enumerate().filter_map(|(i, v)| Some((i, v.get("image")?)));
        let of_volumes = images.map(|(i, image)| (format!("spec.volumes[{i}].image.pullPolicy"), image.str_at(&["pullPolicy"])));
        match of_containers.chain(of_volumes).find(|(_, policy)| *policy != "Always") {
            Some((field, policy)) => Err(request.place.forbidden(&FieldError::not_supported(field, policy, &["Always"]).to_string())),
            None => Ok(()),
        }
    }
}

/// DenyServiceExternalIPs: who may write Services does not take addresses thereby; those that are there may stay.
pub(super) struct DenyServiceExternalIPs;

#[async_trait::async_trait]
impl Plugin for DenyServiceExternalIPs {
    fn name(&self) -> &'static str {
        "DenyServiceExternalIPs"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        writes(request, "Service")
    }

    async fn validate(&self, request: &Request<'_>, object: Option<&Value>, old: Option<&Value>) -> Result<(), Status> {
        let known = old.map(|old| old.list_at(&["spec", "externalIPs"])).unwrap_or_default();
        match object.is_some_and(|service| service.list_at(&["spec", "externalIPs"]).iter().any(|ip| !known.contains(ip))) {
            true => Err(request.place.forbidden("spec.externalIPs: the plugin DenyServiceExternalIPs refuses new ones, leave them out")),
            false => Ok(()),
        }
    }
}

/// ExtendedResourceToleration: pods that ask for a device tolerate the taint by which nodes with such devices keep others away.
pub(super) struct ExtendedResourceToleration;

#[async_trait::async_trait]
impl Plugin for ExtendedResourceToleration {
    fn name(&self) -> &'static str {
        "ExtendedResourceToleration"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        writes(request, "Pod")
    }

    async fn admit(&self, _request: &Request<'_>, mut object: Value, _old: Option<&Value>) -> Result<Value, Status> {
        let asking = containers(&object).filter(|(list, ..)| *list != "ephemeralContainers");
        let requests = asking.filter_map(|(.., c)| c.at(&["resources", "requests"])?.as_map()).flat_map(|map| map.iter());
        let names: BTreeSet<String> =
            requests.filter(|(name, _)| fram_api::strategy::is_extended(name)).map(|(name, _)| name.to_string()).collect();
        for name in names {
            let toleration = object!({ "key": (name.as_str()), "operator": "Exists", "effect": "NoSchedule" });
            let there = object.list_at(&["spec", "tolerations"]).iter().any(|t| covers(t, &name));
            if !there {
                object.place(&["spec", "tolerations"]).make_list().push(toleration);
            }
        }
        Ok(object)
    }
}

fn covers(toleration: &Value, key: &str) -> bool {
    let of = |field: &str| toleration.str_at(&[field]);
    of("key") == key && of("operator") == "Exists" && of("effect") == "NoSchedule"
}

/// LimitPodHardAntiAffinityTopology: nobody keeps others off a whole zone.
pub(super) struct LimitPodHardAntiAffinityTopology;

const HOSTNAME: &str = "kubernetes.io/hostname";

#[async_trait::async_trait]
impl Plugin for LimitPodHardAntiAffinityTopology {
    fn name(&self) -> &'static str {
        "LimitPodHardAntiAffinityTopology"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        writes(request, "Pod")
    }

    async fn validate(&self, request: &Request<'_>, object: Option<&Value>, _old: Option<&Value>) -> Result<(), Status> {
        let terms =
            object.map(|pod| pod.list_at(&["spec", "affinity", "podAntiAffinity", "requiredDuringSchedulingIgnoredDuringExecution"]));
        let mut keys = terms.unwrap_or_default().iter().map(|term| term.str_at(&["topologyKey"]));
        match keys.find(|key| *key != HOSTNAME) {
            Some(key) => Err(request.place.forbidden(&format!(
                "spec.affinity.podAntiAffinity: what is required may only be about {HOSTNAME} here, not {key}; prefer it instead"
            ))),
            None => Ok(()),
        }
    }
}
