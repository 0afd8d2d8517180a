//! `fram wait`: waits until objects are as one wants them.

use std::time::Duration;

use fram_machinery::{Value, meta};

use crate::access::Access;
use crate::choose::{Bare, Chosen, Selectors, choose, duration, follow};
use crate::error::{CliError, Result};
use crate::jsonpath::{self, Template};
use crate::manifests::Files;
use crate::print::out;

#[derive(clap::Args, Debug, Clone)]
pub struct Wait {
    /// What: `TYPE NAME…`, `TYPE/NAME…`, or `TYPE` with --all or -l.
    #[arg(value_name = "TYPE[/NAME]")]
    targets: Vec<String>,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    selectors: Selectors,
    /// All objects of the type in the namespace.
    #[arg(long)]
    all: bool,
    /// What for: condition=NAME[=VALUE], delete, create, jsonpath={PATH}[=VALUE]. May be given several times.
    #[arg(long = "for", value_name = "WHAT", required = true)]
    what: Vec<String>,
    /// For how long; 0 looks once, a negative number waits for ever.
    #[arg(long, value_name = "DURATION", default_value = "30s", allow_hyphen_values = true)]
    timeout: String,
}

/// What is waited for.
#[derive(Debug, Clone, PartialEq)]
enum Aim {
    Deleted,
    Created,
    Condition { ty: String, status: String },
    Path { path: Template, value: Option<String> },
}

impl Aim {
    fn parse(text: &str) -> Result<Self> {
        let lower = text.to_lowercase();
        if lower == "delete" {
            return Ok(Self::Deleted);
        }
        if lower == "create" {
            return Ok(Self::Created);
        }
        if let Some(condition) = text.strip_prefix("condition=") {
            let (ty, status) = condition.split_once('=').unwrap_or((condition, "true"));
            return Ok(Self::Condition { ty: ty.into(), status: status.into() });
        }
        if let Some(path) = text.strip_prefix("jsonpath=") {
            // The value stands behind the brace that closes the template; filters have equal signs of their own.
            let (path, value) = match path.rfind('}') {
                Some(end) => path.split_at(end + 1),
                None => path.split_once('=').map_or((path, ""), |(p, _)| path.split_at(p.len())),
            };
            let value = value.strip_prefix('=').map(|v| v.trim_matches(['"', '\'']).to_string());
            let path = Template::parse(path.trim_matches('\'')).map_err(CliError::usage)?;
            return Ok(Self::Path { path, value });
        }
        Err(CliError::usage(format!("unrecognized condition: {text:?}; --for knows condition=NAME, delete, create and jsonpath={{PATH}}")))
    }

    fn is_met(&self, object: Option<&Value>) -> bool {
        let Some(object) = object else { return *self == Self::Deleted };
        match self {
            Self::Deleted => false,
            Self::Created => true,
            Self::Condition { ty, status } => condition_is(object, ty, status),
            Self::Path { path, value } => {
                // An element that is not there yet may come.
                let found = path.values(object).unwrap_or_default();
                match value {
                    Some(value) => matches!(found.as_slice(), [one] if jsonpath::text(one) == *value),
                    None => found.iter().any(|v| !v.is_null()),
                }
            }
        }
    }
}

/// Whether a condition has a value, and speaks of the object as it is now.
fn condition_is(object: &Value, ty: &str, status: &str) -> bool {
    let generation = meta::generation(object);
    let is_old = |of: &Value| of.int_at(&["observedGeneration"]).is_some_and(|seen| seen < generation);
    let conditions = object.list_at(&["status", "conditions"]);
    let found = conditions.iter().find(|c| c.str_at(&["type"]).eq_ignore_ascii_case(ty));
    let outdated = object.get("status").is_some_and(is_old);
    found.is_some_and(|c| c.str_at(&["status"]).eq_ignore_ascii_case(status) && !is_old(c) && !outdated)
}

/// None waits for ever.
fn patience(text: &str) -> Result<Option<Duration>> {
    if text.starts_with('-') {
        return Ok(None);
    }
    duration(text).map(Some).map_err(CliError::usage)
}

pub(crate) async fn run(access: &Access, wait: &Wait) -> Result<()> {
    let aims = wait.what.iter().map(|w| Aim::parse(w)).collect::<Result<Vec<_>>>()?;
    let patience = patience(&wait.timeout)?;
    let chosen = choose(access, &wait.targets, &wait.files, &wait.selectors, Bare::asked(wait.all)).await?;
    if chosen.is_empty() {
        return if aims.contains(&Aim::Deleted) { Ok(()) } else { Err(CliError::failed("no matching resources found")) };
    }
    // What lies beyond the clock's end is for ever.
    let deadline = patience.and_then(|p| tokio::time::Instant::now().checked_add(p));
    let mut errors = Vec::new();
    for one in &chosen {
        let waiting = until(access, one, &aims, patience == Some(Duration::ZERO));
        let outcome = match deadline {
            None => waiting.await,
            Some(_) if patience == Some(Duration::ZERO) => waiting.await,
            Some(deadline) => tokio::time::timeout_at(deadline, waiting).await.unwrap_or_else(|_| Err(late(one))),
        };
        match outcome {
            Ok(()) => out(format!("{} condition met\n", one.place()))?,
            Err(error) => errors.push(error),
        }
    }
    CliError::all(errors)
}

fn late(one: &Chosen) -> CliError {
    CliError::failed(format!("timed out waiting for the condition on {}/{}", one.ty.qualified(), one.name))
}

async fn until(access: &Access, one: &Chosen, aims: &[Aim], once: bool) -> Result<()> {
    let absence_is_fine = aims.iter().any(|a| matches!(a, Aim::Deleted | Aim::Created));
    let decide = |object: Option<&Value>| {
        if object.is_none() && !absence_is_fine {
            return Err(fram_machinery::Status::not_found(&one.ty.group, &one.ty.plural, &one.name).into());
        }
        match aims.iter().all(|aim| aim.is_met(object)) {
            true => Ok(Some(())),
            false if once => Err(late(one)),
            false => Ok(None),
        }
    };
    follow(&one.objects(access), &one.name, decide).await
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    #[test]
    fn aims_are_read_and_met() {
        let pod = object!({ "metadata": { "generation": 2 }, "status": { "phase": "Running", "observedGeneration": 2, "podIP": "10.0.0.1",
            "conditions": [{ "type": "Ready", "status": "True" }, { "type": "Old", "status": "True", "observedGeneration": 1 }] } });
        let cases = [
            ("condition=Ready", true),
            ("condition=ready=True", true),
            ("condition=Ready=false", false),
            ("condition=Old", false),
            ("condition=Missing", false),
            ("jsonpath={.status.phase}=Running", true),
            ("jsonpath='{.status.phase}'=Running", true),
            ("jsonpath={.status.phase}=Pending", false),
            ("jsonpath={.status.podIP}", true),
            ("jsonpath={.status.hostIP}", false),
            ("jsonpath={.status.conditions[?(@.type==\"Ready\")].status}=True", true),
            ("create", true),
            ("delete", false),
        ];
        for (text, met) in cases {
            assert_eq!(Aim::parse(text).unwrap().is_met(Some(&pod)), met, "{text}");
        }
        assert!(Aim::parse("delete").unwrap().is_met(None) && !Aim::parse("create").unwrap().is_met(None));
        assert!(Aim::parse("something").is_err());
    }
}
