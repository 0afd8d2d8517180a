//! The status of an autoscaler while it is worked on. Pure.

use fram_machinery::quantity::{Format, Quantity};
use fram_machinery::{Value, meta, object};
use jiff::Timestamp;

use super::replicas::Proposal;

pub(super) struct Report {
    status: Value,
    now: Timestamp,
}

impl Report {
    pub(super) fn new(scaler: &Value, now: Timestamp) -> Self {
        let mut status = scaler.get("status").filter(|s| !s.is_null()).cloned().unwrap_or_else(|| object!({}));
        if meta::generation(scaler) > 0 {
            status.set(&["observedGeneration"], meta::generation(scaler));
        }
        if status.int_at(&["desiredReplicas"]).is_none() {
            status.set(&["desiredReplicas"], 0);
        }
        if status.at(&["currentMetrics"]).is_none() {
            status.set(&["currentMetrics"], Value::Null);
        }
        Self { status, now }
    }

    fn time(at: Timestamp) -> String {
        at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }

    /// A condition keeps the time of its last change of status.
    pub(super) fn condition(&mut self, ty: &str, is_true: bool, reason: &str, message: &str) {
        let status = if is_true { "True" } else { "False" };
        let list = self.status.place(&["conditions"]).make_list();
        let since = list.iter().find(|c| c.str_at(&["type"]) == ty && c.str_at(&["status"]) == status);
        let since = since.map_or_else(|| Self::time(self.now), |c| c.str_at(&["lastTransitionTime"]).to_string());
        let condition = object!({ "type": ty, "status": status, "lastTransitionTime": since, "reason": reason, "message": message });
        match list.make_mut().iter_mut().find(|c| c.str_at(&["type"]) == ty) {
            Some(found) => *found = condition,
            None => list.push(condition),
        }
    }

    /// What the target has, and what it was asked for.
    pub(super) fn replicas(&mut self, current: i64, desired: i64) {
        self.status.set(&["currentReplicas"], current);
        self.status.set(&["desiredReplicas"], desired);
        if current == 0 {
            self.status.remove(&["currentReplicas"]);
        }
    }

    pub(super) fn desired(&mut self, replicas: i64) {
        self.status.set(&["desiredReplicas"], replicas);
    }

    pub(super) fn metrics(&mut self, found: Vec<Value>) {
        self.status.set(&["currentMetrics"], found);
    }

    pub(super) fn scaled(&mut self, at: Timestamp) {
        self.status.set(&["lastScaleTime"], Self::time(at));
    }

    pub(super) fn status(self) -> Value {
        self.status
    }
}

/// The entry of `currentMetrics` for a metric of resources.
pub(super) fn metric(spec: &Value, proposal: &Proposal) -> Value {
    let field = if spec.str_at(&["type"]) == "ContainerResource" { "containerResource" } else { "resource" };
    let name = spec.str_at(&[field, "name"]);
    let average = match name {
        "memory" => Quantity::from_units(proposal.average / 1000, Format::BinarySi),
        _ => Quantity::from_milli(proposal.average),
    };
    let mut current = object!({ "averageValue": (average.to_string()) });
    if let Some(percent) = proposal.utilization {
        current.set(&["averageUtilization"], percent);
    }
    let mut out = object!({ "type": (spec.str_at(&["type"])) });
    out.set(&[field], object!({ "name": name, "current": current }));
    if field == "containerResource" {
        out.set(&[field, "container"], spec.str_at(&[field, "container"]));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_keeps_its_time_until_its_status_changes() {
        let now = |second| Timestamp::from_second(second).unwrap();
        let mut report = Report::new(&object!({}), now(10));
        report.condition("AbleToScale", true, "A", "a");
        let mut report = Report::new(&object!({ "status": (report.status()) }), now(20));
        report.condition("AbleToScale", true, "B", "b");
        report.condition("ScalingActive", false, "C", "c");
        let conditions = report.status().list_at(&["conditions"]).to_vec();
        let words: Vec<_> = conditions.iter().map(|c| (c.str_at(&["reason"]), c.str_at(&["lastTransitionTime"]))).collect();
        assert_eq!(words, [("B", "1970-01-01T00:00:10Z"), ("C", "1970-01-01T00:00:20Z")]);
    }

    #[test]
    fn a_metric_shows_its_average_and_share() {
        let spec = object!({ "type": "Resource", "resource": { "name": "cpu" } });
        let shown = metric(&spec, &Proposal { replicas: 2, utilization: Some(60), average: 250 });
        assert_eq!(shown.at(&["resource", "current"]), Some(&object!({ "averageValue": "250m", "averageUtilization": 60 })));
    }
}
