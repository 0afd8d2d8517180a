//! Which objects a command line names: `TYPE NAME…`, `TYPE/NAME…`, `TYPE,TYPE [NAME…]`. Pure. See cli-runtime's
//! resource.Builder.

use crate::error::{CliError, Result};

/// What the arguments of a command name; types are words, not resources yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Targets {
    /// All objects of some types.
    Types(Vec<String>),
    /// Objects by type and name.
    Named(Vec<(String, String)>),
}

impl Targets {
    pub(crate) fn parse(arguments: &[String]) -> Result<Self> {
        if arguments.iter().skip(1).any(|a| a.is_empty()) {
            // An unset variable of a script; without a name the request would be about all objects.
            return Err(CliError::usage("resource name may not be empty"));
        }
        let Some((first, names)) = arguments.split_first() else {
            return Err(CliError::usage("you must specify the type of resource, such as `pods`, or TYPE/NAME"));
        };
        if arguments.iter().any(|a| a.contains('/')) {
            return Ok(Self::Named(arguments.iter().map(|a| slashed(a)).collect::<Result<_>>()?));
        }
        let types: Vec<String> = first.split(',').filter(|t| !t.is_empty()).map(String::from).collect();
        if types.is_empty() {
            return Err(CliError::usage("you must specify the type of resource, such as `pods`"));
        }
        if names.is_empty() {
            return Ok(Self::Types(types));
        }
        Ok(Self::Named(types.iter().flat_map(|t| names.iter().map(|n| (t.clone(), n.clone()))).collect()))
    }
}

fn slashed(argument: &str) -> Result<(String, String)> {
    match argument.split_once('/') {
        Some((ty, name)) if !ty.is_empty() && !name.is_empty() && !name.contains('/') => Ok((ty.into(), name.into())),
        Some(_) => Err(CliError::usage(format!("arguments in TYPE/NAME form have one type and one name: {argument:?}"))),
        None => Err(CliError::usage(format!(
            "there is no need to specify a resource type as a separate argument when passing arguments in TYPE/NAME form: {argument:?}"
        ))),
    }
}

/// One object, of which pods can be asked: `NAME` alone is a pod.
pub(crate) fn pod_or_owner(argument: &str) -> Result<(String, String)> {
    match argument {
        "" => Err(CliError::usage("resource name may not be empty")),
        slashes if slashes.contains('/') => slashed(slashes),
        name => Ok(("pods".into(), name.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_name_types_or_objects() {
        let parse = |text: &str| Targets::parse(&text.split_whitespace().map(String::from).collect::<Vec<_>>());
        let named = |pairs: &[(&str, &str)]| Targets::Named(pairs.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect());
        let cases = [
            ("pods", Some(Targets::Types(vec!["pods".into()]))),
            ("deploy,svc", Some(Targets::Types(vec!["deploy".into(), "svc".into()]))),
            ("pod a b", Some(named(&[("pod", "a"), ("pod", "b")]))),
            ("deploy,svc web", Some(named(&[("deploy", "web"), ("svc", "web")]))),
            ("pod/a svc/b", Some(named(&[("pod", "a"), ("svc", "b")]))),
            ("", None),
            (",", None),
            ("pod/", None),
            ("pod/a/b", None),
            ("pod svc/a", None),
        ];
        let unset = Targets::parse(&["pod".into(), String::new()]).unwrap_err();
        assert_eq!(unset.to_string(), "error: resource name may not be empty");
        assert!(Targets::parse(&[String::new()]).is_err() && Targets::parse(&["pod/a".into(), String::new()]).is_err());
        for (text, expect) in cases {
            assert_eq!(parse(text).ok(), expect, "{text:?}");
        }
        assert_eq!(pod_or_owner("web").unwrap(), ("pods".into(), "web".into()));
        assert_eq!(pod_or_owner("deploy/web").unwrap(), ("deploy".into(), "web".into()));
    }
}
