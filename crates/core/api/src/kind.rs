//! What a kind declares beside its fields: its names, scope, verbs, subresources, field selectors, columns and rules.

use std::sync::Arc;

use fram_machinery::jsonpath::JsonPath;
use fram_machinery::structural::Structural;
use fram_machinery::{Key, Schema, TypeId, Value};

use crate::custom::rules::Rules;
use crate::deprecation::Deprecation;
use crate::features::Features;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Namespaced,
    Cluster,
}

/// Which part of an object bumps `metadata.generation` when it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Generation {
    None,
    /// Top-level fields, nearly always `spec`; `annotations` stands for those of the metadata.
    Fields(Vec<&'static str>),
    /// Everything but metadata and, where that is a subresource, the status.
    Content,
    /// Everything but metadata, plus labels.
    Any,
    /// One on create, never bumped.
    Once,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subresource {
    pub name: &'static str,
    pub verbs: Vec<&'static str>,
    /// `group/version/kind` of its body, where that is not the parent's kind.
    pub kind: Option<(&'static str, &'static str, &'static str)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Age {
    /// `5m`, as kubectl shows ages.
    Relative,
    /// The creation time itself.
    Date,
}

/// Where the cell of a column comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// The field at this path, or the text that stands for its absence.
    Path(Vec<&'static str>, Option<&'static str>),
    /// What a path finds in a custom resource.
    Found(JsonPath),
    Age(Age),
    /// Worked out by the kind's printer.
    Computed,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    pub name: String,
    pub ty: Key,
    pub format: Key,
    pub description: Key,
    pub priority: i64,
    pub cell: Cell,
}

/// Where the Scale of a custom resource is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScalePaths {
    pub spec_replicas: Vec<Key>,
    pub status_replicas: Vec<Key>,
    pub label_selector: Option<Vec<Key>>,
}

/// What only the kinds of custom resources have.
#[derive(Debug, Clone)]
pub struct Custom {
    /// The name of the CustomResourceDefinition.
    pub definition: Key,
    /// The schema of the version as its author wrote it, as JSON; null where there is none.
    pub openapi: Arc<[u8]>,
    /// The definition changed since it was made, so that objects may be stored in another form than today's schema
    /// gives them; they are brought into it when they are read.
    pub outdated: bool,
    pub scale: Option<ScalePaths>,
    /// The validation rules of the schema.
    pub rules: Option<Arc<Rules>>,
    /// The webhook that converts between versions, as the definition has it; without one only `apiVersion` changes.
    pub conversion: Option<Value>,
}

/// A served kind, or the body of a subresource (then `plural` is empty).
#[derive(Debug, Clone)]
pub struct Kind {
    pub group: Key,
    pub version: Key,
    pub kind: Key,
    /// The kind of a list of its objects.
    pub list_kind: Key,
    pub plural: Key,
    pub singular: Key,
    pub short: Vec<Key>,
    pub categories: Vec<Key>,
    pub scope: Scope,
    pub verbs: Vec<&'static str>,
    pub subresources: Vec<Subresource>,
    /// The fields that selectors may name, as dotted paths.
    pub selectable: Vec<Key>,
    pub columns: Vec<Column>,
    pub generation: Generation,
    /// The schema that has its type.
    pub schema: Arc<Schema>,
    pub ty: TypeId,
    /// Deleted only after a grace period (Pods).
    pub graceful: bool,
    /// Dependents are orphaned unless the client says otherwise.
    pub orphans_by_default: bool,
    pub create_on_update: bool,
    pub unconditional_update: bool,
    /// A deletion is answered with the object, not with a Status.
    pub returns_deleted: bool,
    /// A write to the status leaves the labels alone.
    pub status_keeps_labels: bool,
    /// A write to the status leaves the metadata alone.
    pub status_keeps_metadata: bool,
    /// An object may be created with a status.
    pub status_on_create: bool,
    /// The generation is counted from the first change on, not from creation.
    pub late_generation: bool,
    /// The version in which objects of this kind are stored.
    pub storage: bool,
    pub listless: bool,
    /// Where the version is deprecated.
    pub deprecation: Option<Deprecation>,
    /// Which optional APIs are served beside it.
    pub features: Features,
    /// None for the built-in kinds.
    pub custom: Option<Arc<Custom>>,
}

impl Kind {
    pub fn is_namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_string() } else { format!("{}/{}", self.group, self.version) }
    }

    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }

    /// The schema of a custom resource.
    pub fn structural(&self) -> Option<&Structural> {
        self.schema.get(self.ty).structural.as_deref()
    }

    /// Whether this is that built-in kind, in whatever version.
    pub fn is(&self, group: &str, kind: &str) -> bool {
        self.group == group && self.kind == kind && self.custom.is_none()
    }
}
