//! The program: reads its command line, starts what it names, says what was started, waits, drains.

mod cli;
mod control_plane;
mod up;

use clap::Parser;

fn main() -> std::process::ExitCode {
    let arguments = cli::Cli::parse();
    match arguments.run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fram: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
