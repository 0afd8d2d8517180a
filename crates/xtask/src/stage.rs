//! Stages: commands that are run one after another, with the time that each took.

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

#[derive(Default)]
pub(crate) struct Stages {
    done: Vec<(String, Duration)>,
}

impl Stages {
    pub(crate) fn run(&mut self, name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        println!("== {name}");
        let begun = Instant::now();
        let result = work();
        self.done.push((name.into(), begun.elapsed()));
        if result.is_err() {
            self.print();
        }
        result.with_context(|| format!("stage {name} failed"))
    }

    pub(crate) fn cargo(&mut self, name: &str, arguments: &[&str]) -> Result<()> {
        self.run(name, || command(&std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()), arguments))
    }

    /// The times of all stages.
    pub(crate) fn print(&self) {
        for (name, time) in &self.done {
            println!("== {name}: {:.1} s", time.as_secs_f64());
        }
    }
}

/// A program that runs beside the stages. Where one of them fails, what it has begun is still done: it is kept for the next time.
pub(crate) struct Beside {
    child: Child,
    what: String,
}

impl Beside {
    pub(crate) fn start(mut command: Command) -> Result<Beside> {
        let what = format!("{command:?}");
        let child = command.spawn().with_context(|| format!("cannot start {what}"))?;
        Ok(Beside { child, what })
    }

    pub(crate) fn wait(mut self) -> Result<()> {
        let status = self.child.wait().with_context(|| format!("cannot wait for {}", self.what))?;
        if !status.success() {
            bail!("{} ended with {status}", self.what);
        }
        Ok(())
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // The stage's failure is the one that is told.
        let _ = self.child.wait();
    }
}

/// Runs a program; a failure of it is an error.
pub(crate) fn command(program: &str, arguments: &[&str]) -> Result<()> {
    let status = Command::new(program).args(arguments).status().with_context(|| format!("cannot start {program}"))?;
    if !status.success() {
        bail!("{program} {} ended with {status}", arguments.join(" "));
    }
    Ok(())
}
