//! Volumes on a real file system, with real mounts: these run as root.

use fram_machinery::object;

use super::payload::File;
use super::*;

fn file(data: &str) -> File {
    File { data: data.into(), mode: 0o640, user: None }
}

fn pod(spec: Value) -> Value {
    object!({ "metadata": { "namespace": "ns", "name": "p", "uid": "u" }, "spec": spec })
}

/// Unmounts whatever the test left.
struct Dir(tempfile::TempDir);

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = tear_down(&self.0.path().join("pod"));
    }
}

fn dir() -> (Dir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let pod = dir.path().join("pod");
    (Dir(dir), pod)
}

#[test]
fn files_are_replaced_together_and_seen_under_their_names() {
    let (_keep, pod_dir) = dir();
    let volume = object!({ "name": "v", "configMap": { "name": "m" } });
    let at = path(&pod_dir, &volume);
    let first = Payload::from([("a".into(), file("1")), ("d/b".into(), file("2"))]);
    set_up(&pod(object!({})), &volume, &pod_dir, Some(&first)).unwrap();
    assert_eq!((fs::read_to_string(at.join("a")).unwrap(), fs::read_to_string(at.join("d/b")).unwrap()), ("1".into(), "2".into()));
    assert_eq!(fs::metadata(at.join("a")).unwrap().permissions().mode() & 0o777, 0o640);
    let before = fs::read_link(at.join("..data")).unwrap();
    set_up(&pod(object!({})), &volume, &pod_dir, Some(&first)).unwrap();
    assert_eq!(fs::read_link(at.join("..data")).unwrap(), before);
    let second = Payload::from([("a".into(), file("3"))]);
    set_up(&pod(object!({})), &volume, &pod_dir, Some(&second)).unwrap();
    assert_eq!(fs::read_to_string(at.join("a")).unwrap(), "3");
    let mut names: Vec<_> = fs::read_dir(&at).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names.len(), 3, "{names:?}");
    assert_eq!((names[1].as_str(), names[2].as_str()), ("..data", "a"));
}

#[test]
fn secrets_stay_in_memory_and_nothing_is_left_after_the_pod() {
    let (_keep, pod_dir) = dir();
    let volume = object!({ "name": "v", "secret": { "secretName": "s" } });
    let at = path(&pod_dir, &volume);
    let spec = pod(object!({ "securityContext": { "fsGroup": 4242 } }));
    let payload = Payload::from([("a".into(), file("x"))]);
    set_up(&spec, &volume, &pod_dir, Some(&payload)).unwrap();
    assert!(is_mount_point(&at).unwrap());
    let meta = fs::metadata(at.join("a")).unwrap();
    assert_eq!((meta.gid(), meta.permissions().mode() & 0o777), (4242, 0o640));
    tear_down(&pod_dir).unwrap();
    assert!(!pod_dir.exists());
}

#[test]
fn an_empty_dir_in_memory_has_its_size_and_group() {
    let (_keep, pod_dir) = dir();
    let volume = object!({ "name": "v", "emptyDir": { "medium": "Memory", "sizeLimit": "64Ki" } });
    set_up(&pod(object!({ "securityContext": { "fsGroup": 77 } })), &volume, &pod_dir, None).unwrap();
    let at = path(&pod_dir, &volume);
    assert_eq!((fs::metadata(&at).unwrap().gid(), fs::metadata(&at).unwrap().mode() & 0o7777), (77, 0o3777));
    assert!(fs::write(at.join("big"), vec![1; 128 << 10]).is_err());
    tear_down(&pod_dir).unwrap();
}

#[test]
fn a_host_path_must_be_what_its_type_says() {
    let (keep, pod_dir) = dir();
    let base = keep.0.path();
    let check = |name: &str, ty: &str| {
        let path = base.join(name).display().to_string();
        set_up(&pod(object!({})), &object!({ "name": "v", "hostPath": { "path": path, "type": ty } }), &pod_dir, None)
    };
    assert!(check("none", "Directory").is_err() && check("none", "").is_ok());
    assert!(check("dir", "DirectoryOrCreate").is_ok() && check("dir", "Directory").is_ok() && check("dir", "File").is_err());
    assert!(check("file", "FileOrCreate").is_ok() && check("file", "Socket").is_err());
    assert!(check("file", "DirectoryOrCreate").is_err());
}

#[test]
fn a_part_of_a_volume_is_mounted_and_never_leads_out_of_it() {
    let (keep, pod_dir) = dir();
    let volume = object!({ "name": "v", "emptyDir": {} });
    let mount = |sub: Value| object!({ "name": "c", "volumeMounts": [{ "name": "v", "mountPath": "/m", "subPath": sub }] });
    let spec = pod(object!({ "volumes": [(volume.clone())] }));
    set_up(&spec, &volume, &pod_dir, None).unwrap();
    let at = path(&pod_dir, &volume);
    let made = container_mounts(&spec, &mount("x/y".into()), &pod_dir, &[], true).unwrap();
    fs::write(at.join("x/y/f"), "in").unwrap();
    assert_eq!(fs::read_to_string(Path::new(&made[0].host_path).join("f")).unwrap(), "in");
    std::os::unix::fs::symlink(keep.0.path(), at.join("out")).unwrap();
    assert!(matches!(container_mounts(&spec, &mount("out".into()), &pod_dir, &[], true), Err(VolumeError::Escapes(_))));
    assert!(container_mounts(&spec, &mount("../x".into()), &pod_dir, &[], true).is_err());
    std::os::unix::fs::symlink("x/y", at.join("within")).unwrap();
    assert!(container_mounts(&spec, &mount("within".into()), &pod_dir, &[], true).is_ok());
    let expr = object!({ "name": "c", "volumeMounts": [{ "name": "v", "mountPath": "/m", "subPathExpr": "$(A)/z" }] });
    assert!(container_mounts(&spec, &expr, &pod_dir, &[], true).is_err());
    container_mounts(&spec, &expr, &pod_dir, &[("A".into(), "q".into())], true).unwrap();
    assert!(at.join("q/z").is_dir());
    tear_down(&pod_dir).unwrap();
    assert!(!pod_dir.exists());
}

#[test]
fn what_the_kubelet_made_is_labelled_for_the_pod_and_nothing_of_the_node() {
    let spec = pod(object!({ "volumes": [
        { "name": "own", "emptyDir": {} }, { "name": "written", "secret": {} }, { "name": "host", "hostPath": { "path": "/" } },
        { "name": "image", "image": {} }, { "name": "claim", "persistentVolumeClaim": {} },
    ] }));
    let names = ["own", "written", "host", "image", "claim"];
    let asked: Vec<Value> = names.iter().map(|name| object!({ "name": (*name), "mountPath": (format!("{name}")) })).collect();
    let container = object!({ "name": "c", "volumeMounts": asked });
    let mount = |name: &&str| fram_cri::Mount { container_path: format!("/{name}"), ..fram_cri::Mount::default() };
    let mut mounts: Vec<_> = names.iter().chain(&["etc/hosts"]).map(mount).collect();
    relabel(&spec, &container, &mut mounts);
    assert_eq!(mounts.iter().map(|m| m.selinux_relabel).collect::<Vec<_>>(), [true, true, false, false, false, true]);
}

#[test]
fn volumes_of_storage_systems_are_refused_by_name() {
    let (_keep, pod_dir) = dir();
    let volume = object!({ "name": "v", "nfs": { "server": "s", "path": "/" } });
    let error = set_up(&pod(object!({})), &volume, &pod_dir, None).unwrap_err();
    assert!(failure_message(&volume, &error).starts_with("MountVolume.SetUp failed for volume \"v\" : no volume plugin matched"));
}
