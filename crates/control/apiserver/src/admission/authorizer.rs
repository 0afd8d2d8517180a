//! The variable `authorizer` of expressions, and what can be asked of it: see upstream's cel/library/authz.go. Which functions there
//! are, and of which types, is declared beside the other variables of policies (fram-api).

use std::sync::{Arc, Weak};

use fram_cel::{Budget, EvalError, Opaque, Value as Cel};
use fram_machinery::names;

use super::Request;
use crate::authorize::{Attributes, Authorizer, Decision};
use crate::registry::Registry;
use crate::user::User;

/// Two checks fit into what one expression may cost, as upstream's 350,000 units mean.
const CHECK: u64 = 350_000;

/// Who is asked about: the user of the request, or a service account.
#[derive(Clone)]
struct Principal {
    registry: Weak<Registry>,
    user: Arc<User>,
}

/// What stands in an expression. A check is gathered step by step until its verb is named.
#[derive(Clone)]
enum Asked {
    Authorizer(Principal),
    Group(Principal, String),
    /// Of a path, or of a resource.
    Check(Principal, Box<Attributes>),
    Decision(Decision),
}

impl std::fmt::Debug for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.type_name())
    }
}

/// `authorizer` and `authorizer.requestResource`.
pub(super) fn variables(request: &Request<'_>) -> [(&'static str, Cel); 2] {
    let principal = Principal { registry: request.registry.weak(), user: Arc::new(request.user.clone()) };
    let place = request.place;
    let attributes = Attributes {
        group: place.served.kind.group.to_string(),
        version: "*".into(),
        resource: place.served.kind.plural.to_string(),
        subresource: request.subresource.into(),
        namespace: place.namespace.to_string(),
        name: request.name().to_string(),
        ..Default::default()
    };
    [
        (fram_api::policy::AUTHORIZER, opaque(Asked::Authorizer(principal.clone()))),
        (fram_api::policy::REQUEST_RESOURCE, opaque(Asked::Check(principal, Box::new(attributes)))),
    ]
}

fn opaque(asked: Asked) -> Cel {
    Cel::Opaque(Arc::new(asked))
}

fn wrong(why: &str) -> EvalError {
    EvalError::Other(why.into())
}

impl Principal {
    fn named(&self, namespace: &str, name: &str) -> Result<Self, EvalError> {
        names::dns_subdomain(name).map_err(|_| wrong("Invalid service account name"))?;
        names::dns_label(namespace).map_err(|_| wrong("Invalid service account namespace"))?;
        let groups = ["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}")];
        let user = User::authenticated(&format!("system:serviceaccount:{namespace}:{name}"), &groups);
        Ok(Self { user: Arc::new(user), ..self.clone() })
    }

    fn decide(&self, attributes: &Attributes) -> Result<Decision, EvalError> {
        let registry = self.registry.upgrade().ok_or_else(|| wrong("the server has ended"))?;
        Ok(Authorizer::new(registry).decide(&self.user, attributes))
    }
}

impl Opaque for Asked {
    fn type_name(&self) -> &'static str {
        match self {
            Self::Authorizer(_) => "kubernetes.authorization.Authorizer",
            Self::Group(..) => "kubernetes.authorization.GroupCheck",
            Self::Check(_, attributes) if attributes.is_resource() => "kubernetes.authorization.ResourceCheck",
            Self::Check(..) => "kubernetes.authorization.PathCheck",
            Self::Decision(_) => "kubernetes.authorization.Decision",
        }
    }

    fn call(&self, function: &str, arguments: &[Cel], budget: &mut Budget) -> Result<Option<Cel>, EvalError> {
        let texts: Vec<&str> = arguments.iter().filter_map(Cel::as_text).collect();
        if texts.len() != arguments.len() {
            return Ok(None);
        }
        Ok(Some(match (self, function, &texts[..]) {
            (Self::Authorizer(_), "path", [path]) if path.trim().is_empty() => return Err(wrong("path must not be empty")),
            (Self::Authorizer(who), "path", [path]) => {
                let attributes = Attributes { path: format!("/{}", path.trim_start_matches('/')), ..Default::default() };
                opaque(Self::Check(who.clone(), attributes.into()))
            }
            (Self::Authorizer(who), "group", [group]) => opaque(Self::Group(who.clone(), (*group).into())),
            (Self::Authorizer(who), "serviceAccount", [namespace, name]) => opaque(Self::Authorizer(who.named(namespace, name)?)),
            (Self::Group(..), "resource", [resource]) if resource.trim().is_empty() => return Err(wrong("resource must not be empty")),
            (Self::Group(who, group), "resource", [resource]) => {
                let attributes =
                    Attributes { group: group.clone(), version: "*".into(), resource: (*resource).into(), ..Default::default() };
                opaque(Self::Check(who.clone(), attributes.into()))
            }
            (Self::Check(who, attributes), "check", [verb]) => {
                budget.take(CHECK)?;
                opaque(Self::Decision(who.decide(&Attributes { verb: (*verb).into(), ..(**attributes).clone() })?))
            }
            (Self::Check(who, attributes), part, [text]) if attributes.is_resource() => {
                let mut attributes = attributes.clone();
                match part {
                    "subresource" => attributes.subresource = (*text).into(),
                    "namespace" => attributes.namespace = (*text).into(),
                    "name" => attributes.name = (*text).into(),
                    "fieldSelector" => attributes.fields = (*text).into(),
                    "labelSelector" => attributes.labels = (*text).into(),
                    _ => return Ok(None),
                }
                opaque(Self::Check(who.clone(), attributes))
            }
            (Self::Decision(decision), "allowed", []) => Cel::Bool(*decision == Decision::Allow),
            (Self::Decision(Decision::Allow), "reason", []) => "".into(),
            (Self::Decision(Decision::NoOpinion(why)), "reason", []) => why.as_str().into(),
            // The authorizers here answer always.
            (Self::Decision(_), "errored", []) => Cel::Bool(false),
            (Self::Decision(_), "error", []) => "".into(),
            _ => return Ok(None),
        }))
    }
}
