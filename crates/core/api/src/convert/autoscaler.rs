//! HorizontalPodAutoscalers in autoscaling/v1: metrics that are not the CPU's, their state, conditions and behavior stand in
//! annotations, in the shape that they once had; see upstream's conversion of autoscaling/v1.

use fram_machinery::schema::Schema;
use fram_machinery::{Type, TypeId, Value, json, meta, normalize, object};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
/// What only a conversion sets; in autoscaling/v2 they are nothing.
const ROUND_TRIP: [&str; 6] = [
    METRICS,
    CURRENT,
    CONDITIONS,
    BEHAVIOR,
    "autoscaling.alpha.kubernetes.io/scale-down-tolerance",
    "autoscaling.alpha.kubernetes.io/scale-up-tolerance",
];

/// The fields of one sort of metric: in v1, and their paths in v2. Those that are marked are always written, as zero.
type Shape = (&'static str, &'static [(&'static str, &'static [&'static str], bool)]);

const SPECS: [Shape; 5] = [
    (
        "resource",
        &[
            ("name", &["name"], false),
            ("targetAverageUtilization", &["target", "averageUtilization"], false),
            ("targetAverageValue", &["target", "averageValue"], false),
        ],
    ),
    (
        "containerResource",
        &[
            ("name", &["name"], false),
            ("container", &["container"], false),
            ("targetAverageUtilization", &["target", "averageUtilization"], false),
            ("targetAverageValue", &["target", "averageValue"], false),
        ],
    ),
    (
        "pods",
        &[
            ("metricName", &["metric", "name"], false),
            ("selector", &["metric", "selector"], false),
            ("targetAverageValue", &["target", "averageValue"], true),
        ],
    ),
    (
        "object",
        &[
            ("target", &["describedObject"], false),
            ("metricName", &["metric", "name"], false),
            ("selector", &["metric", "selector"], false),
            ("targetValue", &["target", "value"], true),
            ("averageValue", &["target", "averageValue"], false),
        ],
    ),
    (
        "external",
        &[
            ("metricName", &["metric", "name"], false),
            ("metricSelector", &["metric", "selector"], false),
            ("targetValue", &["target", "value"], false),
            ("targetAverageValue", &["target", "averageValue"], false),
        ],
    ),
];

const STATUSES: [Shape; 5] = [
    (
        "resource",
        &[
            ("name", &["name"], false),
            ("currentAverageUtilization", &["current", "averageUtilization"], false),
            ("currentAverageValue", &["current", "averageValue"], true),
        ],
    ),
    (
        "containerResource",
        &[
            ("name", &["name"], false),
            ("container", &["container"], false),
            ("currentAverageUtilization", &["current", "averageUtilization"], false),
            ("currentAverageValue", &["current", "averageValue"], true),
        ],
    ),
    (
        "pods",
        &[
            ("metricName", &["metric", "name"], false),
            ("selector", &["metric", "selector"], false),
            ("currentAverageValue", &["current", "averageValue"], true),
        ],
    ),
    (
        "object",
        &[
            ("target", &["describedObject"], false),
            ("metricName", &["metric", "name"], false),
            ("selector", &["metric", "selector"], false),
            ("currentValue", &["current", "value"], true),
            ("averageValue", &["current", "averageValue"], false),
        ],
    ),
    (
        "external",
        &[
            ("metricName", &["metric", "name"], false),
            ("metricSelector", &["metric", "selector"], false),
            ("currentValue", &["current", "value"], true),
            ("currentAverageValue", &["current", "averageValue"], false),
        ],
    ),
];

fn older(metric: &Value, shapes: &[Shape]) -> Value {
    let mut out = object!({ "type": (metric.str_at(&["type"])) });
    for (source, fields) in shapes {
        let Some(from) = metric.get(source).filter(|s| !s.is_null()) else { continue };
        for (name, path, always) in *fields {
            match from.at(path).filter(|v| !v.is_null()) {
                Some(value) => out.set(&[source, name], value.clone()),
                None if *always => out.set(&[source, name], "0"),
                None => {}
            }
        }
    }
    out
}

fn newer(metric: &Value, shapes: &[Shape]) -> Value {
    let mut out = object!({ "type": (metric.str_at(&["type"])) });
    for (source, fields) in shapes {
        let Some(from) = metric.get(source).filter(|s| !s.is_null()) else { continue };
        for (name, path, _) in *fields {
            if let Some(value) = from.get(name).filter(|v| !v.is_null()) {
                let path: Vec<&str> = std::iter::once(*source).chain(path.iter().copied()).collect();
                out.set(&path, value.clone());
            }
        }
    }
    out
}

/// A metric in its newer form, which says in which of its ways a target is meant.
fn newer_spec(metric: &Value) -> Value {
    let mut out = newer(metric, &SPECS);
    for (source, _) in SPECS {
        let Some(target) = out.at(&[source, "target"]).cloned() else { continue };
        let has = |field: &str| target.get(field).is_some();
        let ty = match source {
            "resource" | "containerResource" if has("averageUtilization") => "Utilization",
            "object" if !has("averageValue") => "Value",
            "external" if has("value") => "Value",
            _ => "AverageValue",
        };
        // The older form cannot leave the value out, and says zero.
        if source == "object" && has("averageValue") && target.str_at(&["value"]) == "0" {
            out.remove(&[source, "target", "value"]);
        }
        out.set(&[source, "target", "type"], ty);
    }
    out
}

/// JSON with the fields in the order in which the type declares them, as Go writes them.
fn ordered(schema: &Schema, ty: &Type, value: &Value) -> String {
    match (ty, value) {
        (Type::List(item), Value::List(list)) => {
            format!("[{}]", list.iter().map(|v| ordered(schema, item, v)).collect::<Vec<_>>().join(","))
        }
        (Type::Struct(id), Value::Map(map)) => {
            let fields = schema.get(*id).fields.iter();
            let parts = fields.filter_map(|f| Some(format!("\"{}\":{}", f.name, ordered(schema, &f.ty, map.get(&f.name)?))));
            format!("{{{}}}", parts.collect::<Vec<_>>().join(","))
        }
        (_, value) => json::to_string(value),
    }
}

fn annotate(value: &mut Value, schema: &Schema, annotation: &str, ty: &str, items: Vec<Value>) {
    let Some(id) = schema.id(ty).filter(|_| !items.is_empty()) else { return };
    let whole = |item: Value| normalize::decode(schema, id, item.clone()).map_or(item, |d| d.value);
    let items: Value = items.into_iter().map(whole).collect::<Vec<_>>().into();
    let text = ordered(schema, &Type::List(Box::new(Type::Struct(id))), &items);
    meta::set_annotation(value, annotation, &text);
}

/// Upstream writes the behavior as its internal type, of which the names of fields are capitalized.
fn internal(behavior: &Value) -> String {
    const RULES: [&str; 4] = ["stabilizationWindowSeconds", "selectPolicy", "policies", "tolerance"];
    const POLICY: [&str; 3] = ["type", "value", "periodSeconds"];
    let name = |field: &str| field[..1].to_uppercase() + &field[1..];
    let fields = |value: &Value, names: &[&str], each: &dyn Fn(&Value) -> String| {
        let parts = names.iter().map(|f| format!("\"{}\":{}", name(f), value.get(f).map_or("null".into(), each)));
        format!("{{{}}}", parts.collect::<Vec<_>>().join(","))
    };
    let policies = |list: &Value| match list {
        Value::List(list) => {
            format!("[{}]", list.iter().map(|p| fields(p, &POLICY, &|v| json::to_string(v))).collect::<Vec<_>>().join(","))
        }
        other => json::to_string(other),
    };
    fields(behavior, &["scaleUp", "scaleDown"], &|rules| if rules.is_null() { "null".into() } else { fields(rules, &RULES, &policies) })
}

/// Keys as the API writes them; what is null is left out.
fn external(value: Value) -> Value {
    match value {
        Value::Map(map) => {
            let name = |key: &str| {
                let mut letters = key.chars();
                letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
            };
            let entries = map.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (name(k).into(), external(v.clone())));
            Value::Map(fram_machinery::Map::from_entries(entries.collect()))
        }
        Value::List(list) => list.iter().cloned().map(external).collect::<Vec<_>>().into(),
        other => other,
    }
}

/// Takes away what only a conversion sets.
pub(crate) fn drop_annotations(value: &mut Value) {
    for annotation in ROUND_TRIP {
        value.remove(&["metadata", "annotations", annotation]);
    }
    if value.at(&["metadata", "annotations"]).is_some_and(Value::is_empty) {
        value.remove(&["metadata", "annotations"]);
    }
}

pub(super) fn to_v1(value: &mut Value, schema: &Schema, ty: TypeId) {
    let cpu = |m: &Value| m.str_at(&["type"]) == "Resource" && m.str_at(&["resource", "name"]) == "cpu";
    let target = |m: &Value| m.int_at(&["resource", "target", "averageUtilization"]).filter(|_| cpu(m));
    let metrics = value.list_at(&["spec", "metrics"]).to_vec();
    let current = value.list_at(&["status", "currentMetrics"]).to_vec();
    let conditions = value.list_at(&["status", "conditions"]).to_vec();
    drop_annotations(value);
    value.remove(&["spec", "metrics"]);
    for field in ["currentMetrics", "conditions"] {
        value.remove(&["status", field]);
    }
    if let Some(percent) = metrics.iter().find_map(target) {
        value.set(&["spec", "targetCPUUtilizationPercentage"], percent);
    }
    let percent = |m: &Value| m.int_at(&["resource", "current", "averageUtilization"]).filter(|_| cpu(m));
    if let Some(percent) = current.iter().find_map(percent) {
        value.set(&["status", "currentCPUUtilizationPercentage"], percent);
    }
    let others = metrics.iter().filter(|m| target(m).is_none()).map(|m| older(m, &SPECS)).collect();
    annotate(value, schema, METRICS, "autoscaling.v1.MetricSpec", others);
    annotate(value, schema, CURRENT, "autoscaling.v1.MetricStatus", current.iter().map(|m| older(m, &STATUSES)).collect());
    annotate(value, schema, CONDITIONS, "autoscaling.v1.HorizontalPodAutoscalerCondition", conditions);
    if let Some(behavior) = value.remove(&["spec", "behavior"]).filter(|b| !b.is_null()) {
        meta::set_annotation(value, BEHAVIOR, &internal(&behavior));
    }
    if let Ok(decoded) = normalize::decode(schema, ty, value.clone()) {
        *value = decoded.value;
    }
}

pub(super) fn to_v2(value: &mut Value) {
    let take = |name: &str| json::from_slice(meta::annotation(value, name)?.as_bytes()).ok();
    let list = |name: &str| take(name).and_then(|v: Value| v.as_list().map(|l| l.to_vec()));
    let (metrics, current, conditions) = (list(METRICS), list(CURRENT), list(CONDITIONS));
    let behavior = take(BEHAVIOR).map(external).filter(|b| !b.is_empty());
    let mut all: Vec<Value> = metrics.unwrap_or_default().iter().map(newer_spec).collect();
    if let Some(target) = value.remove(&["spec", "targetCPUUtilizationPercentage"]) {
        all.push(object!({
            "type": "Resource",
            "resource": { "name": "cpu", "target": { "type": "Utilization", "averageUtilization": target } }
        }));
    }
    if !all.is_empty() {
        value.set(&["spec", "metrics"], all);
    }
    let percent = value.remove(&["status", "currentCPUUtilizationPercentage"]).filter(|p| !p.is_null());
    let simple = percent
        .map(|percent| vec![object!({ "type": "Resource", "resource": { "name": "cpu", "current": { "averageUtilization": percent } } })]);
    let current = current.map(|list| list.iter().map(|m| newer(m, &STATUSES)).collect()).or(simple);
    if let Some(current) = current {
        value.set(&["status", "currentMetrics"], current);
    }
    if let Some(conditions) = conditions {
        value.set(&["status", "conditions"], conditions.into_iter().map(external).collect::<Vec<_>>());
    }
    if let Some(behavior) = behavior {
        value.set(&["spec", "behavior"], behavior);
    }
    drop_annotations(value);
}
