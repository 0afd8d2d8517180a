//! Containers made by other OCI runtimes, runc and crun of Debian, and devices by CDI.

use std::fs;

use fram_cri::*;
use fram_runtime::{Runtime, RuntimeConfig};

use crate::support::*;

#[tokio::test]
async fn a_handler_has_its_containers_made_by_another_oci_runtime() {
    for program in ["/usr/sbin/runc", "/usr/bin/crun"] {
        let node = Node::new();
        let config = RuntimeConfig { handlers: [("other".to_owned(), program.into())].into(), ..node.config() };
        let runtime = Runtime::open(config, node.images.clone(), node.network.clone()).await.unwrap();
        assert!(runtime.status().await.unwrap().runtime_handlers.iter().any(|handler| handler.name == "other"));
        assert!(runtime.run_pod_sandbox(&node.sandbox_config("x"), "unknown").await.is_err());
        let sandbox = runtime.run_pod_sandbox(&node.sandbox_config("web"), "other").await.unwrap();

        let script = "hostname; id -u; grep -E '^(Seccomp|CapBnd|NoNewPrivs):' /proc/self/status | tr -s '\\t' ' '; exit 7";
        let mut config = shell("once", script);
        config.security_context.run_as_user = Some(1000);
        config.security_context.no_new_privs = true;
        config.security_context.capabilities.drop_capabilities = vec!["ALL".into()];
        let once = start(&runtime, &sandbox, &config).await;
        assert_eq!(ended(&runtime, &once).await.exit_code, 7, "{program}");
        let expect = ["web", "1000", "CapBnd: 0000000000000000", "NoNewPrivs: 1", "Seccomp: 2"];
        assert_eq!(node.log("web", "once.log"), expect.map(|line| format!("stdout F {line}")), "{program}");

        let mut config = shell("stays", "trap 'exit 3' TERM; echo up; while :; do sleep 1; done");
        config.resources.pids_limit = 40;
        let stays = start(&runtime, &sandbox, &config).await;
        let command = ["sh", "-c", "cat /proc/1/comm; cat /sys/fs/cgroup/pids/pids.max; exit 5"].map(str::to_owned);
        let answer = runtime.exec_sync(&stays, &command, Some(LONG)).await.unwrap();
        assert_eq!((String::from_utf8(answer.stdout).unwrap().as_str(), answer.exit_code), ("sh\n40\n", 5), "{program}");
        let answer = runtime.exec_sync(&stays, &["no-such-command".to_owned()], Some(LONG)).await;
        assert!(answer.is_err(), "{program}");
        runtime.stop_container(&stays, LONG).await.unwrap();
        assert_eq!(runtime.container_status(&stays).await.unwrap().exit_code, 3, "{program}");

        let mut config = shell("none", "");
        config.command = vec!["/no/such/command".into()];
        let none = runtime.create_container(&sandbox, &config, &PodSandboxConfig::default()).await.unwrap();
        let error = runtime.start_container(&none).await.unwrap_err();
        assert!(matches!(&error, CriError::ContainerCannotRun(why) if why.contains("/no/such/command")), "{program}: {error}");

        let mut config = shell("terminal", "tty; exit 0");
        config.tty = true;
        let terminal = start(&runtime, &sandbox, &config).await;
        assert_eq!(ended(&runtime, &terminal).await.exit_code, 0, "{program}");
        assert!(node.log("web", "terminal.log")[0].contains("/dev/pts/"), "{program}");
        runtime.remove_pod_sandbox(&sandbox).await.unwrap();
        node.assert_nothing_is_left();
    }
}

#[tokio::test]
async fn a_cdi_device_brings_its_node_variable_mount_and_hook() {
    let node = Node::new();
    let folder = node.dir.path().join("cdi");
    fs::create_dir_all(&folder).unwrap();
    let hooked = node.dir.path().join("hooked");
    let specification = format!(
        r#"{{ "cdiVersion": "0.6.0", "kind": "v.example/gpu", "devices": [{{ "name": "0", "containerEdits": {{
            "env": ["GPU=0"], "deviceNodes": [{{ "path": "/dev/gpu0", "hostPath": "/dev/null" }}],
            "mounts": [{{ "hostPath": "{0}", "containerPath": "/gpu", "options": ["ro"] }}],
            "hooks": [{{ "hookName": "createRuntime", "path": "/bin/touch", "args": ["touch", "{1}"] }}] }} }}] }}"#,
        folder.display(),
        hooked.display()
    );
    fs::write(folder.join("v.json"), specification).unwrap();
    let config = RuntimeConfig { cdi_dirs: vec![folder], ..node.config() };
    let runtime = Runtime::open(config, node.images.clone(), node.network.clone()).await.unwrap();
    let sandbox = node.sandbox(&runtime, "web").await;
    let mut config = shell("a", "echo $GPU; echo x > /dev/gpu0 && stat -c '%t:%T' /dev/gpu0; ls /gpu");
    config.cdi_devices = vec!["v.example/gpu=0".into()];
    let id = start(&runtime, &sandbox, &config).await;
    assert_eq!(ended(&runtime, &id).await.exit_code, 0);
    // What hooks are told may be more than they read; that ends neither them nor the container.
    for n in 0..10 {
        let mut config = shell(&format!("quick{n}"), "grep SigIgn /proc/self/status");
        config.cdi_devices = vec!["v.example/gpu=0".into()];
        let id = start(&runtime, &sandbox, &config).await;
        assert_eq!(ended(&runtime, &id).await.exit_code, 0);
        let ignored = node.log("web", &format!("quick{n}.log"))[0].rsplit('\t').next().map(|hex| u64::from_str_radix(hex, 16).unwrap());
        assert_eq!(ignored.unwrap() & (1 << (libc::SIGPIPE - 1)), 0);
    }
    assert_eq!(node.log("web", "a.log"), ["stdout F 0", "stdout F 1:3", "stdout F v.json"]);
    assert!(hooked.exists());
    config.metadata.name = "b".into();
    config.cdi_devices = vec!["v.example/gpu=1".into()];
    let error = runtime.create_container(&sandbox, &config, &PodSandboxConfig::default()).await.unwrap_err();
    assert!(error.to_string().contains("unresolvable CDI devices v.example/gpu=1"), "{error}");
    runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    node.assert_nothing_is_left();
}
