//! Pods from the text of a file, or of what a URL gives. Pure; see applyDefaults in upstream's pkg/kubelet/config/common.go.

use std::path::Path;

use fram_api::{Api, rules, strategy};
use fram_machinery::{Value, meta, normalize, object, yaml};

pub(crate) const SOURCE: &str = "kubernetes.io/config.source";
pub(crate) const HASH: &str = "kubernetes.io/config.hash";
pub(crate) const SEEN: &str = "kubernetes.io/config.seen";
/// What a mirror pod carries: the hash of the pod that it mirrors.
pub(crate) const MIRROR: &str = "kubernetes.io/config.mirror";

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ManifestError {
    #[error("{0}")]
    Text(String),
    #[error("it is no v1 Pod but {0:?} {1:?}")]
    Kind(String, String),
    #[error("static pods may not refer to other objects: {0}")]
    Refers(String),
    #[error("{}", .0.join(", "))]
    Invalid(Vec<String>),
}

/// Where a text is from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Origin<'a> {
    File(&'a Path),
    Url(&'a str),
}

impl Origin<'_> {
    /// As the annotation names it; see kubetypes.FileSource and HTTPSource.
    fn source(self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::Url(_) => "http",
        }
    }

    fn words(self) -> String {
        match self {
            Self::File(path) => format!("file:{}", path.display()),
            Self::Url(url) => format!("url:{url}"),
        }
    }
}

/// Reads a pod, or a list of them.
pub(crate) fn read_all(api: &Api, text: &str, origin: Origin<'_>, node: &str) -> Result<Vec<Value>, ManifestError> {
    let value = yaml::from_str(text).map_err(|error| ManifestError::Text(error.to_string()))?;
    if (value.str_at(&["apiVersion"]), value.str_at(&["kind"])) != ("v1", "PodList") {
        return Ok(vec![read_value(api, value, origin, node)?]);
    }
    let of_list = |item: &Value| {
        let mut item = item.clone();
        // Items of a list need not say what they are.
        for (key, text) in [("apiVersion", "v1"), ("kind", "Pod")] {
            if item.str_at(&[key]).is_empty() {
                item.set(&[key], text);
            }
        }
        read_value(api, item, origin, node)
    };
    value.list_at(&["items"]).iter().map(of_list).collect()
}

/// Reads a pod. Its uid is made of what it says and where it stands, so that the same file is the same pod after a restart.
pub(crate) fn read(api: &Api, text: &str, path: &Path, node: &str) -> Result<Value, ManifestError> {
    let value = yaml::from_str(text).map_err(|error| ManifestError::Text(error.to_string()))?;
    read_value(api, value, Origin::File(path), node)
}

fn read_value(api: &Api, value: Value, origin: Origin<'_>, node: &str) -> Result<Value, ManifestError> {
    let (version, name) = (value.str_at(&["apiVersion"]).to_string(), value.str_at(&["kind"]).to_string());
    let kind = api.kind("", "v1", "Pod").filter(|_| version == "v1" && name == "Pod").ok_or(ManifestError::Kind(version, name))?;
    let decoded = normalize::decode(&kind.schema, kind.ty, value).map_err(|error| ManifestError::Text(error.to_string()))?;
    if !decoded.unknown.is_empty() {
        return Err(ManifestError::Invalid(decoded.unknown.iter().map(|path| format!("unknown field {path:?}")).collect()));
    }
    let mut pod = decoded.value;
    pod.remove(&["status"]);
    pod.remove(&["metadata", "resourceVersion"]);
    normalize::apply_defaults(&kind.schema, kind.ty, &mut pod);
    pod.set(&["apiVersion"], "v1");
    pod.set(&["kind"], "Pod");
    if meta::namespace(&pod).is_empty() {
        pod.set(&["metadata", "namespace"], "default");
    }
    // One of its own is only a part of what it says: a file that has changed is another pod.
    let words = format!("{}\0host:{node}\0{}", fram_machinery::json::to_string(&pod), origin.words());
    pod.set(&["metadata", "uid"], format!("{:032x}", fnv128(words.as_bytes())));
    let named = format!("{}-{}", meta::name(&pod), node.to_lowercase());
    pod.set(&["metadata", "name"], named);
    pod.set(&["spec", "nodeName"], node);
    let uid = meta::uid(&pod).to_string();
    pod.set(&["metadata", "annotations", HASH], uid);
    pod.set(&["metadata", "annotations", SOURCE], origin.source());
    let toleration = object!({ "operator": "Exists", "effect": "NoExecute" });
    let tolerations = pod.place(&["spec", "tolerations"]).make_list();
    if !tolerations.contains(&toleration) {
        tolerations.push(toleration);
    }
    let behaviour = strategy(kind);
    behaviour.default(&mut pod);
    check(&pod)?;
    let mut errors = rules::errors(kind, &pod, None, rules::Part::Content);
    errors.extend(behaviour.validate(&pod));
    if !errors.is_empty() {
        return Err(ManifestError::Invalid(errors.iter().map(|e| e.to_string()).collect()));
    }
    pod.set(&["status"], object!({ "phase": "Pending" }));
    Ok(pod)
}

/// A pod that runs without the API server cannot need it; see podutil's checks in tryDecodeSinglePod.
fn check(pod: &Value) -> Result<(), ManifestError> {
    let refuse = |what: &str| Err(ManifestError::Refers(what.to_string()));
    if !matches!(pod.str_at(&["spec", "serviceAccountName"]), "" | "default") || !pod.list_at(&["spec", "resourceClaims"]).is_empty() {
        return refuse("a service account or resource claims");
    }
    for volume in pod.list_at(&["spec", "volumes"]) {
        if matches!(crate::volumes::kind(volume), "configMap" | "secret" | "persistentVolumeClaim" | "ephemeral" | "projected") {
            return refuse(&format!("volume {:?}", volume.str_at(&["name"])));
        }
    }
    for (_, container) in crate::pod::all_containers(pod) {
        let from = container.list_at(&["envFrom"]).iter().chain(container.list_at(&["env"]).iter().filter_map(|e| e.get("valueFrom")));
        if from.into_iter().any(|f| ["configMapRef", "secretRef", "configMapKeyRef", "secretKeyRef"].iter().any(|k| f.get(k).is_some())) {
            return refuse("a ConfigMap or Secret in the environment");
        }
    }
    Ok(())
}

/// FNV-1a of 128 bits; the hash stays the same between builds.
fn fnv128(bytes: &[u8]) -> u128 {
    let prime = (1_u128 << 88) + 0x13b;
    bytes.iter().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128, |h, b| (h ^ u128::from(*b)).wrapping_mul(prime))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Value, ManifestError> {
        read(&Api::builtin().unwrap(), text, Path::new("/m/p.yaml"), "node")
    }

    const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers: [{name: c, image: 'img:latest'}]\n";

    #[test]
    fn a_file_becomes_a_pod_of_this_node_with_defaults_and_always_the_same_uid() {
        let pod = of(POD).unwrap();
        assert_eq!((meta::name(&pod), meta::namespace(&pod), pod.str_at(&["spec", "nodeName"])), ("p-node", "default", "node"));
        assert_eq!((meta::uid(&pod).len(), meta::annotation(&pod, HASH)), (32, Some(meta::uid(&pod))));
        assert_eq!(pod.list_at(&["spec", "containers"])[0].str_at(&["imagePullPolicy"]), "Always");
        assert!(crate::pod::is_static(&pod));
        assert_eq!(meta::uid(&pod), meta::uid(&of(POD).unwrap()));
        assert_ne!(meta::uid(&pod), meta::uid(&of(&POD.replace("latest", "1")).unwrap()));
        let own = POD.replace("{name: p}", "{name: p, uid: u, resourceVersion: '7'}");
        assert_ne!(meta::uid(&of(&own).unwrap()), meta::uid(&of(&own.replace("latest", "1")).unwrap()));
        assert!(crate::pod::is_static(&of(&own).unwrap()));
    }

    #[test]
    fn a_url_gives_a_pod_or_a_list_and_one_pod_that_cannot_be_read_spoils_it() {
        let read = |text: &str| read_all(&Api::builtin().unwrap(), text, Origin::Url("http://a/b"), "node");
        let one = read(POD).unwrap();
        assert_eq!((one.len(), meta::annotation(&one[0], SOURCE)), (1, Some("http")));
        assert_ne!(meta::uid(&one[0]), meta::uid(&of(POD).unwrap()));
        let item = |name: &str| format!("- metadata: {{name: {name}}}\n  spec: {{containers: [{{name: c, image: i}}]}}\n");
        let list = format!("apiVersion: v1\nkind: PodList\nitems:\n{}{}", item("a"), item("b"));
        assert_eq!(read(&list).unwrap().iter().map(meta::name).collect::<Vec<_>>(), ["a-node", "b-node"]);
        assert!(read(&list.replace("name: c", "name: C_")).is_err());
        assert_eq!(read("apiVersion: v1\nkind: PodList\nitems: []\n"), Ok(Vec::new()));
    }

    #[test]
    fn what_is_no_pod_or_needs_the_api_server_is_refused() {
        assert!(matches!(of("apiVersion: v1\nkind: Service\n"), Err(ManifestError::Kind(..))));
        assert!(matches!(of("a: b: c"), Err(ManifestError::Text(_))));
        assert!(matches!(of(&format!("{POD}  nodeNames: x\n")), Err(ManifestError::Invalid(_))));
        assert!(matches!(of(&POD.replace("name: c", "name: C_")), Err(ManifestError::Invalid(_))));
        let volume = format!("{POD}  volumes: [{{name: v, secret: {{secretName: s}}}}]\n");
        assert_eq!(of(&volume), Err(ManifestError::Refers("volume \"v\"".into())));
    }
}
