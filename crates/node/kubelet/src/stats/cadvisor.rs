//! The metrics that cAdvisor is known for: what Prometheus' rules and dashboards ask for. Of pods they are the runtime's own, or where it
//! has none what the summary says. Pure.

use std::collections::BTreeMap;

use fram_cri::{Metric, MetricDescriptor, MetricType, PodSandboxMetrics};
use fram_machinery::Value;

type Read = fn(&Value) -> Option<f64>;

fn number(of: &Value, path: &[&str]) -> Option<f64> {
    of.int_at(path).map(|n| n as f64)
}

/// Name, type, help, and where it comes from.
const OF_CONTAINERS: [(&str, &str, &str, Read); 7] = [
    ("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.", |c| {
        number(c, &["cpu", "usageCoreNanoSeconds"]).map(|n| n / 1e9)
    }),
    (
        "container_memory_usage_bytes",
        "gauge",
        "Current memory usage in bytes, including all memory regardless of when it was accessed",
        |c| number(c, &["memory", "usageBytes"]),
    ),
    ("container_memory_working_set_bytes", "gauge", "Current working set in bytes.", |c| number(c, &["memory", "workingSetBytes"])),
    ("container_memory_rss", "gauge", "Size of RSS in bytes.", |c| number(c, &["memory", "rssBytes"])),
    ("container_memory_swap", "gauge", "Container swap usage in bytes.", |c| number(c, &["swap", "swapUsageBytes"])),
    ("container_fs_usage_bytes", "gauge", "Number of bytes that are consumed by the container on this filesystem.", |c| {
        number(c, &["rootfs", "usedBytes"])
    }),
    ("container_processes", "gauge", "Number of processes running inside the container.", |c| {
        number(c, &["process_stats", "process_count"])
    }),
];

const OF_NETWORKS: [(&str, &str, &str); 4] = [
    ("container_network_receive_bytes_total", "rxBytes", "Cumulative count of bytes received"),
    ("container_network_receive_errors_total", "rxErrors", "Cumulative count of errors encountered while receiving"),
    ("container_network_transmit_bytes_total", "txBytes", "Cumulative count of bytes transmitted"),
    ("container_network_transmit_errors_total", "txErrors", "Cumulative count of errors encountered while transmitting"),
];

pub(super) fn exposition(summary: &Value) -> String {
    let mut out = String::new();
    for (name, kind, help, read) in OF_CONTAINERS {
        out.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        let mut line = |container: &str, id: &str, namespace: &str, pod: &str, of: &Value| {
            if let Some(amount) = read(of) {
                out.push_str(&format!("{name}{{container={container:?},id={id:?},namespace={namespace:?},pod={pod:?}}} {amount}\n"));
            }
        };
        line("", "/", "", "", summary.get("node").unwrap_or(&Value::Null));
        for pod in summary.list_at(&["pods"]) {
            let (namespace, pod_name, uid) = reference(pod);
            let id = format!("/kubepods/pod{uid}");
            line("", &id, namespace, pod_name, pod);
            for container in pod.list_at(&["containers"]) {
                let own = container.str_at(&["name"]);
                line(own, &format!("{id}/{own}"), namespace, pod_name, container);
            }
        }
    }
    for (name, field, help) in OF_NETWORKS {
        out.push_str(&format!("# HELP {name} {help}\n# TYPE {name} counter\n"));
        for pod in summary.list_at(&["pods"]) {
            let (namespace, pod_name, uid) = reference(pod);
            for interface in pod.at(&["network"]).map(|n| n.list_at(&["interfaces"])).unwrap_or_default() {
                let device = interface.str_at(&["name"]);
                if let Some(amount) = interface.int_at(&[field]) {
                    let id = format!("/kubepods/pod{uid}");
                    out.push_str(&format!(
                        "{name}{{container=\"\",id={id:?},interface={device:?},namespace={namespace:?},pod={pod_name:?}}} {amount}\n"
                    ));
                }
            }
        }
    }
    out
}

/// What a runtime tells of pods, and the summary of the node.
pub(super) fn exposition_of(descriptors: &[MetricDescriptor], pods: &[PodSandboxMetrics], node: &Value) -> String {
    let mut by_name: BTreeMap<&str, Vec<&Metric>> = BTreeMap::new();
    for pod in pods {
        for metric in pod.metrics.iter().chain(pod.container_metrics.iter().flat_map(|container| &container.metrics)) {
            by_name.entry(&metric.name).or_default().push(metric);
        }
    }
    let mut out = String::new();
    for MetricDescriptor { name, help, label_keys } in descriptors {
        let of_pods = by_name.get(name.as_str()).map(Vec::as_slice).unwrap_or_default();
        let of_node = OF_CONTAINERS.iter().find(|known| known.0 == name).and_then(|known| Some((known.1, known.3(node)?)));
        let of_pod = of_pods.first().map(|metric| if metric.metric_type == MetricType::Counter { "counter" } else { "gauge" });
        let Some(kind) = of_pod.or(of_node.map(|(kind, _)| kind)) else { continue };
        out.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        if let Some((_, amount)) = of_node {
            let labels = label_keys.iter().map(|key| (key.as_str(), if key == "id" { "/" } else { "" }));
            push_line(&mut out, name, labels, amount);
        }
        for metric in of_pods {
            let labels = label_keys.iter().map(String::as_str).zip(metric.label_values.iter().map(String::as_str));
            push_line(&mut out, name, labels, metric.value);
        }
    }
    out
}

fn push_line<'a>(out: &mut String, name: &str, labels: impl Iterator<Item = (&'a str, &'a str)>, amount: f64) {
    out.push_str(name);
    for (place, (key, value)) in labels.enumerate() {
        out.push_str(if place == 0 { "{" } else { "," });
        out.push_str(&format!("{key}={value:?}"));
    }
    out.push_str(&format!("}} {amount}\n"));
}

fn reference(pod: &Value) -> (&str, &str, &str) {
    (pod.str_at(&["podRef", "namespace"]), pod.str_at(&["podRef", "name"]), pod.str_at(&["podRef", "uid"]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    #[test]
    fn node_pods_containers_and_interfaces_have_their_lines() {
        let usage = |name: &str| object!({ "name": name, "cpu": { "usageCoreNanoSeconds": 1_500_000_000 }, "memory": { "rssBytes": 7 } });
        let mut pod = usage("");
        pod.set(&["podRef"], object!({ "namespace": "ns", "name": "p", "uid": "u" }));
        pod.set(&["containers"], object!([(usage("c"))]));
        pod.set(&["network"], object!({ "interfaces": [{ "name": "eth0", "rxBytes": 9 }] }));
        let text = exposition(&object!({ "node": (usage("")), "pods": [pod] }));
        for line in [
            "container_cpu_usage_seconds_total{container=\"\",id=\"/\",namespace=\"\",pod=\"\"} 1.5",
            "container_memory_rss{container=\"c\",id=\"/kubepods/podu/c\",namespace=\"ns\",pod=\"p\"} 7",
            "container_network_receive_bytes_total{container=\"\",id=\"/kubepods/podu\",interface=\"eth0\",namespace=\"ns\",pod=\"p\"} 9",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
    }
    #[test]
    fn what_a_runtime_tells_stands_beside_the_node_and_what_nobody_knows_is_left_out() {
        let keys = |more: &[&str]| ["container", "id"].iter().chain(more).map(|key| (*key).to_owned()).collect();
        let described = |name: &str, more: &[&str]| MetricDescriptor { name: name.into(), help: "Words.".into(), label_keys: keys(more) };
        let descriptors = [
            described("container_memory_rss", &[]),
            described("container_fs_limit_bytes", &["device"]),
            described("container_hugetlb_usage_bytes", &["pagesize"]),
        ];
        let metric = |name: &str, labels: &[&str], value| Metric {
            name: name.into(),
            metric_type: MetricType::Gauge,
            label_values: labels.iter().map(|label| (*label).to_owned()).collect(),
            value,
        };
        let of_container = vec![metric("container_fs_limit_bytes", &["c", "/kubepods/podu/c", "/dev/vda"], 9.5)];
        let pod = PodSandboxMetrics {
            metrics: vec![metric("container_memory_rss", &["", "/kubepods/podu"], 7.0)],
            container_metrics: vec![fram_cri::ContainerMetrics { metrics: of_container, ..Default::default() }],
            ..Default::default()
        };
        let node = object!({ "memory": { "rssBytes": 100 } });
        let expect = "# HELP container_memory_rss Words.\n# TYPE container_memory_rss gauge\n\
                      container_memory_rss{container=\"\",id=\"/\"} 100\n\
                      container_memory_rss{container=\"\",id=\"/kubepods/podu\"} 7\n\
                      # HELP container_fs_limit_bytes Words.\n# TYPE container_fs_limit_bytes gauge\n\
                      container_fs_limit_bytes{container=\"c\",id=\"/kubepods/podu/c\",device=\"/dev/vda\"} 9.5\n";
        assert_eq!(exposition_of(&descriptors, &[pod], &node), expect);
    }
}
