//! What a record says: upstream's audit.k8s.io/v1 Event, as a tree. Pure.

use std::collections::BTreeMap;

use fram_machinery::normalize::format_time;
use fram_machinery::{Map, Value, object};

use crate::policy::Level;
use crate::trail::Stage;

/// The object that a request is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObjectRef {
    pub resource: String,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub group: String,
    pub version: String,
    pub resource_version: String,
    pub subresource: String,
}

/// What is known of a request when it is let in.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    pub id: String,
    /// Path and query as the client sent them.
    pub uri: String,
    pub verb: String,
    /// UserInfo of who was authenticated.
    pub user: Value,
    /// UserInfo of whom they act as.
    pub impersonated: Option<Value>,
    pub source_ips: Vec<String>,
    pub user_agent: String,
    /// None for requests that are not about resources.
    pub object: Option<ObjectRef>,
    pub received: jiff::Timestamp,
}

/// Longer user agents are cut; see upstream's maxUserAgentLength.
const LONGEST_AGENT: usize = 1024;
const CUT: &str = "...TRUNCATED";

/// What is known so far.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) asked: Asked,
    pub(crate) level: Level,
    pub(crate) request: Option<Value>,
    pub(crate) response: Option<Value>,
    /// A Status without its kind.
    pub(crate) status: Option<Value>,
    pub(crate) annotations: BTreeMap<String, String>,
}

impl ObjectRef {
    fn to_value(&self) -> Value {
        let fields = [
            ("resource", &self.resource),
            ("namespace", &self.namespace),
            ("name", &self.name),
            ("uid", &self.uid),
            ("apiGroup", &self.group),
            ("apiVersion", &self.version),
            ("resourceVersion", &self.resource_version),
            ("subresource", &self.subresource),
        ];
        Value::Map(fields.into_iter().filter(|(_, text)| !text.is_empty()).map(|(key, text)| (key, text.as_str())).collect::<Map>())
    }
}

impl Event {
    /// The record of a stage.
    pub(crate) fn to_value(&self, stage: Stage, now: jiff::Timestamp) -> Value {
        let asked = &self.asked;
        let mut out = object!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": (self.level.as_str()), "auditID": (asked.id.as_str()),
            "stage": (stage.as_str()), "requestURI": (asked.uri.as_str()), "verb": (asked.verb.as_str()), "user": (asked.user.clone()),
            "requestReceivedTimestamp": (format_time(asked.received, 6)), "stageTimestamp": (format_time(now, 6)) });
        let mut set = |key: &'static str, value: Option<Value>| {
            if let Some(value) = value {
                out.set(&[key], value);
            }
        };
        set("impersonatedUser", asked.impersonated.clone());
        let ips: Vec<Value> = asked.source_ips.iter().map(|ip| ip.as_str().into()).collect();
        set("sourceIPs", (!ips.is_empty()).then(|| ips.into()));
        set("userAgent", (!asked.user_agent.is_empty()).then(|| agent(&asked.user_agent).into()));
        set("objectRef", asked.object.as_ref().map(ObjectRef::to_value));
        set("responseStatus", self.status.clone());
        set("requestObject", self.request.clone());
        set("responseObject", self.response.clone());
        let annotations: Map = self.annotations.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        set("annotations", (!annotations.is_empty()).then_some(Value::Map(annotations)));
        out
    }
}

fn agent(text: &str) -> String {
    match text.char_indices().nth(LONGEST_AGENT) {
        Some((end, _)) => format!("{}{CUT}", &text[..end]),
        None => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_what_is_known_and_nothing_else() {
        let asked = Asked {
            id: "1".into(),
            uri: "/api/v1/pods?limit=1".into(),
            verb: "list".into(),
            user: object!({ "username": "u" }),
            source_ips: vec!["192.0.2.1".into()],
            object: Some(ObjectRef { resource: "pods".into(), version: "v1".into(), ..Default::default() }),
            received: jiff::Timestamp::UNIX_EPOCH,
            ..Default::default()
        };
        let event = Event {
            asked,
            level: Level::Metadata,
            request: None,
            response: None,
            status: Some(object!({ "metadata": {}, "code": 200 })),
            annotations: BTreeMap::from([("a".to_string(), "b".to_string())]),
        };
        let expect = object!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata", "auditID": "1", "stage": "ResponseComplete",
            "requestURI": "/api/v1/pods?limit=1", "verb": "list", "user": { "username": "u" }, "sourceIPs": ["192.0.2.1"],
            "objectRef": { "resource": "pods", "apiVersion": "v1" }, "responseStatus": { "metadata": {}, "code": 200 },
            "annotations": { "a": "b" },
            "requestReceivedTimestamp": "1970-01-01T00:00:00.000000Z", "stageTimestamp": "1970-01-01T00:00:00.000000Z" });
        assert_eq!(event.to_value(Stage::ResponseComplete, jiff::Timestamp::UNIX_EPOCH), expect);
    }

    #[test]
    fn long_user_agents_are_cut() {
        assert_eq!(agent("kubectl"), "kubectl");
        assert_eq!(agent(&"a".repeat(2000)).len(), LONGEST_AGENT + CUT.len());
    }
}
