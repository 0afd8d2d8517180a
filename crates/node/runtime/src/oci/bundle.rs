//! Reading a bundle: what the user wrote becomes what libcontainer is given and what this program does itself, which is hooks, seccomp and
//! capabilities. Those of the last two cannot be apart: without `noNewPrivileges` a filter takes rights that the container may not have.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{Hooks, Spec};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{OciError, at, copy_up, hooks};
use crate::seccomp::{self, Instruction};
use crate::shim::privileges::{self, CapabilitySets, PrivilegeError};
use crate::spec::capability_bits;

/// Where containers are whose bundle does not say.
const CGROUPS: &str = "/fram-oci";

/// What a process of a container may do.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Confinement {
    /// `None` leaves what the user has.
    pub(super) capabilities: Option<CapabilitySets>,
    pub(super) no_new_privs: bool,
    pub(super) filter: Vec<Instruction>,
    /// SECCOMP_FILTER_FLAG_*.
    pub(super) filter_flags: u32,
}

impl Confinement {
    /// Called once, right before execve, in a process of one thread.
    pub(super) fn apply(&self) -> Result<(), PrivilegeError> {
        privileges::confine(self.capabilities.as_ref(), self.no_new_privs, &self.filter, self.filter_flags)
    }
}

/// What of a bundle counts for as long as its container is there; it is in the container's record.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Given {
    #[serde(rename = "bundle")]
    pub(super) directory: PathBuf,
    pub(super) rootfs: PathBuf,
    #[serde(rename = "oci_version")]
    pub(super) version: String,
    pub(super) annotations: BTreeMap<String, String>,
    /// Below each hierarchy.
    pub(super) cgroup: String,
    /// Has a pid namespace of its own, whose processes end with the first; not one that it shares.
    pub(super) own_pids: bool,
    /// Is in a user namespace, new or joined.
    pub(super) own_users: bool,
    pub(super) hooks: Option<Hooks>,
    /// As the bundle has it: what processes that come later are like.
    pub(super) process: Value,
    pub(super) confinement: Confinement,
}

pub(super) struct Bundle {
    pub(super) given: Given,
    /// See [`copy_up`].
    pub(super) copied_up: Vec<copy_up::CopyUp>,
    /// What libcontainer is given.
    pub(super) specification: Value,
}

pub(super) fn read(directory: &Path, id: &str) -> Result<Bundle, OciError> {
    let directory = fs::canonicalize(directory).map_err(at("find the bundle", directory))?;
    let path = directory.join("config.json");
    let json = fs::read(&path).map_err(at("read", &path))?;
    let malformed = |source| OciError::Malformed { path: path.clone(), source };
    let specification: Value = serde_json::from_slice(&json).map_err(malformed)?;
    // What it is read by later; an error is better told now, with its place in the file.
    serde_json::from_slice::<Spec>(&json).map_err(malformed)?;
    if !specification["linux"]["intelRdt"].is_null() {
        check_resctrl()?;
    }
    let mut bundle = split(specification, &directory, id)?;
    let rootfs = fs::canonicalize(&bundle.given.rootfs).map_err(at("find the root file system", &bundle.given.rootfs))?;
    bundle.specification["root"]["path"] = json!(rootfs);
    bundle.given.rootfs = rootfs;
    Ok(bundle)
}

/// Takes apart what `read` has read. Pure.
fn split(mut specification: Value, directory: &Path, id: &str) -> Result<Bundle, OciError> {
    let wrong = |text: &str| OciError::Spec(text.to_owned());
    let version = specification["ociVersion"].as_str().unwrap_or_default().to_owned();
    if !version.starts_with("1.") {
        return Err(OciError::Spec(format!("ociVersion {version:?} is not one of 1.x")));
    }
    let root = specification["root"]["path"].as_str().ok_or_else(|| wrong("root.path must be set"))?;
    let rootfs = directory.join(root);
    let process = specification["process"].clone();
    if !process.is_object() {
        return Err(wrong("process must be set"));
    }
    if specification["linux"].is_null() {
        specification["linux"] = json!({});
    }
    // containerd writes the recursive forms, as runc takes them; libcontainer knows the specification's, and means the same.
    if let Some(form) = specification["linux"]["rootfsPropagation"].as_str().and_then(|form| form.strip_prefix('r')) {
        specification["linux"]["rootfsPropagation"] = json!(form);
    }
    let mut confinement = confinement(&process)?;
    let profile = specification["linux"]["seccomp"].take();
    if !profile.is_null() {
        confinement.filter = seccomp::compile(&seccomp::parse(&profile.to_string())?)?;
        confinement.filter_flags = filter_flags(&profile)?;
    }
    let hooks: Option<Hooks> = take(&mut specification, "hooks")?;
    stand_in(&mut specification, hooks.as_ref(), directory);
    strip(&mut specification["process"]);
    for mount in specification["mounts"].as_array_mut().into_iter().flatten() {
        be_absolute(mount, directory);
    }
    let copied_up = copy_up::take(&mut specification["mounts"]);
    let cgroup = specification["linux"]["cgroupsPath"].as_str().filter(|path| !path.is_empty()).map(str::to_owned);
    // One in systemd's form is a path like any other, as with runc: containerd 1.6 names one so whose parent ends in `.slice`, and does not
    // say --systemd-cgroup.
    // A relative one is the runtime's to place.
    let cgroup = cgroup.map_or_else(|| format!("{CGROUPS}/{id}"), |path| format!("/{}", path.trim_start_matches('/')));
    check_cgroup(&cgroup)?;
    specification["linux"]["cgroupsPath"] = json!(cgroup);
    let namespaces = || specification["linux"]["namespaces"].as_array().into_iter().flatten();
    let own_users = namespaces().any(|namespace| namespace["type"] == "user");
    let own_pids = namespaces().any(|namespace| namespace["type"] == "pid" && namespace["path"].as_str().is_none_or(str::is_empty));
    let annotations = take(&mut specification.clone(), "annotations")?.unwrap_or_default();
    let directory = directory.to_path_buf();
    let given = Given { directory, rootfs, version, annotations, cgroup, own_pids, own_users, hooks, process, confinement };
    Ok(Bundle { given, copied_up, specification })
}

/// What is in a container's cgroup is killed with it, so that it must be one of its own.
fn check_cgroup(cgroup: &str) -> Result<(), OciError> {
    let parts = || Path::new(cgroup).components();
    if parts().any(|part| part == Component::ParentDir) || !parts().any(|part| matches!(part, Component::Normal(_))) {
        return Err(OciError::Spec(format!("linux.cgroupsPath {cgroup:?} must name a cgroup below the root, without ..")));
    }
    Ok(())
}

fn take<T: serde::de::DeserializeOwned>(specification: &mut Value, field: &'static str) -> Result<Option<T>, OciError> {
    match specification[field].take() {
        Value::Null => Ok(None),
        value => serde_json::from_value(value).map(Some).map_err(|source| OciError::Malformed { path: field.into(), source }),
    }
}

/// libcontainer would only notice when the container is half made.
fn check_resctrl() -> Result<(), OciError> {
    let mounts = fs::read_to_string("/proc/mounts").map_err(at("read", Path::new("/proc/mounts")))?;
    let mounted = mounts.lines().any(|line| line.split(' ').nth(2) == Some("resctrl"));
    let refused = OciError::Unsupported("linux.intelRdt is set, and resctrl is not mounted: the kernel or the processor lacks it");
    if mounted { Ok(()) } else { Err(refused) }
}

/// Hooks that run before the process is the user's: one in place of them, which runs them.
fn stand_in(specification: &mut Value, hooks: Option<&Hooks>, bundle: &Path) {
    let Some(given) = hooks else { return };
    #[allow(deprecated, reason = "bundles still have prestart hooks, and podman and nvidia's toolkit write them")]
    let outside = [("prestart", given.prestart().as_ref()), ("createRuntime", given.create_runtime().as_ref())];
    let inside = [("createContainer", given.create_container().as_ref())];
    let mut ours = json!({});
    for (stage, hook) in
        [("createRuntime", hooks::standing_for(&outside, bundle, true)), ("createContainer", hooks::standing_for(&inside, bundle, false))]
    {
        if let Some(hook) = hook {
            ours[stage] = hook;
        }
    }
    specification["hooks"] = ours;
}

/// What this program does itself, libcontainer must not.
pub(super) fn strip(process: &mut Value) {
    if let Some(process) = process.as_object_mut() {
        process.remove("capabilities");
    }
}

pub(super) fn confinement(process: &Value) -> Result<Confinement, OciError> {
    let sets = &process["capabilities"];
    let set = |name: &str| {
        let names: Vec<String> = sets[name].as_array().into_iter().flatten().filter_map(|n| n.as_str().map(str::to_owned)).collect();
        capability_bits(&names).map_err(|error| OciError::Spec(format!("process.capabilities.{name}: {error}")))
    };
    let capabilities = if sets.is_null() {
        None
    } else {
        Some(CapabilitySets {
            bounding: set("bounding")?,
            effective: set("effective")?,
            permitted: set("permitted")?,
            inheritable: set("inheritable")?,
            ambient: set("ambient")?,
        })
    };
    let no_new_privs = process["noNewPrivileges"].as_bool().unwrap_or(false);
    Ok(Confinement { capabilities, no_new_privs, ..Confinement::default() })
}

/// Flags of seccomp(2). Threads are not there yet when the filter comes, so that of `TSYNC` has nothing to do.
fn filter_flags(profile: &Value) -> Result<u32, OciError> {
    profile["flags"].as_array().into_iter().flatten().try_fold(0, |flags, flag| match flag.as_str().unwrap_or_default() {
        "SECCOMP_FILTER_FLAG_TSYNC" => Ok(flags),
        "SECCOMP_FILTER_FLAG_LOG" => Ok(flags | 2),
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => Ok(flags | 4),
        other => Err(OciError::Spec(format!("linux.seccomp.flags: {other:?} is not supported"))),
    })
}

/// What is bound from a relative place comes from the bundle.
fn be_absolute(mount: &mut Value, bundle: &Path) {
    let options = mount["options"].as_array().into_iter().flatten();
    let is_bind = mount["type"] == "bind" || options.filter_map(Value::as_str).any(|option| option == "bind" || option == "rbind");
    if is_bind && let Some(source) = mount["source"].as_str() {
        mount["source"] = json!(bundle.join(source));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minimal() -> Value {
        json!({ "ociVersion": "1.2.0", "root": { "path": "rootfs" }, "process": { "args": ["true"], "cwd": "/", "user": { "uid": 0, "gid": 0 } } })
    }

    #[test]
    fn capabilities_seccomp_and_hooks_are_not_given_away() {
        let mut spec = minimal();
        spec["process"]["capabilities"] = json!({ "bounding": ["CAP_CHOWN"], "effective": ["CAP_KILL"] });
        spec["linux"] = json!({ "seccomp": { "defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"] } });
        spec["hooks"] = json!({ "prestart": [{ "path": "/a" }], "createContainer": [{ "path": "/b" }], "poststop": [{ "path": "/c" }] });
        let bundle = split(spec, Path::new("/b"), "x").unwrap();
        let given = &bundle.specification;
        assert!(given["process"]["capabilities"].is_null() && given["linux"]["seccomp"].is_null());
        assert_eq!(given["hooks"].as_object().unwrap().keys().collect::<Vec<_>>(), ["createContainer", "createRuntime"]);
        assert_eq!(given["hooks"]["createRuntime"][0]["path"], "/proc/self/exe");
        let sets = bundle.given.confinement.capabilities.unwrap();
        assert_eq!((sets.bounding, sets.effective, sets.permitted), (1, 1 << 5, 0));
        assert_eq!(bundle.given.confinement.filter_flags, 2);
        assert!(!bundle.given.confinement.filter.is_empty() && bundle.given.hooks.unwrap().poststop().is_some());
    }

    #[test]
    fn what_is_relative_is_the_bundles_and_a_cgroup_is_always_named() {
        let mut spec = minimal();
        spec["mounts"] = json!([
            { "destination": "/a", "source": "data", "options": ["rbind"] },
            { "destination": "/b", "source": "/data", "type": "bind" },
            { "destination": "/proc", "source": "proc", "type": "proc" },
        ]);
        let bundle = split(spec, Path::new("/b"), "x").unwrap();
        let sources: Vec<&str> = (0..3).map(|index| bundle.specification["mounts"][index]["source"].as_str().unwrap()).collect();
        assert_eq!(sources, ["/b/data", "/data", "proc"]);
        assert_eq!((bundle.given.rootfs.to_str().unwrap(), bundle.given.cgroup.as_str()), ("/b/rootfs", "/fram-oci/x"));
    }

    #[test]
    fn what_cannot_be_run_is_refused_with_its_field() {
        let check = |change: fn(&mut Value), expect: &str| {
            let mut spec = minimal();
            change(&mut spec);
            let error = split(spec, Path::new("/b"), "x").err().unwrap().to_string();
            assert!(error.contains(expect), "{error}");
        };
        check(|spec| spec["ociVersion"] = json!("2.0.0"), "ociVersion");
        check(|spec| spec["root"] = Value::Null, "root.path");
        check(|spec| spec["process"] = Value::Null, "process");
        check(|spec| spec["process"]["capabilities"] = json!({ "effective": ["CAP_NONE"] }), "CAP_NONE");
        for path in ["/", "//.", "..", "/a/../b"] {
            let mut spec = minimal();
            spec["linux"] = json!({ "cgroupsPath": path });
            assert!(split(spec, Path::new("/b"), "x").err().unwrap().to_string().contains("cgroupsPath"), "{path}");
        }
        check(|spec| spec["linux"] = json!({ "seccomp": { "defaultAction": "SCMP_ACT_NOTIFY" } }), "SCMP_ACT_NOTIFY");
        check(|spec| spec["linux"] = json!({ "seccomp": { "defaultAction": "SCMP_ACT_ALLOW", "flags": ["X"] } }), "unknown variant `X`");
        let newer = |spec: &mut Value| {
            spec["linux"] =
                json!({ "seccomp": { "defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"] } });
        };
        check(newer, "linux.seccomp.flags");
    }
}
