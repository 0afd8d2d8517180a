//! The sample itself: which blocks are in it, and from where each was asked for. Everything here runs within an allocation or the
//! end of one; what it allocates itself is not noted.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

/// How far back a way is followed.
const FRAMES: usize = 48;
/// Blocks in the sample by some bits of their address: most that are given back are in none of these classes, and nothing is
/// looked up for them.
const CLASSES: usize = 1 << 12;

/// How many distances were drawn: each is another one.
static DRAWN: AtomicU64 = AtomicU64::new(0);
static KNOWN: [AtomicU8; CLASSES] = [const { AtomicU8::new(0) }; CLASSES];
/// A lock of the standard library's: to wait for it allocates nothing.
static SAMPLES: LazyLock<Mutex<HashMap<usize, Sample>>> = LazyLock::new(Mutex::default);

struct Sample {
    size: usize,
    way: Box<[usize]>,
}

fn samples() -> MutexGuard<'static, HashMap<usize, Sample>> {
    SAMPLES.lock().unwrap_or_else(PoisonError::into_inner)
}

fn class(block: usize) -> &'static AtomicU8 {
    &KNOWN[(block >> 12 ^ block >> 24) % CLASSES]
}

/// Bytes until the next sample: exponentially distributed, so that no pattern of sizes is favoured.
pub(super) fn distance(seed: usize, period: usize) -> usize {
    let drawn = DRAWN.fetch_add(1, Ordering::Relaxed);
    let mut bits = (seed as u64) << 32 ^ drawn;
    // splitmix64.
    bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^= bits >> 31;
    let uniform = ((bits >> 11) as f64 + 1.0) / (1_u64 << 53) as f64;
    (-uniform.ln() * period as f64) as usize
}

/// Takes a block into the sample.
pub(super) fn note(block: usize, size: usize) {
    let (mut way, mut depth) = ([0; FRAMES], 0);
    // SAFETY: what is not synchronized is the lookup of names, which does not happen here.
    unsafe {
        backtrace::trace_unsynchronized(|frame| {
            way[depth] = frame.ip() as usize;
            depth += 1;
            depth < FRAMES
        });
    }
    let former = samples().insert(block, Sample { size, way: way[..depth].into() });
    if former.is_none() {
        // A class that is full stays so: its blocks are looked up for ever.
        let _ = class(block).fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < u8::MAX).then(|| n + 1));
    }
}

/// Whether a block may be in the sample.
pub(super) fn may_know(block: usize) -> bool {
    class(block).load(Ordering::Relaxed) != 0
}

pub(super) fn forget(block: usize) {
    if samples().remove(&block).is_some() {
        let _ = class(block).fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < u8::MAX).then(|| n - 1));
    }
}

/// A block that is held.
pub(super) struct Held {
    /// Its address.
    #[cfg(test)]
    pub(super) block: usize,
    pub(super) way: Box<[usize]>,
    /// For how many bytes it stands.
    pub(super) bytes: u64,
}

/// What of the sample is held.
pub(super) fn held(period: usize) -> Vec<Held> {
    let weight = |size: usize| size as f64 / (1.0 - (-(size as f64) / period as f64).exp());
    let held = |(_block, sample): (&usize, &Sample)| Held {
        #[cfg(test)]
        block: *_block,
        way: sample.way.clone(),
        bytes: weight(sample.size.max(1)) as u64,
    };
    samples().iter().map(held).collect()
}
