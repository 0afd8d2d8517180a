//! Since when it is noted which tokens of Secrets are used: the ConfigMap by which their clean-up knows that one has not been. Pure; see
//! upstream's legacytokentracking controller.

use fram_machinery::{Value, object};

pub(super) const NAMESPACE: &str = "kube-system";
pub(super) const NAME: &str = "kube-apiserver-legacy-service-account-token-tracking";

/// The data that the ConfigMap should have: the first day, which stays.
pub(super) fn data(current: Option<&Value>, now: jiff::Timestamp) -> Value {
    let is_day = |c: &&Value| c.str_at(&["data", "since"]).parse::<jiff::civil::Date>().is_ok();
    match current.filter(is_day) {
        Some(current) => current.get("data").cloned().unwrap_or_default(),
        None => {
            let mut data = current.and_then(|c| c.get("data")).filter(|d| !d.is_null()).cloned().unwrap_or_else(|| object!({}));
            data.set(&["since"], crate::token::day(now));
            data
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_day_stays_and_what_is_no_day_is_replaced() {
        let now = "2026-02-03T04:05:06Z".parse().unwrap();
        assert_eq!(data(None, now), object!({ "since": "2026-02-03" }));
        let map = |since: &str| object!({ "data": { "since": since, "other": "stays" } });
        assert_eq!(data(Some(&map("2025-01-01")), now), object!({ "since": "2025-01-01", "other": "stays" }));
        assert_eq!(data(Some(&map("soon")), now), object!({ "since": "2026-02-03", "other": "stays" }));
    }
}
