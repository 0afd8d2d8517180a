//! The command line.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{CommandFactory, Parser, Subcommand};

use crate::api_flags::ApiFlags;

const BEGIN: &str = "\
To begin, as root:
  fram up --demo             a cluster, and an application on it
  fram get pods              in a second terminal
  fram COMMAND --help        has examples";

/// Kubernetes, whole, in one program: the cluster, and a client for it.
#[derive(Parser)]
#[command(name = "fram", version, after_help = BEGIN)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a control plane and a node in one process.
    #[command(after_help = "Examples:\n  fram up --demo\n  fram up --data-dir /srv/fram --listen 127.0.0.1:7443")]
    Up(Up),
    /// Runs a control plane that other machines join with `fram agent`, and a node beside it.
    #[command(after_help = "Example:\n  fram server --listen 192.0.2.1:6443")]
    Server(Server),
    /// Runs a node of a cluster elsewhere.
    #[command(after_help = "Example:\n  fram agent --server https://192.0.2.1:6443 --token TOKEN")]
    Agent(Agent),
    /// Manages the tokens with which nodes join.
    #[command(subcommand)]
    Token(Token),
    /// Ends what a stopped fram left running on this machine.
    #[command(after_help = "Example:\n  fram down --purge")]
    Down(Down),
    #[command(flatten)]
    Client(fram_cli::Command),
    /// Prints a script that completes this program's words in a shell.
    #[command(after_help = "Examples:\n  source <(fram completion bash)\n  fram completion zsh > ~/.zfunc/_fram")]
    Completion {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

/// What this machine is to the cluster.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Machine {
    /// Where the cluster's data lives.
    #[arg(long, default_value = "/var/lib/fram")]
    pub(crate) data_dir: PathBuf,
    /// The node's address, as other machines and its pods see it; by default the one that packets to the world carry.
    #[arg(long)]
    pub(crate) node_ip: Option<IpAddr>,
    /// The node's name; by default the machine's.
    #[arg(long)]
    pub(crate) node_name: Option<String>,
    /// Parent of everything that is made in cgroups.
    #[arg(long, default_value = "/fram")]
    pub(crate) cgroup_root: String,
}

#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Down {
    /// Where the cluster's data lives.
    #[arg(long, default_value = "/var/lib/fram")]
    pub(crate) data_dir: PathBuf,
    /// Parent of everything that was made in cgroups.
    #[arg(long, default_value = "/fram")]
    pub(crate) cgroup_root: String,
    /// Remove the cluster's data too: objects, keys, images, volumes.
    #[arg(long)]
    pub(crate) purge: bool,
}

#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Up {
    #[command(flatten)]
    pub(crate) machine: Machine,
    #[command(flatten)]
    pub(crate) api: ApiFlags,
    /// Where the API is served.
    #[arg(long, default_value = "127.0.0.1:6443")]
    pub(crate) listen: SocketAddr,
    /// Build, deploy and show the example application, and stay up.
    #[arg(long)]
    pub(crate) demo: bool,
}

#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Server {
    #[command(flatten)]
    pub(crate) machine: Machine,
    #[command(flatten)]
    pub(crate) api: ApiFlags,
    /// Where the API is served: an address that agents and pods reach.
    #[arg(long)]
    pub(crate) listen: SocketAddr,
    /// Run no node on this machine.
    #[arg(long)]
    pub(crate) no_node: bool,
}

#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Agent {
    #[command(flatten)]
    pub(crate) machine: Machine,
    /// The server: https://IP:PORT.
    #[arg(long)]
    pub(crate) server: String,
    /// A join token, as `fram token create` prints it; needed until the node has its certificate.
    #[arg(long)]
    pub(crate) token: Option<String>,
}

#[derive(Subcommand, Debug, Clone)]
pub(crate) enum Token {
    /// Makes a token and prints it.
    #[command(after_help = "Example:\n  fram token create --hours 2")]
    Create(TokenCreate),
}

#[derive(clap::Args, Debug, Clone)]
pub(crate) struct TokenCreate {
    /// Where the server's data lives.
    #[arg(long, default_value = "/var/lib/fram")]
    pub(crate) data_dir: PathBuf,
    /// For how many hours it lets nodes in.
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=8784))]
    pub(crate) hours: u32,
}

impl Cli {
    /// What the program's exit code is.
    pub(crate) fn run(self) -> anyhow::Result<std::process::ExitCode> {
        match self.command {
            Command::Client(command) => return Ok(fram_cli::run(&command)),
            Command::Completion { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Cli::command(), "fram", &mut script);
                match std::io::Write::write_all(&mut std::io::stdout(), &script) {
                    // Who looked at its beginning only has seen enough.
                    Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
                    written => written.map_err(Into::into),
                }
            }
            Command::Up(up) => crate::up::run(crate::up::Plan::alone(up)),
            Command::Server(server) => crate::up::run(crate::up::Plan::shared(server)?),
            Command::Agent(agent) => crate::agent::run(agent),
            Command::Token(Token::Create(create)) => crate::token::create(&create),
            Command::Down(down) => crate::down::run(down),
        }?;
        Ok(std::process::ExitCode::SUCCESS)
    }
}
