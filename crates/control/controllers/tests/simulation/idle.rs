//! An hour in which nobody wants anything: components ask for nothing. Kubelets renew their leases, which is all there is.

use std::time::Duration;

use crate::world::World;

/// What is said before the hour begins may still be on its way, and events are told in the end.
const REST: Duration = Duration::from_secs(900);

pub(crate) async fn hour(world: &World) -> Vec<String> {
    tokio::time::sleep(REST).await;
    let before = world.faults.counts.lock().clone();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let after = world.faults.counts.lock().clone();
    let asked = after.into_iter().filter_map(|(what, count)| {
        let more = count - before.get(&what).copied().unwrap_or(0);
        (more > 0).then(|| format!("in an idle hour: {what} {more} times"))
    });
    asked.collect()
}
