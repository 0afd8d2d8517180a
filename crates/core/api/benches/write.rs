//! What each step that a written object goes through costs, without the server around it: a pod as Deployments make them, created. Prints
//! microseconds by step, the median of many rounds; run it with `cargo bench -p fram-api`.

use std::hint::black_box;
use std::time::Instant;

use fram_api::rules::Part;
use fram_api::{Api, names, rules, strategy};
use fram_machinery::{Value, json, managed, normalize, object};

const ROUNDS: usize = 4_000;

fn pod() -> Value {
    let variable = |n: usize| object!({ "name": (format!("VARIABLE_{n}")), "value": (format!("a value of some length, number {n}")) });
    let variables: Vec<Value> = (0..3).map(variable).collect();
    object!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "pod-4711", "namespace": "bench",
            "labels": { "app": "application", "group": "11", "pod-template-hash": "5d4f8c7b9" },
        },
        "spec": {
            "schedulerName": "none", "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "application", "image": "registry.example.com/team/application:v1.2.3",
                "args": ["--listen=:8080", "--log-level=info", "--config=/etc/application/config.yaml"],
                "ports": [{ "containerPort": 8080, "name": "http" }],
                "env": variables,
                "resources": {
                    "requests": { "cpu": "100m", "memory": "128Mi" },
                    "limits": { "cpu": "500m", "memory": "256Mi" },
                },
                "readinessProbe": { "httpGet": { "path": "/readyz", "port": 8080 }, "periodSeconds": 10 },
                "volumeMounts": [{ "name": "config", "mountPath": "/etc/application" }],
            }],
            "volumes": [{ "name": "config", "configMap": { "name": "application" } }],
        },
    })
}

/// The median of what a step takes, in microseconds; what it is given is made, and what it gives dropped, outside of the measure.
fn measure<I, O>(name: &str, mut given: impl FnMut() -> I, mut step: impl FnMut(I) -> O) {
    let mut taken: Vec<u128> = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let input = given();
        let begun = Instant::now();
        let output = black_box(step(black_box(input)));
        taken.push(begun.elapsed().as_nanos());
        drop(output);
    }
    taken.sort_unstable();
    println!("{name:<40} {:>8.1}", taken[ROUNDS / 2] as f64 / 1000.0);
}

fn main() {
    let api = Api::builtin().expect("the descriptions of the built-in kinds");
    let kind = api.kind("", "v1", "Pod").expect("pods");
    let (schema, ty) = (&kind.schema, kind.ty);
    let text = json::to_vec(&pod());
    let parse = || json::parse_named(&text, names()).expect("JSON").value;
    let decode = |value| normalize::decode(schema, ty, value).expect("a pod").value;
    let default = |mut value: Value| {
        normalize::apply_defaults(schema, ty, &mut value);
        strategy(kind).default(&mut value);
        value
    };
    let form = |value| normalize::decode_stored(schema, ty, value).expect("a pod").value;
    let manager = managed::Manager {
        name: "bench".into(),
        operation: managed::Operation::Update,
        api_version: "v1".into(),
        subresource: String::new(),
    };
    let track = |mut value: Value| {
        managed::track_new(schema, ty, &Value::Map(Default::default()), &mut value, &manager, "2026-01-01T00:00:00Z");
        value
    };
    let whole = || form(default(decode(parse())));
    let stored = json::to_vec(&track(whole()));
    let read = || json::from_slice_named(&stored, names()).expect("JSON");

    measure("read the request", || (), |()| parse());
    measure("decode", parse, decode);
    measure("default", || decode(parse()), default);
    measure("bring into the stored form", || default(decode(parse())), form);
    measure("hold against the rules", whole, |pod| rules::errors(kind, &pod, None, Part::Content));
    measure("validate", whole, |pod| strategy(kind).validate(&pod));
    measure("note who owns what", whole, track);
    measure("write", || track(whole()), |pod| json::to_vec(&pod));
    measure("read what is stored", || (), |()| read());
    measure("drop", read, drop);
    let labelled = |mut pod: Value| {
        pod.set(&["metadata", "labels", "more"], "yes");
        pod
    };
    let (before, after) = (read(), labelled(read()));
    measure(
        "note who owns a label",
        || after.clone(),
        |mut pod| {
            managed::track(schema, ty, &before, &mut pod, &manager, "2026-01-01T00:00:01Z");
            pod
        },
    );
}
