//! ServiceAccount: every pod runs as a service account, and finds its token, the cluster's CA and its namespace mounted.

use fram_machinery::{Status, Value, meta, object};

use super::{Operation, Plugin, Request};

pub(super) struct ServiceAccount;

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// A little more than an hour, so that the kubelet renews on the hour; see serviceaccount.WarnOnlyBoundTokenExpirationSeconds.
const TOKEN_SECONDS: i64 = 3607;

#[async_trait::async_trait]
impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    async fn admit(&self, request: &Request<'_>, mut object: Value, _old: Option<&Value>) -> Result<Value, Status> {
        let mirror = meta::annotation(&object, "kubernetes.io/config.mirror").is_some();
        if !request.is_about("", "Pod") || request.operation != Operation::Create || mirror {
            return Ok(object);
        }
        let mut name = object.str_at(&["spec", "serviceAccountName"]).to_string();
        if name.is_empty() {
            name = "default".into();
            object.set(&["spec", "serviceAccountName"], "default");
            object.set(&["spec", "serviceAccount"], "default");
        }
        let namespace = &request.place.namespace;
        let Some(account) = request.find("", "v1", "serviceaccounts", namespace, &name).await? else {
            let why = format!("error looking up service account {namespace}/{name}: serviceaccount {name:?} not found");
            return Err(request.place.forbidden(&why));
        };
        let wanted = object.bool_at(&["spec", "automountServiceAccountToken"]);
        if wanted.or(account.bool_at(&["automountServiceAccountToken"])).unwrap_or(true) {
            mount_token(request, &mut object);
        }
        if object.list_at(&["spec", "imagePullSecrets"]).is_empty() && !account.list_at(&["imagePullSecrets"]).is_empty() {
            object.set(&["spec", "imagePullSecrets"], account.list_at(&["imagePullSecrets"]).to_vec());
        }
        Ok(object)
    }
}

fn mount_token(request: &Request<'_>, pod: &mut Value) {
    let mounted = |c: &Value| c.list_at(&["volumeMounts"]).iter().any(|m| m.str_at(&["mountPath"]) == MOUNT_PATH);
    let lists = ["initContainers", "containers"];
    if lists.iter().all(|l| pod.list_at(&["spec", l]).iter().all(mounted)) {
        return;
    }
    let name = request.registry.environment.generate_name("kube-api-access-");
    for list in lists.iter().filter(|l| !pod.list_at(&["spec", l]).is_empty()).collect::<Vec<_>>() {
        for container in pod.place(&["spec", list]).make_list().iter_mut().filter(|c| !mounted(c)) {
            let mount = object!({ "name": (name.as_str()), "readOnly": true, "mountPath": MOUNT_PATH });
            container.place(&["volumeMounts"]).make_list().push(mount);
        }
    }
    let volume = object!({ "name": (name.as_str()), "projected": { "defaultMode": 420, "sources": [
        { "serviceAccountToken": { "path": "token", "expirationSeconds": TOKEN_SECONDS } },
        { "configMap": { "name": "kube-root-ca.crt", "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
        { "downwardAPI": { "items": [{ "path": "namespace", "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.namespace" } }] } }
    ] } });
    pod.place(&["spec", "volumes"]).make_list().push(volume);
}
