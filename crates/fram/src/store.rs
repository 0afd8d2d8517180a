//! `fram store`: what is done to the store of a fram that does not run.

use std::process::ExitCode;

use anyhow::Context;
use fram_store::Options;
use fram_store::embedded::check::{Report, check};

use crate::cli::StoreCheck;

/// Reads all of the store; what is wrong goes to standard output, a line each. Fails where anything is.
pub(crate) fn run_check(arguments: &StoreCheck) -> anyhow::Result<ExitCode> {
    let directory = arguments.data_dir.join("store");
    let report = check(&Options::new(&directory)).with_context(|| format!("cannot check {}", directory.display()))?;
    for finding in &report.findings {
        fram_cli::say(&finding.to_string());
    }
    for note in &report.notes {
        fram_cli::say(note);
    }
    fram_cli::say(&summary(&report));
    Ok(if report.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn summary(report: &Report) -> String {
    let Report { files, bytes, keys, revision, findings, .. } = report;
    let verdict = match findings.len() {
        0 => "sound".to_string(),
        1 => "1 damage".to_string(),
        more => format!("{more} damages"),
    };
    format!("{verdict}: {files} files with {bytes} bytes, {keys} keys at revision {revision}")
}
