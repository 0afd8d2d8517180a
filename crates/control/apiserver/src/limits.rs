//! How much a client may ask for: of time, of streams, of room.

use std::time::Duration;

/// The limits of one server; the defaults are upstream's.
#[derive(Debug, Clone)]
pub struct Limits {
    /// How long a request may take that is not a watch or a stream; `--request-timeout`.
    pub request: Duration,
    /// The least life of a watch that names no end; `--min-request-timeout`.
    pub watch: Duration,
    /// How many streams a client may have open over one connection; `--http2-max-streams-per-connection`.
    pub streams: u32,
    /// How long a client may take for the head of a request, and to say anything at all.
    pub head: Duration,
    /// How long a client may take nothing of what is sent to it.
    pub stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request: Duration::from_secs(60),
            watch: Duration::from_secs(1800),
            streams: 100,
            head: Duration::from_secs(32),
            stall: Duration::from_secs(120),
        }
    }
}

/// How much the head of a request may hold, its address included; Go's DefaultMaxHeaderBytes.
pub(crate) const MAX_HEAD: usize = 1 << 20;

/// The time that a request may take: what it asks for by `timeout`, but not more than the server gives.
pub(crate) fn time_of(asked: &str, most: Duration) -> Result<Duration, String> {
    if asked.is_empty() {
        return Ok(most);
    }
    let given =
        go_duration(asked).ok_or_else(|| format!("invalid timeout specified in the request URL - time: invalid duration {asked:?}"))?;
    Ok(if given.is_zero() { most } else { given.min(most) })
}

/// What Go's durations can hold.
const MOST_DURATION: Duration = Duration::from_nanos(i64::MAX as u64);

/// A duration as Go writes it: `90s`, `1m30s`, `500ms`.
pub fn go_duration(text: &str) -> Option<Duration> {
    let (mut rest, mut total) = (text, Duration::ZERO);
    if rest == "0" {
        return Some(total);
    }
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let unit = rest[digits..].find(|c: char| c.is_ascii_digit() || c == '.').map_or(rest.len(), |n| digits + n);
        let seconds = match &rest[digits..unit] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(rest[..digits].parse::<f64>().ok()? * seconds).ok()?;
        total = total.checked_add(part).filter(|t| *t <= MOST_DURATION)?;
        rest = &rest[unit..];
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_in_go() {
        for (text, expect) in
            [("30s", 30_000), ("1m30s", 90_000), ("1.5h", 5_400_000), ("500ms", 500), ("0", 0), ("1h.5m", 3_630_000), ("2000us", 2)]
        {
            assert_eq!(go_duration(text), Some(Duration::from_millis(expect)), "{text}");
        }
        let endless = "5000000000000000h5000000000000000h";
        for text in ["", "30", "s", "1d", "-1s", "1s2", ".s", "1..5s", endless] {
            assert_eq!(go_duration(text), None, "{text}");
        }
    }

    #[test]
    fn a_request_may_ask_for_less_time_but_not_for_more() {
        let most = Duration::from_secs(60);
        for (asked, expect) in [("", 60), ("5s", 5), ("2h", 60), ("0s", 60)] {
            assert_eq!(time_of(asked, most), Ok(Duration::from_secs(expect)), "{asked}");
        }
        assert!(time_of("soon", most).is_err());
    }
}
