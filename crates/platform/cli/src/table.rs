//! Server-side tables as aligned text, with kubectl's widths. Pure. See cli-runtime's printers and its tabwriter.

use fram_machinery::{Value, meta};

use crate::jsonpath;
use crate::print::escaped;

/// Smallest width of a column and space after it, as kubectl's tabwriter has them.
const MIN_WIDTH: usize = 6;
const PADDING: usize = 3;
/// The space after a column in descriptions and histories, which have no smallest width; see kubectl's tabbedString.
const CLOSE: usize = 2;

/// Which columns and rows are shown.
#[derive(Debug, Clone, Default)]
pub(crate) struct TableOptions {
    pub wide: bool,
    pub headers: bool,
    /// Begin rows with the namespace.
    pub namespaces: bool,
    pub labels: bool,
    pub label_columns: Vec<String>,
    /// Write names as `TYPE/NAME`, with this type.
    pub prefix: Option<String>,
    /// Begin rows with the sort of event, in watches.
    pub events: bool,
}

/// Prints rows; widths are kept from one to the next, so that a watch stays aligned.
#[derive(Debug, Default)]
pub(crate) struct TablePrinter {
    options: TableOptions,
    widths: Vec<usize>,
    /// Which columns of the server's are shown, and whether a column is the name.
    columns: Vec<(usize, bool)>,
    headers: Vec<String>,
    header_printed: bool,
}

impl TablePrinter {
    pub(crate) fn new(options: TableOptions) -> Self {
        Self { options, ..Default::default() }
    }

    /// The text for a Table, with its header where that was not printed before. Later tables of a watch have no columns.
    pub(crate) fn print(&mut self, table: &Value, event: &str) -> String {
        if !table.list_at(&["columnDefinitions"]).is_empty() && self.columns.is_empty() {
            self.take_columns(table.list_at(&["columnDefinitions"]));
        }
        let mut lines = Vec::new();
        if self.options.headers && !self.header_printed && !table.list_at(&["rows"]).is_empty() {
            lines.push(self.headers.clone());
            self.header_printed = true;
        }
        lines.extend(table.list_at(&["rows"]).iter().map(|row| self.row(row, event)));
        align(&lines, &mut self.widths)
    }

    fn take_columns(&mut self, definitions: &[Value]) {
        let shown = definitions.iter().enumerate().filter(|(_, d)| self.options.wide || d.int_at(&["priority"]).unwrap_or(0) == 0);
        self.columns = shown.clone().map(|(i, d)| (i, d.str_at(&["name"]).eq_ignore_ascii_case("name"))).collect();
        let named = shown.map(|(_, d)| d.str_at(&["name"]).to_uppercase());
        let mut headers = Vec::new();
        headers.extend(self.options.events.then(|| "EVENT".to_string()));
        headers.extend(self.options.namespaces.then(|| "NAMESPACE".to_string()));
        headers.extend(named);
        headers.extend(self.options.label_columns.iter().map(|l| l.rsplit('/').next().unwrap_or(l).to_uppercase()));
        headers.extend(self.options.labels.then(|| "LABELS".to_string()));
        self.headers = headers;
    }

    fn row(&self, row: &Value, event: &str) -> Vec<String> {
        let object = row.get("object").cloned().unwrap_or_default();
        let cells = row.list_at(&["cells"]);
        let mut out = Vec::new();
        out.extend(self.options.events.then(|| event.to_string()));
        out.extend(self.options.namespaces.then(|| escaped(meta::namespace(&object))));
        for (i, is_name) in &self.columns {
            let text = cell(cells.get(*i));
            let prefix = self.options.prefix.as_ref().filter(|_| *is_name);
            out.push(prefix.map_or(text.clone(), |p| format!("{p}/{text}")));
        }
        out.extend(self.options.label_columns.iter().map(|l| escaped(meta::label(&object, l).unwrap_or_default())));
        out.extend(self.options.labels.then(|| labels(&object)));
        out
    }
}

fn cell(value: Option<&Value>) -> String {
    let text = value.map_or_else(String::new, jsonpath::text);
    // What spans lines is cut, as kubectl does.
    let cut = text.split_once(['\n', '\r']).map(|(first, _)| format!("{first}..."));
    escaped(&cut.unwrap_or(text))
}

/// `a=b,c=d`, or kubectl's word for nothing.
pub(crate) fn labels(object: &Value) -> String {
    let labels = meta::labels(object)
        .as_map()
        .map(|m| m.iter().map(|(k, v)| escaped(&format!("{}={}", k.as_str(), jsonpath::text(v)))).collect::<Vec<_>>());
    labels.filter(|l| !l.is_empty()).map_or_else(|| "<none>".into(), |l| l.join(","))
}

/// Lines with aligned columns; the widths grow and are remembered. The last column is not padded.
pub(crate) fn align(lines: &[Vec<String>], widths: &mut Vec<usize>) -> String {
    padded(lines, widths, MIN_WIDTH, PADDING)
}

/// Lines with aligned columns, as descriptions have them.
pub(crate) fn align_close(lines: &[Vec<String>]) -> String {
    padded(lines, &mut Vec::new(), 0, CLOSE)
}

fn padded(lines: &[Vec<String>], widths: &mut Vec<usize>, least: usize, padding: usize) -> String {
    for line in lines {
        for (i, text) in line.iter().enumerate().take(line.len().saturating_sub(1)) {
            if widths.len() <= i {
                widths.push(least);
            }
            widths[i] = widths[i].max(text.chars().count() + padding);
        }
    }
    let mut out = String::new();
    for line in lines {
        for (i, text) in line.iter().enumerate() {
            out.push_str(text);
            if i + 1 < line.len() {
                out.extend(std::iter::repeat_n(' ', widths[i].saturating_sub(text.chars().count())));
            }
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    fn sample() -> Value {
        object!({ "columnDefinitions": [
                { "name": "Name", "priority": 0 }, { "name": "Ready", "priority": 0 }, { "name": "Node", "priority": 1 }],
            "rows": [
                { "cells": ["web-1", "1/1", "n1"], "object": { "metadata": { "name": "web-1", "namespace": "default", "labels": { "a": "b" } } } },
                { "cells": ["a-longer-name", "0/1", null], "object": { "metadata": { "name": "a-longer-name", "namespace": "x" } } }] })
    }

    #[test]
    fn tables_are_aligned_as_kubectl_aligns_them() {
        let print = |options: TableOptions| TablePrinter::new(TableOptions { headers: true, ..options }).print(&sample(), "");
        assert_eq!(print(TableOptions::default()), "NAME            READY\nweb-1           1/1\na-longer-name   0/1\n");
        let wide = print(TableOptions { wide: true, ..Default::default() });
        assert_eq!(wide, "NAME            READY   NODE\nweb-1           1/1     n1\na-longer-name   0/1     \n");
        let all = print(TableOptions { namespaces: true, labels: true, label_columns: vec!["x/a".into()], ..Default::default() });
        assert!(
            all.starts_with("NAMESPACE   NAME            READY   A     LABELS\ndefault     web-1           1/1           a=b\n"),
            "{all}"
        );
        let prefixed = print(TableOptions { prefix: Some("pod".into()), ..Default::default() });
        assert!(prefixed.contains("pod/web-1           1/1\n"), "{prefixed}");
    }

    #[test]
    fn cells_are_one_line_and_give_terminals_no_orders() {
        let shown = |text: &str| cell(Some(&Value::from(text)));
        assert_eq!((shown("a\nb").as_str(), shown("\u{1b}[31mred").as_str()), ("a...", "^[[31mred"));
        let lines = [vec!["a".to_string(), "b".into()], vec!["long".into(), "c".into()]];
        assert_eq!(align_close(&lines), "a     b\nlong  c\n");
    }

    #[test]
    fn a_watch_keeps_its_widths_and_has_one_header() {
        let mut printer = TablePrinter::new(TableOptions { headers: true, ..Default::default() });
        printer.print(&sample(), "");
        let later = object!({ "rows": [{ "cells": ["b", "1/1", ""], "object": {} }] });
        assert_eq!(printer.print(&later, ""), "b               1/1\n");
    }
}
