//! The rules of security contexts, of containers and of pods.

use fram_machinery::Value;
use fram_machinery::status::FieldError;

use super::At;
use super::volumes::local_path_errors;

/// The greatest number that a user or group has.
const MAX_ID: i64 = 2_147_483_647;

pub(super) fn container(context: &Value, at: At<'_>, host_users: bool, errors: &mut Vec<FieldError>) {
    ids(context, &["runAsUser", "runAsGroup"], at, errors);
    match context.get("procMount").and_then(Value::as_str) {
        None | Some("Default") => {}
        Some("Unmasked") if host_users => {
            errors.push(FieldError::invalid(format!("{at}.procMount"), "Unmasked", "`hostUsers` must be false to use `Unmasked`"));
        }
        Some("Unmasked") => {}
        Some(text) => errors.push(FieldError::not_supported(format!("{at}.procMount"), text, &["Default", "Unmasked"])),
    }
    profiles(context, at, errors);
    if context.bool_at(&["allowPrivilegeEscalation"]) == Some(false) {
        if context.bool_at(&["privileged"]) == Some(true) {
            let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.push(FieldError::invalid(at, context.clone(), why));
        }
        if context.list_at(&["capabilities", "add"]).iter().any(|c| c.as_str() == Some("CAP_SYS_ADMIN")) {
            let why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.push(FieldError::invalid(at, context.clone(), why));
        }
    }
}

pub(super) fn ids(context: &Value, fields: &[&str], at: At<'_>, errors: &mut Vec<FieldError>) {
    for field in fields {
        if let Some(id) = context.int_at(&[field]).filter(|n| !(0..=MAX_ID).contains(n)) {
            errors.push(FieldError::invalid(format!("{at}.{field}"), id, "must be between 0 and 2147483647, inclusive"));
        }
    }
}

/// Profiles of seccomp and AppArmor: a profile is named where it is a file of the node, and only there.
pub(super) fn profiles(context: &Value, at: At<'_>, errors: &mut Vec<FieldError>) {
    for field in ["seccompProfile", "appArmorProfile"] {
        let Some(profile) = context.get(field) else { continue };
        let at = format_args!("{at}.{field}");
        let named = profile.get("localhostProfile").and_then(Value::as_str);
        let ty = profile.str_at(&["type"]);
        if ty.is_empty() {
            errors.push(FieldError::required(format!("{at}.type"), "type is required"));
        }
        let at = format_args!("{at}.localhostProfile");
        match named {
            None if ty == "Localhost" => errors.push(FieldError::required(at, "must be set when type is Localhost")),
            Some(name) if ty == "Localhost" && field == "appArmorProfile" => app_armor_name(name, at, errors),
            Some(name) if ty == "Localhost" => local_path_errors(name, at, errors),
            Some(name) if field == "seccompProfile" || matches!(ty, "RuntimeDefault" | "Unconfined") => {
                errors.push(FieldError::invalid(at, name, "can only be set when type is Localhost"));
            }
            _ => {}
        }
    }
}

fn app_armor_name(name: &str, at: At<'_>, errors: &mut Vec<FieldError>) {
    if name.trim().is_empty() {
        errors.push(FieldError::required(at, "must be set when AppArmor type is Localhost"));
    } else if name.trim() != name {
        errors.push(FieldError::invalid(at, name, "must not be padded with whitespace"));
    } else if name.len() > 4095 {
        errors.push(FieldError::too_long(at, 4095));
    }
}
