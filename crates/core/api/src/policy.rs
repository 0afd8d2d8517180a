//! The expressions of admission policies: which names they may use where. What they decide is the API server's business.

use fram_cel::Program;
use fram_machinery::Value;

/// The variable below which those of the policy stand.
pub const VARIABLES: &str = "variables";

/// What an expression of a policy may use beyond the request itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scope<'a> {
    /// The policy has a paramKind.
    pub params: bool,
    /// The variables that are declared before; None where there can be none.
    pub variables: Option<&'a [&'a str]>,
    /// The expression makes an `Object` or a `JSONPatch`.
    pub patch: bool,
}

impl Scope<'_> {
    /// Compiles an expression, or says why it cannot be, as upstream words it.
    pub fn compile(&self, text: &str) -> Result<Program, String> {
        let mut names = vec!["object", "oldObject", "request", "namespaceObject"];
        names.extend(self.params.then_some("params"));
        names.extend(self.variables.map(|_| VARIABLES));
        let messages: &[&str] = if self.patch { &["Object", "JSONPatch"] } else { &[] };
        let fail = |why: String| format!("compilation failed: {why}");
        let program = Program::compile_with(text, &names, messages).map_err(|e| fail(e.to_string()))?;
        let known = self.variables.unwrap_or_default();
        let unknown = program.selections(VARIABLES).into_iter().find(|path| !known.contains(&path[0].as_str()));
        match unknown.filter(|_| self.variables.is_some()) {
            Some(path) => Err(fail(format!("ERROR: <input>: undefined field '{}'", path[0]))),
            None => Ok(program),
        }
    }
}

/// The names of a policy's variables, in the order in which they are declared.
pub fn variable_names(policy: &Value) -> Vec<&str> {
    policy.list_at(&["spec", "variables"]).iter().map(|v| v.str_at(&["name"])).collect()
}

/// Whether a policy says of which kind its params are.
pub fn has_params(policy: &Value) -> bool {
    policy.at(&["spec", "paramKind"]).is_some_and(|k| !k.is_null())
}
