//! The kinds of Kubernetes 1.36: one description per group version in `kinds/`, read into one schema and one table of kinds;
//! and the kinds of custom resources, read from their definitions.

mod convert;
mod custom;
mod deprecation;
mod description;
pub mod devices;
mod features;
mod gates;
mod kind;
pub mod policy;
pub mod quota;
mod range;
pub mod rules;
mod runtime_config;
pub mod storage;
pub mod strategy;

pub use convert::convert;
pub use custom::{CustomResource, DefinitionError, status as custom_status};
pub use deprecation::Deprecation;
pub use description::DescriptionError;
pub use features::{Features, ServiceFamilies, drop_unserved};
pub use gates::{FeatureGates, Gate, GateError, Here, Stage, fault as gate_fault};
pub use kind::{Age, Cell, Column, Custom, Generation, Kind, ScalePaths, Scope, Subresource};
pub use range::{AddressRange, RangeError};
pub use runtime_config::{RuntimeConfig, RuntimeConfigError};
pub use strategy::{Strategy, is_link_local, strategy};

use std::collections::HashMap;
use std::sync::Arc;

use fram_machinery::{Key, Schema, TypeId, json};
use imbl::OrdMap;

/// All kinds that are served at one moment: the built-in ones, which never change, and those of custom resources. A value
/// of it is a snapshot; a change makes another one, which shares all that is the same.
#[derive(Debug, Clone)]
pub struct Api {
    /// The built-in types.
    pub schema: Arc<Schema>,
    builtin: Arc<Builtin>,
    /// By `group/plural`.
    custom: OrdMap<Key, Arc<CustomResource>>,
    /// The names of `custom` by `group/kind`.
    custom_kinds: OrdMap<Key, Key>,
}

/// Each request asks these several times: the texts it has are enough to find a kind, without one made of them.
#[derive(Debug, Default, Clone)]
struct Builtin {
    kinds: Vec<Arc<Kind>>,
    /// By their plurals: those of different groups and versions beside each other.
    by_resource: HashMap<String, Vec<usize>>,
    /// By their kinds, likewise.
    by_kind: HashMap<String, Vec<usize>>,
    /// The stored kinds, by their kinds.
    stored: HashMap<String, Vec<Arc<Kind>>>,
}

impl Builtin {
    fn find(&self, among: Option<&Vec<usize>>, group: &str, version: &str) -> Option<&Arc<Kind>> {
        let mut kinds = among.into_iter().flatten().map(|&i| &self.kinds[i]);
        kinds.find(|kind| kind.group == group && kind.version == version)
    }
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
    "metrics.v1beta1",
    "networking.v1",
    "node.v1",
    "policy.v1",
    "rbac.v1",
    "resource.v1",
    "scheduling.v1",
    "storage.v1",
];

/// Versions that are served only to those who ask for them. Each comes after what it is like.
const OPTIONAL: &[(&str, &str)] = descriptions![
    "admissionregistration.v1alpha1",
    "admissionregistration.v1beta1",
    "apiserverinternal.v1alpha1",
    "authentication.v1beta1",
    "certificates.v1beta1",
    "certificates.v1alpha1",
    "coordination.v1beta1",
    "coordination.v1alpha2",
    "networking.v1beta1",
    "resource.v1beta1",
    "resource.v1beta2",
    "resource.v1alpha3",
    "scheduling.v1alpha2",
    "storage.v1beta1",
    "storagemigration.v1beta1",
];

/// The names of all fields of built-in kinds.
pub fn names() -> &'static json::Names {
    static NAMES: std::sync::OnceLock<json::Names> = std::sync::OnceLock::new();
    NAMES.get_or_init(|| description::names(&[DESCRIPTIONS, OPTIONAL].concat()))
}

impl Api {
    /// Reads the descriptions of the built-in kinds that are served where nobody asks for more.
    pub fn builtin() -> Result<Self, DescriptionError> {
        let (schema, kinds) = description::read(DESCRIPTIONS)?;
        Ok(Self::of(schema, kinds, |_| true, &FeatureGates::default()))
    }

    /// The built-in kinds that `config` chooses.
    pub fn chosen(config: &RuntimeConfig) -> Result<Self, RuntimeConfigError> {
        Self::gated(config, &FeatureGates::default())
    }

    /// The built-in kinds that `config` chooses and `gates` do not shut out.
    pub fn gated(config: &RuntimeConfig, gates: &FeatureGates) -> Result<Self, RuntimeConfigError> {
        if config.is_empty() {
            let (schema, kinds) = description::read(DESCRIPTIONS)?;
            return Ok(Self::of(schema, kinds, |_| true, gates));
        }
        let (schema, kinds) = description::read(&[DESCRIPTIONS, OPTIONAL].concat())?;
        config.check(&kinds)?;
        let is_open = |kind: &Kind| features::gate_of(kind).is_none_or(|gate| gates.said(gate) != Some(false));
        Ok(Self::of(schema, kinds, |kind| config.serves(kind) && is_open(kind), gates))
    }

    fn of(schema: Arc<Schema>, kinds: Vec<Kind>, is_served: impl Fn(&Kind) -> bool, gates: &FeatureGates) -> Self {
        let mut builtin = Builtin::default();
        let features = Features::of(kinds.iter().filter(|kind| is_served(kind)), gates);
        for kind in kinds.into_iter().map(|kind| Arc::new(Kind { features, ..kind })) {
            // What is stored may be of a version that is not served.
            if !kind.plural.is_empty() && kind.storage {
                builtin.stored.entry(kind.kind.to_string()).or_default().push(kind.clone());
            }
            if !is_served(&kind) {
                continue;
            }
            let i = builtin.kinds.len();
            if !kind.plural.is_empty() {
                builtin.by_resource.entry(kind.plural.to_string()).or_default().push(i);
            }
            builtin.by_kind.entry(kind.kind.to_string()).or_default().push(i);
            builtin.kinds.push(kind);
        }
        Self { schema, builtin: Arc::new(builtin), custom: OrdMap::new(), custom_kinds: OrdMap::new() }
    }

    /// For a cluster whose Services have these families.
    #[must_use]
    pub fn with_service_families(mut self, service_families: ServiceFamilies) -> Self {
        let builtin = Arc::make_mut(&mut self.builtin);
        let Some(service) = builtin.kinds.iter().find(|kind| kind.is("", "Service")).cloned() else { return self };
        let features = Features { service_families, ..service.features };
        let changed = Arc::new(Kind { features, ..(*service).clone() });
        let stored = builtin.stored.values_mut().flatten();
        for kind in builtin.kinds.iter_mut().chain(stored).filter(|kind| Arc::ptr_eq(kind, &service)) {
            *kind = changed.clone();
        }
        self
    }

    /// What the cluster decides of its kinds.
    pub fn features(&self) -> Features {
        self.builtin.kinds.first().map(|kind| kind.features).unwrap_or_default()
    }

    /// Every kind that is served: the built-in ones in the order of their descriptions, then those of custom resources.
    pub fn kinds(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.builtin.kinds.iter().chain(self.custom.values().flat_map(|c| &c.served))
    }

    /// The kind served at a group, version and resource name.
    pub fn resource(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Kind>> {
        if let Some(kind) = self.builtin.find(self.builtin.by_resource.get(plural), group, version) {
            return Some(kind);
        }
        if self.custom.is_empty() {
            return None;
        }
        self.custom.get(format!("{group}/{plural}").as_str())?.version(version)
    }

    pub fn kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Kind>> {
        if let Some(kind) = self.builtin.find(self.builtin.by_kind.get(kind), group, version) {
            return Some(kind);
        }
        let resource = self.custom_kinds.get(format!("{group}/{kind}").as_str())?;
        self.custom.get(resource)?.version(version)
    }

    /// The kind as which objects of this kind are stored: itself, or the storage version of the same kind.
    pub fn storage_of(&self, kind: &Arc<Kind>) -> Arc<Kind> {
        if kind.custom.is_some() {
            let custom = self.custom.get(format!("{}/{}", kind.group, kind.plural).as_str());
            return custom.map_or(kind, |c| &c.stored).clone();
        }
        if kind.storage {
            return kind.clone();
        }
        let group = if kind.group == "events.k8s.io" { "" } else { &*kind.group };
        let stored = self.builtin.stored.get(&*kind.kind).into_iter().flatten().find(|k| k.group == group);
        stored.unwrap_or(kind).clone()
    }

    /// The type of a built-in message by package and name, such as `meta.v1.DeleteOptions`.
    pub fn type_id(&self, name: &str) -> Option<TypeId> {
        self.schema.id(name)
    }

    /// The custom resources.
    pub fn custom(&self) -> impl Iterator<Item = &Arc<CustomResource>> {
        self.custom.values()
    }

    /// With this custom resource, in the place of an earlier one of the same name. A built-in resource is never replaced.
    #[must_use]
    pub fn with(&self, resource: Arc<CustomResource>) -> Self {
        let mut next = self.without(&resource.stored.group, &resource.stored.plural);
        let name = resource.name();
        next.custom_kinds.insert(format!("{}/{}", resource.stored.group, resource.stored.kind).into(), name.clone());
        next.custom.insert(name, resource);
        next
    }

    #[must_use]
    pub fn without(&self, group: &str, plural: &str) -> Self {
        let mut next = self.clone();
        if let Some(gone) = next.custom.remove(format!("{group}/{plural}").as_str()) {
            next.custom_kinds.remove(format!("{group}/{}", gone.stored.kind).as_str());
        }
        next
    }
}

#[cfg(test)]
mod tests;
