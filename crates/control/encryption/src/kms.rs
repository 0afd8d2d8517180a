//! Keys that a key management service holds, by its API v2 (KEP-3299): the service encrypts a seed, values are encrypted with
//! keys that are derived from the seed, and the encrypted seed stands beside each value. A thread of its own asks the service for its
//! health and key; writing never waits for it.

mod grpc;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc;

use crate::Changed;
use crate::provider::{CryptError, Gcm};
use fram_grpc::GrpcError;
use fram_grpc::wire::{Field, Malformed, Writer, fields};
use grpc::{CallError, Endpoint};

#[derive(Debug, thiserror::Error)]
pub(crate) enum KmsError {
    #[error("KMS {0:?} has given no key to write with: {1}")]
    NoKey(String, String),
    #[error("the key of KMS {0:?} has expired: {1}")]
    Expired(String, String),
    #[error("KMS {0:?} failed to decrypt the seed: {1}")]
    Decrypt(String, String),
    #[error("the envelope is malformed")]
    Malformed,
    #[error("a key cannot be derived")]
    Derive,
    #[error("the thread of KMS {0:?} has ended")]
    Ended(String),
    #[error("cannot start the thread of KMS {0:?}: {1}")]
    Start(String, std::io::Error),
}

impl From<Malformed> for KmsError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// How often a healthy service is asked, and one that is not; see kmsv2PluginHealthzPositiveInterval.
const HEALTHY: Duration = Duration::from_secs(60);
const UNHEALTHY: Duration = Duration::from_secs(10);
/// How long a key may write after the service last confirmed it; see kmsv2PluginWriteDEKSourceMaxTTL.
const LIFETIME: Duration = Duration::from_secs(180);
const SEED: usize = 32;
const INFO: usize = 32;
/// See KeyIDMaxSize and encryptedDEKSourceMaxSize.
const MAX_KEY_ID: usize = 1024;
const MAX_SOURCE: usize = 1024;
const MAX_ANNOTATIONS: usize = 32 * 1024;

/// An EncryptedObject: what stands on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Envelope {
    data: Vec<u8>,
    key_id: String,
    source: Vec<u8>,
    annotations: BTreeMap<String, Vec<u8>>,
    /// 1 where the source is a seed, 0 where it is the key itself.
    source_type: u64,
}

impl Envelope {
    fn encode(&self) -> Vec<u8> {
        let out = Writer::default().bytes(1, &self.data).bytes(2, self.key_id.as_bytes()).bytes(3, &self.source);
        out.map(4, &self.annotations).number(5, self.source_type).0
    }

    fn decode(bytes: &[u8]) -> Result<Self, KmsError> {
        let mut out = Self::default();
        for field in fields(bytes) {
            match field? {
                (1, value) => out.data = value.bytes()?.to_vec(),
                (2, value) => out.key_id = value.text()?,
                (3, value) => out.source = value.bytes()?.to_vec(),
                (4, value) => out.annotations.extend([value.entry()?]),
                (5, Field::Number(n)) => out.source_type = n,
                _ => {}
            }
        }
        let complete = !out.data.is_empty() && !out.key_id.is_empty() && !out.source.is_empty() && out.source_type <= 1;
        if complete { Ok(out) } else { Err(KmsError::Malformed) }
    }

    /// By what a decrypted source is remembered.
    fn cache_key(&self) -> Vec<u8> {
        Self { data: Vec::new(), ..self.clone() }.encode()
    }
}

/// The seed that is written with, and the service's word for it.
struct Current {
    seed: [u8; SEED],
    envelope: Envelope,
    expires: Instant,
}

/// A key management service.
pub(crate) struct Provider {
    name: String,
    shared: Arc<Shared>,
    jobs: mpsc::UnboundedSender<Job>,
}

#[derive(Default)]
struct Shared {
    current: RwLock<Option<Current>>,
    /// What the service decrypted: seeds and keys by their envelopes.
    sources: Mutex<HashMap<Vec<u8>, Arc<Vec<u8>>>>,
    /// What it did not decrypt since the last probe, so that a thousand values do not wait a thousand times.
    undecrypted: Mutex<HashMap<Vec<u8>, Undecrypted>>,
    /// None before it was first asked.
    failure: RwLock<Option<String>>,
}

struct Undecrypted {
    why: String,
    /// What the thread tries again, without the value's data.
    envelope: Envelope,
}

/// What is asked of the thread; it answers over a channel, for those who block.
enum Job {
    Probe(std::sync::mpsc::Sender<()>),
    Decrypt(Box<Envelope>, std::sync::mpsc::Sender<Result<Vec<u8>, CallError>>),
}

impl Provider {
    /// Starts the thread and waits until it has asked the service once.
    pub(crate) fn start(name: &str, socket: &str, timeout: Duration, changed: Arc<RwLock<Option<Changed>>>) -> Result<Self, KmsError> {
        let (jobs, received) = mpsc::unbounded_channel();
        let shared = Arc::<Shared>::default();
        let failed = |e| KmsError::Start(name.into(), e);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let worker = Worker { name: name.into(), endpoint: Endpoint::new(PathBuf::from(socket), timeout), shared: shared.clone(), changed };
        std::thread::Builder::new().name("kms".into()).spawn(move || runtime.block_on(worker.run(received))).map_err(failed)?;
        let provider = Self { name: name.into(), shared, jobs };
        let (answer, answered) = std::sync::mpsc::channel();
        provider.ask(Job::Probe(answer))?;
        answered.recv().map_err(|_| KmsError::Ended(name.into()))?;
        if let Err(error) = provider.health() {
            tracing::warn!(name, error, "a key management service is not healthy");
        }
        Ok(provider)
    }

    fn ask(&self, job: Job) -> Result<(), KmsError> {
        self.jobs.send(job).map_err(|_| KmsError::Ended(self.name.clone()))
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn health(&self) -> Result<(), String> {
        match &*self.shared.failure.read() {
            Some(failure) => Err(failure.clone()),
            None => Ok(()),
        }
    }

    pub(crate) fn seal(&self, key: &str, value: &[u8]) -> Result<Vec<u8>, CryptError> {
        self.seal_at(Instant::now(), key, value)
    }

    /// The same for a value that is stored already: its key may have expired, and is no worse than the one that it was sealed with.
    pub(crate) fn seal_again(&self, key: &str, value: &[u8]) -> Result<Vec<u8>, CryptError> {
        let expires = self.shared.current.read().as_ref().map(|current| current.expires);
        self.seal_at(expires.unwrap_or_else(Instant::now), key, value)
    }

    fn seal_at(&self, now: Instant, key: &str, value: &[u8]) -> Result<Vec<u8>, CryptError> {
        let current = self.shared.current.read();
        let why = || self.health().err().unwrap_or_default();
        let current = current.as_ref().ok_or_else(|| KmsError::NoKey(self.name.clone(), why()))?;
        if now > current.expires {
            return Err(KmsError::Expired(self.name.clone(), why()).into());
        }
        let info: [u8; INFO] = rand::random();
        let mut data = info.to_vec();
        data.extend(derived(&current.seed, &info)?.seal(key.as_bytes(), value)?);
        Ok(Envelope { data, ..current.envelope.clone() }.encode())
    }

    /// The value, and whether the service has another key by now.
    pub(crate) fn open(&self, key: &str, sealed: &[u8]) -> Result<(Vec<u8>, bool), CryptError> {
        let envelope = Envelope::decode(sealed)?;
        let source = self.source(&envelope)?;
        let value = if envelope.source_type == 1 {
            let (info, data) = envelope.data.split_first_chunk::<INFO>().ok_or(CryptError::Short)?;
            derived(&source, info)?.open(key.as_bytes(), data)?
        } else {
            Gcm::new(&source)?.open(key.as_bytes(), &envelope.data)?
        };
        let current = self.shared.current.read();
        let stale =
            current.as_ref().is_some_and(|c| c.envelope.key_id != envelope.key_id || c.envelope.source_type != envelope.source_type);
        Ok((value, stale))
    }

    /// As if the service had not been heard of for longer than a key may write.
    #[cfg(test)]
    pub(crate) fn expire(&self) {
        if let Some(current) = self.shared.current.write().as_mut() {
            current.expires = Instant::now() - Duration::from_secs(1);
        }
    }

    fn source(&self, envelope: &Envelope) -> Result<Arc<Vec<u8>>, KmsError> {
        let cache_key = envelope.cache_key();
        if let Some(known) = self.shared.sources.lock().get(&cache_key) {
            return Ok(known.clone());
        }
        let failed = |why: String| KmsError::Decrypt(self.name.clone(), why);
        if let Some(known) = self.shared.undecrypted.lock().get(&cache_key) {
            return Err(failed(known.why.clone()));
        }
        let (answer, answered) = std::sync::mpsc::channel();
        let envelope = Envelope { data: Vec::new(), ..envelope.clone() };
        self.ask(Job::Decrypt(Box::new(envelope.clone()), answer))?;
        let source = answered.recv().map_err(|_| KmsError::Ended(self.name.clone()))?;
        let source = source.map_err(|error| {
            let why = error.to_string();
            self.shared.undecrypted.lock().insert(cache_key.clone(), Undecrypted { why: why.clone(), envelope });
            failed(why)
        })?;
        let source = Arc::new(source);
        self.shared.sources.lock().insert(cache_key, source.clone());
        Ok(source)
    }
}

/// The cipher for one value: HKDF-Expand of the seed; see upstream's NewHKDFExtendedNonceGCMTransformer.
fn derived(seed: &[u8], info: &[u8]) -> Result<Gcm, CryptError> {
    struct Length;
    impl ring::hkdf::KeyType for Length {
        fn len(&self) -> usize {
            SEED
        }
    }
    if seed.len() < SEED {
        return Err(CryptError::Key);
    }
    let mut key = [0; SEED];
    let prk = ring::hkdf::Prk::new_less_safe(ring::hkdf::HKDF_SHA256, seed);
    let expanded = prk.expand(&[info], Length).and_then(|okm| okm.fill(&mut key));
    expanded.map_err(|_| KmsError::Derive)?;
    Gcm::new(&key)
}

/// The thread's side.
struct Worker {
    name: String,
    endpoint: Endpoint,
    shared: Arc<Shared>,
    changed: Arc<RwLock<Option<Changed>>>,
}

impl Worker {
    /// Works until the provider is gone.
    async fn run(self, mut jobs: mpsc::UnboundedReceiver<Job>) {
        let mut next = None;
        loop {
            let rest = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                job = jobs.recv() => match job {
                    None => return,
                    Some(Job::Decrypt(envelope, answer)) => {
                        let decrypted = self.decrypt(&envelope).await;
                        if decrypted.is_err() {
                            let soon = tokio::time::Instant::now() + UNHEALTHY;
                            next = next.map(|next| soon.min(next));
                        }
                        // Who asked may be gone, and then needs no answer.
                        let _ = answer.send(decrypted);
                    }
                    Some(Job::Probe(answer)) => {
                        next = Some(self.probe().await);
                        let _ = answer.send(());
                    }
                },
                () = rest => next = Some(self.probe().await),
            }
        }
    }

    /// Asks for health and key; returns when to ask again.
    async fn probe(&self) -> tokio::time::Instant {
        let outcome = self.refresh().await;
        let pause = if outcome.is_ok() { HEALTHY } else { UNHEALTHY };
        let failure =
            outcome.err().map(|why| format!("failed to perform status section of the healthz check for KMS Provider {}: {why}", self.name));
        let healthy = failure.is_none();
        *self.shared.failure.write() = failure;
        if healthy && self.changed.read().is_some() && self.retry().await {
            tracing::info!(name = self.name, "the key management service decrypts what it could not: values are read anew");
            self.tell();
        }
        tokio::time::Instant::now() + pause
    }

    /// Tries again what could not be decrypted, here and not where values are read and written; whether any of it can be now.
    async fn retry(&self) -> bool {
        let missed: Vec<_> = self.shared.undecrypted.lock().iter().map(|(key, missed)| (key.clone(), missed.envelope.clone())).collect();
        let mut any = false;
        for (key, envelope) in missed {
            match self.decrypt(&envelope).await {
                Ok(source) => {
                    self.shared.sources.lock().insert(key.clone(), Arc::new(source));
                    self.shared.undecrypted.lock().remove(&key);
                    any = true;
                }
                Err(CallError::Grpc(GrpcError::Status { .. })) => {}
                // Who does not answer at all is not asked again now.
                Err(_) => break,
            }
        }
        any
    }

    async fn refresh(&self) -> Result<(), String> {
        let (mut version, mut health, mut key_id) = (String::new(), String::new(), String::new());
        for field in fields(&self.endpoint.call("Status", Vec::new()).await.map_err(|e| e.to_string())?) {
            match field.map_err(|e| e.to_string())? {
                (1, value) => version = value.text().map_err(|e| e.to_string())?,
                (2, value) => health = value.text().map_err(|e| e.to_string())?,
                (3, value) => key_id = value.text().map_err(|e| e.to_string())?,
                _ => {}
            }
        }
        if health != "ok" {
            return Err(format!("got unexpected healthz status: {health}"));
        }
        if !matches!(version.as_str(), "v2" | "v2beta1") {
            return Err(format!("expected KMSv2 API version v2, got {version}"));
        }
        if key_id.is_empty() || key_id.len() > MAX_KEY_ID {
            return Err(format!("keyID is empty or longer than {MAX_KEY_ID} bytes"));
        }
        if let Some(current) = self.shared.current.write().as_mut().filter(|c| c.envelope.key_id == key_id) {
            current.expires = Instant::now() + LIFETIME;
            return Ok(());
        }
        let seed: [u8; SEED] = rand::random();
        let envelope = self.encrypt(&seed).await?;
        if envelope.key_id != key_id {
            // Upstream's plugins may change keys between the two calls; the next probe sees which one stays.
            return Err("the key ID of the encrypted seed is not that of the status".into());
        }
        self.shared.sources.lock().insert(envelope.cache_key(), Arc::new(seed.to_vec()));
        let former = self.shared.current.write().replace(Current { seed, envelope, expires: Instant::now() + LIFETIME });
        if former.is_some() {
            tracing::info!(name = self.name, "the key management service has another key: values are written anew");
            self.tell();
        }
        Ok(())
    }

    /// Has the store look at its values again.
    fn tell(&self) {
        let tell = self.changed.read().clone();
        if let Some(tell) = tell {
            tell();
        }
    }

    async fn encrypt(&self, seed: &[u8]) -> Result<Envelope, String> {
        let uid = uuid::Uuid::new_v4().to_string();
        let request = Writer::default().bytes(1, seed).bytes(2, uid.as_bytes()).0;
        let mut envelope = Envelope { source_type: 1, ..Default::default() };
        for field in fields(&self.endpoint.call("Encrypt", request).await.map_err(|e| e.to_string())?) {
            match field.map_err(|e| e.to_string())? {
                (1, value) => envelope.source = value.bytes().map_err(|e| e.to_string())?.to_vec(),
                (2, value) => envelope.key_id = value.text().map_err(|e| e.to_string())?,
                (3, value) => envelope.annotations.extend([value.entry().map_err(|e| e.to_string())?]),
                _ => {}
            }
        }
        let annotations: usize = envelope.annotations.iter().map(|(k, v)| k.len() + v.len()).sum();
        if envelope.source.is_empty() || envelope.source.len() > MAX_SOURCE || annotations > MAX_ANNOTATIONS {
            return Err("the encrypted seed is empty or too long".into());
        }
        Ok(envelope)
    }

    async fn decrypt(&self, envelope: &Envelope) -> Result<Vec<u8>, CallError> {
        let uid = uuid::Uuid::new_v4().to_string();
        let request = Writer::default().bytes(1, &envelope.source).bytes(2, uid.as_bytes()).bytes(3, envelope.key_id.as_bytes());
        let answer = self.endpoint.call("Decrypt", request.map(4, &envelope.annotations).0).await?;
        let plain = fields(&answer).filter_map(Result::ok).find(|(number, _)| *number == 1).and_then(|(_, value)| value.bytes().ok());
        plain.map(<[u8]>::to_vec).ok_or(CallError::Grpc(fram_grpc::GrpcError::Malformed))
    }
}

#[cfg(test)]
pub(crate) mod testing;
