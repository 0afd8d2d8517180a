//! `Status`: the answer of the API to what failed. Reasons, codes and texts are those of apimachinery's errors package.

use crate::object;
use crate::value::{Map, Value};

/// Why a request failed, in the words that clients compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    NotAcceptable,
    AlreadyExists,
    Conflict,
    Gone,
    Expired,
    RequestEntityTooLarge,
    UnsupportedMediaType,
    Invalid,
    TooManyRequests,
    InternalError,
    ServiceUnavailable,
    Timeout,
    ServerTimeout,
    Unknown,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        use Reason::*;
        match self {
            BadRequest => "BadRequest",
            Unauthorized => "Unauthorized",
            Forbidden => "Forbidden",
            NotFound => "NotFound",
            MethodNotAllowed => "MethodNotAllowed",
            NotAcceptable => "NotAcceptable",
            AlreadyExists => "AlreadyExists",
            Conflict => "Conflict",
            Gone => "Gone",
            Expired => "Expired",
            RequestEntityTooLarge => "RequestEntityTooLarge",
            UnsupportedMediaType => "UnsupportedMediaType",
            Invalid => "Invalid",
            TooManyRequests => "TooManyRequests",
            InternalError => "InternalError",
            ServiceUnavailable => "ServiceUnavailable",
            Timeout => "Timeout",
            ServerTimeout => "ServerTimeout",
            Unknown => "",
        }
    }

    pub fn code(self) -> u16 {
        use Reason::*;
        match self {
            BadRequest => 400,
            Unauthorized => 401,
            Forbidden => 403,
            NotFound => 404,
            MethodNotAllowed => 405,
            NotAcceptable => 406,
            AlreadyExists | Conflict => 409,
            Gone | Expired => 410,
            RequestEntityTooLarge => 413,
            UnsupportedMediaType => 415,
            Invalid => 422,
            TooManyRequests => 429,
            InternalError | ServerTimeout | Unknown => 500,
            ServiceUnavailable => 503,
            Timeout => 504,
        }
    }

    fn parse(text: &str, code: i64) -> Self {
        use Reason::*;
        let all = [
            BadRequest,
            Unauthorized,
            Forbidden,
            NotFound,
            MethodNotAllowed,
            NotAcceptable,
            AlreadyExists,
            Conflict,
            Gone,
            Expired,
            RequestEntityTooLarge,
            UnsupportedMediaType,
            Invalid,
            TooManyRequests,
            InternalError,
            ServiceUnavailable,
            Timeout,
            ServerTimeout,
        ];
        let by_text = all.into_iter().find(|r| r.as_str() == text);
        by_text.or_else(|| all.into_iter().find(|r| i64::from(r.code()) == code)).unwrap_or(Unknown)
    }
}

/// One cause of an Invalid status.
#[derive(Debug, Clone, PartialEq)]
pub struct StatusCause {
    /// `FieldValueRequired`, `FieldValueInvalid`, …
    pub reason: String,
    pub message: String,
    pub field: String,
}

/// A failed request. `code` differs from the reason's own code only where upstream's does.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    pub code: u16,
    pub reason: Reason,
    pub message: String,
    pub name: String,
    pub group: String,
    pub kind: String,
    pub causes: Vec<StatusCause>,
    pub retry_after_seconds: i64,
    /// With Expired: the token by which a list goes on all the same, at the newest revision.
    pub continue_token: String,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

fn qualified(resource: &str, group: &str) -> String {
    if group.is_empty() { resource.to_string() } else { format!("{resource}.{group}") }
}

impl Status {
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            code: reason.code(),
            reason,
            message: message.into(),
            name: String::new(),
            group: String::new(),
            kind: String::new(),
            causes: Vec::new(),
            retry_after_seconds: 0,
            continue_token: String::new(),
        }
    }

    fn of(reason: Reason, group: &str, resource: &str, name: &str, message: String) -> Self {
        Self { name: name.into(), group: group.into(), kind: resource.into(), ..Self::new(reason, message) }
    }

    /// Whether this is among what is told of its causes.
    pub fn has_cause(&self, reason: &str) -> bool {
        self.causes.iter().any(|cause| cause.reason == reason)
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Reason::BadRequest, message)
    }

    pub fn internal(message: impl std::fmt::Display) -> Self {
        Self::new(Reason::InternalError, format!("Internal error occurred: {message}"))
    }

    pub fn unauthorized() -> Self {
        Self::new(Reason::Unauthorized, "Unauthorized")
    }

    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {name:?} not found", qualified(resource, group));
        Self::of(Reason::NotFound, group, resource, name, message)
    }

    /// The path leads nowhere.
    pub fn no_such_path() -> Self {
        Self::new(Reason::NotFound, "the server could not find the requested resource")
    }

    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", qualified(resource, group));
        Self::of(Reason::AlreadyExists, group, resource, name, message)
    }

    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", qualified(resource, group));
        Self::of(Reason::Conflict, group, resource, name, message)
    }

    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let message = if name.is_empty() {
            format!("{} is forbidden: {why}", qualified(resource, group))
        } else {
            format!("{} {name:?} is forbidden: {why}", qualified(resource, group))
        };
        Self::of(Reason::Forbidden, group, resource, name, message)
    }

    pub fn method_not_allowed(group: &str, resource: &str, verb: &str) -> Self {
        let message = format!("{verb} is not supported on resources of kind {:?}", qualified(resource, group));
        Self::of(Reason::MethodNotAllowed, group, resource, "", message)
    }

    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(Reason::Expired, message)
    }

    /// An object that breaks its kind's rules; `kind` is the kind, not the resource.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: Vec<FieldError>) -> Self {
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let list = if texts.len() == 1 { texts[0].clone() } else { format!("[{}]", texts.join(", ")) };
        let message = format!("{} {name:?} is invalid: {list}", qualified(kind, group));
        let causes = errors.into_iter().map(FieldError::into_cause).collect();
        Self { causes, ..Self::of(Reason::Invalid, group, kind, name, message) }
    }

    pub fn is(&self, reason: Reason) -> bool {
        self.reason == reason
    }

    /// The `Status` object, kind `Status` of version `v1`.
    pub fn to_object(&self) -> Value {
        let mut details = Map::new();
        for (key, text) in [("name", &self.name), ("group", &self.group), ("kind", &self.kind)] {
            if !text.is_empty() {
                details.insert(key, text.as_str());
            }
        }
        if !self.causes.is_empty() {
            let cause = |c: &StatusCause| {
                let mut cause = Map::new();
                for (key, text) in [("reason", &c.reason), ("message", &c.message), ("field", &c.field)] {
                    if !text.is_empty() {
                        cause.insert(key, text.as_str());
                    }
                }
                Value::Map(cause)
            };
            details.insert("causes", self.causes.iter().map(cause).collect::<Vec<_>>());
        }
        if self.retry_after_seconds > 0 {
            details.insert("retryAfterSeconds", self.retry_after_seconds);
        }
        let mut status = object!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": (self.message.as_str()), "code": (i64::from(self.code))
        });
        if self.reason != Reason::Unknown {
            status.set(&["reason"], self.reason.as_str());
        }
        if !details.is_empty() {
            status.set(&["details"], details);
        }
        if !self.continue_token.is_empty() {
            status.set(&["metadata", "continue"], self.continue_token.as_str());
        }
        status
    }

    /// Reads a `Status` object that a server answered.
    pub fn from_object(status: &Value) -> Self {
        let code = status.int_at(&["code"]).unwrap_or(500);
        let text = |path: &[&str]| status.str_at(path).to_string();
        Self {
            code: u16::try_from(code).unwrap_or(500),
            reason: Reason::parse(status.str_at(&["reason"]), code),
            message: text(&["message"]),
            name: text(&["details", "name"]),
            group: text(&["details", "group"]),
            kind: text(&["details", "kind"]),
            causes: status
                .list_at(&["details", "causes"])
                .iter()
                .map(|c| StatusCause {
                    reason: c.str_at(&["reason"]).into(),
                    message: c.str_at(&["message"]).into(),
                    field: c.str_at(&["field"]).into(),
                })
                .collect(),
            retry_after_seconds: status.int_at(&["details", "retryAfterSeconds"]).unwrap_or(0),
            continue_token: text(&["metadata", "continue"]),
        }
    }
}

/// The cause why nothing is made in a namespace that ends; see upstream's NamespaceTerminatingCause.
pub const NAMESPACE_TERMINATING: &str = "NamespaceTerminating";

/// What is wrong with one field; see apimachinery's field.Error.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldError {
    pub field: String,
    pub problem: Problem,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Problem {
    Required(String),
    Invalid { value: Value, why: String },
    NotSupported { value: Value, supported: Vec<String> },
    Duplicate(Value),
    Forbidden(String),
    TooLong { limit: usize },
    TooMany { actual: usize, limit: usize },
    NotFound(Value),
    TypeInvalid { value: Value, why: String },
}

impl FieldError {
    pub fn required(field: impl ToString, why: &str) -> Self {
        Self { field: field.to_string(), problem: Problem::Required(why.into()) }
    }

    pub fn invalid(field: impl ToString, value: impl Into<Value>, why: impl Into<String>) -> Self {
        Self { field: field.to_string(), problem: Problem::Invalid { value: value.into(), why: why.into() } }
    }

    pub fn not_supported(field: impl ToString, value: impl Into<Value>, supported: &[&str]) -> Self {
        let supported = supported.iter().map(ToString::to_string).collect();
        Self { field: field.to_string(), problem: Problem::NotSupported { value: value.into(), supported } }
    }

    pub fn duplicate(field: impl ToString, value: impl Into<Value>) -> Self {
        Self { field: field.to_string(), problem: Problem::Duplicate(value.into()) }
    }

    pub fn not_found(field: impl ToString, value: impl Into<Value>) -> Self {
        Self { field: field.to_string(), problem: Problem::NotFound(value.into()) }
    }

    pub fn forbidden(field: impl ToString, why: &str) -> Self {
        Self { field: field.to_string(), problem: Problem::Forbidden(why.into()) }
    }

    pub fn too_long(field: impl ToString, limit: usize) -> Self {
        Self { field: field.to_string(), problem: Problem::TooLong { limit } }
    }

    pub fn too_many(field: impl ToString, actual: usize, limit: usize) -> Self {
        Self { field: field.to_string(), problem: Problem::TooMany { actual, limit } }
    }

    pub fn is_required(&self) -> bool {
        matches!(self.problem, Problem::Required(_))
    }

    /// The type of the cause, such as `FieldValueRequired`.
    pub fn reason(&self) -> &'static str {
        match self.problem {
            Problem::Required(_) => "FieldValueRequired",
            Problem::Invalid { .. } => "FieldValueInvalid",
            Problem::NotSupported { .. } => "FieldValueNotSupported",
            Problem::Duplicate(_) => "FieldValueDuplicate",
            Problem::Forbidden(_) => "FieldValueForbidden",
            Problem::TooLong { .. } => "FieldValueTooLong",
            Problem::TooMany { .. } => "FieldValueTooMany",
            Problem::NotFound(_) => "FieldValueNotFound",
            Problem::TypeInvalid { .. } => "FieldValueTypeInvalid",
        }
    }

    fn body(&self) -> String {
        let with = |head: &str, why: &str| if why.is_empty() { head.to_string() } else { format!("{head}: {why}") };
        match &self.problem {
            Problem::Required(why) => with("Required value", why),
            Problem::Invalid { value, why } => with(&format!("Invalid value: {value:?}"), why),
            Problem::TypeInvalid { value, why } => with(&format!("Invalid value: {value:?}"), why),
            Problem::NotSupported { value, supported } if supported.is_empty() => format!("Unsupported value: {value:?}"),
            Problem::NotSupported { value, supported } => {
                let mut names: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
                names.sort();
                format!("Unsupported value: {value:?}: supported values: {}", names.join(", "))
            }
            Problem::Duplicate(value) => format!("Duplicate value: {value:?}"),
            Problem::Forbidden(why) => with("Forbidden", why),
            Problem::TooLong { limit } => format!("Too long: may not be more than {limit} bytes"),
            Problem::TooMany { actual, limit } => format!("Too many: {actual}: must have at most {limit} items"),
            Problem::NotFound(value) => format!("Not found: {value:?}"),
        }
    }

    fn into_cause(self) -> StatusCause {
        StatusCause { reason: self.reason().into(), message: self.body(), field: self.field }
    }
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_status_names_each_cause() {
        let errors = vec![FieldError::required("spec.a", ""), FieldError::not_supported("spec.b", "x", &["z", "y"])];
        let status = Status::invalid("apps", "Deployment", "web", errors);
        let expect =
            r#"Deployment.apps "web" is invalid: [spec.a: Required value, spec.b: Unsupported value: "x": supported values: "y", "z"]"#;
        assert_eq!(status.message, expect);
        assert_eq!(Status::from_object(&status.to_object()), status);
    }

    #[test]
    fn a_status_without_known_reason_is_told_by_its_code() {
        let status = Status::from_object(&object!({ "code": 404, "message": "x" }));
        assert!(status.is(Reason::NotFound));
    }
}
