//! The Common Expression Language with Kubernetes' libraries: parse, check names, evaluate over object trees within a budget.
//! Pure. Types are not checked before evaluation, and costs are not estimated.

mod check;
mod eval;
mod library;
mod parse;
mod syntax;
mod value;

pub use eval::{Budget, EvalError, Lazy};
pub use parse::ParseError;
pub use value::Value;

use syntax::Expr;

/// Why an expression cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    #[error("ERROR: <input>:{}:{}: Syntax error: {}", .0.line, .0.column, .0.message)]
    Syntax(#[from] ParseError),
    #[error("ERROR: <input>: undeclared reference to '{0}' (in container '')")]
    Undeclared(String),
    #[error("ERROR: <input>: found no matching overload for '{name}' applied to {count} arguments")]
    Overload { name: String, count: usize },
}

/// An expression that can be evaluated.
#[derive(Debug, Clone)]
pub struct Program {
    expr: Expr,
}

impl Program {
    /// Parses an expression and checks that it uses these variables and known functions only.
    pub fn compile(text: &str, variables: &[&str]) -> Result<Self, CompileError> {
        Self::compile_with(text, variables, &[])
    }

    /// The same where messages may be made whose names begin with these: `Object` allows `Object{}` and `Object.spec{}`.
    pub fn compile_with(text: &str, variables: &[&str], messages: &[&str]) -> Result<Self, CompileError> {
        let expr = parse::parse(text)?;
        check::check(&expr, variables, messages)?;
        Ok(Self { expr })
    }

    /// Evaluates the expression; what it costs is taken from the budget.
    pub fn evaluate(&self, variables: &[(&str, Value)], budget: &mut Budget) -> Result<Value, EvalError> {
        eval::evaluate(&self.expr, variables, None, budget)
    }

    /// The same with fields of the variable `variables` that are computed when they are asked for.
    pub fn evaluate_lazily(&self, variables: &[(&str, Value)], lazy: &dyn Lazy, budget: &mut Budget) -> Result<Value, EvalError> {
        eval::evaluate(&self.expr, variables, Some(lazy), budget)
    }

    /// The fields that the expression selects below a variable, one path for each selection.
    pub fn selections(&self, variable: &str) -> Vec<Vec<String>> {
        let mut out = Vec::new();
        check::selections(&self.expr, variable, &mut out);
        out
    }

    /// Whether the expression mentions a variable.
    pub fn mentions(&self, variable: &str) -> bool {
        check::mentions(&self.expr, variable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str) -> Result<Value, EvalError> {
        Program::compile(text, &[]).unwrap().evaluate(&[], &mut Budget::new(1_000_000))
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
