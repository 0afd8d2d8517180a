//! What files of configuration do, and what is refused.

use super::*;
use crate::config::KernelDefaults;

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
fn the_port_speaks_and_shows_what_it_is_told_to() {
    let read = |text: &str| read(text).unwrap();
    let plain = read("");
    assert!(plain.serve && plain.serving_tls == crate::config::ServingTls::default());
    assert_eq!((plain.healthz.map(|a| a.to_string()), plain.streaming_idle.as_secs()), (Some("127.0.0.1:10248".into()), 4 * 3600));
    let told = read(
        "enableServer: false\nhealthzPort: 0\nstreamingConnectionIdleTimeout: 0s\ntlsCertFile: /a\ntlsPrivateKeyFile: /b\n\
         tlsCipherSuites: [TLS_RSA_WITH_AES_128_CBC_SHA, TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305]\ntlsCurvePreferences: [29]\n\
         authentication: {x509: {clientCAFile: /c}, webhook: {cacheTTL: 3s}}\nauthorization: {webhook: {cacheUnauthorizedTTL: 4s}}\n",
    );
    assert_eq!((told.serve, told.healthz, told.streaming_idle), (false, None, Duration::ZERO));
    assert_eq!((told.serving_tls.files, told.serving_tls.client_ca), (Some(("/a".into(), "/b".into())), Some("/c".into())));
    assert_eq!(told.serving_tls.cipher_suites, [rustls::CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256]);
    assert_eq!(told.serving_tls.curves, [rustls::NamedGroup::X25519]);
    assert_eq!((told.reviews.known.as_secs(), told.reviews.allowed.as_secs(), told.reviews.refused.as_secs()), (3, 300, 4));
    assert!(read("tlsMinVersion: VersionTLS13\n").serving_tls.only_13 && !read("tlsMinVersion: VersionTLS12\n").serving_tls.only_13);
}

#[test]
fn rates_are_upstreams_where_half_of_them_is_said_and_none_where_they_are_zero() {
    let read = |text: &str| read(text).unwrap();
    let rate = |per_second, burst| Some(fram_client::Rate { per_second, burst });
    for (text, pulls, events) in [
        ("", None, rate(50, 100)),
        ("registryPullQPS: 2\n", rate(2, 10), rate(50, 100)),
        ("registryBurst: 3\neventBurst: 7\n", rate(5, 3), rate(50, 7)),
        ("registryPullQPS: 0\neventRecordQPS: 0\n", None, None),
    ] {
        let told = read(text);
        assert_eq!((told.registry_pulls, told.event_rate), (pulls, events), "{text}");
    }
}

#[test]
fn what_is_reserved_is_enforced_on_the_cgroups_that_are_named() {
    let told = read(
        "systemReserved: {cpu: 100m}\nsystemReservedCgroup: /system\nkubeReservedCgroup: /kube\n\
         enforceNodeAllocatable: [system-reserved-compressible, kube-reserved]\n",
    )
    .unwrap();
    let held: Vec<_> = told.reserved_cgroups.iter().map(|c| (c.of, c.path.as_str(), c.compressible, c.amounts.len())).collect();
    assert_eq!(held, [("system-reserved", "/system", true, 1), ("kube-reserved", "/kube", false, 0)]);
    assert!(!told.enforce_node_allocatable);
}

#[test]
fn pods_of_a_url_are_asked_for_with_its_headers() {
    let told = read("staticPodURL: https://a.example/pods\nstaticPodURLHeader: {X-A: [b, c]}\nhttpCheckFrequency: 3s\n").unwrap();
    let source = told.static_pod_url.unwrap();
    let headers: Vec<(&str, &str)> = source.headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    assert_eq!((source.url.host(), headers, source.every.as_secs()), (Some("a.example"), vec![("X-A", "b"), ("X-A", "c")], 3));
}

#[test]
fn what_makes_no_sense_is_refused_with_its_field() {
    for (text, fault) in [
        ("maxPod: 7\n", "strict decoding error: unknown field \"maxPod\""),
        ("imagePullCredentialsVerificationPolicy: Never\n", "imagePullCredentialsVerificationPolicy \"Never\" must be one of"),
        ("preloadedImagesVerificationAllowlist: [a]\n", "can only be set when imagePullCredentialsVerificationPolicy is"),
        ("serializeImagePulls: true\nmaxParallelImagePulls: 2\n", "maxParallelImagePulls cannot be larger than 1 unless"),
        ("maxParallelImagePulls: 0\n", "maxParallelImagePulls 0 must be a positive number"),
        ("readOnlyPort: 10255\n", "readOnlyPort 10255 cannot be had: a port at which nobody says who they are is not served"),
        ("featureGates: {MemoryQoS: true}\n", "cannot set feature gate MemoryQoS to true"),
        ("tlsCertFile: /a\n", "tlsCertFile and tlsPrivateKeyFile must be given together"),
        ("tlsCipherSuites: [TLS_X]\n", "cipher suite TLS_X not supported or doesn't exist"),
        ("tlsCipherSuites: [TLS_RSA_WITH_AES_128_GCM_SHA256]\n", "tlsCipherSuites: none of them is spoken in TLS 1.2"),
        ("tlsCurvePreferences: [30]\n", "tlsCurvePreferences: curve 30 is not supported"),
        ("eventRecordQPS: -1\n", "eventRecordQPS -1 must be between 0"),
        ("cpuCFSQuotaPeriod: 2s\n", "cpuCFSQuotaPeriod 2s must be between 1ms and 1sec"),
        ("enforceNodeAllocatable: [system-reserved]\n", "systemReservedCgroup must be specified when \"system-reserved\""),
        ("enforceNodeAllocatable: [pods, none]\n", "may not contain additional enforcements"),
        ("enforceNodeAllocatable: [all]\n", "option \"all\" specified for enforceNodeAllocatable"),
        ("staticPodURL: /tmp/x\n", "staticPodURL \"/tmp/x\" must be an http or https URL"),
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
    let authorities = "authentication: {x509: {clientCAFile: pki/ca.crt}}";
    std::fs::write(&file, format!("{HEAD}maxPods: 1\nevictionHard: {{memory.available: 1Gi, pid.available: 5%}}\n{authorities}\n"))
        .unwrap();
    let drop_ins = dir.path().join("d");
    std::fs::create_dir(&drop_ins).unwrap();
    for (name, text) in
        [("20.conf", "maxPods: 3\n"), ("10.conf", "maxPods: 2\nevictionHard: {pid.available: null}\n"), ("note.txt", "no: yaml: at all")]
    {
        let text = if name.ends_with("conf") { format!("{HEAD}{text}") } else { text.to_string() };
        std::fs::write(drop_ins.join(name), text).unwrap();
    }
    // One that leads back here is not followed.
    std::os::unix::fs::symlink(".", drop_ins.join("again")).unwrap();
    let mut config = config();
    Configuration::load(Some(&file), Some(&drop_ins)).unwrap().apply(&mut config).unwrap();
    assert_eq!((config.max_pods, config.eviction.hard.len()), (3, 1));
    assert_eq!(config.serving_tls.client_ca, Some(dir.path().join("pki/ca.crt")), "relative to the file that says so");
    std::fs::write(drop_ins.join("30.conf"), format!("{HEAD}maxPod: 3\n")).unwrap();
    let told = Configuration::load(Some(&file), Some(&drop_ins)).unwrap_err().to_string();
    assert!(told.contains("30.conf") && told.contains("unknown field \"maxPod\""), "{told}");
}

/// The cases of upstream's TestMergeKubeletConfigurations that can be had here: without readOnlyPort, and flags of the program's own.
#[test]
fn drop_ins_do_what_upstreams_do() {
    let merged = |file: Option<&str>, parts: &[(&str, &str)]| {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in parts {
            let path = dir.path().join("d").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text.replace("HEAD", HEAD)).unwrap();
        }
        let own = dir.path().join("kubelet.conf");
        if let Some(text) = file {
            std::fs::write(&own, format!("{HEAD}{text}")).unwrap();
        }
        let mut config = KubeletConfig { port: 10250, ..config() };
        let loaded = Configuration::load(file.map(|_| own.as_path()), Some(&dir.path().join("d"))).map_err(|error| error.to_string())?;
        loaded.apply(&mut config).map(|()| config).map_err(|error| error.to_string())
    };
    let told = merged(Some("port: 9090\n"), &[("10.conf", "HEADport: 9090\n"), ("20.conf", "HEADport: 8080\n")]).unwrap();
    assert_eq!(told.port, 8080);
    let reserved = |amounts: &str| format!("HEADkubeReserved: {amounts}\n");
    let (ten, twenty) = (reserved("{memory: 150Mi, cpu: 200m}"), reserved("{memory: 100Mi}"));
    let told = merged(Some("kubeReserved: {memory: 100Mi}\n"), &[("10.conf", &ten), ("20.conf", &twenty)]).unwrap();
    let kept: Vec<String> = told.kube_reserved.iter().map(|(name, amount)| format!("{name}={amount}")).collect();
    assert_eq!(kept, ["cpu=200m", "memory=100Mi"]);
    let servers = [("10.conf", "HEADclusterDNS: [192.168.1.1, 192.168.1.5, 192.168.1.8]\n")];
    assert_eq!(merged(Some("clusterDNS: [192.168.1.3, 192.168.1.4]\n"), &servers).unwrap().cluster_dns.len(), 3);
    let again = [("10.conf", "HEADresolvConf: /d\n"), ("20.conf", "HEADport: 0\n")];
    let told = merged(Some("resolvConf: /o\nport: 123\nmaxPods: 9\n"), &again).unwrap();
    assert_eq!((told.port, told.max_pods), (10250, 9));
    let ignored = [("10.yaml", "HEADport: 7777\n"), ("20.txt", "read me"), ("30.conf", "HEADmaxPods: 8\n")];
    let told = merged(Some("port: 9090\n"), &ignored).unwrap();
    assert_eq!((told.port, told.max_pods), (9090, 8));
    // In the order of a walk: a folder before the file whose name is longer.
    let nested = [("a/b.conf", "HEADport: 1\n"), ("a.conf", "HEADport: 2\n")];
    assert_eq!(merged(None, &nested).unwrap().port, 2);
    // How often a status is written unasked was settled before the drop-in.
    let seconds = |file| {
        let told = merged(file, &[("10.conf", "HEADnodeStatusUpdateFrequency: 3s\n")]).unwrap();
        (told.status_update_frequency.as_secs(), told.status_report_frequency.as_secs())
    };
    assert_eq!((seconds(None), seconds(Some("nodeStatusUpdateFrequency: 4s\n"))), ((3, 300), (3, 4)));
    for (text, why) in [
        ("apiVersion: kubelet.config.k8s.io/v1beta2\nkind: KubeletConfiguration\n", "unknown apiVersion/kind"),
        ("apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration2\n", "unknown apiVersion/kind"),
        ("port: 123\n", "unknown apiVersion/kind"),
        ("HEADport: [this is not valid\n  indentation is wrong\n", "10.conf"),
        ("HEADport: 1\nport: 2\n", "10.conf"),
    ] {
        let refused = merged(Some(""), &[("10.conf", text)]).map(|_| ()).unwrap_err();
        assert!(refused.contains(why), "{refused}");
    }
}

#[test]
fn the_kernels_settings_are_told_of_set_or_protected_as_is_said() {
    for (said, is) in [(None, KernelDefaults::Tell), (Some(false), KernelDefaults::Set), (Some(true), KernelDefaults::Protect)] {
        let mut config = config();
        let document = said.map_or_else(|| object!({}), |said| object!({ "protectKernelDefaults": said }));
        Configuration { document }.apply(&mut config).unwrap();
        assert_eq!((config.kernel_defaults, in_force(&config).bool_at(&["protectKernelDefaults"])), (is, said));
    }
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
