//! ResourceQuotas: what each namespace uses. Refusing what is too much is the API server's admission.

mod usage;

use std::collections::HashMap;
use std::sync::Arc;

use fram_client::resources::{PERSISTENT_VOLUME_CLAIMS, PODS, RESOURCE_QUOTAS, SERVICES};
use fram_client::{Action, Controller, Delta, Informer, Resource};
use fram_machinery::quantity::{Format, Quantity};
use fram_machinery::{Map, Status, Value, meta, object};

use crate::Context;
use crate::objects::{Objects, settled};
use usage::Amounts;

/// Resources of the core group that have a name of their own in quotas.
const COUNTED: [&str; 4] = ["secrets", "configmaps", "replicationcontrollers", "resourcequotas"];

pub(crate) fn start(context: &Context) {
    let quotas = context.informers.get(&RESOURCE_QUOTAS);
    let client = context.client("resourcequota-controller");
    let kinds = context.kinds.iter().filter(|k| k.namespaced && k.collected);
    let kinds: HashMap<String, Informer> = kinds.map(|k| (count_name(&k.resource), context.informers.get(&k.resource))).collect();
    let mut controller = Controller::new("resourcequota", 5).owns(&quotas);
    for informer in kinds.values() {
        let (here, resource) = (quotas.clone(), informer.resource().clone());
        controller = controller.watches_deltas(informer, move |delta| match changes_usage(&resource, delta) {
            true => here.by_namespace(meta::namespace(delta.object())).iter().map(|q| meta::key(q)).collect(),
            false => Vec::new(),
        });
    }
    let reconciler = Reconciler { quotas: Objects::new(&client, &quotas), kinds, now: context.now.clone() };
    context.run(controller, reconciler, |r, key| async move { r.reconcile(&key).await });
}

/// `count/deployments.apps`, `count/pods`.
fn count_name(resource: &Resource) -> String {
    format!("count/{resource}")
}

/// Whether a change may change what is used: objects that come and go do, and of some their parts.
fn changes_usage(resource: &Resource, delta: &Delta) -> bool {
    let (Some(old), Some(new)) = (&delta.old, &delta.new) else { return true };
    if *resource == PODS {
        let part = |p: &Value| (crate::pods::has_ended(p), meta::is_terminating(p));
        return part(old) != part(new) || old.get("spec") != new.get("spec");
    }
    (*resource == SERVICES || *resource == PERSISTENT_VOLUME_CLAIMS) && old.get("spec") != new.get("spec")
}

struct Reconciler {
    quotas: Objects,
    /// By the name under which a quota counts them.
    kinds: HashMap<String, Informer>,
    now: crate::Clock,
}

impl Reconciler {
    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let (namespace, name) = key.split_once('/').unwrap_or(("", key));
        let Some(quota) = self.quotas.get(namespace, name) else { return Ok(Action::Done) };
        let hard = quota.at(&["spec", "hard"]).and_then(Value::as_map).cloned().unwrap_or_default();
        let used = self.used(&quota, &hard);
        let written = |name: &str| used.get(name).map_or("0".to_string(), |q| q.to_string());
        let used: Map = hard.keys().map(|k| (k.clone(), written(k.as_str()))).collect();
        let mut status = object!({});
        if !hard.is_empty() {
            status = object!({ "hard": hard, "used": used });
        }
        settled(self.quotas.write_status(&quota, status).await)?;
        Ok(Action::Done)
    }

    fn used(&self, quota: &Value, hard: &Map) -> Amounts {
        let namespace = meta::namespace(quota);
        let of = |resource: &Resource| self.kinds.get(&count_name(resource)).map(|i| i.by_namespace(namespace)).unwrap_or_default();
        let scoped = !quota.list_at(&["spec", "scopes"]).is_empty() || quota.at(&["spec", "scopeSelector"]).is_some_and(|s| !s.is_null());
        let now = (self.now)();
        let covered: Vec<Arc<Value>> = of(&PODS).into_iter().filter(|p| usage::covers(quota, p)).collect();
        let mut amounts = Amounts::new();
        let mut add = |more: Amounts| {
            for (name, amount) in more {
                let entry = amounts.entry(name).or_insert(Quantity::zero());
                *entry = *entry + amount;
            }
        };
        covered.iter().filter(|p| usage::is_used(p, now)).for_each(|p| add(usage::pod(p)));
        let count = |n: usize| Quantity::from_units(n as i64, Format::DecimalSi);
        add(Amounts::from([("count/pods".to_string(), count(covered.len()))]));
        // Scopes speak of pods only.
        if scoped {
            return amounts;
        }
        of(&SERVICES).iter().for_each(|s| add(usage::service(s)));
        of(&PERSISTENT_VOLUME_CLAIMS).iter().for_each(|c| add(usage::claim(c)));
        for name in hard.keys().filter(|k| k.as_str() != "count/pods") {
            let counted = if COUNTED.contains(&name.as_str()) { format!("count/{name}") } else { name.to_string() };
            if let Some(informer) = self.kinds.get(&counted) {
                add(Amounts::from([(name.to_string(), count(informer.by_namespace(namespace).len()))]));
            }
        }
        amounts
    }
}
