//! A plugin from its registration to a container's configuration, over real sockets.

use std::collections::BTreeMap;

use fram_cri::ContainerConfig;
use fram_machinery::object;
use futures_util::StreamExt;
use parking_lot::Mutex;

use super::super::messages::{
    AllocateRequest, AllocateResponse, ContainerAllocateResponse, Device, DeviceIds, DevicePluginOptions, DeviceSpec, ListAndWatchResponse,
    PreferredAllocationRequest, PreferredAllocationResponse,
};
use super::*;

const RESOURCE: &str = "example.com/gpu";

/// A plugin with three devices, of which it prefers the last ones.
#[derive(Default)]
struct Plugin {
    said: Mutex<Vec<String>>,
    refuses: Mutex<bool>,
}

impl Service for Plugin {
    async fn call(&self, method: &str, mut call: Call) -> Result<Reply, Status> {
        let (_, name) = method.rsplit_once('/').unwrap();
        let reply = match name {
            "GetInfo" => Reply::message(&PluginInfo {
                kind: "DevicePlugin".into(),
                name: RESOURCE.into(),
                endpoint: String::new(),
                supported_versions: vec!["v1beta1".into()],
            }),
            "NotifyRegistrationStatus" => {
                let status: RegistrationStatus = call.message().await?;
                self.said.lock().push(format!("registered {}", status.plugin_registered));
                Reply::message(&Empty {})
            }
            "GetDevicePluginOptions" => {
                Reply::message(&DevicePluginOptions { pre_start_required: true, get_preferred_allocation_available: true })
            }
            "ListAndWatch" => {
                let device = |id: &str| Device { id: id.into(), health: "Healthy".into(), topology: None };
                let told = ListAndWatchResponse { devices: ["a", "b", "c"].map(device).into() };
                Reply::Stream(futures_util::stream::iter([Ok(told.encode())]).chain(futures_util::stream::pending()).boxed())
            }
            "GetPreferredAllocation" => {
                let mut request: PreferredAllocationRequest = call.message().await?;
                let mut asked = request.containers.remove(0);
                asked.available.sort();
                let ids = asked.available.split_off(asked.available.len() - usize::try_from(asked.size).unwrap());
                Reply::message(&PreferredAllocationResponse { containers: vec![DeviceIds { ids }] })
            }
            "Allocate" if *self.refuses.lock() => return Err(Status::new(server::INVALID_ARGUMENT, "not today")),
            "Allocate" => {
                let request: AllocateRequest = call.message().await?;
                let ids = &request.containers[0].ids;
                self.said.lock().push(format!("allocate {}", ids.join(",")));
                let answer = ContainerAllocateResponse {
                    envs: BTreeMap::from([("GPUS".to_string(), ids.join(","))]),
                    devices: vec![DeviceSpec {
                        container_path: "/dev/gpu".into(),
                        host_path: "/dev/null".into(),
                        permissions: "rw".into(),
                    }],
                    ..Default::default()
                };
                Reply::message(&AllocateResponse { containers: vec![answer] })
            }
            "PreStartContainer" => {
                self.said.lock().push("start".into());
                Reply::message(&Empty {})
            }
            _ => return Err(Status::unknown_method(method)),
        };
        Ok(reply)
    }
}

struct Rig {
    dir: tempfile::TempDir,
    registry: Arc<Registry>,
    plugin: Arc<Plugin>,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let devices = Arc::new(DeviceManager::open(dir.path()));
        let dra = crate::dra::tests::manager(dir.path());
        let registry = Arc::new(Registry { devices, dra, tasks: TaskTracker::new(), stop: CancellationToken::new() });
        Self { dir, registry, plugin: Arc::default() }
    }

    /// The plugin, until the token that is returned is cancelled.
    fn plug(&self, socket: &Path) -> CancellationToken {
        let stop = self.registry.stop.child_token();
        let listener = server::listen(socket).unwrap();
        // Its end is sudden.
        let options = ServerOptions { drain: std::time::Duration::ZERO, ..ServerOptions::default() };
        self.registry.tasks.spawn(server::serve(listener, self.plugin.clone(), options, stop.clone()));
        stop
    }

    async fn until(&self, healthy: usize) {
        let mut changes = self.registry.devices.subscribe();
        let wait = async {
            while self.registry.devices.amounts().get(RESOURCE).map(|a| a.1) != Some(healthy) {
                changes.changed().await.unwrap();
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), wait).await.unwrap();
    }
}

fn pod(uid: &str, count: i64) -> fram_machinery::Value {
    object!({ "metadata": { "uid": uid }, "spec": { "containers": [{ "name": "c", "resources": { "limits": { "example.com/gpu": count } } }] } })
}

#[tokio::test]
async fn a_plugin_registers_and_its_devices_reach_a_container_once() {
    let rig = Rig::new();
    let devices = rig.registry.devices.clone();
    let _plugin = rig.plug(&devices.dir().join("gpu.sock"));
    let service = rig.registry.clone();
    let listener = server::listen(&devices.dir().join("kubelet.sock")).unwrap();
    rig.registry.tasks.spawn(server::serve(listener, service, ServerOptions::default(), rig.registry.stop.clone()));
    let kubelet = UnixEndpoint::new(devices.dir().join("kubelet.sock"), MAX_MESSAGE).channel().await.unwrap();
    let request = |version: &str, endpoint: &str, resource: &str| RegisterRequest {
        version: version.into(),
        endpoint: endpoint.into(),
        resource_name: resource.into(),
        options: None,
    };
    let register = |r: RegisterRequest| {
        let kubelet = kubelet.clone();
        async move { kubelet.unary("/v1beta1.Registration/Register", &r.encode()).await }
    };
    for wrong in [request("v1", "gpu.sock", RESOURCE), request(VERSION, "../gpu.sock", RESOURCE), request(VERSION, "gpu.sock", "cpu")] {
        assert!(register(wrong).await.is_err());
    }
    register(request(VERSION, "gpu.sock", RESOURCE)).await.unwrap();
    rig.until(3).await;
    // What a plugin refuses, it is asked for again, and others have what it did not give.
    *rig.plugin.refuses.lock() = true;
    devices.reserve(&pod("0", 1), &BTreeMap::new()).unwrap();
    let refused = devices.allocate("0").await.unwrap_err();
    assert!(refused.is_refusal() && refused.to_string().contains("not today"), "{refused}");
    devices.release("0");
    *rig.plugin.refuses.lock() = false;
    devices.reserve(&pod("1", 2), &BTreeMap::new()).unwrap();
    devices.allocate("1").await.unwrap();
    let well = |id: &str| object!({ "resourceID": id, "health": "Healthy" });
    assert_eq!(devices.health_of("1", "c"), [object!({ "name": RESOURCE, "resources": [(well("b")), (well("c"))] })]);
    assert!(devices.health_of("1", "d").is_empty() && devices.holders().contains("1"));
    assert_eq!(devices.reserve(&pod("2", 2), &BTreeMap::new()).unwrap_err().0, "UnexpectedAdmissionError");
    for _ in 0..2 {
        let mut config = ContainerConfig::default();
        devices.prepare("1", "c", &mut config).await.unwrap();
        assert_eq!((config.envs[0].value.as_str(), config.devices[0].container_path.as_str()), ("b,c", "/dev/gpu"));
    }
    assert_eq!(*rig.plugin.said.lock(), ["allocate b,c", "start", "start"]);
    // Another kubelet knows who has what, and what the plugin said.
    let again = DeviceManager::open(rig.dir.path());
    let mut config = ContainerConfig::default();
    again.prepare("1", "c", &mut config).await.unwrap();
    assert_eq!(config.envs[0].value, "b,c");
    rig.registry.stop.cancel();
}

#[tokio::test]
async fn a_plugin_in_the_registry_is_asked_and_its_devices_are_unhealthy_when_it_is_gone() {
    let rig = Rig::new();
    let dir = rig.dir.path().join("plugins_registry");
    rig.registry.tasks.spawn(follow(rig.registry.clone(), dir.clone()));
    let plugin = rig.plug(&dir.join("gpu.sock"));
    rig.until(3).await;
    assert_eq!(rig.plugin.said.lock().first().map(String::as_str), Some("registered true"));
    plugin.cancel();
    rig.until(0).await;
    assert_eq!(rig.registry.devices.amounts()[RESOURCE], (3, 0));
    // It comes back under the same name, and then in a folder of its own.
    let plugin = rig.plug(&dir.join("gpu.sock"));
    rig.until(3).await;
    plugin.cancel();
    rig.until(0).await;
    std::fs::create_dir(dir.join("gpu")).unwrap();
    let _plugin = rig.plug(&dir.join("gpu/gpu.sock"));
    rig.until(3).await;
    rig.registry.stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn devices_of_a_plugin_that_does_not_come_back_are_no_capacity_any_more() {
    let rig = Rig::new();
    let socket = rig.dir.path().join("gpu.sock");
    let plugin = rig.plug(&socket);
    let following = rig.registry.tasks.spawn(rig.registry.devices.clone().follow(RESOURCE.to_string(), socket, rig.registry.stop.clone()));
    rig.until(3).await;
    plugin.cancel();
    rig.until(0).await;
    let known = || rig.registry.devices.amounts()[RESOURCE];
    assert_eq!(known(), (3, 0));
    let mut changes = rig.registry.devices.subscribe();
    changes.changed().await.unwrap();
    assert_eq!(known(), (0, 0));
    // The same after a restart in between.
    let again = DeviceManager::open(rig.dir.path());
    assert_eq!(again.amounts()[RESOURCE], (3, 0));
    tokio::time::advance(std::time::Duration::from_secs(300)).await;
    assert_eq!(again.amounts()[RESOURCE], (0, 0));
    following.await.unwrap();
    rig.registry.stop.cancel();
}
