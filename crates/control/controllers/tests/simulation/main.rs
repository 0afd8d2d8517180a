//! The control plane under simulated time: API server, controllers and scheduler as they are, model kubelets, users that change
//! their minds, and faults between them, all drawn from a seed. Oracles look at every change in the order of its commit; where
//! one speaks, the seed is printed, and `FRAM_SIM_SEED` runs it again. `FRAM_SIM_SEEDS` is how many seeds there are to try;
//! `FRAM_SIM_TRACE` prints the changes of objects whose names have this part.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod bad_days;
mod bad_input;
mod custom;
mod devices;
mod faults;
mod figures;
mod final_state;
mod gangs;
mod idle;
mod kubelets;
mod oracle;
mod random;
mod run;
mod selection;
mod service_ranges;
mod turns;
mod upkeep;
mod users;
mod world;

use run::{Mode, simulate};

/// How many seeds each mode has, where nobody asks for more.
const SEEDS: u64 = 1;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number of seeds, or a seed"))
}

/// Runs each seed in a process of its own, so that nothing of one reaches the next and each repeats itself.
fn check(mode: Mode, test: &str) {
    if let Some(seed) = number("FRAM_SIM_SEED") {
        return check_seed(mode, seed);
    }
    let run = |seed: u64| {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        let output = command.args([test, "--exact", "--nocapture"]).env("FRAM_SIM_SEED", seed.to_string()).output().unwrap();
        print!("{}", String::from_utf8_lossy(&output.stdout));
        output.status.success()
    };
    let failed: Vec<u64> = (1..=number("FRAM_SIM_SEEDS").unwrap_or(SEEDS)).filter(|seed| !run(*seed)).collect();
    assert!(failed.is_empty(), "{mode:?} fails with these seeds (FRAM_SIM_SEED): {failed:?}");
}

fn check_seed(mode: Mode, seed: u64) {
    let begun = std::time::Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let outcome = runtime.block_on(simulate(mode, seed));
    println!("{mode:?}, seed {seed}: {outcome}, {:.1} s", begun.elapsed().as_secs_f32());
    for fault in &outcome.faults {
        println!("  {fault}");
    }
    assert!(outcome.faults.is_empty(), "FRAM_SIM_SEED={seed}: {:#?}", outcome.faults);
}

#[test]
fn with_faults_between_components_no_promise_is_broken_and_all_converges() {
    check(Mode::Calm, "with_faults_between_components_no_promise_is_broken_and_all_converges");
}

#[test]
fn evictions_never_break_a_disruption_budget() {
    check(Mode::Evictions, "evictions_never_break_a_disruption_budget");
}

#[test]
fn with_nodes_that_fail_and_pods_that_are_deleted_all_converges() {
    check(Mode::Rough, "with_nodes_that_fail_and_pods_that_are_deleted_all_converges");
}

#[test]
fn what_nobody_should_ask_for_ends_in_rest() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let found = runtime.block_on(bad_input::rest());
    assert!(found.is_empty(), "{found:#?}");
}
