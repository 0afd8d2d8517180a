//! What a kind does beyond its description: conditional defaults, what create and update clear or fill in, validation,
//! immutability and computed columns. A kind without special behaviour needs nothing here.

mod apiregistration;
mod apps;
mod autoscaling;
mod batch;
mod core;
mod definition;
mod pod;
mod policies;
mod scheduling;
mod service;
mod volumes;
mod webhooks;

use fram_machinery::status::FieldError;
use fram_machinery::{Value, names};

use crate::kind::Kind;

/// How a name of a kind must look.
pub type NameRule = fn(&str) -> Result<(), &'static str>;

/// The behaviour of a kind. Every method has the default of a kind that does nothing special.
pub trait Strategy: Sync {
    fn name_rule(&self) -> NameRule {
        names::dns_subdomain
    }

    /// Defaults that depend on other fields; runs on every object that is decoded from a request.
    fn default(&self, _object: &mut Value) {}

    /// Brings a new object into the state in which it is created.
    fn prepare_create(&self, _object: &mut Value) {}

    /// Keeps or clears what an update may not change silently.
    fn prepare_update(&self, _object: &mut Value, _old: &Value) {}

    /// Marks an object whose deletion begins.
    fn prepare_delete(&self, _object: &mut Value) {}

    /// Whether something beside `metadata.finalizers` keeps a terminating object.
    fn is_held(&self, _object: &Value) -> bool {
        false
    }

    fn validate(&self, _object: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    /// What the author of an object should know though it is valid; `old` is the object that it replaces.
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

/// Names are any path segment.
struct Rbac;
impl Strategy for Rbac {
    fn name_rule(&self) -> NameRule {
        names::path_segment
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let (role, before) = (object.get("roleRef"), old.get("roleRef"));
        match role == before {
            true => Vec::new(),
            false => vec![FieldError::invalid("roleRef", role.cloned(), "cannot change roleRef")],
        }
    }

    fn default(&self, object: &mut Value) {
        if !object.list_at(&["subjects"]).is_empty() {
            for subject in object.place(&["subjects"]).make_list() {
                let group = if subject.str_at(&["kind"]) == "ServiceAccount" { "" } else { "rbac.authorization.k8s.io" };
                if subject.str_at(&["apiGroup"]).is_empty() && !group.is_empty() {
                    subject.set(&["apiGroup"], group);
                }
            }
        }
    }

    fn cell(&self, object: &Value, column: &str) -> Value {
        let subjects = |kind: &str| {
            let of_kind = object.list_at(&["subjects"]).iter().filter(|s| s.str_at(&["kind"]) == kind);
            let name = |s: &Value| match s.str_at(&["namespace"]) {
                "" => s.str_at(&["name"]).to_string(),
                ns => format!("{ns}/{}", s.str_at(&["name"])),
            };
            Value::from(of_kind.map(name).collect::<Vec<_>>().join(", "))
        };
        match column {
            "Role" => format!("{}/{}", object.str_at(&["roleRef", "kind"]), object.str_at(&["roleRef", "name"])).into(),
            "Users" => subjects("User"),
            "Groups" => subjects("Group"),
            "ServiceAccounts" => subjects("ServiceAccount"),
            _ => Value::Null,
        }
    }
}

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

/// The behaviour of a kind. Custom resources have none beyond their description, whatever they are called.
pub fn strategy(kind: &Kind) -> &'static dyn Strategy {
    if kind.custom.is_some() {
        return &Plain;
    }
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Pod") => &pod::Pod,
        ("", "Service") => &service::Service,
        ("", "Namespace") => &core::Namespace,
        ("", "Node") => &core::Node,
        ("", "ConfigMap") => &core::ConfigMap,
        ("", "Secret") => &core::Secret,
        ("", "ServiceAccount") => &core::ServiceAccount,
        ("", "Endpoints") => &core::Endpoints,
        ("", "Event") => &core::Event,
        ("", "ReplicationController") => &apps::ReplicationController,
        ("", "PersistentVolume") => &volumes::PersistentVolume,
        ("", "PersistentVolumeClaim") => &volumes::PersistentVolumeClaim,
        ("autoscaling", "HorizontalPodAutoscaler") => &autoscaling::HorizontalPodAutoscaler,
        ("scheduling.k8s.io", "PriorityClass") => &scheduling::PriorityClass,
        ("storage.k8s.io", "StorageClass") => &volumes::StorageClass,
        ("batch", "CronJob") => &batch::CronJob,
        ("apps", "Deployment") => &apps::Deployment,
        ("apps", "ReplicaSet") => &apps::ReplicaSet,
        ("apps", "DaemonSet") => &apps::DaemonSet,
        ("apps", "StatefulSet") => &apps::StatefulSet,
        ("batch", "Job") => &batch::Job,
        ("discovery.k8s.io", "EndpointSlice") => &core::EndpointSlice,
        ("rbac.authorization.k8s.io", _) => &Rbac,
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

/// Text lists as kubectl prints them.
pub(crate) fn joined(items: impl Iterator<Item = String>, none: &str) -> Value {
    let text = items.collect::<Vec<_>>().join(",");
    if text.is_empty() { none.into() } else { text.into() }
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
