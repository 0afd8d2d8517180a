//! ServiceAccount: every pod runs as a service account, and finds its token, the cluster's CA and its namespace mounted.

use std::time::Duration;

use fram_machinery::{Status, Value, meta, object};

use super::{Operation, Plugin, Request, pods};

pub(super) struct ServiceAccount;

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// A little more than an hour, so that the kubelet renews on the hour; see serviceaccount.WarnOnlyBoundTokenExpirationSeconds.
const TOKEN_SECONDS: i64 = 3607;
const VOLUME: &str = "kube-api-access-";
const DEFAULT: &str = "default";
/// Who creates a namespace and at once a pod in it is before the controller that makes the default account. Upstream asks ten times.
const WAIT: Duration = Duration::from_millis(1500);

#[async_trait::async_trait]
impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        let debugs = request.operation == Operation::Update && request.subresource == "ephemeralcontainers";
        request.creates("", "Pod") || debugs && request.stored_kind().is("", "Pod")
    }

    async fn admit(&self, request: &Request<'_>, mut object: Value, _old: Option<&Value>) -> Result<Value, Status> {
        if request.operation != Operation::Create || pods::is_mirror(&object) {
            return Ok(object);
        }
        if object.str_at(&["spec", "serviceAccountName"]).is_empty() {
            object.set(&["spec", "serviceAccountName"], DEFAULT);
            object.set(&["spec", "serviceAccount"], DEFAULT);
        }
        let account = account_of(request, &object).await?;
        let wanted = object.bool_at(&["spec", "automountServiceAccountToken"]);
        if wanted.or(account.bool_at(&["automountServiceAccountToken"])).unwrap_or(true) {
            mount_token(request, &mut object);
        }
        if object.list_at(&["spec", "imagePullSecrets"]).is_empty() && !account.list_at(&["imagePullSecrets"]).is_empty() {
            object.set(&["spec", "imagePullSecrets"], account.list_at(&["imagePullSecrets"]).to_vec());
        }
        Ok(object)
    }

    async fn validate(&self, request: &Request<'_>, object: Option<&Value>, _old: Option<&Value>) -> Result<(), Status> {
        let Some(pod) = object else { return Ok(()) };
        let refuse = |why: &str| Err(request.place.forbidden(why));
        let created = request.operation == Operation::Create;
        if created && pods::is_mirror(pod) {
            let references = pods::references(pod);
            let refers = |to: &str| references.iter().any(|reference| reference.split(' ').next() == Some(to));
            let refusals = [
                (references.contains(&"serviceaccounts"), "a mirror pod may not reference service accounts"),
                (refers("secrets"), "a mirror pod may not reference secrets"),
                (refers("serviceaccounts"), "a mirror pod may not use ServiceAccountToken volume projections"),
            ];
            return refusals.into_iter().find(|(is_broken, _)| *is_broken).map_or(Ok(()), |(_, why)| refuse(why));
        }
        let name = pod.str_at(&["spec", "serviceAccountName"]);
        if name.is_empty() {
            return refuse(&format!("no service account specified for pod {}/{}", request.place.namespace, meta::name(pod)));
        }
        let account = account_of(request, pod).await?;
        if !enforces(&account) {
            return Ok(());
        }
        let lists: &[(&str, &str)] = match created {
            true => &[("initContainers", "init container"), ("containers", "container")],
            false => &[("ephemeralContainers", "ephemeral container")],
        };
        let whole = created.then(|| unmountable_whole(&account, pod)).flatten();
        match whole.or_else(|| unmountable_environment(&account, pod, lists)) {
            Some(why) => refuse(&why),
            None => Ok(()),
        }
    }
}

/// The account that a pod names. The default one is waited for: it is made when its namespace is.
async fn account_of(request: &Request<'_>, pod: &Value) -> Result<Value, Status> {
    let (namespace, name) = (&request.place.namespace, pod.str_at(&["spec", "serviceAccountName"]));
    let find = || request.find("", "v1", "serviceaccounts", namespace, name);
    let mut found = find().await?;
    if found.is_none() && name == DEFAULT {
        let mut changes = request.changes("", "v1", "serviceaccounts", namespace).await?;
        let deadline = tokio::time::Instant::now() + WAIT;
        loop {
            found = find().await?;
            if found.is_some() {
                break;
            }
            match tokio::time::timeout_at(deadline, changes.next()).await {
                Ok(changed) => drop(changed.map_err(Status::internal)?),
                Err(_) => break,
            }
        }
    }
    found.ok_or_else(|| {
        let why = format!("error looking up service account {namespace}/{name}: serviceaccount {name:?} not found");
        request.place.forbidden(&why)
    })
}

/// Whether pods of an account may use only the secrets that the account lists.
fn enforces(account: &Value) -> bool {
    let set = meta::annotation(account, "kubernetes.io/enforce-mountable-secrets");
    matches!(set, Some("1" | "t" | "T" | "true" | "TRUE" | "True"))
}

fn lists(account: &Value, list: &str, name: &str) -> bool {
    account.list_at(&[list]).iter().any(|entry| entry.str_at(&["name"]) == name)
}

/// What is wrong with the secrets of a pod's volumes and for its images.
fn unmountable_whole(account: &Value, pod: &Value) -> Option<String> {
    let owner = meta::name(account);
    let volumes = pod.list_at(&["spec", "volumes"]).iter().filter_map(|volume| volume.get("secret").filter(|secret| !secret.is_null()));
    let mut names = volumes.map(|secret| secret.str_at(&["secretName"]));
    let of_volumes = names.find(|name| !lists(account, "secrets", name)).map(|name| {
        format!("volume with secret.secretName={name:?} is not allowed because service account {owner} does not reference that secret")
    });
    let mut pulls = pod.list_at(&["spec", "imagePullSecrets"]).iter().map(|secret| secret.str_at(&["name"])).enumerate();
    let mut of_pulls = || {
        let (i, name) = pulls.find(|(_, name)| !lists(account, "imagePullSecrets", name))?;
        Some(format!(
            "imagePullSecrets[{i}].name={name:?} is not allowed because service account {owner} does not reference that imagePullSecret"
        ))
    };
    of_volumes.or_else(&mut of_pulls)
}

/// What is wrong with the secrets of containers' environments.
fn unmountable_environment(account: &Value, pod: &Value, of: &[(&str, &str)]) -> Option<String> {
    let why = |who: String, name: &str| {
        let owner = meta::name(account);
        format!(
            "{who} referencing secret.secretName={name:?} is not allowed because service account {owner} does not reference that secret"
        )
    };
    for (list, word) in of {
        for container in pod.list_at(&["spec", list]) {
            let who = format!("{word} {}", named(container));
            for variable in container.list_at(&["env"]) {
                let Some(key) = variable.at(&["valueFrom", "secretKeyRef"]).filter(|key| !key.is_null()) else { continue };
                if !lists(account, "secrets", named(key)) {
                    return Some(why(format!("{who} with envVar {}", named(variable)), named(key)));
                }
            }
            for source in container.list_at(&["envFrom"]) {
                let Some(whole) = source.get("secretRef").filter(|whole| !whole.is_null()) else { continue };
                if !lists(account, "secrets", named(whole)) {
                    return Some(why(format!("{who} with envFrom"), named(whole)));
                }
            }
        }
    }
    None
}

fn named(of: &Value) -> &str {
    of.str_at(&["name"])
}

fn mount_token(request: &Request<'_>, pod: &mut Value) {
    let mounted = |c: &Value| c.list_at(&["volumeMounts"]).iter().any(|m| m.str_at(&["mountPath"]) == MOUNT_PATH);
    let lists = ["initContainers", "containers"];
    if lists.iter().all(|l| pod.list_at(&["spec", l]).iter().all(mounted)) {
        return;
    }
    // A pod that was made of another's description may bring the volume along.
    let there = pod.list_at(&["spec", "volumes"]).iter().map(named).find(|name| name.starts_with(VOLUME)).map(String::from);
    let name = there.clone().unwrap_or_else(|| request.registry.environment.generate_name(VOLUME));
    for list in lists.iter().filter(|l| !pod.list_at(&["spec", l]).is_empty()).collect::<Vec<_>>() {
        for container in pod.place(&["spec", list]).make_list().make_mut().iter_mut().filter(|c| !mounted(c)) {
            let mount = object!({ "name": (name.as_str()), "readOnly": true, "mountPath": MOUNT_PATH });
            container.place(&["volumeMounts"]).make_list().push(mount);
        }
    }
    if there.is_some() {
        return;
    }
    let volume = object!({ "name": (name.as_str()), "projected": { "defaultMode": 420, "sources": [
        { "serviceAccountToken": { "path": "token", "expirationSeconds": TOKEN_SECONDS } },
        { "configMap": { "name": "kube-root-ca.crt", "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
        { "downwardAPI": { "items": [{ "path": "namespace", "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.namespace" } }] } }
    ] } });
    pod.place(&["spec", "volumes"]).make_list().push(volume);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_secrets_are_mounted_where_the_account_says_so() {
        let account = object!({ "metadata": { "name": "a" }, "secrets": [{ "name": "s" }], "imagePullSecrets": [{ "name": "p" }] });
        assert!(!enforces(&account));
        let pod = |field: &str, value: Value| {
            let mut pod = object!({ "spec": { "containers": [{ "name": "c" }] } });
            pod.set(&["spec", field], value);
            pod
        };
        let of_environment = |pod: &Value| unmountable_environment(&account, pod, &[("containers", "container")]);
        for (name, well) in [("s", true), ("other", false)] {
            let volumes = pod("volumes", object!([{ "name": "v", "secret": { "secretName": name } }, { "name": "e", "emptyDir": {} }]));
            assert_eq!(unmountable_whole(&account, &volumes).is_none(), well, "{name}");
            let variable = object!({ "name": "A", "valueFrom": { "secretKeyRef": { "name": name, "key": "k" } } });
            let whole = object!({ "secretRef": { "name": name } });
            for (list, entry, word) in [("env", variable, "with envVar A"), ("envFrom", whole, "with envFrom")] {
                let mut container = object!({ "name": "c" });
                container.set(&[list], object!([(entry)]));
                let told = of_environment(&pod("containers", object!([(container)])));
                assert_eq!(told.is_none(), well, "{name} {list}");
                let begins = format!("container c {word} referencing secret.secretName=\"other\" is not allowed");
                assert!(told.is_none_or(|told| told.starts_with(&begins)));
            }
        }
        let pulls = unmountable_whole(&account, &pod("imagePullSecrets", object!([{ "name": "p" }, { "name": "q" }]))).unwrap();
        assert!(pulls.starts_with("imagePullSecrets[1].name=\"q\" is not allowed"), "{pulls}");
    }
}
