//! What is left of a pull by the way it has ended.

use fram_cri::ImageFsInfo;
use fram_machinery::{Status, object};

use super::access::PullSecret;
use super::*;
use crate::clock::SystemClock;

/// A runtime that pulls what it is asked for at once; what it says afterwards is the test's to choose.
struct Model {
    pulled: Mutex<Vec<String>>,
    says: Says,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Says {
    /// The pull fails when the image is there already.
    PullFailed,
    /// The pull answers, and nothing after it.
    Nothing,
    StatusFailed,
    NotFound,
}

#[async_trait::async_trait]
impl ImageService for Model {
    async fn list_images(&self, _: Option<&ImageSpec>) -> Result<Vec<Image>, ImageError> {
        Ok(Vec::new())
    }

    async fn image_status(&self, _: &ImageSpec) -> Result<Option<Image>, ImageError> {
        match self.says {
            _ if self.pulled.lock().is_empty() => Ok(None),
            Says::Nothing => std::future::pending().await,
            Says::StatusFailed => Err(ImageError::Internal("busy".into())),
            Says::PullFailed | Says::NotFound => Ok(None),
        }
    }

    async fn pull_image(
        &self,
        image: &ImageSpec,
        _: Option<&AuthConfig>,
        _: Option<&PodSandboxConfig>,
        _: Option<fram_cri::ProgressFn>,
    ) -> Result<String, ImageError> {
        if self.says == Says::NotFound {
            return Err(ImageError::NotFound(image.image.clone()));
        }
        self.pulled.lock().push(image.image.clone());
        if self.says == Says::PullFailed { Err(ImageError::Internal("sweep".into())) } else { Ok("id".into()) }
    }

    async fn remove_image(&self, _: &ImageSpec) -> Result<(), ImageError> {
        Ok(())
    }

    async fn image_fs_info(&self) -> Result<ImageFsInfo, ImageError> {
        Ok(ImageFsInfo::default())
    }
}

struct NoAccounts;

#[async_trait::async_trait]
impl Accounts for NoAccounts {
    async fn get(&self, _: &str, _: &str) -> Result<Value, Status> {
        Ok(object!({}))
    }

    async fn token(&self, _: &PodIdentity, _: &str, _: &str) -> Result<String, Status> {
        Ok(String::new())
    }
}

struct Silent;

impl Telling for Silent {
    fn event(&self, _: bool, _: &'static str, _: String) {}
}

/// What is left of a pull that ends so: whether an image is everybody's.
async fn asks_after(says: Says) -> bool {
    let root = tempfile::tempdir().unwrap();
    let config = KubeletConfig::new("n", Vec::new(), root.path().to_path_buf(), root.path().join("logs"));
    let service = Arc::new(Model { pulled: Mutex::default(), says });
    let images = Images::new(service, Arc::new(NoAccounts), Arc::new(SystemClock), &config, Arc::default());
    let container = object!({ "image": "reg.example/private:1", "imagePullPolicy": "IfNotPresent" });
    let (mut keyring, sandbox) = (Keyring::default(), PodSandboxConfig::default());
    let secret = PullSecret { uid: "s".into(), namespace: "ns".into(), name: "s".into(), hash: "h".into() };
    keyring.add_auths(&object!({ "reg.example": { "username": "u", "password": "p" } }), &Used::Secret(secret));
    {
        let mut pull = std::pin::pin!(images.ensure("uid", &container, &keyring, &sandbox, &Silent));
        // The pod is deleted while the runtime is asked what was pulled.
        let given_up = tokio::time::timeout(Duration::from_secs(1), &mut pull).await;
        assert_eq!(given_up.is_err(), says == Says::Nothing, "{says:?}");
        assert!(given_up.is_err() || given_up.is_ok_and(|outcome| outcome.is_err()), "{says:?}");
    }
    let spec = ImageSpec { user_specified_image: "reg.example/private:1".into(), ..ImageSpec::new("reg.example/private:1") };
    images.must_ask(&spec, "id", &Keyring::default()).await
}

#[tokio::test]
async fn an_image_that_may_have_come_is_no_preloaded_one_however_its_pull_has_ended() {
    for (says, expect) in [(Says::Nothing, true), (Says::StatusFailed, true), (Says::PullFailed, true), (Says::NotFound, false)] {
        assert_eq!(asks_after(says).await, expect, "{says:?}");
    }
}

#[test]
fn durations_read_as_gos() {
    for (ms, text) in [(7, "7ms"), (1000, "1s"), (1230, "1.23s"), (61_005, "61.005s")] {
        assert_eq!(go_duration(Duration::from_millis(ms)), text);
    }
}
