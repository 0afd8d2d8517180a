//! An API server under measurement: how it is started, who asks it, and what its processes use as the kernel counts it.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use fram_client::remote::{Kubeconfig, Remote};
use fram_machinery::{Value, json, object};

use crate::load::ask;
use crate::requests::{post, request};

/// Kernel time is counted in hundredths of a second (USER_HZ).
const TICK: Duration = Duration::from_millis(10);
/// Where the load happens; its user lives here too.
pub const NAMESPACE: &str = "bench";

/// How to start a subject, again and again.
pub(crate) struct Recipe {
    pub(crate) name: &'static str,
    command: String,
    kubeconfig: PathBuf,
}

impl Recipe {
    pub(crate) fn new(name: &'static str, command: &str, kubeconfig: PathBuf) -> Self {
        Self { name, command: command.into(), kubeconfig }
    }

    pub(crate) fn beside_this_program(folder: &Path) -> Result<Self> {
        let program = std::env::current_exe().context("this program's path")?.with_file_name("fram");
        let data = folder.join("fram");
        // A server is for other machines too. Nothing is sent: the kernel says which of its addresses it would use.
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").and_then(|s| s.connect("203.0.113.1:9").map(|()| s));
        let address = socket.and_then(|s| s.local_addr()).context("this machine's address")?.ip();
        let command = format!("exec {} server --no-node --listen {address}:17443 --data-dir {}", program.display(), data.display());
        Ok(Self { name: "fram", command, kubeconfig: data.join("admin.kubeconfig") })
    }
}

pub struct Subject {
    recipe: Recipe,
    process: Child,
    /// How long it took from the command until /readyz said ok.
    pub started: Duration,
    /// May do everything.
    pub admin: Arc<Remote>,
    /// A user whose rights come from RBAC, over a connection for each client.
    pub clients: Vec<Arc<Remote>>,
    config: Kubeconfig,
}

impl Drop for Subject {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Subject {
    pub(crate) async fn start(recipe: Recipe, clients: usize) -> Result<Self> {
        let (process, started, admin) = launch(&recipe).await?;
        let mut subject = Self { config: Kubeconfig::default(), recipe, process, started, admin, clients: Vec::new() };
        subject.config = subject.user().await?;
        subject.clients = subject.connections(clients)?;
        Ok(subject)
    }

    pub fn name(&self) -> &'static str {
        self.recipe.name
    }

    /// Ends it by a signal that cannot be caught, and starts it on what it had stored.
    pub async fn restart(&mut self) -> Result<()> {
        self.kill();
        (self.process, self.started, self.admin) = launch(&self.recipe).await?;
        self.clients = self.connections(self.clients.len())?;
        Ok(())
    }

    /// Further clients of the same user.
    pub fn connections(&self, count: usize) -> Result<Vec<Arc<Remote>>> {
        (0..count).map(|_| Ok(Arc::new(Remote::new(&self.config)?))).collect()
    }

    /// Further clients of who may do everything.
    pub fn admins(&self, count: usize) -> Result<Vec<Arc<Remote>>> {
        let config = Kubeconfig::read(&self.recipe.kubeconfig)?;
        (0..count).map(|_| Ok(Arc::new(Remote::new(&config)?))).collect()
    }

    /// CPU time of all its processes so far, user and system.
    pub fn cpu(&self) -> Duration {
        let ticks = |stat: &[String]| -> u32 { [11, 12].iter().filter_map(|i| stat.get(*i)?.parse::<u32>().ok()).sum() };
        self.group().iter().map(|(_, stat)| TICK * ticks(stat)).sum()
    }

    /// Memory of all its processes together: the sum of their proportional set sizes, in MB.
    pub fn memory(&self) -> f64 {
        self.group().iter().map(|(pid, _)| pss(pid)).sum::<u64>() as f64 / 1e3
    }

    /// Its processes, with what their `stat` says after the name.
    fn group(&self) -> Vec<(String, Vec<String>)> {
        let of = |pid: String| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let fields: Vec<String> = stat.rsplit(')').next()?.split_whitespace().map(String::from).collect();
            (fields.get(2)? == &self.process.id().to_string()).then_some((pid, fields))
        };
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        processes.filter_map(|e| e.file_name().into_string().ok()).filter(|p| p.as_bytes()[0].is_ascii_digit()).filter_map(of).collect()
    }

    fn kill(&mut self) {
        for (pid, _) in self.group() {
            // One that has ended meanwhile is what is wanted.
            let _ = Command::new("kill").args(["-9", &pid]).stderr(Stdio::null()).status();
        }
        let _ = self.process.wait();
    }

    /// Makes a user who may do what the load does and no more, and gives the way in as that user.
    async fn user(&self) -> Result<Kubeconfig> {
        let admin = &self.admin;
        make(admin, "/api/v1/namespaces", named(NAMESPACE)).await?;
        let accounts = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts");
        make(admin, &accounts, named(NAMESPACE)).await?;
        // Where no controller makes it: pods are not taken without.
        make(admin, &accounts, named("default")).await?;
        let mut role = named(NAMESPACE);
        let verbs = object!(["get", "list", "watch", "create", "update", "patch", "delete"]);
        role.set(&["rules"], object!([{ "apiGroups": [""], "resources": ["pods", "configmaps", "namespaces"], "verbs": (verbs) }]));
        make(admin, "/apis/rbac.authorization.k8s.io/v1/clusterroles", role).await?;
        let mut binding = named(NAMESPACE);
        binding.set(&["roleRef"], object!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": NAMESPACE }));
        binding.set(&["subjects"], object!([{ "kind": "ServiceAccount", "name": NAMESPACE, "namespace": NAMESPACE }]));
        make(admin, "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await?;
        let asked = object!({ "spec": { "expirationSeconds": 86_400 } });
        let answer = ask(admin, post(&format!("{accounts}/{NAMESPACE}/token"), &asked)).await?;
        let token = json::from_slice(&answer)?.str_at(&["status", "token"]).to_string();
        let config = Kubeconfig { identity: None, token: Some(token), ..Kubeconfig::read(&self.recipe.kubeconfig)? };
        // Authorizers follow roles and bindings; they need not know of these at once.
        let (remote, begun) = (Remote::new(&config)?, Instant::now());
        while let Err(error) = ask(&remote, request("GET", &format!("/api/v1/namespaces/{NAMESPACE}/pods?limit=1"), "")).await {
            if begun.elapsed() > Duration::from_secs(10) {
                return Err(error);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(config)
    }
}

fn named(name: &str) -> Value {
    object!({ "metadata": { "name": name } })
}

/// Makes an object that may be there already.
pub async fn make(remote: &Remote, path: &str, object: Value) -> Result<()> {
    match ask(remote, post(path, &object)).await {
        Err(error) if !error.to_string().contains("AlreadyExists") => Err(error),
        _ => Ok(()),
    }
}

/// Memory of a process, what it shares divided among those who have it: its proportional set size in kB.
pub fn pss(pid: impl std::fmt::Display) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = rollup.lines().find_map(|l| l.strip_prefix("Pss:")).map(|l| l.trim().trim_end_matches(" kB").to_string());
    line.and_then(|l| l.parse().ok()).unwrap_or(0)
}

async fn launch(recipe: &Recipe) -> Result<(Child, Duration, Arc<Remote>)> {
    let log = std::fs::File::create(std::env::temp_dir().join(format!("bench-{}.log", recipe.name))).context("the subject's log")?;
    let begun = Instant::now();
    let mut command = Command::new("sh");
    command.args(["-c", &recipe.command]).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
    let mut process = command.spawn().with_context(|| recipe.command.clone())?;
    loop {
        if let Ok(config) = Kubeconfig::read(&recipe.kubeconfig) {
            let remote = Arc::new(Remote::new(&config)?);
            if ask(&remote, request("GET", "/readyz", "")).await.is_ok() {
                return Ok((process, begun.elapsed(), remote));
            }
        }
        if let Some(status) = process.try_wait()? {
            bail!("{} ended with {status} before it was ready", recipe.command);
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
