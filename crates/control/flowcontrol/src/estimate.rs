//! How wide requests are: how many seats a list takes by what it will read, and a write by those who watch what it changes. See
//! upstream's work estimators.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;

use crate::config::Digest;

/// The seats of a request while it runs, and for how long after it ended they stay taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Width {
    pub seats: u64,
    pub afterwards: Duration,
}

impl Width {
    pub const ONE: Self = Self { seats: 1, afterwards: Duration::ZERO };
}

/// What is known of a list that is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Listed {
    /// 0 is without limit.
    pub limit: u64,
    /// One object only is meant.
    pub single: bool,
    /// A watch that wants no objects that are there already.
    pub only_changes: bool,
}

const BYTES_PER_SEAT: u64 = 100_000;
/// More than this is not in memory at once, since lists are sent as they are made.
const MOST_MEMORY: u64 = 1_000_000;
const MOST_LIST_SEATS: u64 = 100;
const MOST_WRITE_SEATS: u64 = 10;
/// The part of a level's nominal seats that one request may take.
const MOST_OF_LEVEL: f64 = 0.15;
const WATCHES_PER_SEAT: u64 = 10;
/// How long a watch event of a write takes its seat.
const EVENT: Duration = Duration::from_millis(5);

type Resource = (String, String);

#[derive(Debug, Clone, Copy, Default)]
struct Stats {
    objects: u64,
    average: u64,
}

/// What estimates go by: how much there is of each resource, and who watches it.
#[derive(Default)]
pub struct Estimator {
    stats: RwLock<HashMap<Resource, Stats>>,
    /// Watches by resource and namespace; the empty namespace is all of them.
    watches: Arc<RwLock<HashMap<Resource, HashMap<String, u64>>>>,
}

/// A watch that is counted as long as this lives.
pub struct Watched {
    resource: Resource,
    namespace: String,
    watches: Arc<RwLock<HashMap<Resource, HashMap<String, u64>>>>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut watches = self.watches.write();
        if let Some(counts) = watches.get_mut(&self.resource)
            && let Some(count) = counts.get_mut(&self.namespace)
        {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.namespace);
            }
        }
    }
}

fn key(group: &str, resource: &str) -> Resource {
    (group.into(), resource.into())
}

impl Estimator {
    /// Takes note of how much there is: group and resource, their objects, and the bytes of these together.
    pub fn replace<'a>(&self, found: impl Iterator<Item = (&'a str, &'a str, usize, usize)>) {
        let stats = found.map(|(group, resource, objects, bytes)| {
            let average = bytes.checked_div(objects).unwrap_or(0) as u64;
            (key(group, resource), Stats { objects: objects as u64, average })
        });
        *self.stats.write() = stats.collect();
    }

    /// Counts a watch until what is returned is dropped.
    pub fn watch(&self, group: &str, resource: &str, namespace: &str) -> Watched {
        let resource = key(group, resource);
        *self.watches.write().entry(resource.clone()).or_default().entry(namespace.into()).or_default() += 1;
        Watched { resource, namespace: namespace.into(), watches: self.watches.clone() }
    }

    fn watches(&self, digest: &Digest<'_>) -> u64 {
        let watches = self.watches.read();
        let Some(counts) = watches.get(&key(digest.group, digest.resource)) else { return 0 };
        let of = |namespace: &str| counts.get(namespace).copied().unwrap_or(0);
        of("") + if digest.namespace.is_empty() { 0 } else { of(digest.namespace) }
    }

    /// The width of a request in a level with so many nominal seats.
    pub(crate) fn width(&self, digest: &Digest<'_>, listed: Listed, nominal: u64) -> Width {
        let most = |limit: u64| limit.min((nominal as f64 * MOST_OF_LEVEL).ceil() as u64).max(1);
        match digest.verb {
            _ if !digest.path.is_empty() => Width::ONE,
            "watch" if listed.only_changes => Width::ONE,
            "list" | "watch" => {
                let stats = self.stats.read().get(&key(digest.group, digest.resource)).copied().unwrap_or_default();
                let objects = match listed {
                    Listed { single: true, .. } => 1,
                    Listed { limit: 0, .. } => stats.objects,
                    Listed { limit, .. } => stats.objects.min(limit),
                };
                let memory = (objects * stats.average).min(MOST_MEMORY);
                Width { seats: memory.div_ceil(BYTES_PER_SEAT).clamp(1, most(MOST_LIST_SEATS)), afterwards: Duration::ZERO }
            }
            "create" | "update" | "patch" | "delete" if (digest.resource, digest.subresource) != ("serviceaccounts", "token") => {
                let watches = self.watches(digest);
                if watches < WATCHES_PER_SEAT {
                    return Width::ONE;
                }
                let wanted = watches.div_ceil(WATCHES_PER_SEAT);
                let seats = wanted.min(most(MOST_WRITE_SEATS));
                // The same work on fewer seats takes longer.
                Width { seats, afterwards: EVENT.mul_f64(wanted as f64 / seats as f64) }
            }
            _ => Width::ONE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(verb: &'static str) -> Digest<'static> {
        Digest { verb, resource: "pods", namespace: "a", ..Default::default() }
    }

    #[test]
    fn lists_are_as_wide_as_what_they_read() {
        let estimator = Estimator::default();
        let width = |listed: Listed, nominal: u64| estimator.width(&asked("list"), listed, nominal).seats;
        assert_eq!(width(Listed::default(), 600), 1, "nothing is known");
        estimator.replace([("", "pods", 1000, 4_000_000)].into_iter());
        assert_eq!(width(Listed::default(), 600), 10);
        assert_eq!(width(Listed { limit: 100, ..Default::default() }, 600), 4);
        assert_eq!(width(Listed { single: true, ..Default::default() }, 600), 1);
        assert_eq!(width(Listed::default(), 20), 3, "no request takes more than its part of a level");
        assert_eq!(estimator.width(&asked("watch"), Listed { only_changes: true, ..Default::default() }, 600), Width::ONE);
        assert_eq!(estimator.width(&asked("get"), Listed::default(), 600), Width::ONE);
    }

    #[test]
    fn writes_are_as_wide_as_those_who_watch() {
        let estimator = Estimator::default();
        let here: Vec<Watched> = (0..9).map(|_| estimator.watch("", "pods", "")).collect();
        assert_eq!(estimator.width(&asked("create"), Listed::default(), 600), Width::ONE);
        let elsewhere = estimator.watch("", "pods", "b");
        assert_eq!(estimator.width(&asked("create"), Listed::default(), 600), Width::ONE);
        let more: Vec<Watched> = (0..21).map(|_| estimator.watch("", "pods", "a")).collect();
        assert_eq!(estimator.width(&asked("create"), Listed::default(), 600), Width { seats: 3, afterwards: EVENT });
        assert_eq!(estimator.width(&asked("create"), Listed::default(), 10), Width { seats: 2, afterwards: EVENT.mul_f64(1.5) });
        drop((here, elsewhere, more));
        assert_eq!(estimator.width(&asked("create"), Listed::default(), 600), Width::ONE);
        assert!(estimator.watches.read().values().all(HashMap::is_empty));
    }
}
