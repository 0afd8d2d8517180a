//! Errors as gRPC's codes, both ways. See google.rpc.Code, and k8s.io/cri-api/pkg/errors for the two that are told by their words.

use fram_grpc::server::Status;
use fram_grpc::{ConnectError, GrpcError};

use crate::{CriError, ImageError};

const UNKNOWN: u32 = 2;
const INVALID_ARGUMENT: u32 = 3;
const DEADLINE_EXCEEDED: u32 = 4;
const NOT_FOUND: u32 = 5;
const ALREADY_EXISTS: u32 = 6;
const PERMISSION_DENIED: u32 = 7;
const RESOURCE_EXHAUSTED: u32 = 8;
const FAILED_PRECONDITION: u32 = 9;
pub(super) const UNIMPLEMENTED: u32 = 12;
const INTERNAL: u32 = 13;
const UNAVAILABLE: u32 = 14;
const UNAUTHENTICATED: u32 = 16;

/// What errors of the registry begin with, since they have no code of their own.
const REGISTRY_UNAVAILABLE: &str = "RegistryUnavailable";
const SIGNATURE_VALIDATION_FAILED: &str = "SignatureValidationFailed";

pub(super) fn of_runtime(error: CriError) -> Status {
    let code = match &error {
        CriError::NotFound { .. } => NOT_FOUND,
        CriError::AlreadyExists { .. } => ALREADY_EXISTS,
        CriError::InvalidArgument(_) => INVALID_ARGUMENT,
        CriError::FailedPrecondition(_) => FAILED_PRECONDITION,
        CriError::DeadlineExceeded(_) => DEADLINE_EXCEEDED,
        CriError::Unavailable(_) => UNAVAILABLE,
        CriError::Unimplemented(_) => UNIMPLEMENTED,
        CriError::ResourceExhausted(_) => RESOURCE_EXHAUSTED,
        CriError::Image(error) => code_of_image(error),
        CriError::ContainerCannotRun(_) | CriError::Network(_) => UNKNOWN,
        CriError::Io { .. } | CriError::Internal(_) => INTERNAL,
    };
    Status::new(code, error.to_string())
}

fn code_of_image(error: &ImageError) -> u32 {
    match error {
        ImageError::NotFound(_) | ImageError::WrongPlatform { .. } => NOT_FOUND,
        ImageError::InvalidReference { .. } => INVALID_ARGUMENT,
        ImageError::Unauthorized(_) => PERMISSION_DENIED,
        ImageError::DiskFull(_) => RESOURCE_EXHAUSTED,
        ImageError::InUse(_) => FAILED_PRECONDITION,
        ImageError::RegistryUnavailable(_) | ImageError::SignatureValidationFailed(_) => UNKNOWN,
        ImageError::Corrupt(_) | ImageError::Internal(_) => INTERNAL,
    }
}

pub(super) fn of_image(error: ImageError) -> Status {
    let message = match &error {
        ImageError::RegistryUnavailable(why) => format!("{REGISTRY_UNAVAILABLE}: {why}"),
        ImageError::SignatureValidationFailed(why) => format!("{SIGNATURE_VALIDATION_FAILED}: {why}"),
        other => other.to_string(),
    };
    Status::new(code_of_image(&error), message)
}

/// Why a call of a remote runtime failed, whatever it was about.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Grpc(#[from] GrpcError),
    #[error("no answer after {} s", .after.as_secs())]
    Timeout { after: std::time::Duration },
}

impl CallError {
    /// The code and the words of the server, where it said something.
    fn said(&self) -> Option<(u32, &str)> {
        match self {
            Self::Connect(ConnectError::Grpc(error)) | Self::Grpc(error) => match error {
                GrpcError::Status { code, message } => Some((*code, message)),
                _ => None,
            },
            Self::Connect(_) | Self::Timeout { .. } => None,
        }
    }
}

/// `kind` and `id` are what the call was about.
pub(super) fn to_runtime(error: &CallError, kind: &'static str, id: &str) -> CriError {
    let Some((code, message)) = error.said() else {
        return match error {
            CallError::Timeout { .. } => CriError::DeadlineExceeded(error.to_string()),
            _ => CriError::Unavailable(error.to_string()),
        };
    };
    let message = message.to_owned();
    match code {
        NOT_FOUND => CriError::not_found(kind, id),
        ALREADY_EXISTS => CriError::AlreadyExists { kind, name: id.to_owned() },
        INVALID_ARGUMENT => CriError::InvalidArgument(message),
        FAILED_PRECONDITION => CriError::FailedPrecondition(message),
        DEADLINE_EXCEEDED => CriError::DeadlineExceeded(message),
        UNAVAILABLE => CriError::Unavailable(message),
        UNIMPLEMENTED => CriError::Unimplemented(message),
        RESOURCE_EXHAUSTED => CriError::ResourceExhausted(message),
        _ => CriError::Internal(message),
    }
}

pub(super) fn to_image(error: &CallError, reference: &str) -> ImageError {
    let Some((code, message)) = error.said() else { return ImageError::Internal(error.to_string()) };
    let message = message.to_owned();
    match code {
        NOT_FOUND => ImageError::NotFound(reference.to_owned()),
        INVALID_ARGUMENT => ImageError::InvalidReference { reference: reference.to_owned(), reason: message },
        PERMISSION_DENIED | UNAUTHENTICATED => ImageError::Unauthorized(message),
        RESOURCE_EXHAUSTED => ImageError::DiskFull(message),
        UNAVAILABLE => ImageError::RegistryUnavailable(message),
        _ if message.starts_with(REGISTRY_UNAVAILABLE) => ImageError::RegistryUnavailable(message),
        _ if message.starts_with(SIGNATURE_VALIDATION_FAILED) => ImageError::SignatureValidationFailed(message),
        _ => ImageError::Internal(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_the_same_on_both_sides() {
        let errors = [
            CriError::not_found("container", "a"),
            CriError::InvalidArgument("x".into()),
            CriError::FailedPrecondition("x".into()),
            CriError::DeadlineExceeded("x".into()),
            CriError::Unimplemented("x".into()),
        ];
        for error in errors {
            let text = error.to_string();
            let Status { code, message } = of_runtime(error);
            let call = CallError::Grpc(GrpcError::Status { code, message });
            assert_eq!(to_runtime(&call, "container", "a").to_string(), text);
        }
        let Status { code, message } = of_image(ImageError::RegistryUnavailable("down".into()));
        assert_eq!((code, message.as_str()), (UNKNOWN, "RegistryUnavailable: down"));
        let call = CallError::Grpc(GrpcError::Status { code, message });
        assert!(matches!(to_image(&call, "a"), ImageError::RegistryUnavailable(_)));
    }
}
