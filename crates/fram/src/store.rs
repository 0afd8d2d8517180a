//! `fram store`: what is done to the store of a fram that does not run.

use std::process::ExitCode;

use anyhow::Context;
use fram_store::embedded::check::{Report, check};
use fram_store::{Embedded, Etcd, Options, Snapshot, Store};

use crate::cli::{Engine, StoreCheck, StoreCopy};

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

/// Copies all objects to the other engine.
pub(crate) fn run_copy(arguments: &StoreCopy) -> anyhow::Result<()> {
    anyhow::ensure!(arguments.etcd.is_shared(), "which etcd? --etcd-servers names it");
    let runtime = tokio::runtime::Runtime::new().context("the runtime cannot be started")?;
    let (count, revision) = runtime.block_on(copy(arguments))?;
    fram_cli::say(&format!("copied: {count} keys, at revision {revision} or later"));
    Ok(())
}

async fn copy(arguments: &StoreCopy) -> anyhow::Result<(usize, u64)> {
    let StoreCopy { data_dir, etcd, encryption, .. } = arguments;
    let encryption = encryption.open(etcd, data_dir)?;
    let (prefix, directory) = (etcd.prefix(), data_dir.join("store"));
    let (of_etcd, cipher) = (etcd.options(&encryption)?, encryption.clone());
    let embedded = Options { cipher: Some(cipher), ..Options::new(&directory) };
    // Of a server it is known by keys that expire that it was there a moment ago.
    let servers = format!("{prefix}masterleases/");
    match arguments.to {
        Engine::Etcd => {
            anyhow::ensure!(directory.try_exists()?, "there is no store at {}", directory.display());
            let store = Embedded::open(embedded).with_context(|| format!("cannot open {}", directory.display()))?;
            let source = store.snapshot(None).await?;
            readable(&source, &encryption)?;
            let count = Etcd::fill(&source, of_etcd).await?;
            Ok((count, source.revision().0))
        }
        Engine::DataDir => {
            let store = Etcd::open(fram_store::EtcdOptions { compaction_interval: None, ..of_etcd }).await?;
            let source = store.snapshot(None).await?;
            let there = source.prefix(&servers).next().map(|entry| entry.key.clone());
            anyhow::ensure!(
                there.is_none(),
                "a server of this cluster still runs, or did a moment ago: {}",
                there.map(|key| key.to_string()).unwrap_or_default()
            );
            readable(&source, &encryption)?;
            let count = Embedded::import(&source, |_| true, &embedded)?;
            store.close().await?;
            Ok((count, source.revision().0))
        }
    }
}

/// What is sealed by a key that is not at hand would be so for good.
fn readable(source: &Snapshot, encryption: &fram_encryption::Encryption) -> anyhow::Result<()> {
    let sealed = source.range(..).find(|entry| fram_store::Cipher::is_sealed(encryption, &entry.value));
    match sealed {
        Some(entry) => Err(anyhow::anyhow!("{} cannot be decrypted: the configuration of encryption has to be the server's", entry.key)),
        None => Ok(()),
    }
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
