//! What the processes of the program use, as the kernel counts it: the program itself and its shims.

use std::path::PathBuf;

fn ours() -> Vec<PathBuf> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten().map(|e| e.path());
    let ours = processes.filter(|process| {
        let name = std::fs::read_to_string(process.join("cmdline")).unwrap_or_default();
        name.contains("shim\0--sealed") || name.contains("/fram\0up")
    });
    ours.collect()
}

/// The proportional set sizes together, in kB.
pub(crate) fn memory() -> u64 {
    let pss = |process: &PathBuf| {
        let rollup = std::fs::read_to_string(process.join("smaps_rollup")).unwrap_or_default();
        let line = rollup.lines().find_map(|l| l.strip_prefix("Pss:")).map(|l| l.trim().trim_end_matches(" kB").to_string());
        line.and_then(|l| l.parse::<u64>().ok()).unwrap_or(0)
    };
    ours().iter().map(pss).sum()
}

/// CPU time so far, in clock ticks, user and system.
pub(crate) fn ticks() -> u64 {
    let spent = |process: &PathBuf| {
        let stat = std::fs::read_to_string(process.join("stat")).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        [11, 12].iter().filter_map(|i| fields.get(*i)?.parse::<u64>().ok()).sum::<u64>()
    };
    ours().iter().map(spent).sum()
}
