//! Which tokens of service accounts a node may ask for.

use fram_machinery::{Status, Value, meta};

use super::{Asked, Request};
use crate::authorize::{Attributes, Authorizer, Decision};

impl Asked<'_> {
    /// A token is for a pod on the node, and for an audience that the pod's volumes or a right of the node name.
    pub(super) async fn token(&self) -> Result<(), Status> {
        let (place, node) = (self.request.place, self.node);
        let reference = self.object.at(&["spec", "boundObjectRef"]).unwrap_or(&Value::Null);
        if ["apiVersion", "kind"].map(|field| reference.str_at(&[field])) != ["v1", "Pod"] || reference.str_at(&["name"]).is_empty() {
            return self.refuse("node requested token not bound to a pod".into());
        }
        if reference.str_at(&["uid"]).is_empty() {
            return self.refuse("node requested token with a pod binding without a uid".into());
        }
        let name = reference.str_at(&["name"]);
        let Some(pod) = self.request.find("", "v1", "pods", &place.namespace, name).await? else {
            return Err(Status::not_found("", "pods", name));
        };
        if meta::uid(&pod) != reference.str_at(&["uid"]) {
            return self.refuse(format!(
                "the UID in the bound object reference ({}) does not match the UID in record. The object might have been deleted and then recreated",
                reference.str_at(&["uid"])
            ));
        }
        if pod.str_at(&["spec", "nodeName"]) != node {
            return self.refuse("node requested token bound to a pod scheduled on a different node".into());
        }
        let audience = match self.object.list_at(&["spec", "audiences"]) {
            [] => "",
            [one] => one.as_str().unwrap_or_default(),
            _ => return self.refuse("node may only request 0 or 1 audiences".into()),
        };
        if audience_of_volumes(self.request, &pod, audience).await? {
            return Ok(());
        }
        let asked = Attributes {
            verb: "request-serviceaccounts-token-audience".into(),
            namespace: place.namespace.clone(),
            version: "v1".into(),
            resource: audience.into(),
            name: place.name.clone(),
            ..Default::default()
        };
        let registry = self.request.registry.weak().upgrade().ok_or_else(|| Status::internal("the server has ended"))?;
        if Authorizer::new(registry).decide(self.request.user, &asked) == Decision::Allow {
            return Ok(());
        }
        let who = &self.request.user.name;
        self.refuse(format!(
            "audience {audience:?} not found in pod spec volume, {who} is not authorized to request tokens for this audience"
        ))
    }
}

/// Whether a volume of a pod is given tokens for an audience: a projected one, or one whose driver asks for them.
async fn audience_of_volumes(request: &Request<'_>, pod: &Value, audience: &str) -> Result<bool, Status> {
    for volume in pod.list_at(&["spec", "volumes"]) {
        let mut tokens = volume.list_at(&["projected", "sources"]).iter().filter_map(|source| source.get("serviceAccountToken"));
        if tokens.any(|token| !token.is_null() && token.str_at(&["audience"]) == audience) {
            return Ok(true);
        }
        let Some(driver) = driver_of(request, pod, volume).await? else { continue };
        let found = request.find("storage.k8s.io", "v1", "csidrivers", "", &driver).await?;
        if found.is_some_and(|driver| driver.list_at(&["spec", "tokenRequests"]).iter().any(|t| t.str_at(&["audience"]) == audience)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The driver of a volume: its own, or that of the volume to which its claim is bound.
async fn driver_of(request: &Request<'_>, pod: &Value, volume: &Value) -> Result<Option<String>, Status> {
    let some = |driver: &str| Some(driver.to_string()).filter(|driver| !driver.is_empty());
    if let Some(own) = some(volume.str_at(&["csi", "driver"])) {
        return Ok(Some(own));
    }
    let claim = match volume.str_at(&["persistentVolumeClaim", "claimName"]) {
        "" if volume.at(&["ephemeral", "volumeClaimTemplate"]).is_some() => format!("{}-{}", meta::name(pod), volume.str_at(&["name"])),
        "" => return Ok(None),
        named => named.to_string(),
    };
    let Some(claim) = request.find("", "v1", "persistentvolumeclaims", meta::namespace(pod), &claim).await? else { return Ok(None) };
    let bound = request.find("", "v1", "persistentvolumes", "", claim.str_at(&["spec", "volumeName"])).await?;
    Ok(bound.and_then(|volume| some(volume.str_at(&["spec", "csi", "driver"]))))
}
