//! A process that is killed at any moment loses nothing that it acknowledged: a child commits and reports over a pipe,
//! the parent kills it, opens the directory and asks the oracle. Loss of power is `durability`'s subject.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use fram_store::{Condition, Embedded, Operation, Options, Revision, Snapshot, Store, Transaction, WatchItem};

const DIRECTORY_VARIABLE: &str = "FRAM_STORE_CRASH_DIRECTORY";
const ROUNDS: u64 = 250;
const TASKS: u64 = 6;
/// How many of its transactions a task leaves in the store.
const KEPT: u64 = 20;

fn options(directory: &Path) -> Options {
    // Checkpoints and changes of the log come many times in a round.
    Options { checkpoint_bytes: 60_000, ..Options::new(directory) }
}

fn left(task: u64, number: u64) -> String {
    format!("left/{task}/{number:08}")
}

fn right(task: u64, number: u64) -> String {
    format!("right/{task}/{number:08}")
}

fn head(task: u64) -> String {
    format!("head/{task}")
}

fn number_of(snapshot: &Snapshot, task: u64) -> u64 {
    snapshot.get(&head(task)).map_or(0, |entry| std::str::from_utf8(&entry.value).unwrap().parse().unwrap())
}

/// What the child runs; as a test of its own it has nothing to do.
#[test]
fn child() {
    if let Some(directory) = std::env::var_os(DIRECTORY_VARIABLE) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(commit_until_killed(Path::new(&directory)));
    }
}

async fn commit_until_killed(directory: &Path) {
    let store = Arc::new(Embedded::open(options(directory)).unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..TASKS {
        let store = Arc::clone(&store);
        tasks.spawn(async move { commit_in_a_row(&store, task).await });
    }
    tasks.join_all().await;
}

async fn commit_in_a_row(store: &Embedded, task: u64) {
    let snapshot = store.snapshot(None).await.unwrap();
    let mut number = number_of(&snapshot, task);
    let mut condition = snapshot
        .get(&head(task))
        .map_or(Condition::Absent(head(task).into()), |entry| Condition::ModifiedAt(head(task).into(), entry.modified));
    loop {
        number += 1;
        let value = vec![b'x'; usize::try_from(number * 37 % 3_000).unwrap()];
        let mut operations = vec![
            Operation::put(left(task, number), value.clone()),
            Operation::put(head(task), number.to_string()),
            Operation::put(right(task, number), value),
        ];
        if let Some(old) = number.checked_sub(KEPT) {
            operations.extend([Operation::delete(left(task, old)), Operation::delete(right(task, old))]);
        }
        let committed = store.commit(Transaction::new(operations).when(condition)).await.unwrap();
        condition = Condition::ModifiedAt(head(task).into(), committed.revision);
        // One write call per line: the parent sees whole lines only.
        let line = format!("\nacknowledged {task} {number} {}\n", committed.revision);
        std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
    }
}

/// The child, killed and waited for also when the test fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a child, kills it after it has acknowledged `enough` and some more time, and returns the last acknowledged
/// number and revision of each task.
fn run_and_kill(directory: &Path, enough: usize, more: Duration) -> BTreeMap<u64, (u64, Revision)> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--nocapture"]).env(DIRECTORY_VARIABLE, directory).stdout(Stdio::piped());
    let mut child = Running(command.spawn().unwrap());
    let output = BufReader::new(child.0.stdout.take().unwrap());
    let mut acknowledged = BTreeMap::new();
    let mut lines = output.lines().map_while(Result::ok);
    let mut note = |line: String| {
        let words: Vec<&str> = line.split(' ').collect();
        let ["acknowledged", task, number, revision] = words[..] else { return false };
        let [task, number, revision] = [task, number, revision].map(|word| word.parse::<u64>().unwrap());
        acknowledged.insert(task, (number, Revision(revision)));
        true
    };
    lines.by_ref().map(&mut note).filter(|noted| *noted).take(enough).count();
    let (_stop, never) = std::sync::mpsc::channel::<()>();
    let _ = never.recv_timeout(more);
    child.0.kill().unwrap();
    child.0.wait().unwrap();
    // What it wrote before it was killed is still in the pipe. Its last line may be cut off only by the kill itself,
    // and a single write to a pipe is not.
    lines.map(note).count();
    acknowledged
}

async fn check(store: &Embedded, acknowledged: &BTreeMap<u64, (u64, Revision)>, round: u64) {
    let snapshot = store.snapshot(None).await.unwrap();
    for task in 0..TASKS {
        let last = number_of(&snapshot, task);
        if let Some((number, revision)) = acknowledged.get(&task) {
            assert!(last >= *number, "round {round}: task {task} acknowledged {number}, {last} is there");
            // A task waits for each acknowledgement, so at most one transaction was on its way.
            assert!(last <= number + 2, "round {round}: task {task} acknowledged {number}, {last} is there");
            let entry = snapshot.get(&left(task, *number)).unwrap();
            assert_eq!(entry.modified, *revision, "round {round}");
        }
        let kept: Vec<u64> = (1..=last).rev().take(usize::try_from(KEPT).unwrap()).collect();
        let mut later = Revision(u64::MAX);
        for number in &kept {
            let (left, right) = (snapshot.get(&left(task, *number)).unwrap(), snapshot.get(&right(task, *number)).unwrap());
            assert_eq!((left.modified, &left.value), (right.modified, &right.value), "round {round}: half of a transaction");
            assert!(left.modified < later, "round {round}: out of order");
            later = left.modified;
        }
        for side in ["left", "right"] {
            assert_eq!(snapshot.prefix(&format!("{side}/{task}/")).count(), kept.len(), "round {round}: deleted keys are back");
        }
    }
    let oldest = store.oldest().await.unwrap();
    if oldest < snapshot.revision() {
        let mut watch = store.watch("", oldest).await.unwrap();
        let WatchItem::Events(events) = watch.next().await.unwrap() else { panic!("no events") };
        let mut revisions: Vec<u64> = events.iter().map(|event| event.revision.0).collect();
        revisions.dedup();
        assert!(revisions.into_iter().eq(oldest.0 + 1..=snapshot.revision().0), "round {round}: gaps in history");
    }
}

#[tokio::test]
async fn a_process_killed_at_any_moment_loses_nothing_that_it_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let mut total = 0;
    for round in 0..ROUNDS {
        let more = Duration::from_micros(round * 7_919 % 9_000);
        let acknowledged = run_and_kill(directory.path(), usize::try_from(round % 40).unwrap(), more);
        // A killed process still holds its lock for a moment only if it was not waited for, which it was.
        let store = Embedded::open(options(directory.path())).unwrap();
        check(&store, &acknowledged, round).await;
        total = store.revision().await.unwrap().0;
    }
    assert!(total > ROUNDS, "only {total} transactions in all rounds");
}
