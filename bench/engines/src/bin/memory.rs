//! What 10,000 entries of 3.8 KB cost in memory, what is left after deleting them, and how long opening takes.
//! `cargo run --release --bin memory [directory]`.

use std::time::{Duration, Instant};

use fram_store::{Embedded, Operation, Options, Store, Transaction};

const ENTRIES: usize = 10_000;
const VALUE: usize = 3_800;

fn main() {
    let parent = std::env::args().nth(1).unwrap_or_else(|| ".".into());
    let directory = tempfile::tempdir_in(parent).expect("the directory can be written to");
    // A short window, so that what is left after it can be seen.
    let options = || Options { history_window: Duration::from_secs(2), ..Options::new(directory.path().join("data")) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("the runtime starts");
    let store = Embedded::open(options()).expect("the store opens");
    println!("empty: {:.1} MB", resident());
    runtime.block_on(each(&store, |key| Operation::put(key, vec![b'x'; VALUE])));
    println!("{ENTRIES} entries of {VALUE} bytes: {:.1} MB", resident());
    drop(store);
    println!("closed: {:.1} MB", resident());
    let start = Instant::now();
    let store = Embedded::open(options()).expect("the store opens");
    println!("opened again in {:.0} ms: {:.1} MB", start.elapsed().as_secs_f64() * 1e3, resident());
    runtime.block_on(each(&store, Operation::delete));
    println!("all deleted, in history: {:.1} MB", resident());
    runtime.block_on(async { tokio::time::sleep(Duration::from_secs(4)).await });
    let (oldest, revision) = runtime.block_on(async { (store.oldest().await, store.revision().await) });
    assert_eq!(oldest.expect("the store is open"), revision.expect("the store is open"), "history is over");
    println!("all deleted, history over: {:.1} MB", resident());
}

async fn each(store: &Embedded, operation: impl Fn(String) -> Operation) {
    for number in 0..ENTRIES {
        let operation = operation(format!("/registry/pods/namespace-{}/pod-{number}", number % 100));
        store.commit(Transaction::new(vec![operation])).await.expect("the commit succeeds");
    }
}

/// Megabytes that belong to this process.
fn resident() -> f64 {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").expect("smaps_rollup is readable");
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).expect("there is a Pss");
    line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
}
