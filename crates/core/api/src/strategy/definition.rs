//! CustomResourceDefinitions: defaults of names, stored versions, and what a definition must be to be served.

use fram_machinery::jsonpath::JsonPath;
use fram_machinery::status::FieldError;
use fram_machinery::structural::{self, Structural};
use fram_machinery::{Value, meta, names, object};

use super::Strategy;
use crate::custom::rules::Checking;

pub(super) struct CustomResourceDefinition;

/// Kept by a definition until its objects are gone.
const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";
const APPROVED: &str = "api-approved.kubernetes.io";
/// See upstream's validateDeprecationWarning.
const LONGEST_WARNING: usize = 256;
const MOST_SELECTABLE_FIELDS: usize = 8;

impl Strategy for CustomResourceDefinition {
    fn default(&self, object: &mut Value) {
        let kind = object.str_at(&["spec", "names", "kind"]).to_string();
        if object.str_at(&["spec", "names", "singular"]).is_empty() {
            object.set(&["spec", "names", "singular"], kind.to_lowercase());
        }
        if object.str_at(&["spec", "names", "listKind"]).is_empty() && !kind.is_empty() {
            object.set(&["spec", "names", "listKind"], format!("{kind}List"));
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        note_storage(object);
    }

    fn prepare_update(&self, object: &mut Value, _old: &Value) {
        note_storage(object);
    }

    fn marks_deletion(&self) -> bool {
        true
    }

    fn prepare_delete(&self, object: &mut Value) {
        meta::add_finalizer(object, CLEANUP);
        let now = object.str_at(&["metadata", "deletionTimestamp"]).to_string();
        let condition = object!({ "type": "Terminating", "status": "True", "reason": "InstanceDeletionPending",
            "message": "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon" });
        crate::custom::status::set_condition(object.place(&["status"]), condition, &now);
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let spec = object.get("spec").cloned().unwrap_or_default();
        group(&spec, &mut errors);
        all_names(&spec, &mut errors);
        if spec.bool_at(&["preserveUnknownFields"]) == Some(true) {
            let why = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
            errors.push(FieldError::invalid("spec.preserveUnknownFields", true, why));
        }
        let versions = spec.list_at(&["versions"]);
        if versions.iter().filter(|v| v.bool_at(&["storage"]) == Some(true)).count() != 1 {
            let why = "must have exactly one version marked as storage version";
            errors.push(FieldError::invalid("spec.versions", Value::from(versions.to_vec()), why));
        }
        for (i, version) in versions.iter().enumerate() {
            let at = format!("spec.versions[{i}]");
            if versions[..i].iter().any(|v| v.str_at(&["name"]) == version.str_at(&["name"])) {
                errors.push(FieldError::invalid("spec.versions", Value::from(versions.to_vec()), "must contain unique version names"));
            }
            self::version(version, &at, &mut errors);
            parts(versions, i, &mut errors);
        }
        if let Some(first) = versions.first().map(|v| v.str_at(&["name"])).filter(|n| !n.is_empty())
            && let Err(why) = names::dns1035_label(first)
        {
            errors.push(FieldError::invalid("spec.version", first, why));
        }
        conversion(&spec, &mut errors);
        stored_versions(object, &mut errors);
        errors
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let wanted = format!("{}.{}", object.str_at(&["spec", "names", "plural"]), object.str_at(&["spec", "group"]));
        let name = meta::name(object);
        let mut errors = rules(object, None);
        if !name.is_empty() && name != wanted {
            errors.push(FieldError::invalid("metadata.name", name, "must be spec.names.plural+\".\"+spec.group"));
        }
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        // The one pair is in the object's name, the other in where its objects are stored.
        let named = [&["spec", "group"][..], &["spec", "names", "plural"]];
        let stored =
            [&["spec", "scope"][..], &["spec", "names", "kind"]].into_iter().filter(|_| meta::condition_is_true(old, "Established"));
        let changed = named.into_iter().chain(stored).filter(|path| object.str_at(path) != old.str_at(path));
        let mut errors = rules(object, Some(old));
        // What was stored before rules had types can still be let go.
        if !errors.is_empty() {
            let before = rules(old, None);
            errors.retain(|e| !before.contains(e));
        }
        errors.extend(changed.map(|path| FieldError::invalid(path.join("."), object.at(path).cloned(), "field is immutable")));
        errors
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        let formats = |object: &Value| {
            let mut found = Vec::new();
            for version in object.list_at(&["spec", "versions"]) {
                if let Some(schema) = version.at(&["schema", "openAPIV3Schema"]) {
                    structural::unknown_formats(schema, &mut found);
                }
            }
            found
        };
        let known = old.map(formats).unwrap_or_default();
        formats(object).into_iter().filter(|f| !known.contains(f)).map(|f| format!("unrecognized format {f:?}")).collect()
    }
}

/// Objects may be stored in every version that was a storage version once.
fn note_storage(object: &mut Value) {
    let storage = object.list_at(&["spec", "versions"]).iter().find(|v| v.bool_at(&["storage"]) == Some(true));
    let Some(name) = storage.map(|v| v.str_at(&["name"]).to_string()) else { return };
    let stored = object.place(&["status", "storedVersions"]).make_list();
    if !stored.iter().any(|v| v.as_str() == Some(&name)) {
        stored.push(name.into());
    }
}

fn group(spec: &Value, errors: &mut Vec<FieldError>) {
    let group = spec.str_at(&["group"]);
    if group.is_empty() {
        errors.push(FieldError::required("spec.group", ""));
    } else if let Err(why) = names::dns_subdomain(group) {
        errors.push(FieldError::invalid("spec.group", group, why));
    } else if !group.contains('.') {
        errors.push(FieldError::invalid("spec.group", group, "should be a domain with at least one dot"));
    }
    if spec.str_at(&["scope"]).is_empty() {
        errors.push(FieldError::required("spec.scope", ""));
    }
}

fn all_names(spec: &Value, errors: &mut Vec<FieldError>) {
    let mut check = |field: String, name: &str, lower: bool| {
        let label = if lower { name.to_string() } else { name.to_lowercase() };
        let rule = names::dns1035_label(&label).err();
        if let Some(why) = rule.filter(|_| !name.is_empty()) {
            errors.push(FieldError::invalid(field, name, why));
        }
    };
    check("spec.names.plural".into(), spec.str_at(&["names", "plural"]), true);
    check("spec.names.singular".into(), spec.str_at(&["names", "singular"]), true);
    check("spec.names.kind".into(), spec.str_at(&["names", "kind"]), false);
    check("spec.names.listKind".into(), spec.str_at(&["names", "listKind"]), false);
    for field in ["shortNames", "categories"] {
        for (i, name) in spec.list_at(&["names", field]).iter().enumerate() {
            check(format!("spec.names.{field}[{i}]"), name.as_str().unwrap_or_default(), true);
        }
    }
    for field in ["plural", "singular", "kind", "listKind"] {
        if spec.str_at(&["names", field]).is_empty() {
            errors.push(FieldError::required(format!("spec.names.{field}"), ""));
        }
    }
    let (kind, list) = (spec.str_at(&["names", "kind"]), spec.str_at(&["names", "listKind"]));
    if !kind.is_empty() && kind == list {
        errors.push(FieldError::invalid("spec.names.listKind", list, "kind and listKind may not be the same"));
    }
}

fn version(version: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let name = version.str_at(&["name"]);
    if let Err(why) = names::dns1035_label(name) {
        errors.push(FieldError::invalid(format!("{at}.name"), name, why));
    }
    let deprecated = version.bool_at(&["deprecated"]) == Some(true);
    if let Some(warning) = version.get("deprecationWarning").and_then(Value::as_str) {
        let why = match warning {
            _ if !deprecated => Some("can only be set for deprecated versions"),
            "" => Some("must not be an empty string"),
            _ if warning.len() > LONGEST_WARNING => Some("must be <= 256 characters long"),
            _ if warning.chars().any(char::is_control) => Some("must only contain printable UTF-8 characters"),
            _ => None,
        };
        errors.extend(why.map(|why| FieldError::invalid(format!("{at}.deprecationWarning"), warning, why)));
    }
    if version.at(&["schema", "openAPIV3Schema"]).is_none_or(Value::is_null) {
        errors.push(FieldError::required(format!("{at}.schema.openAPIV3Schema"), "schemas are required"));
    }
}

/// Where a part of a version is. One that all versions have alike is upstream's top-level field of the internal version, and named
/// as such; it is looked at once, with the first version.
fn place(versions: &[Value], i: usize, field: &str) -> Option<String> {
    let shared = versions.iter().all(|v| v.get(field) == versions[i].get(field));
    match (shared, field) {
        (true, _) if i > 0 => None,
        (true, "schema") => Some("spec.validation".to_string()),
        (true, _) => Some(format!("spec.{field}")),
        (false, _) => Some(format!("spec.versions[{i}].{field}")),
    }
}

/// The parts that versions may have in common.
fn parts(versions: &[Value], i: usize, errors: &mut Vec<FieldError>) {
    let version = &versions[i];
    let place = |field: &str| place(versions, i, field);
    let schema = version.at(&["schema", "openAPIV3Schema"]).filter(|s| !s.is_null());
    if let (Some(at), Some(schema)) = (place("schema"), schema) {
        errors.extend(structural::schema_errors(schema, &format!("{at}.openAPIV3Schema")));
    }
    if let Some(at) = place("additionalPrinterColumns") {
        for (i, column) in version.list_at(&["additionalPrinterColumns"]).iter().enumerate() {
            printer_column(column, &format!("{at}[{i}]"), errors);
        }
    }
    if let (Some(at), Some(scale)) = (place("subresources"), version.at(&["subresources", "scale"]).filter(|s| !s.is_null())) {
        scale_paths(scale, &format!("{at}.scale"), errors);
    }
    if let Some(at) = place("selectableFields") {
        match schema {
            Some(schema) => selectable(version, &Structural::read(schema), &at, errors),
            None if version.list_at(&["selectableFields"]).is_empty() => {}
            None => errors.push(FieldError::invalid(at, "", "may only be set when validations.schema is included")),
        }
    }
}

/// What is wrong with the validation rules of all versions.
fn rules(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let versions = object.list_at(&["spec", "versions"]);
    for (i, version) in versions.iter().enumerate() {
        let Some(schema) = version.at(&["schema", "openAPIV3Schema"]).filter(|s| !s.is_null()) else { continue };
        let Some(at) = place(versions, i, "schema") else { continue };
        let path = format!("{at}.openAPIV3Schema");
        // The types of rules are those of a schema that is sound.
        if !structural::schema_errors(schema, &path).is_empty() {
            continue;
        }
        let before = old.into_iter().flat_map(|o| o.list_at(&["spec", "versions"])).find(|v| v.get("name") == version.get("name"));
        let unchanged = before.is_some_and(|v| v.at(&["schema", "openAPIV3Schema"]) == Some(schema));
        crate::custom::rules::errors(schema, &path, Checking { unchanged, out: &mut errors });
    }
    errors
}

fn printer_column(column: &Value, at: &str, errors: &mut Vec<FieldError>) {
    const TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
    const FORMATS: [&str; 8] = ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
    if column.str_at(&["name"]).is_empty() {
        errors.push(FieldError::required(format!("{at}.name"), ""));
    }
    let ty = column.str_at(&["type"]);
    if ty.is_empty() {
        errors.push(FieldError::required(format!("{at}.type"), "must be one of integer,number,string,boolean,date"));
    } else if !TYPES.contains(&ty) {
        let why = "must be one of integer,number,string,boolean,date";
        errors.push(FieldError::invalid(format!("{at}.type"), ty, why));
    }
    let format = column.str_at(&["format"]);
    if !format.is_empty() && !FORMATS.contains(&format) {
        let why = "must be one of int32,int64,float,double,byte,date,date-time,password";
        errors.push(FieldError::invalid(format!("{at}.format"), format, why));
    }
    match column.str_at(&["jsonPath"]) {
        "" => errors.push(FieldError::required(format!("{at}.JSONPath"), "")),
        path if !path.starts_with('.') => {
            errors.push(FieldError::invalid(format!("{at}.JSONPath"), path, "must be a simple json path starting with ."));
        }
        path => {
            if let Err(why) = JsonPath::parse(path) {
                errors.push(FieldError::invalid(format!("{at}.JSONPath"), path, why.to_string()));
            }
        }
    }
}

/// A path that names one field, with these fields at its start.
fn simple(path: &str) -> Option<Vec<String>> {
    let fields = path.strip_prefix('.').and_then(|_| JsonPath::parse(path).ok())?.fields()?;
    Some(fields.iter().map(ToString::to_string).collect())
}

fn scale_paths(scale: &Value, at: &str, errors: &mut Vec<FieldError>) {
    for (field, starts, required) in [
        ("specReplicasPath", &["spec"][..], true),
        ("statusReplicasPath", &["status"], true),
        ("labelSelectorPath", &["spec", "status"], false),
    ] {
        let path = scale.str_at(&[field]);
        let field = format!("{at}.{field}");
        if path.is_empty() {
            if required {
                errors.push(FieldError::required(field, ""));
            }
            continue;
        }
        let good = simple(path).is_some_and(|p| p.len() > 1 && starts.contains(&p[0].as_str()));
        if !good {
            let wanted: Vec<String> = starts.iter().map(|s| format!(".{s}")).collect();
            let why = format!("should be a json path under {}", wanted.join(" or "));
            errors.push(FieldError::invalid(field, path, why));
        }
    }
}

fn selectable(version: &Value, schema: &Structural, at: &str, errors: &mut Vec<FieldError>) {
    use fram_machinery::structural::Sort;
    let fields = version.list_at(&["selectableFields"]);
    if fields.len() > MOST_SELECTABLE_FIELDS {
        errors.push(FieldError {
            field: at.into(),
            problem: fram_machinery::status::Problem::TooMany { actual: fields.len(), limit: MOST_SELECTABLE_FIELDS },
        });
    }
    for (i, field) in fields.iter().enumerate() {
        let path = field.str_at(&["jsonPath"]);
        let place = format!("{at}[{i}].jsonPath");
        if path.is_empty() {
            errors.push(FieldError::required(place, ""));
            continue;
        }
        if fields[..i].iter().any(|f| f.str_at(&["jsonPath"]) == path) {
            errors.push(FieldError::duplicate(place.clone(), path));
        }
        let Some(steps) = simple(path) else {
            errors.push(FieldError::invalid(place, path, "is an invalid path: must be a simple json path"));
            continue;
        };
        if steps.first().is_some_and(|s| s == "metadata") {
            errors.push(FieldError::invalid(place, path, "must not point to fields in metadata"));
            continue;
        }
        let steps: Vec<fram_machinery::Key> = steps.into_iter().map(Into::into).collect();
        match schema.at(&steps).map(|s| s.sort) {
            None => errors.push(FieldError::invalid(place, path, "is an invalid path: does not refer to a valid field")),
            Some(Sort::String | Sort::Integer | Sort::Boolean) => {}
            Some(_) => {
                let why =
                    "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
                errors.push(FieldError::invalid(place, path, why));
            }
        }
    }
}

fn conversion(spec: &Value, errors: &mut Vec<FieldError>) {
    let Some(webhook) = spec.at(&["conversion", "webhook"]).filter(|w| !w.is_null()) else {
        if spec.str_at(&["conversion", "strategy"]) == "Webhook" {
            errors.push(FieldError::required("spec.conversion.webhookClientConfig", "required when strategy is set to Webhook"));
            errors.push(FieldError::required("spec.conversion.conversionReviewVersions", ""));
        }
        return;
    };
    if spec.str_at(&["conversion", "strategy"]) != "Webhook" {
        let why = "should not be set when strategy is not set to Webhook";
        errors.push(FieldError::forbidden("spec.conversion.webhookClientConfig", why));
        if !webhook.list_at(&["conversionReviewVersions"]).is_empty() {
            errors.push(FieldError::forbidden("spec.conversion.conversionReviewVersions", why));
        }
        return;
    }
    let client = webhook.get("clientConfig").unwrap_or(&Value::Null);
    super::webhooks::client(client, "spec.conversion.webhookClientConfig", errors);
    let versions = webhook.list_at(&["conversionReviewVersions"]);
    if versions.is_empty() {
        errors.push(FieldError::required("spec.conversion.conversionReviewVersions", ""));
    } else if !versions.iter().any(|v| matches!(v.as_str(), Some("v1" | "v1beta1"))) {
        let why = "must include at least one of v1, v1beta1";
        errors.push(FieldError::invalid("spec.conversion.conversionReviewVersions", Value::from(versions.to_vec()), why));
    }
}

fn stored_versions(object: &Value, errors: &mut Vec<FieldError>) {
    let versions = object.list_at(&["spec", "versions"]);
    let noted = object.list_at(&["status", "storedVersions"]);
    let storage = versions.iter().enumerate().filter(|(_, v)| v.bool_at(&["storage"]) == Some(true));
    // One that is named twice counts as noted once.
    let again = |i: usize, name: &str| versions[..i].iter().any(|v| v.str_at(&["name"]) == name);
    let lacks = |i: usize, name: &str| again(i, name) || noted.iter().all(|n| n.as_str() != Some(name));
    let lacking = storage.map(|(i, v)| (i, v.str_at(&["name"]))).filter(|(i, name)| lacks(*i, name));
    let mut lacking = lacking.map(|(_, name)| format!("must have the storage version {name}"));
    let none = noted.is_empty().then(|| "must have at least one stored version".to_string());
    if let Some(why) = none.or(lacking.next()) {
        errors.push(FieldError::invalid("status.storedVersions", Value::from(noted.to_vec()), why));
    }
    for (i, stored) in noted.iter().enumerate() {
        let stored = stored.as_str().unwrap_or_default();
        if versions.iter().all(|v| v.str_at(&["name"]) != stored) {
            let why = format!(
                "missing from spec.versions; {stored} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {stored} and removes {stored} from status.storedVersions"
            );
            errors.push(FieldError::invalid(format!("status.storedVersions[{i}]"), stored, why));
        }
    }
    approval(object, errors);
}

/// Groups of the Kubernetes community need an approval.
fn approval(object: &Value, errors: &mut Vec<FieldError>) {
    let group = object.str_at(&["spec", "group"]);
    let protected = ["k8s.io", "kubernetes.io"].iter().any(|p| group == *p || group.ends_with(&format!(".{p}")));
    if protected && meta::annotation(object, APPROVED).unwrap_or_default().is_empty() {
        let why = format!(
            "protected groups must have approval annotation {APPROVED:?}, see https://github.com/kubernetes/enhancements/pull/1111"
        );
        errors.push(FieldError::required(format!("metadata.annotations[{APPROVED}]"), &why));
    }
}
