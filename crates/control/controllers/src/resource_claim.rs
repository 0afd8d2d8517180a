//! Resource claims: made from templates for pods, reserved for pods that were bound by hand, and given back when nobody uses them. See
//! KEP-4381. What to do is in `plan`.

mod plan;

use std::collections::HashMap;
use std::sync::Arc;

use fram_api::devices::{CLAIM_FINALIZER, claims_of_pod};
use fram_client::resources::{PODS, RESOURCE_CLAIM_TEMPLATES, RESOURCE_CLAIMS};
use fram_client::{Action, Client, Controller, DeleteOptions, EventRecorder, Informer, PatchKind, Preconditions};
use fram_machinery::{Reason, Status, Value, meta, object};

use crate::objects::unless_it_changed;
use crate::{Context, Metrics};

pub(crate) fn start(context: &Context) {
    let reconciler = Arc::new(Reconciler {
        client: context.client("resource-claim-controller"),
        pods: context.informers.get(&PODS),
        claims: context.informers.get(&RESOURCE_CLAIMS),
        templates: context.informers.get(&RESOURCE_CLAIM_TEMPLATES),
        events: context.recorder("resource-claim-controller", "resource_claim"),
        metrics: context.metrics.clone(),
    });
    context.metrics.inventory.follow(&reconciler.claims, &context.stop);
    let (pods, templates, known) = (reconciler.pods.clone(), reconciler.templates.clone(), reconciler.pods.clone());
    let for_pods = Controller::new("resource_claim_pods", 4)
        .watches_deltas(&pods, |delta| {
            let part = |p: &Value| (p.at(&["spec", "nodeName"]).cloned(), p.at(&["status", "resourceClaimStatuses"]).cloned());
            let wants = delta.new.as_deref().is_some_and(|p| !p.list_at(&["spec", "resourceClaims"]).is_empty());
            let same = matches!((&delta.old, &delta.new), (Some(old), Some(new)) if part(old) == part(new));
            if wants && !same { vec![delta.key()] } else { Vec::new() }
        })
        .watches_deltas(&templates, move |delta| {
            let name = meta::name(delta.object());
            let uses = |p: &Value| p.list_at(&["spec", "resourceClaims"]).iter().any(|c| c.str_at(&["resourceClaimTemplateName"]) == name);
            let pods = known.by_namespace(meta::namespace(delta.object()));
            pods.iter().filter(|p| delta.old.is_none() && uses(p)).map(|p| meta::key(p)).collect()
        })
        .watches_deltas(&reconciler.claims, {
            let pods = pods.clone();
            move |delta| {
                let namespace = meta::namespace(delta.object());
                // One that has its devices now may be wanted by a pod that was bound by hand.
                if let Some(claim) = delta.new.as_deref() {
                    if !plan::is_allocated(claim) || delta.old.as_deref().is_some_and(plan::is_allocated) {
                        return Vec::new();
                    }
                    let names = |pod: &Value| claims_of_pod(pod).any(|(_, name)| name == Some(meta::name(claim)));
                    let waits = |pod: &Value| !pod.str_at(&["spec", "nodeName"]).is_empty() && !plan::is_used_by(claim, pod);
                    return pods.by_namespace(namespace).iter().filter(|p| waits(p) && names(p)).map(|p| meta::key(p)).collect();
                }
                // One that goes is made again.
                let owner = meta::controller_of(delta.object()).filter(|o| o.str_at(&["kind"]) == "Pod");
                let owner = owner.filter(|_| delta.new.is_none()).and_then(|o| pods.get_in(namespace, o.str_at(&["name"])));
                owner.map(|p| meta::key(&p)).into_iter().collect()
            }
        });
    let pods = reconciler.pods.clone();
    let for_claims = Controller::new("resource_claim", 4)
        .watches_deltas(&reconciler.claims, |delta| if delta.new.is_some() { vec![delta.key()] } else { Vec::new() })
        .watches_deltas(&pods, |delta| {
            let ended = |p: &Value| plan::is_done(p);
            let over = delta.new.as_deref().is_none_or(ended) && delta.old.as_deref().is_none_or(|old| delta.new.is_none() || !ended(old));
            let pod = delta.object();
            // That of its extended resources was made by the scheduler.
            let extended =
                Some(pod.str_at(&["status", "extendedResourceClaimStatus", "resourceClaimName"])).filter(|name| !name.is_empty());
            let names = claims_of_pod(pod).filter_map(|(_, name)| name).chain(extended).filter(|_| over);
            names.map(|name| format!("{}/{name}", meta::namespace(pod))).collect()
        });
    context.run(for_pods, reconciler.clone(), |r, key| async move { r.pod(&key).await });
    context.run(for_claims, reconciler, |r, key| async move { r.claim(&key).await });
}

struct Reconciler {
    client: Client,
    pods: Informer,
    claims: Informer,
    templates: Informer,
    events: EventRecorder,
    metrics: Metrics,
}

impl Reconciler {
    async fn pod(&self, key: &str) -> Result<Action, Status> {
        let Some(pod) = self.pods.get(key).filter(|p| !plan::is_done(p) && !meta::is_terminating(p)) else { return Ok(Action::Done) };
        let mut statuses = Vec::new();
        for wanted in pod.list_at(&["spec", "resourceClaims"]) {
            let template = wanted.str_at(&["resourceClaimTemplateName"]);
            if !template.is_empty() {
                let made = self.make(&pod, wanted.str_at(&["name"]), template).await;
                let name = made.inspect_err(|status| {
                    let message = format!("PodResourceClaim {}: {}", wanted.str_at(&["name"]), status.message);
                    self.events.event(&pod, true, "FailedResourceClaimCreation", message);
                })?;
                statuses.push(object!({ "name": (wanted.str_at(&["name"])), "resourceClaimName": name }));
            }
        }
        if !plan::says(&pod, &statuses) {
            let patch = object!({ "metadata": { "uid": (meta::uid(&pod)) }, "status": { "resourceClaimStatuses": statuses } });
            let pods = self.client.within(&PODS, meta::namespace(&pod));
            unless_it_changed(pods.patch(meta::name(&pod), "status", PatchKind::Strategic, patch).await)?;
            return Ok(Action::Done);
        }
        self.reserve(&pod).await?;
        Ok(Action::Done)
    }

    /// The name of the pod's claim, which is made where it is not there.
    async fn make(&self, pod: &Value, claim: &str, template: &str) -> Result<String, Status> {
        let name = plan::name(pod, claim);
        let is_its_own = |c: &Value| meta::controller_of(c).is_some_and(|o| o.str_at(&["uid"]) == meta::uid(pod));
        if let Some(there) = self.claims.get_in(meta::namespace(pod), &name) {
            return match is_its_own(&there) {
                true => Ok(name),
                false => Err(Status::new(Reason::Conflict, format!("resourceclaim {name:?} belongs to someone else"))),
            };
        }
        let Some(found) = self.templates.get_in(meta::namespace(pod), template) else {
            let message = format!("resource claim template {template:?}: resourceclaimtemplate.resource.k8s.io {template:?} not found");
            return Err(Status::new(Reason::NotFound, message));
        };
        let wanted = plan::claim(pod, claim, &found);
        let made = self.client.within(&RESOURCE_CLAIMS, meta::namespace(pod)).create(wanted.clone()).await;
        self.metrics.others.device_claim(&wanted, made.is_ok());
        match made {
            Err(status) if !status.is(Reason::AlreadyExists) => Err(status),
            _ => Ok(name),
        }
    }

    /// A pod that no scheduler has bound uses its claims too, once they have their devices.
    async fn reserve(&self, pod: &Value) -> Result<(), Status> {
        if pod.str_at(&["spec", "nodeName"]).is_empty() {
            return Ok(());
        }
        for (_, name) in claims_of_pod(pod) {
            let claim = name.and_then(|name| self.claims.get_in(meta::namespace(pod), name));
            let Some(claim) = claim.filter(|c| plan::is_allocated(c) && !plan::is_used_by(c, pod)) else { continue };
            let user = object!({ "resource": "pods", "name": (meta::name(pod)), "uid": (meta::uid(pod)) });
            let patch = object!({ "metadata": { "uid": (meta::uid(&claim)) }, "status": { "reservedFor": [user] } });
            let claims = self.client.within(&RESOURCE_CLAIMS, meta::namespace(pod));
            unless_it_changed(claims.patch(meta::name(&claim), "status", PatchKind::Strategic, patch).await)?;
        }
        Ok(())
    }

    /// The pods that a claim names. The cache may not have seen one yet that uses it already, so the server is asked for those.
    async fn users(&self, claim: &Value) -> Result<HashMap<String, Arc<Value>>, Status> {
        let namespace = meta::namespace(claim);
        let users = claim.list_at(&["status", "reservedFor"]).iter().filter(|u| u.str_at(&["resource"]) == "pods");
        let owner = meta::controller_of(claim).filter(|o| o.str_at(&["kind"]) == "Pod");
        let mut out = HashMap::new();
        for (name, uid) in users.chain(owner).map(|u| (u.str_at(&["name"]), u.str_at(&["uid"]))) {
            let known = self.pods.get_in(namespace, name).filter(|p| meta::uid(p) == uid);
            let found = match known {
                Some(pod) => Some(pod),
                None => match self.client.within(&PODS, namespace).get(name).await {
                    Ok(pod) => Some(pod),
                    Err(status) if status.is(Reason::NotFound) => None,
                    Err(status) => return Err(status),
                },
            };
            out.extend(found.map(|pod| (name.to_string(), pod)));
        }
        Ok(out)
    }

    async fn claim(&self, key: &str) -> Result<Action, Status> {
        let Some(claim) = self.claims.get(key) else { return Ok(Action::Done) };
        let namespace = meta::namespace(&claim);
        let claims = self.client.within(&RESOURCE_CLAIMS, namespace);
        let users = self.users(&claim).await?;
        let pod = |name: &str| users.get(name).cloned();
        let mut current = claim.clone();
        if let Some(status) = plan::status(&claim, pod) {
            let mut next = (*claim).clone();
            next.set(&["status"], status);
            match unless_it_changed(claims.update_status(next).await)? {
                Some(updated) => current = updated,
                None => return Ok(Action::Done),
            }
        }
        // A scheduler puts it there before it says which devices the claim has.
        let was_held = plan::is_allocated(&claim) || meta::is_terminating(&claim);
        if was_held && !plan::is_allocated(&current) && meta::has_finalizer(&current, CLAIM_FINALIZER) {
            let mut free = (*current).clone();
            meta::remove_finalizer(&mut free, CLAIM_FINALIZER);
            unless_it_changed(claims.update(free).await)?;
        }
        if plan::is_over(&claim, pod) && !meta::is_terminating(&claim) {
            let preconditions = Preconditions { uid: Some(meta::uid(&claim).to_string()), resource_version: None };
            let options = DeleteOptions { preconditions, ..Default::default() };
            unless_it_changed(claims.delete(meta::name(&claim), options).await)?;
        }
        Ok(Action::Done)
    }
}
