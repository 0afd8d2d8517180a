//! The in-process admission chain: each plugin may change an object before it is checked, and refuse it after.

mod certificates;
mod limit_ranger;
mod namespace;
mod node_restriction;
mod pods;
mod service_account;
mod storage;
mod webhook;

use std::sync::Arc;

use fram_api::Kind;
use fram_machinery::{Status, Value};
use parking_lot::Mutex;

use crate::registry::{Place, Registry, Write};
use crate::user::User;

pub use webhook::Webhooks;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

/// What is asked, as plugins see it.
pub struct Request<'a> {
    pub registry: &'a Registry,
    pub place: &'a Place,
    pub subresource: &'a str,
    pub operation: Operation,
    pub user: &'a User,
    pub dry_run: bool,
    /// What is to be said to the client though the request is admitted.
    warnings: Mutex<Vec<String>>,
}

impl<'a> Request<'a> {
    pub fn new(registry: &'a Registry, place: &'a Place, subresource: &'a str, operation: Operation, write: &'a Write) -> Self {
        Self { registry, place, subresource, operation, user: &write.user, dry_run: write.dry_run, warnings: Mutex::default() }
    }

    /// Adds a warning for the client.
    pub fn warn(&self, text: &str) {
        self.warnings.lock().push(text.into());
    }

    pub(crate) fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut self.warnings.lock())
    }

    /// The kind as which the object is stored, and admitted.
    pub fn stored_kind(&self) -> &Kind {
        &self.place.served.stored
    }

    /// Whether the request is about this kind itself, not a subresource of it.
    pub fn is_about(&self, group: &str, kind: &str) -> bool {
        self.stored_kind().is(group, kind) && self.subresource.is_empty()
    }

    /// An object of another kind, or None where there is none.
    pub async fn find(&self, group: &str, version: &str, plural: &str, namespace: &str, name: &str) -> Result<Option<Value>, Status> {
        let Some(served) = self.registry.served(group, version, plural) else { return Ok(None) };
        let place = Place { served, namespace: namespace.into(), name: name.into() };
        match self.registry.get_object(&place).await {
            Ok(object) => Ok(Some(object)),
            Err(status) if status.is(fram_machinery::Reason::NotFound) => Ok(None),
            Err(status) => Err(status),
        }
    }

    /// All objects of another kind in a namespace.
    pub async fn list(&self, group: &str, version: &str, plural: &str, namespace: &str) -> Result<Vec<Value>, Status> {
        let Some(served) = self.registry.served(group, version, plural) else { return Ok(Vec::new()) };
        let place = Place { served, namespace: namespace.into(), name: String::new() };
        let listing = self.registry.list(&place, &Default::default()).await?;
        listing.items.iter().map(|entry| self.registry.decode(&place.served, entry)).collect()
    }
}

/// One admission plugin. `object` is null for deletions.
#[async_trait::async_trait]
pub trait Plugin: Send + Sync {
    /// The name that --enable-admission-plugins knows.
    fn name(&self) -> &'static str;

    async fn admit(&self, _request: &Request<'_>, object: Value, _old: Option<&Value>) -> Result<Value, Status> {
        Ok(object)
    }

    async fn validate(&self, _request: &Request<'_>, _object: Option<&Value>, _old: Option<&Value>) -> Result<(), Status> {
        Ok(())
    }
}

/// The plugins in the order in which they run.
#[derive(Clone, Default)]
pub struct Chain {
    plugins: Vec<Arc<dyn Plugin>>,
    /// After all others, as upstream orders them.
    pub(crate) webhooks: Option<Arc<Webhooks>>,
}

impl Chain {
    /// Upstream's recommended order of the plugins there are.
    pub fn standard() -> Self {
        Self {
            plugins: vec![
                Arc::new(namespace::NamespaceLifecycle),
                Arc::new(limit_ranger::LimitRanger),
                Arc::new(service_account::ServiceAccount),
                Arc::new(node_restriction::NodeRestriction),
                Arc::new(pods::Priority),
                Arc::new(pods::DefaultTolerationSeconds),
                Arc::new(certificates::CertificateSubjectRestriction),
                Arc::new(storage::DefaultStorageClass),
                Arc::new(storage::PersistentVolumeClaimResize),
                Arc::new(pods::RuntimeClass),
            ],
            webhooks: None,
        }
    }

    /// The same with webhooks behind.
    #[must_use]
    pub fn with_webhooks(self, webhooks: Webhooks) -> Self {
        Self { webhooks: Some(Arc::new(webhooks)), ..self }
    }

    pub(crate) async fn admit(&self, request: &mut Request<'_>, mut object: Value, old: Option<&Value>) -> Result<Value, Status> {
        for plugin in &self.plugins {
            object = plugin.admit(request, object, old).await?;
        }
        let Some(webhooks) = self.webhooks.as_ref().filter(|w| w.mutates()) else { return Ok(object) };
        let mut seen = Vec::new();
        let mut changed = webhooks.mutate(request, object.clone(), old, &mut seen).await?;
        if changed == object || changed.is_null() {
            return Ok(changed);
        }
        // What a webhook changed may concern the plugins and webhooks before it.
        for plugin in &self.plugins {
            changed = plugin.admit(request, changed, old).await?;
        }
        webhooks.mutate(request, changed, old, &mut seen).await
    }

    pub(crate) async fn validate(&self, request: &Request<'_>, object: Option<&Value>, old: Option<&Value>) -> Result<(), Status> {
        for plugin in &self.plugins {
            plugin.validate(request, object, old).await?;
        }
        match &self.webhooks {
            Some(webhooks) => webhooks.validate(request, object.unwrap_or(&Value::Null), old).await,
            None => Ok(()),
        }
    }
}
