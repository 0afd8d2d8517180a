//! Configurations, and plugins that are shell scripts.

use std::os::unix::fs::PermissionsExt;

use fram_cri::{PodSandboxMetadata, PortMapping};
use serde_json::json;

use super::*;

fn sandbox(netns: &Path) -> SandboxNetworkConfig {
    SandboxNetworkConfig {
        pod_sandbox_id: "s1".into(),
        metadata: PodSandboxMetadata { name: "web".into(), uid: "u".into(), namespace: "ns".into(), attempt: 0 },
        attachment: NetworkAttachment::Namespace(netns.to_path_buf()),
        port_mappings: vec![PortMapping { host_port: 80, container_port: 8080, ..PortMapping::default() }],
        labels: Default::default(),
        annotations: Default::default(),
    }
}

#[test]
fn the_first_configuration_by_name_that_is_one_counts() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    assert!(config::first(folder.path()).unwrap().is_none());
    file("00-not-read.txt", "x");
    file("10-broken.conflist", "{");
    assert!(config::first(folder.path()).is_err(), "there is one, and it is wrong");
    file("30-late.conflist", r#"{"cniVersion":"1.0.0","name":"late","plugins":[{"type":"a"}]}"#);
    file("20-alone.conf", r#"{"cniVersion":"0.4.0","name":"alone","type":"bridge"}"#);
    let list = config::first(folder.path()).unwrap().unwrap();
    assert_eq!((list.name.as_str(), list.cni_version.as_str(), config::kind(&list.plugins[0])), ("alone", "0.4.0", "bridge"));
}

#[test]
fn configurations_that_could_not_be_run_are_refused() {
    for text in [
        "[]",
        "{}",
        r#"{"name":"a","plugins":[]}"#,
        r#"{"name":"a","type":"../sh"}"#,
        r#"{"type":"bridge"}"#,
        r#"{"name":"a","plugins":[1]}"#,
    ] {
        assert!(config::parse(text).is_err(), "{text}");
    }
}

#[test]
fn a_plugin_is_told_its_part_what_was_before_it_and_what_it_asked_for() {
    let text =
        r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"portmap","snat":true,"capabilities":{"portMappings":true,"dns":true}}]}"#;
    let list = config::parse(text).unwrap();
    let told = config::request(&list, &list.plugins[0], &sandbox(Path::new("/n")), &json!({ "ips": [] }));
    let told: Value = serde_json::from_slice(&told).unwrap();
    let port = json!({ "hostPort": 80, "containerPort": 8080, "protocol": "tcp", "hostIP": "" });
    let expect = json!({ "cniVersion": "1.0.0", "name": "net", "type": "portmap", "snat": true, "prevResult": { "ips": [] },
        "runtimeConfig": { "portMappings": [port] } });
    assert_eq!(told, expect);
}

#[test]
fn addresses_are_read_in_the_results_of_all_versions() {
    let new = json!({ "ips": [{ "address": "10.1.0.2/24", "gateway": "10.1.0.1" }, { "address": "fd00::2/64" }] });
    assert_eq!(addresses(&new), ["10.1.0.2".parse::<IpAddr>().unwrap(), "fd00::2".parse().unwrap()]);
    let old = json!({ "ips": [{ "version": "4", "address": "10.1.0.2/24" }] });
    assert_eq!((addresses(&old).len(), addresses(&Value::Null).len()), (1, 0));
    let first = json!({ "ip4": { "ip": "10.1.0.2/24" }, "ip6": { "ip": "fd00::2/64" } });
    assert_eq!(addresses(&first), addresses(&new));
}

#[test]
fn a_failure_is_told_in_the_plugin_s_words() {
    let failed = plugin::answer("a", false, br#"{"code":11,"msg":"busy","details":"wait"}"#, b"").unwrap_err();
    assert!(failed.is_temporary() && failed.to_string() == "plugin \"a\" failed: busy wait", "{failed}");
    assert!(plugin::answer("a", false, b"", b"not found").unwrap_err().to_string().contains("not found"));
    assert!(plugin::answer("a", true, b"", b"").unwrap().is_null() && plugin::answer("a", true, b"x", b"").is_err());
}

/// Plugins that write down what they are asked and give an address; `second` fails where a file says so.
fn rig(folder: &Path) -> CniNetwork {
    let (bin, conf) = (folder.join("bin"), folder.join("conf"));
    std::fs::create_dir_all(&bin).unwrap();
    std::fs::create_dir_all(&conf).unwrap();
    let script = format!(
        "#!/bin/sh\nread -r config\necho \"$CNI_COMMAND ${{0##*/}} $CNI_IFNAME $CNI_CONTAINERID $CNI_ARGS $config\" >> {0}/asked\n\
         [ \"${{0##*/}}\" = second ] && [ $CNI_COMMAND = ADD ] && [ -e {0}/fail ] && {{ echo '{{\"code\":7,\"msg\":\"no\"}}'; exit 1; }}\n\
         [ $CNI_COMMAND = DEL ] || echo '{{\"cniVersion\":\"1.0.0\",\"ips\":[{{\"address\":\"10.1.0.2/24\"}}]}}'\n",
        folder.display()
    );
    for name in ["first", "second"] {
        let path = bin.join(name);
        std::fs::write(&path, &script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    std::fs::write(conf.join("10.conflist"), r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"first"},{"type":"second"}]}"#)
        .unwrap();
    CniNetwork::open(CniConfig { conf_dir: conf, bin_dirs: vec![folder.join("none"), bin], state_dir: folder.join("state") }).unwrap()
}

/// Which plugin was asked for what, in order.
fn asked(folder: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(folder.join("asked")).unwrap_or_default();
    let _ = std::fs::remove_file(folder.join("asked"));
    text.lines().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect()
}

#[tokio::test]
async fn plugins_are_run_in_order_and_undone_in_reverse() {
    let folder = tempfile::tempdir().unwrap();
    let network = rig(folder.path());
    network.ready().await.unwrap();
    // The loopback that is brought up is this machine's own, which is up.
    let config = sandbox(Path::new("/proc/self/ns/net"));
    let status = network.setup(&config).await.unwrap();
    assert_eq!(status.ip, "10.1.0.2".parse().ok());
    let text = std::fs::read_to_string(folder.path().join("asked")).unwrap();
    assert!(
        text.lines().nth(1).unwrap().contains("prevResult") && text.contains("K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=s1;"),
        "{text}"
    );
    assert_eq!(asked(folder.path()), ["ADD first", "ADD second"]);
    assert_eq!(network.setup(&config).await.unwrap(), status, "a second call gives the same");
    assert_eq!(network.status("s1").await.unwrap(), Some(status));
    // What has changed since undoes nothing of it.
    std::fs::remove_dir_all(folder.path().join("conf")).unwrap();
    assert!(matches!(network.ready().await, Err(NetworkError::NotReady(_))));
    network.teardown(&config).await.unwrap();
    network.teardown(&config).await.unwrap();
    assert_eq!(asked(folder.path()), ["DEL second", "DEL first"]);
    assert_eq!(network.status("s1").await.unwrap(), None);
}

#[tokio::test]
async fn what_is_damaged_on_disk_is_undone_by_what_is_configured() {
    let folder = tempfile::tempdir().unwrap();
    let network = rig(folder.path());
    let config = sandbox(Path::new("/proc/self/ns/net"));
    network.setup(&config).await.unwrap();
    std::fs::write(folder.path().join("state/s1.json"), "").unwrap();
    network.teardown(&config).await.unwrap();
    assert_eq!(asked(folder.path()), ["ADD first", "ADD second", "DEL second", "DEL first"]);
    assert!(!folder.path().join("state/s1.json").exists());
}

#[tokio::test]
async fn after_a_failure_nothing_of_it_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let network = rig(folder.path());
    std::fs::write(folder.path().join("fail"), "").unwrap();
    let failed = network.setup(&sandbox(Path::new("/proc/self/ns/net"))).await.unwrap_err();
    assert_eq!(failed.to_string().trim(), "plugin \"second\" failed: no");
    assert_eq!(asked(folder.path()), ["ADD first", "ADD second", "DEL second", "DEL first"]);
    assert_eq!(std::fs::read_dir(folder.path().join("state")).unwrap().count(), 0);
}
