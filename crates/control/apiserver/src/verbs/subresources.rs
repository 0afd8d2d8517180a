//! Subresources: status, scale, binding, eviction, token, finalize, approval, and the reviews that are never stored.

use fram_api::{Kind, ScalePaths};
use fram_client::{Verb, WriteOptions};
use fram_machinery::labels::Selector;
use fram_machinery::{Key, Status, Value, meta, object};

use super::{changed, decode, patch_object};
use crate::admission::{Operation, Request};
use crate::registry::{Body, Place, Write, Written};
use crate::server::{Answer, Performed, Server, field_validation, write_of};
use crate::user::User;

pub(super) async fn execute(
    server: &Server,
    user: &User,
    place: Place,
    subresource: &str,
    verb: Verb,
    duplicates: Vec<String>,
) -> Result<Performed, Status> {
    if matches!(place.kind().kind.as_str(), "CertificateSigningRequest" | "PodCertificateRequest")
        && matches!(verb, Verb::Update { .. } | Verb::Patch { .. })
    {
        may_act_for_signer(server, user, &place, subresource).await?;
    }
    match (subresource, verb) {
        ("", Verb::Create { object, options }) => {
            let (object, warnings) = decode(&server.registry, &place, object, duplicates, &options)?;
            let object = if place.kind().kind == "Binding" {
                let place = pods(server, &place, meta::name(&object))?;
                bind(server, user, &place, object, &options).await?
            } else {
                let mut object = object;
                server.registry.track(&place, &mut object, None, "", &write_of(user, &options))?;
                super::reviews::review(server, user, &place, object).await?
            };
            Ok(Performed { answer: Answer::Other { object, created: true }, warnings })
        }
        ("scale", verb) => scale(server, user, place, verb, duplicates).await,
        (_, Verb::Get) => {
            let answer = super::stored(&server.registry, place).await?;
            Ok(Performed { answer, warnings: Vec::new() })
        }
        (_, Verb::Create { object, options }) => create(server, user, place, subresource, object, duplicates, options).await,
        (_, Verb::Update { object, options }) => {
            let (object, warnings) = decode(&server.registry, &place, object, duplicates, &options)?;
            let written = update(server, user, &place, subresource, object, &options).await?;
            Ok(changed(place.served, written, warnings))
        }
        (_, Verb::Patch { patch, options }) => {
            let mut warnings = Vec::new();
            let written = patch_object(server, user, &place, subresource, patch, duplicates, &options, &mut warnings).await?;
            Ok(changed(place.served, written, warnings))
        }
        (_, _) => Err(Status::method_not_allowed(&place.kind().group, &place.kind().plural, subresource)),
    }
}

fn pods(server: &Server, place: &Place, name: &str) -> Result<Place, Status> {
    let served = server.registry.served("", "v1", "pods").ok_or_else(Status::no_such_path)?;
    Ok(Place { served, namespace: place.namespace.clone(), name: name.into() })
}

async fn update(
    server: &Server,
    user: &User,
    place: &Place,
    subresource: &str,
    object: Value,
    options: &WriteOptions,
) -> Result<Written, Status> {
    let write = write_of(user, options);
    let part = |current: &Value| {
        let mut next = match subresource {
            // A whole object is sent, of which the registry takes the part.
            "status" | "resize" => return Ok(object.clone()),
            _ => current.clone(),
        };
        next.set(&["metadata", "resourceVersion"], meta::resource_version(&object));
        match subresource {
            "finalize" => next.set(&["spec", "finalizers"], object.at(&["spec", "finalizers"]).cloned()),
            "approval" => next.set(&["status", "conditions"], object.at(&["status", "conditions"]).cloned()),
            "ephemeralcontainers" => next.set(&["spec", "ephemeralContainers"], object.at(&["spec", "ephemeralContainers"]).cloned()),
            other => return Err(Status::method_not_allowed(&place.kind().group, &place.kind().plural, other)),
        }
        Ok(next)
    };
    server.registry.update(place, subresource, &write, part).await
}

/// Who approves or signs needs that right for the request's signer: upstream's admission plugins CertificateApproval and
/// CertificateSigning.
async fn may_act_for_signer(server: &Server, user: &User, place: &Place, subresource: &str) -> Result<(), Status> {
    let plugin = if subresource == "approval" { "CertificateApproval" } else { "CertificateSigning" };
    if !server.registry.admission.has(plugin) {
        return Ok(());
    }
    let current = server.registry.get_object(place).await?;
    let signer = current.str_at(&["spec", "signerName"]);
    let verb = if subresource == "approval" { "approve" } else { "sign" };
    let attributes = |name: String| crate::authorize::Attributes {
        verb: verb.into(),
        group: "certificates.k8s.io".into(),
        version: "v1".into(),
        resource: "signers".into(),
        name,
        ..Default::default()
    };
    let domain = signer.split('/').next().unwrap_or_default();
    if server.authorizer.check(user, &attributes(format!("{domain}/*"))).is_ok() {
        return Ok(());
    }
    server.authorizer.check(user, &attributes(signer.into()))
}

async fn create(
    server: &Server,
    user: &User,
    place: Place,
    subresource: &str,
    object: Value,
    duplicates: Vec<String>,
    options: WriteOptions,
) -> Result<Performed, Status> {
    let kind = body_kind(server, &place, subresource)?;
    let body = Body { value: object, duplicates };
    let (object, warnings) = server.registry.decode_body(&kind, body, field_validation("CreateOptions", &options.field_validation)?)?;
    let object = match subresource {
        "binding" => bind(server, user, &place, object, &options).await?,
        "eviction" => evict(server, user, &place, object, &options).await?,
        "token" => {
            let named = meta::name(&object);
            if !named.is_empty() && named != place.name {
                let error = fram_machinery::status::FieldError::invalid("metadata.name", named, "must match the service account name");
                return Err(Status::invalid("authentication.k8s.io", "TokenRequest", named, vec![error]));
            }
            let write = write_of(user, &options);
            let mut request = Request::new(&server.registry, &place, "token", Operation::Create, &write);
            let object = server.registry.admission.admit(&mut request, object, None).await?;
            server.registry.admission.validate(&request, Some(&object), None).await?;
            server.tokens.issue(&place.namespace, &place.name, object).await?
        }
        other => return Err(Status::method_not_allowed(&place.kind().group, &place.kind().plural, other)),
    };
    Ok(Performed { answer: Answer::Other { object, created: true }, warnings })
}

/// The kind of a subresource's body.
fn body_kind(server: &Server, place: &Place, subresource: &str) -> Result<std::sync::Arc<Kind>, Status> {
    let gvk = place.kind().subresource(subresource).and_then(|s| s.kind);
    let (group, version, kind) = gvk.ok_or_else(Status::no_such_path)?;
    server.registry.api().kind(group, version, kind).cloned().ok_or_else(Status::no_such_path)
}

fn success(code: i64) -> Value {
    object!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code })
}

/// Binds a pod to a node; see upstream's BindingREST.
async fn bind(server: &Server, user: &User, place: &Place, binding: Value, options: &WriteOptions) -> Result<Value, Status> {
    if meta::name(&binding) != place.name {
        return Err(Status::bad_request("name in URL does not match name in Binding object"));
    }
    let (admission, write) = (&server.registry.admission, write_of(user, options));
    let mut request = Request::new(&server.registry, place, "binding", Operation::Create, &write);
    let mut binding = binding;
    binding.set(&["metadata", "namespace"], place.namespace.as_str());
    let binding = admission.admit(&mut request, binding, None).await?;
    let node = binding.str_at(&["target", "name"]).to_string();
    let target = binding.str_at(&["target", "kind"]);
    // Upstream answers these without a reason, as what went wrong inside.
    if !matches!(target, "" | "Node") {
        let why = format!("target.kind: Unsupported value: {target:?}: supported values: \"Node\", \"<empty>\"");
        return Err(Status::new(fram_machinery::Reason::Unknown, why));
    }
    if node.is_empty() {
        return Err(Status::new(fram_machinery::Reason::Unknown, "target.name: Required value"));
    }
    admission.validate(&request, Some(&binding), None).await?;
    let now = server.registry.environment.now_text();
    let assign = |current: &Value| {
        let mut pod = current.clone();
        let uid = meta::uid(&binding);
        if !uid.is_empty() && uid != meta::uid(current) {
            return Err(
                place.conflict(&format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", meta::uid(current)))
            );
        }
        if meta::is_terminating(current) {
            return Err(place.conflict(&format!("pod {} is being deleted, cannot be assigned to a host", place.name)));
        }
        let bound = current.str_at(&["spec", "nodeName"]);
        if !bound.is_empty() {
            return Err(place.conflict(&format!("pod {} is already assigned to node {bound:?}", place.name)));
        }
        if !current.list_at(&["spec", "schedulingGates"]).is_empty() {
            return Err(place.conflict(&format!("pod {} has non-empty .spec.schedulingGates", place.name)));
        }
        pod.set(&["spec", "nodeName"], node.as_str());
        // Room is no longer being made for it.
        pod.remove(&["status", "nominatedNodeName"]);
        for part in ["annotations", "labels"] {
            for (key, value) in binding.at(&["metadata", part]).and_then(Value::as_map).into_iter().flat_map(|m| m.iter()) {
                pod.place(&["metadata", part]).make_map().insert(key.clone(), value.clone());
            }
        }
        set_condition(
            &mut pod,
            object!({ "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": (now.as_str()) }),
        );
        Ok(pod)
    };
    server.registry.update(place, "binding", &write, assign).await?;
    Ok(success(201))
}

fn set_condition(object: &mut Value, condition: Value) {
    let list = object.place(&["status", "conditions"]).make_list();
    let ty = condition.str_at(&["type"]).to_string();
    match list.make_mut().iter_mut().find(|c| c.str_at(&["type"]) == ty) {
        Some(found) => *found = condition,
        None => list.push(condition),
    }
}

/// Deletes a pod unless a disruption budget forbids it; see upstream's EvictionREST.
async fn evict(server: &Server, user: &User, place: &Place, eviction: Value, options: &WriteOptions) -> Result<Value, Status> {
    let registry = &server.registry;
    let named = meta::name(&eviction);
    if !named.is_empty() && named != place.name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let asked = eviction.get("deleteOptions").cloned().unwrap_or_default();
    let mut delete = crate::http_api::delete_options(&Default::default(), &asked)?;
    delete.dry_run |= options.dry_run;
    let write = Write { dry_run: delete.dry_run, ..write_of(user, options) };
    let mut request = Request::new(registry, place, "eviction", Operation::Create, &write);
    let eviction = registry.admission.admit(&mut request, eviction, None).await?;
    registry.admission.validate(&request, Some(&eviction), None).await?;

    let pod = registry.get_object(place).await?;
    let ended = matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed" | "Pending") || meta::is_terminating(&pod);
    let guarded = if ended { Guard::Settled } else { take_disruption(server, place, &pod, &write).await? };
    let preconditions = &mut delete.preconditions;
    preconditions.uid.get_or_insert_with(|| meta::uid(&pod).to_string());
    // One that is let go because it is not ready may have become so.
    if guarded == Guard::Unready && preconditions.resource_version.is_none() {
        preconditions.resource_version = Some(meta::resource_version(&pod).to_string());
    }
    if !ended && !delete.dry_run {
        let now = registry.environment.now_text();
        let pinned = preconditions.resource_version.clone();
        let mark = |current: &Value| {
            let mut pod = current.clone();
            if let Some(version) = &pinned {
                pod.set(&["metadata", "resourceVersion"], version.as_str());
            }
            set_condition(
                &mut pod,
                object!({ "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
                    "message": "Eviction API: evicting", "lastProbeTime": null, "lastTransitionTime": (now.as_str()) }),
            );
            Ok(pod)
        };
        let marked = registry.update(place, "status", &write, mark).await?;
        if preconditions.resource_version.is_some() {
            preconditions.resource_version = Some(meta::resource_version(&marked.object).to_string());
        }
    }
    registry.delete(place, &delete, &write).await?;
    Ok(success(201))
}

/// How a pod stands to the budgets that cover it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Guard {
    /// No budget minds, or it was charged.
    Settled,
    /// Its budget lets it go for as long as it is not ready.
    Unready,
}

/// Whether a budget lets a pod go that is not ready; see its unhealthyPodEvictionPolicy.
fn lets_unready_go(budget: &Value) -> bool {
    let count = |field: &str| budget.int_at(&["status", field]).unwrap_or(0);
    let healthy = count("currentHealthy") >= count("desiredHealthy") && count("desiredHealthy") > 0;
    budget.str_at(&["spec", "unhealthyPodEvictionPolicy"]) == "AlwaysAllow" || healthy
}

/// Counts the eviction against the pod's disruption budget, or refuses it.
async fn take_disruption(server: &Server, place: &Place, pod: &Value, write: &Write) -> Result<Guard, Status> {
    let served = server.registry.served("policy", "v1", "poddisruptionbudgets").ok_or_else(Status::no_such_path)?;
    let all = Place { served, namespace: place.namespace.clone(), name: String::new() };
    let mut matching = Vec::new();
    for entry in server.registry.list(&all, &Default::default()).await?.items {
        let budget = server.registry.decode(&all.served, &entry)?;
        let selector = Selector::from_object(budget.at(&["spec", "selector"])).ok().flatten();
        if selector.is_some_and(|s| s.matches(meta::labels(pod))) {
            matching.push(budget);
        }
    }
    let [budget] = matching.as_slice() else {
        if matching.is_empty() {
            return Ok(Guard::Settled);
        }
        return Err(Status::internal("This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."));
    };
    if !meta::condition_is_true(pod, "Ready") && lets_unready_go(budget) {
        return Ok(Guard::Unready);
    }
    let name = meta::name(budget);
    let refused = || {
        let mut status =
            Status::new(fram_machinery::Reason::TooManyRequests, "Cannot evict pod as it would violate the pod's disruption budget.");
        let why = format!(
            "The disruption budget {name} needs {} healthy pods and has {} currently",
            budget.int_at(&["status", "desiredHealthy"]).unwrap_or(0),
            budget.int_at(&["status", "currentHealthy"]).unwrap_or(0)
        );
        status.causes.push(fram_machinery::StatusCause { reason: "DisruptionBudget".into(), message: why, field: String::new() });
        status
    };
    if meta::generation(budget) > budget.int_at(&["status", "observedGeneration"]).unwrap_or(0) {
        let mut status = refused();
        status.retry_after_seconds = 10;
        return Err(status);
    }
    let now = server.registry.environment.now_text();
    let at = Place { name: name.to_string(), ..all.clone() };
    let count = |current: &Value| {
        let allowed = current.int_at(&["status", "disruptionsAllowed"]).unwrap_or(0);
        if allowed <= 0 {
            return Err(refused());
        }
        let mut next = current.clone();
        next.set(&["status", "disruptionsAllowed"], allowed - 1);
        next.place(&["status", "disruptedPods"]).make_map().insert(place.name.as_str(), now.as_str());
        Ok(next)
    };
    server.registry.update(&at, "status", write, count).await.map(|_| Guard::Settled)
}

/// The Scale of an object: its replicas and selector in a common form.
pub(crate) fn to_scale(kind: &Kind, object: &Value) -> Value {
    if let Some(paths) = scale_paths(kind) {
        return custom_scale(paths, object);
    }
    let selector = match (object.at(&["spec", "selector"]), object.str_at(&["kind"])) {
        (Some(Value::Map(labels)), "ReplicationController") => Selector::from_map(labels).to_string(),
        (selector, _) => Selector::from_object(selector).ok().flatten().map(|s| s.to_string()).unwrap_or_default(),
    };
    let mut scale = scale_of(object, object.int_at(&["status", "replicas"]).unwrap_or(0));
    if let Some(replicas) = object.int_at(&["spec", "replicas"]).filter(|n| *n != 0) {
        scale.set(&["spec", "replicas"], replicas);
    }
    if !selector.is_empty() {
        scale.set(&["status", "selector"], selector);
    }
    scale
}

fn scale_paths(kind: &Kind) -> Option<&ScalePaths> {
    kind.custom.as_ref()?.scale.as_ref()
}

fn at<'a>(object: &'a Value, path: &[Key]) -> Option<&'a Value> {
    path.iter().try_fold(object, |at, step| at.get(step))
}

/// The Scale of a custom resource, by the paths of its definition.
fn custom_scale(paths: &ScalePaths, object: &Value) -> Value {
    let count = |path: &[Key]| at(object, path).and_then(Value::as_int).unwrap_or(0);
    let mut scale = scale_of(object, count(&paths.status_replicas));
    scale.set(&["spec", "replicas"], count(&paths.spec_replicas));
    let selector = paths.label_selector.as_ref().and_then(|path| at(object, path)?.as_str());
    if let Some(selector) = selector.filter(|s| !s.is_empty()) {
        scale.set(&["status", "selector"], selector);
    }
    scale
}

/// A Scale with the metadata of an object and so many replicas that are there.
fn scale_of(object: &Value, replicas: i64) -> Value {
    object!({
        "apiVersion": "autoscaling/v1", "kind": "Scale",
        "metadata": {
            "name": (meta::name(object)), "namespace": (meta::namespace(object)), "uid": (meta::uid(object)),
            "resourceVersion": (meta::resource_version(object)), "creationTimestamp": (object.str_at(&["metadata", "creationTimestamp"]))
        },
        "spec": {}, "status": { "replicas": replicas }
    })
}

/// What a request makes of the current Scale.
type Change = Box<dyn Fn(&Value) -> Result<Value, Status> + Send + Sync>;

async fn scale(server: &Server, user: &User, place: Place, verb: Verb, duplicates: Vec<String>) -> Result<Performed, Status> {
    let registry = &server.registry;
    let kind = body_kind(server, &place, "scale")?;
    let other = |object: Value, warnings| Ok(Performed { answer: Answer::Other { object, created: false }, warnings });
    let mut warnings = Vec::new();
    let (options, change): (WriteOptions, Change) = match verb {
        Verb::Get => return other(to_scale(place.kind(), &registry.get_object(&place).await?), warnings),
        Verb::Update { object, options } => {
            let body = Body { value: object, duplicates };
            let (scale, found) = registry.decode_body(&kind, body, field_validation("UpdateOptions", &options.field_validation)?)?;
            warnings = found;
            (options, Box::new(move |_| Ok(scale.clone())))
        }
        Verb::Patch { patch, options } => {
            let (registry, kind) = (registry.clone(), kind.clone());
            let validation = field_validation("PatchOptions", &options.field_validation)?;
            let change = move |scale: &Value| {
                let patched = super::apply_patch(&kind, scale, &patch)?;
                registry.decode_body(&kind, Body::new(patched), validation).map(|(scale, _)| scale)
            };
            (options, Box::new(change))
        }
        _ => return Err(Status::method_not_allowed(&place.kind().group, &place.kind().plural, "scale")),
    };
    let transform = |current: &Value| {
        let scale = change(&to_scale(place.kind(), current))?;
        let (named, uid) = (meta::name(&scale), meta::uid(&scale));
        if !named.is_empty() && named != place.name {
            let why = format!("the name of the object ({named}) does not match the name on the URL ({})", place.name);
            return Err(Status::bad_request(why));
        }
        if !uid.is_empty() && uid != meta::uid(current) {
            let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", meta::uid(current));
            return Err(place.conflict(&why));
        }
        let replicas = scale.int_at(&["spec", "replicas"]).unwrap_or(0);
        if replicas < 0 {
            let error = fram_machinery::status::FieldError::invalid("spec.replicas", replicas, "must be greater than or equal to 0");
            return Err(Status::invalid("autoscaling", "Scale", &place.name, vec![error]));
        }
        let mut next = current.clone();
        match scale_paths(place.kind()) {
            Some(paths) => {
                let path: Vec<&str> = paths.spec_replicas.iter().map(Key::as_str).collect();
                next.set(&path, replicas);
            }
            None => next.set(&["spec", "replicas"], replicas),
        }
        next.set(&["metadata", "resourceVersion"], meta::resource_version(&scale));
        Ok(next)
    };
    let written = registry.update(&place, "scale", &write_of(user, &options), transform).await?;
    other(to_scale(place.kind(), &written.object), warnings)
}
