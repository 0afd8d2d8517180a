//! Histories of single registers, and whether they are linearizable: whether each call can be given a moment between its begin and its
//! end so that each finds what the one before left. Wing and Gong's search, with Lowe's memory of what was tried.

use std::collections::HashSet;
use std::time::Instant;

/// What a call did, as far as its caller was told. None is an absent value; written values are unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Read(Option<u64>),
    Write(u64),
    /// Replaced the first by the second.
    Replace(Option<u64>, u64),
}

impl Act {
    fn written(self) -> Option<u64> {
        match self {
            Self::Read(_) => None,
            Self::Write(value) | Self::Replace(_, value) => Some(value),
        }
    }

    /// What the register holds afterwards; None where the act does not fit what it holds.
    fn apply(self, state: Option<u64>) -> Option<Option<u64>> {
        match self {
            Self::Read(found) => (found == state).then_some(state),
            Self::Write(value) => Some(Some(value)),
            Self::Replace(expected, value) => (expected == state).then_some(Some(value)),
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) act: Act,
    pub(crate) begin: Instant,
    /// None where the caller does not know whether it was carried out: then it may have been at any time since, or never.
    pub(crate) end: Option<Instant>,
}

/// Whether the calls on one register, absent at first, are linearizable.
pub(crate) fn is_linearizable(calls: &[Call]) -> bool {
    let seen: HashSet<u64> = calls
        .iter()
        .filter_map(|call| match call.act {
            Act::Read(found) | Act::Replace(found, _) => found,
            Act::Write(_) => None,
        })
        .collect();
    // What nobody saw and nobody was promised need not have been.
    let counts = |call: &&Call| call.end.is_some() || call.act.written().is_some_and(|value| seen.contains(&value));
    let mut calls: Vec<Call> = calls.iter().filter(counts).copied().collect();
    calls.sort_by_key(|call| call.begin);
    search(&calls)
}

/// What was done so far, the first call that was not, and what the register holds.
type Node = (Vec<bool>, usize, Option<u64>);

fn search(calls: &[Call]) -> bool {
    let mut tried: HashSet<(Vec<bool>, Option<u64>)> = HashSet::new();
    let mut open: Vec<Node> = vec![(vec![false; calls.len()], 0, None)];
    while let Some((done, first, state)) = open.pop() {
        if calls.iter().zip(&done).skip(first).all(|(call, done)| *done || call.end.is_none()) {
            return true;
        }
        // All before the first are done; the mark at the end keeps the rest's length in it.
        if !tried.insert((done[first..].iter().copied().chain([true]).collect(), state)) {
            continue;
        }
        // Who began after another had ended comes after it.
        let left: Vec<usize> = (first..calls.len()).filter(|index| !done[*index]).collect();
        let deadline = left.iter().filter_map(|index| calls[*index].end).min();
        let candidates = left.iter().take_while(|index| deadline.is_none_or(|end| calls[**index].begin <= end));
        // The earliest is taken first.
        for index in candidates.copied().collect::<Vec<_>>().into_iter().rev() {
            let Some(next) = calls[index].act.apply(state) else { continue };
            let mut done = done.clone();
            done[index] = true;
            let first = done.iter().position(|done| !done).unwrap_or(done.len());
            open.push((done, first, next));
        }
    }
    false
}

#[test]
fn histories_are_told_apart() {
    use std::time::Duration;
    let zero = Instant::now();
    let at = |millis: u64| zero + Duration::from_millis(millis);
    let call = |act, begin, end| Call { act, begin: at(begin), end: Some(at(end)) };
    let lost = |act, begin| Call { act, begin: at(begin), end: None };
    let (write, read) = (Act::Write, |value| Act::Read(Some(value)));
    let good: [&[Call]; 5] = [
        &[call(write(1), 0, 10), call(read(1), 20, 30), call(Act::Replace(Some(1), 2), 40, 50), call(read(2), 60, 70)],
        &[call(write(1), 0, 10), call(write(2), 20, 60), call(read(2), 30, 40), call(read(2), 50, 55)],
        &[call(write(1), 0, 10), call(write(2), 20, 60), call(read(1), 30, 40), call(read(2), 50, 55)],
        &[call(write(1), 0, 10), lost(write(2), 20), call(read(1), 30, 40), call(read(2), 500, 550)],
        &[lost(write(1), 0), call(Act::Read(None), 10, 20), call(Act::Replace(None, 2), 30, 40), call(read(2), 50, 60)],
    ];
    for history in good {
        assert!(is_linearizable(history), "{history:?}");
    }
    let bad: [&[Call]; 5] = [
        &[call(write(1), 0, 10), call(Act::Read(None), 20, 30)],
        &[call(write(1), 0, 10), call(write(2), 20, 60), call(read(2), 30, 40), call(read(1), 50, 55)],
        &[call(write(1), 0, 10), lost(write(2), 20), call(read(2), 30, 40), call(read(1), 500, 550)],
        &[call(write(1), 0, 10), call(Act::Replace(Some(1), 2), 20, 30), call(Act::Replace(Some(1), 3), 20, 30)],
        &[call(read(1), 0, 10), call(write(1), 20, 30)],
    ];
    for history in bad {
        assert!(!is_linearizable(history), "{history:?}");
    }
}
