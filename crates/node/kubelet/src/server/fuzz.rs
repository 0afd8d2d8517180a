//! The fuzz target of what the kubelet reads: lines of logs.

use fram_fuzz::Target;

use super::log_file::{Formatter, LogOptions};

/// Lines, each with what is asked of the log.
fn log(input: &[u8]) {
    let options = [
        LogOptions::default(),
        LogOptions { timestamps: true, limit_bytes: Some(10), ..LogOptions::default() },
        LogOptions { since: "2026-01-01T00:00:00Z".parse().ok(), stream: Some("stdout".into()), ..LogOptions::default() },
    ];
    for options in options {
        let limit = options.limit_bytes;
        let (mut formatter, mut out) = (Formatter::new(options), Vec::new());
        input.split(|b| *b == b'\n').for_each(|line| formatter.add(line, &mut out));
        assert!(limit.is_none_or(|limit| out.len() as u64 <= limit));
    }
}

const LINES: &[&[u8]] = &[b"2026-01-02T03:04:05.000000006Z stdout F text\n2026-01-02T03:04:05Z stderr P:x part\n\
    2025-01-02T03:04:05Z stdout F \n"];

#[test]
fn the_kept_inputs_hold() {
    let target = |name, run, seeds| Target { name, seeds, memory: 200, run };
    let targets = [target("log", log, LINES)];
    fram_fuzz::check(env!("CARGO_MANIFEST_DIR"), &targets);
}
