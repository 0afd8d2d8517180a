//! Deletes PodCertificateRequests that are older than any that is still waited for, where that kind is served. See upstream's
//! PCRCleanerController.

use std::time::Duration;

use fram_client::{Action, Controller, DeleteOptions, Preconditions};
use fram_machinery::{Value, meta};
use jiff::Timestamp;

use crate::objects::settled;
use crate::{Context, pods};

/// Upstream's kube-controller-manager gives this threshold.
const LONGEST: Duration = Duration::from_secs(15 * 60);

pub(crate) fn start(context: &Context) {
    let Some(resource) = context.served("certificates.k8s.io", "podcertificaterequests") else { return };
    let requests = context.informers.get(&resource);
    let client = context.client("podcertificaterequestcleaner");
    let now = context.now.clone();
    let controller = Controller::new("podcertificaterequest-cleaner", 1).owns(&requests);
    context.run(controller, (client, requests, now), |context, key| async move {
        let (client, requests, now) = &*context;
        let Some(request) = requests.get(&key) else { return Ok(Action::Done) };
        let left = left(&request, now());
        if !left.is_zero() {
            return Ok(Action::After(left));
        }
        let preconditions = Preconditions { uid: Some(meta::uid(&request).into()), resource_version: None };
        let options = DeleteOptions { preconditions, ..Default::default() };
        settled(client.within(requests.resource(), meta::namespace(&request)).delete(meta::name(&request), options).await)?;
        Ok(Action::Done)
    });
}

/// How long a request may still stay.
fn left(request: &Value, now: Timestamp) -> Duration {
    let since = pods::created(request).unwrap_or(now);
    LONGEST.saturating_sub(Duration::try_from(now.duration_since(since)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    #[test]
    fn a_request_stays_for_a_quarter_of_an_hour_whatever_the_clock_did_before() {
        let request = object!({ "metadata": { "creationTimestamp": "2026-01-01T12:00:00Z" } });
        let at = |time: &str| left(&request, time.parse().unwrap()).as_secs();
        assert_eq!(at("2026-01-01T12:05:00Z"), 600);
        assert_eq!(at("2026-01-01T13:00:00Z"), 0);
        assert_eq!(at("2026-01-01T11:00:00Z"), 900);
    }
}
