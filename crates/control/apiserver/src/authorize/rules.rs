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

    /// The rule taken apart: each with one verb and one resource or path.
    pub(crate) fn single(&self) -> Vec<Self> {
        let one = |text: &String| vec![text.clone()];
        let named: Vec<Vec<String>> = if self.names.is_empty() { vec![Vec::new()] } else { self.names.iter().map(one).collect() };
        let mut out = Vec::new();
        for verb in &self.verbs {
            out.extend(self.urls.iter().map(|url| Self { verbs: one(verb), urls: one(url), ..Self::default() }));
            for group in &self.groups {
                for resource in &self.resources {
                    let rule = |names: &Vec<String>| Self {
                        verbs: one(verb),
                        groups: one(group),
                        resources: one(resource),
                        names: names.clone(),
                        urls: Vec::new(),
                    };
                    out.extend(named.iter().map(rule));
                }
            }
        }
        out
    }

    /// Whether whoever holds this rule holds another one, taken apart.
    pub(crate) fn includes(&self, single: &Self) -> bool {
        let holds = |own: &[String], wanted: &[String]| wanted.iter().all(|w| own.iter().any(|o| o == "*" || o == w));
        if !holds(&self.verbs, &single.verbs) {
            return false;
        }
        if !single.urls.is_empty() {
            let path = |own: &String, wanted: &String| own == wanted || own.strip_suffix('*').is_some_and(|p| wanted.starts_with(p));
            return single.urls.iter().all(|w| self.urls.iter().any(|o| path(o, w)));
        }
        let resource = |own: &String, wanted: &String| {
            let of_any = own.strip_prefix("*/").is_some_and(|sub| wanted.split_once('/').is_some_and(|(_, s)| s == sub));
            own == "*" || own == wanted || of_any
        };
        let resources = single.resources.iter().all(|w| self.resources.iter().any(|o| resource(o, w)));
        let names = self.names.is_empty() || !single.names.is_empty() && single.names.iter().all(|n| self.names.contains(n));
        holds(&self.groups, &single.groups) && resources && names
    }

    /// As upstream writes it in messages.
    pub(crate) fn words(&self) -> String {
        let parts = [
            ("APIGroups", &self.groups),
            ("Resources", &self.resources),
            ("ResourceNames", &self.names),
            ("NonResourceURLs", &self.urls),
            ("Verbs", &self.verbs),
        ];
        let list = |l: &[String]| l.iter().map(|t| format!("{t:?}")).collect::<Vec<_>>().join(" ");
        let shown = parts.into_iter().filter(|(_, l)| !l.is_empty()).map(|(name, l)| format!("{name}:[{}]", list(l)));
        format!("{{{}}}", shown.collect::<Vec<_>>().join(", "))
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
    fn a_rule_includes_what_gives_no_more() {
        let own = Rule::from_object(&object!({ "verbs": ["get", "list"], "apiGroups": ["", "apps"], "resources": ["pods", "*/scale"] }));
        let all = |rule: Value| Rule::from_object(&rule).single().iter().all(|one| own.includes(one));
        assert!(all(object!({ "verbs": ["get"], "apiGroups": [""], "resources": ["pods"] })));
        assert!(all(object!({ "verbs": ["get"], "apiGroups": ["apps"], "resources": ["deployments/scale"], "resourceNames": ["a"] })));
        for more in [
            object!({ "verbs": ["*"], "apiGroups": [""], "resources": ["pods"] }),
            object!({ "verbs": ["get", "create"], "apiGroups": [""], "resources": ["pods"] }),
            object!({ "verbs": ["get"], "apiGroups": ["batch"], "resources": ["pods"] }),
            object!({ "verbs": ["get"], "apiGroups": [""], "resources": ["*"] }),
            object!({ "verbs": ["get"], "nonResourceURLs": ["/metrics"] }),
        ] {
            assert!(!all(more.clone()), "{more:?}");
        }
        let named = Rule { names: vec!["a".into()], ..own.clone() };
        assert!(!named.includes(&own.single()[0]));
    }

    #[test]
    fn a_rule_covers_paths() {
        let rule = Rule::from_object(&object!({ "verbs": ["get"], "nonResourceURLs": ["/healthz", "/api/*"] }));
        let at = |path: &str| Attributes { verb: "get".into(), path: path.into(), ..Default::default() };
        assert!(rule.covers(&at("/healthz")) && rule.covers(&at("/api/v1")) && !rule.covers(&at("/healthz/x")));
    }
}
