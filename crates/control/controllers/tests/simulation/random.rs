//! The one source of chance of a simulation; everything that is drawn follows from its seed.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

#[derive(Clone)]
pub(crate) struct Chance {
    state: Arc<Mutex<u64>>,
}

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: Arc::new(Mutex::new(seed)) }
    }

    /// Another source; what is drawn from one does not move the other.
    pub(crate) fn branch(&self, name: &str) -> Self {
        let salt = name.bytes().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        Self::new(*self.state.lock() ^ salt)
    }

    /// SplitMix64.
    pub(crate) fn next(&self) -> u64 {
        let mut state = self.state.lock();
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from `from` to `to`, both included.
    pub(crate) fn between(&self, from: u64, to: u64) -> u64 {
        from + self.next() % (to - from + 1)
    }

    pub(crate) fn int(&self, from: i64, to: i64) -> i64 {
        from + (self.next() % (to - from + 1) as u64) as i64
    }

    /// True so many times in a thousand.
    pub(crate) fn happens(&self, thousandths: u64) -> bool {
        self.next() % 1000 < thousandths
    }

    pub(crate) fn millis(&self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.between(from, to))
    }

    pub(crate) fn one_of<'a, T>(&self, all: &'a [T]) -> Option<&'a T> {
        if all.is_empty() { None } else { all.get((self.next() % all.len() as u64) as usize) }
    }
}

impl fram_apiserver::environment::Random for Chance {
    fn u64(&self) -> u64 {
        self.next()
    }
}

/// Stands in for the C library's, so that maps iterate in the same order in every run of a seed, and that select! chooses the
/// same: both ask it for their keys.
#[unsafe(no_mangle)]
extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    // SAFETY: callers hand in a buffer of this length, as getrandom(2) asks of them.
    unsafe { buffer.write_bytes(0x5a, length) };
    length as isize
}
