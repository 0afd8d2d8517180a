//! Nobody has a policy read for them what they may not read: who names params in a policy or a binding may get them. Upstream has
//! this in the strategies of these kinds (pkg/registry/admissionregistration/*/authz.go).

use fram_machinery::{Status, Value};

use super::{Operation, Request};
use crate::authorize::{Attributes, Decision, Rbac};
use crate::user::MASTERS;

const GROUP: &str = "admissionregistration.k8s.io";

pub(super) async fn check(rbac: &Rbac, request: &Request<'_>, object: &Value, old: Option<&Value>) -> Result<(), Status> {
    let kind = request.stored_kind();
    let writes = matches!(request.operation, Operation::Create | Operation::Update);
    if kind.group != GROUP || !request.subresource.is_empty() || !writes || request.user.is_in(MASTERS) {
        return Ok(());
    }
    let (reference, fields): (_, &[&str]) = match kind.kind.as_str() {
        "ValidatingAdmissionPolicy" | "MutatingAdmissionPolicy" => ("paramKind", &["paramKind"]),
        "ValidatingAdmissionPolicyBinding" | "MutatingAdmissionPolicyBinding" => ("paramRef", &["paramRef", "policyName"]),
        _ => return Ok(()),
    };
    let same = |field: &&str| old.is_some_and(|old| old.at(&["spec", field]) == object.at(&["spec", field]));
    let Some(reference) = object.at(&["spec", reference]).filter(|r| !r.is_null()) else { return Ok(()) };
    if fields.iter().all(same) {
        return Ok(());
    }
    let (asked, why) = if fields.len() == 1 { of_policy(request, reference) } else { of_binding(request, object, reference).await? };
    match rbac.decide(request.user, &asked) {
        Decision::Allow => Ok(()),
        _ => Err(request.place.forbidden(&format!("user {:?} {why}", request.user.name))),
    }
}

/// All objects of the kind have to be readable, wherever they are.
fn of_policy(request: &Request<'_>, kind: &Value) -> (Attributes, String) {
    let asked = Attributes { verb: "get".into(), namespace: "*".into(), name: "*".into(), ..of_kind(request, Some(kind)) };
    let (name, version) = (kind.str_at(&["kind"]), kind.str_at(&["apiVersion"]));
    let why = format!("must have \"get\" permission on all objects of the referenced paramKind (kind={name}, apiVersion={version})");
    (asked, why)
}

/// What the binding names has to be readable, or whatever there is of the kind, where it selects.
async fn of_binding(request: &Request<'_>, binding: &Value, reference: &Value) -> Result<(Attributes, String), Status> {
    let plural =
        if request.stored_kind().kind.starts_with("Validating") { "validatingadmissionpolicies" } else { "mutatingadmissionpolicies" };
    let policy = request.find(GROUP, &request.stored_kind().version, plural, "", binding.str_at(&["spec", "policyName"])).await?;
    let name = reference.str_at(&["name"]);
    let verb = if name.is_empty() { "list" } else { "get" };
    let kind = policy.as_ref().and_then(|p| p.at(&["spec", "paramKind"]));
    let asked =
        Attributes { verb: verb.into(), namespace: reference.str_at(&["namespace"]).into(), name: name.into(), ..of_kind(request, kind) };
    let why = match asked.resource.as_str() {
        "*" => format!("does not have {verb:?} permission for all groups, versions and resources, and the paramKind is not known"),
        _ => format!("does not have {verb:?} permission on the object referenced by paramRef"),
    };
    Ok((asked, why))
}

/// The resource of a kind; every resource, as far as it is not known which.
fn of_kind(request: &Request<'_>, kind: Option<&Value>) -> Attributes {
    let any = || "*".to_string();
    let Some(kind) = kind else { return Attributes { group: any(), version: any(), resource: any(), ..Default::default() } };
    let version = kind.str_at(&["apiVersion"]);
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let api = request.registry.api();
    let resource = api.kind(group, version, kind.str_at(&["kind"])).map_or_else(any, |k| k.plural.to_string());
    Attributes { group: group.into(), version: version.into(), resource, ..Default::default() }
}
