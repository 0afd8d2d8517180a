//! The params of a policy as a binding refers to them; see upstream's CollectParams.

use fram_machinery::{Value, meta};

use super::compiled::{Binding, Policy};
use crate::admission::Request;
use crate::registry::{Place, Served};

/// Each param with which a policy is to be evaluated; None stands for no param at all.
pub(super) async fn collect(policy: &Policy, binding: &Binding, request: &Request<'_>) -> Result<Vec<Option<Value>>, String> {
    let (Some(kind), Some(reference)) = (&policy.params, &binding.reference) else { return Ok(vec![None]) };
    let [group, version, name] = kind;
    let served = served(request, kind).ok_or_else(|| format!("paramKind kind `{group}/{version}, Kind={name}` not known"))?;
    let namespace = match (served.kind.is_namespaced(), reference.namespace.as_str(), request.place.namespace.as_str()) {
        (false, "", _) => "",
        (false, ..) => return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".into()),
        (true, "", "") => return Err("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".into()),
        (true, "", own) => own,
        (true, given, _) => given,
    };
    let params = if reference.name.is_empty() {
        let selector = reference.selector.as_ref().ok_or("one of name or selector must be provided")?;
        let all = request.list(group, version, &served.kind.plural, namespace).await.map_err(|e| e.to_string())?;
        all.into_iter().filter(|o| selector.matches(meta::labels(o))).collect()
    } else {
        let found = request.find(group, version, &served.kind.plural, namespace, &reference.name).await;
        found.map_err(|e| e.to_string())?.into_iter().collect::<Vec<_>>()
    };
    if params.is_empty() && reference.required {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".into());
    }
    Ok(params.into_iter().map(Some).collect())
}

fn served(request: &Request<'_>, [group, version, kind]: &[String; 3]) -> Option<Served> {
    let api = request.registry.api();
    let kind = api.kind(group, version, kind)?;
    request.registry.served(group, version, &kind.plural)
}

/// The namespace in which a request is, as policies see it.
pub(super) fn place_of_namespace<'a>(request: &'a Request<'_>) -> Option<&'a Place> {
    Some(request.place).filter(|p| !p.namespace.is_empty() && !p.kind().is("", "Namespace"))
}
