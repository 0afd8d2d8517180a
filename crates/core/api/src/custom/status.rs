//! What the status of a CustomResourceDefinition should say: which of its names are accepted, whether its resource is
//! served. Pure; see upstream's NamingConditionController and EstablishingController.

use std::collections::BTreeSet;

use fram_machinery::{Value, meta, object};

use crate::Api;

/// The names that a definition holds within its group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    pub group: String,
    /// Plural, singular and short names.
    pub resources: BTreeSet<String>,
    /// Kind and list kind.
    pub kinds: BTreeSet<String>,
}

impl Held {
    /// The names of the built-in kinds of a group: no definition takes their place, or what is stored under them.
    pub fn built_in(api: &Api, group: &str) -> Self {
        let mut held = Self { group: group.into(), ..Self::default() };
        for kind in api.kinds().filter(|k| k.custom.is_none() && k.group == group && !k.plural.is_empty()) {
            held.resources.extend([&kind.plural, &kind.singular].into_iter().chain(&kind.short).map(|n| n.to_string()));
            held.kinds.extend([&kind.kind, &kind.list_kind].map(|n| n.to_string()));
        }
        held.resources.remove("");
        held.kinds.remove("");
        held
    }

    /// The names that were accepted for a definition.
    pub fn by(definition: &Value) -> Self {
        let name = |field: &str| definition.str_at(&["status", "acceptedNames", field]).to_string();
        let short = definition.list_at(&["status", "acceptedNames", "shortNames"]).iter().filter_map(Value::as_str).map(String::from);
        let set = |names: Vec<String>| names.into_iter().filter(|n| !n.is_empty()).collect();
        Self {
            group: definition.str_at(&["spec", "group"]).into(),
            resources: set(short.chain([name("plural"), name("singular")]).collect()),
            kinds: set(vec![name("kind"), name("listKind")]),
        }
    }
}

/// What the status should be, given the names that other definitions of the group hold.
pub fn plan(definition: &Value, others: &[&Held], now: &str) -> Value {
    let mut status = definition.get("status").cloned().unwrap_or_default();
    let (names, problem) = names(definition, others);
    status.set(&["acceptedNames"], names);
    let accepted = match &problem {
        None => object!({ "type": "NamesAccepted", "status": "True", "reason": "NoConflicts", "message": "no conflicts found" }),
        Some((reason, message)) => {
            object!({ "type": "NamesAccepted", "status": "False", "reason": (*reason), "message": (message.as_str()) })
        }
    };
    // What was once established stays so.
    let established = if meta::condition_is_true(definition, "Established") {
        None
    } else if problem.is_none() {
        let message = "the initial names have been accepted";
        Some(object!({ "type": "Established", "status": "True", "reason": "InitialNamesAccepted", "message": message }))
    } else {
        let message = "not all names are accepted";
        Some(object!({ "type": "Established", "status": "False", "reason": "NotAccepted", "message": message }))
    };
    for condition in [Some(accepted), established].into_iter().flatten() {
        set_condition(&mut status, condition, now);
    }
    status
}

/// Sets a condition of a status; its time changes only with its state.
pub fn set_condition(status: &mut Value, mut condition: Value, now: &str) {
    let list = status.place(&["conditions"]).make_list();
    let found = list.make_mut().iter_mut().find(|c| c.str_at(&["type"]) == condition.str_at(&["type"]));
    match found {
        Some(old) => {
            let same = old.str_at(&["status"]) == condition.str_at(&["status"]);
            let time = if same { old.str_at(&["lastTransitionTime"]) } else { now };
            condition.set(&["lastTransitionTime"], time);
            *old = condition;
        }
        None => {
            condition.set(&["lastTransitionTime"], now);
            list.push(condition);
        }
    }
}

/// The accepted names, and the reason and message of the last conflict.
fn names(definition: &Value, others: &[&Held]) -> (Value, Option<(&'static str, String)>) {
    let asked = definition.at(&["spec", "names"]).cloned().unwrap_or_default();
    let before = definition.at(&["status", "acceptedNames"]).cloned().unwrap_or_default();
    let mut names = before.clone();
    let mut problem = None;
    let taken = |name: &str, own: &str, kinds: bool| {
        name != own && others.iter().any(|held| if kinds { held.kinds.contains(name) } else { held.resources.contains(name) })
    };
    for (field, kinds, reason) in [
        ("plural", false, "PluralConflict"),
        ("singular", false, "SingularConflict"),
        ("shortNames", false, "ShortNamesConflict"),
        ("kind", true, "KindConflict"),
        ("listKind", true, "ListKindConflict"),
    ] {
        let conflicts: Vec<String> = if field == "shortNames" {
            let own: Vec<&str> = before.list_at(&[field]).iter().filter_map(Value::as_str).collect();
            let new = asked.list_at(&[field]).iter().filter_map(Value::as_str).filter(|n| !own.contains(n));
            new.filter(|n| taken(n, "", kinds)).map(|n| format!("{n:?} is already in use")).collect()
        } else {
            let name = asked.str_at(&[field]);
            taken(name, before.str_at(&[field]), kinds).then(|| format!("{name:?} is already in use")).into_iter().collect()
        };
        if conflicts.is_empty() {
            copy(&asked, &mut names, field);
        } else {
            let message = if conflicts.len() == 1 { conflicts[0].clone() } else { format!("[{}]", conflicts.join(", ")) };
            problem = Some((reason, message));
        }
    }
    copy(&asked, &mut names, "categories");
    (names, problem)
}

fn copy(from: &Value, to: &mut Value, field: &str) {
    match from.get(field).filter(|v| !v.is_empty()) {
        Some(value) => to.set(&[field], value.clone()),
        None => drop(to.remove(&[field])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(plural: &str, kind: &str) -> Value {
        object!({ "spec": { "group": "example.com", "names": { "plural": plural, "singular": (kind.to_lowercase()), "kind": kind,
            "listKind": (format!("{kind}List")), "shortNames": ["f"] } } })
    }

    #[test]
    fn names_that_nobody_holds_are_accepted_and_established() {
        let status = plan(&definition("foos", "Foo"), &[], "t");
        assert_eq!(status.str_at(&["acceptedNames", "plural"]), "foos");
        let object = object!({ "status": status });
        assert!(meta::condition_is_true(&object, "NamesAccepted") && meta::condition_is_true(&object, "Established"));
    }

    #[test]
    fn a_name_that_another_definition_holds_is_a_conflict() {
        let mut first = definition("foos", "Foo");
        first.set(&["status"], plan(&first, &[], "t"));
        let held = Held::by(&first);
        let status = plan(&definition("foos", "Bar"), &[&held], "t");
        let object = object!({ "status": status });
        let condition = meta::condition(&object, "NamesAccepted").unwrap();
        assert_eq!(condition.str_at(&["reason"]), "ShortNamesConflict");
        assert_eq!(condition.str_at(&["message"]), "\"f\" is already in use");
        assert_eq!(meta::condition(&object, "Established").unwrap().str_at(&["reason"]), "NotAccepted");
        assert_eq!(object.str_at(&["status", "acceptedNames", "kind"]), "Bar");
    }

    #[test]
    fn no_definition_takes_the_place_of_a_built_in_kind() {
        let api = Api::builtin().unwrap();
        let held = Held::built_in(&api, "rbac.authorization.k8s.io");
        let status = plan(&definition("clusterroles", "Foo"), &[&held], "t");
        let object = object!({ "status": status });
        assert_eq!(meta::condition(&object, "NamesAccepted").unwrap().str_at(&["reason"]), "PluralConflict");
        assert!(!meta::condition_is_true(&object, "Established"));
    }

    #[test]
    fn a_definition_keeps_its_own_names() {
        let mut first = definition("foos", "Foo");
        first.set(&["status"], plan(&first, &[], "t"));
        assert_eq!(plan(&first, &[], "later"), first.get("status").cloned().unwrap());
    }
}
