//! Ends namespaces: everything in a terminating one is deleted, then its finalizer goes. See KEP-5080 for the order.

use std::sync::Arc;
use std::time::Duration;

use fram_client::resources::{NAMESPACES, PODS};
use fram_client::{Action, Call, Client, Controller, DeleteOptions, ListOptions, Propagation, Resource, Verb};
use fram_machinery::normalize::format_time;
use fram_machinery::{Reason, Status, Value, meta};
use tokio::sync::watch;

use crate::context::KindInfo;
use crate::{Context, pods};

/// How long to wait before looking again at what its own finalizers hold.
const AGAIN: Duration = Duration::from_secs(2);

pub(crate) fn start(context: &Context) {
    let namespaces = context.informers.get(&NAMESPACES);
    let reconciler = Reconciler {
        client: context.client("namespace-controller"),
        kinds: context.kinds.clone(),
        custom_kinds: context.custom_kinds.clone(),
        undiscovered: context.undiscovered.clone(),
        now: context.now.clone(),
    };
    let controller = Controller::new("namespace", 10).owns(&namespaces);
    let (mut undiscovered, again) = (context.undiscovered.clone(), controller.enqueuer());
    let (terminating, stop) = (namespaces.clone(), context.stop.clone());
    context.tasks.spawn(stop.run_until_cancelled_owned(async move {
        // What ended a namespace may not do without: to know what there is in it.
        while undiscovered.changed().await.is_ok() {
            terminating.list().iter().filter(|n| meta::is_terminating(n)).for_each(|n| again.add(meta::name(n)));
        }
    }));
    context.run(controller, (reconciler, namespaces), |context, name| async move {
        let (reconciler, namespaces) = &*context;
        match namespaces.get(&name).filter(|n| meta::is_terminating(n)) {
            Some(namespace) => reconciler.end(&namespace).await,
            None => Ok(Action::Done),
        }
    });
}

struct Reconciler {
    client: Client,
    kinds: Arc<[KindInfo]>,
    custom_kinds: watch::Receiver<Arc<[KindInfo]>>,
    undiscovered: watch::Receiver<Arc<[String]>>,
    now: crate::Clock,
}

/// What is still in a namespace.
#[derive(Default)]
struct Remains {
    /// Resource name and how many objects there are.
    resources: Vec<(String, usize)>,
    /// Finalizer and how many objects it holds.
    finalizers: Vec<(String, usize)>,
    failures: Vec<Status>,
    /// Group versions whose servers do not say what they have.
    undiscovered: Arc<[String]>,
}

impl Remains {
    fn is_empty(&self) -> bool {
        self.resources.is_empty() && self.failures.is_empty() && self.undiscovered.is_empty()
    }
}

impl Reconciler {
    async fn end(&self, namespace: &Value) -> Result<Action, Status> {
        let name = meta::name(namespace);
        if !namespace.list_at(&["spec", "finalizers"]).iter().any(|f| f.as_str() == Some("kubernetes")) {
            return Ok(Action::Done);
        }
        let remains = self.empty(name).await?;
        self.report(namespace, &remains).await?;
        if let Some(status) = remains.failures.into_iter().next() {
            return Err(status);
        }
        if !remains.resources.is_empty() {
            return Ok(Action::After(AGAIN));
        }
        if !remains.undiscovered.is_empty() {
            // There is another turn when they are heard, or are not there any more.
            return Ok(Action::Done);
        }
        self.finalize(name).await?;
        Ok(Action::Done)
    }

    /// Deletes everything, pods first: what they use should outlive them, also where nobody can say whether there are any.
    async fn empty(&self, namespace: &str) -> Result<Remains, Status> {
        let mut remains = Remains { undiscovered: self.undiscovered.borrow().clone(), ..Default::default() };
        let custom = self.custom_kinds.borrow().clone();
        let all = || self.kinds.iter().chain(custom.iter()).filter(|k| k.namespaced).map(|k| &k.resource);
        for resource in all().filter(|r| **r == PODS).chain(all().filter(|r| **r != PODS)) {
            let left = match self.delete_all(resource, namespace).await {
                Ok(left) if left.is_empty() => continue,
                Ok(left) => left,
                // A custom resource that was deleted meanwhile has no objects.
                Err(status) if status.is(Reason::NotFound) => continue,
                Err(status) => {
                    remains.failures.push(status);
                    match *resource == PODS {
                        true => break,
                        false => continue,
                    }
                }
            };
            for finalizer in left.iter().flat_map(|o| meta::finalizers(o)) {
                match remains.finalizers.iter_mut().find(|(f, _)| f == finalizer) {
                    Some((_, n)) => *n += 1,
                    None => remains.finalizers.push((finalizer.to_string(), 1)),
                }
            }
            remains.resources.push((format!("{}.{}", resource.plural, resource.group), left.len()));
            if *resource == PODS {
                // The rest waits for the pods.
                break;
            }
        }
        Ok(remains)
    }

    /// Deletes the objects of a resource; those that are left.
    async fn delete_all(&self, resource: &Resource, namespace: &str) -> Result<Vec<Arc<Value>>, Status> {
        let here = self.client.within(resource, namespace);
        if here.list(ListOptions::default()).await?.items.is_empty() {
            return Ok(Vec::new());
        }
        let delete = DeleteOptions { propagation: Some(Propagation::Background), ..Default::default() };
        here.delete_collection(delete, ListOptions::default()).await?;
        Ok(here.list(ListOptions::default()).await?.items)
    }

    async fn report(&self, namespace: &Value, remains: &Remains) -> Result<(), Status> {
        let now = format_time((self.now)(), 0);
        let wanted = conditions(remains);
        // Of what was empty from the beginning nothing is said; what was said before is taken back where others hold the namespace.
        let nothing = remains.is_empty() && namespace.list_at(&["status", "conditions"]).is_empty();
        let mut changed = namespace.clone();
        for (ty, status, reason, message) in wanted {
            pods::set_condition(changed.place(&["status"]), ty, status, reason, &message, &now);
        }
        if nothing || changed == *namespace {
            return Ok(());
        }
        changed.remove(&["metadata", "resourceVersion"]);
        match self.client.all(&NAMESPACES).update_status(changed).await {
            Err(status) if !status.is(Reason::NotFound) => Err(status),
            _ => Ok(()),
        }
    }

    async fn finalize(&self, name: &str) -> Result<(), Status> {
        let namespaces = self.client.all(&NAMESPACES);
        let Some(current) = namespaces.find(name).await? else { return Ok(()) };
        let mut object = (*current).clone();
        let kept: Vec<Value> =
            object.list_at(&["spec", "finalizers"]).iter().filter(|f| f.as_str() != Some("kubernetes")).cloned().collect();
        object.set(&["spec", "finalizers"], kept);
        let call = Call {
            resource: NAMESPACES,
            namespace: String::new(),
            name: name.into(),
            subresource: "finalize".into(),
            verb: Verb::Update { object, options: Default::default() },
        };
        match self.client.call(call).await {
            Err(status) if !status.is(Reason::NotFound) => Err(status),
            _ => Ok(()),
        }
    }
}

/// The conditions of a terminating namespace: type, status, reason, message.
fn conditions(remains: &Remains) -> Vec<(&'static str, &'static str, &'static str, String)> {
    let sorted = |mut texts: Vec<String>| {
        texts.sort();
        texts.join(", ")
    };
    let failures = &remains.failures;
    let failed = match failures.is_empty() {
        false => {
            let all = sorted(failures.iter().map(|status| status.message.clone()).collect());
            let message = format!("Failed to delete all resource types, {} remaining: {all}", failures.len());
            ("NamespaceDeletionContentFailure", "True", "ContentDeletionFailed", message)
        }
        true => (
            "NamespaceDeletionContentFailure",
            "False",
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization".into(),
        ),
    };
    let left: Vec<String> = remains.resources.iter().map(|(r, n)| format!("{r} has {n} resource instances")).collect();
    let content = match left.is_empty() {
        true => ("NamespaceContentRemaining", "False", "ContentRemoved", "All content successfully removed".to_string()),
        false => ("NamespaceContentRemaining", "True", "SomeResourcesRemain", format!("Some resources are remaining: {}", sorted(left))),
    };
    let held: Vec<String> = remains.finalizers.iter().map(|(f, n)| format!("{f} in {n} resource instances")).collect();
    let finalizers = match held.is_empty() {
        true => {
            ("NamespaceFinalizersRemaining", "False", "ContentHasNoFinalizers", "All content-preserving finalizers finished".to_string())
        }
        false => (
            "NamespaceFinalizersRemaining",
            "True",
            "SomeFinalizersRemain",
            format!("Some content in the namespace has finalizers remaining: {}", sorted(held)),
        ),
    };
    let missing = &remains.undiscovered;
    let discovery = match missing.is_empty() {
        true => ("NamespaceDeletionDiscoveryFailure", "False", "ResourcesDiscovered", "All resources successfully discovered".to_string()),
        false => {
            let all = sorted(missing.iter().map(|version| format!("{version}: stale GroupVersion discovery: {version}")).collect());
            let complete = format!("unable to retrieve the complete list of server APIs: {all}");
            let message = format!("Discovery failed for some groups, {} failing: {complete}", missing.len());
            ("NamespaceDeletionDiscoveryFailure", "True", "DiscoveryFailed", message)
        }
    };
    let parsing = (
        "NamespaceDeletionGroupVersionParsingFailure",
        "False",
        "ParsedGroupVersions",
        "All legacy kube types successfully parsed".to_string(),
    );
    vec![discovery, parsing, failed, content, finalizers]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_says_what_holds_it_in_the_order_of_names() {
        let remains = Remains {
            resources: vec![("secrets.".into(), 2), ("deployments.apps".into(), 1)],
            finalizers: vec![("b.c/d".into(), 1), ("a.b/c".into(), 2)],
            failures: vec![Status::internal("z"), Status::internal("a")],
            undiscovered: ["b.com/v1".to_string(), "a.com/v1".to_string()].into(),
        };
        let said = conditions(&remains);
        let of = |ty: &str| said.iter().find(|c| c.0 == ty).map(|c| (c.1, c.2, c.3.as_str())).unwrap();
        let failed = "Failed to delete all resource types, 2 remaining: Internal error occurred: a, Internal error occurred: z";
        assert_eq!(of("NamespaceDeletionContentFailure"), ("True", "ContentDeletionFailed", failed));
        let unknown = "Discovery failed for some groups, 2 failing: unable to retrieve the complete list of server APIs: \
            a.com/v1: stale GroupVersion discovery: a.com/v1, b.com/v1: stale GroupVersion discovery: b.com/v1";
        assert_eq!(of("NamespaceDeletionDiscoveryFailure"), ("True", "DiscoveryFailed", unknown));
        let left = "Some resources are remaining: deployments.apps has 1 resource instances, secrets. has 2 resource instances";
        assert_eq!(of("NamespaceContentRemaining"), ("True", "SomeResourcesRemain", left));
        let held = "Some content in the namespace has finalizers remaining: a.b/c in 2 resource instances, b.c/d in 1 resource instances";
        assert_eq!(of("NamespaceFinalizersRemaining"), ("True", "SomeFinalizersRemain", held));
        assert!(conditions(&Remains::default()).iter().all(|c| c.1 == "False"));
    }
}
