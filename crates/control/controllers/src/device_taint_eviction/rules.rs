//! What DeviceTaintRules say in their status: how many pods leave because of them, or would.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use fram_client::{Action, Client, Controller, Enqueuer, Informer, PatchKind};
use fram_machinery::normalize::format_time;
use fram_machinery::{Status, Value, meta, object};

use super::plan::{self, Figures};
use super::{ACCOUNT, Evicted, Seen};
use crate::objects::unless_it_changed;
use crate::{Context, pods};

/// A rule's status is written no more often; see ruleStatusPeriod.
pub(super) const PERIOD: Duration = Duration::from_secs(10);

/// Starts what writes the status of rules, and gives the queue in which they are asked to.
pub(super) fn start(context: &Context, seen: Seen, rules: Informer, evicted: Evicted) -> Enqueuer {
    let forgotten = evicted.clone();
    let controller = Controller::new("device-taint-rules", 1).needs(&seen.pods).needs(&seen.claims).needs(&seen.slices).watches_deltas(
        &rules,
        move |delta| {
            let spec = |side: &Option<Arc<Value>>| side.as_deref().map(|rule| (meta::uid(rule).to_string(), rule.get("spec").cloned()));
            if let Some(old) = delta.old.as_deref().filter(|old| delta.new.as_deref().is_none_or(|new| meta::uid(new) != meta::uid(old))) {
                forgotten.lock().remove(meta::uid(old));
            }
            if delta.new.is_some() && spec(&delta.old) != spec(&delta.new) { vec![delta.key()] } else { Vec::new() }
        },
    );
    let enqueuer = controller.enqueuer();
    let reconciler = Reconciler { client: context.client(ACCOUNT), seen, rules, evicted };
    context.run(controller, reconciler, |r, name| async move { r.reconcile(&name).await });
    enqueuer
}

struct Reconciler {
    client: Client,
    seen: Seen,
    rules: Informer,
    evicted: Evicted,
}

impl Reconciler {
    async fn reconcile(&self, name: &str) -> Result<Action, Status> {
        let Some(rule) = self.rules.get(name) else { return Ok(Action::Done) };
        let now = (self.seen.now)();
        if let Some(said) = meta::condition(&rule, plan::IN_PROGRESS)
            && said.int_at(&["observedGeneration"]) == Some(meta::generation(&rule))
            && let Some(last) = pods::time(said, &["lastTransitionTime"])
        {
            let since = Duration::try_from(now.duration_since(last)).unwrap_or(PERIOD);
            if since < PERIOD {
                return Ok(Action::After(PERIOD.saturating_sub(since)));
            }
        }
        let condition = plan::condition(&rule, self.figures(&rule), &format_time(now, 0));
        if !plan::says(&rule, &condition) {
            let patch = object!({ "metadata": { "uid": (meta::uid(&rule)) }, "status": { "conditions": [condition] } });
            unless_it_changed(self.client.all(self.rules.resource()).patch(name, "status", PatchKind::Strategic, patch).await)?;
        }
        Ok(Action::Done)
    }

    fn figures(&self, rule: &Arc<Value>) -> Figures {
        let evicted = self.evicted.lock().get(meta::uid(rule)).copied().unwrap_or(0);
        match rule.str_at(&["spec", "taint", "effect"]) {
            "NoExecute" => Figures { pending: self.pending(rule), evicted, ..Figures::default() },
            "None" => Figures { pending: self.pending(rule), evicted, devices: self.devices(rule) },
            _ => Figures { evicted, ..Figures::default() },
        }
    }

    /// The pods that have to leave because of a rule, or would have to if it evicted, and in how many namespaces they are.
    fn pending(&self, rule: &Arc<Value>) -> (usize, usize) {
        let mut evicting = (**rule).clone();
        evicting.set(&["spec", "taint", "effect"], "NoExecute");
        let evicting = Arc::new(evicting);
        let claims = self.seen.claims.list();
        let concerned = claims.iter().filter(|claim| plan::is_selected_of(claim, rule));
        let keys: BTreeSet<String> = concerned.flat_map(|claim| self.seen.users(claim)).collect();
        let pods = keys.iter().filter_map(|key| self.seen.pods.get(key)).filter(|pod| {
            let eviction = || self.seen.eviction(pod, std::slice::from_ref(&evicting));
            !meta::is_terminating(pod) && eviction().is_some_and(|e| e.rules.contains(meta::uid(rule)))
        });
        let pods: Vec<Arc<Value>> = pods.collect();
        let namespaces: BTreeSet<&str> = pods.iter().map(|pod| meta::namespace(pod)).collect();
        (pods.len(), namespaces.len())
    }

    /// How many devices a rule is about: of those that are published, and of those that claims have.
    fn devices(&self, rule: &Value) -> (usize, usize) {
        let slices = self.seen.slices.list();
        let published =
            plan::published(&slices).filter(|(driver, pool, device)| fram_api::devices::is_selected(rule, driver, pool, device));
        let claims = self.seen.claims.list();
        let of = |claim: &Arc<Value>| plan::allocated(claim).iter().filter(|result| plan::selects(rule, result)).count();
        (published.count(), claims.iter().map(of).sum())
    }
}
