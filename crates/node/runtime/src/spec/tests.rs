//! Plans, by table.

use fram_cri::{Capability, ContainerUser, KeyValue, LinuxContainerSecurityContext, Mount, MountPropagation};

use super::*;
use crate::protocol::MountSource;

fn strings(text: &str) -> Vec<String> {
    text.split_ascii_whitespace().map(str::to_owned).collect()
}

struct Case {
    sandbox: PodSandboxConfig,
    container: ContainerConfig,
    image: ImageConfig,
    files: SandboxFiles,
    cgroup_v2: bool,
}

impl Case {
    fn new() -> Self {
        let mut sandbox = PodSandboxConfig { hostname: "web-0".into(), ..Default::default() };
        sandbox.linux.cgroup_parent = "/kubepods/pod1".into();
        let mut container = ContainerConfig::default();
        container.security_context.namespace_options.pid = NamespaceMode::Container;
        let image = ImageConfig { entrypoint: strings("/entry"), cmd: strings("serve"), ..Default::default() };
        let files = SandboxFiles {
            resolv_conf: "/s/resolv.conf".into(),
            hostname: "/s/hostname".into(),
            hosts: "/s/hosts".into(),
            shm: "/s/shm".into(),
        };
        Case { sandbox, container, image, files, cgroup_v2: false }
    }

    fn with<R>(&self, check: impl FnOnce(Result<Plan<'_>, SpecError>) -> R) -> R {
        check(plan(&Input {
            container_id: "c1",
            sandbox: &self.sandbox,
            files: &self.files,
            container: &self.container,
            image: &self.image,
            rootfs: Path::new("/c/rootfs"),
            devices: &[],
            hooks: &Value::Null,
            image_mounts: &[],
            user_namespace: None,
            cgroup_root: "/fram",
            cgroup_v2: self.cgroup_v2,
        }))
    }

    fn spec(&self) -> Value {
        self.with(|plan| plan.unwrap().spec)
    }
}

#[test]
fn a_plan_is_a_specification_that_the_oci_types_read() {
    let mut case = Case::new();
    case.container.resources.memory_limit_in_bytes = 1 << 20;
    case.container.resources.pids_limit = 10;
    for cgroup_v2 in [false, true] {
        case.cgroup_v2 = cgroup_v2;
        let spec: oci_spec::runtime::Spec = serde_json::from_value(case.spec()).unwrap();
        let linux = spec.linux().as_ref().unwrap();
        assert_eq!(linux.cgroups_path().as_deref(), Some(Path::new("/kubepods/pod1/c1")));
        // Capabilities are applied behind the specification, because seccomp must come before they are gone.
        assert!(spec.process().as_ref().unwrap().capabilities().is_none());
    }
}

#[test]
fn command_and_arguments_replace_those_of_the_image() {
    for (command, args, expect) in [("", "", "/entry serve"), ("", "a b", "/entry a b"), ("/x", "", "/x"), ("/x y", "a", "/x y a")] {
        let mut case = Case::new();
        (case.container.command, case.container.args) = (strings(command), strings(args));
        assert_eq!(case.spec()["process"]["args"], json!(strings(expect)));
    }
    let mut case = Case::new();
    case.image = ImageConfig::default();
    assert_eq!(case.with(|plan| plan.unwrap_err()), SpecError::NoCommand);
}

#[test]
fn the_last_variable_of_a_name_counts() {
    let mut case = Case::new();
    case.image.env = vec!["PATH=/bin".into(), "A=1".into(), "B=x=y".into()];
    case.container.envs = vec![KeyValue { key: "A".into(), value: "2".into() }, KeyValue { key: "A".into(), value: "3".into() }];
    let expect = json!(["PATH=/bin", "HOSTNAME=web-0", "A=3", "B=x=y"]);
    assert_eq!(case.spec()["process"]["env"], expect);
    case.container.envs = vec![KeyValue { key: "a=b".into(), value: String::new() }];
    assert_eq!(case.with(|plan| plan.unwrap_err()), SpecError::Environment("a=b".into()));
}

#[test]
fn capabilities_are_added_to_and_dropped_from_the_default_set() {
    let default = "CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_RAW SYS_CHROOT \
                   MKNOD AUDIT_WRITE SETFCAP";
    for (add, drop, privileged, expect) in [
        ("", "", false, default.to_owned()),
        ("NET_ADMIN CAP_SYS_TIME", "ALL", false, "NET_ADMIN SYS_TIME".to_owned()),
        ("", "all", false, String::new()),
        ("ALL", "SYS_ADMIN", false, CAPABILITIES.join(" ").replace("SYS_ADMIN ", "")),
        ("", "ALL", true, CAPABILITIES.join(" ")),
    ] {
        let mut case = Case::new();
        case.container.security_context.privileged = privileged;
        case.container.security_context.capabilities =
            Capability { add_capabilities: strings(add), drop_capabilities: strings(drop), ..Default::default() };
        let privileges = case.with(|plan| plan.unwrap().privileges);
        let names: Vec<&str> = capability_names(privileges.capabilities).collect();
        assert_eq!(names, expect.split_ascii_whitespace().collect::<Vec<_>>(), "+{add} -{drop}");
    }
    let mut case = Case::new();
    case.container.security_context.capabilities.add_capabilities = strings("NO_SUCH");
    assert_eq!(case.with(|plan| plan.unwrap_err()), SpecError::Capability("NO_SUCH".into()));
}

#[test]
fn users_come_from_the_pod_or_the_image_and_groups_from_the_files() {
    let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:100:101::/:\n1000:x:7:8::/:\nbroken\n";
    let group = "root:x:0:\nweb:x:101:\nextra:x:200:web,other\nvideo:x:44:web\n";
    let request = |image_user: &str| UserRequest { image_user: image_user.into(), ..Default::default() };
    let table = [
        (request(""), Ok((0, 0, vec![0]))),
        (request("web"), Ok((100, 101, vec![101, 200, 44]))),
        (request("100"), Ok((100, 101, vec![101, 200, 44]))),
        (request("1000"), Ok((7, 8, vec![8]))),
        (request("web:video"), Ok((100, 44, vec![44, 200]))),
        (request("5:6"), Ok((5, 6, vec![6]))),
        (request("nobody"), Err(UserError::UnknownUser("nobody".into()))),
        (request("web:none"), Err(UserError::UnknownGroup("none".into()))),
        (UserRequest { run_as_user: Some(4242), ..request("web") }, Ok((4242, 0, vec![0]))),
        (UserRequest { run_as_user: Some(100), run_as_group: Some(3), ..request("root") }, Ok((100, 3, vec![3, 200, 44]))),
        (
            UserRequest { run_as_username: "web".into(), supplemental_groups: vec![9, 44], ..request("") },
            Ok((100, 101, vec![101, 200, 44, 9])),
        ),
        (UserRequest { strict: true, supplemental_groups: vec![9], ..request("web") }, Ok((100, 101, vec![101, 9]))),
        (UserRequest { run_as_group: Some(-1), ..request("") }, Err(UserError::Id(-1))),
    ];
    for (request, expect) in table {
        let expect = expect.map(|(uid, gid, supplemental_groups)| ContainerUser { uid, gid, supplemental_groups });
        assert_eq!(resolve_user(&request, passwd, group), expect, "{request:?}");
    }
}

#[test]
fn a_user_is_at_home_where_passwd_says() {
    let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/srv:/bin/sh\nnone:x:5:5:::\nshort:x:6";
    for (uid, expect) in [(0, "/root"), (1000, "/srv"), (5, "/"), (6, "/"), (7, "/")] {
        assert_eq!(home(passwd, uid), expect, "{uid}");
    }
}

#[test]
fn mounts_come_parents_first_and_replace_the_sandbox_files() {
    let mut case = Case::new();
    case.container.security_context.readonly_rootfs = true;
    case.container.mounts = vec![
        Mount { container_path: "/data/inner".into(), host_path: "/h/1".into(), ..Default::default() },
        Mount { container_path: "/etc/hosts".into(), host_path: "/h/2".into(), ..Default::default() },
        Mount { container_path: "/data".into(), host_path: "/h/3".into(), readonly: true, recursive_read_only: true, ..Default::default() },
    ];
    let listed: Vec<String> = case.with(|plan| {
        let binds = plan.unwrap().mounts.into_iter().filter_map(|mount| match mount.source {
            MountSource::Bind { path, .. } => {
                Some(format!("{} {} {}", mount.destination.display(), path.display(), mount.attributes.join(",")))
            }
            _ => None,
        });
        binds.collect()
    });
    assert_eq!(
        listed,
        [
            "/etc/hostname /s/hostname ro",
            "/etc/resolv.conf /s/resolv.conf ro",
            "/dev/shm /s/shm nosuid,nodev,noexec",
            "/data /h/3 rro",
            "/data/inner /h/1 ",
            "/etc/hosts /h/2 ",
        ]
    );
    case.container.mounts[0].container_path = "relative".into();
    assert!(matches!(case.with(|plan| plan.unwrap_err()), SpecError::Mount(..)));
    case.container.mounts[0].container_path = "//proc/../proc/self".into();
    assert!(matches!(case.with(|plan| plan.unwrap_err()), SpecError::Mount(..)));
}

#[test]
fn only_mounts_that_show_a_namespace_are_left_to_the_first_process() {
    let mut case = Case::new();
    for (cgroup_v2, expect) in [(false, &["/proc"][..]), (true, &["/proc", "/sys/fs/cgroup"])] {
        case.cgroup_v2 = cgroup_v2;
        let spec = case.spec();
        let listed: Vec<&str> = spec["mounts"].as_array().unwrap().iter().map(|mount| mount["destination"].as_str().unwrap()).collect();
        assert_eq!(listed, expect);
    }
}

#[test]
fn a_bidirectional_mount_makes_the_tree_shared() {
    let mut case = Case::new();
    assert_eq!(case.spec()["linux"]["rootfsPropagation"], "slave");
    let mount = Mount { container_path: "/m".into(), host_path: "/h".into(), ..Default::default() };
    case.container.mounts = vec![Mount { propagation: MountPropagation::Bidirectional, ..mount }];
    assert_eq!(case.spec()["linux"]["rootfsPropagation"], "shared");
}

#[test]
fn a_privileged_container_has_nothing_masked_nor_filtered() {
    let mut case = Case::new();
    case.container.security_context = LinuxContainerSecurityContext {
        masked_paths: strings("/proc/kcore"),
        readonly_paths: strings("/proc/sys"),
        ..case.container.security_context
    };
    let spec = case.spec();
    assert_eq!(spec["linux"]["maskedPaths"], json!(["/proc/kcore"]));
    assert_eq!(spec["linux"]["resources"]["devices"][0]["allow"], false);
    case.with(|plan| assert_eq!(plan.unwrap().seccomp, Seccomp::Default));
    case.container.security_context.privileged = true;
    let spec = case.spec();
    assert_eq!(spec["linux"]["maskedPaths"], json!([]));
    assert_eq!(spec["linux"]["readonlyPaths"], json!([]));
    assert_eq!(spec["linux"]["resources"]["devices"][0]["allow"], true);
    case.with(|plan| assert_eq!(plan.unwrap().seccomp, Seccomp::Unconfined));
}

#[test]
fn namespaces_limits_and_signals_follow_the_configuration() {
    let mut case = Case::new();
    case.sandbox.linux.cgroup_parent.clear();
    case.sandbox.metadata.uid = "u1".into();
    case.image.stop_signal = "SIGQUIT".into();
    case.container.resources.cpu_quota = -1;
    case.container.resources.oom_score_adj = 5000;
    case.with(|plan| {
        let plan = plan.unwrap();
        assert_eq!(plan.cgroup, "/fram/u1/c1");
        assert_eq!(plan.stop_signal.to_string(), "SIGQUIT");
        assert_eq!(plan.oom_score_adj, Some(1000));
        assert_eq!(plan.pid_namespace, PidNamespace::Container);
        assert_eq!(plan.spec["linux"]["resources"]["cpu"], json!({ "quota": -1 }));
        assert_eq!(plan.spec["linux"]["namespaces"], json!([{ "type": "mount" }, { "type": "pid" }]));
    });
    for (mode, expect) in [
        (NamespaceMode::Pod, PidNamespace::Pod),
        (NamespaceMode::Node, PidNamespace::Node),
        (NamespaceMode::Target, PidNamespace::Target("t".into())),
    ] {
        case.container.security_context.namespace_options.pid = mode;
        case.container.security_context.namespace_options.target_id = "t".into();
        case.with(|plan| {
            let plan = plan.unwrap();
            assert_eq!(plan.pid_namespace, expect);
            assert_eq!(plan.spec["linux"]["namespaces"], json!([{ "type": "mount" }]));
        });
    }
    case.image.stop_signal = "SIGNOPE".into();
    assert_eq!(case.with(|plan| plan.unwrap_err()), SpecError::StopSignal("SIGNOPE".into()));
}
