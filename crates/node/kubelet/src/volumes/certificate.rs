//! Certificates of pods for projected volumes: PodCertificateRequests made, followed by a watch, and made again in time. What to do is
//! decided in `state`. Nothing of it outlives the kubelet, which asks anew when it starts. See upstream's pkg/kubelet/podcertificate.

mod key;
mod state;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fram_client::resources::{NODES, POD_CERTIFICATE_REQUESTS, SERVICE_ACCOUNTS};
use fram_client::{Client, Informer, InformerOptions};
use fram_machinery::{Status, Value, meta, object};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::served;
use crate::objects::Wake;
use crate::worker::RETRY;
pub(crate) use state::Credentials;
use state::{Next, NoCredentials, Record, Told};

/// Renewals are spread over so much time; see jitterDuration.
const JITTER: Duration = Duration::from_secs(300);

/// For so long the first list may take.
const SYNC: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    #[error("podCertificate projection is not supported: the API server does not serve PodCertificateRequests")]
    NotServed,
    #[error("PodCertificateRequest informer has not yet synced")]
    NotSynced,
    #[error("while {0}: {1}")]
    Api(&'static str, Status),
    #[error("while generating keypair: {0}")]
    Key(#[from] key::KeyError),
    #[error("generating a keypair panicked")]
    Panicked,
    #[error(transparent)]
    None(#[from] NoCredentials),
}

impl CertificateError {
    /// Whether nothing will change before the pod is woken, if ever.
    pub(crate) fn is_told_of(&self) -> bool {
        matches!(self, Self::None(_) | Self::Key(_))
    }
}

/// Which source of which volume of which pod.
type Place = (String, String, usize);

/// What came of asking: credentials, when to ask again, and what is to be told.
pub(crate) struct Got {
    pub credentials: Result<Credentials, CertificateError>,
    pub due: Option<Timestamp>,
    pub told: Vec<Told>,
}

/// The certificates of all pods of the node.
pub(crate) struct PodCertificates {
    client: Client,
    node: String,
    wake: Wake,
    records: Mutex<HashMap<Place, Record>>,
    informer: tokio::sync::Mutex<Option<Informer>>,
    random: RandomState,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl PodCertificates {
    pub(crate) fn new(client: Client, node: &str, wake: Wake, tasks: TaskTracker, stop: CancellationToken) -> Self {
        let (records, informer, random) = Default::default();
        Self { client, node: node.into(), wake, records, informer, random, tasks, stop }
    }

    /// What one source shows. The pod is woken when its request changes.
    pub(crate) async fn get(&self, pod: &Value, volume: &str, index: usize, source: &Value, now: Timestamp) -> Got {
        let place = (meta::uid(pod).to_string(), volume.to_string(), index);
        let mut record = self.records.lock().get(&place).cloned().unwrap_or_default();
        let (mut told, done) = self.advance(pod, source, &place, &mut record, now).await;
        told.extend(record.complaints(now));
        let credentials = record.credentials().map_err(CertificateError::from);
        let mut due = record.due(now);
        self.records.lock().insert(place, record);
        let credentials = match (credentials, done) {
            // What there is serves until it expires.
            (Ok(credentials), Err(error)) => {
                tracing::warn!(pod = meta::key(pod), volume, %error, "a pod's certificate could not be renewed, it is tried again");
                due = Some(now + RETRY);
                Ok(credentials)
            }
            (Err(_), Err(error)) => Err(error),
            (credentials, Ok(())) => credentials,
        };
        Got { credentials, due, told }
    }

    async fn advance(
        &self,
        pod: &Value,
        source: &Value,
        place: &Place,
        record: &mut Record,
        now: Timestamp,
    ) -> (Vec<Told>, Result<(), CertificateError>) {
        let mut told = Vec::new();
        if let Next::Look(name) = record.next(now) {
            let requests = self.client.within(&POD_CERTIFICATE_REQUESTS, meta::namespace(pod));
            match requests.find(name).await {
                Ok(found) => told.extend(record.see(found.as_deref(), self.jitter(place, now))),
                Err(status) => return (told, Err(CertificateError::Api("getting PodCertificateRequest", status))),
            }
        }
        let done = match record.next(now) {
            Next::Ask => self.ask(pod, source).await.map(|(key, name)| record.asked(key, &name)),
            Next::Look(_) | Next::Nothing => Ok(()),
        };
        (told, done)
    }

    fn jitter(&self, place: &Place, now: Timestamp) -> Duration {
        let millis = u64::try_from(JITTER.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(self.random.hash_one((place, now)) % millis)
    }

    /// Makes a key and a request for it; returns the key and the request's name.
    async fn ask(&self, pod: &Value, source: &Value) -> Result<(String, String), CertificateError> {
        self.follow().await?;
        let api = |what| move |status| CertificateError::Api(what, status);
        let account = super::service_account(pod);
        let accounts = self.client.within(&SERVICE_ACCOUNTS, meta::namespace(pod));
        let account_uid = meta::uid(&*accounts.get(account).await.map_err(api("fetching service account"))?).to_string();
        let node = self.client.all(&NODES).get(&self.node).await.map_err(api("getting node object"))?;
        let kind = source.str_at(&["keyType"]).to_string();
        let proof = tokio::task::spawn_blocking(move || key::generate(&kind)).await.map_err(|_| CertificateError::Panicked)??;
        let mut request = request(pod, source, &proof.request);
        request.set(&["spec", "serviceAccountName"], account);
        request.set(&["spec", "serviceAccountUID"], account_uid);
        request.set(&["spec", "nodeName"], self.node.as_str());
        request.set(&["spec", "nodeUID"], meta::uid(&node));
        let requests = self.client.within(&POD_CERTIFICATE_REQUESTS, meta::namespace(pod));
        let made = requests.create(request).await.map_err(api("creating PodCertificateRequest"))?;
        Ok((proof.key, meta::name(&made).to_string()))
    }

    /// From now on the pods whose requests change are woken.
    async fn follow(&self) -> Result<(), CertificateError> {
        let mut informer = self.informer.lock().await;
        if informer.is_none() {
            let own = format!("spec.nodeName={}", self.node);
            let failed = |status| CertificateError::Api("listing PodCertificateRequests", status);
            if !served(&self.client, &POD_CERTIFICATE_REQUESTS, &own).await.map_err(failed)? {
                return Err(CertificateError::NotServed);
            }
            let options = InformerOptions { metadata_only: true, ..InformerOptions::fields(own) };
            let begun = Informer::start(self.client.clone(), POD_CERTIFICATE_REQUESTS, "", options, &self.tasks, self.stop.clone());
            self.tasks.spawn(wake_owners(begun.clone(), self.wake.clone()));
            *informer = Some(begun);
        }
        let Some(informer) = &*informer else { return Err(CertificateError::NotSynced) };
        match tokio::time::timeout(SYNC, informer.synced()).await {
            Ok(true) => Ok(()),
            _ => Err(CertificateError::NotSynced),
        }
    }

    pub(crate) fn forget(&self, uid: &str) {
        self.records.lock().retain(|(pod, _, _), _| pod != uid);
    }
}

async fn wake_owners(informer: Informer, wake: Wake) {
    let mut changes = informer.subscribe();
    while let Some(deltas) = changes.changed().await {
        for delta in deltas {
            delta.object().list_at(&["metadata", "ownerReferences"]).iter().for_each(|owner| wake(owner.str_at(&["uid"])));
        }
    }
}

/// A pod's request, which goes with it. Who the pod runs as and where is for the caller to add.
fn request(pod: &Value, source: &Value, stub: &[u8]) -> Value {
    let (name, uid) = (meta::name(pod), meta::uid(pod));
    let mut request = object!({
        "apiVersion": (POD_CERTIFICATE_REQUESTS.api_version()), "kind": "PodCertificateRequest",
        "metadata": {
            "namespace": (meta::namespace(pod)), "generateName": "req-",
            "ownerReferences": [{ "apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid }]
        },
        "spec": { "signerName": (source.str_at(&["signerName"])), "podName": name, "podUID": uid, "stubPKCS10Request": (STANDARD.encode(stub)) }
    });
    for (of_source, of_request) in [("maxExpirationSeconds", "maxExpirationSeconds"), ("userAnnotations", "unverifiedUserAnnotations")] {
        if let Some(value) = source.get(of_source) {
            request.set(&["spec", of_request], value.clone());
        }
    }
    request
}

/// The certificates alone: no headers, nothing between them. See cleanCertificateChain.
fn clean(chain: &str) -> String {
    super::certificates_pem(pem::parse_many(chain).unwrap_or_default().into_iter().map(pem::Pem::into_contents))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_its_pod_what_the_signer_may_read_and_how_long_it_should_last() {
        let pod = object!({ "metadata": { "namespace": "ns", "name": "p", "uid": "u" } });
        let source =
            object!({ "signerName": "a/b", "keyType": "ED25519", "maxExpirationSeconds": 3600, "userAnnotations": { "a/b": "c" } });
        let made = request(&pod, &source, b"stub");
        let owners = object!([{ "apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u" }]);
        assert_eq!(made.at(&["metadata", "ownerReferences"]), Some(&owners));
        let spec = object!({
            "signerName": "a/b", "podName": "p", "podUID": "u", "stubPKCS10Request": "c3R1Yg==", "maxExpirationSeconds": 3600,
            "unverifiedUserAnnotations": { "a/b": "c" }
        });
        assert_eq!(made.get("spec"), Some(&spec));
        assert!(request(&pod, &object!({ "signerName": "a/b" }), b"").at(&["spec", "maxExpirationSeconds"]).is_none());
    }
}
