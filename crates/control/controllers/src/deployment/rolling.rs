//! How many pods each ReplicaSet of a Deployment should have. Pure.

use super::plan::{Bounds, MAX, Set};
use fram_machinery::meta;

fn total(sets: &[Set]) -> i64 {
    sets.iter().map(|s| s.replicas).sum()
}

/// Old sets, the oldest first.
fn old_first(sets: &mut [Set]) -> Vec<&mut Set> {
    let mut old: Vec<&mut Set> = sets.iter_mut().filter(|s| !s.is_new).collect();
    old.sort_by(|a, b| a.created().cmp(b.created()));
    old
}

/// One step of a rolling update: the new set grows within the surge, old sets shrink within what may be unavailable.
pub(super) fn roll(sets: &mut [Set], bounds: Bounds) {
    let before = total(sets);
    if let Some(new) = sets.iter_mut().find(|s| s.is_new) {
        if new.replicas > bounds.desired {
            new.replicas = bounds.desired;
            return;
        }
        let room = (bounds.desired + bounds.surge - before).max(0);
        let grown = new.replicas + room.min(bounds.desired - new.replicas);
        if grown != new.replicas {
            // Old sets shrink when this step is seen to have worked.
            new.replicas = grown;
            return;
        }
    }
    shrink_old(sets, bounds);
}

fn shrink_old(sets: &mut [Set], bounds: Bounds) {
    let least = bounds.desired - bounds.unavailable;
    let new_unavailable = sets.iter().find(|s| s.is_new).map_or(0, |s| s.replicas - s.available());
    let mut most = total(sets) - least - new_unavailable;
    if most <= 0 {
        return;
    }
    // Pods that serve nobody go first.
    for set in old_first(sets) {
        let broken = (set.replicas - set.available()).clamp(0, most.max(0));
        set.replicas -= broken;
        most -= broken;
    }
    let available: i64 = sets.iter().map(|s| s.available().min(s.replicas)).sum();
    let mut surplus = available - least;
    for set in old_first(sets) {
        let going = set.replicas.min(surplus.max(0));
        set.replicas -= going;
        surplus -= going;
    }
}

/// A roll-out that recreates: old pods end before new ones begin.
pub(super) fn recreate(sets: &mut [Set], bounds: Bounds, old_pods: bool) {
    let mut shrunk = false;
    for set in sets.iter_mut().filter(|s| !s.is_new && s.replicas > 0) {
        set.replicas = 0;
        shrunk = true;
    }
    if let Some(new) = sets.iter_mut().find(|s| s.is_new)
        && !shrunk
        && (!old_pods || new.replicas > 0)
    {
        new.replicas = bounds.desired;
    }
}

/// The Deployment's size changed (or it is paused): a single set takes the size, several share the change in proportion.
pub(super) fn scale(sets: &mut [Set], bounds: Bounds, recreate: bool) {
    let active: Vec<usize> = (0..sets.len()).filter(|&i| sets[i].replicas > 0).collect();
    let single = match active.as_slice() {
        [] => sets.iter().position(|s| s.is_new).or_else(|| latest(sets)),
        [one] => Some(*one),
        _ => None,
    };
    if let Some(i) = single {
        sets[i].replicas = bounds.desired;
        return;
    }
    let saturated = sets.iter().any(|s| s.is_new && s.replicas == bounds.desired && s.available() == bounds.desired);
    if saturated {
        sets.iter_mut().filter(|s| !s.is_new).for_each(|s| s.replicas = 0);
        return;
    }
    if !recreate {
        proportionally(sets, bounds);
    }
}

fn latest(sets: &[Set]) -> Option<usize> {
    (0..sets.len()).max_by(|&a, &b| sets[a].created().cmp(sets[b].created()))
}

fn proportionally(sets: &mut [Set], bounds: Bounds) {
    let allowed = bounds.most();
    let to_add = allowed - total(sets);
    let mut order: Vec<usize> = (0..sets.len()).filter(|&i| sets[i].replicas > 0).collect();
    // Larger sets first; of equal ones the newer when growing, the older when shrinking.
    order.sort_by(|&a, &b| {
        let age = if to_add > 0 { sets[b].created().cmp(sets[a].created()) } else { sets[a].created().cmp(sets[b].created()) };
        sets[b].replicas.cmp(&sets[a].replicas).then(age)
    });
    let mut added = 0;
    let mut planned = Vec::new();
    for &i in &order {
        let part = if to_add == 0 { 0 } else { fraction(&sets[i], allowed) };
        let left = to_add - added;
        let part = if to_add > 0 { part.min(left) } else { part.max(left) };
        added += part;
        planned.push((i, sets[i].replicas + part));
    }
    if let Some((_, n)) = planned.first_mut() {
        // What rounding left over goes to the largest.
        *n = (*n + to_add - added).max(0);
    }
    for (i, n) in planned {
        sets[i].replicas = n.max(0);
    }
}

/// How much a set's share changes when the whole changes to `allowed`.
fn fraction(set: &Set, allowed: i64) -> i64 {
    if allowed == 0 {
        return -set.replicas;
    }
    let before = meta::annotation(&set.object, MAX).and_then(|m| m.parse::<i64>().ok()).filter(|m| *m > 0).unwrap_or(allowed);
    let size = (set.replicas as f64 * allowed as f64 / before as f64).round() as i64;
    size - set.replicas
}
