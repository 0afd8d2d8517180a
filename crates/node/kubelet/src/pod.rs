//! Reading pods: their containers, policies and identity. Pure.

pub(crate) mod environment;
pub(crate) mod resources;

use fram_machinery::{Value, meta};

/// Who a pod is. The uid tells a pod from another of the same name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PodId {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

impl PodId {
    pub(crate) fn of(pod: &Value) -> Self {
        Self { namespace: meta::namespace(pod).into(), name: meta::name(pod).into(), uid: meta::uid(pod).into() }
    }

    pub(crate) fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

impl std::fmt::Display for PodId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}({})", self.namespace, self.name, self.uid)
    }
}

/// Which list of the pod a container stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Init,
    Main,
    Ephemeral,
}

impl Role {
    pub(crate) fn field(self) -> &'static str {
        match self {
            Role::Init => "initContainers",
            Role::Main => "containers",
            Role::Ephemeral => "ephemeralContainers",
        }
    }

    /// As metrics call it.
    pub(crate) fn metric(self) -> &'static str {
        match self {
            Role::Init => "init_container",
            Role::Main => "container",
            Role::Ephemeral => "ephemeral_container",
        }
    }
}

pub(crate) fn init_containers(pod: &Value) -> &[Value] {
    pod.list_at(&["spec", "initContainers"])
}

pub(crate) fn containers(pod: &Value) -> &[Value] {
    pod.list_at(&["spec", "containers"])
}

pub(crate) fn ephemeral_containers(pod: &Value) -> &[Value] {
    pod.list_at(&["spec", "ephemeralContainers"])
}

/// Every container with its role, in the order of their lists.
pub(crate) fn all_containers(pod: &Value) -> impl Iterator<Item = (Role, &Value)> {
    [Role::Init, Role::Main, Role::Ephemeral]
        .into_iter()
        .flat_map(|role| pod.list_at(&["spec", role.field()]).iter().map(move |c| (role, c)))
}

pub(crate) fn find_container<'a>(pod: &'a Value, name: &str) -> Option<(Role, &'a Value)> {
    all_containers(pod).find(|(_, c)| container_name(c) == name)
}

pub(crate) fn container_name(container: &Value) -> &str {
    container.str_at(&["name"])
}

/// A restartable init container (KEP-753). The field means something else for main containers.
pub(crate) fn is_sidecar(container: &Value) -> bool {
    container.str_at(&["restartPolicy"]) == "Always"
}

pub(crate) fn is_host_network(pod: &Value) -> bool {
    pod.bool_at(&["spec", "hostNetwork"]).unwrap_or(false)
}

/// Whether the pod comes from elsewhere than the API server; see kubetypes.IsStaticPod. Upstream's kubelet writes the annotation
/// over what users say; here it counts only on what the API server has never seen.
pub(crate) fn is_static(pod: &Value) -> bool {
    meta::resource_version(pod).is_empty() && meta::annotation(pod, "kubernetes.io/config.source").is_some_and(|source| source != "api")
}

pub(crate) fn restart_policy(pod: &Value) -> &str {
    match pod.str_at(&["spec", "restartPolicy"]) {
        "" => "Always",
        policy => policy,
    }
}

/// The restart policy of one container: its own, or the pod's.
pub(crate) fn container_restart_policy<'a>(pod: &'a Value, container: &'a Value) -> &'a str {
    match container.str_at(&["restartPolicy"]) {
        "" => restart_policy(pod),
        own => own,
    }
}

/// Whether a container is run again after this exit; see podutil.ContainerShouldRestart.
pub(crate) fn restarts_after_exit(pod: &Value, container: &Value, exit_code: i64) -> bool {
    if let Some(action) = restart_action(container, exit_code) {
        return matches!(action, "Restart" | RESTART_ALL);
    }
    match container_restart_policy(pod, container) {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        _ => true,
    }
}

/// What the first of a container's rules that is about this exit asks for; see podutil.FindMatchingContainerRestartRule.
pub(crate) fn restart_action(container: &Value, exit_code: i64) -> Option<&str> {
    let rule = |rule: &&Value| {
        let codes = rule.list_at(&["exitCodes", "values"]);
        let listed = codes.iter().any(|c| c.as_int() == Some(exit_code));
        match rule.str_at(&["exitCodes", "operator"]) {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        }
    };
    container.list_at(&["restartPolicyRules"]).iter().find(rule).map(|r| r.str_at(&["action"]))
}

/// The action that ends and restarts all containers of a pod (KEP-5532).
pub(crate) const RESTART_ALL: &str = "RestartAllContainers";

/// Whether an exit of one of its containers can restart all of them; see podutil.AllContainersCouldRestart.
pub(crate) fn could_restart_all(pod: &Value) -> bool {
    let rules = init_containers(pod).iter().chain(containers(pod)).flat_map(|c| c.list_at(&["restartPolicyRules"]));
    rules.into_iter().any(|rule| rule.str_at(&["action"]) == RESTART_ALL)
}

/// Whether the pod has ended for good as the API server knows it.
pub(crate) fn is_terminal(pod: &Value) -> bool {
    matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed")
}

/// Seconds that the pod has to end: those of its deletion, or those of its specification.
pub(crate) fn grace_period(pod: &Value) -> i64 {
    let deletion = pod.int_at(&["metadata", "deletionGracePeriodSeconds"]);
    deletion.or(pod.int_at(&["spec", "terminationGracePeriodSeconds"])).unwrap_or(30)
}

/// A value that changes when a running container no longer is what the pod asks for: of what can change only the image
/// calls for a new container. See kubecontainer.HashContainer.
pub(crate) fn container_hash(container: &Value) -> String {
    // FNV-1a; it is stored as a label and must stay the same between builds.
    let text = [container_name(container), "\0", container.str_at(&["image"])].concat();
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    format!("{hash:x}")
}

pub(crate) fn qos_class(pod: &Value) -> &str {
    match pod.str_at(&["status", "qosClass"]) {
        "" => resources::qos_class(pod),
        class => class,
    }
}
