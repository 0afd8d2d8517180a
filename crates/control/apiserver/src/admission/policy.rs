//! Admission policies: ValidatingAdmissionPolicy and MutatingAdmissionPolicy, followed in memory, so that a request costs
//! nothing where there are none. Which requests a policy concerns is in `compiled`, what it decides in `evaluate`.

mod compiled;
mod evaluate;
mod params;

use std::sync::Arc;

use fram_cel::Value as Cel;
use fram_machinery::status::StatusCause;
use fram_machinery::{Reason, Status, Value, json, managed, meta, object, patch};
use parking_lot::RwLock;

use super::rules::Matched;
use super::webhook::{conditions, review};
use super::{Changes, GROUP, Request, Round, authorizer, configurations};
use crate::audit;
use crate::definitions::{settled, write};
use crate::registry::{Place, Registry};
use compiled::{Binding, Bound, Mutation, Policy};
use evaluate::{Given, Patch, Refusal, Verdict};

const VALIDATING: &str = "validatingadmissionpolicies";
const VALIDATING_BINDINGS: &str = "validatingadmissionpolicybindings";
const MUTATING: &str = "mutatingadmissionpolicies";
const VALIDATION_FAILURE: &str = "validation.policy.admission.k8s.io/validation_failure";
const MUTATING_BINDINGS: &str = "mutatingadmissionpolicybindings";

type All = Arc<Vec<Bound>>;

/// The policies that are bound.
#[derive(Default)]
pub struct Policies {
    validating: RwLock<All>,
    mutating: RwLock<All>,
}

/// A refusal with the binding by which it came.
struct Denial {
    message: String,
    reason: Reason,
}

impl Policies {
    /// Reads policies and bindings as they are now.
    pub(crate) async fn refresh(&self, registry: &Registry) -> Result<(), Status> {
        self.read(registry).await.map(drop)
    }

    async fn read(&self, registry: &Registry) -> Result<Vec<Value>, Status> {
        let validating = configurations(registry, VALIDATING).await?;
        let mutating = configurations(registry, MUTATING).await?;
        let bound = compiled::bound(&validating, &configurations(registry, VALIDATING_BINDINGS).await?);
        *self.validating.write() = Arc::new(bound);
        *self.mutating.write() = Arc::new(compiled::bound(&mutating, &configurations(registry, MUTATING_BINDINGS).await?));
        Ok(validating)
    }

    /// Keeps the policies true to their configurations, and their status, until something fails.
    pub(crate) async fn follow(&self, registry: &Registry) -> Result<(), Status> {
        let kinds = [VALIDATING, VALIDATING_BINDINGS, MUTATING, MUTATING_BINDINGS];
        let mut changes = Changes::of(registry, &kinds).await?;
        loop {
            for policy in self.read(registry).await? {
                observe(registry, &policy).await?;
            }
            changes.next().await?;
        }
    }

    pub(super) fn mutates(&self) -> bool {
        !self.mutating.read().is_empty()
    }

    /// Refuses what a policy refuses; all are asked, so that all warnings are given.
    pub(super) async fn validate(&self, request: &Request<'_>, object: &Value, old: Option<&Value>) -> Result<(), Status> {
        let all = self.validating.read().clone();
        if all.is_empty() || compiled::is_exempt(request) {
            return Ok(());
        }
        let mut denials = Vec::new();
        for bound in all.iter() {
            let Some(matched) = bound.policy.matching.matched(request, object, old).await? else { continue };
            for binding in &bound.bindings {
                if binding.matches(request, object, old).await? {
                    Box::pin(validate(bound, binding, request, &matched, [Some(object), old], &mut denials)).await?;
                }
            }
        }
        match denials.into_iter().next() {
            Some(denial) => Err(denial.status(request)),
            None => Ok(()),
        }
    }

    /// Lets the mutating policies change an object, one after the other.
    pub(super) async fn mutate(
        &self,
        request: &Request<'_>,
        mut object: Value,
        old: Option<&Value>,
        round: &mut Round,
    ) -> Result<Value, Status> {
        let all = self.mutating.read().clone();
        if all.is_empty() || compiled::is_exempt(request) || object.is_null() || !review::is_changeable(request) {
            return Ok(object);
        }
        let mut failures = Vec::new();
        for bound in all.iter() {
            let Some(matched) = bound.policy.matching.matched(request, &object, old).await? else { continue };
            for binding in &bound.bindings {
                if !binding.matches(request, &object, old).await? {
                    continue;
                }
                let fail = |why: String| format!("policy '{}' with binding '{}' denied request: {why}", bound.policy.name, binding.name);
                let params = match params::collect(&bound.policy, binding, request).await {
                    Ok(params) => params,
                    Err(why) => {
                        failures.extend((!bound.policy.ignore_failure).then(|| fail(why)));
                        continue;
                    }
                };
                for param in params {
                    let key = format!("{}/{}/{}", bound.policy.name, binding.name, param.as_ref().map(meta::key).unwrap_or_default());
                    if !round.asks(&key, bound.policy.reinvoked, &object) {
                        continue;
                    }
                    let mut failed = Vec::new();
                    let changing = Changing { policy: &bound.policy, request, matched: &matched, old, param: param.as_ref() };
                    object = changing.all(object, &mut failed).await?;
                    failures.extend(failed.into_iter().filter(|_| !bound.policy.ignore_failure).map(fail));
                    round.saw(&key, &object);
                }
            }
        }
        match failures.first() {
            Some(first) => {
                let mut status = request.place.forbidden("");
                // The reason is that of upstream's policies, the code that of what is forbidden.
                (status.reason, status.message) = (Reason::Invalid, first.clone());
                status.causes = failures.into_iter().map(cause).collect();
                Err(status)
            }
            None => Ok(object),
        }
    }
}

fn cause(message: String) -> StatusCause {
    StatusCause { reason: String::new(), message, field: String::new() }
}

impl Denial {
    fn status(self, request: &Request<'_>) -> Status {
        let mut status = request.place.forbidden(&self.message);
        status.reason = self.reason;
        status.code = self.reason.code();
        status.causes.push(cause(self.message));
        status
    }
}

/// Evaluates a policy by one binding, with each of its params.
async fn validate(
    bound: &Bound,
    binding: &Binding,
    request: &Request<'_>,
    matched: &Matched,
    [object, old]: [Option<&Value>; 2],
    denials: &mut Vec<Denial>,
) -> Result<(), Status> {
    let policy = &bound.policy;
    let mut deny = |message: &str, reason: Reason| {
        let message = format!("ValidatingAdmissionPolicy '{}' with binding '{}' denied request: {message}", policy.name, binding.name);
        denials.push(Denial { message, reason });
    };
    let params = match params::collect(policy, binding, request).await {
        Ok(params) => params,
        Err(_) if policy.ignore_failure => return Ok(()),
        Err(why) => {
            deny(&format!("failed to configure binding: {why}"), Reason::Invalid);
            return Ok(());
        }
    };
    for param in params {
        let given = given(request, matched, object.unwrap_or(&Value::Null), old, param.as_ref()).await?;
        let Verdict { refusals, annotations } = evaluate::verdict(policy, &given);
        for (key, value) in annotations {
            audit::annotate(&format!("{}/{key}", policy.name), || value);
        }
        for Refusal { message, reason, always, index } in refusals {
            if binding.audits && !always {
                audit::annotate(VALIDATION_FAILURE, || failure(policy, binding, index, &message));
            }
            if binding.warns && !always {
                let (policy, binding) = (&policy.name, &binding.name);
                request.warn(&format!("Validation failed for ValidatingAdmissionPolicy '{policy}' with binding '{binding}': {message}"));
            }
            if binding.denies || always {
                deny(&message, reason);
            }
        }
    }
    Ok(())
}

/// What the auditor is told of a validation that did not hold; see upstream's ValidationFailureValue.
fn failure(policy: &Policy, binding: &Binding, index: usize, message: &str) -> String {
    let actions = [("Deny", binding.denies), ("Warn", binding.warns), ("Audit", binding.audits)];
    let actions: Vec<Value> = actions.iter().filter(|(_, acts)| *acts).map(|(action, _)| Value::from(*action)).collect();
    json::to_string(&object!([{ "message": message, "policy": (policy.name.as_str()), "binding": (binding.name.as_str()),
        "expressionIndex": (index as i64), "validationActions": actions }]))
}

/// What expressions know of a request.
async fn given(
    request: &Request<'_>,
    matched: &Matched,
    object: &Value,
    old: Option<&Value>,
    param: Option<&Value>,
) -> Result<Given, Status> {
    let [new, old] = review::sides(request, matched, object, old).await?;
    let question = review::question(&request.registry.environment().uid(), request, matched, new, old);
    let mut given = conditions::variables(&question);
    let namespace = match params::place_of_namespace(request) {
        Some(place) => request.find("", "v1", "namespaces", "", &place.namespace).await?,
        None => None,
    };
    given.push(("namespaceObject", namespace.as_ref().map_or(Cel::Null, Cel::from)));
    given.push(("params", param.map_or(Cel::Null, Cel::from)));
    given.extend(authorizer::variables(request));
    Ok(given)
}

/// A mutating policy at work on a request, with one of its params.
struct Changing<'a> {
    policy: &'a Policy,
    request: &'a Request<'a>,
    matched: &'a Matched,
    old: Option<&'a Value>,
    param: Option<&'a Value>,
}

impl Changing<'_> {
    /// Runs all mutations in their order; one that fails leaves the object as it was.
    async fn all(&self, mut object: Value, failed: &mut Vec<String>) -> Result<Value, Status> {
        let first = given(self.request, self.matched, &object, self.old, self.param).await?;
        match evaluate::concerns(self.policy, &first) {
            Ok(true) => {}
            Ok(false) => return Ok(object),
            Err(why) => {
                failed.push(why);
                return Ok(object);
            }
        }
        for mutation in &self.policy.mutations {
            match self.one(mutation, &object).await? {
                Ok(changed) => object = changed,
                Err(why) => failed.push(why),
            }
        }
        Ok(object)
    }

    async fn one(&self, mutation: &Mutation, object: &Value) -> Result<Result<Value, String>, Status> {
        let given = given(self.request, self.matched, object, self.old, self.param).await?;
        let wanted = match evaluate::patch(self.policy, mutation, &given) {
            Ok(wanted) => wanted,
            Err(why) => return Ok(Err(why)),
        };
        let kind = &self.matched.kind;
        let shown = self.request.registry.convert(object.clone(), self.request.stored_kind(), kind).await?;
        let changed = match wanted {
            Patch::Apply(config) => managed::merge(&kind.schema, kind.ty, &shown, &config).map_err(|atomic| {
                format!("error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {atomic}")
            }),
            Patch::Json(steps) => match patch::json(&shown, &steps) {
                // A test that fails means that there is nothing to do.
                Err(patch::PatchError::Test(_)) => return Ok(Ok(object.clone())),
                changed => changed.map_err(|e| format!("JSON Patch: {e}")),
            },
        };
        match changed {
            Ok(changed) => review::taken(self.request, self.matched, changed).await,
            Err(why) => Ok(Err(why)),
        }
    }
}

/// Says in the status of a policy which generation of it is in force, and what does not go together in its expressions; see
/// upstream's validatingadmissionpolicystatus controller.
async fn observe(registry: &Registry, policy: &Value) -> Result<(), Status> {
    let generation = policy.int_at(&["metadata", "generation"]).unwrap_or_default();
    if policy.int_at(&["status", "observedGeneration"]) == Some(generation) {
        return Ok(());
    }
    let warnings = fram_api::policy::types::warnings(&registry.api(), policy);
    let checking = if warnings.is_empty() { object!({}) } else { object!({ "expressionWarnings": warnings }) };
    let Some(served) = registry.served(GROUP, "v1", VALIDATING) else { return Ok(()) };
    let place = Place { served, namespace: String::new(), name: meta::name(policy).into() };
    let decide = |current: &Value| {
        let mut next = current.clone();
        if current.int_at(&["metadata", "generation"]) == Some(generation) {
            next.set(&["status", "observedGeneration"], generation);
            next.set(&["status", "typeChecking"], checking.clone());
        }
        Ok(next)
    };
    settled(registry.update(&place, "status", &write(), decide).await.map(drop))
}
