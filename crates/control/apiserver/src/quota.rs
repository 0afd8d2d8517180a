//! ResourceQuotas as they are charged: what a write uses is added to its quotas in the same transaction, so that no two
//! writes share the last of a limit and nothing is charged for what was not written. What upstream's ResourceQuota admission
//! plugin does in two steps.

use fram_api::quota::{self, Amounts};
use fram_machinery::quantity::Quantity;
use fram_machinery::{Status, Value, meta};
use fram_store::{Condition, Key, Operation};

use crate::registry::{ListRequest, Place, Record, Registry};

/// What must be written beside an object, and under which conditions.
#[derive(Default)]
pub(crate) struct Charge {
    pub(crate) conditions: Vec<Condition>,
    pub(crate) operations: Vec<Operation>,
}

/// Whether a key is that of a quota: somebody else was charged meanwhile.
pub(crate) fn is_quota(key: &Key) -> bool {
    key.as_str().contains("core/resourcequotas/")
}

/// Charges the quotas of the namespace for an object that is created, or for what a change adds; Forbidden where one of them
/// would be exceeded.
pub(crate) async fn charge(
    registry: &Registry,
    place: &Place,
    subresource: &str,
    object: &Value,
    old: Option<&Value>,
) -> Result<Charge, Status> {
    let stored = &place.served.stored;
    if !registry.admission.has("ResourceQuota") {
        return Ok(Charge::default());
    }
    // A pod that gets a deadline comes under other quotas; see upstream's podEvaluator.Handles.
    let scope_changes = stored.is("", "Pod")
        && subresource.is_empty()
        && old.is_some_and(|old| quota::is_terminating(old) != quota::is_terminating(object));
    let changes = scope_changes
        || matches!(
            (stored.group.as_str(), stored.plural.as_str(), subresource),
            ("", "pods", "resize")
                | ("", "services", "")
                | ("", "persistentvolumeclaims", "" | "status")
                | ("resource.k8s.io", "resourceclaims", "")
        );
    if !stored.is_namespaced() || old.is_some() && !changes || old.is_none() && !subresource.is_empty() {
        return Ok(Charge::default());
    }
    let Some(served) = registry.served("", "v1", "resourcequotas") else { return Ok(Charge::default()) };
    let quotas = Place { served, namespace: place.namespace.clone(), name: String::new() };
    let mut out = Charge::default();
    let listing = registry.list(&quotas, &ListRequest::default()).await?;
    if listing.items.is_empty() {
        return Ok(out);
    }
    for entry in listing.items {
        let mut quota = registry.decode(&quotas.served, &entry)?;
        // Of what a quota does not cover nothing is used; a change may bring an object under it, or out.
        let usage = |object: &Value| match quota::covers(&quota, &stored.group, &stored.plural, object) {
            true => quota::usage(&stored.group, &stored.plural, object),
            false => Amounts::new(),
        };
        let added = difference(usage(object), &old.map(usage).unwrap_or_default());
        if added.is_empty() {
            continue;
        }
        if stored.group.is_empty() && stored.plural == "pods" && old.is_none() {
            check_named(place, &quota, object)?;
        }
        // What its controller is about to take notice of is counted by that, or by this write once it has been.
        let unnoticed = added.keys().any(|name| is_limited(&quota, "spec", name) && !is_limited(&quota, "status", name));
        let taken = take(place, &mut quota, &added)?;
        if taken || unnoticed {
            out.conditions.push(Condition::ModifiedAt(entry.key.clone(), entry.modified));
        }
        if taken {
            out.operations.push(Operation::put(entry.key.clone(), Record::encode(&quotas.served.stored, quota)));
        }
    }
    Ok(out)
}

fn difference(mut new: Amounts, old: &Amounts) -> Amounts {
    for (name, amount) in old {
        let entry = new.entry(name.clone()).or_insert(Quantity::zero());
        *entry = *entry - *amount;
    }
    new.retain(|_, amount| !amount.is_zero());
    new
}

fn check_named(place: &Place, quota: &Value, pod: &Value) -> Result<(), Status> {
    let hard = quota.at(&["status", "hard"]).and_then(Value::as_map);
    let limited: Vec<&str> = hard.into_iter().flat_map(|m| m.keys()).map(|k| k.as_str()).collect();
    let lacking = quota::unnamed(pod, &limited);
    if lacking.is_empty() {
        return Ok(());
    }
    let said: Vec<String> = lacking.iter().map(|(name, containers)| format!("{name} for: {}", containers.join(","))).collect();
    Err(place.forbidden(&format!("failed quota: {}: must specify {}", meta::name(quota), said.join("; "))))
}

/// Whether a quota has a limit of this name, as its author wants it or as its controller knows it.
fn is_limited(quota: &Value, part: &str, name: &str) -> bool {
    quota.at(&[part, "hard", name]).is_some()
}

/// Adds to what a quota counts as used; whether it changed.
fn take(place: &Place, quota: &mut Value, added: &Amounts) -> Result<bool, Status> {
    let amount = |of: &str, name: &str| quota.str_at(&["status", of, name]).parse::<Quantity>().ok();
    let mut taken = Vec::new();
    let mut exceeded = Vec::new();
    for (name, more) in added {
        // A quota holds what its controller has taken notice of, as upstream.
        if !is_limited(quota, "status", name) {
            continue;
        }
        let (Some(hard), Some(used)) = (amount("hard", name), amount("used", name)) else {
            let why = format!("status unknown for quota: {}, resources: {name}", meta::name(quota));
            return Err(place.forbidden(&why));
        };
        if *more > Quantity::zero() && used + *more > hard {
            exceeded.push((name, more, used, hard));
        }
        taken.push((name.clone(), (used + *more).to_string()));
    }
    if !exceeded.is_empty() {
        let said = |of: fn(&(&String, &Quantity, Quantity, Quantity)) -> Quantity| {
            exceeded.iter().map(|e| format!("{}={}", e.0, of(e))).collect::<Vec<_>>().join(",")
        };
        return Err(place.forbidden(&format!(
            "exceeded quota: {}, requested: {}, used: {}, limited: {}",
            meta::name(quota),
            said(|e| *e.1),
            said(|e| e.2),
            said(|e| e.3)
        )));
    }
    for (name, used) in &taken {
        quota.set(&["status", "used", name], used.as_str());
    }
    Ok(!taken.is_empty())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fram_api::Api;
    use fram_machinery::object;
    use fram_store::{Embedded, Options};

    use super::*;
    use crate::admission::Chain;
    use crate::allocate::Allocators;
    use crate::environment::Environment;
    use crate::registry::Write;

    #[tokio::test]
    async fn a_write_stands_or_falls_with_the_limits_that_no_controller_has_noticed_yet() {
        let store = Arc::new(Embedded::open(Options::in_memory()).unwrap());
        let api = Arc::new(Api::builtin().unwrap());
        let registry = Registry::new(api, store, "/registry/", Environment::system(), Chain::standard(), Allocators::default());
        let place = |plural: &str, namespace: &str| {
            let served = registry.served("", "v1", plural).unwrap();
            Place { served, namespace: namespace.into(), name: String::new() }
        };
        let (write, maps) = (Write::default(), place("configmaps", "n"));
        registry.create(&place("namespaces", ""), object!({ "metadata": { "name": "n" } }), &write).await.unwrap();
        for (name, limits) in [("limits", object!({ "configmaps": "1" })), ("elsewhere", object!({ "secrets": "1" }))] {
            let quota = object!({ "metadata": { "name": name }, "spec": { "hard": limits } });
            registry.create(&place("resourcequotas", "n"), quota, &write).await.unwrap();
        }
        let charge = charge(&registry, &maps, "", &object!({ "metadata": { "name": "x" } }), None).await.unwrap();
        let [Condition::ModifiedAt(key, _)] = &*charge.conditions else { panic!("{:?}", charge.conditions) };
        assert!(key.as_str().ends_with("/limits") && charge.operations.is_empty());
    }
}
