//! An image made of Debian's static busybox, as an OCI layout.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use sha2::{Digest, Sha256};

const BUSYBOX: &str = "/bin/busybox";

fn put(layout: &Path, bytes: &[u8]) -> (String, usize) {
    let name: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    std::fs::write(layout.join("blobs/sha256").join(&name), bytes).unwrap();
    (format!("sha256:{name}"), bytes.len())
}

/// A folder with the layout.
pub(crate) fn busybox(folder: &Path) -> PathBuf {
    let (root, layout) = (folder.join("rootfs"), folder.join("layout"));
    std::fs::create_dir_all(root.join("bin")).unwrap();
    std::fs::create_dir_all(root.join("tmp")).unwrap();
    std::fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    std::fs::copy(BUSYBOX, root.join("bin/busybox")).unwrap();
    std::fs::set_permissions(root.join("bin/busybox"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let applets = Command::new(BUSYBOX).arg("--list").output().unwrap();
    for applet in String::from_utf8(applets.stdout).unwrap().lines().filter(|a| *a != "busybox") {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    let layer = Command::new("tar").args(["--owner=0", "--group=0", "-C"]).arg(&root).args(["-cf", "-", "."]).output().unwrap();
    assert!(layer.status.success());
    let (layer, layer_size) = put(&layout, &layer.stdout);
    let config = json!({ "architecture": "amd64", "os": "linux", "config": { "Env": ["PATH=/bin"], "Cmd": ["sh"] },
        "rootfs": { "type": "layers", "diff_ids": [layer] } });
    let (config, config_size) = put(&layout, &serde_json::to_vec(&config).unwrap());
    let oci = "application/vnd.oci.image";
    let manifest = json!({ "schemaVersion": 2, "mediaType": format!("{oci}.manifest.v1+json"),
        "config": { "mediaType": format!("{oci}.config.v1+json"), "digest": config, "size": config_size },
        "layers": [{ "mediaType": format!("{oci}.layer.v1.tar"), "digest": layer, "size": layer_size }] });
    let (manifest, size) = put(&layout, &serde_json::to_vec(&manifest).unwrap());
    let index =
        json!({ "schemaVersion": 2, "manifests": [{ "mediaType": format!("{oci}.manifest.v1+json"), "digest": manifest, "size": size }] });
    std::fs::write(layout.join("index.json"), serde_json::to_vec(&index).unwrap()).unwrap();
    std::fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    layout
}
