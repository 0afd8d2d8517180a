//! From a query and the zone to an answer, or to the decision that others must be asked. Pure.

use std::io;
use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use crate::zone::{Found, Node, Zone};

/// What passes every path without fragmentation (DNS flag day 2020).
pub(crate) const MAX_UDP: u16 = 1232;
const MIN_UDP: u16 = 512;
/// SOA timers that nobody uses: there are no secondaries.
const REFRESH: i32 = 7200;
const RETRY: i32 = 1800;
const EXPIRE: i32 = 86_400;

#[derive(Debug)]
pub(crate) enum Outcome {
    Reply(Message),
    /// The name is not ours. What to say if nobody can be asked.
    Forward {
        without_upstream: ResponseCode,
    },
    /// An alias: this answer wants the target's records appended.
    Chase {
        reply: Message,
        target: Name,
    },
}

/// A header, and what a question and a record take at least.
const HEADER: usize = 12;
const QUESTION: usize = 5;
const RECORD: usize = 11;

/// Reads a message. One that claims more records than it has bytes for is refused before room is made for them.
pub(crate) fn read(bytes: &[u8]) -> io::Result<Message> {
    let count = |at: usize| bytes.get(at..at + 2).map_or(0, |b| usize::from(u16::from_be_bytes([b[0], b[1]])));
    let least = HEADER + count(4) * QUESTION + (count(6) + count(8) + count(10)) * RECORD;
    if least > bytes.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message claims more records than it has bytes for"));
    }
    Message::from_vec(bytes).map_err(io::Error::other)
}

/// Decides on a query.
pub(crate) fn answer(zone: &Zone, query: &Message) -> Outcome {
    let mut reply = reply_to(query);
    let refuse = |mut reply: Message, code| {
        reply.metadata.response_code = code;
        Outcome::Reply(reply)
    };
    if query.metadata.message_type != MessageType::Query || query.metadata.op_code != OpCode::Query {
        return refuse(reply, ResponseCode::NotImp);
    }
    let [question] = query.queries.as_slice() else { return refuse(reply, ResponseCode::FormErr) };
    // RFC 6891, 6.1.3
    if query.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return refuse(reply, ResponseCode::BADVERS);
    }
    if question.query_class() != DNSClass::IN {
        return refuse(reply, ResponseCode::Refused);
    }
    let rotation = usize::from(query.metadata.id);
    match zone.find(question.name()) {
        Found::Elsewhere => reverse(zone, question, reply),
        Found::Nothing => {
            reply.metadata.response_code = ResponseCode::NXDomain;
            Outcome::Reply(negative(zone, reply))
        }
        Found::Pod(ip) => {
            reply.add_answers(address(zone, question, question.name(), ip));
            Outcome::Reply(finish(zone, reply))
        }
        Found::Node(node) => of_node(zone, question, node, reply, rotation),
    }
}

/// An empty answer: same ID and question, EDNS if asked with it.
pub(crate) fn reply_to(query: &Message) -> Message {
    let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
    reply.metadata = Metadata::response_from_request(&query.metadata);
    reply.metadata.recursion_available = true;
    reply.add_queries(query.queries.iter().cloned());
    if query.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_UDP).set_version(0);
        reply.set_edns(edns);
    }
    reply
}

pub(crate) fn failure(query: &Message, code: ResponseCode) -> Message {
    let mut reply = reply_to(query);
    reply.metadata.response_code = code;
    reply
}

/// Ours, with the SOA if there is nothing to say (RFC 2308).
fn finish(zone: &Zone, reply: Message) -> Message {
    if reply.answers.is_empty() { negative(zone, reply) } else { authoritative(reply) }
}

fn authoritative(mut reply: Message) -> Message {
    reply.metadata.authoritative = true;
    reply
}

fn negative(zone: &Zone, mut reply: Message) -> Message {
    reply.add_authority(soa(zone));
    authoritative(reply)
}

fn below(zone: &Zone, labels: &str) -> Name {
    let prefix = Name::from_ascii(labels).unwrap_or_else(|_| Name::root());
    prefix.append_domain(&zone.origin).unwrap_or_else(|_| zone.origin.clone())
}

fn soa(zone: &Zone) -> Record {
    let ttl = zone.config.ttl;
    let (server, mail) = (below(zone, "ns.dns"), below(zone, "hostmaster"));
    let data = SOA::new(server, mail, 1, REFRESH, RETRY, EXPIRE, ttl);
    Record::from_rdata(zone.origin.clone(), ttl, RData::SOA(data))
}

/// The record of an address, if the question wants its family.
fn address(zone: &Zone, question: &Query, name: &Name, ip: IpAddr) -> Option<Record> {
    let data = match (question.query_type(), ip) {
        (RecordType::A, IpAddr::V4(v4)) => RData::A(A(v4)),
        (RecordType::AAAA, IpAddr::V6(v6)) => RData::AAAA(AAAA(v6)),
        _ => return None,
    };
    Some(Record::from_rdata(name.clone(), zone.config.ttl, data))
}

fn of_node(zone: &Zone, question: &Query, node: &Node, mut reply: Message, rotation: usize) -> Outcome {
    let (name, ttl) = (question.name(), zone.config.ttl);
    let record = |data| Record::from_rdata(name.clone(), ttl, data);
    if let Some(target) = &node.cname {
        reply.add_answer(record(RData::CNAME(CNAME(target.clone()))));
        let wants_target = !matches!(question.query_type(), RecordType::CNAME | RecordType::ANY);
        let reply = authoritative(reply);
        return if wants_target { Outcome::Chase { reply, target: target.clone() } } else { Outcome::Reply(reply) };
    }
    let is_apex = *name == zone.origin;
    match question.query_type() {
        RecordType::A | RecordType::AAAA => {
            let mut records: Vec<_> = node.addresses.iter().filter_map(|ip| address(zone, question, name, *ip)).collect();
            rotate(&mut records, rotation);
            reply.add_answers(records);
        }
        RecordType::SRV => {
            let weight = u16::try_from(100 / node.srv.len().max(1)).unwrap_or(1).max(1);
            let mut records: Vec<_> =
                node.srv.iter().map(|srv| record(RData::SRV(SRV::new(0, weight, srv.port, srv.target.clone())))).collect();
            rotate(&mut records, rotation);
            reply.add_answers(records);
            reply.add_additionals(node.srv.iter().flat_map(|srv| glue(zone, &srv.target)));
        }
        RecordType::TXT => {
            reply.add_answers(node.txt.map(|text| record(RData::TXT(TXT::new(vec![text.to_owned()])))));
        }
        RecordType::SOA if is_apex => {
            reply.add_answer(soa(zone));
        }
        RecordType::NS if is_apex => {
            reply.add_answer(record(RData::NS(NS(below(zone, "ns.dns")))));
        }
        _ => {}
    }
    Outcome::Reply(finish(zone, reply))
}

/// The addresses of an SRV target.
fn glue(zone: &Zone, target: &Name) -> Vec<Record> {
    let data = |ip| match ip {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    };
    zone.addresses(target).map(|ip| Record::from_rdata(target.clone(), zone.config.ttl, data(ip))).collect()
}

/// Clients take the first address; each shall see another one first.
fn rotate<T>(records: &mut [T], by: usize) {
    if !records.is_empty() {
        records.rotate_left(by % records.len());
    }
}

/// Reverse names of what the cluster knows; others may belong to somebody else.
fn reverse(zone: &Zone, question: &Query, mut reply: Message) -> Outcome {
    let is_reverse = ["in-addr.arpa.", "ip6.arpa."].iter().any(|z| Name::from_ascii(z).is_ok_and(|zone| zone.zone_of(question.name())));
    if !is_reverse {
        return Outcome::Forward { without_upstream: ResponseCode::ServFail };
    }
    if question.query_type() == RecordType::PTR
        && let Ok(network) = question.name().parse_arpa_name()
        && network.prefix_len() == network.max_prefix_len()
    {
        let record = |target: &Name| Record::from_rdata(question.name().clone(), zone.config.ttl, RData::PTR(PTR(target.clone())));
        reply.add_answers(zone.names_of(network.addr()).map(record));
    }
    if reply.answers.is_empty() {
        Outcome::Forward { without_upstream: ResponseCode::NXDomain }
    } else {
        Outcome::Reply(authoritative(reply))
    }
}

/// The answer's bytes, within what the client takes over UDP: as many records as fit, marked as truncated (RFC 2181, 9).
pub(crate) fn encode_udp(query: &Message, mut reply: Message) -> Option<Vec<u8>> {
    let limit = query.edns.as_ref().map_or(MIN_UDP, |edns| edns.max_payload().clamp(MIN_UDP, MAX_UDP));
    let mut bytes = reply.to_vec().ok()?;
    while bytes.len() > usize::from(limit) {
        if !reply.additionals.is_empty() {
            // Additional records are a courtesy; their lack is no truncation.
            reply.additionals.clear();
        } else if reply.answers.is_empty() && reply.authorities.is_empty() {
            return None;
        } else {
            reply.metadata.truncation = true;
            reply.authorities.clear();
            reply.answers.truncate(reply.answers.len() / 2);
        }
        bytes = reply.to_vec().ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests;
