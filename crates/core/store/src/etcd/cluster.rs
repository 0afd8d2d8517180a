//! The members of an etcd cluster: which one is asked, and what a failed call means. Reads go on at another member; a write is sent
//! again only when nobody can have seen it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fram_grpc::wire::Writer;
use fram_grpc::{Channel, GrpcError};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::TaskTracker;

use crate::error::StoreError;
use crate::types::Revision;

use super::endpoint::{Endpoint, Tls};
use super::messages::{Range, get, revision_of};

pub(crate) const RANGE: &str = "/etcdserverpb.KV/Range";
pub(crate) const PUT: &str = "/etcdserverpb.KV/Put";
pub(crate) const TXN: &str = "/etcdserverpb.KV/Txn";
pub(crate) const COMPACT: &str = "/etcdserverpb.KV/Compact";
pub(crate) const WATCH: &str = "/etcdserverpb.Watch/Watch";
pub(crate) const LEASE_GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
pub(crate) const STATUS: &str = "/etcdserverpb.Maintenance/Status";

/// How long one member may take to answer before another is asked. A healthy one needs milliseconds; an election takes a second.
const READ_ATTEMPT: Duration = Duration::from_secs(2);
/// How long a write may take: a little longer than etcd itself waits (five seconds and two elections; see EtcdServer's ReqTimeout).
const WRITE_ATTEMPT: Duration = Duration::from_secs(8);
/// Between two rounds of all members.
const PAUSE: Duration = Duration::from_millis(100);

/// What a failed call means.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It was not taken up: it can be sent again, to another member at best.
    Unsent(String),
    /// Whether it was carried out cannot be said.
    Unknown(String),
    /// It was answered with a refusal.
    Refused { code: u32, message: String },
}

/// Statuses by their numbers in google.rpc.Code.
const CANCELLED: u32 = 1;
const UNKNOWN: u32 = 2;
const DEADLINE_EXCEEDED: u32 = 4;
const ABORTED: u32 = 10;
const INTERNAL: u32 = 13;
const UNAVAILABLE: u32 = 14;

/// What etcd says when it has not taken up a request; see rpctypes' ErrGRPCNoLeader, ErrGRPCNotCapable and
/// ErrTooManyRequests. Its client tells errors apart by these texts as well: there is nothing else. A member that says that it is
/// stopped may have proposed the request before.
const NOT_TAKEN: [&str; 4] =
    ["etcdserver: no leader", "etcdserver: not capable", "etcdserver: too many requests", "etcdserver: rpc not supported for learner"];
const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";
const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
const TOO_LARGE: &str = "etcdserver: request is too large";
const LEASE_NOT_FOUND: &str = "etcdserver: requested lease not found";

impl Failure {
    pub(crate) fn of(error: &GrpcError) -> Self {
        match error {
            error if error.is_unsent() => Self::Unsent(error.to_string()),
            GrpcError::Status { message, .. } if NOT_TAKEN.contains(&message.as_str()) => Self::Unsent(message.clone()),
            // A call that was broken off, or failed within, may have been proposed to the cluster before.
            GrpcError::Status { code: CANCELLED | UNKNOWN | DEADLINE_EXCEEDED | ABORTED | INTERNAL | UNAVAILABLE, message } => {
                Self::Unknown(message.clone())
            }
            GrpcError::Status { code, message } => Self::Refused { code: *code, message: message.clone() },
            other => Self::Unknown(other.to_string()),
        }
    }

    pub(crate) fn is_compacted(&self) -> bool {
        matches!(self, Self::Refused { message, .. } if message == COMPACTED)
    }

    pub(crate) fn is_too_large(&self) -> bool {
        matches!(self, Self::Refused { message, .. } if message == TOO_LARGE)
    }

    pub(crate) fn is_lease_gone(&self) -> bool {
        matches!(self, Self::Refused { message, .. } if message == LEASE_NOT_FOUND)
    }

    fn is_elsewhere_worth_a_try(&self) -> bool {
        !matches!(self, Self::Refused { .. })
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unsent(reason) => Self::Unavailable { reason },
            Failure::Unknown(reason) => Self::OutcomeUnknown { reason },
            Failure::Refused { message, .. } if message == NO_SPACE => Self::NoSpace,
            Failure::Refused { code, message } => Self::Refused { code, message },
        }
    }
}

/// A message that cannot be read is a server that cannot be trusted with the call.
pub(crate) fn malformed(_: fram_grpc::wire::Malformed) -> StoreError {
    StoreError::Unavailable { reason: "its answer is malformed".into() }
}

struct Member {
    endpoint: Endpoint,
    channel: Mutex<Option<Channel>>,
}

/// The members, and which of them is asked at present.
pub(crate) struct Cluster {
    members: Vec<Member>,
    preferred: AtomicUsize,
    /// How long they are asked in turn.
    pub(crate) patience: Duration,
    tasks: TaskTracker,
    /// By how much the store's revisions are ahead of etcd's own.
    shift: OnceLock<Shift>,
}

/// What was copied into an etcd came from a store that was further on: its revisions go on from there, while etcd's own begin anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shift(pub(crate) u64);

/// No key of etcd's was ever put then.
const NEVER: u64 = i64::MAX as u64;

impl Shift {
    /// What the store calls a revision of etcd's.
    pub(crate) fn told(self, raw: u64) -> Revision {
        Revision(raw + self.0)
    }

    /// What etcd calls a revision of the store's; one from before the copy is one that never was.
    pub(crate) fn raw(self, revision: Revision) -> u64 {
        // To etcd's comparisons 0 is the revision of a key that is not there.
        revision.0.checked_sub(self.0).filter(|raw| *raw > 0 || self.0 == 0).unwrap_or(NEVER)
    }
}

impl Cluster {
    pub(crate) fn new(servers: &[String], tls: Option<&Tls>, patience: Duration, tasks: TaskTracker) -> Result<Self, StoreError> {
        let member = |server: &String| Ok(Member { endpoint: Endpoint::parse(server, tls)?, channel: Mutex::new(None) });
        let members = servers.iter().map(member).collect::<Result<Vec<_>, StoreError>>()?;
        if members.is_empty() {
            return Err(StoreError::Options("no etcd server is named".into()));
        }
        Ok(Self { members, preferred: AtomicUsize::new(0), patience, tasks, shift: OnceLock::new() })
    }

    /// The member that is asked at present.
    pub(crate) fn preferred(&self) -> usize {
        self.preferred.load(Ordering::Relaxed)
    }

    /// The member to go to when this one failed.
    pub(crate) fn after(&self, member: usize) -> usize {
        (member + 1) % self.members.len()
    }

    fn give_up(&self, member: usize) {
        // Who comes second finds that another is asked already.
        let _ = self.preferred.compare_exchange(member, self.after(member), Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(crate) fn name(&self, member: usize) -> &str {
        self.members[member].endpoint.authority()
    }

    /// A connection of its own to a member.
    pub(crate) async fn dial(&self, member: usize) -> Result<Channel, Failure> {
        let dialing = self.members[member].endpoint.dial(&self.tasks);
        timeout(READ_ATTEMPT, dialing).await.unwrap_or_else(|_| Err(Failure::Unsent("no connection in time".into())))
    }

    async fn channel(&self, member: usize) -> Result<Channel, Failure> {
        let mut current = self.members[member].channel.lock().await;
        if let Some(channel) = current.as_mut()
            && !channel.is_closed()
            && channel.ready().await.is_ok()
        {
            return Ok(channel.clone());
        }
        let channel = self.dial(member).await?;
        *current = Some(channel.clone());
        Ok(channel)
    }

    async fn ask(&self, member: usize, method: &str, message: &Writer, patience: Duration) -> Result<Bytes, Failure> {
        let deadline = Instant::now() + patience;
        let channel = timeout_at(deadline, self.channel(member)).await;
        let channel = channel.unwrap_or_else(|_| Err(Failure::Unsent("no connection in time".into())))?;
        match timeout_at(deadline, channel.unary(method, &message.0)).await {
            Ok(answer) => answer.map_err(|error| Failure::of(&error)),
            Err(_) => Err(Failure::Unknown(format!("{} did not answer in time", self.name(member)))),
        }
    }

    /// A call that may be carried out more than once.
    pub(crate) async fn read(&self, method: &str, message: &Writer) -> Result<Bytes, Failure> {
        let deadline = Instant::now() + self.patience;
        self.in_turn(deadline, |member| Box::pin(self.ask(member, method, message, READ_ATTEMPT)), Failure::is_elsewhere_worth_a_try)
            .await
            // Nothing was to be applied.
            .map_err(|failure| if let Failure::Unknown(reason) = failure { Failure::Unsent(reason) } else { failure })
    }

    /// A call that must not be carried out twice.
    pub(crate) async fn write(&self, method: &str, message: &Writer) -> Result<Bytes, Failure> {
        let deadline = Instant::now() + self.patience;
        let again = |failure: &Failure| matches!(failure, Failure::Unsent(_));
        self.in_turn(deadline, |member| Box::pin(self.ask(member, method, message, WRITE_ATTEMPT)), again).await
    }

    /// Asks one member after the other until one answers, or none is worth another try.
    async fn in_turn<F>(
        &self,
        deadline: Instant,
        ask: impl Fn(usize) -> F,
        is_worth_another: impl Fn(&Failure) -> bool,
    ) -> Result<Bytes, Failure>
    where
        F: Future<Output = Result<Bytes, Failure>>,
    {
        for attempt in 1.. {
            let member = self.preferred();
            let failure = match ask(member).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            if failure.is_elsewhere_worth_a_try() {
                self.give_up(member);
            }
            if !is_worth_another(&failure) || Instant::now() + PAUSE >= deadline {
                return Err(failure);
            }
            tracing::debug!(?failure, member = self.name(member), "etcd is asked again");
            if attempt % self.members.len() == 0 {
                tokio::time::sleep(PAUSE).await;
            }
        }
        Err(Failure::Unsent("nobody was asked".into()))
    }

    /// The revision of the latest transaction of all, agreed on by a majority of the members.
    pub(crate) async fn revision(&self, any_key: &[u8]) -> Result<Revision, StoreError> {
        let answer = self.read(RANGE, &get(any_key).number(9, 1)).await?;
        Ok(self.shift().told(revision_of(&answer).map_err(malformed)?.0))
    }

    pub(crate) fn shift(&self) -> Shift {
        self.shift.get().copied().unwrap_or_default()
    }

    /// Learns by how much revisions are ahead, from a key that stands as it is.
    pub(crate) async fn learn_shift(&self, key: &str) -> Result<Shift, StoreError> {
        let range = Range::read(&self.read(RANGE, &get(key.as_bytes())).await?).map_err(malformed)?;
        let Some(kv) = range.kvs.first() else { return Ok(Shift::default()) };
        let ahead = std::str::from_utf8(&kv.value).ok().and_then(|text| text.parse().ok());
        let ahead = ahead.ok_or_else(|| StoreError::Options(format!("{key} in etcd is no number of revisions")))?;
        Ok(*self.shift.get_or_init(|| Shift(ahead)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_from_before_a_copy_is_none_that_a_key_has_or_has_not() {
        let shift = Shift(100);
        assert_eq!([99, 100, 101].map(|revision| shift.raw(Revision(revision))), [NEVER, NEVER, 1]);
        assert_eq!(Shift::default().raw(Revision(0)), 0);
    }

    #[test]
    fn a_write_is_repeated_only_when_nobody_took_it_up() {
        let status = |code, message: &str| Failure::of(&GrpcError::Status { code, message: message.into() });
        assert!(matches!(status(14, "etcdserver: no leader"), Failure::Unsent(_)));
        assert!(matches!(status(8, "etcdserver: too many requests"), Failure::Unsent(_)));
        let unclear = ["etcdserver: leader changed", "etcdserver: request timed out", "etcdserver: server stopped", "connection closed"];
        for message in unclear {
            assert!(matches!(status(14, message), Failure::Unknown(_)), "{message}");
        }
        assert!(matches!(Failure::of(&GrpcError::Malformed), Failure::Unknown(_)));
        assert!(status(11, COMPACTED).is_compacted() && status(3, TOO_LARGE).is_too_large() && status(5, LEASE_NOT_FOUND).is_lease_gone());
        assert!(matches!(StoreError::from(status(8, NO_SPACE)), StoreError::NoSpace));
    }
}
