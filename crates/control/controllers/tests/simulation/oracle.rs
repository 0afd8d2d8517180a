//! What must hold at every moment, looked at after each commit in the store's own order, whatever components believe.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use fram_apiserver::Server;
use fram_machinery::{Value, meta};
use fram_store::{Store, WatchItem};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::run::Mode;
use crate::users::DOOMED;

/// The kinds that are looked at, as the store's keys name them, with their versions.
const KINDS: [(&str, &str, &str); 7] = [
    ("core", "pods", "v1"),
    ("apps", "deployments", "v1"),
    ("apps", "replicasets", "v1"),
    ("apps", "statefulsets", "v1"),
    ("apps", "daemonsets", "v1"),
    ("batch", "jobs", "v1"),
    ("policy", "poddisruptionbudgets", "v1"),
];

/// A wish that a user took back may still be acted on for so long: it is how far caches lag behind at most.
const LAG: Duration = Duration::from_secs(90);

pub(crate) struct Oracle {
    begun: Instant,
    /// Changes whose key has this part are printed (`FRAM_SIM_TRACE`).
    traced: Option<String>,
    /// By `plural/namespace/name`.
    pub(crate) objects: BTreeMap<String, Value>,
    /// What was asked for lately, by the UID of an owner: when, and how many.
    asked: BTreeMap<String, VecDeque<(Instant, i64)>>,
    /// Deployments and StatefulSets, by UID, that have once had enough available pods for what they ask now.
    reached: BTreeSet<String>,
    /// Pods of Jobs, by the Job's UID, that ended well and that did not.
    pub(crate) succeeded: BTreeMap<String, BTreeSet<String>>,
    pub(crate) failed: BTreeMap<String, BTreeSet<String>>,
    pub(crate) faults: BTreeSet<String>,
    pub(crate) changes: u64,
    /// A number that two equal runs have in common.
    pub(crate) trace: u64,
}

pub(crate) fn is_ready(pod: &Value) -> bool {
    meta::condition_is_true(pod, "Ready") && !meta::is_terminating(pod)
}

fn is_active(pod: &Value) -> bool {
    !meta::is_terminating(pod) && !matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed")
}

/// A number or a percentage of `total`.
pub(crate) fn scaled(value: Option<&Value>, total: i64, up: bool) -> i64 {
    match value {
        Some(Value::String(text)) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            if up { (percent * total + 99) / 100 } else { percent * total / 100 }
        }
        Some(value) => value.as_int().unwrap_or(0),
        None => 0,
    }
}

/// maxSurge and maxUnavailable of a Deployment, as numbers; see ResolveFenceposts.
fn limits(deployment: &Value) -> (i64, i64) {
    let replicas = deployment.int_at(&["spec", "replicas"]).unwrap_or(1);
    let rolling = |field| deployment.at(&["spec", "strategy", "rollingUpdate", field]);
    let (surge, unavailable) = (scaled(rolling("maxSurge"), replicas, true), scaled(rolling("maxUnavailable"), replicas, false));
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

/// Follows the store until `stop`; what it says is in the shared oracle.
pub(crate) async fn follow(
    server: Arc<Server>,
    store: Arc<dyn Store>,
    mode: Mode,
    oracle: Arc<parking_lot::Mutex<Oracle>>,
    stop: CancellationToken,
) {
    let registry = &server.registry;
    let mut watch = store.watch("/registry/", store.revision().await.unwrap()).await.unwrap();
    while let Some(Ok(item)) = stop.run_until_cancelled(watch.next()).await {
        let WatchItem::Events(events) = item else { continue };
        for event in events.iter() {
            let key = event.key.as_str().trim_start_matches("/registry/");
            let Some((group, rest)) = key.split_once('/') else { continue };
            let Some((plural, _)) = rest.split_once('/') else { continue };
            let Some((_, _, version)) = KINDS.iter().find(|(g, p, _)| (g.split('.').next(), *p) == (group.split('.').next(), plural))
            else {
                continue;
            };
            let api_group = if group == "core" { "" } else { group };
            let served = registry.served(api_group, version, plural).unwrap();
            let object = event.entry.as_ref().map(|entry| registry.decode(&served, entry).unwrap());
            oracle.lock().note(rest, object, mode);
        }
    }
}

impl Oracle {
    pub(crate) fn new() -> Self {
        Self {
            begun: Instant::now(),
            traced: std::env::var("FRAM_SIM_TRACE").ok(),
            objects: BTreeMap::new(),
            asked: BTreeMap::new(),
            reached: BTreeSet::new(),
            succeeded: BTreeMap::new(),
            failed: BTreeMap::new(),
            faults: BTreeSet::new(),
            changes: 0,
            trace: 0,
        }
    }

    fn note(&mut self, key: &str, object: Option<Value>, mode: Mode) {
        self.changes += 1;
        let size = object.as_ref().map_or(0, |o| o.list_at(&["status", "conditions"]).len() as u64 + 1);
        self.trace = key.bytes().fold(self.trace ^ size, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        let before = match &object {
            Some(object) => self.objects.insert(key.into(), object.clone()),
            None => self.objects.remove(key),
        };
        if self.traced.as_ref().is_some_and(|part| key.contains(part.as_str())) {
            self.tell(key, object.as_ref());
        }
        match (key.split('/').next(), &object) {
            (Some("pods"), _) => self.pod(before.as_ref(), object.as_ref(), mode),
            (Some("replicasets" | "jobs" | "deployments" | "statefulsets"), Some(object)) => {
                let field = if key.starts_with("jobs") { "parallelism" } else { "replicas" };
                let asked = object.int_at(&["spec", field]).unwrap_or(1);
                let changed = before.as_ref().is_none_or(|b| b.int_at(&["spec", field]) != object.int_at(&["spec", field]));
                if changed {
                    let history = self.asked.entry(meta::uid(object).into()).or_default();
                    // What was asked before counts until now.
                    if let Some(last) = history.back_mut() {
                        last.0 = Instant::now();
                    }
                    history.push_back((Instant::now(), asked));
                    self.reached.remove(meta::uid(object));
                }
                if mode == Mode::Calm && key.starts_with("replicasets") && changed {
                    self.surge_of(object);
                }
            }
            _ => {}
        }
    }

    /// One line for a change, to find out how a fault came about.
    fn tell(&self, key: &str, object: Option<&Value>) {
        let at = self.begun.elapsed().as_secs_f32();
        let Some(object) = object else { return println!("{at:9.3} {key} gone") };
        let (asked, terminating) = (object.at(&["spec", "replicas"]), meta::is_terminating(object));
        let counts: Vec<_> =
            ["replicas", "readyReplicas", "availableReplicas", "updatedReplicas", "active", "succeeded", "failed", "phase"]
                .into_iter()
                .filter_map(|f| Some(format!("{f}={:?}", object.at(&["status", f])?)))
                .collect();
        println!("{at:9.3} {key} asked={asked:?} terminating={terminating} ready={} {}", is_ready(object), counts.join(" "));
    }

    fn fault(&mut self, text: String) {
        if self.traced.is_some() {
            println!("{:9.3} FAULT {text}", self.begun.elapsed().as_secs_f32());
        }
        if self.faults.len() < 20 {
            self.faults.insert(text);
        }
    }

    /// All that an owner asked for within the lag.
    fn lately(&self, uid: &str) -> impl Iterator<Item = i64> {
        let history = self.asked.get(uid);
        let last = history.map_or(0, |h| h.len().saturating_sub(1));
        history.into_iter().flatten().enumerate().filter(move |(i, (at, _))| *i == last || at.elapsed() < LAG).map(|(_, (_, n))| *n)
    }

    fn most(&self, uid: &str) -> i64 {
        self.lately(uid).max().unwrap_or(0)
    }

    fn of(&self, uid: &str) -> impl Iterator<Item = &Value> {
        self.objects.values().filter(move |o| meta::controller_of(o).is_some_and(|r| r.str_at(&["uid"]) == uid))
    }

    fn owner(&self, object: &Value) -> Option<&Value> {
        let owner = meta::controller_of(object)?;
        let plural = format!("{}s", owner.str_at(&["kind"]).to_lowercase());
        let found = self.objects.get(&format!("{plural}/{}/{}", meta::namespace(object), owner.str_at(&["name"])))?;
        (meta::uid(found) == owner.str_at(&["uid"])).then_some(found)
    }

    fn pod(&mut self, before: Option<&Value>, now: Option<&Value>, mode: Mode) {
        let Some(pod) = now.or(before) else { return };
        let Some(owner) = self.owner(pod).cloned() else { return };
        let (kind, uid) = (owner.str_at(&["kind"]).to_string(), meta::uid(&owner).to_string());
        if kind == "Job" {
            self.job_pod(pod, &uid);
        }
        let name = meta::key(&owner);
        if now.is_some() && before.is_none() {
            let active = self.of(&uid).filter(|p| is_active(p)).count() as i64;
            let most = self.most(&uid);
            match kind.as_str() {
                "ReplicaSet" | "Job" if active > most => self.fault(format!("{kind} {name} has {active} pods where {most} were asked for")),
                "StatefulSet" => self.ordinal(&owner, pod, mode),
                "DaemonSet" if mode == Mode::Calm => self.daemon(&owner, pod),
                _ => {}
            }
        }
        // What is in a namespace that ends is promised nothing.
        if mode == Mode::Calm && meta::namespace(pod) != DOOMED && !meta::is_terminating(&owner) {
            let top = if kind == "ReplicaSet" { self.owner(&owner).cloned() } else { Some(owner) };
            if let Some(top) = top.filter(|t| !meta::is_terminating(t)) {
                self.availability(&top);
            }
        }
        if mode == Mode::Evictions && before.is_some_and(is_ready) && now.is_none_or(|p| !is_ready(p)) {
            self.budgets(pod);
        }
    }

    fn job_pod(&mut self, pod: &Value, job: &str) {
        let set = match pod.str_at(&["status", "phase"]) {
            "Succeeded" => &mut self.succeeded,
            "Failed" => &mut self.failed,
            _ => return,
        };
        set.entry(job.into()).or_default().insert(meta::uid(pod).into());
    }

    /// All ReplicaSets of a Deployment together never ask for more than its replicas and maxSurge.
    fn surge_of(&mut self, set: &Value) {
        let Some(deployment) = self.owner(set) else { return };
        let total: i64 = self.of(meta::uid(deployment)).filter_map(|s| s.int_at(&["spec", "replicas"])).sum();
        let replicas = self.most(meta::uid(deployment));
        let mut largest = deployment.clone();
        largest.set(&["spec", "replicas"], replicas);
        let most = replicas + limits(&largest).0;
        if total > most {
            let name = meta::key(deployment);
            self.fault(format!("the ReplicaSets of {name} ask for {total} pods where {most} are allowed"));
        }
    }

    /// In order, no ordinal is made before all lower ones are ready; and none is made beyond those asked for.
    fn ordinal(&mut self, set: &Value, pod: &Value, mode: Mode) {
        let number = |p: &Value| meta::name(p).rsplit_once('-').and_then(|(_, n)| n.parse::<i64>().ok()).unwrap_or(-1);
        let ordinal = number(pod);
        let name = meta::key(set);
        let most = self.most(meta::uid(set));
        if ordinal >= most {
            self.fault(format!("{name} made the ordinal {ordinal} where {most} were asked for"));
        }
        let parallel = set.str_at(&["spec", "podManagementPolicy"]) == "Parallel";
        if parallel || mode != Mode::Calm {
            return;
        }
        let ready: BTreeSet<i64> = self.of(meta::uid(set)).filter(|p| is_ready(p)).map(number).collect();
        if let Some(missing) = (0..ordinal).find(|i| !ready.contains(i)) {
            self.fault(format!("{name} made the ordinal {ordinal} while {missing} was not ready"));
        }
    }

    fn daemon(&mut self, set: &Value, pod: &Value) {
        let node = |p: &Value| {
            let terms =
                p.list_at(&["spec", "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"]);
            let field = terms.first().and_then(|t| t.list_at(&["matchFields"]).first());
            field.and_then(|f| f.list_at(&["values"]).first()).and_then(Value::as_str).unwrap_or_default().to_string()
        };
        let here = node(pod);
        let count = self.of(meta::uid(set)).filter(|p| is_active(p) && node(p) == here).count();
        if count > 1 {
            self.fault(format!("{} has {count} pods on {here}", meta::key(set)));
        }
    }

    /// Once there were enough available pods, there are never fewer.
    fn availability(&mut self, owner: &Value) {
        let replicas = owner.int_at(&["spec", "replicas"]).unwrap_or(1);
        let uid = meta::uid(owner).to_string();
        let (available, least) = match owner.str_at(&["kind"]) {
            "Deployment" => {
                let sets: Vec<String> = self.of(&uid).map(|s| meta::uid(s).to_string()).collect();
                let available: usize = sets.iter().map(|s| self.of(s).filter(|p| is_ready(p)).count()).sum();
                let recreate = owner.str_at(&["spec", "strategy", "type"]) == "Recreate";
                // What was taken away before more was asked for does not come back at once.
                let mut smallest = owner.clone();
                let least = self.lately(&uid).min().unwrap_or(0);
                smallest.set(&["spec", "replicas"], least);
                (available as i64, if recreate { 0 } else { least - limits(&smallest).1 })
            }
            "StatefulSet" => (self.of(&uid).filter(|p| is_ready(p)).count() as i64, self.lately(&uid).min().unwrap_or(0) - 1),
            _ => return,
        };
        if available >= replicas {
            self.reached.insert(uid);
        } else if self.reached.contains(&uid) && available < least {
            self.fault(format!("{} has {available} available pods where {least} are promised", meta::key(owner)));
        }
    }

    /// Called where a pod ceased to serve.
    fn budgets(&mut self, pod: &Value) {
        let Some(app) = meta::label(pod, "app") else { return };
        let namespace = meta::namespace(pod);
        let here = |o: &&Value| meta::namespace(o) == namespace;
        let of_app = |p: &&Value| p.str_at(&["kind"]) == "Pod" && meta::label(p, "app") == Some(app);
        let healthy = self.objects.values().filter(here).filter(of_app).filter(|p| is_ready(p)).count() as i64;
        let mut budgets = self.objects.values().filter(here).filter(|o| o.str_at(&["kind"]) == "PodDisruptionBudget");
        let budget = budgets.find(|b| b.str_at(&["spec", "selector", "matchLabels", "app"]) == app).cloned();
        let Some(budget) = budget else { return };
        let Some(least) = budget.int_at(&["spec", "minAvailable"]) else { return };
        if healthy < least {
            self.fault(format!("{app} has {healthy} healthy pods where its budget wants {least}"));
        }
    }
}
