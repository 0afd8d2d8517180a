//! Extenders over real connections, and what is made of their answers.

use fram_machinery::object;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::plugins::testing::{node, pod};
use crate::preemption::Preemption;

/// Answers one request, and gives what was asked: the first line and the body.
pub(crate) async fn answer(listener: &TcpListener, answer: impl FnOnce(&Value) -> String) -> (String, Value) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut asked = Vec::new();
    let (head, body) = loop {
        let mut part = [0; 4096];
        let n = stream.read(&mut part).await.unwrap();
        asked.extend_from_slice(&part[..n]);
        let text = String::from_utf8_lossy(&asked).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")).unwrap().parse::<usize>().unwrap();
        if body.len() == length {
            break (head.to_string(), json::from_slice(body.as_bytes()).unwrap());
        }
    };
    let said = answer(&body);
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{said}", said.len());
    stream.write_all(answer.as_bytes()).await.unwrap();
    (head.lines().next().unwrap().to_string(), body)
}

/// Answers one request with this.
async fn once(listener: TcpListener, said: &str) -> (String, Value) {
    answer(&listener, |_| said.into()).await
}

async fn extender(knows_nodes: bool) -> (Extender, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let spec = ExtenderSpec {
        url_prefix: format!("http://{}/scheduler/", listener.local_addr().unwrap()),
        filter_verb: "filter".into(),
        prioritize_verb: "prioritize".into(),
        preempt_verb: "preempt".into(),
        bind_verb: "bind".into(),
        weight: 2,
        node_cache_capable: knows_nodes,
        ..ExtenderSpec::default()
    };
    (Extender::new(&spec).unwrap(), listener)
}

fn nodes() -> Vec<Arc<Value>> {
    vec![Arc::new(node("a", "1")), Arc::new(node("b", "1"))]
}

#[tokio::test]
async fn nodes_are_filtered_by_name_or_whole() {
    let p = pod("p", object!({}));
    let (extender, listener) = extender(true).await;
    let answer = r#"{"nodenames":["b"],"failedNodes":{"a":"no"}}"#;
    let (filtered, (line, asked)) = {
        let nodes = nodes();
        let (filtered, asked) = tokio::join!(extender.filter(&p, &nodes), once(listener, answer));
        (filtered.unwrap(), asked)
    };
    assert_eq!(line, "POST /scheduler/filter HTTP/1.1");
    assert_eq!(asked.get("NodeNames"), Some(&object!(["a", "b"])));
    assert_eq!((filtered.kept, filtered.refused["a"].clone()), (vec!["b".to_string()], ("no".into(), false)));
    let whole = messages::nodes(&p.object, &nodes(), false);
    assert_eq!(whole.list_at(&["Nodes", "items"]).len(), 2);
    let unknown = messages::filtered(&object!({ "NodeNames": ["c"] }), &nodes());
    assert!(unknown.unwrap_err().contains("not found in the input node list"));
}

#[tokio::test]
async fn scores_are_weighed_and_of_the_plugins_measure() {
    let (extender, listener) = extender(true).await;
    let (p, nodes) = (pod("p", object!({})), nodes());
    let answer = r#"[{"Host":"a","Score":3},{"Host":"b","Score":11}]"#;
    let (scores, _) = tokio::join!(extender.prioritize(&p, &nodes), once(listener, answer));
    assert_eq!(scores.unwrap(), [("a".to_string(), 60), ("b".to_string(), 200)]);
}

#[tokio::test]
async fn who_does_not_answer_is_not_waited_for_long() {
    let (mut extender, _listener) = extender(true).await;
    extender.timeout = Duration::from_millis(20);
    let failed = extender.bind(&pod("p", object!({})), "a").await;
    assert!(matches!(failed, Err(ExtenderError::Late { .. })), "{failed:?}");
}

#[test]
fn an_extender_drops_candidates_and_names_their_victims() {
    let victims = vec![pod("1", object!({})), pod("2", object!({}))];
    let of = |node: &str| Candidate { preemption: Preemption { node: node.into(), victims: victims.clone() }, violations: 1 };
    let asked = messages::victims(&pod("p", object!({})).object, &[of("a"), of("b")], true);
    assert_eq!(asked.at(&["NodeNameToMetaVictims", "a", "Pods"]), Some(&object!([{ "UID": "1" }, { "UID": "2" }])));
    let answer = object!({ "NodeNameToMetaVictims": { "b": { "Pods": [{ "UID": "2" }], "NumPDBViolations": 0 } } });
    let left = messages::left(&answer, vec![of("a"), of("b")]).unwrap();
    assert_eq!((left.len(), left[0].preemption.node.as_str(), left[0].preemption.victims.len(), left[0].violations), (1, "b", 1, 0));
    let wrong = object!({ "NodeNameToMetaVictims": { "b": { "Pods": [{ "UID": "3" }] } } });
    assert!(messages::left(&wrong, vec![of("b")]).is_err());
}

#[test]
fn only_pods_that_ask_for_managed_resources_concern_it() {
    let resource = crate::configuration::ManagedResource { name: "example.com/x".into(), ignored_by_scheduler: false };
    let spec = ExtenderSpec { url_prefix: "http://127.0.0.1".into(), managed_resources: vec![resource], ..ExtenderSpec::default() };
    let extender = Extender::new(&spec).unwrap();
    let asks = pod("1", object!({ "containers": [{ "resources": { "limits": { "example.com/x": "1" } } }] }));
    assert!(extender.wants(&asks) && !extender.wants(&pod("2", object!({ "containers": [{}] }))));
    let ftp = ExtenderSpec { url_prefix: "ftp://x".into(), ..ExtenderSpec::default() };
    assert!(matches!(Extender::new(&ftp), Err(ExtenderError::Url(_))));
}
