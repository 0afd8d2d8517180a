//! Leases, by which etcd deletes keys when their time has come. Keys that are put at about the same time share one, as upstream's
//! lease manager has it. The number of a lease says when it ends at the earliest, so that every server knows without asking.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::sync::Mutex;

use crate::clock::UnixMillis;
use crate::error::StoreError;

use super::cluster::Failure;
use super::cluster::{Cluster, LEASE_GRANT};
use super::messages::lease_grant;

/// How many bits of a lease's number tell leases apart that end in the same millisecond.
const RANDOM_BITS: u32 = 21;
/// For how long a lease is given to further keys, at most, and as a part of the time to live; see upstream's
/// LeaseManagerConfig.
const SHARED: Duration = Duration::from_secs(60);
const SHARED_PART: u64 = 20;
/// How many keys share a lease at most.
const MAX_KEYS: usize = 1000;

/// When the keys of a lease expire at the earliest.
pub(crate) fn expiry(lease: u64) -> Option<UnixMillis> {
    (lease != 0).then_some(UnixMillis(lease >> RANDOM_BITS))
}

fn number(expires: UnixMillis, random: u64) -> u64 {
    let number = expires.0 << RANDOM_BITS | random & ((1 << RANDOM_BITS) - 1);
    // etcd's are signed, and positive.
    number & i64::MAX as u64
}

struct Lease {
    number: u64,
    /// Until when further keys get it.
    until: UnixMillis,
    keys: usize,
}

/// The leases that further keys can have, by their time to live in seconds.
#[derive(Default)]
pub(crate) struct Leases {
    open: Mutex<HashMap<u64, Lease>>,
    random: RandomState,
}

impl Leases {
    /// A lease that lasts for at least `ttl` from now.
    pub(crate) async fn get(&self, cluster: &Cluster, ttl: Duration, now: UnixMillis) -> Result<u64, StoreError> {
        let seconds = u64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(u64::MAX).max(1);
        let mut open = self.open.lock().await;
        if let Some(lease) = open.get_mut(&seconds).filter(|lease| now < lease.until && lease.keys < MAX_KEYS) {
            lease.keys += 1;
            return Ok(lease.number);
        }
        let shared = (seconds / SHARED_PART).min(SHARED.as_secs());
        let lasts = seconds.saturating_add(shared);
        let number = number(now.after(Duration::from_secs(lasts)), self.random.hash_one(now.0));
        // One that was granted without anybody knowing ends by itself; nothing of the transaction has been sent.
        cluster.write(LEASE_GRANT, &lease_grant(lasts, number)).await.map_err(|failure| match failure {
            Failure::Unknown(why) => Failure::Unsent(why),
            failure => failure,
        })?;
        open.insert(seconds, Lease { number, until: now.after(Duration::from_secs(shared)), keys: 1 });
        Ok(number)
    }

    /// Gives these leases to nobody any more: etcd does not know them.
    pub(crate) async fn forget(&self, gone: &[u64]) {
        self.open.lock().await.retain(|_, lease| !gone.contains(&lease.number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_lease_says_when_it_ends() {
        for millis in [1, 1_790_000_000_000, 4_000_000_000_000] {
            let number = number(UnixMillis(millis), u64::MAX);
            assert!(i64::try_from(number).is_ok());
            assert_eq!(expiry(number), Some(UnixMillis(millis)));
        }
        assert_eq!(expiry(0), None);
    }
}
