//! What a request pays for flow control when nobody waits: classified, let in and gone again. Run with
//! `cargo bench -p fram-flowcontrol`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fram_flowcontrol::{Digest, FlowControl, Listed};

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let Ok(runtime) = runtime else { return eprintln!("no runtime") };
    let control = Arc::new(FlowControl::new(600, Duration::from_secs(15)));
    let groups = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let masters = groups(&["system:masters", "system:authenticated"]);
    let accounts = groups(&["system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"]);
    let all = groups(&["system:authenticated"]);
    let cases = [
        ("administrator (exempt)", "admin", &masters),
        ("service account (workload-low)", "system:serviceaccount:a:default", &accounts),
        ("user (global-default)", "user", &all),
    ];
    const COUNT: u32 = 1_000_000;
    for (name, user, groups) in cases {
        let digest = Digest { user, groups, verb: "create", resource: "pods", namespace: "a", ..Default::default() };
        let began = Instant::now();
        runtime.block_on(async {
            for _ in 0..COUNT {
                let ticket = control.enter(&digest, Listed::default()).await;
                std::hint::black_box(ticket.1.is_ok());
            }
        });
        println!("{name}: {} ns a request", (began.elapsed() / COUNT).as_nanos());
    }
}
