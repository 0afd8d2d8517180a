//! apiserver.config.k8s.io/v1 EncryptionConfiguration: read and checked as upstream checks it. Pure.

use std::time::Duration;

use base64::Engine;
use fram_machinery::{Value, json};

/// A resource of a group; either may be `*`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Resource {
    pub(crate) group: String,
    pub(crate) resource: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) name: String,
    pub(crate) secret: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Provider {
    Identity,
    AesGcm(Vec<Key>),
    AesCbc(Vec<Key>),
    Secretbox(Vec<Key>),
    Kms { name: String, socket: String, timeout: Duration },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) resources: Vec<Resource>,
    pub(crate) providers: Vec<Provider>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) entries: Vec<Entry>,
}

const AES_KEYS: [usize; 3] = [16, 24, 32];
const SECRETBOX_KEYS: [usize; 1] = [32];
/// See upstream's default of a KMS provider.
const KMS_TIMEOUT: Duration = Duration::from_secs(3);

impl Config {
    pub(crate) fn read(value: &Value) -> Result<Self, String> {
        let (version, kind) = (value.str_at(&["apiVersion"]), value.str_at(&["kind"]));
        if (version, kind) != ("apiserver.config.k8s.io/v1", "EncryptionConfiguration") {
            return Err(format!("{version:?} {kind:?} is not apiserver.config.k8s.io/v1 EncryptionConfiguration"));
        }
        let entries = value.list_at(&["resources"]);
        if entries.is_empty() {
            return Err("resources: Required value: at least one resources is required".into());
        }
        let read = |(i, entry): (usize, &Value)| Entry::read(entry).map_err(|e| format!("resources[{i}].{e}"));
        let entries = entries.iter().enumerate().map(read).collect::<Result<Vec<_>, _>>()?;
        let mut names: Vec<&str> = Vec::new();
        for provider in entries.iter().flat_map(|e| &e.providers) {
            if let Provider::Kms { name, .. } = provider {
                if names.contains(&name.as_str()) {
                    return Err(format!("duplicate KMS provider name {name}, names must be unique"));
                }
                names.push(name);
            }
        }
        Ok(Self { entries })
    }
}

impl Entry {
    fn read(value: &Value) -> Result<Self, String> {
        // What is left out would lie in the clear.
        let name = |(i, name): (usize, &Value)| {
            name.as_str()
                .map(String::from)
                .ok_or_else(|| format!("resources[{i}]: Invalid value: {}: must be a string", json::to_string(name)))
        };
        let names: Vec<String> = value.list_at(&["resources"]).iter().enumerate().map(name).collect::<Result<_, _>>()?;
        let providers = value.list_at(&["providers"]);
        if names.is_empty() || providers.is_empty() {
            let missing = if names.is_empty() { "resources" } else { "providers" };
            return Err(format!("{missing}: Required value: at least one is required"));
        }
        let resources =
            names.iter().map(|name| Resource::read(name)).collect::<Result<Vec<_>, _>>().map_err(|e| format!("resources: {e}"))?;
        check_overlap(&resources).map_err(|e| format!("resources: {e}"))?;
        let read = |(i, provider): (usize, &Value)| Provider::read(provider).map_err(|e| format!("providers[{i}]{e}"));
        Ok(Self { resources, providers: providers.iter().enumerate().map(read).collect::<Result<_, _>>()? })
    }
}

impl Resource {
    /// `secrets`, `deployments.apps`, `*.apps`, `*.` and `*.*`.
    fn read(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| Err(format!("Invalid value: {text:?}: {why}"));
        if text.chars().any(char::is_uppercase) {
            return wrong("resource name should not contain capital letters");
        }
        let (resource, group) = text.split_once('.').unwrap_or((text, ""));
        match (resource, group) {
            _ if text == "*" => wrong("use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources"),
            ("apiserveripinfo" | "serviceipallocations" | "servicenodeportallocations", "") => {
                wrong("resources which do not have REST API/s cannot be encrypted")
            }
            (_, "events.k8s.io") => {
                wrong("'*.events.k8s.io' objects are stored using the 'events' API group in etcd. Use 'events' instead")
            }
            (_, "extensions") => wrong("'extensions' group has been removed and cannot be used for encryption"),
            (resource, "*") if resource != "*" => wrong("use '*.*' to encrypt all the resources across all groups"),
            ("", _) => wrong("a resource is needed"),
            (resource, group) => Ok(Self { group: group.into(), resource: resource.into() }),
        }
    }
}

/// What stands twice in one entry, or behind a wildcard of the same entry, is a mistake.
fn check_overlap(resources: &[Resource]) -> Result<(), String> {
    for (i, a) in resources.iter().enumerate() {
        for b in &resources[i + 1..] {
            if a == b {
                return Err(format!("Invalid value: the resource {a:?} stands twice"));
            }
            let all = |r: &Resource| r.group == "*";
            if all(a) || all(b) || a.group == b.group && (a.resource == "*" || b.resource == "*") {
                return Err("Invalid value: using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be masked".into());
            }
        }
    }
    Ok(())
}

impl Provider {
    fn read(value: &Value) -> Result<Self, String> {
        let fields = value.as_map().map(|m| m.keys().map(|k| k.to_string()).collect::<Vec<_>>()).unwrap_or_default();
        let [field] = fields.as_slice() else {
            return Err(": Invalid value: a provider is exactly one of kms, aesgcm, aescbc, secretbox and identity".into());
        };
        let nothing = Value::Null;
        let value = value.get(field).unwrap_or(&nothing);
        let keys = |sizes: &[usize]| read_keys(value, sizes).map_err(|e| format!(".{field}.keys{e}"));
        match field.as_str() {
            "identity" => Ok(Self::Identity),
            "aesgcm" => Ok(Self::AesGcm(keys(&AES_KEYS)?)),
            "aescbc" => Ok(Self::AesCbc(keys(&AES_KEYS)?)),
            "secretbox" => Ok(Self::Secretbox(keys(&SECRETBOX_KEYS)?)),
            "kms" => read_kms(value).map_err(|e| format!(".kms.{e}")),
            _ => Err(format!(": Invalid value: provider {field:?} is none of kms, aesgcm, aescbc, secretbox and identity")),
        }
    }
}

fn read_keys(value: &Value, sizes: &[usize]) -> Result<Vec<Key>, String> {
    let keys = value.list_at(&["keys"]);
    if keys.is_empty() {
        return Err(": Required value: at least one keys is required".into());
    }
    let read = |(i, key): (usize, &Value)| {
        let name = key.str_at(&["name"]);
        if name.is_empty() {
            return Err(format!("[{i}].name: Required value: key name must be provided"));
        }
        // The secret itself is never part of a message.
        let secret = base64::engine::general_purpose::STANDARD.decode(key.str_at(&["secret"]));
        let secret = secret.map_err(|_| format!("[{i}].secret: Invalid value: \"REDACTED\": secrets must be base64 encoded"))?;
        if !sizes.contains(&secret.len()) {
            let length = secret.len();
            return Err(format!(
                "[{i}].secret: Invalid value: \"REDACTED\": secret is not of the expected length, got {length}, expected one of {sizes:?}"
            ));
        }
        Ok(Key { name: name.into(), secret })
    };
    keys.iter().enumerate().map(read).collect()
}

fn read_kms(value: &Value) -> Result<Provider, String> {
    let name = value.str_at(&["name"]);
    if name.is_empty() || name.contains(':') {
        return Err(format!("name: Invalid value: {name:?}: a name is needed, without ':'"));
    }
    match value.str_at(&["apiVersion"]) {
        "v2" => {}
        // The first version is deprecated and off by default since Kubernetes 1.29.
        version => return Err(format!("apiVersion: Unsupported value: {version:?}: supported values: \"v2\"")),
    }
    let endpoint = value.str_at(&["endpoint"]);
    let socket = endpoint.strip_prefix("unix://").filter(|s| !s.is_empty());
    let socket =
        socket.ok_or_else(|| format!("endpoint: Invalid value: {endpoint:?}: unsupported scheme for KMS provider, use unix:///PATH"))?;
    let timeout = match value.str_at(&["timeout"]) {
        "" => KMS_TIMEOUT,
        text => duration(text).filter(|d| !d.is_zero()).ok_or_else(|| format!("timeout: Invalid value: {text:?}: must be positive"))?,
    };
    Ok(Provider::Kms { name: name.into(), socket: socket.into(), timeout })
}

/// Whole milliseconds, seconds or minutes, as such files have them.
fn duration(text: &str) -> Option<Duration> {
    let units = [("ms", 1), ("s", 1000), ("m", 60_000)];
    units.iter().find_map(|(unit, millis)| {
        let number = text.strip_suffix(unit)?.parse::<u64>().ok()?;
        Some(Duration::from_millis(number.checked_mul(*millis)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::yaml;

    const HEAD: &str = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n";

    fn read(text: &str) -> Result<Config, String> {
        Config::read(&yaml::from_str(&format!("{HEAD}{text}")).unwrap())
    }

    #[test]
    fn a_configuration_is_read() {
        let text = "- resources: [secrets, '*.apps']\n  providers:\n  - aesgcm: {keys: [{name: a, secret: AAAAAAAAAAAAAAAAAAAAAA==}]}\n  - kms: {apiVersion: v2, name: k, endpoint: 'unix:///run/k.sock', timeout: 500ms}\n  - identity: {}\n";
        let config = read(text).unwrap();
        let of = |group: &str, resource: &str| Resource { group: group.into(), resource: resource.into() };
        assert_eq!(config.entries[0].resources, [of("", "secrets"), of("apps", "*")]);
        let kms = Provider::Kms { name: "k".into(), socket: "/run/k.sock".into(), timeout: Duration::from_millis(500) };
        let key = Key { name: "a".into(), secret: vec![0; 16] };
        assert_eq!(config.entries[0].providers, [Provider::AesGcm(vec![key]), kms, Provider::Identity]);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_place() {
        let good = "{identity: {}}";
        for (resources, provider, part) in [
            ("", good, "resources[0].resources: Required value"),
            ("Secrets", good, "capital letters"),
            ("'*'", good, "use '*.'"),
            ("serviceipallocations", good, "REST API"),
            ("events.events.k8s.io", good, "Use 'events'"),
            ("'secrets.*'", good, "across all groups"),
            ("secrets, secrets", good, "stands twice"),
            ("secrets, '*.'", good, "overlapping"),
            ("'*.*', a.b", good, "overlapping"),
            ("secrets", "{aesgcm: {keys: []}}", "resources[0].providers[0].aesgcm.keys: Required"),
            ("secrets", "{aesgcm: {keys: [{name: a, secret: AAAA}]}}", "got 3, expected one of [16, 24, 32]"),
            ("secrets", "{secretbox: {keys: [{name: a, secret: AAAAAAAAAAAAAAAAAAAAAA==}]}}", "expected one of [32]"),
            ("secrets", "{aescbc: {keys: [{name: a, secret: '!'}]}}", "base64"),
            ("secrets", "{aescbc: {keys: [{secret: AAAAAAAAAAAAAAAAAAAAAA==}]}}", "keys[0].name"),
            ("secrets", "{rot13: {}}", "rot13"),
            ("secrets", "{identity: {}, aescbc: {}}", "exactly one"),
            ("secrets", "{kms: {apiVersion: v1, name: a, endpoint: 'unix:///a'}}", "apiVersion"),
            ("secrets", "{kms: {apiVersion: v2, name: 'a:b', endpoint: 'unix:///a'}}", "name"),
            ("secrets", "{kms: {apiVersion: v2, name: a, endpoint: 'tcp://a'}}", "endpoint"),
            ("secrets", "{kms: {apiVersion: v2, name: a, endpoint: 'unix:///a', timeout: 0s}}", "timeout"),
        ] {
            let refused = read(&format!("- resources: [{resources}]\n  providers: [{provider}]\n")).unwrap_err();
            assert!(refused.contains(part), "{resources} {provider}: {refused}");
        }
        assert!(Config::read(&Value::Null).is_err());
    }
}
