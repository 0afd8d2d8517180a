//! Where objects lie in the store: `<prefix><group>/<plural>/[<namespace>/]<name>`.

use fram_api::Kind;
use fram_machinery::Status;

use super::{Registry, Served};

/// What stands in keys for the group without a name.
pub(crate) const CORE: &str = "core";

/// An object's or a collection's place: kind, namespace and name.
#[derive(Clone)]
pub struct Place {
    pub served: Served,
    /// Empty at cluster scope, and for collections over all namespaces.
    pub namespace: String,
    /// Empty for collections.
    pub name: String,
}

impl Place {
    pub fn kind(&self) -> &Kind {
        &self.served.kind
    }

    pub fn not_found(&self) -> Status {
        Status::not_found(&self.kind().group, &self.kind().plural, &self.name)
    }

    pub fn already_exists(&self) -> Status {
        Status::already_exists(&self.kind().group, &self.kind().plural, &self.name)
    }

    pub fn conflict(&self, why: &str) -> Status {
        Status::conflict(&self.kind().group, &self.kind().plural, &self.name, why)
    }

    pub fn forbidden(&self, why: &str) -> Status {
        Status::forbidden(&self.kind().group, &self.kind().plural, &self.name, why)
    }
}

impl Registry {
    /// What the keys of a collection start with.
    pub fn collection_prefix(&self, kind: &Kind, namespace: &str) -> String {
        self.key(kind, namespace, "")
    }

    pub fn object_key(&self, kind: &Kind, namespace: &str, name: &str) -> String {
        self.key(kind, namespace, name)
    }

    fn key(&self, kind: &Kind, namespace: &str, name: &str) -> String {
        let group = if kind.group.is_empty() { CORE } else { &*kind.group };
        let within = if kind.is_namespaced() { namespace } else { "" };
        let mut key = String::with_capacity(self.prefix.len() + group.len() + kind.plural.len() + within.len() + name.len() + 3);
        key.push_str(&self.prefix);
        for part in [group, &kind.plural, within].into_iter().filter(|part| !part.is_empty()) {
            key.push_str(part);
            key.push('/');
        }
        key.push_str(name);
        key
    }

    pub(crate) fn key_of(&self, place: &Place) -> String {
        self.object_key(&place.served.stored, &place.namespace, &place.name)
    }
}
