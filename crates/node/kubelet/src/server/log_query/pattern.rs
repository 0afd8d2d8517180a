//! Whether a pattern is one in the form of Go's regexp/syntax with Perl's flags, which is what upstream lets through to the journal, in the words
//! of its errors. The journal itself reads it as PCRE2, a larger form. Not looked up here: names of Unicode's classes (`\p{Greek}`), and how
//! large nested repetitions become in all. Pure.

use std::iter::Peekable;
use std::str::CharIndices;

/// Go's names of the classes in `[[:name:]]`.
const CLASSES: [&str; 14] =
    ["alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper", "word", "xdigit"];
/// Go's maxHeight and the largest count of a repetition.
const LIMIT: usize = 1000;

/// Why the pattern is none, as Go says it.
pub(super) fn check(pattern: &str) -> Result<(), String> {
    let mut reader = Reader { text: pattern, at: pattern.char_indices().peekable() };
    let mut open = 0_usize;
    let mut last = Last::Nothing;
    while let Some((start, c)) = reader.at.next() {
        last = match c {
            '(' => {
                open += 1;
                if open > LIMIT {
                    return Err(fault("expression nests too deeply", pattern));
                }
                if reader.group(start)? {
                    open -= 1;
                    last.behind_flags()
                } else {
                    Last::Nothing
                }
            }
            ')' if open == 0 => return Err(fault("unexpected )", pattern)),
            ')' => {
                open -= 1;
                Last::Something
            }
            '|' => Last::Nothing,
            '[' => reader.class(start).map(|()| Last::Something)?,
            '\\' => reader.escape(start, false).map(|_| Last::Something)?,
            '*' | '+' | '?' => reader.repeated(start, last)?,
            '{' if reader.counts(start)? => reader.repeated(start, last)?,
            _ => Last::Something,
        };
    }
    if open > 0 { Err(fault("missing closing )", pattern)) } else { Ok(()) }
}

/// What a repetition would repeat; one that is repeated again began there.
#[derive(Clone, Copy)]
enum Last {
    Nothing,
    Something,
    Repetition(usize),
}

impl Last {
    /// Flags alone are nothing that a repetition could repeat, and stand between two of them.
    fn behind_flags(self) -> Self {
        if matches!(self, Self::Repetition(_)) { Self::Something } else { self }
    }
}

fn fault(what: &str, part: &str) -> String {
    format!("error parsing regexp: {what}: `{part}`")
}

struct Reader<'a> {
    text: &'a str,
    at: Peekable<CharIndices<'a>>,
}

impl<'a> Reader<'a> {
    /// Where the next character begins.
    fn here(&mut self) -> usize {
        self.at.peek().map_or(self.text.len(), |(at, _)| *at)
    }

    fn since(&mut self, start: usize) -> &'a str {
        let here = self.here();
        &self.text[start..here]
    }

    fn rest(&mut self) -> &'a str {
        let here = self.here();
        &self.text[here..]
    }

    fn take(&mut self, wanted: char) -> bool {
        self.at.next_if(|(_, c)| *c == wanted).is_some()
    }

    /// Goes on behind so many bytes.
    fn skip(&mut self, bytes: usize) {
        let end = self.here() + bytes;
        while self.at.next_if(|(at, _)| *at < end).is_some() {}
    }

    /// A repetition's sign has been read, and what it repeats is `last`.
    fn repeated(&mut self, start: usize, last: Last) -> Result<Last, String> {
        self.take('?');
        match last {
            Last::Nothing => Err(fault("missing argument to repetition operator", self.since(start))),
            Last::Something => Ok(Last::Repetition(start)),
            Last::Repetition(first) => Err(fault("invalid nested repetition operator", self.since(first))),
        }
    }

    /// Reads `n}`, `n,}` or `n,m}`; anything else is no repetition, and its brace stands for itself.
    fn counts(&mut self, start: usize) -> Result<bool, String> {
        let Some((inside, _)) = self.rest().split_once('}') else { return Ok(false) };
        let (least, most) = inside.split_once(',').unwrap_or((inside, inside));
        let is_count =
            |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
        if !is_count(least) || !(most.is_empty() || is_count(most)) {
            return Ok(false);
        }
        self.skip(inside.len() + 1);
        let count = |text: &str| text.parse::<usize>().unwrap_or(usize::MAX);
        let (least, most) = (count(least), if most.is_empty() { None } else { Some(count(most)) });
        if least > LIMIT || most.is_some_and(|most| most > LIMIT || most < least) {
            return Err(fault("invalid repeat count", self.since(start)));
        }
        Ok(true)
    }

    /// What stands behind a group's parenthesis; true where it sets flags alone, and is closed already.
    fn group(&mut self, start: usize) -> Result<bool, String> {
        if !self.take('?') {
            return Ok(false);
        }
        let rest = self.rest();
        if let Some(sign) = ["P<", "<"].into_iter().find(|sign| rest.starts_with(sign)) {
            self.skip(sign.len());
            let Some((name, _)) = self.rest().split_once('>') else {
                return Err(fault("invalid named capture", &self.text[start..]));
            };
            self.skip(name.len() + 1);
            let is_word = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            return if is_word { Ok(false) } else { Err(fault("invalid named capture", self.since(start))) };
        }
        let (mut minus, mut flags) = (false, false);
        loop {
            match self.at.next().map(|(_, c)| c) {
                Some('i' | 'm' | 's' | 'U') => flags = true,
                Some('-') if !minus => (minus, flags) = (true, false),
                Some(end @ (':' | ')')) if flags || !minus => return Ok(end == ')'),
                _ => return Err(fault("invalid or unsupported Perl syntax", self.since(start))),
            }
        }
    }

    /// A class in brackets, of which the first has been read.
    fn class(&mut self, start: usize) -> Result<(), String> {
        self.take('^');
        let mut first = true;
        while first || !self.take(']') {
            first = false;
            let from = self.here();
            if let Some((name, _)) = self.rest().strip_prefix("[:").and_then(|rest| rest.split_once(":]")) {
                self.skip(name.len() + 4);
                if !CLASSES.contains(&name.strip_prefix('^').unwrap_or(name)) {
                    return Err(fault("invalid character class range", self.since(from)));
                }
                continue;
            }
            let Some(low) = self.member(start)? else { continue };
            let rest = self.rest();
            if rest.len() > 1 && rest.starts_with('-') && !rest.starts_with("-]") {
                self.take('-');
                let end = self.rest();
                match self.member(start)? {
                    None => return Err(fault("invalid escape sequence", end.get(..2).unwrap_or(end))),
                    Some(high) if high < low => return Err(fault("invalid character class range", self.since(from))),
                    Some(_) => {}
                }
            }
        }
        Ok(())
    }

    /// One character of a class, or None for a class of its own.
    fn member(&mut self, class: usize) -> Result<Option<char>, String> {
        match self.at.next() {
            None => Err(fault("missing closing ]", &self.text[class..])),
            Some((start, '\\')) => self.escape(start, true),
            Some((_, c)) => Ok(Some(c)),
        }
    }

    /// What stands behind a backslash: the character that is meant, where it is one.
    fn escape(&mut self, start: usize, in_class: bool) -> Result<Option<char>, String> {
        let Some((_, c)) = self.at.next() else {
            return Err(fault("trailing backslash at end of expression", ""));
        };
        match c {
            'd' | 'D' | 's' | 'S' | 'w' | 'W' => Ok(None),
            'A' | 'b' | 'B' | 'z' if !in_class => Ok(None),
            'Q' if !in_class => {
                let rest = self.rest();
                self.skip(rest.find("\\E").map_or(rest.len(), |end| end + 2));
                Ok(None)
            }
            'p' | 'P' => self.unicode(start).map(|()| None),
            'x' => self.hexadecimal(start).map(Some),
            '0'..='7' => self.octal(start, c).map(Some),
            'a' => Ok(Some('\x07')),
            'f' => Ok(Some('\x0c')),
            'n' => Ok(Some('\n')),
            'r' => Ok(Some('\r')),
            't' => Ok(Some('\t')),
            'v' => Ok(Some('\x0b')),
            c if c.is_ascii() && !c.is_ascii_alphanumeric() => Ok(Some(c)),
            _ => Err(fault("invalid escape sequence", self.since(start))),
        }
    }

    /// A class by its letter, or by its name in braces.
    fn unicode(&mut self, start: usize) -> Result<(), String> {
        let left = match self.at.next() {
            Some((_, '{')) => self.rest().split_once('}').map(|(name, _)| name.len() + 1),
            found => found.map(|_| 0),
        };
        left.map(|bytes| self.skip(bytes)).ok_or_else(|| fault("invalid character class range", &self.text[start..]))
    }

    /// Two digits, or any number of them in braces.
    fn hexadecimal(&mut self, start: usize) -> Result<char, String> {
        let digits = if self.take('{') {
            let inside = self.rest().split_once('}').map_or("", |(inside, _)| inside);
            self.skip(inside.len() + 1);
            inside
        } else {
            let two = self.rest().get(..2).unwrap_or_default();
            self.skip(two.len());
            two
        };
        let is_number = digits.chars().all(|c| c.is_ascii_hexdigit());
        let found = u32::from_str_radix(digits, 16).ok().filter(|_| is_number).and_then(char::from_u32);
        found.ok_or_else(|| fault("invalid escape sequence", self.since(start)))
    }

    /// Up to three digits; a single one that is not zero would refer back, which this form has not.
    fn octal(&mut self, start: usize, first: char) -> Result<char, String> {
        let (mut value, mut more) = (first.to_digit(8).unwrap_or(0), 0);
        while let Some((_, digit)) = self.at.next_if(|(_, c)| more < 2 && ('0'..='7').contains(c)) {
            value = value * 8 + digit.to_digit(8).unwrap_or(0);
            more += 1;
        }
        let found = char::from_u32(value).filter(|_| first == '0' || more > 0);
        found.ok_or_else(|| fault("invalid escape sequence", self.since(start)))
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    /// Held against Go's own syntax.Parse.
    #[test]
    fn what_gos_form_has_is_let_through() {
        for pattern in [
            "",
            "error|warn(ing)?",
            "^a.*b$",
            "a{2}b{1,}c{3,4}?",
            "a{,2}",
            "{",
            "a{b}",
            "a{01}",
            "x{2",
            "[]a]",
            "[^]]",
            "[a-z0-9_-]",
            "[[:alpha:][:^digit:]]",
            "[[a]",
            "[a-]",
            r"[\]\-\d]",
            r"\d+\.\d*",
            r"\x41\x{1F600}",
            r"\012\0",
            r"\pL\p{Greek}\P{^Lu}",
            r"\Q**\E+",
            r"\Qabc",
            "(?i)a(?s-m:b)(?P<n>c)(?<m>d)",
            "(|a)",
            "()",
            "(?i)(?-i)x",
            "a(?i)*",
            "a*(?i)*",
            "(?)",
            r"[--a\d-z]\08",
            "é+[é-ü]",
            r"\bword\b",
            "-]}",
            "a|",
        ] {
            assert_eq!(check(pattern), Ok(()), "{pattern}");
        }
    }

    #[test]
    fn what_it_has_not_is_refused_in_its_words() {
        for (pattern, why) in [
            ("(a", "missing closing ): `(a`"),
            ("a)", "unexpected ): `a)`"),
            ("[a", "missing closing ]: `[a`"),
            ("[", "missing closing ]: `[`"),
            ("[z-a]", "invalid character class range: `z-a`"),
            ("[[:kitten:]]", "invalid character class range: `[:kitten:]`"),
            ("*a", "missing argument to repetition operator: `*`"),
            ("a|+", "missing argument to repetition operator: `+`"),
            ("({2})", "missing argument to repetition operator: `{2}`"),
            ("a**", "invalid nested repetition operator: `**`"),
            ("a+?{2}", "invalid nested repetition operator: `+?{2}`"),
            ("a{1001}", "invalid repeat count: `{1001}`"),
            ("a{3,2}", "invalid repeat count: `{3,2}`"),
            ("(?=a)", "invalid or unsupported Perl syntax: `(?=`"),
            ("(?<=a)", "invalid named capture: `(?<=a)`"),
            ("(?i", "invalid or unsupported Perl syntax: `(?i`"),
            ("(?-)", "invalid or unsupported Perl syntax: `(?-)`"),
            ("(?i)*", "missing argument to repetition operator: `*`"),
            (r"[a-\d]", r"invalid escape sequence: `\d`"),
            ("[a-", "missing closing ]: `[a-`"),
            ("(?x)", "invalid or unsupported Perl syntax: `(?x`"),
            ("(?P<n", "invalid named capture: `(?P<n`"),
            ("(?P<n+>a)", "invalid named capture: `(?P<n+>`"),
            (r"a\", "trailing backslash at end of expression: ``"),
            (r"(a)\1", r"invalid escape sequence: `\1`"),
            (r"\y", r"invalid escape sequence: `\y`"),
            (r"[\b]", r"invalid escape sequence: `\b`"),
            (r"\xg1", r"invalid escape sequence: `\xg1`"),
        ] {
            assert_eq!(check(pattern), Err(format!("error parsing regexp: {why}")), "{pattern}");
        }
        assert!(check(&"(".repeat(1001)).unwrap_err().contains("nests too deeply"));
    }
}
