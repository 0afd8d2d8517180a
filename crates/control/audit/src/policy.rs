//! The audit policy: which level each request is recorded at, and which stages are left out. Pure but for reading its file.
//! See upstream's audit.k8s.io/v1 Policy and its policyRuleEvaluator.

use std::path::Path;

use fram_machinery::{Value, json, yaml};

use crate::AuditError;
use crate::trail::Stage;

/// How much of a request is recorded; each level has all of the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    None,
    Metadata,
    Request,
    RequestResponse,
}

impl Level {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Metadata => "Metadata",
            Self::Request => "Request",
            Self::RequestResponse => "RequestResponse",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::None, Self::Metadata, Self::Request, Self::RequestResponse].into_iter().find(|l| l.as_str() == text)
    }
}

/// What a policy is asked about: who wants what.
#[derive(Debug, Clone, Copy, Default)]
pub struct Subject<'a> {
    pub user: &'a str,
    pub groups: &'a [String],
    pub verb: &'a str,
    pub group: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    /// Of requests that are not about resources; else empty.
    pub path: &'a str,
}

/// What a policy says of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) level: Level,
    pub(crate) omit_stages: Vec<Stage>,
    pub(crate) omit_managed_fields: bool,
}

#[derive(Debug, Clone)]
struct GroupResources {
    group: String,
    resources: Vec<String>,
    names: Vec<String>,
}

#[derive(Debug, Clone)]
struct Rule {
    wanted: Wanted,
    users: Vec<String>,
    groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<GroupResources>,
    namespaces: Vec<String>,
    paths: Vec<String>,
}

/// Rules in their order; the first that matches decides.
#[derive(Debug, Clone)]
pub struct Policy {
    rules: Vec<Rule>,
    otherwise: Wanted,
}

impl Policy {
    pub fn load(path: &Path) -> Result<Self, AuditError> {
        let text = std::fs::read_to_string(path).map_err(|source| AuditError::Io { path: path.into(), operation: "read", source })?;
        let wrong = |reason: String| AuditError::Policy { path: path.into(), reason };
        let value = yaml::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        Self::read(&value).map_err(wrong)
    }

    /// Reads a policy; fails where upstream's validation would.
    pub fn read(value: &Value) -> Result<Self, String> {
        let (version, kind) = (value.str_at(&["apiVersion"]), value.str_at(&["kind"]));
        if (version, kind) != ("audit.k8s.io/v1", "Policy") {
            return Err(format!("unknown group version {version:?} or kind {kind:?}: audit.k8s.io/v1 Policy is known"));
        }
        let omitted = stages(value, "omitStages")?;
        let without_managers = value.bool_at(&["omitManagedFields"]).unwrap_or(false);
        let rules = value.list_at(&["rules"]);
        if rules.is_empty() {
            return Err("loaded illegal policy with 0 rules".into());
        }
        let rule = |(i, rule): (usize, &Value)| Rule::read(rule, &omitted, without_managers).map_err(|e| format!("rules[{i}]{e}"));
        let otherwise = Wanted { level: Level::None, omit_stages: omitted.clone(), omit_managed_fields: without_managers };
        Ok(Self { rules: rules.iter().enumerate().map(rule).collect::<Result<_, _>>()?, otherwise })
    }

    pub(crate) fn decide(&self, subject: &Subject<'_>) -> Wanted {
        self.rules.iter().find(|rule| rule.matches(subject)).map_or(&self.otherwise, |rule| &rule.wanted).clone()
    }
}

/// The texts of a list. Anything else in it is refused: left out, it would make an empty list, which is everything.
fn texts(value: &Value, field: &str) -> Result<Vec<String>, String> {
    match value.get(field) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::List(list)) => {
            let text = |(i, entry): (usize, &Value)| {
                entry
                    .as_str()
                    .map(String::from)
                    .ok_or_else(|| format!(".{field}[{i}]: Invalid value: {}: must be a string", json::to_string(entry)))
            };
            list.iter().enumerate().map(text).collect()
        }
        Some(other) => Err(format!(".{field}: Invalid value: {}: must be a list of strings", json::to_string(other))),
    }
}

fn stages(value: &Value, field: &str) -> Result<Vec<Stage>, String> {
    let parse = |text: String| Stage::parse(&text).ok_or_else(|| format!(".{field}: Unsupported value: {text:?}"));
    texts(value, field)?.into_iter().map(parse).collect()
}

impl Rule {
    fn read(value: &Value, omitted: &[Stage], without_managers: bool) -> Result<Self, String> {
        let level = value.str_at(&["level"]);
        let level = Level::parse(level).ok_or_else(|| format!(".level: Unsupported value: {level:?}"))?;
        let mut omit_stages = stages(value, "omitStages")?;
        omit_stages.extend(omitted);
        let omit_managed_fields = value.bool_at(&["omitManagedFields"]).unwrap_or(without_managers);
        let rule = Self {
            wanted: Wanted { level, omit_stages, omit_managed_fields },
            users: texts(value, "users")?,
            groups: texts(value, "userGroups")?,
            verbs: texts(value, "verbs")?,
            resources: value.list_at(&["resources"]).iter().map(GroupResources::read).collect::<Result<_, _>>()?,
            namespaces: texts(value, "namespaces")?,
            paths: texts(value, "nonResourceURLs")?,
        };
        rule.check()?;
        Ok(rule)
    }

    fn check(&self) -> Result<(), String> {
        for path in &self.paths {
            if path != "*" && !path.starts_with('/') {
                return Err(format!(".nonResourceURLs: Invalid value: {path:?}: non-resource URL rules must begin with a '/' character"));
            }
            if path.trim_end_matches('*').contains('*') || path.ends_with("**") {
                return Err(format!(
                    ".nonResourceURLs: Invalid value: {path:?}: non-resource URL wildcards '*' must be the final character of the rule"
                ));
            }
        }
        let of_resources = !self.resources.is_empty() || !self.namespaces.is_empty();
        if of_resources && !self.paths.is_empty() {
            return Err(".nonResourceURLs: rules cannot apply to both regular resources and non-resource URLs".into());
        }
        Ok(())
    }

    fn matches(&self, subject: &Subject<'_>) -> bool {
        let has = |list: &[String], text: &str| list.is_empty() || list.iter().any(|t| t == text);
        if !has(&self.users, subject.user) || !has(&self.verbs, subject.verb) {
            return false;
        }
        if !self.groups.is_empty() && !self.groups.iter().any(|g| subject.groups.contains(g)) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            let here = subject.path.is_empty() && has(&self.namespaces, subject.namespace);
            return here && (self.resources.is_empty() || self.resources.iter().any(|r| r.matches(subject)));
        }
        self.paths.is_empty() || !subject.path.is_empty() && self.paths.iter().any(|spec| path_matches(subject.path, spec))
    }
}

fn path_matches(path: &str, spec: &str) -> bool {
    spec == path || spec.strip_suffix('*').is_some_and(|start| path.starts_with(start))
}

impl GroupResources {
    fn read(value: &Value) -> Result<Self, String> {
        let read =
            Self { group: value.str_at(&["group"]).into(), resources: texts(value, "resources")?, names: texts(value, "resourceNames")? };
        if !read.names.is_empty() && read.resources.is_empty() {
            return Err(".resources.resourceNames: using resourceNames requires at least one resource".into());
        }
        if read.group.contains('/') {
            return Err(format!(".resources.group: Invalid value: {:?}: a group has no version", read.group));
        }
        Ok(read)
    }

    fn matches(&self, subject: &Subject<'_>) -> bool {
        if self.group != "*" && self.group != subject.group {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        let named = self.names.is_empty() || self.names.iter().any(|n| n == subject.name);
        named && self.resources.iter().any(|spec| resource_matches(subject, spec))
    }
}

/// `pods`, `pods/log`, `pods/*`, `*/scale`, `*`.
fn resource_matches(subject: &Subject<'_>, spec: &str) -> bool {
    match spec.split_once('/') {
        _ if spec == "*" => true,
        // Subresources are their own: `pods` does not mean `pods/log`, while `pods/*` means `pods` too, as upstream's does.
        None => spec == subject.resource && subject.subresource.is_empty(),
        Some(("*", part)) => !subject.subresource.is_empty() && part == subject.subresource,
        Some((resource, "*")) => resource == subject.resource,
        Some((resource, part)) => resource == subject.resource && part == subject.subresource,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, users: [quiet], verbs: [get]}
- {level: None, userGroups: [machines], nonResourceURLs: ['/healthz*', /version]}
- {level: Metadata, resources: [{group: '', resources: [secrets, configmaps]}]}
- {level: Request, resources: [{group: '', resources: [pods/log]}, {group: apps, resources: ['*/scale']}]}
- {level: RequestResponse, omitManagedFields: true, omitStages: [Panic], resources: [{group: '', resources: [pods], resourceNames: [a]}]}
- {level: Metadata, namespaces: [kube-system], resources: [{group: '*'}]}
- {level: RequestResponse, resources: [{group: batch, resources: ['jobs/*']}]}
";

    fn level(subject: Subject<'_>) -> Level {
        Policy::read(&yaml::from_str(POLICY).unwrap()).unwrap().decide(&subject).level
    }

    fn about<'a>(group: &'a str, resource: &'a str, subresource: &'a str, namespace: &'a str, name: &'a str) -> Subject<'a> {
        Subject { user: "u", verb: "get", group, resource, subresource, namespace, name, ..Default::default() }
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let machines = ["machines".to_string()];
        for (subject, expect) in [
            (Subject { user: "quiet", ..about("", "secrets", "", "a", "") }, Level::None),
            (Subject { user: "quiet", verb: "list", ..about("", "secrets", "", "a", "") }, Level::Metadata),
            (about("", "secrets", "", "a", ""), Level::Metadata),
            (about("", "pods", "log", "a", "a"), Level::Request),
            (about("", "pods", "exec", "a", "a"), Level::None),
            (about("", "pods", "", "a", "a"), Level::RequestResponse),
            (about("", "pods", "", "a", "b"), Level::None),
            (about("", "pods", "", "kube-system", "b"), Level::Metadata),
            (about("apps", "deployments", "scale", "a", "b"), Level::Request),
            (about("apps", "deployments", "", "a", "b"), Level::None),
            (about("batch", "jobs", "status", "a", "b"), Level::RequestResponse),
            (about("batch", "jobs", "", "a", "b"), Level::RequestResponse),
            (Subject { user: "u", groups: &machines, verb: "get", path: "/healthz/ping", ..Default::default() }, Level::None),
            (Subject { user: "u", verb: "get", path: "/version", ..Default::default() }, Level::None),
        ] {
            assert_eq!(level(subject), expect, "{subject:?}");
        }
    }

    #[test]
    fn stages_of_policy_and_rule_are_left_out_together() {
        let policy = Policy::read(&yaml::from_str(POLICY).unwrap()).unwrap();
        let wanted = policy.decide(&about("", "pods", "", "a", "a"));
        assert_eq!(wanted.omit_stages, [Stage::Panic, Stage::RequestReceived]);
        assert!(wanted.omit_managed_fields && !policy.decide(&about("", "secrets", "", "a", "")).omit_managed_fields);
    }

    #[test]
    fn policies_that_mean_nothing_are_refused() {
        let head = "apiVersion: audit.k8s.io/v1\nkind: Policy\n";
        for (body, part) in [
            ("rules: []", "0 rules"),
            ("rules: [{level: All}]", "rules[0].level"),
            ("rules: [{level: None, users: [1001]}]", "users[0]: Invalid value: 1001"),
            ("rules: [{level: None, omitStages: [Never]}]", "omitStages"),
            ("rules: [{level: None, nonResourceURLs: [a]}]", "must begin"),
            ("rules: [{level: None, nonResourceURLs: ['/a*b']}]", "final character"),
            ("rules: [{level: None, nonResourceURLs: [/a], namespaces: [b]}]", "both"),
            ("rules: [{level: None, resources: [{group: '', resourceNames: [a]}]}]", "requires at least one resource"),
        ] {
            let refused = Policy::read(&yaml::from_str(&format!("{head}{body}")).unwrap()).unwrap_err();
            assert!(refused.contains(part), "{body}: {refused}");
        }
        assert!(Policy::read(&yaml::from_str("apiVersion: v1\nkind: Policy\nrules: [{level: None}]").unwrap()).is_err());
    }
}
