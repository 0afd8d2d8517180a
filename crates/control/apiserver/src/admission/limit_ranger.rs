//! LimitRanger: default requests and limits of a namespace, and its minimum, maximum and ratio.

use fram_machinery::quantity::Quantity;
use fram_machinery::{Map, Status, Value};

use super::{Operation, Plugin, Request};

pub(super) struct LimitRanger;

#[async_trait::async_trait]
impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    async fn admit(&self, request: &Request<'_>, mut object: Value, _old: Option<&Value>) -> Result<Value, Status> {
        if !request.is_about("", "Pod") || request.operation != Operation::Create {
            return Ok(object);
        }
        for range in request.list("", "v1", "limitranges", &request.place.namespace).await? {
            for item in range.list_at(&["spec", "limits"]).iter().filter(|i| i.str_at(&["type"]) == "Container") {
                fill(&mut object, item);
            }
        }
        Ok(object)
    }

    async fn validate(&self, request: &Request<'_>, object: Option<&Value>, _old: Option<&Value>) -> Result<(), Status> {
        let Some(object) = object else { return Ok(()) };
        let created =
            request.operation == Operation::Create && (request.is_about("", "Pod") || request.is_about("", "PersistentVolumeClaim"));
        // A pod that is resized has to keep within the limits too.
        let resized = request.stored_kind().kind == "Pod" && request.stored_kind().group.is_empty() && request.subresource == "resize";
        if !created && !resized {
            return Ok(());
        }
        let mut errors = Vec::new();
        for range in request.list("", "v1", "limitranges", &request.place.namespace).await? {
            for item in range.list_at(&["spec", "limits"]) {
                for (requests, limits) in subjects(object, item.str_at(&["type"])) {
                    check(item, &requests, &limits, &mut errors);
                }
            }
        }
        match errors.as_slice() {
            [] => Ok(()),
            [one] => Err(request.place.forbidden(one)),
            many => Err(request.place.forbidden(&format!("[{}]", many.join(", ")))),
        }
    }
}

fn fill(pod: &mut Value, item: &Value) {
    for list in ["containers", "initContainers"] {
        if pod.list_at(&["spec", list]).is_empty() {
            continue;
        }
        for container in pod.place(&["spec", list]).make_list() {
            for (from, to) in [("default", "limits"), ("defaultRequest", "requests")] {
                for (name, amount) in item.get(from).and_then(Value::as_map).into_iter().flat_map(|m| m.iter()) {
                    let map = container.place(&["resources", to]).make_map();
                    if !map.contains(name) {
                        map.insert(name.clone(), amount.clone());
                    }
                }
            }
        }
    }
}

fn amounts(value: Option<&Value>) -> Map {
    value.and_then(Value::as_map).cloned().unwrap_or_default()
}

/// Requests and limits of what a limit of this type speaks of.
fn subjects(object: &Value, ty: &str) -> Vec<(Map, Map)> {
    let containers = || object.list_at(&["spec", "containers"]).iter();
    match ty {
        "Container" => containers()
            .chain(object.list_at(&["spec", "initContainers"]))
            .map(|c| (amounts(c.at(&["resources", "requests"])), amounts(c.at(&["resources", "limits"]))))
            .collect(),
        "Pod" => {
            let sum = |kind: &str| {
                let mut total = Map::new();
                for container in containers() {
                    for (name, amount) in amounts(container.at(&["resources", kind])).iter() {
                        let before = quantity(total.get(name)).unwrap_or(Quantity::zero());
                        total.insert(name.clone(), (before + quantity(Some(amount)).unwrap_or(Quantity::zero())).to_string());
                    }
                }
                total
            };
            vec![(sum("requests"), sum("limits"))]
        }
        "PersistentVolumeClaim" => vec![(amounts(object.at(&["spec", "resources", "requests"])), Map::new())],
        _ => Vec::new(),
    }
}

fn quantity(value: Option<&Value>) -> Option<Quantity> {
    value?.as_str()?.parse().ok()
}

fn check(item: &Value, requests: &Map, limits: &Map, errors: &mut Vec<String>) {
    let ty = item.str_at(&["type"]);
    let each = |field: &str| amounts(item.get(field));
    for (name, least) in each("min").iter() {
        let (Some(least), text) = (quantity(Some(least)), least.as_str().unwrap_or_default()) else { continue };
        match quantity(requests.get(name)) {
            None => errors.push(format!("minimum {name} usage per {ty} is {text}.  No request is specified")),
            Some(found) if found < least => errors.push(format!("minimum {name} usage per {ty} is {text}, but request is {found}")),
            // Of request and limit the first one that is too low is told, as minConstraint does.
            Some(_) => {
                if let Some(found) = quantity(limits.get(name)).filter(|l| *l < least) {
                    errors.push(format!("minimum {name} usage per {ty} is {text}, but limit is {found}"));
                }
            }
        }
    }
    for (name, most) in each("max").iter() {
        let (Some(most), text) = (quantity(Some(most)), most.as_str().unwrap_or_default()) else { continue };
        let found = if ty == "PersistentVolumeClaim" { requests.get(name) } else { limits.get(name) };
        match quantity(found) {
            None => errors.push(format!("maximum {name} usage per {ty} is {text}.  No limit is specified")),
            Some(found) if found > most => errors.push(format!("maximum {name} usage per {ty} is {text}, but limit is {found}")),
            Some(_) => {}
        }
    }
    for (name, ratio) in each("maxLimitRequestRatio").iter() {
        let (Some(limit), Some(request), Some(ratio)) = (quantity(limits.get(name)), quantity(requests.get(name)), quantity(Some(ratio)))
        else {
            errors.push(format!("{name} max limit to request ratio per {ty} is set, but no request or limit is specified"));
            continue;
        };
        let found = limit.milli_value() as f64 / request.milli_value().max(1) as f64;
        if found > ratio.milli_value() as f64 / 1000.0 {
            errors.push(format!("{name} max limit to request ratio per {ty} is {ratio}, but provided ratio is {found:.6}"));
        }
    }
}
