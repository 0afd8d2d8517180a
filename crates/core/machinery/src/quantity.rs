//! Resource quantities: decimal numbers with SI, binary or exponent suffix, kept exactly and written in canonical form.
//! See Kubernetes' resource.Quantity.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    DecimalSi,
    BinarySi,
    DecimalExponent,
}

/// An amount in nano-units, with the notation it is written in. Finer fractions are rounded up, as upstream does.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    nano: i128,
    format: Format,
}

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
pub struct QuantityError;

const NANO: i128 = 1_000_000_000;
const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
const BINARY: [(&str, u32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];

impl Quantity {
    pub fn from_units(units: i64, format: Format) -> Self {
        Self { nano: i128::from(units) * NANO, format }
    }

    pub fn from_milli(milli: i64) -> Self {
        Self { nano: i128::from(milli) * 1_000_000, format: Format::DecimalSi }
    }

    pub const fn zero() -> Self {
        Self { nano: 0, format: Format::DecimalSi }
    }

    /// Whole units, rounded up and clamped to 64 bits.
    pub fn value(&self) -> i64 {
        clamp(div_up(self.nano, NANO))
    }

    /// Thousandths, rounded up and clamped to 64 bits.
    pub fn milli_value(&self) -> i64 {
        clamp(div_up(self.nano, 1_000_000))
    }

    pub fn is_zero(&self) -> bool {
        self.nano == 0
    }

    pub fn is_negative(&self) -> bool {
        self.nano < 0
    }

    pub fn sign(&self) -> i32 {
        self.nano.signum() as i32
    }

    pub fn format(&self) -> Format {
        self.format
    }
}

impl std::ops::Add for Quantity {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        let format = if self.nano == 0 { other.format } else { self.format };
        Self { nano: self.nano.saturating_add(other.nano), format }
    }
}

impl std::ops::Sub for Quantity {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        let format = if self.nano == 0 { other.format } else { self.format };
        Self { nano: self.nano.saturating_sub(other.nano), format }
    }
}

fn div_up(a: i128, b: i128) -> i128 {
    // Away from zero, as inf.RoundUp.
    a / b + if a % b == 0 { 0 } else { a.signum() }
}

fn clamp(a: i128) -> i64 {
    a.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let split = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(split);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return Err(QuantityError);
        }
        let (base, exponent, format) = parse_suffix(suffix)?;
        let nano = scale(whole, fraction, base, exponent).ok_or(QuantityError)?;
        Ok(Self { nano: if negative { -nano } else { nano }, format })
    }
}

/// The multiplier of a suffix: a power of two and a power of ten.
fn parse_suffix(suffix: &str) -> Result<(u32, i32, Format), QuantityError> {
    if let Some((_, e)) = DECIMAL.iter().find(|(s, _)| *s == suffix) {
        return Ok((0, *e, Format::DecimalSi));
    }
    if let Some((_, e)) = BINARY.iter().find(|(s, _)| *s == suffix) {
        return Ok((*e, 0, Format::BinarySi));
    }
    let exponent = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError)?;
    let exponent: i32 = exponent.parse().map_err(|_| QuantityError)?;
    Ok((0, exponent, Format::DecimalExponent))
}

fn scale(whole: &str, fraction: &str, base2: u32, base10: i32) -> Option<i128> {
    // The largest quantity upstream keeps exactly is 2^63-1 units with nine digits behind the point; beyond it is clamped.
    let max = i128::from(i64::MAX) * NANO;
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Some(0);
    }
    let exponent = i64::from(base10) - fraction.len() as i64 + 9;
    if digits.len() as i64 + exponent > 30 {
        return Some(max);
    }
    let (digits, exponent, rest) =
        if digits.len() > 30 { (&digits[..30], exponent + digits.len() as i64 - 30, true) } else { (digits, exponent, false) };
    let mut n: i128 = digits.parse().ok()?;
    n = n.checked_mul(1i128.checked_shl(base2)?).unwrap_or(max);
    if exponent >= 0 {
        n = n.checked_mul(10i128.checked_pow(exponent as u32)?).unwrap_or(max);
    } else if exponent < -38 {
        n = 1;
    } else {
        n = div_up(n, 10i128.pow((-exponent) as u32));
    }
    Some((n + i128::from(rest && n == 0)).min(max))
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nano == 0 {
            return f.write_str("0");
        }
        let whole = self.nano % NANO == 0;
        if self.format == Format::BinarySi && whole && self.nano.abs() >= 1024 * NANO {
            let units = self.nano / NANO;
            let (suffix, power) = BINARY.iter().rev().find(|(_, p)| units % (1i128 << p) == 0).copied().unwrap_or(("", 0));
            return write!(f, "{}{suffix}", units >> power);
        }
        let (mut n, mut exponent) = (self.nano, -9);
        while n % 1000 == 0 && exponent < 18 {
            n /= 1000;
            exponent += 3;
        }
        match self.format {
            Format::DecimalExponent if exponent == 0 => write!(f, "{n}"),
            Format::DecimalExponent => write!(f, "{n}e{exponent}"),
            _ => {
                let suffix = DECIMAL.iter().find(|(_, e)| *e == exponent).map_or("", |(s, _)| s);
                write!(f, "{n}{suffix}")
            }
        }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(input: &str, expect: &str) {
        assert_eq!(input.parse::<Quantity>().unwrap().to_string(), expect, "{input}");
    }

    #[test]
    fn quantities_are_written_in_canonical_form() {
        for (input, expect) in [
            ("0", "0"),
            ("0.0", "0"),
            ("1000m", "1"),
            ("0.5", "500m"),
            ("1.5Gi", "1536Mi"),
            ("1024", "1024"),
            ("1024Ki", "1Mi"),
            ("100Ki", "100Ki"),
            ("0.5Ki", "512"),
            ("1e3", "1e3"),
            ("12E6", "12e6"),
            ("5G", "5G"),
            ("-250m", "-250m"),
            ("1500k", "1500k"),
            ("1000k", "1M"),
            ("100", "100"),
            ("1n", "1n"),
            ("0.1n", "1n"),
            (".5", "500m"),
            ("1.", "1"),
            ("9Ei", "9223372036854775807"),
        ] {
            check(input, expect);
        }
    }

    #[test]
    fn malformed_quantities_are_refused() {
        for bad in ["", "x", "1x", "1.2.3", "--1", "1 Gi", "1gi", "e3", ".", "1e", "1Kii"] {
            assert!(bad.parse::<Quantity>().is_err(), "{bad}");
        }
    }

    #[test]
    fn values_round_up() {
        assert_eq!("1m".parse::<Quantity>().unwrap().value(), 1);
        assert_eq!("1.0001".parse::<Quantity>().unwrap().milli_value(), 1001);
        assert!("1Gi".parse::<Quantity>().unwrap() > "1G".parse::<Quantity>().unwrap());
    }
}
