//! What files of configuration do, and what is refused.

use super::*;

const HEAD: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";

fn config() -> KubeletConfig {
    KubeletConfig::new("n", Vec::new(), "/tmp".into(), "/tmp".into())
}

fn read(text: &str) -> Result<KubeletConfig, String> {
    let document = parse(&format!("{HEAD}{text}"))?;
    let mut config = config();
    Configuration { document }.apply(&mut config).map_err(|e| e.to_string())?;
    Ok(config)
}

#[test]
fn fields_replace_defaults_and_others_stay() {
    let read = read(
        "maxPods: 7\nevictionHard: {memory.available: 1Gi}\nimageGCHighThresholdPercent: 90\nshutdownGracePeriod: 30s\n\
         shutdownGracePeriodCriticalPods: 10s\ntopologyManagerPolicy: restricted\ntopologyManagerScope: pod\ncpuManagerPolicy: static\n\
         podPidsLimit: -1\nnodeStatusUpdateFrequency: 3s\nreservedSystemCPUs: 0-1\nmemorySwap: {swapBehavior: LimitedSwap}\n",
    )
    .unwrap();
    assert_eq!((read.max_pods, read.pod_pids_limit, read.eviction.hard.len()), (7, 0, 1));
    assert_eq!((read.image_gc.high_threshold, read.image_gc.low_threshold), (90, 80));
    let graces: Vec<(i64, u64)> = read.shutdown_grace.iter().map(|g| (g.priority, g.period.as_secs())).collect();
    assert_eq!(graces, [(0, 20), (2_000_000_000, 10)]);
    assert_eq!((read.managers.topology_policy, read.managers.topology_scope), (Policy::Restricted, Scope::Pod));
    assert!(read.managers.static_cpus && read.swap_behavior == SwapBehavior::LimitedSwap);
    assert_eq!((read.status_update_frequency.as_secs(), read.status_report_frequency.as_secs()), (3, 3));
    assert_eq!(read.managers.reserved_cpus.map(|c| c.to_string()), Some("0-1".into()));
}

#[test]
fn a_container_out_of_memory_ends_whole_where_the_kernel_can_end_it_so() {
    let with = |single| KubeletConfig { single_process_oom_kill: single, ..config() };
    for (single, version, whole) in
        [(None, 1, false), (None, 2, true), (Some(true), 2, false), (Some(false), 2, true), (Some(true), 1, false)]
    {
        assert_eq!(with(single).kills_together(version), whole, "{single:?} {version}");
    }
    let mut one = KubeletConfig { cgroup_mount: "/nowhere".into(), ..config() };
    let document = parse(&format!("{HEAD}singleProcessOOMKill: false\n")).unwrap();
    let refused = Configuration { document }.apply(&mut one).unwrap_err().to_string();
    assert!(refused.contains("singleProcessOOMKill must not be explicitly set to false when using cgroup v1"), "{refused}");
}

#[test]
fn pulls_are_one_by_one_or_as_many_as_are_said() {
    for (text, limit) in [
        ("", None),
        ("serializeImagePulls: true\n", Some(1)),
        ("serializeImagePulls: false\n", None),
        ("serializeImagePulls: false\nmaxParallelImagePulls: 3\n", Some(3)),
        ("maxParallelImagePulls: 1\n", Some(1)),
    ] {
        assert_eq!(read(text).unwrap().parallel_image_pulls.map(NonZeroUsize::get), limit, "{text}");
    }
}

#[test]
fn images_are_verified_as_the_policy_says() {
    assert_eq!(read("").unwrap().image_verification, Verification::NeverVerifyPreloadedImages);
    let allow = "imagePullCredentialsVerificationPolicy: NeverVerifyAllowlistedImages\npreloadedImagesVerificationAllowlist: [reg/*]\n";
    assert_eq!(read(allow).unwrap().image_verification, Verification::NeverVerifyAllowlistedImages(vec!["reg/*".into()]));
}

#[test]
fn hard_thresholds_replace_the_defaults_unless_they_are_to_be_merged() {
    let merged = read("mergeDefaultEvictionSettings: true\nevictionHard: {memory.available: 1Gi}\n").unwrap();
    assert_eq!((merged.eviction.hard.len(), merged.eviction.hard["memory.available"].as_str()), (default_hard().len(), "1Gi"));
}

#[test]
fn what_makes_no_sense_is_refused_with_its_field() {
    for (text, fault) in [
        ("maxPod: 7\n", "strict decoding error: unknown field \"maxPod\""),
        ("imagePullCredentialsVerificationPolicy: Never\n", "imagePullCredentialsVerificationPolicy \"Never\" must be one of"),
        ("preloadedImagesVerificationAllowlist: [a]\n", "can only be set when imagePullCredentialsVerificationPolicy is"),
        ("serializeImagePulls: true\nmaxParallelImagePulls: 2\n", "maxParallelImagePulls cannot be larger than 1 unless"),
        ("maxParallelImagePulls: 0\n", "maxParallelImagePulls 0 must be a positive number"),
        ("podLogsDir: ../logs\n", "podLogsDir \"../logs\" must be a normalized absolute path"),
        ("maxPods: -7\n", "maxPods -7 must be between 1 and 4294967295, inclusive"),
        ("imageGCHighThresholdPercent: 101\n", "imageGCHighThresholdPercent 101 must be between 0 and 100, inclusive"),
        ("imageGCHighThresholdPercent: 70\n", "imageGCLowThresholdPercent 80 must be less than imageGCHighThresholdPercent 70"),
        ("topologyManagerPolicy: strict\n", "topologyManagerPolicy \"strict\" must be one of"),
        ("shutdownGracePeriodCriticalPods: 10s\n", "shutdownGracePeriodCriticalPods 10s must be <= shutdownGracePeriod 0ns"),
        ("evictionSoft: {memory.available: 1Gi}\n", "grace period must be specified for the soft eviction threshold memory.available"),
        ("evictionHard: {memory.free: 1Gi}\n", "unsupported eviction signal memory.free"),
        ("memorySwap: {swapBehavior: Much}\n", "memorySwap.swapBehavior \"Much\" must be one of"),
        ("reservedSystemCPUs: a\n", "unable to parse reservedSystemCPUs a"),
        ("cpuManagerPolicyOptions: {fast: \"true\"}\n", "cpuManagerPolicyOptions: unknown option \"fast\""),
        ("registerWithTaints: [{key: a, effect: Never}]\n", "registerWithTaints: each taint has a key and a known effect"),
        ("systemReserved: {cpu: \"-1\"}\n", "systemReserved: cpu \"-1\" cannot be reserved"),
    ] {
        let told = read(text).map(|_| ()).unwrap_err();
        assert!(told.contains(fault), "{told}");
    }
    assert!(parse("apiVersion: v1\nkind: KubeletConfiguration\n").unwrap_err().contains("unknown apiVersion/kind"));
}

#[test]
fn drop_ins_are_merged_over_the_file_in_the_order_of_their_names() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("kubelet.yaml");
    std::fs::write(&file, format!("{HEAD}maxPods: 1\nevictionHard: {{memory.available: 1Gi, pid.available: 5%}}\n")).unwrap();
    let drop_ins = dir.path().join("d");
    std::fs::create_dir(&drop_ins).unwrap();
    for (name, text) in
        [("20.conf", "maxPods: 3\n"), ("10.conf", "maxPods: 2\nevictionHard: {pid.available: null}\n"), ("note.txt", "no: yaml: at all")]
    {
        let text = if name.ends_with("conf") { format!("{HEAD}{text}") } else { text.to_string() };
        std::fs::write(drop_ins.join(name), text).unwrap();
    }
    let mut config = config();
    Configuration::load(Some(&file), Some(&drop_ins)).unwrap().apply(&mut config).unwrap();
    assert_eq!((config.max_pods, config.eviction.hard.len()), (3, 1));
    std::fs::write(drop_ins.join("30.conf"), format!("{HEAD}maxPod: 3\n")).unwrap();
    let told = Configuration::load(Some(&file), Some(&drop_ins)).unwrap_err().to_string();
    assert!(told.contains("30.conf") && told.contains("unknown field \"maxPod\""), "{told}");
}

#[test]
fn what_is_in_force_can_be_read_again() {
    let mut config = config();
    config.max_pods = 5;
    let shown = in_force(&config);
    assert_eq!(fields::faults(&shown), Vec::<String>::new());
    let mut again = KubeletConfig::new("n", Vec::new(), "/tmp".into(), "/tmp".into());
    Configuration { document: shown }.apply(&mut again).unwrap();
    assert_eq!((again.max_pods, again.eviction, again.image_gc), (5, config.eviction, config.image_gc));
}
