//! FlowSchemas and PriorityLevelConfigurations: read from their objects, and asked which of them a request belongs to. Pure.

use fram_machinery::{Value, meta};

/// A request as flow schemas see it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Digest<'a> {
    pub user: &'a str,
    pub groups: &'a [String],
    pub verb: &'a str,
    pub group: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    /// Of requests that are not about resources; else empty.
    pub path: &'a str,
}

/// What tells the flows of a schema apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Distinguisher {
    ByUser,
    ByNamespace,
}

#[derive(Debug, Clone)]
enum Subject {
    User(String),
    Group(String),
    ServiceAccount { namespace: String, name: String },
}

#[derive(Debug, Clone)]
struct ResourceRule {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    namespaces: Vec<String>,
    cluster: bool,
}

#[derive(Debug, Clone)]
struct PathRule {
    verbs: Vec<String>,
    paths: Vec<String>,
}

#[derive(Debug, Clone)]
struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    paths: Vec<PathRule>,
}

#[derive(Debug, Clone)]
pub(crate) struct Schema {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) level: String,
    pub(crate) precedence: i64,
    pub(crate) distinguisher: Option<Distinguisher>,
    rules: Vec<Rule>,
}

/// How many queues a level has, and how a flow is given one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Queuing {
    pub(crate) queues: usize,
    pub(crate) hand: usize,
    pub(crate) length: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Level {
    pub(crate) name: String,
    pub(crate) uid: String,
    /// Requests of it never wait.
    pub(crate) exempt: bool,
    pub(crate) shares: i64,
    pub(crate) lendable_percent: i64,
    /// None is without limit.
    pub(crate) borrowing_percent: Option<i64>,
    /// None refuses at once what does not fit.
    pub(crate) queuing: Option<Queuing>,
}

fn texts(value: &Value, field: &str) -> Vec<String> {
    value.list_at(&[field]).iter().filter_map(Value::as_str).map(String::from).collect()
}

fn number(value: &Value, path: &[&str], otherwise: i64) -> i64 {
    value.int_at(path).unwrap_or(otherwise)
}

impl Schema {
    pub(crate) fn read(object: &Value) -> Self {
        let nothing = Value::Null;
        let spec = object.get("spec").unwrap_or(&nothing);
        Self {
            name: meta::name(object).into(),
            uid: meta::uid(object).into(),
            level: spec.str_at(&["priorityLevelConfiguration", "name"]).into(),
            precedence: number(spec, &["matchingPrecedence"], 1000),
            distinguisher: match spec.str_at(&["distinguisherMethod", "type"]) {
                "ByUser" => Some(Distinguisher::ByUser),
                "ByNamespace" => Some(Distinguisher::ByNamespace),
                _ => None,
            },
            rules: spec.list_at(&["rules"]).iter().map(Rule::read).collect(),
        }
    }

    pub(crate) fn matches(&self, digest: &Digest<'_>) -> bool {
        self.rules.iter().any(|rule| rule.matches(digest))
    }

    /// What tells a request's flow from the others of the schema.
    pub(crate) fn flow<'a>(&self, digest: &Digest<'a>) -> &'a str {
        match self.distinguisher {
            Some(Distinguisher::ByUser) => digest.user,
            Some(Distinguisher::ByNamespace) => digest.namespace,
            None => "",
        }
    }
}

impl Rule {
    fn read(value: &Value) -> Self {
        let subject = |s: &Value| match s.str_at(&["kind"]) {
            "User" => Some(Subject::User(s.str_at(&["user", "name"]).into())),
            "Group" => Some(Subject::Group(s.str_at(&["group", "name"]).into())),
            "ServiceAccount" => {
                let text = |field: &str| s.str_at(&["serviceAccount", field]).to_string();
                Some(Subject::ServiceAccount { namespace: text("namespace"), name: text("name") })
            }
            _ => None,
        };
        let resource = |r: &Value| ResourceRule {
            verbs: texts(r, "verbs"),
            groups: texts(r, "apiGroups"),
            resources: texts(r, "resources"),
            namespaces: texts(r, "namespaces"),
            cluster: r.bool_at(&["clusterScope"]).unwrap_or(false),
        };
        Self {
            subjects: value.list_at(&["subjects"]).iter().filter_map(subject).collect(),
            resources: value.list_at(&["resourceRules"]).iter().map(resource).collect(),
            paths: value
                .list_at(&["nonResourceRules"])
                .iter()
                .map(|r| PathRule { verbs: texts(r, "verbs"), paths: texts(r, "nonResourceURLs") })
                .collect(),
        }
    }

    fn matches(&self, digest: &Digest<'_>) -> bool {
        self.subjects.iter().any(|s| s.is(digest))
            && if digest.path.is_empty() {
                self.resources.iter().any(|r| r.matches(digest))
            } else {
                self.paths.iter().any(|r| r.matches(digest))
            }
    }
}

impl Subject {
    fn is(&self, digest: &Digest<'_>) -> bool {
        match self {
            Self::User(name) => name == "*" || name == digest.user,
            Self::Group(name) => name == "*" || digest.groups.contains(name),
            Self::ServiceAccount { namespace, name } => {
                let account = digest.user.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
                account.is_some_and(|(ns, account)| ns == namespace && (name == "*" || name == account))
            }
        }
    }
}

fn has(list: &[String], text: &str) -> bool {
    list.iter().any(|t| t == text || t == "*")
}

impl ResourceRule {
    fn matches(&self, digest: &Digest<'_>) -> bool {
        let place = if digest.namespace.is_empty() { self.cluster } else { has(&self.namespaces, digest.namespace) };
        place && has(&self.verbs, digest.verb) && has(&self.groups, digest.group) && self.names(digest)
    }

    /// `pods`, `pods/log` or `*`.
    fn names(&self, digest: &Digest<'_>) -> bool {
        self.resources.iter().any(|spec| match spec.split_once('/') {
            _ if spec == "*" => true,
            None => digest.subresource.is_empty() && spec == digest.resource,
            Some((resource, part)) => resource == digest.resource && part == digest.subresource,
        })
    }
}

impl PathRule {
    fn matches(&self, digest: &Digest<'_>) -> bool {
        // `/a/*` is what lies below `/a`, and `/a` itself is not.
        let covers =
            |spec: &String| spec == "*" || spec == digest.path || spec.strip_suffix('*').is_some_and(|p| digest.path.starts_with(p));
        has(&self.verbs, digest.verb) && self.paths.iter().any(covers)
    }
}

impl Level {
    pub(crate) fn read(object: &Value) -> Self {
        let nothing = Value::Null;
        let spec = object.get("spec").unwrap_or(&nothing);
        let exempt = spec.str_at(&["type"]) == "Exempt";
        let part = spec.get(if exempt { "exempt" } else { "limited" }).unwrap_or(&nothing);
        let queuing = part.at(&["limitResponse", "queuing"]).filter(|q| !q.is_null());
        let count = |q: &Value, field: &str, otherwise: i64| usize::try_from(number(q, &[field], otherwise).max(1)).unwrap_or(1);
        Self {
            name: meta::name(object).into(),
            uid: meta::uid(object).into(),
            exempt,
            shares: number(part, &["nominalConcurrencyShares"], if exempt { 0 } else { 30 }).max(0),
            lendable_percent: number(part, &["lendablePercent"], 0).clamp(0, 100),
            borrowing_percent: part.int_at(&["borrowingLimitPercent"]),
            queuing: (!exempt && part.str_at(&["limitResponse", "type"]) == "Queue").then(|| {
                let q = queuing.unwrap_or(&nothing);
                let queues = count(q, "queues", 64);
                Queuing { queues, hand: count(q, "handSize", 8).min(queues), length: count(q, "queueLengthLimit", 50) }
            }),
        }
    }
}

/// The schemas in the order in which they are asked.
pub(crate) fn ordered(mut schemas: Vec<Schema>) -> Vec<Schema> {
    schemas.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
    schemas
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::defaults;

    fn classify(digest: &Digest<'_>) -> String {
        let schemas = ordered(defaults::flow_schemas().iter().map(Schema::read).collect());
        schemas.iter().find(|s| s.matches(digest)).map(|s| format!("{} {}", s.name, s.level)).unwrap_or_default()
    }

    #[test]
    fn requests_belong_to_the_first_schema_that_matches() {
        let groups = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let (masters, all) = (groups(&["system:masters", "system:authenticated"]), groups(&["system:authenticated"]));
        let accounts = groups(&["system:serviceaccounts", "system:authenticated"]);
        let nodes = groups(&["system:nodes", "system:authenticated"]);
        let get = |user, groups, resource, namespace| Digest { user, groups, verb: "get", resource, namespace, ..Default::default() };
        for (digest, expect) in [
            (get("admin", &masters, "pods", "a"), "exempt exempt"),
            (Digest { user: "u", groups: &all, verb: "get", path: "/healthz", ..Default::default() }, "probes exempt"),
            (Digest { user: "u", groups: &all, verb: "get", path: "/healthz/ping", ..Default::default() }, "global-default global-default"),
            (
                Digest { group: "coordination.k8s.io", ..get("system:kube-scheduler", &all, "leases", "kube-system") },
                "system-leader-election leader-election",
            ),
            (
                Digest { group: "coordination.k8s.io", ..get("system:serviceaccount:kube-system:x", &accounts, "leases", "a") },
                "system-leader-election leader-election",
            ),
            (Digest { subresource: "status", verb: "patch", ..get("system:node:n", &nodes, "nodes", "") }, "system-node-high node-high"),
            (get("system:node:n", &nodes, "secrets", "a"), "system-nodes system"),
            (get("system:kube-controller-manager", &all, "pods", "a"), "kube-controller-manager workload-high"),
            (get("system:kube-scheduler", &all, "pods", "a"), "kube-scheduler workload-high"),
            (get("system:serviceaccount:kube-system:job-controller", &accounts, "jobs", "a"), "kube-system-service-accounts workload-high"),
            (get("system:serviceaccount:a:default", &accounts, "pods", "a"), "service-accounts workload-low"),
            (get("u", &all, "pods", "a"), "global-default global-default"),
            (get("u", &groups(&["system:unauthenticated"]), "pods", "a"), "global-default global-default"),
            (get("u", &[], "pods", "a"), ""),
        ] {
            assert_eq!(classify(&digest), expect, "{digest:?}");
        }
    }

    #[test]
    fn flows_are_told_apart_as_the_schema_says() {
        let schemas: Vec<Schema> = defaults::flow_schemas().iter().map(Schema::read).collect();
        let flow = |name: &str| {
            let digest = Digest { user: "u", namespace: "n", ..Default::default() };
            schemas.iter().find(|s| s.name == name).unwrap().flow(&digest).to_string()
        };
        assert_eq!([flow("global-default"), flow("kube-scheduler"), flow("exempt")], ["u", "n", ""]);
    }

    #[test]
    fn levels_are_read_with_their_queues() {
        let levels: Vec<Level> = defaults::priority_levels().iter().map(Level::read).collect();
        let of = |name: &str| levels.iter().find(|l| l.name == name).unwrap().clone();
        assert_eq!(of("workload-low").queuing, Some(Queuing { queues: 128, hand: 6, length: 50 }));
        assert_eq!((of("workload-low").shares, of("workload-low").lendable_percent), (100, 90));
        assert!(of("exempt").exempt && of("catch-all").queuing.is_none() && !of("catch-all").exempt);
    }
}
