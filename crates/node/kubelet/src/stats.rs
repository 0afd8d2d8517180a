//! What node and pods use: the documents /stats/summary and /metrics/resource, made when somebody asks for them. See upstream's
//! pkg/kubelet/server/stats and pkg/kubelet/metrics/collectors.

mod cadvisor;
mod disk;

use std::collections::HashMap;
use std::sync::Arc;

use fram_cri::{CriResult, PodSandboxState, PodSandboxStats, PodSandboxStatsFilter};
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

async fn pods(ctx: &Context) -> CriResult<Vec<PodSandboxStats>> {
    let ready: Vec<String> = ctx
        .runtime
        .list_pod_sandbox(&fram_cri::PodSandboxFilter::default())
        .await?
        .into_iter()
        .filter(|s| s.state == PodSandboxState::Ready)
        .map(|s| s.id)
        .collect();
    let mut stats = ctx.runtime.list_pod_sandbox_stats(&PodSandboxStatsFilter::default()).await?;
    stats.retain(|s| ready.contains(&s.id));
    Ok(stats)
}

/// The document at /stats/summary. Files are counted for it, which takes a while where there are many.
pub(crate) async fn full_summary(ctx: &Arc<Context>) -> CriResult<Value> {
    let mut summary = summary(ctx).await?;
    disk::add(ctx, &mut summary).await;
    Ok(summary)
}

/// What can be told without counting files.
pub(crate) async fn summary(ctx: &Arc<Context>) -> CriResult<Value> {
    let stats = pods(ctx).await?;
    let mut known = vec![String::new()];
    let mut list = Vec::new();
    for pod in &stats {
        let mut containers = Vec::new();
        for container in &pod.containers {
            let (cpu, memory) = (&container.cpu, &container.memory);
            let id = &container.attributes.id;
            known.push(id.clone());
            let (psi_cpu, psi_memory) = (cpu.psi.as_ref().map(of_psi), memory.psi.as_ref().map(of_psi));
            let mut out = object!({
                "name": (container.attributes.metadata.name.as_str()), "cpu": (of_cpu(ctx, id, cpu)), "memory": (of_memory(memory))
            });
            for (of, psi) in [("cpu", psi_cpu), ("memory", psi_memory)] {
                if let Some(psi) = psi {
                    out.set(&[of, "psi"], psi);
                }
            }
            if let Some(used) = container.swap.swap_usage_bytes {
                out.set(&["swap"], object!({ "time": (time(container.swap.timestamp)), "swapUsageBytes": (int(used)) }));
            }
            if let Some(layer) = &container.writable_layer {
                let (used, inodes) = (layer.used_bytes.unwrap_or(0), layer.inodes_used.unwrap_or(0));
                out.set(&["rootfs"], object!({ "time": (time(layer.timestamp)), "usedBytes": (int(used)), "inodesUsed": (int(inodes)) }));
            }
            containers.push(out);
        }
        known.push(pod.id.clone());
        let mut out = object!({
            "podRef": { "name": (pod.metadata.name.as_str()), "namespace": (pod.metadata.namespace.as_str()), "uid": (pod.metadata.uid.as_str()) },
            "containers": containers, "cpu": (of_cpu(ctx, &pod.id, &pod.cpu)), "memory": (of_memory(&pod.memory)),
            "process_stats": { "process_count": (int(pod.process.process_count.unwrap_or(0))) }
        });
        if let Some(network) = &pod.network {
            out.set(&["network"], of_network(network));
        }
        list.push(out);
    }
    let node = of_node(ctx);
    ctx.rates.keep(&known);
    Ok(object!({ "node": node, "pods": list }))
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
    let now = ctx.clock.now();
    let at = i64::try_from(now.as_nanosecond()).unwrap_or(0);
    let used = machine::cpu_nano_seconds();
    let cpu = fram_cri::CpuUsage { timestamp: at, usage_core_nano_seconds: used, ..Default::default() };
    let mut memory = object!({ "time": (time(at)) });
    if let Some((working_set, available)) = machine::memory().map(|(all, available)| (all - available, available)) {
        memory.set(&["availableBytes"], available);
        memory.set(&["usageBytes"], working_set);
        memory.set(&["workingSetBytes"], working_set);
    }
    let mut node = object!({ "nodeName": (ctx.config.node_name.as_str()), "cpu": (of_cpu(ctx, "", &cpu)), "memory": memory });
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
    Ok(cadvisor::exposition(&summary(ctx).await?))
}

/// The document at /metrics/resource, in Prometheus' text format.
pub(crate) async fn resource_metrics(ctx: &Arc<Context>) -> CriResult<String> {
    Ok(exposition(&summary(ctx).await?))
}

const HELP: [(&str, &str, &str); 6] = [
    ("node_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the node in core-seconds"),
    ("node_memory_working_set_bytes", "gauge", "Current working set of the node in bytes"),
    ("pod_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the pod in core-seconds"),
    ("pod_memory_working_set_bytes", "gauge", "Current working set of the pod in bytes"),
    ("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the container in core-seconds"),
    ("container_memory_working_set_bytes", "gauge", "Current working set of the container in bytes"),
];

fn exposition(summary: &Value) -> String {
    let mut out = String::new();
    for (name, kind, help) in HELP {
        out.push_str(&format!("# HELP {name} [STABLE] {help}\n# TYPE {name} {kind}\n"));
        let amount = |of: &Value| match kind {
            "counter" => of.int_at(&["cpu", "usageCoreNanoSeconds"]).map(|n| format!("{}", n as f64 / 1e9)),
            _ => of.int_at(&["memory", "workingSetBytes"]).map(|n| n.to_string()),
        };
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
        pod.set(&["containers"], object!([(usage("c"))]));
        let text = exposition(&object!({ "node": (usage("")), "pods": [pod] }));
        for line in [
            "node_cpu_usage_seconds_total 1.5",
            "pod_memory_working_set_bytes{namespace=\"ns\",pod=\"p\"} 7",
            "container_cpu_usage_seconds_total{container=\"c\",namespace=\"ns\",pod=\"p\"} 1.5",
            "resource_scrape_error 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
    }
}
