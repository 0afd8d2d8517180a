//! Roles and bindings: defaults of subjects, what rules and references have to say, and the cells of the tables.

use fram_machinery::status::FieldError;
use fram_machinery::{Value, names};

use super::{NameRule, Strategy};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Roles of a namespace and of the cluster.
pub(super) struct Role;
impl Strategy for Role {
    fn name_rule(&self) -> NameRule {
        names::path_segment
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let cluster = object.str_at(&["kind"]) == "ClusterRole";
        for (i, rule) in object.list_at(&["rules"]).iter().enumerate() {
            rule_errors(rule, cluster, &format!("rules[{i}]"), &mut errors);
        }
        let Some(aggregation) = object.get("aggregationRule").filter(|a| !a.is_null()) else { return errors };
        let selectors = aggregation.list_at(&["clusterRoleSelectors"]);
        if selectors.is_empty() {
            errors.push(FieldError::required("aggregationRule.clusterRoleSelectors", "at least one clusterRoleSelector required"));
        }
        for (i, selector) in selectors.iter().enumerate() {
            let mut found = Vec::new();
            super::label_selector_errors(selector, "", &mut found);
            if !found.is_empty() {
                let at = format!("aggregationRule.clusterRoleSelectors[{i}]");
                errors.push(FieldError::invalid(at, selector.clone(), "invalid label selector"));
            }
        }
        errors
    }
}

fn rule_errors(rule: &Value, cluster: bool, at: &str, errors: &mut Vec<FieldError>) {
    let given = |f: &str| !rule.list_at(&[f]).is_empty();
    if !given("verbs") {
        errors.push(FieldError::required(format!("{at}.verbs"), "verbs must contain at least one value"));
    }
    if given("nonResourceURLs") {
        let value = rule.get("nonResourceURLs").cloned();
        let at = format!("{at}.nonResourceURLs");
        if !cluster {
            errors.push(FieldError::invalid(&at, value.clone(), "namespaced rules cannot apply to non-resource URLs"));
        }
        if given("apiGroups") || given("resources") || given("resourceNames") {
            errors.push(FieldError::invalid(at, value, "rules cannot apply to both regular resources and non-resource URLs"));
        }
        return;
    }
    for (field, why) in [
        ("apiGroups", "resource rules must supply at least one api group"),
        ("resources", "resource rules must supply at least one resource"),
    ] {
        if !given(field) {
            errors.push(FieldError::required(format!("{at}.{field}"), why));
        }
    }
}

/// Bindings of a namespace and of the cluster.
pub(super) struct Binding;
impl Strategy for Binding {
    fn name_rule(&self) -> NameRule {
        names::path_segment
    }

    fn default(&self, object: &mut Value) {
        if object.list_at(&["subjects"]).is_empty() {
            return;
        }
        for subject in object.place(&["subjects"]).make_list().make_mut() {
            let group = if subject.str_at(&["kind"]) == "ServiceAccount" { "" } else { GROUP };
            if subject.str_at(&["apiGroup"]).is_empty() && !group.is_empty() && ["User", "Group"].contains(&subject.str_at(&["kind"])) {
                subject.set(&["apiGroup"], group);
            }
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let reference = |field: &str| object.str_at(&["roleRef", field]);
        if reference("apiGroup") != GROUP {
            errors.push(FieldError::not_supported("roleRef.apiGroup", reference("apiGroup"), &[GROUP]));
        }
        let kinds: &[&str] = if object.str_at(&["kind"]) == "ClusterRoleBinding" { &["ClusterRole"] } else { &["ClusterRole", "Role"] };
        if !kinds.contains(&reference("kind")) {
            errors.push(FieldError::not_supported("roleRef.kind", reference("kind"), kinds));
        }
        match reference("name") {
            "" => errors.push(FieldError::required("roleRef.name", "")),
            name => errors.extend(names::path_segment(name).err().map(|why| FieldError::invalid("roleRef.name", name, why))),
        }
        for (i, subject) in object.list_at(&["subjects"]).iter().enumerate() {
            subject_errors(subject, object.str_at(&["kind"]) == "ClusterRoleBinding", &format!("subjects[{i}]"), &mut errors);
        }
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        if object.get("roleRef") == old.get("roleRef") {
            return Vec::new();
        }
        vec![FieldError::invalid("roleRef", object.get("roleRef").cloned(), "cannot change roleRef")]
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

/// Within a namespace an account without one is of the binding's own.
fn subject_errors(subject: &Value, cluster: bool, at: &str, errors: &mut Vec<FieldError>) {
    let text = |field: &str| subject.str_at(&[field]);
    if text("name").is_empty() {
        errors.push(FieldError::required(format!("{at}.name"), ""));
    }
    match text("kind") {
        "ServiceAccount" => {
            if !text("name").is_empty()
                && let Err(why) = names::dns_subdomain(text("name"))
            {
                errors.push(FieldError::invalid(format!("{at}.name"), text("name"), why));
            }
            if !text("apiGroup").is_empty() {
                errors.push(FieldError::not_supported(format!("{at}.apiGroup"), text("apiGroup"), &[""]));
            }
            if text("namespace").is_empty() && cluster {
                errors.push(FieldError::required(format!("{at}.namespace"), ""));
            }
        }
        "User" | "Group" if text("apiGroup") != GROUP => {
            errors.push(FieldError::not_supported(format!("{at}.apiGroup"), text("apiGroup"), &[GROUP]));
        }
        "User" | "Group" => {}
        other => errors.push(FieldError::not_supported(format!("{at}.kind"), other, &["Group", "ServiceAccount", "User"])),
    }
}
