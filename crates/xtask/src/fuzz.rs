//! `cargo xtask fuzz`: the fuzz targets of all crates, built with counters of coverage, each for so long. They are unit tests
//! named `fuzz`, or tests in a file `fuzz.rs`, over `fram-fuzz`. What they find is left in `target/fuzz`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The crates that have targets, and where in them.
const CRATES: [(&str, &str); 7] = [
    ("fram-api", "--test=fuzz"),
    ("fram-cel", "--test=fuzz"),
    ("fram-client", "--lib"),
    ("fram-apiserver", "--lib"),
    ("fram-kubelet", "--lib"),
    ("fram-image", "--lib"),
    ("fram-dns", "--lib"),
];

/// LLVM's SanitizerCoverage; these flags need no nightly compiler.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=3 \
                     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cdebug-assertions=on -Coverflow-checks=on";

pub(crate) fn run(seconds: u64, package: Option<&str>, target: Option<&str>) -> Result<()> {
    let chosen: Vec<_> = CRATES.into_iter().filter(|(name, _)| package.is_none_or(|p| p == *name)).collect();
    if chosen.is_empty() {
        bail!("no crate of that name has fuzz targets; these have: {}", CRATES.map(|(name, _)| name).join(", "));
    }
    let folder = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| Path::new("target").to_path_buf(), Into::into).join("fuzz");
    std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let folder = folder.canonicalize().with_context(|| format!("resolve {}", folder.display()))?;
    let mut failed = Vec::new();
    for (name, place) in chosen {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        // With a target named, build scripts and macros are built without the counters, for which they have no room.
        command.args([
            "test",
            "--profile",
            "fuzz",
            "--target",
            HOST,
            "--package",
            name,
            place,
            "--",
            "--nocapture",
            "fuzz::",
            "the_kept_inputs",
        ]);
        command.env("RUSTFLAGS", FLAGS).env("CARGO_TARGET_DIR", &folder).env("FRAM_FUZZ", seconds.to_string());
        command.env("FRAM_FUZZ_FOLDER", folder.join(name)).env("RUST_BACKTRACE", "0");
        command.envs(target.map(|target| ("FRAM_FUZZ_TARGET", target)));
        if !command.status().context("run cargo")?.success() {
            failed.push(name);
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("something was found in {}: see {}", failed.join(", "), folder.display()) }
}

const HOST: &str = "x86_64-unknown-linux-gnu";
