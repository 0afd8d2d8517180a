//! Chores of the repository: `cargo xtask verify|fix|tidy|test|fuzz|guest|bench|corpus`.

mod fuzz;
mod guest;
mod stage;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use clap::{Parser, Subcommand};
use stage::Stages;

#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Format, lints and tidiness; writes nothing.
    Verify,
    /// Formats and applies what lints suggest.
    Fix,
    /// Floors, file headers, sizes, links.
    Tidy,
    /// Everything that must pass before a change lands.
    Test {
        /// Also what takes long.
        #[arg(long)]
        full: bool,
    },
    /// Looks for input that something fails of, in all that reads what others wrote.
    Fuzz {
        /// For each target.
        #[arg(long, default_value_t = 120)]
        seconds: u64,
        #[arg(long)]
        package: Option<String>,
        #[arg(long)]
        target: Option<String>,
    },
    /// The runtime's tests in a guest with cgroups of version 2; a part of `test --full`.
    Guest,
    /// The figures, on this machine.
    Bench,
    /// Replays the corpus of requests and writes the list of known differences anew.
    Corpus {
        /// First records the answers of a stock server, which has to be fresh: where `kubectl proxy` as an administrator
        /// listens, HOST:PORT.
        #[arg(long)]
        record: Option<String>,
    },
}

fn main() -> Result<()> {
    let mut stages = Stages::default();
    match Arguments::parse().chore {
        Chore::Verify => verify(&mut stages)?,
        Chore::Fix => {
            stages.cargo("format", &["fmt", "--all"])?;
            stages.cargo("clippy", &["clippy", "--workspace", "--all-targets", "--fix", "--allow-dirty", "--allow-staged"])?;
        }
        Chore::Tidy => stages.run("tidy", tidy::check)?,
        Chore::Test { full } => test(&mut stages, full)?,
        Chore::Fuzz { seconds, package, target } => {
            stages.run("fuzz", || fuzz::run(seconds, package.as_deref(), target.as_deref()))?;
        }
        Chore::Guest => {
            stages.run("packages", || install(&[&PACKAGES[..], &guest::PACKAGES].concat()))?;
            stages.run("cgroups of version 2, in a guest", guest::run)?;
        }
        Chore::Bench => {
            stages.run("packages", || install(&PACKAGES))?;
            stages.cargo("figures", &["bench", "--package", "fram", "--bench", "node"])?;
        }
        Chore::Corpus { record } => corpus(&mut stages, record)?,
    }
    stages.print();
    Ok(())
}

/// The test itself speaks to the stock server, so that both are asked by the same code.
fn corpus(stages: &mut Stages, record: Option<String>) -> Result<()> {
    const TEST: [&str; 6] = ["test", "--package", "fram-apiserver", "--test", "corpus", "fram_answers"];
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    if let Some(address) = record {
        stages.run("record", || stage::command("env", &[&[&format!("FRAM_CORPUS_RECORD={address}"), &*cargo], &TEST[..]].concat()))?;
    }
    stages.run("replay", || stage::command("env", &[&["FRAM_CORPUS_ACCEPT=1", &*cargo], &TEST[..]].concat()))
}

fn verify(stages: &mut Stages) -> Result<()> {
    form(stages)?;
    stages.cargo("clippy", &["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"])?;
    // Tests that only a full run runs are not among the targets that are all.
    stages.cargo("clippy of the full run", &["clippy", "--package", "fram", "--test", "whole", "--", "--deny", "warnings"])
}

fn form(stages: &mut Stages) -> Result<()> {
    stages.cargo("format", &["fmt", "--all", "--check"])?;
    stages.run("tidy", tidy::check)
}

/// Cargo with a compiler for the workspace that also says what clippy says, each of which is an error: so that what is to be run is
/// linted while it is built, and not looked through twice.
fn linting(arguments: &[&str]) -> Result<()> {
    linting_with(&[], arguments)
}

/// The same with more variables in its environment.
fn linting_with(variables: &[&str], arguments: &[&str]) -> Result<()> {
    let compiler = format!("RUSTC_WORKSPACE_WRAPPER={}", root().join("crates/xtask/clippy-rustc").display());
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    stage::command("env", &[variables, &[&*compiler, &*cargo], arguments].concat())
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new("."))
}

/// The Debian packages that tests use, with a file by which each is known to be there.
const PACKAGES: [(&str, &str); 14] = [
    ("buildah", "/usr/bin/buildah"),
    ("busybox-static", "/bin/busybox"),
    ("crun", "/usr/bin/crun"),
    ("debootstrap", "/usr/sbin/debootstrap"),
    ("docker-registry", "/usr/bin/docker-registry"),
    ("etcd-server", "/usr/bin/etcd"),
    ("iproute2", "/usr/sbin/ip"),
    ("kubernetes-client", "/usr/bin/kubectl"),
    ("mount", "/usr/bin/mount"),
    ("nftables", "/usr/sbin/nft"),
    ("podman", "/usr/bin/podman"),
    ("procps", "/bin/ps"),
    ("runc", "/usr/sbin/runc"),
    ("skopeo", "/usr/bin/skopeo"),
];

const FULL_PACKAGES: [(&str, &str); 1] = [("faketime", "/usr/bin/faketime")];

fn test(stages: &mut Stages, full: bool) -> Result<()> {
    stages.run("packages", || install(&PACKAGES))?;
    let tree = stage::Beside::start(shop_tree())?;
    form(stages)?;
    if std::env::var_os("FRAM_GOLDEN").is_none() {
        println!("FRAM_GOLDEN is not set: the golden files are not read");
    }
    stages.run("lints and build of the tests", || linting(&["test", "--workspace", "--all-targets", "--no-run"]))?;
    // Tests that only a full run runs are not among the targets that are all.
    stages.run("lints of the full run", || linting(&["test", "--workspace", "--test", "whole", "--no-run"]))?;
    stages.run("the shop's Debian tree, begun with the lints", || tree.wait())?;
    stages.run("tests", || linting(&["test", "--workspace"]))?;
    if full {
        stages.run("packages of the full run", || install(&[&FULL_PACKAGES[..], &guest::PACKAGES].concat()))?;
        stages.run("what takes long", || linting(&["test", "--workspace", "--test", "whole"]))?;
        stages.run("etcd's members, again and again", || {
            linting_with(&["FRAM_STORE_FAULT_ROUNDS=10"], &["test", "--workspace", "--test", "etcd_members"])
        })?;
        stages.run("cgroups of version 2, in a guest", guest::run)?;
    }
    Ok(())
}

/// Makes what the images of examples/shop hold, where their test looks for it: most of it is waiting for a mirror of Debian's, which
/// can be done while the tests are built.
fn shop_tree() -> Command {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let mut build = Command::new(root().join("examples/shop/build"));
    build.arg("none").arg(target.join("tmp/shop"));
    build
}

/// Installs the packages that are missing.
fn install(packages: &[(&str, &str)]) -> Result<()> {
    let there = |file: &str| std::path::Path::new(file).exists();
    let missing: Vec<&str> = packages.iter().filter(|(_, file)| !there(file)).map(|(name, _)| *name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing {}", missing.join(" "));
    stage::command("apt-get", &["update", "--quiet"])?;
    stage::command("apt-get", &[&["install", "--yes", "--quiet", "--no-install-recommends"], missing.as_slice()].concat())
}
