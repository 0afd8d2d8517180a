//! One request on its way through the stages. Clones are the same trail: what outlives the handler, such as the body of a
//! watch, holds one, and when the last is gone the response is complete.

use std::collections::BTreeMap;
use std::sync::Arc;

use fram_machinery::{Reason, Status, Value, meta, object};
use parking_lot::Mutex;

use crate::event::{Asked, Event};
use crate::policy::Wanted;
use crate::{Audit, Level};

/// When a record is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    RequestReceived,
    ResponseStarted,
    ResponseComplete,
    Panic,
}

impl Stage {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RequestReceived => "RequestReceived",
            Self::ResponseStarted => "ResponseStarted",
            Self::ResponseComplete => "ResponseComplete",
            Self::Panic => "Panic",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let all = [Self::RequestReceived, Self::ResponseStarted, Self::ResponseComplete, Self::Panic];
        all.into_iter().find(|stage| stage.as_str() == text)
    }
}

/// The trail of one request.
#[derive(Clone)]
pub struct Trail(Arc<Inner>);

struct Inner {
    audit: Arc<Audit>,
    wanted: Wanted,
    state: Mutex<State>,
}

struct State {
    event: Event,
    /// No further stage is recorded.
    ended: bool,
}

impl Trail {
    pub(crate) fn new(audit: Arc<Audit>, wanted: Wanted, asked: Asked) -> Self {
        let event = Event { asked, level: wanted.level, request: None, response: None, status: None, annotations: BTreeMap::new() };
        Self(Arc::new(Inner { audit, wanted, state: Mutex::new(State { event, ended: false }) }))
    }

    pub(crate) fn begin(audit: Arc<Audit>, wanted: Wanted, asked: Asked) -> Self {
        let trail = Self::new(audit, wanted, asked);
        trail.0.record(Stage::RequestReceived);
        trail
    }

    pub fn level(&self) -> Level {
        self.0.wanted.level
    }

    /// Takes note of the user as whom somebody acts.
    pub fn acts_as(&self, user: Value) {
        self.0.state.lock().event.asked.impersonated = Some(user);
    }

    /// Sets an annotation; what was said first stays, as upstream has it.
    pub fn annotate(&self, key: &str, value: impl FnOnce() -> String) {
        let annotations = &mut self.0.state.lock().event.annotations;
        if !annotations.contains_key(key) {
            annotations.insert(key.into(), value());
        }
    }

    /// Takes note of the object that was sent. From Metadata on it says which object is meant where the path does not.
    pub fn request(&self, object: &Value) {
        let event = &mut self.0.state.lock().event;
        if let Some(reference) = &mut event.asked.object {
            let fill = |text: &mut String, found: &str| {
                if text.is_empty() {
                    *text = found.into();
                }
            };
            fill(&mut reference.name, meta::name(object));
            fill(&mut reference.namespace, meta::namespace(object));
            fill(&mut reference.uid, meta::uid(object));
            fill(&mut reference.resource_version, meta::resource_version(object));
        }
        self.body(object, Level::Request, &mut event.request);
    }

    /// Takes note of a patch, which is no object.
    pub fn patch(&self, patch: &Value) {
        let event = &mut self.0.state.lock().event;
        self.body(patch, Level::Request, &mut event.request);
    }

    /// Takes note of the object that is sent back; it is only made where it is recorded.
    pub fn response(&self, object: impl FnOnce() -> Option<Value>) {
        if self.level() >= Level::RequestResponse
            && let Some(object) = object()
        {
            self.body(&object, Level::RequestResponse, &mut self.0.state.lock().event.response);
        }
    }

    fn body(&self, object: &Value, least: Level, place: &mut Option<Value>) {
        if self.level() >= least {
            let mut object = object.clone();
            if self.0.wanted.omit_managed_fields {
                drop_managers(&mut object);
            }
            *place = Some(object);
        }
    }

    /// Takes note of the answer's code, and of why a request failed.
    pub fn answered(&self, code: u16, failure: Option<&Status>) {
        let event = &mut self.0.state.lock().event;
        event.status = Some(status(code, failure));
        if let Some(failure) = failure
            && self.level() >= Level::RequestResponse
        {
            event.response = Some(failure.to_object());
        }
    }

    /// The answer has begun and goes on.
    pub fn started(&self) {
        self.0.record(Stage::ResponseStarted);
    }

    /// Nobody was authenticated: upstream records this stage and no other. `attempted` are the ways that were tried.
    pub fn refused(self, failure: &Status, attempted: &[&str]) {
        self.answered(failure.code, Some(failure));
        let words = match attempted {
            [] => "Authentication failed, no credentials provided".to_string(),
            some => format!("Authentication failed, attempted: {}", some.join(", ")),
        };
        if let Some(status) = &mut self.0.state.lock().event.status {
            status.set(&["message"], words);
        }
        self.0.record(Stage::ResponseStarted);
        self.0.state.lock().ended = true;
    }
}

fn status(code: u16, failure: Option<&Status>) -> Value {
    let mut status = failure.map_or_else(|| object!({ "metadata": {} }), Status::to_object);
    status.remove(&["kind"]);
    status.remove(&["apiVersion"]);
    status.set(&["code"], i64::from(code));
    status
}

fn drop_managers(object: &mut Value) {
    object.remove(&["metadata", "managedFields"]);
    if object.get("items").is_some() {
        for item in object.place(&["items"]).make_list().make_mut() {
            item.remove(&["metadata", "managedFields"]);
        }
    }
}

impl Inner {
    fn record(&self, stage: Stage) {
        if self.wanted.omit_stages.contains(&stage) {
            return;
        }
        let event = self.state.lock().event.to_value(stage, (self.audit.now)());
        self.audit.record(event);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.state.lock().ended {
            return;
        }
        if std::thread::panicking() {
            let failure = Status::new(Reason::InternalError, "APIServer panic'd");
            self.state.lock().event.status = Some(status(failure.code, Some(&failure)));
            return self.record(Stage::Panic);
        }
        {
            // The client went before there was an answer; see upstream's fakedSuccessStatus.
            let event = &mut self.state.lock().event;
            let early = || object!({ "metadata": {}, "status": "Success", "message": "Connection closed early", "code": 200 });
            event.status.get_or_insert_with(early);
        }
        self.record(Stage::ResponseComplete);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Counters, Policy, Sink, Subject};

    #[derive(Default)]
    struct Kept(Mutex<Vec<Arc<Value>>>);

    impl Sink for Kept {
        fn name(&self) -> &'static str {
            "kept"
        }

        fn take(&self, event: &Arc<Value>) -> bool {
            self.0.lock().push(event.clone());
            true
        }
    }

    fn audit(level: &str, more: Value) -> (Arc<Audit>, Arc<Kept>) {
        let kept = Arc::new(Kept::default());
        let mut rule = more;
        rule.set(&["level"], level);
        let policy = Policy::read(&object!({ "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [rule] })).unwrap();
        let now = Arc::new(|| jiff::Timestamp::UNIX_EPOCH);
        (Arc::new(Audit::new(policy, vec![kept.clone()], Counters::default(), now)), kept)
    }

    fn begin(audit: &Arc<Audit>) -> Option<Trail> {
        let asked = Asked { object: Some(Default::default()), ..Default::default() };
        audit.begin(&Subject { verb: "create", ..Default::default() }, || asked)
    }

    fn stages(kept: &Kept) -> Vec<String> {
        kept.0.lock().iter().map(|e| e.str_at(&["stage"]).to_string()).collect()
    }

    #[test]
    fn a_request_ends_when_the_last_who_holds_its_trail_is_gone() {
        let (audit, kept) = audit("Metadata", object!({}));
        let trail = begin(&audit).unwrap();
        let body = trail.clone();
        trail.answered(200, None);
        trail.started();
        drop(trail);
        assert_eq!(stages(&kept), ["RequestReceived", "ResponseStarted"]);
        drop(body);
        assert_eq!(stages(&kept), ["RequestReceived", "ResponseStarted", "ResponseComplete"]);
        assert_eq!(kept.0.lock()[2].int_at(&["responseStatus", "code"]), Some(200));
    }

    #[test]
    fn bodies_are_recorded_from_their_level_on() {
        let sent = object!({ "metadata": { "name": "a", "managedFields": [{}] } });
        for (level, request, response) in [("Metadata", false, false), ("Request", true, false), ("RequestResponse", true, true)] {
            let (audit, kept) = audit(level, object!({ "omitStages": ["RequestReceived"], "omitManagedFields": true }));
            let trail = begin(&audit).unwrap();
            trail.request(&sent);
            trail.response(|| Some(sent.clone()));
            drop(trail);
            let event = kept.0.lock()[0].clone();
            let bare = object!({ "metadata": { "name": "a" } });
            assert_eq!(event.get("requestObject"), request.then_some(&bare), "{level}");
            assert_eq!(event.get("responseObject"), response.then_some(&bare), "{level}");
            assert_eq!(event.str_at(&["objectRef", "name"]), "a");
            assert_eq!(event.str_at(&["responseStatus", "message"]), "Connection closed early");
        }
    }

    #[test]
    fn what_the_policy_does_not_want_leaves_no_trail() {
        let (audit, kept) = audit("None", object!({}));
        assert!(begin(&audit).is_none() && kept.0.lock().is_empty());
    }

    #[test]
    fn a_failure_says_why_and_a_refused_client_leaves_one_record() {
        let (audit, kept) = audit("Metadata", object!({}));
        audit.begin_unknown(&Subject::default(), Asked::default).unwrap().refused(&Status::unauthorized(), &["basic", "x509"]);
        assert_eq!(stages(&kept), ["ResponseStarted"]);
        let event = kept.0.lock()[0].clone();
        assert_eq!(event.str_at(&["responseStatus", "reason"]), "Unauthorized");
        assert_eq!(event.str_at(&["responseStatus", "message"]), "Authentication failed, attempted: basic, x509");
        assert_eq!(event.int_at(&["responseStatus", "code"]), Some(401));
        assert_eq!(event.at(&["responseStatus", "kind"]), None);
    }

    #[test]
    fn a_panic_is_recorded_as_such() {
        let (audit, kept) = audit("Metadata", object!({ "omitStages": ["RequestReceived"] }));
        let trail = begin(&audit).unwrap();
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _held = trail;
            panic!("as the test wants it");
        }));
        assert!(ended.is_err());
        assert_eq!(stages(&kept), ["Panic"]);
        assert_eq!(kept.0.lock()[0].int_at(&["responseStatus", "code"]), Some(500));
    }

    #[test]
    fn the_first_annotation_of_a_name_stays() {
        let (audit, kept) = audit("Metadata", object!({ "omitStages": ["RequestReceived"] }));
        let trail = begin(&audit).unwrap();
        trail.annotate("k", || "first".into());
        trail.annotate("k", || "second".into());
        drop(trail);
        assert_eq!(kept.0.lock()[0].str_at(&["annotations", "k"]), "first");
    }
}
