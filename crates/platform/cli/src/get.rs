//! `fram get`: the server's tables, or objects in another form; once, or as they change.

use bytes::Bytes;
use fram_client::remote::{Lines, Query, path};
use fram_machinery::{Reason, Value, json, meta, object};
use http::Method;

use crate::access::{Access, collect};
use crate::choose::{Bare, Meant, Pause, Selectors, meant, of_files};
use crate::discovery::ResourceType;
use crate::error::{CliError, Result};
use crate::manifests::Files;
use crate::output::{self, Output};
use crate::print::{self, note, out};
use crate::table::{TableOptions, TablePrinter};

#[derive(clap::Args, Debug, Clone)]
pub struct Get {
    /// What: `TYPE`, `TYPE,TYPE`, `TYPE NAME…` or `TYPE/NAME…`.
    #[arg(value_name = "TYPE[/NAME]")]
    targets: Vec<String>,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    selectors: Selectors,
    /// The form: wide, yaml, json, name, jsonpath=TEMPLATE or jsonpath-as-json=TEMPLATE.
    #[arg(short, long, value_name = "FORM", default_value = "", hide_default_value = true)]
    output: String,
    /// Go on and print what changes.
    #[arg(short, long)]
    watch: bool,
    /// Print what changes, not what is.
    #[arg(long)]
    watch_only: bool,
    /// Show of each change in a watch of which sort it is.
    #[arg(long)]
    output_watch_events: bool,
    /// No line of headers.
    #[arg(long)]
    no_headers: bool,
    /// A last column with all labels.
    #[arg(long)]
    show_labels: bool,
    /// Columns with the values of these labels.
    #[arg(short = 'L', long, value_name = "LABEL", value_delimiter = ',')]
    label_columns: Vec<String>,
    /// Names with their type.
    #[arg(long)]
    show_kind: bool,
    /// Show which manager wrote which field.
    #[arg(long)]
    show_managed_fields: bool,
    /// Nothing found is no error.
    #[arg(long)]
    ignore_not_found: bool,
    /// Print the server's answer to this path, as it is.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["targets", "files"])]
    raw: Option<String>,
}

/// One request.
struct Ask<'a> {
    ty: &'a ResourceType,
    namespace: String,
    name: String,
}

impl Ask<'_> {
    fn path(&self) -> String {
        path(&self.ty.resource(), &self.namespace, &self.name, "")
    }
}

/// Tables of this server, and plain objects where a resource has none.
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

pub(crate) async fn run(access: &Access, get: &Get) -> Result<()> {
    if let Some(path) = &get.raw {
        let answer = access.send(Method::GET, path, "application/json, */*", Vec::new()).await?;
        return out(collect(answer).await?);
    }
    let form = Output::parse(&get.output)?;
    let watches = get.watch || get.watch_only;
    if get.output_watch_events && !watches {
        return Err(CliError::usage("--output-watch-events option can only be used with --watch or --watch-only"));
    }
    let asks = asks(access, get).await?;
    if watches {
        return match asks.as_slice() {
            [one] => watch(access, get, one, &form).await,
            _ => Err(CliError::usage("you may only watch one type, or one object, at a time")),
        };
    }
    match form {
        Output::Table { wide } => tables(access, get, &asks, wide).await,
        other => objects(access, get, &asks, &other).await,
    }
}

async fn asks<'a>(access: &'a Access, get: &Get) -> Result<Vec<Ask<'a>>> {
    let mut asks = Vec::new();
    match meant(&get.targets, &get.files, &get.selectors, Bare::All)? {
        Meant::Files(labels) => {
            for (ty, chosen) in of_files(access, &get.files, &labels).await? {
                asks.push(Ask { ty, namespace: chosen.namespace, name: chosen.name });
            }
        }
        Meant::Named(names) => {
            for (word, name) in names {
                let ty = access.resource_type(&word).await?;
                asks.push(Ask { ty, namespace: access.namespace_of(ty).into(), name });
            }
        }
        Meant::Types(words) => {
            for word in words {
                for ty in access.resource_types(&word).await? {
                    let namespace = if get.selectors.all_namespaces { "" } else { access.namespace_of(ty) };
                    asks.push(Ask { ty, namespace: namespace.into(), name: String::new() });
                }
            }
        }
    }
    Ok(asks)
}

fn list_query(get: &Get, ask: &Ask<'_>) -> Query {
    if !ask.name.is_empty() {
        return Query::default();
    }
    Query::of(&[("labelSelector", &get.selectors.selector), ("fieldSelector", &get.selectors.field_selector)])
}

fn table_options(get: &Get, wide: bool, prefix: bool, ty: &ResourceType) -> TableOptions {
    TableOptions {
        wide,
        headers: !get.no_headers,
        namespaces: get.selectors.all_namespaces && ty.namespaced,
        labels: get.show_labels,
        label_columns: get.label_columns.clone(),
        prefix: (prefix || get.show_kind).then(|| ty.label()),
        events: get.output_watch_events,
    }
}

async fn tables(access: &Access, get: &Get, asks: &[Ask<'_>], wide: bool) -> Result<()> {
    let several = asks.iter().any(|a| a.ty != asks[0].ty);
    let (mut errors, mut printed, mut text) = (Vec::new(), 0, String::new());
    let mut current: Option<(&ResourceType, TablePrinter)> = None;
    for ask in asks {
        let table = match access.document(&format!("{}{}", ask.path(), list_query(get, ask)), TABLE).await {
            Ok(table) => table,
            Err(error) if get.ignore_not_found && error.is(Reason::NotFound) => continue,
            // One type of a category that cannot be listed does not hide the others.
            Err(error) => {
                errors.push(error);
                continue;
            }
        };
        let rows = table.list_at(&["rows"]).len();
        if rows == 0 {
            continue;
        }
        printed += rows;
        let same = current.as_ref().is_some_and(|(ty, _)| *ty == ask.ty);
        if !same {
            text.push_str(if current.is_some() { "\n" } else { "" });
            current = Some((ask.ty, TablePrinter::new(table_options(get, wide, several, ask.ty))));
        }
        if let Some((_, printer)) = &mut current {
            text.push_str(&printer.print(&table, ""));
        }
    }
    out(text)?;
    if printed == 0 && errors.is_empty() && !get.ignore_not_found {
        note(&nothing(access, get, asks));
    }
    CliError::all(errors)
}

fn nothing(access: &Access, get: &Get, asks: &[Ask<'_>]) -> String {
    let within = asks.iter().any(|a| a.ty.namespaced) && !get.selectors.all_namespaces;
    print::nothing_found(within.then_some(&access.namespace))
}

async fn objects(access: &Access, get: &Get, asks: &[Ask<'_>], form: &Output) -> Result<()> {
    let (mut errors, mut found) = (Vec::new(), Vec::new());
    for ask in asks {
        let objects = access.objects_in(ask.ty, &ask.namespace);
        let items = match ask.name.as_str() {
            "" => objects.list(get.selectors.options()).await.map(|page| page.items),
            name => objects.get(name).await.map(|object| vec![object]),
        };
        match items {
            Ok(items) => found.extend(items.iter().map(|i| (ask.ty, shown(get, i)))),
            Err(status) if get.ignore_not_found && status.is(Reason::NotFound) => {}
            Err(status) => errors.push(CliError::from(status)),
        }
    }
    let one = matches!(asks, [ask] if !ask.name.is_empty());
    let text = match (form, found.as_slice()) {
        (_, []) if !errors.is_empty() || get.ignore_not_found => String::new(),
        (Output::Name, found) => found.iter().map(|(ty, object)| format!("{}/{}\n", ty.label(), meta::name(object))).collect(),
        (form, [(ty, object)]) if one => form.print(object, &ty.label())?,
        (form, _) => form.print(&output::list(found.into_iter().map(|(_, o)| o).collect()), "list")?,
    };
    out(text)?;
    CliError::all(errors)
}

fn shown(get: &Get, object: &Value) -> Value {
    let mut object = object.clone();
    if !get.show_managed_fields {
        output::without_managed_fields(&mut object);
    }
    object
}

/// Prints what is and then what changes, until the user has enough.
async fn watch(access: &Access, get: &Get, ask: &Ask<'_>, form: &Output) -> Result<()> {
    let wide = matches!(form, Output::Table { wide: true });
    let mut shower = Shower { get, form, ty: ask.ty, printer: TablePrinter::new(table_options(get, wide, false, ask.ty)) };
    let accept = if matches!(form, Output::Table { .. }) { TABLE } else { "application/json" };
    let collection = path(&ask.ty.resource(), &ask.namespace, "", "");
    // One object is watched as a collection of one.
    let fields = if ask.name.is_empty() { get.selectors.field_selector.clone() } else { format!("metadata.name={}", ask.name) };
    let selection = [("labelSelector", get.selectors.selector.as_str()), ("fieldSelector", fields.as_str())];
    let listed = access.document(&format!("{collection}{}", Query::of(&selection)), accept).await?;
    if !ask.name.is_empty() && listed.list_at(&["rows"]).is_empty() && listed.list_at(&["items"]).is_empty() && !get.ignore_not_found {
        access.objects_in(ask.ty, &ask.namespace).get(&ask.name).await?;
    }
    if !get.watch_only {
        shower.list(&listed)?;
    } else if matches!(form, Output::Table { .. }) {
        shower.only_columns(&listed);
    }
    let mut version = listed.str_at(&["metadata", "resourceVersion"]).to_string();
    let mut pause = Pause::default();
    loop {
        let from = [("watch", "true"), ("allowWatchBookmarks", "true"), ("resourceVersion", version.as_str()), selection[0], selection[1]];
        let answer = access.send(Method::GET, &format!("{collection}{}", Query::of(&from)), accept, Vec::new()).await?;
        let (mut lines, mut brought) = (Lines::new(answer), false);
        while let Some(line) = lines.next().await? {
            brought = true;
            version = shower.event(&line)?.unwrap_or(version);
        }
        pause.before_another(brought).await;
    }
}

/// Shows the objects of a watch.
struct Shower<'a> {
    get: &'a Get,
    form: &'a Output,
    ty: &'a ResourceType,
    printer: TablePrinter,
}

impl Shower<'_> {
    fn list(&mut self, listed: &Value) -> Result<()> {
        if matches!(self.form, Output::Table { .. }) {
            return out(self.printer.print(listed, "ADDED"));
        }
        for item in listed.list_at(&["items"]) {
            let mut item = item.clone();
            item.set(&["kind"], self.ty.kind.as_str());
            item.set(&["apiVersion"], self.ty.resource().api_version());
            self.object(&item, "ADDED")?;
        }
        Ok(())
    }

    fn only_columns(&mut self, listed: &Value) {
        let mut empty = listed.clone();
        empty.remove(&["rows"]);
        self.printer.print(&empty, "");
    }

    fn object(&self, object: &Value, event: &str) -> Result<()> {
        let separator = if matches!(self.form, Output::Yaml) { "---\n" } else { "" };
        let object = shown(self.get, object);
        // A name says no more than a name.
        let shown = match self.get.output_watch_events && !matches!(self.form, Output::Name) {
            true => object!({ "type": event, "object": object }),
            false => object,
        };
        out(separator.to_string() + &self.form.print(&shown, &self.ty.label())?)
    }

    /// Shows an event; gives the version from which the watch could go on.
    fn event(&mut self, line: &Bytes) -> Result<Option<String>> {
        let event = json::from_slice(line).map_err(|e| CliError::failed(format!("the server's watch is not JSON: {e}")))?;
        let object = event.get("object").cloned().unwrap_or_default();
        let kind = event.str_at(&["type"]);
        if kind == "ERROR" {
            return Err(fram_machinery::Status::from_object(&object).into());
        }
        let of_row = object.list_at(&["rows"]).first().and_then(|r| r.get("object"));
        let version = Some(meta::resource_version(of_row.unwrap_or(&object)).to_string()).filter(|v| !v.is_empty());
        match kind {
            "BOOKMARK" => {}
            _ if matches!(self.form, Output::Table { .. }) => out(self.printer.print(&object, kind))?,
            _ => self.object(&object, kind)?,
        }
        Ok(version)
    }
}
