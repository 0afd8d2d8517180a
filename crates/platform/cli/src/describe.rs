//! `fram describe`: an object as a person reads it, and what happened to it. One form for all kinds: the one in which kubectl
//! shows custom resources (describe.GenericDescriber).

use std::sync::Arc;

use fram_client::{ListOptions, resources};
use fram_machinery::{Value, meta};
use jiff::Timestamp;

use crate::access::Access;
use crate::choose::{Bare, Chosen, Selectors, choose};
use crate::error::{CliError, Result};
use crate::jsonpath;
use crate::manifests::Files;
use crate::print::{escaped, note, nothing_found, out, warn};
use crate::status::age;
use crate::table;

#[derive(clap::Args, Debug, Clone)]
pub struct Describe {
    /// What: `TYPE`, `TYPE NAME…` or `TYPE/NAME…`.
    #[arg(value_name = "TYPE[/NAME]")]
    targets: Vec<String>,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    selectors: Selectors,
    /// Show the object's events.
    #[arg(long, default_value_t = true)]
    show_events: bool,
}

pub(crate) async fn run(access: &Access, describe: &Describe) -> Result<()> {
    let chosen = choose(access, &describe.targets, &describe.files, &describe.selectors, Bare::All).await?;
    if chosen.is_empty() {
        note(&nothing_found((!describe.selectors.all_namespaces).then_some(&access.namespace)));
    }
    let (mut errors, mut texts) = (Vec::new(), Vec::new());
    for one in &chosen {
        match text(access, describe, one).await {
            Ok(text) => texts.push(text),
            Err(error) => errors.push(error),
        }
    }
    out(texts.join("\n\n"))?;
    CliError::all(errors)
}

async fn text(access: &Access, describe: &Describe, one: &Chosen) -> Result<String> {
    let object = one.objects(access).get(&one.name).await?;
    let mut text = fields(&object);
    if describe.show_events {
        match events_of(access, one, &object).await {
            Ok(events) => text.push_str(&happened(&events, Timestamp::now())),
            // Who may see an object need not be allowed to see its events.
            Err(error) => warn(&format!("the events of {} cannot be read: {error}", one.place())),
        }
    }
    Ok(text)
}

/// An object's events, the oldest first.
async fn events_of(access: &Access, one: &Chosen, object: &Value) -> Result<Vec<Arc<Value>>> {
    let events = access.objects_in(access.resource_type(&resources::EVENTS.plural).await?, &one.namespace);
    let mut found = Vec::new();
    for uid in known_as(object) {
        let field_selector = format!("involvedObject.name={},involvedObject.uid={uid}", one.name);
        found.extend(events.list(ListOptions { field_selector, ..Default::default() }).await?.items);
    }
    // Of one second, in the order in which they were written.
    found.sort_by_key(|e| (last_seen(e).to_string(), meta::resource_version(e).parse::<u64>().unwrap_or(0)));
    Ok(found)
}

/// As what events speak of an object: by its UID; kubelets call their node by its name. See describe.NodeDescriber.
fn known_as(object: &Value) -> Vec<&str> {
    let mut known = vec![meta::uid(object)];
    known.extend((object.str_at(&["kind"]) == "Node").then(|| meta::name(object)));
    known
}

fn last_seen(event: &Value) -> &str {
    let times = [["lastTimestamp"].as_slice(), &["series", "lastObservedTime"], &["eventTime"], &["metadata", "creationTimestamp"]];
    times.into_iter().map(|path| event.str_at(path)).find(|t| !t.is_empty()).unwrap_or_default()
}

/// The object without what other lines say already.
fn fields(object: &Value) -> String {
    let mut out = String::new();
    let column = |name: &str| format!("{name:<14}");
    let pairs = |name: &str, map: &Value| -> String {
        let pairs: Vec<String> =
            map.as_map().into_iter().flat_map(|m| m.iter()).map(|(k, v)| (k.as_str(), jsonpath::text(v))).map(pair(name)).collect();
        if pairs.is_empty() { "<none>".into() } else { pairs.join(&format!("\n{}", column(""))) }
    };
    let labels = pairs("Labels", meta::labels(object));
    let annotations = pairs("Annotations", object.at(&["metadata", "annotations"]).unwrap_or(&Value::Null));
    let mut lines = vec![("Name:", meta::name(object).to_string())];
    if !meta::namespace(object).is_empty() {
        lines.push(("Namespace:", meta::namespace(object).into()));
    }
    lines.extend([("Labels:", labels), ("Annotations:", annotations)]);
    lines.extend([("API Version:", object.str_at(&["apiVersion"]).into()), ("Kind:", object.str_at(&["kind"]).into())]);
    lines.into_iter().for_each(|(name, value)| out.push_str(&format!("{}{value}\n", column(name))));
    let mut rest = object.clone();
    for path in [
        ["apiVersion"].as_slice(),
        &["kind"],
        &["metadata", "name"],
        &["metadata", "namespace"],
        &["metadata", "labels"],
        &["metadata", "annotations"],
        &["metadata", "managedFields"],
    ] {
        rest.remove(path);
    }
    entries(&rest, 0, &mut out);
    out
}

/// `key=value` of a label, `key: value` of an annotation, as kubectl writes them.
fn pair(of: &str) -> impl Fn((&str, String)) -> String {
    let sign = if of == "Labels" { "=" } else { ": " };
    move |(key, value)| escaped(&format!("{key}{sign}{}", value.trim_end()))
}

/// `creationTimestamp` as `Creation Timestamp`; a key that is a name of its own stays.
fn title(key: &str) -> String {
    if key.contains(['.', '/', '-', '_']) {
        return key.into();
    }
    let mut out = String::new();
    let characters: Vec<char> = key.chars().collect();
    // `podIPs`: the plural's letter does not begin a word.
    let is_plural = |i: usize| i + 1 == characters.len() && characters[i] == 's';
    for (i, c) in characters.iter().enumerate() {
        let ends_capitals = characters.get(i + 1).is_some_and(|n| n.is_lowercase() && !is_plural(i + 1));
        let begins = c.is_uppercase() && i > 0 && (characters[i - 1].is_lowercase() || ends_capitals);
        if begins {
            out.push(' ');
        }
        out.extend(if i == 0 { c.to_uppercase().collect::<Vec<_>>() } else { vec![*c] });
    }
    out
}

fn entries(value: &Value, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    for (key, value) in value.as_map().into_iter().flat_map(|m| m.iter()) {
        let name = escaped(&title(key.as_str()));
        match value {
            Value::Map(map) if !map.is_empty() => {
                out.push_str(&format!("{indent}{name}:\n"));
                entries(value, depth + 1, out);
            }
            Value::List(list) if !list.is_empty() => {
                out.push_str(&format!("{indent}{name}:\n"));
                list.iter().for_each(|item| element(item, depth + 1, out));
            }
            _ => out.push_str(&format!("{indent}{name}:  {}\n", scalar(value))),
        }
    }
}

fn element(item: &Value, depth: usize, out: &mut String) {
    match item {
        Value::Map(map) if !map.is_empty() => entries(item, depth, out),
        _ => out.push_str(&format!("{}{}\n", "  ".repeat(depth), scalar(item))),
    }
}

fn scalar(value: &Value) -> String {
    if value.is_empty() { "<none>".into() } else { escaped(jsonpath::text(value).trim_end()).replace('\n', "\\n") }
}

/// The table of events.
fn happened(events: &[Arc<Value>], now: Timestamp) -> String {
    if events.is_empty() {
        return "Events:  <none>\n".into();
    }
    let age = |time: &str| age(time, now);
    let mut lines = vec![
        ["  Type", "Reason", "Age", "From", "Message"].map(String::from).to_vec(),
        ["  ----", "------", "----", "----", "-------"].map(String::from).to_vec(),
    ];
    for event in events {
        let count = event.int_at(&["series", "count"]).or(event.int_at(&["count"])).unwrap_or(1);
        let seen = match count {
            ..=1 => age(last_seen(event)),
            _ => format!("{} (x{count} over {})", age(last_seen(event)), age(event.str_at(&["firstTimestamp"]))),
        };
        let from =
            [["source", "component"].as_slice(), &["reportingComponent"]].into_iter().map(|p| event.str_at(p)).find(|c| !c.is_empty());
        let text = |name: &str| escaped(event.str_at(&[name]).trim());
        lines.push(vec![format!("  {}", text("type")), text("reason"), seen, escaped(from.unwrap_or_default()), text("message")]);
    }
    format!("Events:\n{}", table::align_close(&lines))
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    #[test]
    fn an_object_reads_as_kubectl_shows_what_it_does_not_know() {
        let object = object!({ "apiVersion": "v1", "kind": "Thing", "metadata": { "name": "a", "namespace": "n", "labels": { "x": "1", "y": "2" }, "creationTimestamp": "t" },
            "spec": { "hostIPs": ["1", "2"], "containers": [{ "name": "c", "args": [] }], "on": true } });
        let expect = "Name:         a\nNamespace:    n\nLabels:       x=1\n              y=2\nAnnotations:  <none>\nAPI Version:  v1\nKind:         Thing\n\
            Metadata:\n  Creation Timestamp:  t\nSpec:\n  Containers:\n    Args:  <none>\n    Name:  c\n  Host IPs:\n    1\n    2\n  On:  true\n";
        assert_eq!(fields(&object), expect);
    }

    #[test]
    fn keys_become_titles() {
        for (key, expect) in [
            ("creationTimestamp", "Creation Timestamp"),
            ("podIP", "Pod IP"),
            ("uid", "Uid"),
            ("app.io/x", "app.io/x"),
            ("hostIPs", "Host IPs"),
        ] {
            assert_eq!(title(key), expect);
        }
    }

    #[test]
    fn events_are_a_table_with_their_age_and_count() {
        let event = object!({ "type": "Warning", "reason": "BackOff", "message": "again\n", "count": 3, "firstTimestamp": "2026-01-01T00:00:00Z",
            "lastTimestamp": "2026-01-01T00:01:00Z", "source": { "component": "kubelet" } });
        let text = happened(&[Arc::new(event)], "2026-01-01T00:01:30Z".parse().unwrap());
        assert!(text.contains("Warning  BackOff  30s (x3 over 90s)  kubelet  again\n"), "{text}");
        assert_eq!(happened(&[], Timestamp::UNIX_EPOCH), "Events:  <none>\n");
    }

    #[test]
    fn terminals_get_no_orders_from_objects() {
        let object = object!({ "apiVersion": "v1", "kind": "Thing", "metadata": { "name": "a", "annotations": { "x": "\u{1b}[2J" } }, "spec": { "y": "\u{1b}c\rz" } });
        let event = object!({ "type": "Normal", "reason": "R", "message": "\u{1b}]0;title", "source": { "component": "c\r" } });
        let text = fields(&object) + &happened(&[Arc::new(event)], Timestamp::UNIX_EPOCH);
        assert!(!text.contains(['\u{1b}', '\r']) && text.contains("x: ^[[2J") && text.contains("Y:  ^[c\\rz"), "{text}");
    }

    #[test]
    fn a_nodes_events_are_looked_for_by_its_name_too() {
        let object = |kind: &str| object!({ "kind": kind, "metadata": { "name": "n", "uid": "u" } });
        assert_eq!((known_as(&object("Node")), known_as(&object("Pod"))), (vec!["u", "n"], vec!["u"]));
    }
}
