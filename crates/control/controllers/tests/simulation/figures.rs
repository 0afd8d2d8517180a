//! What controllers show of what there is.

use fram_client::resources::{ENDPOINTS, SERVICES, STATEFUL_SETS};
use fram_machinery::object;
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;

use crate::bad_days::{Day, run, wait};
use crate::bad_input::{make, template};

#[test]
fn what_there_is_of_some_kinds_is_shown() {
    run(async {
        let day = Day::new(3).await;
        let mut registry = Registry::default();
        day.world.metrics.register(&mut registry);
        let shown = || {
            let mut out = String::new();
            text::encode(&mut out, &registry).unwrap();
            out
        };
        let set = object!({ "replicas": 2, "serviceName": "db", "selector": { "matchLabels": { "app": "db" } },
            "template": (template(object!({ "app": "db" }), "serve")) });
        make(&day.client, &STATEFUL_SETS, "db", object!({ "spec": set })).await;
        make(&day.client, &SERVICES, "outside", object!({ "spec": { "ports": [{ "port": 80 }] } })).await;
        let addresses =
            object!({ "subsets": [{ "addresses": [{ "ip": "192.0.2.7" }, { "ip": "192.0.2.8" }], "ports": [{ "port": 80 }] }] });
        make(&day.client, &ENDPOINTS, "outside", addresses).await;
        wait(60).await;
        let text = shown();
        for start in [
            "node_collector_zone_size{zone=\"\"} 3",
            "node_collector_zone_health{zone=\"\"} 100",
            "statefulset_controller_statefulset_max_unavailable{",
            "statefulset_controller_statefulset_unavailable_replicas{",
            "horizontal_pod_autoscaler_controller_num_horizontal_pod_autoscalers{} 0",
            "endpoint_slice_mirroring_controller_num_endpoint_slices{} 1",
            "endpoint_slice_mirroring_controller_endpoints_desired{} 2",
        ] {
            assert!(text.lines().any(|line| line.starts_with(start)), "{start} is not in\n{text}");
        }
        day.end().await;
    });
}
