//! A load program for API servers: the same requests to each subject, one subject after the other within every row, so that
//! figures of one run can be compared. It knows nothing of what it asks; what it starts is given by commands.

mod load;
mod rows;
mod subject;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use subject::{Recipe, Subject};

/// Drives API servers and prints what each operation costs them. A peer is measured beside Fram where the environment has BENCH_PEER,
/// a command that starts it in the foreground (its whole process group is what is measured), and BENCH_PEER_KUBECONFIG, a file of
/// who may do everything there.
#[derive(Parser)]
struct Cli {
    /// Starts Fram's API server in the foreground [default: the `fram server` beside this program, on a temporary directory]
    #[arg(long)]
    fram: Option<String>,
    /// Who may do everything there [default: admin.kubeconfig in that directory]
    #[arg(long, requires = "fram")]
    fram_kubeconfig: Option<PathBuf>,
    /// Measures the peer alone
    #[arg(long)]
    only_peer: bool,
    /// How many clients ask at once, each over a connection of its own
    #[arg(long, default_value_t = 32)]
    clients: usize,
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
    let mut recipes = Vec::new();
    if !cli.only_peer {
        recipes.push(match (&cli.fram, &cli.fram_kubeconfig) {
            (Some(command), kubeconfig) => Recipe::new("fram", command, kubeconfig.clone().context("--fram needs --fram-kubeconfig")?),
            (None, _) => Recipe::beside_this_program(folder.path())?,
        });
    }
    if let Ok(command) = std::env::var("BENCH_PEER") {
        let kubeconfig = std::env::var("BENCH_PEER_KUBECONFIG").context("BENCH_PEER_KUBECONFIG")?;
        recipes.push(Recipe::new("peer", &command, kubeconfig.into()));
    }
    ensure!(!recipes.is_empty(), "there is nobody to measure: BENCH_PEER is not set");
    let mut subjects = Vec::new();
    for recipe in recipes {
        subjects.push(Subject::start(recipe, cli.clients).await?);
    }
    let plan = rows::Plan { pods: cli.pods, config_maps: cli.config_maps, rows: cli.rows };
    rows::run(&plan, &mut subjects).await
}
