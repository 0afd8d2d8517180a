//! Carries out the requests of a group in order, in a namespace of their own, and takes down what was answered.

use std::collections::BTreeMap;
use std::time::Duration;

use fram_api::Kind;
use fram_machinery::{Value, meta, object};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::answer::{Told, told};
use crate::path;
use crate::script::{Action, Case, Step, unique};
use crate::subject::{Answer, Subject};

/// Subresources that are streams to a node.
pub(crate) const STREAMS: [&str; 6] = ["attach", "exec", "log", "portforward", "proxy", "eviction"];

/// The kinds of which a server writes the status by itself, at its own time.
const OWN_STATUS: [&str; 3] = ["APIService", "CustomResourceDefinition", "FlowSchema"];
/// How often a server may be faster than a request.
const TRIES: usize = 20;
/// How often a definition is asked for until it is established.
const ESTABLISHED_TRIES: usize = 2000;

const JSON: &str = "application/json";

pub(crate) async fn group(subject: &mut Subject, group: &str, cases: &[Case]) -> BTreeMap<String, Told> {
    let namespace = format!("corpus-{group}");
    let made = subject.send("POST", "/api/v1/namespaces", JSON, &object!({ "metadata": { "name": (namespace.as_str()) } })).await;
    assert_eq!(made.code, 201, "{:?}", made.body);
    let accounts = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
    subject.send("POST", &accounts, JSON, &object!({ "metadata": { "name": "default" } })).await;
    let mut answers = BTreeMap::new();
    for case in cases {
        let answer = Run { subject, kind: &case.kind, namespace: &namespace, current: Value::Null }.case(case).await;
        answers.insert(case.id.clone(), answer);
    }
    answers
}

struct Run<'a> {
    subject: &'a mut Subject,
    kind: &'a Kind,
    namespace: &'a str,
    /// The object as it was last answered.
    current: Value,
}

impl Run<'_> {
    async fn case(mut self, case: &Case) -> Told {
        let unique = unique(&case.id);
        let last = case.steps.len() - 1;
        let mut result = Told::default();
        for (i, step) in case.steps.iter().enumerate() {
            let Some((answer, sent)) = self.step(step).await else { continue };
            result = told(answer.code, &answer.body, &sent, &unique);
            if i > 0 && !matches!(step.action, Action::Put(..) if step.subresource == "status") && OWN_STATUS.contains(&&*self.kind.kind) {
                result.object.retain(|path, _| !path.starts_with("status"));
            }
            if OWN_STATUS.contains(&&*self.kind.kind) {
                result.object.remove("metadata.managedFields");
            }
            let uid = meta::uid(&answer.body).to_string();
            let replaced = |text: &str| match text.replace(self.namespace, "<namespace>") {
                text if uid.is_empty() => text,
                text => text.replace(&uid, "<uid>"),
            };
            result.object = result.object.into_iter().map(|(k, v)| (k, crate::script::substitute(&v, &replaced))).collect();
            if answer.code >= 400 && i < last {
                result.stopped = Some(i);
                break;
            }
            if !meta::uid(&answer.body).is_empty() && step.subresource != "scale" {
                self.current = answer.body;
            }
            if i < last && matches!(step.action, Action::Create(_)) && self.kind.kind == "CustomResourceDefinition" {
                self.established().await;
            }
        }
        self.clean().await;
        result
    }

    /// Waits until the server has done what it does by itself with a new definition. Only its status says so, and a server
    /// elsewhere has nothing else to wait for than its answers.
    async fn established(&mut self) {
        let step = Step { action: Action::Get, subresource: String::new(), query: String::new() };
        for _ in 0..ESTABLISHED_TRIES {
            let path = self.path(meta::name(&self.current), &step);
            self.current = self.subject.send("GET", &path, JSON, &Value::Null).await.body;
            if meta::condition_is_true(&self.current, "Established") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{} is not established", meta::name(&self.current));
    }

    /// Sends one step; returns the answer and what its object is compared with.
    async fn step(&mut self, step: &Step) -> Option<(Answer, Value)> {
        let own = |run: &Self| run.path(meta::name(&run.current), step);
        Some(match &step.action {
            Action::Hold(object) => {
                self.current = object.clone();
                return None;
            }
            Action::Create(object) => (self.subject.send("POST", &self.path("", step), JSON, object).await, object.clone()),
            Action::Put(changes, taken) => {
                let mut object = self.current.clone();
                if step.subresource == "scale" {
                    object = self.subject.send("GET", &own(self), JSON, &Value::Null).await.body;
                }
                if !taken.is_null() {
                    object.set(&["status"], taken.clone());
                }
                changes.iter().for_each(|c| path::change(&mut object, c).unwrap_or_else(|e| panic!("{e}")));
                let mut answer = self.subject.send("PUT", &own(self), JSON, &object).await;
                // A server that writes to the object by itself may have been faster.
                for _ in 0..TRIES {
                    if answer.code != 409 || changes.iter().any(|c| c.contains("resourceVersion") || c.contains("uid")) {
                        break;
                    }
                    let now = self.subject.send("GET", &own(self), JSON, &Value::Null).await.body;
                    object.set(&["metadata", "resourceVersion"], meta::resource_version(&now));
                    answer = self.subject.send("PUT", &own(self), JSON, &object).await;
                }
                (answer, object)
            }
            Action::Patch(content, patch) => {
                let mut patch = patch.clone();
                if content.contains("apply") {
                    patch.set(&["apiVersion"], self.kind.api_version());
                    patch.set(&["kind"], &self.kind.kind);
                    patch.set(&["metadata", "name"], meta::name(&self.current));
                }
                (self.subject.send("PATCH", &own(self), content, &patch).await, self.current.clone())
            }
            Action::Post(body) => (self.subject.send("POST", &own(self), JSON, body).await, body.clone()),
            Action::Get => (self.subject.send("GET", &own(self), JSON, &Value::Null).await, self.current.clone()),
            Action::Delete(options) => (self.subject.send("DELETE", &own(self), JSON, options).await, self.current.clone()),
            Action::DeleteCollection => {
                let mut answer = self.subject.send("DELETE", &self.path("", step), JSON, &Value::Null).await;
                answer.body.remove(&["items"]);
                (answer, Value::Null)
            }
        })
    }

    fn path(&self, name: &str, step: &Step) -> String {
        let kind = self.kind;
        let mut path = if kind.group.is_empty() { "/api/".to_string() } else { format!("/apis/{}/", kind.group) };
        path.push_str(&kind.version);
        if kind.is_namespaced() {
            path.push_str(&format!("/namespaces/{}", self.namespace));
        }
        path.push_str(&format!("/{}", kind.plural));
        if !name.is_empty() {
            path.push_str(&format!("/{}", utf8_percent_encode(name, NON_ALPHANUMERIC)));
        }
        if !step.subresource.is_empty() {
            path.push_str(&format!("/{}", step.subresource));
        }
        if !step.query.is_empty() {
            path.push_str(&format!("?{}", step.query));
        }
        path
    }

    /// Takes the object away where that is possible, so that it is in nobody's way.
    async fn clean(&mut self) {
        if meta::uid(&self.current).is_empty() || !self.kind.has_verb("delete") {
            return;
        }
        let step = Step { action: Action::Get, subresource: String::new(), query: "gracePeriodSeconds=0".into() };
        self.subject.send("DELETE", &self.path(meta::name(&self.current), &step), JSON, &Value::Null).await;
    }
}
