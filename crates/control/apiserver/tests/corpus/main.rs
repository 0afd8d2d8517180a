//! The corpus: requests of every kind, verb and subresource with what a stock server answered, replayed against Fram.
//! `cargo xtask corpus` records the answers and shortens the list of known differences; see CONTRIBUTING.md.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod answer;
#[path = "../common"]
mod common {
    pub(crate) mod server;
}
mod path;
mod run;
mod script;
mod subject;
mod vary;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use answer::Told;
use fram_api::Api;
use script::Case;
use subject::Subject;

/// Set by `cargo xtask corpus`: the server whose answers are written down.
const RECORD: &str = "FRAM_CORPUS_RECORD";
/// Set by `cargo xtask corpus`: the list of known differences is written anew.
const ACCEPT: &str = "FRAM_CORPUS_ACCEPT";

/// Kinds that a stock API server does not serve by itself, or that are read only.
const NOT_ASKED: [&str; 3] = ["metrics.k8s.io/v1beta1 NodeMetrics", "metrics.k8s.io/v1beta1 PodMetrics", "v1 ComponentStatus"];

/// How much of a difference is shown.
const SHOWN: usize = 160;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus")
}

/// The groups of requests by the names of their files.
fn groups() -> BTreeMap<String, Vec<Case>> {
    let api = Api::builtin().unwrap();
    let mut groups = BTreeMap::new();
    for entry in std::fs::read_dir(folder().join("requests")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let cases = script::read(&api, &name, &text).unwrap_or_else(|e| panic!("{e}"));
        groups.insert(name, cases);
    }
    groups
}

fn answers_file(group: &str) -> PathBuf {
    folder().join("answers").join(format!("{group}.jsonl"))
}

fn recorded(group: &str, cases: &[Case]) -> BTreeMap<String, Told> {
    let text = std::fs::read_to_string(answers_file(group)).unwrap_or_default();
    let like: BTreeMap<&str, &Option<String>> = cases.iter().map(|c| (c.id.as_str(), &c.like)).collect();
    answer::read(&text, &|id| like.get(id).and_then(|l| (*l).clone()))
}

fn record(group: &str, cases: &[Case], answers: &BTreeMap<String, Told>) {
    let lines = cases.iter().map(|case| {
        let like = case.like.as_ref().and_then(|l| answers.get(l));
        answer::line(&case.id, &answers[&case.id], like) + "\n"
    });
    std::fs::write(answers_file(group), lines.collect::<String>()).unwrap();
}

#[test]
fn every_served_kind_verb_and_subresource_is_in_the_corpus() {
    let api = Api::builtin().unwrap();
    let groups = groups();
    let cases: Vec<&Case> = groups.values().flatten().collect();
    let mut missing = Vec::new();
    for kind in api.kinds().filter(|k| !k.plural.is_empty()) {
        let name = format!("{} {}", kind.api_version(), kind.kind);
        if NOT_ASKED.contains(&name.as_str()) {
            continue;
        }
        let about: Vec<&&Case> = cases.iter().filter(|c| c.kind.kind == kind.kind && c.kind.api_version() == kind.api_version()).collect();
        missing.extend(about.is_empty().then(|| name.clone()));
        for sub in kind.subresources.iter().filter(|s| !run::STREAMS.contains(&s.name)) {
            if !about.iter().any(|c| c.steps.iter().any(|s| s.subresource == sub.name)) {
                missing.push(format!("{name}/{}", sub.name));
            }
        }
    }
    assert!(missing.is_empty(), "no request asks about: {}", missing.join(", "));
}

#[tokio::test(flavor = "multi_thread")]
async fn fram_answers_as_a_stock_server_did() {
    let groups = groups();
    if let Ok(address) = std::env::var(RECORD) {
        for (group, cases) in &groups {
            let mut stock = Subject::at(&address).await;
            record(group, cases, &run::group(&mut stock, group, cases).await);
        }
        return;
    }
    let mut tasks = tokio::task::JoinSet::new();
    let count = groups.values().map(Vec::len).sum::<usize>();
    for (group, cases) in groups {
        tasks.spawn(async move {
            let mut fram = Subject::of(subject::fram().await).await;
            let got = run::group(&mut fram, &group, &cases).await;
            differences(&cases, &recorded(&group, &cases), &got)
        });
    }
    let mut found: Vec<(String, String)> = tasks.join_all().await.into_iter().flatten().collect();
    found.sort();
    println!("{count} requests, {} answers differ", found.len());
    known(&found);
}

fn differences(cases: &[Case], expect: &BTreeMap<String, Told>, got: &BTreeMap<String, Told>) -> Vec<(String, String)> {
    let of = |case: &Case| match expect.get(&case.id) {
        None => Some((case.id.clone(), "has no recorded answer".to_string())),
        Some(expect) => answer::difference(expect, &got[&case.id]).map(|d| (case.id.clone(), d)),
    };
    cases.iter().filter_map(of).collect()
}

/// Holds what was found against the list of known differences: nothing new, and nothing that has become equal.
fn known(found: &[(String, String)]) {
    let path = folder().join("known-differences.txt");
    let short = |text: &str| text.chars().take(SHOWN).collect::<String>();
    let lines: Vec<String> = found.iter().map(|(id, difference)| format!("{id}  #  {}", short(difference))).collect();
    if std::env::var_os(ACCEPT).is_some() {
        std::fs::write(&path, lines.join("\n") + "\n").unwrap();
        return;
    }
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let id = |line: &str| line.split("  #  ").next().unwrap_or_default().to_string();
    let listed: Vec<String> = text.lines().map(id).collect();
    let new: Vec<&String> = lines.iter().filter(|l| !listed.contains(&id(l))).collect();
    let gone: Vec<&String> = listed.iter().filter(|l| !l.is_empty() && !found.iter().any(|(f, _)| f == *l)).collect();
    let show = |lines: &[&String]| lines.iter().map(|l| format!("\n  {l}")).collect::<String>();
    assert!(new.is_empty(), "{} answers differ from those of a stock server:{}", new.len(), show(&new));
    assert!(gone.is_empty(), "{} are equal now, take them off the list (cargo xtask corpus):{}", gone.len(), show(&gone));
}
