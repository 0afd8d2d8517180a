//! PodGroupProtection: a PodGroup is held by a finalizer, which its controller takes away when no pod uses it. PodGroupWorkloadExists: a
//! PodGroup that was made of a template needs that to be there.

use fram_machinery::{Status, Value, meta};

use super::{Plugin, Request};

pub(super) struct PodGroupProtection;

const FINALIZER: &str = "scheduling.k8s.io/podgroup-protection";

fn is_creation(request: &Request<'_>) -> bool {
    request.creates("scheduling.k8s.io", "PodGroup")
}

#[async_trait::async_trait]
impl Plugin for PodGroupProtection {
    fn name(&self) -> &'static str {
        "PodGroupProtection"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        is_creation(request)
    }

    async fn admit(&self, _request: &Request<'_>, mut object: Value, _old: Option<&Value>) -> Result<Value, Status> {
        meta::add_finalizer(&mut object, FINALIZER);
        Ok(object)
    }
}

pub(super) struct PodGroupWorkloadExists;

#[async_trait::async_trait]
impl Plugin for PodGroupWorkloadExists {
    fn name(&self) -> &'static str {
        "PodGroupWorkloadExists"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        is_creation(request)
    }

    async fn validate(&self, request: &Request<'_>, object: Option<&Value>, _old: Option<&Value>) -> Result<(), Status> {
        let Some(group) = object else { return Ok(()) };
        let reference = group.at(&["spec", "podGroupTemplateRef", "workload"]).filter(|w| !w.is_null());
        let Some(reference) = reference else { return Ok(()) };
        let (workload, template) = (reference.str_at(&["workloadName"]), reference.str_at(&["podGroupTemplateName"]));
        let found = request.find("scheduling.k8s.io", "v1alpha2", "workloads", meta::namespace(group), workload).await?;
        let why = match found {
            None => format!("Workload {workload:?} not found"),
            Some(there) if meta::is_terminating(&there) => format!("Workload {workload:?} is being deleted"),
            Some(there) if there.list_at(&["spec", "podGroupTemplates"]).iter().all(|t| t.str_at(&["name"]) != template) => {
                format!("PodGroupTemplate {template:?} not found in Workload {workload:?}")
            }
            Some(_) => return Ok(()),
        };
        Err(request.place.forbidden(&format!("PodGroup rejected: {why}")))
    }
}
