//! Patches of object trees: JSON patch, JSON merge patch and strategic merge patch.

mod json_patch;
mod strategic;

pub use json_patch::apply as json;
pub use strategic::apply as strategic;

use crate::value::Value;

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PatchError {
    #[error("{0}")]
    Malformed(String),
    #[error("{0}")]
    TooLarge(String),
    #[error("the server rejected our request due to an error in our request: {0}")]
    DoesNotApply(String),
    #[error("the server rejected our request due to an error in our request: testing value {0} failed")]
    Test(String),
}

/// A JSON merge patch (RFC 7386): null removes, maps are merged, everything else replaces.
pub fn merge(target: &Value, patch: &Value) -> Value {
    let Value::Map(changes) = patch else { return patch.clone() };
    let mut out = target.as_map().cloned().unwrap_or_default();
    for (key, change) in changes.iter() {
        if change.is_null() {
            out.remove(key);
        } else {
            let merged = merge(out.get(key).unwrap_or(&Value::Null), change);
            out.insert(key.clone(), merged);
        }
    }
    Value::Map(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object;

    #[test]
    fn a_merge_patch_merges_maps_and_replaces_the_rest() {
        let target = object!({ "a": { "b": 1, "c": 2 }, "l": [1, 2] });
        let patch = object!({ "a": { "b": null, "d": { "e": null } }, "l": [3] });
        assert_eq!(merge(&target, &patch), object!({ "a": { "c": 2, "d": {} }, "l": [3] }));
    }
}
