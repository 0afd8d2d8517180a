//! `fram apply`: server-side apply of manifests.

use std::sync::Arc;

use fram_client::{PatchKind, WriteOptions};
use fram_machinery::{Reason, Value, meta};

use crate::access::{Access, Place};
use crate::choose::{Chosen, no_match};
use crate::error::{CliError, Result};
use crate::manifests::Files;
use crate::output::{self, Output, without_managed_fields};
use crate::print::Report;

#[derive(clap::Args, Debug, Clone)]
pub struct Apply {
    #[command(flatten)]
    files: Files,
    /// Take fields over from other managers.
    #[arg(long)]
    force_conflicts: bool,
    /// Under which name the fields are owned.
    #[arg(long, value_name = "NAME", default_value = "fram")]
    field_manager: String,
    /// Have the server check, and store nothing.
    #[arg(long, value_name = "server|none", default_value = "none", value_parser = ["server", "none"])]
    dry_run: String,
    /// How the server treats unknown fields: strict, warn or ignore.
    #[arg(long, value_name = "HOW", default_value = "strict", value_parser = ["strict", "warn", "ignore"])]
    validate: String,
    /// The form: yaml, json, name or jsonpath=TEMPLATE; else a line per object.
    #[arg(short, long, value_name = "FORM", default_value = "", hide_default_value = true)]
    output: String,
    /// Apply is always done by the server; kubectl's flag is taken.
    #[arg(long, hide = true)]
    server_side: bool,
}

pub(crate) async fn run(access: &Access, apply: &Apply) -> Result<()> {
    if apply.files.is_empty() {
        return Err(CliError::usage("must specify --filename: fram apply -f FILE"));
    }
    let form = Output::parse(&apply.output)?;
    let objects = apply.files.read()?;
    let mut discovery = access.discovery().await?.clone();
    let (mut report, mut errors, mut applied) = (Report::default(), Vec::new(), Vec::new());
    for object in &objects {
        let (version, kind) = (object.str_at(&["apiVersion"]), object.str_at(&["kind"]));
        if discovery.of_kind(version, kind).is_none() {
            // What was applied a moment ago may have brought the kind.
            match access.discover().await {
                Ok(now) => discovery = now,
                Err(error) => errors.push(error),
            }
        }
        let Some(ty) = discovery.of_kind(version, kind) else {
            errors.push(no_match(version, kind));
            continue;
        };
        let chosen = Chosen::of(access, ty, object);
        match one(access, apply, &chosen, object).await {
            Ok(_) if matches!(form, Output::Table { .. }) => report.say(told(&chosen, apply)),
            Ok(object) => applied.push((ty.label(), object)),
            Err(error) => errors.push(error),
        }
    }
    match shown(&form, &applied, objects.len() == 1) {
        Ok(text) => report.say(text),
        Err(error) => errors.push(error),
    }
    report.end(errors)
}

fn told(chosen: &Chosen, apply: &Apply) -> String {
    let dry = if apply.dry_run == "server" { " (server dry run)" } else { "" };
    format!("{} serverside-applied{dry}\n", chosen.place())
}

/// The objects as the server has them now: one by itself, several as a list.
fn shown(form: &Output, applied: &[(String, Arc<Value>)], one: bool) -> Result<String> {
    let bare = |object: &Value| {
        let mut object = object.clone();
        without_managed_fields(&mut object);
        object
    };
    match (form, applied) {
        (_, []) => Ok(String::new()),
        (Output::Name, several) => several.iter().map(|(label, object)| form.print(object, label)).collect(),
        (_, [(label, object)]) if one => form.print(&bare(object), label),
        (_, several) => form.print(&output::list(several.iter().map(|(_, o)| bare(o)).collect()), "list"),
    }
}

async fn one(access: &Access, apply: &Apply, chosen: &Chosen, object: &Value) -> Result<Arc<Value>> {
    if chosen.name.is_empty() {
        let kind = object.str_at(&["kind"]);
        return Err(CliError::failed(format!("a {kind} without metadata.name cannot be applied: give it a name")));
    }
    let named = meta::namespace(object);
    if chosen.ty.namespaced && access.namespace_was_given && !named.is_empty() && named != access.namespace {
        return Err(CliError::failed(format!(
            "the namespace from the provided object {named:?} does not match the namespace {:?}. You must pass '--namespace={named}' to perform this operation.",
            access.namespace
        )));
    }
    let mut body = object.clone();
    if chosen.ty.namespaced {
        body.set(&["metadata", "namespace"], chosen.namespace.as_str());
    }
    // What the server wrote is nobody's to apply; a manifest that was read from it has it all the same.
    for field in ["managedFields", "resourceVersion", "uid", "creationTimestamp", "generation"] {
        body.remove(&["metadata", field]);
    }
    let validation = match apply.validate.as_str() {
        "warn" => "Warn",
        "ignore" => "Ignore",
        _ => "Strict",
    };
    let options = WriteOptions {
        field_manager: apply.field_manager.clone(),
        field_validation: validation.into(),
        dry_run: apply.dry_run == "server",
        force: apply.force_conflicts,
    };
    let Place { ty, namespace, name } = chosen.place();
    access.patch(&Place { ty, namespace, name }, "", PatchKind::Apply, body, options).await.map_err(|error| explain(error, chosen))
}

/// A conflict says how to go on.
fn explain(error: CliError, chosen: &Chosen) -> CliError {
    match error {
        CliError::Server(mut status) if status.is(Reason::Conflict) => {
            status.message.push_str(
                "\nPlease review the fields above--they currently have other managers. Take them over with `--force-conflicts`,\nor remove them from your manifest to leave them to their managers.",
            );
            CliError::Server(status)
        }
        CliError::Server(status) if !status.message.contains(&chosen.name) => {
            CliError::Doing { doing: format!("applying {}", chosen.place()), status }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    #[test]
    fn several_objects_are_one_list() {
        let applied: Vec<(String, Arc<Value>)> =
            ["a", "b"].map(|name| ("configmap".into(), Arc::new(object!({ "metadata": { "name": name, "managedFields": [] } })))).into();
        let show = |form: &str, applied: &[(String, Arc<Value>)], one| shown(&Output::parse(form).unwrap(), applied, one).unwrap();
        assert_eq!(show("name", &applied, false), "configmap/a\nconfigmap/b\n");
        assert_eq!(show("jsonpath={.kind} {.items[*].metadata}", &applied, false), "List {\"name\":\"a\"} {\"name\":\"b\"}");
        assert_eq!(show("jsonpath={.metadata.name}", &applied[..1], true), "a");
        assert_eq!(show("json", &[], false), "");
    }
}
