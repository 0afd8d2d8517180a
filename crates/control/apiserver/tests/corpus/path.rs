//! Paths into object trees, `spec.ports[0]["a.b"]`, and the changes of a request: `PATH = YAML` and `-PATH`.

use fram_machinery::{Value, yaml};

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    Key(String),
    Index(usize),
    /// One past the last element.
    Append,
}

pub(crate) fn parse(text: &str) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix("[\"") {
            let (key, after) = inner.split_once("\"]").ok_or_else(|| format!("{text}: key without end"))?;
            steps.push(Step::Key(key.into()));
            rest = after;
        } else if let Some(inner) = rest.strip_prefix('[') {
            let (index, after) = inner.split_once(']').ok_or_else(|| format!("{text}: index without end"))?;
            steps.push(match index {
                "+" => Step::Append,
                n => Step::Index(n.parse().map_err(|_| format!("{text}: bad index {n}"))?),
            });
            rest = after;
        } else {
            let name = rest.strip_prefix('.').unwrap_or(rest);
            let end = name.find(['.', '[']).unwrap_or(name.len());
            steps.push(Step::Key(name[..end].into()));
            rest = &name[end..];
        }
    }
    Ok(steps)
}

/// The path of a field of what is at `path`.
pub(crate) fn below(path: &str, key: &str) -> String {
    let plain = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '$'));
    match (plain, path.is_empty()) {
        (true, true) => key.into(),
        (true, false) => format!("{path}.{key}"),
        (false, _) => format!("{path}[\"{key}\"]"),
    }
}

fn place<'a>(value: &'a mut Value, steps: &[Step]) -> &'a mut Value {
    let Some((step, rest)) = steps.split_first() else { return value };
    let next = match step {
        Step::Key(key) => value.make_map().entry(key.as_str()),
        Step::Index(_) | Step::Append => {
            let list = value.make_list();
            let at = if let Step::Index(i) = step { *i } else { list.len() };
            while list.len() <= at {
                list.push(Value::Null);
            }
            &mut list.make_mut()[at]
        }
    };
    place(next, rest)
}

fn remove(value: &mut Value, steps: &[Step]) {
    match steps {
        [] => *value = Value::Null,
        [Step::Key(key)] => drop(value.make_map().remove(key)),
        [Step::Index(i)] => {
            if *i < value.make_list().len() {
                value.make_list().remove(*i);
            }
        }
        [_, ..] => remove(place(value, &steps[..1]), &steps[1..]),
    }
}

/// Applies one change. `-PATH` removes; `TEXT*N` as a value repeats the text.
pub(crate) fn change(value: &mut Value, text: &str) -> Result<(), String> {
    if let Some(path) = text.strip_prefix('-') {
        remove(value, &parse(path)?);
        return Ok(());
    }
    let (path, raw) = text.split_once(" = ").ok_or_else(|| format!("{text}: neither PATH = VALUE nor -PATH"))?;
    let repeated = raw.rsplit_once('*').and_then(|(unit, n)| Some(unit.repeat(n.parse().ok()?)));
    let new = match repeated {
        Some(long) => Value::from(long),
        None => yaml::from_str(raw).map_err(|e| format!("{text}: {e}"))?,
    };
    *place(value, &parse(path)?) = new;
    Ok(())
}
