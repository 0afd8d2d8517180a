//! `-o`: which form objects are printed in. Pure.

use fram_machinery::jsonpath::PathError;
use fram_machinery::{Value, json, meta, object, yaml};

use crate::error::{CliError, Result};
use crate::jsonpath::Template;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Output {
    /// The server's table.
    Table {
        wide: bool,
    },
    Yaml,
    Json,
    Name,
    JsonPath(Template),
    /// Its values as lists in JSON.
    JsonPathAsJson(Template),
}

impl Output {
    /// Reads the value of `-o`; empty means a table.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        Ok(match text.split_once('=') {
            None => match text {
                "" => Self::Table { wide: false },
                "wide" => Self::Table { wide: true },
                "yaml" => Self::Yaml,
                "json" => Self::Json,
                "name" => Self::Name,
                "jsonpath" | "jsonpath-as-json" => {
                    return Err(CliError::usage("template format specified but no template given: -o jsonpath='{.metadata.name}'"));
                }
                other => return Err(unknown(other)),
            },
            Some((form @ ("jsonpath" | "jsonpath-as-json"), template)) => {
                let path = Template::parse(template);
                let path = path.map_err(|why| CliError::usage(format!("error parsing jsonpath {template}, {why}")))?;
                if form == "jsonpath" { Self::JsonPath(path) } else { Self::JsonPathAsJson(path) }
            }
            Some((other, _)) => return Err(unknown(other)),
        })
    }

    /// The text for one object; `label` is its type as kubectl writes it. Tables are printed elsewhere.
    pub(crate) fn print(&self, object: &Value, label: &str) -> Result<String> {
        Ok(match self {
            Self::Table { .. } | Self::Name => format!("{label}/{}\n", meta::name(object)),
            Self::Yaml => yaml::to_string(object).map_err(|e| CliError::failed(e.to_string()))?,
            Self::Json => pretty(object),
            Self::JsonPath(path) => path.render(object).map_err(executing)?,
            Self::JsonPathAsJson(path) => path.render_as_json(object).map_err(executing)?,
        })
    }
}

fn executing(error: PathError) -> CliError {
    CliError::failed(format!("error executing jsonpath: {error}"))
}

fn unknown(text: &str) -> CliError {
    CliError::usage(format!(
        "unable to match a printer suitable for the output format {text:?}, allowed formats are: json,jsonpath,jsonpath-as-json,name,wide,yaml"
    ))
}

/// Several objects as kubectl shows them together.
pub(crate) fn list(items: Vec<Value>) -> Value {
    object!({ "apiVersion": "v1", "kind": "List", "metadata": { "resourceVersion": "" }, "items": items })
}

/// Removes what few want to see.
pub(crate) fn without_managed_fields(object: &mut Value) {
    object.remove(&["metadata", "managedFields"]);
}

/// JSON, indented by four, as kubectl prints it.
pub(crate) fn pretty(value: &Value) -> String {
    let mut out = String::new();
    indent(value, 0, &mut out);
    out.push('\n');
    out
}

fn indent(value: &Value, depth: usize, out: &mut String) {
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("    ", depth));
    };
    match value {
        Value::List(items) if !items.is_empty() => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i > 0 { "," } else { "" });
                line(out, depth + 1);
                indent(item, depth + 1, out);
            }
            line(out, depth);
            out.push(']');
        }
        Value::Map(map) if !map.is_empty() => {
            out.push('{');
            for (i, (key, item)) in map.iter().enumerate() {
                out.push_str(if i > 0 { "," } else { "" });
                line(out, depth + 1);
                out.push_str(&json::to_string(&Value::from(key.as_str())));
                out.push_str(": ");
                indent(item, depth + 1, out);
            }
            line(out, depth);
            out.push('}');
        }
        other => out.push_str(&json::to_string(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_known_by_kubectls_names() {
        assert_eq!(Output::parse("").unwrap(), Output::Table { wide: false });
        assert_eq!(Output::parse("wide").unwrap(), Output::Table { wide: true });
        assert!(matches!(Output::parse("jsonpath={.a}").unwrap(), Output::JsonPath(_)));
        for bad in ["xml", "jsonpath", "jsonpath={", "go-template={{.a}}"] {
            assert!(Output::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn objects_are_printed_in_each_form() {
        let object = object!({ "kind": "Pod", "metadata": { "name": "a", "labels": {} }, "list": [1, "x"] });
        let print = |format: &str| Output::parse(format).unwrap().print(&object, "pod").unwrap();
        assert_eq!(print("name"), "pod/a\n");
        assert_eq!(print("jsonpath={.metadata.name}"), "a");
        assert_eq!(print("jsonpath-as-json={.list[*]}"), "[\n    1,\n    \"x\"\n]\n");
        assert!(Output::parse("jsonpath={.list[9]}").unwrap().print(&object, "pod").is_err());
        let expect = "{\n    \"kind\": \"Pod\",\n    \"list\": [\n        1,\n        \"x\"\n    ],\n    \"metadata\": {\n        \"labels\": {},\n        \"name\": \"a\"\n    }\n}\n";
        assert_eq!(print("json"), expect);
        assert_eq!(yaml::from_str(&print("yaml")).unwrap(), object);
    }
}
