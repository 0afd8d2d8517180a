//! Names of the resources that Fram's own components use.

use std::borrow::Cow;

/// A resource by group, version and plural name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Resource {
    pub group: Cow<'static, str>,
    pub version: Cow<'static, str>,
    pub plural: Cow<'static, str>,
}

impl Resource {
    pub const fn new(group: &'static str, version: &'static str, plural: &'static str) -> Self {
        Self { group: Cow::Borrowed(group), version: Cow::Borrowed(version), plural: Cow::Borrowed(plural) }
    }

    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_string() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `/api/v1` or `/apis/apps/v1`.
    pub fn root_path(&self) -> String {
        if self.group.is_empty() { format!("/api/{}", self.version) } else { format!("/apis/{}/{}", self.group, self.version) }
    }
}

impl std::fmt::Display for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.plural)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        Ok(())
    }
}

macro_rules! resources {
    ($($name:ident = $group:literal $version:literal $plural:literal;)*) => {
        $(pub const $name: Resource = Resource::new($group, $version, $plural);)*
    };
}

resources! {
    PODS = "" "v1" "pods";
    SERVICES = "" "v1" "services";
    ENDPOINTS = "" "v1" "endpoints";
    NODES = "" "v1" "nodes";
    NAMESPACES = "" "v1" "namespaces";
    CONFIG_MAPS = "" "v1" "configmaps";
    SECRETS = "" "v1" "secrets";
    SERVICE_ACCOUNTS = "" "v1" "serviceaccounts";
    EVENTS = "" "v1" "events";
    PERSISTENT_VOLUMES = "" "v1" "persistentvolumes";
    VOLUME_ATTRIBUTES_CLASSES = "storage.k8s.io" "v1" "volumeattributesclasses";
    PERSISTENT_VOLUME_CLAIMS = "" "v1" "persistentvolumeclaims";
    REPLICATION_CONTROLLERS = "" "v1" "replicationcontrollers";
    RESOURCE_QUOTAS = "" "v1" "resourcequotas";
    LIMIT_RANGES = "" "v1" "limitranges";
    DEPLOYMENTS = "apps" "v1" "deployments";
    REPLICA_SETS = "apps" "v1" "replicasets";
    STATEFUL_SETS = "apps" "v1" "statefulsets";
    DAEMON_SETS = "apps" "v1" "daemonsets";
    CONTROLLER_REVISIONS = "apps" "v1" "controllerrevisions";
    HORIZONTAL_POD_AUTOSCALERS = "autoscaling" "v2" "horizontalpodautoscalers";
    JOBS = "batch" "v1" "jobs";
    CRON_JOBS = "batch" "v1" "cronjobs";
    ENDPOINT_SLICES = "discovery.k8s.io" "v1" "endpointslices";
    API_SERVICES = "apiregistration.k8s.io" "v1" "apiservices";
    LEASES = "coordination.k8s.io" "v1" "leases";
    PRIORITY_CLASSES = "scheduling.k8s.io" "v1" "priorityclasses";
    RUNTIME_CLASSES = "node.k8s.io" "v1" "runtimeclasses";
    CSI_DRIVERS = "storage.k8s.io" "v1" "csidrivers";
    CSI_NODES = "storage.k8s.io" "v1" "csinodes";
    CSI_STORAGE_CAPACITIES = "storage.k8s.io" "v1" "csistoragecapacities";
    STORAGE_CLASSES = "storage.k8s.io" "v1" "storageclasses";
    DEVICE_CLASSES = "resource.k8s.io" "v1" "deviceclasses";
    RESOURCE_CLAIMS = "resource.k8s.io" "v1" "resourceclaims";
    RESOURCE_CLAIM_TEMPLATES = "resource.k8s.io" "v1" "resourceclaimtemplates";
    RESOURCE_SLICES = "resource.k8s.io" "v1" "resourceslices";
    SERVICE_CIDRS = "networking.k8s.io" "v1" "servicecidrs";
    IP_ADDRESSES = "networking.k8s.io" "v1" "ipaddresses";
    POD_DISRUPTION_BUDGETS = "policy" "v1" "poddisruptionbudgets";
    POD_GROUPS = "scheduling.k8s.io" "v1alpha2" "podgroups";
    CLUSTER_TRUST_BUNDLES = "certificates.k8s.io" "v1beta1" "clustertrustbundles";
    CLUSTER_TRUST_BUNDLES_ALPHA = "certificates.k8s.io" "v1alpha1" "clustertrustbundles";
    POD_CERTIFICATE_REQUESTS = "certificates.k8s.io" "v1beta1" "podcertificaterequests";
    ROLES = "rbac.authorization.k8s.io" "v1" "roles";
    ROLE_BINDINGS = "rbac.authorization.k8s.io" "v1" "rolebindings";
    CLUSTER_ROLES = "rbac.authorization.k8s.io" "v1" "clusterroles";
    CLUSTER_ROLE_BINDINGS = "rbac.authorization.k8s.io" "v1" "clusterrolebindings";
}
