//! What servers behind the aggregator need to know to believe it: the ConfigMap `kube-system/extension-apiserver-authentication`. Pure; see
//! upstream's cluster_authentication_trust controller.

use fram_machinery::{Map, Value, json};

use super::Cluster;
use crate::pki::FRONT_PROXY;

pub(super) const NAMESPACE: &str = "kube-system";
pub(super) const NAME: &str = "extension-apiserver-authentication";

/// Names of lists, and what this server adds to them.
const LISTS: [(&str, &str); 5] = [
    ("requestheader-allowed-names", FRONT_PROXY),
    ("requestheader-username-headers", "X-Remote-User"),
    ("requestheader-uid-headers", "X-Remote-Uid"),
    ("requestheader-group-headers", "X-Remote-Group"),
    ("requestheader-extra-headers-prefix", "X-Remote-Extra-"),
];

/// The data that the ConfigMap should have. Other servers of the cluster may have put theirs in: it stays.
pub(super) fn data(current: Option<&Value>, cluster: &Cluster) -> Value {
    let before = |key: &str| current.map_or("", |c| c.str_at(&["data", key]));
    let mut data = Map::new();
    for (key, own) in [("client-ca-file", &cluster.ca_pem), ("requestheader-client-ca-file", &cluster.front_proxy_ca_pem)] {
        data.insert(key, with_certificate(before(key), own));
    }
    for (key, own) in LISTS {
        let mut list = json::from_slice(before(key).as_bytes()).ok().and_then(|l| l.as_list().map(|l| l.to_vec())).unwrap_or_default();
        if !list.iter().any(|item| item.as_str() == Some(own)) {
            list.push(own.into());
        }
        data.insert(key, json::to_string(&Value::from(list)));
    }
    data.into()
}

fn with_certificate(bundle: &str, own: &str) -> String {
    if bundle.contains(own.trim()) {
        return bundle.to_string();
    }
    let joint = if bundle.is_empty() || bundle.ends_with('\n') { "" } else { "\n" };
    format!("{bundle}{joint}{own}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    #[test]
    fn what_others_put_in_stays() {
        let cluster = Cluster {
            ca_pem: "CA\n".into(),
            front_proxy_ca_pem: "FRONT\n".into(),
            address: [192, 0, 2, 1].into(),
            port: 6443,
            cluster_domain: "cluster.local".into(),
            shared: false,
        };
        let first = data(None, &cluster);
        assert_eq!((first.str_at(&["client-ca-file"]), first.str_at(&["requestheader-client-ca-file"])), ("CA\n", "FRONT\n"));
        assert_eq!(first.str_at(&["requestheader-allowed-names"]), r#"["front-proxy-client"]"#);
        assert_eq!(first.str_at(&["requestheader-extra-headers-prefix"]), r#"["X-Remote-Extra-"]"#);
        let map = object!({ "data": (first.clone()) });
        assert_eq!(data(Some(&map), &cluster), first);
        let other = object!({ "data": { "client-ca-file": "OTHER", "requestheader-allowed-names": "[\"aggregator\"]" } });
        let both = data(Some(&other), &cluster);
        assert_eq!(both.str_at(&["client-ca-file"]), "OTHER\nCA\n");
        assert_eq!(both.str_at(&["requestheader-allowed-names"]), r#"["aggregator","front-proxy-client"]"#);
    }
}
