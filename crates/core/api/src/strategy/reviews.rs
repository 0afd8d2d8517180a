//! SubjectAccessReviews, of oneself and within a namespace: what they may ask about. They are answered and never stored.

use fram_machinery::status::FieldError;
use fram_machinery::{Value, meta};

use super::Strategy;

/// Whose access is asked about, and where.
pub(super) enum AccessReview {
    Subject,
    Own,
    Local,
}

impl Strategy for AccessReview {
    fn validate_create(&self, review: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let given = |field: &str| review.at(&["spec", field]).filter(|v| !v.is_null());
        let (resource, path) = (given("resourceAttributes"), given("nonResourceAttributes"));
        match (resource, path) {
            (Some(_), Some(path)) => {
                let why = "cannot be specified in combination with resourceAttributes";
                errors.push(FieldError::invalid("spec.nonResourceAttributes", path.clone(), why));
            }
            (None, None) => {
                let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
                errors.push(FieldError::invalid("spec.resourceAttributes", Value::Null, why));
            }
            _ => {}
        }
        let nobody = review.str_at(&["spec", "user"]).is_empty() && review.list_at(&["spec", "groups"]).is_empty();
        if nobody && !matches!(self, Self::Own) {
            errors.push(FieldError::invalid("spec.user", "", "at least one of user or group must be specified"));
        }
        if let Some(resource) = resource {
            selector(resource.get("fieldSelector"), "spec.resourceAttributes.fieldSelector", false, &mut errors);
            selector(resource.get("labelSelector"), "spec.resourceAttributes.labelSelector", true, &mut errors);
        }
        self.metadata(review, &mut errors);
        if let Self::Local = self {
            let namespace = resource.map_or("", |r| r.str_at(&["namespace"]));
            if resource.is_some() && namespace != meta::namespace(review) {
                errors.push(FieldError::invalid("spec.resourceAttributes.namespace", namespace, "must match metadata.namespace"));
            }
            if let Some(path) = path {
                errors.push(FieldError::invalid("spec.nonResourceAttributes", path.clone(), "disallowed on this kind of request"));
            }
        }
        errors
    }
}

impl AccessReview {
    fn metadata(&self, review: &Value, errors: &mut Vec<FieldError>) {
        let own =
            |field: &str| matches!(field, "managedFields" | "creationTimestamp") || field == "namespace" && matches!(self, Self::Local);
        let metadata = review.get("metadata").and_then(Value::as_map).cloned().unwrap_or_default();
        if metadata.iter().any(|(field, value)| !own(field) && !value.is_null() && !value.is_empty()) {
            let why = if let Self::Local = self { "must be empty except for namespace" } else { "must be empty" };
            errors.push(FieldError::invalid("metadata", review.get("metadata").cloned(), why));
        }
    }
}

/// A selector as text or as requirements. Operators that are not known are let through: newer clients may ask by them.
fn selector(selector: Option<&Value>, at: &str, labels: bool, errors: &mut Vec<FieldError>) {
    let Some(selector) = selector.filter(|s| !s.is_null()) else { return };
    let (raw, requirements) = (selector.str_at(&["rawSelector"]), selector.list_at(&["requirements"]));
    if !raw.is_empty() && !requirements.is_empty() {
        errors.push(FieldError::invalid(format!("{at}.rawSelector"), raw, "may not specified at the same time as requirements"));
    }
    if raw.is_empty() && requirements.is_empty() {
        let why = format!("when {at} is specified, requirements or rawSelector is required");
        errors.push(FieldError::required(format!("{at}.requirements"), &why));
    }
    for (i, requirement) in requirements.iter().enumerate() {
        let at = format!("{at}.requirements[{i}]");
        let (key, values) = (requirement.str_at(&["key"]), requirement.list_at(&["values"]));
        match requirement.str_at(&["operator"]) {
            "In" | "NotIn" if values.is_empty() => {
                errors.push(FieldError::required(format!("{at}.values"), "must be specified when `operator` is 'In' or 'NotIn'"));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(FieldError::forbidden(format!("{at}.values"), why));
            }
            _ => {}
        }
        if labels {
            super::requirement_errors(requirement, &at, errors);
        } else if key.is_empty() {
            errors.push(FieldError::required(format!("{at}.key"), "must be specified"));
        }
    }
}
