//! The one call that both transports carry.

use std::pin::Pin;
use std::sync::Arc;

use fram_machinery::{Status, Value};
use futures_util::Stream;

use crate::options::{DeleteOptions, ListOptions, Patch, WriteOptions};
use crate::resources::Resource;

/// What is asked of a resource.
#[derive(Debug, Clone)]
pub enum Verb {
    Get,
    List(ListOptions),
    Create { object: Value, options: WriteOptions },
    Update { object: Value, options: WriteOptions },
    Patch { patch: Patch, options: WriteOptions },
    Delete(DeleteOptions),
    DeleteCollection { delete: DeleteOptions, list: ListOptions },
}

/// One request about objects.
#[derive(Debug, Clone)]
pub struct Call {
    pub resource: Resource,
    /// Empty at cluster scope, and for lists over all namespaces.
    pub namespace: String,
    /// Empty for collections.
    pub name: String,
    /// Empty, or `status`, `scale`, `binding`, `eviction`, `token`, …
    pub subresource: String,
    pub verb: Verb,
}

/// A part of a collection.
#[derive(Debug, Clone, Default)]
pub struct Page {
    pub resource_version: String,
    /// Not empty where more follows.
    pub continue_token: String,
    pub items: Vec<Arc<Value>>,
}

#[derive(Debug, Clone)]
pub enum Reply {
    Object(Arc<Value>),
    Page(Page),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    Added,
    Modified,
    Deleted,
    Bookmark,
}

/// One change. A bookmark's object carries only its resource version.
#[derive(Debug, Clone)]
pub struct WatchEvent {
    pub kind: EventKind,
    pub object: Arc<Value>,
}

/// Events in order until the watch ends; an error is its last item.
pub type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchEvent, Status>> + Send>>;

/// A way to an API server as one user: in process, or over the network.
#[async_trait::async_trait]
pub trait Transport: Send + Sync {
    async fn call(&self, call: Call) -> Result<Reply, Status>;

    /// Starts a watch; `options.resource_version` says after which version.
    async fn watch(&self, resource: &Resource, namespace: &str, options: ListOptions) -> Result<WatchStream, Status>;
}
