//! From a command's arguments to the objects that it is about.

use std::time::Duration;

use fram_client::{EventKind, ListOptions, Resources};
use fram_machinery::labels::Selector;
use fram_machinery::{Reason, Value, meta, normalize};
use futures_util::StreamExt;

use crate::access::{Access, Place};
use crate::discovery::ResourceType;
use crate::error::{CliError, Result};
use crate::manifests::Files;
use crate::targets::Targets;

/// Narrows what a type means.
#[derive(clap::Args, Debug, Clone, Default)]
pub(crate) struct Selectors {
    /// Only objects with these labels: `app=web`, `tier in (a,b)`, `!canary`.
    #[arg(short = 'l', long, value_name = "LABELS", default_value = "", hide_default_value = true)]
    pub selector: String,
    /// Only objects with these fields: `status.phase=Running`.
    #[arg(long, value_name = "FIELDS", default_value = "", hide_default_value = true)]
    pub field_selector: String,
    /// Objects of every namespace.
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
}

impl Selectors {
    pub(crate) fn is_empty(&self) -> bool {
        self.selector.is_empty() && self.field_selector.is_empty()
    }

    pub(crate) fn options(&self) -> ListOptions {
        ListOptions { label_selector: self.selector.clone(), field_selector: self.field_selector.clone(), ..Default::default() }
    }
}

/// An object that a command is about.
#[derive(Debug, Clone)]
pub(crate) struct Chosen {
    pub(crate) ty: ResourceType,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Chosen {
    pub(crate) fn place(&self) -> Place<'_> {
        Place { ty: &self.ty, namespace: &self.namespace, name: &self.name }
    }

    pub(crate) fn objects(&self, access: &Access) -> Resources {
        access.objects_in(&self.ty, &self.namespace)
    }

    pub(crate) fn of(access: &Access, ty: &ResourceType, object: &Value) -> Self {
        let namespace = match meta::namespace(object) {
            "" => access.namespace_of(ty),
            namespace => namespace,
        };
        let namespace = if ty.namespaced { namespace.to_string() } else { String::new() };
        Self { ty: ty.clone(), namespace, name: meta::name(object).into() }
    }
}

/// What a type means to a command where no name stands beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bare {
    /// Nothing: the user has to say which objects.
    Refused,
    /// All of its objects.
    All,
    /// All of its objects, since the user said --all.
    Asked,
}

impl Bare {
    pub(crate) fn asked(all: bool) -> Self {
        if all { Self::Asked } else { Self::Refused }
    }
}

/// What a command line means, before the server is asked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Meant {
    /// The objects of the files that have these labels.
    Files(Selector),
    Named(Vec<(String, String)>),
    Types(Vec<String>),
}

/// Reads a command line; what would be passed over in silence is refused, in the words of cli-runtime's resource.Builder.
pub(crate) fn meant(arguments: &[String], files: &Files, selectors: &Selectors, bare: Bare) -> Result<Meant> {
    if !files.is_empty() {
        if !arguments.is_empty() {
            let why = "when paths, URLs, or stdin is provided as input, you may not specify resource arguments as well";
            return Err(CliError::usage(why));
        }
        if !selectors.field_selector.is_empty() {
            return Err(CliError::usage("--field-selector cannot be used with files: only the server knows the fields of its objects"));
        }
        let labels = Selector::parse(&selectors.selector);
        let bad = |e| CliError::usage(format!("the provided selector {:?} is not valid: {e}", selectors.selector));
        return labels.map(Meant::Files).map_err(bad);
    }
    match Targets::parse(arguments)? {
        Targets::Named(_) if selectors.all_namespaces => {
            Err(CliError::usage("a resource cannot be retrieved by name across all namespaces"))
        }
        Targets::Named(_) if !selectors.is_empty() || bare == Bare::Asked => Err(CliError::usage(match arguments[0].contains('/') {
            true => "selectors and the all flag cannot be used when passing resource/name arguments",
            false => "name cannot be provided when a selector is specified",
        })),
        Targets::Named(names) => Ok(Meant::Named(names)),
        Targets::Types(_) if bare == Bare::Refused && selectors.is_empty() => {
            Err(CliError::usage("resource(s) were provided, but no name was specified"))
        }
        Targets::Types(words) => Ok(Meant::Types(words)),
    }
}

/// The objects of manifests, with their types.
pub(crate) async fn of_files<'a>(access: &'a Access, files: &Files, labels: &Selector) -> Result<Vec<(&'a ResourceType, Chosen)>> {
    let discovery = access.discovery().await?;
    let mut chosen = Vec::new();
    for object in files.read()?.into_iter().filter(|o| labels.matches(meta::labels(o))) {
        let (version, kind) = (object.str_at(&["apiVersion"]), object.str_at(&["kind"]));
        let ty = discovery.of_kind(version, kind).ok_or_else(|| no_match(version, kind))?;
        let one = Chosen::of(access, ty, &object);
        if one.name.is_empty() {
            return Err(CliError::failed(format!("a {kind} of the files has no metadata.name: resource name may not be empty")));
        }
        chosen.push((ty, one));
    }
    Ok(chosen)
}

/// The objects that are named, or that the selectors find.
pub(crate) async fn choose(access: &Access, arguments: &[String], files: &Files, selectors: &Selectors, bare: Bare) -> Result<Vec<Chosen>> {
    let mut chosen = Vec::new();
    match meant(arguments, files, selectors, bare)? {
        Meant::Files(labels) => chosen.extend(of_files(access, files, &labels).await?.into_iter().map(|(_, one)| one)),
        Meant::Named(names) => {
            for (word, name) in names {
                let ty = access.resource_type(&word).await?;
                chosen.push(Chosen { ty: ty.clone(), namespace: access.namespace_of(ty).into(), name });
            }
        }
        Meant::Types(words) => {
            for word in words {
                for ty in access.resource_types(&word).await? {
                    let objects = if selectors.all_namespaces { access.objects_in(ty, "") } else { access.objects(ty) };
                    let page = objects.list(selectors.options()).await?;
                    chosen.extend(page.items.iter().map(|item| Chosen::of(access, ty, item)));
                }
            }
        }
    }
    Ok(chosen)
}

pub(crate) fn no_match(version: &str, kind: &str) -> CliError {
    CliError::failed(format!(
        "resource mapping not found: no matches for kind {kind:?} in version {version:?}; ensure its CustomResourceDefinition is installed first"
    ))
}

/// Follows an object until `decide` has an answer; it is given the object, or None while there is none.
pub async fn follow<T>(objects: &Resources, name: &str, mut decide: impl FnMut(Option<&Value>) -> Result<Option<T>>) -> Result<T> {
    let mut options = ListOptions { field_selector: format!("metadata.name={name}"), ..Default::default() };
    let mut pause = Pause::default();
    loop {
        let page = objects.list(ListOptions { resource_version: String::new(), ..options.clone() }).await?;
        if let Some(answer) = decide(page.items.first().map(|i| &**i))? {
            return Ok(answer);
        }
        options.resource_version = page.resource_version;
        let mut events = objects.watch(options.clone()).await?;
        let mut brought = false;
        while let Some(event) = events.next().await {
            brought = true;
            let event = match event {
                // The history that the watch began from is gone: begin anew.
                Err(status) if status.is(Reason::Expired) => break,
                other => other?,
            };
            let current = match event.kind {
                EventKind::Bookmark => continue,
                EventKind::Deleted => None,
                EventKind::Added | EventKind::Modified => Some(&*event.object),
            };
            if let Some(answer) = decide(current)? {
                return Ok(answer);
            }
        }
        pause.before_another(brought).await;
    }
}

/// Between watches: one that ended without having brought anything is not begun anew at once.
#[derive(Default)]
pub(crate) struct Pause(Duration);

impl Pause {
    pub(crate) async fn before_another(&mut self, brought: bool) {
        const FIRST: Duration = Duration::from_millis(100);
        const LONGEST: Duration = Duration::from_secs(10);
        self.0 = if brought { Duration::ZERO } else { (self.0 * 2).clamp(FIRST, LONGEST) };
        tokio::time::sleep(self.0).await;
    }
}

/// A duration as Go writes it, `90s`, `1m30s`; a bare number counts seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    let nanos = normalize::parse_duration(text).and_then(|n| u64::try_from(n).ok());
    nanos.map(Duration::from_nanos).ok_or_else(|| format!("{text:?} is no duration such as 30s, 5m or 1h30m"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_means_what_it_says_or_is_refused() {
        let words = |text: &str| text.split_whitespace().map(String::from).collect::<Vec<_>>();
        let read = |arguments: &str, file: &str, labels: &str, fields: &str, bare| {
            let files = Files { files: words(file).into_iter().map(Into::into).collect(), recursive: false };
            let selectors = Selectors { selector: labels.into(), field_selector: fields.into(), all_namespaces: false };
            meant(&words(arguments), &files, &selectors, bare).map_err(|e| e.to_string())
        };
        let named = || Ok(Meant::Named(vec![("pod".into(), "a".into())]));
        let pods = || Ok(Meant::Types(vec!["pod".into()]));
        let files = |labels| Ok(Meant::Files(Selector::parse(labels).unwrap()));
        let cases = [
            ("pod a", "", "", "", Bare::Refused, named()),
            ("pod/a", "", "", "", Bare::All, named()),
            ("pod", "", "", "", Bare::All, pods()),
            ("pod", "", "", "", Bare::Asked, pods()),
            ("pod", "", "x=y", "", Bare::Refused, pods()),
            ("", "f", "", "", Bare::Refused, files("")),
            ("", "f", "x=y", "", Bare::Refused, files("x=y")),
            ("pod", "", "", "", Bare::Refused, Err("but no name was specified")),
            ("pod a", "", "x=y", "", Bare::Refused, Err("name cannot be provided when a selector is specified")),
            ("pod a", "", "", "x=y", Bare::Refused, Err("name cannot be provided when a selector is specified")),
            ("pod a", "", "", "", Bare::Asked, Err("name cannot be provided when a selector is specified")),
            ("pod/a", "", "x=y", "", Bare::All, Err("when passing resource/name arguments")),
            ("pod a", "f", "", "", Bare::Refused, Err("you may not specify resource arguments as well")),
            ("", "f", "", "x=y", Bare::Refused, Err("--field-selector cannot be used with files")),
            ("", "f", "!", "", Bare::Refused, Err("is not valid")),
        ];
        for (arguments, file, labels, fields, bare, expect) in cases {
            let found = read(arguments, file, labels, fields, bare);
            match expect {
                Ok(expect) => assert_eq!(found, Ok(expect), "{arguments} {file} {labels} {fields}"),
                Err(why) => assert!(found.clone().unwrap_err().contains(why), "{arguments} {file}: {found:?}"),
            }
        }
    }

    #[test]
    fn durations_are_gos_or_seconds() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("5"), Ok(Duration::from_secs(5)));
        assert!(duration("soon").is_err() && duration("-1s").is_err());
    }
}
