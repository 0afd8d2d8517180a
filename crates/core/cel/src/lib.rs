//! The Common Expression Language with Kubernetes' libraries: parse, check types, estimate costs, evaluate over object trees
//! within a budget. Pure.

mod check;
mod cost;
mod declarations;
mod environment;
mod eval;
mod library;
mod parse;
mod schema;
mod syntax;
mod types;
mod unify;
mod value;

use std::fmt::Write;
use std::sync::Arc;

pub use environment::Environment;
pub use eval::{Budget, EvalError, Lazy};
pub use library::Semver;
pub use schema::{Declared, LARGEST_REQUEST};
pub use types::Type;
pub use value::{Opaque, Value};

use syntax::Expr;

/// Why an expression cannot be used: each of its errors with its place, as cel-go shows them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CompileError(String);

/// Longer lines are not shown with an error.
const LONGEST_LINE: usize = 16384;

impl CompileError {
    fn new<'a>(text: &str, issues: impl Iterator<Item = (usize, &'a str)>) -> Self {
        Self(issues.map(|(at, message)| shown(text, at, message)).collect::<Vec<_>>().join("\n"))
    }
}

/// An error with the line that it is in, and a mark below its place.
fn shown(text: &str, at: usize, message: &str) -> String {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    let before = &text[..at];
    let start = before.rfind('\n').map_or(0, |i| i + 1);
    let line = text[start..].split('\n').next().unwrap_or_default().replace('\t', " ");
    let column = text[start..at].chars().count();
    let mut out = format!("ERROR: <input>:{}:{}: {message}", before.matches('\n').count() + 1, column + 1);
    if line.len() <= LONGEST_LINE {
        let mark = |c: Option<char>, narrow, wide| if c.is_some_and(|c| c.len_utf8() > 1) { wide } else { narrow };
        let dots: String = line.chars().take(column).map(|c| mark(Some(c), '.', '\u{ff0e}')).collect();
        // Writing to a string does not fail.
        let _ = write!(out, "\n | {line}\n | {dots}{}", mark(line.chars().nth(column), '^', '\u{ff3e}'));
    }
    out
}

/// An expression that can be evaluated.
#[derive(Debug, Clone)]
pub struct Program {
    expr: Expr,
    result: Type,
}

impl Program {
    /// Parses an expression and checks that it goes together with what its environment has.
    pub fn compile(text: &str, environment: &Environment) -> Result<Self, CompileError> {
        Self::compiled(text, environment, None).map(|(program, _)| program)
    }

    /// The same with what the expression may cost at most, where all of its variables are declared as `root`.
    pub fn estimate(text: &str, environment: &Environment, root: &Arc<Declared>) -> Result<(Self, u64), CompileError> {
        Self::compiled(text, environment, Some(root))
    }

    fn compiled(text: &str, environment: &Environment, root: Option<&Arc<Declared>>) -> Result<(Self, u64), CompileError> {
        let (expr, count) = parse::parse(text).map_err(|e| CompileError::new(text, [(e.at, &*e.message)].into_iter()))?;
        let checked = check::check(&expr, count, environment);
        let checked = checked.map_err(|issues| CompileError::new(text, issues.iter().map(|i| (i.at as usize, &*i.message))))?;
        let cost = root.map_or(0, |root| cost::estimate(&expr, &checked, root));
        let result = checked.result;
        Ok((Self { expr, result }, cost))
    }

    /// The type of what the expression gives.
    pub fn result(&self) -> &Type {
        &self.result
    }

    /// Evaluates the expression; what it costs is taken from the budget.
    pub fn evaluate(&self, variables: &[(&str, Value)], budget: &mut Budget) -> Result<Value, EvalError> {
        eval::evaluate(&self.expr, variables, None, budget)
    }

    /// The same with fields of the variable `variables` that are computed when they are asked for.
    pub fn evaluate_lazily(&self, variables: &[(&str, Value)], lazy: &dyn Lazy, budget: &mut Budget) -> Result<Value, EvalError> {
        eval::evaluate(&self.expr, variables, Some(lazy), budget)
    }

    /// Whether the expression mentions a variable.
    pub fn mentions(&self, variable: &str) -> bool {
        self.expr.mentions(variable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str) -> Result<Value, EvalError> {
        Program::compile(text, &Environment::complete()).unwrap().evaluate(&[], &mut Budget::new(1_000_000))
    }

    #[test]
    fn kubernetes_types_have_their_functions() {
        for text in [
            "quantity('1Gi').add(quantity('1Gi')) == quantity('2Gi') && quantity('5').sub(2).asInteger() == 3",
            "url('https://h/p?a=1&b=2&b=x%20y+z#f').getQuery() == {'a': ['1'], 'b': ['2', 'x y z']} && url('/p').getQuery() == {}",
            "semver('1.2.3-rc.1').isLessThan(semver('1.2.3')) && semver('v1.2', true) == semver('1.2.0+x') && !isSemver('v1')",
            "format.dns1123Label().validate('a-b') == optional.none() && format.named('uuid').value().validate('x').value().size() == 1",
            "!format.named('none').hasValue() && !format.dns1123LabelPrefix().validate('a-').hasValue()",
            "optional.unwrap([optional.of(1), optional.none()]) == [1] && [optional.none(), optional.of(2)].unwrapOpt() == [2]",
            "['10.0.0.1'].all(ip, isIP(ip)) && [ip('10.0.0.1')].all(ip, ip.family() == 4) && cidr('10.0.0.0/8').ip().family() == 4",
        ] {
            assert_eq!(run(text), Ok(Value::Bool(true)), "{text}");
        }
    }

    #[test]
    fn large_types_are_given_up() {
        let mut text = "[{1: 1}]".to_string();
        for i in 0..40 {
            text = format!("{text}.map(a{i}, {{a{i}: a{i}}})");
        }
        let error = Program::compile(&format!("{text} == {text}"), &Environment::complete()).unwrap_err();
        assert!(error.to_string().contains("too large"), "{error}");
    }

    #[test]
    fn the_highest_tree_is_evaluated() {
        assert!(matches!(run(&format!("1{}", "+1".repeat(240))), Ok(Value::Int(241))));
    }

    #[test]
    fn small_expressions_make_no_large_values() {
        let doubled = |of: &str, times: usize| {
            let bindings: String = (0..times).map(|i| format!("cel.bind(a{}, {of}, ", i + 1).replace('@', &format!("a{i}"))).collect();
            format!("cel.bind(a0, [1], {bindings}a{times}{}", ")".repeat(times + 1))
        };
        for text in [
            doubled("@ + @", 40),
            doubled("[@, @]", 40),
            format!("{} == {}", doubled("[@, @]", 40), doubled("[@, @]", 40)),
            "'a'.replace('', 'aaaaaaaaaaaaaaaaaaaa').replace('', 'aaaaaaaaaaaaaaaaaaaa')".to_string()
                + &".replace('a', 'aaaaaaaaaaaaaaaaaaaa')".repeat(10),
        ] {
            assert_eq!(run(&text).unwrap_err(), EvalError::Budget, "{text}");
        }
        assert!(matches!(run("'%.70000f'.format([1.0])"), Err(EvalError::Other(_))));
    }
}
