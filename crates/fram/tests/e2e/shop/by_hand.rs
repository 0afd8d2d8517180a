//! What one does by hand with an application that runs: follow logs, open a terminal, forward a port, copy files, describe.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use crate::cluster::Cluster;

/// All of it, in the shop while it has customers.
pub(crate) fn all(cluster: &Cluster, folder: &Path, orders: i64) {
    follow(cluster);
    terminal(cluster);
    let answer = cluster.forwarded("shop", "service/app", 8080, "GET /orders HTTP/1.0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.") && answer.contains(&format!("\"orders\": {orders}}}")), "{answer}");
    copy(cluster, folder);
    describe(cluster);
}

/// New lines come while the customers ask.
fn follow(cluster: &Cluster) {
    let mut child = cluster.command(&["-n", "shop", "logs", "-f", "--tail=1", "deployment/app"]).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let asked = lines.filter(|line| line.contains("\"GET / HTTP/1.")).take(20).count();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(asked, 20, "the log ended while the shop was open");
}

/// A terminal has its own device and its size, and the exit code comes back.
fn terminal(cluster: &Cluster) {
    let words = ["-n", "shop", "exec", "-it", "postgres-0", "--", "sh", "-c"];
    // The size is a message of its own, which may come when the process has begun.
    let inside = "tty; while [ \"$(stty size)\" = '0 0' ]; do sleep 0.1; done; stty size; psql -h /tmp -U postgres -d shop -At -c 'SELECT name FROM products ORDER BY id'; exit 4";
    let output = cluster.at_terminal(&words, inside);
    let shown = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    assert_eq!(output.status.code(), Some(4), "{shown}");
    for line in ["/dev/pts/0", "31 97", "anchor", "compass", "lantern"] {
        // Before one of them stands what the terminal echoes of the input's end.
        assert!(shown.lines().any(|l| l.ends_with(line)), "no line {line:?} in {shown:?}");
    }
}

/// A file goes in and comes out as it was.
fn copy(cluster: &Cluster, folder: &Path) {
    let (there, back) = (folder.join("prices"), folder.join("prices.back"));
    let prices: Vec<u8> = (0..1_000_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    std::fs::write(&there, &prices).unwrap();
    cluster.kubectl(&["cp", there.to_str().unwrap(), "shop/postgres-0:/tmp/prices"]);
    cluster.kubectl(&["cp", "shop/postgres-0:/tmp/prices", back.to_str().unwrap()]);
    assert!(std::fs::read(&back).unwrap() == prices, "what was copied there and back is something else");
    cluster.kubectl(&["-n", "shop", "exec", "postgres-0", "--", "rm", "/tmp/prices"]);
}

fn describe(cluster: &Cluster) {
    let pod = cluster.kubectl(&["-n", "shop", "describe", "pod", "postgres-0"]);
    let told = [
        "Controlled By:  StatefulSet/postgres",
        "Successfully assigned shop/postgres-0 to node",
        // By this pod, or by the one that asks whether the database is there.
        "  Pulled  ",
        "Container started",
        "ClaimName:  data-postgres-0",
    ];
    for words in told {
        assert!(pod.contains(words), "no {words:?} in {pod}");
    }
    let deployment = cluster.kubectl(&["-n", "shop", "describe", "deployment", "app"]);
    for words in ["10 desired | 10 updated | 10 total | 10 available | 0 unavailable", "Scaled up replica set app-", "from 3 to 10"] {
        assert!(deployment.contains(words), "no {words:?} in {deployment}");
    }
}
