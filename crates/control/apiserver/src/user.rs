//! Who asks: the user that authentication found.

use std::collections::BTreeMap;

use fram_machinery::{Value, object};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

pub const ANONYMOUS: &str = "system:anonymous";
pub const AUTHENTICATED: &str = "system:authenticated";
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
pub const MASTERS: &str = "system:masters";

impl User {
    /// An authenticated user; the group of all authenticated users is added.
    pub fn authenticated(name: &str, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(ToString::to_string).collect();
        groups.push(AUTHENTICATED.into());
        Self { name: name.into(), groups, ..Default::default() }
    }

    pub fn anonymous() -> Self {
        Self { name: ANONYMOUS.into(), groups: vec![UNAUTHENTICATED.into()], ..Default::default() }
    }

    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// The node of a node's identity; see upstream's NodeIdentifier.
    pub fn node(&self) -> Option<&str> {
        self.name.strip_prefix("system:node:").filter(|_| self.is_in("system:nodes"))
    }

    /// The UserInfo of reviews and webhooks.
    pub(crate) fn to_info(&self) -> Value {
        let list = |items: &[String]| Value::from(items.iter().map(|s| Value::from(s.as_str())).collect::<Vec<_>>());
        let mut info = object!({ "username": (self.name.as_str()), "groups": (list(&self.groups)) });
        if !self.uid.is_empty() {
            info.set(&["uid"], self.uid.as_str());
        }
        for (key, values) in &self.extra {
            info.place(&["extra"]).make_map().insert(key.as_str(), list(values));
        }
        info
    }

    /// Namespace and name of a service account's identity.
    pub fn service_account(&self) -> Option<(&str, &str)> {
        self.name.strip_prefix("system:serviceaccount:")?.split_once(':')
    }
}
