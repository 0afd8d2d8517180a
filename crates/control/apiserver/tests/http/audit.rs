//! What is recorded of requests: who, what, how it ended, and as much of the bodies as the policy says.

use std::sync::Arc;

use fram_apiserver::{InProcess, User};
use fram_audit::{Audit, Counters, Policy, Sink};
use fram_client::Client;
use fram_client::remote::{Kubeconfig, Remote};
use fram_client::resources::CONFIG_MAPS;
use fram_machinery::{Value, object, yaml};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::site::{Site, object_of, request};

const POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
rules:
- {level: None, nonResourceURLs: ['/healthz*']}
- {level: RequestResponse, omitManagedFields: true, resources: [{group: '', resources: [configmaps]}], omitStages: [RequestReceived]}
- {level: Metadata}
";

#[derive(Default)]
struct Kept {
    events: Mutex<Vec<Arc<Value>>>,
    more: Notify,
}

impl Sink for Kept {
    fn name(&self) -> &'static str {
        "kept"
    }

    fn take(&self, event: &Arc<Value>) -> bool {
        self.events.lock().push(event.clone());
        self.more.notify_one();
        true
    }
}

impl Kept {
    /// What is recorded of a path, once there are so many records of it.
    async fn of(&self, path: &str, count: usize) -> Vec<Arc<Value>> {
        let found = || self.events.lock().iter().filter(|e| e.str_at(&["requestURI"]) == path).cloned().collect::<Vec<_>>();
        let wait = async {
            while found().len() < count {
                self.more.notified().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(10), wait).await.unwrap_or_else(|_| panic!("{path}: {:?}", found()));
        found()
    }
}

async fn start() -> (Site, Arc<Kept>) {
    let kept = Arc::new(Kept::default());
    let policy = Policy::read(&yaml::from_str(POLICY).unwrap()).unwrap();
    let audit = Audit::new(policy, vec![kept.clone()], Counters::default(), Arc::new(jiff::Timestamp::now));
    (Site::start(|server| server.with_audit(Arc::new(audit))).await, kept)
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn a_write_is_recorded_with_what_was_sent_and_what_came_of_it() {
    let (site, kept) = start().await;
    let admin = site.client("jane", &["system:masters"]);
    let map = object!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "m" }, "data": { "a": "b" } });
    let made = admin.request(request("POST", MAPS, Some(&map))).await.unwrap();
    let id = made.headers()["audit-id"].to_str().unwrap().to_string();
    assert_eq!(made.status(), 201);
    let event = kept.of(MAPS, 1).await[0].clone();
    for (path, expect) in [
        (&["stage"][..], "ResponseComplete"),
        (&["level"], "RequestResponse"),
        (&["auditID"], id.as_str()),
        (&["verb"], "create"),
        (&["user", "username"], "jane"),
        (&["objectRef", "resource"], "configmaps"),
        (&["objectRef", "namespace"], "default"),
        (&["objectRef", "name"], "m"),
        (&["objectRef", "apiVersion"], "v1"),
        (&["requestObject", "data", "a"], "b"),
        (&["responseObject", "metadata", "name"], "m"),
        (&["annotations", "authorization.k8s.io/decision"], "allow"),
    ] {
        assert_eq!(event.str_at(path), expect, "{path:?}: {event:?}");
    }
    assert_eq!(event.int_at(&["responseStatus", "code"]), Some(201));
    assert_eq!(event.list_at(&["sourceIPs"])[0].as_str(), Some("127.0.0.1"));
    assert!(!event.str_at(&["responseObject", "metadata", "uid"]).is_empty());
    assert_eq!(event.at(&["responseObject", "metadata", "managedFields"]), None);
}

#[tokio::test]
async fn secrets_are_recorded_without_their_contents_and_health_not_at_all() {
    let (site, kept) = start().await;
    let admin = site.client("jane", &["system:masters"]);
    let path = "/api/v1/namespaces/default/secrets";
    let secret = object!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "s" }, "stringData": { "a": "hidden" } });
    assert_eq!(admin.request(request("POST", path, Some(&secret))).await.unwrap().status(), 201);
    assert_eq!(admin.request(request("GET", "/healthz", None)).await.unwrap().status(), 200);
    let events = kept.of(path, 2).await;
    assert!(events.iter().all(|e| e.get("requestObject").is_none() && e.get("responseObject").is_none()), "{events:?}");
    assert!(kept.events.lock().iter().all(|e| e.str_at(&["requestURI"]) != "/healthz"));
}

#[tokio::test]
async fn who_acts_as_somebody_else_is_recorded_with_both_names() {
    let (site, kept) = start().await;
    let admin = site.client("jane", &["system:masters"]);
    let mut asked = request("GET", "/api/v1/namespaces/default/pods", None);
    asked.headers_mut().insert("impersonate-user", "bob".parse().unwrap());
    asked.headers_mut().insert("audit-id", "named-by-the-client".parse().unwrap());
    let refused = admin.request(asked).await.unwrap();
    assert_eq!((refused.status().as_u16(), &refused.headers()["audit-id"]), (403, &"named-by-the-client".parse().unwrap()));
    let events = kept.of("/api/v1/namespaces/default/pods", 2).await;
    let event = &events[1];
    assert_eq!((event.str_at(&["user", "username"]), event.str_at(&["impersonatedUser", "username"])), ("jane", "bob"));
    assert_eq!(event.str_at(&["annotations", "authorization.k8s.io/decision"]), "forbid");
    assert_eq!(event.str_at(&["responseStatus", "reason"]), "Forbidden");
    assert_eq!(event.str_at(&["auditID"]), "named-by-the-client");
}

#[tokio::test]
async fn by_which_binding_one_may_is_recorded() {
    let (site, kept) = start().await;
    let scheduler = site.client("system:kube-scheduler", &[]);
    assert_eq!(scheduler.request(request("GET", "/api/v1/nodes", None)).await.unwrap().status(), 200);
    let events = kept.of("/api/v1/nodes", 2).await;
    let name = "\"system:kube-scheduler\"";
    let expect = format!("RBAC: allowed by ClusterRoleBinding {name} of ClusterRole {name} to User {name}");
    assert_eq!(events[1].str_at(&["annotations", "authorization.k8s.io/reason"]), expect);
}

#[tokio::test]
async fn a_client_that_cannot_be_known_leaves_one_record() {
    let (site, kept) = start().await;
    let stranger = Remote::new(&Kubeconfig { token: Some("nonsense".into()), ..site.anonymous() }).unwrap();
    assert_eq!(stranger.request(request("GET", "/api/v1/pods", None)).await.unwrap().status(), 401);
    let events = kept.of("/api/v1/pods", 1).await;
    assert_eq!(events.iter().map(|e| e.str_at(&["stage"])).collect::<Vec<_>>(), ["ResponseStarted"]);
    assert_eq!(events[0].int_at(&["responseStatus", "code"]), Some(401));
    assert_eq!(events[0].str_at(&["responseStatus", "message"]), "Authentication failed, attempted: bearer");
}

#[tokio::test]
async fn a_watch_is_recorded_when_it_begins_and_when_it_ends() {
    let (site, kept) = start().await;
    let admin = site.client("jane", &["system:masters"]);
    let path = "/api/v1/nodes?watch=true";
    let watch = admin.request(request("GET", path, None)).await.unwrap();
    let events = kept.of(path, 2).await;
    assert_eq!(events.iter().map(|e| e.str_at(&["stage"])).collect::<Vec<_>>(), ["RequestReceived", "ResponseStarted"]);
    drop(watch);
    drop(admin);
    let events = kept.of(path, 3).await;
    assert_eq!(events[2].str_at(&["stage"]), "ResponseComplete");
}

#[tokio::test]
async fn what_components_of_the_same_process_do_is_recorded_too() {
    let (site, kept) = start().await;
    let user = User::authenticated("system:kube-controller-manager", &["system:masters"]);
    let maps = Client::new(Arc::new(InProcess::new(site.server.clone(), user)), "test").within(&CONFIG_MAPS, "default");
    maps.create(object!({ "metadata": { "name": "m" } })).await.unwrap();
    let event = kept.of(MAPS, 1).await[0].clone();
    assert_eq!(event.str_at(&["user", "username"]), "system:kube-controller-manager");
    assert_eq!(event.str_at(&["objectRef", "name"]), "m");
}

#[tokio::test]
async fn a_failure_is_recorded_with_its_reason() {
    let (site, kept) = start().await;
    let admin = site.client("jane", &["system:masters"]);
    let path = "/api/v1/namespaces/default/configmaps/none";
    let missing = admin.request(request("GET", path, None)).await.unwrap();
    assert_eq!(object_of(missing).await.str_at(&["reason"]), "NotFound");
    let event = kept.of(path, 1).await[0].clone();
    assert_eq!(event.str_at(&["responseStatus", "reason"]), "NotFound");
    assert_eq!(event.str_at(&["responseObject", "kind"]), "Status");
}
