//! Counters of coverage, which the compiler puts into code that is built with
//! `-C passes=sancov-module -C llvm-args=-sanitizer-coverage-inline-8bit-counters`; elsewhere there are none.

use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

const MOST_RANGES: usize = 64;
static STARTS: [AtomicPtr<u8>; MOST_RANGES] = [const { AtomicPtr::new(std::ptr::null_mut()) }; MOST_RANGES];
static LENGTHS: [AtomicUsize; MOST_RANGES] = [const { AtomicUsize::new(0) }; MOST_RANGES];
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Called by instrumented code before `main`, with the counters of a linked object.
///
/// # Safety
/// All between the pointers are counters that stay where they are.
// SAFETY: the name is that of LLVM's SanitizerCoverage, and nothing else in a test has it.
#[unsafe(no_mangle)]
#[allow(unreachable_pub, reason = "the linker finds it by its name")]
pub unsafe extern "C" fn __sanitizer_cov_8bit_counters_init(start: *mut u8, stop: *mut u8) {
    let count = COUNT.load(Ordering::Relaxed);
    let known = (0..count).any(|i| STARTS[i].load(Ordering::Relaxed) == start);
    if known || count == MOST_RANGES {
        return;
    }
    STARTS[count].store(start, Ordering::Relaxed);
    LENGTHS[count].store(stop as usize - start as usize, Ordering::Relaxed);
    COUNT.store(count + 1, Ordering::Relaxed);
}

/// What was reached so far: for each counter, the orders of magnitude that it had.
pub(crate) struct Coverage {
    seen: Vec<Vec<u8>>,
}

impl Coverage {
    pub(crate) fn new() -> Self {
        let ranges = COUNT.load(Ordering::Relaxed);
        Self { seen: (0..ranges).map(|i| vec![0; LENGTHS[i].load(Ordering::Relaxed)]).collect() }
    }

    fn counters(i: usize) -> &'static mut [u8] {
        // SAFETY: the compiler's counters live as long as the program. Others may count meanwhile, which a byte survives.
        unsafe { std::slice::from_raw_parts_mut(STARTS[i].load(Ordering::Relaxed), LENGTHS[i].load(Ordering::Relaxed)) }
    }

    pub(crate) fn clear(&self) {
        (0..self.seen.len()).for_each(|i| Self::counters(i).fill(0));
    }

    /// Adds what was reached since `clear`; whether some of it is new.
    pub(crate) fn take(&mut self) -> bool {
        let mut new = false;
        for (i, seen) in self.seen.iter_mut().enumerate() {
            for (counter, seen) in Self::counters(i).iter().zip(seen).filter(|(c, _)| **c != 0) {
                let magnitude = 1 << (7 - counter.leading_zeros().min(7));
                new |= *seen & magnitude == 0;
                *seen |= magnitude;
            }
        }
        new
    }

    pub(crate) fn reached(&self) -> usize {
        self.seen.iter().flatten().filter(|s| **s != 0).count()
    }
}
