//! `fram rollout`: how an update of a workload comes along, and what it is told.

mod history;
mod progress;

use std::sync::Arc;
use std::time::Duration;

use fram_client::{PatchKind, WriteOptions};
use fram_machinery::{Status, Value, object};

use crate::access::Access;
use crate::choose::{Bare, Chosen, Selectors, choose, duration, follow};
use crate::error::{CliError, Result};
use crate::manifests::Files;
use crate::print::out;

pub use progress::progress;

#[derive(clap::Subcommand, Debug, Clone)]
pub(crate) enum Rollout {
    /// Waits until an update is through, and says how it comes along.
    #[command(after_help = "Example:\n  fram rollout status deployment/web")]
    Status(StatusOf),
    /// Replaces all pods, a few at a time.
    #[command(after_help = "Example:\n  fram rollout restart deployment/web")]
    Restart(Which),
    /// Goes back to an earlier revision.
    #[command(after_help = "Example:\n  fram rollout undo deployment/web --to-revision=3")]
    Undo(Undo),
    /// Lists the revisions.
    #[command(after_help = "Example:\n  fram rollout history deployment/web")]
    History(History),
    /// Holds an update where it is.
    #[command(after_help = "Example:\n  fram rollout pause deployment/web")]
    Pause(Which),
    /// Goes on with a held update.
    #[command(after_help = "Example:\n  fram rollout resume deployment/web")]
    Resume(Which),
}

#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Which {
    /// What: `TYPE NAME…` or `TYPE/NAME…`, of Deployments, DaemonSets or StatefulSets.
    #[arg(value_name = "TYPE[/NAME]")]
    targets: Vec<String>,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    selectors: Selectors,
}

#[derive(clap::Args, Debug, Clone)]
pub(crate) struct StatusOf {
    #[command(flatten)]
    which: Which,
    /// Wait until the update is through.
    #[arg(short, long, default_value_t = true)]
    watch: bool,
    /// For how long; for ever where nothing is said.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,
    /// Only this revision; fails when another takes its place.
    #[arg(long, value_name = "NUMBER")]
    revision: Option<i64>,
}

#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Undo {
    #[command(flatten)]
    which: Which,
    /// To which revision; else to the last one before.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    to_revision: i64,
}

#[derive(clap::Args, Debug, Clone)]
pub(crate) struct History {
    #[command(flatten)]
    which: Which,
    /// Show the pod template of this revision.
    #[arg(long, value_name = "NUMBER")]
    revision: Option<i64>,
}

pub(crate) async fn run(access: &Access, rollout: &Rollout) -> Result<()> {
    match rollout {
        Rollout::Status(of) => each(access, &of.which, async |one| status(access, of, one).await).await,
        Rollout::Restart(which) => each(access, which, async |one| restart(access, one).await).await,
        Rollout::Undo(undo) => each(access, &undo.which, async |one| history::undo(access, one, undo.to_revision).await).await,
        Rollout::History(of) => each(access, &of.which, async |one| history::show(access, one, of.revision).await).await,
        Rollout::Pause(which) => each(access, which, async |one| hold(access, one, true).await).await,
        Rollout::Resume(which) => each(access, which, async |one| hold(access, one, false).await).await,
    }
}

async fn each(access: &Access, which: &Which, act: impl AsyncFn(&Chosen) -> Result<()>) -> Result<()> {
    // A file names whole applications; what has no roll-out in it is passed over.
    let rolls = |one: &Chosen| one.ty.group == "apps" && matches!(one.ty.plural.as_str(), "deployments" | "daemonsets" | "statefulsets");
    let chosen = choose(access, &which.targets, &which.files, &which.selectors, Bare::All).await?;
    if !chosen.iter().any(rolls) && (!which.files.is_empty() || chosen.is_empty()) {
        return Err(CliError::failed("no objects passed that have rollouts"));
    }
    let mut errors = Vec::new();
    for one in &chosen {
        if !rolls(one) {
            if which.files.is_empty() {
                errors.push(CliError::failed(format!(
                    "{} have no rollouts: name a deployment, daemonset or statefulset",
                    one.ty.qualified()
                )));
            }
            continue;
        }
        if let Err(error) = act(one).await {
            errors.push(error);
        }
    }
    CliError::all(errors)
}

async fn status(access: &Access, of: &StatusOf, one: &Chosen) -> Result<()> {
    let mut last = String::new();
    let decide = |object: Option<&Value>| {
        let gone = || Status::not_found(&one.ty.group, &one.ty.plural, &one.name);
        let state = progress(&one.ty.kind, object.ok_or_else(gone)?, of.revision).map_err(CliError::Failed)?;
        if state.text != last {
            out(format!("{}\n", state.text))?;
            last.clone_from(&state.text);
        }
        Ok((state.done || !of.watch).then_some(()))
    };
    let objects = one.objects(access);
    let following = follow(&objects, &one.name, decide);
    match of.timeout.filter(|t| !t.is_zero()) {
        None => following.await,
        Some(patience) => {
            let late = |_| CliError::failed("timed out waiting for the condition");
            tokio::time::timeout(patience, following).await.map_err(late)?
        }
    }
}

/// Patches an object and says what was done to it.
async fn patch(access: &Access, one: &Chosen, kind: PatchKind, body: Value, done: &str) -> Result<()> {
    access.patch(&one.place(), "", kind, body, WriteOptions::default()).await?;
    out(format!("{} {done}\n", one.place()))
}

async fn object_of(access: &Access, one: &Chosen) -> Result<Arc<Value>> {
    Ok(one.objects(access).get(&one.name).await?)
}

async fn restart(access: &Access, one: &Chosen) -> Result<()> {
    if object_of(access, one).await?.bool_at(&["spec", "paused"]) == Some(true) {
        return Err(CliError::failed(format!("can't restart paused {} (run rollout resume first)", one.place())));
    }
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let body = object!({ "spec": { "template": { "metadata": { "annotations": { "kubectl.kubernetes.io/restartedAt": now } } } } });
    patch(access, one, PatchKind::Strategic, body, "restarted").await
}

async fn hold(access: &Access, one: &Chosen, paused: bool) -> Result<()> {
    if one.ty.kind != "Deployment" {
        return Err(CliError::failed(format!("{} cannot be paused or resumed: only deployments can", one.place())));
    }
    let now = object_of(access, one).await?.bool_at(&["spec", "paused"]) == Some(true);
    match (paused, now) {
        (true, true) => Err(CliError::failed(format!("{} is already paused", one.place()))),
        (false, false) => Err(CliError::failed(format!("{} is not paused", one.place()))),
        (true, false) => patch(access, one, PatchKind::Merge, object!({ "spec": { "paused": true } }), "paused").await,
        (false, true) => patch(access, one, PatchKind::Merge, object!({ "spec": { "paused": null } }), "resumed").await,
    }
}
