//! What is safe without anybody having said anything.

use std::path::Path;

use super::cluster::Cluster;

/// Whether a text stands in a file of the folder, or of one below it.
fn stands_in(folder: &Path, text: &str) -> bool {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).any(|path| match path.is_dir() {
        true => stands_in(&path, text),
        false => std::fs::read(&path).is_ok_and(|bytes| bytes.windows(text.len()).any(|part| part == text.as_bytes())),
    })
}

#[test]
fn secrets_are_not_in_the_clear_on_disk_and_who_made_them_is_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(folder.path());
    cluster.kubectl(&["create", "configmap", "known", "--from-literal=word=everybody-may-know"]);
    // In the store's own form values of Secrets stand in base64: this one is the same in both.
    let hidden = "bm9ib2R5LW1heS1rbm93";
    cluster.kubectl(&["create", "secret", "generic", "hidden", "--from-literal=word=nobody-may-know"]);
    assert_eq!(cluster.kubectl(&["get", "secret", "hidden", "-o", "jsonpath={.data.word}"]), hidden);
    let data = folder.path().join("fram");
    assert!(stands_in(&data.join("store"), "everybody-may-know"));
    assert!(!stands_in(&data.join("store"), hidden) && !stands_in(&data.join("store"), "nobody-may-know"));
    let log = std::fs::read_to_string(data.join("audit/audit.log")).unwrap();
    let made = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let made = made.filter(|event| event["verb"] == "create" && event["objectRef"]["name"] == "hidden").collect::<Vec<_>>();
    assert!(made.len() == 1 && made[0]["user"]["username"] == "kubernetes-admin", "{made:?}");
    assert!(!log.contains(hidden), "the log tells what is in a Secret");

    cluster.kill();
    cluster.restart();
    assert_eq!(cluster.kubectl(&["get", "secret", "hidden", "-o", "jsonpath={.data.word}"]), hidden);
    cluster.stop();
    cluster.down();
}
