//! What is to be written next where a claim asks for more than it has. Pure; see expand.expandPVC and MarkFSResizeFinished.

use fram_machinery::Value;
use fram_machinery::quantity::Quantity;

#[derive(Debug, PartialEq)]
pub(super) enum Step {
    Nothing,
    /// The volume becomes so large.
    Volume(Value),
    /// The claim's new status: as large as the volume, and nothing under way.
    Claim(Value),
}

fn size(object: &Value, path: &[&str]) -> Option<i64> {
    object.at(path)?.as_str()?.parse::<Quantity>().ok().map(|q| q.milli_value())
}

/// Whether a claim asks for more than it says it has.
pub(super) fn asks_for_more(claim: &Value) -> bool {
    let (asked, told) = (&["spec", "resources", "requests", "storage"], &["status", "capacity", "storage"]);
    size(claim, asked).zip(size(claim, told)).is_some_and(|(asked, told)| asked > told)
}

pub(super) fn plan(claim: &Value, volume: &Value) -> Step {
    let Some(asked) = size(claim, &["spec", "resources", "requests", "storage"]) else { return Step::Nothing };
    let has = size(volume, &["spec", "capacity", "storage"]).unwrap_or(0);
    if asked > has {
        return Step::Volume(claim.at(&["spec", "resources", "requests", "storage"]).cloned().unwrap_or_default());
    }
    let told = size(claim, &["status", "capacity", "storage"]).unwrap_or(0);
    if told >= asked || has <= told {
        return Step::Nothing;
    }
    let mut status = claim.get("status").cloned().unwrap_or_default();
    status.set(&["capacity", "storage"], volume.at(&["spec", "capacity", "storage"]).cloned().unwrap_or_default());
    for field in ["allocatedResources", "allocatedResourceStatuses"] {
        status.remove(&[field]);
    }
    let others = status.list_at(&["conditions"]).iter().filter(|c| !matches!(c.str_at(&["type"]), "Resizing" | "FileSystemResizePending"));
    let others: Vec<Value> = others.cloned().collect();
    match others.is_empty() {
        true => drop(status.remove(&["conditions"])),
        false => status.set(&["conditions"], others),
    }
    Step::Claim(status)
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    fn claim(asked: &str, told: &str) -> Value {
        object!({ "spec": { "resources": { "requests": { "storage": asked } } },
            "status": { "capacity": { "storage": told }, "conditions": [{ "type": "Resizing", "status": "True" }] } })
    }

    fn volume(size: &str) -> Value {
        object!({ "spec": { "capacity": { "storage": size } } })
    }

    #[test]
    fn first_the_volume_grows_and_then_the_claim_says_so() {
        assert_eq!(plan(&claim("2Gi", "1Gi"), &volume("1Gi")), Step::Volume("2Gi".into()));
        let Step::Claim(status) = plan(&claim("2Gi", "1Gi"), &volume("2Gi")) else { panic!("not told") };
        assert_eq!(status, object!({ "capacity": { "storage": "2Gi" } }));
    }

    #[test]
    fn a_claim_asks_for_more_where_its_status_says_less() {
        for (asked, told, expect) in [("2Gi", "1Gi", true), ("1Gi", "1Gi", false), ("1Gi", "2Gi", false)] {
            assert_eq!(asks_for_more(&claim(asked, told)), expect, "{asked} {told}");
        }
        let mut unbound = claim("1Gi", "1Gi");
        unbound.remove(&["status"]);
        assert!(!asks_for_more(&unbound));
    }

    #[test]
    fn what_is_large_enough_stays_as_it_is() {
        for (asked, told, has) in [("1Gi", "1Gi", "1Gi"), ("1Gi", "2Gi", "2Gi"), ("1024Mi", "1Gi", "1Gi")] {
            assert_eq!(plan(&claim(asked, told), &volume(has)), Step::Nothing, "{asked} {told} {has}");
        }
    }
}
