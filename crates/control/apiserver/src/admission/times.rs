//! How long admission takes, in upstream's words (apiserver/pkg/admission/metrics).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::Operation;

/// Upper bounds in seconds; those of a webhook have two more.
const BOUNDS: [f64; 8] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 25.0];
const OF_PLUGINS: usize = 6;

/// Which half of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Admit,
    Validate,
}

const STEPS: [&str; 2] = ["admit", "validate"];
const OPERATIONS: [&str; 4] = ["CREATE", "UPDATE", "DELETE", "CONNECT"];
const REJECTED: [&str; 2] = ["false", "true"];

/// How many took how long. Each request passes a score of these, so that they take no lock.
#[derive(Debug, Default)]
struct Durations {
    nanoseconds: AtomicU64,
    /// By bounds; the last has none.
    counts: [AtomicU64; BOUNDS.len() + 1],
}

impl Durations {
    fn note(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let place = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.nanoseconds.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.counts[place].fetch_add(1, Ordering::Relaxed);
    }

    /// Their sum in seconds, how many there were, and how many within each of the first `bounds` but not the one before.
    fn told(&self, bounds: usize) -> (f64, u64, Vec<(f64, u64)>) {
        let counts: Vec<u64> = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let mut buckets: Vec<(f64, u64)> = BOUNDS.into_iter().zip(counts.iter().copied()).take(bounds).collect();
        buckets.push((f64::MAX, counts[bounds..].iter().sum()));
        (Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed)).as_secs_f64(), counts.iter().sum(), buckets)
    }
}

/// What one plugin or webhook, or all together, took: by step, operation and whether the request was refused.
#[derive(Debug, Default)]
pub(crate) struct Times([[[Durations; 2]; 4]; 2]);

impl Times {
    /// Notes what has passed since `begun`, which is now from here on.
    pub(crate) fn note<T, E>(&self, step: Step, operation: Operation, result: &Result<T, E>, begun: &mut Instant) {
        let now = Instant::now();
        let took = now.duration_since(std::mem::replace(begun, now));
        self.0[step as usize][operation as usize][usize::from(result.is_err())].note(took);
    }

    /// Notes how long some work takes.
    pub(crate) async fn of<T, E>(&self, step: Step, operation: Operation, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let mut begun = Instant::now();
        let result = work.await;
        self.note(step, operation, &result, &mut begun);
        result
    }

    /// What there is, with the values of the labels `type`, `operation` and `rejected`.
    fn all(&self) -> impl Iterator<Item = ([&'static str; 3], &Durations)> {
        let steps = STEPS.into_iter().zip(&self.0);
        let of_operations = steps.flat_map(|(step, by)| OPERATIONS.into_iter().zip(by).map(move |(operation, by)| (step, operation, by)));
        let all = of_operations
            .flat_map(|(step, operation, by)| REJECTED.into_iter().zip(by).map(move |(rejected, by)| ([step, operation, rejected], by)));
        all.filter(|(_, durations)| durations.counts.iter().any(|count| count.load(Ordering::Relaxed) > 0))
    }
}

/// By their names.
type Named = Arc<RwLock<BTreeMap<String, Arc<Times>>>>;

/// What all of admission took. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct AllTimes {
    pub(crate) steps: Arc<Times>,
    /// Of plugins and of webhooks.
    by_name: [Named; 2],
}

impl AllTimes {
    /// Those of a plugin, or of what stands beside the plugins: to be kept, since looking them up takes a lock.
    pub(crate) fn plugin(&self, name: &str) -> Arc<Times> {
        Self::of(&self.by_name[0], name)
    }

    pub(crate) fn webhook(&self, name: &str) -> Arc<Times> {
        Self::of(&self.by_name[1], name)
    }

    fn of(all: &RwLock<BTreeMap<String, Arc<Times>>>, name: &str) -> Arc<Times> {
        if let Some(found) = all.read().get(name) {
            return found.clone();
        }
        all.write().entry(name.into()).or_default().clone()
    }
}

impl Collector for AllTimes {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let about = "Admission sub-step latency histogram in seconds, broken out for each operation and API resource and step type (validate or admit).";
        let name = "apiserver_admission_step_admission_duration_seconds";
        let mut family = encoder.encode_descriptor(name, about, None, MetricType::Histogram)?;
        for ([step, operation, rejected], durations) in self.steps.all() {
            let labels = [("type", step), ("operation", operation), ("rejected", rejected)];
            let (sum, count, buckets) = durations.told(OF_PLUGINS);
            family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        let kinds = [
            (
                "controller",
                "Admission controller latency histogram in seconds, identified by name and broken out for each operation and API resource and type (validate or admit).",
                OF_PLUGINS,
            ),
            (
                "webhook",
                "Admission webhook latency histogram in seconds, identified by name and broken out for each operation and API resource and type (validate or admit).",
                BOUNDS.len(),
            ),
        ];
        for ((kind, about, bounds), all) in kinds.into_iter().zip(&self.by_name) {
            let name = format!("apiserver_admission_{kind}_admission_duration_seconds");
            let mut family = encoder.encode_descriptor(&name, about, None, MetricType::Histogram)?;
            for (name, times) in all.read().iter() {
                for ([step, operation, rejected], durations) in times.all() {
                    let labels = [("name", name.as_str()), ("type", step), ("operation", operation), ("rejected", rejected)];
                    let (sum, count, buckets) = durations.told(bounds);
                    family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_by_its_name_step_operation_and_end() {
        let (times, mut registry) = (AllTimes::default(), prometheus_client::registry::Registry::default());
        registry.register_collector(Box::new(times.clone()));
        let ago = |milliseconds| Instant::now().checked_sub(Duration::from_millis(milliseconds)).unwrap();
        times.plugin("LimitRanger").note::<_, ()>(Step::Validate, Operation::Create, &Ok(()), &mut ago(10));
        times.plugin("LimitRanger").note::<(), _>(Step::Validate, Operation::Create, &Err(()), &mut ago(0));
        times.webhook("a.example.com").note::<_, ()>(Step::Admit, Operation::Delete, &Ok(()), &mut ago(3000));
        times.steps.note::<_, ()>(Step::Admit, Operation::Update, &Ok(()), &mut ago(60_000));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let of_plugin = |rejected| format!("name=\"LimitRanger\",type=\"validate\",operation=\"CREATE\",rejected=\"{rejected}\"");
        let of_hook = "name=\"a.example.com\",type=\"admit\",operation=\"DELETE\",rejected=\"false\"";
        let of_step = "type=\"admit\",operation=\"UPDATE\",rejected=\"false\"";
        for line in [
            format!("controller_admission_duration_seconds_bucket{{le=\"0.005\",{}}} 0\n", of_plugin(false)),
            format!("controller_admission_duration_seconds_bucket{{le=\"0.025\",{}}} 1\n", of_plugin(false)),
            format!("controller_admission_duration_seconds_count{{{}}} 1\n", of_plugin(true)),
            format!("webhook_admission_duration_seconds_bucket{{le=\"2.5\",{of_hook}}} 0\n"),
            format!("webhook_admission_duration_seconds_bucket{{le=\"10.0\",{of_hook}}} 1\n"),
            format!("step_admission_duration_seconds_bucket{{le=\"2.5\",{of_step}}} 0\n"),
            format!("step_admission_duration_seconds_bucket{{le=\"+Inf\",{of_step}}} 1\n"),
        ] {
            assert!(text.contains(&line), "{line} is not in {text}");
        }
        assert!(!text.contains("le=\"10.0\",name=\"LimitRanger\""), "{text}");
    }
}
