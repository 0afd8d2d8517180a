//! The rows of the table. Each is measured of every handler of every subject before the next one.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fram_bench_common::Figures;
use fram_cri::{ImageService, ImageSpec, PodSandboxConfig, RuntimeService};
use futures_util::future::try_join_all;

use crate::image::{LARGE, SMALL};
use crate::pods;
use crate::registry::Registry;
use crate::subject::Subject;

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Row {
    Start,
    Idle,
    Pod,
    Container,
    Exec,
    Crowd,
    Standing,
    Pull,
}

/// What is to be done.
pub(crate) struct Plan<'a> {
    pub(crate) rounds: usize,
    pub(crate) crowd: usize,
    pub(crate) rows: Vec<Row>,
    pub(crate) registry: &'a Registry,
}

/// How many pods stand there while their memory is read.
const STANDING: usize = 20;
/// How many times crowds are made and large images pulled, which takes long.
const FEW: usize = 5;

/// Whom a row is measured of.
struct Ask<'a> {
    plan: &'a Plan<'a>,
    subject: &'a Subject,
    handler: &'a str,
}

pub(crate) async fn run(plan: &Plan<'_>, subjects: &[Subject]) -> Result<()> {
    for subject in subjects {
        let image = ImageSpec::new(plan.registry.reference(SMALL));
        subject.images.pull_image(&image, None, None, None).await.context("pull the image that pods run")?;
    }
    let wants = |row: Row| plan.rows.is_empty() || plan.rows.contains(&row);
    for subject in subjects {
        let title = subject.title("");
        if wants(Row::Start) {
            println!("{:<44} {title:<12} {} ms", "start until it answers", subject.started.as_millis());
        }
        if wants(Row::Idle) {
            println!("{:<44} {title:<12} {:.1} MB", "memory, without pods", total(subject) as f64 / 1e3);
        }
    }
    for row in [Row::Pod, Row::Container, Row::Exec, Row::Crowd, Row::Standing, Row::Pull].into_iter().filter(|row| wants(*row)) {
        for subject in subjects {
            for (index, handler) in subject.handlers.iter().enumerate() {
                let ask = Ask { plan, subject, handler };
                match row {
                    Row::Pod => ask.pods().await?,
                    Row::Container => ask.containers().await?,
                    Row::Exec => ask.commands().await?,
                    Row::Crowd => ask.crowd().await?,
                    Row::Standing => ask.standing().await?,
                    // No handler has a part in it.
                    Row::Pull if index == 0 => ask.pulls().await?,
                    _ => {}
                }
            }
        }
    }
    Ok(())
}

fn total(subject: &Subject) -> u64 {
    subject.memory().values().map(|(_, kilobytes)| kilobytes).sum()
}

/// Times of the steps that one operation has, by step.
type Steps = Vec<Vec<Duration>>;

impl Ask<'_> {
    fn print(&self, title: &str, figures: impl std::fmt::Display) {
        println!("{title:<44} {:<12} {figures}", self.subject.title(self.handler));
    }

    /// Does it so many times, and prints the whole with its steps' medians.
    async fn repeat(&self, title: &str, names: &[&str], times: usize, one: impl AsyncFn(usize) -> Result<Vec<Duration>>) -> Result<()> {
        // What is there for the first time is slow everywhere.
        one(times).await?;
        let (cpu, begun) = (self.subject.cpu(), Instant::now());
        let mut steps: Steps = vec![Vec::new(); names.len()];
        let mut whole = Vec::new();
        for number in 0..times {
            let taken = one(number).await?;
            whole.push(taken.iter().sum());
            steps.iter_mut().zip(taken).for_each(|(step, taken)| step.push(taken));
        }
        let figures = Figures::new(times, self.subject.cpu() - cpu, begun.elapsed(), whole);
        let medians = names.iter().zip(&mut steps).map(|(name, step)| format!("{name} {:.1}", median(step)));
        let medians = if names.len() > 1 { format!(" ({})", medians.collect::<Vec<_>>().join(", ")) } else { String::new() };
        self.print(title, format!("{figures}{medians}"));
        Ok(())
    }

    fn sandbox(&self, name: &str) -> PodSandboxConfig {
        let name = format!("{name}-{}", if self.handler.is_empty() { "default" } else { self.handler });
        pods::sandbox(&name, self.subject.logs(), &self.subject.cgroup_parent())
    }

    async fn run_sandbox(&self, config: &PodSandboxConfig) -> Result<String> {
        // Which a kubelet has made before.
        std::fs::create_dir_all(std::path::Path::new(&config.log_directory).join("main")).context("the pod's folder for logs")?;
        Ok(self.subject.runtime.run_pod_sandbox(config, self.handler).await?)
    }

    async fn create(&self, sandbox: &str, config: &PodSandboxConfig, attempt: u32) -> Result<String> {
        let container = pods::container(self.plan.registry.reference(SMALL), attempt);
        Ok(self.subject.runtime.create_container(sandbox, &container, config).await?)
    }

    async fn remove_sandbox(&self, id: &str) -> Result<()> {
        self.subject.runtime.stop_pod_sandbox(id).await?;
        Ok(self.subject.runtime.remove_pod_sandbox(id).await?)
    }

    /// A pod with one container that runs.
    async fn pod(&self, name: &str) -> Result<(String, String)> {
        let config = self.sandbox(name);
        let sandbox = self.run_sandbox(&config).await?;
        let container = self.create(&sandbox, &config, 0).await?;
        self.subject.runtime.start_container(&container).await?;
        Ok((sandbox, container))
    }

    async fn pods(&self) -> Result<()> {
        let one = async |number: usize| {
            let config = self.sandbox(&format!("single{number}"));
            let mut laps = Laps::begin();
            let sandbox = self.run_sandbox(&config).await?;
            laps.lap();
            let container = self.create(&sandbox, &config, 0).await?;
            laps.lap();
            self.subject.runtime.start_container(&container).await?;
            laps.lap();
            self.remove_sandbox(&sandbox).await?;
            Ok(laps.0)
        };
        let names = ["sandbox", "create", "start"];
        self.repeat("RunPodSandbox until a container is started", &names, self.plan.rounds / 2, one).await
    }

    async fn containers(&self) -> Result<()> {
        let config = self.sandbox("containers");
        let (sandbox, _) = self.pod("containers").await?;
        let one = async |number: usize| {
            let mut laps = Laps::begin();
            let id = self.create(&sandbox, &config, number as u32 + 1).await?;
            laps.lap();
            self.subject.runtime.start_container(&id).await?;
            laps.lap();
            self.subject.runtime.stop_container(&id, Duration::ZERO).await?;
            laps.lap();
            self.subject.runtime.remove_container(&id).await?;
            laps.lap();
            Ok(laps.0)
        };
        self.repeat("container, in a sandbox", &["create", "start", "stop", "remove"], self.plan.rounds, one).await?;
        self.remove_sandbox(&sandbox).await
    }

    async fn commands(&self) -> Result<()> {
        let (sandbox, container) = self.pod("commands").await?;
        let command = ["/bin/true".to_owned()];
        let one = async |_| {
            let mut laps = Laps::begin();
            let response = self.subject.runtime.exec_sync(&container, &command, Some(Duration::from_secs(10))).await?;
            laps.lap();
            ensure!(response.exit_code == 0, "true ended with {}", response.exit_code);
            Ok(laps.0)
        };
        self.repeat("ExecSync of true", &["exec"], self.plan.rounds, one).await?;
        self.remove_sandbox(&sandbox).await
    }

    async fn crowd(&self) -> Result<()> {
        let (mut up, mut down, mut cpu) = (Vec::new(), Vec::new(), [Duration::ZERO; 2]);
        for round in 0..FEW {
            let before = self.subject.cpu();
            let mut laps = Laps::begin();
            let names: Vec<String> = (0..self.plan.crowd).map(|number| format!("crowd{round}-{number}")).collect();
            let pods = try_join_all(names.iter().map(|name| self.pod(name))).await?;
            laps.lap();
            let between = self.subject.cpu();
            try_join_all(pods.iter().map(|(sandbox, _)| self.remove_sandbox(sandbox))).await?;
            laps.lap();
            let taken = [between - before, self.subject.cpu() - between];
            cpu.iter_mut().zip(taken).for_each(|(sum, taken)| *sum += taken);
            up.push(laps.0[0]);
            down.push(laps.0[1]);
        }
        let count = self.plan.crowd;
        for (title, mut times, cpu) in [("started", up, cpu[0]), ("removed", down, cpu[1])] {
            let cost = cpu.as_secs_f64() * 1e6 / (FEW * count) as f64;
            self.print(
                &format!("{count} pods at once, all {title}"),
                format!("{cost:.1} us CPU a pod, median {:.0} ms", median(&mut times)),
            );
        }
        Ok(())
    }

    async fn standing(&self) -> Result<()> {
        let before = self.subject.memory();
        let mut sandboxes = Vec::new();
        for number in 0..STANDING {
            sandboxes.push(self.pod(&format!("standing{number}")).await?.0);
        }
        // What was needed for making them only may be given back late.
        tokio::time::sleep(Duration::from_secs(5)).await;
        let (cpu, begun) = (self.subject.cpu(), Instant::now());
        tokio::time::sleep(Duration::from_secs(10)).await;
        let idle = (self.subject.cpu() - cpu).as_secs_f64() / begun.elapsed().as_secs_f64() * 1e3;
        let (mut whole, mut parts) = (0, Vec::new());
        for (name, (count, kilobytes)) in self.subject.memory() {
            let (count_before, before) = before.get(&name).copied().unwrap_or_default();
            let more = (kilobytes as i64 - before as i64) / STANDING as i64;
            whole += more;
            parts.push(format!("{} {name} {more}", (count as i64 - count_before as i64) / STANDING as i64));
        }
        let parts = parts.join(", ");
        self.print(
            "memory of a pod with one container",
            format!("{whole} kB ({parts}); all {STANDING} idle: {idle:.1} thousandths of a core"),
        );
        for sandbox in sandboxes {
            self.remove_sandbox(&sandbox).await?;
        }
        Ok(())
    }

    async fn pulls(&self) -> Result<()> {
        let registry = self.plan.registry;
        let image = ImageSpec::new(registry.reference(LARGE));
        let one = async |_| {
            let before = registry.sent();
            let mut laps = Laps::begin();
            self.subject.images.pull_image(&image, None, None, None).await?;
            laps.lap();
            ensure!(registry.sent() - before >= registry.large(), "the image was there already");
            self.subject.images.remove_image(&image).await?;
            Ok(laps.0)
        };
        let title = format!("pull of 100 MB, {} MB compressed", registry.large() / 1_000_000);
        self.repeat(&title, &["pull"], FEW, one).await
    }
}

/// The times between calls.
struct Laps(Vec<Duration>, Instant);

impl Laps {
    fn begin() -> Self {
        Self(Vec::new(), Instant::now())
    }

    fn lap(&mut self) {
        self.0.push(self.1.elapsed());
        self.1 = Instant::now();
    }
}

/// In milliseconds.
fn median(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(0.0, |t| t.as_secs_f64() * 1e3)
}
