//! Which options of lists and watches make sense together. Pure; see ValidateListOptions, and "Semantics for get and list" and
//! "Semantics for watch" in upstream's API concepts.

use fram_machinery::Status;
use fram_machinery::status::FieldError;

use crate::path::Query;

const MATCH: &str = "resourceVersionMatch";
const INITIAL: &str = "sendInitialEvents";
const NOT_OLDER: &str = "NotOlderThan";

/// Refuses combinations that mean nothing. `lists` says whether watches may begin with what there is (the gate WatchList).
pub(super) fn check(query: &Query, watch: bool, lists: bool) -> Result<(), Status> {
    let errors = if watch { of_watch(query, lists) } else { of_list(query) };
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid("meta.k8s.io", "ListOptions", "", errors)) }
}

fn of_list(query: &Query) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (matching, version) = (query.get(MATCH), query.get("resourceVersion"));
    if !matching.is_empty() {
        if version.is_empty() {
            errors.push(FieldError::forbidden(MATCH, "it says how resourceVersion is meant, which is not given"));
        }
        if !query.get("continue").is_empty() {
            errors.push(FieldError::forbidden(MATCH, "a list that continues is of the version that it began with, leave it out"));
        }
        if !["Exact", NOT_OLDER].contains(&matching) {
            errors.push(FieldError::not_supported(MATCH, matching, &["Exact", NOT_OLDER, ""]));
        }
        if matching == "Exact" && version == "0" {
            errors.push(FieldError::forbidden(MATCH, "resourceVersion 0 means any version, and none exactly"));
        }
    }
    if query.has(INITIAL) {
        errors.push(FieldError::forbidden(INITIAL, "it is an option of watches, and not of lists"));
    }
    errors
}

fn of_watch(query: &Query, lists: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let matching = query.get(MATCH);
    if query.has(INITIAL) && !lists {
        let why = "the feature gate WatchList is off: list first, then watch";
        errors.push(FieldError::forbidden(INITIAL, why));
    }
    if query.has(INITIAL) && matching != NOT_OLDER {
        errors.push(FieldError::forbidden(MATCH, "with sendInitialEvents it has to be NotOlderThan"));
    }
    if !matching.is_empty() {
        if !query.has(INITIAL) {
            errors.push(FieldError::forbidden(MATCH, "a watch takes it with sendInitialEvents only"));
        }
        if matching != NOT_OLDER {
            errors.push(FieldError::not_supported(MATCH, matching, &[NOT_OLDER]));
        }
        if !query.get("continue").is_empty() {
            errors.push(FieldError::forbidden(MATCH, "a list that continues is of the version that it began with, leave it out"));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn table(watch: bool, cases: &[(&str, Option<&str>)]) {
        for (query, wanted) in cases {
            let refused = check(&Query::parse(Some(query)), watch, true).err();
            let message =
                refused.as_ref().map(|s| s.message.strip_prefix("ListOptions.meta.k8s.io \"\" is invalid: ").unwrap().to_string());
            assert_eq!(message.as_deref(), *wanted, "{query}");
            assert!(refused.is_none_or(|s| s.code == 422));
        }
    }

    #[test]
    fn options_of_a_list_have_to_make_sense_together() {
        let exact_zero = "resourceVersionMatch: Forbidden: resourceVersion 0 means any version, and none exactly";
        table(
            false,
            &[
                ("", None),
                ("resourceVersion=0", None),
                ("resourceVersion=5&limit=3", None),
                ("resourceVersion=5&resourceVersionMatch=Exact", None),
                ("resourceVersion=0&resourceVersionMatch=NotOlderThan", None),
                ("limit=3&continue=x", None),
                (
                    "resourceVersionMatch=NotOlderThan",
                    Some("resourceVersionMatch: Forbidden: it says how resourceVersion is meant, which is not given"),
                ),
                ("resourceVersion=0&resourceVersionMatch=Exact", Some(exact_zero)),
                (
                    "resourceVersion=1&resourceVersionMatch=Other",
                    Some("resourceVersionMatch: Unsupported value: \"Other\": supported values: \"\", \"Exact\", \"NotOlderThan\""),
                ),
                (
                    "resourceVersion=1&resourceVersionMatch=Exact&continue=x",
                    Some("resourceVersionMatch: Forbidden: a list that continues is of the version that it began with, leave it out"),
                ),
                ("sendInitialEvents=true", Some("sendInitialEvents: Forbidden: it is an option of watches, and not of lists")),
            ],
        );
    }

    #[test]
    fn options_of_a_watch_have_to_make_sense_together() {
        table(
            true,
            &[
                ("", None),
                ("resourceVersion=0&allowWatchBookmarks=true&timeoutSeconds=5", None),
                ("sendInitialEvents=true&resourceVersionMatch=NotOlderThan", None),
                ("sendInitialEvents=false&resourceVersionMatch=NotOlderThan&resourceVersion=5", None),
                ("sendInitialEvents=true", Some("resourceVersionMatch: Forbidden: with sendInitialEvents it has to be NotOlderThan")),
                (
                    "resourceVersionMatch=NotOlderThan",
                    Some("resourceVersionMatch: Forbidden: a watch takes it with sendInitialEvents only"),
                ),
                (
                    "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&continue=x",
                    Some("resourceVersionMatch: Forbidden: a list that continues is of the version that it began with, leave it out"),
                ),
            ],
        );
    }

    #[test]
    fn a_watch_begins_with_nothing_where_the_gate_is_shut() {
        let query = Query::parse(Some("sendInitialEvents=true&resourceVersionMatch=NotOlderThan"));
        let refused = check(&query, true, false).unwrap_err();
        assert!(refused.message.contains("sendInitialEvents: Forbidden: the feature gate WatchList is off"), "{refused:?}");
        assert!(check(&query, true, true).is_ok() && check(&Query::parse(None), true, false).is_ok());
    }
}
