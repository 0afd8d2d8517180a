//! Namespaces, privileges and seccomp, as seen from inside.

use std::fs;

use fram_cri::*;

use crate::support::*;

#[tokio::test]
async fn containers_share_network_ipc_and_name_but_neither_processes_nor_files() {
    let node = Node::new();
    let runtime = node.open().await;
    let sandbox = node.sandbox(&runtime, "web").await;
    let a = start(&runtime, &sandbox, &shell("a", "echo shared > /dev/shm/f; echo own > /tmp/f; sleep 1000")).await;
    let b = start(&runtime, &sandbox, &shell("b", "sleep 1000")).await;
    let inside = async |id: &str, command: &str| {
        let command = ["sh".to_owned(), "-c".to_owned(), command.to_owned()];
        let answer = runtime.exec_sync(id, &command, Some(LONG)).await.unwrap();
        String::from_utf8(answer.stdout).unwrap().trim().to_owned()
    };
    for kind in ["net", "ipc", "uts"] {
        let link = format!("readlink /proc/self/ns/{kind}");
        let name = inside(&a, &link).await;
        assert_eq!(name, inside(&b, &link).await, "{kind}");
        assert_ne!(name, fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string());
    }
    for kind in ["pid", "mnt"] {
        let link = format!("readlink /proc/self/ns/{kind}");
        assert_ne!(inside(&a, &link).await, inside(&b, &link).await, "{kind}");
    }
    assert_eq!(inside(&b, "cat /dev/shm/f").await, "shared");
    assert_eq!(inside(&b, "cat /tmp/f 2>/dev/null || echo none").await, "none");
    runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    node.assert_nothing_is_left();
}

#[tokio::test]
async fn a_shared_pid_namespace_outlives_its_containers() {
    let node = Node::new();
    let runtime = node.open().await;
    let mut config = node.sandbox_config("web");
    config.linux.security_context.namespace_options.pid = NamespaceMode::Pod;
    let sandbox = runtime.run_pod_sandbox(&config, "").await.unwrap();
    let shared = |name: &str, script: &str| {
        let mut config = shell(name, script);
        config.security_context.namespace_options.pid = NamespaceMode::Pod;
        config
    };
    let a = start(&runtime, &sandbox, &shared("a", "sleep 1234 & exit 0")).await;
    assert_eq!(ended(&runtime, &a).await.exit_code, 0);
    let b = start(&runtime, &sandbox, &shared("b", "echo $$; cat /proc/1/comm; sleep 1000")).await;
    // The shell's own line has the word too.
    let script = "until ps -o comm | grep -q sleep; do :; done; ps -o args".to_owned();
    let ps = runtime.exec_sync(&b, &["sh".into(), "-c".into(), script], Some(LONG)).await.unwrap();
    let ps = String::from_utf8(ps.stdout).unwrap();
    assert!(!ps.contains("sleep 1234"), "what a left running was killed with it: {ps}");
    assert!(ps.contains("sleep 1000"), "{ps}");
    runtime.stop_container(&b, std::time::Duration::ZERO).await.unwrap();
    assert!(node.log("web", "b.log").contains(&"stdout F pause".to_owned()), "{:?}", node.log("web", "b.log"));
    runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    node.assert_nothing_is_left();
}

#[tokio::test]
async fn a_target_container_s_processes_can_be_joined() {
    let node = Node::new();
    let runtime = node.open().await;
    let sandbox = node.sandbox(&runtime, "web").await;
    let target = start(&runtime, &sandbox, &shell("target", "exec sleep 1000")).await;
    let mut debug = shell("debug", "ps -o pid,args");
    debug.security_context.namespace_options.pid = NamespaceMode::Target;
    debug.security_context.namespace_options.target_id = target.clone();
    let debug = start(&runtime, &sandbox, &debug).await;
    assert_eq!(ended(&runtime, &debug).await.exit_code, 0);
    assert!(node.log("web", "debug.log").iter().any(|line| line.contains("1 sleep 1000")));
    assert_eq!(runtime.container_status(&target).await.unwrap().state, ContainerState::Running);
    runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    node.assert_nothing_is_left();
}

#[tokio::test]
async fn host_namespaces_are_the_hosts() {
    let node = Node::new();
    let runtime = node.open().await;
    let mut config = node.sandbox_config("pod-main");
    config.hostname.clear();
    let options = &mut config.linux.security_context.namespace_options;
    (options.network, options.ipc, options.pid) = (NamespaceMode::Node, NamespaceMode::Node, NamespaceMode::Node);
    let sandbox = runtime.run_pod_sandbox(&config, "").await.unwrap();
    let mut config = shell("main", "for n in net ipc uts pid; do readlink /proc/self/ns/$n; done");
    config.security_context.namespace_options =
        NamespaceOption { network: NamespaceMode::Node, ipc: NamespaceMode::Node, pid: NamespaceMode::Node, ..NamespaceOption::default() };
    let id = start(&runtime, &sandbox, &config).await;
    ended(&runtime, &id).await;
    let expect =
        ["net", "ipc", "uts", "pid"].map(|kind| format!("stdout F {}", fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display()));
    assert_eq!(node.log("pod-main", "main.log"), expect);
    runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    node.assert_nothing_is_left();
}

/// The hexadecimal masks of /proc/self/status.
const STATUS: &str = "grep -E 'CapEff|CapBnd|NoNewPrivs|Seccomp:' /proc/self/status | tr -d '\\t'";

#[tokio::test]
async fn capabilities_seccomp_and_no_new_privs_are_applied_for_every_user() {
    let node = Node::new();
    let runtime = node.open().await;
    let default = "00000000a80425fb";
    let none = "0000000000000000";
    for (number, (user, drop, no_new_privs, effective, bounding)) in [
        (None, false, false, default, default),
        (None, false, true, default, default),
        (None, true, false, none, none),
        (Some(1000), false, false, none, default),
        (Some(1000), true, true, none, none),
    ]
    .into_iter()
    .enumerate()
    {
        let mut config = shell(&format!("c{number}"), STATUS);
        config.security_context.run_as_user = user;
        config.security_context.no_new_privs = no_new_privs;
        if drop {
            config.security_context.capabilities.drop_capabilities = vec!["ALL".into()];
        }
        let (_, log) = run(&node, &runtime, &config).await;
        let expect = [
            format!("stdout F CapEff:{effective}"),
            format!("stdout F CapBnd:{bounding}"),
            format!("stdout F NoNewPrivs:{}", u8::from(no_new_privs)),
            "stdout F Seccomp:2".into(),
        ];
        assert_eq!(log, expect, "case {number}");
    }
}

#[tokio::test]
async fn the_default_profile_refuses_what_an_unconfined_container_may() {
    let node = Node::new();
    let runtime = node.open().await;
    let script = "unshare -U true 2>/dev/null && echo allowed || echo refused; cat /proc/sys/kernel/hostname";
    let (_, log) = run(&node, &runtime, &shell("main", script)).await;
    assert_eq!(log, ["stdout F refused", "stdout F pod-main"]);
    let mut config = shell("free", script);
    config.security_context.seccomp = Some(SecurityProfile::Unconfined);
    let (_, log) = run(&node, &runtime, &config).await;
    assert_eq!(log, ["stdout F allowed", "stdout F pod-free"]);
    let profile = node.dir.path().join("profile.json");
    fs::write(&profile, r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}"#)
        .unwrap();
    let mut config = shell("own", "mkdir /tmp/x || echo refused");
    config.security_context.seccomp = Some(SecurityProfile::Localhost(profile.display().to_string()));
    let (_, log) = run(&node, &runtime, &config).await;
    assert!(log.contains(&"stdout F refused".to_owned()), "{log:?}");
    node.assert_nothing_is_left();
}

#[tokio::test]
async fn paths_are_masked_and_protected_and_the_root_can_be_read_only() {
    let node = Node::new();
    let runtime = node.open().await;
    let script = "wc -c < /proc/timer_list; ls /proc/scsi | wc -l; echo x 2>/dev/null > /proc/sys/kernel/hostname || echo ro; \
                  echo x 2>/dev/null > /file || echo ro; echo x > /dev/shm/file && echo rw; ls -l /dev/null | cut -c1-10";
    let mut config = shell("main", script);
    config.security_context.readonly_rootfs = true;
    config.security_context.masked_paths = ["/proc/timer_list", "/proc/scsi", "/proc/absent"].map(str::to_owned).into();
    config.security_context.readonly_paths = vec!["/proc/sys".into()];
    let (_, log) = run(&node, &runtime, &config).await;
    let out: Vec<&str> = log.iter().filter_map(|line| line.strip_prefix("stdout F ")).collect();
    assert_eq!(out, ["0", "0", "ro", "ro", "rw", "crw-rw-rw-"], "{log:?}");
}

#[tokio::test]
async fn a_privileged_container_has_the_host_s_devices() {
    let node = Node::new();
    let runtime = node.open().await;
    let count = "ls /dev | wc -l; head -c 1 /dev/full | wc -c; grep Seccomp: /proc/self/status | tr -d '\\t'";
    let mut config = shell("main", count);
    config.security_context.privileged = true;
    let (status, privileged) = run(&node, &runtime, &config).await;
    assert_eq!(status.exit_code, 0, "{privileged:?}");
    assert_eq!(privileged.last().unwrap(), "stdout F Seccomp:0");
    let (_, plain) = run(&node, &runtime, &shell("plain", count)).await;
    let number = |log: &[String]| log[0].rsplit(' ').next().unwrap().parse::<u32>().unwrap();
    assert!(number(&privileged) > number(&plain), "{privileged:?} {plain:?}");
    node.assert_nothing_is_left();
}

#[tokio::test]
async fn a_dev_that_the_pod_brings_along_is_left_as_it_is() {
    let node = Node::new();
    let runtime = node.open().await;
    let own = node.dir.path().join("dev");
    fs::create_dir(&own).unwrap();
    fs::write(own.join("own"), "").unwrap();
    let mut config = shell("main", "ls /dev/own /dev/null /dev/stdin /dev/core /dev/ptmx 2>&-; true");
    config.mounts = vec![Mount { container_path: "/dev".into(), host_path: own.display().to_string(), ..Mount::default() }];
    let (_, log) = run(&node, &runtime, &config).await;
    assert_eq!(log, ["stdout F /dev/own"]);
    node.assert_nothing_is_left();
}

#[tokio::test]
async fn no_working_directory_leads_out_of_the_container() {
    let node = Node::new();
    let runtime = node.open().await;
    let sandbox = node.sandbox(&runtime, "web").await;
    for fd in 3..20 {
        let mut config = shell(&format!("c{fd}"), "cd ..; pwd; ls -d bin");
        // What the shim has open, as CVE-2024-21626 had it.
        config.working_dir = format!("/proc/self/fd/{fd}");
        let id = runtime.create_container(&sandbox, &config, &PodSandboxConfig::default()).await.unwrap();
        if runtime.start_container(&id).await.is_ok() {
            ended(&runtime, &id).await;
            let log = node.log("web", &format!("c{fd}.log"));
            assert!(log == ["stdout F /", "stdout F bin"], "{fd}: {log:?}");
        }
    }
    runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    node.assert_nothing_is_left();
}

#[tokio::test]
async fn an_image_cannot_have_proc_mounted_elsewhere() {
    let node = Node::new();
    let runtime = node.open().await;
    let layer = node.dir.path().join("layer");
    fs::remove_dir(layer.join("proc")).unwrap();
    std::os::unix::fs::symlink("tmp", layer.join("proc")).unwrap();
    let sandbox = node.sandbox(&runtime, "web").await;
    let id = runtime.create_container(&sandbox, &shell("main", "true"), &PodSandboxConfig::default()).await.unwrap();
    let error = runtime.start_container(&id).await.unwrap_err().to_string();
    assert!(error.contains("/proc"), "{error}");
    runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    node.assert_nothing_is_left();
}

#[tokio::test]
async fn sysctls_are_set_in_the_pod_and_nowhere_else() {
    let node = Node::new();
    let runtime = node.open().await;
    let before = fs::read_to_string("/proc/sys/kernel/shm_rmid_forced").unwrap();
    let mut config = node.sandbox_config("pod-main");
    config.linux.sysctls =
        [("kernel.shm_rmid_forced", "1"), ("net.ipv4.ip_unprivileged_port_start", "7")].map(|(k, v)| (k.into(), v.into())).into();
    let sandbox = runtime.run_pod_sandbox(&config, "").await.unwrap();
    let script = "cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_unprivileged_port_start";
    let id = start(&runtime, &sandbox, &shell("main", script)).await;
    ended(&runtime, &id).await;
    assert_eq!(node.log("pod-main", "main.log"), ["stdout F 1", "stdout F 7"]);
    assert_eq!(fs::read_to_string("/proc/sys/kernel/shm_rmid_forced").unwrap(), before);
    runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    node.assert_nothing_is_left();
}

#[tokio::test]
async fn the_program_of_a_shim_cannot_be_written_through_its_processes() {
    let node = Node::new();
    let runtime = node.open().await;
    let sandbox = node.sandbox(&runtime, "web").await;
    let [shim] = shims(node.dir.path())[..] else { panic!("there is one shim") };
    let program = nix::sys::statvfs::statvfs(format!("/proc/{shim}/exe").as_str()).unwrap();
    assert!(program.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY));
    runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    node.assert_nothing_is_left();
}

#[tokio::test]
async fn a_pod_with_a_user_namespace_is_root_of_its_own_and_of_nothing_else() {
    let node = Node::new();
    let runtime = node.open().await;
    let range = |host_id| vec![IdMapping { host_id, container_id: 0, length: 65536 }];
    let own = || Some(UserNamespace { mode: NamespaceMode::Pod, uids: range(200_000), gids: range(300_000) });
    let mut config = node.sandbox_config("web");
    config.linux.security_context.namespace_options.userns_options = own();
    config.linux.sysctls = [("net.ipv4.ip_unprivileged_port_start".to_owned(), "1024".to_owned())].into();
    let made = runtime.run_pod_sandbox(&config, "").await;
    if !fram_runtime::kernel::is_at_least(&fram_runtime::kernel::release(), (6, 3)) {
        assert!(matches!(made, Err(CriError::Unimplemented(why)) if why.contains("need Linux 6.3")));
        return node.assert_nothing_is_left();
    }
    let sandbox = made.unwrap();
    let volume = node.dir.path().join("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("given"), "").unwrap();
    let script = "cat /proc/self/uid_map | tr -s ' '; id -u; stat -c '%u:%g %n' /bin/busybox /etc/hosts /volume/given /dev /proc/1; \
         touch /volume/made /made; echo x > /dev/stdout; echo y > /dev/null; \
         hostname; ip link set lo down && ip link set lo up && echo loopback; echo 1 > /proc/sys/kernel/panic; mknod /n c 1 3; exit 4";
    let mut config = shell("a", script);
    config.security_context.namespace_options.userns_options = own();
    config.security_context.capabilities.add_capabilities = vec!["NET_ADMIN".into()];
    let mount = Mount { container_path: "/volume".into(), host_path: volume.display().to_string(), ..Mount::default() };
    config.mounts = vec![mount];
    let id = start(&runtime, &sandbox, &config).await;
    let user = runtime.container_status(&id).await.unwrap().user.unwrap();
    assert_eq!((ended(&runtime, &id).await.exit_code, user.uid), (4, 0));
    let (said, errors): (Vec<_>, Vec<_>) = node.log("web", "a.log").into_iter().partition(|line| line.starts_with("stdout"));
    let expect = [
        " 0 200000 65536",
        "0",
        "0:0 /bin/busybox",
        "0:0 /etc/hosts",
        "0:0 /volume/given",
        "0:0 /dev",
        "0:0 /proc/1",
        "x",
        "web",
        "loopback",
    ];
    assert_eq!(said, expect.map(|line| format!("stdout F {line}")), "{errors:?}");
    assert_eq!(errors.len(), 2, "{errors:?}");
    let owner = |path: std::path::PathBuf| {
        let found = fs::metadata(path).unwrap();
        (std::os::unix::fs::MetadataExt::uid(&found), std::os::unix::fs::MetadataExt::gid(&found))
    };
    assert_eq!(owner(volume.join("made")), (0, 0), "on the volume it is root's, whoever that is in the pod");

    let mut config = shell("b", "sleep 1000");
    config.security_context.run_as_user = Some(1000);
    let id = start(&runtime, &sandbox, &config).await;
    let command = ["sh", "-c", "id -u; readlink /proc/self/ns/user; tr -s ' ' < /proc/1/uid_map"].map(str::to_owned);
    let answer = runtime.exec_sync(&id, &command, Some(LONG)).await.unwrap();
    let text = String::from_utf8(answer.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0] == "1000" && lines[2] == " 0 200000 65536", "{text} {}", String::from_utf8_lossy(&answer.stderr));
    assert_ne!(lines[1], fs::read_link("/proc/self/ns/user").unwrap().to_str().unwrap());
    runtime.remove_pod_sandbox(&sandbox).await.unwrap();

    // One pid namespace for all of the pod, a terminal, and what is refused.
    let mut config = node.sandbox_config("shared");
    let options = &mut config.linux.security_context.namespace_options;
    (options.userns_options, options.pid) = (own(), NamespaceMode::Pod);
    let sandbox = runtime.run_pod_sandbox(&config, "").await.unwrap();
    let mut config = shell("c", "cat /proc/1/comm; tty; id -u");
    config.security_context.namespace_options.pid = NamespaceMode::Pod;
    config.tty = true;
    let id = start(&runtime, &sandbox, &config).await;
    assert_eq!(ended(&runtime, &id).await.exit_code, 0);
    let said = node.log("shared", "c.log").join(" ");
    assert!(said.contains("pause") && said.contains("/dev/pts/0") && said.ends_with("F 0"), "{said}");
    runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    let mut config = node.sandbox_config("refused");
    let options = &mut config.linux.security_context.namespace_options;
    (options.userns_options, options.network) = (own(), NamespaceMode::Node);
    assert!(runtime.run_pod_sandbox(&config, "").await.unwrap_err().to_string().contains("namespaces of the node"));
    node.assert_nothing_is_left();
}
