//! Fuzzing of parsers with a stable compiler: the targets of a crate are functions over bytes in its unit tests, which replay the
//! inputs that are kept; `cargo xtask fuzz` builds the same tests with counters of coverage and lets them look for new ones. A
//! target fails by a panic, by the time it takes, or by the memory. Used by tests only.

mod coverage;
mod input;
mod memory;
mod mutate;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use coverage::Coverage;
use input::Inputs;
pub use input::Pieces;
pub use memory::held;
use mutate::Mutator;

/// Something that takes bytes of anybody.
pub struct Target {
    pub name: &'static str,
    /// What it should take, to begin with.
    pub seeds: &'static [&'static [u8]],
    /// How many bytes it may hold for each byte of its input.
    pub memory: usize,
    /// Panics where something is wrong with what it made of its input.
    pub run: fn(&[u8]),
}

/// What every target may hold, however short its input.
const MEMORY: usize = 2 << 20;
/// What every target may take of a processor, and what it may take more for each byte; tests are built without optimisation.
const TIME: Duration = Duration::from_secs(1);
const TIME_PER_BYTE: Duration = Duration::from_micros(50);
/// Longer inputs are not made.
const LONGEST: usize = 16 << 10;

/// Runs all targets over the inputs that are kept in `fuzz/<target>` below a folder. With `FRAM_FUZZ` set to seconds, looks for new
/// inputs as long for each, or for that of `FRAM_FUZZ_TARGET`; what it finds is left below `FRAM_FUZZ_FOLDER`.
pub fn check(folder: &str, targets: &[Target]) {
    let seconds = std::env::var("FRAM_FUZZ").ok().and_then(|s| s.parse().ok());
    let only = std::env::var("FRAM_FUZZ_TARGET").ok();
    let work = std::env::var_os("FRAM_FUZZ_FOLDER").map_or_else(|| Path::new(folder).join("fuzz"), PathBuf::from);
    for target in targets.iter().filter(|t| only.as_ref().is_none_or(|o| o == t.name)) {
        let mut inputs = Inputs::kept(target, Path::new(folder));
        for input in inputs.all() {
            hold(target, input).unwrap_or_else(|why| panic!("{}: {why}, of the input {}", target.name, input.escape_ascii()));
        }
        if let Some(seconds) = seconds {
            inputs.open(&work, target.name);
            search(target, &mut inputs, Duration::from_secs(seconds));
        }
    }
}

thread_local! {
    /// What a panic said.
    static SAID: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs a target over an input; says what went wrong.
fn hold(target: &Target, input: &[u8]) -> Result<(), String> {
    let (before, begin) = (memory::reset(), memory::processor_time());
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    let (peak, took) = (memory::peak().saturating_sub(before), memory::processor_time().saturating_sub(begin));
    if outcome.is_err() {
        return Err(SAID.with_borrow(|said| if said.is_empty() { "it panicked".into() } else { said.clone() }));
    }
    if peak > MEMORY + target.memory * input.len() {
        return Err(format!("it held {peak} bytes for {} bytes of input", input.len()));
    }
    if took > TIME + TIME_PER_BYTE * input.len() as u32 {
        return Err(format!("it took {took:?} for {} bytes of input", input.len()));
    }
    Ok(())
}

/// Makes inputs out of those that there are for so long; keeps those that reach code that none reached before.
fn search(target: &Target, inputs: &mut Inputs, time: Duration) {
    std::panic::set_hook(Box::new(|panic| SAID.with_borrow_mut(|said| *said = panic.to_string())));
    let mut coverage = Coverage::new();
    for input in inputs.all() {
        coverage.clear();
        let _ = hold(target, input);
        coverage.take();
    }
    let mut mutator = Mutator::new(inputs.all());
    let (begin, mut runs) = (Instant::now(), 0u64);
    while begin.elapsed() < time {
        let input = mutator.make(inputs.all(), LONGEST);
        inputs.note(&input);
        coverage.clear();
        if let Err(why) = hold(target, &input) {
            let place = inputs.found(&input);
            let _ = std::panic::take_hook();
            panic!("{} after {runs} runs: {why}\n  the input is in {}", target.name, place.display());
        }
        runs += 1;
        if coverage.take() {
            inputs.add(input);
        }
    }
    let _ = std::panic::take_hook();
    let (seconds, reached) = (begin.elapsed().as_secs(), coverage.reached());
    eprintln!("{}: {runs} runs in {seconds} s, {} inputs, {reached} edges, nothing found", target.name, inputs.all().len());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(run: fn(&[u8])) -> Target {
        Target { name: "t", seeds: &[], memory: 10, run }
    }

    #[test]
    fn a_target_fails_by_panic_memory_and_time() {
        assert_eq!(hold(&target(|_| {}), b"x"), Ok(()));
        assert!(hold(&target(|_| panic!("no")), b"x").is_err());
        let held = hold(&target(|_| drop(std::hint::black_box(vec![1u8; 3 << 20]))), b"x");
        assert!(held.unwrap_err().contains("it held"));
        let spin = |_: &[u8]| {
            let begin = memory::processor_time();
            while memory::processor_time() - begin < TIME * 2 {}
        };
        assert!(hold(&target(spin), b"x").unwrap_err().contains("it took"));
    }
}
