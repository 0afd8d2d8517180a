//! Feature gates of Kubernetes 1.36: how far along each is, how it is where nobody says anything, and whether there is something here
//! that it switches. What a gate switches nowhere can only be said to be as it is. Pure.
//!
//! The list is in gates/known.txt: name, stage and default of upstream's (pkg/features and those of its libraries), whether it is locked
//! there, and how it is here.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use crate::features::Features;

/// How far along a feature is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Alpha,
    Beta,
    Ga,
    Deprecated,
}

impl Stage {
    /// As metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Alpha => "ALPHA",
            Self::Beta => "BETA",
            Self::Ga => "",
            Self::Deprecated => "DEPRECATED",
        }
    }
}

/// What a gate is to Fram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Here {
    /// It is so, and cannot be otherwise.
    Is(bool),
    /// It allows what may always be asked for.
    Any,
    /// It switches something.
    Switch,
}

/// A gate that Kubernetes knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gate {
    pub name: &'static str,
    pub stage: Stage,
    /// How it is upstream where nothing is said.
    pub default: bool,
    /// Whether upstream refuses to change it.
    pub locked: bool,
    pub here: Here,
}

/// The gates that stand for all of a stage.
const ALL_OF: [(&str, Stage); 2] = [("AllAlpha", Stage::Alpha), ("AllBeta", Stage::Beta)];

/// All of them, by their names.
fn known() -> &'static [Gate] {
    static KNOWN: OnceLock<Vec<Gate>> = OnceLock::new();
    KNOWN.get_or_init(|| include_str!("gates/known.txt").lines().filter_map(read).collect())
}

fn read(line: &'static str) -> Option<Gate> {
    let [name, stage, default, locked, here] = line.split(' ').collect::<Vec<_>>().try_into().ok()?;
    let stage = match stage {
        "alpha" => Stage::Alpha,
        "beta" => Stage::Beta,
        "ga" => Stage::Ga,
        _ => Stage::Deprecated,
    };
    let here = match here {
        "switch" => Here::Switch,
        "any" => Here::Any,
        state => Here::Is(state == "on"),
    };
    Some(Gate { name, stage, default: default == "on", locked: locked == "locked", here })
}

fn find(name: &str) -> Option<&'static Gate> {
    let all = known();
    all.binary_search_by(|gate| gate.name.cmp(name)).ok().map(|i| &all[i])
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    #[error("missing bool value for {0}")]
    NoValue(String),
    #[error("invalid value of {name}={value}: it is neither true nor false")]
    Value { name: String, value: String },
    #[error("component not registered: {0}")]
    Component(String),
    #[error("unrecognized feature gate: {0}")]
    Unknown(String),
    #[error("cannot set feature gate {name} to {wanted}, feature is locked to {is}", is = !wanted)]
    Locked { name: String, wanted: bool },
    #[error("cannot set feature gate {name} to {wanted}: here it is {is}", is = !wanted)]
    Fixed { name: String, wanted: bool },
    #[error("cannot set feature gate {name} to {wanted}: here {fixed} cannot be so")]
    Some { name: String, wanted: bool, fixed: String },
}

/// What is said of gates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FeatureGates {
    said: BTreeMap<String, bool>,
}

/// A value as Go reads it.
fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

impl FromStr for FeatureGates {
    type Err = GateError;

    /// Pairs `NAME=BOOL`, or `kube:NAME=BOOL`, separated by commas.
    fn from_str(text: &str) -> Result<Self, GateError> {
        let mut said = BTreeMap::new();
        for item in text.split(',').filter(|item| !item.is_empty()) {
            let (name, value) = item.split_once('=').ok_or_else(|| GateError::NoValue(item.trim().into()))?;
            let (component, name) = name.trim().split_once(':').unwrap_or(("kube", name.trim()));
            if component != "kube" {
                return Err(GateError::Component(component.into()));
            }
            let value = value.trim();
            let on = truth(value).ok_or_else(|| GateError::Value { name: name.into(), value: value.into() })?;
            said.insert(name.to_string(), on);
        }
        Self::of(said)
    }
}

impl FeatureGates {
    /// What is said, as far as it can be so.
    pub fn of(said: BTreeMap<String, bool>) -> Result<Self, GateError> {
        for (name, wanted) in &said {
            fault(name, *wanted, &said).map_or(Ok(()), Err)?;
            // On a node it goes with what the gate allows; to say here that it is off would be no more than said.
            if !wanted && find(name).is_some_and(|gate| gate.here == Here::Any) {
                return Err(GateError::Fixed { name: name.clone(), wanted: false });
            }
        }
        Ok(Self { said })
    }

    /// What several flags say together; a later one wins.
    pub fn merged(all: &[Self]) -> Result<Self, GateError> {
        Self::of(all.iter().flat_map(|one| one.said.clone()).collect())
    }

    /// What is said of a gate, or of all of its stage.
    pub fn said(&self, name: &str) -> Option<bool> {
        let of_stage = || {
            let stage = find(name)?.stage;
            let (all, _) = ALL_OF.iter().find(|(_, of)| *of == stage)?;
            self.said.get(*all)
        };
        self.said.get(name).or_else(of_stage).copied()
    }

    /// Whether what a gate switches is on. Of what goes with an API see `Features`.
    pub fn is_on(&self, name: &str) -> bool {
        match find(name) {
            None => false,
            Some(Gate { here: Here::Is(is), .. }) => *is,
            Some(Gate { here: Here::Any, .. }) => true,
            Some(gate) => self.said(name).unwrap_or(gate.default),
        }
    }

    /// Every gate, and whether it is on in a cluster that has these features.
    pub fn all(&self, features: &Features) -> Vec<(&'static str, Stage, bool)> {
        let of_stages = ALL_OF.iter().map(|(name, stage)| (*name, *stage, self.said.get(*name).copied().unwrap_or_default()));
        let each = known().iter().map(|gate| (gate.name, gate.stage, features.gate(gate.name).unwrap_or_else(|| self.is_on(gate.name))));
        let mut all: Vec<_> = of_stages.chain(each).collect();
        all.sort_unstable_by_key(|(name, ..)| *name);
        all
    }
}

impl fmt::Display for FeatureGates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs: Vec<String> = self.said.iter().map(|(name, on)| format!("{name}={on}")).collect();
        f.write_str(&pairs.join(","))
    }
}

/// Why a gate cannot be as somebody wants it, who also says the rest.
pub fn fault(name: &str, wanted: bool, said: &BTreeMap<String, bool>) -> Option<GateError> {
    let name_of = || name.to_string();
    if let Some((_, stage)) = ALL_OF.iter().find(|(all, _)| *all == name) {
        let others = known().iter().filter(|gate| gate.stage == *stage && !said.contains_key(gate.name));
        let fixed: Vec<&str> = others.filter(|gate| gate.here == Here::Is(!wanted)).map(|gate| gate.name).collect();
        return (!fixed.is_empty()).then(|| GateError::Some { name: name_of(), wanted, fixed: fixed.join(", ") });
    }
    match find(name) {
        None => Some(GateError::Unknown(name_of())),
        Some(gate) if gate.locked && gate.default != wanted => Some(GateError::Locked { name: name_of(), wanted }),
        Some(gate) if gate.here == Here::Is(!wanted) => Some(GateError::Fixed { name: name_of(), wanted }),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, wanted: Result<&str, &str>) {
        let read = text.parse::<FeatureGates>().map(|gates| gates.to_string()).map_err(|error| error.to_string());
        assert_eq!(read.as_ref().map(String::as_str).map_err(String::as_str), wanted, "{text:?}");
    }

    #[test]
    fn gates_are_what_upstream_has_or_named_as_what_they_are_not() {
        check("", Ok(""));
        check("WatchList=false,kube:ClusterTrustBundle=T", Ok("ClusterTrustBundle=true,WatchList=false"));
        check(" WatchList = 0 ,", Ok("WatchList=false"));
        check("SidecarContainers=true,MemoryQoS=false", Ok("MemoryQoS=false,SidecarContainers=true"));
        check("SidecarContainers=false", Err("cannot set feature gate SidecarContainers to false, feature is locked to true"));
        check("MemoryQoS=true", Err("cannot set feature gate MemoryQoS to true: here it is false"));
        check("CBORServingAndStorage=true", Ok("CBORServingAndStorage=true"));
        check("CBORServingAndStorage=false", Err("cannot set feature gate CBORServingAndStorage to false: here it is true"));
        check("Sidecars=true", Err("unrecognized feature gate: Sidecars"));
        check("wardle:A=true", Err("component not registered: wardle"));
        check("WatchList", Err("missing bool value for WatchList"));
        check("WatchList=maybe", Err("invalid value of WatchList=maybe: it is neither true nor false"));
    }

    #[test]
    fn a_whole_stage_is_on_only_where_all_of_it_can_be() {
        assert!("AllAlpha=false".parse::<FeatureGates>().is_ok());
        let refused = "AllAlpha=true".parse::<FeatureGates>().unwrap_err().to_string();
        assert!(refused.starts_with("cannot set feature gate AllAlpha to true: here APIServingWithRoutine, "), "{refused}");
        assert!(!refused.contains("GenericWorkload"), "{refused}");
        let none: FeatureGates = "AllAlpha=false".parse().unwrap();
        let but_one: FeatureGates = "AllAlpha=false,GenericWorkload=true".parse().unwrap();
        assert_eq!([none, but_one].map(|gates| gates.said("GenericWorkload")), [Some(false), Some(true)]);
    }

    #[test]
    fn every_line_of_the_list_is_read_and_each_gate_stands_once() {
        assert_eq!(known().len(), include_str!("gates/known.txt").lines().count());
        assert!(known().is_sorted_by(|one, next| one.name < next.name));
        assert_eq!(FeatureGates::default().all(&Features::default()).len(), known().len() + 2);
        let of = |gate: &Gate| FeatureGates::default().said(gate.name);
        assert!(known().iter().all(|gate| of(gate).is_none()));
    }
}
