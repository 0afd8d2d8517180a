//! New inputs out of known ones: bytes and words changed, moved, repeated, and put together from several.

/// Words that many formats know, and numbers at the limits of their sizes.
const WORDS: [&[u8]; 30] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b":",
    b",",
    b"\\",
    b"/",
    b"'",
    b"(",
    b")",
    b"\n",
    b" ",
    b"-",
    b"\0",
    b"null",
    b"true",
    b"0",
    b"-1",
    b"1e999",
    b"9223372036854775807",
    b"18446744073709551616",
    b"\\u0000",
    b"\\ud800",
    b"\xff\xff\xff\xff",
    b"\x80",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\xf0\x9f\x98\x80",
];

pub(crate) struct Mutator {
    state: u64,
    words: Vec<Vec<u8>>,
}

impl Mutator {
    /// Takes the words of the inputs into its own.
    pub(crate) fn new(inputs: &[Vec<u8>]) -> Self {
        let mut words: Vec<Vec<u8>> = WORDS.iter().map(|w| w.to_vec()).collect();
        for input in inputs {
            let parts = input.split(|b| !b.is_ascii_alphanumeric() && !b"_-.$".contains(b));
            words.extend(parts.filter(|p| (2..32).contains(&p.len())).map(<[u8]>::to_vec));
        }
        words.sort();
        words.dedup();
        // Each search goes its own way.
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |d| d.as_nanos() as u64);
        Self { state: now | 1, words }
    }

    /// Of xorshift64.
    fn random(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    fn below(&mut self, n: usize) -> usize {
        (self.random() % n.max(1) as u64) as usize
    }

    fn word(&mut self) -> Vec<u8> {
        let i = self.below(self.words.len());
        self.words[i].clone()
    }

    /// Some part of a text.
    fn part(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.below(length + 1);
        let most = if self.below(4) == 0 { length - start } else { (length - start).min(16) };
        start..start + self.below(most + 1)
    }

    pub(crate) fn make(&mut self, inputs: &[Vec<u8>], longest: usize) -> Vec<u8> {
        // What was found last is looked at most.
        let recent = self.below(2) == 0;
        let from = if recent { inputs.len().saturating_sub(20) } else { 0 };
        let at = from + self.below(inputs.len() - from);
        let mut out = inputs[at].clone();
        for _ in 0..1 + self.below(6) {
            self.change(&mut out, inputs);
            out.truncate(longest);
        }
        out
    }

    fn change(&mut self, out: &mut Vec<u8>, inputs: &[Vec<u8>]) {
        let length = out.len();
        let at = self.below(length);
        match self.below(10) {
            0 if length > 0 => out[at] ^= 1 << self.below(8),
            1 if length > 0 => out[at] = self.random() as u8,
            2 if length > 0 => out[at] = out[at].wrapping_add(self.below(9) as u8).wrapping_sub(4),
            3 => {
                let part = self.part(length);
                out.drain(part);
            }
            4 => {
                let part = self.part(length);
                let copy = out[part].to_vec();
                let at = self.below(length + 1);
                out.splice(at..at, copy);
            }
            5 => {
                // Many times, for what is nested.
                let part = self.part(length.min(64));
                let times = 1 << self.below(9);
                let copy = out[part.clone()].repeat(times);
                out.splice(part.end..part.end, copy);
            }
            6 => {
                let other = &inputs[self.below(inputs.len())];
                let part = self.part(other.len());
                let at = self.below(length + 1);
                out.splice(at..at, other[part].to_vec());
            }
            7 => {
                let part = self.part(length);
                let word = self.word();
                out.splice(part, word);
            }
            _ => {
                let word = self.word();
                let at = self.below(length + 1);
                out.splice(at..at, word);
            }
        }
    }
}
