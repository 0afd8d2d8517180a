//! The cells of a pod's table row, as upstream's printPod works them out.

use fram_machinery::{Value, meta};

use crate::strategy::joined;

pub(super) fn cell(pod: &Value, column: &str) -> Value {
    let statuses = pod.list_at(&["status", "containerStatuses"]);
    match column {
        "Ready" => {
            let sidecar = |name: &str| is_sidecar(pod, name);
            let inits = pod.list_at(&["status", "initContainerStatuses"]).iter().filter(|s| sidecar(s.str_at(&["name"])));
            let ready = statuses.iter().chain(inits).filter(|s| s.bool_at(&["ready"]) == Some(true)).count();
            let sidecars = pod.list_at(&["spec", "initContainers"]).iter().filter(|c| c.str_at(&["restartPolicy"]) == "Always");
            format!("{ready}/{}", pod.list_at(&["spec", "containers"]).len() + sidecars.count()).into()
        }
        "Status" => status(pod).into(),
        "Restarts" => restarts(pod).into(),
        "IP" => some(pod.str_at(&["status", "podIP"])),
        "Node" => some(pod.str_at(&["spec", "nodeName"])),
        "Nominated Node" => some(pod.str_at(&["status", "nominatedNodeName"])),
        "Readiness Gates" => {
            let gates = pod.list_at(&["spec", "readinessGates"]);
            if gates.is_empty() {
                return "<none>".into();
            }
            let met = gates.iter().filter(|g| meta::condition_is_true(pod, g.str_at(&["conditionType"]))).count();
            format!("{met}/{}", gates.len()).into()
        }
        "Containers" => joined(pod.list_at(&["spec", "containers"]).iter().map(|c| c.str_at(&["name"]).into()), ""),
        _ => Value::Null,
    }
}

fn some(text: &str) -> Value {
    if text.is_empty() { "<none>".into() } else { text.into() }
}

fn is_sidecar(pod: &Value, name: &str) -> bool {
    let inits = pod.list_at(&["spec", "initContainers"]);
    inits.iter().any(|c| c.str_at(&["name"]) == name && c.str_at(&["restartPolicy"]) == "Always")
}

fn restarts(pod: &Value) -> String {
    let inits = pod.list_at(&["status", "initContainerStatuses"]);
    let counts = |s: &[Value]| s.iter().filter_map(|c| c.int_at(&["restartCount"])).sum::<i64>();
    let main = counts(pod.list_at(&["status", "containerStatuses"]));
    let initialising = !meta::condition_is_true(pod, "Initialized");
    let total = if initialising { counts(inits) } else { main };
    total.to_string()
}

fn terminated_text(state: &Value) -> String {
    match (state.str_at(&["reason"]), state.int_at(&["signal"]).unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", state.int_at(&["exitCode"]).unwrap_or(0)),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_string(),
    }
}

fn status(pod: &Value) -> String {
    let mut text = match pod.str_at(&["status", "reason"]) {
        "" => pod.str_at(&["status", "phase"]).to_string(),
        reason => reason.to_string(),
    };
    let gated = meta::condition(pod, "PodScheduled").is_some_and(|c| c.str_at(&["reason"]) == "SchedulingGated");
    if gated {
        text = "SchedulingGated".into();
    }
    let initialising = init_status(pod);
    match &initialising {
        Some(init) => text = init.clone(),
        None => text = main_status(pod, text),
    }
    if !meta::is_terminating(pod) {
        return text;
    }
    match (pod.str_at(&["status", "reason"]), pod.str_at(&["status", "phase"])) {
        ("NodeLost", _) => "Unknown".into(),
        (_, "Succeeded" | "Failed") => text,
        _ => "Terminating".into(),
    }
}

fn init_status(pod: &Value) -> Option<String> {
    let total = pod.list_at(&["spec", "initContainers"]).len();
    for (i, s) in pod.list_at(&["status", "initContainerStatuses"]).iter().enumerate() {
        let state = s.get("state").cloned().unwrap_or_default();
        if let Some(terminated) = state.get("terminated") {
            if terminated.int_at(&["exitCode"]) == Some(0) {
                continue;
            }
            return Some(format!("Init:{}", terminated_text(terminated)));
        }
        if is_sidecar(pod, s.str_at(&["name"])) && s.bool_at(&["started"]) == Some(true) {
            continue;
        }
        let reason = state.str_at(&["waiting", "reason"]);
        if !reason.is_empty() && reason != "PodInitializing" {
            return Some(format!("Init:{reason}"));
        }
        return Some(format!("Init:{i}/{total}"));
    }
    None
}

fn main_status(pod: &Value, mut text: String) -> String {
    let mut running = false;
    for s in pod.list_at(&["status", "containerStatuses"]).iter().rev() {
        let waiting = s.str_at(&["state", "waiting", "reason"]);
        let terminated = s.at(&["state", "terminated"]);
        if !waiting.is_empty() {
            text = waiting.to_string();
        } else if let Some(terminated) = terminated {
            text = terminated_text(terminated);
        } else if s.bool_at(&["ready"]) == Some(true) && s.at(&["state", "running"]).is_some() {
            running = true;
        }
    }
    // A finished container beside a running one does not make the pod Completed.
    if text == "Completed" && running {
        text = if meta::condition_is_true(pod, "Ready") { "Running" } else { "NotReady" }.into();
    }
    text
}
