//! `fram status`: how the cluster fares, as far as the API says it and the fram of this machine does.

use std::collections::HashMap;
use std::path::Path;

use fram_client::{ListOptions, resources};
use fram_machinery::{Value, human, meta};
use http::Method;
use jiff::Timestamp;

use crate::access::{Access, Connection};
use crate::error::{CliError, Result};
use crate::local;
use crate::print::{escaped, note, out};
use crate::table;

/// The component that says of itself how it fares.
const API_SERVER: &str = "kube-apiserver";

/// A line: component, status, age, memory, details.
type Line = Vec<String>;

/// How long ago a time was, as tables show it.
pub(crate) fn age(since: &str, now: Timestamp) -> String {
    let since = since.parse::<Timestamp>();
    since.map_or_else(|_| "<unknown>".into(), |then| human::duration(now.as_second() - then.as_second()))
}

fn line(component: &str, status: &str, age: String, memory: &str, details: String) -> Line {
    let shown = |text: String| if text.is_empty() { "-".into() } else { text };
    vec![component.into(), status.into(), shown(age), shown(memory.into()), escaped(&details)]
}

pub(crate) async fn run(connection: &Connection) -> Result<()> {
    let access = Access::open(connection);
    let data = local::data_dir(connection.data_dir.as_deref(), access.as_ref().ok().map(|a| a.kubeconfig.as_path()));
    let here = local::ask(&data, Method::GET, "/status").await;
    let now = Timestamp::now();
    let mut lines = Vec::new();
    if let Ok(here) = &here {
        lines.extend(of_process(here, &data, now));
    }
    let of_api = match &access {
        Ok(access) => of_api(access, here.as_ref().ok(), &mut lines, now).await,
        Err(_) => Ok(true),
    };
    if !lines.is_empty() {
        lines.insert(0, ["COMPONENT", "STATUS", "AGE", "MEMORY", "DETAILS"].map(String::from).to_vec());
        out(table::align(&lines, &mut Vec::new()))?;
    }
    match (access, of_api, here) {
        (_, Err(error), _) | (Err(error), _, Err(_)) => Err(error),
        (_, Ok(false), _) => Err(CliError::failed("the cluster is not healthy")),
        (Ok(_), _, Err(CliError::NoNode(data))) => {
            note(&format!("No fram runs with its data in {}: memory and components are those of another machine.", data.display()));
            Ok(())
        }
        (_, _, Err(error)) => Err(error),
        _ => Ok(()),
    }
}

fn bytes(value: &Value, path: &[&str]) -> String {
    human::bytes(value.int_at(path).and_then(|b| u64::try_from(b).ok()).unwrap_or(0))
}

/// What a component holds; where that is too little for the process to know, less than what it would.
fn held(here: &Value, component: &Value) -> String {
    match component.int_at(&["held"]) {
        None => String::new(),
        Some(0) => format!("<{}", bytes(here, &["resolution"])),
        Some(_) => bytes(component, &["held"]),
    }
}

/// What the process says of itself.
fn of_process(here: &Value, data: &Path, now: Timestamp) -> Vec<Line> {
    let details = format!(
        "version {}, pid {}, {} of it the program itself, data in {}",
        here.str_at(&["version"]),
        here.int_at(&["pid"]).unwrap_or(0),
        bytes(here, &["code"]),
        data.display()
    );
    let mut lines = vec![line("fram", "Running", age(here.str_at(&["since"]), now), &bytes(here, &["process", "pss"]), details)];
    for component in here.list_at(&["components"]).iter().filter(|c| c.str_at(&["name"]) != API_SERVER) {
        let (running, began) = (component.int_at(&["tasks"]).unwrap_or(0), component.int_at(&["began"]).unwrap_or(0));
        let healthy = component.bool_at(&["healthy"]) == Some(true);
        let details = if healthy { "in fram's process".into() } else { format!("{running} of {began} tasks still run: see fram's log") };
        lines.push(line(
            component.str_at(&["name"]),
            if healthy { "Running" } else { "Ended" },
            age(component.str_at(&["since"]), now),
            &held(here, component),
            details,
        ));
    }
    if !here.str_at(&["node"]).is_empty() {
        let count = here.int_at(&["shims", "processes"]).unwrap_or(0);
        let details = format!("{count} processes that hold pods, {} resident", bytes(here, &["shims", "rss"]));
        lines.push(line("shims", if count > 0 { "Running" } else { "None" }, String::new(), &bytes(here, &["shims", "pss"]), details));
    }
    lines
}

/// Checks that failed, by name.
fn failed(verbose: &str) -> Vec<&str> {
    verbose.lines().filter_map(|l| l.strip_prefix("[-]")?.split(' ').next()).collect()
}

/// What the API says; false where something is not as it should be.
async fn of_api(access: &Access, here: Option<&Value>, lines: &mut Vec<Line>, now: Timestamp) -> Result<bool> {
    let (code, checks) = access.plain("/readyz?verbose").await?;
    let version = access.document("/version", "application/json").await?;
    let bad = failed(&checks);
    let passed = checks.lines().filter(|l| l.starts_with("[+]")).count();
    let details = match bad.is_empty() {
        true => format!("{} at {}, {passed} checks passed", version.str_at(&["gitVersion"]), access.server),
        false => format!("failed: {}", bad.join(", ")),
    };
    // Where it runs in the process on this machine, that says the rest.
    let component = here.and_then(|h| h.list_at(&["components"]).iter().find(|c| c.str_at(&["name"]) == API_SERVER));
    let since = component.map(|c| age(c.str_at(&["since"]), now)).unwrap_or_default();
    let memory = here.zip(component).map(|(h, c)| held(h, c)).unwrap_or_default();
    lines.push(line(API_SERVER, if code == 200 { "Ready" } else { "NotReady" }, since, &memory, details));
    let pods = access.resource_type(&resources::PODS.plural).await?;
    let pods = access.objects_in(pods, "").list(ListOptions::default()).await?.items;
    let pods = by_node(pods.iter().map(|pod| &**pod));
    let nodes = access.resource_type(&resources::NODES.plural).await?;
    let mut healthy = code == 200;
    for node in access.objects(nodes).list(ListOptions::default()).await?.items {
        let (line, ready) = of_node(&node, pods.get(meta::name(&node)).copied().unwrap_or_default(), now);
        healthy &= ready;
        lines.push(line);
    }
    if let Some(waiting) = pods.get("") {
        lines.push(line("pods without a node", "Pending", String::new(), "", format!("{}: see `fram get pods -A`", waiting.all)));
    }
    Ok(healthy)
}

/// How many pods there are, and how many of them run.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Pods {
    running: usize,
    all: usize,
}

/// The pods of each node; those without one under no name.
fn by_node<'a>(pods: impl Iterator<Item = &'a Value>) -> HashMap<&'a str, Pods> {
    let mut out: HashMap<&str, Pods> = HashMap::new();
    for pod in pods {
        let here = out.entry(pod.str_at(&["spec", "nodeName"])).or_default();
        here.all += 1;
        here.running += usize::from(pod.str_at(&["status", "phase"]) == "Running");
    }
    out
}

fn of_node(node: &Value, pods: Pods, now: Timestamp) -> (Line, bool) {
    let ready = meta::condition(node, "Ready");
    let is_ready = meta::condition_is_true(node, "Ready");
    let pressures =
        node.list_at(&["status", "conditions"]).iter().filter(|c| c.str_at(&["type"]) != "Ready" && c.str_at(&["status"]) == "True");
    let mut details = vec![format!("{} of {} pods running", pods.running, pods.all)];
    details.extend(pressures.map(|c| c.str_at(&["type"]).to_string()));
    if !is_ready {
        details.push(ready.map(|c| c.str_at(&["message"]).to_string()).unwrap_or_default());
    }
    if node.bool_at(&["spec", "unschedulable"]) == Some(true) {
        details.push("cordoned".into());
    }
    let since = ready.map(|c| c.str_at(&["lastTransitionTime"])).unwrap_or_default();
    let status = if is_ready { "Ready" } else { "NotReady" };
    (line(&format!("node {}", meta::name(node)), status, age(since, now), "", details.join(", ")), is_ready)
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    #[test]
    fn a_node_is_a_line_and_says_what_is_wrong() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let node = |ready: &str| {
            object!({ "metadata": { "name": "n" }, "spec": {}, "status": { "conditions": [
                { "type": "Ready", "status": ready, "message": "gone", "lastTransitionTime": "2026-01-01T00:00:00Z" }, { "type": "DiskPressure", "status": "True" }] } })
        };
        let (line, ready) = of_node(&node("True"), Pods { running: 1, all: 2 }, now);
        assert_eq!(
            (line, ready),
            (vec!["node n".into(), "Ready".into(), "60s".into(), "-".into(), "1 of 2 pods running, DiskPressure".into()], true)
        );
        let (line, ready) = of_node(&node("Unknown"), Pods::default(), now);
        assert!(!ready && line[4].ends_with("gone") && line[1] == "NotReady");
    }

    #[test]
    fn each_pod_counts_once_at_its_node_or_at_none() {
        let pod = |node: &str, phase: &str| object!({ "spec": { "nodeName": node }, "status": { "phase": phase } });
        let pods = [pod("a", "Running"), pod("b", "Pending"), pod("a", "Failed"), object!({ "spec": {} })];
        let expect = [("a", Pods { running: 1, all: 2 }), ("b", Pods { running: 0, all: 1 }), ("", Pods { running: 0, all: 1 })];
        assert_eq!(by_node(pods.iter()), HashMap::from(expect));
    }

    #[test]
    fn failed_checks_are_named() {
        assert_eq!(failed("[+]ping ok\n[-]store failed: reason withheld\nreadyz check failed\n"), ["store"]);
    }

    #[test]
    fn the_process_and_its_parts_are_lines() {
        let here = object!({ "version": "0.1.0", "pid": 7, "since": "2026-01-01T00:00:00Z", "node": "n", "process": { "pss": 3145728 }, "code": 1048576,
            "shims": { "processes": 2, "rss": 0, "pss": 4096 }, "components": [{ "name": "kube-apiserver", "since": "2026-01-01T00:00:00Z" },
            { "name": "scheduler", "since": "2026-01-01T00:00:00Z", "healthy": false, "tasks": 0, "began": 1, "held": 65536 }] });
        let lines = of_process(&here, Path::new("/d"), "2026-01-01T00:01:00Z".parse().unwrap());
        assert_eq!(lines[0], ["fram", "Running", "60s", "3.0Mi", "version 0.1.0, pid 7, 1.0Mi of it the program itself, data in /d"]);
        assert_eq!(lines[1], ["scheduler", "Ended", "60s", "64.0Ki", "0 of 1 tasks still run: see fram's log"]);
        assert_eq!(lines[2][3..], ["4.0Ki".to_string(), "2 processes that hold pods, 0 resident".into()]);
    }
}
