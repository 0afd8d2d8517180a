//! How many durable single-put commits per second an engine does, by number of writers: the measurement that chose the
//! embedded engine. `cargo run --release [directory] [seconds]`; the directory decides which disk is measured.

use std::path::Path;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use fram_store::{Embedded, Operation, Options, Store, Transaction};
use redb::{ReadableDatabase, TableDefinition};

const VALUE: usize = 2_048;
/// How many keys each writer puts in turn.
const KEYS: u64 = 200;
const TABLE: TableDefinition<&str, &[u8]> = TableDefinition::new("entries");

type Put = Arc<dyn Fn(&[(String, Vec<u8>)]) + Send + Sync>;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().unwrap_or_else(|| ".".into());
    let seconds = arguments.next().map_or(3, |text| text.parse().expect("seconds are a number"));
    let time = Duration::from_secs(seconds);
    println!("| engine | writers | commits/s | p50 ms | p99 ms | CPU us/commit | written bytes/value byte |");
    println!("|---|---|---|---|---|---|---|");
    for writers in [1, 16, 256] {
        fram(&directory, writers, time);
        for grouped in [false, true] {
            let name = |engine: &str| format!("{engine}, {}", if grouped { "one commit per group" } else { "one commit per put" });
            with(&directory, |path| report(&name("redb 4"), writers, || threads(redb(path), grouped, writers, time)));
            with(&directory, |path| report(&name("fjall 3"), writers, || threads(fjall(path), grouped, writers, time)));
        }
    }
}

fn with<T>(directory: &str, run: impl FnOnce(&Path) -> T) -> T {
    let directory = tempfile::tempdir_in(directory).expect("the directory can be written to");
    run(directory.path())
}

/// Runs a load and prints its row.
fn report(engine: &str, writers: usize, load: impl FnOnce() -> Vec<Duration>) {
    let (cpu, written, start) = (cpu(), written(), Instant::now());
    let mut latencies = load();
    let elapsed = start.elapsed().as_secs_f64();
    let (cpu, written) = (self::cpu() - cpu, self::written() - written);
    latencies.sort_unstable();
    let count = latencies.len();
    let at = |part: f64| latencies[((count - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
    let (p50, p99) = (at(0.5), at(0.99));
    let (rate, cpu, amplification) = (count as f64 / elapsed, cpu * 1e6 / count as f64, written / (count * VALUE) as f64);
    println!("| {engine} | {writers} | {rate:.0} | {p50:.2} | {p99:.2} | {cpu:.0} | {amplification:.1} |");
}

/// Seconds of CPU that this process has used; the kernel counts in hundredths.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("stat is readable");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    [11, 12].iter().map(|field| fields[*field].parse::<f64>().expect("times are numbers")).sum::<f64>() / 100.0
}

/// Bytes that this process has handed to write calls.
fn written() -> f64 {
    let io = std::fs::read_to_string("/proc/self/io").expect("io is readable");
    let line = io.lines().find_map(|line| line.strip_prefix("wchar: ")).expect("there is a count of written bytes");
    line.parse().expect("bytes are a number")
}

fn fram(directory: &str, writers: usize, time: Duration) {
    with(directory, |path| {
        let store = Arc::new(Embedded::open(Options::new(path.join("data"))).expect("the store opens"));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("the runtime starts");
        let latencies = Arc::new(Mutex::new(Vec::new()));
        report("fram-store", writers, || {
            runtime.block_on(async {
                let mut tasks = tokio::task::JoinSet::new();
                let end = Instant::now() + time;
                for writer in 0..writers {
                    let (store, all) = (Arc::clone(&store), Arc::clone(&latencies));
                    tasks.spawn(async move {
                        let mut own = Vec::new();
                        for number in 0.. {
                            let start = Instant::now();
                            if start > end {
                                break;
                            }
                            let operation = Operation::put(key(writer, number), vec![b'x'; VALUE]);
                            store.commit(Transaction::new(vec![operation])).await.expect("the commit succeeds");
                            own.push(start.elapsed());
                        }
                        all.lock().expect("nobody panicked").extend(own);
                    });
                }
                tasks.join_all().await;
            });
            std::mem::take(&mut *latencies.lock().expect("nobody panicked"))
        });
    });
}

fn key(writer: usize, number: u64) -> String {
    format!("/registry/pods/namespace-{writer}/pod-{}", number % KEYS)
}

fn redb(path: &Path) -> Put {
    let database = redb::Database::create(path.join("data")).expect("redb opens");
    assert!(database.begin_read().is_ok(), "redb reads");
    Arc::new(move |entries| {
        let transaction = database.begin_write().expect("redb begins");
        {
            let mut table = transaction.open_table(TABLE).expect("redb opens the table");
            for (key, value) in entries {
                table.insert(key.as_str(), value.as_slice()).expect("redb puts");
            }
        }
        transaction.commit().expect("redb commits");
    })
}

fn fjall(path: &Path) -> Put {
    let database = Database::builder(path.join("data")).open().expect("fjall opens");
    let keyspace: Keyspace = database.keyspace("entries", KeyspaceCreateOptions::default).expect("fjall opens the keyspace");
    Arc::new(move |entries| {
        let mut batch = database.batch().durability(Some(PersistMode::SyncData));
        for (key, value) in entries {
            batch.insert(&keyspace, key.as_str(), value.as_slice());
        }
        batch.commit().expect("fjall commits");
    })
}

type Request = (String, Vec<u8>, mpsc::SyncSender<()>);

/// Threads that put; `grouped` hands what has gathered to one thread that commits it as one, which is how a server
/// would use such an engine.
fn threads(put: Put, grouped: bool, writers: usize, time: Duration) -> Vec<Duration> {
    let (requests, inbox) = mpsc::channel::<Request>();
    std::thread::scope(|scope| {
        let committer = Arc::clone(&put);
        scope.spawn(move || {
            while let Ok(first) = inbox.recv() {
                let (mut entries, mut answers) = (Vec::new(), Vec::new());
                for (key, value, answer) in std::iter::once(first).chain(inbox.try_iter()) {
                    entries.push((key, value));
                    answers.push(answer);
                }
                committer(&entries);
                answers.into_iter().for_each(|answer| answer.send(()).unwrap_or_default());
            }
        });
        let end = Instant::now() + time;
        let handles: Vec<_> = (0..writers)
            .map(|writer| {
                let (put, requests) = (Arc::clone(&put), requests.clone());
                scope.spawn(move || {
                    let mut own = Vec::new();
                    for number in 0.. {
                        let start = Instant::now();
                        if start > end {
                            break;
                        }
                        let entry = (key(writer, number), vec![b'x'; VALUE]);
                        if grouped {
                            let (answer, answered) = mpsc::sync_channel(1);
                            requests.send((entry.0, entry.1, answer)).expect("the committer runs");
                            answered.recv().expect("the committer answers");
                        } else {
                            put(&[entry]);
                        }
                        own.push(start.elapsed());
                    }
                    own
                })
            })
            .collect();
        drop(requests);
        handles.into_iter().flat_map(|handle| handle.join().expect("the writer finished")).collect()
    })
}
