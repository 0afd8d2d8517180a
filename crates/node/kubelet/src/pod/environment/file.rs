//! Files of variables, which containers have written into a volume and others take values from: the little of a shell's syntax that
//! KEP-3721 allows. Pure.

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid environment variable format at line {line}: {what}")]
pub(crate) struct FileError {
    line: usize,
    what: &'static str,
}

/// The value of a key; an empty one is none, as with upstream.
pub(super) fn value_in(text: &str, key: &str) -> Result<Option<String>, FileError> {
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            return Ok(None);
        }
        let wrong = |what| FileError { line: 1 + text[..text.len() - rest.len()].matches('\n').count(), what };
        let (line, behind) = rest.split_once('\n').unwrap_or((rest, ""));
        if line.starts_with('#') {
            rest = behind;
            continue;
        }
        let (name, begun) = line.split_once('=').ok_or_else(|| wrong("missing '='"))?;
        if name.is_empty() {
            return Err(wrong("empty variable name"));
        }
        if name.ends_with([' ', '\t']) {
            return Err(wrong("whitespace before '=' is not allowed"));
        }
        if begun.starts_with([' ', '\t']) {
            // As in a shell: the value is empty, and what follows is not a part of it.
            rest = behind;
            if name == key {
                return Ok(None);
            }
            continue;
        }
        let quoted = rest[name.len() + 1..].strip_prefix('\'').ok_or_else(|| wrong("value must be enclosed in single quotes"))?;
        let (value, behind) = quoted.split_once('\'').ok_or_else(|| wrong("unclosed single quote"))?;
        let (comment, behind) = behind.split_once('\n').unwrap_or((behind, ""));
        if !matches!(comment.trim_start().chars().next(), None | Some('#')) {
            return Err(wrong("unexpected content after closing quote"));
        }
        if name == key {
            return Ok(Some(value.to_owned()).filter(|value| !value.is_empty()));
        }
        rest = behind;
    }
}

#[cfg(test)]
mod tests {
    use super::value_in;

    #[test]
    fn a_value_is_what_stands_between_single_quotes_of_its_first_line() {
        let text = "# KEY='no'\n\n  KEY='one $x \\n' # why\nLINES='a\n b=\n'\nBLANK= 'x'\nKEY='two'\nEMPTY=''";
        let of = |key| value_in(text, key).unwrap();
        assert_eq!(of("KEY").as_deref(), Some("one $x \\n"));
        assert_eq!(of("LINES").as_deref(), Some("a\n b=\n"));
        assert_eq!([of("BLANK"), of("EMPTY"), of("b"), of("MISSING")], [None, None, None, None]);
    }

    #[test]
    fn what_is_not_understood_is_named_with_its_line() {
        for (text, why) in [
            ("A='1'\nB", "line 2: missing '='"),
            ("='1'", "line 1: empty variable name"),
            ("\n\nA ='1'", "line 3: whitespace before '=' is not allowed"),
            ("A=1", "line 1: value must be enclosed in single quotes"),
            ("A='1\n2\n", "line 1: unclosed single quote"),
            ("A='1'2'", "line 1: unexpected content after closing quote"),
        ] {
            let error = value_in(text, "Z").unwrap_err().to_string();
            assert_eq!(error, format!("invalid environment variable format at {why}"));
        }
        // What stands behind the key is not looked at.
        assert_eq!(value_in("A='1'\nB", "A").unwrap().as_deref(), Some("1"));
    }
}
