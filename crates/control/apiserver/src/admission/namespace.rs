//! NamespaceLifecycle: nothing is created in a namespace that is not there or that ends, and the system's namespaces stay.

use fram_machinery::status::NAMESPACE_TERMINATING;
use fram_machinery::{Status, StatusCause, Value, meta};

use super::{Operation, Plugin, Request};

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
