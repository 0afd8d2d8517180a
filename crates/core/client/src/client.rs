//! The client that components use: typed by resource, over either transport.

use std::sync::Arc;

use fram_machinery::{Status, Value};

use crate::options::{DeleteOptions, ListOptions, Patch, PatchKind, WriteOptions};
use crate::resources::Resource;
use crate::transport::{Call, Page, Reply, Transport, Verb, WatchStream};

/// Access to an API server as one user. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    transport: Arc<dyn Transport>,
    /// Named in managedFields as the manager of what this client writes.
    field_manager: Arc<str>,
}

impl Client {
    pub fn new(transport: Arc<dyn Transport>, field_manager: &str) -> Self {
        Self { transport, field_manager: field_manager.into() }
    }

    /// The objects of a resource in every namespace, or at cluster scope.
    pub fn all(&self, resource: &Resource) -> Resources {
        self.within(resource, "")
    }

    /// The objects of a resource in one namespace.
    pub fn within(&self, resource: &Resource, namespace: &str) -> Resources {
        Resources { client: self.clone(), resource: resource.clone(), namespace: namespace.into() }
    }

    pub async fn call(&self, call: Call) -> Result<Reply, Status> {
        self.transport.call(call).await
    }
}

/// The objects of one resource in one namespace.
#[derive(Clone)]
pub struct Resources {
    client: Client,
    resource: Resource,
    namespace: String,
}

impl Resources {
    pub fn resource(&self) -> &Resource {
        &self.resource
    }

    fn write_options(&self) -> WriteOptions {
        WriteOptions { field_manager: self.client.field_manager.to_string(), ..Default::default() }
    }

    async fn call(&self, name: &str, subresource: &str, verb: Verb) -> Result<Reply, Status> {
        let call = Call {
            resource: self.resource.clone(),
            namespace: self.namespace.clone(),
            name: name.into(),
            subresource: subresource.into(),
            verb,
        };
        self.client.call(call).await
    }

    async fn object(&self, name: &str, subresource: &str, verb: Verb) -> Result<Arc<Value>, Status> {
        match self.call(name, subresource, verb).await? {
            Reply::Object(object) => Ok(object),
            Reply::Page(_) => Err(Status::internal("the server answered with a list where an object was asked for")),
        }
    }

    pub async fn get(&self, name: &str) -> Result<Arc<Value>, Status> {
        self.object(name, "", Verb::Get).await
    }

    /// The object, or None where there is none.
    pub async fn find(&self, name: &str) -> Result<Option<Arc<Value>>, Status> {
        match self.get(name).await {
            Ok(object) => Ok(Some(object)),
            Err(status) if status.is(fram_machinery::Reason::NotFound) => Ok(None),
            Err(status) => Err(status),
        }
    }

    pub async fn list(&self, options: ListOptions) -> Result<Page, Status> {
        match self.call("", "", Verb::List(options)).await? {
            Reply::Page(page) => Ok(page),
            Reply::Object(_) => Err(Status::internal("the server answered with an object where a list was asked for")),
        }
    }

    pub async fn watch(&self, options: ListOptions) -> Result<WatchStream, Status> {
        self.client.transport.watch(&self.resource, &self.namespace, options).await
    }

    pub async fn create(&self, object: Value) -> Result<Arc<Value>, Status> {
        self.object("", "", Verb::Create { object, options: self.write_options() }).await
    }

    /// Posts to a subresource: `binding`, `eviction`, `token`.
    pub async fn create_subresource(&self, name: &str, subresource: &str, object: Value) -> Result<Arc<Value>, Status> {
        self.object(name, subresource, Verb::Create { object, options: self.write_options() }).await
    }

    /// Replaces an object; its resource version must be the current one where it carries one.
    pub async fn update(&self, object: Value) -> Result<Arc<Value>, Status> {
        let name = fram_machinery::meta::name(&object).to_string();
        self.object(&name, "", Verb::Update { object, options: self.write_options() }).await
    }

    pub async fn update_status(&self, object: Value) -> Result<Arc<Value>, Status> {
        let name = fram_machinery::meta::name(&object).to_string();
        self.object(&name, "status", Verb::Update { object, options: self.write_options() }).await
    }

    /// Patches an object or, where `subresource` is not empty, that part of it.
    pub async fn patch(&self, name: &str, subresource: &str, kind: PatchKind, body: Value) -> Result<Arc<Value>, Status> {
        let options = self.write_options();
        self.object(name, subresource, Verb::Patch { patch: Patch { kind, body }, options }).await
    }

    /// Server-side apply with force, as controllers do.
    pub async fn apply(&self, name: &str, subresource: &str, body: Value) -> Result<Arc<Value>, Status> {
        let options = WriteOptions { force: true, ..self.write_options() };
        self.object(name, subresource, Verb::Patch { patch: Patch { kind: PatchKind::Apply, body }, options }).await
    }

    /// Deletes an object; the answer is the object where it still waits for something, else a Status.
    pub async fn delete(&self, name: &str, options: DeleteOptions) -> Result<Arc<Value>, Status> {
        self.object(name, "", Verb::Delete(options)).await
    }

    pub async fn delete_collection(&self, delete: DeleteOptions, list: ListOptions) -> Result<(), Status> {
        self.call("", "", Verb::DeleteCollection { delete, list }).await.map(drop)
    }
}
