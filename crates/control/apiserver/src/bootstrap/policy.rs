//! The default roles and bindings, from the files in `policy`. A line begins an object; indented lines are its rules.

use fram_api::Api;
use fram_machinery::{Value, meta, object};

use super::BootstrapError;
use crate::authorize::rules::Rule;

/// Whether a default is kept up to date.
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

const POLICY: &str = include_str!("../../policy/rbac.policy");
/// Apart from upstream's defaults, so that those stay comparable.
const JOIN: &str = include_str!("../../policy/join.policy");
const METRICS: &str = include_str!("../../policy/metrics.policy");
const REPAIR: &str = include_str!("../../policy/repair.policy");
const PRELIMINARY: &str = include_str!("../../policy/preliminary.policy");
pub(super) const GROUP: &str = "rbac.authorization.k8s.io";

/// What was a default once, by its resource and name, and would give rights that nobody should have any more.
pub(super) const RETIRED: [(&str, &str); 2] = [("clusterrolebindings", "fram:local-path-node"), ("clusterroles", "fram:local-path-node")];

/// Whether a role or binding is a default that was not taken over by somebody.
pub(super) fn is_default(object: &Value) -> bool {
    meta::label(object, "kubernetes.io/bootstrapping") == Some("rbac-defaults") && meta::annotation(object, AUTOUPDATE) != Some("false")
}

/// All default roles and bindings where `api` is served.
pub(super) fn default_objects(api: &Api) -> Result<Vec<Value>, BootstrapError> {
    let mut objects: Vec<Value> = Vec::new();
    // The object that rules are for, and whether it counts where it stands.
    let (mut current, mut applies) = (None, true);
    for (i, line) in [POLICY, JOIN, METRICS, REPAIR, PRELIMINARY].iter().flat_map(|file| file.lines()).enumerate() {
        let fail = |message: &str| BootstrapError::Policy { line: i + 1, message: message.into() };
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [] | ["#", ..] => {}
            ["where", group, plural] => {
                applies = api.kinds().any(|kind| kind.group == *group && kind.plural == *plural);
                current = None;
            }
            _ if !applies => {}
            words if line.starts_with(' ') => {
                let role: usize = current.ok_or_else(|| fail("a rule without a role"))?;
                let rule = rule(words).ok_or_else(|| fail("a rule has groups, resources and verbs"))?;
                objects[role].place(&["rules"]).make_list().push(rule);
            }
            words => {
                let object = head(words).ok_or_else(|| fail("unknown declaration"))?;
                let is_it = |o: &Value| o.str_at(&["kind"]) == object.str_at(&["kind"]) && meta::key(o) == meta::key(&object);
                current = objects.iter().position(is_it).or(Some(objects.len()));
                if current == Some(objects.len()) {
                    objects.push(object);
                }
            }
        }
    }
    Ok(objects)
}

/// A default role or binding that is there with what it lacks of `wanted`; None where it lacks nothing, or somebody wants it left alone.
/// See upstream's reconciliation of bootstrap roles.
pub(super) fn completed(current: &Value, wanted: &Value) -> Option<Value> {
    if meta::annotation(current, AUTOUPDATE) == Some("false") {
        return None;
    }
    let held: Vec<Rule> = current.list_at(&["rules"]).iter().map(Rule::from_object).collect();
    let lacks = |rule: &&Value| !Rule::from_object(rule).single().into_iter().all(|one| held.iter().any(|held| held.includes(&one)));
    let rules: Vec<Value> = wanted.list_at(&["rules"]).iter().filter(lacks).cloned().collect();
    let there = current.list_at(&["subjects"]);
    let same = |a: &Value, b: &Value| ["kind", "name", "namespace"].iter().all(|field| a.str_at(&[field]) == b.str_at(&[field]));
    let absent = |subject: &&Value| !there.iter().any(|other| same(other, subject));
    let subjects: Vec<Value> = wanted.list_at(&["subjects"]).iter().filter(absent).cloned().collect();
    if rules.is_empty() && subjects.is_empty() {
        return None;
    }
    let mut next = current.clone();
    for (field, more) in [("rules", rules), ("subjects", subjects)] {
        if !more.is_empty() {
            next.place(&[field]).make_list().extend(more);
        }
    }
    Some(next)
}

fn list(text: &str) -> Value {
    text.split(',').map(|t| Value::from(if t == "\"\"" { "" } else { t })).collect::<Vec<_>>().into()
}

fn rule(words: &[&str]) -> Option<Value> {
    match words {
        ["url", urls, verbs] => Some(object!({ "nonResourceURLs": (list(urls)), "verbs": (list(verbs)) })),
        ["rule", groups, resources, verbs, names @ ..] => {
            let mut rule = object!({ "apiGroups": (list(groups)), "resources": (list(resources)), "verbs": (list(verbs)) });
            if let Some(names) = names.first() {
                rule.set(&["resourceNames"], list(names.strip_prefix("names=")?));
            }
            Some(rule)
        }
        _ => None,
    }
}

fn base(kind: &str, namespace: &str, name: &str) -> Value {
    let mut object = object!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind,
        "metadata": { "name": name, "labels": { "kubernetes.io/bootstrapping": "rbac-defaults" } } });
    meta::set_annotation(&mut object, AUTOUPDATE, "true");
    if !namespace.is_empty() {
        object.set(&["metadata", "namespace"], namespace);
    }
    object
}

fn head(words: &[&str]) -> Option<Value> {
    match words {
        ["clusterrole", name, options @ ..] => {
            let mut role = base("ClusterRole", "", name);
            for option in options {
                match option.split_once('=')? {
                    ("aggregate", label) => {
                        let mut selector = object!({ "matchLabels": {} });
                        selector.place(&["matchLabels"]).make_map().insert(label, "true");
                        role.place(&["aggregationRule", "clusterRoleSelectors"]).make_list().push(selector);
                    }
                    ("label", label) => meta::set_label(&mut role, label, "true"),
                    _ => return None,
                }
            }
            Some(role)
        }
        ["role", namespace, name] => Some(base("Role", namespace, name)),
        ["clusterrolebinding", name, role, subjects @ ..] => binding(base("ClusterRoleBinding", "", name), role, subjects),
        ["rolebinding", namespace, name, role, subjects @ ..] => binding(base("RoleBinding", namespace, name), role, subjects),
        _ => None,
    }
}

fn binding(mut binding: Value, role: &str, subjects: &[&str]) -> Option<Value> {
    let (kind, name) = role.split_once('/')?;
    let kind = if kind == "clusterrole" { "ClusterRole" } else { "Role" };
    binding.set(&["roleRef"], object!({ "apiGroup": GROUP, "kind": kind, "name": name }));
    let mut all = Vec::new();
    for subject in subjects {
        let (kind, name) = subject.split_once('/')?;
        all.push(match kind {
            "group" => object!({ "apiGroup": GROUP, "kind": "Group", "name": name }),
            "user" => object!({ "apiGroup": GROUP, "kind": "User", "name": name }),
            "serviceaccount" => {
                let (namespace, name) = name.split_once('/')?;
                object!({ "kind": "ServiceAccount", "name": name, "namespace": namespace })
            }
            _ => return None,
        });
    }
    if !all.is_empty() {
        binding.set(&["subjects"], all);
    }
    Some(binding)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_policy_is_well_formed() {
        let all = default_objects(&Api::builtin().unwrap()).unwrap();
        let named = |kind: &str, name: &str| all.iter().find(|o| o.str_at(&["kind"]) == kind && meta::name(o) == name).cloned();
        let admin = named("ClusterRole", "cluster-admin").unwrap();
        assert_eq!(admin.list_at(&["rules"]).len(), 2);
        let binding = named("ClusterRoleBinding", "system:basic-user").unwrap();
        assert_eq!(binding.list_at(&["subjects"])[0].str_at(&["name"]), "system:authenticated");
    }

    #[test]
    fn a_role_gets_what_it_lacks_unless_somebody_wants_it_left_alone() {
        let rule = |verbs: &str| rule(&["rule", "apps", "deployments", verbs]).unwrap();
        let role = |rules: &[&str]| {
            let mut role = base("ClusterRole", "", "r");
            role.set(&["rules"], rules.iter().map(|verbs| rule(verbs)).collect::<Vec<_>>());
            role
        };
        assert_eq!(completed(&role(&["get,list,watch"]), &role(&["get,list"])), None);
        assert_eq!(completed(&role(&["get"]), &role(&["get,list"])), Some(role(&["get", "get,list"])));
        let mut alone = role(&["get"]);
        meta::set_annotation(&mut alone, AUTOUPDATE, "false");
        assert_eq!(completed(&alone, &role(&["get,list"])), None);
        let bound = |subjects: &[&str]| binding(base("ClusterRoleBinding", "", "b"), "clusterrole/r", subjects).unwrap();
        assert_eq!(completed(&bound(&["user/a"]), &bound(&["user/a", "group/g"])), Some(bound(&["user/a", "group/g"])));
        assert_eq!(completed(&bound(&["user/a", "group/g"]), &bound(&["user/a"])), None);
    }

    #[test]
    fn rights_to_what_is_not_served_are_not_given() {
        let rules = |config: &str| {
            let all = default_objects(&Api::chosen(&config.parse().unwrap()).unwrap()).unwrap();
            let node = all.iter().find(|o| o.str_at(&["kind"]) == "ClusterRole" && meta::name(o) == "system:node").unwrap().clone();
            let about = |rule: &&Value| rule.list_at(&["resources"]).contains(&"clustertrustbundles".into());
            (all.len(), node.list_at(&["rules"]).iter().filter(about).count())
        };
        let (plain, none) = rules("");
        let (more, one) = rules("certificates.k8s.io/v1beta1");
        assert_eq!((none, one), (0, 1));
        assert_eq!(more, plain + 6);
    }
}
