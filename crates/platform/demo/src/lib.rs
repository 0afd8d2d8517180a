//! `fram up --demo`: an application is built into an image, deployed, asked, scaled, broken and healed before the user's eyes.
//! It works from outside like any user: through the API, and through the local socket for the image.

mod elf;
mod image;
mod kill;
mod play;
mod show;

use std::path::Path;
use std::time::Duration;

use fram_cli::CliError;

pub use image::ImageError;

#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error("the example application's image: {0}")]
    Image(#[from] ImageError),
    #[error(transparent)]
    Cluster(#[from] CliError),
    #[error("{what} took more than {} s{}; see `fram get pods` and `fram get events`", .patience.as_secs(), because(.why))]
    Late { what: &'static str, patience: Duration, why: String },
    #[error("{0}")]
    Unexpected(String),
    #[error("cannot kill the container: {0}")]
    Kill(std::io::Error),
}

fn because(why: &str) -> String {
    if why.is_empty() { String::new() } else { format!(" ({why})") }
}

/// Plays the demo on the cluster of a kubeconfig, whose node runs on this machine with its data in `data`.
pub async fn run(kubeconfig: &Path, data: &Path) -> Result<(), DemoError> {
    play::run(kubeconfig, data).await
}
