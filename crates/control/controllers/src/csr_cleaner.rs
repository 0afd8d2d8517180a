//! Deletes CertificateSigningRequests that are over: answered ones after an hour, unanswered ones after a day. Approving and
//! signing is not done here.

use std::time::Duration;

use fram_client::{Action, Controller, DeleteOptions, Preconditions, Resource};
use fram_machinery::{Value, meta};
use jiff::Timestamp;

use crate::objects::settled;
use crate::{Context, pods};

const REQUESTS: Resource = Resource::new("certificates.k8s.io", "v1", "certificatesigningrequests");
/// See certificates/cleaner: approvedExpiration, deniedExpiration and pendingExpiration.
const ANSWERED: Duration = Duration::from_secs(60 * 60);
const PENDING: Duration = Duration::from_secs(24 * 60 * 60);

pub(crate) fn start(context: &Context) {
    let requests = context.informers.get(&REQUESTS);
    let client = context.client("certificate-controller");
    let now = context.now.clone();
    let controller = Controller::new("certificatesigningrequest-cleaner", 1).owns(&requests);
    context.run(controller, (client, requests, now), |context, name| async move {
        let (client, requests, now) = &*context;
        let Some(request) = requests.get(&name) else { return Ok(Action::Done) };
        let left = left(&request, now());
        if !left.is_zero() {
            return Ok(Action::After(left));
        }
        let preconditions = Preconditions { uid: Some(meta::uid(&request).into()), resource_version: None };
        settled(client.all(&REQUESTS).delete(&name, DeleteOptions { preconditions, ..Default::default() }).await)?;
        Ok(Action::Done)
    });
}

/// How long a request may still stay.
fn left(request: &Value, now: Timestamp) -> Duration {
    let answers =
        request.list_at(&["status", "conditions"]).iter().filter(|c| matches!(c.str_at(&["type"]), "Approved" | "Denied" | "Failed"));
    let answered = answers.filter_map(|c| pods::time(c, &["lastUpdateTime"])).max();
    let (since, limit) = match answered {
        Some(at) => (at, ANSWERED),
        None => (pods::created(request).unwrap_or(now), PENDING),
    };
    limit.saturating_sub(Duration::try_from(now.duration_since(since)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    #[test]
    fn answered_requests_stay_for_an_hour_and_others_for_a_day() {
        let now = "2026-01-02T00:00:00Z".parse().unwrap();
        let mut request = object!({ "metadata": { "creationTimestamp": "2026-01-01T12:00:00Z" } });
        assert_eq!(left(&request, now), Duration::from_secs(12 * 3600));
        request.set(&["status", "conditions"], object!([{ "type": "Denied", "lastUpdateTime": "2026-01-01T23:30:00Z" }]));
        assert_eq!(left(&request, now), Duration::from_secs(1800));
    }
}
