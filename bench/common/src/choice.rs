//! Who is measured, as the command line and the environment say it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::subject::{Recipe, Subject};

/// Which servers are measured. A peer is measured beside Fram where the environment has BENCH_PEER, a command that starts it in the
/// foreground (its whole process group is what is measured), and BENCH_PEER_KUBECONFIG, a file of who may do everything there.
#[derive(clap::Args)]
pub struct Choice {
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
}

impl Choice {
    /// Starts all of them; `folder` is for what they store.
    pub async fn start(&self, folder: &Path) -> Result<Vec<Subject>> {
        let mut recipes = Vec::new();
        if !self.only_peer {
            recipes.push(match (&self.fram, &self.fram_kubeconfig) {
                (Some(command), kubeconfig) => Recipe::new("fram", command, kubeconfig.clone().context("--fram needs --fram-kubeconfig")?),
                (None, _) => Recipe::beside_this_program(folder)?,
            });
        }
        if let Ok(command) = std::env::var("BENCH_PEER") {
            let kubeconfig = std::env::var("BENCH_PEER_KUBECONFIG").context("BENCH_PEER_KUBECONFIG")?;
            recipes.push(Recipe::new("peer", &command, kubeconfig.into()));
        }
        ensure!(!recipes.is_empty(), "there is nobody to measure: BENCH_PEER is not set");
        let mut subjects = Vec::new();
        for recipe in recipes {
            subjects.push(Subject::start(recipe, self.clients).await?);
        }
        Ok(subjects)
    }
}
