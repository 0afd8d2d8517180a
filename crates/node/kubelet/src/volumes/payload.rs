//! What the volumes that the kubelet writes contain: files by path, with their modes. Pure.

use std::collections::BTreeMap;

use fram_machinery::{Value, meta};

use super::projected::{self, Fetched};
use crate::pod;
use crate::pod::environment::{FieldError, Fields, Reference, Sources, field, resource_field, value_of};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    pub data: Vec<u8>,
    pub mode: u32,
    /// Who the file belongs to, where that is not root.
    pub user: Option<u32>,
}

/// Files by their path below the volume.
pub(crate) type Payload = BTreeMap<String, File>;

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum PayloadError {
    #[error("configmap {0:?} not found")]
    NoConfigMap(String),
    #[error("secret {0:?} not found")]
    NoSecret(String),
    #[error("references non-existent config key: {0}")]
    NoConfigKey(String),
    #[error("references non-existent secret key: {0}")]
    NoSecretKey(String),
    #[error("invalid path {0:?}: it must be relative and must not contain '..'")]
    Path(String),
    #[error("what is shown at {0:?} was not fetched")]
    NotFetched(String),
    #[error("projected source {0} is not supported by this node")]
    Unsupported(String),
    #[error(transparent)]
    Field(#[from] FieldError),
}

const DEFAULT_MODE: u32 = 0o644;

/// The objects that the pod's volumes are written from.
pub(crate) fn references(pod: &Value) -> Vec<Reference> {
    let mut out = Vec::new();
    let mut add = |name: &str, of: fn(String) -> Reference| {
        if !name.is_empty() {
            out.push(of(name.to_string()));
        }
    };
    for volume in super::used(pod) {
        add(volume.str_at(&["configMap", "name"]), Reference::ConfigMap);
        add(volume.str_at(&["secret", "secretName"]), Reference::Secret);
        for source in volume.at(&["projected"]).map(|p| p.list_at(&["sources"])).unwrap_or_default() {
            add(source.str_at(&["configMap", "name"]), Reference::ConfigMap);
            add(source.str_at(&["secret", "name"]), Reference::Secret);
        }
    }
    out
}

/// The files of one volume.
pub(crate) fn payload(
    pod: &Value,
    volume: &Value,
    sources: &Sources,
    fields: &Fields,
    fetched: &projected::Sources,
) -> Result<Payload, PayloadError> {
    let mut out = Payload::new();
    let mode = |v: &Value| v.int_at(&["defaultMode"]).and_then(|m| u32::try_from(m).ok()).unwrap_or(DEFAULT_MODE);
    if let Some(source) = volume.get("configMap") {
        keys(source, source.str_at(&["name"]), false, mode(source), sources, &mut out)?;
    } else if let Some(source) = volume.get("secret") {
        keys(source, source.str_at(&["secretName"]), true, mode(source), sources, &mut out)?;
    } else if let Some(source) = volume.get("downwardAPI") {
        downward(pod, source, mode(source), fields, &mut out)?;
    } else if let Some(projected) = volume.get("projected") {
        let mode = mode(projected);
        for (index, source) in projected.list_at(&["sources"]).iter().enumerate() {
            project(pod, source, mode, (sources, fields, fetched.get(&index)), &mut out)?;
        }
    }
    Ok(out)
}

fn project(
    pod: &Value,
    source: &Value,
    mode: u32,
    (sources, fields, fetched): (&Sources, &Fields, Option<&Fetched>),
    out: &mut Payload,
) -> Result<(), PayloadError> {
    if let Some(map) = source.get("configMap") {
        return keys(map, map.str_at(&["name"]), false, mode, sources, out);
    }
    if let Some(secret) = source.get("secret") {
        return keys(secret, secret.str_at(&["name"]), true, mode, sources, out);
    }
    if let Some(downward_api) = source.get("downwardAPI") {
        return downward(pod, downward_api, mode, fields, out);
    }
    for kind in ["serviceAccountToken", "clusterTrustBundle", "podCertificate"] {
        if let Some(source) = source.get(kind) {
            return show(pod, source, mode, fetched, out);
        }
    }
    let kind = source.as_map().and_then(|m| m.keys().next()).map(ToString::to_string).unwrap_or_default();
    Err(PayloadError::Unsupported(kind))
}

/// Shows what was fetched for one source.
fn show(pod: &Value, source: &Value, mode: u32, fetched: Option<&Fetched>, out: &mut Payload) -> Result<(), PayloadError> {
    let user = sole_user(pod);
    let has_group = pod.at(&["spec", "securityContext"]).and_then(|c| c.int_at(&["fsGroup"])).is_some();
    // These are for their pod only where the pod says who that is.
    let mode = if user.is_some() || has_group { 0o600 } else { mode };
    let both;
    let files: &[(&str, &str)] = match fetched {
        Some(Fetched::Token(text) | Fetched::Anchors(text)) => &[("path", text)],
        Some(Fetched::Credentials(own)) => {
            both = format!("{}{}", own.key, own.chain);
            &[("credentialBundlePath", &both), ("keyPath", &own.key), ("certificateChainPath", &own.chain)]
        }
        None => return Err(PayloadError::NotFetched(source.str_at(&["path"]).into())),
    };
    for (field, text) in files {
        // Of a certificate's paths those count that are given; all others have to be.
        if !source.str_at(&[*field]).is_empty() || *field == "path" {
            out.insert(checked(source.str_at(&[*field]))?, File { data: text.as_bytes().to_vec(), mode, user });
        }
    }
    Ok(())
}

/// The user that every container of the pod runs as, if that is one; see securitycontext's DetermineEffectiveRunAsUser.
fn sole_user(pod: &Value) -> Option<u32> {
    let of_pod = pod.at(&["spec", "securityContext"]).and_then(|c| c.int_at(&["runAsUser"]));
    let mut users = pod::all_containers(pod).map(|(_, c)| c.at(&["securityContext"]).and_then(|s| s.int_at(&["runAsUser"])).or(of_pod));
    let first = users.next()??;
    users.all(|u| u == Some(first)).then(|| u32::try_from(first).ok()).flatten()
}

fn checked(path: &str) -> Result<String, PayloadError> {
    let bad = path.is_empty() || path.starts_with('/') || path.starts_with("..") || path.split('/').any(|p| p == "..");
    if bad { Err(PayloadError::Path(path.to_string())) } else { Ok(path.to_string()) }
}

/// Keys of a ConfigMap or Secret: those of `items`, or all.
fn keys(source: &Value, name: &str, secret: bool, mode: u32, sources: &Sources, out: &mut Payload) -> Result<(), PayloadError> {
    let optional = source.bool_at(&["optional"]) == Some(true);
    let at = if secret { Reference::Secret(name.into()) } else { Reference::ConfigMap(name.into()) };
    let Some(object) = sources.get(&at) else {
        return match (optional, secret) {
            (true, _) => Ok(()),
            (false, true) => Err(PayloadError::NoSecret(name.into())),
            (false, false) => Err(PayloadError::NoConfigMap(name.into())),
        };
    };
    let items = source.list_at(&["items"]);
    if items.is_empty() {
        for map in ["data", "binaryData"] {
            for key in object.get(map).and_then(Value::as_map).into_iter().flat_map(|m| m.keys()) {
                if let Some(data) = value_of(object, key, secret) {
                    out.insert(checked(key)?, File { data, mode, user: None });
                }
            }
        }
        return Ok(());
    }
    for item in items {
        let key = item.str_at(&["key"]);
        let mode = item.int_at(&["mode"]).and_then(|m| u32::try_from(m).ok()).unwrap_or(mode);
        match value_of(object, key, secret) {
            Some(data) => {
                out.insert(checked(item.str_at(&["path"]))?, File { data, mode, user: None });
            }
            None if optional => {}
            None if secret => return Err(PayloadError::NoSecretKey(key.into())),
            None => return Err(PayloadError::NoConfigKey(key.into())),
        }
    }
    Ok(())
}

fn downward(pod: &Value, source: &Value, mode: u32, fields: &Fields, out: &mut Payload) -> Result<(), PayloadError> {
    for item in source.list_at(&["items"]) {
        let text = match item.get("fieldRef") {
            Some(reference) => field(pod, reference.str_at(&["fieldPath"]), fields)?,
            None => {
                let none = Value::Null;
                resource_field(pod, &none, item.get("resourceFieldRef").unwrap_or(&none), fields)?
            }
        };
        let mode = item.int_at(&["mode"]).and_then(|m| u32::try_from(m).ok()).unwrap_or(mode);
        out.insert(checked(item.str_at(&["path"]))?, File { data: text.into_bytes(), mode, user: None });
    }
    Ok(())
}

/// Whether a change of the pod's metadata changes what one of its volumes contains.
pub(crate) fn shows_metadata(pod: &Value) -> bool {
    let items = |v: &Value| v.at(&["downwardAPI"]).is_some() || v.at(&["projected"]).is_some();
    !meta::name(pod).is_empty() && super::used(pod).into_iter().any(items)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::certificate::Credentials;
    use super::*;
    use fram_machinery::object;

    fn sources() -> Sources {
        let map = object!({ "data": { "a": "1", "b": "2" }, "binaryData": { "c": "Aw==" } });
        let secret = object!({ "data": { "s": "eA==" } });
        Sources::from([(Reference::ConfigMap("m".into()), Arc::new(map)), (Reference::Secret("s".into()), Arc::new(secret))])
    }

    fn made(spec: Value, volume: Value) -> Result<Vec<String>, PayloadError> {
        let pod = object!({ "metadata": { "name": "p", "namespace": "ns", "labels": { "x": "y" } }, "spec": spec });
        let own = Credentials { key: "key ".into(), chain: "chain".into() };
        let fetched = [(3, Fetched::Token("jwt".into())), (4, Fetched::Anchors("ca".into())), (5, Fetched::Credentials(own))];
        let files = payload(&pod, &volume, &sources(), &Fields::default(), &fetched.into())?;
        let word = |(path, file): (&String, &File)| {
            let user = file.user.map(|u| format!(" {u}")).unwrap_or_default();
            format!("{path}={} {:o}{user}", String::from_utf8_lossy(&file.data).escape_debug(), file.mode)
        };
        Ok(files.iter().map(word).collect())
    }

    #[test]
    fn a_config_map_shows_all_its_keys_or_the_items_asked_for() {
        let all = made(object!({}), object!({ "configMap": { "name": "m", "defaultMode": 256 } })).unwrap();
        assert_eq!(all, ["a=1 400", "b=2 400", "c=\\u{3} 400"]);
        let items = object!([{ "key": "a", "path": "d/e", "mode": 511 }]);
        assert_eq!(made(object!({}), object!({ "configMap": { "name": "m", "items": items } })).unwrap(), ["d/e=1 777"]);
    }

    #[test]
    fn what_is_missing_or_leads_out_is_refused() {
        let fails = |volume: Value| made(object!({}), volume).unwrap_err().to_string();
        assert_eq!(fails(object!({ "configMap": { "name": "x" } })), "configmap \"x\" not found");
        let keyed = object!({ "configMap": { "name": "m", "items": [{ "key": "z", "path": "z" }] } });
        assert_eq!(fails(keyed), "references non-existent config key: z");
        let outside = object!({ "configMap": { "name": "m", "items": [{ "key": "a", "path": "a/../../b" }] } });
        assert!(fails(outside).starts_with("invalid path"));
        assert!(made(object!({}), object!({ "secret": { "secretName": "x", "optional": true } })).unwrap().is_empty());
    }

    #[test]
    fn a_projection_joins_its_sources_and_keeps_what_is_the_pods_to_its_user() {
        let field = object!({ "items": [{ "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } }] });
        let list = object!([
            { "configMap": { "name": "m", "items": [{ "key": "a", "path": "a" }] } }, { "secret": { "name": "s" } },
            { "downwardAPI": field }, { "serviceAccountToken": { "path": "token" } }, { "clusterTrustBundle": { "path": "ca.pem" } },
            { "podCertificate": { "credentialBundlePath": "all.pem", "keyPath": "key.pem", "certificateChainPath": "chain.pem" } }
        ]);
        let volume = object!({ "projected": { "sources": list } });
        assert_eq!(
            made(object!({}), volume.clone()).unwrap(),
            [
                "a=1 644",
                "all.pem=key chain 644",
                "ca.pem=ca 644",
                "chain.pem=chain 644",
                "key.pem=key  644",
                "labels=x=\\\"y\\\" 644",
                "s=x 644",
                "token=jwt 644"
            ]
        );
        let spec = object!({ "securityContext": { "runAsUser": 7 }, "containers": [{ "name": "c" }] });
        let own = made(spec, volume).unwrap();
        let of_others = ["a=1 644", "labels=x=\\\"y\\\" 644", "s=x 644"];
        assert!(own.iter().all(|f| f.ends_with(" 600 7") != of_others.contains(&f.as_str())), "{own:?}");
    }
}
