//! The configuration of one container as the runtime wants it: command, security context, resources, labels. Pure; see
//! kuberuntime_container.go's generateContainerConfig.

use std::collections::HashMap;
use std::path::Path;

use fram_cri::{
    Capability, ContainerConfig, ContainerMetadata, Image, ImageSpec, KeyValue, LinuxContainerResources, LinuxContainerSecurityContext,
    Mount, NamespaceMode, SecurityProfile, Signal,
};
use fram_machinery::Value;

use crate::observed::{
    ANNOTATION_HASH, ANNOTATION_MESSAGE_PATH, ANNOTATION_MESSAGE_POLICY, ANNOTATION_POD_GRACE, ANNOTATION_RESOURCES,
    ANNOTATION_RESTART_COUNT, LABEL_CONTAINER_NAME,
};
use crate::pod;
use crate::pod::environment::expand;
use crate::sandbox::{self, groups_policy, supplemental_groups};

/// Paths that say too much or can do too much; see upstream's securitycontext defaults.
const MASKED_PATHS: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
const DEFAULT_MESSAGE_PATH: &str = "/dev/termination-log";

/// Why a container cannot be configured: what the status calls `CreateContainerConfigError`.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("container's runAsUser breaks non-root policy (pod: {0:?}, container: {1})")]
    RootUser(String, String),
    #[error("container has runAsNonRoot and image will run as root (pod: {0:?}, container: {1})")]
    RootImage(String, String),
    #[error("container has runAsNonRoot and image has non-numeric user ({0}), cannot verify user is non-root (pod: {1:?}, container: {2})")]
    NamedUser(String, String, String),
}

/// All that a container's configuration is made from.
pub(crate) struct Making<'a> {
    pub pod: &'a Value,
    pub container: &'a Value,
    /// How often it was started before.
    pub restart_count: u32,
    pub image: &'a Image,
    pub environment: Vec<(String, String)>,
    pub mounts: Vec<Mount>,
    pub resources: LinuxContainerResources,
    /// The container whose pid namespace an ephemeral container joins.
    pub target_id: Option<String>,
    pub seccomp_default: bool,
    /// The kubelet's directory.
    pub root: &'a Path,
}

pub(crate) fn message_path(container: &Value) -> &str {
    match container.str_at(&["terminationMessagePath"]) {
        "" => DEFAULT_MESSAGE_PATH,
        path => path,
    }
}

/// `<container>/<attempt>.log`, below the pod's log directory.
pub(crate) fn log_path(name: &str, restart_count: u32) -> String {
    format!("{name}/{restart_count}.log")
}

pub(crate) fn config(making: Making) -> Result<ContainerConfig, ConfigError> {
    let Making { pod, container, .. } = making;
    let security_context = security(&making)?;
    let name = pod::container_name(container).to_string();
    let known: HashMap<&str, &str> = making.environment.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let words = |key: &str| -> Vec<String> {
        let texts = container.list_at(&[key]).iter().filter_map(Value::as_str);
        texts.map(|text| expand(text, |name| known.get(name).map(ToString::to_string))).collect()
    };
    let (command, args) = (words("command"), words("args"));
    let mut labels = sandbox::labels(pod);
    labels.insert(LABEL_CONTAINER_NAME.into(), name.clone());
    let annotations = [
        (ANNOTATION_HASH, pod::container_hash(container)),
        (ANNOTATION_RESTART_COUNT, making.restart_count.to_string()),
        (ANNOTATION_RESOURCES, crate::resize::annotation(pod, container)),
        (ANNOTATION_MESSAGE_PATH, message_path(container).to_string()),
        (ANNOTATION_MESSAGE_POLICY, container.str_at(&["terminationMessagePolicy"]).to_string()),
        (ANNOTATION_POD_GRACE, pod.int_at(&["spec", "terminationGracePeriodSeconds"]).unwrap_or(30).to_string()),
    ];
    let flag = |key: &str| container.bool_at(&[key]) == Some(true);
    Ok(ContainerConfig {
        image: ImageSpec { user_specified_image: container.str_at(&["image"]).into(), ..ImageSpec::new(making.image.id.clone()) },
        command,
        args,
        working_dir: container.str_at(&["workingDir"]).into(),
        envs: making.environment.into_iter().map(|(key, value)| KeyValue { key, value }).collect(),
        mounts: making.mounts,
        labels,
        annotations: annotations.into_iter().map(|(k, v)| (k.to_string(), v)).collect(),
        log_path: log_path(&name, making.restart_count),
        metadata: ContainerMetadata { name, attempt: making.restart_count },
        stdin: flag("stdin"),
        stdin_once: flag("stdinOnce"),
        tty: flag("tty"),
        resources: making.resources,
        security_context,
        stop_signal: container.str_at(&["lifecycle", "stopSignal"]).parse::<Signal>().ok(),
        ..ContainerConfig::default()
    })
}

/// A field of the container's security context, or else of the pod's.
fn merged<'a>(pod: &'a Value, container: &'a Value, field: &str) -> Option<&'a Value> {
    let own = container.at(&["securityContext", field]);
    own.or_else(|| pod.at(&["spec", "securityContext", field])).filter(|v| !v.is_null())
}

fn security(making: &Making) -> Result<LinuxContainerSecurityContext, ConfigError> {
    let Making { pod, container, image, .. } = making;
    let none = Value::Null;
    let own = container.get("securityContext").unwrap_or(&none);
    let flag = |name: &str| own.bool_at(&[name]) == Some(true);
    let run_as_user = merged(pod, container, "runAsUser").and_then(Value::as_int);
    check_non_root(making, run_as_user)?;
    let privileged = flag("privileged");
    let unmasked = own.str_at(&["procMount"]) == "Unmasked" || privileged;
    let paths = |list: &[&str]| if unmasked { Vec::new() } else { list.iter().map(ToString::to_string).collect() };
    let texts = |key: &str| -> Vec<String> {
        own.at(&["capabilities"]).map(|c| c.list_at(&[key])).unwrap_or_default().iter().filter_map(Value::as_str).map(capability).collect()
    };
    let pod_context = pod.at(&["spec", "securityContext"]).unwrap_or(&none);
    let of_either = |find: &dyn Fn(&Value) -> Option<SecurityProfile>| find(own).or_else(|| find(pod_context));
    let default = if making.seccomp_default { SecurityProfile::RuntimeDefault } else { SecurityProfile::Unconfined };
    let mut namespaces = sandbox::namespaces(pod);
    if let Some(target) = &making.target_id {
        namespaces.pid = NamespaceMode::Target;
        namespaces.target_id = target.clone();
    }
    Ok(LinuxContainerSecurityContext {
        capabilities: Capability { add_capabilities: texts("add"), drop_capabilities: texts("drop"), ..Capability::default() },
        privileged,
        namespace_options: namespaces,
        // An image without a user is root's; runtimes refuse a group without a user (upstream's getImageUser).
        run_as_user: run_as_user.or(image.username.is_empty().then(|| image.uid.unwrap_or(0))),
        run_as_group: merged(pod, container, "runAsGroup").and_then(Value::as_int),
        run_as_username: if run_as_user.is_some() { String::new() } else { image.username.clone() },
        readonly_rootfs: flag("readOnlyRootFilesystem"),
        supplemental_groups: supplemental_groups(pod),
        supplemental_groups_policy: groups_policy(pod),
        no_new_privs: own.bool_at(&["allowPrivilegeEscalation"]) == Some(false),
        masked_paths: paths(&MASKED_PATHS),
        readonly_paths: paths(&READONLY_PATHS),
        seccomp: Some(of_either(&|context| sandbox::seccomp(context, making.root)).unwrap_or(default)),
        apparmor: of_either(&|context| sandbox::profile(context, "appArmorProfile")),
        selinux_options: merged(pod, container, "seLinuxOptions").and_then(sandbox::selinux),
    })
}

/// Without the prefix that some write.
fn capability(name: &str) -> String {
    name.strip_prefix("CAP_").unwrap_or(name).to_string()
}

/// See kuberuntime's verifyRunAsNonRoot.
fn check_non_root(making: &Making, run_as_user: Option<i64>) -> Result<(), ConfigError> {
    let Making { pod, container, image, .. } = making;
    if merged(pod, container, "runAsNonRoot").and_then(Value::as_bool) != Some(true) {
        return Ok(());
    }
    let id = pod::PodId::of(pod);
    let at = || (format!("{}_{}({})", id.name, id.namespace, id.uid), pod::container_name(container).to_string());
    match (run_as_user, image.uid) {
        (Some(0), _) => {
            let (pod, container) = at();
            Err(ConfigError::RootUser(pod, container))
        }
        (Some(_), _) => Ok(()),
        (None, _) if !image.username.is_empty() => {
            let (pod, container) = at();
            Err(ConfigError::NamedUser(image.username.clone(), pod, container))
        }
        (None, None | Some(0)) => {
            let (pod, container) = at();
            Err(ConfigError::RootImage(pod, container))
        }
        (None, Some(_)) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    fn make(pod_context: Value, container: Value, image: Image) -> Result<ContainerConfig, ConfigError> {
        let pod = object!({ "metadata": { "namespace": "ns", "name": "p", "uid": "u" }, "spec": { "securityContext": pod_context } });
        config(Making {
            pod: &pod,
            container: &container,
            restart_count: 2,
            image: &image,
            environment: vec![("A".into(), "1".into())],
            mounts: Vec::new(),
            resources: crate::pod::resources::container_resources(&pod, &container, 1 << 30),
            target_id: None,
            seccomp_default: true,
            root: Path::new("/k"),
        })
    }

    fn image(uid: Option<i64>, username: &str) -> Image {
        Image { id: "sha256:1".into(), uid, username: username.into(), ..Image::default() }
    }

    #[test]
    fn command_and_arguments_are_expanded_from_the_environment() {
        let container = object!({ "name": "c", "image": "img", "command": ["sh", "$(A)"], "args": ["$(B)", "$$(A)"] });
        let made = make(object!({}), container, image(None, "")).unwrap();
        assert_eq!((made.command, made.args), (vec!["sh".into(), "1".into()], vec!["$(B)".into(), "$(A)".into()]));
        assert_eq!((made.log_path.as_str(), made.metadata.attempt, made.image.user_specified_image.as_str()), ("c/2.log", 2, "img"));
    }

    #[test]
    fn the_containers_security_context_beats_the_pods() {
        let pod = object!({ "runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "supplementalGroups": [4], "seccompProfile": { "type": "Unconfined" } });
        let own =
            object!({ "runAsUser": 9, "allowPrivilegeEscalation": false, "capabilities": { "add": ["CAP_NET_ADMIN"], "drop": ["ALL"] } });
        let made = make(pod, object!({ "name": "c", "securityContext": own }), image(Some(0), "")).unwrap().security_context;
        assert_eq!((made.run_as_user, made.run_as_group, made.supplemental_groups), (Some(9), Some(2), vec![4, 3]));
        assert_eq!((made.no_new_privs, made.seccomp), (true, Some(SecurityProfile::Unconfined)));
        assert_eq!(made.capabilities.add_capabilities, ["NET_ADMIN"]);
        let local = object!({ "seccompProfile": { "type": "Localhost", "localhostProfile": "a.json" } });
        let made = make(local, object!({ "name": "c" }), image(Some(0), "")).unwrap().security_context;
        assert_eq!(made.seccomp, Some(SecurityProfile::Localhost("/k/seccomp/a.json".into())));
        let label = |level: &str| object!({ "seLinuxOptions": { "level": level } });
        let levels = |pod: Value, own: Value| {
            let made = make(pod, object!({ "name": "c", "securityContext": own }), image(Some(0), "")).unwrap();
            made.security_context.selinux_options.map(|options| options.level)
        };
        assert_eq!(levels(label("s0"), label("s1")).as_deref(), Some("s1"));
        assert_eq!((levels(label("s0"), object!({})).as_deref(), levels(object!({}), object!({}))), (Some("s0"), None));
        let plain = make(object!({}), object!({ "name": "c" }), image(Some(7), "")).unwrap().security_context;
        assert_eq!((plain.seccomp, plain.run_as_user, plain.masked_paths.len()), (Some(SecurityProfile::RuntimeDefault), Some(7), 11));
    }

    #[test]
    fn a_container_that_must_not_run_as_root_is_refused_when_it_would_or_could() {
        let non_root = |user: Option<i64>, image: Image| {
            make(object!({ "runAsNonRoot": true, "runAsUser": user }), object!({ "name": "c" }), image).map(drop)
        };
        assert!(non_root(Some(1), image(Some(0), "")).is_ok() && non_root(None, image(Some(5), "")).is_ok());
        assert!(matches!(non_root(Some(0), image(None, "")), Err(ConfigError::RootUser(..))));
        assert!(matches!(non_root(None, image(None, "")), Err(ConfigError::RootImage(..))));
        assert!(matches!(non_root(None, image(None, "www")), Err(ConfigError::NamedUser(..))));
    }
}
