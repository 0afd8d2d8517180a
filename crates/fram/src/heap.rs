//! Whose memory it is. All components share one process, so the allocator notes, for a sample of what is allocated and still
//! held, the way that led to it; asked, it tells by crates how much each holds. The sample is small: one allocation in every
//! [`PERIOD`] bytes on average, as heap profilers take it (tcmalloc, Go's runtime.MemProfile). It is off until [`watch`].

mod owners;
mod sample;

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use mimalloc::MiMalloc;

pub(crate) use owners::{COMMAND, main};

/// How many bytes are allocated between two that are noted, on average.
pub(crate) const PERIOD: usize = 256 * 1024;

static ON: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// Bytes that this thread allocates until it notes one; neither it nor the next has a destructor, so that they can be used
    /// while a thread ends.
    static LEFT: Cell<usize> = const { Cell::new(PERIOD) };
    /// What the notes themselves need is not noted.
    static NOTING: Cell<bool> = const { Cell::new(false) };
}

/// mimalloc, watched.
pub(crate) struct Heap;

// SAFETY: every call is the allocator's own; the notes use nothing but the address and the size of a block.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract, which is the same.
        let block = unsafe { MiMalloc.alloc(layout) };
        taken(block, layout.size());
        block
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        let block = unsafe { MiMalloc.alloc_zeroed(layout) };
        taken(block, layout.size());
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // Before another thread can get the same address.
        given_back(block);
        // SAFETY: as above.
        unsafe { MiMalloc.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        given_back(block);
        // SAFETY: as above.
        let moved = unsafe { MiMalloc.realloc(block, layout, size) };
        taken(moved, size);
        moved
    }
}

fn taken(block: *mut u8, size: usize) {
    if !ON.load(Ordering::Relaxed) || block.is_null() {
        return;
    }
    // A thread that has ended its locals notes nothing.
    let _ = LEFT.try_with(|left| match left.get().checked_sub(size) {
        Some(rest) => left.set(rest),
        None => {
            left.set(sample::distance(block as usize, PERIOD));
            quietly(|| sample::note(block as usize, size));
        }
    });
}

fn given_back(block: *mut u8) {
    if sample::may_know(block as usize) {
        quietly(|| sample::forget(block as usize));
    }
}

/// Does something about the notes, unless that is what is being done.
fn quietly(work: impl FnOnce()) {
    let _ = NOTING.try_with(|noting| {
        if !noting.replace(true) {
            work();
            noting.set(false);
        }
    });
}

/// From now on it is noted who allocates.
pub(crate) fn watch() {
    ON.store(true, Ordering::Relaxed);
}

/// How much each component holds, in bytes, as far as the sample tells. Another process looks up the names, so that this one does
/// not hold them from then on.
pub(crate) fn by_component() -> anyhow::Result<BTreeMap<String, u64>> {
    let mut held = Vec::new();
    quietly(|| held = sample::held(PERIOD));
    owners::ask(&held).context("cannot tell whose memory it is")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn what_is_held_is_seen_and_what_was_given_back_is_not() {
        watch();
        // Other tests allocate beside this one: only its own blocks count.
        let seen = |own: &HashSet<usize>| {
            let mut held = Vec::new();
            quietly(|| held = sample::held(PERIOD));
            held.iter().filter(|h| own.contains(&h.block)).map(|h| h.bytes).sum::<u64>() as f64 / f64::from(1 << 20)
        };
        let blocks: Vec<Vec<u8>> = (0..20_000).map(|i| vec![1; 1000 + i % 3000]).collect();
        let large = vec![1_u8; 5 << 20];
        let own: HashSet<usize> = blocks.iter().chain([&large]).map(|block| block.as_ptr() as usize).collect();
        let size = (blocks.iter().map(Vec::len).sum::<usize>() + large.len()) as f64 / f64::from(1 << 20);
        // Some two hundred of them are noted: within five standard deviations.
        let held = seen(&own);
        assert!((held - size).abs() < size * 0.35, "{held} of {size} MiB");
        drop((blocks, large));
        let left = seen(&own);
        assert!(left < 1.0, "{left} MiB are still seen");
    }
}
