//! managedFields as they are stored: who manages which field is told in few words over and over, and would be half of every object.
//! Words have numbers, and a leaf of the trie is one number; it is written out as JSON or as a tree where somebody asks. What does not
//! have the usual form stays JSON. Pure.
//!
//! Layout: the format, the length of the JSON as a varint, then each entry: flags, operation and what else there is among them; API
//! version, manager and subresource as texts; the time; the fields. A text is the number of its word, or `LITERAL`, length and bytes.
//! Fields are pairs of a text, its number doubled, one more where there is something below, and what is below; `END` ends them.

use std::collections::HashMap;
use std::sync::LazyLock;

use bytes::BufMut;
use fram_api::names;
use fram_machinery::{Entries, Key, Map, Text, Value, json};

use super::RecordError;

/// Changes with the words: a program that does not know the later ones has to refuse them.
const FORMAT: u8 = 1;
/// JSON begins with this or more, as it did before there was a format.
const JSON: u8 = b' ';

const END: u64 = 0;
const LITERAL: u64 = 1;
/// The number of the first word.
const FIRST: u64 = 2;

const APPLY: u8 = 1;
const SUBRESOURCE: u8 = 2;
/// A time to the second in UTC, as its digits.
const TIME: u8 = 4;
/// Fourteen digits.
const TIME_BYTES: usize = 6;

/// How each of the words is written in JSON, with the quotes, and its number. New ones come at the end, with a new `FORMAT`.
struct Words {
    all: Vec<(&'static str, Box<[u8]>)>,
    numbers: HashMap<&'static str, u64>,
}

static WORDS: LazyLock<Words> = LazyLock::new(|| {
    let all: Vec<(&str, Box<[u8]>)> = include_str!("words.txt").lines().map(|word| (word, quoted(word).into())).collect();
    let numbers = (FIRST..).zip(&all).map(|(number, (word, _))| (*word, number)).collect();
    Words { all, numbers }
});

fn quoted(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 2);
    json::write_string(&mut out, text);
    out
}

/// Whether what is stored in the place of managedFields can be read.
pub(super) fn is_known(stored: &[u8]) -> bool {
    matches!(stored.first(), None | Some(..=FORMAT | JSON..))
}

/// The length of the JSON and the entries, where it is not JSON that is stored.
fn in_words(mut stored: &[u8]) -> Option<(usize, &[u8])> {
    stored.split_off_first().filter(|first| **first < JSON)?;
    let length = number(&mut stored);
    Some((usize::try_from(length).unwrap_or(usize::MAX), stored))
}

/// The form in which managedFields are stored.
pub(super) fn encode(managed: &Value) -> Vec<u8> {
    let mut out = Encoder { out: Vec::with_capacity(256), length: 2 };
    let entries = managed.as_list().map(|list| list.as_slice()).unwrap_or_default();
    if entries.is_empty() || entries.iter().try_for_each(|entry| out.entry(entry)).is_none() {
        return json::to_vec(managed);
    }
    let mut stored = vec![FORMAT];
    put_number(&mut stored, (out.length + entries.len() - 1) as u64);
    stored.extend_from_slice(&out.out);
    stored
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// `2026-01-02T03:04:05Z` by its digits.
fn digits_of(time: &str) -> Option<u64> {
    const FORM: &[u8; 20] = b"0000-00-00T00:00:00Z";
    let fits = |(c, form): (u8, &u8)| if *form == b'0' { c.is_ascii_digit() } else { c == *form };
    if time.len() != FORM.len() || !time.bytes().zip(FORM).all(fits) {
        return None;
    }
    Some(time.bytes().filter(u8::is_ascii_digit).fold(0, |number, c| number * 10 + u64::from(c - b'0')))
}

fn time_of(digits: u64) -> String {
    let (day, second) = (digits / 1_000_000, digits % 1_000_000);
    let (year, month, day) = (day / 10_000, day / 100 % 100, day % 100);
    let (hour, minute, second) = (second / 10_000, second / 100 % 100, second % 100);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

struct Encoder {
    out: Vec<u8>,
    /// Of the JSON.
    length: usize,
}

impl Encoder {
    /// None where the entry does not have the usual form.
    fn entry(&mut self, entry: &Value) -> Option<()> {
        let entry = entry.as_map()?;
        let mut flags = match text(entry, "operation")? {
            "Apply" => APPLY,
            "Update" => 0,
            _ => return None,
        };
        let (version, manager, fields) = (text(entry, "apiVersion")?, text(entry, "manager")?, entry.get("fieldsV1")?.as_map()?);
        let (subresource, time) = (text(entry, "subresource"), text(entry, "time").and_then(digits_of));
        flags |= subresource.map_or(0, |_| SUBRESOURCE) | time.map_or(0, |_| TIME);
        let others = usize::from(subresource.is_some()) + usize::from(time.is_some());
        if text(entry, "fieldsType")? != "FieldsV1" || entry.len() != 5 + others {
            return None;
        }
        self.out.push(flags);
        self.length += head(flags).len() + r#"{"apiVersion":,"fieldsType":"FieldsV1","fieldsV1":,"manager":}"#.len();
        [Some(version), Some(manager), subresource].into_iter().flatten().for_each(|text| {
            let number = self.number(text);
            put_number(&mut self.out, number);
            self.literal(number, text);
        });
        if let Some(digits) = time {
            self.out.extend_from_slice(&digits.to_le_bytes()[..TIME_BYTES]);
            self.length += r#","time":"2026-01-02T03:04:05Z""#.len();
        }
        self.fields(fields)
    }

    /// The number that stands for a text, whose JSON is counted.
    fn number(&mut self, text: &str) -> u64 {
        let word = WORDS.numbers.get(text).copied();
        self.length += word.and_then(word_of).map_or_else(|| quoted(text).len(), |(_, json)| json.len());
        word.unwrap_or(LITERAL)
    }

    fn literal(&mut self, number: u64, text: &str) {
        if number == LITERAL {
            put_number(&mut self.out, text.len() as u64);
            self.out.extend_from_slice(text.as_bytes());
        }
    }

    fn fields(&mut self, fields: &Map) -> Option<()> {
        // Braces, colons and commas.
        self.length += 2 + (2 * fields.len()).saturating_sub(1);
        for (step, below) in fields.iter() {
            let below = below.as_map()?;
            let number = self.number(step);
            put_number(&mut self.out, number * 2 + u64::from(!below.is_empty()));
            self.literal(number, step);
            if below.is_empty() {
                self.length += 2;
            } else {
                self.fields(below)?;
            }
        }
        put_number(&mut self.out, END);
        Some(())
    }
}

fn text<'a>(entry: &'a Map, key: &str) -> Option<&'a str> {
    entry.get(key)?.as_str()
}

fn word_of(number: u64) -> Option<&'static (&'static str, Box<[u8]>)> {
    WORDS.all.get(usize::try_from(number.checked_sub(FIRST)?).ok()?)
}

/// What stands between the manager and the time or the end, without the subresource itself.
fn head(flags: u8) -> &'static str {
    match (flags & APPLY != 0, flags & SUBRESOURCE != 0) {
        (true, false) => r#","operation":"Apply""#,
        (false, false) => r#","operation":"Update""#,
        (true, true) => r#","operation":"Apply","subresource":"#,
        (false, true) => r#","operation":"Update","subresource":"#,
    }
}

/// How long the JSON is.
pub(super) fn json_len(stored: &[u8]) -> usize {
    in_words(stored).map_or(stored.len(), |(length, _)| length)
}

/// Appends the JSON.
pub(super) fn write_json(stored: &[u8], out: &mut impl BufMut) {
    let Some((_, mut rest)) = in_words(stored) else { return out.put_slice(stored) };
    let mut joint = b'[';
    while let Some(entry) = Entry::take(&mut rest) {
        out.put_u8(joint);
        joint = b',';
        out.put_slice(br#"{"apiVersion":"#);
        entry.version.write(out);
        out.put_slice(br#","fieldsType":"FieldsV1","fieldsV1":"#);
        write_fields(&mut rest, out);
        out.put_slice(br#","manager":"#);
        entry.manager.write(out);
        out.put_slice(head(entry.flags).as_bytes());
        if let Some(subresource) = &entry.subresource {
            subresource.write(out);
        }
        if let Some(digits) = entry.time {
            out.put_slice(br#","time":""#);
            out.put_slice(time_of(digits).as_bytes());
            out.put_u8(b'"');
        }
        out.put_u8(b'}');
    }
    out.put_u8(b']');
}

fn write_fields(rest: &mut &[u8], out: &mut impl BufMut) {
    let (mut depth, mut first) = (1, true);
    out.put_u8(b'{');
    while depth > 0 {
        let head = number(rest);
        if head == END {
            out.put_u8(b'}');
            depth -= 1;
            first = false;
            continue;
        }
        if !std::mem::replace(&mut first, false) {
            out.put_u8(b',');
        }
        Word::take(head >> 1, rest).write(out);
        if head & 1 == 0 {
            out.put_slice(b":{}");
        } else {
            out.put_slice(b":{");
            depth += 1;
            first = true;
        }
    }
}

/// The tree.
pub(super) fn to_value(stored: &[u8]) -> Result<Value, RecordError> {
    let Some((_, mut rest)) = in_words(stored) else { return Ok(json::from_slice_named(stored, names())?) };
    let mut entries = Vec::new();
    while let Some(entry) = Entry::take(&mut rest) {
        let operation = if entry.flags & APPLY != 0 { "Apply" } else { "Update" };
        let fields = read_fields(&mut rest);
        let mut all = Entries::from([
            (Key::Static("apiVersion"), entry.version.value()),
            (Key::Static("fieldsType"), Value::String(Text::new_static("FieldsV1"))),
            (Key::Static("fieldsV1"), fields),
            (Key::Static("manager"), entry.manager.value()),
            (Key::Static("operation"), Value::String(Text::new_static(operation))),
        ]);
        all.extend(entry.subresource.map(|subresource| (Key::Static("subresource"), subresource.value())));
        all.extend(entry.time.map(|digits| (Key::Static("time"), time_of(digits).into())));
        entries.push(Value::Map(Map::from_entries(all)));
    }
    Ok(entries.into())
}

fn read_fields(rest: &mut &[u8]) -> Value {
    // The steps that are open, each with where its entries begin.
    let mut open: Vec<(Key, usize)> = Vec::new();
    let mut entries: Vec<(Key, Value)> = Vec::new();
    loop {
        let head = number(rest);
        if head == END {
            let (step, start) = open.pop().map_or((None, 0), |(step, start)| (Some(step), start));
            let done = Value::Map(Map::from_entries(entries.drain(start..).collect()));
            let Some(step) = step else { return done };
            entries.push((step, done));
            continue;
        }
        let step = Word::take(head >> 1, rest).key();
        if head & 1 == 0 {
            entries.push((step, Value::Map(Map::new())));
        } else {
            open.push((step, entries.len()));
        }
    }
}

/// The next number; beyond the end it is `END`, so that every walk comes to one.
fn number(rest: &mut &[u8]) -> u64 {
    let (mut number, mut shift) = (0, 0);
    while let Some((byte, after)) = rest.split_first() {
        *rest = after;
        number |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        if byte & 0x80 == 0 {
            break;
        }
        shift += 7;
    }
    number
}

fn take<'a>(rest: &mut &'a [u8], count: u64) -> &'a [u8] {
    let count = usize::try_from(count).unwrap_or(usize::MAX).min(rest.len());
    let (taken, after) = rest.split_at(count);
    *rest = after;
    taken
}

/// A text as it was stored.
enum Word<'a> {
    Known(&'static str, &'static [u8]),
    Literal(&'a str),
}

impl<'a> Word<'a> {
    fn take(number: u64, rest: &mut &'a [u8]) -> Self {
        match word_of(number) {
            Some((word, json)) => Self::Known(word, json),
            // What the store's checksums let through is what was written: text.
            None => {
                let length = self::number(rest);
                Self::Literal(std::str::from_utf8(take(rest, length)).unwrap_or_default())
            }
        }
    }

    fn write(&self, out: &mut impl BufMut) {
        match self {
            Self::Known(_, json) => out.put_slice(json),
            Self::Literal(text) => out.put_slice(&quoted(text)),
        }
    }

    fn key(&self) -> Key {
        match self {
            Self::Known(word, _) => Key::Static(word),
            Self::Literal(text) => (*text).into(),
        }
    }

    fn value(&self) -> Value {
        match self {
            Self::Known(word, _) => Value::String(Text::new_static(word)),
            Self::Literal(text) => (*text).into(),
        }
    }
}

/// What is said of a manager before its fields.
struct Entry<'a> {
    flags: u8,
    version: Word<'a>,
    manager: Word<'a>,
    subresource: Option<Word<'a>>,
    time: Option<u64>,
}

impl<'a> Entry<'a> {
    fn take(rest: &mut &'a [u8]) -> Option<Self> {
        let (&flags, after) = rest.split_first()?;
        *rest = after;
        let mut word = || Word::take(number(rest), rest);
        let (version, manager) = (word(), word());
        let subresource = (flags & SUBRESOURCE != 0).then(word);
        let time = (flags & TIME != 0).then(|| {
            let mut digits = [0; 8];
            let stored = take(rest, TIME_BYTES as u64);
            digits[..stored.len()].copy_from_slice(stored);
            u64::from_le_bytes(digits)
        });
        Some(Self { flags, version, manager, subresource, time })
    }
}

#[cfg(test)]
mod tests;
