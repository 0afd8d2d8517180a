//! A load program for container runtimes: the same calls over CRI sockets to each subject, one subject after the other within every
//! row, so that figures of one run can be compared. It knows nothing of what it asks; what it starts is given by commands.

mod cgroup;
mod image;
mod pods;
mod registry;
mod rows;
mod subject;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use registry::Registry;
use rows::Plan;
use subject::{Recipe, Subject};

/// Drives container runtimes over the CRI and prints what each operation costs them. A peer is measured beside Fram where the
/// environment has BENCH_PEER, a command that starts it in the foreground, and BENCH_PEER_SOCKET, the socket that it serves;
/// BENCH_PEER_HANDLERS names its runtime handlers, separated by commas, each of which is a subject of its own.
#[derive(Parser)]
struct Cli {
    /// Starts Fram's runtime in the foreground [default: the `fram runtime` beside this program, on a temporary directory]
    #[arg(long, requires = "fram_socket")]
    fram: Option<String>,
    /// The socket that it serves
    #[arg(long)]
    fram_socket: Option<PathBuf>,
    /// Measures the peer alone
    #[arg(long)]
    only_peer: bool,
    /// Where the images come from; the peer has to be told of it for the image of its sandboxes, `pause:1`
    #[arg(long, default_value = "127.0.0.1:5099")]
    registry: SocketAddr,
    /// How many times containers are made, and how many times commands run in them; other rows go by it
    #[arg(long, default_value_t = 100)]
    rounds: usize,
    /// How many pods are made at once
    #[arg(long, default_value_t = 50)]
    crowd: usize,
    /// Which rows to print [default: all]
    rows: Vec<rows::Row>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    let folder = tempfile::tempdir().context("a temporary directory")?;
    let registry = Registry::serve(cli.registry, image::all(cli.rows.is_empty() || cli.rows.contains(&rows::Row::Pull))?)?;
    let mut recipes = Vec::new();
    if !cli.only_peer {
        recipes.push(match (&cli.fram, &cli.fram_socket) {
            (Some(command), Some(socket)) => Recipe::new("fram", command, socket.clone()),
            _ => Recipe::beside_this_program(folder.path())?,
        });
    }
    if let Ok(command) = std::env::var("BENCH_PEER") {
        let socket = std::env::var("BENCH_PEER_SOCKET").context("BENCH_PEER_SOCKET")?;
        recipes.push(Recipe::new("peer", &command, socket.into()));
    }
    ensure!(!recipes.is_empty(), "there is nobody to measure: BENCH_PEER is not set");
    let mut subjects = Vec::new();
    for recipe in recipes {
        let handlers = match (recipe.name, std::env::var("BENCH_PEER_HANDLERS")) {
            ("peer", Ok(names)) => names.split(',').map(String::from).collect(),
            _ => vec![String::new()],
        };
        subjects.push(Subject::start(recipe, handlers).await?);
    }
    let plan = Plan { rounds: cli.rounds, crowd: cli.crowd, rows: cli.rows, registry: &registry };
    let outcome = rows::run(&plan, &subjects).await;
    for subject in subjects {
        subject.end().await?;
    }
    outcome
}
