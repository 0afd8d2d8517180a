//! HorizontalPodAutoscalers: asks every fifteen seconds what the pods of a target use, and scales the target by it; metrics of pods,
//! objects and external systems are asked of the adapters that serve them. See upstream's
//! pkg/controller/podautoscaler/horizontal.go.

mod behavior;
mod custom;
mod replicas;
mod status;

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use fram_client::resources::{HORIZONTAL_POD_AUTOSCALERS, PODS};
use fram_client::{Action, Call, Client, Controller, EventRecorder, Informer, ListOptions, Reply, Resource, Verb, WriteOptions};
use fram_machinery::labels::Selector;
use fram_machinery::quantity::Quantity;
use fram_machinery::{Reason, Status, Value, meta};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::Context;
use crate::context::{Clock, KindInfo};
use crate::metrics::Metrics;
use crate::objects::Objects;
use behavior::History;
use replicas::{Metric, Proposal, Target, Tolerance};
use status::Report;

/// See --horizontal-pod-autoscaler-sync-period.
const PERIOD: Duration = Duration::from_secs(15);
/// See --horizontal-pod-autoscaler-tolerance.
const TOLERANCE: f64 = 0.1;

const POD_METRICS: Resource = Resource::new("metrics.k8s.io", "v1beta1", "pods");

pub(crate) fn start(context: &Context) {
    let scalers = context.informers.get(&HORIZONTAL_POD_AUTOSCALERS);
    context.metrics.inventory.follow(&scalers, &context.stop);
    let client = context.client("horizontal-pod-autoscaler");
    let pods = context.informers.get(&PODS);
    let scaler = Scaler {
        scalers: Objects::new(&client, &scalers),
        pods: pods.clone(),
        kinds: context.kinds.clone(),
        custom_kinds: context.custom_kinds.clone(),
        histories: Mutex::default(),
        selectors: Mutex::default(),
        now: context.now.clone(),
        events: context.recorder("horizontal-pod-autoscaler", "horizontal-pod-autoscaler"),
        metrics: context.metrics.clone(),
        client,
    };
    // Its own statuses are no news: what is to be done again is done in its time.
    let controller =
        Controller::new("horizontalpodautoscaler", 5).needs(&pods).watches_deltas(&scalers, |delta| match (&delta.old, &delta.new) {
            (Some(old), Some(new)) if old.get("spec") == new.get("spec") => Vec::new(),
            _ => vec![delta.key()],
        });
    context.run(controller, scaler, |s, key| async move { s.reconcile(&key).await });
}

struct Scaler {
    client: Client,
    scalers: Objects,
    pods: Informer,
    kinds: Arc<[KindInfo]>,
    custom_kinds: watch::Receiver<Arc<[KindInfo]>>,
    /// What was recommended and done of late, by key and UID.
    histories: Mutex<HashMap<String, (String, History)>>,
    /// By key, whose pods each looks at.
    selectors: Mutex<BTreeMap<String, Selector>>,
    now: Clock,
    events: EventRecorder,
    metrics: Metrics,
}

/// So often a target is written that others write at the same time.
const TRIES: u32 = 5;

/// What keeps an autoscaler from its work: the condition and reason under which that is told.
struct Trouble {
    condition: &'static str,
    reason: String,
    message: String,
    /// Why there is no number of replicas, where that was asked for.
    no_number: Option<String>,
    /// It is the autoscaler's own fault.
    of_spec: bool,
}

impl Trouble {
    fn scaling(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { condition: "ScalingActive", reason: reason.into(), message: message.into(), no_number: None, of_spec: false }
    }

    fn unknown(message: impl Into<String>) -> Self {
        Self { of_spec: true, ..Self::scaling("InvalidMetricSourceType", message) }
    }

    /// As metrics call it.
    fn sort(&self) -> &'static str {
        if self.of_spec { "spec" } else { "internal" }
    }
}

impl Scaler {
    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let (namespace, name) = key.split_once('/').unwrap_or(("", key));
        let Some(scaler) = self.scalers.get(namespace, name).filter(|s| !meta::is_terminating(s)) else {
            self.histories.lock().remove(key);
            self.selectors.lock().remove(key);
            return Ok(Action::Done);
        };
        let mut report = Report::new(&scaler, (self.now)());
        let begun = Instant::now();
        let scaled = self.scale(&scaler, &mut report).await;
        self.metrics.scaled(scaled.as_ref().copied().map_err(Trouble::sort), begun.elapsed());
        if let Err(trouble) = scaled {
            self.events.event(&scaler, true, &trouble.reason, trouble.message.clone());
            if let Some(why) = trouble.no_number {
                self.events.event(&scaler, true, "FailedComputeMetricsReplicas", why);
            }
            report.condition(trouble.condition, false, &trouble.reason, &trouble.message);
        }
        self.scalers.write_status(&scaler, report.status()).await?;
        Ok(Action::After(PERIOD))
    }

    /// The kind that a reference names, of a built-in or a custom resource.
    fn kind(&self, reference: &Value) -> Result<KindInfo, String> {
        custom::kind(reference, self.kinds.iter().chain(self.custom_kinds.borrow().iter()))
    }

    async fn on_scale(&self, scaler: &Value, resource: &Resource, verb: Verb) -> Result<Arc<Value>, Status> {
        let call = Call {
            resource: resource.clone(),
            namespace: meta::namespace(scaler).into(),
            name: scaler.str_at(&["spec", "scaleTargetRef", "name"]).into(),
            subresource: "scale".into(),
            verb,
        };
        match self.client.call(call).await? {
            Reply::Object(object) => Ok(object),
            Reply::Page(_) => Err(Status::internal("a list where a Scale was expected")),
        }
    }

    /// Gives which way the target was scaled.
    async fn scale(&self, scaler: &Arc<Value>, report: &mut Report) -> Result<Ordering, Trouble> {
        let no_scale = |message: String| Trouble {
            condition: "AbleToScale",
            reason: "FailedGetScale".into(),
            message,
            no_number: None,
            of_spec: false,
        };
        let unable = |why: String| no_scale(format!("the HPA controller was unable to get the target's current scale: {why}"));
        let target = scaler.at(&["spec", "scaleTargetRef"]).unwrap_or(&Value::Null);
        let resource = self.kind(target).map_err(unable)?.resource;
        let scale = self.on_scale(scaler, &resource, Verb::Get).await;
        let scale = scale.map_err(|s| unable(s.to_string()))?;
        report.condition("AbleToScale", true, "SucceededGetScale", "the HPA controller was able to get the target's current scale");
        let current = scale.int_at(&["spec", "replicas"]).unwrap_or(0);
        report.replicas(scale.int_at(&["status", "replicas"]).unwrap_or(0), current);
        history_of(&mut self.histories.lock(), scaler).begin(current, (self.now)());
        let spec = scaler.get("spec").unwrap_or(&Value::Null);
        let (minimum, maximum) = (spec.int_at(&["minReplicas"]).unwrap_or(1), spec.int_at(&["maxReplicas"]).unwrap_or(1));
        let (desired, why) = if current == 0 && minimum != 0 {
            let message = "scaling is disabled since the replica count of the target is zero";
            report.condition("ScalingActive", false, "ScalingDisabled", message);
            return Ok(Ordering::Equal);
        } else if current > maximum {
            (maximum, "Current number of replicas above Spec.MaxReplicas".to_string())
        } else if current < minimum {
            (minimum, "Current number of replicas below Spec.MinReplicas".to_string())
        } else {
            self.desired(scaler, spec, &scale, current, report).await?
        };
        report.desired(desired);
        if desired != current {
            self.rescale(scaler, &resource, &scale, desired, &why, report).await?;
        }
        Ok(desired.cmp(&current))
    }

    /// What the metrics ask for, within what the behaviour allows, and why.
    async fn desired(
        &self,
        scaler: &Value,
        spec: &Value,
        scale: &Value,
        current: i64,
        report: &mut Report,
    ) -> Result<(i64, String), Trouble> {
        let recommended = self.recommend(scaler, spec, scale, current, report).await;
        let (recommended, metric) =
            recommended.map_err(|trouble| Trouble { no_number: trouble.no_number.or(Some(trouble.message.clone())), ..trouble })?;
        report.condition(
            "ScalingActive",
            true,
            "ValidMetricFound",
            &format!("the HPA was able to successfully calculate a replica count from {metric}"),
        );
        let mut histories = self.histories.lock();
        let verdict = behavior::limit(spec, current, recommended, history_of(&mut histories, scaler), (self.now)());
        let (reason, message) = verdict.stabilized.unwrap_or(("ReadyForNewScale", "recommended size matches current size"));
        report.condition("AbleToScale", true, reason, message);
        match verdict.limited {
            Some((reason, message)) => report.condition("ScalingLimited", true, reason, message),
            None => {
                report.condition("ScalingLimited", false, "DesiredWithinRange", "the desired count is within the acceptable range");
            }
        }
        let why = if verdict.replicas > current { format!("{metric} above target") } else { "All metrics below target".into() };
        Ok((verdict.replicas, why))
    }

    /// The keys of the autoscalers of a namespace that look at any of these pods.
    fn selecting(&self, namespace: &str, pods: &[Arc<Value>]) -> Vec<String> {
        let selectors = self.selectors.lock();
        let here = selectors.iter().filter(|(key, _)| key.split_once('/').is_some_and(|(ns, _)| ns == namespace));
        let looks = |selector: &Selector| pods.iter().any(|pod| selector.matches(meta::labels(pod)));
        here.filter(|(_, selector)| looks(selector)).map(|(key, _)| key.clone()).collect()
    }

    /// The largest of what the metrics ask for. Where some cannot be had, the others may only make it grow.
    async fn recommend(
        &self,
        scaler: &Value,
        spec: &Value,
        scale: &Value,
        current: i64,
        report: &mut Report,
    ) -> Result<(i64, String), Trouble> {
        let text = scale.str_at(&["status", "selector"]);
        let selector = match Selector::parse(text) {
            Ok(selector) if !text.is_empty() => selector,
            Ok(_) => return Err(Trouble::scaling("InvalidSelector", "the HPA target's scale is missing a selector")),
            Err(error) => {
                let message = format!("couldn't convert selector into a corresponding internal selector object: {error}");
                return Err(Trouble::scaling("InvalidSelector", message));
            }
        };
        let namespace = meta::namespace(scaler);
        let pods: Vec<Arc<Value>> = self.pods.by_namespace(namespace).into_iter().filter(|p| selector.matches(meta::labels(p))).collect();
        self.selectors.lock().insert(meta::key(scaler), selector);
        let others = self.selecting(namespace, &pods);
        if others.len() > 1 {
            let message = format!("pods by selector {text} are controlled by multiple HPAs: [{}]", others.join(" "));
            return Err(Trouble::scaling("AmbiguousSelector", message));
        }
        let options = ListOptions { label_selector: text.into(), ..Default::default() };
        let specs = spec.list_at(&["metrics"]);
        // Nobody is asked for what nobody wants to know.
        let metrics = match specs.iter().any(|metric| custom::field(metric).is_none()) {
            true => self.client.within(&POD_METRICS, namespace).list(options).await.map(|page| page.items).map_err(|s| s.to_string()),
            false => Ok(Vec::new()),
        };
        let now = custom::Now {
            current,
            replicas: scale.int_at(&["status", "replicas"]).unwrap_or(0),
            pods: &pods,
            tolerance: tolerance(spec),
            at: (self.now)(),
        };
        let (mut best, mut troubles, mut found): (Option<(i64, String)>, Vec<Trouble>, Vec<Value>) = Default::default();
        for metric in specs {
            let begun = Instant::now();
            let proposed = match custom::field(metric) {
                Some(_) => self.propose_custom(namespace, metric, text, &now).await,
                None => self.propose(spec, metric, current, &pods, &metrics).map(|(p, name)| (status::metric(metric, &p), p, name)),
            };
            let way = proposed.as_ref().map(|(_, proposal, _)| proposal.replicas.cmp(&current)).map_err(Trouble::sort);
            self.metrics.computed(metric.str_at(&["type"]), way, begun.elapsed());
            match proposed {
                Ok((entry, proposal, name)) => {
                    found.push(entry);
                    if best.as_ref().is_none_or(|(most, _)| proposal.replicas > *most) {
                        best = Some((proposal.replicas, name));
                    }
                }
                Err(why) => troubles.push(why),
            }
        }
        report.metrics(found);
        // The first is told where nothing can be done for it.
        for other in troubles.iter().skip(usize::from(!may_act(best.as_ref(), troubles.len(), current))) {
            self.events.event(scaler, true, &other.reason, other.message.clone());
        }
        verdict(best, troubles, specs.len(), current)
    }

    /// A metric that an adapter serves: the entry of the status, what it asks for, and how it is told of.
    async fn propose_custom(
        &self,
        namespace: &str,
        metric: &Value,
        pods: &str,
        now: &custom::Now<'_>,
    ) -> Result<(Value, Proposal, String), Trouble> {
        let ty = metric.str_at(&["type"]);
        let field = custom::field(metric).unwrap_or_default();
        let name = metric.str_at(&[field, "metric", "name"]);
        let failed = |why: String| {
            let message = format!("failed to get {} metric value: {why}", ty.to_lowercase());
            Trouble::scaling(format!("FailedGet{ty}Metric"), message)
        };
        let kind = |described: &Value| self.kind(described);
        let question = custom::question(metric, namespace, pods, kind).map_err(failed)?;
        let answers = self.ask(question).await.map_err(|s| failed(format!("unable to get metric {name}: {s}")))?;
        let (proposal, entry) =
            custom::propose(metric, &answers, now).map_err(|why| failed(format!("unable to get metric {name}: {why}")))?;
        let told = match field {
            "external" => {
                format!("external metric {name}({:?})", metric.at(&[field, "metric", "selector"]).cloned().unwrap_or_default())
            }
            "pods" => format!("pods metric {name}"),
            _ => format!("{} metric {name}", metric.str_at(&[field, "describedObject", "kind"])),
        };
        Ok((entry, proposal, told))
    }

    /// Asks an adapter, in the version that it serves.
    async fn ask(&self, question: custom::Question) -> Result<Vec<Arc<Value>>, Status> {
        let versions: &[&str] = if question.is_custom() { &custom::CUSTOM_VERSIONS } else { &["v1beta1"] };
        let mut outcome = Err(Status::no_such_path());
        for version in versions {
            let call = Call {
                resource: Resource { version: (*version).into(), ..question.resource.clone() },
                namespace: question.namespace.clone(),
                name: question.name.clone(),
                subresource: question.subresource.clone(),
                verb: Verb::List(question.options()),
            };
            outcome = self.client.call(call).await.map(|reply| match reply {
                Reply::Page(page) => page.items,
                Reply::Object(object) => vec![object],
            });
            if !matches!(&outcome, Err(status) if status.is(Reason::NotFound)) {
                break;
            }
        }
        outcome
    }

    fn propose(
        &self,
        spec: &Value,
        metric: &Value,
        current: i64,
        pods: &[Arc<Value>],
        metrics: &Result<Vec<Arc<Value>>, String>,
    ) -> Result<(Proposal, String), Trouble> {
        let (field, reason) = match metric.str_at(&["type"]) {
            "Resource" => ("resource", "FailedGetResourceMetric"),
            "ContainerResource" => ("containerResource", "FailedGetContainerResourceMetric"),
            other => return Err(Trouble::unknown(format!("unknown metric source type {other:?}"))),
        };
        let source = metric.get(field).unwrap_or(&Value::Null);
        let name = source.str_at(&["name"]);
        let average = || source.at(&["target", "averageValue"])?.as_str()?.parse::<Quantity>().ok().map(|q| q.milli_value());
        let target = match (average(), source.int_at(&["target", "averageUtilization"])) {
            (Some(average), _) => Target::Average(average),
            (None, Some(percent)) => Target::Utilization(percent),
            (None, None) => {
                let message = format!("invalid {name} metric source: neither an average utilization nor an average value was set");
                return Err(Trouble::scaling(reason, message));
            }
        };
        let container = (field == "containerResource").then(|| source.str_at(&["container"]));
        let told = match (target, container) {
            (Target::Utilization(_), None) => format!("{name} resource utilization (percentage of request)"),
            (Target::Utilization(_), Some(_)) => format!("{name} container resource utilization (percentage of request)"),
            (Target::Average(_), None) => format!("{name} resource"),
            (Target::Average(_), Some(_)) => format!("{name} container resource"),
        };
        let failed = |why: &str| {
            Trouble::scaling(
                reason,
                format!(
                    "failed to get {name} {}: {why}",
                    match target {
                        Target::Utilization(_) => "utilization",
                        Target::Average(_) => "usage",
                    }
                ),
            )
        };
        let metrics = metrics.as_ref().map_err(|why| failed(&format!("unable to get metrics for resource {name}: {why}")))?;
        let metric = Metric { resource: name, container, target };
        let proposal = replicas::propose(&metric, current, pods, metrics, tolerance(spec), (self.now)());
        proposal.map(|p| (p, told)).map_err(|why| failed(&why))
    }

    async fn rescale(
        &self,
        scaler: &Value,
        resource: &Resource,
        scale: &Value,
        desired: i64,
        why: &str,
        report: &mut Report,
    ) -> Result<(), Trouble> {
        let current = scale.int_at(&["spec", "replicas"]).unwrap_or(0);
        let mut object = scale.clone();
        let mut tries = TRIES;
        let updated = loop {
            tries -= 1;
            object.set(&["spec", "replicas"], desired);
            let update = Verb::Update { object: object.clone(), options: WriteOptions::default() };
            match self.on_scale(scaler, resource, update).await {
                // Somebody else has written the target meanwhile, such as who counts its replicas.
                Err(status) if status.is(Reason::Conflict) && tries > 0 => match self.on_scale(scaler, resource, Verb::Get).await {
                    Ok(latest) => object = (*latest).clone(),
                    Err(_) => break Err(status),
                },
                answer => break answer,
            }
        };
        if let Err(status) = updated {
            let message = format!("the HPA controller was unable to update the target scale: {status}");
            self.events.event(scaler, true, "FailedRescale", format!("New size: {desired}; reason: {why}; error: {status}"));
            return Err(Trouble { condition: "AbleToScale", reason: "FailedUpdateScale".into(), message, no_number: None, of_spec: false });
        }
        let message = format!("the HPA controller was able to update the target scale to {desired}");
        report.condition("AbleToScale", true, "SucceededRescale", &message);
        self.events.event(scaler, false, "SuccessfulRescale", format!("New size: {desired}; reason: {why}"));
        let now = (self.now)();
        report.scaled(now);
        history_of(&mut self.histories.lock(), scaler).scaled(current, desired, now);
        Ok(())
    }
}

/// Whether the metrics that could be had are enough: where some could not, they may only make the target grow.
fn may_act(best: Option<&(i64, String)>, troubles: usize, current: i64) -> bool {
    best.is_some_and(|(replicas, _)| troubles == 0 || *replicas >= current)
}

/// What all metrics together ask for.
fn verdict(best: Option<(i64, String)>, troubles: Vec<Trouble>, metrics: usize, current: i64) -> Result<(i64, String), Trouble> {
    let (is_enough, count) = (may_act(best.as_ref(), troubles.len(), current), troubles.len());
    match (best.filter(|_| is_enough), troubles.into_iter().next()) {
        (Some(best), _) => Ok(best),
        (None, Some(first)) => {
            let why = format!("invalid metrics ({count} invalid out of {metrics}), first error is: {}", first.message);
            Err(Trouble { no_number: Some(why), ..first })
        }
        (None, None) => Err(Trouble::unknown("the HPA has no metrics")),
    }
}

/// The history of an autoscaler; one that took the name of another begins anew.
fn history_of<'a>(histories: &'a mut HashMap<String, (String, History)>, scaler: &Value) -> &'a mut History {
    let (uid, history) = histories.entry(meta::key(scaler)).or_default();
    if uid != meta::uid(scaler) {
        (*uid, *history) = (meta::uid(scaler).to_string(), History::default());
    }
    history
}

fn tolerance(spec: &Value) -> Tolerance {
    let of = |direction: &str| {
        let own = spec.at(&["behavior", direction, "tolerance"]).and_then(Value::as_str);
        own.and_then(|t| t.parse::<Quantity>().ok()).map_or(TOLERANCE, |q| q.milli_value() as f64 / 1000.0)
    };
    Tolerance { up: of("scaleUp"), down: of("scaleDown") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_that_cannot_be_had_keep_a_target_from_shrinking_and_are_told_together() {
        let trouble = |name: &str| Trouble::scaling("FailedGetResourceMetric", name);
        let of = |best: Option<i64>, troubles: &[&str]| {
            let troubles = troubles.iter().map(|name| trouble(name)).collect();
            verdict(best.map(|n| (n, "cpu".into())), troubles, 3, 5).map_err(|t| t.no_number.unwrap_or_default()).map(|(n, _)| n)
        };
        assert_eq!(of(Some(3), &[]), Ok(3));
        assert_eq!(of(Some(7), &["a"]), Ok(7));
        assert_eq!(of(Some(5), &["a"]), Ok(5));
        assert_eq!(of(Some(3), &["a"]), Err("invalid metrics (1 invalid out of 3), first error is: a".into()));
        assert_eq!(of(None, &["b", "a", "c"]), Err("invalid metrics (3 invalid out of 3), first error is: b".into()));
        assert_eq!(of(None, &[]), Err(String::new()));
    }
}
