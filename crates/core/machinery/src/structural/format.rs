//! The string formats that CustomResourceDefinitions may name; see upstream's supportedVersionedFormats. A format that is not
//! known checks nothing.

use std::net::{Ipv4Addr, Ipv6Addr};

use base64::Engine;

use crate::{names, normalize};

/// The names of the formats that are checked, without their dashes.
const KNOWN: [&str; 28] = [
    "bsonobjectid",
    "uri",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "cidr",
    "mac",
    "uuid",
    "uuid3",
    "uuid4",
    "uuid5",
    "isbn",
    "isbn10",
    "isbn13",
    "creditcard",
    "ssn",
    "hexcolor",
    "rgbcolor",
    "byte",
    "password",
    "date",
    "duration",
    "datetime",
    "k8sshortname",
    "k8slongname",
    "int32",
    "int64",
];

/// Whether a text has a format; dashes in the format's name mean nothing.
pub fn matches(format: &str, text: &str) -> bool {
    match format.replace('-', "").as_str() {
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => is_cidr(text),
        "mac" => is_mac(text),
        "uuid" => is_uuid(text, None),
        "uuid3" => is_uuid(text, Some('3')),
        "uuid4" => is_uuid(text, Some('4')),
        "uuid5" => is_uuid(text, Some('5')),
        "byte" => base64::engine::general_purpose::STANDARD.decode(text).is_ok(),
        "date" => text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(),
        "datetime" => text.parse::<jiff::Timestamp>().is_ok() && text.contains(['T', 't']),
        "duration" => is_duration(text),
        "hostname" => is_hostname(text),
        "email" => is_email(text),
        "uri" => text.starts_with('/') || text.split_once(':').is_some_and(|(scheme, rest)| is_scheme(scheme) && !rest.is_empty()),
        "bsonobjectid" => text.len() == 24 && is_hex(text),
        "isbn" => is_isbn10(text) || is_isbn13(text),
        "isbn10" => is_isbn10(text),
        "isbn13" => is_isbn13(text),
        "creditcard" => is_credit_card(text),
        "ssn" => is_ssn(text),
        "hexcolor" => matches!(text.trim_start_matches('#').len(), 3 | 6) && is_hex(text.strip_prefix('#').unwrap_or(text)),
        "rgbcolor" => is_rgb(text),
        "k8sshortname" => names::dns_label(text).is_ok(),
        "k8slongname" => names::dns_subdomain(text).is_ok(),
        _ => true,
    }
}

/// Whether a format is one that is checked.
pub(super) fn is_known(format: &str) -> bool {
    matches!(format, "float" | "double") || KNOWN.contains(&format.replace('-', "").as_str())
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
}

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let Ok(bits) = bits.parse::<u8>() else { return false };
    address.parse::<Ipv4Addr>().is_ok() && bits <= 32 || address.parse::<Ipv6Addr>().is_ok() && bits <= 128
}

fn is_mac(text: &str) -> bool {
    let parts: Vec<&str> = text.split(['-', ':']).collect();
    let by_bytes = matches!(parts.len(), 6 | 8 | 20) && parts.iter().all(|p| p.len() == 2 && is_hex(p));
    let groups: Vec<&str> = text.split('.').collect();
    by_bytes || matches!(groups.len(), 3 | 4 | 10) && groups.iter().all(|p| p.len() == 4 && is_hex(p))
}

fn is_uuid(text: &str, version: Option<char>) -> bool {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let dashes_in_place = text.char_indices().filter(|(_, c)| *c == '-').count() <= 4;
    let versioned = version.is_none_or(|v| digits.chars().nth(12) == Some(v));
    let varied = !matches!(version, Some('4' | '5')) || digits.chars().nth(16).is_some_and(|c| "89abAB".contains(c));
    digits.len() == 32 && is_hex(&digits) && dashes_in_place && versioned && varied
}

/// Go's durations, or a number and a unit in words.
fn is_duration(text: &str) -> bool {
    if normalize::parse_duration(text).is_some() {
        return true;
    }
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(0);
    let unit = text[digits..].trim();
    const UNITS: [&str; 27] = [
        "ns",
        "nano",
        "nanos",
        "nanosecond",
        "nanoseconds",
        "us",
        "micro",
        "micros",
        "microsecond",
        "microseconds",
        "ms",
        "milli",
        "millis",
        "millisecond",
        "milliseconds",
        "s",
        "sec",
        "secs",
        "second",
        "seconds",
        "m",
        "min",
        "mins",
        "minute",
        "minutes",
        "h",
        "hr",
    ];
    const LONG_UNITS: [&str; 9] = ["hrs", "hour", "hours", "d", "day", "days", "w", "week", "weeks"];
    digits > 0 && (UNITS.contains(&unit) || LONG_UNITS.contains(&unit))
}

fn is_hostname(text: &str) -> bool {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '_')
    };
    !text.is_empty() && text.len() <= 255 && text.trim_end_matches('.').split('.').all(label)
}

fn is_email(text: &str) -> bool {
    let address = match (text.rfind('<'), text.strip_suffix('>')) {
        (Some(at), Some(inner)) => &inner[at + 1..],
        _ => text,
    };
    address.split_once('@').is_some_and(|(name, host)| !name.is_empty() && !host.is_empty() && !address.contains(char::is_whitespace))
}

fn isbn_digits(text: &str) -> Vec<char> {
    text.chars().filter(|c| !matches!(c, '-' | ' ')).collect()
}

fn is_isbn10(text: &str) -> bool {
    let digits = isbn_digits(text);
    let value = |(i, c): (usize, &char)| match c {
        'X' if i == 9 => Some(10),
        c => c.to_digit(10),
    };
    let values: Option<Vec<u32>> = digits.iter().enumerate().map(value).collect();
    values.is_some_and(|v| v.len() == 10 && v.iter().enumerate().map(|(i, d)| (10 - i as u32) * d).sum::<u32>() % 11 == 0)
}

fn is_isbn13(text: &str) -> bool {
    let values: Option<Vec<u32>> = isbn_digits(text).iter().map(|c| c.to_digit(10)).collect();
    values.is_some_and(|v| v.len() == 13 && v.iter().enumerate().map(|(i, d)| d * if i % 2 == 0 { 1 } else { 3 }).sum::<u32>() % 10 == 0)
}

/// Right length and Luhn's check digit.
fn is_credit_card(text: &str) -> bool {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(10)).collect();
    let doubled = |(i, d): (usize, &u32)| match i % 2 {
        1 if *d > 4 => d * 2 - 9,
        1 => d * 2,
        _ => *d,
    };
    (13..=16).contains(&digits.len()) && digits.iter().rev().enumerate().map(doubled).sum::<u32>() % 10 == 0
}

fn is_ssn(text: &str) -> bool {
    let digits = text.chars().filter(char::is_ascii_digit).count();
    digits == 9 && text.chars().all(|c| c.is_ascii_digit() || c == '-' || c == ' ') && text.len() <= 11
}

fn is_rgb(text: &str) -> bool {
    let inner = text.strip_prefix("rgb(").and_then(|t| t.strip_suffix(')'));
    inner.is_some_and(|inner| {
        let parts: Vec<&str> = inner.split(',').map(str::trim).collect();
        parts.len() == 3 && parts.iter().all(|p| p.parse::<u8>().is_ok())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_take_what_upstream_takes() {
        for (format, good, bad) in [
            ("ipv4", "10.0.0.1", "10.0.0"),
            ("ipv6", "::1", "10.0.0.1"),
            ("cidr", "10.0.0.0/8", "10.0.0.0/33"),
            ("mac", "01:23:45:67:89:ab", "01:23"),
            ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123"),
            ("uuid4", "123e4567-e89b-42d3-a456-426614174000", "123e4567-e89b-12d3-a456-426614174000"),
            ("byte", "aGk=", "a"),
            ("date", "2006-01-02", "2006-1-2"),
            ("date-time", "2014-12-15T19:30:20.000Z", "2014-12-15"),
            ("duration", "22 ns", "x"),
            ("hostname", "a.example", "-a"),
            ("email", "a@b", "a"),
            ("uri", "http://a/b", "a b"),
            ("isbn10", "0321751043", "0321751044"),
            ("isbn13", "978-0321751041", "978-0321751042"),
            ("hexcolor", "#FFFFFF", "#FFFF"),
            ("rgbcolor", "rgb(1,2,3)", "rgb(1,2,300)"),
            ("creditcard", "4111 1111 1111 1111", "4111 1111 1111 1112"),
            ("ssn", "111-11-1111", "1"),
            ("k8s-short-name", "a-b", "A"),
        ] {
            assert!(matches(format, good) && is_known(format), "{format} {good}");
            assert!(!matches(format, bad), "{format} {bad}");
        }
        assert!(matches("anything", "x") && !is_known("anything"));
    }
}
