//! The demo, step by step.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fram_cli::{Access, CliError, Connection, Place, capture, follow, parse_manifests, progress, say};
use fram_client::{ListOptions, PatchKind, WriteOptions};
use fram_machinery::{Status, Value, human, meta, object};
use http::Method;

use crate::show::{Show, Step};
use crate::{DemoError, image, kill};

type Result<T> = std::result::Result<T, DemoError>;

const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hello"));
const MANIFESTS: &str = include_str!("../../../../examples/hello/hello.yaml");
const REFERENCE: &str = "localhost/hello:1";
const NAME: &str = "hello";
const JOB: &str = "hello-check";
const VISITOR: &str = "visitor";
const URL: &str = "http://hello";
const SCALED: i64 = 5;
/// How long any step may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the steps work with.
struct Stage<'a> {
    access: Access,
    data: &'a Path,
}

pub(crate) async fn run(kubeconfig: &Path, data: &Path) -> Result<()> {
    let connection = Connection { kubeconfig: Some(kubeconfig.into()), namespace: Some("default".into()), ..Default::default() };
    let stage = Stage { access: Access::open(&connection)?, data };
    let begun = Instant::now();
    say("");
    if stage.deployment().await?.is_some() {
        stage.find_again().await?;
    } else {
        stage.begin().await?;
    }
    say(&format!("\nAll of it took {:.1} s. {}", begun.elapsed().as_secs_f64(), next(kubeconfig, data)));
    Ok(())
}

impl Stage<'_> {
    /// The first time: everything.
    async fn begin(&self) -> Result<()> {
        let mut show = Show::new(7);
        self.image(show.step("image")).await?;
        self.apply(show.step("apply")).await?;
        self.roll_out(show.step("roll-out")).await?;
        self.job(show.step("job")).await?;
        self.call(show.step("call")).await?;
        self.scale(show.step("scale")).await?;
        self.break_and_heal(show.step("heal")).await
    }

    /// It is there already: what is missing is added, and it is asked.
    async fn find_again(&self) -> Result<()> {
        say("The application of an earlier demo is still here, and its pods never stopped.");
        let mut show = Show::new(4);
        self.image(show.step("image")).await?;
        self.apply(show.step("apply")).await?;
        self.roll_out(show.step("roll-out")).await?;
        self.call(show.step("call")).await
    }

    async fn image(&self, step: Step) -> Result<()> {
        step.hint("packing examples/hello with the libraries that its ELF headers name");
        let packed = image::pack(REFERENCE, NAME, PROGRAM)?;
        let size = human::bytes(packed.archive.len() as u64);
        let there = fram_cli::ask(self.data, Method::GET, "/images").await?;
        if there.list_at(&["items"]).iter().any(|i| i.str_at(&["id"]) == packed.id) {
            step.done(&format!("{REFERENCE} is here from before"));
            return Ok(());
        }
        step.hint("handing it to the node");
        fram_cli::hand_over(self.data, "/images", std::io::Cursor::new(packed.archive)).await?;
        step.done(&format!("{REFERENCE} built from examples/hello, {size} in {} files, no registry needed", packed.files.len()));
        Ok(())
    }

    /// Applies what is not there; what is there is the user's by now.
    async fn apply(&self, step: Step) -> Result<()> {
        let (mut made, mut found) = (Vec::new(), Vec::new());
        for object in parse_manifests(MANIFESTS, "hello.yaml")? {
            let ty = self.access.discovery().await?.of_kind(object.str_at(&["apiVersion"]), object.str_at(&["kind"]));
            let ty = ty.ok_or_else(|| DemoError::Unexpected(format!("the cluster has no {}", object.str_at(&["kind"]))))?;
            let name = meta::name(&object).to_string();
            let place = Place { ty, namespace: &self.access.namespace, name: &name };
            let label = place.to_string();
            step.hint(&label);
            if self.access.objects(ty).find(&name).await.map_err(CliError::from)?.is_some() {
                found.push(label);
                continue;
            }
            self.access.patch(&place, "", PatchKind::Apply, object, WriteOptions::default()).await?;
            made.push(label);
        }
        step.done(&match made.is_empty() {
            true => format!("{} are here from before", found.join(", ")),
            false => made.join(", "),
        });
        Ok(())
    }

    /// Waits, but not for ever.
    async fn soon<T>(&self, what: &'static str, waiting: impl Future<Output = std::result::Result<T, CliError>>) -> Result<T> {
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(outcome) => Ok(outcome?),
            Err(_) => Err(DemoError::Late { what, patience: PATIENCE, why: self.obstacles().await }),
        }
    }

    /// What the pods that do not run say of it.
    async fn obstacles(&self) -> String {
        let mut said: Vec<String> = self.pods().await.unwrap_or_default().iter().filter_map(|p| obstacle(p)).collect();
        said.sort();
        said.dedup();
        said.join("; ")
    }

    async fn find(&self, word: &str, name: &str) -> Result<Option<Arc<Value>>> {
        let ty = self.access.resource_type(word).await?;
        Ok(self.access.objects(ty).find(name).await.map_err(CliError::from)?)
    }

    async fn deployment(&self) -> Result<Option<Arc<Value>>> {
        self.find("deployments.apps", NAME).await
    }

    async fn pods(&self) -> Result<Vec<Arc<Value>>> {
        let options = ListOptions { label_selector: format!("app={NAME}"), ..Default::default() };
        let pods = self.access.objects(self.access.resource_type("pods").await?);
        let mut found = pods.list(options).await.map_err(CliError::from)?.items;
        found.retain(|p| !meta::is_terminating(p));
        Ok(found)
    }

    /// Follows the Deployment until its update is through.
    async fn until_rolled_out(&self, step: &mut Step) -> Result<i64> {
        let objects = self.access.objects(self.access.resource_type("deployments.apps").await?);
        let decide = |object: Option<&Value>| {
            let object = object.ok_or_else(|| Status::not_found("apps", "deployments", NAME))?;
            let state = progress("Deployment", object, None).map_err(CliError::Failed)?;
            let available = object.int_at(&["status", "availableReplicas"]).unwrap_or(0);
            step.goes_on(&format!("{available} of {} replicas are available", object.int_at(&["spec", "replicas"]).unwrap_or(1)));
            Ok(state.done.then_some(available))
        };
        self.soon("the roll-out", follow(&objects, NAME, decide)).await
    }

    async fn roll_out(&self, mut step: Step) -> Result<()> {
        let available = self.until_rolled_out(&mut step).await?;
        let pods: Vec<String> = self.pods().await?.iter().map(|p| meta::name(p).to_string()).collect();
        step.done(&format!("{available} replicas are available: {}", pods.join(", ")));
        Ok(())
    }

    async fn job(&self, step: Step) -> Result<()> {
        let objects = self.access.objects(self.access.resource_type("jobs.batch").await?);
        let decide = |job: Option<&Value>| {
            let job = job.ok_or_else(|| Status::not_found("batch", "jobs", JOB))?;
            step.hint("a Job asks the Service thirty times");
            if meta::condition_is_true(job, "Failed") {
                return Err(CliError::Failed(format!("job {JOB} has failed: see `fram logs job/{JOB}`")));
            }
            Ok(meta::condition_is_true(job, "Complete").then_some(()))
        };
        self.soon("the job", follow(&objects, JOB, decide)).await?;
        step.done(&format!("{JOB} is complete: thirty requests, all answered"));
        Ok(())
    }

    /// Asks the Service by its name from another pod until every replica has answered.
    async fn call(&self, mut step: Step) -> Result<()> {
        const MOST: usize = 100;
        let objects = self.access.objects(self.access.resource_type("pods").await?);
        let ready = |pod: Option<&Value>| Ok(pod.filter(|p| meta::condition_is_true(p, "Ready")).cloned());
        let visitor = self.soon("the visitor's start", follow(&objects, VISITOR, ready)).await?;
        let replicas = self.pods().await?.len();
        let (mut answers, mut asked) = (BTreeMap::<String, usize>::new(), 0);
        while answers.len() < replicas && asked < MOST {
            let answer = self.soon("an answer", capture(&self.access, &visitor, VISITOR, &["/hello", "get", URL])).await?;
            asked += 1;
            *answers.entry(answer.trim().to_string()).or_default() += 1;
            step.goes_on(&format!("{URL} from pod {VISITOR}: {}", answer.trim()));
        }
        if answers.len() < replicas {
            return Err(DemoError::Unexpected(format!("of {replicas} replicas {} answered {asked} requests", answers.len())));
        }
        step.done(&format!("{URL} from pod {VISITOR}: {asked} requests, answered by {} replicas, \"{}\"", answers.len(), first(&answers)));
        Ok(())
    }

    async fn scale(&self, mut step: Step) -> Result<()> {
        let ty = self.access.resource_type("deployments.apps").await?;
        let place = Place { ty, namespace: &self.access.namespace, name: NAME };
        let body = object!({ "spec": { "replicas": SCALED } });
        self.access.patch(&place, "scale", PatchKind::Merge, body, WriteOptions::default()).await?;
        let available = self.until_rolled_out(&mut step).await?;
        step.done(&format!("deployment/{NAME} has {available} replicas"));
        Ok(())
    }

    /// Kills a container's processes, and waits until the kubelet has another one in its place.
    async fn break_and_heal(&self, mut step: Step) -> Result<()> {
        let pods = self.pods().await?;
        // One that is not ready may have no container to kill.
        let pod = pods.iter().find(|p| container(p).ready).ok_or_else(|| DemoError::Unexpected("no pod is ready to be broken".into()))?;
        let (name, before) = (meta::name(pod), container(pod));
        step.goes_on(&format!("kill -9 of the container of {name}"));
        if kill::container(&before.id)? == 0 {
            return Err(DemoError::Unexpected(format!("no process of container {} was found", before.id)));
        }
        let begun = Instant::now();
        let decide = |pod: Option<&Value>| {
            let pod = pod.ok_or_else(|| Status::not_found("", "pods", name))?;
            let now = container(pod);
            step.goes_on(&format!("{name}: {} restarts, {}", now.restarts, if now.ready { "ready" } else { "not ready" }));
            Ok((now.restarts > before.restarts && now.ready).then_some(now.restarts))
        };
        let objects = self.access.objects(self.access.resource_type("pods").await?);
        self.soon("the container's restart", follow(&objects, name, decide)).await?;
        step.done(&format!("killed the container of {name}; another one was ready {:.1} s later", begun.elapsed().as_secs_f64()));
        Ok(())
    }
}

fn first(answers: &BTreeMap<String, usize>) -> &str {
    answers.keys().next().map_or("", String::as_str)
}

/// What a pod says of its only container.
struct Container {
    id: String,
    restarts: i64,
    ready: bool,
}

fn container(pod: &Value) -> Container {
    let status = pod.list_at(&["status", "containerStatuses"]).first().cloned().unwrap_or_default();
    Container {
        id: status.str_at(&["containerID"]).rsplit('/').next().unwrap_or_default().to_string(),
        restarts: status.int_at(&["restartCount"]).unwrap_or(0),
        ready: status.bool_at(&["ready"]) == Some(true),
    }
}

/// Why a pod does not run, in its own words.
fn obstacle(pod: &Value) -> Option<String> {
    let unscheduled = meta::condition(pod, "PodScheduled").filter(|c| c.str_at(&["status"]) == "False").map(|c| c.str_at(&["message"]));
    let waiting = pod.list_at(&["status", "containerStatuses"]).iter().find_map(|s| s.at(&["state", "waiting"]));
    let waiting = waiting.map(|w| if w.str_at(&["message"]).is_empty() { w.str_at(&["reason"]) } else { w.str_at(&["message"]) });
    unscheduled.or(waiting).filter(|text| !text.is_empty()).map(String::from)
}

/// What to try next.
fn next(kubeconfig: &Path, data: &Path) -> String {
    let program = std::env::current_exe().map_or_else(|_| "fram".into(), |p| p.display().to_string());
    let on_path = std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|f| f.join("fram").exists()));
    let alias = if on_path { String::new() } else { format!("  alias fram={program}\n") };
    let data = if data == Path::new(fram_cli::DEFAULT_DATA_DIR) { String::new() } else { format!(" --data-dir {}", data.display()) };
    format!(
        "The application stays up. Try, in a second terminal:\n\n  export KUBECONFIG={}\n{alias}\n  fram get pods -o wide\n  fram logs deployment/{NAME} -f\n  fram exec {VISITOR} -- /hello get {URL}\n  fram port-forward service/{NAME} 8080:80     # and open http://127.0.0.1:8080\n  fram scale deployment/{NAME} --replicas=10\n  fram rollout restart deployment/{NAME} && fram rollout status deployment/{NAME}\n  fram status\n\nkubectl works as well. Ctrl-C stops fram, not the pods: `fram up` finds them again.\n`fram down --purge{data}` removes all of it.",
        kubeconfig.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifests_are_the_images_and_names_that_the_demo_speaks_of() {
        let objects = parse_manifests(MANIFESTS, "hello.yaml").unwrap();
        let names: Vec<&str> = objects.iter().map(meta::name).collect();
        assert_eq!(names, [NAME, NAME, NAME, JOB, VISITOR]);
        assert_eq!(MANIFESTS.matches("image:").count(), MANIFESTS.matches(&format!("image: {REFERENCE}\n")).count());
    }

    #[test]
    fn a_pod_that_does_not_run_says_why() {
        let unscheduled = object!({ "status": { "conditions": [{ "type": "PodScheduled", "status": "False", "message": "no nodes" }] } });
        let waiting = object!({ "status": { "containerStatuses": [{ "state": { "waiting": { "reason": "ErrImagePull" } } }] } });
        let running = object!({ "status": { "containerStatuses": [{ "state": { "running": {} } }] } });
        assert_eq!(obstacle(&unscheduled).as_deref(), Some("no nodes"));
        assert_eq!((obstacle(&waiting).as_deref(), obstacle(&running)), (Some("ErrImagePull"), None));
    }
}
