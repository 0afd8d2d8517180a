//! Plugins that fill in pods: Priority, DefaultTolerationSeconds, RuntimeClass.

use fram_machinery::quantity::Quantity;
use fram_machinery::{Status, Value, meta, object};

use super::{Operation, Plugin, Request};

/// Priority: the class's value and preemption policy; names must exist.
pub(super) struct Priority;

#[async_trait::async_trait]
impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    async fn admit(&self, request: &Request<'_>, mut object: Value, old: Option<&Value>) -> Result<Value, Status> {
        if !request.is_about("", "Pod") {
            return Ok(object);
        }
        if let Some(old) = old.filter(|_| request.operation == Operation::Update) {
            for field in ["priority", "preemptionPolicy"] {
                if object.at(&["spec", field]).is_none()
                    && let Some(kept) = old.at(&["spec", field])
                {
                    object.set(&["spec", field], kept.clone());
                }
            }
        }
        if request.operation != Operation::Create {
            return Ok(object);
        }
        let name = object.str_at(&["spec", "priorityClassName"]).to_string();
        let class = if name.is_empty() {
            let all = request.list("scheduling.k8s.io", "v1", "priorityclasses", "").await?;
            let defaults = all.into_iter().filter(|c| c.bool_at(&["globalDefault"]) == Some(true));
            defaults.min_by_key(|c| c.int_at(&["value"]).unwrap_or(0))
        } else {
            let class = request.find("scheduling.k8s.io", "v1", "priorityclasses", "", &name).await?;
            Some(class.ok_or_else(|| request.place.forbidden(&format!("no PriorityClass with name {name} was found")))?)
        };
        let priority = class.as_ref().and_then(|c| c.int_at(&["value"])).unwrap_or(0);
        if let Some(given) = object.int_at(&["spec", "priority"])
            && given != priority
        {
            let why = format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {priority} from the given PriorityClass name"
            );
            return Err(request.place.forbidden(&why));
        }
        object.set(&["spec", "priority"], priority);
        if let Some(class) = &class {
            object.set(&["spec", "priorityClassName"], meta::name(class));
        }
        let policy = class.as_ref().map(|c| c.str_at(&["preemptionPolicy"])).filter(|p| !p.is_empty()).unwrap_or("PreemptLowerPriority");
        if let Some(given) = object.at(&["spec", "preemptionPolicy"]).and_then(Value::as_str)
            && given != policy
        {
            let why = format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
            );
            return Err(request.place.forbidden(&why));
        }
        object.set(&["spec", "preemptionPolicy"], policy);
        Ok(object)
    }
}

/// DefaultTolerationSeconds: pods stay five minutes on a node that does not answer.
pub(super) struct DefaultTolerationSeconds;

#[async_trait::async_trait]
impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    async fn admit(&self, request: &Request<'_>, mut object: Value, _old: Option<&Value>) -> Result<Value, Status> {
        if !request.is_about("", "Pod") || request.operation == Operation::Delete {
            return Ok(object);
        }
        for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
            let covers = |t: &Value| {
                let named = t.str_at(&["key"]);
                (named == key || (named.is_empty() && t.str_at(&["operator"]) == "Exists"))
                    && matches!(t.str_at(&["effect"]), "" | "NoExecute")
            };
            if !object.list_at(&["spec", "tolerations"]).iter().any(covers) {
                let toleration = object!({ "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300 });
                object.place(&["spec", "tolerations"]).make_list().push(toleration);
            }
        }
        Ok(object)
    }
}

/// RuntimeClass: its overhead and scheduling become the pod's; names must exist.
pub(super) struct RuntimeClass;

#[async_trait::async_trait]
impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    async fn admit(&self, request: &Request<'_>, mut object: Value, _old: Option<&Value>) -> Result<Value, Status> {
        let name = object.str_at(&["spec", "runtimeClassName"]).to_string();
        if !request.is_about("", "Pod") || request.operation != Operation::Create {
            return Ok(object);
        }
        if name.is_empty() {
            if object.at(&["spec", "overhead"]).is_some_and(|o| !o.is_empty()) {
                return Err(request.place.forbidden("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"));
            }
            return Ok(object);
        }
        let class = request.find("node.k8s.io", "v1", "runtimeclasses", "", &name).await?;
        let class = class.ok_or_else(|| request.place.forbidden(&format!("pod rejected: RuntimeClass {name:?} not found")))?;
        let overhead = class.at(&["overhead", "podFixed"]).cloned().unwrap_or_default();
        if !overhead.is_empty() {
            let given = object.at(&["spec", "overhead"]).cloned().unwrap_or_default();
            if !given.is_empty() && !same_amounts(&given, &overhead) {
                return Err(request.place.forbidden("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"));
            }
            object.set(&["spec", "overhead"], overhead);
        }
        for (key, value) in class.at(&["scheduling", "nodeSelector"]).and_then(Value::as_map).into_iter().flat_map(|m| m.iter()) {
            let selector = object.place(&["spec", "nodeSelector"]).make_map();
            if selector.get(key).is_some_and(|v| v != value) {
                let why = format!("pod rejected: conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value:?}");
                return Err(request.place.forbidden(&why));
            }
            selector.insert(key.clone(), value.clone());
        }
        for toleration in class.list_at(&["scheduling", "tolerations"]) {
            let list = object.place(&["spec", "tolerations"]).make_list();
            if !list.contains(toleration) {
                list.push(toleration.clone());
            }
        }
        Ok(object)
    }
}

fn same_amounts(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_map(), b.as_map()) else { return false };
    let amount = |v: &Value| v.as_str().and_then(|s| s.parse::<Quantity>().ok());
    a.len() == b.len() && a.iter().all(|(k, v)| b.get(k).is_some_and(|w| amount(v) == amount(w)))
}
