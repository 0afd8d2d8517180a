//! ValidatingAdmissionPolicies, MutatingAdmissionPolicies and their bindings: expressions that compile, rules, selectors,
//! references to params, columns. What a policy decides about a request is not here.

use fram_machinery::jsonpath::JsonPath;
use fram_machinery::status::{FieldError, Problem};
use fram_machinery::{Value, names};

use super::{Strategy, webhooks};
use crate::policy::{Scope, Variables, Wanted, has_params, variables};

pub(super) struct ValidatingAdmissionPolicy;
pub(super) struct MutatingAdmissionPolicy;
pub(super) struct Binding {
    pub(super) mutating: bool,
}

/// See upstream's maxAuditAnnotations and maxAuditAnnotationValueExpressionLength.
const MOST_ANNOTATIONS: usize = 20;
const LONGEST_ANNOTATION: usize = 5 * 1024;

impl Strategy for ValidatingAdmissionPolicy {
    fn prepare_create(&self, object: &mut Value) {
        object.remove(&["status"]);
    }

    fn validate(&self, policy: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let variables = common(policy, &mut errors);
        let scope = Scope { params: has_params(policy), variables: Some(&variables), authorizer: true, ..Scope::default() };
        let validations = policy.list_at(&["spec", "validations"]);
        let annotations = policy.list_at(&["spec", "auditAnnotations"]);
        if validations.is_empty() && annotations.is_empty() {
            for field in ["spec.validations", "spec.auditAnnotations"] {
                errors.push(FieldError::required(field, "validations or auditAnnotations must contain at least one item"));
            }
        }
        for (i, each) in validations.iter().enumerate() {
            validation(each, &format!("spec.validations[{i}]"), &scope, &mut errors);
        }
        if annotations.len() > MOST_ANNOTATIONS {
            let why = format!("must not have more than {MOST_ANNOTATIONS} auditAnnotations");
            errors.push(FieldError::invalid("spec.auditAnnotations", Value::from(annotations.to_vec()), why));
        }
        for (i, each) in annotations.iter().enumerate() {
            let at = format!("spec.auditAnnotations[{i}]");
            annotation(policy, each, &at, &scope, &mut errors);
            if annotations[..i].iter().any(|a| a.str_at(&["key"]) == each.str_at(&["key"])) {
                errors.push(FieldError::duplicate(format!("{at}.key"), each.str_at(&["key"])));
            }
        }
        errors
    }

    fn validate_subresource(&self, subresource: &str, policy: &Value, _: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if subresource == "status" {
            super::limits::condition_errors(policy.list_at(&["status", "conditions"]), "status.conditions", &mut errors);
            for (i, warning) in policy.list_at(&["status", "typeChecking", "expressionWarnings"]).iter().enumerate() {
                let at = format!("status.typeChecking.expressionWarnings[{i}].fieldRef");
                let text = warning.str_at(&["fieldRef"]).trim();
                let path = if text.starts_with(['.', '[']) { text.to_string() } else { format!(".{text}") };
                // Between names only what paths are made of may stand.
                let strange = text.chars().any(|c| !c.is_ascii_alphanumeric() && !"._-[]()*@?'\"/$, <>=".contains(c));
                if !text.is_empty() && (strange || JsonPath::parse(&path).is_err()) {
                    errors.push(FieldError::invalid(at, text, "invalid JSONPath"));
                }
            }
        }
        errors
    }

    fn cell(&self, policy: &Value, column: &str) -> Value {
        match column {
            "Validations" => Value::Int(policy.list_at(&["spec", "validations"]).len() as i64),
            _ => param_kind(policy),
        }
    }
}

impl Strategy for MutatingAdmissionPolicy {
    fn validate(&self, policy: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        common(policy, &mut errors);
        // Those that have no expression are seen as well.
        let variables = variables(policy, Scope { params: has_params(policy), authorizer: true, ..Scope::default() }).0;
        let scope = Scope { params: has_params(policy), variables: Some(&variables), patch: true, authorizer: true, ..Scope::default() };
        changes_only(policy, "matchConstraints", &mut errors);
        let mutations = policy.list_at(&["spec", "mutations"]);
        if mutations.is_empty() {
            errors.push(FieldError::required("spec.mutations", "mutations must contain at least one item"));
        }
        for (i, each) in mutations.iter().enumerate() {
            mutation(each, &format!("spec.mutations[{i}]"), &scope, &mut errors);
        }
        if policy.str_at(&["spec", "reinvocationPolicy"]).is_empty() {
            errors.push(FieldError::required("spec.reinvocationPolicy", ""));
        }
        errors
    }

    fn cell(&self, policy: &Value, column: &str) -> Value {
        match column {
            "Mutations" => Value::Int(policy.list_at(&["spec", "mutations"]).len() as i64),
            _ => param_kind(policy),
        }
    }
}

impl Strategy for Binding {
    fn validate(&self, binding: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        match binding.str_at(&["spec", "policyName"]) {
            "" => errors.push(FieldError::required("spec.policyName", "")),
            name => {
                if let Err(why) = names::dns_subdomain(name) {
                    errors.push(FieldError::invalid("spec.policyName", name, why));
                }
            }
        }
        if let Some(reference) = binding.at(&["spec", "paramRef"]).filter(|r| !r.is_null()) {
            param_ref(reference, &mut errors);
        }
        if let Some(resources) = binding.at(&["spec", "matchResources"]).filter(|r| !r.is_null()) {
            match_resources(resources, "spec.matchResources", &mut errors);
        }
        if self.mutating {
            changes_only(binding, "matchResources", &mut errors);
        } else {
            validation_actions(binding, &mut errors);
        }
        errors
    }

    fn cell(&self, binding: &Value, _: &str) -> Value {
        let reference = |field: &str| binding.str_at(&["spec", "paramRef", field]);
        match (reference("namespace"), reference("name")) {
            _ if binding.at(&["spec", "paramRef"]).is_none_or(Value::is_null) => "<unset>".into(),
            (_, "") => super::printed_selector(binding.at(&["spec", "paramRef", "selector"])),
            ("", name) => format!("*/{name}").into(),
            (namespace, name) => format!("{namespace}/{name}").into(),
        }
    }
}

fn param_kind(policy: &Value) -> Value {
    match (policy.str_at(&["spec", "paramKind", "apiVersion"]), policy.str_at(&["spec", "paramKind", "kind"])) {
        (_, "") => "<unset>".into(),
        (version, kind) => format!("{version}/{kind}").into(),
    }
}

/// The forms of what the params are of; that it is given is checked already.
fn param_kind_errors(policy: &Value, errors: &mut Vec<FieldError>) {
    let (version, kind) = (policy.str_at(&["spec", "paramKind", "apiVersion"]), policy.str_at(&["spec", "paramKind", "kind"]));
    let (group, name) = version.split_once('/').unwrap_or(("", version));
    let mut wrong = |field: &str, text: &str, why: &str| errors.push(FieldError::invalid(format!("spec.paramKind.{field}"), text, why));
    if !version.is_empty() {
        if let (false, Err(why)) = (group.is_empty(), names::dns_subdomain(group)) {
            wrong("apiVersion", group, why);
        }
        if let Err(why) = names::dns1035_label(name) {
            wrong("apiVersion", name, why);
        }
    }
    if let (false, Err(why)) = (kind.is_empty(), names::dns1035_label(&kind.to_lowercase())) {
        wrong("kind", kind, why);
    }
}

/// What both sorts of policies have; gives the variables that have an expression.
fn common(policy: &Value, errors: &mut Vec<FieldError>) -> Variables {
    let params = has_params(policy);
    if params {
        for field in ["apiVersion", "kind"] {
            if policy.str_at(&["spec", "paramKind", field]).is_empty() {
                errors.push(FieldError::required(format!("spec.paramKind.{field}"), ""));
            }
        }
        param_kind_errors(policy, errors);
    }
    match policy.at(&["spec", "matchConstraints"]).filter(|c| !c.is_null()) {
        None => errors.push(FieldError::required("spec.matchConstraints", "")),
        Some(constraints) => {
            match_resources(constraints, "spec.matchConstraints", errors);
            if constraints.list_at(&["resourceRules"]).is_empty() {
                errors.push(FieldError::required("spec.matchConstraints.resourceRules", ""));
            }
        }
    }
    let scope = Scope { params, authorizer: true, ..Scope::default() };
    webhooks::conditions(policy.get("spec").unwrap_or(&Value::Null), "spec", |text| scope.compile(text.trim(), Wanted::Bool), errors);
    let (names, programs) = variables(policy, scope);
    for (i, (variable, program)) in policy.list_at(&["spec", "variables"]).iter().zip(programs).enumerate() {
        let at = format!("spec.variables[{i}]");
        let name = names[i].0.as_str();
        if name.trim().is_empty() {
            errors.push(FieldError::required(format!("{at}.name"), "name is not specified"));
        } else if !is_identifier(name) {
            errors.push(FieldError::invalid(format!("{at}.name"), name, "must be a valid CEL identifier"));
        }
        compiled(variable, &at, "expression", |_| program.map(drop), errors);
    }
    let given = policy.list_at(&["spec", "variables"]).iter().map(|v| !v.str_at(&["expression"]).trim().is_empty());
    names.into_iter().zip(given).filter(|(_, given)| *given).map(|(name, _)| name).collect()
}

/// An expression that has to be there and to compile.
fn expression(owner: &Value, at: &str, field: &str, (scope, wanted): (&Scope<'_>, Wanted), errors: &mut Vec<FieldError>) {
    compiled(owner, at, field, |text| scope.compile(text, wanted).map(drop), errors);
}

fn compiled(owner: &Value, at: &str, field: &str, compile: impl FnOnce(&str) -> Result<(), String>, errors: &mut Vec<FieldError>) {
    let text = owner.str_at(&[field]);
    if text.trim().is_empty() {
        errors.push(FieldError::required(format!("{at}.{field}"), &format!("{field} is not specified")));
    } else if let Err(why) = compile(text) {
        errors.push(FieldError::invalid(format!("{at}.{field}"), text, why));
    }
}

fn is_identifier(name: &str) -> bool {
    let letters = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !name.starts_with(|c: char| c.is_ascii_digit());
    let environment = fram_cel::Environment::kubernetes().dynamic(&[name]);
    letters && fram_cel::Program::compile(name, &environment).is_ok() && !matches!(name, "true" | "false" | "null" | "while")
}

fn validation(validation: &Value, at: &str, scope: &Scope<'_>, errors: &mut Vec<FieldError>) {
    expression(validation, at, "expression", (scope, Wanted::Bool), errors);
    let text = validation.str_at(&["messageExpression"]);
    if !text.is_empty() && text.trim().is_empty() {
        errors.push(FieldError::invalid(format!("{at}.messageExpression"), text, "must be non-empty if specified"));
    } else if !text.is_empty() {
        expression(validation, at, "messageExpression", (&Scope { authorizer: false, ..*scope }, Wanted::Text), errors);
    }
    let message = validation.str_at(&["message"]);
    if !message.is_empty() && message.trim().is_empty() {
        errors.push(FieldError::invalid(format!("{at}.message"), message, "must be non-empty if specified"));
    } else if message.trim().contains(['\n', '\r']) {
        errors.push(FieldError::invalid(format!("{at}.message"), message, "must not contain line breaks"));
    }
}

fn annotation(policy: &Value, annotation: &Value, at: &str, scope: &Scope<'_>, errors: &mut Vec<FieldError>) {
    let (name, key) = (policy.str_at(&["metadata", "name"]), annotation.str_at(&["key"]));
    if name.is_empty() {
        errors.push(FieldError::invalid(format!("{at}.key"), key, "requires metadata.name be non-empty"));
    } else if let Err(why) = names::qualified_name(&format!("{name}/{key}")) {
        errors.push(FieldError::invalid(format!("{at}.key"), format!("{name}/{key}"), why));
    }
    if annotation.str_at(&["valueExpression"]).trim().len() > LONGEST_ANNOTATION {
        let why = format!("must not exceed {LONGEST_ANNOTATION} bytes in length");
        errors.push(FieldError::required(format!("{at}.valueExpression"), &why));
    } else {
        expression(annotation, at, "valueExpression", (scope, Wanted::TextOrNull), errors);
    }
}

fn mutation(mutation: &Value, at: &str, scope: &Scope<'_>, errors: &mut Vec<FieldError>) {
    let (own, other, wanted) = match mutation.str_at(&["patchType"]) {
        "JSONPatch" => ("jsonPatch", "applyConfiguration", Wanted::Patches),
        "ApplyConfiguration" => ("applyConfiguration", "jsonPatch", Wanted::Object),
        "" => return errors.push(FieldError::required(format!("{at}.patchType"), "")),
        // Others are refused by the list of the allowed values.
        _ => return,
    };
    let kind = mutation.str_at(&["patchType"]);
    match mutation.get(own).filter(|m| !m.is_null()) {
        None => errors.push(FieldError::required(format!("{at}.{own}"), &format!("must be specified when patchType is {kind}"))),
        Some(patch) => expression(patch, &format!("{at}.{own}"), "expression", (scope, wanted), errors),
    }
    if mutation.get(other).is_some_and(|m| !m.is_null()) {
        let why = format!("must not be specified when patchType is {kind}");
        errors.push(FieldError::invalid(format!("{at}.{other}"), format!("{{{other}}}"), why));
    }
}

fn match_resources(resources: &Value, at: &str, errors: &mut Vec<FieldError>) {
    for list in ["resourceRules", "excludeResourceRules"] {
        for (i, rule) in resources.list_at(&[list]).iter().enumerate() {
            let at = format!("{at}.{list}[{i}]");
            let named = rule.list_at(&["resourceNames"]);
            for (n, name) in named.iter().enumerate() {
                let path = format!("{at}.resourceNames[{n}]");
                if let Err(why) = names::path_segment(name.as_str().unwrap_or_default()) {
                    errors.push(FieldError::invalid(path, name.clone(), why));
                } else if named[..n].contains(name) {
                    errors.push(FieldError::duplicate(path, name.clone()));
                }
            }
            webhooks::rule(rule, &at, errors);
        }
    }
}

/// Only what is created or updated can be mutated.
fn changes_only(object: &Value, field: &str, errors: &mut Vec<FieldError>) {
    let rules = object.list_at(&["spec", field, "resourceRules"]).iter();
    for operation in rules.flat_map(|r| r.list_at(&["operations"])) {
        if !matches!(operation.as_str(), Some("CREATE" | "UPDATE")) {
            let path = format!("spec.{field}.resourceRules.operations");
            errors.push(FieldError::not_supported(path, operation.clone(), &["CREATE", "UPDATE"]));
        }
    }
}

fn param_ref(reference: &Value, errors: &mut Vec<FieldError>) {
    let name = reference.str_at(&["name"]);
    let selector = reference.get("selector").filter(|s| !s.is_null());
    if let (false, Err(why)) = (name.is_empty(), names::path_segment(name)) {
        errors.push(FieldError::invalid("spec.paramRef.name", name, why));
    }
    match (name.is_empty(), selector.is_some()) {
        (false, true) => {
            for field in ["name", "selector"] {
                errors.push(FieldError::forbidden(format!("spec.paramRef.{field}"), "name and selector are mutually exclusive"));
            }
        }
        (true, false) => errors.push(FieldError::required("spec.paramRef", "one of name or selector must be specified")),
        _ => {}
    }
    match reference.str_at(&["parameterNotFoundAction"]) {
        "" => errors.push(FieldError::required("spec.paramRef.parameterNotFoundAction", "")),
        "Allow" | "Deny" => {}
        other => errors.push(FieldError::not_supported("spec.paramRef.parameterNotFoundAction", other, &["Deny", "Allow"])),
    }
}

fn validation_actions(binding: &Value, errors: &mut Vec<FieldError>) {
    let actions = binding.list_at(&["spec", "validationActions"]);
    let has = |action: &str| actions.iter().any(|a| a.as_str() == Some(action));
    for (i, action) in actions.iter().enumerate().filter(|(i, a)| actions[..*i].contains(a)) {
        errors.push(FieldError { field: format!("spec.validationActions[{i}]"), problem: Problem::Duplicate(action.clone()) });
    }
    if has("Deny") && has("Warn") {
        let why = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and \
                   headers serves no purpose)";
        errors.push(FieldError::invalid("spec.validationActions", Value::from(actions.to_vec()), why));
    }
    if actions.is_empty() {
        errors.push(FieldError::required("spec.validationActions", "at least one validation action is required"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    fn constraints() -> Value {
        object!({ "resourceRules": [{ "operations": ["CREATE"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"] }] })
    }

    fn told(errors: &[FieldError]) -> String {
        errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn an_expression_uses_only_what_is_declared() {
        for (expression, expect) in [
            ("object.spec.replicas > variables.least", ""),
            ("namespaceObject.metadata.name == request.namespace || oldObject == null", ""),
            ("variables.most > 1", "undefined field 'most'"),
            ("params.x > 1", "undeclared reference to 'params'"),
            ("object.x >", "Syntax error"),
            ("Object{} == object", "undeclared reference to 'Object'"),
            ("", "spec.validations[0].expression: Required value: expression is not specified"),
        ] {
            let policy = object!({ "metadata": { "name": "p" }, "spec": { "matchConstraints": (constraints()),
                "variables": [{ "name": "least", "expression": "1" }], "validations": [{ "expression": expression }] } });
            let errors = told(&ValidatingAdmissionPolicy.validate(&policy));
            assert!(if expect.is_empty() { errors.is_empty() } else { errors.contains(expect) }, "{expression}: {errors}");
        }
    }

    #[test]
    fn a_variable_sees_those_before_it() {
        let policy = |first: &str, second: &str| {
            object!({ "metadata": { "name": "p" }, "spec": { "matchConstraints": (constraints()), "validations": [{ "expression": "true" }],
                "variables": [{ "name": "a", "expression": first }, { "name": "b", "expression": second }] } })
        };
        assert!(ValidatingAdmissionPolicy.validate(&policy("1", "variables.a + 1")).is_empty());
        assert!(told(&ValidatingAdmissionPolicy.validate(&policy("variables.b", "1"))).contains("undefined field 'b'"));
    }

    #[test]
    fn a_mutation_has_the_patch_of_its_type() {
        let apply =
            object!({ "patchType": "ApplyConfiguration", "applyConfiguration": { "expression": "Object{spec: Object.spec{a: 1}}" } });
        let json = object!({ "patchType": "JSONPatch", "applyConfiguration": { "expression": "Object{}" } });
        for (mutation, expect) in [(apply, ""), (json, "must be specified when patchType is JSONPatch")] {
            let policy =
                object!({ "spec": { "matchConstraints": (constraints()), "reinvocationPolicy": "Never", "mutations": [mutation] } });
            let errors = told(&MutatingAdmissionPolicy.validate(&policy));
            assert!(if expect.is_empty() { errors.is_empty() } else { errors.contains(expect) }, "{errors}");
        }
    }

    #[test]
    fn a_binding_names_its_policy_its_params_and_what_follows() {
        let good = object!({ "spec": { "policyName": "p", "validationActions": ["Deny", "Audit"],
            "paramRef": { "name": "x", "parameterNotFoundAction": "Deny" } } });
        assert_eq!(told(&Binding { mutating: false }.validate(&good)), "");
        let bad = object!({ "spec": { "validationActions": ["Deny", "Warn"], "paramRef": {} } });
        let errors = told(&Binding { mutating: false }.validate(&bad));
        for expect in ["spec.policyName", "both Deny and Warn", "one of name or selector", "parameterNotFoundAction"] {
            assert!(errors.contains(expect), "{expect}: {errors}");
        }
    }
}
