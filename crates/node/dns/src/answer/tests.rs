//! Table tests of answers, after the examples of the Kubernetes DNS specification 1.1.0.

use super::*;
use crate::zone::{Endpoint, EndpointSlice, Port, Protocol, Service, ServiceKind, ZoneConfig};

fn zone() -> Zone {
    let port = |name: &str, protocol, port| Port { name: name.into(), protocol, port };
    let service = |name: &str, kind, ports| Service { namespace: "ns".into(), name: name.into(), kind, ports };
    let web = vec![port("http", Protocol::Tcp, 80), port("", Protocol::Tcp, 81), port("dns", Protocol::Udp, 53)];
    let endpoint = |ip: &str, hostname: Option<&str>, ready| Endpoint {
        addresses: vec![ip.parse().unwrap()],
        hostname: hostname.map(Into::into),
        ready,
    };
    let services = [
        service("web", ServiceKind::ClusterIp(vec!["10.96.0.10".parse().unwrap(), "fd00::10".parse().unwrap()]), web),
        service("db", ServiceKind::Headless, vec![]),
        service("empty", ServiceKind::Headless, vec![]),
        service("out", ServiceKind::ExternalName("example.com".into()), vec![]),
        service("alias", ServiceKind::ExternalName("web.ns.svc.cluster.local".into()), vec![]),
    ];
    let slices = [
        EndpointSlice {
            namespace: "ns".into(),
            service: "db".into(),
            ports: vec![port("sql", Protocol::Tcp, 5432)],
            endpoints: vec![
                endpoint("10.244.0.1", Some("db-0"), true),
                endpoint("10.244.0.2", None, true),
                endpoint("10.244.0.3", Some("db-2"), false),
            ],
        },
        EndpointSlice {
            namespace: "ns".into(),
            service: "empty".into(),
            ports: vec![],
            endpoints: vec![endpoint("10.244.0.9", None, false)],
        },
    ];
    let config = ZoneConfig { dns_ips: vec!["10.96.0.2".parse().unwrap()], ..Default::default() };
    Zone::new(config, &services, &slices)
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut query = Message::new(0, MessageType::Query, OpCode::Query);
    query.add_query(Query::query(Name::from_ascii(format!("{name}.")).unwrap(), kind));
    query
}

/// The answer in short: code, records, then whether there is an SOA.
fn ask(name: &str, kind: RecordType) -> String {
    let (reply, rest) = match answer(&zone(), &query(name, kind)) {
        Outcome::Reply(reply) => (reply, String::new()),
        Outcome::Chase { reply, target } => (reply, format!(" then {target}")),
        Outcome::Forward { without_upstream } => return format!("forward or {without_upstream:?}"),
    };
    assert!(reply.metadata.authoritative && reply.metadata.recursion_available);
    let records: Vec<_> = reply.answers.iter().map(|r| format!("{} {}", r.record_type(), r.data)).collect();
    let soa = if reply.authorities.iter().any(|r| r.record_type() == RecordType::SOA) { " soa" } else { "" };
    format!("{:?} [{}]{soa}{rest}", reply.metadata.response_code, records.join(", "))
}

#[test]
fn the_records_of_the_specification_are_there() {
    use RecordType as T;
    for (name, kind, expect) in [
        ("dns-version.cluster.local", T::TXT, "NoError [TXT 1.1.0]"),
        ("web.ns.svc.cluster.local", T::A, "NoError [A 10.96.0.10]"),
        ("WEB.ns.svc.cluster.LOCAL", T::A, "NoError [A 10.96.0.10]"),
        ("web.ns.svc.cluster.local", T::AAAA, "NoError [AAAA fd00::10]"),
        ("_http._tcp.web.ns.svc.cluster.local", T::SRV, "NoError [SRV 0 100 80 web.ns.svc.cluster.local.]"),
        ("_dns._udp.web.ns.svc.cluster.local", T::SRV, "NoError [SRV 0 100 53 web.ns.svc.cluster.local.]"),
        ("_http._udp.web.ns.svc.cluster.local", T::SRV, "NXDomain [] soa"),
        ("db.ns.svc.cluster.local", T::A, "NoError [A 10.244.0.1, A 10.244.0.2]"),
        ("db-0.db.ns.svc.cluster.local", T::A, "NoError [A 10.244.0.1]"),
        ("10-244-0-2.db.ns.svc.cluster.local", T::A, "NoError [A 10.244.0.2]"),
        ("db-2.db.ns.svc.cluster.local", T::A, "NXDomain [] soa"),
        (
            "_sql._tcp.db.ns.svc.cluster.local",
            T::SRV,
            "NoError [SRV 0 50 5432 10-244-0-2.db.ns.svc.cluster.local., SRV 0 50 5432 db-0.db.ns.svc.cluster.local.]",
        ),
        ("empty.ns.svc.cluster.local", T::A, "NXDomain [] soa"),
        ("out.ns.svc.cluster.local", T::CNAME, "NoError [CNAME example.com.]"),
        ("out.ns.svc.cluster.local", T::A, "NoError [CNAME example.com.] then example.com."),
        ("10-244-0-7.ns.pod.cluster.local", T::A, "NoError [A 10.244.0.7]"),
        ("10-244-0-7.ns.pod.cluster.local", T::AAAA, "NoError [] soa"),
        ("10.0.96.10.in-addr.arpa", T::PTR, "NoError [PTR web.ns.svc.cluster.local.]"),
        ("11.0.96.10.in-addr.arpa", T::PTR, "forward or NXDomain"),
        ("10.0.96.10.in-addr.arpa.cluster.local", T::PTR, "NXDomain [] soa"),
        ("1.0.244.10.in-addr.arpa", T::PTR, "NoError [PTR db-0.db.ns.svc.cluster.local.]"),
        ("2.0.244.10.in-addr.arpa", T::PTR, "NoError [PTR 10-244-0-2.db.ns.svc.cluster.local.]"),
        ("cluster.local", T::NS, "NoError [NS ns.dns.cluster.local.]"),
        ("ns.dns.cluster.local", T::A, "NoError [A 10.96.0.2]"),
        ("web.ns.svc.cluster.local", T::MX, "NoError [] soa"),
        ("ns.svc.cluster.local", T::A, "NoError [] soa"),
        ("nothing.ns.svc.cluster.local", T::A, "NXDomain [] soa"),
        ("google.com.ns.svc.cluster.local", T::A, "NXDomain [] soa"),
        ("google.com", T::A, "forward or ServFail"),
        ("", T::NS, "forward or ServFail"),
    ] {
        assert_eq!(ask(name, kind), expect, "{name} {kind}");
    }
}

#[test]
fn what_is_no_plain_question_is_refused_with_the_right_code() {
    let code = |query: &Message| match answer(&zone(), query) {
        Outcome::Reply(reply) => reply.metadata.response_code,
        other => panic!("{other:?}"),
    };
    let good = query("web.ns.svc.cluster.local", RecordType::A);
    let mut chaos = good.clone();
    chaos.queries[0].set_query_class(DNSClass::CH);
    let mut update = good.clone();
    update.metadata.op_code = OpCode::Update;
    let mut two = good.clone();
    two.add_query(good.queries[0].clone());
    let mut none = good.clone();
    none.queries.clear();
    let mut future = good.clone();
    future.set_edns(Edns::new().set_version(1).clone());
    for (query, expect) in [
        (chaos, ResponseCode::Refused),
        (update, ResponseCode::NotImp),
        (two, ResponseCode::FormErr),
        (none, ResponseCode::FormErr),
        (future, ResponseCode::BADVERS),
    ] {
        assert_eq!(code(&query), expect);
    }
}

#[test]
fn an_srv_answer_brings_its_targets_addresses() {
    let Outcome::Reply(reply) = answer(&zone(), &query("_sql._tcp.db.ns.svc.cluster.local", RecordType::SRV)) else { panic!() };
    let glue: Vec<_> = reply.additionals.iter().map(|r| r.data.to_string()).collect();
    assert_eq!(glue, ["10.244.0.2", "10.244.0.1"]);
}

#[test]
fn answers_that_do_not_fit_are_cut_and_marked_within_what_the_client_takes() {
    let addresses = (0..200).map(|n| [10, 244, 1, n].into()).collect();
    let many = Service { namespace: "ns".into(), name: "many".into(), kind: ServiceKind::ClusterIp(addresses), ports: vec![] };
    let zone = Zone::new(ZoneConfig::default(), &[many], &[]);
    for (payload, limit) in [(None, 512), (Some(100), 512), (Some(1232), 1232), (Some(65_000), 1232)] {
        let mut query = query("many.ns.svc.cluster.local", RecordType::A);
        if let Some(payload) = payload {
            query.set_edns(Edns::new().set_max_payload(payload).clone());
        }
        let Outcome::Reply(reply) = answer(&zone, &query) else { panic!() };
        let bytes = encode_udp(&query, reply).unwrap();
        let cut = Message::from_vec(&bytes).unwrap();
        assert!(bytes.len() <= limit && cut.metadata.truncation && cut.answers.len() > 10, "{} bytes", bytes.len());
        assert_eq!(cut.edns.is_some(), payload.is_some());
    }
}

#[test]
fn each_client_sees_another_address_first() {
    let first = |id| {
        let mut query = query("db.ns.svc.cluster.local", RecordType::A);
        query.metadata.id = id;
        match answer(&zone(), &query) {
            Outcome::Reply(reply) => reply.answers[0].data.to_string(),
            other => panic!("{other:?}"),
        }
    };
    assert_ne!(first(1), first(2));
}
