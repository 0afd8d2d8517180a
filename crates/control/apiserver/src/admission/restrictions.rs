//! PodNodeSelector and PodTolerationRestriction: on which nodes the pods of a namespace may run, as annotations of it say.

use std::collections::BTreeMap;

use fram_machinery::{Status, Value, json, meta, object};

use super::{Operation, Plugin, Request};

/// A pod's namespace.
async fn namespace(request: &Request<'_>) -> Result<Value, Status> {
    let name = &request.place.namespace;
    request.find("", "v1", "namespaces", "", name).await?.ok_or_else(|| Status::not_found("", "namespaces", name))
}

pub(super) struct PodNodeSelector;

const SELECTOR: &str = "scheduler.alpha.kubernetes.io/node-selector";

/// The labels `a=b,c=d` of a selector that has nothing but these.
fn labels(text: &str) -> Result<BTreeMap<&str, &str>, String> {
    let pair = |item| {
        str::split_once(item, '=').map(|(key, value)| (key.trim(), value.trim())).ok_or_else(|| format!("invalid selector: [{item}]"))
    };
    text.split(',').filter(|item| !item.is_empty()).map(pair).collect()
}

impl PodNodeSelector {
    /// The pod with its namespace's labels, which must not be others than its own.
    async fn merged(request: &Request<'_>, mut pod: Value) -> Result<Value, Status> {
        let namespace = namespace(request).await?;
        let wanted = labels(meta::annotation(&namespace, SELECTOR).unwrap_or_default()).map_err(|why| request.place.forbidden(&why))?;
        if wanted.is_empty() {
            return Ok(pod);
        }
        let selector = pod.place(&["spec", "nodeSelector"]).make_map();
        for (key, value) in wanted {
            if selector.get(key).is_some_and(|given| given.as_str() != Some(value)) {
                let why = format!("spec.nodeSelector: {key} has another value in the node selector of its namespace");
                return Err(request.place.forbidden(&why));
            }
            selector.insert(key, value);
        }
        Ok(pod)
    }
}

#[async_trait::async_trait]
impl Plugin for PodNodeSelector {
    fn name(&self) -> &'static str {
        "PodNodeSelector"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.creates("", "Pod")
    }

    async fn admit(&self, request: &Request<'_>, object: Value, _old: Option<&Value>) -> Result<Value, Status> {
        Self::merged(request, object).await
    }

    async fn validate(&self, request: &Request<'_>, object: Option<&Value>, _old: Option<&Value>) -> Result<(), Status> {
        match object {
            Some(pod) => Self::merged(request, pod.clone()).await.map(drop),
            None => Ok(()),
        }
    }
}

pub(super) struct PodTolerationRestriction;

const DEFAULTS: &str = "scheduler.alpha.kubernetes.io/defaultTolerations";
const ALLOWED: &str = "scheduler.alpha.kubernetes.io/tolerationsWhitelist";

/// The tolerations of an annotation.
fn tolerations(namespace: &Value, annotation: &str) -> Result<Vec<Value>, Status> {
    let text = meta::annotation(namespace, annotation).unwrap_or_default();
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let read = json::parse(text.as_bytes()).map_err(|error| error.to_string());
    match read.map(|parsed| parsed.value.as_list().map(|list| list.to_vec())) {
        Ok(Some(list)) => Ok(list),
        Ok(None) => Err(Status::internal(format!("annotation {annotation} is no list of tolerations"))),
        Err(error) => Err(Status::internal(format!("annotation {annotation}: {error}"))),
    }
}

/// Whether what one tolerates is tolerated by the other.
fn is_within(one: &Value, other: &Value) -> bool {
    let of = |toleration: &Value, field: &str| toleration.str_at(&[field]).to_string();
    let exists = of(other, "operator") == "Exists";
    if one == other {
        return true;
    }
    let key = of(one, "key") == of(other, "key") || of(other, "key").is_empty() && exists;
    let effect = of(one, "effect") == of(other, "effect") || of(other, "effect").is_empty();
    let seconds = |toleration: &Value| toleration.int_at(&["tolerationSeconds"]);
    let long_enough = match seconds(other).filter(|_| of(other, "effect") == "NoExecute") {
        Some(most) => seconds(one).is_some_and(|s| s <= most),
        None => true,
    };
    let equal = matches!(of(one, "operator").as_str(), "Equal" | "") && of(one, "value") == of(other, "value");
    key && effect && long_enough && (exists || equal)
}

/// Both without what another of them covers; of equal ones the first.
fn merged(all: Vec<Value>) -> Vec<Value> {
    let mut kept: Vec<Value> = Vec::new();
    for (i, toleration) in all.iter().enumerate() {
        let later = all[i + 1..].iter().any(|other| other != toleration && is_within(toleration, other));
        if !later && !kept.iter().any(|other| is_within(toleration, other)) {
            kept.push(toleration.clone());
        }
    }
    kept
}

#[async_trait::async_trait]
impl Plugin for PodTolerationRestriction {
    fn name(&self) -> &'static str {
        "PodTolerationRestriction"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        matches!(request.operation, Operation::Create | Operation::Update) && request.is_about("", "Pod")
    }

    async fn admit(&self, request: &Request<'_>, mut object: Value, _old: Option<&Value>) -> Result<Value, Status> {
        let mut more = match request.operation {
            Operation::Create => tolerations(&namespace(request).await?, DEFAULTS)?,
            _ => Vec::new(),
        };
        if fram_api::strategy::qos_class(object.get("spec").unwrap_or(&Value::Null)) != "BestEffort" {
            more.push(object!({ "key": "node.kubernetes.io/memory-pressure", "operator": "Exists", "effect": "NoSchedule" }));
        }
        if !more.is_empty() {
            let all = object.list_at(&["spec", "tolerations"]).iter().cloned().chain(more).collect();
            object.set(&["spec", "tolerations"], merged(all));
        }
        Ok(object)
    }

    async fn validate(&self, request: &Request<'_>, object: Option<&Value>, _old: Option<&Value>) -> Result<(), Status> {
        let given = object.map(|pod| pod.list_at(&["spec", "tolerations"])).unwrap_or_default();
        if given.is_empty() {
            return Ok(());
        }
        let allowed = tolerations(&namespace(request).await?, ALLOWED)?;
        match allowed.is_empty() || given.iter().all(|one| allowed.iter().any(|other| is_within(one, other))) {
            true => Ok(()),
            false => Err(request.place.forbidden(&format!(
                "spec.tolerations, those of the namespace's defaults among them, are more than the annotation {ALLOWED} of its namespace \
                 allows: remove them, or have that annotation allow them"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_tolerations_the_widest_are_kept() {
        let of = |text: &str| -> Vec<Value> { json::parse(text.as_bytes()).unwrap().value.as_list().unwrap().to_vec() };
        let all = of(r#"[{"key":"a","operator":"Equal","value":"1","effect":"NoSchedule"},{"key":"b","operator":"Exists"},
            {"key":"a","operator":"Exists","effect":"NoSchedule"},{"key":"b","operator":"Exists"}]"#);
        let wanted = of(r#"[{"key":"b","operator":"Exists"},{"key":"a","operator":"Exists","effect":"NoSchedule"}]"#);
        assert_eq!(merged(all), wanted);
    }

    #[test]
    fn a_toleration_is_within_one_of_more_keys_effects_and_time() {
        let of = |text: &str| json::parse(text.as_bytes()).unwrap().value;
        for (one, other, wanted) in [
            (r#"{"key":"a","operator":"Exists"}"#, r#"{"operator":"Exists"}"#, true),
            (r#"{"operator":"Exists"}"#, r#"{"key":"a","operator":"Exists"}"#, false),
            (r#"{"key":"a","value":"1","operator":"Equal"}"#, r#"{"key":"a","value":"2"}"#, false),
            (r#"{"key":"a","value":"1","operator":"Equal"}"#, r#"{"key":"a","value":"1"}"#, true),
            (
                r#"{"key":"a","operator":"Exists","effect":"NoExecute"}"#,
                r#"{"key":"a","operator":"Exists","effect":"NoExecute","tolerationSeconds":5}"#,
                false,
            ),
        ] {
            assert_eq!(is_within(&of(one), &of(other)), wanted, "{one} {other}");
        }
    }

    #[test]
    fn selectors_of_namespaces_are_labels() {
        assert_eq!(labels("a=b, c = d"), Ok([("a", "b"), ("c", "d")].into()));
        assert!(labels("a in (b)").is_err());
    }
}
