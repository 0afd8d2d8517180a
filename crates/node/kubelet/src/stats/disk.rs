//! What pods have on disk, laid over the summary: logs, volumes, and what counts as their local storage. See upstream's
//! cri_stats_provider.go and volume_stat_calculator.go.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use fram_machinery::{Value, meta, object};

use super::of_file_system;
use crate::clock;
use crate::context::Context;
use crate::eviction::Disks;
use crate::eviction::local_storage::{DiskUsage, volumes_of, walk};
use crate::node::machine::{self, FileSystem};

/// A usage on a file system.
fn on(fs: Option<FileSystem>, used: DiskUsage, time: &str) -> Value {
    let mut out = fs.map_or_else(|| object!({}), |fs| of_file_system(fs, String::new()));
    out.set(&["time"], time);
    out.set(&["usedBytes"], used.bytes);
    out.set(&["inodesUsed"], used.inodes);
    out
}

pub(super) async fn add(ctx: &Arc<Context>, summary: &mut Value) {
    let disks = Disks::find(ctx).await;
    let (ctx, mut owned) = (ctx.clone(), std::mem::take(summary));
    let counted = tokio::task::spawn_blocking(move || {
        let time = clock::time(ctx.clock.now());
        let (node, images) = (machine::file_system(&disks.node), machine::file_system(&disks.images));
        if let Some(fs) = images {
            owned.set(&["node", "runtime", "imageFs"], of_file_system(fs, time.clone()));
            owned.set(&["node", "runtime", "containerFs"], of_file_system(fs, time.clone()));
        }
        let pods: HashMap<String, Arc<Value>> = ctx.all_pods().into_iter().map(|p| (meta::uid(&p).to_string(), p)).collect();
        for shown in owned.place(&["pods"]).make_list().make_mut() {
            let Some(pod) = pods.get(shown.str_at(&["podRef", "uid"])) else { continue };
            add_pod(&ctx, pod, shown, node, images, &time);
        }
        owned
    });
    match counted.await {
        Ok(counted) => *summary = counted,
        Err(error) => tracing::error!(%error, "counting files panicked"),
    }
}

fn add_pod(ctx: &Context, pod: &Value, shown: &mut Value, node: Option<FileSystem>, images: Option<FileSystem>, time: &str) {
    let dir = ctx.config.pod_dir(meta::uid(pod));
    let logs = ctx.config.pod_log_dir(meta::namespace(pod), meta::name(pod), meta::uid(pod));
    let mut total = DiskUsage::default();
    for container in shown.place(&["containers"]).make_list().make_mut() {
        let own = walk(&logs.join(container.str_at(&["name"])));
        container.set(&["logs"], on(node, own, time));
        let number = |key: &str| container.at(&["rootfs"]).and_then(|r| r.int_at(&[key])).unwrap_or(0);
        let layer = DiskUsage { bytes: number("usedBytes"), inodes: number("inodesUsed") };
        container.set(&["rootfs"], on(images, layer, time));
        total += own;
        total += layer;
    }
    let on_disk = volumes_of(pod, &dir);
    for (_, used) in &on_disk {
        total += *used;
    }
    let volume = |v: &Value| {
        let (name, path) = (v.str_at(&["name"]), crate::volumes::path(&dir, v));
        let used = on_disk.iter().find(|(of, _)| of == name).map_or_else(|| held(&path), |(_, used)| Some(*used))?;
        let mut out = on(machine::file_system(&path), used, time);
        out.set(&["name"], name);
        if let Some(claim) = v.at(&["persistentVolumeClaim"]) {
            out.set(&["pvcRef"], object!({ "name": (claim.str_at(&["claimName"])), "namespace": (meta::namespace(pod)) }));
        }
        Some(out)
    };
    // Directories of the host are not the pod's.
    let own = crate::volumes::used(pod).into_iter().filter(|v| !matches!(crate::volumes::kind(v), "hostPath" | "image"));
    shown.set(&["volume"], own.filter_map(volume).collect::<Vec<_>>());
    shown.set(&["ephemeral-storage"], on(node, total, time));
    shown.set(&["startTime"], pod.str_at(&["status", "startTime"]));
}

/// What a mounted volume holds.
fn held(path: &Path) -> Option<DiskUsage> {
    path.exists().then(|| walk(path))
}
