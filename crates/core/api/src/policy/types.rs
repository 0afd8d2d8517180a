//! The types of kinds, for expressions that are held against them: of custom resources by their schema, of all others by their
//! description. And which kinds the rules of a policy are about.

use std::sync::Arc;

use fram_cel::{Declared, Type};
use fram_machinery::schema::{self, TypeId};
use fram_machinery::{Value, json};

use crate::Api;
use crate::kind::Kind;

/// More kinds are not held against a policy; see upstream's maxTypesToCheck.
const MOST_KINDS: usize = 10;

/// What is declared of the objects of a kind; None where its schema says nothing.
pub fn declared(kind: &Kind) -> Option<Declared> {
    let Some(custom) = &kind.custom else { return Some(of_struct(kind, kind.ty, &kind.kind, &mut Vec::new())) };
    let schema = json::from_slice(&custom.openapi).ok()?;
    let declared = Declared::read(&schema, &kind.kind, true)?;
    // All metadata is there, not only what rules see of it.
    let metadata = kind.schema.get(kind.ty).field("metadata").map(|f| f.ty.clone());
    Some(match metadata {
        Some(ty) => declared.with("metadata", of_type(kind, &ty, &format!("{}.metadata", kind.kind), &mut Vec::new())),
        None => declared,
    })
}

/// `open` are the types that are being read, since some have themselves inside.
fn of_struct(kind: &Kind, ty: TypeId, name: &str, open: &mut Vec<TypeId>) -> Declared {
    if open.contains(&ty) {
        return Declared::simple(Type::Dyn);
    }
    open.push(ty);
    let fields = kind.schema.get(ty).json_fields();
    let mut all: Vec<(&str, Declared)> = Vec::with_capacity(fields.len() + 2);
    for field in fields {
        all.push((field.name.as_str(), of_type(kind, &field.ty, &format!("{name}.{}", field.name), open)));
    }
    if open.len() == 1 {
        all.extend(["apiVersion", "kind"].map(|field| (field, Declared::simple(Type::Text))));
    }
    open.pop();
    Declared::object(name, all)
}

fn of_type(kind: &Kind, ty: &schema::Type, name: &str, open: &mut Vec<TypeId>) -> Declared {
    use schema::Type as Of;
    Declared::simple(match ty {
        Of::Bool => Type::Bool,
        Of::Int32 | Of::Int64 => Type::Int,
        Of::Float64 => Type::Double,
        Of::String | Of::Duration => Type::Text,
        Of::Bytes => Type::Bytes,
        Of::Time | Of::MicroTime => Type::Timestamp,
        Of::Struct(id) => return of_struct(kind, *id, name, open),
        Of::List(items) => return Declared::list(of_type(kind, items, &format!("{name}.@idx"), open), 0),
        Of::Map(values) => return Declared::map(of_type(kind, values, &format!("{name}.@elem"), open), 0),
        _ => Type::Dyn,
    })
}

/// The kinds that the rules of a policy name, without what they only name by wildcards.
pub fn kinds(api: &Api, policy: &Value) -> Vec<Arc<Kind>> {
    let mut out: Vec<Arc<Kind>> = Vec::new();
    for rule in policy.list_at(&["spec", "matchConstraints", "resourceRules"]) {
        let texts = |field: &str| -> Vec<&str> {
            let mut all: Vec<&str> = rule.list_at(&[field]).iter().filter_map(Value::as_str).collect();
            all.sort_unstable();
            all
        };
        let (groups, versions) = (texts("apiGroups"), texts("apiVersions"));
        if groups.iter().chain(&versions).any(|text| text.contains('*')) {
            continue;
        }
        let resources = texts("resources");
        let plain = resources.iter().filter(|r| !r.contains(['*', '/']));
        let named =
            groups.iter().flat_map(|g| versions.iter().map(move |v| (g, v))).flat_map(|(g, v)| plain.clone().map(move |r| (g, v, r)));
        let found: Vec<_> = named.filter_map(|(g, v, r)| api.resource(g, v, r)).take(MOST_KINDS).collect();
        out.extend(found.into_iter().cloned());
    }
    let key = |kind: &Arc<Kind>| (kind.group.clone(), kind.version.clone(), kind.kind.clone());
    out.sort_by_key(key);
    out.dedup_by_key(|kind| key(kind));
    out
}

/// The warnings about the expressions of a ValidatingAdmissionPolicy, as they stand in its status; see upstream's TypeChecker.
pub fn warnings(api: &Api, policy: &Value) -> Vec<Value> {
    let has_params = super::has_params(policy);
    let params = has_params.then(|| params(api, policy)).flatten().map(Arc::new);
    let plain = super::Scope { params: has_params, params_type: params.as_ref(), authorizer: true, ..Default::default() };
    let of_kind = |kind: Arc<Kind>| {
        let object = Arc::new(declared(&kind)?);
        let (variables, _) = super::variables(policy, super::Scope { object_type: Some(&object), ..plain });
        Some((format!("{}, Kind={}", kind.api_version(), kind.kind), object, variables))
    };
    let objects: Vec<_> = kinds(api, policy).into_iter().filter_map(of_kind).collect();
    let mut out = Vec::new();
    for (i, validation) in policy.list_at(&["spec", "validations"]).iter().enumerate() {
        for field in ["expression", "messageExpression"] {
            let text = validation.str_at(&[field]);
            let about = |(name, object, variables): &(String, Arc<Declared>, super::Variables)| {
                let authorizer = field == "expression";
                let scope = super::Scope { object_type: Some(object), variables: Some(variables), authorizer, ..plain };
                Some(format!("{name}: {}\n", scope.check(text).err()?))
            };
            let found: Vec<String> = objects.iter().filter(|_| !text.is_empty()).filter_map(about).collect();
            if !found.is_empty() {
                let place = format!("spec.validations[{i}].{field}");
                out.push(fram_machinery::object!({ "fieldRef": place, "warning": (found.join("\n")) }));
            }
        }
    }
    out
}

fn params(api: &Api, policy: &Value) -> Option<Declared> {
    let version = policy.str_at(&["spec", "paramKind", "apiVersion"]);
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    declared(api.kind(group, version, policy.str_at(&["spec", "paramKind", "kind"]))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    #[test]
    fn expressions_are_held_against_the_kinds_that_a_policy_is_about() {
        let api = Api::builtin().unwrap();
        let policy = |expression: &str, message: &str| {
            object!({ "spec": { "paramKind": { "apiVersion": "v1", "kind": "ConfigMap" },
                "matchConstraints": { "resourceRules": [{ "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments", "deployments/status"] }] },
                "variables": [{ "name": "replicas", "expression": "object.spec.replicas" }],
                "validations": [{ "expression": expression, "messageExpression": message }] } })
        };
        let good = policy(
            "variables.replicas > 1 && object.metadata.labels['a'] == params.data['b'] && object.spec.template.spec.containers.all(c, c.image != '')",
            "object.metadata.name + string(object.spec.replicas)",
        );
        assert_eq!(warnings(&api, &good), Vec::<Value>::new());
        let bad = warnings(&api, &policy("variables.replicas > '1'", "object.spec.replicas + object.spec.none"));
        assert_eq!(bad.len(), 2);
        assert_eq!(bad[0].str_at(&["fieldRef"]), "spec.validations[0].expression");
        assert_eq!(
            bad[0].str_at(&["warning"]),
            "apps/v1, Kind=Deployment: ERROR: <input>:1:20: found no matching overload for '_>_' applied to '(int, string)'\n \
             | variables.replicas > '1'\n | ...................^\n"
        );
        assert!(bad[1].str_at(&["warning"]).contains("undefined field 'none'"));
    }

    #[test]
    fn every_kind_has_a_type() {
        let api = Api::builtin().unwrap();
        assert!(api.kinds().all(|kind| declared(kind).is_some()));
    }
}
