//! Schemas of object types from their descriptions.

use std::collections::BTreeSet;

use fram_api::{Api, Kind};
use fram_docs::Docs;
use fram_machinery::schema::{Field, SchemaOr, Topology};
use fram_machinery::{Map, Type, TypeId, Value, object};

/// The schema of `apiVersion` or `kind`, which no description holds as a field.
fn type_meta(docs: &Docs, openapi_name: &str, field: &str) -> Value {
    let mut schema = object!({ "type": "string" });
    // What holds for all kinds is said of Status, too.
    let own = docs.get(openapi_name).or_else(|| docs.get("io.k8s.apimachinery.pkg.apis.meta.v1.Status"));
    if let Some(text) = own.and_then(|d| d.fields.get(field)) {
        schema.set(&["description"], text.as_str());
    }
    schema
}

/// The name of the schema of a kind's list.
pub(super) fn list_name(kind: &Kind) -> String {
    let name = &kind.schema.get(kind.ty).openapi_name;
    let package = name.rsplit_once('.').map_or("", |(package, _)| package);
    format!("{package}.{}", kind.list_kind)
}

/// Where a document keeps its schemas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    V2,
    V3,
}

impl Dialect {
    pub(super) fn reference(self, name: &str) -> Value {
        let prefix = match self {
            Dialect::V2 => "#/definitions/",
            Dialect::V3 => "#/components/schemas/",
        };
        object!({ "$ref": (format!("{prefix}{name}")) })
    }
}

/// Collects the schemas that a document needs.
pub(super) struct Schemas<'a> {
    api: &'a Api,
    dialect: Dialect,
    docs: Docs,
    pending: Vec<TypeId>,
    seen: BTreeSet<u32>,
    pub(super) done: Map,
}

impl<'a> Schemas<'a> {
    pub(super) fn new(api: &'a Api, dialect: Dialect, docs: Docs) -> Self {
        Self { api, dialect, docs, pending: Vec::new(), seen: BTreeSet::new(), done: Map::new() }
    }

    /// The schemas of a kind and of its list.
    pub(super) fn add_kind(&mut self, kind: &Kind) {
        let name = kind.schema.get(kind.ty).openapi_name.clone();
        match &kind.custom {
            Some(custom) => {
                let metadata = self.named("meta.v1.ObjectMeta");
                let own = ["apiVersion", "kind"].map(|field| type_meta(&self.docs, &name, field));
                let schema = super::custom::schema(custom, self.dialect, metadata, own);
                self.done.insert(name.as_str(), schema);
            }
            None => self.need(kind.ty),
        }
        self.run();
        let gvk = |kind_name: &str| object!([{ "group": (&kind.group), "kind": kind_name, "version": (&kind.version) }]);
        if let Some(schema) = self.done.get_mut(&name) {
            // Without properties anything goes: naming these would forbid all others.
            if kind.custom.is_none() || schema.get("properties").is_some() {
                schema.set(&["properties", "apiVersion"], type_meta(&self.docs, &name, "apiVersion"));
                schema.set(&["properties", "kind"], type_meta(&self.docs, &name, "kind"));
            }
            schema.set(&["x-kubernetes-group-version-kind"], gvk(&kind.kind));
            // The first two are the name and the namespace, which every kind has.
            let own = kind.selectable.iter().filter(|_| kind.custom.is_some()).skip(2);
            let own: Vec<Value> = own.map(|path| object!({ "fieldPath": path })).collect();
            if !own.is_empty() {
                schema.set(&["x-kubernetes-selectable-fields"], own);
            }
        }
        if kind.listless {
            return;
        }
        let list = &*kind.list_kind;
        let meta = self.named("meta.v1.ListMeta");
        let schema = object!({
            "type": "object", "required": ["items"], "description": (format!("{list} is a list of {}.", kind.kind)),
            "properties": {
                "apiVersion": (type_meta(&self.docs, &name, "apiVersion")), "kind": (type_meta(&self.docs, &name, "kind")),
                "metadata": meta,
                "items": {
                    "type": "array", "items": (self.dialect.reference(&name)), "description": (format!("List of {}", kind.plural))
                }
            },
            "x-kubernetes-group-version-kind": (gvk(list))
        });
        self.done.insert(list_name(kind), schema);
        self.run();
    }

    /// The schema of what failures and deletions are answered with.
    pub(super) fn add_status(&mut self) {
        self.named("meta.v1.Status");
        self.run();
    }

    /// A reference to a type by its name in the descriptions.
    pub(super) fn named(&mut self, name: &str) -> Value {
        match self.api.type_id(name) {
            Some(id) => self.reference(id),
            None => object!({ "type": "object" }),
        }
    }

    fn need(&mut self, id: TypeId) {
        if self.seen.insert(id.0) {
            self.pending.push(id);
        }
    }

    fn reference(&mut self, id: TypeId) -> Value {
        self.need(id);
        self.dialect.reference(&self.api.schema.get(id).openapi_name)
    }

    /// A reference to a type that is a value, and no message here.
    fn value(&mut self, name: &str, schema: Value) -> Value {
        if self.done.get(name).is_none() {
            let mut schema = schema;
            if let Some(docs) = self.docs.get(name).filter(|docs| !docs.description.is_empty()) {
                schema.set(&["description"], docs.description.as_str());
            }
            self.done.insert(name, schema);
        }
        self.dialect.reference(name)
    }

    /// Works off the types that were referred to.
    pub(super) fn run(&mut self) {
        while let Some(id) = self.pending.pop() {
            let ty = self.api.schema.get(id);
            let docs = self.docs.get(&ty.openapi_name).cloned();
            let mut properties = Map::new();
            let mut required = Vec::new();
            for field in ty.json_fields() {
                if field.required {
                    required.push(Value::from(field.name.as_str()));
                }
                let mut schema = self.field(field);
                if let Some(text) = docs.as_ref().and_then(|d| d.fields.get(field.name.as_str())) {
                    schema.set(&["description"], text.as_str());
                }
                properties.insert(field.name.clone(), schema);
            }
            let mut schema = object!({ "type": "object" });
            if let Some(docs) = docs.filter(|d| !d.description.is_empty()) {
                schema.set(&["description"], docs.description);
            }
            if !properties.is_empty() {
                schema.set(&["properties"], properties);
            }
            if !required.is_empty() {
                schema.set(&["required"], required);
            }
            if ty.atomic {
                schema.set(&["x-kubernetes-map-type"], "atomic");
            }
            self.done.insert(ty.openapi_name.as_str(), schema);
        }
    }

    fn field(&mut self, field: &Field) -> Value {
        let mut schema = self.ty(&field.ty);
        let plain_reference = schema.get("$ref").is_some();
        if plain_reference && matches!(self.dialect, Dialect::V3) {
            schema = object!({ "allOf": [schema] });
        }
        if let Some(default) = &field.default {
            schema.set(&["default"], default.clone());
        }
        if !field.allowed.is_empty() && schema.str_at(&["type"]) == "string" {
            let allowed: BTreeSet<&str> = field.allowed.iter().copied().collect();
            schema.set(&["enum"], allowed.into_iter().map(Value::from).collect::<Vec<_>>());
        }
        if let Type::List(_) = field.ty {
            let topology = match &field.topology {
                Topology::Atomic => "atomic",
                Topology::Set => "set",
                Topology::Map(keys) => {
                    let keys: Vec<Value> = keys.iter().map(|k| Value::from(k.as_str())).collect();
                    schema.set(&["x-kubernetes-list-map-keys"], keys);
                    "map"
                }
            };
            schema.set(&["x-kubernetes-list-type"], topology);
        }
        if field.atomic || field.granular {
            schema.set(&["x-kubernetes-map-type"], if field.atomic { "atomic" } else { "granular" });
        }
        let patch = &field.patch;
        let strategies = [(patch.merge, "merge"), (patch.retain_keys, "retainKeys"), (patch.replace, "replace")];
        let strategies: Vec<&str> = strategies.into_iter().filter(|(on, _)| *on).map(|(_, s)| s).collect();
        if !strategies.is_empty() {
            schema.set(&["x-kubernetes-patch-strategy"], strategies.join(","));
        }
        if let Some(key) = &patch.key {
            schema.set(&["x-kubernetes-patch-merge-key"], key.as_str());
        }
        schema
    }

    fn ty(&mut self, ty: &Type) -> Value {
        let formatted = |ty: &str, format: &str| object!({ "type": ty, "format": format });
        match ty {
            Type::Bool => object!({ "type": "boolean" }),
            Type::Int32 => formatted("integer", "int32"),
            Type::Int64 => formatted("integer", "int64"),
            Type::Float64 => formatted("number", "double"),
            Type::String | Type::Duration => object!({ "type": "string" }),
            Type::Bytes => formatted("string", "byte"),
            Type::Time => self.value("io.k8s.apimachinery.pkg.apis.meta.v1.Time", formatted("string", "date-time")),
            Type::MicroTime => self.value("io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime", formatted("string", "date-time")),
            Type::Quantity => {
                let schema = match self.dialect {
                    Dialect::V2 => object!({ "type": "string" }),
                    Dialect::V3 => object!({ "oneOf": [{ "type": "string" }, { "type": "number" }] }),
                };
                self.value("io.k8s.apimachinery.pkg.api.resource.Quantity", schema)
            }
            Type::IntOrString => {
                let schema = match self.dialect {
                    Dialect::V2 => formatted("string", "int-or-string"),
                    Dialect::V3 => object!({ "format": "int-or-string", "oneOf": [{ "type": "integer" }, { "type": "string" }] }),
                };
                self.value("io.k8s.apimachinery.pkg.util.intstr.IntOrString", schema)
            }
            Type::RawExtension => self.value("io.k8s.apimachinery.pkg.runtime.RawExtension", object!({ "type": "object" })),
            Type::FieldsV1 => self.value("io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1", object!({ "type": "object" })),
            Type::Json | Type::Deduced => object!({}),
            Type::SchemaOr(form, id) => {
                // The alternatives are not said, as upstream.
                if matches!(form, SchemaOr::Array | SchemaOr::Bool | SchemaOr::StringArray) {
                    self.need(*id);
                }
                object!({})
            }
            Type::Struct(id) if self.api.schema.get(*id).wrapper => {
                let inner = self.api.schema.get(*id).fields[0].ty.clone();
                self.ty(&inner)
            }
            Type::Struct(id) => self.reference(*id),
            Type::List(item) => {
                let item = self.ty(item);
                object!({ "type": "array", "items": item })
            }
            Type::Map(item) => {
                let item = self.ty(item);
                object!({ "type": "object", "additionalProperties": item })
            }
        }
    }
}
