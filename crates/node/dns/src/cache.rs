//! Answers of upstream resolvers, kept for their time to live and never beyond a bound. Pure: the time is handed in.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{RData, RecordType};

const CAPACITY: usize = 10_000;
const MAX_POSITIVE: u32 = 3600;
/// As long as kubeadm's CoreDNS keeps failures to exist.
const MAX_NEGATIVE: u32 = 30;

struct Entry {
    message: Message,
    stored: Instant,
    lifetime: Duration,
}

/// By question, in lower case, and whether DNSSEC records were wanted.
#[derive(Default)]
pub(crate) struct Cache {
    entries: HashMap<(Query, bool), Entry>,
}

fn key(query: &Query, dnssec: bool) -> (Query, bool) {
    let mut query = query.clone();
    let name = query.name().to_lowercase();
    query.set_name(name);
    (query, dnssec)
}

impl Cache {
    /// A kept answer with what is left of its time.
    pub(crate) fn get(&self, query: &Query, dnssec: bool, now: Instant) -> Option<Message> {
        let entry = self.entries.get(&key(query, dnssec))?;
        let age = now.saturating_duration_since(entry.stored);
        if age >= entry.lifetime {
            return None;
        }
        let mut message = entry.message.clone();
        let age = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
        for record in message.answers.iter_mut().chain(&mut message.authorities).chain(&mut message.additionals) {
            record.decrement_ttl(age);
        }
        Some(message)
    }

    pub(crate) fn put(&mut self, query: &Query, dnssec: bool, message: Message, now: Instant) {
        let Some(seconds) = lifetime(&message).filter(|s| *s > 0) else { return };
        if self.entries.len() >= CAPACITY {
            self.entries.retain(|_, entry| now.saturating_duration_since(entry.stored) < entry.lifetime);
        }
        if self.entries.len() >= CAPACITY {
            // All are still good; which half goes is as good as random.
            let mut keep = false;
            self.entries.retain(|_, _| {
                keep = !keep;
                keep
            });
        }
        let lifetime = Duration::from_secs(u64::from(seconds));
        self.entries.insert(key(query, dnssec), Entry { message, stored: now, lifetime });
    }
}

/// How many seconds an answer may be kept; `None` if it must not.
fn lifetime(message: &Message) -> Option<u32> {
    if message.metadata.truncation {
        return None;
    }
    match message.metadata.response_code {
        ResponseCode::NoError if !message.answers.is_empty() => {
            message.answers.iter().map(|record| record.ttl).min().map(|ttl| ttl.min(MAX_POSITIVE))
        }
        // RFC 2308, 5: as long as the SOA says, and not at all without one.
        ResponseCode::NoError | ResponseCode::NXDomain => {
            let soa = message.authorities.iter().find(|record| record.record_type() == RecordType::SOA)?;
            let minimum = match &soa.data {
                RData::SOA(data) => data.minimum,
                _ => 0,
            };
            Some(soa.ttl.min(minimum).min(MAX_NEGATIVE))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::OpCode;
    use hickory_proto::rr::rdata::{A, SOA};
    use hickory_proto::rr::{Name, Record};

    fn question(name: &str) -> Query {
        Query::query(Name::from_ascii(name).unwrap(), RecordType::A)
    }

    fn positive(ttl: u32) -> Message {
        let mut message = Message::response(1, OpCode::Query);
        message.add_answer(Record::from_rdata(Name::from_ascii("a.").unwrap(), ttl, RData::A(A::new(1, 2, 3, 4))));
        message
    }

    fn negative(code: ResponseCode, ttl: u32, minimum: u32) -> Message {
        let mut message = Message::response(1, OpCode::Query);
        message.metadata.response_code = code;
        let soa = SOA::new(Name::root(), Name::root(), 1, 1, 1, 1, minimum);
        message.add_authority(Record::from_rdata(Name::root(), ttl, RData::SOA(soa)));
        message
    }

    #[test]
    fn answers_are_kept_for_their_time_and_count_it_down() {
        let (mut cache, start) = (Cache::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        cache.put(&question("A.example."), false, positive(60), start);
        let kept = cache.get(&question("a.EXAMPLE."), false, after(20)).unwrap();
        assert_eq!(kept.answers[0].ttl, 40);
        assert!(cache.get(&question("a.example."), true, after(20)).is_none());
        assert!(cache.get(&question("a.example."), false, after(60)).is_none());
    }

    #[test]
    fn what_may_be_kept_follows_from_the_answer() {
        let mut truncated = positive(60);
        truncated.metadata.truncation = true;
        for (message, expect) in [
            (positive(60), Some(60)),
            (positive(1_000_000), Some(3600)),
            (positive(0), Some(0)),
            (negative(ResponseCode::NXDomain, 100, 10), Some(10)),
            (negative(ResponseCode::NoError, 5, 10), Some(5)),
            (negative(ResponseCode::NXDomain, 900, 900), Some(30)),
            (negative(ResponseCode::ServFail, 100, 100), None),
            (Message::response(1, OpCode::Query), None),
            (truncated, None),
        ] {
            assert_eq!(lifetime(&message), expect, "{message}");
        }
    }

    #[test]
    fn the_cache_stays_within_its_bound() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        for n in 0..CAPACITY + 10 {
            cache.put(&question(&format!("n{n}.")), false, positive(60), now);
        }
        assert!(cache.entries.len() <= CAPACITY);
    }
}
