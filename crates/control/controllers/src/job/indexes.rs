//! Sets of completion indexes, and their form in a Job's status: `0-2,5`. Pure.

use std::collections::BTreeSet;

use fram_machinery::{Value, meta};

pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";

pub(super) type Indexes = BTreeSet<i64>;

/// Reads `0-2,5`; indexes from `completions` on are left out, and so is what does not read as one.
pub(super) fn parse(text: &str, completions: i64) -> Indexes {
    let mut out = Indexes::new();
    for part in text.split(',').filter(|p| !p.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.parse::<i64>(), last.parse::<i64>()) else { continue };
        out.extend(first.max(0)..=last.min(completions - 1));
    }
    out
}

pub(super) fn format(indexes: &Indexes) -> String {
    let mut runs: Vec<(i64, i64)> = Vec::new();
    for &index in indexes {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == index => *last = index,
            _ => runs.push((index, index)),
        }
    }
    let text = |(first, last): &(i64, i64)| match last - first {
        0 => first.to_string(),
        // Two neighbours stand alone.
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    };
    runs.iter().map(text).collect::<Vec<_>>().join(",")
}

/// The completion index of a pod.
pub(super) fn of(pod: &Value) -> Option<i64> {
    meta::annotation(pod, INDEX)?.parse().ok().filter(|i| *i >= 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_written_as_ranges_and_read_back() {
        for text in ["", "0", "0,1", "0-2,5", "1,3-6,8,9"] {
            assert_eq!(format(&parse(text, 100)), text);
        }
        assert_eq!(format(&parse("0-9,x,12", 4)), "0-3");
    }
}
