//! ResourceSlices: the devices that a driver offers, what they have, consume and are tainted with. Not what claims get of them.

use fram_machinery::quantity::Quantity;
use fram_machinery::status::FieldError;
use fram_machinery::{Map, Value, names};

use super::super::Strategy;
use super::super::pod::placement::node_selector;
use super::{label, qualified};

/// See ResourceSliceMaxDevices, and ResourceSliceMaxDevicesWithAdvancedFeatures for devices that cost more to look at.
const MOST_DEVICES: [usize; 2] = [128, 64];
/// See ResourceSliceMaxAttributesAndCapacitiesPerDevice and ResourceSliceMaxAttributeValuesPerDevice.
const MOST_ATTRIBUTES: usize = 32;
const MOST_VALUES: usize = 48;
/// See ResourceSliceMaxCountersPerCounterSet.
const MOST_COUNTERS: usize = 32;
/// See DeviceAttributeMaxValueLength.
const LONGEST_VALUE: usize = 64;
/// See CapacityRequestPolicyDiscreteMaxOptions.
const MOST_OPTIONS: usize = 10;

const LISTS: [&str; 4] = ["bools", "ints", "strings", "versions"];

pub(in super::super) struct ResourceSlice;
impl Strategy for ResourceSlice {
    fn default(&self, slice: &mut Value) {
        for device in devices_of(slice) {
            let Some(mappings) = device.get("nodeAllocatableResourceMappings").and_then(Value::as_map).cloned() else { continue };
            for key in mappings.keys() {
                let path = ["nodeAllocatableResourceMappings", key.as_str(), "allocationMultiplier"];
                if device.at(&path).is_none_or(Value::is_null) {
                    device.set(&path, "1");
                }
            }
        }
    }

    fn stamp(&self, slice: &mut Value, _old: Option<&Value>, now: &str) {
        for device in devices_of(slice).iter_mut().filter(|d| !d.list_at(&["taints"]).is_empty()) {
            for taint in device.place(&["taints"]).make_list().make_mut().iter_mut().filter(|t| t.str_at(&["timeAdded"]).is_empty()) {
                taint.set(&["timeAdded"], now);
            }
        }
    }

    fn validate(&self, slice: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let Some(spec) = slice.get("spec") else { return errors };
        pool(spec, &mut errors);
        let alone = ["nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection"];
        nodes(spec, "spec", &alone, "must be either unset or set to a non-empty string", &mut errors);
        if let Some(selector) = spec.get("nodeSelector").filter(|s| !s.is_null())
            && selector.list_at(&["nodeSelectorTerms"]).len() != 1
        {
            let why = "must have exactly one node selector term";
            errors.push(FieldError::invalid("spec.nodeSelector.nodeSelectorTerms", selector.get("nodeSelectorTerms").cloned(), why));
        }
        let (devices, counters) = (spec.list_at(&["devices"]), spec.list_at(&["sharedCounters"]));
        if !devices.is_empty() && !counters.is_empty() {
            errors.push(FieldError::invalid("spec", "", "only one of `sharedCounters` or `devices` is allowed"));
        }
        for (i, set) in counters.iter().enumerate() {
            consumed(set, &format!("spec.sharedCounters[{i}]"), &mut errors);
        }
        let most = MOST_DEVICES[usize::from(devices.iter().any(is_costly))];
        if devices.len() > most {
            errors.push(FieldError::too_many("spec.devices", devices.len(), most));
            return errors;
        }
        for (i, device) in devices.iter().enumerate() {
            self::device(device, spec.bool_at(&["perDeviceNodeSelection"]) == Some(true), &format!("spec.devices[{i}]"), &mut errors);
        }
        errors
    }

    fn validate_update(&self, slice: &Value, old: &Value) -> Vec<FieldError> {
        let fixed = [&["spec", "driver"][..], &["spec", "nodeName"], &["spec", "pool", "name"]];
        let changed = fixed.into_iter().filter(|path| slice.at(path) != old.at(path));
        changed.map(|path| FieldError::invalid(path.join("."), slice.at(path).cloned(), "field is immutable")).collect()
    }
}

fn devices_of(slice: &mut Value) -> &mut [Value] {
    match slice.list_at(&["spec", "devices"]).is_empty() {
        true => &mut [],
        false => slice.place(&["spec", "devices"]).make_list().make_mut(),
    }
}

fn is_costly(device: &Value) -> bool {
    let lists = device.get("attributes").and_then(Value::as_map).into_iter().flat_map(|m| m.iter());
    !device.list_at(&["taints"]).is_empty()
        || !device.list_at(&["consumesCounters"]).is_empty()
        || lists.into_iter().any(|(_, a)| LISTS.iter().any(|l| a.get(l).is_some_and(|v| !v.is_null())))
}

fn pool(spec: &Value, errors: &mut Vec<FieldError>) {
    let number = |field: &str| spec.int_at(&["pool", field]).unwrap_or(0);
    if number("resourceSliceCount") <= 0 {
        let at = "spec.pool.resourceSliceCount";
        errors.push(FieldError::invalid(at, number("resourceSliceCount"), "must be greater than zero"));
    }
    if number("generation") < 0 {
        let why = "must be greater than or equal to zero";
        errors.push(FieldError::invalid("spec.pool.generation", number("generation"), why));
    }
}

/// Of several ways to name nodes exactly one has to be taken.
fn nodes(of: &Value, at: &str, ways: &[&str], empty: &str, errors: &mut Vec<FieldError>) {
    let mut taken = Vec::new();
    for way in ways {
        let field = format!("{at}.{way}");
        match of.get(way).filter(|v| !v.is_null()) {
            None => {}
            Some(Value::String(text)) if text.is_empty() => errors.push(FieldError::invalid(field, "", empty)),
            Some(Value::Bool(false)) => errors.push(FieldError::invalid(field, false, "must be either unset or set to true")),
            Some(value) => {
                taken.push(format!("`{way}`"));
                match value {
                    Value::String(text) => {
                        errors.extend(names::dns_subdomain(text).err().map(|why| FieldError::invalid(field, &**text, why)));
                    }
                    Value::Map(_) => node_selector(value, format_args!("{field}"), errors),
                    _ => {}
                }
            }
        }
    }
    let why = format!("exactly one of {} is required", ways.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", "));
    match taken.len() {
        0 => errors.push(FieldError::required(at, &why)),
        1 => {}
        _ => errors.push(FieldError::invalid(at, format!("{{{}}}", taken.join(", ")), format!("{why}, but multiple fields are set"))),
    }
}

fn device(device: &Value, chooses_nodes: bool, at: &str, errors: &mut Vec<FieldError>) {
    const NODES: [&str; 3] = ["nodeName", "nodeSelector", "allNodes"];
    label(device.str_at(&["name"]), format!("{at}.name"), errors);
    amounts(device, at, errors);
    for (i, taint) in device.list_at(&["taints"]).iter().enumerate() {
        taint_errors(taint, &format!("{at}.taints[{i}]"), errors);
    }
    for (i, use_of) in device.list_at(&["consumesCounters"]).iter().enumerate() {
        consumed(use_of, &format!("{at}.consumesCounters[{i}]"), errors);
    }
    if chooses_nodes {
        nodes(device, at, &NODES, "must not be empty", errors);
    } else if NODES.iter().any(|f| device.get(f).is_some_and(|v| !v.is_null())) {
        let why = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
        errors.push(FieldError::invalid(at, Value::Null, why));
    }
    binding_conditions(device, at, errors);
    mappings(device, at, errors);
}

fn map_of(value: &Value, field: &str) -> Map {
    value.get(field).and_then(Value::as_map).cloned().unwrap_or_default()
}

fn amounts(device: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let (attributes, capacity) = (map_of(device, "attributes"), map_of(device, "capacity"));
    let count = attributes.len() + capacity.len();
    if count > MOST_ATTRIBUTES {
        let why = format!("the total number of attributes and capacities must not exceed {MOST_ATTRIBUTES}");
        errors.push(FieldError::invalid(at, count as i64, why));
    }
    let values = attributes.iter().map(|(_, a)| LISTS.iter().map(|l| a.list_at(&[l]).len()).sum::<usize>().max(1)).sum::<usize>();
    if values > MOST_VALUES {
        let why = format!("the total number of attribute values must not exceed {MOST_VALUES}");
        errors.push(FieldError::invalid(at, values as i64, why));
    }
    for (key, attribute) in attributes.iter() {
        qualified(key, &format!("{at}.attributes"), errors);
        self::attribute(attribute, &format!("{at}.attributes[{key}]"), errors);
    }
    let shared = device.bool_at(&["allowMultipleAllocations"]) == Some(true);
    for (key, amount) in capacity.iter() {
        qualified(key, &format!("{at}.capacity"), errors);
        let at = format!("{at}.capacity[{key}].requestPolicy");
        match amount.get("requestPolicy").filter(|p| !p.is_null()) {
            Some(_) if !shared => errors.push(FieldError::forbidden(at, "allowMultipleAllocations must be true")),
            Some(policy) => request_policy(amount.get("value"), policy, &at, errors),
            None => {}
        }
    }
}

fn attribute(attribute: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let mut given = 0;
    for (one, many) in [("bool", "bools"), ("int", "ints"), ("string", "strings"), ("version", "versions")] {
        let mut check = |value: &Value, at: String| {
            let text = value.as_str().unwrap_or_default();
            if one == "version" && !is_semantic_version(text) {
                errors.push(FieldError::invalid(&at, text, "must be a string compatible with semver.org spec 2.0.0"));
            }
            if text.len() > LONGEST_VALUE {
                errors.push(FieldError::too_long(at, LONGEST_VALUE));
            }
        };
        if let Some(value) = attribute.get(one).filter(|v| !v.is_null()) {
            given += 1;
            check(value, format!("{at}.{one}"));
        }
        if let Some(values) = attribute.get(many).and_then(Value::as_list) {
            given += 1;
            values.iter().enumerate().for_each(|(i, value)| check(value, format!("{at}.{many}[{i}]")));
            if values.is_empty() {
                errors.push(FieldError::invalid(format!("{at}.{many}"), attribute.get(many).cloned(), "must not be empty if specified"));
            }
        }
    }
    if given != 1 {
        errors.push(FieldError::invalid(at, "", "exactly one value must be specified"));
    }
}

/// `1.2.3-pre.1+build`, as semver.org has it.
pub(in crate::strategy) fn is_semantic_version(text: &str) -> bool {
    let (rest, build) = text.split_once('+').map_or((text, None), |(r, b)| (r, Some(b)));
    let (core, pre) = rest.split_once('-').map_or((rest, None), |(c, p)| (c, Some(p)));
    let word = |s: &str| !s.is_empty() && s.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-');
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|c| c.is_ascii_digit());
    let number = |s: &str| digits(s) && (s == "0" || !s.starts_with('0'));
    core.split('.').count() == 3
        && core.split('.').all(number)
        && pre.is_none_or(|p| p.split('.').all(|s| word(s) && (!digits(s) || number(s))))
        && build.is_none_or(|b| b.split('.').all(word))
}

/// How much of a capacity that is shared one claim can get.
fn request_policy(value: Option<&Value>, policy: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let amount = |v: Option<&Value>| v.and_then(Value::as_str).and_then(|t| t.parse::<Quantity>().ok());
    let Some(whole) = amount(value) else { return };
    let (options, range) = (policy.list_at(&["validValues"]), policy.get("validRange").filter(|r| !r.is_null()));
    if !options.is_empty() && range.is_some() {
        let why = "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time";
        return errors.push(FieldError::forbidden(at, why));
    }
    let kind = if range.is_some() { "validRange" } else { "validValues" };
    if options.is_empty() && range.is_none() {
        return;
    }
    let Some(usual) = amount(policy.get("default")) else {
        return errors.push(FieldError::required(format!("{at}.default"), &format!("required when {kind} is defined")));
    };
    let at = format!("{at}.{kind}");
    let Some(range) = range else {
        let amounts: Vec<Quantity> = options.iter().filter_map(|o| amount(Some(o))).collect();
        if amounts.len() > MOST_OPTIONS {
            errors.push(FieldError::too_many(&at, amounts.len(), MOST_OPTIONS));
        }
        for (i, option) in amounts.iter().enumerate() {
            let mut bad = |why: String| errors.push(FieldError::invalid(format!("{at}[{i}]"), options[i].clone(), why));
            if i > 0 && *option < amounts[i - 1] {
                bad("values must be sorted in ascending order".into());
            }
            if *option > whole {
                bad("option is larger than capacity value".into());
            }
            if amounts[..i].contains(option) {
                errors.push(FieldError::duplicate(format!("{at}[{i}]"), options[i].clone()));
            }
        }
        if !amounts.contains(&usual) {
            errors.push(FieldError::invalid(
                &at,
                policy.get("default").cloned(),
                "default value is not valid according to the requestPolicy",
            ));
        }
        return;
    };
    let Some(least) = amount(range.get("min")) else {
        return errors.push(FieldError::required(format!("{at}.min"), "required when validRange is defined"));
    };
    let (most, step) = (amount(range.get("max")), amount(range.get("step")));
    let mut bad = |field: &str, why: &str| errors.push(FieldError::invalid(format!("{at}.{field}"), range.get(field).cloned(), why));
    let stepped = |q: &Quantity| step.as_ref().is_none_or(|s| s.value() != 0 && (q.value() - least.value()) % s.value() == 0);
    let rules = [
        ("min", least > whole, "min is larger than capacity value"),
        ("min", usual < least, "default is less than min"),
        ("max", most.as_ref().is_some_and(|m| least > *m), "min is larger than max"),
        ("max", most.as_ref().is_some_and(|m| *m > whole), "max is larger than capacity value"),
        ("max", most.as_ref().is_some_and(|m| usual > *m), "default is more than max"),
        ("step", step.as_ref().is_some_and(|s| least.value() + s.value() > whole.value()), "one step is larger than capacity value"),
        ("step", !stepped(&usual), "value is not a multiple of a given step"),
        ("step", most.as_ref().is_some_and(|m| !stepped(m)), "value is not a multiple of a given step"),
    ];
    rules.iter().filter(|(_, broken, _)| *broken).for_each(|(field, _, why)| bad(field, why));
}

/// A set of counters, or what a device takes of one.
fn consumed(set: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let counters = map_of(set, "counters");
    if counters.is_empty() {
        errors.push(FieldError::required(format!("{at}.counters"), ""));
    }
    if counters.len() > MOST_COUNTERS {
        errors.push(FieldError::too_many(format!("{at}.counters"), counters.len(), MOST_COUNTERS));
    }
    counters.keys().for_each(|key| label(key, format!("{at}.counters"), errors));
}

pub(super) fn binding_conditions(of: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let (good, bad) = (of.list_at(&["bindingConditions"]), of.list_at(&["bindingFailureConditions"]));
    for (list, field) in [(good, "bindingConditions"), (bad, "bindingFailureConditions")] {
        for (i, condition) in list.iter().enumerate() {
            let (at, text) = (format!("{at}.{field}[{i}]"), condition.as_str().unwrap_or_default());
            errors.extend(names::qualified_name(text).err().map(|why| FieldError::invalid(&at, text, why)));
            if list[..i].contains(condition) {
                errors.push(FieldError::duplicate(&at, text));
            }
            if field == "bindingFailureConditions" && good.contains(condition) {
                errors.push(FieldError::invalid(at, text, "bindingFailureConditions must not overlap with bindingConditions"));
            }
        }
    }
    for (none, some, field, other) in
        [(good, bad, "bindingConditions", "bindingFailureConditions"), (bad, good, "bindingFailureConditions", "bindingConditions")]
    {
        if none.is_empty() && !some.is_empty() {
            errors.push(FieldError::invalid(format!("{at}.{field}"), Value::Null, format!("{field} are required to use {other}")));
        }
    }
}

fn mappings(device: &Value, at: &str, errors: &mut Vec<FieldError>) {
    for (name, mapping) in map_of(device, "nodeAllocatableResourceMappings").iter() {
        let at = format!("{at}.nodeAllocatableResourceMappings[{name}]");
        if name.contains('/') && !name.contains("kubernetes.io/") {
            errors.push(FieldError::invalid(&at, name.as_str(), "must be a node allocatable resource name"));
        }
        if let Some(multiplier) = mapping.get("allocationMultiplier").and_then(Value::as_str)
            && multiplier.parse::<Quantity>().is_ok_and(|q| q.is_negative() || q.is_zero())
        {
            errors.push(FieldError::invalid(format!("{at}.allocationMultiplier"), multiplier, "must be positive"));
        }
        match mapping.get("capacityKey").and_then(Value::as_str) {
            Some("") => errors.push(FieldError::invalid(format!("{at}.capacityKey"), "", "capacityKey must not be an empty string")),
            Some(key) if device.at(&["capacity", key]).is_none() => {
                errors.push(FieldError::not_found(format!("{at}.capacityKey"), key));
            }
            _ => {}
        }
    }
}

/// A taint of a device. Its effect is held against what is allowed by the description.
pub(super) fn taint_errors(taint: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let (key, value) = (taint.str_at(&["key"]), taint.str_at(&["value"]));
    errors.extend(names::qualified_name(key).err().map(|why| FieldError::invalid(format!("{at}.key"), key, why)));
    errors.extend(names::label_value(value).err().map(|why| FieldError::invalid(format!("{at}.value"), value, why)));
}

#[cfg(test)]
mod tests {
    use super::is_semantic_version;

    #[test]
    fn versions_are_those_of_semver() {
        for good in ["1.2.3", "0.0.0", "1.0.0-alpha.1", "1.0.0-0a+build.01", "1.0.0+x-y", "1.0.0-x-y"] {
            assert!(is_semantic_version(good), "{good}");
        }
        for bad in ["", "1", "1.2", "01.2.3", "1.2.3-", "1.2.3-01", "1.2.3+", "v1.2.3", "1.2.3-a..b", "1.2.3.4"] {
            assert!(!is_semantic_version(bad), "{bad}");
        }
    }
}
