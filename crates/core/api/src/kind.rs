//! What a kind declares beside its fields: its names, scope, verbs, subresources, field selectors, columns and rules.

use fram_machinery::TypeId;

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cell {
    /// The field at this path, or the text that stands for its absence.
    Path(Vec<&'static str>, Option<&'static str>),
    Age(Age),
    /// Worked out by the kind's printer.
    Computed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub ty: &'static str,
    pub format: &'static str,
    pub priority: i64,
    pub cell: Cell,
}

/// A served kind, or the body of a subresource (then `plural` is empty).
#[derive(Debug, Clone, PartialEq)]
pub struct Kind {
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub short: Vec<&'static str>,
    pub categories: Vec<&'static str>,
    pub scope: Scope,
    pub verbs: Vec<&'static str>,
    pub subresources: Vec<Subresource>,
    pub selectable: Vec<&'static str>,
    pub columns: Vec<Column>,
    pub generation: Generation,
    pub ty: TypeId,
    /// Deleted only after a grace period (Pods).
    pub graceful: bool,
    /// Dependents are orphaned unless the client says otherwise.
    pub orphans_by_default: bool,
    pub create_on_update: bool,
    pub unconditional_update: bool,
    /// The version in which objects of this kind are stored.
    pub storage: bool,
    pub listless: bool,
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
}
