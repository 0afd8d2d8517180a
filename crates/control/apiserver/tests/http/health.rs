//! What the server says of itself: health checks as they are counted, its metrics, and the parts of the control plane.

use http_body_util::BodyExt;

use crate::site::{Site, object_of, request};

async fn text(site: &Site, path: &str) -> String {
    let admin = site.client("admin", &["system:masters"]);
    let response = admin.request(request("GET", path, None)).await.unwrap();
    assert_eq!(response.status(), 200, "{path}");
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn health_checks_are_counted_by_what_they_found() {
    let site = Site::start(|server| server).await;
    assert!(text(&site, "/metrics/slis").await.contains("\nprocess_start_time_seconds "), "before the first check too");
    text(&site, "/livez").await;
    text(&site, "/livez").await;
    text(&site, "/livez/etcd").await;
    let slis = text(&site, "/metrics/slis").await;
    for line in [
        "kubernetes_healthcheck{name=\"etcd\",type=\"livez\"} 1\n",
        "kubernetes_healthchecks_total{name=\"etcd\",type=\"livez\",status=\"success\"} 3\n",
        "kubernetes_healthchecks_total{name=\"ping\",type=\"livez\",status=\"success\"} 2\n",
    ] {
        assert!(slis.contains(line), "{slis}");
    }
}

#[tokio::test]
async fn what_is_told_of_each_pod_is_not_among_the_other_metrics() {
    let site = Site::start(|server| {
        let amount = prometheus_client::metrics::gauge::Gauge::<i64>::default();
        amount.set(3);
        server.show_pod_resources(|registry| registry.register("kube_pod_resource_request", "what pods ask for", amount));
        server
    })
    .await;
    assert!(text(&site, "/metrics/resources").await.contains("\nkube_pod_resource_request 3\n"));
    assert!(!text(&site, "/metrics").await.contains("kube_pod_resource_request"));
}

#[tokio::test]
async fn requests_and_the_process_are_among_the_metrics() {
    let site = Site::start(|server| server).await;
    text(&site, "/api/v1/namespaces/default/configmaps").await;
    let metrics = text(&site, "/metrics").await;
    let labels =
        "verb=\"LIST\",group=\"\",version=\"v1\",resource=\"configmaps\",subresource=\"\",scope=\"namespace\",component=\"apiserver\"";
    for line in [
        format!("apiserver_request_total{{{labels},dry_run=\"\",code=\"200\"}} 1\n"),
        format!("apiserver_request_duration_seconds_count{{{labels},dry_run=\"\"}} 1\n"),
        format!("apiserver_response_sizes_count{{{labels}}} 1\n"),
        "apiserver_current_inflight_requests{request_kind=\"readOnly\"} 1\n".to_string(),
        "process_resident_memory_bytes ".to_string(),
        "apiserver_storage_objects{resource=\"namespaces\"} 4\n".to_string(),
        "apiserver_storage_objects{resource=\"clusterroles.rbac.authorization.k8s.io\"} ".to_string(),
        "apiserver_resource_objects{group=\"\",resource=\"namespaces\"} 4\n".to_string(),
        "apiserver_storage_size_bytes{storage_cluster_id=\"etcd-0\"} ".to_string(),
        "apiserver_admission_controller_admission_duration_seconds_count{name=\"NamespaceLifecycle\",type=\"admit\",operation=\"CREATE\",rejected=\"false\"} ".to_string(),
        "kubernetes_build_info{major=\"1\",minor=\"36\",".to_string(),
    ] {
        assert!(metrics.contains(&line), "{line} is not in {metrics}");
    }
}

#[tokio::test]
async fn components_that_have_ended_are_unhealthy() {
    let site = Site::start(|server| server).await;
    let (working, over) = (tokio_util::task::TaskTracker::new(), tokio_util::task::TaskTracker::new());
    working.spawn(std::future::pending::<()>());
    site.server.show_component("scheduler", working);
    site.server.show_component("controller-manager", over);
    let admin = site.client("admin", &["system:masters"]);
    let response = admin.request(request("GET", "/api/v1/componentstatuses", None)).await.unwrap();
    assert_eq!(response.headers()["warning"], "299 - \"v1 ComponentStatus is deprecated in v1.19+\"");
    let list = object_of(response).await;
    let told: Vec<String> = list
        .list_at(&["items"])
        .iter()
        .map(|c| format!("{} {}", c.str_at(&["metadata", "name"]), c.list_at(&["conditions"])[0].str_at(&["status"])))
        .collect();
    assert_eq!(told, ["controller-manager False", "etcd-0 True", "scheduler True"]);
    let mut asked = request("GET", "/api/v1/componentstatuses", None);
    asked.headers_mut().insert("accept", "application/json;as=Table;v=v1;g=meta.k8s.io".parse().unwrap());
    let table = object_of(admin.request(asked).await.unwrap()).await;
    let cells = table.list_at(&["rows"])[2].list_at(&["cells"]).to_vec();
    assert_eq!(cells, ["scheduler", "Healthy", "ok", ""].map(fram_machinery::Value::from));
    let absent = admin.request(request("GET", "/api/v1/componentstatuses/nobody", None)).await.unwrap();
    assert_eq!(absent.status(), 404);
}
