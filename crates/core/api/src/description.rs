//! Reads the description files; their grammar is in CONTRIBUTING.md under "Adding a kind".

use std::collections::HashMap;
use std::sync::Arc;

use fram_machinery::schema::{Field, Form, PatchStrategy, Rule, SchemaError, SchemaOr, StructType, Topology};
use fram_machinery::{Key, Schema, Type, TypeId, json};

mod like;

use like::Like;

use crate::deprecation::Deprecation;
use crate::features::Features;
use crate::kind::{Age, Cell, Column, Generation, Kind, Scope, Subresource};

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum DescriptionError {
    #[error("{file}:{line}: {message}")]
    Line { file: String, line: usize, message: String },
    #[error(transparent)]
    Schema(#[from] SchemaError),
}

/// One file, split into its types and kinds.
struct File {
    name: &'static str,
    /// `core.v1`, by which other files refer to this one's types.
    package: String,
    openapi: String,
    group: &'static str,
    version: &'static str,
    types: Vec<Block>,
    kinds: Vec<Block>,
    /// Kinds that are those of another version.
    like: Option<Like>,
}

#[derive(Clone)]
struct Block {
    header: Vec<&'static str>,
    lines: Vec<(usize, &'static str)>,
}

type Result<T> = std::result::Result<T, DescriptionError>;

pub(crate) fn read(sources: &[(&'static str, &'static str)]) -> Result<(Arc<Schema>, Vec<Kind>)> {
    let mut files = sources.iter().map(|(name, text)| split(name, text)).collect::<Result<Vec<_>>>()?;
    like::fill(&mut files)?;
    let mut schema = Schema::new();
    let mut names = Names::default();
    for file in &files {
        for block in &file.types {
            let name = Key::from(format!("{}.{}", file.package, block.header[1]));
            names.ids.insert(name.clone(), schema.declare(name)?);
        }
    }
    for file in &files {
        for block in &file.types {
            names.define(&mut schema, file, block)?;
        }
    }
    schema.finish();
    let schema = Arc::new(schema);
    let mut kinds = Vec::new();
    for file in &files {
        for block in &file.kinds {
            let mut kind = read_kind(&names, &schema, file, block)?;
            zero_numbers(&schema, &mut kind);
            kinds.push(kind);
        }
    }
    Ok((schema, kinds))
}

/// All names of fields, as they are and as managedFields write them.
pub(crate) fn names(sources: &[(&'static str, &'static str)]) -> json::Names {
    let lines = sources.iter().flat_map(|(_, text)| text.lines());
    let fields = lines.filter_map(|line| {
        let (number, rest) = line.strip_prefix("  ")?.split_once(' ')?;
        number.parse::<u32>().ok()?;
        rest.split(' ').next().map(|name| name.trim_end_matches('!'))
    });
    let mut all: Vec<&'static str> = fields.chain(["apiVersion", "kind"]).collect();
    all.sort_unstable();
    all.dedup();
    // Made once, and needed as long as the program runs.
    let managed: Vec<&'static str> = all.iter().map(|name| &*Box::leak(format!("f:{name}").into_boxed_str())).collect();
    json::Names::new(all.into_iter().chain(managed))
}

fn split(name: &'static str, text: &'static str) -> Result<File> {
    let fail = |line: usize, message: &str| DescriptionError::Line { file: name.into(), line, message: message.into() };
    let mut file =
        File { name, package: String::new(), openapi: String::new(), group: "", version: "", types: vec![], kinds: vec![], like: None };
    let mut in_kinds = false;
    for (i, line) in text.lines().enumerate().map(|(i, l)| (i + 1, l)) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(body) = line.strip_prefix("  ") {
            let blocks = if in_kinds { &mut file.kinds } else { &mut file.types };
            blocks.last_mut().ok_or_else(|| fail(i, "indented line outside a block"))?.lines.push((i, body));
            continue;
        }
        let words: Vec<&'static str> = line.split(' ').collect();
        match words[0] {
            "package" => {
                let parts: Vec<&str> = words[1].split('.').collect();
                file.package = parts[parts.len().saturating_sub(2)..].join(".");
                file.openapi = openapi_package(words[1]);
            }
            "like" => file.like = Some(Like::parse(&words[1..]).ok_or_else(|| fail(i, "like takes a package and kinds"))?),
            "gv" => (file.group, file.version) = words[1].split_once('/').unwrap_or(("", words[1])),
            "type" | "kind" => {
                in_kinds = words[0] == "kind";
                let block = Block { header: words, lines: Vec::new() };
                if in_kinds { file.kinds.push(block) } else { file.types.push(block) }
            }
            _ => return Err(fail(i, "unknown declaration")),
        }
    }
    Ok(file)
}

/// `k8s.io.api.core.v1` is `io.k8s.api.core.v1` in OpenAPI: the host part of the Go package is reversed.
fn openapi_package(package: &str) -> String {
    let rest = package.strip_prefix("k8s.io.").unwrap_or(package);
    format!("io.k8s.{}", rest.replace('_', "-"))
}

#[derive(Default)]
struct Names {
    ids: HashMap<Key, TypeId>,
}

impl Names {
    fn define(&self, schema: &mut Schema, file: &File, block: &Block) -> Result<()> {
        let name = format!("{}.{}", file.package, block.header[1]);
        let id = self.lookup(file, &name).ok_or_else(|| SchemaError::Missing(name.clone()))?;
        let mut fields = Vec::new();
        for &(line, text) in &block.lines {
            let field = self.field(file, text);
            fields.push(field.map_err(|message| DescriptionError::Line { file: file.name.into(), line, message })?);
        }
        let mut ty = StructType::new(schema.get(id).name.clone(), format!("{}.{}", file.openapi, block.header[1]), fields);
        ty.wrapper = block.header.contains(&"wrapper");
        ty.atomic = block.header.contains(&"struct=atomic");
        ty.typed = file.kinds.iter().any(|kind| kind.header[1] == block.header[1]);
        schema.define(id, ty);
        Ok(())
    }

    fn lookup(&self, file: &File, name: &str) -> Option<TypeId> {
        let find = |full: &str| self.ids.get(full).copied();
        if name.contains('.') {
            return find(name);
        }
        let other = || file.like.as_ref().filter(|l| l.shared.contains(&name)).and_then(|l| find(&format!("{}.{name}", l.package)));
        find(&format!("{}.{name}", file.package)).or_else(other)
    }

    fn field(&self, file: &File, text: &'static str) -> std::result::Result<Field, String> {
        let words: Vec<&'static str> = text.split(' ').collect();
        let [number, name, ty, attributes @ ..] = words.as_slice() else { return Err("a field needs number, name and type".into()) };
        let number = number.parse().map_err(|_| format!("bad field number {number:?}"))?;
        let (inline, name) = name.strip_prefix('~').map_or((false, *name), |n| (true, n));
        let (always, name) = name.strip_suffix('!').map_or((false, name), |n| (true, n));
        let (pointer, ty) = ty.strip_prefix('*').map_or((false, *ty), |t| (true, t));
        let mut field = Field {
            number,
            name: Key::Static(name),
            ty: self.ty(file, ty)?,
            pointer,
            always,
            omit_zero: false,
            inline,
            required: false,
            topology: Topology::Atomic,
            atomic: false,
            granular: false,
            patch: PatchStrategy::default(),
            default: None,
            allowed: Vec::new(),
            rules: Vec::new(),
            filled: false,
        };
        for attribute in attributes.iter().filter(|a| **a != "inline") {
            set_attribute(&mut field, attribute)?;
        }
        Ok(field)
    }

    fn ty(&self, file: &File, text: &str) -> std::result::Result<Type, String> {
        if let Some(item) = text.strip_prefix("[]") {
            return Ok(Type::List(Box::new(self.ty(file, item.trim_start_matches('*'))?)));
        }
        if let Some(item) = text.strip_prefix("map[string]") {
            return Ok(Type::Map(Box::new(self.ty(file, item.trim_start_matches('*'))?)));
        }
        let schema_or = |form| {
            let id = self.lookup(file, "JSONSchemaProps").ok_or("JSONSchemaProps is not declared here")?;
            Ok(Type::SchemaOr(form, id))
        };
        Ok(match text {
            "string" => Type::String,
            "bool" => Type::Bool,
            "int32" => Type::Int32,
            "int64" => Type::Int64,
            "float64" => Type::Float64,
            "bytes" => Type::Bytes,
            "Time" => Type::Time,
            "MicroTime" => Type::MicroTime,
            "Duration" => Type::Duration,
            "Quantity" => Type::Quantity,
            "IntOrString" => Type::IntOrString,
            "FieldsV1" => Type::FieldsV1,
            "RawExtension" => Type::RawExtension,
            "JSON" => Type::Json,
            "JSONSchemaPropsOrArray" => return schema_or(SchemaOr::Array),
            "JSONSchemaPropsOrBool" => return schema_or(SchemaOr::Bool),
            "JSONSchemaPropsOrStringArray" => return schema_or(SchemaOr::StringArray),
            name => Type::Struct(self.lookup(file, name).ok_or_else(|| format!("unknown type {name}"))?),
        })
    }
}

fn set_attribute(field: &mut Field, attribute: &'static str) -> std::result::Result<(), String> {
    let (name, value) = attribute.split_once('=').unwrap_or((attribute, ""));
    match (name, value) {
        ("required", _) => field.required = true,
        ("omitzero", _) => field.omit_zero = true,
        ("list", "set") => field.topology = Topology::Set,
        ("list", "atomic") => field.topology = Topology::Atomic,
        ("list", keys) => {
            let keys = keys.strip_prefix("map(").and_then(|k| k.strip_suffix(')')).ok_or("bad list topology")?;
            field.topology = Topology::Map(keys.split(',').map(Key::Static).collect());
        }
        ("map" | "struct", "atomic") => field.atomic = true,
        ("map" | "struct", "granular") => field.granular = true,
        ("patch", strategies) => {
            for strategy in strategies.split(',') {
                match strategy {
                    "merge" => field.patch.merge = true,
                    "retainKeys" => field.patch.retain_keys = true,
                    "replace" => field.patch.replace = true,
                    other => return Err(format!("unknown patch strategy {other}")),
                }
            }
        }
        ("key", key) => field.patch.key = Some(Key::Static(key)),
        ("default", literal) => field.default = Some(json::from_slice(literal.as_bytes()).map_err(|e| format!("default: {e}"))?),
        ("enum", values) => field.allowed = values.split('|').collect(),
        (rule, value) => field.rules.push(read_rule(rule, value)?),
    }
    Ok(())
}

fn read_rule(name: &str, value: &'static str) -> std::result::Result<Rule, String> {
    let number = || value.parse().map_err(|_| format!("{name}={value}: not a number"));
    let size = || value.parse().map_err(|_| format!("{name}={value}: not a size"));
    let form = || Form::parse(value).ok_or_else(|| format!("{name}={value}: no such form"));
    Ok(match name {
        "nonempty" => Rule::Nonempty,
        "minimum" => Rule::Minimum(number()?),
        "maximum" => Rule::Maximum(number()?),
        "maxLength" => Rule::MaxLength(size()?),
        "maxItems" => Rule::MaxItems(size()?),
        "form" => Rule::Form(form()?),
        "keys" => Rule::Keys(form()?),
        "unique" => Rule::Unique(value),
        "distinct" => Rule::Distinct(value),
        "immutable" => Rule::Immutable,
        "frozen" => Rule::Frozen,
        "loose" => Rule::Loose,
        "unchecked" => Rule::Unchecked,
        other => return Err(format!("unknown attribute {other}")),
    })
}

fn read_kind(names: &Names, schema: &Arc<Schema>, file: &File, block: &Block) -> Result<Kind> {
    let kind_name = block.header[1];
    let mut kind = Kind {
        group: Key::Static(file.group),
        version: Key::Static(file.version),
        kind: Key::Static(kind_name),
        list_kind: format!("{kind_name}List").into(),
        plural: Key::Static(""),
        singular: Key::Static(""),
        short: vec![],
        categories: vec![],
        scope: Scope::Cluster,
        verbs: vec![],
        subresources: vec![],
        selectable: vec![],
        columns: vec![],
        generation: Generation::None,
        schema: schema.clone(),
        ty: TypeId(0),
        graceful: false,
        orphans_by_default: false,
        create_on_update: false,
        unconditional_update: false,
        returns_deleted: false,
        status_keeps_labels: false,
        status_keeps_metadata: false,
        late_generation: false,
        status_on_create: false,
        storage: false,
        listless: false,
        deprecation: Deprecation::of(file.group, file.version, kind_name),
        features: Features::default(),
        custom: None,
    };
    let mut message = kind_name;
    for &(line, text) in &block.lines {
        let words: Vec<&'static str> = text.split(' ').collect();
        if words[0] == "proto" {
            message = words.get(1).copied().unwrap_or(kind_name);
        } else {
            kind_line(&mut kind, &words).map_err(|message| DescriptionError::Line { file: file.name.into(), line, message })?;
        }
    }
    kind.ty = names.lookup(file, message).ok_or_else(|| SchemaError::Missing(format!("{}.{message}", file.package)))?;
    Ok(kind)
}

/// A number that is absent is shown as zero, as Go's zero value is.
fn zero_numbers(schema: &Schema, kind: &mut Kind) {
    let ty = kind.ty;
    for column in &mut kind.columns {
        let Cell::Path(path, otherwise @ None) = &mut column.cell else { continue };
        let found = path.iter().try_fold(Type::Struct(ty), |at, step| match at {
            Type::Struct(id) => schema.get(id).field(step).map(|f| f.ty.clone()),
            _ => None,
        });
        if matches!(found, Some(Type::Int32 | Type::Int64)) && column.ty == "string" {
            *otherwise = Some("0");
        }
    }
}

fn kind_line(kind: &mut Kind, words: &[&'static str]) -> std::result::Result<(), String> {
    let rest = &words[1..];
    match words[0] {
        "names" => {
            for word in rest {
                let (name, value) = word.split_once('=').ok_or("names are written name=value")?;
                match name {
                    "plural" => kind.plural = Key::Static(value),
                    "singular" => kind.singular = Key::Static(value),
                    "short" => kind.short = value.split(',').map(Key::Static).collect(),
                    "category" => kind.categories = value.split(',').map(Key::Static).collect(),
                    other => return Err(format!("unknown name {other}")),
                }
            }
        }
        "scope" => kind.scope = if rest == ["namespaced"] { Scope::Namespaced } else { Scope::Cluster },
        "verbs" => kind.verbs = rest.to_vec(),
        "subresource" => kind.subresources.push(subresource(rest)?),
        "select" => kind.selectable = rest.iter().map(|path| Key::Static(path)).collect(),
        "column" => kind.columns.push(column(rest)?),
        "generation" => {
            kind.generation = match rest {
                ["none"] => Generation::None,
                ["any"] => Generation::Any,
                ["once"] => Generation::Once,
                [fields] => Generation::Fields(fields.split(',').collect()),
                _ => return Err("generation takes one word".into()),
            }
        }
        "grace" => kind.graceful = true,
        "gc=orphan" => kind.orphans_by_default = true,
        "create-on-update" => kind.create_on_update = true,
        "unconditional-update" => kind.unconditional_update = true,
        "returns-deleted" => kind.returns_deleted = true,
        "status-keeps-labels" => kind.status_keeps_labels = true,
        "status-keeps-metadata" => kind.status_keeps_metadata = true,
        "status-on-create" => kind.status_on_create = true,
        "late-generation" => kind.late_generation = true,
        "storage" => kind.storage = true,
        "listless" => kind.listless = true,
        "gc=unsupported" | "body" => {}
        other => return Err(format!("unknown kind line {other}")),
    }
    Ok(())
}

fn subresource(words: &[&'static str]) -> std::result::Result<Subresource, String> {
    let name = words.first().ok_or("a subresource needs a name")?;
    let mut out = Subresource { name, verbs: Vec::new(), kind: None };
    for word in &words[1..] {
        match word.strip_prefix("kind=") {
            Some(gvk) => {
                let parts: Vec<&'static str> = gvk.split('/').collect();
                out.kind = match parts.as_slice() {
                    [version, kind] => Some(("", version, kind)),
                    [group, version, kind] => Some((group, version, kind)),
                    _ => return Err(format!("bad kind {gvk}")),
                };
            }
            None => out.verbs.push(word),
        }
    }
    Ok(out)
}

fn column(words: &[&'static str]) -> std::result::Result<Column, String> {
    let [name, ty, rest @ ..] = words else { return Err("a column needs a name and a type".into()) };
    let mut out = Column {
        name: name.replace('_', " "),
        ty: Key::Static(ty),
        format: Key::Static(""),
        description: Key::Static(""),
        priority: 0,
        cell: Cell::Computed,
    };
    let mut otherwise = None;
    for word in rest {
        match word.split_once('=') {
            Some(("format", value)) => out.format = Key::Static(value),
            Some(("priority", value)) => out.priority = value.parse().map_err(|_| "bad priority")?,
            Some(("path", value)) => out.cell = Cell::Path(value.split('.').filter(|s| !s.is_empty()).collect(), None),
            Some(("else", value)) => otherwise = Some(value),
            None if *word == "age" => out.cell = Cell::Age(Age::Relative),
            None if *word == "computed" => out.cell = Cell::Computed,
            _ => return Err(format!("unknown column attribute {word}")),
        }
    }
    if let Cell::Path(path, other) = &mut out.cell {
        *other = otherwise;
        if *ty == "date" && path.as_slice() == ["metadata", "creationTimestamp"] {
            out.cell = Cell::Age(Age::Date);
        }
    }
    Ok(out)
}
