//! Who holds a Lease for which components offer themselves by LeaseCandidates. Pure; see KEP-4355 and upstream's
//! pkg/controlplane/controller/leaderelection.

use std::cmp::Ordering;
use std::time::Duration;

use fram_machinery::{Value, meta, object};
use jiff::Timestamp;

use crate::pods::{created, time};

/// How long candidates have to answer, and how long an answer counts.
const ELECTION: Duration = Duration::from_secs(5);
/// How soon a Lease is looked at again: its end is no event.
const AGAIN: Duration = Duration::from_secs(5);
/// A candidate that has not renewed for so long is none any more.
pub(super) const VALID: Duration = Duration::from_secs(30 * 60);
const LEASE_SECONDS: i64 = 5;
const OLDEST: &str = "OldestEmulationVersion";

/// What is to be done for a Lease.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    Wait(Duration),
    /// Candidates are asked whether they are there: these, as they should be written.
    Ask(Vec<Value>),
    Create(Value),
    Update(Value),
}

fn ago(object: &Value, path: &[&str], now: Timestamp) -> Option<Duration> {
    // What lies in the future was just now.
    time(object, path).map(|at| Duration::try_from(now.duration_since(at)).unwrap_or_default())
}

fn renewed(candidate: &Value) -> Option<Timestamp> {
    time(candidate, &["spec", "renewTime"])
}

fn pinged(candidate: &Value) -> Option<Timestamp> {
    time(candidate, &["spec", "pingTime"])
}

/// How long a candidate stays one; zero where it is none any more.
pub(super) fn left(candidate: &Value, now: Timestamp) -> Duration {
    ago(candidate, &["spec", "renewTime"], now).map_or(Duration::ZERO, |age| VALID.saturating_sub(age))
}

fn holder(lease: &Value) -> &str {
    lease.str_at(&["spec", "holderIdentity"])
}

fn has_expired(lease: &Value, now: Timestamp) -> bool {
    let lasts = lease.int_at(&["spec", "leaseDurationSeconds"]).and_then(|seconds| u64::try_from(seconds).ok());
    match (ago(lease, &["spec", "renewTime"], now), lasts) {
        (Some(age), Some(seconds)) => age > Duration::from_secs(seconds),
        _ => true,
    }
}

/// A semantic version by its numbers, and whether it is a release; missing numbers are 0.
fn version(text: &str) -> Option<([u64; 3], bool)> {
    let text = text.trim().trim_start_matches('v');
    let text = text.split('+').next().unwrap_or(text);
    let (numbers, release) = text.split_once('-').map_or((text, true), |(numbers, _)| (numbers, false));
    let mut out = [0; 3];
    for (at, number) in numbers.split('.').enumerate() {
        *out.get_mut(at)? = number.parse().ok()?;
    }
    Some((out, release))
}

fn binary(candidate: &Value) -> ([u64; 3], bool) {
    version(candidate.str_at(&["spec", "binaryVersion"])).unwrap_or_default()
}

/// The candidate that can be emulated by the fewest: of the oldest emulation version, then of the oldest binary, then the oldest.
fn elect<'a>(candidates: &[&'a Value]) -> Option<&'a Value> {
    let key = |c: &Value| {
        let emulated = version(c.str_at(&["spec", "emulationVersion"]))?;
        Some((emulated, version(c.str_at(&["spec", "binaryVersion"]))?, created(c), meta::name(c).to_string()))
    };
    candidates.iter().filter_map(|c| Some((key(c)?, *c))).min_by(|a, b| a.0.cmp(&b.0)).map(|(_, c)| c)
}

/// The strategy that the candidates of the newest binary ask for; they have to agree.
fn strategy<'a>(candidates: &[&'a Value]) -> Result<&'a str, String> {
    let newest = candidates.iter().map(|c| binary(c)).max().unwrap_or_default();
    let mut of_newest = candidates.iter().filter(|c| binary(c).cmp(&newest) == Ordering::Equal);
    let Some(first) = of_newest.next() else { return Err("no candidates".into()) };
    let wanted = first.str_at(&["spec", "strategy"]);
    match of_newest.find(|c| c.str_at(&["spec", "strategy"]) != wanted) {
        None => Ok(wanted),
        Some(other) => Err(format!(
            "candidates {:?}, {:?} at same binary version but received differing strategies {wanted}, {}",
            meta::name(first),
            meta::name(other),
            other.str_at(&["spec", "strategy"])
        )),
    }
}

/// Whether it is time to ask who is there.
fn is_due(lease: Option<&Value>, candidates: &[&Value], now: Timestamp) -> Result<bool, String> {
    let Some(lease) = lease.filter(|lease| !has_expired(lease, now) && !holder(lease).is_empty()) else { return Ok(true) };
    // Now and then all are asked, so that those who are gone are seen to be.
    if candidates.iter().any(|c| ago(c, &["spec", "renewTime"], now).is_some_and(|age| age > VALID / 2)) {
        return Ok(true);
    }
    if strategy(candidates)? != OLDEST {
        return Ok(false);
    }
    Ok(elect(candidates).is_some_and(|best| meta::name(best) != holder(lease)))
}

fn text(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// The next step, of the candidates for one Lease that still are some.
pub(super) fn plan(lease: Option<&Value>, candidates: &[&Value], key: (&str, &str), now: Timestamp) -> Result<Step, String> {
    if !is_due(lease, candidates, now)? {
        return Ok(Step::Wait(AGAIN));
    }
    let (mut asked, mut waits) = (Vec::new(), None);
    for candidate in candidates {
        let answered = pinged(candidate).is_none_or(|ping| renewed(candidate).is_some_and(|renewed| renewed >= ping));
        let since_ping = ago(candidate, &["spec", "pingTime"], now);
        let fresh = ago(candidate, &["spec", "renewTime"], now).is_some_and(|age| age < ELECTION);
        match since_ping {
            Some(age) if age < ELECTION && !answered => waits = waits.max(Some(ELECTION - age)),
            _ if fresh => {}
            Some(age) if age <= ELECTION || !answered => {}
            _ => {
                let mut candidate = (*candidate).clone();
                candidate.set(&["spec", "pingTime"], text(now));
                asked.push(candidate);
            }
        }
    }
    if !asked.is_empty() {
        return Ok(Step::Ask(asked));
    }
    if let Some(left) = waits {
        return Ok(Step::Wait(left));
    }
    let there: Vec<&Value> =
        candidates.iter().filter(|c| ago(c, &["spec", "renewTime"], now).is_some_and(|age| age < ELECTION)).copied().collect();
    let wanted = strategy(&there)?;
    let best = if wanted == OLDEST { elect(&there).map(meta::name) } else { None };
    Ok(match lease {
        None => Step::Create(new_lease(key, wanted, best, now)),
        Some(lease) => change(lease, wanted, best, now).map_or(Step::Wait(AGAIN), Step::Update),
    })
}

fn new_lease((namespace, name): (&str, &str), strategy: &str, best: Option<&str>, now: Timestamp) -> Value {
    let mut lease = object!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "namespace": namespace, "name": name },
        "spec": { "strategy": strategy, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": (text(now)) }
    });
    if let Some(best) = best {
        lease.set(&["spec", "holderIdentity"], best);
    }
    lease
}

/// A Lease that nobody holds is given to the best; its holder is told who would be better. None where all is as it should be.
fn change(lease: &Value, strategy: &str, best: Option<&str>, now: Timestamp) -> Option<Value> {
    let mut changed = lease.clone();
    changed.set(&["spec", "strategy"], strategy);
    if let Some(best) = best {
        let free = holder(lease).is_empty() || has_expired(lease, now) && holder(lease) != best;
        if free {
            changed.set(&["spec", "preferredHolder"], Value::Null);
            changed.set(&["spec", "acquireTime"], Value::Null);
            changed.set(&["spec", "holderIdentity"], best);
            changed.set(&["spec", "renewTime"], text(now));
            changed.set(&["spec", "leaseDurationSeconds"], LEASE_SECONDS);
        } else if holder(lease) != best {
            changed.set(&["spec", "preferredHolder"], best);
        }
    }
    (changed != *lease).then_some(changed)
}

#[cfg(test)]
mod tests;
