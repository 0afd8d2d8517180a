//! Who may use an image that is on the node without asking its registry (KEP-2535): decided by what the kubelet has pulled, and with whose
//! credentials. Pure; the files are [`super::records`]'s.

use fram_machinery::{Value, object};

/// Which images on the node need the credentials that they were pulled with; imagePullCredentialsVerificationPolicy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Verification {
    NeverVerify,
    /// Those that the kubelet has pulled do.
    #[default]
    NeverVerifyPreloadedImages,
    /// Those that no pattern matches do: a name without tag and digest, or the beginning of one before `/*`.
    NeverVerifyAllowlistedImages(Vec<String>),
    AlwaysVerify,
}

impl Verification {
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::NeverVerify => "NeverVerify",
            Self::NeverVerifyPreloadedImages => "NeverVerifyPreloadedImages",
            Self::NeverVerifyAllowlistedImages(_) => "NeverVerifyAllowlistedImages",
            Self::AlwaysVerify => "AlwaysVerify",
        }
    }

    pub(super) fn concerns(&self, image: &str, pulled_here: bool) -> bool {
        match self {
            Self::NeverVerify => false,
            Self::NeverVerifyPreloadedImages => pulled_here,
            Self::NeverVerifyAllowlistedImages(patterns) => !patterns.iter().any(|pattern| covers(pattern, untagged(image))),
            Self::AlwaysVerify => true,
        }
    }
}

fn covers(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => pattern == name,
    }
}

/// Why a pattern is none; see upstream's ValidateAllowlistImagesPatterns.
pub(crate) fn pattern_fault(pattern: &str) -> Option<&'static str> {
    let bare = pattern.strip_suffix("/*").unwrap_or(pattern);
    if pattern.trim() != pattern {
        Some("leading/trailing spaces are not allowed")
    } else if bare.is_empty() {
        Some("at least registry hostname is required")
    } else if bare.contains('*') {
        Some("not a valid wildcard pattern, only patterns ending with '/*' are allowed")
    } else if untagged(bare) != bare && bare.len() == pattern.len() {
        Some("neither tag nor digest is accepted in an image reference")
    } else {
        None
    }
}

/// A name as it is written, without tag and digest.
pub(super) fn untagged(image: &str) -> &str {
    let name = image.split('@').next().unwrap_or(image);
    match name.rsplit_once(':') {
        // What is before a slash is a registry's port.
        Some((before, tag)) if !tag.contains('/') => before,
        _ => name,
    }
}

/// The Secret that a pod has named, and a hash of the credentials in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PullSecret {
    pub(crate) uid: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) hash: String,
}

impl PullSecret {
    fn is_same_object(&self, other: &Self) -> bool {
        (&self.uid, &self.namespace, &self.name) == (&other.uid, &other.namespace, &other.name)
    }

    fn document(&self) -> Value {
        object!({
            "uid": (self.uid.as_str()), "namespace": (self.namespace.as_str()), "name": (self.name.as_str()),
            "credentialHash": (self.hash.as_str())
        })
    }

    fn read(document: &Value) -> Self {
        let text = |key: &str| document.str_at(&[key]).to_string();
        Self { uid: text("uid"), namespace: text("namespace"), name: text("name"), hash: text("credentialHash") }
    }
}

/// By whose credentials a pull succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Used {
    /// Those of the node, or none: any pod of the node could do the same.
    Node,
    Secret(PullSecret),
    /// Those that a provider gave to a service account.
    Account(PullAccount),
}

/// The service account of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PullAccount {
    pub(crate) uid: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl PullAccount {
    fn document(&self) -> Value {
        object!({ "uid": (self.uid.as_str()), "namespace": (self.namespace.as_str()), "name": (self.name.as_str()) })
    }
}

/// What a record says of a pod with these secrets.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Allowed,
    /// By a Secret, which is to be remembered: it is another one with the same credentials, or the same one with others.
    AllowedBy(PullSecret),
    /// Only the registry can say.
    Ask,
}

const SECRETS: &str = "kubernetesSecrets";
const ACCOUNTS: &str = "kubernetesServiceAccounts";
/// How many secrets of one image are remembered for having been seen.
const MANY: usize = 100;

fn credentials<'a>(record: &'a Value, image: &str) -> Option<&'a Value> {
    record.at(&["credentialMapping"])?.get(untagged(image))
}

/// `record` is an ImagePulledRecord.
pub(super) fn verdict(record: &Value, image: &str, own: &[PullSecret], account: Option<&PullAccount>) -> Verdict {
    let Some(known) = credentials(record, image) else { return Verdict::Ask };
    if known.bool_at(&["nodePodsAccessible"]) == Some(true) {
        return Verdict::Allowed;
    }
    if account.is_some_and(|account| known.list_at(&[ACCOUNTS]).contains(&account.document())) {
        return Verdict::Allowed;
    }
    let known: Vec<PullSecret> = known.list_at(&[SECRETS]).iter().map(PullSecret::read).collect();
    for secret in own {
        for other in &known {
            let same_hash = !other.hash.is_empty() && other.hash == secret.hash;
            match (secret.is_same_object(other), same_hash) {
                (true, true) => return Verdict::Allowed,
                (true, false) | (false, true) if known.len() < MANY => return Verdict::AllowedBy(secret.clone()),
                (false, true) => return Verdict::Allowed,
                _ => {}
            }
        }
    }
    Verdict::Ask
}

/// The record with a further way by which the image was reached; None where it says so already. What is in it otherwise stays.
pub(super) fn noted(record: Option<&Value>, image: &str, id: &str, used: Option<&Used>, now: &str) -> Option<Value> {
    let mut new = record
        .cloned()
        .unwrap_or_else(|| object!({ "kind": "ImagePulledRecord", "apiVersion": "kubelet.config.k8s.io/v1beta1", "imageRef": id }));
    let path = ["credentialMapping", untagged(image)];
    let known = record.and_then(|record| credentials(record, image)).cloned().unwrap_or_default();
    let for_all = known.bool_at(&["nodePodsAccessible"]) == Some(true);
    match used {
        Some(Used::Node) if !for_all => new.set(&path, object!({ "nodePodsAccessible": true })),
        Some(Used::Secret(secret)) if !for_all => {
            let mut secrets: Vec<Value> = known.list_at(&[SECRETS]).to_vec();
            if secrets.iter().any(|other| PullSecret::read(other) == *secret) {
                return None;
            }
            secrets.retain(|other| !PullSecret::read(other).is_same_object(secret));
            secrets.push(secret.document());
            let mut changed = if known.is_null() { object!({}) } else { known };
            changed.set(&[SECRETS], secrets);
            new.set(&path, changed);
        }
        Some(Used::Account(account)) if !for_all => {
            let mut accounts: Vec<Value> = known.list_at(&[ACCOUNTS]).to_vec();
            if accounts.contains(&account.document()) {
                return None;
            }
            accounts.push(account.document());
            let mut changed = if known.is_null() { object!({}) } else { known };
            changed.set(&[ACCOUNTS], accounts);
            new.set(&path, changed);
        }
        // That it was pulled here is something to note by itself.
        _ if record.is_some() => return None,
        _ => {}
    }
    new.set(&["lastUpdatedTime"], now);
    Some(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(uid: &str, name: &str, hash: &str) -> PullSecret {
        PullSecret { uid: uid.into(), namespace: "ns".into(), name: name.into(), hash: hash.into() }
    }

    #[test]
    fn a_policy_says_which_images_are_verified() {
        use Verification::*;
        let allow = |patterns: &[&str]| NeverVerifyAllowlistedImages(patterns.iter().map(|p| (*p).to_owned()).collect());
        for (policy, image, pulled_here, expect) in [
            (NeverVerify, "a", true, false),
            (NeverVerifyPreloadedImages, "a", false, false),
            (NeverVerifyPreloadedImages, "a", true, true),
            (AlwaysVerify, "a", false, true),
            (allow(&["reg.example:5000/team/*"]), "reg.example:5000/team/app:1", true, false),
            (allow(&["reg.example:5000/team/*"]), "reg.example:5000/teams:1", true, true),
            (allow(&["reg.example:5000/app"]), "reg.example:5000/app@sha256:00", true, false),
            (allow(&["reg.example:5000/app"]), "reg.example:5000/app2", false, true),
        ] {
            assert_eq!(policy.concerns(image, pulled_here), expect, "{policy:?} {image} {pulled_here}");
        }
        for (pattern, fine) in
            [("a/*", true), ("a", true), ("a:5000/b", true), ("/*", false), ("*", false), ("a*/b", false), ("a:1", false), (" a", false)]
        {
            assert_eq!(pattern_fault(pattern).is_none(), fine, "{pattern}");
        }
    }

    #[test]
    fn an_image_is_for_those_who_have_what_it_was_pulled_with() {
        let pulled = secret("1", "s", "h");
        let record = noted(None, "reg/app:1", "id", Some(&Used::Secret(pulled.clone())), "now").unwrap();
        let check =
            |image: &str, own: &[PullSecret], expect: Verdict| assert_eq!(verdict(&record, image, own, None), expect, "{image} {own:?}");
        check("reg/app:2", std::slice::from_ref(&pulled), Verdict::Allowed);
        check("reg/app:1", &[], Verdict::Ask);
        check("reg/app:1", &[secret("2", "other", "other")], Verdict::Ask);
        // The same image by another name is another registry's to give.
        check("mirror/app:1", std::slice::from_ref(&pulled), Verdict::Ask);
        let (copied, changed) = (secret("2", "copied", "h"), secret("1", "s", "new"));
        check("reg/app:1", std::slice::from_ref(&copied), Verdict::AllowedBy(copied.clone()));
        check("reg/app:1", std::slice::from_ref(&changed), Verdict::AllowedBy(changed.clone()));
        // An empty hash is none.
        let unhashed = noted(None, "a", "id", Some(&Used::Secret(secret("1", "s", ""))), "now").unwrap();
        assert_eq!(verdict(&unhashed, "a", &[secret("2", "t", "")], None), Verdict::Ask);
    }

    #[test]
    fn a_record_grows_by_what_is_new_and_ends_with_what_all_may_do() {
        let pulled = Used::Secret(secret("1", "s", "h"));
        let first = noted(None, "a:1", "id", Some(&pulled), "1").unwrap();
        assert_eq!(noted(Some(&first), "a:2", "id", Some(&pulled), "2"), None);
        let second = noted(Some(&first), "a", "id", Some(&Used::Secret(secret("1", "s", "new"))), "2").unwrap();
        assert_eq!(second.list_at(&["credentialMapping", "a", SECRETS]).len(), 1);
        let all = noted(Some(&second), "a", "id", Some(&Used::Node), "3").unwrap();
        assert_eq!(verdict(&all, "a", &[], None), Verdict::Allowed);
        assert_eq!((noted(Some(&all), "a", "id", Some(&pulled), "4"), noted(Some(&all), "a", "id", None, "4")), (None, None));
        // A pull of which nobody knows how it was done counts as the kubelet's, and opens nothing.
        let unknown = noted(None, "a", "id", None, "1").unwrap();
        assert_eq!((verdict(&unknown, "a", &[secret("1", "s", "h")], None), unknown.str_at(&["imageRef"])), (Verdict::Ask, "id"));
    }

    #[test]
    fn what_a_service_account_has_opened_is_for_its_pods() {
        let account = |uid: &str| PullAccount { uid: uid.into(), namespace: "ns".into(), name: "builder".into() };
        let first = noted(None, "reg/app:1", "id", Some(&Used::Account(account("1"))), "1").unwrap();
        for (asking, expect) in [(Some(account("1")), Verdict::Allowed), (Some(account("2")), Verdict::Ask), (None, Verdict::Ask)] {
            assert_eq!(verdict(&first, "reg/app:2", &[], asking.as_ref()), expect, "{asking:?}");
        }
        assert_eq!(noted(Some(&first), "reg/app:1", "id", Some(&Used::Account(account("1"))), "2"), None);
        let both = noted(Some(&first), "reg/app:1", "id", Some(&Used::Secret(secret("1", "s", "h"))), "2").unwrap();
        assert_eq!(verdict(&both, "reg/app:1", &[], Some(&account("1"))), Verdict::Allowed);
        assert_eq!(verdict(&both, "reg/app:1", &[secret("1", "s", "h")], None), Verdict::Allowed);
    }
}
