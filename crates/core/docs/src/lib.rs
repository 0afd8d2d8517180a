//! What the fields of Kubernetes' types mean, in upstream's words: the texts that OpenAPI documents carry and that
//! `kubectl explain` prints. They come from k8s-openapi's schemas and are put together when somebody asks, so that they take
//! no memory between two requests. No schema comes from here; those follow from the descriptions in fram-api.

use std::collections::HashMap;

use schemars::SchemaGenerator;
use serde_json::Value;

/// The texts of one type: its own, and those of its fields by their JSON names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TypeDocs {
    pub description: String,
    pub fields: HashMap<String, String>,
}

/// In the place of a group version: the texts of what every object has.
pub const META: &str = "meta.v1";

/// Texts by the names that types have in OpenAPI documents, such as `io.k8s.api.core.v1.PodSpec`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Docs {
    types: HashMap<String, TypeDocs>,
}

impl Docs {
    /// The texts of all types that the kinds of a group version need (`v1`, `apps/v1`); empty where it is not one of
    /// Kubernetes' own.
    pub fn of(group_version: &str) -> Self {
        let mut docs = Self::default();
        docs.add(group_version);
        docs
    }

    /// Adds the texts of a further group version.
    pub fn add(&mut self, group_version: &str) {
        let mut generator = SchemaGenerator::default();
        roots(group_version, &mut generator);
        for (name, schema) in generator.take_definitions(true) {
            self.types.entry(name).or_insert_with(|| TypeDocs::read(&schema));
        }
    }

    pub fn get(&self, openapi_name: &str) -> Option<&TypeDocs> {
        self.types.get(openapi_name)
    }
}

impl TypeDocs {
    fn read(schema: &Value) -> Self {
        let text = |of: &Value| of.get("description").and_then(Value::as_str).map(String::from);
        let properties = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
        let fields = properties.filter_map(|(name, field)| Some((name.clone(), text(field)?))).collect();
        Self { description: text(schema).unwrap_or_default(), fields }
    }
}

/// Writes `roots`, which asks the generator for the kinds of a group version; the types of their fields follow.
macro_rules! kinds {
    ($($group_version:literal => $($module:ident)::+ { $($kind:ident)* })*) => {
        fn roots(group_version: &str, generator: &mut SchemaGenerator) {
            match group_version {
                $($group_version => {
                    use k8s_openapi::$($module)::+ as kinds;
                    $(generator.subschema_for::<kinds::$kind>();)*
                })*
                _ => {}
            }
        }
    };
}

kinds! {
    "meta.v1" => apimachinery::pkg::apis::meta::v1 { ObjectMeta ListMeta Status }
    "v1" => api::core::v1 {
        Binding ComponentStatus ConfigMap Endpoints Event LimitRange Namespace Node PersistentVolumeClaim PersistentVolume Pod
        PodTemplate ReplicationController ResourceQuota Secret ServiceAccount Service
    }
    "admissionregistration.k8s.io/v1" => api::admissionregistration::v1 {
        MutatingAdmissionPolicy MutatingAdmissionPolicyBinding MutatingWebhookConfiguration ValidatingAdmissionPolicy
        ValidatingAdmissionPolicyBinding ValidatingWebhookConfiguration
    }
    "apiextensions.k8s.io/v1" => apiextensions_apiserver::pkg::apis::apiextensions::v1 { CustomResourceDefinition }
    "apiregistration.k8s.io/v1" => kube_aggregator::pkg::apis::apiregistration::v1 { APIService }
    "apps/v1" => api::apps::v1 { ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet }
    "authentication.k8s.io/v1" => api::authentication::v1 { SelfSubjectReview TokenReview TokenRequest }
    "authorization.k8s.io/v1" => api::authorization::v1 {
        LocalSubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview SubjectAccessReview
    }
    "autoscaling/v1" => api::autoscaling::v1 { HorizontalPodAutoscaler Scale }
    "autoscaling/v2" => api::autoscaling::v2 { HorizontalPodAutoscaler }
    "batch/v1" => api::batch::v1 { CronJob Job }
    "certificates.k8s.io/v1" => api::certificates::v1 { CertificateSigningRequest }
    "coordination.k8s.io/v1" => api::coordination::v1 { Lease }
    "discovery.k8s.io/v1" => api::discovery::v1 { EndpointSlice }
    "events.k8s.io/v1" => api::events::v1 { Event }
    "flowcontrol.apiserver.k8s.io/v1" => api::flowcontrol::v1 { FlowSchema PriorityLevelConfiguration }
    "networking.k8s.io/v1" => api::networking::v1 { IngressClass Ingress IPAddress NetworkPolicy ServiceCIDR }
    "node.k8s.io/v1" => api::node::v1 { RuntimeClass }
    "policy/v1" => api::policy::v1 { PodDisruptionBudget Eviction }
    "rbac.authorization.k8s.io/v1" => api::rbac::v1 { ClusterRoleBinding ClusterRole RoleBinding Role }
    "resource.k8s.io/v1" => api::resource::v1 { DeviceClass ResourceClaim ResourceClaimTemplate ResourceSlice }
    "scheduling.k8s.io/v1" => api::scheduling::v1 { PriorityClass }
    "storage.k8s.io/v1" => api::storage::v1 {
        CSIDriver CSINode CSIStorageCapacity StorageClass VolumeAttachment VolumeAttributesClass
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_that_a_kind_needs_come_with_it() {
        let docs = Docs::of("apps/v1");
        let text = &docs.get("io.k8s.api.apps.v1.DeploymentSpec").unwrap().fields["paused"];
        assert_eq!(text, "Indicates that the deployment is paused.");
        assert!(docs.get("io.k8s.api.core.v1.PodSpec").unwrap().fields["dnsPolicy"].contains("ClusterFirst"));
        assert!(docs.get("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").unwrap().fields.contains_key("labels"));
        assert!(!docs.get("io.k8s.api.core.v1.Container").unwrap().description.is_empty());
    }

    #[test]
    fn a_group_of_somebody_else_has_no_texts() {
        assert_eq!(Docs::of("example.com/v1"), Docs::default());
    }
}
