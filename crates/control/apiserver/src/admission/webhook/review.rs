//! The AdmissionReview that a webhook is sent, and the one that it answers with. Pure; see admission.k8s.io/v1.

use base64::Engine;
use fram_api::Kind;
use fram_machinery::{Status, Value, json, meta, normalize, object};

use crate::admission::rules::{Matched, operation_name};
use crate::admission::{Operation, Request};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum AnswerError {
    #[error("expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {0}")]
    Kind(String),
    #[error("expected response.uid={expected:?}, got {found:?}")]
    Uid { expected: String, found: String },
    #[error("webhook returned response.patch but not response.patchType")]
    PatchType,
    #[error("webhook returned invalid response.patch: {0}")]
    Patch(String),
}

/// What a webhook decided.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    allowed: bool,
    status: Option<Value>,
    pub(super) patch: Option<Value>,
    pub(super) warnings: Vec<String>,
    /// What the auditor is to be told.
    pub(super) annotations: Vec<(String, String)>,
}

fn gvk(kind: &Kind) -> Value {
    object!({ "group": (&kind.group), "version": (&kind.version), "kind": (&kind.kind) })
}

fn gvr(kind: &Kind) -> Value {
    object!({ "group": (&kind.group), "version": (&kind.version), "resource": (&kind.plural) })
}

fn options(request: &Request<'_>) -> Value {
    let kind = match request.operation {
        Operation::Create => "CreateOptions",
        Operation::Update => "UpdateOptions",
        Operation::Delete => "DeleteOptions",
        Operation::Connect => return Value::Null,
    };
    let mut options = object!({ "kind": kind, "apiVersion": "meta.k8s.io/v1" });
    if request.dry_run {
        options.set(&["dryRun"], object!(["All"]));
    }
    options
}

/// The object and what it was, as the matched kind shows them.
pub(in crate::admission) async fn sides(
    request: &Request<'_>,
    matched: &Matched,
    object: &Value,
    old: Option<&Value>,
) -> Result<[Option<Value>; 2], Status> {
    let connected = request.operation == Operation::Connect;
    let mut sides = [Some(object).filter(|o| !o.is_null()).cloned(), old.cloned()];
    for side in sides.iter_mut().flatten().filter(|_| !connected) {
        let converted = request.registry.convert(std::mem::take(side), request.stored_kind(), &matched.kind).await?;
        *side = shown(request, &matched.kind, converted);
    }
    Ok(sides)
}

/// A changed object of the matched kind as it is stored: decoded and defaulted as if a client had sent it.
pub(in crate::admission) async fn taken(request: &Request<'_>, matched: &Matched, changed: Value) -> Result<Result<Value, String>, Status> {
    let api = request.registry.api();
    let body = matched.kind.subresource(request.subresource).and_then(|s| s.kind);
    let body = body.and_then(|(group, version, kind)| api.kind(group, version, kind));
    let kind: &Kind = body.unwrap_or(&matched.kind);
    let mut value = match normalize::decode(&kind.schema, kind.ty, changed) {
        Ok(decoded) => decoded.value,
        Err(error) => return Ok(Err(error.to_string())),
    };
    normalize::apply_defaults(&kind.schema, kind.ty, &mut value);
    fram_api::strategy(kind).default(&mut value);
    if body.is_some() {
        return Ok(Ok(value));
    }
    request.registry.convert(value, kind, request.stored_kind()).await.map(Ok)
}

/// An object as a request shows it: through a subresource with a body of its own, that body.
fn shown(request: &Request<'_>, kind: &Kind, object: Value) -> Value {
    match request.subresource {
        "scale" => crate::verbs::to_scale(kind, &object),
        _ => object,
    }
}

/// Whether a patch of what is shown can be applied to the object.
pub(in crate::admission) fn is_changeable(request: &Request<'_>) -> bool {
    request.operation != Operation::Connect && request.subresource != "scale"
}

/// The review of a request; objects are of the matched kind.
pub(in crate::admission) fn question(uid: &str, request: &Request<'_>, matched: &Matched, new: Option<Value>, old: Option<Value>) -> Value {
    let asked = &request.place.served.kind;
    let connected = request.operation == Operation::Connect;
    let body = matched.kind.subresource(request.subresource).and_then(|s| s.kind);
    // A connection is about its options, not about the object that it leads to.
    let (kind, request_kind) = match (&new, body) {
        (Some(options), _) if connected => {
            let kind = object!({ "group": "", "version": "v1", "kind": (options.str_at(&["kind"])) });
            (kind.clone(), kind)
        }
        (_, Some((group, version, kind))) => {
            let kind = object!({ "group": group, "version": version, "kind": kind });
            (kind.clone(), kind)
        }
        _ => (gvk(&matched.kind), gvk(asked)),
    };
    let name = match request.name() {
        _ if request.is_unnamed => String::new(),
        "" => new.as_ref().map_or("", meta::name).to_string(),
        name => name.to_string(),
    };
    let mut out = object!({
        "uid": uid, "kind": kind, "resource": (gvr(&matched.kind)), "requestKind": request_kind, "requestResource": (gvr(asked)),
        "name": name, "operation": (operation_name(request)), "userInfo": (request.user.to_info()),
        "object": (new), "oldObject": (old), "dryRun": (request.dry_run), "options": (options(request))
    });
    if !request.subresource.is_empty() {
        out.set(&["subResource"], request.subresource);
        out.set(&["requestSubResource"], request.subresource);
    }
    let namespace = if asked.is("", "Namespace") { request.name() } else { &request.place.namespace };
    if !namespace.is_empty() {
        out.set(&["namespace"], namespace);
    }
    object!({ "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": out })
}

impl Answer {
    pub(super) fn read(review: &Value, uid: &str) -> Result<Self, AnswerError> {
        let (version, kind) = (review.str_at(&["apiVersion"]), review.str_at(&["kind"]));
        if version != "admission.k8s.io/v1" || kind != "AdmissionReview" {
            return Err(AnswerError::Kind(format!("{version}, Kind={kind}")));
        }
        let nothing = Value::Null;
        let response = review.get("response").unwrap_or(&nothing);
        if response.str_at(&["uid"]) != uid {
            return Err(AnswerError::Uid { expected: uid.into(), found: response.str_at(&["uid"]).into() });
        }
        let text = response.str_at(&["patch"]);
        let patch = match (text, response.str_at(&["patchType"])) {
            ("", _) => None,
            (_, "") => return Err(AnswerError::PatchType),
            (text, _) => {
                let bad = |e: String| AnswerError::Patch(e);
                let bytes = base64::engine::general_purpose::STANDARD.decode(text).map_err(|e| bad(e.to_string()))?;
                Some(json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?).filter(|p: &Value| !p.is_empty())
            }
        };
        let annotations = response.get("auditAnnotations").and_then(Value::as_map).into_iter().flat_map(|m| m.iter());
        Ok(Self {
            annotations: annotations.filter_map(|(k, v)| Some((k.to_string(), v.as_str()?.to_string()))).collect(),
            allowed: response.bool_at(&["allowed"]) == Some(true),
            status: response.get("status").filter(|s| !s.is_null()).cloned(),
            patch,
            warnings: response.list_at(&["warnings"]).iter().filter_map(Value::as_str).map(String::from).collect(),
        })
    }

    /// The refusal as the client gets it; see upstream's ToStatusErr.
    pub(super) fn check(&self, hook: &str) -> Result<(), Status> {
        if self.allowed {
            return Ok(());
        }
        let denied = format!("admission webhook {hook:?} denied the request");
        let mut status = self.status.as_ref().map_or_else(|| Status::bad_request(""), Status::from_object);
        status.code = self.status.as_ref().and_then(|s| s.int_at(&["code"])).and_then(|c| u16::try_from(c).ok()).unwrap_or(0).max(400);
        status.message = match (status.message.as_str(), self.status.as_ref().map_or("", |s| s.str_at(&["reason"]))) {
            ("", "") => format!("{denied} without explanation"),
            ("", reason) => format!("{denied}: {reason}"),
            (message, _) => format!("{denied}: {message}"),
        };
        Err(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(response: Value) -> Result<Answer, AnswerError> {
        let mut review = object!({ "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1" });
        review.set(&["response"], response);
        Answer::read(&review, "u")
    }

    #[test]
    fn a_refusal_says_who_refused_and_why() {
        let denied =
            answer(object!({ "uid": "u", "allowed": false, "status": { "message": "no", "code": 403, "reason": "Forbidden" } })).unwrap();
        let status = denied.check("a.b").unwrap_err();
        assert_eq!((status.code, status.message.as_str()), (403, "admission webhook \"a.b\" denied the request: no"));
        let silent = answer(object!({ "uid": "u", "allowed": false })).unwrap().check("a.b").unwrap_err();
        assert_eq!((silent.code, silent.message.as_str()), (400, "admission webhook \"a.b\" denied the request without explanation"));
    }

    #[test]
    fn a_patch_needs_its_type_and_the_right_request() {
        let patch = base64::engine::general_purpose::STANDARD.encode(r#"[{"op":"remove","path":"/a"}]"#);
        let good = answer(object!({ "uid": "u", "allowed": true, "patch": (patch.as_str()), "patchType": "JSONPatch" })).unwrap();
        assert_eq!(good.patch.unwrap().as_list().unwrap().len(), 1);
        assert_eq!(answer(object!({ "uid": "u", "allowed": true, "patch": patch })), Err(AnswerError::PatchType));
        assert!(matches!(answer(object!({ "uid": "v", "allowed": true })), Err(AnswerError::Uid { .. })));
    }
}
