//! `fram top`: what nodes and pods use, from metrics.k8s.io.

use fram_client::ListOptions;
use fram_machinery::quantity::Quantity;
use fram_machinery::{Reason, Value, meta};

use crate::access::Access;
use crate::error::{CliError, Result};
use crate::print::{note, nothing_found, out};
use crate::table;

#[derive(clap::Subcommand, Debug, Clone)]
pub(crate) enum Top {
    /// CPU and memory of nodes.
    #[command(visible_alias = "nodes", alias = "no", after_help = "Example:\n  fram top node")]
    Node(Which),
    /// CPU and memory of pods.
    #[command(
        visible_alias = "pods",
        alias = "po",
        after_help = "Examples:\n  fram top pod -A --sort-by=memory\n  fram top pod web-0 --containers"
    )]
    Pod(PodsOf),
}

#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Which {
    /// One only.
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Only those with these labels.
    #[arg(short = 'l', long, value_name = "LABELS", default_value = "", hide_default_value = true)]
    selector: String,
    /// The greatest first: cpu or memory.
    #[arg(long, value_name = "cpu|memory", value_parser = ["cpu", "memory"])]
    sort_by: Option<String>,
    /// No line of headers.
    #[arg(long)]
    no_headers: bool,
}

#[derive(clap::Args, Debug, Clone)]
pub(crate) struct PodsOf {
    #[command(flatten)]
    which: Which,
    /// Pods of every namespace.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// A line for each container.
    #[arg(long)]
    containers: bool,
}

/// What something uses: thousandths of a core, and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Usage {
    cpu: i64,
    memory: i64,
}

fn quantity(value: &Value, path: &[&str]) -> Option<Quantity> {
    value.str_at(path).parse().ok()
}

impl Usage {
    fn of(resources: &Value) -> Self {
        let cpu = quantity(resources, &["cpu"]).map_or(0, |q| q.milli_value());
        Self { cpu, memory: quantity(resources, &["memory"]).map_or(0, |q| q.value()) }
    }

    fn plus(self, other: Self) -> Self {
        Self { cpu: self.cpu + other.cpu, memory: self.memory + other.memory }
    }

    fn cpu_text(self) -> String {
        format!("{}m", self.cpu)
    }

    fn memory_text(self) -> String {
        format!("{}Mi", self.memory >> 20)
    }
}

/// A line and what it is sorted by.
struct Row {
    cells: Vec<String>,
    usage: Usage,
}

pub(crate) async fn run(access: &Access, top: &Top) -> Result<()> {
    let (headers, rows, which) = match top {
        Top::Node(which) => (["NAME", "CPU(cores)", "CPU(%)", "MEMORY(bytes)", "MEMORY(%)"].to_vec(), nodes(access, which).await?, which),
        Top::Pod(of) => {
            let mut headers = if of.all_namespaces { vec!["NAMESPACE"] } else { Vec::new() };
            headers.extend(if of.containers { ["POD", "NAME"].as_slice() } else { &["NAME"] });
            headers.extend(["CPU(cores)", "MEMORY(bytes)"]);
            (headers, pods(access, of).await?, &of.which)
        }
    };
    if rows.is_empty() {
        note(&nothing_found(None));
        return Ok(());
    }
    let mut lines = Vec::new();
    if !which.no_headers {
        lines.push(headers.into_iter().map(String::from).collect());
    }
    lines.extend(sorted(rows, which.sort_by.as_deref()).into_iter().map(|r| r.cells));
    out(table::align(&lines, &mut Vec::new()))
}

fn sorted(mut rows: Vec<Row>, by: Option<&str>) -> Vec<Row> {
    match by {
        Some("cpu") => rows.sort_by_key(|r| -r.usage.cpu),
        Some(_) => rows.sort_by_key(|r| -r.usage.memory),
        None => rows.sort_by(|a, b| a.cells.cmp(&b.cells)),
    }
    rows
}

/// The metrics of a resource, by its name in metrics.k8s.io.
async fn metrics(access: &Access, resource: &str, namespace: &str, which: &Which) -> Result<Vec<Value>> {
    let ty = access.discovery().await?.find(&format!("{resource}.metrics.k8s.io"));
    let ty = ty.ok_or_else(|| CliError::failed("Metrics API not available: the cluster does not serve metrics.k8s.io"))?;
    let objects = access.objects_in(ty, namespace);
    let found = match &which.name {
        Some(name) => objects.get(name).await.map(|one| vec![one]),
        None => objects.list(ListOptions { label_selector: which.selector.clone(), ..Default::default() }).await.map(|page| page.items),
    };
    let found = found.map_err(|status| match which.name.is_some() && status.is(Reason::NotFound) {
        true => CliError::failed(format!("{}: it has no metrics yet, or is not there", status.message)),
        false => status.into(),
    })?;
    Ok(found.iter().map(|m| (**m).clone()).collect())
}

async fn nodes(access: &Access, which: &Which) -> Result<Vec<Row>> {
    let found = metrics(access, "nodes", "", which).await?;
    let nodes = access.objects(access.resource_type("nodes").await?).list(ListOptions::default()).await?.items;
    let row = |metric: &Value| {
        let node = nodes.iter().find(|n| meta::name(n) == meta::name(metric));
        let all = node.and_then(|n| n.at(&["status", "allocatable"])).map(Usage::of).unwrap_or_default();
        node_row(meta::name(metric), Usage::of(metric.get("usage").unwrap_or(&Value::Null)), all)
    };
    Ok(found.iter().map(row).collect())
}

fn node_row(name: &str, usage: Usage, all: Usage) -> Row {
    let share = |used: i64, all: i64| if all > 0 { format!("{}%", used.saturating_mul(100) / all) } else { "<unknown>".into() };
    let cells = [name.to_string(), usage.cpu_text(), share(usage.cpu, all.cpu), usage.memory_text(), share(usage.memory, all.memory)];
    Row { cells: cells.to_vec(), usage }
}

async fn pods(access: &Access, of: &PodsOf) -> Result<Vec<Row>> {
    if of.all_namespaces && of.which.name.is_some() {
        return Err(CliError::usage("a resource cannot be retrieved by name across all namespaces"));
    }
    let namespace = if of.all_namespaces { "" } else { &access.namespace };
    let found = metrics(access, "pods", namespace, &of.which).await?;
    Ok(found.iter().flat_map(|pod| pod_rows(pod, of.containers, of.all_namespaces)).collect())
}

fn pod_rows(pod: &Value, containers: bool, namespaces: bool) -> Vec<Row> {
    let of = |c: &Value| Usage::of(c.get("usage").unwrap_or(&Value::Null));
    let row = |container: Option<&str>, usage: Usage| {
        let mut cells = if namespaces { vec![meta::namespace(pod).to_string()] } else { Vec::new() };
        cells.push(meta::name(pod).into());
        cells.extend(container.map(String::from));
        cells.extend([usage.cpu_text(), usage.memory_text()]);
        Row { cells, usage }
    };
    let all = pod.list_at(&["containers"]);
    match containers {
        true => all.iter().map(|c| row(Some(c.str_at(&["name"])), of(c))).collect(),
        false => vec![row(None, all.iter().map(of).fold(Usage::default(), Usage::plus))],
    }
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    #[test]
    fn usage_is_summed_or_shown_by_container() {
        let pod = object!({ "metadata": { "name": "p", "namespace": "n" }, "containers": [
            { "name": "a", "usage": { "cpu": "1500000n", "memory": "2048Ki" } }, { "name": "b", "usage": { "cpu": "10m", "memory": "3Mi" } }] });
        let cells = |containers, namespaces| pod_rows(&pod, containers, namespaces).into_iter().map(|r| r.cells).collect::<Vec<_>>();
        assert_eq!(cells(false, false), [["p", "12m", "5Mi"]]);
        assert_eq!(cells(true, true), [["n", "p", "a", "2m", "2Mi"], ["n", "p", "b", "10m", "3Mi"]]);
    }

    #[test]
    fn a_nodes_usage_is_a_share_of_what_it_has() {
        let all = Usage { cpu: 2000, memory: 8 << 30 };
        assert_eq!(node_row("n", Usage { cpu: 100, memory: 2 << 30 }, all).cells, ["n", "100m", "5%", "2048Mi", "25%"]);
        assert_eq!(node_row("n", Usage::default(), Usage::default()).cells[2], "<unknown>");
    }

    #[test]
    fn the_greatest_comes_first_where_asked() {
        let rows = || [("a", 1, 9), ("b", 2, 8)].map(|(n, cpu, memory)| Row { cells: vec![n.into()], usage: Usage { cpu, memory } }).into();
        let names = |by| sorted(rows(), by).into_iter().map(|r| r.cells[0].clone()).collect::<Vec<_>>();
        assert_eq!(
            (names(None), names(Some("cpu")), names(Some("memory"))),
            (vec!["a".into(), "b".into()], vec!["b".into(), "a".into()], vec!["a".into(), "b".into()])
        );
    }
}
