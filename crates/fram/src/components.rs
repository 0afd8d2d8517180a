//! Scheduler, controllers and signer. Where several servers share a store one of them does their work at a time, by election; what
//! every server has to do for itself, such as asking aggregated servers, runs in each.

use std::sync::Arc;

use fram_api::Api;
use fram_apiserver::{AggregatedKind, InProcess, Server, User};
use fram_client::controller::Queues;
use fram_client::leader::Timing;
use fram_client::resources::{POD_GROUPS, PODS};
use fram_client::{Client, EventRecorder, LeaderElection, SharedInformers};
use fram_controllers::{CSR_APPROVING, CSR_SIGNING, KindInfo};
use fram_scheduler::{Scheduler, SchedulerConfig};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::control_plane::ControlPlane;
use crate::desk::Desk;
use crate::manager_flags::ManagerFlags;
use crate::scheduler_flags::SchedulerFlags;
use crate::signer::{CERTIFICATE_SIGNING_REQUESTS, Signer};
use fram_controllers::PodNetwork;

type Now = Arc<dyn Fn() -> jiff::Timestamp + Send + Sync>;

/// Starts what works for the cluster rather than for a client.
pub(crate) fn start_components(
    control_plane: &ControlPlane,
    flags: &ManagerFlags,
    pod_network: PodNetwork,
    scheduler_flags: &SchedulerFlags,
    desk: &Desk,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> SharedInformers {
    let user = |name: &str| User::authenticated(name, &[]);
    let manager = control_plane.client(user("system:kube-controller-manager"), "kube-controller-manager");
    let informers = SharedInformers::new(manager.clone(), tasks.clone(), stop.clone());
    let environment = control_plane.server.registry.environment().clone();
    let now: Now = Arc::new(move || environment.now());
    let scheduling_client = control_plane.client(user("system:kube-scheduler"), "kube-scheduler");
    // Each component has tasks of its own, so that one that has ended is seen to have.
    let (controllers, scheduling, aggregating) = (TaskTracker::new(), TaskTracker::new(), TaskTracker::new());
    let context = controllers_context(control_plane, flags, pod_network, &informers, &now, tasks, stop);
    let scheduler = SchedulerConfig {
        name: "default-scheduler".into(),
        client: scheduling_client.clone(),
        events: EventRecorder::start(scheduling_client.clone(), "default-scheduler", "", now.clone(), tasks, stop.clone()),
        informers: informers.clone(),
        now: {
            let environment = control_plane.server.registry.environment().clone();
            Arc::new(move || environment.now_text())
        },
        pod_groups: context.kinds.iter().any(|kind| kind.resource == POD_GROUPS),
        device_taint_rules: context.served("resource.k8s.io", "devicetaintrules"),
    };
    let (configuration, metrics) = (scheduler_flags.configuration(), fram_scheduler::Metrics::default());
    control_plane.server.show_metrics(|registry| metrics.register(registry));
    let schedules = !scheduler_flags.disable_scheduler;
    if schedules {
        let of_pods = fram_scheduler::PodResources::new(informers.get(&PODS));
        control_plane.server.show_pod_resources(|registry| registry.register_collector(Box::new(of_pods)));
    }
    let make_scheduler = move || Scheduler::configured(scheduler.clone(), configuration.clone()).counting(metrics.clone());
    let signer = signer(control_plane, &context);
    let mut running = Vec::new();
    if control_plane.cluster.shared {
        let election =
            |client, name| LeaderElection { client, name, identity: identity(control_plane), now: now.clone(), timing: Timing::default() };
        let manage = move |term: CancellationToken| {
            let (tasks, signer) = (TaskTracker::new(), signer());
            fram_controllers::start(&fram_controllers::Context { tasks: tasks.clone(), stop: term.clone(), ..context.clone() });
            if let Some(signer) = signer {
                tasks.spawn(signer.run(term.clone()));
            }
            ended(tasks, term)
        };
        controllers.spawn(election(manager, "kube-controller-manager").run(stop.clone(), manage));
        if schedules {
            let schedule = move |term| make_scheduler().run(term);
            scheduling.spawn(election(scheduling_client, "kube-scheduler").run(stop.clone(), schedule));
        }
    } else {
        fram_controllers::start(&fram_controllers::Context { tasks: controllers.clone(), ..context });
        if schedules {
            scheduling.spawn(make_scheduler().run(stop.clone()));
        }
        if let Some(signer) = signer() {
            let signing = TaskTracker::new();
            signing.spawn(signer.run(stop.clone()));
            running.push(("certificate-signer", signing));
        }
    }
    control_plane.server.start_aggregation(&informers, &aggregating, stop);
    running.extend([("kube-controller-manager", controllers), ("kube-aggregator", aggregating)]);
    if schedules {
        running.push(("kube-scheduler", scheduling));
    }
    // Whoever waits for all tasks waits for these.
    for (name, component) in running {
        if let Some(known) = name.strip_prefix("kube-").filter(|name| matches!(*name, "scheduler" | "controller-manager")) {
            control_plane.server.show_component(known, component.clone());
        }
        desk.started(name, &component);
        tasks.spawn(ended(component, stop.clone()));
    }
    informers
}

/// Waits until everything of a component has ended that was told to.
async fn ended(component: TaskTracker, stop: CancellationToken) {
    stop.cancelled().await;
    component.close();
    component.wait().await;
}

/// What this process is called among the candidates: the machine's name, and something that no other process has.
fn identity(control_plane: &ControlPlane) -> String {
    let machine = crate::node::host_name().unwrap_or_else(|_| control_plane.cluster.address.to_string());
    format!("{machine}_{}", control_plane.server.registry.environment().uid())
}

/// What controllers are given.
fn controllers_context(
    control_plane: &ControlPlane,
    flags: &ManagerFlags,
    pod_network: PodNetwork,
    informers: &SharedInformers,
    now: &Now,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> fram_controllers::Context {
    let (server, queues) = (control_plane.server.clone(), Queues::default());
    server.show_queues(queues.clone());
    let metrics = fram_controllers::Metrics::default();
    server.show_metrics(|registry| metrics.register(registry));
    let clients = move |name: &str| {
        let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system"];
        let user = User::authenticated(&format!("system:serviceaccount:kube-system:{name}"), &groups);
        Client::new(Arc::new(InProcess::new(server.clone(), user)), name)
    };
    fram_controllers::Context {
        clients: Arc::new(clients),
        manager: control_plane.client(User::authenticated("system:kube-controller-manager", &[]), "kube-controller-manager"),
        informers: informers.clone(),
        queues,
        metrics,
        now: now.clone(),
        tasks: tasks.clone(),
        stop: stop.clone(),
        root_ca: control_plane.pki.ca_pem.as_str().into(),
        kinds: fram_controllers::stored_kinds(&control_plane.server.registry.api()),
        custom_kinds: follow_custom_kinds(&control_plane.server, tasks, stop),
        undiscovered: control_plane.server.follow_unheard(),
        pod_network,
        load_balancer_pool: flags.pool(),
        selection: flags.selection(),
        eviction_rates: flags.eviction_rates(),
        host_path_directories: flags.host_path_directories(),
        legacy_token_clean_up_period: flags.legacy_token_clean_up_period(),
    }
}

/// Makes a signer for each term, if there is to be one.
fn signer(control_plane: &ControlPlane, context: &fram_controllers::Context) -> impl Fn() -> Option<Signer> + Send + use<> {
    let (context, pki) = (context.clone(), control_plane.pki.clone());
    let environment = control_plane.server.registry.environment().clone();
    move || {
        let environment = environment.clone();
        let (signs, approves) = (context.selection.runs(CSR_SIGNING), context.selection.runs(CSR_APPROVING));
        (signs || approves).then(|| Signer {
            signs,
            approves,
            client: (context.clients)("certificate-controller"),
            requests: context.informers.get(&CERTIFICATE_SIGNING_REQUESTS),
            pki: pki.clone(),
            now: Arc::new(move || environment.now_text()),
        })
    }
}

/// Every custom resource, in its storage version or else in one that is served, and what other servers keep.
fn custom_kinds(api: &Api, aggregated: &[AggregatedKind]) -> Arc<[KindInfo]> {
    let shown = |c: &Arc<fram_api::CustomResource>| c.served.iter().find(|k| k.storage).or(c.served.first()).map(|kind| KindInfo::of(kind));
    let elsewhere = |kind: &AggregatedKind| KindInfo {
        resource: kind.resource.clone(),
        kind: kind.kind.clone(),
        namespaced: kind.namespaced,
        collected: true,
        defined: false,
    };
    api.custom().filter_map(shown).chain(aggregated.iter().map(elsewhere)).collect()
}

/// Tells the controllers which custom resources there are.
fn follow_custom_kinds(server: &Server, tasks: &TaskTracker, stop: &CancellationToken) -> watch::Receiver<Arc<[KindInfo]>> {
    let (mut api, mut aggregated) = (server.registry.follow_api(), server.follow_aggregated());
    let (sender, receiver) = watch::channel(custom_kinds(&api.borrow_and_update(), &aggregated.borrow_and_update()));
    let stop = stop.clone();
    tasks.spawn(stop.run_until_cancelled_owned(async move {
        loop {
            let changed = tokio::select! {
                changed = api.changed() => changed,
                changed = aggregated.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
            let kinds = custom_kinds(&api.borrow_and_update(), &aggregated.borrow_and_update());
            sender.send_if_modified(|known| {
                *known != kinds && {
                    *known = kinds;
                    true
                }
            });
        }
    }));
    receiver
}
