//! APIServices: their names, what the aggregator needs to know of a Service, and their columns. Whether a Service answers is not
//! decided here.

use fram_machinery::status::FieldError;
use fram_machinery::{Value, meta, names, object};

use super::{NameRule, Strategy};

pub(super) struct ApiService;

impl Strategy for ApiService {
    fn name_rule(&self) -> NameRule {
        names::path_segment
    }

    /// What this server answers itself is available from the start; see NewLocalAvailableAPIServiceCondition.
    fn prepare_create(&self, object: &mut Value) {
        if is_local(object) {
            let since = object.str_at(&["metadata", "creationTimestamp"]).to_string();
            let condition = object!({ "type": "Available", "status": "True", "lastTransitionTime": since, "reason": "Local",
                "message": "Local APIServices are always available" });
            object.set(&["status", "conditions"], vec![condition]);
        }
    }

    fn validate_subresource(&self, subresource: &str, object: &Value, _: &Value) -> Vec<FieldError> {
        let conditions = object.list_at(&["status", "conditions"]).iter().enumerate().filter(|_| subresource == "status");
        let lacking = conditions.filter(|(_, c)| c.str_at(&["status"]).is_empty());
        lacking
            .map(|(i, _)| FieldError::not_supported(format!("status.conditions[{i}].status"), "", &["True", "False", "Unknown"]))
            .collect()
    }

    /// See ValidateAPIService.
    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let (group, version) = (object.str_at(&["spec", "group"]), object.str_at(&["spec", "version"]));
        let wanted = format!("{version}.{group}");
        if meta::name(object) != wanted {
            let why = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
            errors.push(FieldError::invalid("metadata.name", meta::name(object), why));
        }
        if group.is_empty() && version != "v1" {
            errors.push(FieldError::required("spec.group", "only v1 may have an empty group and it better be legacy kube"));
        } else if let (false, Err(why)) = (group.is_empty(), names::dns_subdomain(group)) {
            errors.push(FieldError::invalid("spec.group", group, why));
        }
        if let Err(why) = names::dns1035_label(version) {
            errors.push(FieldError::invalid("spec.version", version, why));
        }
        for (field, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
            let priority = object.int_at(&["spec", field]).unwrap_or(0);
            if !(1..=most).contains(&priority) {
                errors.push(FieldError::invalid(format!("spec.{field}"), priority, format!("must be positive and less than {most}")));
            }
        }
        let bundle = object.str_at(&["spec", "caBundle"]);
        let insecure = object.bool_at(&["spec", "insecureSkipTLSVerify"]) == Some(true);
        if is_local(object) {
            if !bundle.is_empty() {
                errors.push(FieldError::invalid("spec.caBundle", size(bundle), "local APIServices may not have a caBundle"));
            }
            if insecure {
                let why = "local APIServices may not have insecureSkipTLSVerify";
                errors.push(FieldError::invalid("spec.insecureSkipTLSVerify", true, why));
            }
            return errors;
        }
        for field in ["namespace", "name"].into_iter().filter(|f| object.str_at(&["spec", "service", f]).is_empty()) {
            errors.push(FieldError::required(format!("spec.service.{field}"), ""));
        }
        let port = object.int_at(&["spec", "service", "port"]).unwrap_or(0);
        if let Err(why) = names::port_number(port) {
            errors.push(FieldError::invalid("spec.service.port", port, format!("port is not valid: {why}")));
        }
        if insecure && !bundle.is_empty() {
            errors.push(FieldError::invalid("spec.insecureSkipTLSVerify", true, "may not be true if caBundle is present"));
        }
        errors
    }

    fn cell(&self, object: &Value, column: &str) -> Value {
        match column {
            "Service" if is_local(object) => "Local".into(),
            "Service" => {
                format!("{}/{}", object.str_at(&["spec", "service", "namespace"]), object.str_at(&["spec", "service", "name"])).into()
            }
            "Available" => {
                let Some(condition) = meta::condition(object, "Available") else { return "Unknown".into() };
                let (status, reason) = (condition.str_at(&["status"]), condition.str_at(&["reason"]));
                if status == "True" || reason.is_empty() { status.into() } else { format!("{status} ({reason})").into() }
            }
            _ => Value::Null,
        }
    }
}

/// The API server itself answers it.
fn is_local(object: &Value) -> bool {
    object.at(&["spec", "service"]).is_none_or(Value::is_null)
}

/// How many bytes a base64 text stands for, as errors say it.
fn size(text: &str) -> String {
    format!("{} bytes", super::decoded_size(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> Value {
        object!({ "metadata": { "name": "v1.example.com", "creationTimestamp": "2026-01-01T00:00:00Z" },
            "spec": { "group": "example.com", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 10,
                "service": { "namespace": "ns", "name": "api", "port": 443 } } })
    }

    #[test]
    fn what_no_aggregator_could_use_is_refused() {
        assert_eq!(ApiService.validate(&service()), []);
        let cases: [(&[&str], Value, &str); 9] = [
            (&["metadata", "name"], "v2.example.com".into(), "metadata.name: Invalid value: \"v2.example.com\": must be `spec.version+"),
            (&["spec", "version"], "1".into(), "spec.version: Invalid value: \"1\""),
            (
                &["spec", "groupPriorityMinimum"],
                0.into(),
                "spec.groupPriorityMinimum: Invalid value: 0: must be positive and less than 20000",
            ),
            (&["spec", "versionPriority"], 1001.into(), "spec.versionPriority: Invalid value: 1001: must be positive and less than 1000"),
            (&["spec", "service", "name"], "".into(), "spec.service.name: Required value"),
            (&["spec", "service", "namespace"], "".into(), "spec.service.namespace: Required value"),
            (&["spec", "service", "port"], 0.into(), "spec.service.port: Invalid value: 0: port is not valid"),
            (&["spec", "service"], Value::Null, ""),
            (&["spec", "group"], "".into(), "metadata.name: Invalid value"),
        ];
        for (path, value, wanted) in cases {
            let mut changed = service();
            changed.set(path, value);
            let errors: Vec<String> = ApiService.validate(&changed).iter().map(ToString::to_string).collect();
            assert_eq!(errors.is_empty(), wanted.is_empty(), "{path:?}: {errors:?}");
            assert!(wanted.is_empty() || errors.iter().any(|e| e.starts_with(wanted)), "{path:?}: {errors:?}");
        }
        let mut local = service();
        local.set(&["spec", "service"], Value::Null);
        local.set(&["spec", "caBundle"], "YWI=");
        let error = ApiService.validate(&local)[0].to_string();
        assert_eq!(error, "spec.caBundle: Invalid value: \"2 bytes\": local APIServices may not have a caBundle");
    }

    #[test]
    fn a_local_one_is_available_from_the_start_and_a_remote_one_is_not() {
        let mut remote = service();
        ApiService.prepare_create(&mut remote);
        assert_eq!((ApiService.cell(&remote, "Service"), ApiService.cell(&remote, "Available")), ("ns/api".into(), "Unknown".into()));
        remote.set(&["status", "conditions"], vec![object!({ "type": "Available", "status": "False", "reason": "ServiceNotFound" })]);
        assert_eq!(ApiService.cell(&remote, "Available"), "False (ServiceNotFound)".into());
        let mut local = service();
        local.set(&["spec", "service"], Value::Null);
        ApiService.prepare_create(&mut local);
        assert_eq!((ApiService.cell(&local, "Service"), ApiService.cell(&local, "Available")), ("Local".into(), "True".into()));
        assert_eq!(local.list_at(&["status", "conditions"])[0].str_at(&["lastTransitionTime"]), "2026-01-01T00:00:00Z");
    }
}
