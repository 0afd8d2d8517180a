//! What of an answer counts: code, reason, the causes' types and fields, and how the object differs from what was sent,
//! without what no two servers have in common. And the files of answers.

use std::collections::BTreeMap;

use fram_machinery::{Map, Value, json};

use crate::path::below;

/// Changes by their path; null stands for what was sent and is not in the answer.
pub(crate) type Difference = BTreeMap<String, Value>;

#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Told {
    /// The step that failed before the last one, or none.
    pub(crate) stopped: Option<usize>,
    pub(crate) code: u16,
    pub(crate) reason: String,
    /// `TYPE FIELD`, sorted.
    pub(crate) causes: Vec<String>,
    pub(crate) object: Difference,
}

/// Up to so many bytes a set of fields is kept as it is; of larger ones their digest.
const WHOLE: usize = 48;

/// Metadata that each server makes up.
const OWN: [&str; 4] = ["uid", "resourceVersion", "creationTimestamp", "managedFields"];

/// `sent` is what the answer's object is compared with.
pub(crate) fn told(code: u16, body: &Value, sent: &Value, unique: &str) -> Told {
    let failed = code >= 400;
    let mut told = Told { code, ..Default::default() };
    if failed {
        told.reason = body.str_at(&["reason"]).into();
        let causes = body.list_at(&["details", "causes"]).iter();
        let cause = |c: &Value| format!("{} {}", c.str_at(&["reason"]), c.str_at(&["field"])).replace(unique, "NAME");
        told.causes = causes.map(cause).collect();
        told.causes.sort();
        // A server that looks twice at a field has no more to say than one that looks once.
        told.causes.dedup();
        return told;
    }
    let owners = owners(body, unique);
    let mut body = body.clone();
    for field in OWN {
        body.remove(&["metadata", field]);
    }
    body.remove(&["details", "uid"]);
    let mut sent = sent.clone();
    for field in OWN {
        sent.remove(&["metadata", field]);
    }
    let mut object = Difference::new();
    compare(&sent, &body, "", &mut object);
    let replace = |text: &str| text.replace(unique, "NAME");
    told.object = object.into_iter().map(|(path, v)| (replace(&path), volatile(&path, &crate::script::substitute(&v, &replace)))).collect();
    if !owners.is_empty() {
        told.object.insert("metadata.managedFields".into(), owners.into());
    }
    told
}

/// Who manages which fields: for each manager what it is, and the paths of what it owns.
fn owners(body: &Value, unique: &str) -> Vec<Value> {
    let entry = |entry: &Value| {
        let mut fields = Vec::new();
        paths(entry.get("fieldsV1").unwrap_or(&Value::Null), "", &mut fields);
        fields.sort_unstable();
        // The one server is asked through a proxy, which says who it is, the other directly.
        let manager = if matches!(entry.str_at(&["manager"]), "kubectl" | "unknown") { "client" } else { entry.str_at(&["manager"]) };
        let what = ["operation", "apiVersion", "subresource"].map(|field| entry.str_at(&[field]));
        let fields = in_short(fields.join(" ").replace(unique, "NAME"));
        Value::from(format!("{manager} {} {fields}", what.join(" ")))
    };
    body.list_at(&["metadata", "managedFields"]).iter().map(entry).collect()
}

/// A text, or so much of its digest that no other has the same where it is long. Both are shown where the environment asks for it.
fn in_short(text: String) -> String {
    if text.len() <= WHOLE {
        return text;
    }
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    let name = digest.as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    if std::env::var_os("FRAM_CORPUS_SHOW").is_some() {
        println!("{name} {text}");
    }
    name
}

/// The paths of a set of fields.
fn paths(fields: &Value, path: &str, out: &mut Vec<String>) {
    match fields.as_map().filter(|map| !map.is_empty()) {
        None => out.push(path.into()),
        Some(map) => map.iter().for_each(|(key, below)| paths(below, &format!("{path}/{}", key.strip_prefix("f:").unwrap_or(key)), out)),
    }
}

/// Place-holders for what servers choose.
fn volatile(path: &str, value: &Value) -> Value {
    let last = path.rsplit('.').next().unwrap_or_default();
    match value {
        Value::Int(_) if matches!(last, "nodePort" | "healthCheckNodePort") => "<port>".into(),
        Value::String(text) if last == "clusterIP" && text.parse::<std::net::IpAddr>().is_ok() => "<address>".into(),
        Value::List(_) if last == "clusterIPs" => "<addresses>".into(),
        Value::String(text) => volatile_text(text).into(),
        // Which rule comes first is left to chance.
        Value::List(list) if matches!(last, "resourceRules" | "nonResourceRules") => {
            let mut list: Vec<Value> = list.iter().filter(|v| !is_foreign(v)).map(|v| volatile("", v)).collect();
            list.sort_by_key(json::to_string);
            list.into()
        }
        Value::List(list) => list.iter().filter(|v| !is_foreign(v)).map(|v| volatile("", v)).collect::<Vec<_>>().into(),
        Value::Map(map) => Value::Map(Map::from_entries(map.iter().map(|(k, v)| (k.clone(), volatile(k, v))).collect())),
        other => other.clone(),
    }
}

/// The server that was asked projects a certificate of OpenShift into pods, and has a role of its own, which are nobody else's.
fn is_foreign(source: &Value) -> bool {
    let urls = source.list_at(&["nonResourceURLs"]);
    source.str_at(&["configMap", "name"]) == "openshift-service-ca.crt" || urls.first().is_some_and(|u| u.as_str() == Some("/.well-known"))
}

fn volatile_text(text: &str) -> String {
    const MOUNT: &str = "kube-api-access-";
    let time = text.len() >= 20 && text.starts_with("20") && text.as_bytes()[10] == b'T' && text.ends_with('Z');
    let credential = text.starts_with("X509SHA256=");
    let token = text.starts_with("eyJ");
    let parts: Vec<usize> = text.split('-').map(str::len).collect();
    let uuid = parts == [8, 4, 4, 4, 12] && text.bytes().all(|c| c == b'-' || c.is_ascii_hexdigit());
    match (time, credential, token, text.strip_prefix(MOUNT)) {
        _ if uuid => "<uid>".into(),
        _ if text.starts_with("gen-") || text.starts_with("Gen_") => "<generated>".into(),
        (true, ..) => "<time>".into(),
        (_, true, ..) => "<credential>".into(),
        (_, _, true, _) => "<token>".into(),
        (.., Some(_)) => format!("{MOUNT}<suffix>"),
        _ => text.into(),
    }
}

fn compare(sent: &Value, got: &Value, path: &str, out: &mut Difference) {
    match (sent, got) {
        (Value::Map(a), Value::Map(b)) => {
            for (key, value) in b.iter() {
                let at = below(path, key);
                match a.get(key) {
                    Some(before) => compare(before, value, &at, out),
                    None => drop(out.insert(at, value.clone())),
                }
            }
            for key in a.keys().filter(|k| !b.contains(k) && a.get(k).is_some_and(|v| !v.is_null())) {
                out.insert(below(path, key), Value::Null);
            }
        }
        (Value::List(a), Value::List(b)) if a.len() == b.len() => {
            for (i, (before, value)) in a.iter().zip(b.iter()).enumerate() {
                compare(before, value, &format!("{path}[{i}]"), out);
            }
        }
        (a, b) if a == b => {}
        (_, b) => drop(out.insert(path.into(), b.clone())),
    }
}

/// One line of a file: the answer, its object as the difference to `like`'s.
pub(crate) fn line(id: &str, told: &Told, like: Option<&Told>) -> String {
    let mut map = Map::new();
    map.insert("id", id);
    map.insert("code", i64::from(told.code));
    if let Some(step) = told.stopped {
        map.insert("stopped", step as i64);
    }
    if !told.reason.is_empty() {
        map.insert("reason", told.reason.as_str());
    }
    if !told.causes.is_empty() {
        map.insert("causes", told.causes.iter().map(|c| Value::from(c.as_str())).collect::<Vec<_>>());
    }
    let empty = Difference::new();
    let base = like.map_or(&empty, |l| &l.object);
    let success = told.code < 400;
    let own = told.object.iter().filter(|(k, v)| base.get(*k) != Some(*v));
    let own: Vec<_> = own.map(|(k, v)| (k.as_str().into(), v.clone())).collect();
    let lost: Vec<Value> = base.keys().filter(|k| success && !told.object.contains_key(*k)).map(|k| Value::from(k.as_str())).collect();
    if !own.is_empty() {
        map.insert("object", Value::Map(Map::from_entries(own.into())));
    }
    if !lost.is_empty() {
        map.insert("without", lost);
    }
    json::to_string(&Value::Map(map))
}

/// Reads a file of answers; each line's `like` is asked for by the line's name.
pub(crate) fn read(text: &str, like: &dyn Fn(&str) -> Option<String>) -> BTreeMap<String, Told> {
    let mut out: BTreeMap<String, Told> = BTreeMap::new();
    for line in text.lines() {
        let value = json::from_slice(line.as_bytes()).unwrap_or_else(|e| panic!("{line}: {e}"));
        let id = value.str_at(&["id"]).to_string();
        let code = value.int_at(&["code"]).unwrap_or(0) as u16;
        let mut object = match like(&id).and_then(|l| out.get(&l)) {
            Some(base) if code < 400 => base.object.clone(),
            _ => Difference::new(),
        };
        for path in value.list_at(&["without"]) {
            object.remove(path.as_str().unwrap_or_default());
        }
        for (path, v) in value.get("object").and_then(Value::as_map).into_iter().flat_map(|m| m.iter()) {
            object.insert(path.to_string(), v.clone());
        }
        let causes = value.list_at(&["causes"]).iter().filter_map(Value::as_str).map(String::from).collect();
        let stopped = value.int_at(&["stopped"]).map(|n| n as usize);
        out.insert(id, Told { stopped, code, reason: value.str_at(&["reason"]).into(), causes, object });
    }
    out
}

/// In what two answers differ, in one line; None where they are equal.
pub(crate) fn difference(expect: &Told, got: &Told) -> Option<String> {
    if expect == got {
        return None;
    }
    if (expect.code, &expect.reason, expect.stopped) != (got.code, &got.reason, got.stopped) || expect.code >= 400 {
        return Some(format!("{} instead of {}", short(got, expect), short(expect, got)));
    }
    let keys = expect.object.keys().chain(got.object.keys()).filter(|k| expect.object.get(*k) != got.object.get(*k));
    let mut keys: Vec<&String> = keys.collect();
    keys.sort();
    keys.dedup();
    let text = |side: &Told, key: &str| side.object.get(key).map_or_else(|| "as sent".into(), json::to_string);
    let texts = keys.into_iter().map(|k| format!("{k}: {} instead of {}", text(got, k), text(expect, k)));
    Some(texts.collect::<Vec<_>>().join("; "))
}

/// Code, reason and those causes that the other one has not.
fn short(told: &Told, other: &Told) -> String {
    let mut text = told.code.to_string();
    if let Some(step) = told.stopped {
        text = format!("{text} at step {step}");
    }
    if told.reason != other.reason {
        text = format!("{text} {}", told.reason);
    }
    let mut rest = other.causes.clone();
    let own = told.causes.iter().filter(|c| match rest.iter().position(|r| r == *c) {
        Some(at) => {
            rest.remove(at);
            false
        }
        None => true,
    });
    let own: Vec<&str> = own.map(String::as_str).collect();
    format!("{text} [{}]", own.join(", "))
}
