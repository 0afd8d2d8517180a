//! `fram scale`: how many replicas there are to be.

use fram_client::{PatchKind, WriteOptions};
use fram_machinery::{meta, object};

use crate::access::Access;
use crate::choose::{Bare, Chosen, Selectors, choose};
use crate::error::{CliError, Result};
use crate::manifests::Files;
use crate::print::Report;

#[derive(clap::Args, Debug, Clone)]
pub struct Scale {
    /// What: `TYPE NAME…` or `TYPE/NAME…`.
    #[arg(value_name = "TYPE[/NAME]")]
    targets: Vec<String>,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    selectors: Selectors,
    /// All objects of the type in the namespace.
    #[arg(long)]
    all: bool,
    /// How many.
    #[arg(long, value_name = "COUNT")]
    replicas: u32,
    /// Only where there are so many now.
    #[arg(long, value_name = "COUNT")]
    current_replicas: Option<u32>,
}

pub(crate) async fn run(access: &Access, scale: &Scale) -> Result<()> {
    let chosen = choose(access, &scale.targets, &scale.files, &scale.selectors, Bare::asked(scale.all)).await?;
    if chosen.is_empty() {
        return Err(CliError::failed("no objects passed to scale"));
    }
    let (mut report, mut errors) = (Report::default(), Vec::new());
    for one in &chosen {
        match to(access, one, scale).await {
            Ok(()) => report.say(format!("{} scaled\n", one.place())),
            Err(error) => errors.push(error),
        }
    }
    report.end(errors)
}

async fn to(access: &Access, one: &Chosen, scale: &Scale) -> Result<()> {
    if !one.ty.subresources.iter().any(|s| s == "scale") {
        return Err(CliError::failed(format!("{} cannot be scaled: {} have no replicas", one.place(), one.ty.qualified())));
    }
    let mut body = object!({ "spec": { "replicas": (i64::from(scale.replicas)) } });
    if let Some(expected) = scale.current_replicas {
        // Where a kind keeps its replicas is its own affair.
        let current = access.get(&one.place(), "scale").await?;
        let now = current.int_at(&["spec", "replicas"]).unwrap_or(0);
        if now != i64::from(expected) {
            return Err(CliError::failed(format!("Expected replicas to be {expected}, was {now}")));
        }
        // Nobody may have scaled it in between.
        body.set(&["metadata", "resourceVersion"], meta::resource_version(&current));
    }
    access.patch(&one.place(), "scale", PatchKind::Merge, body, WriteOptions::default()).await?;
    Ok(())
}
