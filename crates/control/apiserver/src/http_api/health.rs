//! /healthz, /livez and /readyz, as a whole or one check of them; see upstream's healthz package.

use std::sync::atomic::Ordering;
use std::time::Duration;

use http::Response;

use crate::path::Query;
use crate::respond::{self, Body};
use crate::server::Server;

/// The store's check, by the name of upstream's; the embedded one too is called so here.
const STORE: &str = "etcd";

/// How long the store may take; upstream's --etcd-healthcheck-timeout.
const PATIENCE: Duration = Duration::from_secs(2);

/// A check and why it failed.
type Check = (String, Result<(), String>);

/// Answers `path`, which is `endpoint` or one check below it.
pub(super) async fn answer(server: &Server, endpoint: &str, path: &str, query: &Query) -> Response<Body> {
    let one = path.strip_prefix(endpoint).unwrap_or_default().trim_matches('/');
    let excluded: Vec<&str> = query.all("exclude").collect();
    // Nobody waits for a store that he did not ask about.
    let asks_store = (one.is_empty() || one == STORE) && !excluded.contains(&STORE);
    let store = if asks_store { store(server).await } else { Ok(()) };
    // Whoever answers has written its log: what writes it waits for nobody else.
    let mut checks = vec![("ping".to_string(), Ok(())), ("log".to_string(), Ok(())), (STORE.to_string(), store)];
    let hooks = server.stages.hooks();
    checks.extend(hooks.map(|(name, done)| (name.to_string(), if done { Ok(()) } else { Err("not finished".to_string()) })));
    checks.extend(server.checks.iter().flat_map(|checks| checks()));
    if endpoint == "/readyz" {
        let ready = server.stages.all();
        let leaving = server.leaving.load(Ordering::Acquire);
        checks.push(("shutdown".into(), if leaving { Err("process is shutting down".into()) } else { Ok(()) }));
        checks.push(("informer-sync".into(), if ready { Ok(()) } else { Err("not finished".into()) }));
    }
    checks.retain(|(name, _)| one.is_empty() || name == one);
    for (name, outcome) in checks.iter().filter(|(name, _)| !excluded.contains(&name.as_str())) {
        server.slis.observe(name, endpoint, outcome.is_ok());
    }
    if checks.is_empty() {
        return respond::bytes(404, "text/plain; charset=utf-8", "404 page not found\n");
    }
    let (healthy, mut text) = text(endpoint, &checks, &excluded, query.has("verbose"));
    let unknown: Vec<String> =
        excluded.iter().filter(|name| !checks.iter().any(|(known, _)| known == *name)).map(|name| format!("{name:?}")).collect();
    if !unknown.is_empty() && text != "ok" {
        let last = text.trim_end().rfind('\n').map_or(0, |at| at + 1);
        text.insert_str(last, &format!("there is no such check to leave out: {}\n", unknown.join(",")));
    }
    respond::bytes(if healthy { 200 } else { 500 }, "text/plain; charset=utf-8", text)
}

/// Whether the store answers.
pub(crate) async fn store(server: &Server) -> Result<(), String> {
    match tokio::time::timeout(PATIENCE, server.registry.store.revision()).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {PATIENCE:?}")),
    }
}

/// Why a check failed is for the log, not for everybody who asks.
fn text(endpoint: &str, checks: &[Check], excluded: &[&str], verbose: bool) -> (bool, String) {
    let counts = |name: &str| !excluded.contains(&name);
    let healthy = checks.iter().all(|(name, outcome)| outcome.is_ok() || !counts(name));
    if healthy && !verbose {
        return (true, "ok".into());
    }
    let line = |(check, outcome): &Check| match outcome {
        _ if !counts(check) => format!("[+]{check} excluded: ok\n"),
        Ok(()) => format!("[+]{check} ok\n"),
        Err(why) => {
            tracing::warn!(check, why, "a health check fails");
            format!("[-]{check} failed: reason withheld\n")
        }
    };
    let lines: String = checks.iter().map(line).collect();
    let name = endpoint.trim_start_matches('/');
    (healthy, format!("{lines}{name} check {}\n", if healthy { "passed" } else { "failed" }))
}

#[cfg(test)]
mod tests {

    #[test]
    fn a_check_that_fails_is_named_but_not_explained() {
        let checks = [("ping".to_string(), Ok(())), ("kms-provider-0".to_string(), Err("a secret".to_string()))];
        let (healthy, text) = super::text("/readyz", &checks, &[], false);
        assert!(!healthy && text.contains("[-]kms-provider-0 failed: reason withheld") && !text.contains("a secret"), "{text}");
        assert!(text.ends_with("readyz check failed\n"));
        assert_eq!(super::text("/readyz", &checks, &["kms-provider-0"], false), (true, "ok".into()));
        assert_eq!(super::text("/livez", &checks[..1], &[], true).1, "[+]ping ok\nlivez check passed\n");
    }
}
