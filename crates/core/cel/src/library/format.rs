//! Kubernetes' library `format`: named forms of texts.

use fram_machinery::{names, structural};

use crate::eval::{Result, optional_of};
use crate::value::Value;

const FORMATS: [&str; 13] = [
    "dns1123Label",
    "dns1123Subdomain",
    "dns1035Label",
    "qualifiedName",
    "dns1123LabelPrefix",
    "dns1123SubdomainPrefix",
    "dns1035LabelPrefix",
    "labelValue",
    "uri",
    "uuid",
    "byte",
    "date",
    "datetime",
];

pub(super) fn call(name: &str, args: &[Value]) -> Result<Option<Value>> {
    let known = |name: &str| FORMATS.into_iter().find(|n| *n == name).map(Value::Format);
    Ok(match (name, args) {
        ("format.named", [Value::Text(name)]) => Some(optional_of(known(name))),
        ("validate", [Value::Format(format), Value::Text(text)]) => {
            let why = wrong(format, text).map(|why| vec![Value::from(why)].into());
            Some(optional_of(why))
        }
        (name, []) => name.strip_prefix("format.").and_then(known),
        _ => None,
    })
}

/// Why a text has not a form.
fn wrong(format: &str, text: &str) -> Option<&'static str> {
    // A prefix may end where a name goes on.
    let whole = |text: &str| text.strip_suffix('-').map_or_else(|| text.to_string(), |rest| format!("{rest}a"));
    match format {
        "dns1123Label" => names::dns_label(text).err(),
        "dns1123Subdomain" => names::dns_subdomain(text).err(),
        "dns1035Label" => names::dns1035_label(text).err(),
        "qualifiedName" => names::qualified_name(text).err(),
        "dns1123LabelPrefix" => names::dns_label(&whole(text)).err(),
        "dns1123SubdomainPrefix" => names::dns_subdomain(&whole(text)).err(),
        "dns1035LabelPrefix" => names::dns1035_label(&whole(text)).err(),
        "labelValue" => names::label_value(text).err(),
        "uri" => (!structural::has_format("uri", text)).then_some("invalid URI for request"),
        "uuid" => (!structural::has_format("uuid", text)).then_some("does not match the UUID format"),
        "byte" => (!structural::has_format("byte", text)).then_some("invalid base64"),
        "date" => (!structural::has_format("date", text)).then_some("invalid date"),
        _ => (!structural::has_format("datetime", text)).then_some("invalid datetime"),
    }
}
