//! Whether the server behind an APIService can be asked at all: the condition Available, as far as the Service and its endpoints say
//! it. Pure; asking the server is not done here. See upstream's AvailableConditionController.

use std::sync::Arc;

use fram_machinery::{Value, meta, object};

use super::service::ServiceRef;

pub(crate) const AVAILABLE: &str = "Available";

/// The condition Available without its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Condition {
    status: &'static str,
    reason: &'static str,
    message: String,
}

impl Condition {
    fn not(reason: &'static str, message: String) -> Self {
        Self { status: "False", reason, message }
    }

    pub(crate) fn local() -> Self {
        Self { status: "True", reason: "Local", message: "Local APIServices are always available".into() }
    }

    pub(crate) fn passed() -> Self {
        Self { status: "True", reason: "Passed", message: "all checks passed".into() }
    }

    pub(crate) fn failed_check(error: String) -> Self {
        Self::not("FailedDiscoveryCheck", error)
    }

    pub(crate) fn object(&self) -> Value {
        object!({ "type": AVAILABLE, "status": (self.status), "reason": (self.reason), "message": (self.message.as_str()) })
    }

    /// Whether an APIService says so already.
    pub(crate) fn is_said_by(&self, service: &Value) -> bool {
        meta::condition(service, AVAILABLE).is_some_and(|c| {
            c.str_at(&["status"]) == self.status && c.str_at(&["reason"]) == self.reason && c.str_at(&["message"]) == self.message
        })
    }
}

/// Why the server cannot be asked; None where it has to be asked.
pub(crate) fn judge(asked: &ServiceRef, service: Option<&Value>, slices: &[Arc<Value>]) -> Option<Condition> {
    let ServiceRef { namespace, name, port } = asked;
    let Some(service) = service else {
        return Some(Condition::not("ServiceNotFound", format!("service/{name} in {namespace:?} is not present")));
    };
    // Only a Service with an address of its own says where it leads.
    if service.str_at(&["spec", "type"]) != "ClusterIP" {
        return None;
    }
    let Some(port) = service.list_at(&["spec", "ports"]).iter().find(|p| p.int_at(&["port"]) == Some(*port)) else {
        return Some(Condition::not("ServicePortError", format!("service/{name} in {namespace:?} is not listening on port {port}")));
    };
    if slices.is_empty() {
        let message = format!("cannot find endpointslices for service/{name} in {namespace:?}");
        return Some(Condition::not("EndpointsNotFound", message));
    }
    let port = port.str_at(&["name"]);
    if !slices.iter().any(|slice| leads_to(slice, port)) {
        let message = format!("endpointslices for service/{name} in {namespace:?} have no addresses with port name {port:?}");
        return Some(Condition::not("MissingEndpoints", message));
    }
    None
}

/// A slice has the port, and an endpoint that is ready.
fn leads_to(slice: &Value, port: &str) -> bool {
    let ready = slice.list_at(&["endpoints"]).iter().any(|e| e.bool_at(&["conditions", "ready"]) != Some(false));
    ready && slice.list_at(&["ports"]).iter().any(|p| p.str_at(&["name"]) == port && p.int_at(&["port"]).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(ready: Value, port: &str) -> Arc<Value> {
        Arc::new(
            object!({ "endpoints": [{ "addresses": ["10.0.0.1"], "conditions": { "ready": ready } }], "ports": [{ "name": port, "port": 443 }] }),
        )
    }

    #[test]
    fn a_server_is_asked_when_its_service_leads_somewhere() {
        let asked = ServiceRef { namespace: "ns".into(), name: "api".into(), port: 443 };
        let service = |ty: &str, port: i64| object!({ "spec": { "type": ty, "ports": [{ "name": "https", "port": port }] } });
        let cluster = service("ClusterIP", 443);
        let cases = [
            (None, vec![], Some(("ServiceNotFound", r#"service/api in "ns" is not present"#))),
            (Some(service("ClusterIP", 80)), vec![], Some(("ServicePortError", r#"service/api in "ns" is not listening on port 443"#))),
            (Some(cluster.clone()), vec![], Some(("EndpointsNotFound", r#"cannot find endpointslices for service/api in "ns""#))),
            (
                Some(cluster.clone()),
                vec![slice(false.into(), "https")],
                Some(("MissingEndpoints", r#"endpointslices for service/api in "ns" have no addresses with port name "https""#)),
            ),
            (
                Some(cluster.clone()),
                vec![slice(true.into(), "other")],
                Some(("MissingEndpoints", r#"endpointslices for service/api in "ns" have no addresses with port name "https""#)),
            ),
            (Some(cluster.clone()), vec![slice(false.into(), "https"), slice(Value::Null, "https")], None),
            (Some(service("ExternalName", 80)), vec![], None),
        ];
        for (service, slices, wanted) in cases {
            let condition = judge(&asked, service.as_ref(), &slices);
            let wanted = wanted.map(|(reason, message)| Condition::not(reason, message.into()));
            assert_eq!(condition, wanted);
        }
    }

    #[test]
    fn what_is_said_already_is_not_written_again() {
        let mut service = object!({ "status": { "conditions": [{ "type": "Available", "status": "True", "reason": "Passed", "message": "all checks passed" }] } });
        assert!(Condition::passed().is_said_by(&service));
        assert!(!Condition::local().is_said_by(&service));
        service.remove(&["status"]);
        assert!(!Condition::passed().is_said_by(&service));
    }
}
