//! What a kind does beyond its description: conditional defaults, what create and update clear or fill in, validation,
//! immutability and computed columns. A kind without special behaviour needs nothing here.

mod apiregistration;
mod apps;
mod autoscaling;
mod batch;
mod certificates;
pub(crate) mod claims;
mod core;
mod definition;
mod endpoints;
mod event;
mod flow;
mod ingress;
mod limits;
mod network;
mod nodes;
pub(crate) mod pod;
mod policies;
mod preliminary;
mod rbac;
mod resource;
mod reviews;
mod scheduling;
mod service;
mod storage;
pub(crate) mod volumes;
mod warnings;
mod webhooks;

pub use network::is_link_local;

use fram_machinery::status::FieldError;
use fram_machinery::{Value, names};

use crate::kind::Kind;

pub use pod::placement::node_affinity_errors;
pub use pod::qos_class;
pub use resource::is_extended;
pub use service::needs_health_check;

/// How a name of a kind must look.
pub type NameRule = fn(&str) -> Result<(), &'static str>;

/// The behaviour of a kind. Every method has the default of a kind that does nothing special.
pub trait Strategy: Sync {
    fn name_rule(&self) -> NameRule {
        names::dns_subdomain
    }

    /// Whether `metadata.generateName` is held against the rule of names, beside the name that was made of it.
    fn checks_base_names(&self) -> bool {
        true
    }

    /// Defaults that depend on other fields; runs on every object that is decoded from a request.
    fn default(&self, _object: &mut Value) {}

    /// Brings a new object into the state in which it is created.
    fn prepare_create(&self, _object: &mut Value) {}

    /// Fills in what upstream's defaults add to a new object when it is read back from the store: after it was validated.
    fn read_back(&self, _object: &mut Value) {}

    /// Fills in the times that a write sets; `old` is the object that it changes.
    fn stamp(&self, _object: &mut Value, _old: Option<&Value>, _now: &str) {}

    /// Keeps or clears what an update may not change silently.
    fn prepare_update(&self, _object: &mut Value, _old: &Value) {}

    /// Whether objects are marked as deleted in a way of their own, even with no finalizer: without a grace period, and without
    /// counting the generation.
    fn marks_deletion(&self) -> bool {
        false
    }

    /// Marks an object whose deletion begins.
    fn prepare_delete(&self, _object: &mut Value) {}

    /// Whether something beside `metadata.finalizers` keeps a terminating object.
    fn is_held(&self, _object: &Value) -> bool {
        false
    }

    fn validate(&self, _object: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    /// Rules of the version that was asked for beyond those of the one that is stored, where these are of other groups. The object is
    /// in its stored form, and `errors` are those of it, which may have other names for fields.
    fn validate_asked(&self, _object: &Value, _old: Option<&Value>, _errors: &mut Vec<FieldError>) {}

    /// Rules about what an object is created with only; `validate` runs, too.
    fn validate_create(&self, _object: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    /// What the author of an object, in its stored version, should know though it is valid; `old` is the object that it replaces.
    fn warnings(&self, _object: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }

    /// Rules about the change itself; `validate` has run on the new object already.
    fn validate_update(&self, _object: &Value, _old: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    /// Keeps what a write to a subresource may not change; the status is kept already.
    fn prepare_subresource(&self, _subresource: &str, _object: &mut Value, _old: &Value) {}

    /// Rules about a change through a subresource.
    fn validate_subresource(&self, _subresource: &str, _object: &Value, _old: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    /// The text of a selectable field where it is not just the field at that path.
    fn field(&self, _object: &Value, _path: &str) -> Option<String> {
        None
    }

    /// The cells of the computed columns by their name.
    fn cell(&self, _object: &Value, _column: &str) -> Value {
        Value::Null
    }
}

struct Plain;
impl Strategy for Plain {}

/// Names are addresses in their canonical form.
struct IpAddress;
impl Strategy for IpAddress {
    fn name_rule(&self) -> NameRule {
        |name| match name.parse::<std::net::IpAddr>() {
            Ok(ip) if ip.to_string() == name => Ok(()),
            _ => Err("must be a valid IP address in canonical form"),
        }
    }

    fn cell(&self, object: &Value, _: &str) -> Value {
        let parent = |field: &str| object.str_at(&["spec", "parentRef", field]);
        let parts = [parent("resource"), parent("namespace"), parent("name")];
        parts.into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join("/").into()
    }
}

/// What the author of an object should know though it is valid, which replaces `old` or its part that is a subresource.
pub fn warnings(kind: &Kind, subresource: &str, object: &Value, old: Option<&Value>) -> Vec<String> {
    let mut said = if subresource.is_empty() { strategy(kind).warnings(object, old) } else { Vec::new() };
    if kind.custom.is_none() {
        said.extend(warnings::of_kind(kind, subresource, object, old));
    }
    said
}

/// The behaviour of a kind. Custom resources have none beyond their description, whatever they are called.
pub fn strategy(kind: &Kind) -> &'static dyn Strategy {
    if kind.custom.is_some() {
        return &Plain;
    }
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Pod") => &pod::Pod,
        ("", "Service") => service::Service::of(kind.features.service_families),
        ("", "Namespace") => &core::Namespace,
        ("", "Node") => &nodes::Node,
        ("", "ConfigMap") => &core::ConfigMap,
        ("", "ComponentStatus") => &core::ComponentStatus,
        ("", "Secret") => &core::Secret,
        ("", "ServiceAccount") => &core::ServiceAccount,
        ("", "Endpoints") => &endpoints::Endpoints,
        ("", "Event") => &event::Event,
        ("events.k8s.io", "Event") => &event::NewEvent,
        ("", "LimitRange") => &limits::LimitRange,
        ("", "ResourceQuota") => &limits::ResourceQuota,
        ("policy", "PodDisruptionBudget") => &limits::PodDisruptionBudget,
        ("networking.k8s.io", "NetworkPolicy") => &network::NetworkPolicy,
        ("networking.k8s.io", "ServiceCIDR") => &network::ServiceCidr,
        ("", "ReplicationController") => &apps::ReplicationController,
        ("", "PodTemplate") => &apps::PodTemplate,
        ("apps", "ControllerRevision") => &apps::ControllerRevision,
        ("", "PersistentVolume") => &volumes::PersistentVolume,
        ("", "PersistentVolumeClaim") => &claims::PersistentVolumeClaim,
        ("autoscaling", "HorizontalPodAutoscaler") => &autoscaling::HorizontalPodAutoscaler,
        ("scheduling.k8s.io", "PriorityClass") => &scheduling::PriorityClass,
        ("storage.k8s.io", "StorageClass") => &storage::StorageClass,
        ("storage.k8s.io", "VolumeAttachment") => &storage::VolumeAttachment,
        ("storage.k8s.io", "CSIDriver") => &storage::CsiDriver,
        ("storage.k8s.io", "CSINode") => &storage::CsiNode,
        ("storage.k8s.io", "CSIStorageCapacity") => &storage::CsiStorageCapacity,
        ("storage.k8s.io", "VolumeAttributesClass") => &storage::VolumeAttributesClass,
        ("batch", "CronJob") => &batch::CronJob,
        ("apps", "Deployment") => &apps::Deployment,
        ("apps", "ReplicaSet") => &apps::ReplicaSet,
        ("apps", "DaemonSet") => &apps::DaemonSet,
        ("apps", "StatefulSet") => &apps::StatefulSet,
        ("batch", "Job") => &batch::Job,
        ("discovery.k8s.io", "EndpointSlice") => &endpoints::EndpointSlice,
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => &rbac::Role,
        ("rbac.authorization.k8s.io", _) => &rbac::Binding,
        ("certificates.k8s.io", "ClusterTrustBundle") => &certificates::ClusterTrustBundle,
        ("certificates.k8s.io", "PodCertificateRequest") => &certificates::PodCertificateRequest,
        ("certificates.k8s.io", "CertificateSigningRequest") => &certificates::CertificateSigningRequest,
        ("networking.k8s.io", "Ingress") => &ingress::Ingress,
        ("networking.k8s.io", "IngressClass") => &ingress::IngressClass,
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => &flow::FlowSchema,
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => &flow::PriorityLevel,
        ("node.k8s.io", "RuntimeClass") => &scheduling::RuntimeClass,
        ("authorization.k8s.io", "SubjectAccessReview") => &reviews::AccessReview::Subject,
        ("authorization.k8s.io", "SelfSubjectAccessReview") => &reviews::AccessReview::Own,
        ("authorization.k8s.io", "LocalSubjectAccessReview") => &reviews::AccessReview::Local,
        ("coordination.k8s.io", "LeaseCandidate") => &preliminary::LeaseCandidate,
        ("scheduling.k8s.io", "PodGroup") => &preliminary::PodGroup,
        ("scheduling.k8s.io", "Workload") => &preliminary::Workload,
        ("storagemigration.k8s.io", "StorageVersionMigration") => &preliminary::StorageVersionMigration,
        ("internal.apiserver.k8s.io", "StorageVersion") => &preliminary::StorageVersion,
        ("resource.k8s.io", "DeviceTaintRule") => &resource::DeviceTaintRule,
        ("resource.k8s.io", "ResourcePoolStatusRequest") => &resource::ResourcePoolStatusRequest,
        ("coordination.k8s.io", "Lease") => &preliminary::Lease,
        ("resource.k8s.io", "DeviceClass") => &resource::DeviceClass,
        ("resource.k8s.io", "ResourceClaim") => &resource::ResourceClaim,
        ("resource.k8s.io", "ResourceClaimTemplate") => &resource::ResourceClaimTemplate,
        ("resource.k8s.io", "ResourceSlice") => &resource::ResourceSlice,
        ("networking.k8s.io", "IPAddress") => &IpAddress,
        ("admissionregistration.k8s.io", "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration") => {
            &webhooks::WebhookConfiguration
        }
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy") => &policies::ValidatingAdmissionPolicy,
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicy") => &policies::MutatingAdmissionPolicy,
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding") => &policies::Binding { mutating: false },
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding") => &policies::Binding { mutating: true },
        ("apiregistration.k8s.io", "APIService") => &apiregistration::ApiService,
        ("apiextensions.k8s.io", "CustomResourceDefinition") => &definition::CustomResourceDefinition,
        _ => &Plain,
    }
}

/// The labels of metadata at `at`; what a template says obeys what the object's own metadata obey.
pub(crate) fn label_errors(metadata: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let labels = metadata.get("labels").and_then(Value::as_map).cloned().unwrap_or_default();
    label_map_errors(&labels, &format!("{at}.labels"), errors);
    for key in metadata.get("annotations").and_then(Value::as_map).iter().flat_map(|m| m.keys()) {
        if let Err(why) = names::qualified_name(&key.to_lowercase()) {
            errors.push(FieldError::invalid(format!("{at}.annotations"), key.as_str(), why));
        }
    }
}

/// Keys and values of labels, or of what selects labels.
pub(crate) fn label_map_errors(labels: &fram_machinery::Map, at: &str, errors: &mut Vec<FieldError>) {
    for (key, value) in labels.iter() {
        if let Err(why) = names::qualified_name(key) {
            errors.push(FieldError::invalid(at, key.as_str(), why));
        }
        if let Err(why) = names::label_value(value.as_str().unwrap_or_default()) {
            errors.push(FieldError::invalid(at, value.clone(), why));
        }
    }
}

/// A label selector; `at` is its field.
pub(crate) fn label_selector_errors(selector: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let labels = selector.get("matchLabels").and_then(Value::as_map).cloned().unwrap_or_default();
    label_map_errors(&labels, &format!("{at}.matchLabels"), errors);
    for (i, requirement) in selector.list_at(&["matchExpressions"]).iter().enumerate() {
        let at = format!("{at}.matchExpressions[{i}]");
        let values = requirement.list_at(&["values"]);
        match requirement.str_at(&["operator"]) {
            "In" | "NotIn" if values.is_empty() => {
                errors.push(FieldError::required(format!("{at}.values"), "must be specified when `operator` is 'In' or 'NotIn'"));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(FieldError::forbidden(format!("{at}.values"), why));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            text => errors.push(FieldError::invalid(format!("{at}.operator"), text, "not a valid selector operator")),
        }
        requirement_errors(requirement, &at, errors);
    }
}

/// How many bytes a base64 text stands for.
pub(crate) fn decoded_size(text: &str) -> usize {
    let padding = text.bytes().rev().take_while(|b| *b == b'=').count();
    (text.len() / 4 * 3).saturating_sub(padding)
}

/// What is wrong with the key and the values of one requirement on labels.
pub(crate) fn requirement_errors(requirement: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let key = requirement.str_at(&["key"]);
    if let Err(why) = names::qualified_name(key) {
        errors.push(FieldError::invalid(format!("{at}.key"), key, why));
    }
    for (v, value) in requirement.list_at(&["values"]).iter().enumerate() {
        if let Err(why) = names::label_value(value.as_str().unwrap_or_default()) {
            errors.push(FieldError::invalid(format!("{at}.values[{v}]"), value.clone(), why));
        }
    }
}

/// Text lists as kubectl prints them.
pub(crate) fn joined(items: impl Iterator<Item = String>, none: &str) -> Value {
    let text = items.collect::<Vec<_>>().join(",");
    if text.is_empty() { none.into() } else { text.into() }
}

/// The name of a class, and whether it is taken where none is named.
pub(crate) fn named_default(class: &Value, annotation: &str) -> Value {
    let name = fram_machinery::meta::name(class);
    if fram_machinery::meta::annotation(class, annotation) == Some("true") { format!("{name} (default)").into() } else { name.into() }
}

/// A label selector object in its printed form; see metav1.FormatLabelSelector.
pub(crate) fn printed_selector(selector: Option<&Value>) -> Value {
    let parsed = fram_machinery::labels::Selector::from_object(selector).ok().flatten();
    let text = parsed.map(|s| s.to_string()).unwrap_or_default();
    if text.is_empty() { "<none>".into() } else { text.into() }
}

/// Names and images of a pod spec's containers.
pub(crate) fn container_cell(spec: Option<&Value>, field: &str) -> Value {
    let containers = spec.map_or(&[][..], |s| s.list_at(&["containers"]));
    joined(containers.iter().map(|c| c.str_at(&[field]).to_string()), "")
}
