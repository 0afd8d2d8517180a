//! Fuzz targets: messages of anybody who reaches the server, and the file that names its upstreams.

use fram_fuzz::{Pieces, Target};

use crate::answer::{self, Outcome};
use crate::zone::{Service, ServiceKind, Zone, ZoneConfig};

/// Every message that can be read has an answer that can be written, and fits where it is sent.
fn message(input: &[u8]) {
    let Ok(query) = answer::read(input) else { return };
    let service = |name: &str, kind| Service { namespace: "ns".into(), name: name.into(), kind, ports: Vec::new() };
    let cluster = ServiceKind::ClusterIp("10.96.0.10".parse().into_iter().collect());
    let services = [service("web", cluster), service("out", ServiceKind::ExternalName("example.com".into()))];
    let zone = Zone::new(ZoneConfig::default(), &services, &[]);
    let reply = match answer::answer(&zone, &query) {
        Outcome::Reply(reply) | Outcome::Chase { reply, .. } => reply,
        Outcome::Forward { without_upstream } => answer::failure(&query, without_upstream),
    };
    assert_eq!(reply.metadata.id, query.metadata.id);
    if let Some(bytes) = answer::encode_udp(&query, reply) {
        assert!(bytes.len() <= 4096, "{} bytes", bytes.len());
    }
}

fn resolv_conf(input: &[u8]) {
    crate::upstreams(Pieces::of(input).text(), &[]);
}

#[test]
fn the_kept_inputs_hold() {
    let target = |name, run, seeds| Target { name, seeds, memory: 2000, run };
    let queries: &[&[u8]] = &[
        b"\x12\x34\x01\0\0\x01\0\0\0\0\0\x01\x03web\x02ns\x03svc\x07cluster\x05local\0\0\x01\0\x01\0\0\x29\x04\xd0\0\0\0\0\0\0",
        b"\0\x01\0\0\0\x01\0\0\0\0\0\0\x0210\x010\x0296\x0210\x07in-addr\x04arpa\0\0\x0c\0\x01",
        b"\0\x02\x81\x80\0\x01\0\x01\0\0\0\0\x01a\0\0\x05\0\x01\xc0\x0c\0\x05\0\x01\0\0\0\x05\0\x04\x01b\xc0\x0c",
    ];
    let files: &[&[u8]] = &[b"nameserver 1.1.1.1\nnameserver fe80::1%eth0\nsearch a b\noptions ndots:5\n# c\n"];
    fram_fuzz::check(env!("CARGO_MANIFEST_DIR"), &[target("message", message, queries), target("resolv_conf", resolv_conf, files)]);
}
