//! Requests about objects: query parameters and bodies become a call.

use std::sync::Arc;

use bytes::Bytes;
use fram_client::{Call, DeleteOptions, ListOptions, Patch, PatchKind, Preconditions, Propagation, Resource, Verb, WriteOptions};
use fram_machinery::status::FieldError;
use fram_machinery::{Reason, Status, Value};
use http::{Request, Response, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;

use crate::accept::{self, Accept, Endpoint};
use crate::path::{Query, ResourcePath, verb};
use crate::registry::Body as ObjectBody;
use crate::respond::{self, Body};
use crate::server::{Server, field_validation};
use crate::table::IncludeObject;
use crate::user::User;

/// Larger bodies are refused; upstream's limit for writes.
const MAX_BODY: usize = 3 * 1024 * 1024;

pub(super) async fn handle(
    server: Arc<Server>,
    user: User,
    path: ResourcePath,
    query: Query,
    request: Request<Incoming>,
) -> Result<Response<Body>, Status> {
    if matches!(path.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy") {
        return super::proxy::handle(server, user, path, query, request).await;
    }
    if path.watch && !path.subresource.is_empty() {
        return Err(Status::no_such_path());
    }
    let served = server.registry.served(&path.group, &path.version, &path.plural).ok_or_else(Status::no_such_path)?;
    let custom = served.kind.custom.is_some();
    let endpoint = if custom { Endpoint::CustomObjects } else { Endpoint::Objects };
    let include =
        IncludeObject::parse(query.get("includeObject")).ok_or_else(|| Status::bad_request("includeObject: Unsupported value"))?;
    let asked = verb(request.method(), &path, query.flag("watch"));
    if matches!(asked, "list" | "watch" | "deletecollection") {
        super::options::check(&query, asked == "watch", server.switches.watch_lists)?;
    }
    if asked == "watch" {
        let accept = Accept::negotiate_stream(request.headers(), endpoint)?;
        return super::watch::handle(server, user, path, query, accept, include).await;
    }
    let resource = resource_of(&path);
    let agent = request.headers().get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let agent = agent.split('/').next().unwrap_or_default().to_string();
    if matches!(asked, "create" | "update" | "patch") {
        // Nobody has the server read and take apart what they may not send.
        server.may_send(&user, asked, &resource, &path).await?;
    }
    if asked == "patch" {
        patch_type(&content_type(&request), custom)?;
    }
    let accept = Accept::negotiate(request.headers(), endpoint)?;
    let (mut verb, duplicates) = read_verb(&server.registry.api(), asked, &path, &query, request).await?;
    name_manager(&mut verb, &agent);
    let call = Call { resource, namespace: path.namespace, name: path.name, subresource: path.subresource, verb };
    let performed = server.perform(&user, call, duplicates).await?;
    respond::performed(&server.registry, performed, accept, include)
}

/// Who does not say under which name it writes is known by its program; an apply must say.
fn name_manager(verb: &mut Verb, agent: &str) {
    let options = match verb {
        Verb::Create { options, .. } | Verb::Update { options, .. } => options,
        Verb::Patch { patch, options } if patch.kind != PatchKind::Apply => options,
        _ => return,
    };
    if options.field_manager.is_empty() {
        options.field_manager = if agent.is_empty() { "unknown".into() } else { agent.chars().take(128).collect() };
    }
}

pub(super) fn resource_of(path: &ResourcePath) -> Resource {
    Resource { group: path.group.clone().into(), version: path.version.clone().into(), plural: path.plural.clone().into() }
}

async fn read_verb(
    api: &fram_api::Api,
    asked: &str,
    path: &ResourcePath,
    query: &Query,
    request: Request<Incoming>,
) -> Result<(Verb, Vec<String>), Status> {
    let content_type = content_type(&request);
    let none = Vec::new;
    Ok(match asked {
        "get" => (Verb::Get, none()),
        "list" => (Verb::List(list_options(query)?), none()),
        "create" | "update" => {
            let bytes = read_body(request).await?;
            let body = decode(api, &content_type, &bytes).map_err(|status| unrecognized(api, path, &bytes, status))?;
            let options = write_options(if asked == "create" { "CreateOptions" } else { "UpdateOptions" }, query)?;
            let verb =
                if asked == "create" { Verb::Create { object: body.value, options } } else { Verb::Update { object: body.value, options } };
            (verb, body.duplicates)
        }
        "patch" => {
            let kind = patch_type(&content_type, false)?;
            let body = read_body(request).await?;
            let body = match kind {
                PatchKind::Apply if content_type == APPLY_CBOR => decode(api, accept::CBOR, &body)?,
                PatchKind::Apply => decode(api, "application/yaml", &body)?,
                _ => ObjectBody::from_json(&body)?,
            };
            (Verb::Patch { patch: Patch { kind, body: body.value }, options: write_options("PatchOptions", query)? }, body.duplicates)
        }
        "delete" | "deletecollection" => {
            let bytes = read_body(request).await?;
            let body = if bytes.is_empty() { Value::Null } else { decode(api, &content_type, &bytes)?.value };
            let kind = body.str_at(&["kind"]);
            if !matches!(body, Value::Null | Value::Map(_)) || !matches!(kind, "" | "DeleteOptions") {
                return Err(Status::bad_request(format!("the body of a deletion is no DeleteOptions, but {kind:?}")));
            }
            let delete = delete_options(query, &body)?;
            if asked == "delete" {
                (Verb::Delete(delete), none())
            } else {
                (Verb::DeleteCollection { delete, list: list_options(query)? }, none())
            }
        }
        _ => return Err(Status::method_not_allowed(&path.group, &path.plural, request.method().as_str())),
    })
}

async fn read_body(request: Request<Incoming>) -> Result<Bytes, Status> {
    match Limited::new(request.into_body(), MAX_BODY).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(Status::new(Reason::RequestEntityTooLarge, format!("limit is {MAX_BODY}")))
        }
        Err(error) => Err(Status::bad_request(format!("unable to read the body: {error}"))),
    }
}

/// What is said of a body that does not even tell what it is.
fn unrecognized(api: &fram_api::Api, path: &ResourcePath, body: &[u8], status: Status) -> Status {
    let kind = match api.resource(&path.group, &path.version, &path.plural) {
        Some(kind) if status.is(Reason::BadRequest) => kind,
        _ => return status,
    };
    let body_of = kind.subresource(&path.subresource).and_then(|sub| sub.kind).map_or(&*kind.kind, |(_, _, name)| name);
    Status::bad_request(format!("the object provided is unrecognized (must be of type {body_of}): {} ({})", status.message, summary(body)))
}

/// The beginning of a body: as it is where it looks like JSON, else its bytes.
fn summary(body: &[u8]) -> String {
    const MOST: usize = 30;
    let start = &body[..body.len().min(MOST)];
    let rest = if body.len() > MOST { " ..." } else { "" };
    match body.first() {
        None => "<empty>".into(),
        Some(b'{') => format!("{}{rest}", String::from_utf8_lossy(start)),
        Some(_) => start.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + rest,
    }
}

fn unsupported(accepted: &str) -> Status {
    let text = format!("the body of the request was in an unknown format - accepted media types include: {accepted}");
    Status::new(Reason::UnsupportedMediaType, text)
}

/// The media type of a request's body, without parameters.
fn content_type<B>(request: &Request<B>) -> String {
    let text = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().to_string()
}

const APPLY_CBOR: &str = "application/apply-patch+cbor";

/// The sort of a patch. Custom resources have no merge keys that a strategic one would go by.
fn patch_type(content_type: &str, custom: bool) -> Result<PatchKind, Status> {
    let kind = if content_type == APPLY_CBOR { Some(PatchKind::Apply) } else { PatchKind::from_content_type(content_type) };
    kind.filter(|kind| !(custom && *kind == PatchKind::Strategic)).ok_or_else(|| {
        let all = [PatchKind::Json, PatchKind::Merge, PatchKind::Strategic, PatchKind::Apply];
        let known = all.into_iter().filter(|kind| !(custom && *kind == PatchKind::Strategic)).map(PatchKind::content_type);
        unsupported(&known.chain([APPLY_CBOR]).collect::<Vec<_>>().join(", "))
    })
}

fn decode(api: &fram_api::Api, content_type: &str, bytes: &Bytes) -> Result<ObjectBody, Status> {
    match content_type {
        "application/json" | "" => ObjectBody::from_json(bytes),
        "application/yaml" => {
            let text = std::str::from_utf8(bytes).map_err(|e| Status::bad_request(format!("yaml is not UTF-8: {e}")))?;
            let (value, problem) = fram_machinery::yaml::lenient(text).map_err(|e| Status::bad_request(e.to_string()))?;
            let duplicates = problem.map(|text| format!("yaml: unmarshal errors:\n  {text}")).into_iter().collect();
            Ok(ObjectBody { value, duplicates })
        }
        accept::PROTOBUF => decode_protobuf(api, bytes),
        accept::CBOR => {
            let value = fram_machinery::cbor::from_slice(bytes).map_err(|e| Status::bad_request(e.to_string()))?;
            Ok(ObjectBody::new(value))
        }
        _ => Err(unsupported(accept::MEDIA_TYPES)),
    }
}

/// The envelope says which kind the message is.
fn decode_protobuf(api: &fram_api::Api, bytes: &Bytes) -> Result<ObjectBody, Status> {
    let bad = |e: fram_machinery::protobuf::WireError| Status::bad_request(e.to_string());
    let envelope = fram_machinery::protobuf::open(bytes).map_err(bad)?;
    let (group, version) = envelope.api_version.split_once('/').unwrap_or(("", &envelope.api_version));
    let built_in = api.kind(group, version, &envelope.kind).filter(|k| k.custom.is_none());
    let ty = built_in.map(|k| k.ty).or_else(|| api.type_id(&format!("meta.v1.{}", envelope.kind)));
    let ty =
        ty.ok_or_else(|| Status::bad_request(format!("no kind {:?} is registered for version {:?}", envelope.kind, envelope.api_version)))?;
    let mut value = fram_machinery::protobuf::decode(&api.schema, ty, envelope.raw).map_err(bad)?;
    value.set(&["apiVersion"], envelope.api_version.as_str());
    value.set(&["kind"], envelope.kind.as_str());
    Ok(ObjectBody::new(value))
}

pub(super) fn list_options(query: &Query) -> Result<ListOptions, Status> {
    let number = |name: &str| match query.get(name) {
        "" => Ok(None),
        // Less than nothing is as good as nothing said.
        text => text
            .parse::<i64>()
            .map(|number| u32::try_from(number.max(0)).ok().filter(|number| *number > 0))
            .map_err(|_| Status::bad_request(format!("{name}: invalid number {text:?}"))),
    };
    Ok(ListOptions {
        metric_selector: String::new(),
        label_selector: query.get("labelSelector").into(),
        field_selector: query.get("fieldSelector").into(),
        limit: number("limit")?.unwrap_or(0),
        continue_token: query.get("continue").into(),
        resource_version: query.get("resourceVersion").into(),
        resource_version_match: query.get("resourceVersionMatch").into(),
        allow_bookmarks: query.flag("allowWatchBookmarks"),
        send_initial_events: query.flag("sendInitialEvents"),
        timeout_seconds: number("timeoutSeconds")?,
    })
}

/// An option that has none of the values that it may have; `options` is their kind.
fn unsupported_option(options: &str, field: &str, value: &str, supported: &[&str]) -> Status {
    Status::invalid("meta.k8s.io", options, "", vec![FieldError::not_supported(field, value, supported)])
}

fn dry_run<'a>(options: &str, mut values: impl Iterator<Item = &'a str>) -> Result<bool, Status> {
    match values.next() {
        None | Some("") => Ok(false),
        Some("All") => Ok(true),
        Some(other) => Err(unsupported_option(options, "dryRun", other, &["All"])),
    }
}

/// Options of a write; `kind` is theirs.
fn write_options(kind: &str, query: &Query) -> Result<WriteOptions, Status> {
    let _level = field_validation(kind, query.get("fieldValidation"))?;
    Ok(WriteOptions {
        field_manager: query.get("fieldManager").into(),
        field_validation: query.get("fieldValidation").into(),
        dry_run: dry_run(kind, query.all("dryRun"))?,
        force: query.flag("force"),
    })
}

/// Options of a deletion: where there is a body, the query says nothing. Only a dry run is one whoever says so: what is deleted for good
/// does not come back.
pub(crate) fn delete_options(query: &Query, body: &Value) -> Result<DeleteOptions, Status> {
    let (dry, none) = (body.list_at(&["dryRun"]).iter().filter_map(Value::as_str).chain(query.all("dryRun")), Query::default());
    let dry_run = dry_run("DeleteOptions", dry)?;
    let query = if body.is_null() { query } else { &none };
    let grace = match (body.int_at(&["gracePeriodSeconds"]), query.get("gracePeriodSeconds")) {
        (Some(seconds), _) => Some(seconds),
        (None, "") => None,
        (None, text) => Some(text.parse().map_err(|_| Status::bad_request("gracePeriodSeconds: invalid number"))?),
    };
    let policy = match body.str_at(&["propagationPolicy"]) {
        "" => query.get("propagationPolicy"),
        policy => policy,
    };
    let orphan = body.bool_at(&["orphanDependents"]).or_else(|| query.has("orphanDependents").then(|| query.flag("orphanDependents")));
    if !policy.is_empty() && orphan.is_some() {
        let why = "orphanDependents says the same in an older way: leave one of them out";
        return Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", vec![FieldError::invalid("propagationPolicy", policy, why)]));
    }
    let propagation = match (policy, orphan) {
        ("", None) => None,
        ("", Some(true)) => Some(Propagation::Orphan),
        ("", Some(false)) => Some(Propagation::Background),
        (policy, _) => Some(
            Propagation::parse(policy)
                .ok_or_else(|| unsupported_option("DeleteOptions", "propagationPolicy", policy, &["Background", "Foreground", "Orphan"]))?,
        ),
    };
    let text = |field: &str| Some(body.str_at(&["preconditions", field]).to_string()).filter(|t| !t.is_empty());
    Ok(DeleteOptions {
        grace_period_seconds: grace,
        propagation,
        preconditions: Preconditions { uid: text("uid"), resource_version: text("resourceVersion") },
        dry_run,
    })
}
