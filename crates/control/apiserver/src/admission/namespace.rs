//! NamespaceLifecycle: nothing is created in a namespace that is not there or that ends, and the system's namespaces stay. On demand,
//! NamespaceExists: nothing is written or deleted in one that is not there; NamespaceAutoProvision: it is made when it is first used.

use fram_machinery::status::NAMESPACE_TERMINATING;
use fram_machinery::{Status, StatusCause, Value, meta, object};

use super::{Operation, Plugin, Request};
use crate::registry::{Place, Write};
use crate::user::User;

pub(super) struct NamespaceLifecycle;

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

#[async_trait::async_trait]
impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        match request.operation {
            Operation::Create => request.stored_kind().is_namespaced() && !request.place.kind().plural.starts_with("localsubject"),
            Operation::Delete => request.is_about("", "Namespace"),
            _ => false,
        }
    }

    async fn admit(&self, request: &Request<'_>, object: Value, _old: Option<&Value>) -> Result<Value, Status> {
        let place = request.place;
        if request.operation == Operation::Delete {
            let immortal = IMMORTAL.contains(&place.name.as_str());
            return if immortal { Err(place.forbidden("this namespace may not be deleted")) } else { Ok(object) };
        }
        let Some(namespace) = request.find("", "v1", "namespaces", "", &place.namespace).await? else {
            return Err(Status::not_found("", "namespaces", &place.namespace));
        };
        if meta::is_terminating(&namespace) || namespace.str_at(&["status", "phase"]) == "Terminating" {
            let why = format!("unable to create new content in namespace {} because it is being terminated", place.namespace);
            let mut status = place.forbidden(&why);
            status.causes.push(StatusCause {
                reason: NAMESPACE_TERMINATING.into(),
                message: format!("namespace {} is being terminated", place.namespace),
                field: "metadata.namespace".into(),
            });
            return Err(status);
        }
        Ok(object)
    }
}

pub(super) struct NamespaceExists;

#[async_trait::async_trait]
impl Plugin for NamespaceExists {
    fn name(&self) -> &'static str {
        "NamespaceExists"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.operation != Operation::Connect && request.stored_kind().is_namespaced()
    }

    async fn validate(&self, request: &Request<'_>, _object: Option<&Value>, _old: Option<&Value>) -> Result<(), Status> {
        let name = &request.place.namespace;
        let found = request.find("", "v1", "namespaces", "", name).await?;
        found.map(drop).ok_or_else(|| Status::not_found("", "namespaces", name))
    }
}

pub(super) struct NamespaceAutoProvision;

#[async_trait::async_trait]
impl Plugin for NamespaceAutoProvision {
    fn name(&self) -> &'static str {
        "NamespaceAutoProvision"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.operation == Operation::Create && !request.dry_run && request.stored_kind().is_namespaced()
    }

    /// What it makes lasts even where the request comes to nothing, as upstream's does.
    async fn admit(&self, request: &Request<'_>, object: Value, _old: Option<&Value>) -> Result<Value, Status> {
        let name = &request.place.namespace;
        if request.find("", "v1", "namespaces", "", name).await?.is_some() {
            return Ok(object);
        }
        let Some(served) = request.registry.served("", "v1", "namespaces") else { return Ok(object) };
        let place = Place { served, namespace: String::new(), name: name.clone() };
        let user = User::authenticated("system:apiserver", &["system:masters"]);
        let write = Write { user, field_manager: "kube-apiserver".into(), ..Default::default() };
        let namespace = object!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": (name.as_str()) } });
        match request.registry.create(&place, namespace, &write).await {
            Err(status) if !status.is(fram_machinery::Reason::AlreadyExists) => Err(request.place.forbidden(&status.message)),
            _ => Ok(object),
        }
    }
}
