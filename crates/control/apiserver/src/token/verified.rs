//! Tokens whose signature has been checked. Those that failed are not kept, so that nobody can fill this with tokens of his own.

use std::collections::HashMap;
use std::sync::Arc;

use fram_store::Revision;
use parking_lot::Mutex;

use super::Claims;

/// So many are kept of those in use, and as many again of those that were in use before them.
const MOST: usize = 4096;

type Digest = [u8; 32];

/// A token with a good signature.
pub(super) struct Verified {
    pub(super) claims: Claims,
    /// At which revision each of the objects that it is bound to was last found to be the right one, and staying.
    bound: Mutex<Vec<Revision>>,
}

impl Verified {
    pub(super) fn is_bound_to(&self, at: usize, revision: Revision) -> bool {
        self.bound.lock().get(at) == Some(&revision)
    }

    pub(super) fn bound_to(&self, at: usize, revision: Revision) {
        let mut bound = self.bound.lock();
        if bound.len() <= at {
            bound.resize(at + 1, Revision(0));
        }
        bound[at] = revision;
    }
}

/// By the tokens' digests: the tokens themselves are secrets.
#[derive(Default)]
pub(super) struct VerifiedTokens(Mutex<Generations>);

#[derive(Default)]
struct Generations {
    young: HashMap<Digest, Arc<Verified>>,
    old: HashMap<Digest, Arc<Verified>>,
}

impl VerifiedTokens {
    /// What is known of a token, or else what `check` makes of it.
    pub(super) fn get_or_check(&self, token: &str, check: impl FnOnce() -> Option<Claims>) -> Option<Arc<Verified>> {
        let digest = ring::digest::digest(&ring::digest::SHA256, token.as_bytes()).as_ref().try_into().ok()?;
        {
            let mut known = self.0.lock();
            if let Some(verified) = known.young.get(&digest) {
                return Some(verified.clone());
            }
            if let Some(verified) = known.old.remove(&digest) {
                known.keep(digest, verified.clone());
                return Some(verified);
            }
        }
        let verified = Arc::new(Verified { claims: check()?, bound: Mutex::default() });
        self.0.lock().keep(digest, verified.clone());
        Some(verified)
    }
}

impl Generations {
    fn keep(&mut self, digest: Digest, verified: Arc<Verified>) {
        if self.young.len() >= MOST {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(digest, verified);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Option<Claims> {
        let empty = || String::new();
        Some(Claims { iss: empty(), sub: empty(), aud: Vec::new(), exp: 0, nbf: 0, iat: 0, jti: empty(), kubernetes: Default::default() })
    }

    #[test]
    fn good_tokens_are_checked_once_and_bad_ones_every_time() {
        let tokens = VerifiedTokens::default();
        assert!(tokens.get_or_check("good", claims).is_some());
        assert!(tokens.get_or_check("good", || panic!("checked again")).is_some());
        assert!(tokens.get_or_check("bad", || None).is_none());
        assert!(tokens.get_or_check("bad", claims).is_some());
    }

    #[test]
    fn tokens_in_use_stay_and_others_go() {
        let tokens = VerifiedTokens::default();
        for n in 0..10 * MOST {
            tokens.get_or_check("in use", || if n == 0 { claims() } else { panic!("forgotten") });
            tokens.get_or_check(&n.to_string(), claims);
        }
        let known = tokens.0.lock();
        assert!(known.young.len() + known.old.len() <= 2 * MOST);
    }
}
