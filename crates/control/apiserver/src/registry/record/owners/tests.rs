//! The short form of managedFields against their JSON.

use fram_machinery::object;

use super::*;

fn written(stored: &[u8]) -> String {
    let mut out = Vec::new();
    write_json(stored, &mut out);
    String::from_utf8(out).unwrap()
}

/// Gives back what it was made of, as a tree and as JSON, and knows how long that is.
fn check(managed: Value) -> usize {
    let (stored, json) = (encode(&managed), json::to_string(&managed));
    assert_eq!((written(&stored), json_len(&stored)), (json.clone(), json.len()));
    assert_eq!(to_value(&stored).unwrap(), managed);
    assert!(is_known(&stored));
    stored.len()
}

fn entry(fields: Value) -> Value {
    object!({ "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": fields, "manager": "kubelet", "operation": "Update",
        "subresource": "status", "time": "2026-11-22T13:14:15Z" })
}

#[test]
fn a_pod_s_managers_take_a_tenth_of_their_json() {
    let port = object!({ ".": {}, "f:containerPort": {}, "f:protocol": {} });
    let container = object!({ ".": {}, "f:image": {}, "f:imagePullPolicy": {}, "f:name": {}, "f:ports": { ".": {},
            "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": (port) },
        "f:resources": { ".": {}, "f:requests": { ".": {}, "f:cpu": {}, "f:memory": {} } },
        "f:terminationMessagePath": {}, "f:terminationMessagePolicy": {} });
    let template = object!({ "f:metadata": { "f:generateName": {}, "f:labels": { ".": {}, "f:app.kubernetes.io/name": {}, "f:pod-template-hash": {} },
            "f:ownerReferences": { ".": {}, "k:{\"uid\":\"9db0fd61-cd2f-4a4c-b0f5-000000000001\"}": {} } },
        "f:spec": { "f:containers": { "k:{\"name\":\"pause\"}": (container) }, "f:dnsPolicy": {}, "f:enableServiceLinks": {},
            "f:restartPolicy": {}, "f:schedulerName": {}, "f:securityContext": {}, "f:terminationGracePeriodSeconds": {} } });
    let condition = || object!({ ".": {}, "f:lastProbeTime": {}, "f:lastTransitionTime": {}, "f:observedGeneration": {}, "f:status": {}, "f:type": {} });
    let status = object!({ "f:status": { "f:conditions": { "k:{\"type\":\"ContainersReady\"}": (condition()),
            "k:{\"type\":\"Initialized\"}": (condition()), "k:{\"type\":\"PodScheduled\"}": (condition()), "k:{\"type\":\"Ready\"}": (condition()) },
        "f:containerStatuses": {}, "f:hostIP": {}, "f:hostIPs": {}, "f:phase": {},
        "f:podIP": {}, "f:podIPs": { ".": {}, "k:{\"ip\":\"10.244.1.17\"}": { ".": {}, "f:ip": {} } }, "f:startTime": {} } });
    let managed = object!([(entry(template)), (entry(status))]);
    let length = json::to_string(&managed).len();
    let stored = check(managed);
    assert!(10 * stored <= length + 1000, "{stored} of {length}");
}

#[test]
fn whatever_stands_there_comes_back() {
    let with = |key: &str, value: Value| {
        let mut entry = entry(object!({ "f:spec": {} }));
        entry.set(&[key], value);
        object!([entry])
    };
    let without = |key: &str| {
        let mut entry = entry(object!({ "f:data": { ".": {}, "f:k\"\\\n": {}, "f:ключ": { "v:1": {} } } }));
        entry.remove(&[key]);
        object!([(entry.clone()), entry])
    };
    for key in ["apiVersion", "fieldsType", "fieldsV1", "manager", "operation", "subresource", "time", "none"] {
        check(without(key));
    }
    for (key, value) in [
        ("time", Value::from("2026-11-22T13:14:15.5Z")),
        ("time", "2026-11-22T13:14:15+1".into()),
        ("time", "9999-99-99T99:99:99Z".into()),
        ("time", Value::Null),
        ("operation", "Apply".into()),
        ("operation", "Other".into()),
        ("fieldsType", "FieldsV2".into()),
        ("fieldsV1", object!({})),
        ("fieldsV1", object!({ "f:a": 1 })),
        ("fieldsV1", object!({ "f:a": { "f:b": { "f:c": {} }, "f:d": {} }, "f:e": {} })),
        ("manager", "".into()),
        ("manager", "somebody else, \"quoted\"".into()),
        ("subresource", "".into()),
        ("another", "".into()),
    ] {
        check(with(key, value));
    }
    check(object!([1]));
    check(object!({}));
}

#[test]
fn what_was_stored_as_json_is_read_as_such() {
    let managed = object!([(entry(object!({ "f:spec": {} })))]);
    let stored = json::to_vec(&managed);
    assert_eq!((written(&stored), json_len(&stored), to_value(&stored).unwrap()), (json::to_string(&managed), stored.len(), managed));
}

#[test]
fn bytes_that_are_cut_short_come_to_an_end_and_a_later_format_is_refused() {
    let stored = encode(&object!([(entry(object!({ "f:spec": { "f:a b c": { "f:name": {} } } })))]));
    for end in 1..stored.len() {
        let json = written(&stored[..end]);
        assert!(json::from_slice(json.as_bytes()).is_ok() || json == "]", "{end}: {json}");
        to_value(&stored[..end]).unwrap();
    }
    assert!(!is_known(&[FORMAT + 1]) && is_known(&[]));
}

/// Numbers stand on disk: the words of a format are those that it had when it was made.
#[test]
fn words_keep_their_numbers() {
    assert_eq!(WORDS.numbers.len(), WORDS.all.len(), "a word stands twice");
    // FNV-1a.
    let mix = |sum: u64, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let sum = include_str!("../words.txt").bytes().fold(0xcbf2_9ce4_8422_2325, mix);
    assert_eq!((FORMAT, WORDS.all.len(), sum), (1, 938, 0x4224_a82a_4bc9_b472), "new words come at the end, with a new format");
}
