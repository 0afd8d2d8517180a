//! Usage of containers and sandboxes, from cgroups, the shim's network namespace and the writable layers.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fram_cri::{ContainerAttributes, ContainerState, ContainerStats, CriResult, FilesystemUsage, NetworkUsage, PodSandboxStats};

use super::metrics::interfaces;
use super::{Inner, blocking};
use crate::records::SandboxRecord;
use crate::shim::clock;
use crate::state::{Container, Sandbox};

pub(super) async fn container(inner: &Arc<Inner>, id: &str) -> CriResult<ContainerStats> {
    let container = inner.container(id)?;
    let inner = inner.clone();
    blocking(move || Ok(of_container(&inner, &container))).await
}

pub(super) async fn sandbox(inner: &Arc<Inner>, id: &str) -> CriResult<PodSandboxStats> {
    let sandbox = inner.sandbox(id)?;
    let inner = inner.clone();
    blocking(move || Ok(of_sandbox(&inner, &sandbox))).await
}

pub(super) fn of_container(inner: &Inner, container: &Container) -> ContainerStats {
    let now = clock::now();
    let record = container.record.lock().clone();
    let cgroup = &record.cgroup;
    ContainerStats {
        attributes: ContainerAttributes {
            id: record.id.clone(),
            metadata: record.config.metadata.clone(),
            labels: record.config.labels.clone(),
            annotations: record.config.annotations.clone(),
        },
        pod_sandbox_id: record.pod_sandbox_id.clone(),
        cpu: inner.cgroups.cpu_usage(cgroup, now),
        memory: inner.cgroups.memory_usage(cgroup, now),
        swap: inner.cgroups.swap_usage(cgroup, now),
        io: inner.cgroups.io_usage(cgroup, now),
        writable_layer: Some(writable_layer(&container.dir.join("upper"), now)),
    }
}

/// That of the whole pod.
pub(super) fn cgroup_of(inner: &Inner, record: &SandboxRecord) -> String {
    match record.config.linux.cgroup_parent.as_str() {
        "" => format!("{}/{}", inner.config.cgroup_root, record.config.metadata.uid),
        parent => parent.to_owned(),
    }
}

pub(super) fn of_sandbox(inner: &Inner, sandbox: &Sandbox) -> PodSandboxStats {
    let now = clock::now();
    let record = sandbox.record.lock().clone();
    let running = inner.containers_of(&sandbox.id).into_iter().filter(|it| it.state() == ContainerState::Running);
    let cgroup = cgroup_of(inner, &record);
    let shim = sandbox.shim_pid.load(Ordering::SeqCst);
    let own_network = !record.host_network() && sandbox.is_ready();
    PodSandboxStats {
        cpu: inner.cgroups.cpu_usage(&cgroup, now),
        memory: inner.cgroups.memory_usage(&cgroup, now),
        io: inner.cgroups.io_usage(&cgroup, now),
        process: inner.cgroups.process_usage(&cgroup, now),
        // The shim is in the pod's network namespace, so its view is the pod's.
        network: own_network
            .then(|| fs::read_to_string(format!("/proc/{shim}/net/dev")).ok())
            .flatten()
            .map(|text| network_usage(&text, now)),
        containers: running.map(|container| of_container(inner, &container)).collect(),
        id: record.id,
        metadata: record.config.metadata,
        labels: record.config.labels,
        annotations: record.config.annotations,
    }
}

fn network_usage(text: &str, now: i64) -> NetworkUsage {
    let usages = interfaces(text).map(|interface| interface.usage());
    let (default, interfaces): (Vec<_>, Vec<_>) = usages.partition(|usage| usage.name == "eth0");
    NetworkUsage { timestamp: now, default_interface: default.into_iter().next(), interfaces }
}

pub(super) fn writable_layer(upper: &Path, now: i64) -> FilesystemUsage {
    let (mut bytes, mut inodes) = (0, 0);
    add_usage(upper, &mut bytes, &mut inodes);
    FilesystemUsage { timestamp: now, mountpoint: upper.display().to_string(), used_bytes: Some(bytes), inodes_used: Some(inodes) }
}

fn add_usage(path: &Path, bytes: &mut u64, inodes: &mut u64) {
    // Files come and go while they are counted.
    let Ok(metadata) = fs::symlink_metadata(path) else { return };
    *bytes += metadata.blocks() * 512;
    *inodes += 1;
    if metadata.is_dir() {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            add_usage(&entry.path(), bytes, inodes);
        }
    }
}
