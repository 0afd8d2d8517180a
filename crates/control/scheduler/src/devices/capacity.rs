//! How much of a device a request consumes, where a device has capacity that several may share (KEP-5075). Pure.

use std::collections::BTreeMap;

use fram_machinery::quantity::{Format, Quantity};
use fram_machinery::{Map, Value};

/// Amounts by the names of capacities.
pub(super) type Amounts = BTreeMap<String, Quantity>;

fn quantity(value: &Value) -> Option<Quantity> {
    value.as_str()?.parse().ok()
}

fn entries(value: Option<&Value>) -> impl Iterator<Item = (String, &Value)> {
    value.and_then(Value::as_map).into_iter().flat_map(Map::iter).map(|(name, value)| (name.to_string(), value))
}

/// Whether several may have the device at once.
pub(super) fn is_shared(device: &Value) -> bool {
    device.bool_at(&["allowMultipleAllocations"]) == Some(true)
}

/// What results say that they consume.
pub(super) fn of_result(result: &Value) -> Amounts {
    entries(result.get("consumedCapacity")).filter_map(|(name, n)| Some((name, quantity(n)?))).collect()
}

pub(super) fn add(total: &mut Amounts, amounts: &Amounts) {
    for (name, amount) in amounts {
        let entry = total.entry(name.clone()).or_insert(Quantity::zero());
        *entry = *entry + *amount;
    }
}

pub(super) fn subtract(total: &mut Amounts, amounts: &Amounts) {
    for (name, amount) in amounts {
        if let Some(entry) = total.get_mut(name) {
            *entry = *entry - *amount;
        }
    }
}

/// What a request consumes of a device of which `used` is taken: rounded up as the device's policies say. None where it asks for what
/// the device does not have, for more than is left, or for what a policy does not let it have.
pub(super) fn consumption(spec: &Value, device: &Value, used: &Amounts) -> Option<Amounts> {
    let asked = |name: &str| spec.at(&["capacity", "requests", name]).and_then(quantity);
    let mut names = entries(spec.at(&["capacity", "requests"])).map(|(name, _)| name);
    if names.any(|name| device.at(&["capacity", &name]).is_none()) {
        return None;
    }
    let mut out = Amounts::new();
    for (name, capacity) in entries(device.get("capacity")) {
        let all = quantity(capacity.get("value")?)?;
        let policy = capacity.get("requestPolicy").filter(|p| !p.is_null());
        let amount = amount(asked(&name), all, policy)?;
        if used.get(&name).copied().unwrap_or(Quantity::zero()) + amount > all {
            return None;
        }
        out.insert(name, amount);
    }
    Some(out)
}

/// How much of one capacity is consumed; None where the policy does not have it.
fn amount(asked: Option<Quantity>, all: Quantity, policy: Option<&Value>) -> Option<Quantity> {
    let default = policy.and_then(|p| quantity(p.get("default")?));
    let Some(asked) = asked else { return Some(default.unwrap_or(all)) };
    let Some(policy) = policy else { return Some(asked) };
    if let Some(range) = policy.get("validRange").filter(|r| !r.is_null()) {
        return in_range(asked, range).or(default.filter(|d| *d == asked));
    }
    let values: Vec<Quantity> = policy.list_at(&["validValues"]).iter().filter_map(quantity).collect();
    if values.is_empty() {
        return Some(asked);
    }
    values.into_iter().find(|valid| asked <= *valid).or(default.filter(|d| *d == asked))
}

/// The least amount of a range that is enough.
fn in_range(asked: Quantity, range: &Value) -> Option<Quantity> {
    let bound = |name: &str| range.get(name).and_then(quantity);
    let least = bound("min").unwrap_or(Quantity::zero());
    let mut amount = asked.max(least);
    if let Some(step) = bound("step").map(|step| step.value()).filter(|step| *step > 0) {
        let above = amount.value() - least.value();
        let steps = above / step + i64::from(above % step != 0);
        amount = Quantity::from_units(least.value().checked_add(steps.checked_mul(step)?)?, Format::BinarySi);
    }
    bound("max").is_none_or(|most| amount <= most).then_some(amount)
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    fn consumed(asked: Value, capacity: Value, used: &str) -> Option<String> {
        let (spec, device) = (object!({ "capacity": { "requests": asked } }), object!({ "capacity": { "memory": capacity } }));
        let used = Amounts::from([("memory".to_string(), used.parse().unwrap())]);
        consumption(&spec, &device, &used).map(|amounts| amounts["memory"].to_string())
    }

    #[test]
    fn policies_say_how_much_a_request_consumes() {
        let all = |policy: Value| object!({ "value": "10Gi", "requestPolicy": policy });
        let range = || all(object!({ "default": "1Gi", "validRange": { "min": "1Gi", "max": "8Gi", "step": "2Gi" } }));
        let values = || all(object!({ "default": "2Gi", "validValues": ["2Gi", "4Gi"] }));
        let ask = |n: &str| object!({ "memory": n });
        let table = [
            (object!({}), object!({ "value": "10Gi" }), "0", Some("10Gi")),
            (object!({}), object!({ "value": "10Gi" }), "1Gi", None),
            (ask("3Gi"), object!({ "value": "10Gi" }), "7Gi", Some("3Gi")),
            (ask("4Gi"), object!({ "value": "10Gi" }), "7Gi", None),
            (object!({}), range(), "0", Some("1Gi")),
            (ask("1Mi"), range(), "0", Some("1Gi")),
            (ask("4Gi"), range(), "0", Some("5Gi")),
            (ask("9Gi"), range(), "0", None),
            (ask("3Gi"), values(), "0", Some("4Gi")),
            (ask("5Gi"), values(), "0", None),
            (object!({ "other": "1" }), values(), "0", None),
        ];
        for (asked, capacity, used, expect) in table {
            let text = format!("{asked:?} {capacity:?} {used}");
            assert_eq!(consumed(asked, capacity, used).as_deref(), expect, "{text}");
        }
    }
}
