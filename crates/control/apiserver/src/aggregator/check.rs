//! Keeps the condition Available of APIServices true: a reconciler on the harness. What Service and endpoints say about it is decided in
//! `availability`; here the server is asked.

use std::sync::Arc;
use std::time::Duration;

use fram_api::custom_status::set_condition;
use fram_client::resources::{API_SERVICES, ENDPOINT_SLICES, SERVICES};
use fram_client::{Action, Controller, Delta, Informer, SharedInformers};
use fram_machinery::{Reason, Status, Value, meta};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::availability::{AVAILABLE, Condition, judge};
use super::follow::place;
use super::service::{ApiService, ServiceRef};
use super::transport::{self, Question};
use crate::definitions::{settled, write};
use crate::server::Server;
use crate::user::{MASTERS, User};

/// How often a server is asked whether it is there still, which nothing else would tell; see the resync of upstream's informer.
const AGAIN: Duration = Duration::from_secs(30);
/// A Service may have a bad endpoint among good ones: one answer is enough.
const ATTEMPTS: usize = 5;
const PATIENCE: Duration = Duration::from_secs(5);
const MOST: usize = 4 * 1024 * 1024;
const SERVICE_NAME: &str = "kubernetes.io/service-name";

struct Checker {
    server: Arc<Server>,
    services: Informer,
    slices: Informer,
}

pub(super) fn start(server: &Arc<Server>, informers: &SharedInformers, tasks: &TaskTracker, stop: &CancellationToken) {
    let (api_services, services, slices) = (informers.get(&API_SERVICES), informers.get(&SERVICES), informers.get(&ENDPOINT_SLICES));
    let behind = |name: fn(&Value) -> &str| {
        let api_services = api_services.clone();
        move |object: &Value| concerned(&api_services, meta::namespace(object), name(object))
    };
    let controller = Controller::new("RemoteAvailabilityController", ATTEMPTS)
        .watches_deltas(&api_services, concerns)
        .watches(&services, behind(meta::name))
        .watches(&slices, behind(|slice| meta::label(slice, SERVICE_NAME).unwrap_or_default()));
    let checker = Arc::new(Checker { server: server.clone(), services, slices });
    let stop = stop.clone();
    tasks.spawn(async move { controller.run(move |name| checker.clone().reconcile(name), stop).await });
}

/// What a check writes is no reason for another one, unless somebody took it away.
fn concerns(delta: &Delta) -> Vec<String> {
    let spec = |object: &Option<Arc<Value>>| object.as_ref().map(|o| o.get("spec").cloned());
    let said = |object: &Option<Arc<Value>>| object.as_ref().is_some_and(|o| meta::condition(o, AVAILABLE).is_some());
    let concerned = spec(&delta.old) != spec(&delta.new) || said(&delta.old) && !said(&delta.new);
    if concerned { vec![delta.key()] } else { Vec::new() }
}

/// The APIServices behind which a Service stands. They are of an informer too, so that whichever of the two comes last finds the other.
fn concerned(api_services: &Informer, namespace: &str, name: &str) -> Vec<String> {
    let theirs = |o: &Arc<Value>| {
        o.str_at(&["spec", "service", "name"]) == name && o.str_at(&["spec", "service", "namespace"]) == namespace && !name.is_empty()
    };
    api_services.list().into_iter().filter(theirs).map(|o| meta::name(&o).to_string()).collect()
}

impl Checker {
    async fn reconcile(self: Arc<Self>, name: String) -> Result<Action, Status> {
        let object = match self.server.registry.get_object(&place(&self.server.registry, &name)?).await {
            Err(status) if status.is(Reason::NotFound) => return Ok(Action::Done),
            object => object?,
        };
        let api_service = ApiService::read(&object);
        let Some(asked) = &api_service.service else {
            self.say(&object, &Condition::local()).await?;
            return Ok(Action::Done);
        };
        let service = self.services.get_in(&asked.namespace, &asked.name);
        let slices = self.slices.by_namespace(&asked.namespace);
        let slices: Vec<_> = slices.into_iter().filter(|s| meta::label(s, SERVICE_NAME) == Some(&asked.name)).collect();
        if let Some(condition) = judge(asked, service.as_deref(), &slices) {
            self.say(&object, &condition).await?;
            // The Service or its endpoints tell when it is worth another look.
            return Ok(Action::Done);
        }
        match self.ask(&Arc::new(api_service.clone()), &url(asked, service.as_deref(), &api_service.root())).await {
            Ok(()) => {
                self.say(&object, &Condition::passed()).await?;
                Ok(Action::After(AGAIN))
            }
            Err(error) => {
                self.say(&object, &Condition::failed_check(error.clone())).await?;
                // It is tried again sooner than one that is well.
                Err(Status::new(Reason::ServiceUnavailable, error))
            }
        }
    }

    /// Asks for what every such server has to answer; the last error where no attempt succeeds.
    async fn ask(&self, service: &Arc<ApiService>, url: &str) -> Result<(), String> {
        let mut attempts = JoinSet::new();
        for _ in 0..ATTEMPTS {
            let (server, service, url) = (self.server.clone(), service.clone(), url.to_string());
            attempts.spawn(async move { attempt(&server, &service, &url).await });
        }
        let mut last = Ok(());
        while let Some(ended) = attempts.join_next().await {
            last = ended.unwrap_or_else(|e| Err(e.to_string()));
            if last.is_ok() {
                break;
            }
        }
        last
    }

    /// Writes the condition where it says something new.
    async fn say(&self, seen: &Value, condition: &Condition) -> Result<(), Status> {
        if condition.is_said_by(seen) {
            return Ok(());
        }
        let registry = &self.server.registry;
        let now = registry.environment().now_text();
        let decide = |current: &Value| {
            let mut next = current.clone();
            // Of another spec nothing is known yet; its own change asks for it.
            if current.get("spec") == seen.get("spec") {
                set_condition(next.place(&["status"]), condition.object(), &now);
            }
            Ok(next)
        };
        settled(registry.update(&place(registry, meta::name(seen))?, "status", &write(), decide).await.map(drop))
    }
}

async fn attempt(server: &Server, service: &ApiService, url: &str) -> Result<(), String> {
    let user = User { name: "system:kube-aggregator".into(), groups: vec![MASTERS.into()], ..Default::default() };
    let path = service.root();
    let question = Question { path: &path, accept: "*/*", etag: "", user: &user, most: MOST, patience: PATIENCE };
    match transport::ask(server, service, &question).await {
        Ok(answer) if (200..300).contains(&answer.code) => Ok(()),
        Ok(answer) => Err(format!("failing or missing response from {url}: bad status from {url}: {}", answer.code)),
        Err(transport::TransportError::Timeout) => Err(format!("timed out waiting for {url}")),
        Err(error) => Err(format!("failing or missing response from {url}: {error}")),
    }
}

/// Where the server is asked, as people are told.
fn url(asked: &ServiceRef, service: Option<&Value>, path: &str) -> String {
    let ip = service.map_or("", |s| s.str_at(&["spec", "clusterIP"]));
    let host = if ip.is_empty() || ip == "None" { asked.host() } else { ip.to_string() };
    format!("https://{host}:{}{path}", asked.port)
}
