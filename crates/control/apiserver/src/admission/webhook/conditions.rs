//! Match conditions: expressions about a request that all have to hold for a webhook or policy to be asked.

use fram_api::policy::compile_condition;
use fram_cel::{Budget, Program, Value as Cel};
use fram_machinery::Value;

/// What the conditions of one webhook or policy may cost; see upstream's RuntimeCELCostBudgetMatchConditions.
const BUDGET: u64 = 2_500_000;
/// What each of them may cost alone; see upstream's PerCallLimit.
const CALL_BUDGET: u64 = 1_000_000;

/// The conditions of a webhook or policy. One that does not compile fails whenever it is asked.
pub(in crate::admission) struct Conditions {
    all: Vec<(String, Result<Program, String>)>,
}

impl Conditions {
    pub(super) fn read(hook: &Value) -> Self {
        Self::compile(hook, compile_condition)
    }

    pub(in crate::admission) fn compile(hook: &Value, compile: impl Fn(&str) -> Result<Program, String>) -> Self {
        let compile = |c: &Value| compile(c.str_at(&["expression"]));
        Self { all: hook.list_at(&["matchConditions"]).iter().map(|c| (c.str_at(&["name"]).to_string(), compile(c))).collect() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether all conditions hold for a review. One that does not hold decides, whatever else fails.
    pub(super) fn hold(&self, review: &Value, more: impl IntoIterator<Item = (&'static str, Cel)>) -> Result<bool, String> {
        let mut variables = variables(review);
        variables.extend(more);
        self.hold_for(&variables)
    }

    pub(in crate::admission) fn hold_for(&self, variables: &[(&str, Cel)]) -> Result<bool, String> {
        let mut budget = Budget::new(BUDGET);
        let mut failed = None;
        for (name, program) in &self.all {
            let run = |p: &Program| budget.limited(CALL_BUDGET, |budget| p.evaluate(variables, budget)).map_err(|e| e.to_string());
            let value = program.as_ref().map_err(Clone::clone).and_then(run);
            match value {
                Ok(Cel::Bool(true)) => {}
                Ok(Cel::Bool(false)) => return Ok(false),
                Ok(_) => failed = Some(format!("match condition {name:?} gives no bool")),
                Err(e) => failed = Some(format!("match condition {name:?} evaluation failed: {e}")),
            }
        }
        failed.map_or(Ok(true), Err)
    }
}

/// What expressions know of a review.
pub(in crate::admission) fn variables(review: &Value) -> Vec<(&'static str, Cel)> {
    let nothing = Value::Null;
    let request = review.get("request").unwrap_or(&nothing);
    let side = |field: &str| request.get(field).map_or(Cel::Null, Cel::from);
    let mut shown = request.clone();
    ["object", "oldObject"].iter().for_each(|field| drop(shown.remove(&[field])));
    vec![("object", side("object")), ("oldObject", side("oldObject")), ("request", Cel::from(&shown))]
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    #[test]
    fn conditions_ask_about_the_object_and_the_request() {
        let review = object!({ "request": { "operation": "CREATE", "object": { "metadata": { "name": "skip-me" } }, "oldObject": null } });
        for (expression, expect) in [
            ("object.metadata.name != 'skip-me'", Ok(false)),
            ("request.operation == 'CREATE' && oldObject == null", Ok(true)),
            ("object.metadata.none == 'x'", Err(())),
        ] {
            let conditions = Conditions::read(&object!({ "matchConditions": [{ "name": "a", "expression": expression }] }));
            assert_eq!(conditions.hold(&review, []).map_err(drop), expect, "{expression}");
        }
    }
}
