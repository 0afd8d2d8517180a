//! Approves the certificates of nodes, and signs those of upstream's signers: the hands of `fram_apiserver::certificates`.

use std::sync::Arc;

use fram_apiserver::certificates::{Step, approved, failed, review, sign, step};
use fram_apiserver::pki::Pki;
use fram_client::{Action, Client, Controller, Informer, Resource};
use fram_machinery::{Status, meta};
use tokio_util::sync::CancellationToken;

pub(crate) const CERTIFICATE_SIGNING_REQUESTS: Resource = Resource::new("certificates.k8s.io", "v1", "certificatesigningrequests");
const SUBJECT_ACCESS_REVIEWS: Resource = Resource::new("authorization.k8s.io", "v1", "subjectaccessreviews");

pub(crate) struct Signer {
    /// As the service account of upstream's certificate-controller.
    pub(crate) client: Client,
    /// Whether it does the one and the other.
    pub(crate) signs: bool,
    pub(crate) approves: bool,
    pub(crate) requests: Informer,
    pub(crate) pki: Arc<Pki>,
    pub(crate) now: Arc<dyn Fn() -> String + Send + Sync>,
}

impl Signer {
    /// Works until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let signer = Arc::new(self);
        let controller = Controller::new("csrsigning", 1).owns(&signer.requests);
        let reconcile = move |key: String| {
            let signer = signer.clone();
            async move { signer.reconcile(&key).await }
        };
        controller.run(reconcile, stop).await;
    }

    async fn reconcile(&self, name: &str) -> Result<Action, Status> {
        let Some(request) = self.requests.get(name) else { return Ok(Action::Done) };
        let requests = self.client.all(&CERTIFICATE_SIGNING_REQUESTS);
        match step(&request) {
            Step::Wait => {}
            Step::Approve { .. } if !self.approves => {}
            Step::Fail { .. } | Step::Sign if !self.signs => {}
            Step::Fail { reason } => drop(requests.update_status(failed((*request).clone(), &reason, &(self.now)())).await?),
            Step::Approve { permission } => {
                let answer = self.client.all(&SUBJECT_ACCESS_REVIEWS).create(review(&request, permission)).await?;
                if answer.bool_at(&["status", "allowed"]) != Some(true) {
                    let author = request.str_at(&["spec", "username"]);
                    tracing::info!(name, author, permission, "a certificate request is not approved: its author may not");
                    return Ok(Action::Done);
                }
                let approved = approved((*request).clone(), &(self.now)());
                self.client.call(approval(name, approved)).await?;
            }
            Step::Sign => {
                let Some(pem) = sign(&request, &self.pki).map_err(Status::internal)? else { return Ok(Action::Done) };
                let mut signed = (*request).clone();
                signed.set(&["status", "certificate"], base64::Engine::encode(&base64::engine::general_purpose::STANDARD, pem));
                requests.update_status(signed).await?;
                tracing::info!(name, author = request.str_at(&["spec", "username"]), uid = meta::uid(&request), "a certificate is signed");
            }
        }
        Ok(Action::Done)
    }
}

fn approval(name: &str, object: fram_machinery::Value) -> fram_client::Call {
    fram_client::Call {
        resource: CERTIFICATE_SIGNING_REQUESTS,
        namespace: String::new(),
        name: name.into(),
        subresource: "approval".into(),
        verb: fram_client::Verb::Update { object, options: Default::default() },
    }
}
