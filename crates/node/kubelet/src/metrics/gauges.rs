//! What there is at the moment in which metrics are asked for: pods, containers and the kubelet's own process.

use std::collections::BTreeMap;
use std::fs;

use fram_cri::{ContainerFilter, ContainerState, CriResult, PodSandboxFilter, PodSandboxState};
use fram_machinery::Value;

use crate::kubelet::Kubelet;
use crate::pod;

/// What is told, as numbers.
#[derive(Debug, Default)]
struct Counted {
    node: String,
    cgroup_version: u64,
    running_pods: usize,
    containers: BTreeMap<&'static str, usize>,
    /// Those that are not static, and those that are.
    desired: [usize; 2],
    active: [usize; 2],
    ephemeral: usize,
}

pub(crate) async fn exposition(kubelet: &Kubelet) -> CriResult<String> {
    let ctx = &kubelet.ctx;
    let sandboxes = ctx.runtime.list_pod_sandbox(&PodSandboxFilter::default()).await?;
    let mut containers = BTreeMap::from(["created", "running", "exited", "unknown"].map(|state| (state, 0)));
    for container in ctx.runtime.list_containers(&ContainerFilter::default()).await? {
        let state = match container.state {
            ContainerState::Created => "created",
            ContainerState::Running => "running",
            ContainerState::Exited => "exited",
            ContainerState::Unknown => "unknown",
        };
        *containers.entry(state).or_default() += 1;
    }
    let pods = ctx.all_pods();
    let by_origin = |pods: &[std::sync::Arc<Value>]| {
        let of_files = pods.iter().filter(|pod| pod::is_static(pod)).count();
        [pods.len() - of_files, of_files]
    };
    let counted = Counted {
        node: ctx.config.node_name.clone(),
        cgroup_version: ctx.cgroups.version(),
        running_pods: sandboxes.iter().filter(|sandbox| sandbox.state == PodSandboxState::Ready).count(),
        containers,
        desired: by_origin(&pods),
        active: by_origin(&kubelet.active_pods()),
        ephemeral: pods.iter().map(|pod| pod.list_at(&["spec", "ephemeralContainers"]).len()).sum(),
    };
    let mut out = text(&counted);
    process(&mut out);
    Ok(out)
}

fn text(counted: &Counted) -> String {
    let mut out = String::new();
    let mut gauge = |name: &str, help: &str, values: Vec<(String, u64)>| {
        out.push_str(&format!("# HELP kubelet_{name} [ALPHA] {help}\n# TYPE kubelet_{name} gauge\n"));
        for (labels, value) in values {
            out.push_str(&format!("kubelet_{name}{labels} {value}\n"));
        }
    };
    let one = |value: usize| vec![(String::new(), value as u64)];
    let by_origin = |[others, of_files]: [usize; 2]| {
        vec![("{static=\"\"}".to_owned(), others as u64), ("{static=\"true\"}".to_owned(), of_files as u64)]
    };
    gauge("node_name", "The node's name. The count is always 1.", vec![(format!("{{node={:?}}}", counted.node), 1)]);
    gauge("cgroup_version", "cgroup version on the hosts.", vec![(String::new(), counted.cgroup_version)]);
    gauge("running_pods", "Number of pods that have a running pod sandbox", one(counted.running_pods));
    let containers = counted.containers.iter().map(|(state, count)| (format!("{{container_state={state:?}}}"), *count as u64)).collect();
    gauge("running_containers", "Number of containers currently running", containers);
    let desired = "The number of pods the kubelet is being instructed to run. static is true if the pod is not from the apiserver.";
    gauge("desired_pods", desired, by_origin(counted.desired));
    let active = "The number of pods the kubelet considers active and which are being considered when admitting new pods. static is true if \
                  the pod is not from the apiserver.";
    gauge("active_pods", active, by_origin(counted.active));
    let mirrors = "The number of mirror pods the kubelet will try to create (one per admitted static pod)";
    gauge("mirror_pods", mirrors, one(counted.active[1]));
    let ephemeral = "Current number of ephemeral containers in pods managed by this kubelet.";
    gauge("managed_ephemeral_containers", ephemeral, one(counted.ephemeral));
    out
}

/// Of the process that the kubelet is in, by the names that Prometheus' clients have for it. The kernel counts its time in hundredths of a
/// second (proc(5)), from the start of the machine.
fn process(out: &mut String) {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // What is before the parenthesis may have spaces in it.
    let fields: Vec<u64> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
    let field = |number: usize| fields.get(number - 3).copied();
    let booted = crate::node::machine::booted().map(|nanos| nanos as f64 / 1e9);
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let descriptors = fs::read_dir("/proc/self/fd").map(|all| all.count() as f64).ok();
    let told = [
        ("process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.", {
            field(14).zip(field(15)).map(|(user, system)| (user + system) as f64 / 100.0)
        }),
        ("process_open_fds", "gauge", "Number of open file descriptors.", descriptors),
        ("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.", resident.map(|kilobytes| (kilobytes * 1024) as f64)),
        ("process_start_time_seconds", "gauge", "Start time of the process since unix epoch in seconds.", {
            booted.zip(field(22)).map(|(booted, ticks)| booted + ticks as f64 / 100.0)
        }),
        ("process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes.", field(23).map(|bytes| bytes as f64)),
    ];
    for (name, kind, help, value) in told {
        if let Some(value) = value {
            out.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_is_told_with_its_labels() {
        let counted = Counted {
            node: "n".into(),
            cgroup_version: 2,
            running_pods: 3,
            containers: BTreeMap::from([("running", 4)]),
            desired: [5, 1],
            active: [4, 1],
            ephemeral: 1,
        };
        let mut shown = text(&counted);
        process(&mut shown);
        for line in [
            "kubelet_node_name{node=\"n\"} 1",
            "kubelet_cgroup_version 2",
            "kubelet_running_pods 3",
            "kubelet_running_containers{container_state=\"running\"} 4",
            "kubelet_desired_pods{static=\"\"} 5",
            "kubelet_active_pods{static=\"true\"} 1",
            "kubelet_mirror_pods 1",
        ] {
            assert!(shown.lines().any(|told| told == line), "{line} in {shown}");
        }
        let value = |name: &str| shown.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok()).unwrap();
        assert!(value("process_resident_memory_bytes") > 4096.0 && value("process_open_fds") >= 3.0);
        let began = value("process_start_time_seconds");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!((0.0..3600.0).contains(&(now - began)), "{began} {now}");
    }
}
