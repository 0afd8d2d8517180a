//! Signals by name and number, as pods (`lifecycle.stopSignal`), images (`StopSignal`) and the CRI write them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A Linux signal, 1 to 64. The default is SIGTERM. As text: `SIGTERM`, `SIGRTMIN+3`, `SIGRTMAX-2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Signal(u8);

#[derive(Debug, Error, PartialEq, Eq)]
#[error("unknown signal {0:?}")]
pub struct UnknownSignal(pub String);

/// Numbers of x86 and Arm; where two names share a number the one first here is printed.
const NAMES: [(&str, u8); 34] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
];
/// glibc keeps 32 and 33 for itself, so that SIGRTMIN is 34.
const RTMIN: u8 = 34;
const RTMAX: u8 = 64;

impl Signal {
    pub const TERM: Signal = Signal(15);
    pub const KILL: Signal = Signal(9);

    pub fn number(self) -> i32 {
        i32::from(self.0)
    }

    pub fn from_number(number: i32) -> Option<Signal> {
        u8::try_from(number).ok().filter(|n| (1..=RTMAX).contains(n)).map(Signal)
    }
}

impl Default for Signal {
    fn default() -> Self {
        Signal::TERM
    }
}

impl FromStr for Signal {
    type Err = UnknownSignal;

    /// Takes `SIGTERM`, `TERM`, `sigterm`, `15`, `SIGRTMIN+3` and the CRI's `SIGRTMINPLUS3`.
    fn from_str(text: &str) -> Result<Self, UnknownSignal> {
        let unknown = || UnknownSignal(text.to_owned());
        if let Ok(number) = text.parse::<i32>() {
            return Signal::from_number(number).ok_or_else(unknown);
        }
        let upper = text.to_ascii_uppercase().replace("PLUS", "+").replace("MINUS", "-");
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
            return Ok(Signal(*number));
        }
        let number = match name {
            "RTMIN" => Some(RTMIN),
            "RTMAX" => Some(RTMAX),
            _ => name
                .strip_prefix("RTMIN+")
                .and_then(|offset| RTMIN.checked_add(offset.parse().ok()?))
                .or_else(|| name.strip_prefix("RTMAX-").and_then(|offset| RTMAX.checked_sub(offset.parse().ok()?))),
        };
        number.filter(|n| (RTMIN..=RTMAX).contains(n)).map(Signal).ok_or_else(unknown)
    }
}

impl TryFrom<String> for Signal {
    type Error = UnknownSignal;

    fn try_from(text: String) -> Result<Self, UnknownSignal> {
        text.parse()
    }
}

impl From<Signal> for String {
    fn from(signal: Signal) -> String {
        signal.to_string()
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((name, _)) = NAMES.iter().find(|(_, number)| *number == self.0) {
            return write!(f, "SIG{name}");
        }
        match self.0 {
            RTMIN => f.write_str("SIGRTMIN"),
            RTMAX => f.write_str("SIGRTMAX"),
            n @ 35..=49 => write!(f, "SIGRTMIN+{}", n - RTMIN),
            n @ 50..=63 => write!(f, "SIGRTMAX-{}", RTMAX - n),
            n => write!(f, "{n}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_read_in_every_spelling_and_printed_as_the_api_writes_it() {
        for (text, number, printed) in [
            ("SIGTERM", 15, "SIGTERM"),
            ("term", 15, "SIGTERM"),
            ("9", 9, "SIGKILL"),
            ("SIGIOT", 6, "SIGABRT"),
            ("SIGRTMIN", 34, "SIGRTMIN"),
            ("SIGRTMIN+3", 37, "SIGRTMIN+3"),
            ("SIGRTMINPLUS15", 49, "SIGRTMIN+15"),
            ("SIGRTMAX-14", 50, "SIGRTMAX-14"),
            ("SIGRTMAXMINUS2", 62, "SIGRTMAX-2"),
            ("64", 64, "SIGRTMAX"),
        ] {
            let signal: Signal = text.parse().unwrap();
            assert_eq!((signal.number(), signal.to_string().as_str()), (number, printed), "{text}");
        }
        for text in ["", "0", "65", "-1", "SIGNOPE", "SIGRTMIN+31", "SIGRTMAX-31", "SIGRTMIN+999"] {
            assert!(text.parse::<Signal>().is_err(), "{text}");
        }
    }
}
