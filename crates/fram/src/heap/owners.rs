//! The names behind the addresses: which component a way leads through. A process of its own reads the program's symbols for
//! that, asked over its standard input.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use super::sample::Held;

/// The first argument of the process that looks names up; no user's business.
pub(crate) const COMMAND: &str = "heap-owners";

/// Whose memory a crate's is. The way is followed outwards until one of these is met; what other crates hold, the kinds above
/// all, is nobody's in particular.
const OWNERS: [(&str, &str); 14] = [
    ("fram_store", "store"),
    ("fram_apiserver", "kube-apiserver"),
    ("fram_audit", "kube-apiserver"),
    ("fram_encryption", "kube-apiserver"),
    ("fram_flowcontrol", "kube-apiserver"),
    ("fram_controllers", "kube-controller-manager"),
    ("fram_scheduler", "kube-scheduler"),
    ("fram_client", "informers"),
    ("fram_kubelet", "kubelet"),
    ("fram_runtime", "container-runtime"),
    ("fram_image", "container-runtime"),
    ("fram_network", "pod-network"),
    ("fram_proxy", "kube-proxy"),
    ("fram_dns", "cluster-dns"),
];

/// What lies at the same distance from every address of the program, wherever it was loaded.
fn anchor() -> usize {
    main as *const () as usize
}

/// The owner that a symbol names, the crate in its path that comes first.
fn owner_of(symbol: &str) -> Option<&'static str> {
    let found = OWNERS.iter().filter_map(|(krate, owner)| Some((symbol.find(&format!("{krate}::"))?, *owner)));
    found.min_by_key(|(at, _)| *at).map(|(_, owner)| owner)
}

/// Bytes by owner for ways with their bytes.
pub(super) fn ask(held: &[Held]) -> anyhow::Result<BTreeMap<String, u64>> {
    let mut child = Command::new("/proc/self/exe").arg(COMMAND).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut text = String::new();
    for Held { way, bytes, .. } in held {
        text.push_str(&bytes.to_string());
        for address in way {
            text.push_str(&format!(" {}", address.wrapping_sub(anchor())));
        }
        text.push('\n');
    }
    // It reads everything before it answers; one that has ended says so by its status.
    let written = child.stdin.take().context("it has no standard input")?.write_all(text.as_bytes());
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{COMMAND} ended with {}", output.status);
    }
    written?;
    let mut totals = BTreeMap::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let (owner, bytes) = line.split_once(' ').context("an answer without a number")?;
        totals.insert(owner.to_string(), bytes.parse()?);
    }
    Ok(totals)
}

/// The process that looks names up.
pub(crate) fn main() -> std::io::Result<()> {
    let mut known: HashMap<usize, Option<&'static str>> = HashMap::new();
    let mut totals: BTreeMap<&str, u64> = BTreeMap::new();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let mut numbers = line.split(' ').filter_map(|n| n.parse::<usize>().ok());
        let bytes = numbers.next().unwrap_or(0) as u64;
        let owner = numbers.find_map(|offset| *known.entry(offset).or_insert_with(|| look_up(anchor().wrapping_add(offset))));
        *totals.entry(owner.unwrap_or("fram")).or_default() += bytes;
    }
    let mut out = std::io::stdout().lock();
    totals.iter().try_for_each(|(owner, bytes)| writeln!(out, "{owner} {bytes}"))
}

/// The owner of the function that an address is in, or of one that was made part of it.
fn look_up(address: usize) -> Option<&'static str> {
    let mut owner = None;
    // The address is where a call returns to, which may be the next function already.
    backtrace::resolve(address.wrapping_sub(1) as *mut std::ffi::c_void, |symbol| {
        owner = owner.or_else(|| symbol.name().and_then(|name| owner_of(&name.to_string())));
    });
    owner
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crate_that_comes_first_in_a_symbol_owns_it() {
        let poll = "<fram_dns::server::Server as core::future::Future>::poll::<fram_client::Informer>";
        assert_eq!(owner_of(poll), Some("cluster-dns"));
        assert_eq!(owner_of("core::ptr::drop_in_place<fram_scheduler::queue::Queue>"), Some("kube-scheduler"));
        assert_eq!(owner_of("fram_machinery::json::parse"), None);
    }

    #[test]
    fn an_address_that_a_broken_way_ends_with_has_no_owner() {
        assert_eq!(look_up(0), None);
    }
}
