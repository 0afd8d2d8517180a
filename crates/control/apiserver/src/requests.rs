//! What the server was asked, counted under upstream's names and shown at /metrics. Requests of components in the same process
//! count like any other.

pub(crate) mod process;
pub(crate) mod stored;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use fram_machinery::Status;
use parking_lot::{Mutex, RwLock};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::authorize::Attributes;

/// Seconds; upstream's buckets of `apiserver_request_duration_seconds`.
const DURATIONS: [f64; 23] =
    [0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0];

/// By what upstream tells requests apart.
#[derive(Debug, Clone, PartialEq, Eq, EncodeLabelSet)]
struct Labels {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
    component: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, EncodeLabelSet)]
struct Carried {
    #[prometheus(flatten)]
    asked: Labels,
    /// `All`, or nothing.
    dry_run: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, EncodeLabelSet)]
struct Answered {
    #[prometheus(flatten)]
    carried: Carried,
    code: u16,
}

/// A version that is on its way out, and what of it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct Outdated {
    group: String,
    version: String,
    resource: String,
    subresource: String,
    removed_release: &'static str,
}

/// Requests of one kind.
#[derive(Debug)]
pub(crate) struct Series {
    labels: Labels,
    dry_run: &'static str,
    /// How many were answered by each code. There are few.
    codes: Mutex<Vec<(u16, u64)>>,
    durations: Histogram,
    sizes: Histogram,
    /// Those that last as long as their clients like, now.
    lasting: AtomicI64,
}

impl Series {
    fn carried(&self) -> Carried {
        Carried { asked: self.labels.clone(), dry_run: self.dry_run }
    }

    fn count(&self, code: u16) {
        let mut codes = self.codes.lock();
        match codes.iter_mut().find(|(of, _)| *of == code) {
            Some((_, count)) => *count += 1,
            None => codes.push((code, 1)),
        }
    }

    /// Notes how many bytes an answer has that is not a stream.
    pub(crate) fn sized(&self, bytes: u64) {
        self.sizes.observe(bytes as f64);
    }

    /// Counts one that lasts until what is returned is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> Lasting {
        self.lasting.fetch_add(1, Ordering::Relaxed);
        Lasting(self.clone())
    }
}

pub(crate) struct Lasting(Arc<Series>);

impl Drop for Lasting {
    fn drop(&mut self) {
        self.0.lasting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request that is carried out.
pub(crate) struct InFlight(Arc<Counts>, usize);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight[self.1].fetch_sub(1, Ordering::Relaxed);
    }
}

/// The names of what `in_flight` has.
const KINDS: [&str; 2] = ["readOnly", "mutating"];

#[derive(Debug, Default)]
struct Counts {
    /// By the hash of what they are told apart by, so that whoever looks one up makes no texts for it.
    series: RwLock<HashMap<u64, Vec<Arc<Series>>>>,
    hasher: RandomState,
    in_flight: [AtomicI64; 2],
    outdated: Mutex<BTreeSet<Outdated>>,
}

impl Counts {
    fn all(&self) -> Vec<Arc<Series>> {
        self.series.read().values().flatten().cloned().collect()
    }
}

/// The counters of one server.
pub(crate) struct Requests {
    registry: Mutex<Registry>,
    counts: Arc<Counts>,
}

impl Default for Requests {
    fn default() -> Self {
        let (mut registry, counts) = (Registry::default(), Arc::<Counts>::default());
        registry.register_collector(Box::new(Shown(counts.clone())));
        registry.register_collector(Box::new(process::Process));
        Self { registry: Mutex::new(registry), counts }
    }
}

/// A verb as upstream has it in metrics: that of HTTP where there is one.
fn verb(asked: &Attributes) -> &str {
    match asked.verb.as_str() {
        "get" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" => "POST",
        "update" => "PUT",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        "connect" => "CONNECT",
        other => other,
    }
}

/// See upstream's CleanScope.
fn scope(asked: &Attributes) -> &'static str {
    match (asked.name.is_empty(), asked.namespace.is_empty()) {
        _ if asked.verb == "create" => "resource",
        (false, _) => "resource",
        (true, false) => "namespace",
        (true, true) if asked.resource.is_empty() => "",
        (true, true) => "cluster",
    }
}

impl Requests {
    /// Where requests like this one are counted. One that names nothing that is `known` is not counted by what it named.
    pub(crate) fn series(&self, asked: &Attributes, known: bool) -> Arc<Series> {
        self.carried(asked, known, false)
    }

    fn carried(&self, asked: &Attributes, known: bool, dry_run: bool) -> Arc<Series> {
        let dry_run = if dry_run { "All" } else { "" };
        let named = |text| if known { text } else { "" };
        let (verb, scope) = (verb(asked), scope(asked));
        let (group, version) = (named(asked.group.as_str()), named(asked.version.as_str()));
        let (resource, subresource) = (named(asked.resource.as_str()), named(asked.subresource.as_str()));
        let hash = self.counts.hasher.hash_one((verb, group, version, resource, subresource, scope, dry_run));
        let is_it = |of: &&Arc<Series>| {
            let (of, carried) = (&of.labels, of.dry_run == dry_run);
            carried
                && of.verb == verb
                && of.group == group
                && of.version == version
                && of.scope == scope
                && of.resource == resource
                && of.subresource == subresource
        };
        if let Some(found) = self.counts.series.read().get(&hash).and_then(|all| all.iter().find(is_it)) {
            return found.clone();
        }
        let mut series = self.counts.series.write();
        let all = series.entry(hash).or_default();
        if let Some(found) = all.iter().find(is_it) {
            return found.clone();
        }
        let [verb, group, version, resource, subresource] = [verb, group, version, resource, subresource].map(String::from);
        let made = Arc::new(Series {
            labels: Labels { verb, group, version, resource, subresource, scope, component: "apiserver" },
            dry_run,
            codes: Mutex::default(),
            durations: Histogram::new(DURATIONS),
            sizes: Histogram::new(exponential_buckets(1000.0, 10.0, 7)),
            lasting: AtomicI64::new(0),
        });
        all.push(made.clone());
        made
    }

    /// Counts a request by what came of it, and how long that took unless it goes on.
    pub(crate) fn count<T>(&self, asked: &Attributes, known: bool, dry_run: bool, result: &Result<T, Status>, took: Option<Duration>) {
        let series = self.carried(asked, known, dry_run);
        series.count(result.as_ref().err().map_or(200, |status| status.code));
        took.iter().for_each(|took| series.durations.observe(took.as_secs_f64()));
    }

    /// Counts a request among those that are carried out until what is returned is dropped.
    pub(crate) fn enter(&self, asked: &Attributes) -> InFlight {
        let kind = usize::from(!matches!(asked.verb.as_str(), "get" | "list" | "watch"));
        self.counts.in_flight[kind].fetch_add(1, Ordering::Relaxed);
        InFlight(self.counts.clone(), kind)
    }

    /// Notes that a version is used that is on its way out.
    pub(crate) fn outdated(&self, asked: &Attributes, removed_release: &'static str) {
        let [group, version] = [&asked.group, &asked.version].map(String::clone);
        let [resource, subresource] = [&asked.resource, &asked.subresource].map(String::clone);
        self.counts.outdated.lock().insert(Outdated { group, version, resource, subresource, removed_release });
    }

    /// Shows others beside them.
    pub(crate) fn register(&self, others: impl FnOnce(&mut Registry)) {
        others(&mut self.registry.lock());
    }

    /// In the text format of OpenMetrics.
    pub(crate) fn text(&self) -> String {
        encoded(&self.registry.lock())
    }
}

/// What a registry has, in the text format of OpenMetrics.
pub(crate) fn encoded(registry: &Registry) -> String {
    let mut out = String::new();
    if let Err(error) = text::encode(&mut out, registry) {
        tracing::error!(%error, "the counters cannot be written as text");
    }
    out
}

#[derive(Debug)]
struct Shown(Arc<Counts>);

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut all = self.0.all();
        let key = |of: &Labels| (of.resource.clone(), of.subresource.clone(), of.verb.clone(), of.group.clone(), of.version.clone());
        all.sort_by_cached_key(|series| key(&series.labels));
        let about =
            "Counter of apiserver requests broken out for each verb, group, version, resource, scope, component, and HTTP response code";
        let mut total = encoder.encode_descriptor("apiserver_request", about, None, MetricType::Counter)?;
        for series in &all {
            for (code, count) in series.codes.lock().clone() {
                let labels = Answered { carried: series.carried(), code };
                ConstCounter::new(count).encode(total.encode_family(&labels)?)?;
            }
        }
        let about = "Response latency distribution in seconds for each verb, group, version, resource, subresource, scope and component";
        let mut durations = encoder.encode_descriptor("apiserver_request_duration_seconds", about, None, MetricType::Histogram)?;
        // Those that have only lasted are told by their number.
        for series in all.iter().filter(|s| s.labels.verb != "WATCH") {
            series.durations.encode(durations.encode_family(&series.carried())?)?;
        }
        let about = "Response size distribution in bytes for each group, version, verb, resource, subresource, scope and component";
        let mut sizes = encoder.encode_descriptor("apiserver_response_sizes", about, None, MetricType::Histogram)?;
        for series in all.iter().filter(|s| matches!(s.labels.verb.as_str(), "GET" | "LIST")) {
            series.sizes.encode(sizes.encode_family(&series.labels)?)?;
        }
        let about = "Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and component";
        let mut lasting = encoder.encode_descriptor("apiserver_longrunning_requests", about, None, MetricType::Gauge)?;
        for series in &all {
            let now = series.lasting.load(Ordering::Relaxed);
            if now > 0 {
                ConstGauge::new(now).encode(lasting.encode_family(&series.labels)?)?;
            }
        }
        let about = "Number of requests that are carried out now, by request kind";
        let mut in_flight = encoder.encode_descriptor("apiserver_current_inflight_requests", about, None, MetricType::Gauge)?;
        for (kind, count) in KINDS.iter().zip(&self.0.in_flight) {
            ConstGauge::new(count.load(Ordering::Relaxed)).encode(in_flight.encode_family(&[("request_kind", *kind)])?)?;
        }
        let about = "Gauge of deprecated APIs that have been requested, broken out by API group, version, resource, subresource, and removed_release.";
        let mut outdated = encoder.encode_descriptor("apiserver_requested_deprecated_apis", about, None, MetricType::Gauge)?;
        for of in self.0.outdated.lock().iter() {
            ConstGauge::new(1).encode(outdated.encode_family(of)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_verb_resource_and_code() {
        let requests = Requests::default();
        let asked =
            Attributes { verb: "get".into(), version: "v1".into(), resource: "pods".into(), name: "a".into(), ..Default::default() };
        requests.count(&asked, true, false, &Ok(()), Some(Duration::from_millis(30)));
        requests.count(&asked, true, false, &Ok(()), Some(Duration::from_millis(300)));
        requests.count::<()>(&asked, true, false, &Err(Status::not_found("", "pods", "a")), None);
        requests.count(&asked, true, true, &Ok(()), None);
        let unknown = Attributes { resource: "nonsense".into(), ..asked.clone() };
        requests.count::<()>(&unknown, false, false, &Err(Status::forbidden("", "nonsense", "", "no")), None);
        let created = Attributes { verb: "create".into(), name: String::new(), ..asked.clone() };
        let begun = requests.enter(&created);
        requests.series(&asked, true).sized(5000);
        let text = requests.text();
        let labels = "verb=\"GET\",group=\"\",version=\"v1\",resource=\"pods\",subresource=\"\",scope=\"resource\",component=\"apiserver\"";
        assert!(text.contains(&format!("apiserver_request_total{{{labels},dry_run=\"\",code=\"200\"}} 2\n")), "{text}");
        assert!(text.contains(&format!("apiserver_request_total{{{labels},dry_run=\"\",code=\"404\"}} 1\n")), "{text}");
        assert!(text.contains(&format!("apiserver_request_total{{{labels},dry_run=\"All\",code=\"200\"}} 1\n")), "{text}");
        assert!(text.contains(&format!("apiserver_request_duration_seconds_bucket{{le=\"0.05\",{labels},dry_run=\"\"}} 1\n")), "{text}");
        assert!(text.contains(&format!("apiserver_request_duration_seconds_count{{{labels},dry_run=\"\"}} 2\n")), "{text}");
        assert!(text.contains(&format!("apiserver_response_sizes_bucket{{le=\"10000.0\",{labels}}} 1\n")), "{text}");
        assert!(text.contains("apiserver_current_inflight_requests{request_kind=\"mutating\"} 1\n"), "{text}");
        assert!(!text.contains("nonsense"), "{text}");
        drop(begun);
        assert!(requests.text().contains("apiserver_current_inflight_requests{request_kind=\"mutating\"} 0\n"));
    }

    #[test]
    fn what_lasts_is_counted_while_it_does() {
        let requests = Requests::default();
        let asked = Attributes { verb: "watch".into(), version: "v1".into(), resource: "pods".into(), ..Default::default() };
        let begun = requests.series(&asked, true).begin();
        let line = "apiserver_longrunning_requests{verb=\"WATCH\",group=\"\",version=\"v1\",resource=\"pods\",subresource=\"\",scope=\"cluster\",component=\"apiserver\"} 1\n";
        assert!(requests.text().contains(line));
        drop(begun);
        assert!(!requests.text().contains(line));
    }
}
