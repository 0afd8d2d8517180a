//! Admission webhooks: MutatingAdmissionWebhook and ValidatingAdmissionWebhook. The configurations are followed in memory, so
//! that a request costs nothing where there are none. Which hooks a request concerns is decided in `rules`, what is asked
//! and answered in `review`.

mod conditions;
mod review;
mod rules;

use std::sync::Arc;
use std::time::Duration;

use fram_api::Kind;
use fram_machinery::patch;
use fram_machinery::{Status, Value, meta, normalize};
use futures_util::future::join_all;
use parking_lot::RwLock;

use super::Request;
use crate::nodes::Nodes;
use crate::registry::{ListRequest, Place, Registry};
use crate::webhook::{Caller, Target};
use conditions::Conditions;
use review::Answer;
use rules::{Matched, Selectors};

/// One webhook of a configuration.
pub(crate) struct Hook {
    name: String,
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
        Self { caller: Caller { nodes }, mutating: RwLock::new(Arc::new([])), validating: RwLock::new(Arc::new([])) }
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
        let revision = registry.store.revision().await.map_err(Status::internal)?;
        let mut watches = Vec::new();
        for plural in [MUTATING, VALIDATING] {
            let prefix = format!("{}admissionregistration.k8s.io/{plural}/", registry.prefix);
            watches.push(registry.store.watch(&prefix, revision).await.map_err(Status::internal)?);
        }
        loop {
            self.refresh(registry).await?;
            let changed = watches.iter_mut().map(|w| Box::pin(w.next()));
            futures_util::future::select_all(changed).await.0.map_err(Status::internal)?;
        }
    }

    /// Lets the mutating hooks change an object, one after the other. `seen` is what each hook of an earlier round left;
    /// then only those are asked again that want to, and only about what changed since.
    pub(super) async fn mutate(
        &self,
        request: &Request<'_>,
        mut object: Value,
        old: Option<&Value>,
        seen: &mut Vec<(String, Value)>,
    ) -> Result<Value, Status> {
        let hooks = self.mutating.read().clone();
        let again = !seen.is_empty();
        for hook in hooks.iter() {
            let last = seen.iter().position(|(name, _)| *name == hook.name);
            if again && !last.is_some_and(|i| hook.reinvoked && seen[i].1 != object) {
                continue;
            }
            let Some(matched) = self.matched(hook, request, &object, old).await? else { continue };
            let Some(answer) = self.ask(hook, request, &matched, &object, old).await? else { continue };
            if let Some(patch) = answer.patch.as_ref().filter(|_| review::is_changeable(request)) {
                object = patched(hook, request, &matched, &object, patch).await?;
            }
            match last {
                Some(i) => seen[i].1 = object.clone(),
                None => seen.push((hook.name.clone(), object.clone())),
            }
        }
        Ok(object)
    }

    /// Asks the validating hooks, all at once.
    pub(super) async fn validate(&self, request: &Request<'_>, object: &Value, old: Option<&Value>) -> Result<(), Status> {
        let hooks = self.validating.read().clone();
        if hooks.is_empty() {
            return Ok(());
        }
        let ask = |hook: Arc<Hook>| async move {
            let Some(matched) = self.matched(&hook, request, object, old).await? else { return Ok(()) };
            self.ask(&hook, request, &matched, object, old).await.map(drop)
        };
        join_all(hooks.iter().cloned().map(ask)).await.into_iter().collect()
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
        if !hook.selectors.match_object(object, old) {
            return Ok(None);
        }
        if hook.selectors.any_namespace() {
            return Ok(Some(matched));
        }
        let labels = match rules::namespace_of(request, object, old) {
            rules::Namespace::None => return Ok(Some(matched)),
            rules::Namespace::Labels(labels) => labels,
            rules::Namespace::Named(name) => {
                let namespace = request.find("", "v1", "namespaces", "", &name).await?;
                meta::labels(&namespace.ok_or_else(|| Status::not_found("", "namespaces", &name))?).clone()
            }
        };
        Ok(hook.selectors.match_namespace(&labels).then_some(matched))
    }

    /// Asks one hook; None where it could not be asked and that is no obstacle.
    async fn ask(
        &self,
        hook: &Hook,
        request: &Request<'_>,
        matched: &Matched,
        object: &Value,
        old: Option<&Value>,
    ) -> Result<Option<Answer>, Status> {
        let uid = request.registry.environment().uid();
        let stored = request.stored_kind();
        let connected = request.operation == super::Operation::Connect;
        let mut shown = [Some(object).filter(|o| !o.is_null()).cloned(), old.cloned()];
        for side in shown.iter_mut().flatten().filter(|_| !connected) {
            let converted = request.registry.convert(std::mem::take(side), stored, &matched.kind).await?;
            *side = review::shown(request, &matched.kind, converted);
        }
        let [new, old] = shown;
        let question = review::question(&uid, request, matched, new, old);
        if !hook.conditions.is_empty() {
            match hook.conditions.hold(&question) {
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
                answer.check(&hook.name)?;
                Ok(Some(answer))
            }
            Err(why) if hook.ignore_failure => {
                tracing::warn!(hook = hook.name, why, "a webhook could not be asked, which it allows");
                Ok(None)
            }
            Err(why) => Err(Status::internal(format!("failed calling webhook {:?}: {why}", hook.name))),
        }
    }
}

/// The hooks of all configurations of a sort, in the order of their names.
async fn read(registry: &Registry, plural: &str) -> Result<Hooks, Status> {
    let Some(served) = registry.served("admissionregistration.k8s.io", "v1", plural) else { return Ok(Arc::new([])) };
    let place = Place { served, namespace: String::new(), name: String::new() };
    let mut hooks = Vec::new();
    for entry in registry.list(&place, &ListRequest::default()).await?.items {
        let configuration = registry.decode(&place.served, &entry)?;
        hooks.extend(configuration.list_at(&["webhooks"]).iter().map(|hook| Arc::new(Hook::read(hook))));
    }
    Ok(hooks.into())
}

impl Hook {
    fn read(hook: &Value) -> Self {
        let nothing = Value::Null;
        let seconds = hook.int_at(&["timeoutSeconds"]).and_then(|s| u64::try_from(s).ok()).unwrap_or(10);
        Self {
            name: hook.str_at(&["name"]).into(),
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
    let kind: &Kind = &matched.kind;
    let shown = request.registry.convert(object.clone(), stored, kind).await?;
    let changed = patch::json(&shown, change).map_err(|e| fail(e.to_string()))?;
    let decoded = normalize::decode(&kind.schema, kind.ty, changed).map_err(|e| fail(e.to_string()))?;
    let mut value = decoded.value;
    normalize::apply_defaults(&kind.schema, kind.ty, &mut value);
    fram_api::strategy(kind).default(&mut value);
    request.registry.convert(value, kind, stored).await
}
