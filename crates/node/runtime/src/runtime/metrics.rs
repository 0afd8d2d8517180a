//! Metrics of sandboxes and containers (KEP-2371): what their cgroups count, and what their processes and files are.

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;

use fram_cri::{ContainerMetrics, ContainerState, FilesystemUsage, NetworkInterfaceUsage, PodSandboxMetrics};
use nix::sys::statvfs::statvfs;

use super::{Inner, stats};
use crate::cgroup::device_name;
use crate::metrics::Told;
use crate::shim::clock;
use crate::state::{Container, Sandbox};

const NANO: f64 = 1e9;

pub(super) fn of_sandbox(inner: &Inner, sandbox: &Sandbox) -> PodSandboxMetrics {
    let record = sandbox.record.lock().clone();
    let pod = [record.config.metadata.namespace.clone(), record.config.metadata.name.clone()];
    let cgroup = stats::cgroup_of(inner, &record);
    let mut told = told(["", &cgroup, "", ""], &pod);
    inner.cgroups.tell(&cgroup, &mut told);
    told.one("container_last_seen", Some(now()));
    told.one("container_start_time_seconds", Some(record.created_at as f64 / NANO));
    let shim = sandbox.shim_pid.load(Ordering::SeqCst);
    if !record.host_network() && sandbox.is_ready() {
        // The shim is in the pod's network namespace, so its view is the pod's.
        let text = fs::read_to_string(format!("/proc/{shim}/net/dev")).unwrap_or_default();
        for interface in interfaces(&text) {
            interface.tell(&mut told);
        }
    }
    let running = inner.containers_of(&sandbox.id).into_iter().filter(|it| it.state() == ContainerState::Running);
    let container_metrics = running.map(|container| of_container(inner, &container, &pod)).collect();
    PodSandboxMetrics { pod_sandbox_id: sandbox.id.clone(), metrics: told.metrics, container_metrics }
}

fn told([container, cgroup, image, id]: [&str; 4], [namespace, pod]: &[String; 2]) -> Told {
    Told::of([container, cgroup, image, id, namespace, pod].map(str::to_owned))
}

fn now() -> f64 {
    clock::now() as f64 / NANO
}

fn of_container(inner: &Inner, container: &Container, pod: &[String; 2]) -> ContainerMetrics {
    let record = container.record.lock().clone();
    let run = container.run.borrow().run.clone();
    let image = [&record.config.image.user_specified_image, &record.config.image.image].into_iter().find(|name| !name.is_empty());
    let image = image.map_or("", String::as_str);
    let mut told = told([&record.config.metadata.name, &record.cgroup, image, &record.id], pod);
    inner.cgroups.tell(&record.cgroup, &mut told);
    told.one("container_last_seen", Some(now()));
    told.one("container_start_time_seconds", Some(run.started_at as f64 / NANO));
    let processes = inner.cgroups.processes(&record.cgroup);
    told.whole("container_processes", Some(processes.len() as u64));
    let (mut files, mut sockets) = (0, 0);
    for pid in processes {
        add_files(pid, &mut files, &mut sockets);
    }
    told.whole("container_file_descriptors", Some(files));
    told.whole("container_sockets", Some(sockets));
    let limits = fs::read_to_string(format!("/proc/{}/limits", run.pid)).unwrap_or_default();
    if let Some(limit) = soft_open_files(&limits) {
        told.with("container_ulimits_soft", &["max_open_files"], limit);
    }
    let upper = container.dir.join("upper");
    tell_file_system(&upper, &stats::writable_layer(&upper, 0), &mut told);
    ContainerMetrics { container_id: record.id, metrics: told.metrics }
}

/// Of the file system that holds what the container writes.
fn tell_file_system(upper: &Path, layer: &FilesystemUsage, told: &mut Told) {
    use std::os::unix::fs::MetadataExt;
    let device = fs::metadata(upper).map_or(0, |metadata| metadata.dev());
    let device = device_name(&format!("{}:{}", nix::sys::stat::major(device), nix::sys::stat::minor(device)));
    let mut tell = |name, value: u64| told.with(name, &[&device], value as f64);
    if let Some(used) = layer.used_bytes {
        tell("container_fs_usage_bytes", used);
    }
    if let Ok(fs) = statvfs(upper) {
        tell("container_fs_limit_bytes", fs.blocks() * fs.fragment_size());
        tell("container_fs_inodes_total", fs.files());
        tell("container_fs_inodes_free", fs.files_free());
    }
}

/// Descriptors come and go while they are counted.
fn add_files(pid: i32, files: &mut u64, sockets: &mut u64) {
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
        *files += 1;
        if fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str().as_encoded_bytes().starts_with(b"socket:")) {
            *sockets += 1;
        }
    }
}

/// From proc_pid_limits(5); -1 for "unlimited".
fn soft_open_files(limits: &str) -> Option<f64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_ascii_whitespace().next()? {
        "unlimited" => Some(-1.0),
        number => number.parse().ok(),
    }
}

/// What an interface has counted.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Interface {
    name: String,
    received: Traffic,
    sent: Traffic,
}

#[derive(Debug, Default, PartialEq)]
struct Traffic {
    bytes: Option<u64>,
    packets: Option<u64>,
    errors: Option<u64>,
    dropped: Option<u64>,
}

impl Interface {
    pub(super) fn usage(&self) -> NetworkInterfaceUsage {
        NetworkInterfaceUsage {
            name: self.name.clone(),
            rx_bytes: self.received.bytes,
            rx_errors: self.received.errors,
            tx_bytes: self.sent.bytes,
            tx_errors: self.sent.errors,
        }
    }

    fn tell(&self, told: &mut Told) {
        let (received, sent) = (&self.received, &self.sent);
        for (name, count) in [
            ("container_network_receive_bytes_total", received.bytes),
            ("container_network_receive_errors_total", received.errors),
            ("container_network_receive_packets_dropped_total", received.dropped),
            ("container_network_receive_packets_total", received.packets),
            ("container_network_transmit_bytes_total", sent.bytes),
            ("container_network_transmit_errors_total", sent.errors),
            ("container_network_transmit_packets_dropped_total", sent.dropped),
            ("container_network_transmit_packets_total", sent.packets),
        ] {
            if let Some(count) = count {
                told.with(name, &[&self.name], count as f64);
            }
        }
    }
}

/// Two header lines, then `name: bytes packets errs drop fifo frame compressed multicast` twice (proc_net_dev(5)). Without the loopback.
pub(super) fn interfaces(text: &str) -> impl Iterator<Item = Interface> {
    let interface = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> = numbers.split_ascii_whitespace().filter_map(|number| number.parse().ok()).collect();
        let traffic = |from: usize| {
            let at = |place: usize| numbers.get(from + place).copied();
            Traffic { bytes: at(0), packets: at(1), errors: at(2), dropped: at(3) }
        };
        Some(Interface { name: name.trim().to_owned(), received: traffic(0), sent: traffic(8) })
    };
    text.lines().skip(2).filter_map(interface).filter(|interface| interface.name != "lo")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_read_without_the_loopback() {
        let text = "Inter-|   Receive\n face |bytes\n    lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n  \
                    eth0: 100 2 3 4 5 6 7 8 900 10 11 12 13 14 15 16\n";
        let read: Vec<Interface> = interfaces(text).collect();
        let traffic = |[bytes, packets, errors, dropped]: [u64; 4]| Traffic {
            bytes: Some(bytes),
            packets: Some(packets),
            errors: Some(errors),
            dropped: Some(dropped),
        };
        let eth0 = Interface { name: "eth0".into(), received: traffic([100, 2, 3, 4]), sent: traffic([900, 10, 11, 12]) };
        assert_eq!(read, [eth0]);
        let usage = read[0].usage();
        assert_eq!((usage.rx_bytes, usage.rx_errors, usage.tx_bytes, usage.tx_errors), (Some(100), Some(3), Some(900), Some(11)));
    }

    #[test]
    fn the_soft_limit_of_open_files_may_be_none() {
        let limits = |soft: &str| format!("Limit   Soft Limit  Hard Limit  Units\nMax open files            {soft}      4096      files\n");
        assert_eq!(soft_open_files(&limits("1024")), Some(1024.0));
        assert_eq!(soft_open_files(&limits("unlimited")), Some(-1.0));
        assert_eq!(soft_open_files(""), None);
    }
}
