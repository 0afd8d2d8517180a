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
pub(crate) const PERIOD: usize = 512 * 1024;

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

// SAFETY: every call is the allocator's own, whatever alignment beyond the asked one a block has; the notes use nothing but its address
// and its size.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract, which is the same.
        take(layout, |layout| unsafe { MiMalloc.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        take(layout, |layout| unsafe { MiMalloc.alloc_zeroed(layout) })
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // Before another thread can get the same address.
        given_back(block);
        // SAFETY: as above.
        unsafe { MiMalloc.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        given_back(block);
        if !is_due(size) {
            // SAFETY: as above.
            return unsafe { MiMalloc.realloc(block, layout, size) };
        }
        // SAFETY: a size that may be asked for with this alignment, as the caller has to see to.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: both blocks are at least as large as what is copied, and apart; the old one is the caller's to give back.
        unsafe {
            let moved = noted(wanted, |layout| MiMalloc.alloc(layout));
            if !moved.is_null() {
                moved.copy_from_nonoverlapping(block, layout.size().min(size));
                MiMalloc.dealloc(block, layout);
            }
            moved
        }
    }
}

/// Blocks that are noted begin with a page, as few others do: for those nothing is looked up when they are given back.
const MARK: usize = 4096;

fn take(layout: Layout, allocate: impl Fn(Layout) -> *mut u8) -> *mut u8 {
    if is_due(layout.size()) { noted(layout, allocate) } else { allocate(layout) }
}

/// Whether the next block of that size is one of those that are noted.
fn is_due(size: usize) -> bool {
    // A thread that has ended its locals notes nothing.
    let passed = |left: &Cell<usize>| {
        let rest = left.get().checked_sub(size);
        left.set(rest.unwrap_or_else(|| sample::distance(size, PERIOD)));
        rest.is_none()
    };
    ON.load(Ordering::Relaxed) && LEFT.try_with(passed).unwrap_or(false)
}

fn noted(layout: Layout, allocate: impl Fn(Layout) -> *mut u8) -> *mut u8 {
    let block = allocate(layout.align_to(MARK).unwrap_or(layout));
    if !block.is_null() {
        quietly(|| sample::note(block as usize, layout.size()));
    }
    block
}

fn given_back(block: *mut u8) {
    if (block as usize).is_multiple_of(MARK) && sample::may_know(block as usize) {
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
        let blocks: Vec<Vec<u8>> = (0..40_000).map(|i| vec![1; 1000 + i % 3000]).collect();
        let large = vec![1_u8; 5 << 20];
        let own: HashSet<usize> = blocks.iter().chain([&large]).map(|block| block.as_ptr() as usize).collect();
        let size = (blocks.iter().map(Vec::len).sum::<usize>() + large.len()) as f64 / f64::from(1 << 20);
        // Some two hundred of them are noted: within four standard deviations and more.
        let held = seen(&own);
        assert!((held - size).abs() < size * 0.35, "{held} of {size} MiB");
        drop((blocks, large));
        let left = seen(&own);
        assert!(left < 1.0, "{left} MiB are still seen");
    }
}
