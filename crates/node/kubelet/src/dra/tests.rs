//! A driver from its registration to what a container gets, over real sockets, with an API server of one claim.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use fram_client::{Call as ApiCall, Reply as ApiReply, Transport, Verb, WatchStream};
use fram_grpc::server::{self, Call, Reply, ServerOptions, Service, Status as GrpcStatus};
use fram_machinery::object;
use tokio_util::task::TaskTracker;

use super::messages::{Claims as Asked, Prepared, PreparedEntry, Unprepared, UnpreparedEntry};
use super::*;

const DRIVER: &str = "d.example";

/// Has a claim, and counts deletions of collections.
#[derive(Default)]
pub(crate) struct Api {
    deletions: AtomicUsize,
}

#[async_trait]
impl Transport for Api {
    async fn call(&self, call: ApiCall) -> Result<ApiReply, Status> {
        match call.verb {
            Verb::Get => Ok(ApiReply::Object(Arc::new(object!({
                "metadata": { "namespace": (call.namespace.as_str()), "name": (call.name.as_str()), "uid": "claim-uid" },
                "status": { "reservedFor": [{ "resource": "pods", "uid": "u" }, { "resource": "pods", "uid": "v" }],
                    "allocation": { "devices": { "results": [{ "driver": DRIVER }] } } }
            })))),
            Verb::DeleteCollection { list, .. } => {
                assert_eq!(list.field_selector, format!("spec.nodeName=node,spec.driver={DRIVER}"));
                self.deletions.fetch_add(1, Ordering::Relaxed);
                Ok(ApiReply::Page(Default::default()))
            }
            other => Err(Status::internal(format!("{other:?} is not expected"))),
        }
    }

    async fn watch(&self, _: &Resource, _: &str, _: ListOptions) -> Result<WatchStream, Status> {
        Ok(Box::pin(futures_util::stream::pending()))
    }
}

pub(crate) fn manager(root: &Path) -> Arc<DraManager> {
    Arc::new(DraManager::open(Client::new(Arc::new(Api::default()), "test"), "node", root))
}

#[derive(Default)]
struct Driver {
    said: Mutex<Vec<&'static str>>,
    fails: Mutex<bool>,
}

impl Service for Driver {
    async fn call(&self, method: &str, mut call: Call) -> Result<Reply, GrpcStatus> {
        let asked: Asked = call.message().await?;
        let key = asked.claims[0].uid.clone();
        let error = if *self.fails.lock() { "not now".to_string() } else { String::new() };
        match method {
            "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodePrepareResources" => {
                self.said.lock().push("prepare");
                let device = messages::Device {
                    pool_name: "pool".into(),
                    device_name: "gpu".into(),
                    cdi_device_ids: vec!["d.example/gpu=0".into()],
                    ..Default::default()
                };
                let value = Some(Prepared { devices: vec![device], error });
                Ok(Reply::message(&PrepareResponse { claims: vec![PreparedEntry { key, value }] }))
            }
            "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodeUnprepareResources" => {
                self.said.lock().push("unprepare");
                Ok(Reply::message(&UnprepareResponse { claims: vec![UnpreparedEntry { key, value: Some(Unprepared { error }) }] }))
            }
            other => Err(GrpcStatus::unknown_method(other)),
        }
    }
}

fn pod(uid: &str) -> Value {
    object!({
        "metadata": { "namespace": "ns", "name": uid, "uid": uid },
        "spec": { "resourceClaims": [{ "name": "gpu", "resourceClaimName": "c" }],
            "containers": [{ "name": "x", "resources": { "claims": [{ "name": "gpu" }] } }] }
    })
}

#[tokio::test]
async fn what_is_allocated_is_prepared_once_for_all_pods_and_taken_back_after_the_last() {
    let dir = tempfile::tempdir().unwrap();
    let (driver, tasks, stop) = (Arc::new(Driver::default()), TaskTracker::new(), CancellationToken::new());
    let socket = dir.path().join("dra.sock");
    tasks.spawn(server::serve(server::listen(&socket).unwrap(), driver.clone(), ServerOptions::default(), stop.clone()));
    let dra = manager(dir.path());
    assert_eq!(dra.prepare(&pod("u")).await.unwrap_err().to_string(), "DRA driver d.example is not registered");
    assert!(dra.claims().is_empty() && dra.register(DRIVER, &["v1alpha1".into()], socket.clone()).is_err());
    dra.register(DRIVER, &[VERSION.into()], socket.clone()).unwrap();

    *driver.fails.lock() = true;
    let why = dra.prepare(&pod("u")).await.unwrap_err().to_string();
    assert_eq!(why, "NodePrepareResources failed for ResourceClaim c: not now");
    *driver.fails.lock() = false;
    for uid in ["u", "u", "v"] {
        dra.prepare(&pod(uid)).await.unwrap();
    }
    assert_eq!(*driver.said.lock(), ["prepare", "prepare"]);

    // Another kubelet knows what was prepared.
    let dra = manager(dir.path());
    dra.register(DRIVER, &[VERSION.into()], socket.clone()).unwrap();
    let claims = dra.claims();
    let pod_v = pod("v");
    let devices = claims::devices_of(&claims, &pod_v, &pod_v.list_at(&["spec", "containers"])[0]);
    assert_eq!(devices.iter().map(|(_, _, d)| d.cdi_ids.clone()).collect::<Vec<_>>(), [["d.example/gpu=0"]]);
    dra.unprepare("u").await.unwrap();
    *driver.fails.lock() = true;
    assert!(dra.unprepare("v").await.is_err() && !dra.claims().is_empty());
    *driver.fails.lock() = false;
    dra.unprepare("v").await.unwrap();
    dra.unprepare("v").await.unwrap();
    assert_eq!(driver.said.lock()[2..], ["unprepare", "unprepare"]);
    assert!(manager(dir.path()).claims().is_empty());
    stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn what_a_driver_offered_goes_when_it_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let api = Arc::new(Api::default());
    let dra = DraManager::open(Client::new(api.clone(), "test"), "node", dir.path());
    let socket = dir.path().join("dra.sock");
    let versions = [VERSION.to_string()];
    dra.register(DRIVER, &versions, socket.clone()).unwrap();
    let (gone, ()) = tokio::join!(dra.deregister(DRIVER, &socket), async {
        tokio::time::sleep(SLICES_STAY / 2).await;
        dra.register(DRIVER, &versions, socket.clone()).unwrap();
    });
    assert_eq!((gone, api.deletions.load(Ordering::Relaxed)), ((), 0));
    dra.deregister(DRIVER, &socket).await;
    assert_eq!(api.deletions.load(Ordering::Relaxed), 1);
}
