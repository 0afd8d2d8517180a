//! A wall clock that is set while everything runs. Only the program sees it (libfaketime, a Debian package): the machine's own
//! clock is others' too.

use std::path::{Path, PathBuf};

use crate::cluster::{Cluster, assert_nothing_left, traces};
use crate::image::busybox;
use crate::registry::Registry;

fn library() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let found = folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1")).find(|file| file.exists());
    found.expect("libfaketime (the Debian package faketime)")
}

/// By so much the program's clock differs from the machine's.
fn set(file: &Path, offset: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, format!("{offset}\n")).unwrap();
    std::fs::rename(new, file).unwrap();
}

#[test]
fn a_clock_that_is_set_is_told_and_disturbs_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::start(folder.path());
    let image = registry.push("busybox", &busybox(folder.path()));
    let before = traces();
    let offset = folder.path().join("offset");
    set(&offset, "+0");
    let yes = || PathBuf::from("1");
    let environment = vec![
        ("LD_PRELOAD", library()),
        ("FAKETIME_TIMESTAMP_FILE", offset.clone()),
        ("FAKETIME_NO_CACHE", yes()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", yes()),
    ];
    let mut cluster = Cluster::spawn_with(folder.path(), environment);
    cluster.until_ready();
    cluster.kubectl(&["create", "deployment", "web", "--image", &image, "--replicas=2", "--", "sleep", "100000"]);
    cluster.kubectl(&["wait", "--for=condition=Available", "deployment/web", "--timeout=60s"]);
    let pids = cluster.container_processes();
    let steps = [("+3600", "forward by 60m"), ("-3600", "back by 120m"), ("+86400", "forward by 25h"), ("+0", "back by 24h")];
    for (number, (to, told)) in steps.into_iter().enumerate() {
        set(&offset, to);
        let events = ["get", "events", "--field-selector=reason=ClockStepped", "-o", "jsonpath={.items[*].message}"];
        cluster.until("an event tells of the step", || cluster.kubectl(&events).contains(told));
        let pod = format!("after-{number}");
        cluster.kubectl(&["run", &pod, "--image", &image, "--restart=Never", "--", "sleep", "100000"]);
        cluster.kubectl(&["wait", "--for=condition=Ready", &format!("pod/{pod}"), "--timeout=30s"]);
        assert_eq!(cluster.kubectl(&["exec", &pod, "--", "echo", "here"]), "here\n");
        let ready = "jsonpath={.items[0].status.conditions[?(@.type=='Ready')].status}";
        assert_eq!(cluster.kubectl(&["get", "nodes", "-o", ready]), "True");
        cluster.kubectl(&["delete", "pod", &pod, "--grace-period=0", "--force"]);
    }
    assert!(cluster.container_processes().is_superset(&pids), "a container ended when the clock was set");
    let restarts = "jsonpath={range .items[*]}{.status.containerStatuses[0].restartCount}{end}";
    assert_eq!(cluster.kubectl(&["get", "pods", "-l", "app=web", "-o", restarts]), "00");
    cluster.stop();
    cluster.down();
    assert_nothing_left(&before);
}
