//! A load program for API servers: the same requests to each subject, one subject after the other within every row, so that
//! figures of one run can be compared. It knows nothing of what it asks; what it starts is given by commands.

mod rows;

use anyhow::{Context, Result};
use clap::Parser;
use fram_bench_common::Choice;

/// Drives API servers and prints what each operation costs them. A peer is measured beside Fram where the environment has BENCH_PEER,
/// a command that starts it in the foreground (its whole process group is what is measured), and BENCH_PEER_KUBECONFIG, a file of
/// who may do everything there.
#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    choice: Choice,
    /// How many pods there are
    #[arg(long, default_value_t = 10_000)]
    pods: usize,
    /// How many ConfigMaps there are in the end, a hundred in each namespace
    #[arg(long, default_value_t = 100_000)]
    config_maps: usize,
    /// Which rows to print [default: all]; what they stand on is done in any case
    rows: Vec<rows::Row>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    let folder = tempfile::tempdir().context("a temporary directory")?;
    let mut subjects = cli.choice.start(folder.path()).await?;
    let plan = rows::Plan { pods: cli.pods, config_maps: cli.config_maps, rows: cli.rows };
    rows::run(&plan, &mut subjects).await
}
