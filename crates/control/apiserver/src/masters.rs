//! The endpoints of the Service `kubernetes`: the servers that are there. Where several share a store each holds a key there that
//! expires unless it is renewed, as upstream's lease endpoint reconciler has it; where there is one store per server it is alone.

use std::sync::Arc;
use std::time::Duration;

use fram_machinery::{Status, Value, object};
use fram_store::{Condition, Key, Operation, Snapshot, Store, StoreError, Transaction};

use crate::bootstrap::Cluster;
use crate::registry::{Registry, store_status};

/// How long a server counts that is not heard of, and how often one says that it is there; see DefaultEndpointReconcilerTTL and
/// DefaultEndpointReconcilerInterval.
const TTL: Duration = Duration::from_secs(15);
pub(crate) const INTERVAL: Duration = Duration::from_secs(10);

/// Says in the store that this server is there.
pub(crate) async fn renew(registry: &Registry, cluster: &Cluster) -> Result<(), Status> {
    let put = Operation::Put { key: key(registry, cluster), value: "".into(), ttl: Some(TTL) };
    registry.store.commit(Transaction::new(vec![put])).await.map(drop).map_err(store_status)
}

/// Takes that back.
pub(crate) async fn leave(registry: &Registry, cluster: &Cluster) -> Result<(), StoreError> {
    registry.store.commit(Transaction::new(vec![Operation::Delete { key: key(registry, cluster) }])).await.map(drop)
}

/// What all keys of servers start with.
pub(crate) fn prefix(registry: &Registry) -> String {
    format!("{}masterleases/", registry.prefix)
}

fn key(registry: &Registry, cluster: &Cluster) -> Key {
    format!("{}{}", prefix(registry), cluster.address).into()
}

/// The addresses of the servers that are there; this one is, whatever the store says.
pub(crate) fn addresses(snapshot: &Snapshot, prefix: &str, cluster: &Cluster) -> Vec<String> {
    let own = cluster.address.to_string();
    if !cluster.shared {
        return vec![own];
    }
    let there = snapshot.prefix(prefix).filter_map(|entry| entry.key.strip_prefix(prefix).map(String::from));
    let mut addresses: Vec<String> = there.chain([own]).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// The Endpoints with these addresses.
pub(crate) fn endpoints(addresses: &[String], port: i64) -> Value {
    let addresses: Vec<Value> = addresses.iter().map(|ip| object!({ "ip": (ip.as_str()) })).collect();
    object!({ "apiVersion": "v1", "kind": "Endpoints",
        "metadata": { "name": "kubernetes", "namespace": "default", "labels": { "endpointslice.kubernetes.io/skip-mirror": "true" } },
        "subsets": [{ "addresses": (Value::from(addresses)), "ports": [{ "name": "https", "port": port, "protocol": "TCP" }] }] })
}

/// The EndpointSlice with these addresses.
pub(crate) fn slice(addresses: &[String], port: i64) -> Value {
    let endpoint = |ip: &String| object!({ "addresses": [(ip.as_str())], "conditions": { "ready": true } });
    let endpoints: Vec<Value> = addresses.iter().map(endpoint).collect();
    object!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": "kubernetes", "namespace": "default", "labels": { "kubernetes.io/service-name": "kubernetes" } },
        "endpoints": (Value::from(endpoints)), "ports": [{ "name": "https", "port": port, "protocol": "TCP" }] })
}

/// The object with the addresses and ports of another, where they differ.
pub(crate) fn corrected(current: &Value, wanted: &Value) -> Option<Value> {
    const PARTS: [&str; 3] = ["subsets", "endpoints", "ports"];
    if PARTS.iter().all(|part| current.get(part) == wanted.get(part)) {
        return None;
    }
    let mut next = current.clone();
    for (part, value) in PARTS.iter().filter_map(|part| Some((part, wanted.get(part)?))) {
        next.set(&[part], value.clone());
    }
    Some(next)
}

/// What servers on one store must have in common, or clients would be strangers to one of them.
#[derive(Debug, thiserror::Error)]
pub enum SharedError {
    #[error("the store belongs to a cluster with other keys: copy the directory of --cert-dir from a server of that cluster")]
    OtherKeys,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Says in the store which keys the cluster has; fails where it has others. `fingerprint` tells nothing of the keys.
pub async fn agree_on_keys(store: &Arc<dyn Store>, prefix: &str, fingerprint: &str) -> Result<(), SharedError> {
    let key = Key::from(format!("{prefix}.fram/keys"));
    let first = Transaction::new(vec![Operation::put(key.clone(), fingerprint.to_owned())]).when(Condition::Absent(key));
    match store.commit(first).await {
        Err(StoreError::Conflict { current: Some(current), .. }) if current.value == fingerprint.as_bytes() => Ok(()),
        Err(StoreError::Conflict { .. }) => Err(SharedError::OtherKeys),
        done => Ok(done.map(drop)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_store::{Embedded, Options};

    #[tokio::test]
    async fn a_store_is_shared_by_servers_with_the_same_keys_only() {
        let store: Arc<dyn Store> = Arc::new(Embedded::open(Options::in_memory()).unwrap());
        for _ in 0..2 {
            agree_on_keys(&store, "/registry/", "one").await.unwrap();
        }
        assert!(matches!(agree_on_keys(&store, "/registry/", "two").await, Err(SharedError::OtherKeys)));
    }

    #[test]
    fn endpoints_are_written_only_where_they_differ() {
        let (one, two) = (["192.0.2.1".to_string()], ["192.0.2.1".to_string(), "192.0.2.2".to_string()]);
        for make in [endpoints, slice] {
            let mut current = make(&one, 6443);
            current.set(&["metadata", "uid"], "u");
            assert_eq!(corrected(&current, &make(&one, 6443)), None);
            let next = corrected(&current, &make(&two, 6443)).unwrap();
            assert_eq!((next.str_at(&["metadata", "uid"]), corrected(&next, &make(&two, 6443))), ("u", None));
            assert!(corrected(&current, &make(&one, 7443)).is_some());
        }
    }
}
