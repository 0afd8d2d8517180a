//! The paths of the served resources with their operations, in both dialects of OpenAPI.

use fram_api::{Kind, Subresource};
use fram_machinery::{Map, Value, object};

use super::parameters as p;
use super::schema::{Dialect, list_name};

/// The verbs of Kubernetes by the methods of HTTP, for collections and for objects.
const COLLECTION: [(&str, &str); 3] = [("get", "list"), ("post", "create"), ("delete", "deletecollection")];
const OBJECT: [(&str, &str); 4] = [("get", "get"), ("put", "update"), ("patch", "patch"), ("delete", "delete")];
const SUBRESOURCE: [(&str, &str); 5] = [("get", "get"), ("post", "create"), ("put", "update"), ("patch", "patch"), ("delete", "delete")];

const STRATEGIC: &str = "application/strategic-merge-patch+json";
const PATCHES: [&str; 5] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    STRATEGIC,
    "application/apply-patch+yaml",
    "application/apply-patch+cbor",
];

/// `api/v1` or `apis/apps/v1`.
pub(super) fn root(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// One operation on a resource.
struct Operation<'a> {
    kind: &'a Kind,
    verb: &'a str,
    subresource: Option<&'a Subresource>,
    everywhere: bool,
    /// The names of the schema of the body and of the answer.
    schema: &'a str,
}

/// Adds all paths of a kind.
pub(super) fn add(paths: &mut Map, kind: &Kind, dialect: Dialect) {
    let schema = &*kind.schema.get(kind.ty).openapi_name;
    let root = root(&kind.group, &kind.version);
    let scope = if kind.is_namespaced() { "/namespaces/{namespace}" } else { "" };
    let collection = format!("/{root}{scope}/{}", kind.plural);
    let object_path = format!("{collection}/{{name}}");
    let plain = |verb| Operation { kind, verb, subresource: None, everywhere: false, schema };
    let own = |methods: &[(&'static str, &'static str)]| -> Vec<_> {
        methods.iter().filter(|(_, verb)| kind.has_verb(verb)).map(|(method, verb)| (*method, plain(verb))).collect()
    };
    insert(paths, collection, own(&COLLECTION), dialect);
    insert(paths, object_path.clone(), own(&OBJECT), dialect);
    if kind.is_namespaced() && kind.has_verb("list") {
        let operation = Operation { everywhere: true, ..plain("list") };
        insert(paths, format!("/{root}/{}", kind.plural), vec![("get", operation)], dialect);
    }
    for subresource in &kind.subresources {
        let of = |(method, verb): &(&'static str, &'static str)| (*method, Operation { subresource: Some(subresource), ..plain(verb) });
        let operations = SUBRESOURCE.iter().filter(|(_, verb)| subresource.verbs.contains(verb)).map(of).collect();
        insert(paths, format!("{object_path}/{}", subresource.name), operations, dialect);
    }
}

fn insert(paths: &mut Map, path: String, operations: Vec<(&'static str, Operation<'_>)>, dialect: Dialect) {
    if operations.is_empty() {
        return;
    }
    let named = |p: &p::Parameter| path.contains(&format!("{{{}}}", p.name));
    let place: Vec<Value> = [p::NAME, p::NAMESPACE].into_iter().filter(named).map(|p| p.of_operation(dialect, "path")).collect();
    let mut item: Map = operations.iter().map(|(method, operation)| (*method, operation.document(dialect))).collect();
    if !place.is_empty() {
        item.insert("parameters", place);
    }
    paths.insert(path, item);
}

impl Operation<'_> {
    fn document(&self, dialect: Dialect) -> Value {
        let (group, version, kind) = self.group_version_kind();
        let action = match self.verb {
            "create" => "post",
            "update" => "put",
            other => other,
        };
        let mut parameters: Vec<Value> = self.query().iter().map(|p| p.of_operation(dialect, "query")).collect();
        let mut out = object!({
            "operationId": (self.id()), "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": { "group": group, "kind": kind, "version": version },
            "responses": { "200": (self.answer(dialect)) }
        });
        let body = dialect.reference(self.schema);
        match (dialect, self.verb) {
            (Dialect::V2, "patch") => {
                out.set(&["consumes"], texts(&self.patches()));
                parameters.push(object!({ "name": "body", "in": "body", "required": true, "schema": { "type": "object" } }));
            }
            (Dialect::V2, "create" | "update") if self.has_own_body() => {
                parameters.push(object!({ "name": "body", "in": "body", "required": true, "schema": body }));
            }
            (Dialect::V3, "patch") => {
                let any = || object!({ "schema": { "type": "object" } });
                let content: Map = self.patches().into_iter().map(|t| (t, any())).collect();
                out.set(&["requestBody"], object!({ "content": content, "required": true }));
            }
            (Dialect::V3, "create" | "update") if self.has_own_body() => {
                out.set(&["requestBody"], object!({ "content": { "*/*": { "schema": body } }, "required": true }));
            }
            _ => {}
        }
        // An empty list would not survive a client's reading and writing it again.
        if !parameters.is_empty() {
            out.set(&["parameters"], parameters);
        }
        out
    }

    /// The sorts of patches; custom resources have no strategies to merge by.
    fn patches(&self) -> Vec<&'static str> {
        let custom = self.kind.custom.is_some();
        PATCHES.into_iter().filter(|p| !custom || *p != STRATEGIC).collect()
    }

    /// The kind that the operation is about: that of the subresource where it has one of its own.
    fn group_version_kind(&self) -> (&str, &str, &str) {
        self.subresource.and_then(|s| s.kind).unwrap_or((&self.kind.group, &self.kind.version, &self.kind.kind))
    }

    /// Whether the body is the object itself.
    fn has_own_body(&self) -> bool {
        self.subresource.is_none_or(|s| s.kind.is_none())
    }

    /// The query parameters by which clients tell what the server can do.
    fn query(&self) -> &'static [p::Parameter] {
        match self.verb {
            "create" | "update" => &[p::DRY_RUN, p::FIELD_MANAGER, p::FIELD_VALIDATION],
            "patch" => &[p::DRY_RUN, p::FIELD_MANAGER, p::FIELD_VALIDATION, p::FORCE],
            "delete" => &[p::DRY_RUN, p::GRACE_PERIOD_SECONDS, p::ORPHAN_DEPENDENTS, p::PROPAGATION_POLICY],
            "list" => &[
                p::ALLOW_WATCH_BOOKMARKS,
                p::CONTINUE,
                p::FIELD_SELECTOR,
                p::LABEL_SELECTOR,
                p::LIMIT,
                p::RESOURCE_VERSION,
                p::RESOURCE_VERSION_MATCH,
                p::SEND_INITIAL_EVENTS,
                p::TIMEOUT_SECONDS,
                p::WATCH,
            ],
            "deletecollection" => &[
                p::CONTINUE,
                p::DRY_RUN,
                p::FIELD_SELECTOR,
                p::GRACE_PERIOD_SECONDS,
                p::LABEL_SELECTOR,
                p::LIMIT,
                p::ORPHAN_DEPENDENTS,
                p::PROPAGATION_POLICY,
                p::RESOURCE_VERSION,
                p::RESOURCE_VERSION_MATCH,
                p::SEND_INITIAL_EVENTS,
                p::TIMEOUT_SECONDS,
            ],
            _ => &[],
        }
    }

    fn answer(&self, dialect: Dialect) -> Value {
        let schema = match self.verb {
            "list" => dialect.reference(&list_name(self.kind)),
            "delete" | "deletecollection" => dialect.reference("io.k8s.apimachinery.pkg.apis.meta.v1.Status"),
            _ if self.has_own_body() => dialect.reference(self.schema),
            _ => return object!({ "description": "OK" }),
        };
        match dialect {
            Dialect::V2 => object!({ "description": "OK", "schema": schema }),
            Dialect::V3 => object!({ "description": "OK", "content": { "application/json": { "schema": schema } } }),
        }
    }

    /// Upstream's name of the operation, such as `listCoreV1NamespacedPod`.
    fn id(&self) -> String {
        let verb = match self.verb {
            "get" => "read",
            "update" => "replace",
            "deletecollection" => "delete",
            other => other,
        };
        let group = match self.kind.group.split('.').next() {
            None | Some("") => "core",
            Some(first) => first,
        };
        let scope = if self.kind.is_namespaced() && !self.everywhere { "Namespaced" } else { "" };
        let subresource = self.subresource.map(|s| capital(s.name)).unwrap_or_default();
        let end = if self.everywhere { "ForAllNamespaces" } else { "" };
        let all = if self.verb == "deletecollection" { "Collection" } else { "" };
        format!("{verb}{}{}{all}{scope}{}{subresource}{end}", capital(group), capital(&self.kind.version), self.kind.kind)
    }
}

fn capital(text: &str) -> String {
    let (head, rest) = text.split_at(text.len().min(1));
    format!("{}{rest}", head.to_uppercase())
}

fn texts(items: &[&str]) -> Value {
    items.iter().map(|s| Value::from(*s)).collect::<Vec<_>>().into()
}
