//! What a container finds when it runs: its users, files, limits and logs.

use std::fs;

use fram_cri::*;
use fram_runtime::{Runtime, RuntimeConfig};

use crate::support::*;

#[tokio::test]
async fn a_process_gets_the_user_groups_and_directory_that_were_asked_for() {
    let node = Node::new();
    let runtime = node.open().await;
    let mut config = shell("main", "id -u; id -g; id -G; pwd; echo $HOME $FOO $HOSTNAME; hostname");
    config.security_context.run_as_username = "web".into();
    config.security_context.supplemental_groups = vec![77];
    config.working_dir = "/made/for/it".into();
    config.envs = vec![KeyValue { key: "FOO".into(), value: "bar baz".into() }];
    let (status, log) = run(&node, &runtime, &config).await;
    assert_eq!(
        log,
        [
            "stdout F 1000",
            "stdout F 1000",
            "stdout F 1000 77 2000",
            "stdout F /made/for/it",
            "stdout F / bar baz pod-main",
            "stdout F pod-main",
        ]
    );
    let user = ContainerUser { uid: 1000, gid: 1000, supplemental_groups: vec![1000, 2000, 77] };
    assert_eq!(status.user, Some(user));
}

#[tokio::test]
async fn a_user_who_is_not_root_can_open_its_streams_anew() {
    let node = Node::new();
    let runtime = node.open().await;
    let mut config = shell("main", "echo out > /dev/stdout; echo err > /dev/stderr; sleep 1000");
    config.security_context.run_as_user = Some(1000);
    let sandbox = node.sandbox(&runtime, "web").await;
    let id = start(&runtime, &sandbox, &config).await;
    let command = ["sh", "-c", "echo joined > /dev/stdout"].map(str::to_owned);
    let answer = runtime.exec_sync(&id, &command, Some(LONG)).await.unwrap();
    assert_eq!((answer.exit_code, answer.stdout.as_slice()), (0, &b"joined\n"[..]), "{}", String::from_utf8_lossy(&answer.stderr));
    runtime.stop_container(&id, std::time::Duration::ZERO).await.unwrap();
    let mut log = node.log("web", "main.log");
    log.sort();
    assert_eq!(log, ["stderr F err", "stdout F out"]);
}

#[tokio::test]
async fn a_container_s_own_layer_holds_what_it_wrote_and_nothing_that_something_is_mounted_on() {
    let node = Node::new();
    let runtime = node.open().await;
    let list = "echo mine > /own; for place in /dev /etc /proc /sys /etc/hosts; do busybox stat -c '%a %n' $place; done";
    let config = ContainerConfig { image: ImageSpec::new("bare"), ..shell("main", list) };
    let sandbox = node.sandbox(&runtime, "web").await;
    let id = start(&runtime, &sandbox, &config).await;
    ended(&runtime, &id).await;
    let upper = node.dir.path().join("state/sandboxes").join(&sandbox).join("containers").join(&id).join("upper");
    let written: Vec<_> = fs::read_dir(upper).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(written, ["own"]);
    let modes = ["755 /dev", "755 /etc", "555 /proc", "555 /sys", "644 /etc/hosts"].map(|line| format!("stdout F {line}"));
    assert_eq!(node.log("web", "main.log"), modes);
    runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    node.assert_nothing_is_left();
}

#[tokio::test]
async fn exceeding_the_memory_limit_is_oom_killed() {
    let node = Node::new();
    let runtime = node.open().await;
    let mut config = shell("main", "x=a; while :; do x=$x$x; done");
    config.resources.memory_limit_in_bytes = 16 << 20;
    let (status, _) = run(&node, &runtime, &config).await;
    assert_eq!((status.exit_code, status.reason), (137, Some(ContainerReason::OomKilled)));
    node.assert_nothing_is_left();
}

#[tokio::test]
async fn with_a_process_that_is_oom_killed_the_others_end_where_the_kernel_can_do_that() {
    let node = Node::new();
    let runtime = node.open().await;
    let mut config = shell("main", "(x=a; while :; do x=$x$x; done); echo alone; exit 5");
    config.resources.memory_limit_in_bytes = 16 << 20;
    config.resources.unified = [("memory.oom.group".to_owned(), "1".to_owned())].into();
    let (status, log) = run(&node, &runtime, &config).await;
    let told = log.iter().any(|line| line.ends_with("alone"));
    assert_eq!((status.exit_code, told), if is_v2() { (137, false) } else { (5, true) });
    if is_v2() {
        assert_eq!(status.reason, Some(ContainerReason::OomKilled));
    }
    node.assert_nothing_is_left();
}

/// Whether the machine has cgroups of version 2 and no others.
fn is_v2() -> bool {
    std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

enum Limit {
    Memory,
    Shares,
    Quota,
    Pids,
}

impl Limit {
    /// Where the kernel shows it for a cgroup.
    fn file(&self, cgroup: &str) -> std::path::PathBuf {
        let (controller, v1, v2) = match self {
            Limit::Memory => ("memory", "memory.limit_in_bytes", "memory.max"),
            Limit::Shares => ("cpu", "cpu.shares", "cpu.weight"),
            Limit::Quota => ("cpu", "cpu.cfs_quota_us", "cpu.max"),
            Limit::Pids => ("pids", "pids.max", "pids.max"),
        };
        let (root, file) = if is_v2() { (String::new(), v2) } else { (format!("/{controller}"), v1) };
        format!("/sys/fs/cgroup{root}{cgroup}/{file}").into()
    }
}

#[tokio::test]
async fn limits_are_those_of_the_cgroup_and_can_be_changed() {
    let node = Node::new();
    let runtime = node.open().await;
    let sandbox = node.sandbox(&runtime, "web").await;
    let mut config = shell("main", "sleep 1000");
    config.resources = LinuxContainerResources { memory_limit_in_bytes: 64 << 20, cpu_shares: 512, pids_limit: 30, ..Default::default() };
    let id = start(&runtime, &sandbox, &config).await;
    let read = |limit: Limit| fs::read_to_string(limit.file(&format!("{}/pods/{id}", node.cgroup))).unwrap().trim().to_owned();
    assert_eq!(read(Limit::Memory), (64 << 20).to_string());
    assert_eq!(read(Limit::Shares), if is_v2() { "59" } else { "512" });
    assert_eq!(read(Limit::Pids), "30");
    let (memory, pids) = (Limit::Memory.file(""), Limit::Pids.file(""));
    let inside = format!("cat {}; echo 1 > {} || echo refused", memory.display(), pids.display());
    let inside = runtime.exec_sync(&id, &["sh".into(), "-c".into(), inside], Some(LONG)).await.unwrap();
    assert_eq!(String::from_utf8(inside.stdout).unwrap(), format!("{}\nrefused\n", 64 << 20));
    let change = LinuxContainerResources { memory_limit_in_bytes: 32 << 20, cpu_quota: 50_000, ..Default::default() };
    runtime.update_container_resources(&id, &change).await.unwrap();
    assert_eq!(read(Limit::Memory), (32 << 20).to_string());
    assert_eq!(read(Limit::Quota), if is_v2() { "50000 100000" } else { "50000" });
    let resources = runtime.container_status(&id).await.unwrap().resources;
    assert_eq!((resources.memory_limit_in_bytes, resources.cpu_shares), (32 << 20, 512));

    let stats = runtime.container_stats(&id).await.unwrap();
    assert!(stats.memory.usage_bytes.unwrap() > 0 && stats.memory.working_set_bytes.unwrap() <= 32 << 20);
    assert!(stats.cpu.usage_core_nano_seconds.unwrap() > 0);
    let pods = runtime.list_pod_sandbox_stats(&PodSandboxStatsFilter::default()).await.unwrap();
    assert_eq!(pods.len(), 1);
    assert_eq!(pods[0].containers[0].attributes.id, id);
    assert!(pods[0].process.process_count.unwrap() >= 1);
    runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    node.assert_nothing_is_left();
}

#[tokio::test]
async fn what_the_kernel_counts_is_told_by_the_names_that_are_described() {
    let node = Node::new();
    let runtime = node.open().await;
    let sandbox = node.sandbox(&runtime, "web").await;
    let mut config = shell("main", "exec 3</dev/null; sleep 1000");
    config.resources = LinuxContainerResources {
        memory_limit_in_bytes: 64 << 20,
        cpu_shares: 1024,
        cpu_quota: 50_000,
        pids_limit: 30,
        ..Default::default()
    };
    let id = start(&runtime, &sandbox, &config).await;
    let described = runtime.list_metric_descriptors().await.unwrap();
    let pods = runtime.list_pod_sandbox_metrics().await.unwrap();
    assert_eq!((pods.len(), pods[0].pod_sandbox_id.as_str(), pods[0].container_metrics[0].container_id.as_str()), (1, &*sandbox, &*id));
    let told: Vec<&Metric> = pods[0].metrics.iter().chain(&pods[0].container_metrics[0].metrics).collect();
    for metric in &told {
        let keys = &described.iter().find(|of| of.name == metric.name).unwrap().label_keys;
        assert_eq!(keys.len(), metric.label_values.len(), "{metric:?}");
    }
    // What needs a controller, an interface, a disk that was read, or a kernel that counts pressure by cgroup.
    let may_lack = ["hugetlb", "pressure", "network", "blkio", "fs_reads", "fs_writes"];
    let lacks: Vec<&str> = described.iter().map(|of| of.name.as_str()).filter(|name| told.iter().all(|it| it.name != *name)).collect();
    assert!(lacks.iter().all(|name| may_lack.iter().any(|part| name.contains(part))), "{lacks:?}");
    let value = |name: &str| pods[0].container_metrics[0].metrics.iter().find(|it| it.name == name).unwrap().value;
    for (name, expect) in [
        ("container_spec_memory_limit_bytes", f64::from(64 << 20)),
        ("container_spec_cpu_shares", 1024.0),
        ("container_spec_cpu_quota", 50_000.0),
        ("container_spec_cpu_period", 100_000.0),
        ("container_threads_max", 30.0),
        ("container_processes", 1.0),
        ("container_oom_events_total", 0.0),
    ] {
        assert_eq!(value(name), expect, "{name}");
    }
    assert!(value("container_file_descriptors") >= 4.0 && value("container_last_seen") >= value("container_start_time_seconds"));
    assert!(value("container_fs_limit_bytes") > value("container_fs_usage_bytes"));
    runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    node.assert_nothing_is_left();
}

#[tokio::test]
async fn mounts_are_read_only_private_or_propagated_as_asked() {
    let node = Node::new();
    let runtime = node.open().await;
    let host = node.dir.path().join("volume");
    fs::create_dir_all(host.join("inner")).unwrap();
    fs::write(host.join("file"), "from the host\n").unwrap();
    let mount =
        |path: &str, readonly| Mount { container_path: path.into(), host_path: host.display().to_string(), readonly, ..Mount::default() };
    let script = "cat /rw/file; echo written > /rw/new; echo x > /ro/new || echo refused; cat /one; \
                  cat /etc/resolv.conf; cat /etc/hostname; grep -c localhost /etc/hosts; cat /dev/termination-log";
    let mut config = shell("main", script);
    let single = Mount { host_path: host.join("file").display().to_string(), ..mount("/one", true) };
    let log_file = Mount { container_path: "/dev/termination-log".into(), ..single.clone() };
    config.mounts = vec![mount("/rw", false), mount("/ro", true), single, log_file];
    let (status, log) = run(&node, &runtime, &config).await;
    assert_eq!(status.exit_code, 0, "{log:?}");
    let out: Vec<&str> = log.iter().filter_map(|line| line.strip_prefix("stdout F ")).collect();
    assert_eq!(out, ["from the host", "refused", "from the host", "nameserver 10.0.0.10", "pod-main", "2", "from the host"]);
    assert_eq!(fs::read_to_string(host.join("new")).unwrap(), "written\n");
    node.assert_nothing_is_left();
}

#[tokio::test]
async fn a_mount_made_on_the_host_reaches_only_containers_that_asked_for_it() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    let node = Node::new();
    let runtime = node.open().await;
    let host = node.dir.path().join("shared");
    fs::create_dir_all(host.join("late")).unwrap();
    fs::create_dir_all(host.join("back")).unwrap();
    let none = None::<&str>;
    mount(Some("tmpfs"), &host, Some("tmpfs"), MsFlags::empty(), none).unwrap();
    mount(none, &host, none, MsFlags::MS_SHARED, none).unwrap();
    fs::create_dir_all(host.join("late")).unwrap();
    fs::create_dir_all(host.join("back")).unwrap();
    let sandbox = node.sandbox(&runtime, "web").await;
    let mut ids = Vec::new();
    for (name, propagation) in
        [("private", MountPropagation::Private), ("slave", MountPropagation::HostToContainer), ("both", MountPropagation::Bidirectional)]
    {
        let mut config = shell(name, "sleep 1000");
        config.security_context.privileged = true;
        let (container_path, host_path) = ("/m".to_owned(), host.display().to_string());
        config.mounts = vec![Mount { container_path, host_path, propagation, ..Mount::default() }];
        ids.push(start(&runtime, &sandbox, &config).await);
    }
    mount(Some("tmpfs"), &host.join("late"), Some("tmpfs"), MsFlags::empty(), none).unwrap();
    fs::write(host.join("late/file"), "").unwrap();
    for (id, sees) in ids.iter().zip([false, true, true]) {
        let seen = runtime.exec_sync(id, &["ls".into(), "/m/late/file".into()], Some(LONG)).await.unwrap();
        assert_eq!(seen.exit_code == 0, sees);
        let command = ["mount", "-t", "tmpfs", "tmpfs", "/m/back"].map(str::to_owned);
        let made = runtime.exec_sync(id, &command, Some(LONG)).await.unwrap();
        assert_eq!(made.exit_code, 0, "{}", String::from_utf8_lossy(&made.stderr));
    }
    let back: Vec<String> = mounts(&host.join("back"));
    runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    for path in ["back", "late", ""] {
        while umount2(&host.join(path), MntFlags::MNT_DETACH).is_ok() {}
    }
    assert_eq!(back.len(), 1, "only the bidirectional container's mount is seen on the host: {back:?}");
    node.assert_nothing_is_left();
}

#[tokio::test]
async fn a_renamed_log_is_continued_in_a_new_file_after_reopening() {
    let node = Node::new();
    let runtime = node.open().await;
    let sandbox = node.sandbox(&runtime, "web").await;
    let mut config = shell("main", "echo one; read line; echo two");
    config.stdin = true;
    let id = start(&runtime, &sandbox, &config).await;
    let stream = runtime.attach(&id, ExecOptions { stdin: true, ..Default::default() }).await.unwrap();
    // The first line is in the log when the pipe is empty, which the shim looks at before it answers the next request.
    let path = node.dir.path().join("logs/web/main.log");
    for _ in 0..1000 {
        if fs::read_to_string(&path).is_ok_and(|text| text.contains("one")) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let old = path.with_extension("old");
    fs::rename(&path, &old).unwrap();
    runtime.reopen_container_log(&id).await.unwrap();
    let mut stdin = stream.stdin.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stdin, b"go\n").await.unwrap();
    assert_eq!(ended(&runtime, &id).await.exit_code, 0);
    assert!(fs::read_to_string(&old).unwrap().ends_with("stdout F one\n"));
    assert!(fs::read_to_string(&path).unwrap().ends_with("stdout F two\n"));
    runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    node.assert_nothing_is_left();
}

#[tokio::test]
async fn all_output_is_in_the_log_when_the_end_is_reported() {
    let node = Node::new();
    let runtime = node.open().await;
    let (status, log) = run(&node, &runtime, &shell("main", "seq 1 20000; printf unfinished")).await;
    assert_eq!(status.exit_code, 0);
    assert_eq!(log.len(), 20001);
    assert_eq!((log[19999].as_str(), log[20000].as_str()), ("stdout F 20000", "stdout P unfinished"));
}

#[tokio::test]
async fn an_image_may_have_many_layers() {
    let node = Node::new();
    let runtime = node.open().await;
    let mut config = shell("main", "cat /top; ls / | grep -c file-; echo new > /top && cat /top");
    config.image = ImageSpec::new("tall");
    let (_, log) = run(&node, &runtime, &config).await;
    assert_eq!(log, ["stdout F 119", "stdout F 119", "stdout F new"]);
    node.assert_nothing_is_left();
}

#[tokio::test]
async fn the_runtimes_directory_may_have_a_long_path() {
    let node = Node::new();
    // Longer than a socket's path and than what fsconfig(2) takes.
    let deep = node.dir.path().join("d".repeat(140)).join("e".repeat(140));
    let config = RuntimeConfig { root: deep, ..node.config() };
    let runtime = Runtime::open(config, node.images.clone(), node.network.clone()).await.unwrap();
    let (status, log) = run(&node, &runtime, &shell("main", "echo new > /here && cat /here")).await;
    assert_eq!((status.exit_code, log), (0, vec!["stdout F new".to_string()]));
}

#[tokio::test]
async fn an_image_can_be_a_volume_whole_or_in_part() {
    let node = Node::new();
    let runtime = node.open().await;
    let volume = |path: &str, image: &str, sub_path: &str| Mount {
        container_path: path.into(),
        image: Some(ImageSpec::new(image)),
        image_sub_path: sub_path.into(),
        readonly: true,
        ..Mount::default()
    };
    let script = "cat /tall/top; cat /part/passwd | wc -l; touch /tall/x || touch /part/x || echo refused";
    let mut config = shell("main", script);
    config.mounts = vec![volume("/tall", "tall", ""), volume("/part", "busybox", "etc")];
    let (_, log) = run(&node, &runtime, &config).await;
    let out: Vec<&str> = log.iter().filter_map(|line| line.strip_prefix("stdout F ")).collect();
    assert_eq!(out, ["119", "2", "refused"], "{log:?}");

    let sandbox = node.sandbox(&runtime, "web").await;
    config.metadata.name = "held".into();
    let id = runtime.create_container(&sandbox, &config, &PodSandboxConfig::default()).await.unwrap();
    // Its root, and two that it mounts: none takes the place of another, and a restart knows whose they are.
    let holders = node.images.root_filesystem_holders().await.unwrap();
    assert!(holders.len() == 3 && holders.iter().all(|holder| holder.starts_with(&id)), "{holders:?}");
    runtime.close().await;
    let runtime = node.open().await;
    assert_eq!(node.images.root_filesystem_holders().await.unwrap(), holders);
    runtime.remove_container(&id).await.unwrap();
    assert!(node.images.root_filesystem_holders().await.unwrap().is_empty());

    config.mounts = vec![volume("/part", "busybox", "no/such")];
    let error = runtime.create_container(&sandbox, &config, &PodSandboxConfig::default()).await.unwrap_err().to_string();
    assert!(error.starts_with("ImageVolumeMountFailed: ") && error.contains("no/such"), "{error}");
    runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    node.assert_nothing_is_left();
}
