//! The expressions of admission policies and of match conditions: what they may use where, and of which types that is. What
//! they decide is the API server's business.

pub mod types;

use std::sync::Arc;

use fram_cel::{Declared, Environment, Program, Type};
use fram_machinery::Value;

/// The variable below which those of the policy stand.
pub const VARIABLES: &str = "variables";

/// The variable by which expressions ask for authorization, and the one that asks about what the request is about.
pub const AUTHORIZER: &str = "authorizer";
pub const REQUEST_RESOURCE: &str = "authorizer.requestResource";

/// The functions of these variables; see upstream's cel/library/authz.go. What they do is the API server's business.
const AUTHORIZATION: &str = "\
path: kubernetes.authorization.Authorizer.(string) -> kubernetes.authorization.PathCheck
group: kubernetes.authorization.Authorizer.(string) -> kubernetes.authorization.GroupCheck
serviceAccount: kubernetes.authorization.Authorizer.(string, string) -> kubernetes.authorization.Authorizer
resource: kubernetes.authorization.GroupCheck.(string) -> kubernetes.authorization.ResourceCheck
subresource: kubernetes.authorization.ResourceCheck.(string) -> kubernetes.authorization.ResourceCheck
namespace: kubernetes.authorization.ResourceCheck.(string) -> kubernetes.authorization.ResourceCheck
name: kubernetes.authorization.ResourceCheck.(string) -> kubernetes.authorization.ResourceCheck
fieldSelector: kubernetes.authorization.ResourceCheck.(string) -> kubernetes.authorization.ResourceCheck
labelSelector: kubernetes.authorization.ResourceCheck.(string) -> kubernetes.authorization.ResourceCheck
check: kubernetes.authorization.PathCheck.(string) -> kubernetes.authorization.Decision \
| kubernetes.authorization.ResourceCheck.(string) -> kubernetes.authorization.Decision
allowed: kubernetes.authorization.Decision.() -> bool
reason: kubernetes.authorization.Decision.() -> string
errored: kubernetes.authorization.Decision.() -> bool
error: kubernetes.authorization.Decision.() -> string";

/// What an expression has to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    Anything,
    Bool,
    Text,
    TextOrNull,
    Object,
    Patches,
}

/// Names of a policy's variables with their types.
pub type Variables = Vec<(String, Type)>;

/// What an expression of a policy may use beyond the request itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scope<'a> {
    /// The policy has a paramKind.
    pub params: bool,
    /// The variables that are declared before; None where there can be none.
    pub variables: Option<&'a [(String, Type)]>,
    /// The expression makes an `Object` or a `JSONPatch`.
    pub patch: bool,
    /// It may ask what the user of the request, or a service account, may do.
    pub authorizer: bool,
    /// What the object and the params are known to be, where the types of expressions are held against them.
    pub object_type: Option<&'a Arc<Declared>>,
    pub params_type: Option<&'a Arc<Declared>>,
}

impl Scope<'_> {
    /// Compiles an expression, or says why it cannot be, as upstream words it.
    pub fn compile(&self, text: &str, wanted: Wanted) -> Result<Program, String> {
        let program = self.check(text).map_err(|why| format!("compilation failed: {why}"))?;
        match refused(program.result(), wanted) {
            Some(expected) => Err(format!("must evaluate to {expected} but got {}", program.result())),
            None => Ok(program),
        }
    }

    /// The same whatever the expression gives, without the words before the errors.
    pub fn check(&self, text: &str) -> Result<Program, String> {
        let declare = |environment: Environment, name: &str, ty: Option<&Arc<Declared>>| match ty {
            Some(ty) => environment.variable_of(name, ty.clone()),
            None => environment.typed(name, Type::Dyn),
        };
        let mut environment = Environment::kubernetes().variable_of("request", request_type().into());
        environment = declare(environment, "object", self.object_type);
        environment = declare(environment, "oldObject", self.object_type);
        environment = environment.variable_of("namespaceObject", namespace_type().into());
        if self.params {
            environment = declare(environment, "params", self.params_type);
        }
        if let Some(variables) = self.variables {
            let fields = variables.iter().map(|(name, ty)| (name.as_str(), Declared::simple(ty.clone()))).collect();
            environment = environment.variable_of(VARIABLES, Declared::object("kubernetes.variables", fields).into());
        }
        if self.patch {
            environment = environment.mutations();
        }
        if self.authorizer {
            environment = environment.typed(AUTHORIZER, Type::read("kubernetes.authorization.Authorizer"));
            environment = environment.typed(REQUEST_RESOURCE, Type::read("kubernetes.authorization.ResourceCheck"));
            environment = environment.functions(AUTHORIZATION);
        }
        Program::compile(text, &environment).map_err(|e| e.to_string())
    }
}

/// What was wanted, where a type is not that.
fn refused(found: &Type, wanted: Wanted) -> Option<&'static str> {
    let (good, expected) = match wanted {
        Wanted::Anything => (true, ""),
        Wanted::Bool => (matches!(found, Type::Bool), "bool"),
        Wanted::Text => (matches!(found, Type::Text), "string"),
        Wanted::TextOrNull => (matches!(found, Type::Text | Type::Null), "one of [string null_type]"),
        Wanted::Object => (found.to_string() == "Object", "Object"),
        Wanted::Patches => (found.to_string() == "list(JSONPatch)", "list(JSONPatch)"),
    };
    (!good).then_some(expected)
}

/// Compiles a match condition of a webhook.
pub fn compile_condition(text: &str) -> Result<Program, String> {
    Scope { authorizer: true, ..Default::default() }.compile(text, Wanted::Bool)
}

fn text() -> Declared {
    Declared::simple(Type::Text)
}

fn texts() -> Declared {
    Declared::list(text(), 0)
}

/// See upstream's BuildRequestType.
fn request_type() -> Declared {
    let kind = || Declared::object("kubernetes.GroupVersionKind", vec![("group", text()), ("version", text()), ("kind", text())]);
    let resource =
        || Declared::object("kubernetes.GroupVersionResource", vec![("group", text()), ("version", text()), ("resource", text())]);
    let user = vec![("username", text()), ("uid", text()), ("groups", texts()), ("extra", Declared::map(texts(), 0))];
    let fields = vec![
        ("kind", kind()),
        ("resource", resource()),
        ("subResource", text()),
        ("requestKind", kind()),
        ("requestResource", resource()),
        ("requestSubResource", text()),
        ("name", text()),
        ("namespace", text()),
        ("operation", text()),
        ("userInfo", Declared::object("kubernetes.UserInfo", user)),
        ("dryRun", Declared::simple(Type::Bool)),
        ("options", Declared::simple(Type::Dyn)),
    ];
    Declared::object("kubernetes.AdmissionRequest", fields)
}

/// See upstream's BuildNamespaceType.
fn namespace_type() -> Declared {
    let time = || Declared::simple(Type::Timestamp);
    let labels = || Declared::map(text(), 0);
    let condition = vec![("status", text()), ("type", text()), ("lastTransitionTime", time()), ("message", text()), ("reason", text())];
    let status = vec![("conditions", Declared::list(Declared::object("kubernetes.NamespaceCondition", condition), 0)), ("phase", text())];
    let metadata = vec![
        ("name", text()),
        ("generateName", text()),
        ("namespace", text()),
        ("labels", labels()),
        ("annotations", labels()),
        ("UID", text()),
        ("creationTimestamp", time()),
        ("deletionGracePeriodSeconds", Declared::simple(Type::Int)),
        ("deletionTimestamp", time()),
        ("generation", Declared::simple(Type::Int)),
        ("resourceVersion", text()),
        ("finalizers", texts()),
    ];
    let fields = vec![
        ("metadata", Declared::object("kubernetes.NamespaceMetadata", metadata)),
        ("spec", Declared::object("kubernetes.NamespaceSpec", vec![("finalizers", texts())])),
        ("status", Declared::object("kubernetes.NamespaceStatus", status)),
    ];
    Declared::object("kubernetes.Namespace", fields)
}

/// The variables of a policy with the programs that compute them, in the order in which they are declared: each sees those
/// before it. `scope` says what else they see.
pub fn variables(policy: &Value, scope: Scope<'_>) -> (Variables, Vec<Result<Program, String>>) {
    let (mut types, mut programs) = (Variables::new(), Vec::new());
    for variable in policy.list_at(&["spec", "variables"]) {
        let scope = Scope { variables: Some(&types), patch: false, ..scope };
        let program = scope.compile(variable.str_at(&["expression"]), Wanted::Anything);
        let ty = program.as_ref().map_or(Type::Dyn, |p| p.result().clone());
        types.push((variable.str_at(&["name"]).to_string(), ty));
        programs.push(program);
    }
    (types, programs)
}

/// Whether a policy says of which kind its params are.
pub fn has_params(policy: &Value) -> bool {
    policy.at(&["spec", "paramKind"]).is_some_and(|k| !k.is_null())
}
