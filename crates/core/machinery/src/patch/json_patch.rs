//! JSON patch (RFC 6902) with JSON pointers (RFC 6901).

use super::PatchError;
use crate::json::MAX_DEPTH;
use crate::value::{Key, Value};

/// More operations than this are refused, as upstream's maxJSONPatchOperations.
const MAX_OPERATIONS: usize = 10_000;
/// Copies may add this many bytes of text, keys and values together, as upstream's AccumulatedCopySizeLimit.
const MAX_COPIED: usize = 3 << 20;
/// Moves may look at this many values together.
const MAX_MOVED: usize = 1 << 20;

/// What the operations of one patch have cost: a small patch must not make a large object.
#[derive(Default)]
struct Spent {
    copied: usize,
    moved: usize,
}

/// The depth of a value, how many values it has, and the bytes of its texts.
fn measure(value: &Value) -> (usize, usize, usize) {
    let join = |(depth, count, bytes): (usize, usize, usize), (d, c, b): (usize, usize, usize)| (depth.max(d), count + c, bytes + b);
    let (depth, count, bytes) = match value {
        Value::Map(map) => map.iter().fold((0, 0, 0), |sum, (key, value)| {
            let (d, c, b) = measure(value);
            join(sum, (d, c, b + key.len()))
        }),
        Value::List(list) => list.iter().map(measure).fold((0, 0, 0), join),
        Value::String(text) => (0, 0, text.len()),
        _ => (0, 0, 0),
    };
    (depth + 1, count + 1, bytes + 8)
}

impl Spent {
    /// Counts a value that is put at a path, and refuses what gets too large or too deep.
    fn put(&mut self, operation: &str, path: &[String], value: &Value) -> Result<(), PatchError> {
        let (depth, count, bytes) = measure(value);
        match operation {
            "copy" => self.copied += bytes,
            "move" => self.moved += count,
            _ => {}
        }
        if self.copied > MAX_COPIED || self.moved > MAX_MOVED {
            return Err(malformed("the patch copies or moves too much"));
        }
        match path.len() + depth > MAX_DEPTH {
            true => Err(malformed("the patched object would be nested too deeply")),
            false => Ok(()),
        }
    }
}

/// Applies the operations in their order; all of them or none.
pub fn apply(target: &Value, patch: &Value) -> Result<Value, PatchError> {
    let operations = patch.as_list().ok_or_else(|| PatchError::Malformed("a JSON patch is a list of operations".into()))?;
    if operations.len() > MAX_OPERATIONS {
        let text = format!("The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}", operations.len());
        return Err(PatchError::TooLarge(text));
    }
    let mut spent = Spent::default();
    operations.iter().try_fold(target.clone(), |document, operation| step(document, operation, &mut spent))
}

fn step(mut document: Value, operation: &Value, spent: &mut Spent) -> Result<Value, PatchError> {
    let path = pointer(operation, "path")?;
    let value = || operation.get("value").cloned().ok_or_else(|| malformed("the operation has no value"));
    match operation.str_at(&["op"]) {
        "add" => {
            let value = value()?;
            spent.put("add", &path, &value)?;
            add(&mut document, &path, value)?;
        }
        "remove" => drop(remove(&mut document, &path)?),
        "replace" => {
            let value = value()?;
            spent.put("replace", &path, &value)?;
            *find_mut(&mut document, &path)? = value;
        }
        "move" => {
            let from = pointer(operation, "from")?;
            if path.len() > from.len() && path.starts_with(&from) {
                return Err(malformed("a value cannot be moved into itself"));
            }
            let moved = remove(&mut document, &from)?;
            spent.put("move", &path, &moved)?;
            add(&mut document, &path, moved)?;
        }
        "copy" => {
            let copied = find(&document, &pointer(operation, "from")?)?.clone();
            spent.put("copy", &path, &copied)?;
            add(&mut document, &path, copied)?;
        }
        "test" => {
            let (wanted, found) = (value()?, find(&document, &path)?);
            if !same(found, &wanted) {
                return Err(PatchError::Test(operation.str_at(&["path"]).into()));
            }
        }
        other => return Err(malformed(&format!("unexpected kind of operation {other:?}"))),
    }
    Ok(document)
}

/// Numbers are equal by value.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Int(i), Value::Float(f)) | (Value::Float(f), Value::Int(i)) => *i as f64 == *f,
        (Value::List(a), Value::List(b)) => a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| same(a, b)),
        (Value::Map(a), Value::Map(b)) => a.len() == b.len() && a.iter().all(|(k, v)| b.get(k).is_some_and(|w| same(v, w))),
        (a, b) => a == b,
    }
}

fn malformed(text: &str) -> PatchError {
    PatchError::Malformed(text.into())
}

fn missing(path: &[String]) -> PatchError {
    PatchError::DoesNotApply(format!("the path /{} does not exist", path.join("/")))
}

fn pointer(operation: &Value, field: &str) -> Result<Vec<String>, PatchError> {
    let text = operation.get(field).and_then(Value::as_str).ok_or_else(|| malformed(&format!("the operation has no {field}")))?;
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let rest = text.strip_prefix('/').ok_or_else(|| malformed(&format!("{text:?} is not a JSON pointer")))?;
    let steps = rest.split('/').map(|s| {
        let bad = s.match_indices('~').any(|(i, _)| !matches!(s.as_bytes().get(i + 1), Some(b'0' | b'1')));
        if bad { Err(malformed(&format!("{text:?} is not a JSON pointer"))) } else { Ok(s.replace("~1", "/").replace("~0", "~")) }
    });
    steps.collect()
}

/// An index into a list: digits without a leading zero.
fn index(step: &str, len: usize) -> Option<usize> {
    let canonical = step == "0" || (!step.starts_with('0') && !step.is_empty() && step.bytes().all(|b| b.is_ascii_digit()));
    step.parse().ok().filter(|i| canonical && *i < len)
}

fn find<'a>(document: &'a Value, path: &[String]) -> Result<&'a Value, PatchError> {
    path.iter().try_fold(document, |at, step| {
        let next = match at {
            Value::Map(map) => map.get(step),
            Value::List(list) => index(step, list.len()).map(|i| &list[i]),
            _ => None,
        };
        next.ok_or_else(|| missing(path))
    })
}

fn find_mut<'a>(document: &'a mut Value, path: &[String]) -> Result<&'a mut Value, PatchError> {
    let mut at = document;
    for step in path {
        at = match at {
            Value::Map(map) => map.get_mut(step).ok_or_else(|| missing(path))?,
            Value::List(_) => {
                let list = at.make_list();
                let i = index(step, list.len()).ok_or_else(|| missing(path))?;
                &mut list.make_mut()[i]
            }
            _ => return Err(missing(path)),
        };
    }
    Ok(at)
}

fn add(document: &mut Value, path: &[String], value: Value) -> Result<(), PatchError> {
    let Some((last, parents)) = path.split_last() else {
        *document = value;
        return Ok(());
    };
    match find_mut(document, parents)? {
        Value::Map(map) => map.insert(Key::from(last.as_str()), value),
        at @ Value::List(_) => {
            let list = at.make_list();
            let i = if last == "-" { list.len() } else { index(last, list.len() + 1).ok_or_else(|| missing(path))? };
            list.insert(i, value);
        }
        _ => return Err(missing(path)),
    }
    Ok(())
}

fn remove(document: &mut Value, path: &[String]) -> Result<Value, PatchError> {
    let Some((last, parents)) = path.split_last() else {
        return Ok(std::mem::take(document));
    };
    let removed = match find_mut(document, parents)? {
        Value::Map(map) => map.remove(last),
        at @ Value::List(_) => {
            let list = at.make_list();
            index(last, list.len()).map(|i| list.remove(i))
        }
        _ => None,
    };
    removed.ok_or_else(|| missing(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{json, object};

    #[test]
    fn a_patch_applies_whole_or_not_at_all() {
        let target = object!({ "a": [1, 2], "b": "x" });
        let bad = object!([{ "op": "remove", "path": "/a/0" }, { "op": "test", "path": "/b", "value": "y" }]);
        assert!(apply(&target, &bad).is_err());
        let good = object!([{ "op": "add", "path": "/a/-", "value": 3 }, { "op": "move", "from": "/b", "path": "/c" }]);
        assert_eq!(apply(&target, &good).unwrap(), object!({ "a": [1, 2, 3], "c": "x" }));
    }

    #[test]
    fn a_small_patch_makes_no_large_object() {
        let copies = |from: &str, path: &dyn Fn(usize) -> String, times: usize| {
            let operation = |i| object!({ "op": "copy", "from": from, "path": (path(i)) });
            apply(&object!({ "x": { "y": "text" } }), &(0..times).map(operation).collect::<Vec<Value>>().into())
        };
        // Each copy of the whole doubles it.
        assert!(matches!(copies("/x", &|i| format!("/x/c{i}"), 40), Err(PatchError::Malformed(_))));
        // Each copy into its own deepest place doubles the depth.
        let deepest = |i: usize| "/x".repeat(1 << i);
        assert!(matches!(copies("/x", &deepest, 12), Err(PatchError::Malformed(_) | PatchError::DoesNotApply(_))));
        let deep = object!([{ "op": "add", "path": "/a", "value": (json::from_slice(format!("{}1{}", "[".repeat(499), "]".repeat(499)).as_bytes()).unwrap()) }]);
        assert!(matches!(apply(&object!({}), &deep), Err(PatchError::Malformed(_))));
        assert!(copies("/x", &|i| format!("/c{i}"), 40).is_ok());
    }

    /// The cases of json-patch-tests, where there are any; see CONTRIBUTING.md.
    #[test]
    fn the_cases_of_rfc_6902_hold() {
        let Some(folder) = std::env::var_os("FRAM_GOLDEN") else {
            println!("FRAM_GOLDEN is not set: no case was read");
            return;
        };
        let folder = std::path::PathBuf::from(folder).join("json-patch-tests");
        let mut count = 0;
        for file in ["tests.json", "spec_tests.json"] {
            let cases = json::from_slice(&std::fs::read(folder.join(file)).unwrap()).unwrap();
            for case in cases.as_list().unwrap().iter().filter(|c| c.bool_at(&["disabled"]) != Some(true) && c.get("patch").is_some()) {
                check_case(case);
                count += 1;
            }
        }
        assert!(count > 80, "only {count} cases were read");
    }

    fn check_case(case: &Value) {
        let result = apply(case.get("doc").unwrap(), case.get("patch").unwrap());
        match (case.get("expected"), case.get("error")) {
            (Some(expected), _) => {
                let result = result.unwrap_or_else(|e| panic!("{case:?}: {e}"));
                assert!(same(&result, expected), "{case:?}: {result:?}");
            }
            (None, Some(_)) => assert!(result.is_err(), "{case:?} should fail"),
            (None, None) => drop(result.unwrap_or_else(|e| panic!("{case:?}: {e}"))),
        }
    }
}
