//! Request files: kinds, their objects, and requests about them, a line each. The grammar is in CONTRIBUTING.md under
//! "The corpus".

use std::sync::Arc;

use fram_api::{Api, Kind};
use fram_machinery::{Map, Value, yaml};

use crate::path;
use crate::vary;

/// One request with what has to happen before it.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    /// What it is known by in the answers: the kind and the line.
    pub(crate) id: String,
    pub(crate) kind: Arc<Kind>,
    pub(crate) steps: Vec<Step>,
    /// The case whose answer this one's is told by the difference to.
    pub(crate) like: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Step {
    pub(crate) action: Action,
    pub(crate) subresource: String,
    pub(crate) query: String,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    /// Takes the object as the current one without sending it.
    Hold(Value),
    Create(Value),
    /// Reads, changes and writes back.
    Put(Vec<String>, Value),
    /// A patch of this content type.
    Patch(&'static str, Value),
    Post(Value),
    Get,
    Delete(Value),
    DeleteCollection,
}

/// Reads one file.
pub(crate) fn read(api: &Api, file: &str, text: &str) -> Result<Vec<Case>, String> {
    let mut reader = Reader { api, kind: None, objects: Vec::new(), cases: Vec::new() };
    let mut lines = text.lines().enumerate().peekable();
    while let Some((number, line)) = lines.next() {
        let mut block = String::new();
        while let Some((_, inner)) = lines.next_if(|(_, l)| l.starts_with("  ") || l.is_empty()) {
            block.push_str(inner.strip_prefix("  ").unwrap_or(inner));
            block.push('\n');
        }
        reader.line(line, &block).map_err(|e| format!("{file}:{}: {e}", number + 1))?;
    }
    Ok(reader.cases)
}

struct Reader<'a> {
    api: &'a Api,
    kind: Option<Arc<Kind>>,
    objects: Vec<(String, Value)>,
    cases: Vec<Case>,
}

impl Reader<'_> {
    fn line(&mut self, line: &str, block: &str) -> Result<(), String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [] => Ok(()),
            [first, ..] if first.starts_with('#') => Ok(()),
            ["kind", version, kind] => {
                let (group, version) = version.split_once('/').unwrap_or(("", version));
                self.kind = Some(self.api.kind(group, version, kind).cloned().ok_or("no such kind")?);
                self.objects.clear();
                Ok(())
            }
            ["object", name] => {
                let mut object = yaml::from_str(block).map_err(|e| e.to_string())?;
                let kind = self.kind.clone().ok_or("an object needs a kind")?;
                let is_stored = kind.verbs != ["create"];
                if is_stored && object.at(&["metadata", "name"]).is_none() && object.at(&["metadata", "generateName"]).is_none() {
                    object.set(&["metadata", "name"], "NAME");
                }
                object.set(&["apiVersion"], kind.api_version());
                object.set(&["kind"], &kind.kind);
                self.objects.push((name.to_string(), object));
                self.case(name)
            }
            ["names", name] => vary::names(name).iter().try_for_each(|l| self.case(l)),
            ["verbs", name] => {
                let kind = self.kind.clone().ok_or("verbs of no kind")?;
                vary::verbs(&kind, name).iter().try_for_each(|l| self.case(l))
            }
            ["vary", name, how @ ..] => {
                let kind = self.kind.clone().ok_or("an object needs a kind")?;
                let lines = vary::vary(&kind, name, &self.object(name)?, how)?;
                lines.iter().try_for_each(|l| self.case(l))
            }
            ["-", ..] => self.case(line.trim_start_matches("- ")),
            _ => Err(format!("unknown line {line:?}")),
        }
    }

    fn object(&self, name: &str) -> Result<Value, String> {
        let found = self.objects.iter().find(|(n, _)| n == name);
        found.map(|(_, o)| o.clone()).ok_or_else(|| format!("no object {name}"))
    }

    fn case(&mut self, line: &str) -> Result<(), String> {
        let kind = self.kind.clone().ok_or("a request needs a kind")?;
        let id = format!("{} {}: {line}", kind.api_version(), kind.kind);
        if self.cases.iter().any(|c| c.id == id) {
            return Ok(());
        }
        let parts: Vec<&str> = line.split(" > ").collect();
        let unique = unique(&id);
        let mut steps = vec![self.first(parts[0])?];
        for part in &parts[1..] {
            steps.push(self.step(part).map_err(|e| format!("{part}: {e}"))?);
        }
        steps.iter_mut().for_each(|step| match &mut step.action {
            Action::Hold(v) | Action::Create(v) | Action::Put(_, v) | Action::Patch(_, v) | Action::Post(v) | Action::Delete(v) => {
                *v = substitute(v, &|text| text.replace("NAME", &unique));
            }
            Action::Get | Action::DeleteCollection => {}
        });
        let object = parts[0].split([';', '?']).next().unwrap_or_default().trim();
        let like = (parts.len() == 1 && object != line).then(|| format!("{} {}: {object}", kind.api_version(), kind.kind));
        self.cases.push(Case { id, kind, steps, like });
        Ok(())
    }

    fn first(&self, text: &str) -> Result<Step, String> {
        let mut changes = text.split("; ");
        let head = changes.next().unwrap_or_default();
        let (head, query) = head.split_once('?').unwrap_or((head, ""));
        let mut object = self.object(head.trim_start_matches('!'))?;
        changes.try_for_each(|c| path::change(&mut object, c))?;
        let action = if head.starts_with('!') { Action::Hold(object) } else { Action::Create(object) };
        Ok(Step { action, subresource: String::new(), query: query.into() })
    }

    fn step(&self, text: &str) -> Result<Step, String> {
        let (head, rest) = text.split_once(' ').unwrap_or((text, ""));
        let (head, query) = head.split_once('?').unwrap_or((head, ""));
        let (verb, subresource) = head.split_once('/').unwrap_or((head, ""));
        let body = || yaml::from_str(if rest.is_empty() { "{}" } else { rest }).map_err(|e| e.to_string());
        let action = match verb {
            "put" => {
                let mut changes: Vec<String> = rest.split("; ").filter(|c| !c.is_empty()).map(String::from).collect();
                // `@NAME` takes the status of that object.
                let taken = match changes.first().and_then(|c| c.strip_prefix('@')) {
                    Some(name) => self.object(name)?.get("status").cloned().unwrap_or_default(),
                    None => Value::Null,
                };
                changes.retain(|c| !c.starts_with('@'));
                Action::Put(changes, taken)
            }
            "merge" => Action::Patch("application/merge-patch+json", body()?),
            "strategic" => Action::Patch("application/strategic-merge-patch+json", body()?),
            "json" => Action::Patch("application/json-patch+json", body()?),
            "apply" => Action::Patch("application/apply-patch+yaml", body()?),
            "post" => Action::Post(body()?),
            "create" => Action::Create(self.object(rest)?),
            "get" => Action::Get,
            "delete" if rest.is_empty() => Action::Delete(Value::Null),
            "delete" => Action::Delete(body()?),
            "deletecollection" => Action::DeleteCollection,
            other => return Err(format!("unknown verb {other}")),
        };
        Ok(Step { action, subresource: subresource.into(), query: query.into() })
    }
}

/// A name that no other request uses: it stands for `NAME`.
pub(crate) fn unique(id: &str) -> String {
    let hash = id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    format!("c{:08x}", (hash ^ (hash >> 32)) as u32)
}

/// The tree with each text and key replaced.
pub(crate) fn substitute(value: &Value, with: &dyn Fn(&str) -> String) -> Value {
    match value {
        Value::String(text) => with(text).into(),
        Value::List(list) => list.iter().map(|v| substitute(v, with)).collect::<Vec<_>>().into(),
        Value::Map(map) => Value::Map(Map::from_entries(map.iter().map(|(k, v)| (with(k).into(), substitute(v, with))).collect())),
        other => other.clone(),
    }
}
