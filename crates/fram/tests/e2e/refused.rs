//! Starts that must fail: with a message that says why, and with nothing left behind.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// What the program says when it does not start, and that it left no data.
#[track_caller]
fn refused(mut command: Command, data: &Path) -> String {
    let output = command.arg("--data-dir").arg(data).output().unwrap();
    assert!(!output.status.success());
    assert!(!data.exists(), "a failed start left {}", data.display());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_port_in_use_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_fram"));
    command.args(["up", "--listen", &address]);
    let said = refused(command, &folder.path().join("data"));
    assert!(said.contains(&format!("cannot listen on {address}")) && said.contains("in use"), "{said}");
}

#[test]
fn a_user_who_is_not_root_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("fram");
    std::fs::copy(env!("CARGO_BIN_EXE_fram"), &program).unwrap();
    let mut command = Command::new(&program);
    command.uid(65534).gid(65534).arg("up");
    let said = refused(command, &folder.path().join("data"));
    assert!(said.contains("a node is run by root"), "{said}");
}

#[test]
fn agents_cannot_be_asked_to_a_loopback_address() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_fram"));
    command.args(["server", "--listen", "127.0.0.1:0"]);
    let said = refused(command, &folder.path().join("data"));
    assert!(said.contains("agents cannot reach 127.0.0.1:0"), "{said}");
}
