//! Policy rules of RBAC and what they cover.

use fram_machinery::Value;

use super::Attributes;

/// One rule of a role.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) verbs: Vec<String>,
    pub(crate) groups: Vec<String>,
    pub(crate) resources: Vec<String>,
    pub(crate) names: Vec<String>,
    pub(crate) urls: Vec<String>,
}

fn texts(value: &Value, field: &str) -> Vec<String> {
    value.list_at(&[field]).iter().filter_map(Value::as_str).map(String::from).collect()
}

impl Rule {
    pub(crate) fn from_object(rule: &Value) -> Self {
        Self {
            verbs: texts(rule, "verbs"),
            groups: texts(rule, "apiGroups"),
            resources: texts(rule, "resources"),
            names: texts(rule, "resourceNames"),
            urls: texts(rule, "nonResourceURLs"),
        }
    }

    pub(crate) fn covers(&self, a: &Attributes) -> bool {
        let has = |list: &[String], item: &str| list.iter().any(|x| x == "*" || x == item);
        if !has(&self.verbs, &a.verb) {
            return false;
        }
        if !a.is_resource() {
            return self.urls.iter().any(|u| *u == a.path || u.strip_suffix('*').is_some_and(|p| a.path.starts_with(p)));
        }
        let full = a.full_resource();
        let any_of_subresource = format!("*/{}", a.subresource);
        let resource = self.resources.iter().any(|r| r == "*" || *r == full || (!a.subresource.is_empty() && *r == any_of_subresource));
        has(&self.groups, &a.group) && resource && (self.names.is_empty() || self.names.contains(&a.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    #[track_caller]
    fn check(rule: Value, verb: &str, group: &str, resource: &str, sub: &str, name: &str, expect: bool) {
        let a = Attributes {
            verb: verb.into(),
            group: group.into(),
            resource: resource.into(),
            subresource: sub.into(),
            name: name.into(),
            ..Default::default()
        };
        assert_eq!(Rule::from_object(&rule).covers(&a), expect, "{verb} {group} {resource} {sub} {name}");
    }

    #[test]
    fn a_rule_covers_what_it_names() {
        let rule = || object!({ "verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "*/scale"] });
        check(rule(), "get", "", "pods", "", "x", true);
        check(rule(), "get", "", "pods", "log", "x", false);
        check(rule(), "get", "", "deployments", "scale", "x", true);
        check(rule(), "create", "", "pods", "", "", false);
        check(rule(), "get", "apps", "pods", "", "", false);
        let named = || object!({ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "resourceNames": ["a"] });
        check(named(), "update", "x", "y", "", "a", true);
        check(named(), "update", "x", "y", "", "b", false);
    }

    #[test]
    fn a_rule_covers_paths() {
        let rule = Rule::from_object(&object!({ "verbs": ["get"], "nonResourceURLs": ["/healthz", "/api/*"] }));
        let at = |path: &str| Attributes { verb: "get".into(), path: path.into(), ..Default::default() };
        assert!(rule.covers(&at("/healthz")) && rule.covers(&at("/api/v1")) && !rule.covers(&at("/healthz/x")));
    }
}
