//! Logs of containers, as the API sees them: which options make sense, and how a kubelet's refusal is told to the client. The
//! log itself is the kubelet's.

use fram_machinery::status::FieldError;
use fram_machinery::{Reason, Status};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Limited};

use crate::path::Query;
use crate::respond::Body;

/// See upstream's maxReadLength of the response checker.
const MAX_REFUSAL: usize = 50_000;

/// See ValidatePodLogOptions.
pub(super) fn check(query: &Query) -> Result<(), Status> {
    let given = |name: &str| Some(query.get(name)).filter(|text| !text.is_empty()).map(str::to_owned);
    let mut errors = Vec::new();
    let mut at_least = |name: &str, least: i64, why: &str| -> Result<(), Status> {
        let Some(text) = given(name) else { return Ok(()) };
        let wrong = |e: &dyn std::fmt::Display| Status::bad_request(format!("{name}: cannot read {text:?} as a number: {e}"));
        let number: i64 = text.parse().map_err(|e| wrong(&e))?;
        if number < least {
            errors.push(FieldError::invalid(name, number, why));
        }
        Ok(())
    };
    at_least("tailLines", 0, "must be greater than or equal to 0")?;
    at_least("limitBytes", 1, "must be greater than 0")?;
    match (given("sinceSeconds"), given("sinceTime")) {
        (Some(_), Some(_)) => errors.push(FieldError::forbidden("", "at most one of `sinceTime` or `sinceSeconds` may be specified")),
        (Some(_), None) => at_least("sinceSeconds", 1, "must be greater than 0")?,
        _ => {}
    }
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid("", "PodLogOptions", "", errors)) }
}

/// A kubelet refuses in plain text; clients show the message of a Status only. See GenericHttpResponseChecker.
pub(super) async fn answer(response: Response<Body>) -> Result<Response<Body>, Status> {
    let status = response.status();
    if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response);
    }
    let body = Limited::new(response.into_body(), MAX_REFUSAL).collect().await;
    let text = body.map_or_else(|e| e.to_string(), |body| String::from_utf8_lossy(&body.to_bytes()).trim_end().to_owned());
    Err(match status {
        StatusCode::BAD_REQUEST => Status::bad_request(text),
        StatusCode::NOT_FOUND => Status::new(Reason::NotFound, text),
        StatusCode::SERVICE_UNAVAILABLE => Status::new(Reason::ServiceUnavailable, text),
        _ => Status::internal(text),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_make_no_sense_are_refused() {
        for (query, wanted) in [
            ("", None),
            ("tailLines=0&limitBytes=1&sinceSeconds=1&follow=true", None),
            ("sinceTime=2026-01-01T00:00:00Z", None),
            ("tailLines=-1", Some("tailLines: Invalid value: -1: must be greater than or equal to 0")),
            ("limitBytes=0", Some("limitBytes: Invalid value: 0: must be greater than 0")),
            ("sinceSeconds=-5", Some("sinceSeconds: Invalid value: -5: must be greater than 0")),
            ("sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z", Some("at most one of `sinceTime` or `sinceSeconds` may be specified")),
            ("tailLines=many", Some("tailLines: cannot read \"many\" as a number")),
        ] {
            let refused = check(&Query::parse(Some(query))).err().map(|status| status.message);
            match (&refused, wanted) {
                (None, None) => {}
                (Some(message), Some(part)) => assert!(message.contains(part), "{query}: {message}"),
                _ => panic!("{query}: {refused:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_refusal_in_plain_text_becomes_a_status_with_its_words() {
        for (code, reason) in [(400, Reason::BadRequest), (404, Reason::NotFound), (500, Reason::InternalError)] {
            let refused = answer(crate::respond::bytes(code, "text/plain", "previous terminated container \"a\" not found\n")).await;
            let status = refused.err().unwrap();
            assert_eq!(status.reason, reason);
            assert!(status.message.ends_with("previous terminated container \"a\" not found"), "{}", status.message);
        }
        assert!(answer(crate::respond::bytes(200, "text/plain", "log")).await.is_ok());
    }
}
