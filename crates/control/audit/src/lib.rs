//! Auditing: which requests are recorded and how much of each (`policy`), what a record says (`event`), one request on its
//! way through the stages (`trail`), and where records go (`log`, `webhook`). It knows no HTTP server and no registry: the API
//! server tells it what is asked and what came of it.

mod event;
mod log;
mod policy;
mod trail;
mod webhook;

use std::path::PathBuf;
use std::sync::Arc;

use fram_machinery::Value;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

pub use event::{Asked, ObjectRef};
pub use log::{Log, LogOptions};
pub use policy::{Level, Policy, Subject};
pub use trail::{Stage, Trail};
pub use webhook::{BatchOptions, Sender, Webhook};

#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("cannot {operation} {}: {source}", path.display())]
    Io { path: PathBuf, operation: &'static str, source: std::io::Error },
    #[error("audit policy {}: {reason}", path.display())]
    Policy { path: PathBuf, reason: String },
    #[error("audit webhook: {0}")]
    Webhook(String),
}

/// Where records go. What a sink cannot take is counted, never waited for without bound.
pub trait Sink: Send + Sync {
    /// The name under which failures are counted: upstream's plugin names.
    fn name(&self) -> &'static str;

    /// Takes a record; false where it is lost.
    fn take(&self, event: &Arc<Value>) -> bool;
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LevelLabel {
    level: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PluginLabel {
    plugin: &'static str,
}

/// Upstream's counters of the audit subsystem.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    events: Counter,
    levels: Family<LevelLabel, Counter>,
    errors: Family<PluginLabel, Counter>,
}

impl Counters {
    fn register(&self, registry: &mut Registry) {
        registry.register("apiserver_audit_event", "Audit events generated and sent to the audit backend", self.events.clone());
        registry.register("apiserver_audit_level", "Policy levels for audit events", self.levels.clone());
        registry.register("apiserver_audit_error", "Audit events that failed to be audited properly", self.errors.clone());
    }

    /// Notes events that a sink lost.
    pub(crate) fn lost(&self, plugin: &'static str, count: usize) {
        self.errors.get_or_create(&PluginLabel { plugin }).inc_by(count as u64);
    }

    #[cfg(test)]
    fn lost_by(&self, plugin: &'static str) -> u64 {
        self.errors.get_or_create(&PluginLabel { plugin }).get()
    }
}

/// A policy and the sinks for what it records.
pub struct Audit {
    policy: Policy,
    sinks: Vec<Arc<dyn Sink>>,
    counters: Counters,
    now: Arc<dyn Fn() -> jiff::Timestamp + Send + Sync>,
}

impl Audit {
    pub fn new(policy: Policy, sinks: Vec<Arc<dyn Sink>>, counters: Counters, now: Arc<dyn Fn() -> jiff::Timestamp + Send + Sync>) -> Self {
        Self { policy, sinks, counters, now }
    }

    /// Shows the counters among others.
    pub fn register(&self, registry: &mut Registry) {
        self.counters.register(registry);
    }

    /// The trail of a request; None where the policy wants nothing of it. `asked` is only made where something is recorded.
    pub fn begin(self: &Arc<Self>, subject: &Subject<'_>, asked: impl FnOnce() -> Asked) -> Option<Trail> {
        let wanted = self.policy.decide(subject);
        self.counters.levels.get_or_create(&LevelLabel { level: wanted.level.as_str() }).inc();
        (wanted.level > Level::None).then(|| Trail::begin(self.clone(), wanted, asked()))
    }

    /// The trail of a request of which nobody knows whose it is: it is recorded when it is refused, and not before; see upstream's
    /// WithFailedAuthenticationAudit.
    pub fn begin_unknown(self: &Arc<Self>, subject: &Subject<'_>, asked: impl FnOnce() -> Asked) -> Option<Trail> {
        let wanted = self.policy.decide(subject);
        self.counters.levels.get_or_create(&LevelLabel { level: wanted.level.as_str() }).inc();
        (wanted.level > Level::None).then(|| Trail::new(self.clone(), wanted, asked()))
    }

    fn record(&self, event: Value) {
        self.counters.events.inc();
        let event = Arc::new(event);
        for sink in &self.sinks {
            if !sink.take(&event) {
                self.counters.lost(sink.name(), 1);
            }
        }
    }
}
