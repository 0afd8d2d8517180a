//! Images for containers: whether to pull by the container's policy, with which credentials, and how long to wait after a
//! failure. See upstream's pkg/kubelet/images.

pub(crate) mod access;
pub(crate) mod gc;
pub(crate) mod keyring;
mod progress;
pub(crate) mod provider;
mod records;

use std::sync::Arc;
use std::time::{Duration, Instant};

use fram_client::rate::Bucket;
use fram_cri::{AuthConfig, Image, ImageError, ImageService, ImageSpec, PodSandboxConfig};
use fram_machinery::Value;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::backoff::Backoff;
use crate::clock::Clock;
use crate::config::KubeletConfig;
use crate::metrics::{Families, Took, size_range};
use access::{PullAccount, Used};
use keyring::Keyring;
use progress::Progress;
use provider::{Accounts, CredentialProviders, PodIdentity};
use records::{End, Records};

/// Why there is no image: the reason and message of the waiting container, and when a further try makes sense.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct NoImage {
    pub reason: &'static str,
    pub message: String,
    pub retry_after: Option<Duration>,
}

/// What is told of a pull while it happens.
pub(crate) trait Telling: Send + Sync {
    fn event(&self, warning: bool, reason: &'static str, message: String);
}

pub(crate) struct Images {
    service: Arc<dyn ImageService>,
    clock: Arc<dyn Clock>,
    providers: Arc<CredentialProviders>,
    accounts: Arc<dyn Accounts>,
    records: Arc<Records>,
    /// As many pulls as may be under way at once; None where nothing limits them.
    turns: Option<Semaphore>,
    /// How often one may begin; None where that is not limited either.
    rate: Option<Mutex<Bucket>>,
    families: Arc<Families>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    backoff: Backoff,
    /// The last failure of each pod's image: what is told while its back-off lasts.
    failures: std::collections::HashMap<String, (jiff::Timestamp, String)>,
}

impl Images {
    pub(crate) fn new(
        service: Arc<dyn ImageService>,
        accounts: Arc<dyn Accounts>,
        clock: Arc<dyn Clock>,
        config: &KubeletConfig,
        families: Arc<Families>,
    ) -> Self {
        let records = Arc::new(Records::new(&config.root_dir, config.image_verification.clone()));
        let turns = config.parallel_image_pulls.map(|limit| Semaphore::new(limit.get()));
        let rate = config.registry_pulls.map(|rate| Mutex::new(Bucket::new(rate, tokio::time::Instant::now())));
        let providers = config.credential_providers.clone();
        Self { service, clock, providers, accounts, records, turns, rate, families, state: Mutex::default() }
    }

    /// To be called once before anything is pulled: what a kill has cut off passes for pulled by nobody knows whom, where it is there.
    pub(crate) async fn recover(&self) {
        for image in self.on_disk(|records| records.interrupted()).await {
            // The service knows by which names an image goes that was asked for without a tag, or without a registry.
            match self.service.image_status(&ImageSpec::new(image.as_str())).await {
                Ok(Some(found)) => {
                    let now = self.now();
                    self.on_disk(move |records| records.recover(&image, &found.id, &now)).await;
                }
                // What was begun before stays so, and passes for pulled by the kubelet all the same.
                Ok(None) => {}
                Err(error) => tracing::warn!(image, %error, "whether an image was pulled that was begun is not known"),
            }
        }
    }

    /// Files are read and written where that holds nobody up.
    async fn on_disk<T: Send + 'static>(&self, work: impl FnOnce(&Records) -> T + Send + 'static) -> T {
        let records = self.records.clone();
        match tokio::task::spawn_blocking(move || work(&records)).await {
            Ok(done) => done,
            Err(failed) => std::panic::resume_unwind(failed.into_panic()),
        }
    }

    fn now(&self) -> String {
        crate::clock::time(self.clock.now())
    }

    /// The image of a container, pulled if its policy says so.
    pub(crate) async fn ensure(
        &self,
        pod_uid: &str,
        container: &Value,
        keyring: &Keyring,
        sandbox: &PodSandboxConfig,
        telling: &dyn Telling,
    ) -> Result<Image, NoImage> {
        let image = container.str_at(&["image"]);
        let spec = ImageSpec { user_specified_image: image.into(), ..ImageSpec::new(image) };
        let present = match self.service.image_status(&spec).await {
            Ok(present) => present,
            Err(error @ ImageError::InvalidReference { .. }) => {
                let message = format!("Failed to apply default image tag {image:?}: {error}");
                telling.event(true, "InspectFailed", message.clone());
                return Err(NoImage { reason: "InvalidImageName", message, retry_after: None });
            }
            Err(error) => {
                let message = format!("Failed to inspect image {image:?}: {error}");
                telling.event(true, "InspectFailed", message.clone());
                return Err(NoImage { reason: "ImageInspectError", message, retry_after: Some(crate::backoff::FIRST) });
            }
        };
        let policy = container.str_at(&["imagePullPolicy"]);
        // Somebody who may not have the image is not told that it is here.
        let present = match present.filter(|_| policy != "Always") {
            Some(present) if self.must_ask(&spec, &present.id, keyring).await => None,
            present => present,
        };
        match (policy, present) {
            ("IfNotPresent" | "Never" | "", Some(present)) => {
                telling.event(
                    false,
                    "Pulled",
                    format!("Container image {image:?} already present on machine and can be accessed by the pod"),
                );
                Ok(present)
            }
            ("Never", None) => {
                let message = format!("Container image {image:?} is not present with pull policy of Never");
                telling.event(true, "ErrImageNeverPull", message.clone());
                Err(NoImage { reason: "ErrImageNeverPull", message, retry_after: None })
            }
            // What is rare is on the heap, not in each pod's future.
            _ => Box::pin(self.pull(pod_uid, &spec, keyring, sandbox, telling)).await,
        }
    }

    /// Whether the registry has to be asked for an image that is here.
    async fn must_ask(&self, spec: &ImageSpec, id: &str, keyring: &Keyring) -> bool {
        let (image, id, now) = (spec.user_specified_image.clone(), id.to_string(), self.now());
        let secrets = keyring.secrets(&spec.image);
        let ask = |account: Option<PullAccount>| {
            let (image, id, secrets, now) = (image.clone(), id.clone(), secrets.clone(), now.clone());
            self.on_disk(move |records| records.must_ask(&image, &id, &secrets, account.as_ref(), &now))
        };
        // The API server is asked for the account only where that can change the verdict.
        ask(None).await
            && match self.account(&spec.image, &keyring.pod).await {
                Some(account) => ask(Some(account)).await,
                None => true,
            }
    }

    /// The pod's service account, where providers are told of it.
    async fn account(&self, image: &str, pod: &PodIdentity) -> Option<PullAccount> {
        if pod.account.is_empty() || !self.providers.concern_accounts(image) {
            return None;
        }
        match self.accounts.get(&pod.namespace, &pod.account).await {
            Ok(account) => {
                let uid = fram_machinery::meta::uid(&account).to_string();
                Some(PullAccount { uid, namespace: pod.namespace.clone(), name: pod.account.clone() })
            }
            Err(error) => {
                tracing::info!(image, account = pod.account, %error, "a service account cannot be read: the image is verified anew");
                None
            }
        }
    }

    async fn pull(
        &self,
        pod_uid: &str,
        spec: &ImageSpec,
        keyring: &Keyring,
        sandbox: &PodSandboxConfig,
        telling: &dyn Telling,
    ) -> Result<Image, NoImage> {
        let image = &spec.user_specified_image;
        let key = format!("{pod_uid}_{image}");
        if let Some(waiting) = self.waiting(&key, image) {
            telling.event(false, "BackOff", format!("Back-off pulling image {image:?}"));
            return Err(waiting);
        }
        telling.event(false, "Pulling", format!("Pulling image {image:?}"));
        let asked = Instant::now();
        let _turn = match &self.turns {
            // It is never closed.
            Some(turns) => turns.acquire().await.ok(),
            None => None,
        };
        let begun = Instant::now();
        let progress = Progress::default();
        let pulling = self.pull_and_record(spec, keyring, sandbox, &progress);
        match progress.follow(image, telling, pulling).await {
            Ok(pulled) => {
                let mut state = self.state.lock();
                state.backoff.reset(&key);
                state.failures.remove(&key);
                drop(state);
                self.families.took(Took::ImagePull, &[size_range(pulled.size)], begun.elapsed());
                let (took, all) = (go_duration(begun.elapsed()), go_duration(asked.elapsed()));
                let message =
                    format!("Successfully pulled image {image:?} in {took} ({all} including waiting). Image size: {} bytes.", pulled.size);
                telling.event(false, "Pulled", message);
                Ok(pulled)
            }
            Err(error) => {
                let message = format!("Failed to pull image {image:?}: {error}");
                telling.event(true, "Failed", message.clone());
                telling.event(true, "Failed", "Error: ErrImagePull".into());
                Err(self.failed(&key, &error, message))
            }
        }
    }

    /// Whether the back-off after the last failure still lasts.
    fn waiting(&self, key: &str, image: &str) -> Option<NoImage> {
        let state = self.state.lock();
        let (at, last) = state.failures.get(key)?;
        let (_, left) = state.backoff.remaining(key, *at, self.clock.now())?;
        let message = format!("Back-off pulling image {image:?}: ErrImagePull: {last}");
        Some(NoImage { reason: "ImagePullBackOff", message, retry_after: Some(left) })
    }

    fn failed(&self, key: &str, error: &ImageError, message: String) -> NoImage {
        let now = self.clock.now();
        let mut state = self.state.lock();
        state.backoff.next(key, now, now);
        state.failures.insert(key.to_string(), (now, error.to_string()));
        let reason = match error {
            ImageError::InvalidReference { .. } => "InvalidImageName",
            ImageError::SignatureValidationFailed(_) => "SignatureValidationFailed",
            _ => "ErrImagePull",
        };
        // The pod's next turn tells of the back-off, at once.
        NoImage { reason, message, retry_after: Some(Duration::ZERO) }
    }

    async fn pull_and_record(
        &self,
        spec: &ImageSpec,
        keyring: &Keyring,
        sandbox: &PodSandboxConfig,
        progress: &Progress,
    ) -> Result<Image, ImageError> {
        let image = spec.user_specified_image.clone();
        // Where the pod is given up meanwhile, or the kubelet ends, the intent stays: who pulls may go on without us.
        let pull = self.on_disk(move |records| records.begin(&image)).await.map_err(|error| ImageError::Internal(error.to_string()))?;
        let now = self.now();
        let (id, used) = match self.try_credentials(spec, keyring, sandbox, progress).await {
            Ok(came) => came,
            Err(Failure { error, is_sure }) => {
                let end = if is_sure { End::Failed } else { End::Unsure };
                self.on_disk(move |records| records.end(pull, &end, &now)).await;
                return Err(error);
            }
        };
        // Before anything else can fail.
        let (of, with, at) = (id.clone(), used.clone(), now.clone());
        let pull = self.on_disk(move |records| (records.came(&pull, &of, &with, &at), pull).1).await;
        let outcome = self.service.image_status(&ImageSpec { image: id.clone(), ..spec.clone() }).await;
        let end = match &outcome {
            Ok(Some(image)) => End::Pulled(image.id.clone(), used),
            Ok(None) | Err(_) => End::Unsure,
        };
        self.on_disk(move |records| records.end(pull, &end, &now)).await;
        outcome?.ok_or_else(|| ImageError::Internal(format!("image {id} is gone after it was pulled")))
    }

    /// What the runtime returned for the image, and which credentials opened it.
    async fn try_credentials(
        &self,
        spec: &ImageSpec,
        keyring: &Keyring,
        sandbox: &PodSandboxConfig,
        progress: &Progress,
    ) -> Result<(String, Used), Failure> {
        // As upstream: who comes too soon is sent away, and comes back after the back-off.
        if self.rate.as_ref().is_some_and(|rate| !rate.lock().try_take(tokio::time::Instant::now())) {
            return Err(Failure { error: ImageError::Internal("pull QPS exceeded".into()), is_sure: true });
        }
        // The pod's own credentials first, then those of the node.
        let mut found = keyring.lookup(&spec.image);
        found.extend(self.providers.credentials(&spec.image, &keyring.pod, &*self.accounts).await);
        let with = |(auth, used)| (Some(auth), used);
        let tries: Vec<(Option<AuthConfig>, Used)> =
            if found.is_empty() { vec![(None, Used::Node)] } else { found.into_iter().map(with).collect() };
        let mut last = Failure { error: ImageError::Internal("no credentials to try".into()), is_sure: true };
        for (auth, used) in tries {
            match self.service.pull_image(spec, auth.as_ref(), Some(sandbox), Some(progress.listener())).await {
                Ok(id) => return Ok((id, used)),
                Err(error) => last = Failure { is_sure: last.is_sure && is_sure(&error), error },
            }
        }
        Err(last)
    }

    /// Every image on the node.
    pub(crate) async fn list(&self) -> Result<Vec<Image>, ImageError> {
        self.service.list_images(None).await
    }

    /// Where images lie; None where the service does not say.
    pub(crate) async fn mount_point(&self) -> Option<std::path::PathBuf> {
        let info = self.service.image_fs_info().await.ok()?;
        info.image_filesystems.first().map(|fs| fs.mountpoint.clone().into())
    }

    pub(crate) async fn remove(&self, image: &ImageSpec) -> Result<(), ImageError> {
        self.service.remove_image(image).await?;
        let id = image.image.clone();
        self.on_disk(move |records| records.forget(&id)).await;
        Ok(())
    }

    /// Forgets how images came that are on the node no more.
    pub(crate) async fn prune_records(&self) -> Result<(), ImageError> {
        let ended = self.records.ended();
        let images = self.list().await?;
        self.on_disk(move |records| records.prune(&images, ended)).await;
        Ok(())
    }

    /// Forgets the failures of a pod that is gone.
    pub(crate) fn forget(&self, pod_uid: &str) {
        let mut state = self.state.lock();
        let prefix = format!("{pod_uid}_");
        state.backoff.retain(|key| !key.starts_with(&prefix));
        state.failures.retain(|key, _| !key.starts_with(&prefix));
    }
}

/// Why a pull came to nothing.
struct Failure {
    error: ImageError,
    /// Whether it is sure that nothing has come to the node.
    is_sure: bool,
}

/// Whether it was the registry that gave no image, or not this one. All else may have gone wrong when it was there.
fn is_sure(error: &ImageError) -> bool {
    use ImageError::{InvalidReference, NotFound, RegistryUnavailable, SignatureValidationFailed, Unauthorized, WrongPlatform};
    matches!(
        error,
        NotFound(_)
            | InvalidReference { .. }
            | Unauthorized(_)
            | RegistryUnavailable(_)
            | WrongPlatform { .. }
            | SignatureValidationFailed(_)
    )
}

/// As Go prints a duration, in whole milliseconds.
fn go_duration(duration: Duration) -> String {
    match duration.as_millis() {
        ms if ms < 1000 => format!("{ms}ms"),
        ms => {
            let seconds = format!("{}.{:03}", ms / 1000, ms % 1000);
            format!("{}s", seconds.trim_end_matches('0').trim_end_matches('.'))
        }
    }
}

#[cfg(test)]
mod tests;
