//! ClusterRoles with an aggregation rule hold the rules of all ClusterRoles that it selects.

use std::sync::Arc;

use fram_client::resources::CLUSTER_ROLES;
use fram_client::{Action, Controller, PatchKind};
use fram_machinery::labels::Selector;
use fram_machinery::{Value, meta, object};

use crate::Context;
use crate::objects::unless_it_changed;

pub(crate) fn start(context: &Context) {
    let roles = context.informers.get(&CLUSTER_ROLES);
    let client = context.client("clusterrole-aggregation-controller");
    let aggregates = roles.clone();
    // Any role may be selected by any of the few that aggregate.
    let controller = Controller::new("clusterrole-aggregation", 2)
        .watches(&roles, move |_| aggregates.list().iter().filter(|r| is_aggregate(r)).map(|r| meta::name(r).to_string()).collect());
    context.run(controller, (client, roles), |context, name| async move {
        let (client, roles) = &*context;
        let Some(role) = roles.get(&name).filter(|r| is_aggregate(r) && !meta::is_terminating(r)) else { return Ok(Action::Done) };
        let rules = aggregated(&role, &roles.list());
        if rules == role.list_at(&["rules"]) {
            return Ok(Action::Done);
        }
        let patch = object!({ "metadata": { "uid": (meta::uid(&role)) }, "rules": rules });
        unless_it_changed(client.all(&CLUSTER_ROLES).patch(&name, "", PatchKind::Merge, patch).await)?;
        Ok(Action::Done)
    });
}

fn is_aggregate(role: &Value) -> bool {
    role.at(&["aggregationRule"]).is_some_and(|r| !r.is_null())
}

/// The rules of all selected roles in the order of their names, each once.
fn aggregated(role: &Value, all: &[Arc<Value>]) -> Vec<Value> {
    let selectors = role.list_at(&["aggregationRule", "clusterRoleSelectors"]).iter();
    let selectors: Vec<Selector> = selectors.filter_map(|s| Selector::from_object(Some(s)).ok().flatten()).collect();
    let mut rules: Vec<Value> = Vec::new();
    // A selector takes its roles in turn, as upstream: the order of the selectors is the first order.
    for selector in &selectors {
        for other in all.iter().filter(|r| meta::name(r) != meta::name(role) && selector.matches(meta::labels(r))) {
            let new: Vec<Value> = other.list_at(&["rules"]).iter().filter(|r| !rules.contains(r)).cloned().collect();
            rules.extend(new);
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selected_rules_are_held_once_and_never_ones_own() {
        let role = |name: &str, verb: &str| {
            Arc::new(object!({ "metadata": { "name": name, "labels": { "to": "admin" } }, "rules": [{ "verbs": [verb] }] }))
        };
        let mut admin = (*role("admin", "own")).clone();
        admin.set(&["aggregationRule"], object!({ "clusterRoleSelectors": [{ "matchLabels": { "to": "admin" } }] }));
        let all = [role("a", "get"), Arc::new(admin.clone()), role("b", "list"), role("c", "get")];
        assert_eq!(aggregated(&admin, &all), [object!({ "verbs": ["get"] }), object!({ "verbs": ["list"] })]);
    }
}
