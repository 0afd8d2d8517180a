//! From a command's arguments to the objects that it is about.

use std::time::Duration;

use fram_client::{EventKind, ListOptions, Resources};
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

/// The objects that are named, or that the selectors find; `all` says that a bare type means all of its objects.
pub(crate) async fn choose(access: &Access, arguments: &[String], files: &Files, selectors: &Selectors, all: bool) -> Result<Vec<Chosen>> {
    if !files.is_empty() {
        let discovery = access.discovery().await?;
        let mut chosen = Vec::new();
        for object in files.read()? {
            let (version, kind) = (object.str_at(&["apiVersion"]), object.str_at(&["kind"]));
            let ty = discovery.of_kind(version, kind).ok_or_else(|| no_match(version, kind))?;
            chosen.push(Chosen::of(access, ty, &object));
        }
        return Ok(chosen);
    }
    match Targets::parse(arguments)? {
        Targets::Named(names) => {
            if selectors.all_namespaces {
                return Err(CliError::usage("a resource cannot be retrieved by name across all namespaces"));
            }
            let mut chosen = Vec::new();
            for (word, name) in names {
                let ty = access.resource_type(&word).await?;
                chosen.push(Chosen { ty: ty.clone(), namespace: access.namespace_of(ty).into(), name });
            }
            Ok(chosen)
        }
        Targets::Types(words) if all || !selectors.is_empty() => {
            let mut chosen = Vec::new();
            for word in words {
                for ty in access.resource_types(&word).await? {
                    let objects = if selectors.all_namespaces { access.objects_in(ty, "") } else { access.objects(ty) };
                    let page = objects.list(selectors.options()).await?;
                    chosen.extend(page.items.iter().map(|item| Chosen::of(access, ty, item)));
                }
            }
            Ok(chosen)
        }
        Targets::Types(_) => Err(CliError::usage("resource(s) were provided, but no name was specified")),
    }
}

pub(crate) fn no_match(version: &str, kind: &str) -> CliError {
    CliError::failed(format!(
        "resource mapping not found: no matches for kind {kind:?} in version {version:?}; ensure its CustomResourceDefinition is installed first"
    ))
}

/// Follows an object until `decide` has an answer; it is given the object, or None while there is none.
pub async fn follow<T>(objects: &Resources, name: &str, mut decide: impl FnMut(Option<&Value>) -> Result<Option<T>>) -> Result<T> {
    let mut options = ListOptions { field_selector: format!("metadata.name={name}"), ..Default::default() };
    loop {
        let page = objects.list(ListOptions { resource_version: String::new(), ..options.clone() }).await?;
        if let Some(answer) = decide(page.items.first().map(|i| &**i))? {
            return Ok(answer);
        }
        options.resource_version = page.resource_version;
        let mut events = objects.watch(options.clone()).await?;
        while let Some(event) = events.next().await {
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
    fn durations_are_gos_or_seconds() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("5"), Ok(Duration::from_secs(5)));
        assert!(duration("soon").is_err() && duration("-1s").is_err());
    }
}
