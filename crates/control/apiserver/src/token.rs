//! Service-account tokens: issued for a TokenRequest, bound to objects, verified on each request. See KEP-1205. A signature is checked
//! once; what can change, time and the objects that a token is bound to, is looked at every time.

mod secret;
mod verified;

use std::sync::Arc;

use fram_machinery::{Status, Value, meta, object};
use fram_store::Snapshot;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use crate::registry::{Place, Registry};
use crate::user::User;
pub(crate) use secret::day;
use verified::{Verified, VerifiedTokens};

#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("service account key: {0}")]
    Key(#[from] jsonwebtoken::errors::Error),
    #[error("service account key is not an ECDSA key on P-256: {0}")]
    Public(String),
}

/// The claims of a bound token.
#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Vec<String>,
    exp: i64,
    nbf: i64,
    iat: i64,
    jti: String,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Value,
}

/// Issues and verifies the tokens of one cluster.
pub struct Tokens {
    registry: Arc<Registry>,
    issuer: String,
    encoding: EncodingKey,
    decoding: DecodingKey,
    /// The public key as a JWK, for other parties.
    jwk: Value,
    verified: VerifiedTokens,
}

/// Tokens live at least ten minutes and at most this long; see MaxTokenExpiration.
const MOST_SECONDS: i64 = 1 << 32;
const LEAST_SECONDS: i64 = 600;

pub const DEFAULT_ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

impl Tokens {
    pub fn new(registry: Arc<Registry>, issuer: &str, key_pem: &str) -> Result<Self, TokenError> {
        let encoding = EncodingKey::from_ec_pem(key_pem.as_bytes())?;
        let der = pem::parse(key_pem).map_err(|e| TokenError::Public(e.to_string()))?;
        let random = ring::rand::SystemRandom::new();
        let algorithm = &ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING;
        let pair =
            ring::signature::EcdsaKeyPair::from_pkcs8(algorithm, der.contents(), &random).map_err(|e| TokenError::Public(e.to_string()))?;
        let point = ring::signature::KeyPair::public_key(&pair).as_ref().to_vec();
        let encode = |bytes: &[u8]| base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, bytes);
        let (x, y) = (encode(&point[1..33]), encode(&point[33..65]));
        let decoding = DecodingKey::from_ec_components(&x, &y)?;
        let kid = encode(ring::digest::digest(&ring::digest::SHA256, &point).as_ref());
        let jwk = object!({ "use": "sig", "kty": "EC", "kid": kid, "crv": "P-256", "alg": "ES256", "x": x, "y": y });
        Ok(Self { registry, issuer: issuer.into(), encoding, decoding, jwk, verified: VerifiedTokens::default() })
    }

    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The key set at /openid/v1/jwks.
    pub fn jwks(&self) -> Value {
        object!({ "keys": [(self.jwk.clone())] })
    }

    /// The document at /.well-known/openid-configuration.
    pub fn discovery(&self) -> Value {
        object!({
            "issuer": (self.issuer.as_str()), "jwks_uri": (format!("{}/openid/v1/jwks", self.issuer)),
            "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"]
        })
    }

    async fn find(&self, plural: &str, namespace: &str, name: &str) -> Result<Option<Value>, Status> {
        let Some(served) = self.registry.served("", "v1", plural) else { return Ok(None) };
        match self.registry.get_object(&Place { served, namespace: namespace.into(), name: name.into() }).await {
            Ok(object) => Ok(Some(object)),
            Err(status) if status.is(fram_machinery::Reason::NotFound) => Ok(None),
            Err(status) => Err(status),
        }
    }

    /// Answers a TokenRequest for a service account.
    pub async fn issue(&self, namespace: &str, name: &str, mut request: Value) -> Result<Value, Status> {
        let account = self.find("serviceaccounts", namespace, name).await?;
        let account = account.ok_or_else(|| Status::not_found("", "serviceaccounts", name))?;
        let mut audiences: Vec<String> =
            request.list_at(&["spec", "audiences"]).iter().filter_map(Value::as_str).map(String::from).collect();
        if audiences.is_empty() {
            audiences.push(self.issuer.clone());
        }
        let seconds = request.int_at(&["spec", "expirationSeconds"]).unwrap_or(3600);
        if !(LEAST_SECONDS..=MOST_SECONDS).contains(&seconds) {
            let why = if seconds < LEAST_SECONDS {
                "may not specify a duration less than 10 minutes"
            } else {
                "may not specify a duration larger than 2^32 seconds"
            };
            let error = fram_machinery::status::FieldError::invalid("spec.expirationSeconds", seconds, why);
            return Err(Status::invalid("authentication.k8s.io", "TokenRequest", name, vec![error]));
        }
        let mut kubernetes = object!({ "namespace": namespace, "serviceaccount": { "name": name, "uid": (meta::uid(&account)) } });
        let reference = request.at(&["spec", "boundObjectRef"]).filter(|r| !r.is_null()).cloned();
        if let Some(reference) = reference {
            self.bind(namespace, name, &reference, &mut kubernetes).await?;
        }
        let now = self.registry.environment.now();
        let iat = now.as_second();
        let claims = Claims {
            iss: self.issuer.clone(),
            sub: format!("system:serviceaccount:{namespace}:{name}"),
            aud: audiences.clone(),
            exp: iat + seconds,
            nbf: iat,
            iat,
            jti: self.registry.environment.uid(),
            kubernetes,
        };
        let mut header = Header::new(Algorithm::ES256);
        header.typ = None;
        header.kid = Some(self.jwk.str_at(&["kid"]).to_string());
        let token = jsonwebtoken::encode(&header, &claims, &self.encoding).map_err(Status::internal)?;
        let expires = fram_machinery::normalize::format_time(now + jiff::SignedDuration::from_secs(seconds), 0);
        request.set(&["spec", "audiences"], audiences.into_iter().map(Value::from).collect::<Vec<_>>());
        request.set(&["spec", "expirationSeconds"], seconds);
        request.set(&["status"], object!({ "token": token, "expirationTimestamp": expires }));
        request.set(&["metadata", "name"], name);
        request.set(&["metadata", "namespace"], namespace);
        request.set(&["metadata", "creationTimestamp"], fram_machinery::normalize::format_time(now, 0));
        Ok(request)
    }

    async fn bind(&self, namespace: &str, account: &str, reference: &Value, claim: &mut Value) -> Result<(), Status> {
        let name = reference.str_at(&["name"]);
        let (plural, field) = match (reference.str_at(&["apiVersion"]), reference.str_at(&["kind"])) {
            ("v1", "Pod") => ("pods", "pod"),
            ("v1", "Secret") => ("secrets", "secret"),
            ("v1", "Node") => ("nodes", "node"),
            (version, kind) => {
                return Err(Status::bad_request(format!("cannot bind token to object of type {version}, Kind={kind}")));
            }
        };
        let scope = if plural == "nodes" { "" } else { namespace };
        let bound = self.find(plural, scope, name).await?.ok_or_else(|| Status::not_found("", plural, name))?;
        let wanted = reference.str_at(&["uid"]);
        if !wanted.is_empty() && wanted != meta::uid(&bound) {
            let why = format!(
                "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might have been deleted and then recreated"
            );
            return Err(Status::conflict("", plural, name, &why));
        }
        if plural == "pods" && bound.str_at(&["spec", "serviceAccountName"]) != account {
            return Err(Status::bad_request(format!(
                "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
            )));
        }
        claim.set(&[field], object!({ "name": name, "uid": (meta::uid(&bound)) }));
        let node = bound.str_at(&["spec", "nodeName"]);
        if plural == "pods" && !node.is_empty() {
            let mut about = object!({ "name": node });
            if let Some(node) = self.find("nodes", "", node).await? {
                about.set(&["uid"], meta::uid(&node));
            }
            claim.set(&["node"], about);
        }
        Ok(())
    }

    /// The user of a token that is valid for one of these audiences, and the audiences it is good for. None for tokens
    /// that are not this cluster's, have expired, or whose objects are gone.
    pub async fn verify(&self, token: &str, audiences: &[String]) -> Result<Option<(User, Vec<String>)>, Status> {
        let Some(verified) = self.signed(token) else { return Ok(None) };
        let claims = &verified.claims;
        let now = self.registry.environment.now().as_second();
        if now >= claims.exp || now < claims.nbf {
            return Ok(None);
        }
        let good: Vec<String> = claims.aud.iter().filter(|a| audiences.contains(a)).cloned().collect();
        if good.is_empty() {
            return Ok(None);
        }
        // As upstream, what is not seen here may have been made elsewhere a moment ago.
        let bound =
            self.still_bound(&verified, &self.registry.seen()?)? || self.still_bound(&verified, &self.registry.snapshot().await?)?;
        if !bound || claims.kubernetes.get("secret").is_some() && !self.note_use(&verified, token).await? {
            return Ok(None);
        }
        Ok(Some((user_of(claims), good)))
    }

    /// A token with this cluster's signature.
    fn signed(&self, token: &str) -> Option<Arc<Verified>> {
        self.verified.get_or_check(token, || {
            let mut validation = Validation::new(Algorithm::ES256);
            validation.validate_aud = false;
            validation.validate_exp = false;
            validation.set_issuer(&[&self.issuer]);
            Some(jsonwebtoken::decode::<Claims>(token, &self.decoding, &validation).ok()?.claims)
        })
    }

    fn still_bound(&self, verified: &Verified, snapshot: &Snapshot) -> Result<bool, Status> {
        let claim = &verified.claims.kubernetes;
        let namespace = claim.str_at(&["namespace"]);
        let mut refs = vec![("serviceaccounts", "serviceaccount")];
        refs.extend([("pods", "pod"), ("secrets", "secret")].into_iter().filter(|(_, f)| claim.get(f).is_some()));
        // The node of a pod is told, not bound to.
        if claim.get("pod").is_none() && claim.get("node").is_some() {
            refs.push(("nodes", "node"));
        }
        for (at, (plural, field)) in refs.into_iter().enumerate() {
            let Some(served) = self.registry.served("", "v1", plural) else { return Ok(false) };
            let scope = if plural == "nodes" { "" } else { namespace };
            let place = Place { served, namespace: scope.into(), name: claim.str_at(&[field, "name"]).into() };
            let Some(entry) = snapshot.get(&self.registry.key_of(&place)) else { return Ok(false) };
            if verified.is_bound_to(at, entry.modified) {
                continue;
            }
            let object = self.registry.decode(&place.served, entry)?;
            if meta::uid(&object) != claim.str_at(&[field, "uid"]) || self.deleted_for_long(&object) {
                return Ok(false);
            }
            if !meta::is_terminating(&object) {
                verified.bound_to(at, entry.modified);
            }
        }
        Ok(true)
    }

    /// Objects that are being deleted keep their tokens for a minute, so that pods can end in peace.
    fn deleted_for_long(&self, object: &Value) -> bool {
        let time = object.str_at(&["metadata", "deletionTimestamp"]).parse::<jiff::Timestamp>();
        time.is_ok_and(|t| self.registry.environment.now().as_second() > t.as_second() + 60)
    }
}

fn user_of(claims: &Claims) -> User {
    let claim = &claims.kubernetes;
    let namespace = claim.str_at(&["namespace"]);
    let mut user = User {
        name: claims.sub.clone(),
        uid: claim.str_at(&["serviceaccount", "uid"]).into(),
        groups: vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}"), crate::user::AUTHENTICATED.into()],
        extra: Default::default(),
    };
    let mut extra = |key: &str, value: &str| {
        if !value.is_empty() {
            user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_string()]);
        }
    };
    extra("credential-id", &format!("JTI={}", claims.jti));
    for kind in ["pod", "node"] {
        extra(&format!("{kind}-name"), claim.str_at(&[kind, "name"]));
        extra(&format!("{kind}-uid"), claim.str_at(&[kind, "uid"]));
    }
    user
}
