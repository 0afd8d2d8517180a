//! Admission webhooks: MutatingAdmissionWebhook and ValidatingAdmissionWebhook. The configurations are followed in memory, so
//! that a request costs nothing where there are none. Which hooks a request concerns is decided in `rules`, what is asked
//! and answered in `review`.

pub(super) mod conditions;
pub(super) mod review;

use std::sync::Arc;
use std::time::Duration;

use fram_audit::Level;
use fram_machinery::{Status, Value, json, meta, object, patch};
use futures_util::future::join_all;
use parking_lot::RwLock;

use super::rules::{self, Matched, Selectors};
use super::times::Step;
use super::{Changes, Request, Round, authorizer, configurations};
use crate::audit;
use crate::nodes::Nodes;
use crate::registry::Registry;
use crate::webhook::{Caller, Target};
use conditions::Conditions;
use review::Answer;

/// One webhook of a configuration.
pub(crate) struct Hook {
    name: String,
    configuration: String,
    target: Target,
    rules: Vec<rules::Rule>,
    selectors: Selectors,
    conditions: Conditions,
    /// Other versions of the resource that is asked for match as well.
    equivalent: bool,
    /// A hook that cannot be asked does not stand in the way.
    ignore_failure: bool,
    timeout: Duration,
    /// What the hook does elsewhere it does not do for dry runs.
    dry_run: bool,
    reinvoked: bool,
}

type Hooks = Arc<[Arc<Hook>]>;

/// The webhooks of all configurations, and the way to them.
pub struct Webhooks {
    caller: Caller,
    mutating: RwLock<Hooks>,
    validating: RwLock<Hooks>,
}

const MUTATING: &str = "mutatingwebhookconfigurations";
const VALIDATING: &str = "validatingwebhookconfigurations";

impl Webhooks {
    pub fn new(nodes: Arc<dyn Nodes>) -> Self {
        Self { caller: Caller::new(nodes), mutating: RwLock::new(Arc::new([])), validating: RwLock::new(Arc::new([])) }
    }

    pub(crate) fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Reads the configurations as they are now.
    pub(crate) async fn refresh(&self, registry: &Registry) -> Result<(), Status> {
        *self.mutating.write() = read(registry, MUTATING).await?;
        *self.validating.write() = read(registry, VALIDATING).await?;
        Ok(())
    }

    /// Keeps the hooks true to their configurations until something fails.
    pub(crate) async fn follow(&self, registry: &Registry) -> Result<(), Status> {
        let mut changes = Changes::of(registry, &[MUTATING, VALIDATING]).await?;
        loop {
            self.refresh(registry).await?;
            changes.next().await?;
        }
    }

    /// Lets the mutating hooks change an object, one after the other. In a later round only those are asked again that
    /// want to, and only about what changed since.
    pub(super) async fn mutate(
        &self,
        request: &Request<'_>,
        mut object: Value,
        old: Option<&Value>,
        round: &mut Round,
    ) -> Result<Value, Status> {
        let hooks = self.mutating.read().clone();
        for (index, hook) in hooks.iter().enumerate() {
            if !round.asks(&hook.name, hook.reinvoked, &object) {
                continue;
            }
            let Some(matched) = self.matched(hook, request, &object, old).await? else { continue };
            let at = format!("round_{}_index_{index}", u8::from(round.is_again()));
            let open = format!("failed-open.mutation.webhook.admission.k8s.io/{at}");
            let times = request.registry.admission.times.webhook(&hook.name);
            let asked = self.ask(hook, request, &matched, &object, old, &open);
            let Some(answer) = times.of(Step::Admit, request.operation, asked).await? else { continue };
            let before = object.clone();
            if let Some(patch) = answer.patch.as_ref().filter(|_| review::is_changeable(request)) {
                object = patched(hook, request, &matched, &object, patch).await?;
            }
            audit_mutation(hook, &at, before != object, answer.patch.as_ref());
            round.saw(&hook.name, &object);
        }
        Ok(object)
    }

    /// Asks the validating hooks, all at once.
    pub(super) async fn validate(&self, request: &Request<'_>, object: &Value, old: Option<&Value>) -> Result<(), Status> {
        let hooks = self.validating.read().clone();
        if hooks.is_empty() {
            return Ok(());
        }
        let ask = |(index, hook): (usize, Arc<Hook>)| async move {
            let Some(matched) = self.matched(&hook, request, object, old).await? else { return Ok(()) };
            let open = format!("failed-open.validating.webhook.admission.k8s.io/round_0_index_{index}");
            let times = request.registry.admission.times.webhook(&hook.name);
            let asked = self.ask(&hook, request, &matched, object, old, &open);
            times.of(Step::Validate, request.operation, asked).await.map(drop)
        };
        join_all(hooks.iter().cloned().enumerate().map(ask)).await.into_iter().collect()
    }

    pub(super) fn mutates(&self) -> bool {
        !self.mutating.read().is_empty()
    }

    /// As which kind a hook wants to see a request; None where it does not.
    async fn matched(&self, hook: &Hook, request: &Request<'_>, object: &Value, old: Option<&Value>) -> Result<Option<Matched>, Status> {
        if rules::is_exempt(request.stored_kind()) {
            return Ok(None);
        }
        let api = request.registry.api();
        let Some(matched) = rules::matched(hook.equivalent, &hook.rules, request, &api) else { return Ok(None) };
        Ok(rules::selected(&hook.selectors, request, object, old).await?.then_some(matched))
    }

    /// Asks one hook; None where it could not be asked and that is no obstacle, which the auditor is told as `open`.
    async fn ask(
        &self,
        hook: &Hook,
        request: &Request<'_>,
        matched: &Matched,
        object: &Value,
        old: Option<&Value>,
        open: &str,
    ) -> Result<Option<Answer>, Status> {
        let uid = request.registry.environment().uid();
        let [new, old] = review::sides(request, matched, object, old).await?;
        let question = review::question(&uid, request, matched, new, old);
        if !hook.conditions.is_empty() {
            match hook.conditions.hold(&question, authorizer::variables(request)) {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(_) if hook.ignore_failure => return Ok(None),
                Err(why) => return Err(request.place.forbidden(&why)),
            }
        }
        if request.dry_run && !hook.dry_run {
            return Err(Status::bad_request(format!("admission webhook {:?} does not support dry run", hook.name)));
        }
        let answer = self.caller.post(request.registry, &hook.target, &question, hook.timeout).await;
        let answer = match answer {
            Ok(answer) => Answer::read(&answer, &uid).map_err(|e| format!("received invalid webhook response: {e}")),
            Err(e) => {
                let url = hook.target.url();
                Err(format!("failed to call webhook: Post \"{url}?timeout={}s\": {e}", hook.timeout.as_secs()))
            }
        };
        match answer {
            Ok(answer) => {
                answer.warnings.iter().for_each(|text| request.warn(text));
                for (key, value) in &answer.annotations {
                    audit::annotate(&format!("{}/{key}", hook.name), || value.clone());
                }
                answer.check(&hook.name)?;
                Ok(Some(answer))
            }
            Err(why) if hook.ignore_failure => {
                audit::annotate(open, || hook.name.clone());
                tracing::warn!(hook = hook.name, why, "a webhook could not be asked, which it allows");
                Ok(None)
            }
            Err(why) => Err(Status::internal(format!("failed calling webhook {:?}: {why}", hook.name))),
        }
    }
}

/// Tells the auditor what a hook did; see upstream's webhookAnnotator.
fn audit_mutation(hook: &Hook, at: &str, mutated: bool, patch: Option<&Value>) {
    let Some(trail) = audit::current() else { return };
    let said = object!({ "configuration": (hook.configuration.as_str()), "webhook": (hook.name.as_str()), "mutated": mutated });
    trail.annotate(&format!("mutation.webhook.admission.k8s.io/{at}"), || json::to_string(&said));
    if let Some(patch) = patch.filter(|_| trail.level() >= Level::Request) {
        let said = object!({ "configuration": (hook.configuration.as_str()), "webhook": (hook.name.as_str()), "patch": (patch.clone()),
            "patchType": "JSONPatch" });
        trail.annotate(&format!("patch.webhook.admission.k8s.io/{at}"), || json::to_string(&said));
    }
}

/// The hooks of all configurations of a sort, in the order of their names.
async fn read(registry: &Registry, plural: &str) -> Result<Hooks, Status> {
    let configurations = configurations(registry, plural).await?;
    let hooks = configurations.iter().flat_map(|c| c.list_at(&["webhooks"]).iter().map(move |hook| (meta::name(c), hook)));
    Ok(hooks.map(|(configuration, hook)| Arc::new(Hook::read(configuration, hook))).collect())
}

impl Hook {
    fn read(configuration: &str, hook: &Value) -> Self {
        let nothing = Value::Null;
        let seconds = hook.int_at(&["timeoutSeconds"]).and_then(|s| u64::try_from(s).ok()).unwrap_or(10);
        Self {
            name: hook.str_at(&["name"]).into(),
            configuration: configuration.into(),
            target: Target::read(hook.get("clientConfig").unwrap_or(&nothing)),
            rules: hook.list_at(&["rules"]).iter().map(rules::Rule::read).collect(),
            selectors: Selectors::read(hook),
            conditions: Conditions::read(hook),
            equivalent: hook.str_at(&["matchPolicy"]) != "Exact",
            ignore_failure: hook.str_at(&["failurePolicy"]) == "Ignore",
            timeout: Duration::from_secs(seconds),
            dry_run: matches!(hook.str_at(&["sideEffects"]), "None" | "NoneOnDryRun"),
            reinvoked: hook.str_at(&["reinvocationPolicy"]) == "IfNeeded",
        }
    }
}

/// The object as a hook's patch leaves it: decoded and defaulted as if a client had sent it.
async fn patched(hook: &Hook, request: &Request<'_>, matched: &Matched, object: &Value, change: &Value) -> Result<Value, Status> {
    let fail = |why: String| Status::internal(format!("failed applying the patch of webhook {:?}: {why}", hook.name));
    let stored = request.stored_kind();
    let shown = request.registry.convert(object.clone(), stored, &matched.kind).await?;
    let changed = patch::json(&shown, change).map_err(|e| fail(e.to_string()))?;
    review::taken(request, matched, changed).await?.map_err(fail)
}
