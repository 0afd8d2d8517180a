//! LimitRanger: default requests and limits of a namespace, and its minimum, maximum and ratio.

use fram_api::quota::{self, Amounts};
use fram_machinery::quantity::Quantity;
use fram_machinery::{Status, Value, meta};

use super::{Operation, Plugin, Request};

pub(super) struct LimitRanger;

/// Says what was filled in.
const FILLED: &str = "kubernetes.io/limit-ranger";

#[async_trait::async_trait]
impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        match request.operation {
            Operation::Create => request.is_about("", "Pod") || request.is_about("", "PersistentVolumeClaim"),
            // Of a pod only what a resize changes: the rest stays as it was admitted.
            Operation::Update => {
                request.is_about("", "PersistentVolumeClaim") || request.stored_kind().is("", "Pod") && request.subresource == "resize"
            }
            _ => false,
        }
    }

    async fn admit(&self, request: &Request<'_>, mut object: Value, old: Option<&Value>) -> Result<Value, Status> {
        if request.stored_kind().kind == "Pod" && !old.is_some_and(meta::is_terminating) {
            for range in request.list("", "v1", "limitranges", &request.place.namespace).await? {
                fill(&mut object, &range);
            }
        }
        Ok(object)
    }

    async fn validate(&self, request: &Request<'_>, object: Option<&Value>, old: Option<&Value>) -> Result<(), Status> {
        let Some(object) = object.filter(|_| !old.is_some_and(meta::is_terminating)) else { return Ok(()) };
        for range in request.list("", "v1", "limitranges", &request.place.namespace).await? {
            let mut errors = broken(&range, object, &request.stored_kind().kind);
            let mut told = std::collections::BTreeSet::new();
            errors.retain(|error| told.insert(error.clone()));
            match errors.as_slice() {
                [] => {}
                [one] => return Err(request.place.forbidden(one)),
                many => return Err(request.place.forbidden(&format!("[{}]", many.join(", ")))),
            }
        }
        Ok(())
    }
}

/// Gives the containers of a pod what a range has for those that say nothing themselves, and notes in the pod what that was.
fn fill(pod: &mut Value, range: &Value) {
    let of_containers = range.list_at(&["spec", "limits"]).iter().filter(|limit| limit.str_at(&["type"]) == "Container");
    let (mut limits, mut requests) = (fram_machinery::Map::new(), fram_machinery::Map::new());
    for limit in of_containers {
        for (from, into) in [("default", &mut limits), ("defaultRequest", &mut requests)] {
            for (name, amount) in limit.get(from).and_then(Value::as_map).into_iter().flat_map(|m| m.iter()) {
                into.insert(name.clone(), amount.clone());
            }
        }
    }
    let mut notes = Vec::new();
    for (list, word) in [("containers", "container"), ("initContainers", "init container")] {
        if pod.list_at(&["spec", list]).is_empty() {
            continue;
        }
        for container in pod.place(&["spec", list]).make_list().make_mut() {
            for (side, defaults, what) in [("requests", &requests, "request"), ("limits", &limits, "limit")] {
                let lacks = |name: &str| container.at(&["resources", side, name]).is_none();
                let mut names: Vec<String> = defaults.iter().map(|(name, _)| name.to_string()).filter(|name| lacks(name)).collect();
                names.sort();
                for (name, amount) in defaults.iter().filter(|(name, _)| names.iter().any(|n| n == name.as_str())) {
                    container.place(&["resources", side]).make_map().insert(name.clone(), amount.clone());
                }
                if !names.is_empty() {
                    notes.push(format!("{} {what} for {word} {}", names.join(", "), container.str_at(&["name"])));
                }
            }
        }
    }
    if !notes.is_empty() {
        let note = format!("LimitRanger plugin set: {}", notes.join("; "));
        pod.place(&["metadata", "annotations"]).make_map().insert(FILLED, note);
    }
}

/// What an object breaks of a range.
fn broken(range: &Value, object: &Value, kind: &str) -> Vec<String> {
    let mut errors = Vec::new();
    for limit in range.list_at(&["spec", "limits"]) {
        let sides = |of: &Value| Sides { requests: quota::read(of, "requests"), limits: quota::read(of, "limits") };
        match (limit.str_at(&["type"]), kind) {
            ("Container", "Pod") => {
                for container in ["containers", "initContainers"].into_iter().flat_map(|list| object.list_at(&["spec", list])) {
                    check(limit, &sides(container), &mut errors);
                }
            }
            ("Pod", "Pod") => {
                let whole = |side| quota::of_containers(object, side);
                check(limit, &Sides { requests: whole("requests"), limits: whole("limits") }, &mut errors);
            }
            ("PersistentVolumeClaim", "PersistentVolumeClaim") => {
                let requests = quota::read(object.get("spec").unwrap_or(&Value::Null), "requests");
                check_claim(limit, &requests, &mut errors);
            }
            _ => {}
        }
    }
    errors
}

/// What something asks for, and how much it may have.
struct Sides {
    requests: Amounts,
    limits: Amounts,
}

/// The amounts of a limit below a field, by their names.
fn amounts(limit: &Value, field: &str) -> Vec<(String, Quantity)> {
    let map = limit.get(field).and_then(Value::as_map);
    let parsed = |(name, amount): (&fram_machinery::Key, &Value)| Some((name.to_string(), amount.as_str()?.parse().ok()?));
    map.into_iter().flat_map(|m| m.iter().filter_map(parsed).collect::<Vec<_>>()).collect()
}

fn check(limit: &Value, asked: &Sides, errors: &mut Vec<String>) {
    let ty = limit.str_at(&["type"]);
    for (name, least) in amounts(limit, "min") {
        errors.extend(below(ty, &name, least, asked));
    }
    for (name, most) in amounts(limit, "max") {
        let told = format!("maximum {name} usage per {ty} is {most}");
        match (asked.limits.get(&name), asked.requests.get(&name)) {
            (None, _) => errors.push(format!("{told}.  No limit is specified")),
            (Some(found), _) if *found > most => errors.push(format!("{told}, but limit is {found}")),
            (_, Some(found)) if *found > most => errors.push(format!("{told}, but request is {found}")),
            _ => {}
        }
    }
    for (name, ratio) in amounts(limit, "maxLimitRequestRatio") {
        let told = format!("{name} max limit to request ratio per {ty} is {ratio}");
        let some = |amounts: &Amounts| amounts.get(&name).copied().filter(|amount| !amount.is_zero());
        match (some(&asked.requests), some(&asked.limits)) {
            (None, _) => errors.push(format!("{told}, but no request is specified or request is 0")),
            (_, None) => errors.push(format!("{told}, but no limit is specified or limit is 0")),
            (Some(request), Some(limit)) => {
                let found = limit.milli_value() as f64 / request.milli_value() as f64;
                if found * 1000.0 > ratio.milli_value() as f64 {
                    errors.push(format!("{told}, but provided ratio is {found:.6}"));
                }
            }
        }
    }
}

fn below(ty: &str, name: &str, least: Quantity, asked: &Sides) -> Option<String> {
    let told = format!("minimum {name} usage per {ty} is {least}");
    match (asked.requests.get(name), asked.limits.get(name)) {
        (None, _) => Some(format!("{told}.  No request is specified")),
        (Some(found), _) if *found < least => Some(format!("{told}, but request is {found}")),
        (_, Some(found)) if *found < least => Some(format!("{told}, but limit is {found}")),
        _ => None,
    }
}

/// A claim has no limits: what it asks for is held against both ends.
fn check_claim(limit: &Value, requests: &Amounts, errors: &mut Vec<String>) {
    let ty = limit.str_at(&["type"]);
    let asked = Sides { requests: requests.clone(), limits: Amounts::new() };
    for (name, least) in amounts(limit, "min") {
        errors.extend(below(ty, &name, least, &asked));
    }
    for (name, most) in amounts(limit, "max") {
        let told = format!("maximum {name} usage per {ty} is {most}");
        match requests.get(&name) {
            None => errors.push(format!("{told}.  No request is specified")),
            Some(found) if *found > most => errors.push(format!("{told}, but request is {found}")),
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    fn range(limit: Value) -> Value {
        object!({ "spec": { "limits": [(limit)] } })
    }

    fn pod(requests: Value, limits: Value) -> Value {
        object!({ "metadata": {}, "spec": { "containers": [{ "name": "c", "resources": { "requests": (requests), "limits": (limits) } }] } })
    }

    #[test]
    fn what_is_filled_in_is_noted() {
        let defaults = object!({ "type": "Container", "default": { "cpu": "2", "memory": "1Gi" }, "defaultRequest": { "cpu": "1" } });
        let mut filled = pod(object!({}), object!({ "cpu": "3" }));
        filled.set(&["spec", "initContainers"], object!([{ "name": "i" }]));
        fill(&mut filled, &range(defaults.clone()));
        let note = "LimitRanger plugin set: cpu request for container c; memory limit for container c; \
                    cpu request for init container i; cpu, memory limit for init container i";
        assert_eq!(meta::annotation(&filled, FILLED), Some(note));
        let resources = object!({ "requests": { "cpu": "1" }, "limits": { "cpu": "3", "memory": "1Gi" } });
        assert_eq!(filled.list_at(&["spec", "containers"])[0].get("resources"), Some(&resources));
        // Who says all that itself is left as it is.
        let mut whole = pod(object!({ "cpu": "1" }), object!({ "cpu": "1", "memory": "1" }));
        let before = whole.clone();
        fill(&mut whole, &range(defaults));
        assert_eq!(whole, before);
    }

    #[test]
    fn a_limit_holds_for_requests_and_limits() {
        let all: [(&str, Value, Value, Value, &str); 9] = [
            ("min", object!({ "cpu": "1" }), object!({ "cpu": "1" }), object!({}), ""),
            (
                "min",
                object!({ "cpu": "1" }),
                object!({}),
                object!({ "cpu": "2" }),
                "minimum cpu usage per Container is 1.  No request is specified",
            ),
            (
                "min",
                object!({ "cpu": "1" }),
                object!({ "cpu": "999m" }),
                object!({}),
                "minimum cpu usage per Container is 1, but request is 999m",
            ),
            ("max", object!({ "cpu": "1" }), object!({ "cpu": "1" }), object!({ "cpu": "1" }), ""),
            (
                "max",
                object!({ "cpu": "1" }),
                object!({ "cpu": "1" }),
                object!({}),
                "maximum cpu usage per Container is 1.  No limit is specified",
            ),
            ("max", object!({ "cpu": "1" }), object!({}), object!({ "cpu": "2" }), "maximum cpu usage per Container is 1, but limit is 2"),
            (
                "max",
                object!({ "cpu": "1" }),
                object!({ "cpu": "2" }),
                object!({ "cpu": "1" }),
                "maximum cpu usage per Container is 1, but request is 2",
            ),
            (
                "maxLimitRequestRatio",
                object!({ "cpu": "1500m" }),
                object!({ "cpu": "1" }),
                object!({ "cpu": "2" }),
                "cpu max limit to request ratio per Container is 1500m, but provided ratio is 2.000000",
            ),
            (
                "maxLimitRequestRatio",
                object!({ "cpu": "2" }),
                object!({ "cpu": "0" }),
                object!({ "cpu": "2" }),
                "cpu max limit to request ratio per Container is 2, but no request is specified or request is 0",
            ),
        ];
        for (field, amounts, requests, limits, wanted) in all {
            let mut limit = object!({ "type": "Container" });
            limit.set(&[field], amounts);
            let told = broken(&range(limit), &pod(requests, limits), "Pod");
            assert_eq!(told.join("|"), wanted, "{field}");
        }
    }

    #[test]
    fn a_pod_counts_with_its_init_containers_and_what_it_says_of_itself() {
        let limit = object!({ "type": "Pod", "max": { "cpu": "2" } });
        let mut whole = pod(object!({ "cpu": "1" }), object!({ "cpu": "1" }));
        assert!(broken(&range(limit.clone()), &whole, "Pod").is_empty());
        whole.set(&["spec", "initContainers"], object!([{ "name": "i", "resources": { "limits": { "cpu": "3" } } }]));
        assert_eq!(broken(&range(limit.clone()), &whole, "Pod"), ["maximum cpu usage per Pod is 2, but limit is 3"]);
        whole.set(&["spec", "resources"], object!({ "limits": { "cpu": "2" } }));
        whole.set(&["spec", "overhead"], object!({ "cpu": "1" }));
        assert!(broken(&range(limit), &whole, "Pod").is_empty());
    }

    #[test]
    fn a_claim_is_held_against_what_it_asks_for() {
        let limit = object!({ "type": "PersistentVolumeClaim", "min": { "storage": "1Gi" }, "max": { "storage": "2Gi" } });
        for (asked, wanted) in [
            ("1Gi", ""),
            ("3Gi", "maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi"),
            ("1Mi", "minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 1Mi"),
        ] {
            let claim = object!({ "spec": { "resources": { "requests": { "storage": asked } } } });
            assert_eq!(broken(&range(limit.clone()), &claim, "PersistentVolumeClaim").join("|"), wanted);
        }
    }
}
