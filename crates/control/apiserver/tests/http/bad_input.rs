//! What is wrong, huge, or made to be slow: each gets its Status, in bounded time and memory, and the server goes on.

use std::fmt::Write;
use std::time::Duration;

use bytes::Bytes;
use fram_client::remote::Remote;
use fram_machinery::{Value, json, object};
use http::Request;
use http_body_util::{BodyExt, Full};

use crate::site::Site;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const JSON: &str = "application/json";
const APPLY: &str = "application/apply-patch+yaml";
/// Far longer than any of these takes, and far shorter than what grows with a square.
const PATIENCE: Duration = Duration::from_secs(60);
/// Of the whole process, which runs other tests as well.
const MOST_MEMORY: u64 = 2 << 30;

struct Client(Remote);

impl Client {
    async fn start() -> (Site, Self) {
        let site = Site::start(|server| server).await;
        let client = site.client("admin", &["system:masters"]);
        (site, Self(client))
    }

    /// The status and the object of an answer.
    async fn ask(&self, method: &str, path: &str, media: &str, body: impl Into<Bytes>) -> (u16, Value) {
        let request = Request::builder().method(method).uri(path).header("content-type", media).header("accept", JSON);
        let request = request.body(Full::new(body.into())).unwrap();
        let answer = async {
            let response = self.0.request(request).await.unwrap();
            let status = response.status().as_u16();
            (status, response.into_body().collect().await.unwrap().to_bytes())
        };
        let (status, bytes) = tokio::time::timeout(PATIENCE, answer).await.unwrap_or_else(|_| panic!("{method} {path} takes too long"));
        let object = json::from_slice(&bytes).unwrap_or_else(|e| panic!("{method} {path}: {e} in {}", bytes.escape_ascii()));
        if status >= 400 {
            assert_eq!(object.str_at(&["kind"]), "Status", "{method} {path}");
            assert_eq!(object.int_at(&["code"]), Some(status.into()), "{method} {path}");
        }
        (status, object)
    }

    /// An answer in short: its code, its reason, and the start of what it says.
    async fn told(&self, method: &str, path: &str, media: &str, body: impl Into<Bytes>) -> String {
        let (status, object) = self.ask(method, path, media, body).await;
        format!("{status} {}: {}", object.str_at(&["reason"]), object.str_at(&["message"]))
    }
}

/// The most memory that this process ever had.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() << 10
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_with_its_reason() {
    let (_site, client) = Client::start().await;
    let nested = |open: &str, times: usize| format!(r#"{{"metadata":{{"name":"a"}},"data":{}"#, open.repeat(times));
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
    for i in 1..12 {
        let _ = writeln!(bomb, "a{i}: &a{i} [{}]", vec![format!("*a{}", i - 1); 9].join(","));
    }
    let protobuf = "application/vnd.kubernetes.protobuf";
    for (media, body, expect) in [
        (JSON, nested("[", 100_000).into_bytes(), "400 BadRequest"),
        (JSON, nested(r#"{"a":"#, 100_000).into_bytes(), "400 BadRequest"),
        (JSON, br#"{"metadata":{"name":"a"},"da"#.to_vec(), "400 BadRequest"),
        (JSON, b"\xff\xfe{}".to_vec(), "400 BadRequest"),
        (JSON, br#"{"data":{"a":"\ud800"#.to_vec(), "400 BadRequest"),
        (JSON, br#"[{"metadata":{"name":"a"}}]"#.to_vec(), "400 BadRequest"),
        (JSON, br#"{"metadata":{"name":"a","labels":7}}"#.to_vec(), "400 BadRequest"),
        ("application/yaml", bomb.into_bytes(), "400 BadRequest"),
        ("application/yaml", b"a: *b\n".to_vec(), "400 BadRequest"),
        ("application/yaml", format!("a: {}", "[".repeat(50_000)).into_bytes(), "400 BadRequest"),
        (protobuf, b"k8s\0\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f".to_vec(), "400 BadRequest"),
        (protobuf, b"k8s\0\x12\xff\xff\xff\x7fabc".to_vec(), "400 BadRequest"),
        (protobuf, b"no magic".to_vec(), "400 BadRequest"),
        (protobuf, [b"k8s\0".as_slice(), &b"\x0b".repeat(200_000)].concat(), "400 BadRequest"),
        ("application/cbor", b"\xbf\x5b\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(), "400 BadRequest"),
        ("application/cbor", b"\x9b\x00\xff\xff\xff\xff\xff\xff\xff".to_vec(), "400 BadRequest"),
        ("application/cbor", b"\x81".repeat(200_000), "400 BadRequest"),
        ("application/x-nothing", b"{}".to_vec(), "415 UnsupportedMediaType"),
    ] {
        let start = body[..body.len().min(60)].escape_ascii().to_string();
        let told = client.told("POST", MAPS, media, body).await;
        assert!(told.starts_with(expect), "{media} {start}: {told}");
    }
    let twice = r#"{"metadata":{"name":"twice"},"data":{"a":"1"},"data":{"a":"2"}}"#;
    let told = client.told("POST", &format!("{MAPS}?fieldValidation=Strict"), JSON, twice).await;
    assert!(told.starts_with("400 BadRequest") && told.contains(r#"duplicate field "data""#), "{told}");
    assert_eq!(client.ask("POST", MAPS, JSON, twice).await.0, 201);
    let anchors = "metadata: {name: anchored}\ndata: {a: &x text, b: *x}\n";
    let (status, made) = client.ask("POST", MAPS, "application/yaml", anchors).await;
    assert_eq!((status, made.str_at(&["data", "b"])), (201, "text"));
    assert!(peak() < MOST_MEMORY);
}

#[tokio::test]
async fn names_are_taken_up_to_their_limits() {
    let (_site, client) = Client::start().await;
    let label = |length: usize| object!({ "metadata": { "name": (format!("l{length}")), "labels": { "a": ("x".repeat(length)) } } });
    for (path, object, expect) in [
        (MAPS, object!({ "metadata": { "name": ("x".repeat(253)) } }), 201),
        (MAPS, object!({ "metadata": { "name": ("x".repeat(254)) } }), 422),
        (MAPS, object!({ "metadata": { "name": ("x".repeat(1 << 20)) } }), 422),
        (MAPS, object!({ "metadata": { "name": "../x" } }), 422),
        (MAPS, object!({ "metadata": { "name": "x\u{0}" } }), 422),
        (MAPS, object!({ "metadata": { "generateName": ("g".repeat(300)) } }), 422),
        ("/api/v1/namespaces", object!({ "metadata": { "name": ("x".repeat(63)) } }), 201),
        ("/api/v1/namespaces", object!({ "metadata": { "name": ("x".repeat(64)) } }), 422),
        (MAPS, label(63), 201),
        (MAPS, label(64), 422),
    ] {
        let (status, answer) = client.ask("POST", path, JSON, json::to_vec(&object)).await;
        assert_eq!(status, expect, "{}", answer.str_at(&["message"]).chars().take(200).collect::<String>());
    }
    for (path, expect) in [("%2e%2e", 404), ("a%2fb", 404), (&"x".repeat(10_000), 404), ("%00", 404), ("%ff", 404)] {
        assert_eq!(client.ask("GET", &format!("{MAPS}/{path}"), JSON, "").await.0, expect, "{path}");
    }
}

#[tokio::test]
async fn selectors_and_patches_that_were_made_to_be_slow_are_not() {
    let (_site, client) = Client::start().await;
    assert_eq!(client.ask("POST", MAPS, JSON, r#"{"metadata":{"name":"m"},"data":{"a":"b"}}"#).await.0, 201);
    let many = |n: usize, part: &str| vec![part; n].join(",");
    for (query, expect) in [
        (format!("labelSelector=a+in+({})", many(9_000, "x")), 200),
        (format!("labelSelector=a+in+({}", many(9_000, "x")), 400),
        (format!("labelSelector={}", many(9_000, "!a")), 200),
        (format!("labelSelector={}", "(".repeat(20_000)), 400),
        (format!("fieldSelector={}", many(2_000, "metadata.name=m")), 200),
        (format!("fieldSelector={}", many(2_000, "spec.none=m")), 400),
        ("limit=-1".into(), 200),
        ("limit=99999999999999999999".into(), 400),
        ("continue=AAAA".into(), 400),
        ("resourceVersion=x".into(), 400),
    ] {
        let told = client.told("GET", &format!("{MAPS}?{query}"), JSON, "").await;
        assert!(told.starts_with(&expect.to_string()), "{}: {}", &query[..query.len().min(60)], &told[..told.len().min(300)]);
    }
    let patch = "application/json-patch+json";
    let path = format!("{MAPS}/m");
    let doubling: Vec<String> = (0..40).map(|i| format!(r#"{{"op":"copy","from":"/data","path":"/data/x{i}"}}"#)).collect();
    for (media, body, expect) in [
        (patch, format!("[{}]", many(10_001, r#"{"op":"test","path":"/data/a","value":"b"}"#)), "413"),
        (patch, format!("[{}]", doubling.join(",")), "4"),
        (patch, r#"[{"op":"add","path":"/data/999999999999999999999","value":{}}]"#.into(), "4"),
        (patch, format!(r#"[{{"op":"add","path":"{}","value":1}}]"#, "/a".repeat(500_000)), "4"),
        (patch, r#"{"op":"add"}"#.into(), "400"),
        ("application/merge-patch+json", format!("{}1", r#"{"data":"#.repeat(100_000)), "400"),
        ("application/strategic-merge-patch+json", r#"{"$setElementOrder/data":7,"data":{"$patch":["x"]}}"#.into(), "4"),
        ("application/strategic-merge-patch+json", r#"{"metadata":{"$deleteFromPrimitiveList/finalizers":{"a":1}}}"#.into(), ""),
        (APPLY, "a: [".into(), "400"),
    ] {
        let told = client.told("PATCH", &format!("{path}?fieldManager=m"), media, body.clone()).await;
        assert!(told.starts_with(expect) && !told.starts_with('5'), "{}: {told}", &body[..body.len().min(80)]);
    }
}

#[tokio::test]
async fn objects_as_large_as_a_request_cost_no_more_than_their_size() {
    let (_site, client) = Client::start().await;
    // Fields of a manager that nobody counts.
    let mut fields = String::new();
    for i in 0..150_000 {
        let _ = write!(fields, r#","f:k{i}":{{}}"#);
    }
    let managed = |name: &str| {
        let entry = format!(
            r#"{{"manager":"m","operation":"Update","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{{"f:data":{{".":{{}}{fields}}}}}}}"#
        );
        format!(r#"{{"metadata":{{"name":"{name}","managedFields":[{entry}]}},"data":{{"k1":"v"}}}}"#)
    };
    assert_eq!(client.ask("POST", MAPS, JSON, managed("fields")).await.0, 201);
    assert_eq!(client.ask("PUT", &format!("{MAPS}/fields"), JSON, managed("fields")).await.0, 200);
    let mut entries = Vec::new();
    (0..25_000).for_each(|i| {
        entries
            .push(format!(r#"{{"manager":"m{i}","operation":"Update","fieldsType":"FieldsV1","fieldsV1":{{"f:data":{{"f:a{i}":{{}}}}}}}}"#))
    });
    let managers = format!(r#"{{"metadata":{{"name":"fields","managedFields":[{}]}},"data":{{"k1":"w"}}}}"#, entries.join(","));
    let (status, _) = client.ask("PUT", &format!("{MAPS}/fields"), JSON, managers).await;
    assert!(status < 500, "{status}");
    // Lists that are merged by their keys.
    let env = |from: usize, value: &str| {
        (from..from + 6_000).map(|i| format!(r#"{{"name":"n{i}","value":"{value}"}}"#)).collect::<Vec<_>>().join(",")
    };
    let deployment = |env: &str| {
        format!(
            r#"{{"apiVersion":"apps/v1","kind":"Deployment","metadata":{{"name":"d"}},"spec":{{"selector":{{"matchLabels":{{"a":"b"}}}},
            "template":{{"metadata":{{"labels":{{"a":"b"}}}},"spec":{{"containers":[{{"name":"c","image":"i","env":[{env}]}}]}}}}}}}}"#
        )
    };
    assert_eq!(client.ask("POST", DEPLOYMENTS, JSON, deployment(&env(0, "x"))).await.0, 201);
    let path = format!("{DEPLOYMENTS}/d?fieldManager=other&force=true");
    assert_eq!(client.ask("PATCH", &path, APPLY, deployment(&env(3_000, "y"))).await.0, 200);
    let change = format!(r#"{{"spec":{{"template":{{"spec":{{"containers":[{{"name":"c","env":[{}]}}]}}}}}}}}"#, env(1_000, "z"));
    let strategic = "application/strategic-merge-patch+json";
    assert_eq!(client.ask("PATCH", &format!("{DEPLOYMENTS}/d"), strategic, change).await.0, 200);
    let twice = client.told("PATCH", &path, APPLY, deployment(r#"{"name":"a"},{"name":"a"}"#)).await;
    assert!(twice.contains(r#".env: duplicate entries for key [name="a"]"#), "{twice}");
    // Schemas that are deep, with a rule at each level.
    let schema = (0..120).fold(r#"{"type":"string"}"#.to_string(), |below, _| {
        format!(r#"{{"type":"object","x-kubernetes-validations":[{{"rule":"has(self.a)"}}],"properties":{{"a":{below}}}}}"#)
    });
    let definition = |schema: &str| {
        format!(
            r#"{{"metadata":{{"name":"deeps.example.com"}},"spec":{{"group":"example.com","scope":"Cluster","names":{{"plural":"deeps","kind":"Deep"}},
            "versions":[{{"name":"v1","served":true,"storage":true,"schema":{{"openAPIV3Schema":{schema}}}}}]}}}}"#
        )
    };
    let (status, answer) = client.ask("POST", DEFINITIONS, JSON, definition(&schema)).await;
    assert_eq!(status, 201, "{}", answer.str_at(&["message"]));
    // The longest expression that there may be costs little where it is flat.
    let flat = format!("self.a == ''{}", " && self.a == ''".repeat(6_000));
    for (rule, expect) in [("(".repeat(50_000), 422), (flat, 201), (format!("1{}", "+1".repeat(40_000)), 422), ("x".repeat(2 << 20), 422)] {
        let rules = format!(r#""x-kubernetes-validations":[{{"rule":"{rule}"}}]"#);
        let schema = format!(r#"{{"type":"object","properties":{{"a":{{"type":"string"}}}},{rules}}}"#);
        let body = definition(&schema).replace("deeps", "rules").replace("Deep", "Rule");
        let (status, _) = client.ask("POST", &format!("{DEFINITIONS}?dryRun=All"), JSON, body).await;
        assert_eq!(status, expect, "{}", &rule[..40]);
    }
    assert!(peak() < MOST_MEMORY, "{} MiB", peak() >> 20);
}
