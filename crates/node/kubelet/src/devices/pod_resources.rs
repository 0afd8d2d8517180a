//! PodResources v1: what pods have for themselves, told on a socket to agents of the same machine. See upstream's
//! pkg/kubelet/apis/podresources and KEP-606.

use std::path::PathBuf;
use std::sync::Arc;

use fram_grpc::server::{self, Call, Reply, ServerOptions, Service, Status};
use fram_machinery::{Value, meta};
use tokio_util::sync::CancellationToken;

use super::messages::{
    AllocatableResourcesResponse, ClaimResource, ContainerDevices, ContainerMemory, ContainerResources, DynamicResource,
    GetPodResourcesRequest, GetPodResourcesResponse, ListPodResourcesResponse, Named, NumaNode, PodResources, TopologyInfo,
};
use super::table::Known;
use crate::dra::claims::{self, Claims};
use crate::kubelet::Kubelet;
use crate::pod;
use crate::resource::cpuset::CpuSet;

const NOT_FOUND: u32 = 5;

pub(crate) struct Lister {
    pub(crate) kubelet: Kubelet,
}

fn topology(nodes: &CpuSet) -> Option<TopologyInfo> {
    let nodes: Vec<NumaNode> = nodes.iter().map(|n| NumaNode { id: i64::from(n) }).collect();
    (!nodes.is_empty()).then_some(TopologyInfo { nodes })
}

fn device(resource: &str, id: &str, known: Option<&Known>) -> ContainerDevices {
    let topology = known.and_then(|k| topology(&k.nodes));
    ContainerDevices { resource_name: resource.into(), device_ids: vec![id.into()], topology }
}

fn cpu_ids(cpus: &CpuSet) -> Vec<i64> {
    cpus.iter().map(i64::from).collect()
}

/// What a container has of the pod's claims.
fn dynamic(claims: &Claims, pod: &Value, container: &Value) -> Vec<DynamicResource> {
    let mut out: Vec<DynamicResource> = Vec::new();
    for ((namespace, name), driver, device) in claims::devices_of(claims, pod, container) {
        let resource = ClaimResource {
            cdi_devices: device.cdi_ids.iter().map(|id| Named { name: id.clone() }).collect(),
            driver_name: driver.into(),
            pool_name: device.pool.clone(),
            device_name: device.name.clone(),
            share_id: device.share_id.clone(),
        };
        match out.iter_mut().find(|d| d.claim_name == *name) {
            Some(known) => known.claim_resources.push(resource),
            None => {
                out.push(DynamicResource { claim_name: name.clone(), claim_namespace: namespace.clone(), claim_resources: vec![resource] })
            }
        }
    }
    out
}

impl Lister {
    fn of_pod(&self, pod: &Value) -> PodResources {
        let ctx = &self.kubelet.ctx;
        let (uid, table, claims) = (meta::uid(pod), ctx.devices.table(), ctx.dra.claims());
        let of_container = |container: &Value| {
            let name = pod::container_name(container);
            let held = table.held.iter().filter(|((of, c, _), _)| of == uid && c == name);
            let devices = held.flat_map(|((_, _, resource), ids)| {
                let known = table.known.get(resource);
                ids.iter().map(move |id| device(resource, id, known.and_then(|k| k.get(id))))
            });
            let own = ctx.managers.assigned(uid, name).unwrap_or_default();
            let memory = own.memory.iter().map(|b| ContainerMemory {
                memory_type: b.resource.clone(),
                size: u64::try_from(b.bytes).unwrap_or(0),
                topology: topology(&b.nodes),
            });
            let dynamic_resources = dynamic(&claims, pod, container);
            let (devices, memory) = (devices.collect(), memory.collect());
            ContainerResources { name: name.into(), devices, cpu_ids: cpu_ids(&own.cpus), memory, dynamic_resources }
        };
        let containers = pod::containers(pod).iter().chain(pod::init_containers(pod).iter().filter(|c| pod::is_sidecar(c)));
        PodResources {
            name: meta::name(pod).into(),
            namespace: meta::namespace(pod).into(),
            containers: containers.map(of_container).collect(),
        }
    }

    fn allocatable(&self) -> AllocatableResourcesResponse {
        let ctx = &self.kubelet.ctx;
        let table = ctx.devices.table();
        let healthy = table.known.iter().flat_map(|(resource, devices)| devices.iter().map(move |(id, d)| (resource, id, d)));
        let devices = healthy.filter(|(_, _, d)| d.healthy).map(|(resource, id, d)| device(resource, id, Some(d))).collect();
        let nodes = &ctx.managers.hardware().nodes;
        let memory = nodes.iter().flat_map(|node| {
            node.memory.iter().map(|(kind, bytes)| ContainerMemory {
                memory_type: kind.clone(),
                size: u64::try_from(*bytes).unwrap_or(0),
                topology: Some(TopologyInfo { nodes: vec![NumaNode { id: i64::from(node.id) }] }),
            })
        });
        AllocatableResourcesResponse { devices, cpu_ids: cpu_ids(&ctx.managers.allocatable_cpus()), memory: memory.collect() }
    }
}

impl Service for Lister {
    async fn call(&self, method: &str, mut call: Call) -> Result<Reply, Status> {
        match method {
            "/v1.PodResourcesLister/List" => {
                let pod_resources = self.kubelet.active_pods().iter().map(|p| self.of_pod(p)).collect();
                Ok(Reply::message(&ListPodResourcesResponse { pod_resources }))
            }
            "/v1.PodResourcesLister/GetAllocatableResources" => Ok(Reply::message(&self.allocatable())),
            "/v1.PodResourcesLister/Get" => {
                let request: GetPodResourcesRequest = call.message().await?;
                let (namespace, name) = (&request.pod_namespace, &request.pod_name);
                let pods = self.kubelet.active_pods();
                let pod = pods.iter().find(|p| meta::namespace(p) == namespace && meta::name(p) == name);
                let pod = pod.ok_or_else(|| Status::new(NOT_FOUND, format!("pod {name} in namespace {namespace} not found")))?;
                Ok(Reply::message(&GetPodResourcesResponse { pod_resources: Some(self.of_pod(pod)) }))
            }
            other => Err(Status::unknown_method(other)),
        }
    }
}

/// Serves the socket until `stop`.
pub(crate) async fn serve(kubelet: Kubelet, socket: PathBuf, stop: CancellationToken) {
    match server::listen(&socket) {
        Ok(listener) => server::serve(listener, Arc::new(Lister { kubelet }), ServerOptions::default(), stop).await,
        Err(error) => tracing::error!(%error, "what pods have is not told to others"),
    }
}
