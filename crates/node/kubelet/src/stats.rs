//! What node and pods use: the documents /stats/summary and /metrics/resource, made when somebody asks for them. See upstream's
//! pkg/kubelet/server/stats and pkg/kubelet/metrics/collectors.

mod cadvisor;
mod disk;

use std::collections::HashMap;
use std::sync::Arc;

use fram_cri::{
    ContainerFilter, ContainerStats, CriError, CriResult, PodSandboxFilter, PodSandboxState, PodSandboxStats, PodSandboxStatsFilter,
    SwapUsage,
};
use fram_machinery::{Value, object};
use parking_lot::Mutex;

use crate::clock;
use crate::context::Context;
use crate::node::machine;

/// Rates are told over at least this time.
const LEAST_WINDOW: i64 = 1_000_000_000;

/// What was used at a moment, both in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Sample {
    at: i64,
    used: u64,
}

/// Remembers what was used when it was last looked at, from which rates are made.
#[derive(Default)]
pub(crate) struct Rates {
    samples: Mutex<HashMap<String, (Option<Sample>, Sample)>>,
}

impl Rates {
    /// Thousand-millionths of a processor that were used since the look before, where there was one that is not too recent.
    fn nano_cores(&self, of: &str, now: Sample) -> Option<u64> {
        let mut samples = self.samples.lock();
        let (before, last) = samples.entry(of.to_string()).or_insert((None, now));
        if now.at - last.at >= LEAST_WINDOW {
            (*before, *last) = (Some(*last), now);
        }
        rate((*before)?, *last)
    }

    fn keep(&self, known: &[String]) {
        self.samples.lock().retain(|of, _| known.contains(of));
    }
}

fn rate(before: Sample, now: Sample) -> Option<u64> {
    let time = u128::try_from(now.at - before.at).ok().filter(|t| *t > 0)?;
    // A cgroup that was made anew begins at zero.
    let used = u128::from(now.used.checked_sub(before.used)?);
    u64::try_from(used * 1_000_000_000 / time).ok()
}

/// When what is listed was made: sandboxes that are ready, and containers.
struct Made {
    sandboxes: HashMap<String, i64>,
    containers: HashMap<String, i64>,
}

async fn pods(ctx: &Context) -> CriResult<(Vec<PodSandboxStats>, Made)> {
    let sandboxes = ctx.runtime.list_pod_sandbox(&PodSandboxFilter::default()).await?.into_iter();
    let sandboxes: HashMap<_, _> = sandboxes.filter(|s| s.state == PodSandboxState::Ready).map(|s| (s.id, s.created_at)).collect();
    let containers = ctx.runtime.list_containers(&ContainerFilter::default()).await?.into_iter();
    let containers = containers.map(|c| (c.id, c.created_at)).collect();
    let mut stats = ctx.runtime.list_pod_sandbox_stats(&PodSandboxStatsFilter::default()).await?;
    stats.retain(|s| sandboxes.contains_key(&s.id));
    Ok((stats, Made { sandboxes, containers }))
}

/// The document at /stats/summary. Files are counted for it, which takes a while where there are many.
pub(crate) async fn full_summary(ctx: &Arc<Context>) -> CriResult<Value> {
    let mut summary = summary(ctx).await?;
    disk::add(ctx, &mut summary).await;
    Ok(summary)
}

/// What can be told without counting files.
pub(crate) async fn summary(ctx: &Arc<Context>) -> CriResult<Value> {
    let (stats, made) = pods(ctx).await?;
    let list: Vec<Value> = stats.iter().map(|pod| of_pod(ctx, pod, &made)).collect();
    let node = of_node(ctx);
    let of_pods = stats.iter().flat_map(|pod| pod.containers.iter().map(|c| &c.attributes.id).chain([&pod.id]));
    ctx.rates.keep(&of_pods.cloned().chain([String::new()]).collect::<Vec<_>>());
    Ok(object!({ "node": node, "pods": list }))
}

fn of_pod(ctx: &Context, pod: &PodSandboxStats, made: &Made) -> Value {
    let containers: Vec<Value> = pod.containers.iter().map(|container| of_container(ctx, container, made)).collect();
    let mut out = object!({
        "podRef": { "name": (pod.metadata.name.as_str()), "namespace": (pod.metadata.namespace.as_str()), "uid": (pod.metadata.uid.as_str()) },
        "startTime": (of_moment(made.sandboxes.get(&pod.id))),
        "containers": containers, "cpu": (of_cpu(ctx, &pod.id, &pod.cpu)), "memory": (of_memory(&pod.memory)),
        "process_stats": { "process_count": (int(pod.process.process_count.unwrap_or(0))) }
    });
    if let Some(io) = of_io(&pod.io) {
        out.set(&["io"], io);
    }
    if let Some(network) = &pod.network {
        out.set(&["network"], of_network(network));
    }
    // Of the pod as a whole the CRI says nothing of swap.
    let swap = |read: fn(&SwapUsage) -> Option<u64>| pod.containers.iter().filter_map(|c| read(&c.swap)).reduce(u64::saturating_add);
    let usage = SwapUsage {
        timestamp: pod.memory.timestamp,
        swap_available_bytes: swap(|swap| swap.swap_available_bytes),
        swap_usage_bytes: swap(|swap| swap.swap_usage_bytes),
    };
    if let Some(swap) = of_swap(&usage) {
        out.set(&["swap"], swap);
    }
    out
}

fn of_container(ctx: &Context, container: &ContainerStats, made: &Made) -> Value {
    let id = &container.attributes.id;
    let mut out = object!({
        "name": (container.attributes.metadata.name.as_str()), "startTime": (of_moment(made.containers.get(id))),
        "cpu": (of_cpu(ctx, id, &container.cpu)), "memory": (of_memory(&container.memory))
    });
    if let Some(io) = of_io(&container.io) {
        out.set(&["io"], io);
    }
    if let Some(swap) = of_swap(&container.swap) {
        out.set(&["swap"], swap);
    }
    if let Some(layer) = &container.writable_layer {
        let (used, inodes) = (layer.used_bytes.unwrap_or(0), layer.inodes_used.unwrap_or(0));
        out.set(&["rootfs"], object!({ "time": (time(layer.timestamp)), "usedBytes": (int(used)), "inodesUsed": (int(inodes)) }));
    }
    out
}

/// Absent where the kernel counts no pressure; nothing else of it is told in a summary.
fn of_io(io: &fram_cri::IoUsage) -> Option<Value> {
    Some(object!({ "time": (time(io.timestamp)), "psi": (of_psi(io.psi.as_ref()?)) }))
}

fn of_swap(swap: &SwapUsage) -> Option<Value> {
    let mut out = object!({ "time": (time(swap.timestamp)), "swapUsageBytes": (int(swap.swap_usage_bytes?)) });
    if let Some(available) = swap.swap_available_bytes {
        out.set(&["swapAvailableBytes"], int(available));
    }
    Some(out)
}

/// Null where it is not known, as Go writes a time that was never set.
fn of_moment(nanos: Option<&i64>) -> Value {
    nanos.map_or(Value::Null, |nanos| clock::time_of_nanos(*nanos))
}

fn int(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn time(nanos: i64) -> String {
    clock::from_nanos(nanos).map(clock::micro_time).unwrap_or_default()
}

fn of_cpu(ctx: &Context, id: &str, cpu: &fram_cri::CpuUsage) -> Value {
    let mut out = object!({ "time": (time(cpu.timestamp)) });
    if let Some(used) = cpu.usage_core_nano_seconds {
        out.set(&["usageCoreNanoSeconds"], int(used));
        if let Some(rate) = ctx.rates.nano_cores(id, Sample { at: cpu.timestamp, used }) {
            out.set(&["usageNanoCores"], int(rate));
        }
    }
    if let Some(psi) = &cpu.psi {
        out.set(&["psi"], of_psi(psi));
    }
    out
}

/// Pressure stall information (KEP-4205); times are in nanoseconds.
fn of_psi(psi: &fram_cri::PsiStats) -> Value {
    let one = |data: &fram_cri::PsiData| {
        let mut out = object!({ "total": (int(data.total)) });
        for (name, average) in [("avg10", data.avg10), ("avg60", data.avg60), ("avg300", data.avg300)] {
            out.set(&[name], Value::Float(average));
        }
        out
    };
    object!({ "full": (one(&psi.full)), "some": (one(&psi.some)) })
}

fn of_memory(memory: &fram_cri::MemoryUsage) -> Value {
    let mut out = object!({ "time": (time(memory.timestamp)) });
    for (name, value) in [
        ("availableBytes", memory.available_bytes),
        ("usageBytes", memory.usage_bytes),
        ("workingSetBytes", memory.working_set_bytes),
        ("rssBytes", memory.rss_bytes),
        ("pageFaults", memory.page_faults),
        ("majorPageFaults", memory.major_page_faults),
    ] {
        if let Some(value) = value {
            out.set(&[name], int(value));
        }
    }
    if let Some(psi) = &memory.psi {
        out.set(&["psi"], of_psi(psi));
    }
    out
}

fn of_network(network: &fram_cri::NetworkUsage) -> Value {
    let one = |i: &fram_cri::NetworkInterfaceUsage| {
        object!({
            "name": (i.name.as_str()), "rxBytes": (int(i.rx_bytes.unwrap_or(0))), "rxErrors": (int(i.rx_errors.unwrap_or(0))),
            "txBytes": (int(i.tx_bytes.unwrap_or(0))), "txErrors": (int(i.tx_errors.unwrap_or(0)))
        })
    };
    let mut out = network.default_interface.as_ref().map_or_else(|| object!({}), one);
    out.set(&["time"], time(network.timestamp));
    let all: Vec<Value> = network.default_interface.iter().chain(&network.interfaces).map(one).collect();
    out.set(&["interfaces"], all);
    out
}

fn of_file_system(fs: machine::FileSystem, time: String) -> Value {
    object!({
        "time": time, "availableBytes": (fs.available), "capacityBytes": (fs.capacity), "usedBytes": (fs.used),
        "inodes": (fs.inodes), "inodesFree": (fs.inodes_free), "inodesUsed": (fs.inodes - fs.inodes_free)
    })
}

fn of_node(ctx: &Context) -> Value {
    let at = i64::try_from(ctx.clock.now().as_nanosecond()).unwrap_or(0);
    let used = machine::cpu_nano_seconds();
    let cpu = fram_cri::CpuUsage { timestamp: at, usage_core_nano_seconds: used, psi: machine::pressure("cpu"), ..Default::default() };
    let mut memory = object!({ "time": (time(at)) });
    if let Some((working_set, available)) = machine::memory().map(|(all, available)| (all - available, available)) {
        memory.set(&["availableBytes"], available);
        memory.set(&["usageBytes"], working_set);
        memory.set(&["workingSetBytes"], working_set);
    }
    if let Some(psi) = machine::pressure("memory") {
        memory.set(&["psi"], of_psi(&psi));
    }
    let mut node = object!({
        "nodeName": (ctx.config.node_name.as_str()), "startTime": (of_moment(machine::booted().as_ref())),
        "cpu": (of_cpu(ctx, "", &cpu)), "memory": memory
    });
    if let Some(io) = of_io(&fram_cri::IoUsage { timestamp: at, psi: machine::pressure("io") }) {
        node.set(&["io"], io);
    }
    if let Some((all, free)) = machine::process_ids() {
        node.set(&["rlimit"], object!({ "time": (time(at)), "maxpid": all, "curproc": (all - free) }));
    }
    if let Some((all, free)) = machine::swap_in_use() {
        node.set(&["swap"], object!({ "time": (time(at)), "swapAvailableBytes": free, "swapUsageBytes": (all - free) }));
    }
    if let Some(fs) = machine::file_system(&ctx.config.root_dir) {
        node.set(&["fs"], of_file_system(fs, time(at)));
    }
    node
}

/// The document at /metrics/cadvisor, in Prometheus' text format.
pub(crate) async fn cadvisor_metrics(ctx: &Arc<Context>) -> CriResult<String> {
    let descriptors = match ctx.runtime.list_metric_descriptors().await {
        // As runtimes are that came before KEP-2371.
        Err(CriError::Unimplemented(_)) => return Ok(cadvisor::exposition(&summary(ctx).await?)),
        descriptors => descriptors?,
    };
    Ok(cadvisor::exposition_of(&descriptors, &ctx.runtime.list_pod_sandbox_metrics().await?, &of_node(ctx)))
}

/// The document at /metrics/resource, in Prometheus' text format.
pub(crate) async fn resource_metrics(ctx: &Arc<Context>) -> CriResult<String> {
    Ok(exposition(&summary(ctx).await?))
}

type Amount = fn(&Value) -> Option<f64>;

/// Name, level, type, help, and where it comes from.
const RESOURCES: [(&str, &str, &str, &str, Amount); 11] = [
    ("node_cpu_usage_seconds_total", "STABLE", "counter", "Cumulative cpu time consumed by the node in core-seconds", cpu_seconds),
    ("node_memory_working_set_bytes", "STABLE", "gauge", "Current working set of the node in bytes", working_set),
    ("node_swap_usage_bytes", "ALPHA", "gauge", "Current swap usage of the node in bytes. Reported only on non-windows systems", swap_used),
    ("pod_cpu_usage_seconds_total", "STABLE", "counter", "Cumulative cpu time consumed by the pod in core-seconds", cpu_seconds),
    ("pod_memory_working_set_bytes", "STABLE", "gauge", "Current working set of the pod in bytes", working_set),
    (
        "pod_swap_usage_bytes",
        "ALPHA",
        "gauge",
        "Current amount of the pod swap usage in bytes. Reported only on non-windows systems",
        swap_used,
    ),
    ("container_start_time_seconds", "STABLE", "gauge", "Start time of the container since unix epoch in seconds", started),
    (
        "container_cpu_usage_seconds_total",
        "STABLE",
        "counter",
        "Cumulative cpu time consumed by the container in core-seconds",
        cpu_seconds,
    ),
    ("container_memory_working_set_bytes", "STABLE", "gauge", "Current working set of the container in bytes", working_set),
    (
        "container_swap_usage_bytes",
        "ALPHA",
        "gauge",
        "Current amount of the container swap usage in bytes. Reported only on non-windows systems",
        swap_used,
    ),
    (
        "container_swap_limit_bytes",
        "ALPHA",
        "gauge",
        "Current amount of the container swap limit in bytes. Reported only on non-windows systems",
        |of| Some(of.int_at(&["swap", "swapAvailableBytes"])? as f64 + swap_used(of)?),
    ),
];

fn cpu_seconds(of: &Value) -> Option<f64> {
    of.int_at(&["cpu", "usageCoreNanoSeconds"]).map(|n| n as f64 / 1e9)
}

fn working_set(of: &Value) -> Option<f64> {
    of.int_at(&["memory", "workingSetBytes"]).map(|n| n as f64)
}

fn swap_used(of: &Value) -> Option<f64> {
    of.int_at(&["swap", "swapUsageBytes"]).map(|n| n as f64)
}

fn started(of: &Value) -> Option<f64> {
    clock::parse(of.str_at(&["startTime"])).map(|at| at.as_second() as f64)
}

fn exposition(summary: &Value) -> String {
    let mut out = String::new();
    for (name, level, kind, help, amount) in RESOURCES {
        out.push_str(&format!("# HELP {name} [{level}] {help}\n# TYPE {name} {kind}\n"));
        let mut line = |labels: String, of: &Value| {
            if let Some(amount) = amount(of) {
                out.push_str(&format!("{name}{labels} {amount}\n"));
            }
        };
        match name.split('_').next() {
            Some("node") => line(String::new(), summary.get("node").unwrap_or(&Value::Null)),
            scope => {
                for pod in summary.list_at(&["pods"]) {
                    let (namespace, pod_name) = (pod.str_at(&["podRef", "namespace"]), pod.str_at(&["podRef", "name"]));
                    if scope == Some("pod") {
                        line(format!("{{namespace={namespace:?},pod={pod_name:?}}}"), pod);
                        continue;
                    }
                    for container in pod.list_at(&["containers"]) {
                        let own = container.str_at(&["name"]);
                        line(format!("{{container={own:?},namespace={namespace:?},pod={pod_name:?}}}"), container);
                    }
                }
            }
        }
    }
    out.push_str("# HELP resource_scrape_error [STABLE] 1 if there was an error while getting container metrics, 0 otherwise\n");
    out.push_str("# TYPE resource_scrape_error gauge\nresource_scrape_error 0\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_told_over_a_second_at_least() {
        let rates = Rates::default();
        let at = |tenths: i64, used: u64| Sample { at: tenths * 100_000_000, used };
        assert_eq!(rates.nano_cores("c", at(0, 0)), None);
        assert_eq!(rates.nano_cores("c", at(5, 500_000_000)), None);
        assert_eq!(rates.nano_cores("c", at(20, 1_000_000_000)), Some(500_000_000));
        // Asked again at once, the answer is the same.
        assert_eq!(rates.nano_cores("c", at(21, 2_000_000_000)), Some(500_000_000));
        // A container that began anew has no rate yet.
        assert_eq!(rates.nano_cores("c", at(40, 0)), None);
    }

    #[test]
    fn the_text_has_a_line_for_each_of_node_pod_and_container() {
        let usage =
            |name: &str| object!({ "name": name, "cpu": { "usageCoreNanoSeconds": 1_500_000_000 }, "memory": { "workingSetBytes": 7 } });
        let mut pod = usage("");
        pod.set(&["podRef"], object!({ "namespace": "ns", "name": "p" }));
        let mut container = usage("c");
        container.set(&["startTime"], "1970-01-01T00:01:40Z");
        container.set(&["swap"], object!({ "swapUsageBytes": 3, "swapAvailableBytes": 4 }));
        pod.set(&["containers"], object!([container]));
        let text = exposition(&object!({ "node": (usage("")), "pods": [pod] }));
        for line in [
            "container_start_time_seconds{container=\"c\",namespace=\"ns\",pod=\"p\"} 100",
            "container_swap_usage_bytes{container=\"c\",namespace=\"ns\",pod=\"p\"} 3",
            "container_swap_limit_bytes{container=\"c\",namespace=\"ns\",pod=\"p\"} 7",
            "node_cpu_usage_seconds_total 1.5",
            "pod_memory_working_set_bytes{namespace=\"ns\",pod=\"p\"} 7",
            "container_cpu_usage_seconds_total{container=\"c\",namespace=\"ns\",pod=\"p\"} 1.5",
            "resource_scrape_error 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
    }
}
