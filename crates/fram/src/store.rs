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
    // Without the cluster's keys a key of its own would be made for the encryption, which nobody else has.
    let authority = arguments.etcd.cert_dir(&arguments.data_dir).join("ca.crt");
    let is_there = authority.try_exists().with_context(|| format!("cannot look for {}", authority.display()))?;
    anyhow::ensure!(is_there, "the cluster's keys are not there, {} is missing: --data-dir or --cert-dir names them", authority.display());
    let runtime = tokio::runtime::Runtime::new().context("the runtime cannot be started")?;
    let (count, revision) = runtime.block_on(copy(arguments))?;
    let next = match arguments.to {
        Engine::Etcd => "start the server with --etcd-servers and what else is said of etcd here, in its unit too",
        Engine::DataDir => "start the server without --etcd-servers, in its unit too",
    };
    fram_cli::say(&format!("copied: {count} keys, at revision {revision} or later; next, {next}"));
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
            let is_there = directory.try_exists()? && Embedded::is_there(&embedded)?;
            anyhow::ensure!(is_there, "there is no store at {}", directory.display());
            let store = Embedded::open(embedded).with_context(|| format!("cannot open {}", directory.display()))?;
            let source = store.snapshot(None).await?;
            readable(&source, &encryption)?;
            let count = Etcd::fill(&source, of_etcd).await?;
            Ok((count, source.revision().0))
        }
        Engine::DataDir => {
            let store = Etcd::open(fram_store::EtcdOptions { compaction_interval: None, ..of_etcd }).await?;
            let source = store.snapshot(None).await?;
            unserved(&source, &servers)?;
            readable(&source, &encryption)?;
            let import = Embedded::import(&source, |_| true, &embedded)?;
            // A server that came back meanwhile may have acknowledged what is not among what was copied.
            let now = store.snapshot(None).await?;
            unserved(&now, &servers)?;
            unchanged(&source, &now)?;
            let count = import.finish()?;
            store.close().await?;
            Ok((count, source.revision().0))
        }
    }
}

/// That no server runs.
fn unserved(source: &Snapshot, servers: &str) -> anyhow::Result<()> {
    match source.prefix(servers).next() {
        Some(entry) => Err(anyhow::anyhow!("a server of this cluster still runs, or did a moment ago: {}", entry.key)),
        None => Ok(()),
    }
}

/// That nobody has written since the source was read. Keys that expire do so by themselves.
fn unchanged(source: &Snapshot, now: &Snapshot) -> anyhow::Result<()> {
    let written = now.range(..).find(|entry| entry.modified > source.revision());
    let deleted = || source.range(..).find(|entry| entry.expires.is_none() && now.get(&entry.key).is_none());
    match written.or_else(deleted) {
        Some(entry) => Err(anyhow::anyhow!("{} was written while it was copied: stop the servers and copy again", entry.key)),
        None => Ok(()),
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

#[cfg(test)]
mod tests {
    use fram_store::{Operation, Transaction};

    use super::*;

    #[tokio::test]
    async fn what_is_written_or_deleted_while_it_is_copied_is_noticed() {
        let store = Embedded::open(Options::in_memory()).unwrap();
        let commit = async |operation| {
            store.commit(Transaction::new(vec![operation])).await.unwrap();
            store.snapshot(None).await.unwrap()
        };
        let put = |key: &str, ttl| Operation::Put { key: key.into(), value: "1".to_string().into(), ttl };
        let source = commit(put("/registry/a", None)).await;
        assert!(unchanged(&source, &source).is_ok() && unserved(&source, "/registry/masterleases/").is_ok());
        let written = commit(put("/registry/b", None)).await;
        assert!(unchanged(&source, &written).unwrap_err().to_string().starts_with("/registry/b was written"));
        let deleted = commit(Operation::Delete { key: "/registry/a".into() }).await;
        assert!(unchanged(&written, &deleted).unwrap_err().to_string().starts_with("/registry/a was written"));
        let served = commit(put("/registry/masterleases/192.0.2.1", None)).await;
        assert!(unserved(&served, "/registry/masterleases/").is_err());
    }

    #[test]
    fn a_copy_of_what_is_not_there_makes_nothing() {
        use clap::Parser;
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            copy: StoreCopy,
        }
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let line = ["fram", "--to", "etcd", "--etcd-servers", "http://192.0.2.1:2379", "--data-dir", data.to_str().unwrap()];
        let refused = |line: &[&str]| run_copy(&Line::parse_from(line).copy).unwrap_err().to_string();
        assert!(refused(&line).contains("the cluster's keys are not there"));
        assert!(!data.exists());
        std::fs::create_dir_all(data.join("pki")).unwrap();
        std::fs::create_dir_all(data.join("store")).unwrap();
        std::fs::write(data.join("pki/ca.crt"), "").unwrap();
        assert!(refused(&line).contains("there is no store at"));
        assert!(std::fs::read_dir(data.join("store")).unwrap().next().is_none());
    }
}
