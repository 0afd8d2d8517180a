//! The OCI command line as its callers use it, on bundles made here of busybox. The subject may be another runtime, named by
//! `OCI_RUNTIME`, so that what is expected can be held against runc.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

struct Rig {
    directory: tempfile::TempDir,
    id: String,
}

impl Rig {
    /// A bundle whose container runs a shell script.
    fn new(id: &str, script: &str) -> Rig {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("rootfs");
        for folder in ["bin", "proc", "dev", "sys", "tmp"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        for name in ["sh", "id", "sleep", "cat", "echo", "true", "grep", "test", "touch"] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
        }
        let rig = Rig { directory, id: format!("fram-test-{id}-{}", std::process::id()) };
        rig.configure(json!({
            "ociVersion": "1.0.2",
            "process": { "args": ["sh", "-c", script], "cwd": "/", "env": ["PATH=/bin"], "user": { "uid": 0, "gid": 0 } },
            "root": { "path": "rootfs" },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs" },
            ],
            "linux": { "namespaces": [{ "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "uts" }, { "type": "network" }] },
        }));
        rig
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn configure(&self, specification: Value) {
        fs::write(self.path().join("config.json"), specification.to_string()).unwrap();
    }

    fn change(&self, change: impl FnOnce(&mut Value)) {
        let mut specification: Value = serde_json::from_slice(&fs::read(self.path().join("config.json")).unwrap()).unwrap();
        change(&mut specification);
        self.configure(specification);
    }

    fn command(&self, words: &[&str]) -> Command {
        let program = std::env::var("OCI_RUNTIME").unwrap_or_else(|_| env!("CARGO_BIN_EXE_fram-oci").into());
        let mut command = Command::new(program);
        command.arg("--root").arg(self.path().join("state")).args(words).current_dir(self.path());
        command
    }

    fn ask(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    fn run(&self, words: &[&str]) -> String {
        let output = self.ask(words);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn refused(&self, words: &[&str]) -> String {
        let output = self.ask(words);
        assert!(!output.status.success(), "{words:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Makes the container with its output in a file.
    fn create(&self) {
        let output = fs::File::create(self.path().join("output")).unwrap();
        let mut command = self.command(&["create", "--bundle", ".", "--pid-file", "pid", &self.id]);
        let status = command.stdin(Stdio::null()).stdout(output).status().unwrap();
        assert!(status.success());
    }

    fn status(&self) -> String {
        let state: Value = serde_json::from_str(&self.run(&["state", &self.id])).unwrap();
        state["status"].as_str().unwrap().to_owned()
    }

    /// The container's process is the child of nobody here.
    fn wait_until_stopped(&self) {
        let pid: i32 = fs::read_to_string(self.path().join("pid")).unwrap().parse().unwrap();
        assert!(ends(pid), "the container does not stop");
        assert_eq!(self.status(), "stopped");
    }

    fn output(&self) -> String {
        fs::read_to_string(self.path().join("output")).unwrap()
    }
}

/// Whether a process ends within a while; one that is not there has.
fn ends(pid: i32) -> bool {
    // SAFETY: takes numbers only.
    let process = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as i32;
    if process == -1 {
        return true;
    }
    let mut event = libc::pollfd { fd: process, events: libc::POLLIN, revents: 0 };
    // SAFETY: one structure, which lives until the call returns.
    let came = unsafe { libc::poll(&mut event, 1, 20_000) };
    // SAFETY: a descriptor that is this function's.
    unsafe { libc::close(process) };
    came == 1
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.ask(&["delete", "--force", &self.id]);
    }
}

#[test]
fn a_container_is_created_started_killed_and_deleted() {
    let rig = Rig::new("life", "trap 'exit 3' TERM; echo up; while :; do sleep 1; done");
    rig.create();
    let state: Value = serde_json::from_str(&rig.run(&["state", &rig.id])).unwrap();
    assert_eq!((state["status"].as_str(), state["id"].as_str()), (Some("created"), Some(&*rig.id)));
    assert_eq!(state["bundle"].as_str(), rig.path().canonicalize().unwrap().to_str());
    for place in [rig.path().join("state"), rig.path().join("state").join(&rig.id)] {
        assert_eq!(fs::metadata(&place).unwrap().permissions().mode() & 0o066, 0, "{place:?}");
    }
    assert_eq!(state["pid"].to_string(), fs::read_to_string(rig.path().join("pid")).unwrap());
    assert!(rig.refused(&["create", "--bundle", ".", &rig.id]).contains("exist"));
    assert_eq!(rig.output(), "");
    rig.run(&["start", &rig.id]);
    assert_eq!(rig.status(), "running");
    assert!(rig.refused(&["start", &rig.id]).contains("running"));
    assert!(rig.refused(&["delete", &rig.id]).contains("not stopped"));
    let pids: Vec<u32> = serde_json::from_str(&rig.run(&["ps", "--format", "json", &rig.id])).unwrap();
    assert!(pids.contains(&state["pid"].as_u64().unwrap().try_into().unwrap()));
    rig.run(&["kill", &rig.id, "KILL"]);
    rig.wait_until_stopped();
    assert!(rig.refused(&["kill", &rig.id, "KILL"]).contains("container not running"));
    rig.run(&["delete", &rig.id]);
    assert!(rig.refused(&["state", &rig.id]).contains("does not exist"));
    rig.run(&["delete", "--force", &rig.id]);
    let left = Path::new("/sys/fs/cgroup/pids/fram-oci").join(&rig.id);
    assert!(!left.exists(), "{left:?}");
}

#[test]
fn hooks_run_at_their_moments_and_are_told_the_state() {
    let rig = Rig::new("hooks", "cat /proc/1/comm > /hooks-seen; exit 0");
    let note = |name: &str, inside: bool| {
        let place = if inside { PathBuf::from("/log") } else { rig.path().join("rootfs/log") };
        let script = format!("read state; echo \"{name} $state\" >> {}", place.display());
        json!([{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"] }])
    };
    rig.change(|spec| {
        spec["hooks"] = json!({
            "prestart": note("prestart", false), "createRuntime": note("createRuntime", false),
            "createContainer": note("createContainer", false), "startContainer": note("startContainer", true),
            "poststart": note("poststart", false), "poststop": note("poststop", false),
        });
    });
    let log = || fs::read_to_string(rig.path().join("rootfs/log")).unwrap_or_default();
    let stages = || log().lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>();
    rig.create();
    assert_eq!(stages(), ["prestart", "createRuntime", "createContainer"]);
    rig.run(&["start", &rig.id]);
    assert_eq!(stages()[3..], ["startContainer", "poststart"]);
    rig.wait_until_stopped();
    rig.run(&["delete", &rig.id]);
    assert_eq!(stages()[5..], ["poststop"]);
    for line in log().lines() {
        let (stage, state) = line.split_once(' ').unwrap();
        let state: Value = serde_json::from_str(state).unwrap();
        let status = match stage {
            "poststart" => "running",
            "poststop" => "stopped",
            _ => "created",
        };
        assert_eq!(
            (state["id"].as_str(), state["bundle"].as_str(), state["status"].as_str()),
            (Some(&*rig.id), rig.path().canonicalize().unwrap().to_str(), Some(status)),
            "{line}"
        );
    }
}

#[test]
fn a_bundle_without_a_mount_of_dev_runs_again_and_again() {
    let rig = Rig::new("nodev", "test -c /dev/null && readlink /dev/fd");
    rig.change(|spec| spec["mounts"] = json!([{ "destination": "/proc", "type": "proc", "source": "proc" }]));
    fs::remove_dir(rig.path().join("rootfs/dev")).unwrap();
    fs::create_dir_all(rig.path().join("rootfs/usr/bin")).unwrap();
    std::os::unix::fs::symlink("../../bin/busybox", rig.path().join("rootfs/usr/bin/readlink")).unwrap();
    rig.change(|spec| spec["process"]["env"] = json!(["PATH=/bin:/usr/bin"]));
    for _ in 0..2 {
        assert_eq!(rig.run(&["run", "--bundle", ".", &rig.id]).trim(), "/proc/self/fd");
    }
}

#[test]
fn the_dev_of_a_root_is_not_taken_from_a_container_that_uses_it() {
    let rig = Rig::new("shareddev", "test -c /dev/null && echo there");
    let second = format!("{}-second", rig.id);
    rig.change(|spec| spec["mounts"] = json!([{ "destination": "/proc", "type": "proc", "source": "proc" }]));
    rig.create();
    let error = rig.refused(&["run", "--bundle", ".", &second]);
    assert!(error.contains(&rig.id) && error.contains("/dev"), "{error}");
    assert!(rig.refused(&["state", &second]).contains("does not exist"));
    rig.run(&["start", &rig.id]);
    rig.wait_until_stopped();
    assert_eq!(rig.output().trim(), "there");
    assert_eq!(rig.run(&["run", "--bundle", ".", &second]).trim(), "there", "nobody uses it any more");
}

#[test]
fn a_root_is_propagated_as_asked_in_the_forms_that_containerd_writes_too() {
    let rig = Rig::new("propagation", "grep ' / / ' /proc/self/mountinfo || grep ' / ' /proc/self/mountinfo");
    for (form, expect) in [("rslave", false), ("slave", false), ("rprivate", false), ("rshared", true), ("shared", true)] {
        rig.change(|spec| spec["linux"]["rootfsPropagation"] = json!(form));
        let said = rig.run(&["run", "--bundle", ".", &rig.id]);
        assert_eq!(said.lines().next().unwrap().contains(" shared:"), expect, "{form}: {said}");
    }
}

#[test]
fn a_container_without_the_oom_killer_has_none_where_cgroups_know_that() {
    let rig = Rig::new("oom", "sleep 100");
    let cgroup = format!("/fram-oci/{}", rig.id);
    for disabled in [false, true] {
        rig.change(|spec| spec["linux"]["resources"] = json!({ "memory": { "limit": 64 << 20, "disableOOMKiller": disabled } }));
        rig.create();
        let hierarchy = Path::new("/sys/fs/cgroup/memory");
        if hierarchy.is_dir() {
            let said = fs::read_to_string(hierarchy.join(&cgroup[1..]).join("memory.oom_control")).unwrap();
            assert_eq!(said.contains("oom_kill_disable 1"), disabled, "{said}");
        } else {
            // Version 2 has no such switch: the container is made all the same, below its limit, where the killer still comes.
            let unified = Path::new("/sys/fs/cgroup").join(&cgroup[1..]);
            assert_eq!(fs::read_to_string(unified.join("memory.max")).unwrap().trim(), (64 << 20).to_string());
            assert!(fs::read_to_string(unified.join("memory.events")).unwrap().contains("oom_kill "));
        }
        rig.run(&["delete", "--force", &rig.id]);
    }
}

#[test]
fn a_hook_that_fails_before_the_start_leaves_no_container() {
    let rig = Rig::new("hookfail", "exit 0");
    rig.change(|spec| spec["hooks"] = json!({ "createRuntime": [{ "path": "/bin/false" }] }));
    let error = rig.refused(&["create", "--bundle", ".", &rig.id]);
    assert!(error.contains("/bin/false") || error.contains("hook"), "{error}");
    assert!(rig.refused(&["state", &rig.id]).contains("does not exist"));
}

#[test]
fn rights_and_filter_of_the_bundle_are_those_of_the_process() {
    let rig = Rig::new("rights", "grep -E 'Cap|NoNew|Seccomp:' /proc/self/status; id; exit 0");
    let sets = json!(["CAP_KILL", "CAP_CHOWN"]);
    rig.change(|spec| {
        spec["process"]["capabilities"] = json!({ "bounding": sets, "permitted": sets, "effective": ["CAP_KILL"] });
        spec["process"]["user"] = json!({ "uid": 0, "gid": 7, "additionalGids": [8] });
        spec["linux"]["seccomp"] =
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{ "names": ["reboot"], "action": "SCMP_ACT_ERRNO" }] });
    });
    rig.create();
    rig.run(&["start", &rig.id]);
    rig.wait_until_stopped();
    let output = rig.output();
    for line in ["CapBnd:\t0000000000000021", "CapPrm:\t0000000000000021", "NoNewPrivs:\t0", "Seccomp:\t2", "gid=7", "8"] {
        assert!(output.contains(line), "{line} in {output}");
    }
}

#[test]
fn a_command_that_is_not_there_is_told_at_once_and_one_that_cannot_run_at_the_start() {
    let rig = Rig::new("nocommand", "");
    rig.change(|spec| spec["process"]["args"] = json!(["absent"]));
    assert!(rig.refused(&["create", "--bundle", ".", &rig.id]).contains("executable file not found in $PATH"));
    let text = rig.path().join("rootfs/bin/text");
    fs::write(&text, "#!/absent\n").unwrap();
    fs::set_permissions(&text, fs::Permissions::from_mode(0o755)).unwrap();
    rig.change(|spec| spec["process"]["args"] = json!(["text"]));
    rig.create();
    assert!(rig.refused(&["start", &rig.id]).contains("text"));
    rig.wait_until_stopped();
}

#[test]
fn further_processes_run_in_the_container_with_their_own_exit_codes() {
    let rig = Rig::new("exec", "trap 'exit 0' TERM; while :; do sleep 1; done");
    rig.create();
    assert!(!rig.ask(&["exec", &rig.id, "true"]).status.success(), "it has not started");
    rig.run(&["start", &rig.id]);
    assert_eq!(
        rig.run(&["exec", "-e", "A=b", "--cwd", "/bin", &rig.id, "sh", "-c", "echo $A $PWD $$"]).split(' ').take(2).collect::<Vec<_>>(),
        ["b", "/bin"]
    );
    assert_eq!(rig.ask(&["exec", &rig.id, "sh", "-c", "exit 7"]).status.code(), Some(7));
    assert_eq!(rig.ask(&["exec", &rig.id, "absent"]).status.code(), Some(255));
    fs::write(
        rig.path().join("process.json"),
        json!({ "args": ["touch", "/made"], "cwd": "/", "env": ["PATH=/bin"], "user": { "uid": 0, "gid": 0 } }).to_string(),
    )
    .unwrap();
    rig.run(&["exec", "--process", "process.json", &rig.id]);
    assert!(rig.path().join("rootfs/made").exists());
    rig.run(&["pause", &rig.id]);
    assert_eq!(rig.status(), "paused");
    assert!(!rig.ask(&["exec", &rig.id, "true"]).status.success(), "it is paused");
    rig.run(&["resume", &rig.id]);
    rig.run(&["update", "--pids-limit", "50", &rig.id]);
    rig.run(&["delete", "--force", &rig.id]);
}

#[test]
fn a_new_mount_has_what_the_image_has_there_where_that_is_asked_for() {
    let rig = Rig::new(
        "copy",
        "cat /data/folder/file; test -L /data/out; test -u /data/folder/file; echo x > /data/new; cat /outside/file; cat /fixed/file; ! echo x > /fixed/file",
    );
    let (data, outside) = (rig.path().join("rootfs/data"), rig.path().join("rootfs/outside"));
    fs::create_dir_all(data.join("folder")).unwrap();
    fs::create_dir_all(&outside).unwrap();
    fs::write(data.join("folder/file"), "of the image\n").unwrap();
    fs::set_permissions(data.join("folder/file"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::write(outside.join("file"), "inside\n").unwrap();
    fs::create_dir_all(rig.path().join("rootfs/fixed")).unwrap();
    fs::write(rig.path().join("rootfs/fixed/file"), "fixed\n").unwrap();
    std::os::unix::fs::symlink("/outside", data.join("out")).unwrap();
    rig.change(|spec| {
        let tmpfs = |place: &str| json!({ "destination": place, "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "tmpcopyup"] });
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.extend([tmpfs("/data"), tmpfs("/nothing/there")]);
        // One that nobody may write to still has it.
        mounts.push(json!({ "destination": "/fixed", "type": "tmpfs", "source": "tmpfs", "options": ["ro", "tmpcopyup"] }));
    });
    rig.create();
    rig.run(&["start", &rig.id]);
    rig.wait_until_stopped();
    assert_eq!(rig.output(), "of the image\ninside\nfixed\n");
    assert!(!data.join("new").exists());
    rig.run(&["delete", &rig.id]);
}

#[test]
fn an_id_that_is_only_claimed_has_no_processes_and_no_limits() {
    let rig = Rig::new("claimed", "");
    fs::create_dir_all(rig.path().join("state").join(&rig.id)).unwrap();
    // A signal that ends nothing, should it go further than it may.
    for words in [&["kill", "--all", &rig.id, "URG"][..], &["kill", &rig.id, "URG"], &["ps", &rig.id], &["update", &rig.id]] {
        assert!(rig.refused(words).contains("container not running"), "{words:?}");
    }
    rig.run(&["delete", "--force", &rig.id]);
    assert!(rig.refused(&["state", &rig.id]).contains("does not exist"));
}

#[test]
fn a_cgroup_with_processes_of_others_is_refused_and_left_alone() {
    let first = Rig::new("owner", "trap 'exit 0' TERM; while :; do sleep 1; done");
    first.create();
    let second = Rig::new("guest", "exit 0");
    // Its own, and one that holds it.
    let parent = format!("/fram-test-{}", std::process::id());
    let third = Rig::new("nested", "trap 'exit 0' TERM; while :; do sleep 1; done");
    third.change(|spec| spec["linux"]["cgroupsPath"] = json!(format!("{parent}/inside")));
    third.create();
    for path in [format!("/fram-oci/{}", first.id), parent.clone()] {
        second.change(|spec| spec["linux"]["cgroupsPath"] = json!(path));
        assert!(second.refused(&["create", "--bundle", ".", &second.id]).contains("container's cgroup is not empty"), "{path}");
        assert!(second.refused(&["state", &second.id]).contains("does not exist"));
    }
    assert_eq!((first.status(), third.status()), ("created".into(), "created".into()));
    third.run(&["delete", "--force", &third.id]);
    // What held it is empty now, and goes with who uses it next.
    second.create();
    second.run(&["delete", "--force", &second.id]);
}

#[test]
fn further_processes_of_a_container_in_a_user_namespace_are_in_it_too() {
    let rig = Rig::new("userns", "sleep 600; exit 0");
    rig.change(|spec| {
        spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
        let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 1000 }]);
        spec["linux"]["uidMappings"] = map.clone();
        spec["linux"]["gidMappings"] = map;
    });
    fs::set_permissions(rig.path(), fs::Permissions::from_mode(0o755)).unwrap();
    rig.create();
    rig.run(&["start", &rig.id]);
    let inside = |words: &[&str]| rig.run(&[&["exec"], words].concat());
    assert_eq!(inside(&[&rig.id, "id", "-u"]), "0\n");
    let map = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(map(&inside(&[&rig.id, "cat", "/proc/self/uid_map"])), ["0", "100000", "1000"]);
    assert_eq!(
        inside(&["--user", "7:8", &rig.id, "sh", "-c", "id -u; id -g; grep CapEff /proc/self/status"]),
        "7\n8\nCapEff:\t0000000000000000\n"
    );
    let pid = fs::read_to_string(rig.path().join("pid")).unwrap();
    assert_eq!(map(&fs::read_to_string(format!("/proc/{pid}/uid_map")).unwrap()), ["0", "100000", "1000"]);
}

#[test]
fn what_a_killed_creator_leaves_can_be_deleted() {
    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
    let rig = Rig::new("killed", "exit 0");
    // The pid file comes last, when the container's process waits to be started: here it is a pipe that takes no more.
    let pipe = rig.path().join(".pid.new");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut full = fs::OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(&pipe).unwrap();
    while full.write(&[0; 4096]).is_ok() {}
    let opened = Inotify::init(InitFlags::empty()).unwrap();
    opened.add_watch(&pipe, AddWatchFlags::IN_OPEN).unwrap();
    let mut command = rig.command(&["create", "--bundle", ".", "--pid-file", "pid", &rig.id]);
    let mut creator = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    opened.read_events().unwrap();
    creator.kill().unwrap();
    creator.wait().unwrap();
    assert_eq!(rig.status(), "created");
    let mut delete = rig.command(&["delete", "--force", &rig.id]).spawn().unwrap();
    let ended = ends(delete.id().try_into().unwrap());
    let _ = delete.kill();
    assert!(ended, "delete waits for a creator that is gone");
    assert!(delete.wait().unwrap().success());
    assert!(rig.refused(&["state", &rig.id]).contains("does not exist"));
}

#[test]
fn run_waits_and_gives_the_exit_code_of_the_container() {
    let rig = Rig::new("run", "echo here; exit 5");
    let output = rig.ask(&["run", "--bundle", ".", &rig.id]);
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stdout).as_ref()), (Some(5), "here\n"));
    assert!(rig.refused(&["state", &rig.id]).contains("does not exist"));
}

#[test]
fn a_terminal_is_handed_over_or_refused() {
    let rig = Rig::new("tty", "test -t 0 && echo yes");
    rig.change(|spec| {
        spec["process"]["terminal"] = json!(true);
        let pts = json!({ "destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"] });
        spec["mounts"].as_array_mut().unwrap().push(pts);
    });
    assert!(rig.refused(&["create", "--bundle", ".", &rig.id]).contains("console-socket"));
    let output = rig.ask(&["run", "--bundle", ".", &rig.id]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "yes\r\n", "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn what_is_not_supported_is_refused_in_words() {
    let rig = Rig::new("refused", "");
    assert!(rig.refused(&["--systemd-cgroup", "create", "--bundle", ".", &rig.id]).contains("systemd"));
    assert!(rig.refused(&["checkpoint", &rig.id]).contains("criu"));
    assert!(rig.refused(&["state", "../x"]).contains("invalid container ID"));
    let log = rig.path().join("log");
    rig.refused(&["--log", "log", "--log-format", "json", "start", "absent"]);
    let line: Value = serde_json::from_str(&fs::read_to_string(log).unwrap()).unwrap();
    assert_eq!((line["level"].as_str(), line["msg"].as_str()), (Some("error"), Some("container does not exist")));
}

#[test]
fn podman_runs_containers_on_it() {
    let rig = Rig::new("podman", "");
    let place = |name: &str| rig.path().join(name).display().to_string();
    let podman = |words: &[&str]| {
        let mut command = Command::new("podman");
        command.args(["--runtime", env!("CARGO_BIN_EXE_fram-oci"), "--cgroup-manager", "cgroupfs", "--events-backend", "none"]);
        command.args(["--storage-driver", "vfs", "--root", &place("storage"), "--runroot", &place("run")]);
        command.args(words).output().unwrap()
    };
    let root = place("rootfs");
    // Its own default asks for more open files than every machine's root may give.
    let few = ["--ulimit", "nofile=1000:1000", "--ulimit", "nproc=1000:1000", "--network", "none"];
    let run = |words: &[&str], command: &[&str]| podman(&[&["run"], words, &few, &["--rootfs", &root], command].concat());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let once = run(&["--rm"], &["sh", "-c", "echo here; exit 3"]);
    assert_eq!((once.status.code(), text(&once.stdout)), (Some(3), "here\n".into()), "{}", text(&once.stderr));
    assert_eq!(run(&["--rm"], &["absent"]).status.code(), Some(127));
    let scratch =
        run(&["--rm", "--read-only", "--tmpfs", "/scratch"], &["sh", "-c", "echo x > /scratch/a && echo x > /b || cat /scratch/a"]);
    assert_eq!(text(&scratch.stdout), "x\n", "{}", text(&scratch.stderr));
    let long = run(&["--detach", "--name", "long"], &["sleep", "600"]);
    assert!(long.status.success(), "{}", text(&long.stderr));
    let inside = podman(&["exec", "long", "cat", "/proc/1/comm"]);
    assert_eq!(text(&inside.stdout), "sleep\n", "{}", text(&inside.stderr));
    for words in [&["pause", "long"][..], &["unpause", "long"], &["kill", "long"], &["wait", "long"], &["rm", "--force", "long"]] {
        let done = podman(words);
        assert!(done.status.success(), "{words:?}: {}", text(&done.stderr));
    }
}
