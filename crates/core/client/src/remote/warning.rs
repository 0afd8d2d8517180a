//! What a server warns of in its answers: the header Warning with code 299 (RFC 7234, section 5.5; KEP-1693). Pure.

/// Kubernetes' warnings all have this code: "Miscellaneous Persistent Warning".
const CODE: &str = "299";

/// The texts of a header: `299 AGENT "TEXT"`, several of them behind commas, each with a date if the server likes.
pub(super) fn texts(header: &str) -> Vec<String> {
    let (mut found, mut rest) = (Vec::new(), header);
    loop {
        rest = rest.trim_start_matches([',', ' ', '\t']);
        let mut words = rest.splitn(3, ' ');
        let (Some(code), Some(_agent), Some(quoted)) = (words.next(), words.next(), words.next()) else { return found };
        let Some((text, after)) = unquoted(quoted.trim_start()) else { return found };
        if code == CODE && !text.is_empty() {
            found.push(text);
        }
        rest = unquoted(after.trim_start()).map_or(after, |(_date, after)| after);
    }
}

/// A quoted text with its escapes undone, and what follows it.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let inner = text.strip_prefix('"')?;
    let (mut out, mut characters) = (String::new(), inner.char_indices());
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return Some((out, &inner[at + 1..])),
            '\\' => out.extend(characters.next().map(|(_, c)| c)),
            c => out.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::texts;

    #[test]
    fn warnings_are_read_out_of_the_header() {
        let cases: [(&str, &[&str]); 6] = [
            (r#"299 - "unknown field \"spec.x\"""#, &[r#"unknown field "spec.x""#]),
            (r#"299 - "a, b", 299 agent "c" "Wed, 21 Oct 2015 07:28:00 GMT", 299 - "d""#, &["a, b", "c", "d"]),
            (r#"110 - "stale""#, &[]),
            (r#"299 - "not closed"#, &[]),
            ("299", &[]),
            ("", &[]),
        ];
        for (header, expect) in cases {
            assert_eq!(texts(header), expect, "{header}");
        }
    }
}
