//! Words of the language.

use super::ParseError;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    Ident(String),
    /// A field's name in backticks.
    Quoted(String),
    Int(i64),
    /// The one number that is an integer only with a minus in front.
    IntMin,
    Uint(u64),
    Double(f64),
    Text(String),
    Bytes(Vec<u8>),
    Sign(&'static str),
    End,
}

const SIGNS: [&str; 28] = [
    "&&", "||", "==", "!=", "<=", ">=", "<", ">", "+", "-", "*", "/", "%", "!", "?", ":", ".", ",", "(", ")", "[", "]", "{", "}", "=", "&",
    "|", ";",
];

pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    pub(super) fn error<T>(&self, at: usize, message: impl Into<String>) -> Result<T, ParseError> {
        Err(ParseError { at, message: format!("Syntax error: {}", message.into()) })
    }

    fn skip(&mut self) {
        loop {
            self.at += self.rest().len() - self.rest().trim_start().len();
            if !self.rest().starts_with("//") {
                return;
            }
            self.at += self.rest().find('\n').unwrap_or(self.rest().len());
        }
    }

    /// The next word and where it begins.
    pub(super) fn next(&mut self) -> Result<(Token, usize), ParseError> {
        self.skip();
        let start = self.at;
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return Ok((Token::End, start)) };
        if let Some(token) = self.literal_text()? {
            return Ok((token, start));
        }
        if first.is_ascii_alphabetic() || first == '_' {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            self.at += end;
            return Ok((Token::Ident(rest[..end].into()), start));
        }
        if first == '`' {
            let Some(end) = rest[1..].find('`') else { return self.error(start, "unterminated quoted identifier") };
            self.at += end + 2;
            return Ok((Token::Quoted(rest[1..=end].into()), start));
        }
        let fraction = first == '.' && rest[1..].starts_with(|c: char| c.is_ascii_digit());
        if first.is_ascii_digit() || fraction {
            return self.number(start).map(|token| (token, start));
        }
        match SIGNS.iter().find(|s| rest.starts_with(**s)) {
            Some(sign) => {
                self.at += sign.len();
                Ok((Token::Sign(sign), start))
            }
            None => self.error(start, format!("token recognition error at: '{first}'")),
        }
    }

    fn number(&mut self, start: usize) -> Result<Token, ParseError> {
        let rest = self.rest();
        if let Some(hex) = rest.strip_prefix("0x").or(rest.strip_prefix("0X")) {
            let end = hex.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(hex.len());
            self.at += 2 + end;
            return self.integer(start, &hex[..end], 16);
        }
        let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let mut end = digits(rest);
        let mut float = false;
        if rest[end..].starts_with('.') && rest[end + 1..].starts_with(|c: char| c.is_ascii_digit()) {
            float = true;
            end += 1 + digits(&rest[end + 1..]);
        }
        if let Some(exponent) = rest[end..].strip_prefix(['e', 'E']) {
            let sign = usize::from(exponent.starts_with(['+', '-']));
            let count = digits(&exponent[sign..]);
            if count > 0 {
                float = true;
                end += 1 + sign + count;
            }
        }
        self.at += end;
        if !float {
            return self.integer(start, &rest[..end], 10);
        }
        rest[..end].parse().map(Token::Double).or_else(|_| self.error(start, "invalid double literal"))
    }

    fn integer(&mut self, start: usize, digits: &str, radix: u32) -> Result<Token, ParseError> {
        let unsigned = self.rest().starts_with(['u', 'U']);
        self.at += usize::from(unsigned);
        let Ok(number) = u64::from_str_radix(digits, radix) else { return self.error(start, "invalid int literal") };
        match (unsigned, i64::try_from(number)) {
            (true, _) => Ok(Token::Uint(number)),
            (false, Ok(number)) => Ok(Token::Int(number)),
            (false, Err(_)) if number == 1 << 63 => Ok(Token::IntMin),
            (false, Err(_)) => self.error(start, "invalid int literal"),
        }
    }

    /// A string or bytes literal, with its prefixes.
    fn literal_text(&mut self) -> Result<Option<Token>, ParseError> {
        let start = self.at;
        let rest = self.rest();
        let prefix = rest.find(|c: char| !matches!(c, 'r' | 'R' | 'b' | 'B')).unwrap_or(rest.len());
        if prefix > 2 {
            return Ok(None);
        }
        let lower = rest[..prefix].to_ascii_lowercase();
        if !matches!(lower.as_str(), "" | "r" | "b" | "rb" | "br") {
            return Ok(None);
        }
        let body = &rest[prefix..];
        let Some(quote) = ["\"\"\"", "'''", "\"", "'"].into_iter().find(|q| body.starts_with(q)) else { return Ok(None) };
        let (raw, bytes) = (lower.contains('r'), lower.contains('b'));
        let body = &body[quote.len()..];
        let mut out = Vec::new();
        let mut at = 0;
        loop {
            let Some(c) = body[at..].chars().next() else { return self.error(start, "unterminated string literal") };
            if body[at..].starts_with(quote) {
                break;
            }
            if c == '\n' && quote.len() == 1 {
                return self.error(start, "newline in string literal");
            }
            if c == '\\' && !raw {
                match escape(&body[at + 1..], bytes, &mut out) {
                    Some(length) => at += 1 + length,
                    None => return self.error(start + at, "invalid escape sequence"),
                }
                continue;
            }
            out.extend_from_slice(&body.as_bytes()[at..at + c.len_utf8()]);
            at += c.len_utf8();
        }
        self.at += prefix + 2 * quote.len() + at;
        if bytes {
            return Ok(Some(Token::Bytes(out)));
        }
        String::from_utf8(out).map(|text| Some(Token::Text(text))).or_else(|_| self.error(start, "invalid UTF-8 in string literal"))
    }
}

/// Reads what follows a backslash; returns how long that is.
fn escape(text: &str, bytes: bool, out: &mut Vec<u8>) -> Option<usize> {
    let simple = |c| {
        Some(match c {
            'a' => 7,
            'b' => 8,
            'f' => 12,
            'n' => b'\n',
            'r' => b'\r',
            't' => b'\t',
            'v' => 11,
            '\\' | '?' | '"' | '\'' | '`' => c as u8,
            _ => return None,
        })
    };
    let first = text.chars().next()?;
    if let Some(byte) = simple(first) {
        out.push(byte);
        return Some(1);
    }
    let (skip, length, radix) = match first {
        'x' | 'X' => (1, 2, 16),
        'u' if !bytes => (1, 4, 16),
        'U' if !bytes => (1, 8, 16),
        '0'..='3' => (0, 3, 8),
        _ => return None,
    };
    let number = u32::from_str_radix(text.get(skip..skip + length)?, radix).ok()?;
    if bytes {
        out.push(u8::try_from(number).ok()?);
    } else {
        let mut buffer = [0; 4];
        out.extend_from_slice(char::from_u32(number)?.encode_utf8(&mut buffer).as_bytes());
    }
    Some(skip + length)
}
