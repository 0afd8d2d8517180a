//! Devices of dynamic resource allocation: the expressions that select them, which claims a pod has, and who tolerates a taint. Pure;
//! see upstream's dynamic-resource-allocation.

use std::collections::BTreeMap;
use std::sync::Arc;

use fram_cel::{Budget, Declared, Environment, Program, Semver, Type, Value as Cel};
use fram_machinery::quantity::Quantity;
use fram_machinery::{Map, Value};

/// What keeps an allocated claim until its devices are given back.
pub const CLAIM_FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// On a claim made from a template: which of the pod's claims it is.
pub const POD_CLAIM_NAME: &str = "resource.kubernetes.io/pod-claim-name";

/// What one evaluation may cost, in the steps of fram-cel.
const BUDGET: u64 = 1_000_000;

/// An expression that says which devices are meant.
#[derive(Debug, Clone)]
pub struct DeviceSelector {
    program: Program,
    /// Texts of the expression: a domain that a device does not have is an empty map, not an error.
    texts: Vec<String>,
}

/// What a selector may use.
fn environment() -> Environment {
    let simple = |ty| Declared::simple(ty);
    let quantity = Type::Named("kubernetes.Quantity".into(), [].into());
    let fields = vec![
        ("driver", simple(Type::Text)),
        ("allowMultipleAllocations", simple(Type::Bool)),
        ("attributes", Declared::map(Declared::map(simple(Type::Dyn), 0), 0)),
        ("capacity", Declared::map(Declared::map(simple(quantity), 0), 0)),
    ];
    Environment::kubernetes().bindings().variable_of("device", Declared::object("kubernetes.DRADevice", fields).into())
}

impl DeviceSelector {
    /// Compiles an expression, or says why it cannot be, as upstream words it.
    pub fn compile(text: &str) -> Result<Self, String> {
        let program = Program::compile(text, &environment()).map_err(|why| format!("compilation failed: {why}"))?;
        if !matches!(program.result(), Type::Bool | Type::Dyn) {
            return Err(format!("must evaluate to bool or the unknown type, not {}", program.result()));
        }
        Ok(Self { program, texts: text.split(['"', '\'']).skip(1).step_by(2).map(String::from).collect() })
    }

    /// Whether it means a device of a driver.
    pub fn matches(&self, driver: &str, device: &Value) -> Result<bool, String> {
        let (mut attributes, mut capacity) = (Domains::default(), Domains::default());
        for domain in &self.texts {
            attributes.0.entry(domain.clone()).or_default();
            capacity.0.entry(domain.clone()).or_default();
        }
        for (name, attribute) in map_at(device, "attributes") {
            attributes.add(name, driver, attribute_value(attribute)?);
        }
        for (name, held) in map_at(device, "capacity") {
            let quantity: Quantity = held.str_at(&["value"]).parse().map_err(|_| format!("capacity {name} is no quantity"))?;
            capacity.add(name, driver, Cel::Quantity(Arc::new(quantity)));
        }
        let shared = device.bool_at(&["allowMultipleAllocations"]).unwrap_or(false);
        let fields = vec![
            (Cel::from("driver"), Cel::from(driver)),
            (Cel::from("allowMultipleAllocations"), Cel::from(shared)),
            (Cel::from("attributes"), attributes.value()),
            (Cel::from("capacity"), capacity.value()),
        ];
        let answer = self.program.evaluate(&[("device", Cel::Map(Arc::new(fields)))], &mut Budget::new(BUDGET));
        answer.map_err(|error| error.to_string())?.as_bool().ok_or_else(|| "the result is no bool".into())
    }
}

fn map_at<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = (&'a str, &'a Value)> + use<'a> {
    value.get(field).and_then(Value::as_map).into_iter().flat_map(Map::iter).map(|(name, value)| (name.as_str(), value))
}

#[derive(Default)]
struct Domains(BTreeMap<String, Vec<(Cel, Cel)>>);

impl Domains {
    /// Names without a domain are the driver's.
    fn add(&mut self, name: &str, driver: &str, value: Cel) {
        let (domain, id) = name.split_once('/').unwrap_or((driver, name));
        self.0.entry(domain.into()).or_default().push((Cel::from(id), value));
    }

    fn value(self) -> Cel {
        Cel::Map(Arc::new(self.0.into_iter().map(|(domain, entries)| (Cel::from(domain), Cel::Map(Arc::new(entries)))).collect()))
    }
}

fn attribute_value(attribute: &Value) -> Result<Cel, String> {
    let version =
        |text: &str| Semver::parse(text).map(|v| Cel::Semver(Arc::new(v))).ok_or_else(|| format!("{text:?} is no semantic version"));
    match ["int", "bool", "string", "version"].into_iter().find_map(|kind| Some((kind, attribute.get(kind).filter(|v| !v.is_null())?))) {
        Some(("version", value)) => version(value.as_str().unwrap_or_default()),
        Some((_, value)) => Ok(Cel::from(value)),
        None => Err("unsupported attribute value".into()),
    }
}

/// A device's attribute by its full name, `domain/id`.
pub fn attribute<'a>(driver: &str, device: &'a Value, name: &str) -> Option<&'a Value> {
    let own = name.split_once('/').filter(|(domain, _)| *domain == driver).map(|(_, id)| id);
    device.at(&["attributes", name]).or_else(|| device.at(&["attributes", own?]))
}

/// The claims of a pod: what the pod calls each, and the name of the object; None while that is not made or, as its template wants
/// none, will not be.
pub fn claims_of_pod(pod: &Value) -> impl Iterator<Item = (&str, Option<&str>)> {
    pod.list_at(&["spec", "resourceClaims"]).iter().map(move |claim| {
        let name = claim.str_at(&["name"]);
        let direct = Some(claim.str_at(&["resourceClaimName"])).filter(|n| !n.is_empty());
        let statuses = pod.list_at(&["status", "resourceClaimStatuses"]).iter();
        let made =
            || statuses.clone().find(|s| s.str_at(&["name"]) == name).map(|s| s.str_at(&["resourceClaimName"])).filter(|n| !n.is_empty());
        (name, direct.or_else(made))
    })
}

/// Whether claims of a pod are yet to be made from their templates: until its status names them, or says that there will be none.
pub fn awaits_claims(pod: &Value) -> bool {
    let told = |name: &str| pod.list_at(&["status", "resourceClaimStatuses"]).iter().any(|s| s.str_at(&["name"]) == name);
    claims_of_pod(pod).any(|(name, object)| object.is_none() && !told(name))
}

/// Whether a taint of a device is covered by any of these tolerations.
pub fn tolerates(tolerations: &[Value], taint: &Value) -> bool {
    tolerations.iter().any(|t| {
        let same = |field: &str| t.str_at(&[field]).is_empty() || t.str_at(&[field]) == taint.str_at(&[field]);
        let exists = t.str_at(&["operator"]) == "Exists";
        same("effect") && same("key") && (exists || !t.str_at(&["key"]).is_empty() && t.str_at(&["value"]) == taint.str_at(&["value"]))
    })
}

/// Whether a DeviceTaintRule is about a device: where it says which devices it means, by all that it says.
pub fn is_selected(rule: &Value, driver: &str, pool: &str, device: &str) -> bool {
    let Some(selector) = rule.at(&["spec", "deviceSelector"]).filter(|s| !s.is_null()) else { return false };
    let said = |field: &str| selector.get(field).and_then(Value::as_str);
    [("driver", driver), ("pool", pool), ("device", device)].into_iter().all(|(field, is)| said(field).is_none_or(|wanted| wanted == is))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    #[test]
    fn selectors_see_attributes_and_capacity_by_domain() {
        let device = object!({
            "attributes": { "model": { "string": "x" }, "example.com/cores": { "int": 4 }, "version": { "version": "1.2.3" } },
            "capacity": { "memory": { "value": "8Gi" } }
        });
        let table = [
            ("device.driver == 'd.io'", Ok(true)),
            ("device.attributes['d.io'].model == 'x'", Ok(true)),
            ("device.attributes['example.com'].cores > 4", Ok(false)),
            ("device.capacity['d.io'].memory.compareTo(quantity('4Gi')) > 0", Ok(true)),
            ("device.attributes['d.io'].version.isGreaterThan(semver('1.0.0'))", Ok(true)),
            ("has(device.attributes['other.io'].model)", Ok(false)),
        ];
        for (text, expect) in table {
            assert_eq!(DeviceSelector::compile(text).unwrap().matches("d.io", &device), expect, "{text}");
        }
        assert!(DeviceSelector::compile("device.attributes['other.io'].model == 'x'").unwrap().matches("d.io", &device).is_err());
        assert!(DeviceSelector::compile("1").unwrap_err().contains("must evaluate to bool"));
    }

    #[test]
    fn a_pods_claims_are_named_by_itself_or_by_its_status() {
        let pod = object!({
            "spec": { "resourceClaims": [{ "name": "a", "resourceClaimName": "x" }, { "name": "b", "resourceClaimTemplateName": "t" },
                { "name": "c", "resourceClaimTemplateName": "t" }] },
            "status": { "resourceClaimStatuses": [{ "name": "b", "resourceClaimName": "p-b-1" }] } });
        let claims: Vec<_> = claims_of_pod(&pod).collect();
        assert_eq!(claims, [("a", Some("x")), ("b", Some("p-b-1")), ("c", None)]);
        assert!(awaits_claims(&pod));
        let mut told = pod.clone();
        told.set(&["status", "resourceClaimStatuses"], object!([{ "name": "b", "resourceClaimName": "p-b-1" }, { "name": "c" }]));
        assert!(!awaits_claims(&told));
    }
}
