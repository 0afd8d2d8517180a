//! The name servers of a resolv.conf(5). Pure.

use std::net::{IpAddr, SocketAddr};

const DNS_PORT: u16 = 53;

/// The upstream resolvers that `text` names, in order, without those in `own`: asking itself, a server would never answer.
pub fn upstreams(text: &str, own: &[IpAddr]) -> Vec<SocketAddr> {
    let addresses = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        if words.next()? != "nameserver" {
            return None;
        }
        // An address may carry a scope (fe80::1%eth0), which std does not parse.
        words.next()?.split('%').next()?.parse::<IpAddr>().ok()
    });
    addresses.filter(|ip| !own.contains(ip)).map(|ip| SocketAddr::new(ip, DNS_PORT)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_in_order_without_ourselves() {
        let text =
            "# comment\nsearch a b\nnameserver 10.96.0.10\nnameserver 1.1.1.1 # x\n nameserver ::1\nnameserver nonsense\noptions ndots:5\n";
        let found = upstreams(text, &["10.96.0.10".parse().unwrap()]);
        assert_eq!(found, ["1.1.1.1:53".parse().unwrap(), "[::1]:53".parse().unwrap()]);
        assert!(upstreams("", &[]).is_empty());
    }
}
