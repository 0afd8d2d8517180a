//! The objects that every cluster has: upstream's mandatory and suggested configuration, and what becomes of objects of their
//! names. Pure.

use fram_machinery::{Value, meta, object};

/// The annotation by which one says whether the server keeps an object's spec.
pub const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

fn limited(name: &str, shares: i64, lendable: i64, queuing: Option<(i64, i64)>) -> Value {
    let response = match queuing {
        None => object!({ "type": "Reject" }),
        Some((queues, hand)) => {
            object!({ "type": "Queue", "queuing": { "queues": queues, "handSize": hand, "queueLengthLimit": 50_i64 } })
        }
    };
    let limited = object!({ "nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response });
    named("PriorityLevelConfiguration", name, object!({ "type": "Limited", "limited": limited }))
}

fn named(kind: &str, name: &str, spec: Value) -> Value {
    let annotations = object!({ "apf.kubernetes.io/autoupdate-spec": "true" });
    object!({ "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": kind, "metadata": { "name": name, "annotations": annotations },
        "spec": spec })
}

/// All priority levels there are by default.
pub fn priority_levels() -> Vec<Value> {
    let nothing = object!({ "nominalConcurrencyShares": 0_i64, "lendablePercent": 0_i64 });
    vec![
        named("PriorityLevelConfiguration", "exempt", object!({ "type": "Exempt", "exempt": nothing })),
        limited("catch-all", 5, 0, None),
        limited("system", 30, 33, Some((64, 6))),
        limited("node-high", 40, 25, Some((64, 6))),
        limited("leader-election", 10, 0, Some((16, 4))),
        limited("workload-high", 40, 50, Some((128, 6))),
        limited("workload-low", 100, 90, Some((128, 6))),
        limited("global-default", 20, 50, Some((128, 6))),
    ]
}

fn group(name: &str) -> Value {
    object!({ "kind": "Group", "group": { "name": name } })
}

fn user(name: &str) -> Value {
    object!({ "kind": "User", "user": { "name": name } })
}

fn kube_system_accounts() -> Value {
    object!({ "kind": "ServiceAccount", "serviceAccount": { "name": "*", "namespace": "kube-system" } })
}

fn resources(verbs: &[&str], group: &str, names: &[&str], cluster: bool) -> Value {
    let list = |items: &[&str]| Value::from(items.iter().map(|i| Value::from(*i)).collect::<Vec<_>>());
    let mut rule = object!({ "verbs": (list(verbs)), "apiGroups": [group], "resources": (list(names)), "namespaces": ["*"] });
    if cluster {
        rule.set(&["clusterScope"], true);
    }
    rule
}

fn schema(name: &str, level: &str, precedence: i64, by: &str, subjects: Vec<Value>, rules: Vec<Value>, paths: Vec<Value>) -> Value {
    let mut rule = object!({ "subjects": subjects });
    if !rules.is_empty() {
        rule.set(&["resourceRules"], rules);
    }
    if !paths.is_empty() {
        rule.set(&["nonResourceRules"], paths);
    }
    let mut spec = object!({ "priorityLevelConfiguration": { "name": level }, "matchingPrecedence": precedence, "rules": [rule] });
    if !by.is_empty() {
        spec.set(&["distinguisherMethod", "type"], by);
    }
    named("FlowSchema", name, spec)
}

/// All flow schemas there are by default, in the order of their precedence.
pub fn flow_schemas() -> Vec<Value> {
    let everything = || vec![resources(&["*"], "*", &["*"], true)];
    let all_paths = || vec![object!({ "verbs": ["*"], "nonResourceURLs": ["*"] })];
    let everybody = || vec![group("system:unauthenticated"), group("system:authenticated")];
    let probes = object!({ "verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"] });
    let leases = |verbs: &[&str]| resources(verbs, "coordination.k8s.io", &["leases"], false);
    let leaders = vec![user("system:kube-controller-manager"), user("system:kube-scheduler"), kube_system_accounts()];
    let of_nodes = vec![resources(&["*"], "", &["nodes", "nodes/status"], true), leases(&["*"])];
    let manager = vec![user("system:kube-controller-manager")];
    vec![
        schema("exempt", "exempt", 1, "", vec![group("system:masters")], everything(), all_paths()),
        schema("probes", "exempt", 2, "", everybody(), Vec::new(), vec![probes]),
        schema("system-leader-election", "leader-election", 100, "ByUser", leaders, vec![leases(&["get", "create", "update"])], Vec::new()),
        schema("system-node-high", "node-high", 400, "ByUser", vec![group("system:nodes")], of_nodes, Vec::new()),
        schema("system-nodes", "system", 500, "ByUser", vec![group("system:nodes")], everything(), all_paths()),
        schema("kube-controller-manager", "workload-high", 800, "ByNamespace", manager, everything(), all_paths()),
        schema("kube-scheduler", "workload-high", 800, "ByNamespace", vec![user("system:kube-scheduler")], everything(), all_paths()),
        schema(
            "kube-system-service-accounts",
            "workload-high",
            900,
            "ByNamespace",
            vec![kube_system_accounts()],
            everything(),
            all_paths(),
        ),
        schema("service-accounts", "workload-low", 9000, "ByUser", vec![group("system:serviceaccounts")], everything(), all_paths()),
        schema("global-default", "global-default", 9900, "ByUser", everybody(), everything(), all_paths()),
        schema("catch-all", "catch-all", 10_000, "ByUser", everybody(), everything(), all_paths()),
    ]
}

/// Whether an object is among those that cannot be otherwise.
fn is_mandatory(wanted: &Value) -> bool {
    matches!(meta::name(wanted), "exempt" | "catch-all")
}

/// What an object of a default's name should be; None where it may stay as it is. A user keeps a suggested object's spec by the
/// annotation; one without it is theirs once its spec has changed, see upstream's ensurer strategies.
pub fn repaired(wanted: &Value, found: &Value) -> Option<Value> {
    let says = meta::annotation(found, AUTO_UPDATE);
    let ours = match says {
        _ if is_mandatory(wanted) => true,
        Some(text) => text == "true",
        None => found.int_at(&["metadata", "generation"]).unwrap_or(1) == 1,
    };
    let mut next = found.clone();
    if ours && !same(wanted, found) {
        // How much the exempt level lends is the user's to say, and kept.
        next.set(&["spec"], with_own_numbers(wanted, found));
    }
    let mark = if ours { "true" } else { "false" };
    if says != Some(mark) {
        meta::set_annotation(&mut next, AUTO_UPDATE, mark);
    }
    (next != *found).then_some(next)
}

fn same(wanted: &Value, found: &Value) -> bool {
    Some(&with_own_numbers(wanted, found)) == found.get("spec")
}

fn with_own_numbers(wanted: &Value, found: &Value) -> Value {
    let mut spec = wanted.get("spec").cloned().unwrap_or_default();
    if wanted.str_at(&["spec", "type"]) == "Exempt"
        && let Some(own) = found.at(&["spec", "exempt"]).filter(|o| !o.is_null())
    {
        spec.set(&["exempt"], own.clone());
    }
    spec
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str) -> Value {
        priority_levels().into_iter().find(|l| meta::name(l) == name).unwrap()
    }

    #[test]
    fn what_cannot_be_otherwise_is_repaired_and_what_is_suggested_only_where_it_is_ours() {
        let changed = |name: &str, mark: Option<&str>, generation: i64| {
            let mut found = of(name);
            found.set(&["spec", "limited", "nominalConcurrencyShares"], 77_i64);
            found.set(&["metadata", "generation"], generation);
            match mark {
                Some(mark) => meta::set_annotation(&mut found, AUTO_UPDATE, mark),
                None => drop(found.remove(&["metadata", "annotations"])),
            }
            repaired(&of(name), &found).map(|o| {
                let shares = o.int_at(&["spec", "limited", "nominalConcurrencyShares"]).unwrap();
                (shares, meta::annotation(&o, AUTO_UPDATE).unwrap().to_string())
            })
        };
        assert_eq!(changed("catch-all", Some("false"), 9), Some((5, "true".into())));
        assert_eq!(changed("system", Some("true"), 9), Some((30, "true".into())));
        assert_eq!(changed("system", Some("false"), 9), None);
        assert_eq!(changed("system", None, 9), Some((77, "false".into())));
        assert_eq!(changed("system", None, 1), Some((30, "true".into())));
        assert_eq!(repaired(&of("system"), &of("system")), None);
    }

    #[test]
    fn what_the_exempt_level_lends_is_the_users() {
        let mut found = of("exempt");
        found.set(&["spec", "exempt", "lendablePercent"], 50_i64);
        assert_eq!(repaired(&of("exempt"), &found), None);
    }
}
