//! Which controllers run, as kube-controller-manager's flag --controllers says it. Pure.

use std::sync::Arc;

/// What `Selection::runs` is asked by whoever signs and approves certificate requests, which is not one of this crate's.
pub const CSR_SIGNING: &str = "certificatesigningrequest-signing-controller";
/// See `CSR_SIGNING`.
pub const CSR_APPROVING: &str = "certificatesigningrequest-approving-controller";

/// Names: `*` for all, `NAME` for one, `-NAME` for all but one. What is said of a name first holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection(Arc<[String]>);

impl Default for Selection {
    fn default() -> Self {
        Self(Arc::new(["*".to_string()]))
    }
}

/// A name that no controller has.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{name:?} is not in the list of known controllers: {known}")]
pub struct UnknownController {
    name: String,
    known: String,
}

impl Selection {
    /// Takes a list of words like those above.
    pub fn new(words: Vec<String>) -> Result<Self, UnknownController> {
        let known = crate::names();
        for word in &words {
            let name = word.strip_prefix('-').unwrap_or(word);
            if name != "*" && !known.contains(&name) {
                return Err(UnknownController { name: name.into(), known: known.join(", ") });
            }
        }
        Ok(Self(words.into()))
    }

    /// Whether the controller of this name runs.
    pub fn runs(&self, name: &str) -> bool {
        let said = self.0.iter().find_map(|word| match word.strip_prefix('-') {
            Some(off) => (off == name).then_some(false),
            None => (word == name).then_some(true),
        });
        said.unwrap_or_else(|| self.0.iter().any(|word| word == "*"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_controller_holds_and_else_what_is_said_of_all() {
        let runs = |words: &[&str], name: &str| Selection::new(words.iter().map(|w| w.to_string()).collect()).unwrap().runs(name);
        assert!(Selection::default().runs("job-controller"));
        assert!(!runs(&["*", "-job-controller"], "job-controller") && runs(&["*", "-job-controller"], "cronjob-controller"));
        assert!(runs(&["job-controller"], "job-controller") && !runs(&["job-controller"], "cronjob-controller"));
        assert!(runs(&["job-controller", "-job-controller"], "job-controller"));
        assert!(!runs(&["-*"], "job-controller") && !runs(&[], "job-controller"));
        let unknown = Selection::new(vec!["*".into(), "-jobs".into()]).unwrap_err().to_string();
        assert!(unknown.starts_with("\"jobs\" is not in the list of known controllers: "), "{unknown}");
    }
}
