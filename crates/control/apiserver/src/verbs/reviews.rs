//! Reviews: questions that are answered and never stored: access, rules, tokens, oneself.

use fram_machinery::labels::{FieldSelector, Selector};
use fram_machinery::{Status, Value, object};

use crate::authorize::{Attributes, Decision};
use crate::registry::Place;
use crate::server::Server;
use crate::user::User;

pub(super) async fn review(server: &Server, user: &User, place: &Place, mut object: Value) -> Result<Value, Status> {
    // Upstream's EnsureObjectNamespaceMatchesRequestNamespace.
    if place.kind().is_namespaced() {
        object.set(&["metadata", "namespace"], place.namespace.as_str());
    } else {
        object.remove(&["metadata", "namespace"]);
    }
    let errors = fram_api::strategy(place.kind()).validate_create(&object);
    if !errors.is_empty() {
        return Err(Status::invalid(&place.kind().group, &place.kind().kind, "", errors));
    }
    match place.kind().kind.as_str() {
        "SelfSubjectAccessReview" => access(server, user, &mut object).await,
        "SubjectAccessReview" | "LocalSubjectAccessReview" => {
            let subject = subject_of(&object);
            access(server, &subject, &mut object).await;
        }
        "SelfSubjectRulesReview" => rules(server, user, &mut object)?,
        "SelfSubjectReview" => {
            object.set(&["metadata"], object!({ "creationTimestamp": (server.registry.environment().now_text()) }));
            object.set(&["status"], object!({ "userInfo": (user.to_info()) }));
        }
        "TokenReview" => token(server, &mut object).await?,
        other => return Err(Status::internal(format!("no review of kind {other}"))),
    }
    Ok(object)
}

fn texts(value: &Value, path: &[&str]) -> Vec<String> {
    value.list_at(path).iter().filter_map(Value::as_str).map(String::from).collect()
}

fn subject_of(review: &Value) -> User {
    let (name, groups) = (review.str_at(&["spec", "user"]), texts(review, &["spec", "groups"]));
    User { name: name.into(), uid: review.str_at(&["spec", "uid"]).into(), groups, extra: Default::default() }
}

/// What of a review's selectors could not be understood; what could be narrows the question, the rest does not.
fn not_understood(review: &Value) -> String {
    let mut out = Vec::new();
    for (field, labels) in [("fieldSelector", false), ("labelSelector", true)] {
        let Some(selector) = review.at(&["spec", "resourceAttributes", field]).filter(|s| !s.is_null()) else { continue };
        let raw = selector.str_at(&["rawSelector"]);
        let known = |r: &&Value| match (r.str_at(&["operator"]), r.list_at(&["values"]).len()) {
            ("In" | "NotIn", count) => labels || count == 1,
            ("Exists" | "DoesNotExist", _) => labels,
            _ => false,
        };
        let requirements = selector.list_at(&["requirements"]);
        let understood = requirements.iter().filter(known).count();
        let bad = match (raw, labels) {
            ("", _) => understood < requirements.len(),
            (raw, true) => Selector::parse(raw).is_err(),
            (raw, false) => FieldSelector::parse(raw).is_err(),
        };
        if bad {
            let part = if understood > 0 { "partially ignored" } else { "ignored" };
            out.push(format!("spec.resourceAttributes.{field} {part} due to parse error"));
        }
    }
    out.join("; ")
}

/// The selector of fields or labels that a review asks about, where it says for certain what is selected.
fn selector_of(resource: &Value, of: &str) -> String {
    let selector = resource.get(of).cloned().unwrap_or_default();
    let exact = |r: &Value| match (r.str_at(&["operator"]), r.list_at(&["values"])) {
        ("In", [Value::String(one)]) => Some(format!("{}={one}", r.str_at(&["key"]))),
        _ => None,
    };
    match selector.str_at(&["rawSelector"]) {
        "" => selector.list_at(&["requirements"]).iter().filter_map(exact).collect::<Vec<_>>().join(","),
        raw => raw.to_string(),
    }
}

async fn access(server: &Server, user: &User, review: &mut Value) {
    let attributes = match (review.at(&["spec", "resourceAttributes"]), review.at(&["spec", "nonResourceAttributes"])) {
        (Some(r), _) if !r.is_empty() => Attributes {
            verb: r.str_at(&["verb"]).into(),
            group: r.str_at(&["group"]).into(),
            version: r.str_at(&["version"]).into(),
            resource: r.str_at(&["resource"]).into(),
            subresource: r.str_at(&["subresource"]).into(),
            namespace: r.str_at(&["namespace"]).into(),
            name: r.str_at(&["name"]).into(),
            fields: selector_of(r, "fieldSelector"),
            labels: selector_of(r, "labelSelector"),
            path: String::new(),
        },
        (_, Some(n)) => Attributes { verb: n.str_at(&["verb"]).into(), path: n.str_at(&["path"]).into(), ..Default::default() },
        _ => Attributes::default(),
    };
    let mut status = match server.authorizer.decide(user, &attributes) {
        Decision::Allow => object!({ "allowed": true }),
        Decision::NoOpinion(why) if why.is_empty() => object!({ "allowed": false }),
        Decision::NoOpinion(why) => object!({ "allowed": false, "reason": why }),
    };
    let error = not_understood(review);
    if !error.is_empty() {
        status.set(&["evaluationError"], error);
    }
    review.set(&["status"], status);
}

/// The answer is about the rules only; what was asked is not repeated.
fn rules(server: &Server, user: &User, review: &mut Value) -> Result<(), Status> {
    let namespace = review.str_at(&["spec", "namespace"]).to_string();
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let list = |items: &[String]| Value::from(items.iter().map(|s| Value::from(s.as_str())).collect::<Vec<_>>());
    let (mut resources, mut urls) = (Vec::new(), Vec::new());
    for rule in server.authorizer.rbac().rules_for(user, &namespace) {
        if rule.urls.is_empty() {
            let mut out =
                object!({ "verbs": (list(&rule.verbs)), "apiGroups": (list(&rule.groups)), "resources": (list(&rule.resources)) });
            if !rule.names.is_empty() {
                out.set(&["resourceNames"], list(&rule.names));
            }
            resources.push(out);
        } else {
            urls.push(object!({ "verbs": (list(&rule.verbs)), "nonResourceURLs": (list(&rule.urls)) }));
        }
    }
    review.set(&["metadata"], object!({}));
    review.set(&["spec"], object!({}));
    review.set(&["status"], object!({ "resourceRules": resources, "nonResourceRules": urls, "incomplete": false }));
    Ok(())
}

async fn token(server: &Server, review: &mut Value) -> Result<(), Status> {
    if review.str_at(&["spec", "token"]).is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication"));
    }
    let mut audiences = texts(review, &["spec", "audiences"]);
    if audiences.is_empty() {
        audiences.push(server.tokens.issuer().to_string());
    }
    let status = match server.tokens.verify(review.str_at(&["spec", "token"]), &audiences).await? {
        Some((user, good)) => {
            let good: Vec<Value> = good.into_iter().map(Value::from).collect();
            object!({ "authenticated": true, "user": (user.to_info()), "audiences": good })
        }
        None => object!({ "user": {}, "error": "invalid bearer token" }),
    };
    review.set(&["status"], status);
    Ok(())
}
