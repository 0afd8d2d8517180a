//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Kubernetes, whole, in one program.
#[derive(Parser)]
#[command(name = "fram", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a control plane and a node in one process.
    Up(Up),
}

#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Up {
    /// Where the cluster's data lives.
    #[arg(long, default_value = "/var/lib/fram")]
    pub(crate) data_dir: PathBuf,
    /// Where the API is served.
    #[arg(long, default_value = "127.0.0.1:6443")]
    pub(crate) listen: SocketAddr,
}

impl Cli {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Up(up) => crate::up::run(up),
        }
    }
}
