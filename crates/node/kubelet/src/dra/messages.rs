//! The messages of DRA plugins (v1), after upstream's api.proto.

use fram_grpc::messages;

messages! {
    pub(crate) Claim { namespace: String = 1, uid: String = 2, name: String = 3 }
    /// Of both calls.
    pub(crate) Claims { claims: Vec<Claim> = 1 }
    pub(crate) Device {
        request_names: Vec<String> = 1,
        pool_name: String = 2,
        device_name: String = 3,
        cdi_device_ids: Vec<String> = 4,
        share_id: String = 5,
    }
    pub(crate) Prepared { devices: Vec<Device> = 1, error: String = 2 }
    /// An entry of a map by the claims' uids.
    pub(crate) PreparedEntry { key: String = 1, value: Option<Prepared> = 2 }
    pub(crate) PrepareResponse { claims: Vec<PreparedEntry> = 1 }
    pub(crate) Unprepared { error: String = 1 }
    pub(crate) UnpreparedEntry { key: String = 1, value: Option<Unprepared> = 2 }
    pub(crate) UnprepareResponse { claims: Vec<UnpreparedEntry> = 1 }
    pub(crate) DeviceIdentifier { pool_name: String = 1, device_name: String = 2 }
    /// Of the service v1alpha1.DRAResourceHealth, after its own api.proto.
    pub(crate) DeviceHealth {
        device: Option<DeviceIdentifier> = 1,
        health: i32 = 2,
        last_updated_time: i64 = 3,
        timeout_seconds: i64 = 4,
        message: String = 5,
    }
    pub(crate) HealthResponse { devices: Vec<DeviceHealth> = 1 }
    pub(crate) Nothing {}
}
