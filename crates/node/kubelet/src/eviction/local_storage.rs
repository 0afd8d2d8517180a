//! What a pod has written to the node's disk beside volumes of others, and which of its limits that breaks. The walk over files is
//! here; see localStorageEviction in upstream's eviction_manager.go.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use fram_machinery::Value;
use fram_machinery::quantity::Quantity;

use super::rank::ContainerUsage;
use crate::pod::{self, resources};
use crate::volumes;

/// Bytes and files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct DiskUsage {
    pub(crate) bytes: i64,
    pub(crate) inodes: i64,
}

impl std::ops::AddAssign for DiskUsage {
    fn add_assign(&mut self, other: Self) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.inodes = self.inodes.saturating_add(other.inodes);
    }
}

/// What lies below a directory, on its own file system only; nothing where it does not exist. Files come and go while they are
/// counted, and a file with two names counts once for each.
pub(crate) fn walk(dir: &Path) -> DiskUsage {
    let mut out = DiskUsage::default();
    let Ok(top) = fs::symlink_metadata(dir) else { return out };
    let mut todo: Vec<PathBuf> = vec![dir.to_path_buf()];
    while let Some(path) = todo.pop() {
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.dev() != top.dev() {
            continue;
        }
        out += DiskUsage { bytes: i64::try_from(metadata.blocks().saturating_mul(512)).unwrap_or(i64::MAX), inodes: 1 };
        if metadata.is_dir() {
            todo.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|e| e.path()));
        }
    }
    out
}

/// The pod's emptyDirs on disk and written volumes, by name. Those in memory count as memory.
pub(crate) fn volumes_of(pod: &Value, pod_dir: &Path) -> Vec<(String, DiskUsage)> {
    let counts = |v: &&Value| match volumes::kind(v) {
        "emptyDir" => v.str_at(&["emptyDir", "medium"]).is_empty(),
        "configMap" | "downwardAPI" => true,
        _ => false,
    };
    let all = pod.list_at(&["spec", "volumes"]).iter().filter(counts);
    all.map(|v| (v.str_at(&["name"]).to_string(), walk(&volumes::path(pod_dir, v)))).collect()
}

/// Bytes in an emptyDir in memory; the kernel keeps it to its size where it has one.
pub(crate) fn has_limits(pod: &Value) -> bool {
    let sized = |v: &Value| v.at(&["emptyDir", "sizeLimit"]).is_some() && v.str_at(&["emptyDir", "medium"]).is_empty();
    pod.list_at(&["spec", "volumes"]).iter().any(sized)
        || resources::pod_total(pod, "limits").contains_key("ephemeral-storage")
        || pod::containers(pod).iter().any(|c| limit(c).is_some())
}

fn limit(container: &Value) -> Option<Quantity> {
    resources::quantity(container.get("resources")?, "limits", "ephemeral-storage")
}

/// Which limit a pod breaks, in upstream's words; None where it keeps to all of them.
pub(crate) fn broken_limit(pod: &Value, volumes: &[(String, DiskUsage)], containers: &[ContainerUsage]) -> Option<String> {
    for volume in pod.list_at(&["spec", "volumes"]) {
        let name = volume.str_at(&["name"]);
        let Some(size) = volume.at(&["emptyDir", "sizeLimit"]).and_then(resources::parse).filter(|s| s.value() > 0) else { continue };
        if volumes.iter().any(|(of, used)| of == name && used.bytes > size.value()) {
            return Some(format!("Usage of EmptyDir volume {name:?} exceeds the limit \"{size}\". "));
        }
    }
    let of_volumes: i64 = volumes.iter().map(|(_, used)| used.bytes).sum();
    let total: i64 = containers.iter().map(|c| c.storage).sum::<i64>().saturating_add(of_volumes);
    // The pod has a limit of its own only where each of its containers has one.
    let limited = pod::containers(pod).iter().all(|c| limit(c).is_some());
    if let Some(most) = resources::pod_total(pod, "limits").get("ephemeral-storage").filter(|_| limited)
        && total > most.value()
    {
        return Some(format!("Pod ephemeral local storage usage exceeds the total limit of containers {most}. "));
    }
    for container in pod::containers(pod).iter().chain(pod::init_containers(pod)) {
        let name = pod::container_name(container);
        if let Some(most) = limit(container)
            && containers.iter().any(|c| c.name == name && c.storage > most.value())
        {
            return Some(format!("Container {name} exceeded its local ephemeral storage limit \"{most}\". "));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    fn container(name: &str, limit: Option<&str>) -> Value {
        let mut out = object!({ "name": name });
        if let Some(limit) = limit {
            out.set(&["resources", "limits", "ephemeral-storage"], limit);
        }
        out
    }

    #[test]
    fn a_walk_counts_files_and_stays_on_its_file_system() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(walk(&dir.path().join("absent")), DiskUsage::default());
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("a/b"), vec![1; 100_000]).unwrap();
        std::os::unix::fs::symlink("/proc", dir.path().join("link")).unwrap();
        let used = walk(dir.path());
        assert!((100_000..150_000).contains(&used.bytes) && used.inodes == 4, "{used:?}");
    }

    #[test]
    fn limits_are_those_of_volumes_of_the_pod_and_of_each_container() {
        let volume = object!({ "name": "v", "emptyDir": { "sizeLimit": "1Ki" } });
        let pod = |containers: Value| object!({ "spec": { "containers": containers, "volumes": [(volume.clone())] } });
        let used = |name: &str, storage: i64| ContainerUsage { name: name.into(), memory: 0, storage };
        let v = |bytes: i64| vec![("v".to_string(), DiskUsage { bytes, inodes: 1 })];
        let both = pod(object!([(container("a", Some("1Ki"))), (container("b", Some("2Ki")))]));
        let one = pod(object!([(container("a", Some("1Ki"))), (container("b", None))]));
        for (pod, volumes, containers, told) in [
            (&both, v(1024), vec![used("a", 1024), used("b", 1024)], None),
            (&both, v(1025), vec![], Some("Usage of EmptyDir volume \"v\" exceeds the limit \"1Ki\". ")),
            (&both, v(1024), vec![used("b", 2049)], Some("Pod ephemeral local storage usage exceeds the total limit of containers 3Ki. ")),
            (&both, v(0), vec![used("a", 1025)], Some("Container a exceeded its local ephemeral storage limit \"1Ki\". ")),
            (&one, v(1024), vec![used("b", 9000)], None),
        ] {
            assert_eq!(broken_limit(pod, &volumes, &containers).as_deref(), told);
        }
        assert!(has_limits(&both) && !has_limits(&object!({ "spec": { "containers": [(container("a", None))] } })));
    }
}
