//! Joining: the cluster's CA is fetched over a connection that nobody vouches for and known by its hash; then a token asks
//! for a certificate. See kubeadm's token-based discovery and upstream's kubelet TLS bootstrapping.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use fram_apiserver::certificates::{SERVING, SIGNER};
use fram_apiserver::pki::public_key_hash;
use fram_client::remote::Kubeconfig;
use fram_client::{Client, ListOptions, unverified};
use fram_machinery::{Reason, Value, json, meta, object, yaml};
use futures_util::StreamExt;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;

use crate::signer::CERTIFICATE_SIGNING_REQUESTS;
use crate::token::JoinToken;

/// How long the server may take for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a certificate may take; a human may have to approve it.
const SIGNING: Duration = Duration::from_secs(120);
/// How long to wait before a watch that ended is taken up again.
const PAUSE: Duration = Duration::from_secs(5);
/// How long somebody may take to approve; requests that nobody looks at are removed after a day.
const APPROVAL: Duration = Duration::from_secs(24 * 3600);
const MOST_BODY: usize = 1024 * 1024;
const CLUSTER_INFO: &str = "/api/v1/namespaces/kube-public/configmaps/cluster-info";

/// The CA of the cluster, as PEM, if it is the one that the token means.
pub(super) async fn discover(server: &str, token: &JoinToken) -> anyhow::Result<String> {
    let fetched = tokio::time::timeout(PATIENCE, fetch(server)).await;
    let map = fetched.with_context(|| format!("{server} does not answer"))??;
    let info = yaml::from_str(map.str_at(&["data", "kubeconfig"])).context("the server's cluster-info is not a kubeconfig")?;
    let encoded = info.list_at(&["clusters"]).first().map(|c| c.str_at(&["cluster", "certificate-authority-data"])).unwrap_or_default();
    let ca = STANDARD.decode(encoded).ok().and_then(|raw| String::from_utf8(raw).ok()).context("the server's cluster-info has no CA")?;
    let hash = public_key_hash(&ca).map_err(|why| anyhow::anyhow!("the server's CA cannot be read: {why}"))?;
    if hash != token.ca_hash {
        bail!(
            "{server} belongs to another cluster than the token, or someone stands between: its CA has the public key hash {hash}, the token says {}",
            token.ca_hash
        );
    }
    Ok(ca)
}

async fn fetch(server: &str) -> anyhow::Result<Value> {
    // What comes over this connection is checked by the token's hash.
    let tls = unverified::config(&[b"http/1.1"])?;
    let stream = fram_client::remote::dial(server, tls).await.map_err(|error| anyhow::anyhow!("{server}: {error}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let mut connections = tokio::task::JoinSet::new();
    connections.spawn(connection);
    let request = http::Request::get(CLUSTER_INFO).header("host", "kubernetes").header("accept", "application/json");
    let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await.context("the server did not answer")?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MOST_BODY).collect().await.map_err(|e| anyhow::anyhow!("the server's answer: {e}"))?;
    anyhow::ensure!(status.is_success(), "{server} does not tell of its cluster ({status}): is it a fram server?");
    json::from_slice(&body.to_bytes()).context("the server's answer is not JSON")
}

/// What a certificate is for.
pub(super) enum Purpose {
    /// To ask the API server; without a human who approves it, but perhaps with one.
    Client,
    /// To be asked, by these names and addresses: the server approves what is the node's own, and other things wait for somebody.
    Serving(Vec<String>),
}

/// A new key, and a certificate for it that the cluster signed: PEM both.
pub(super) async fn certificate(client: &Client, node: &str, purpose: Purpose) -> anyhow::Result<(String, String)> {
    let key = rcgen::KeyPair::generate()?;
    let requests = client.all(&CERTIFICATE_SIGNING_REQUESTS);
    let made = requests.create(request(node, &key, &purpose)?).await.map_err(|status| {
        if status.is(Reason::Unauthorized) {
            anyhow::anyhow!("the server does not know the join token, or it has expired: make one with `fram token create`")
        } else {
            anyhow::anyhow!("cannot ask for a certificate: {status}")
        }
    })?;
    let name = meta::name(&made);
    let patience = match &purpose {
        Purpose::Client => SIGNING,
        Purpose::Serving(_) => APPROVAL,
    };
    let signed = tokio::time::timeout(patience, signed(client, &made)).await;
    let certificate = signed.with_context(|| format!("certificate request {name} was not approved and signed in time"))??;
    Ok((certificate, key.serialize_pem()))
}

fn request(node: &str, key: &rcgen::KeyPair, purpose: &Purpose) -> anyhow::Result<Value> {
    let (names, signer, usage) = match purpose {
        Purpose::Client => (Vec::new(), SIGNER, "client auth"),
        Purpose::Serving(names) => (names.clone(), SERVING, "server auth"),
    };
    let mut params = rcgen::CertificateParams::new(names)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(rcgen::DnType::CommonName, format!("system:node:{node}"));
    let pem = params.serialize_request(key)?.pem()?;
    Ok(object!({ "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": { "generateName": "node-csr-" },
        "spec": { "request": (STANDARD.encode(pem)), "signerName": signer, "usages": ["digital signature", usage] } }))
}

/// Waits until a request is signed or refused. Servers end watches, and start anew: what was asked for stays.
async fn signed(client: &Client, made: &Value) -> anyhow::Result<String> {
    let requests = client.all(&CERTIFICATE_SIGNING_REQUESTS);
    let name = meta::name(made);
    let mut current = Arc::new(made.clone());
    loop {
        let options = ListOptions {
            field_selector: format!("metadata.name={name}"),
            resource_version: meta::resource_version(&current).into(),
            ..Default::default()
        };
        if let Ok(mut changes) = requests.watch(options).await {
            while let Some(Ok(change)) = changes.next().await {
                if let Some(certificate) = outcome(&change.object)? {
                    return Ok(certificate);
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
        match requests.get(name).await {
            Ok(now) => current = now,
            Err(status) if status.is(Reason::NotFound) => bail!("certificate request {name} is gone"),
            Err(error) => tracing::debug!(name, %error, "the certificate request cannot be read now"),
        }
        if let Some(certificate) = outcome(&current)? {
            return Ok(certificate);
        }
    }
}

/// The certificate (PEM) that was made for a request, if any; fails where it was refused.
fn outcome(request: &Value) -> anyhow::Result<Option<String>> {
    for refusal in ["Denied", "Failed"] {
        if let Some(condition) = meta::condition(request, refusal) {
            bail!("certificate request {} was refused: {}", meta::name(request), condition.str_at(&["message"]));
        }
    }
    let encoded = request.str_at(&["status", "certificate"]);
    if encoded.is_empty() {
        return Ok(None);
    }
    Ok(Some(String::from_utf8(STANDARD.decode(encoded)?)?))
}

/// Access with a token only.
pub(super) fn with_token(server: &str, ca: &str, token: &JoinToken) -> Kubeconfig {
    let token = format!("{}.{}", token.bootstrap.id, token.bootstrap.secret);
    let server_name = Some(super::identity::SERVER_NAME.into());
    Kubeconfig { server: server.into(), server_name, ca: ca.into(), token: Some(token), ..Default::default() }
}
