//! The command line.

use std::net::{IpAddr, SocketAddr};
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
    /// Ends what a stopped `fram up` left running on this machine.
    Down(Down),
}

#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Down {
    /// Where the cluster's data lives.
    #[arg(long, default_value = "/var/lib/fram")]
    pub(crate) data_dir: PathBuf,
    /// Remove the cluster's data too: objects, keys, images, volumes.
    #[arg(long)]
    pub(crate) purge: bool,
}

#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Up {
    /// Where the cluster's data lives.
    #[arg(long, default_value = "/var/lib/fram")]
    pub(crate) data_dir: PathBuf,
    /// Where the API is served.
    #[arg(long, default_value = "127.0.0.1:6443")]
    pub(crate) listen: SocketAddr,
    /// The node's address, as other machines and its pods see it; by default the one that packets to the world carry.
    #[arg(long)]
    pub(crate) node_ip: Option<IpAddr>,
    /// The node's name; by default the machine's.
    #[arg(long)]
    pub(crate) node_name: Option<String>,
}

impl Cli {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Up(up) => crate::up::run(up),
            Command::Down(down) => crate::down::run(down),
        }
    }
}
