//! Users who make workloads and change their minds: what they want in the end is what the cluster has to come to.

use std::collections::BTreeMap;

use fram_client::resources::{DAEMON_SETS, DEPLOYMENTS, JOBS, NAMESPACES, POD_DISRUPTION_BUDGETS, PODS, SERVICES, STATEFUL_SETS};
use fram_client::{Client, DeleteOptions, PatchKind, Propagation, Resource};
use fram_machinery::{Value, meta, object};

use crate::random::Chance;
use crate::run::Mode;

pub(crate) const NAMESPACE: &str = "default";
/// A namespace that is deleted on the way, with all that is in it.
pub(crate) const DOOMED: &str = "doomed";

pub(crate) struct Users {
    client: Client,
    chance: Chance,
    mode: Mode,
    /// The workloads that there should be, by resource and name.
    pub(crate) wanted: BTreeMap<(String, String), Resource>,
    serial: u64,
}

fn template(app: &str, behaviour: &str, version: u64) -> Value {
    object!({ "metadata": { "labels": { "app": app }, "annotations": { "sim/behaviour": behaviour } },
        "spec": { "containers": [{ "name": "c", "image": "i", "env": [{ "name": "VERSION", "value": (version.to_string()) }] }] } })
}

impl Users {
    pub(crate) fn new(client: Client, chance: Chance, mode: Mode) -> Self {
        Self { client, chance, mode, wanted: BTreeMap::new(), serial: 0 }
    }

    async fn make(&mut self, resource: &Resource, namespace: &str, object: Value) {
        let name = meta::name(&object).to_string();
        self.client.within(resource, namespace).create(object).await.unwrap_or_else(|s| panic!("{resource} {name}: {s}"));
        if namespace == NAMESPACE && !matches!(&*resource.plural, "services" | "poddisruptionbudgets") {
            self.wanted.insert((resource.plural.to_string(), name), resource.clone());
        }
    }

    async fn deployment(&mut self, namespace: &str, name: &str) {
        let chance = &self.chance;
        let replicas = chance.int(1, 8);
        let (surge, unavailable) = *chance.one_of(&[(1, 0), (0, 1), (2, 1), (3, 0), (1, 2)]).unwrap();
        let percent = chance.happens(300);
        let rolling = match percent {
            true => object!({ "maxSurge": "25%", "maxUnavailable": "25%" }),
            false => object!({ "maxSurge": surge, "maxUnavailable": unavailable }),
        };
        let strategy = match self.mode != Mode::Evictions && chance.happens(100) {
            true => object!({ "type": "Recreate" }),
            false => object!({ "type": "RollingUpdate", "rollingUpdate": rolling }),
        };
        let replicas = if self.mode == Mode::Evictions { replicas + 2 } else { replicas };
        let object = object!({ "metadata": { "name": name }, "spec": { "replicas": replicas, "strategy": strategy,
            "selector": { "matchLabels": { "app": name } }, "template": (template(name, "serve", 0)) } });
        self.make(&DEPLOYMENTS, namespace, object).await;
        let service = object!({ "metadata": { "name": name }, "spec": { "selector": { "app": name }, "ports": [{ "port": 80 }] } });
        self.make(&SERVICES, namespace, service).await;
        if self.mode == Mode::Evictions {
            let budget = object!({ "metadata": { "name": name }, "spec": { "minAvailable": (replicas - 1), "selector": { "matchLabels": { "app": name } } } });
            self.make(&POD_DISRUPTION_BUDGETS, namespace, budget).await;
        }
    }

    async fn stateful_set(&mut self, namespace: &str, name: &str) {
        let policy = if self.chance.happens(300) { "Parallel" } else { "OrderedReady" };
        let object = object!({ "metadata": { "name": name }, "spec": { "replicas": (self.chance.int(1, 4)), "serviceName": name,
            "podManagementPolicy": policy, "selector": { "matchLabels": { "app": name } }, "template": (template(name, "serve", 0)) } });
        self.make(&STATEFUL_SETS, namespace, object).await;
    }

    async fn daemon_set(&mut self, namespace: &str, name: &str) {
        let object = object!({ "metadata": { "name": name }, "spec": { "selector": { "matchLabels": { "app": name } }, "template": (template(name, "serve", 0)) } });
        self.make(&DAEMON_SETS, namespace, object).await;
    }

    async fn job(&mut self, namespace: &str, name: &str) {
        let chance = &self.chance;
        let (rate, limit) = *chance.one_of(&[(0, 6), (200, 1000), (1000, 3)]).unwrap();
        let mut template = template(name, &format!("end:{rate}"), 0);
        template.set(&["spec", "restartPolicy"], "Never");
        let mode = if chance.happens(500) { "Indexed" } else { "NonIndexed" };
        let object = object!({ "metadata": { "name": name }, "spec": { "completions": (chance.int(1, 12)), "parallelism": (chance.int(1, 5)),
            "completionMode": mode, "backoffLimit": limit, "template": template } });
        self.make(&JOBS, namespace, object).await;
    }

    pub(crate) async fn begin(&mut self) {
        let doomed = object!({ "metadata": { "name": DOOMED } });
        self.client.all(&NAMESPACES).create(doomed).await.unwrap();
        for n in 0..self.chance.between(1, 3) {
            self.deployment(NAMESPACE, &format!("web-{n}")).await;
        }
        if self.mode == Mode::Evictions {
            return;
        }
        self.stateful_set(NAMESPACE, "db-0").await;
        self.stateful_set(NAMESPACE, "db-1").await;
        self.daemon_set(NAMESPACE, "agent").await;
        for n in 0..self.chance.between(1, 3) {
            self.job(NAMESPACE, &format!("batch-{n}")).await;
        }
        self.deployment(DOOMED, "gone").await;
        self.job(DOOMED, "gone").await;
        self.stateful_set(DOOMED, "gone-too").await;
    }

    /// One change of mind.
    pub(crate) async fn act(&mut self) {
        self.serial += 1;
        match (self.mode, self.chance.between(0, 99)) {
            (Mode::Evictions, _) => self.evict().await,
            (Mode::Rough, 0..=29) => self.delete_pod().await,
            (_, 30..=49) => self.scale().await,
            (_, 50..=69) => self.roll().await,
            (_, 70..=74) => self.pause().await,
            (_, 75..=79) => self.delete().await,
            (_, 80..=84) => {
                let name = format!("late-{}", self.serial);
                match self.chance.between(0, 2) {
                    0 => self.deployment(NAMESPACE, &name).await,
                    1 => self.job(NAMESPACE, &name).await,
                    _ => self.stateful_set(NAMESPACE, &name).await,
                }
            }
            (_, 85) => drop(self.client.all(&NAMESPACES).delete(DOOMED, DeleteOptions::default()).await),
            _ => {}
        }
    }

    /// What must be so at the end: nothing is broken or paused, and the doomed namespace is doomed.
    pub(crate) async fn settle(&mut self) {
        let _ = self.client.all(&NAMESPACES).delete(DOOMED, DeleteOptions::default()).await;
        // A rollout takes pods away in its own measure, of which a budget knows nothing.
        let rolled: &[&str] = if self.mode == Mode::Evictions { &[] } else { &["deployments", "statefulsets"] };
        for (resource, name) in self.all(rolled) {
            let mut patch = object!({ "spec": { "template": (template(&name, "serve", self.serial)) } });
            if resource == DEPLOYMENTS {
                patch.set(&["spec", "paused"], Value::Null);
            }
            self.patch(&resource, &name, patch).await;
        }
    }

    fn all(&self, plurals: &[&str]) -> Vec<(Resource, String)> {
        let among = |plural: &str| plurals.contains(&plural);
        self.wanted.iter().filter(|((plural, _), _)| among(plural)).map(|((_, name), r)| (r.clone(), name.clone())).collect()
    }

    async fn patch(&self, resource: &Resource, name: &str, patch: Value) {
        self.client.within(resource, NAMESPACE).patch(name, "", PatchKind::Strategic, patch).await.unwrap();
    }

    async fn scale(&self) {
        let all = self.all(&["deployments", "statefulsets"]);
        let Some((resource, name)) = self.chance.one_of(&all) else { return };
        let most = if *resource == DEPLOYMENTS { 10 } else { 5 };
        self.patch(resource, name, object!({ "spec": { "replicas": (self.chance.int(0, most)) } })).await;
    }

    async fn roll(&self) {
        let all = self.all(&["deployments", "statefulsets", "daemonsets"]);
        let Some((resource, name)) = self.chance.one_of(&all) else { return };
        // A template that never becomes ready would block an ordered set until someone deletes the pod, as upstream documents.
        let broken = *resource == DEPLOYMENTS && self.chance.happens(200);
        let template = template(name, if broken { "broken" } else { "serve" }, self.serial);
        self.patch(resource, name, object!({ "spec": { "template": template } })).await;
    }

    async fn pause(&self) {
        let all = self.all(&["deployments"]);
        let Some((resource, name)) = self.chance.one_of(&all) else { return };
        self.patch(resource, name, object!({ "spec": { "paused": (self.chance.happens(500)) } })).await;
    }

    async fn delete(&mut self) {
        let all = self.all(&["deployments", "statefulsets", "jobs"]);
        let Some((resource, name)) = self.chance.one_of(&all).cloned() else { return };
        let propagation = *self.chance.one_of(&[Propagation::Background, Propagation::Foreground]).unwrap();
        let options = DeleteOptions { propagation: Some(propagation), ..Default::default() };
        self.client.within(&resource, NAMESPACE).delete(&name, options).await.unwrap();
        self.wanted.remove(&(resource.plural.to_string(), name));
    }

    async fn a_pod(&self) -> Option<String> {
        let pods = self.client.within(&PODS, NAMESPACE).list(Default::default()).await.unwrap().items;
        self.chance.one_of(&pods).map(|p| meta::name(p).to_string())
    }

    async fn delete_pod(&self) {
        if let Some(name) = self.a_pod().await {
            let _ = self.client.within(&PODS, NAMESPACE).delete(&name, DeleteOptions::default()).await;
        }
    }

    /// As a drain would: pod after pod, and it does not mind being refused.
    async fn evict(&self) {
        for _ in 0..self.chance.between(1, 6) {
            let Some(name) = self.a_pod().await else { return };
            let eviction =
                object!({ "apiVersion": "policy/v1", "kind": "Eviction", "metadata": { "name": (name.as_str()), "namespace": NAMESPACE } });
            let _ = self.client.within(&PODS, NAMESPACE).create_subresource(&name, "eviction", eviction).await;
        }
    }
}
