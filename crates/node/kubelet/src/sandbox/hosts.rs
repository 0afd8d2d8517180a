//! The /etc/hosts that the kubelet keeps for a pod. Pure; see kubelet_pods.go's managedHostsFileContent.

use fram_machinery::Value;

use crate::pod;

/// The file's text. `host_file` is the node's own, on which pods in the node's network build.
pub fn content(pod: &Value, pod_ips: &[String], hostname: &str, domain: &str, host_file: &str) -> String {
    let mut out = String::new();
    if pod::is_host_network(pod) {
        out.push_str("# Kubernetes-managed hosts file (host network).\n");
        out.push_str(host_file);
    } else {
        out.push_str("# Kubernetes-managed hosts file.\n");
        out.push_str("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
        out.push_str("fe00::\tip6-localnet\nfe00::\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n");
        for ip in pod_ips {
            match domain {
                "" => out.push_str(&format!("{ip}\t{hostname}\n")),
                domain => out.push_str(&format!("{ip}\t{hostname}.{domain}\t{hostname}\n")),
            }
        }
    }
    let aliases = pod.list_at(&["spec", "hostAliases"]);
    if !aliases.is_empty() {
        out.push_str("\n# Entries added by HostAliases.\n");
    }
    for alias in aliases {
        let names: Vec<&str> = alias.list_at(&["hostnames"]).iter().filter_map(Value::as_str).collect();
        out.push_str(&format!("{}\t{}\n", alias.str_at(&["ip"]), names.join("\t")));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    #[test]
    fn a_pod_finds_itself_and_its_aliases() {
        let aliases = object!([{ "ip": "192.0.2.5", "hostnames": ["a", "b"] }]);
        let pod = object!({ "spec": { "hostAliases": aliases } });
        let text = content(&pod, &["10.0.0.1".into()], "h", "s.ns.svc.cluster.local", "");
        assert!(text.contains("\n10.0.0.1\th.s.ns.svc.cluster.local\th\n"), "{text}");
        assert!(text.ends_with("\n# Entries added by HostAliases.\n192.0.2.5\ta\tb\n"), "{text}");
    }

    #[test]
    fn a_pod_in_the_nodes_network_sees_the_nodes_file() {
        let text = content(&object!({ "spec": { "hostNetwork": true } }), &[], "h", "", "192.0.2.1\tnode\n");
        assert_eq!(text, "# Kubernetes-managed hosts file (host network).\n192.0.2.1\tnode\n");
    }
}
