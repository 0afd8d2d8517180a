//! Tables: objects as the rows that kubectl prints. Columns are declared by the kind, computed cells come from its strategy.

use fram_api::{Age, Cell, Kind, strategy};
use fram_machinery::{Value, human, json, meta, object};

/// What of the object stands beside its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IncludeObject {
    None,
    Metadata,
    Object,
}

impl IncludeObject {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Metadata" => Some(Self::Metadata),
            "None" => Some(Self::None),
            "Object" => Some(Self::Object),
            _ => None,
        }
    }
}

/// A table of these objects.
pub(crate) fn table(kind: &Kind, objects: &[Value], include: IncludeObject, now: jiff::Timestamp) -> Value {
    let rows: Vec<Value> = objects.iter().map(|o| row(kind, o, include, now)).collect();
    object!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {},
        "columnDefinitions": (definitions(kind)), "rows": rows
    })
}

/// The column definitions of a kind; a kind that declares none has name and age.
pub(crate) fn definitions(kind: &Kind) -> Vec<Value> {
    let define = |name: &str, ty: &str, format: &str, description: &str, priority: i64| object!({ "name": name, "type": ty, "format": format, "description": description, "priority": priority });
    if kind.columns.is_empty() {
        return vec![define("Name", "string", "name", "", 0), define("Created At", "date", "", "", 0)];
    }
    kind.columns.iter().map(|c| define(&c.name, &c.ty, &c.format, &c.description, c.priority)).collect()
}

fn row(kind: &Kind, object: &Value, include: IncludeObject, now: jiff::Timestamp) -> Value {
    let created = || object.str_at(&["metadata", "creationTimestamp"]);
    let cells: Vec<Value> = if kind.columns.is_empty() {
        vec![meta::name(object).into(), created().into()]
    } else {
        kind.columns.iter().map(|c| cell(kind, object, c, now)).collect()
    };
    let mut row = object!({ "cells": cells });
    match include {
        IncludeObject::None => {}
        IncludeObject::Metadata => row.set(&["object"], partial(object)),
        IncludeObject::Object => row.set(&["object"], object.clone()),
    }
    row
}

/// The metadata of an object as a PartialObjectMetadata.
pub(crate) fn partial(object: &Value) -> Value {
    object!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": (object.get("metadata").cloned()) })
}

/// Says of a table or of partial metadata that they are of the version v1beta1, which differs by its name only.
pub(crate) fn to_beta(value: &mut Value) {
    const BETA: &str = "meta.k8s.io/v1beta1";
    value.set(&["apiVersion"], BETA);
    let of_beta = |object: &mut Value| {
        if object.str_at(&["kind"]) == "PartialObjectMetadata" {
            object.set(&["apiVersion"], BETA);
        }
    };
    if value.get("rows").is_some() {
        value
            .place(&["rows"])
            .make_list()
            .make_mut()
            .iter_mut()
            .filter(|row| row.get("object").is_some())
            .for_each(|row| of_beta(row.place(&["object"])));
    }
    if value.get("items").is_some() {
        value.place(&["items"]).make_list().make_mut().iter_mut().for_each(of_beta);
    }
}

fn cell(kind: &Kind, object: &Value, column: &fram_api::Column, now: jiff::Timestamp) -> Value {
    match &column.cell {
        Cell::Path(path, otherwise) => {
            let found = object.at(path).filter(|v| !v.is_null() && v.as_str() != Some(""));
            match (found, column.ty.as_str()) {
                (Some(value), "integer" | "boolean" | "number") => value.clone(),
                (Some(value), _) => json::text(value).into(),
                (None, _) if otherwise.is_some() => Value::from(*otherwise),
                (None, "integer" | "number") => Value::Int(0),
                (None, "boolean") => Value::Bool(false),
                (None, _) => "".into(),
            }
        }
        Cell::Found(path) => found_cell(&path.find(object).unwrap_or_default(), &column.ty, now),
        Cell::Age(Age::Date) => object.str_at(&["metadata", "creationTimestamp"]).into(),
        Cell::Age(Age::Relative) => age(object.str_at(&["metadata", "creationTimestamp"]), now),
        Cell::Computed => match strategy(kind).cell(object, &column.name) {
            Value::Null => "<none>".into(),
            // Times in computed cells are shown as ages.
            Value::String(s) if s.len() >= 20 && s.parse::<jiff::Timestamp>().is_ok() => age(&s, now),
            value => value,
        },
    }
}

/// What a path found, as its column shows it; see upstream's tableconvertor.
fn found_cell(found: &[&Value], ty: &str, now: jiff::Timestamp) -> Value {
    let Some(first) = found.first().filter(|v| !v.is_null()) else { return Value::Null };
    match (ty, first) {
        ("integer", Value::Int(_)) | ("number", Value::Int(_) | Value::Float(_)) | ("boolean", Value::Bool(_)) => (*first).clone(),
        ("integer", Value::Float(f)) => Value::Int(*f as i64),
        ("date", Value::String(text)) => age(text, now),
        ("string", _) => found.iter().map(|v| json::text(v).to_string()).collect::<Vec<_>>().join(" ").into(),
        _ => Value::Null,
    }
}

fn age(time: &str, now: jiff::Timestamp) -> Value {
    match time.parse::<jiff::Timestamp>() {
        Ok(then) => human::duration(now.as_second() - then.as_second()).into(),
        Err(_) => "<unknown>".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beta_table_has_beta_metadata_beside_its_rows() {
        let api = fram_api::Api::builtin().unwrap();
        let kind = api.kind("", "v1", "Pod").unwrap();
        let pod = object!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "x" } });
        let beta = |include| {
            let mut table = table(kind, std::slice::from_ref(&pod), include, jiff::Timestamp::UNIX_EPOCH);
            to_beta(&mut table);
            (table.str_at(&["apiVersion"]).to_string(), table.list_at(&["rows"])[0].str_at(&["object", "apiVersion"]).to_string())
        };
        let text = |a: &str, b: &str| (a.to_string(), b.to_string());
        assert_eq!(beta(IncludeObject::Metadata), text("meta.k8s.io/v1beta1", "meta.k8s.io/v1beta1"));
        assert_eq!(beta(IncludeObject::Object), text("meta.k8s.io/v1beta1", "v1"));
        assert_eq!(beta(IncludeObject::None), text("meta.k8s.io/v1beta1", ""));
    }

    #[test]
    fn a_pod_is_one_row_with_a_cell_for_each_column() {
        let api = fram_api::Api::builtin().unwrap();
        let kind = api.kind("", "v1", "Pod").unwrap();
        let pod = object!({ "metadata": { "name": "x", "creationTimestamp": "2026-01-01T00:00:00Z" },
            "spec": { "containers": [{ "name": "a" }] }, "status": { "phase": "Pending" } });
        let now = "2026-01-01T00:01:05Z".parse().unwrap();
        let table = table(kind, &[pod], IncludeObject::None, now);
        let cells = table.list_at(&["rows"])[0].list_at(&["cells"]);
        assert_eq!(cells[..5], [Value::from("x"), "0/1".into(), "Pending".into(), "0".into(), "65s".into()]);
        assert_eq!(cells.len(), table.list_at(&["columnDefinitions"]).len());
    }
}
