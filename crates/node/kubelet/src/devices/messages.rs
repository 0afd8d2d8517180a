//! The messages of device plugins (v1beta1), plugin registration (v1) and pod resources (v1), after upstream's api.proto files.

use std::collections::BTreeMap;

use fram_grpc::messages;

messages! {
    pub(crate) Empty {}
    pub(crate) DevicePluginOptions { pre_start_required: bool = 1, get_preferred_allocation_available: bool = 2 }
    pub(crate) RegisterRequest { version: String = 1, endpoint: String = 2, resource_name: String = 3, options: Option<DevicePluginOptions> = 4 }
    pub(crate) NumaNode { id: i64 = 1 }
    pub(crate) TopologyInfo { nodes: Vec<NumaNode> = 1 }
    pub(crate) Device { id: String = 1, health: String = 2, topology: Option<TopologyInfo> = 3 }
    pub(crate) ListAndWatchResponse { devices: Vec<Device> = 1 }
    /// Of allocations and of what is done before a container starts: the ids are the first field of each.
    pub(crate) DeviceIds { ids: Vec<String> = 1 }
    pub(crate) AllocateRequest { containers: Vec<DeviceIds> = 1 }
    pub(crate) Named { name: String = 1 }
    pub(crate) PluginMount { container_path: String = 1, host_path: String = 2, read_only: bool = 3 }
    pub(crate) DeviceSpec { container_path: String = 1, host_path: String = 2, permissions: String = 3 }
    pub(crate) ContainerAllocateResponse {
        envs: BTreeMap<String, String> = 1,
        mounts: Vec<PluginMount> = 2,
        devices: Vec<DeviceSpec> = 3,
        annotations: BTreeMap<String, String> = 4,
        cdi_devices: Vec<Named> = 5,
    }
    pub(crate) AllocateResponse { containers: Vec<ContainerAllocateResponse> = 1 }
    pub(crate) PreferredRequest { available: Vec<String> = 1, must_include: Vec<String> = 2, size: i32 = 3 }
    pub(crate) PreferredAllocationRequest { containers: Vec<PreferredRequest> = 1 }
    pub(crate) PreferredAllocationResponse { containers: Vec<DeviceIds> = 1 }

    pub(crate) PluginInfo { kind: String = 1, name: String = 2, endpoint: String = 3, supported_versions: Vec<String> = 4 }
    pub(crate) RegistrationStatus { plugin_registered: bool = 1, error: String = 2 }

    pub(crate) ContainerDevices { resource_name: String = 1, device_ids: Vec<String> = 2, topology: Option<TopologyInfo> = 3 }
    pub(crate) ContainerMemory { memory_type: String = 1, size: u64 = 2, topology: Option<TopologyInfo> = 3 }
    pub(crate) AllocatableResourcesResponse { devices: Vec<ContainerDevices> = 1, cpu_ids: Vec<i64> = 2, memory: Vec<ContainerMemory> = 3 }
    pub(crate) ContainerResources {
        name: String = 1,
        devices: Vec<ContainerDevices> = 2,
        cpu_ids: Vec<i64> = 3,
        memory: Vec<ContainerMemory> = 4,
        dynamic_resources: Vec<DynamicResource> = 5,
    }
    pub(crate) ClaimResource {
        cdi_devices: Vec<Named> = 1,
        driver_name: String = 2,
        pool_name: String = 3,
        device_name: String = 4,
        share_id: String = 5,
    }
    pub(crate) DynamicResource { claim_name: String = 2, claim_namespace: String = 3, claim_resources: Vec<ClaimResource> = 4 }
    pub(crate) PodResources { name: String = 1, namespace: String = 2, containers: Vec<ContainerResources> = 3 }
    pub(crate) ListPodResourcesResponse { pod_resources: Vec<PodResources> = 1 }
    pub(crate) GetPodResourcesRequest { pod_name: String = 1, pod_namespace: String = 2 }
    pub(crate) GetPodResourcesResponse { pod_resources: Option<PodResources> = 1 }
}
