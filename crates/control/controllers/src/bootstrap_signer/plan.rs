//! The signatures that cluster-info should carry: JSON Web Signatures (RFC 7515) by HMAC-SHA256, without the content. Pure.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fram_machinery::Value;
use ring::hmac;

const CONTENT: &str = "kubeconfig";
/// See JWSSignatureKeyPrefix of cluster-bootstrap.
const PREFIX: &str = "jws-kubeconfig-";

/// See ComputeDetachedSignature.
fn signature(content: &str, id: &str, secret: &str) -> String {
    // Ids are letters and digits, which JSON writes as they are.
    let header = URL_SAFE_NO_PAD.encode(format!("{{\"alg\":\"HS256\",\"kid\":\"{id}\"}}"));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let tag = hmac::sign(&key, format!("{header}.{}", URL_SAFE_NO_PAD.encode(content)).as_bytes());
    format!("{header}..{}", URL_SAFE_NO_PAD.encode(tag))
}

/// The ConfigMap with the signatures of these tokens, secrets by ids, and no others; None where it is so already or has nothing to
/// sign.
pub(super) fn signed(map: &Value, tokens: &BTreeMap<String, String>) -> Option<Value> {
    let content = map.at(&["data", CONTENT]).and_then(Value::as_str)?;
    let mut out = map.clone();
    let before = map.at(&["data"]).and_then(Value::as_map)?;
    for key in before.iter().map(|(key, _)| key.as_str()).filter(|key| key.starts_with(PREFIX)) {
        out.remove(&["data", key]);
    }
    for (id, secret) in tokens {
        out.set(&["data", &format!("{PREFIX}{id}")], signature(content, id, secret));
    }
    (out != *map).then_some(out)
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    #[test]
    fn a_signature_is_that_of_upstreams_signer() {
        // From upstream's jws_test.
        let expect = "eyJhbGciOiJIUzI1NiIsImtpZCI6Impvc2h1YSJ9..VShe2taLd-YTrmWuRkcL_8QTNDHYxQIEBsAYYiIj1_8";
        assert_eq!(
            signature("Hello from the other side. I must have called a thousand times.", "joshua", "my voice is my passcode"),
            expect
        );
    }

    #[test]
    fn every_token_signs_and_what_others_signed_goes() {
        let map = object!({ "data": { "kubeconfig": "c", "jws-kubeconfig-gone00": "x", "other": "y" } });
        let tokens = BTreeMap::from([("abcdef".to_string(), "secret".to_string())]);
        let out = signed(&map, &tokens).unwrap();
        let keys: Vec<&str> = out.at(&["data"]).unwrap().as_map().unwrap().iter().map(|(k, _)| k.as_str()).collect();
        assert_eq!(keys, ["jws-kubeconfig-abcdef", "kubeconfig", "other"]);
        assert_eq!(signed(&out, &tokens), None);
        assert_eq!(signed(&object!({ "data": { "other": "y" } }), &tokens), None);
    }
}
