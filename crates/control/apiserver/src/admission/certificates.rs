//! CertificateSigningRequests say who asks: the user is written by the server, never by the client. See upstream's
//! csrStrategy and the plugin CertificateSubjectRestriction.

use fram_machinery::{Status, Value, object};

use super::{Operation, Plugin, Request};

pub(super) struct CertificateSubjectRestriction;

const FIELDS: [&str; 4] = ["username", "uid", "groups", "extra"];

#[async_trait::async_trait]
impl Plugin for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.is_about("certificates.k8s.io", "CertificateSigningRequest")
    }

    async fn admit(&self, request: &Request<'_>, mut object: Value, old: Option<&Value>) -> Result<Value, Status> {
        if request.operation == Operation::Update {
            // What was asked for, and by whom, never changes.
            if let Some(old) = old {
                object.set(&["spec"], old.get("spec").cloned());
            }
            return Ok(object);
        }
        if request.operation != Operation::Create {
            return Ok(object);
        }
        for field in FIELDS {
            object.remove(&["spec", field]);
        }
        let list = |items: &[String]| Value::from(items.iter().map(|i| Value::from(i.as_str())).collect::<Vec<_>>());
        object.set(&["spec", "username"], request.user.name.as_str());
        object.set(&["spec", "groups"], list(&request.user.groups));
        if !request.user.uid.is_empty() {
            object.set(&["spec", "uid"], request.user.uid.as_str());
        }
        if !request.user.extra.is_empty() {
            let mut extra = object!({});
            for (key, values) in &request.user.extra {
                extra.set(&[key.as_str()], list(values));
            }
            object.set(&["spec", "extra"], extra);
        }
        Ok(object)
    }
}
