//! The shapes of names: DNS labels and subdomains, qualified names, label values, ports.
//! Every check answers with the rule that was broken; the texts are those that Kubernetes users know.

type Check = Result<(), &'static str>;

pub const DNS_LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
pub const DNS_SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
pub const DNS1035_LABEL: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
pub const QUALIFIED_NAME: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
pub const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
pub const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
const TOO_LONG_63: &str = "must be no more than 63 characters";
const TOO_LONG_253: &str = "must be no more than 253 bytes";

fn lower(c: u8) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

fn is_label(s: &str) -> bool {
    let b = s.as_bytes();
    !b.is_empty() && lower(b[0]) && lower(b[b.len() - 1]) && b.iter().all(|&c| lower(c) || c == b'-')
}

fn is_word(s: &str) -> bool {
    let b = s.as_bytes();
    let word = |c: u8| c.is_ascii_alphanumeric();
    !b.is_empty() && word(b[0]) && word(b[b.len() - 1]) && b.iter().all(|&c| word(c) || matches!(c, b'-' | b'_' | b'.'))
}

/// RFC 1123 label: namespaces, containers, volumes.
pub fn dns_label(s: &str) -> Check {
    if s.len() > 63 {
        return Err(TOO_LONG_63);
    }
    is_label(s).then_some(()).ok_or(DNS_LABEL)
}

/// RFC 1035 label: Services.
pub fn dns1035_label(s: &str) -> Check {
    if s.len() > 63 {
        return Err(TOO_LONG_63);
    }
    (is_label(s) && s.as_bytes()[0].is_ascii_lowercase()).then_some(()).ok_or(DNS1035_LABEL)
}

/// RFC 1123 subdomain: most object names.
pub fn dns_subdomain(s: &str) -> Check {
    if s.len() > 253 {
        return Err(TOO_LONG_253);
    }
    s.split('.').all(is_label).then_some(()).ok_or(DNS_SUBDOMAIN)
}

/// A name that is one path segment: RBAC objects.
pub fn path_segment(s: &str) -> Check {
    match s {
        "." => Err("may not be '.'"),
        ".." => Err("may not be '..'"),
        _ if s.contains('/') => Err("may not contain '/'"),
        _ if s.contains('%') => Err("may not contain '%'"),
        _ => Ok(()),
    }
}

/// `prefix/name` or `name`: label and annotation keys, finalizers, extended resources.
pub fn qualified_name(s: &str) -> Check {
    let name = match s.split_once('/') {
        Some((prefix, name)) => {
            if prefix.is_empty() {
                return Err("prefix part must be non-empty");
            }
            dns_subdomain(prefix)?;
            name
        }
        None => s,
    };
    if name.is_empty() {
        return Err("name part must be non-empty");
    }
    if name.len() > 63 {
        return Err("name part must be no more than 63 characters");
    }
    is_word(name).then_some(()).ok_or(QUALIFIED_NAME)
}

pub fn label_value(s: &str) -> Check {
    if s.len() > 63 {
        return Err(TOO_LONG_63);
    }
    (s.is_empty() || is_word(s)).then_some(()).ok_or(LABEL_VALUE)
}

/// Keys of ConfigMaps and Secrets.
pub fn config_key(s: &str) -> Check {
    if s.len() > 253 {
        return Err(TOO_LONG_253);
    }
    if s == "." || s.starts_with("..") {
        return Err("must not be '.' or start with '..'");
    }
    let ok = !s.is_empty() && s.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'));
    ok.then_some(()).ok_or(CONFIG_KEY)
}

/// An IANA service name: named ports.
pub fn port_name(s: &str) -> Check {
    let b = s.as_bytes();
    if b.len() > 15 {
        return Err("must be no more than 15 characters");
    }
    if !is_label(s) {
        return Err("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)");
    }
    if !b.iter().any(u8::is_ascii_lowercase) {
        return Err("must contain at least one letter (a-z)");
    }
    if s.contains("--") {
        return Err("must not contain consecutive hyphens");
    }
    Ok(())
}

/// An address in its usual form: no leading zeros, no IPv4 inside IPv6.
pub fn ip(s: &str) -> Check {
    s.parse::<std::net::IpAddr>().map(|_| ()).map_err(|_| "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")
}

pub fn port_number(n: i64) -> Check {
    (1..=65535).contains(&n).then_some(()).ok_or("must be between 1 and 65535, inclusive")
}

/// The characters of generated name suffixes: without vowels and look-alikes, as upstream's utilrand.
pub const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Orders API versions as clients prefer them: stable ones above beta above alpha, later above earlier, and what is no such
/// version last. See apimachinery's version.CompareKubeAwareVersionStrings.
pub fn compare_versions(a: &str, b: &str) -> std::cmp::Ordering {
    let rank = |text: &str| {
        let rest = text.strip_prefix('v')?;
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let major: u32 = rest[..end].parse().ok()?;
        let (stage, minor) = match &rest[end..] {
            "" => (2, ""),
            rest => rest.strip_prefix("beta").map(|m| (1, m)).or(rest.strip_prefix("alpha").map(|m| (0, m)))?,
        };
        let minor: u32 = if stage == 2 { 0 } else { minor.parse().ok()? };
        Some((stage, major, minor))
    };
    match (rank(a), rank(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        (None, None) => b.cmp(a),
        (a, b) => a.is_some().cmp(&b.is_some()),
    }
}

/// Appends five characters to a generateName base, which is cut so that the name stays within 63 characters.
pub fn generate_name(base: &str, mut random: impl FnMut() -> usize) -> String {
    let mut end = base.len().min(58);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let suffix = (0..5).map(|_| SUFFIX_ALPHABET[random() % SUFFIX_ALPHABET.len()] as char);
    base[..end].chars().chain(suffix).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_each_shape_are_told_apart() {
        assert!(dns_label("a-1").is_ok() && dns_label("1a").is_ok() && dns1035_label("1a").is_err());
        for bad in ["", "-a", "a-", "A", "a.b", &"a".repeat(64)] {
            assert!(dns_label(bad).is_err(), "{bad}");
        }
        assert!(dns_subdomain("a.b-c.d").is_ok() && dns_subdomain("a..b").is_err());
        assert!(qualified_name("example.com/My_Name.x").is_ok() && qualified_name("/x").is_err() && qualified_name("a/b/c").is_err());
        assert!(label_value("").is_ok() && label_value("-").is_err());
        assert!(config_key("..x").is_err() && config_key(".x").is_ok());
        assert!(port_name("http-2").is_ok() && port_name("80").is_err() && port_name("a--b").is_err());
    }

    #[test]
    fn a_generated_name_fits_a_label() {
        let name = generate_name(&"x".repeat(80), || 3);
        assert_eq!(name.len(), 63);
        assert!(name.ends_with("fffff"));
    }
}
