//! `fram delete`: deletes objects and waits until they are gone.

use std::time::Duration;

use fram_client::{DeleteOptions, Propagation};
use fram_machinery::{Reason, meta};

use crate::access::Access;
use crate::choose::{Bare, Chosen, Selectors, choose, duration, follow};
use crate::error::{CliError, Result};
use crate::manifests::Files;
use crate::print::{Report, note, nothing_found};

#[derive(clap::Args, Debug, Clone)]
pub struct Delete {
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
    /// How long processes may take to end, in seconds; 0 with --force only.
    #[arg(long, value_name = "SECONDS")]
    grace_period: Option<u32>,
    /// Processes get one second to end.
    #[arg(long, conflicts_with = "grace_period")]
    now: bool,
    /// Do not wait for the node: what runs there may go on for a while.
    #[arg(long)]
    force: bool,
    /// What becomes of dependents: background, foreground or orphan.
    #[arg(long, default_value = "background", value_parser = ["background", "foreground", "orphan"])]
    cascade: String,
    /// Return only when the objects are gone.
    #[arg(long, default_value_t = true)]
    wait: bool,
    /// For how long to wait.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,
    /// What is not there is no error.
    #[arg(long)]
    ignore_not_found: bool,
    /// The form: name, or a line per object.
    #[arg(short, long, value_name = "name", default_value = "", hide_default_value = true, value_parser = ["", "name"])]
    output: String,
    /// Have the server check, and delete nothing.
    #[arg(long, value_name = "server|none", default_value = "none", value_parser = ["server", "none"])]
    dry_run: String,
}

impl Delete {
    fn options(&self) -> Result<DeleteOptions> {
        let grace = match (self.now, self.force, self.grace_period) {
            (true, _, _) => Some(1),
            (_, true, None) => Some(0),
            (_, false, Some(0)) => Some(1),
            (_, true, Some(1..)) => return Err(CliError::usage("--force and --grace-period greater than 0 cannot be specified together")),
            (_, _, seconds) => seconds.map(i64::from),
        };
        let propagation = match self.cascade.as_str() {
            "foreground" => Propagation::Foreground,
            "orphan" => Propagation::Orphan,
            _ => Propagation::Background,
        };
        let dry_run = self.dry_run == "server";
        Ok(DeleteOptions { grace_period_seconds: grace, propagation: Some(propagation), dry_run, ..Default::default() })
    }
}

pub(crate) async fn run(access: &Access, delete: &Delete) -> Result<()> {
    let options = delete.options()?;
    if delete.all && !delete.selectors.is_empty() {
        return Err(CliError::usage("cannot set --all and --selector or --field-selector at the same time"));
    }
    let chosen = choose(access, &delete.targets, &delete.files, &delete.selectors, Bare::asked(delete.all)).await?;
    if chosen.is_empty() {
        note(&nothing_found(None));
        return Ok(());
    }
    // What was found by a list may be gone by now.
    let may_be_gone = delete.ignore_not_found || delete.all || !delete.selectors.is_empty();
    let (mut report, mut errors, mut going) = (Report::default(), Vec::new(), Vec::new());
    for one in chosen {
        match access.delete(&one.place(), options.clone()).await {
            Ok(answer) => {
                report.say(told(&one, delete, options.grace_period_seconds));
                going.push((one, uid(&answer)));
            }
            Err(error) if error.is(Reason::NotFound) && may_be_gone => {}
            Err(error) => errors.push(error),
        }
    }
    if delete.wait && !options.dry_run {
        let waiting = gone(access, &going);
        let waited = match delete.timeout.filter(|t| !t.is_zero()) {
            None => waiting.await,
            Some(patience) => {
                let late = |_| CliError::failed("timed out waiting for the objects to be gone; what holds them may be a finalizer");
                tokio::time::timeout(patience, waiting).await.map_err(late).flatten()
            }
        };
        errors.extend(waited.err());
    }
    report.end(errors)
}

/// The answer is the object where it still waits for something, and a Status with its UID where it is gone.
fn uid(answer: &fram_machinery::Value) -> String {
    match meta::uid(answer) {
        "" => answer.str_at(&["details", "uid"]).into(),
        uid => uid.into(),
    }
}

fn told(one: &Chosen, delete: &Delete, grace: Option<i64>) -> String {
    if delete.output == "name" {
        return format!("{}\n", one.place());
    }
    let operation = if grace == Some(0) { "force deleted" } else { "deleted" };
    let from = if one.ty.namespaced { format!(" from {} namespace", one.namespace) } else { String::new() };
    let dry = if delete.dry_run == "server" { " (server dry run)" } else { "" };
    format!("{} {:?} {operation}{from}{dry}\n", one.ty.label(), one.name)
}

/// Waits until none of the objects is there; another one of the same name is another object.
async fn gone(access: &Access, going: &[(Chosen, String)]) -> Result<()> {
    for (one, uid) in going {
        if !one.ty.can("watch") || !one.ty.can("list") {
            continue;
        }
        let decide =
            |object: Option<&fram_machinery::Value>| Ok(object.is_none_or(|o| !uid.is_empty() && meta::uid(o) != uid).then_some(()));
        match follow(&one.objects(access), &one.name, decide).await {
            // Who may delete need not be allowed to look.
            Err(error) if error.is(Reason::Forbidden) => {}
            other => other?,
        }
    }
    Ok(())
}
