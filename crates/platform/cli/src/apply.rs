//! `fram apply`: server-side apply of manifests.

use fram_client::{PatchKind, WriteOptions};
use fram_machinery::{Reason, Value, meta};

use crate::access::{Access, Place};
use crate::choose::{Chosen, no_match};
use crate::error::{CliError, Result};
use crate::manifests::Files;
use crate::output::{Output, without_managed_fields};
use crate::print::out;

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
    let mut errors = Vec::new();
    for object in &objects {
        let (version, kind) = (object.str_at(&["apiVersion"]), object.str_at(&["kind"]));
        if discovery.of_kind(version, kind).is_none() {
            // What was applied a moment ago may have brought the kind.
            discovery = access.discover().await?;
        }
        let Some(ty) = discovery.of_kind(version, kind) else {
            errors.push(no_match(version, kind));
            continue;
        };
        let chosen = Chosen::of(access, ty, object);
        match one(access, apply, &chosen, object).await {
            Ok(applied) => out(told(&applied, &chosen, apply, &form)?)?,
            Err(error) => errors.push(error),
        }
    }
    CliError::all(errors)
}

fn told(applied: &Value, chosen: &Chosen, apply: &Apply, form: &Output) -> Result<String> {
    if matches!(form, Output::Table { .. }) {
        let dry = if apply.dry_run == "server" { " (server dry run)" } else { "" };
        return Ok(format!("{} serverside-applied{dry}\n", chosen.place()));
    }
    let mut shown = applied.clone();
    without_managed_fields(&mut shown);
    form.print(&shown, &chosen.ty.label())
}

async fn one(access: &Access, apply: &Apply, chosen: &Chosen, object: &Value) -> Result<std::sync::Arc<Value>> {
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
