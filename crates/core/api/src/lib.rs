//! The kinds of Kubernetes 1.36: one description per group version in `kinds/`, read into one schema and one table of kinds.

mod convert;
mod description;
mod kind;
pub mod quota;
pub mod storage;
pub mod strategy;

pub use convert::convert;
pub use description::DescriptionError;
pub use kind::{Age, Cell, Column, Generation, Kind, Scope, Subresource};
pub use strategy::{Strategy, strategy};

use std::collections::HashMap;
use std::sync::Arc;

use fram_machinery::{Schema, TypeId};

/// All built-in types and kinds.
#[derive(Debug)]
pub struct Api {
    pub schema: Schema,
    pub kinds: Vec<Arc<Kind>>,
    by_resource: HashMap<(&'static str, &'static str, &'static str), usize>,
    by_kind: HashMap<(&'static str, &'static str, &'static str), usize>,
}

macro_rules! descriptions {
    ($($name:literal),* $(,)?) => { &[$(($name, include_str!(concat!("../kinds/", $name, ".kinds")))),*] };
}

const DESCRIPTIONS: &[(&str, &str)] = descriptions![
    "meta.v1",
    "core.v1",
    "admission.v1",
    "admissionregistration.v1",
    "apiextensions.v1",
    "apiregistration.v1",
    "apps.v1",
    "authentication.v1",
    "authorization.v1",
    "autoscaling.v1",
    "autoscaling.v2",
    "batch.v1",
    "certificates.v1",
    "coordination.v1",
    "discovery.v1",
    "events.v1",
    "flowcontrol.v1",
    "networking.v1",
    "node.v1",
    "policy.v1",
    "rbac.v1",
    "resource.v1",
    "scheduling.v1",
    "storage.v1",
];

impl Api {
    /// Reads the descriptions of the built-in kinds.
    pub fn builtin() -> Result<Self, DescriptionError> {
        let (schema, kinds) = description::read(DESCRIPTIONS)?;
        let kinds: Vec<Arc<Kind>> = kinds.into_iter().map(Arc::new).collect();
        let mut by_resource = HashMap::new();
        let mut by_kind = HashMap::new();
        for (i, kind) in kinds.iter().enumerate() {
            if !kind.plural.is_empty() {
                by_resource.insert((kind.group, kind.version, kind.plural), i);
            }
            by_kind.insert((kind.group, kind.version, kind.kind), i);
        }
        Ok(Self { schema, kinds, by_resource, by_kind })
    }

    /// The kind served at a group, version and resource name.
    pub fn resource(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Kind>> {
        self.by_resource.get(&(group, version, plural)).map(|&i| &self.kinds[i])
    }

    pub fn kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Kind>> {
        self.by_kind.get(&(group, version, kind)).map(|&i| &self.kinds[i])
    }

    /// The kind as which objects of this kind are stored: itself, or the storage version of the same kind.
    pub fn storage_of(&self, kind: &Arc<Kind>) -> Arc<Kind> {
        let group = if kind.group == "events.k8s.io" { "" } else { kind.group };
        let stored = self.kinds.iter().find(|k| k.storage && k.group == group && k.kind == kind.kind && !k.plural.is_empty());
        stored.unwrap_or(kind).clone()
    }

    /// The type of a message by package and name, such as `meta.v1.DeleteOptions`.
    pub fn type_id(&self, name: &str) -> Option<TypeId> {
        self.schema.id(name)
    }
}

#[cfg(test)]
mod tests;
