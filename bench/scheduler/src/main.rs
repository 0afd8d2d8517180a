//! A load program for schedulers: makes nodes that are only objects, and pods, and counts how soon they are bound. It sees the API
//! alone: each subject is measured by the same requests, one subject after the other within every row.

mod cluster;
mod measure;
mod workloads;

use anyhow::{Context, Result};
use clap::Parser;
use fram_bench_common::Choice;
use workloads::Workload;

/// Drives schedulers by the workloads of upstream's scheduler_perf. A peer is measured beside Fram where the environment has
/// BENCH_PEER, a command that starts it in the foreground (its whole process group is what is measured), and BENCH_PEER_KUBECONFIG,
/// a file of who may do everything there.
#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    choice: Choice,
    /// How many nodes there are; each number is a row of its own
    #[arg(long, value_delimiter = ',', default_value = "500,1000,5000")]
    nodes: Vec<usize>,
    /// How many pods are bound while it is measured, at most; workloads that fill nodes stop before
    #[arg(long, default_value_t = 10_000)]
    pods: usize,
    /// Which workloads [default: all]
    workloads: Vec<Workload>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    let folder = tempfile::tempdir().context("a temporary directory")?;
    let subjects = cli.choice.start(folder.path()).await?;
    let workloads = if cli.workloads.is_empty() { <Workload as clap::ValueEnum>::value_variants().to_vec() } else { cli.workloads };
    for workload in workloads {
        for nodes in &cli.nodes {
            let title = format!("{workload:?}, {nodes} nodes").to_lowercase();
            let mut rows = Vec::new();
            for subject in &subjects {
                let row = Box::pin(measure::run(subject, workload, *nodes, cli.pods))
                    .await
                    .with_context(|| format!("{title} ({})", subject.name()))?;
                println!("{title:<34} {:<6} {row}", subject.name());
                rows.push(row);
            }
            if let [ours, theirs] = &rows[..] {
                let (cost, rate) = (theirs.figures.cost() / ours.figures.cost(), ours.figures.rate() / theirs.figures.rate());
                println!("{title:<34} CPU of peer to fram: {cost:.1}, pods/s of fram to peer: {rate:.1}");
            }
        }
    }
    Ok(())
}
