//! What a policy decides about one request with one set of params. Pure.

use std::cell::RefCell;
use std::collections::HashMap;

use fram_cel::{Budget, EvalError, Lazy, Program, Value as Cel};
use fram_machinery::{Map, Reason, Value};

use super::compiled::{Compiled, Mutation, Policy, Validation};

/// What all expressions of a policy may cost together, and each alone; see upstream's RuntimeCELCostBudget and PerCallLimit.
const BUDGET: u64 = 10_000_000;
const CALL_BUDGET: u64 = 1_000_000;
/// See upstream's MaxEvaluatedMessageExpressionSizeBytes.
const LONGEST_MESSAGE: usize = 5 * 1024;
/// See upstream's maxAuditAnnotationValueLength.
const LONGEST_ANNOTATION: usize = 10 * 1024;

/// What expressions know: `object`, `oldObject`, `request`, `namespaceObject`, `params`.
pub(super) type Given = Vec<(&'static str, Cel)>;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Refusal {
    pub(super) message: String,
    pub(super) reason: Reason,
    /// An audit annotation failed, which no action of a binding softens.
    pub(super) always: bool,
    /// Which of the policy's validations it is.
    pub(super) index: usize,
}

/// What a policy has to say about a request.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Verdict {
    pub(super) refusals: Vec<Refusal>,
    /// What the auditor is to be told, by the keys that the policy gives it.
    pub(super) annotations: Vec<(String, String)>,
}

/// The change that a mutation wants.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Patch {
    Apply(Value),
    Json(Value),
}

/// The variables of a policy, each computed once, when it is first asked for.
struct Composed<'a> {
    variables: &'a [(String, Compiled)],
    given: &'a [(&'static str, Cel)],
    known: RefCell<HashMap<String, Result<Cel, EvalError>>>,
}

impl Lazy for Composed<'_> {
    fn value(&self, name: &str, budget: &mut Budget) -> Option<Result<Cel, EvalError>> {
        if let Some(known) = self.known.borrow().get(name) {
            return Some(known.clone());
        }
        let (_, program) = self.variables.iter().find(|(n, _)| n == name)?;
        let value = match program {
            Ok(program) => program.evaluate_lazily(self.given, self, budget),
            Err(why) => Err(EvalError::Other(why.clone())),
        };
        self.known.borrow_mut().insert(name.into(), value.clone());
        Some(value)
    }
}

/// One round of evaluations over one budget.
struct Evaluation<'a> {
    composed: Composed<'a>,
    budget: Budget,
}

impl<'a> Evaluation<'a> {
    fn new(policy: &'a Policy, given: &'a [(&'static str, Cel)]) -> Self {
        Self { composed: Composed { variables: &policy.variables, given, known: RefCell::default() }, budget: Budget::new(BUDGET) }
    }

    fn run(&mut self, program: &Program) -> Result<Cel, EvalError> {
        self.budget.limited(CALL_BUDGET, |budget| program.evaluate_lazily(self.composed.given, &self.composed, budget))
    }

    fn compiled(&mut self, expression: &str, program: &Compiled) -> Result<Cel, String> {
        let program = program.as_ref().map_err(Clone::clone)?;
        self.run(program).map_err(|e| format!("expression '{expression}' resulted in error: {e}"))
    }
}

/// Whether the match conditions of a policy hold.
pub(super) fn concerns(policy: &Policy, given: &Given) -> Result<bool, String> {
    policy.conditions.hold_for(given)
}

/// What a policy has to say about a request; it refuses nothing where it fails and that is no obstacle.
pub(super) fn verdict(policy: &Policy, given: &Given) -> Verdict {
    let failed = |message: String, always: bool, index: usize| {
        (!policy.ignore_failure).then_some(Refusal { message, reason: Reason::Invalid, always, index })
    };
    let mut out = Verdict::default();
    match concerns(policy, given) {
        Ok(true) => {}
        Ok(false) => return out,
        Err(why) => {
            out.refusals.extend(failed(why, false, 0));
            return out;
        }
    }
    let mut evaluation = Evaluation::new(policy, given);
    for (index, validation) in policy.validations.iter().enumerate() {
        match evaluation.compiled(&validation.expression, &validation.program) {
            Ok(Cel::Bool(true)) => {}
            Ok(_) => {
                let message = message(validation, &mut evaluation);
                out.refusals.push(Refusal { message, reason: validation.reason, always: false, index });
            }
            Err(why) => out.refusals.extend(failed(why, false, index)),
        }
    }
    for (index, annotation) in policy.annotations.iter().enumerate() {
        match evaluation.compiled(annotation.expression.trim(), &annotation.program) {
            Ok(Cel::Null) => {}
            Ok(Cel::Text(text)) => {
                let text = shortened(text.trim());
                if !text.is_empty() {
                    out.annotations.push((annotation.key.clone(), text.into()));
                }
            }
            Ok(other) => {
                let (expression, ty) = (&annotation.expression, other.type_name());
                let why = "Return type must be either string or null.";
                let message = format!("valueExpression '{expression}' resulted in unsupported return type: {ty}. {why}");
                out.refusals.push(Refusal { message, reason: Reason::Invalid, always: true, index });
            }
            Err(why) => out.refusals.extend(failed(why, true, index)),
        }
    }
    out
}

/// The start of an annotation that is not too long.
fn shortened(text: &str) -> &str {
    let mut end = text.len().min(LONGEST_ANNOTATION);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The text of a refusal: of the expression for it where that gives one line, else the fixed text, else the expression.
fn message(validation: &Validation, evaluation: &mut Evaluation<'_>) -> String {
    let made = validation.message_program.as_ref().and_then(|program| evaluation.run(program).ok());
    let made = made.as_ref().and_then(Cel::as_text).map(str::trim);
    match made.filter(|m| !m.is_empty() && m.len() <= LONGEST_MESSAGE && !m.contains('\n')) {
        Some(made) => made.to_string(),
        None if !validation.message.is_empty() => validation.message.clone(),
        None => format!("failed expression: {}", validation.expression),
    }
}

/// The change that one mutation wants.
pub(super) fn patch(policy: &Policy, mutation: &Mutation, given: &Given) -> Result<Patch, String> {
    let value = Evaluation::new(policy, given).compiled(mutation.expression.trim(), &mutation.program)?;
    if mutation.json {
        let steps = value.items().ok_or("type mismatch: JSONPatchType.expression should evaluate to array")?;
        return Ok(Patch::Json(steps.iter().map(step).collect::<Result<Vec<_>, _>>()?.into()));
    }
    if !matches!(value, Cel::Message(..)) {
        return Err(format!("unsupported return type from ApplyConfiguration expression: {}", value.type_name()));
    }
    check_names(&value, "Object").map_err(|e| format!("type mismatch: {e}"))?;
    Ok(Patch::Apply(Value::from(&value)))
}

/// A message has to be named after the place where it stands, as `Object.spec` is.
fn check_names(value: &Cel, path: &str) -> Result<(), String> {
    match value {
        Cel::Message(name, _) if **name != *path => {
            Err(format!("unexpected type name {name:?}, expected {path:?}, which matches field name path from root Object type"))
        }
        Cel::Message(_, fields) => {
            fields.iter().try_for_each(|(field, below)| check_names(below, &format!("{path}.{}", field.as_text().unwrap_or_default())))
        }
        Cel::List(items) => items.iter().try_for_each(|item| check_names(item, path)),
        Cel::Map(entries) => entries.iter().try_for_each(|(_, below)| check_names(below, path)),
        _ => Ok(()),
    }
}

/// One operation of a JSON patch.
fn step(value: &Cel) -> Result<Value, String> {
    let Cel::Message(name, fields) = value else { return Err(format!("unexpected type {} in a JSON patch", value.type_name())) };
    if **name != *"JSONPatch" {
        return Err(format!("type mismatch: expected JSONPatchType but got {name}"));
    }
    let known = |(field, value): &(Cel, Cel)| match (field.as_text(), value) {
        (Some(field @ ("op" | "path" | "from")), Cel::Text(text)) => Ok((field.to_string(), Value::from(text.to_string()))),
        (Some("value"), value) => Ok(("value".to_string(), Value::from(value))),
        (field, _) => Err(format!("undefined field '{}'", field.unwrap_or_default())),
    };
    Ok(Value::Map(fields.iter().map(known).collect::<Result<Map, _>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    fn given(object: &Value) -> Given {
        vec![("object", Cel::from(object)), ("oldObject", Cel::Null), ("request", Cel::Null), ("namespaceObject", Cel::Null)]
    }

    fn validating(validation: Value, failure: &str) -> Policy {
        Policy::read(&object!({ "metadata": { "name": "p" }, "spec": { "failurePolicy": failure, "validations": [validation],
            "variables": [{ "name": "n", "expression": "object.spec.n" }, { "name": "odd", "expression": "variables.n % 2 == 1" }] } }))
    }

    #[test]
    fn a_validation_that_does_not_hold_says_why() {
        let object = object!({ "spec": { "n": 1 } });
        for (validation, expect) in [
            (object!({ "expression": "variables.n == 1 && variables.odd" }), None),
            (object!({ "expression": " variables.n > 1 " }), Some("failed expression: variables.n > 1")),
            (object!({ "expression": "!variables.odd", "message": "no" }), Some("no")),
            (object!({ "expression": "false", "message": "no", "messageExpression": "'got ' + string(variables.n)" }), Some("got 1")),
            (object!({ "expression": "false", "message": "no", "messageExpression": "'a\\nb'" }), Some("no")),
            (object!({ "expression": "false", "message": "no", "messageExpression": "object.none" }), Some("no")),
            (object!({ "expression": "object.none == 1" }), Some("expression 'object.none == 1' resulted in error: no such key: none")),
        ] {
            let refusals = verdict(&validating(validation.clone(), "Fail"), &given(&object)).refusals;
            assert_eq!(refusals.first().map(|r| r.message.as_str()), expect, "{validation:?}");
        }
    }

    #[test]
    fn what_fails_is_ignored_where_the_policy_says_so() {
        let policy = validating(object!({ "expression": "object.none == 1" }), "Ignore");
        assert_eq!(verdict(&policy, &given(&object!({}))), Verdict::default());
    }

    #[test]
    fn a_policy_tells_the_auditor_what_it_is_asked_to() {
        let annotation = |key: &str, value: &str| object!({ "key": key, "valueExpression": value });
        let annotations = [annotation("n", "string(object.n)"), annotation("none", "null"), annotation("blank", "' '")];
        let policy = Policy::read(&object!({ "metadata": { "name": "p" }, "spec": { "auditAnnotations": (annotations.to_vec()) } }));
        assert_eq!(verdict(&policy, &given(&object!({ "n": 1 }))).annotations, [("n".to_string(), "1".to_string())]);
    }

    fn wanted(kind: &str, expression: &str) -> Result<Patch, String> {
        let field = if kind == "JSONPatch" { "jsonPatch" } else { "applyConfiguration" };
        let mut mutation = object!({ "patchType": kind });
        mutation.set(&[field, "expression"], expression);
        let policy = Policy::read(&object!({ "spec": { "mutations": [mutation] } }));
        patch(&policy, &policy.mutations[0], &given(&object!({ "metadata": { "name": "x" } })))
    }

    #[test]
    fn a_mutation_gives_an_object_named_after_its_place() {
        let good = wanted("ApplyConfiguration", "Object{spec: Object.spec{items: [Object.spec.items{name: object.metadata.name}]}}");
        assert_eq!(good, Ok(Patch::Apply(object!({ "spec": { "items": [{ "name": "x" }] } }))));
        for bad in ["Object{spec: Object.wrong{}}", "Object.spec{}", "{'spec': 1}"] {
            assert!(wanted("ApplyConfiguration", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_mutation_gives_a_list_of_patches() {
        let good = wanted("JSONPatch", "[JSONPatch{op: 'add', path: '/metadata/labels', value: {'a': 'b'}}]");
        assert_eq!(good, Ok(Patch::Json(object!([{ "op": "add", "path": "/metadata/labels", "value": { "a": "b" } }]))));
        for bad in ["[Object{}]", "JSONPatch{op: 'test'}", "[JSONPatch{no: 1}]"] {
            assert!(wanted("JSONPatch", bad).is_err(), "{bad}");
        }
    }
}
