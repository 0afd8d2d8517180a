//! One simulation: minutes of faults, then calm until everything has come true, then an hour in which nothing may happen.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::kubelets::Kubelets;
use crate::oracle::{self, Oracle};
use crate::users::Users;
use crate::world::World;
use crate::{final_state, idle};

/// What happens to pods beyond what controllers do to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Nothing: what is promised of surge, availability and order holds at every moment.
    Calm,
    /// Evictions, behind disruption budgets.
    Evictions,
    /// Nodes fail and return, and users delete pods.
    Rough,
}

/// How long there are faults, and how long everything may take to converge without them.
const TROUBLE: Duration = Duration::from_secs(100);
const PATIENCE: Duration = Duration::from_secs(1800);
const NODES: usize = 3;

pub(crate) struct Outcome {
    pub(crate) faults: BTreeSet<String>,
    changes: u64,
    trace: u64,
    converged: Option<Duration>,
    requests: u64,
    crashes: u64,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { changes, trace, converged, requests, crashes, faults } = self;
        write!(f, "{changes} changes (trace {trace:016x}), {requests} requests, {crashes} crashes, converged after ")?;
        write!(f, "{:.0?}, {} faults", converged.unwrap_or_default(), faults.len())
    }
}

pub(crate) async fn simulate(mode: Mode, seed: u64) -> Outcome {
    let mut world = World::new(seed).await;
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let oracle = Arc::new(Mutex::new(Oracle::new()));
    tasks.spawn(oracle::follow(world.server.clone(), world.store.clone(), mode, oracle.clone(), stop.clone()));
    let kubelets = Kubelets::start(NODES, &world.admin(), &world.clock, &world.chance.branch("kubelets"), &tasks, &stop).await;
    let mut users = Users::new(world.admin(), world.chance.branch("users"), mode);
    world.start();
    tokio::time::sleep(Duration::from_secs(2)).await;
    users.begin().await;
    let crashes = trouble(&mut world, &mut users, &kubelets, mode).await;
    world.faults.set(false);
    kubelets.all_up();
    users.settle().await;
    let begun = tokio::time::Instant::now();
    let mut missing = BTreeSet::new();
    while begun.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_secs(5)).await;
        missing = final_state::missing(&world.admin(), &users, &oracle, mode).await;
        if missing.is_empty() {
            break;
        }
    }
    let converged = missing.is_empty().then(|| begun.elapsed());
    let mut faults: BTreeSet<String> = missing.into_iter().map(|m| format!("not converged: {m}")).collect();
    if converged.is_some() {
        faults.extend(idle::hour(&world).await);
    }
    world.crash().await;
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    let oracle = oracle.lock();
    faults.extend(oracle.faults.iter().cloned());
    let requests = world.faults.counts.lock().values().sum();
    Outcome { faults, changes: oracle.changes, trace: oracle.trace, converged, requests, crashes }
}

/// The time in which everything goes wrong; gives how often the components crashed.
async fn trouble(world: &mut World, users: &mut Users, kubelets: &Kubelets, mode: Mode) -> u64 {
    let begun = tokio::time::Instant::now();
    let chance = world.chance.branch("trouble");
    let mut crashes = 0;
    while begun.elapsed() < TROUBLE {
        tokio::time::sleep(chance.millis(200, 8000)).await;
        users.act().await;
        if chance.happens(40) {
            world.crash().await;
            crashes += 1;
            tokio::time::sleep(chance.millis(0, 5000)).await;
            world.start();
        }
        if mode == Mode::Rough && chance.happens(50) {
            kubelets.set_up(chance.between(0, NODES as u64 - 1) as usize, chance.happens(500));
        }
    }
    crashes
}
