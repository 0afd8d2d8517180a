//! Files of devices, and what a container gets of them.

use super::*;

const NULL: &str = r#"{ "cdiVersion": "0.6.0", "kind": "v.example/gpu",
    "containerEdits": { "env": ["ALL=1"] },
    "devices": [
        { "name": "a", "containerEdits": { "env": ["A=1", "OWN=cdi"], "additionalGids": [7],
            "deviceNodes": [{ "path": "/dev/gpu0", "hostPath": "/dev/null", "permissions": "rw", "gid": 44 }],
            "mounts": [{ "hostPath": "/usr", "containerPath": "/gpu", "options": ["ro", "rbind"] }],
            "hooks": [{ "hookName": "createContainer", "path": "/bin/true", "args": ["true"] }] } },
        { "name": "b", "containerEdits": { "env": ["B=1"] } } ] }"#;
const YAML: &str = "cdiVersion: 0.6.0\nkind: w.example/nic\ndevices:\n- name: \"0\"\n  containerEdits:\n    env: [NIC=0]\n";

fn folders(files: &[(&str, &str)]) -> (tempfile::TempDir, Vec<PathBuf>) {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let folders = ["etc", "run"].map(|name| dir.path().join(name)).to_vec();
    (dir, folders)
}

fn of(folders: &[PathBuf], names: &[&str]) -> (CriResult<Injected>, ContainerConfig) {
    let mut config = ContainerConfig { cdi_devices: names.iter().map(ToString::to_string).collect(), ..Default::default() };
    config.envs = vec![KeyValue { key: "OWN".into(), value: "pod".into() }];
    (inject(folders, &mut config), config)
}

fn env(config: &ContainerConfig) -> String {
    config.envs.iter().map(|e| format!("{}={}", e.key, e.value)).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_container_gets_what_its_devices_need_and_what_is_for_all_once() {
    let (_dir, folders) = folders(&[("etc/v.json", NULL), ("run/w.yaml", YAML), ("etc/readme.txt", "no"), ("etc/broken.json", "{")]);
    let (injected, config) = of(&folders, &["v.example/gpu=a", "v.example/gpu=b", "w.example/nic=0"]);
    let injected = injected.unwrap();
    assert_eq!(env(&config), "ALL=1 A=1 OWN=cdi B=1 NIC=0");
    let device = &injected.devices[0];
    assert_eq!((device.container_path.to_str(), device.major, device.gid, device.permissions.as_str()), (Some("/dev/gpu0"), 1, 44, "rw"));
    assert_eq!((config.mounts[0].container_path.as_str(), config.mounts[0].readonly), ("/gpu", true));
    assert_eq!(config.security_context.supplemental_groups, [7]);
    assert_eq!(injected.hooks["createContainer"][0]["path"], "/bin/true");
    let (nothing, config) = of(&folders, &[]);
    assert!(nothing.unwrap().hooks.is_null() && env(&config) == "OWN=pod");
}

#[test]
fn a_later_directory_comes_first_and_what_nobody_knows_is_refused() {
    let other = NULL.replace("B=1", "B=2");
    let (_dir, folders) = folders(&[("etc/v.json", NULL), ("run/v.json", &other)]);
    assert!(env(&of(&folders, &["v.example/gpu=b"]).1).ends_with("B=2"));
    for (name, why) in [("v.example/gpu=x", "unresolvable CDI devices v.example/gpu=x"), ("gpu", "not of the form")] {
        assert!(of(&folders, &[name]).0.unwrap_err().to_string().contains(why), "{name}");
    }
    fs::write(folders[1].join("again.json"), NULL).unwrap();
    assert!(of(&folders, &["v.example/gpu=b"]).0.unwrap_err().to_string().contains("more than one file"));
}
