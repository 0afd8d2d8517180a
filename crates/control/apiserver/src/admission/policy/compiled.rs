//! Policies and bindings as they are held in memory: expressions compiled, selectors read. What does not compile fails
//! whenever it is asked.

use fram_api::policy::{Scope, Wanted, has_params, variables};
use fram_cel::Program;
use fram_machinery::labels::Selector;
use fram_machinery::{Reason, Status, Value, meta};

use crate::admission::rules::{self, Matched, Rule, Selectors};
use crate::admission::webhook::conditions::Conditions;
use crate::admission::{Operation, Request};

pub(super) type Compiled = Result<Program, String>;

/// A MatchResources.
pub(super) struct Matching {
    rules: Vec<Rule>,
    excluded: Vec<Rule>,
    selectors: Selectors,
    equivalent: bool,
}

impl Matching {
    fn read(resources: &Value) -> Self {
        let rules = |field: &str| resources.list_at(&[field]).iter().map(Rule::read).collect();
        Self {
            rules: rules("resourceRules"),
            excluded: rules("excludeResourceRules"),
            selectors: Selectors::read(resources),
            equivalent: resources.str_at(&["matchPolicy"]) != "Exact",
        }
    }

    /// As which kind a request is meant; without rules, as the one that was asked for.
    pub(super) async fn matched(&self, request: &Request<'_>, object: &Value, old: Option<&Value>) -> Result<Option<Matched>, Status> {
        let api = request.registry.api();
        if rules::matched(self.equivalent, &self.excluded, request, &api).is_some() {
            return Ok(None);
        }
        let matched = match self.rules.is_empty() {
            true => Some(Matched { kind: request.place.served.kind.clone() }),
            false => rules::matched(self.equivalent, &self.rules, request, &api),
        };
        match matched {
            Some(matched) => Ok(rules::selected(&self.selectors, request, object, old).await?.then_some(matched)),
            None => Ok(None),
        }
    }
}

pub(super) struct Validation {
    pub(super) expression: String,
    pub(super) program: Compiled,
    pub(super) message: String,
    pub(super) message_program: Option<Program>,
    pub(super) reason: Reason,
}

pub(super) struct Annotation {
    pub(super) key: String,
    pub(super) expression: String,
    pub(super) program: Compiled,
}

pub(super) struct Mutation {
    pub(super) expression: String,
    pub(super) program: Compiled,
    /// It gives a list of patches instead of an object to apply.
    pub(super) json: bool,
}

/// A policy of either sort.
pub(super) struct Policy {
    pub(super) name: String,
    pub(super) matching: Matching,
    pub(super) conditions: Conditions,
    pub(super) variables: Vec<(String, Compiled)>,
    /// Group, version and kind of its params.
    pub(super) params: Option<[String; 3]>,
    pub(super) ignore_failure: bool,
    pub(super) reinvoked: bool,
    pub(super) validations: Vec<Validation>,
    pub(super) annotations: Vec<Annotation>,
    pub(super) mutations: Vec<Mutation>,
}

impl Policy {
    pub(super) fn read(policy: &Value) -> Self {
        let nothing = Value::Null;
        let spec = policy.get("spec").unwrap_or(&nothing);
        let params = has_params(policy);
        let plain = Scope { params, authorizer: true, ..Scope::default() };
        let (types, programs) = variables(policy, plain);
        let names = types.iter().map(|(name, _)| name.clone());
        let scope = Scope { variables: Some(&types), ..plain };
        Self {
            name: meta::name(policy).into(),
            matching: Matching::read(spec.get("matchConstraints").unwrap_or(&nothing)),
            conditions: Conditions::compile(spec, |text| plain.compile(text.trim(), Wanted::Bool)),
            variables: names.zip(programs).collect(),
            params: params.then(|| param_kind(spec)),
            ignore_failure: spec.str_at(&["failurePolicy"]) == "Ignore",
            reinvoked: spec.str_at(&["reinvocationPolicy"]) == "IfNeeded",
            validations: spec.list_at(&["validations"]).iter().map(|v| Validation::read(v, &scope)).collect(),
            annotations: spec.list_at(&["auditAnnotations"]).iter().map(|a| Annotation::read(a, &scope)).collect(),
            mutations: spec.list_at(&["mutations"]).iter().map(|m| Mutation::read(m, &Scope { patch: true, ..scope })).collect(),
        }
    }
}

fn param_kind(spec: &Value) -> [String; 3] {
    let version = spec.str_at(&["paramKind", "apiVersion"]);
    let (group, version) = version.rsplit_once('/').unwrap_or(("", version));
    [group, version, spec.str_at(&["paramKind", "kind"])].map(String::from)
}

impl Validation {
    fn read(validation: &Value, scope: &Scope<'_>) -> Self {
        let message = validation.str_at(&["messageExpression"]);
        Self {
            expression: validation.str_at(&["expression"]).trim().into(),
            program: scope.compile(validation.str_at(&["expression"]), Wanted::Bool),
            message: validation.str_at(&["message"]).trim().into(),
            message_program: Some(message)
                .filter(|m| !m.is_empty())
                .and_then(|m| Scope { authorizer: false, ..*scope }.compile(m, Wanted::Text).ok()),
            reason: match validation.str_at(&["reason"]) {
                "Unauthorized" => Reason::Unauthorized,
                "Forbidden" => Reason::Forbidden,
                "RequestEntityTooLarge" => Reason::RequestEntityTooLarge,
                _ => Reason::Invalid,
            },
        }
    }
}

impl Annotation {
    fn read(annotation: &Value, scope: &Scope<'_>) -> Self {
        let expression = annotation.str_at(&["valueExpression"]);
        Self {
            key: annotation.str_at(&["key"]).into(),
            expression: expression.into(),
            program: scope.compile(expression, Wanted::TextOrNull),
        }
    }
}

impl Mutation {
    fn read(mutation: &Value, scope: &Scope<'_>) -> Self {
        let json = mutation.str_at(&["patchType"]) == "JSONPatch";
        let expression = mutation.str_at(&[if json { "jsonPatch" } else { "applyConfiguration" }, "expression"]);
        let wanted = if json { Wanted::Patches } else { Wanted::Object };
        Self { expression: expression.into(), program: scope.compile(expression, wanted), json }
    }
}

/// A binding of either sort.
pub(super) struct Binding {
    pub(super) name: String,
    matching: Option<Matching>,
    pub(super) reference: Option<Reference>,
    pub(super) denies: bool,
    pub(super) warns: bool,
    pub(super) audits: bool,
}

/// A ParamRef; the selector is None where it cannot be read.
pub(super) struct Reference {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) selector: Option<Selector>,
    pub(super) required: bool,
}

impl Binding {
    pub(super) fn read(binding: &Value) -> Self {
        let spec = |field: &str| binding.at(&["spec", field]).filter(|v| !v.is_null());
        let acts = |action: &str| binding.list_at(&["spec", "validationActions"]).iter().any(|a| a.as_str() == Some(action));
        Self {
            name: meta::name(binding).into(),
            matching: spec("matchResources").map(Matching::read),
            reference: spec("paramRef").map(Reference::read),
            denies: acts("Deny"),
            warns: acts("Warn"),
            audits: acts("Audit"),
        }
    }

    pub(super) async fn matches(&self, request: &Request<'_>, object: &Value, old: Option<&Value>) -> Result<bool, Status> {
        match &self.matching {
            Some(matching) => Ok(matching.matched(request, object, old).await?.is_some()),
            None => Ok(true),
        }
    }
}

impl Reference {
    fn read(reference: &Value) -> Self {
        let selector = reference.get("selector").filter(|s| !s.is_null());
        Self {
            name: reference.str_at(&["name"]).into(),
            namespace: reference.str_at(&["namespace"]).into(),
            selector: match selector {
                Some(selector) if selector.is_empty() => Some(Selector::everything()),
                selector => Selector::from_object(selector).ok().flatten(),
            },
            required: reference.str_at(&["parameterNotFoundAction"]) == "Deny",
        }
    }
}

/// A policy and what binds it.
pub(super) struct Bound {
    pub(super) policy: Policy,
    pub(super) bindings: Vec<Binding>,
}

/// The policies that are bound, in the order of their names.
pub(super) fn bound(policies: &[Value], bindings: &[Value]) -> Vec<Bound> {
    let of = |name: &str| bindings.iter().filter(|b| b.str_at(&["spec", "policyName"]) == name).map(Binding::read).collect();
    let all = policies.iter().map(|p| (p, of(meta::name(p))));
    all.filter(|(_, bindings): &(_, Vec<Binding>)| !bindings.is_empty())
        .map(|(policy, bindings)| Bound { policy: Policy::read(policy), bindings })
        .collect()
}

/// The kinds that are not for policies to decide about: policies themselves, and questions about who someone is and may do.
pub(super) fn is_exempt(request: &Request<'_>) -> bool {
    let kind = request.stored_kind();
    match kind.group.as_str() {
        "admissionregistration.k8s.io" => !kind.kind.ends_with("WebhookConfiguration"),
        "authentication.k8s.io" | "authorization.k8s.io" => kind.kind.ends_with("Review") && request.operation == Operation::Create,
        _ => false,
    }
}
