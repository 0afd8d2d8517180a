//! Name resolution of pods by their DNS policy. Pure; see upstream's pkg/kubelet/network/dns.

use fram_cri::DnsConfig;
use fram_machinery::{Value, meta};

use crate::config::KubeletConfig;
use crate::pod;

const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;

/// What a resolv.conf says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvConf {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

impl ResolvConf {
    /// Reads the text of a resolv.conf; what is not understood is passed over, as resolvers do.
    pub fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines().map(str::trim).filter(|l| !l.starts_with(['#', ';'])) {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => conf.servers.extend(words.next().map(String::from)),
                Some("search") => conf.searches = words.map(|w| if w == "." { w } else { w.trim_end_matches('.') }.to_string()).collect(),
                Some("options") => conf.options.extend(words.map(String::from)),
                _ => {}
            }
        }
        conf
    }
}

/// The pod's resolver. With `ClusterFirst` and no cluster DNS the node's own is used, as upstream falls back.
pub fn config(pod: &Value, config: &KubeletConfig, host: &ResolvConf) -> DnsConfig {
    let policy = match pod.str_at(&["spec", "dnsPolicy"]) {
        "ClusterFirst" | "" if pod::is_host_network(pod) => "Default",
        "ClusterFirst" | "" | "ClusterFirstWithHostNet" if config.cluster_dns.is_empty() => "Default",
        "" | "ClusterFirst" | "ClusterFirstWithHostNet" => "ClusterFirst",
        other => other,
    };
    let mut dns = match policy {
        "None" => DnsConfig::default(),
        "ClusterFirst" => {
            let (namespace, domain) = (meta::namespace(pod), &config.cluster_domain);
            let own = [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
            DnsConfig {
                servers: config.cluster_dns.iter().map(ToString::to_string).collect(),
                searches: own.into_iter().chain(host.searches.iter().cloned()).collect(),
                options: vec!["ndots:5".into()],
            }
        }
        _ => DnsConfig { servers: host.servers.clone(), searches: host.searches.clone(), options: host.options.clone() },
    };
    if let Some(own) = pod.at(&["spec", "dnsConfig"]) {
        append(&mut dns, own);
    }
    limit(&mut dns);
    dns
}

/// Adds what the pod's own dnsConfig says; an option of the same name replaces the earlier one.
fn append(dns: &mut DnsConfig, own: &Value) {
    let texts = |key: &str| own.list_at(&[key]).iter().filter_map(Value::as_str).map(String::from).collect::<Vec<_>>();
    dns.servers.extend(texts("nameservers"));
    dns.searches.extend(texts("searches"));
    for option in own.list_at(&["options"]) {
        let name = option.str_at(&["name"]);
        let text = match option.get("value").and_then(Value::as_str) {
            Some(value) => format!("{name}:{value}"),
            None => name.to_string(),
        };
        match dns.options.iter_mut().find(|o| o.split(':').next() == Some(name)) {
            Some(known) => *known = text,
            None => dns.options.push(text),
        }
    }
}

fn limit(dns: &mut DnsConfig) {
    for list in [&mut dns.servers, &mut dns.searches] {
        let mut seen = std::collections::HashSet::new();
        list.retain(|entry| seen.insert(entry.clone()));
    }
    dns.servers.truncate(MAX_SERVERS);
    dns.searches.truncate(MAX_SEARCHES);
    let mut chars = 0;
    dns.searches.retain(|search| {
        chars += search.len() + 1;
        chars - 1 <= MAX_SEARCH_CHARS
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    fn resolv_conf(dns: &DnsConfig) -> String {
        let mut out = String::new();
        if !dns.searches.is_empty() {
            out.push_str(&format!("search {}\n", dns.searches.join(" ")));
        }
        for server in &dns.servers {
            out.push_str(&format!("nameserver {server}\n"));
        }
        if !dns.options.is_empty() {
            out.push_str(&format!("options {}\n", dns.options.join(" ")));
        }
        out
    }

    #[track_caller]
    fn check(spec: Value, expect: &str) {
        let mut kubelet = KubeletConfig::new("n", Vec::new(), "/r".into(), "/l".into());
        kubelet.cluster_dns = vec!["10.96.0.10".parse().unwrap()];
        let host = ResolvConf::parse("# no\nnameserver 192.0.2.53\nsearch corp.example.\noptions rotate\n");
        let pod = object!({ "metadata": { "namespace": "ns" }, "spec": spec });
        assert_eq!(resolv_conf(&config(&pod, &kubelet, &host)).replace('\n', "; "), expect);
    }

    #[test]
    fn each_policy_has_its_servers_and_search_path() {
        let cluster = "search ns.svc.cluster.local svc.cluster.local cluster.local corp.example; nameserver 10.96.0.10; options ndots:5; ";
        let node = "search corp.example; nameserver 192.0.2.53; options rotate; ";
        check(object!({}), cluster);
        check(object!({ "dnsPolicy": "ClusterFirst", "hostNetwork": true }), node);
        check(object!({ "dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true }), cluster);
        check(object!({ "dnsPolicy": "Default" }), node);
    }

    #[test]
    fn a_pod_adds_servers_searches_and_options_of_its_own() {
        let own = object!({ "nameservers": ["192.0.2.9"], "searches": ["my.example"], "options": [{ "name": "ndots", "value": "2" }, { "name": "edns0" }] });
        check(object!({ "dnsPolicy": "None", "dnsConfig": (own.clone()) }), "search my.example; nameserver 192.0.2.9; options ndots:2 edns0; ");
        let both = "search ns.svc.cluster.local svc.cluster.local cluster.local corp.example my.example; nameserver 10.96.0.10; nameserver 192.0.2.9; options ndots:2 edns0; ";
        check(object!({ "dnsConfig": own }), both);
    }
}
