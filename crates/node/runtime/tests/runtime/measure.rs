//! Figures of the runtime, printed (`--no-capture`, `--release`); the bounds only catch what went wrong by far.

use std::fs;
use std::time::{Duration, Instant};

use fram_cri::*;

use crate::support::*;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Proportional set size of a process and its private part, KiB.
fn memory(pid: i32) -> (u64, u64) {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let sum = |names: &[&str]| {
        let lines = text.lines().filter(|line| names.iter().any(|name| line.starts_with(name)));
        lines.map(|line| line.split_ascii_whitespace().nth(1).unwrap().parse::<u64>().unwrap()).sum()
    };
    (sum(&["Pss:"]), sum(&["Private_Clean:", "Private_Dirty:"]))
}

#[tokio::test]
async fn a_container_of_true_and_the_memory_of_a_shim_are_within_bounds() {
    let node = Node::new();
    let runtime = node.open().await;
    let sandbox = node.sandbox(&runtime, "web").await;
    let mut events = runtime.events().await.unwrap();
    let mut steps: [Vec<Duration>; 4] = Default::default();
    for number in 0..50 {
        let mut config = shell(&format!("c{number}"), "");
        config.command = vec!["/bin/true".into()];
        let begin = Instant::now();
        let id = runtime.create_container(&sandbox, &config, &PodSandboxConfig::default()).await.unwrap();
        let created = Instant::now();
        runtime.start_container(&id).await.unwrap();
        let started = Instant::now();
        while events.recv().await.unwrap().container_event_type != ContainerEventType::Stopped {}
        let stopped = Instant::now();
        runtime.remove_container(&id).await.unwrap();
        let marks = [begin, created, started, stopped, Instant::now()];
        for (step, pair) in steps.iter_mut().zip(marks.windows(2)) {
            step.push(pair[1] - pair[0]);
        }
    }
    let [create, start_time, exit, delete] = steps.map(median);
    println!("/bin/true: create {create:?}, start {start_time:?}, exit {exit:?}, delete {delete:?}");
    let lasting = start(&runtime, &sandbox, &shell("lasting", "sleep 1000")).await;
    let mut exec = Vec::new();
    for _ in 0..50 {
        let begin = Instant::now();
        runtime.exec_sync(&lasting, &["/bin/true".into()], Some(LONG)).await.unwrap();
        exec.push(begin.elapsed());
    }
    println!("exec of /bin/true: {:?}", median(exec));
    let mut make = Vec::new();
    let mut others = Vec::new();
    for number in 0..10 {
        let begin = Instant::now();
        let id = node.sandbox(&runtime, &format!("pod-{number}")).await;
        make.push(begin.elapsed());
        start(&runtime, &id, &shell("main", "sleep 1000")).await;
        others.push(id);
    }
    println!("sandbox: {:?}", median(make));
    let sizes: Vec<(u64, u64)> = shims(node.dir.path()).into_iter().map(memory).collect();
    let pss = sizes.iter().map(|(pss, _)| pss).sum::<u64>() / sizes.len() as u64;
    println!("{} shims, each with a container: PSS {pss} KiB on average, PSS and private {sizes:?}", sizes.len());
    let shim = shims(node.dir.path())[0];
    let descriptors = fs::read_dir(format!("/proc/{shim}/fd")).unwrap().count();
    println!("descriptors of one: {descriptors}");
    for id in others.iter().chain([&sandbox]) {
        runtime.remove_pod_sandbox(id).await.unwrap();
    }
    assert!(create + start_time + exit + delete < Duration::from_secs(1));
    assert!(descriptors < 32);
    node.assert_nothing_is_left();
}
