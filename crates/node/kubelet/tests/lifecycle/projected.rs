//! Trust bundles and certificates in projected volumes: what a pod waits for, what it is shown, and how it sees that change.

use std::path::PathBuf;
use std::sync::Arc;

use fram_machinery::{Value, meta, object};

use super::rig::{Rig, container, pod};

/// A pod whose volume `v` has one source.
fn shown(name: &str, source: Value) -> Value {
    let mut with_volume = container("a");
    with_volume.set(&["volumeMounts"], object!([{ "name": "v", "mountPath": "/v" }]));
    let volumes = object!([{ "name": "v", "projected": { "sources": [source] } }]);
    pod(name, object!({ "serviceAccountName": "sa", "containers": [with_volume], "volumes": volumes }))
}

fn file(rig: &Rig, pod: &Value, name: &str) -> PathBuf {
    rig.root().join("pods").join(meta::uid(pod)).join("volumes/kubernetes.io~projected/v").join(name)
}

fn pem(contents: &[u8]) -> String {
    ::pem::encode_config(&::pem::Pem::new("CERTIFICATE", contents), ::pem::EncodeConfig::new().set_line_ending(::pem::LineEnding::LF))
}

#[tokio::test]
async fn a_pod_waits_for_its_trust_bundle_and_sees_it_change() {
    let rig = Rig::start().await;
    let source = object!({ "clusterTrustBundle": { "signerName": "a/b", "labelSelector": {}, "path": "ca.pem" } });
    rig.api.put("pods", shown("p", source));
    let waits = "combination of signerName and labelSelector matched zero ClusterTrustBundles";
    rig.until_event(&format!("FailedMount MountVolume.SetUp failed for volume \"v\" : {waits}")).await;
    let bundle = |name: &str, text: &[u8]| object!({ "metadata": { "name": name }, "spec": { "signerName": "a/b", "trustBundle": (format!("headline\n{}", pem(text))) } });
    rig.api.put("clustertrustbundles", bundle("a:b:1", b"one"));
    let running = rig.pod("p", |p| meta::condition_is_true(p, "Ready")).await;
    let file = file(&rig, &running, "ca.pem");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), pem(b"one"));
    // Another bundle of the signer with an anchor that is known makes no difference, one with a new one does.
    rig.api.put("clustertrustbundles", bundle("a:b:2", b"one"));
    rig.api.put("clustertrustbundles", bundle("a:b:3", b"three"));
    let has_both = |text: String| text.contains(&pem(b"one")) && text.contains(&pem(b"three")) && text.matches("BEGIN").count() == 2;
    rig.until(|_| std::fs::read_to_string(&file).is_ok_and(has_both)).await;
    rig.api.delete_pod("p", 0);
    rig.gone("p").await;
    rig.stop().await;
}

/// The one request that a pod has.
async fn request_of(rig: &Rig, pod: &str) -> Arc<Value> {
    let of_pod = |r: &Rig| r.api.all("podcertificaterequests").into_iter().find(|o| o.str_at(&["spec", "podName"]) == pod);
    rig.until(|r| of_pod(r).is_some()).await;
    of_pod(rig).unwrap()
}

fn answered(request: &Value, condition: &str) -> Value {
    let mut answered = request.clone();
    let condition = object!({ "type": condition, "status": "True", "reason": "Because", "message": "it is so" });
    let (refresh, end) = ("2100-01-01T00:00:00Z", "2100-01-02T00:00:00Z");
    let chain = format!("{}{}", pem(b"leaf"), pem(b"issuer"));
    answered
        .set(&["status"], object!({ "conditions": [condition], "certificateChain": chain, "beginRefreshAt": refresh, "notAfter": end }));
    answered
}

#[tokio::test]
async fn a_pod_waits_for_its_certificate_and_finds_it_with_its_key() {
    let rig = Rig::start().await;
    rig.until(|r| r.api.get("nodes", "node").is_some()).await;
    let account = rig.api.put("serviceaccounts", object!({ "metadata": { "namespace": "ns", "name": "sa" } }));
    let source = object!({
        "signerName": "a/b", "keyType": "ECDSAP256", "userAnnotations": { "a/b": "c" }, "credentialBundlePath": "all.pem", "keyPath": "key.pem",
        "certificateChainPath": "chain.pem"
    });
    let posted = rig.api.put("pods", shown("p", object!({ "podCertificate": source })));
    let request = request_of(&rig, "p").await;
    for (field, uid) in [("podUID", &posted), ("serviceAccountUID", &account), ("nodeUID", &rig.api.get("nodes", "node").unwrap())] {
        assert_eq!(request.str_at(&["spec", field]), meta::uid(uid), "{field}");
    }
    assert_eq!(request.at(&["spec", "unverifiedUserAnnotations"]), Some(&object!({ "a/b": "c" })));
    rig.until_event("FailedMount MountVolume.SetUp failed for volume \"v\" : credential bundle is not issued yet").await;
    rig.api.put("podcertificaterequests", answered(&request, "Issued"));
    let running = rig.pod("p", |p| meta::condition_is_true(p, "Ready")).await;
    let text = |name: &str| std::fs::read_to_string(file(&rig, &running, name)).unwrap();
    assert_eq!(text("chain.pem"), format!("{}{}", pem(b"leaf"), pem(b"issuer")));
    assert!(text("key.pem").starts_with("-----BEGIN PRIVATE KEY-----\n"));
    assert_eq!(text("all.pem"), format!("{}{}", text("key.pem"), text("chain.pem")));
    assert_eq!(rig.api.all("podcertificaterequests").len(), 1);
    rig.api.delete_pod("p", 0);
    rig.gone("p").await;
    rig.stop().await;
}

#[tokio::test]
async fn a_pod_whose_certificate_is_denied_does_not_start_and_one_whose_request_is_lost_asks_again() {
    let rig = Rig::start().await;
    rig.until(|r| r.api.get("nodes", "node").is_some()).await;
    rig.api.put("serviceaccounts", object!({ "metadata": { "namespace": "ns", "name": "sa" } }));
    let source = |kind: &str| object!({ "podCertificate": { "signerName": "a/b", "keyType": kind, "credentialBundlePath": "all.pem" } });
    rig.api.put("pods", shown("denied", source("ED25519")));
    let request = request_of(&rig, "denied").await;
    rig.api.put("podcertificaterequests", answered(&request, "Denied"));
    let name = meta::key(&request);
    rig.until_event(&format!("Denied PodCertificateRequest {name} was denied, reason=\"Because\", message=\"it is so\"")).await;
    let why = "PodCertificateRequest was permanently denied: reason=\"Because\" message=\"it is so\"";
    rig.until_event(&format!("FailedMount MountVolume.SetUp failed for volume \"v\" : {why}")).await;
    assert_eq!(rig.runtime.containers(), 0);

    rig.api.put("pods", shown("lost", source("ECDSAP384")));
    let request = request_of(&rig, "lost").await;
    rig.api.remove("podcertificaterequests", meta::name(&request));
    let again = request_of(&rig, "lost").await;
    assert_ne!(meta::name(&again), meta::name(&request));

    rig.api.put("pods", shown("unknown", source("ECDSAP521")));
    let told = |r: &Rig| r.api.events().iter().any(|e| e.contains("ECDSAP521 are not supported by this node"));
    rig.until(told).await;
    for name in ["denied", "lost", "unknown"] {
        rig.api.delete_pod(name, 0);
        rig.gone(name).await;
    }
    rig.stop().await;
}
