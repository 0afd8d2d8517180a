//! Which images to delete, decided purely (upstream: image_gc_manager.go's thresholds and maximum age).

use std::time::Duration;

use crate::digest::Digest;

/// One image as garbage collection sees it. Times are seconds since the epoch.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub id: Digest,
    /// Bytes that go if this image goes; shared layers may make it less.
    pub size: u64,
    pub last_used: u64,
    pub in_use: bool,
    pub pinned: bool,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct GcPolicy {
    /// Images younger than this stay, whatever else is said (`imageMinimumGCAge`).
    pub min_age: Duration,
    /// Images unused for longer than this go (`imageMaximumGCAge`); zero means age alone is no reason.
    pub max_age: Duration,
    /// How many bytes to free, least recently used first.
    pub bytes_to_free: u64,
}

/// The images to delete, least recently used first.
pub(crate) fn plan(mut candidates: Vec<Candidate>, policy: &GcPolicy, now: u64) -> Vec<Digest> {
    candidates.retain(|c| !c.in_use && !c.pinned && now.saturating_sub(c.last_used) >= policy.min_age.as_secs());
    candidates.sort_by(|a, b| a.last_used.cmp(&b.last_used).then_with(|| a.id.cmp(&b.id)));
    let mut freed = 0;
    let mut chosen = Vec::new();
    for candidate in candidates {
        let age = now.saturating_sub(candidate.last_used);
        let too_old = !policy.max_age.is_zero() && age > policy.max_age.as_secs();
        if too_old || freed < policy.bytes_to_free {
            freed += candidate.size;
            chosen.push(candidate.id);
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_go_first_and_only_as_many_as_needed() {
        let image = |n: u8, last_used, in_use, pinned| Candidate { id: Digest::of(&[n]), size: 100, last_used, in_use, pinned };
        let images =
            || vec![image(1, 500, false, false), image(2, 300, false, false), image(3, 100, true, false), image(4, 50, false, true)];
        let seconds = Duration::from_secs;
        for (min_age, max_age, bytes_to_free, expect) in [
            (0, 0, 0, vec![]),
            (0, 0, 100, vec![2]),
            (0, 0, 101, vec![2, 1]),
            (0, 0, 10_000, vec![2, 1]),
            (600, 0, 10_000, vec![2]),
            (0, 600, 0, vec![2]),
            (0, 100, 0, vec![2, 1]),
        ] {
            let policy = GcPolicy { min_age: seconds(min_age), max_age: seconds(max_age), bytes_to_free };
            let expect: Vec<_> = expect.into_iter().map(|n: u8| Digest::of(&[n])).collect();
            assert_eq!(plan(images(), &policy, 1000), expect, "{policy:?}");
        }
    }
}
