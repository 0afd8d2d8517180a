//! Tests of elections: when candidates are asked, and who is chosen.

use super::*;

const NOW: &str = "2026-01-01T01:00:00Z";

fn candidate(name: &str, emulation: &str, binary: &str, renewed: &str, pinged: &str) -> Value {
    let mut out = object!({
        "metadata": { "name": name, "creationTimestamp": "2026-01-01T00:00:00Z" },
        "spec": { "leaseName": "l", "emulationVersion": emulation, "binaryVersion": binary, "strategy": OLDEST, "renewTime": renewed }
    });
    if !pinged.is_empty() {
        out.set(&["spec", "pingTime"], pinged);
    }
    out
}

/// One that has just answered.
fn there(name: &str, emulation: &str, binary: &str) -> Value {
    candidate(name, emulation, binary, "2026-01-01T00:59:58Z", "2026-01-01T00:59:57Z")
}

fn lease(holder: &str, renewed: &str) -> Value {
    object!({ "spec": { "holderIdentity": holder, "renewTime": renewed, "leaseDurationSeconds": 5, "strategy": OLDEST } })
}

fn step(lease: Option<&Value>, candidates: &[Value]) -> Result<Step, String> {
    plan(lease, &candidates.iter().collect::<Vec<_>>(), ("ns", "l"), NOW.parse().unwrap())
}

fn elected(lease: Option<&Value>, candidates: &[Value]) -> String {
    match step(lease, candidates) {
        Ok(Step::Create(lease) | Step::Update(lease)) => {
            format!("{} {}", holder(&lease), lease.str_at(&["spec", "preferredHolder"])).trim().to_string()
        }
        other => format!("{other:?}"),
    }
}

#[test]
fn the_oldest_emulation_version_is_chosen_then_the_oldest_binary() {
    let old = there("old", "1.35.0", "1.36.0");
    assert_eq!(elected(None, &[there("new", "1.36.0", "1.36.0"), old.clone()]), "old");
    assert_eq!(elected(None, &[old.clone(), there("older-binary", "1.35", "1.35.0")]), "older-binary");
    assert_eq!(elected(None, &[there("b", "1.35.0", "1.36.0"), there("a", "1.35.0", "1.36.0")]), "a");
    assert_eq!(elected(None, &[there("bad", "x", "1.0.0"), old]), "old");
}

#[test]
fn a_holder_that_renews_is_told_who_is_better_and_one_that_does_not_is_replaced() {
    let candidates = [there("old", "1.35.0", "1.36.0"), there("new", "1.36.0", "1.36.0")];
    assert_eq!(elected(Some(&lease("new", "2026-01-01T00:59:59Z")), &candidates), "new old");
    assert_eq!(elected(Some(&lease("new", "2026-01-01T00:59:50Z")), &candidates), "old");
    assert_eq!(elected(Some(&lease("", "2026-01-01T00:59:59Z")), &candidates), "old");
    assert_eq!(step(Some(&lease("old", "2026-01-01T00:59:59Z")), &candidates), Ok(Step::Wait(AGAIN)));
}

#[test]
fn candidates_are_asked_first_and_waited_for() {
    let silent = candidate("a", "1.35.0", "1.35.0", "2026-01-01T00:50:00Z", "");
    let Ok(Step::Ask(asked)) = step(None, &[silent, there("b", "1.36.0", "1.36.0")]) else { panic!("nobody is asked") };
    assert_eq!(asked.iter().map(|c| (meta::name(c), pinged(c))).collect::<Vec<_>>(), [("a", NOW.parse().ok())]);
    let asked_before = candidate("a", "1.35.0", "1.35.0", "2026-01-01T00:50:00Z", "2026-01-01T00:59:58Z");
    assert_eq!(step(None, &[asked_before, there("b", "1.36.0", "1.36.0")]), Ok(Step::Wait(Duration::from_secs(3))));
    // Who has not answered in time is passed over.
    let gone = candidate("a", "1.35.0", "1.35.0", "2026-01-01T00:50:00Z", "2026-01-01T00:59:50Z");
    assert_eq!(elected(None, &[gone.clone(), there("b", "1.36.0", "1.36.0")]), "b");
    assert_eq!(step(None, &[gone]), Err("no candidates".into()));
}

#[test]
fn candidates_that_have_been_silent_for_long_are_asked_though_the_holder_is_right() {
    let candidates = [candidate("a", "1.35.0", "1.35.0", "2026-01-01T00:40:00Z", "")];
    assert!(matches!(step(Some(&lease("a", NOW)), &candidates), Ok(Step::Ask(_))));
    assert_eq!(left(&candidates[0], NOW.parse().unwrap()), Duration::from_secs(600));
}

#[test]
fn another_strategy_is_somebody_elses_and_strategies_have_to_agree() {
    let mut other = there("a", "1.36.0", "1.36.0");
    other.set(&["spec", "strategy"], "example.com/other");
    let Ok(Step::Create(lease)) = step(None, std::slice::from_ref(&other)) else { panic!("no lease is made") };
    assert_eq!((holder(&lease), lease.str_at(&["spec", "strategy"])), ("", "example.com/other"));
    assert!(step(None, &[other, there("b", "1.36.0", "1.36.0")]).is_err());
}
