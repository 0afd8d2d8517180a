//! How many replicas a metric asks for. Pure; see upstream's pkg/controller/podautoscaler/replica_calculator.go.

use std::collections::BTreeMap;

use fram_machinery::quantity::Quantity;
use fram_machinery::{Value, meta};
use jiff::Timestamp;

use crate::pods;

/// For so long after its start a pod's use of cpu says little; see --horizontal-pod-autoscaler-cpu-initialization-period.
const CPU_INITIALIZATION: i64 = 300;
/// A pod that became unready this soon never was ready; see --horizontal-pod-autoscaler-initial-readiness-delay.
const READINESS_DELAY: i64 = 30;

/// What a target says: a share of what pods ask for, or an amount for each.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Target {
    /// In percent.
    Utilization(i64),
    /// In thousandths.
    Average(i64),
}

/// What one metric asks for, and what it is now.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Proposal {
    pub(super) replicas: i64,
    /// In percent of what is asked for; only where the target is one.
    pub(super) utilization: Option<i64>,
    /// In thousandths, for each pod.
    pub(super) average: i64,
}

/// How far from its target a metric may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Tolerance {
    pub(super) up: f64,
    pub(super) down: f64,
}

impl Tolerance {
    pub(super) fn covers(&self, ratio: f64) -> bool {
        ratio >= 1.0 - self.down && ratio <= 1.0 + self.up
    }
}

/// A metric of resources: of all containers, or of one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Metric<'a> {
    pub(super) resource: &'a str,
    pub(super) container: Option<&'a str>,
    pub(super) target: Target,
}

fn milli(value: Option<&Value>) -> Option<i64> {
    value?.as_str()?.parse::<Quantity>().ok().map(|q| q.milli_value())
}

/// What each pod uses, in thousandths, by name; pods without the container, or the resource, are left out.
fn usage(metric: &Metric, metrics: &[std::sync::Arc<Value>]) -> BTreeMap<String, (i64, Option<Timestamp>, i64)> {
    let one = |m: &std::sync::Arc<Value>| {
        let containers = m.list_at(&["containers"]).iter().filter(|c| metric.container.is_none_or(|name| name == c.str_at(&["name"])));
        let used: Option<Vec<i64>> = containers.map(|c| milli(c.at(&["usage", metric.resource]))).collect();
        let used = used.filter(|u| !u.is_empty())?.into_iter().sum();
        let window = m.str_at(&["window"]).trim_end_matches('s').parse::<f64>().unwrap_or(0.0) as i64;
        Some((meta::name(m).to_string(), (used, pods::time(m, &["timestamp"]), window)))
    };
    metrics.iter().filter_map(one).collect()
}

/// What a pod asks for of the resource, in thousandths: as a whole where it says so of itself and no container is named (KEP-2837).
fn request(metric: &Metric, pod: &Value) -> Result<i64, String> {
    let (resource, name) = (metric.resource, meta::name(pod));
    if metric.container.is_none() && pod.at(&["spec", "resources", "requests"]).is_some_and(|r| !r.is_empty()) {
        let whole = fram_api::quota::requests(pod).get(resource).map(Quantity::milli_value);
        return whole.ok_or_else(|| format!("missing pod-level request for {resource} in Pod {name}"));
    }
    let sidecars = pod.list_at(&["spec", "initContainers"]).iter().filter(|c| c.str_at(&["restartPolicy"]) == "Always");
    let all = pod.list_at(&["spec", "containers"]).iter().chain(sidecars);
    let mut own = all.filter(|c| metric.container.is_none_or(|name| name == c.str_at(&["name"]))).peekable();
    if let (Some(container), None) = (metric.container, own.peek()) {
        return Err(format!("container {container} not found in Pod {name}"));
    }
    let one = |container: &Value| {
        let asked = milli(container.at(&["resources", "requests", resource]));
        asked.ok_or_else(|| format!("missing request for {resource} in container {} of Pod {name}", container.str_at(&["name"])))
    };
    own.map(one).sum()
}

/// Whether a pod's use of cpu counts already.
fn is_settled(pod: &Value, sampled: Option<Timestamp>, window: i64, now: Timestamp) -> bool {
    let Some(ready) = meta::condition(pod, "Ready") else { return false };
    let Some(started) = pods::time(pod, &["status", "startTime"]) else { return false };
    let changed = pods::time(ready, &["lastTransitionTime"]).unwrap_or(started);
    // What nobody knows is not held against it.
    let is_ready = ready.str_at(&["status"]) != "False";
    if started.as_second() + CPU_INITIALIZATION > now.as_second() {
        // The whole window has to lie in the time in which it was ready.
        return is_ready && sampled.is_some_and(|at| at.as_second() >= changed.as_second() + window);
    }
    is_ready || started.as_second() + READINESS_DELAY <= changed.as_second()
}

/// The replicas that a metric asks for; `all` are the pods that the target selects.
pub(super) fn propose(
    metric: &Metric,
    current: i64,
    all: &[std::sync::Arc<Value>],
    metrics: &[std::sync::Arc<Value>],
    tolerance: Tolerance,
    now: Timestamp,
) -> Result<Proposal, String> {
    let mut used = usage(metric, metrics);
    if used.is_empty() {
        return Err(format!("unable to get metrics for resource {}: no metrics returned from resource metrics API", metric.resource));
    }
    let (mut ready, mut unready, mut missing) = (0_i64, Vec::new(), Vec::new());
    for pod in all {
        let name = meta::name(pod).to_string();
        if meta::is_terminating(pod) || pod.str_at(&["status", "phase"]) == "Failed" {
            used.remove(&name);
            continue;
        }
        if pod.str_at(&["status", "phase"]) == "Pending" {
            unready.push(name);
            continue;
        }
        match used.get(&name) {
            None => missing.push(name),
            Some((_, at, window)) if metric.resource == "cpu" && !is_settled(pod, *at, *window, now) => unready.push(name),
            Some(_) => ready += 1,
        }
    }
    let selected = |name: &String| all.iter().any(|p| meta::name(p) == name);
    used.retain(|name, _| selected(name) && !unready.contains(name));
    if used.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".into());
    }
    let mut amounts: BTreeMap<String, i64> = used.into_iter().map(|(name, (used, ..))| (name, used)).collect();
    let requests: BTreeMap<String, i64> = match metric.target {
        Target::Utilization(_) => {
            all.iter().map(|p| Ok((meta::name(p).to_string(), request(metric, p)?))).collect::<Result<_, String>>()?
        }
        Target::Average(_) => BTreeMap::new(),
    };
    let (ratio, utilization) = measure(metric.target, &amounts, &requests)?;
    let average = amounts.values().sum::<i64>() / amounts.len() as i64;
    let done = |replicas: i64| Ok(Proposal { replicas, utilization, average });
    let growing_unready = !unready.is_empty() && ratio > 1.0;
    if !growing_unready && missing.is_empty() {
        return done(if tolerance.covers(ratio) { current } else { (ratio * ready as f64).ceil() as i64 });
    }
    // What is not known counts against the change: as much as asked for when shrinking, nothing when growing. Where there is none, it
    // does not count.
    for name in missing.into_iter().filter(|_| ratio != 1.0) {
        let full = match metric.target {
            Target::Utilization(target) => requests.get(&name).copied().unwrap_or(0) * target.max(100) / 100,
            Target::Average(target) => target,
        };
        amounts.insert(name, if ratio < 1.0 { full } else { 0 });
    }
    if growing_unready {
        amounts.extend(unready.into_iter().map(|name| (name, 0)));
    }
    let (guarded, _) = measure(metric.target, &amounts, &requests)?;
    if tolerance.covers(guarded) || (ratio < 1.0 && guarded > 1.0) || (ratio > 1.0 && guarded < 1.0) {
        return done(current);
    }
    let replicas = (guarded * amounts.len() as f64).ceil() as i64;
    let backwards = (guarded < 1.0 && replicas > current) || (guarded > 1.0 && replicas < current);
    done(if backwards { current } else { replicas })
}

/// What is used to what should be, and in percent of what is asked for.
fn measure(target: Target, amounts: &BTreeMap<String, i64>, requests: &BTreeMap<String, i64>) -> Result<(f64, Option<i64>), String> {
    let used: i64 = amounts.values().sum();
    match target {
        Target::Utilization(target) => {
            let asked: i64 = amounts.keys().filter_map(|name| requests.get(name)).sum();
            if asked == 0 {
                return Err("no metrics returned matched known pods".into());
            }
            let percent = used * 100 / asked;
            Ok((percent as f64 / target.max(1) as f64, Some(percent)))
        }
        Target::Average(target) => Ok((used as f64 / amounts.len().max(1) as f64 / target.max(1) as f64, None)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use fram_machinery::object;

    const NOW: &str = "2026-01-01T01:00:00Z";

    fn pod(name: &str, ready: &str) -> Arc<Value> {
        Arc::new(object!({
            "metadata": { "name": name },
            "spec": { "containers": [{ "name": "c", "resources": { "requests": { "cpu": "1" } } }] },
            "status": { "phase": "Running", "startTime": "2026-01-01T00:00:00Z",
                "conditions": [{ "type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:05Z" }] }
        }))
    }

    fn metrics(name: &str, cpu: &str) -> Arc<Value> {
        Arc::new(object!({ "metadata": { "name": name }, "timestamp": NOW, "window": "15s",
            "containers": [{ "name": "c", "usage": { "cpu": cpu } }] }))
    }

    fn check(target: Target, current: i64, pods: &[Arc<Value>], used: &[Arc<Value>]) -> Result<i64, String> {
        let metric = Metric { resource: "cpu", container: None, target };
        let tolerance = Tolerance { up: 0.1, down: 0.1 };
        propose(&metric, current, pods, used, tolerance, NOW.parse().unwrap()).map(|p| p.replicas)
    }

    fn ready(n: usize) -> Vec<Arc<Value>> {
        (0..n).map(|i| pod(&format!("p{i}"), "True")).collect()
    }

    fn each(cpu: &[&str]) -> Vec<Arc<Value>> {
        cpu.iter().enumerate().map(|(i, cpu)| metrics(&format!("p{i}"), cpu)).collect()
    }

    #[test]
    fn replicas_follow_the_ratio_of_use_to_target() {
        let half = Target::Utilization(50);
        assert_eq!(check(half, 2, &ready(2), &each(&["1", "1"])), Ok(4));
        assert_eq!(check(half, 4, &ready(4), &each(&["100m", "100m", "100m", "100m"])), Ok(1));
        assert_eq!(check(half, 2, &ready(2), &each(&["520m", "520m"])), Ok(2));
        assert_eq!(check(Target::Average(250), 2, &ready(2), &each(&["500m", "500m"])), Ok(4));
    }

    #[test]
    fn pods_of_which_nothing_is_known_count_against_the_change() {
        let half = Target::Utilization(50);
        // Growing: the missing one counts as idle.
        assert_eq!(check(half, 3, &ready(3), &each(&["1", "1"])), Ok(4));
        // Shrinking: it counts as busy.
        assert_eq!(check(half, 3, &ready(3), &each(&["100m", "100m"])), Ok(3));
    }

    #[test]
    fn pods_of_which_nothing_is_known_change_nothing_where_the_others_are_on_target() {
        assert_eq!(check(Target::Utilization(50), 4, &ready(4), &each(&["500m", "500m"])), Ok(4));
        assert_eq!(check(Target::Average(500), 4, &ready(4), &each(&["500m", "500m"])), Ok(4));
    }

    #[test]
    fn a_pod_that_is_young_counts_unless_it_is_said_not_to_be_ready() {
        let young = |ready: &str| {
            let mut pod = (*pod("p1", ready)).clone();
            pod.set(&["status", "startTime"], "2026-01-01T00:58:00Z");
            let at = object!({ "type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:58:10Z" });
            pod.set(&["status", "conditions"], object!([at]));
            Arc::new(pod)
        };
        let with = |ready: &str| check(Target::Utilization(50), 2, &[pod("p0", "True"), young(ready)], &each(&["500m", "1"]));
        assert_eq!((with("True"), with("Unknown"), with("False")), (Ok(3), Ok(3), Ok(2)));
    }

    #[test]
    fn pods_that_are_not_ready_count_as_idle_when_growing() {
        let mut pods = ready(2);
        pods.push(pod("p2", "False"));
        assert_eq!(check(Target::Utilization(50), 3, &pods, &each(&["1", "1", "1"])), Ok(4));
    }

    #[test]
    fn what_a_pod_asks_for_as_a_whole_goes_before_its_containers_unless_one_is_named() {
        let whole = Arc::new(object!({ "metadata": { "name": "p0" },
            "spec": { "resources": { "requests": { "cpu": "500m" } }, "containers": [{ "name": "c" }] },
            "status": { "phase": "Running", "startTime": "2026-01-01T00:00:00Z",
                "conditions": [{ "type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:05Z" }] } }));
        let asked = |container| {
            let metric = Metric { resource: "cpu", container, target: Target::Utilization(20) };
            let tolerance = Tolerance { up: 0.1, down: 0.1 };
            propose(&metric, 1, std::slice::from_ref(&whole), &each(&["250m"]), tolerance, NOW.parse().unwrap()).map(|p| p.replicas)
        };
        assert_eq!(asked(None), Ok(3));
        assert_eq!(asked(Some("c")), Err("missing request for cpu in container c of Pod p0".into()));
    }

    #[test]
    fn what_cannot_be_measured_is_an_error() {
        let error = check(Target::Utilization(50), 1, &ready(1), &[]).unwrap_err();
        assert_eq!(error, "unable to get metrics for resource cpu: no metrics returned from resource metrics API");
        let none = Arc::new(object!({ "metadata": { "name": "p0" }, "spec": { "containers": [{ "name": "c" }] },
            "status": { "phase": "Running", "startTime": "2026-01-01T00:00:00Z", "conditions": [{ "type": "Ready", "status": "True" }] } }));
        let error = check(Target::Utilization(50), 1, &[none], &each(&["1"])).unwrap_err();
        assert_eq!(error, "missing request for cpu in container c of Pod p0");
    }
}
