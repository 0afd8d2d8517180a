//! The rows of the table, in the order in which each finds what it needs. Objects that a row needs are made whether or not the
//! row that measures their making is printed.

mod config_maps;
mod lists;
mod pods;
mod watches;

use anyhow::Result;
use fram_bench_common::{Figures, Subject};

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Row {
    Start,
    Memory,
    Create,
    Get,
    List,
    Labels,
    Patch,
    Watch,
    Kubelets,
    Delete,
    ConfigMaps,
}

/// What is to be done.
pub(crate) struct Plan {
    pub(crate) pods: usize,
    pub(crate) config_maps: usize,
    pub(crate) rows: Vec<Row>,
}

impl Plan {
    fn wants(&self, row: Row) -> bool {
        self.rows.is_empty() || self.rows.contains(&row)
    }

    /// Whether anything of these is wanted.
    fn wants_any(&self, rows: &[Row]) -> bool {
        rows.iter().any(|row| self.wants(*row))
    }
}

pub(crate) async fn run(plan: &Plan, subjects: &mut [Subject]) -> Result<()> {
    use Row::{Create, Delete, Get, Kubelets, Labels, List, Memory, Patch, Start, Watch};
    if plan.wants(Start) {
        for subject in &*subjects {
            println!("{:<32} {:<6} {} ms", "start until /readyz", subject.name(), subject.started.as_millis());
        }
    }
    memory(plan, subjects, "memory, idle").await;
    if plan.wants_any(&[Create, Get, List, Labels, Patch, Watch, Kubelets, Delete, Memory]) {
        pods(plan, subjects).await?;
    }
    if plan.wants(Row::ConfigMaps) {
        config_maps::run(plan, subjects).await?;
    }
    Ok(())
}

/// The rows that stand on pods.
async fn pods(plan: &Plan, subjects: &[Subject]) -> Result<()> {
    row(plan, Row::Create, "create a pod", subjects, async |s| pods::create(s, plan.pods).await).await?;
    memory(plan, subjects, "memory, with the pods").await;
    row(plan, Row::Get, "get a pod", subjects, async |s| pods::get(s, plan.pods).await).await?;
    row(plan, Row::List, "list all pods, identity", subjects, async |s| lists::all(s, "identity").await).await?;
    row(plan, Row::List, "list all pods, gzip", subjects, async |s| lists::all(s, "gzip").await).await?;
    row(plan, Row::Labels, "list one of 50 groups by label", subjects, async |s| lists::labelled(s).await).await?;
    row(plan, Row::Patch, "strategic merge patch", subjects, async |s| pods::patch(s, plan.pods).await).await?;
    row(plan, Row::Watch, "event to one of 100 watchers", subjects, async |s| watches::crowd(s).await).await?;
    row(plan, Row::Watch, "the same, 50 changes a second", subjects, async |s| watches::paced(s).await).await?;
    row(plan, Row::Kubelets, "change seen by 1 of 1,000 kubelets", subjects, async |s| watches::kubelets(s).await).await?;
    row(plan, Row::Delete, "delete a pod", subjects, async |s| pods::delete(s, plan.pods).await).await?;
    if plan.wants(Row::Memory) {
        // What is no longer needed may be given back late.
        tokio::time::sleep(std::time::Duration::from_secs(15)).await;
    }
    memory(plan, subjects, "memory, after deleting them").await;
    Ok(())
}

/// One row: the same to each subject, and how the first compares to the second.
async fn row(plan: &Plan, row: Row, title: &str, subjects: &[Subject], measure: impl AsyncFn(&Subject) -> Result<Figures>) -> Result<()> {
    // Pods are made and deleted in any case.
    if !plan.wants(row) && !matches!(row, Row::Create | Row::Delete) {
        return Ok(());
    }
    let mut costs = Vec::new();
    for subject in subjects {
        let figures = measure(subject).await?;
        if plan.wants(row) {
            println!("{title:<36} {:<6} {figures}", subject.name());
        }
        costs.push(figures.cost());
    }
    if let [ours, theirs] = costs[..]
        && plan.wants(row)
    {
        println!("{title:<36} CPU of peer to fram: {:.1}", theirs / ours);
    }
    Ok(())
}

async fn memory(plan: &Plan, subjects: &[Subject], title: &str) {
    if plan.wants(Row::Memory) {
        for subject in subjects {
            println!("{title:<36} {:<6} {:.0} MB", subject.name(), subject.memory());
        }
    }
}
