//! Cron schedules: five fields, names, steps and the descriptors such as `@hourly` and `@every 1h`, as robfig/cron's
//! ParseStandard reads them. Times are searched on the instants of a time zone, so that a skipped hour is skipped and a
//! repeated one repeats. Pure.

use fram_machinery::normalize::parse_duration;
use jiff::civil::Weekday;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};

/// Beyond so many days no schedule that can happen at all is found; see SpecSchedule.Next.
const HORIZON_DAYS: i32 = 5 * 366;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Schedule {
    Fields(Fields),
    Every(SignedDuration),
}

/// Bit i stands for the value i.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fields {
    minute: u64,
    hour: u64,
    day: u64,
    month: u64,
    weekday: u64,
    /// Days of month and week must both match where one of them is a star; else either does.
    both_days: bool,
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

impl Schedule {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Some(every) = text.strip_prefix("@every ") {
            let nanos = parse_duration(every.trim()).ok_or_else(|| format!("failed to parse duration {text}"))?;
            // Less than a second is a second, and parts of it do not count.
            let seconds = (nanos / 1_000_000_000).max(1);
            return Ok(Schedule::Every(SignedDuration::from_secs(seconds)));
        }
        let fields = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other if other.starts_with('@') => return Err(format!("unrecognized descriptor: {other}")),
            other => other,
        };
        let parts: Vec<&str> = fields.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = parts[..] else {
            return Err(format!("expected exactly 5 fields, found {}: [{}]", parts.len(), parts.join(" ")));
        };
        let (day, any_day) = field(day, 1, 31, &[])?;
        let (weekday, any_weekday) = field(weekday, 0, 6, &WEEKDAYS)?;
        Ok(Schedule::Fields(Fields {
            minute: field(minute, 0, 59, &[])?.0,
            hour: field(hour, 0, 23, &[])?.0,
            day,
            month: field(month, 1, 12, &MONTHS)?.0,
            weekday,
            both_days: any_day || any_weekday,
        }))
    }

    /// The first time after `after`; None where there is none.
    pub(super) fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Schedule::Every(delay) => {
                let whole = Timestamp::from_second(after.as_second()).ok()?;
                whole.checked_add(*delay).ok()
            }
            Schedule::Fields(fields) => fields.next(after, zone),
        }
    }

    /// The last time after `earliest` and not after `now`.
    pub(super) fn most_recent(&self, earliest: Timestamp, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        if let Schedule::Every(delay) = self {
            let passed = now.duration_since(earliest).as_secs().div_euclid(delay.as_secs());
            let first = Timestamp::from_second(earliest.as_second()).ok()?;
            return (passed > 0).then(|| first.checked_add(SignedDuration::from_secs(passed * delay.as_secs())).ok()).flatten();
        }
        let mut window = SignedDuration::from_mins(1);
        loop {
            let from = now.checked_sub(window).ok().filter(|t| *t > earliest).unwrap_or(earliest);
            if let Some(mut found) = self.next(from, zone).filter(|t| *t <= now) {
                while let Some(later) = self.next(found, zone).filter(|t| *t <= now) {
                    found = later;
                }
                return Some(found);
            }
            if from == earliest {
                return None;
            }
            window = window.checked_mul(2)?;
        }
    }
}

impl Fields {
    fn day_matches(&self, date: jiff::civil::Date) -> bool {
        let has = |bits: u64, value: i8| bits & (1 << value) != 0;
        let (day, weekday) = (has(self.day, date.day()), has(self.weekday, date.weekday().since(Weekday::Sunday)));
        has(self.month, date.month()) && if self.both_days { day && weekday } else { day || weekday }
    }

    fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let minute = SignedDuration::from_mins(1);
        let mut at = Timestamp::from_second(after.as_second().div_euclid(60) * 60 + 60).ok()?;
        let start = zone.to_datetime(at).date();
        for offset in 0..HORIZON_DAYS {
            let date = start.checked_add(offset.days()).ok()?;
            if offset > 0 {
                let midnight = zone.to_zoned(date.at(0, 0, 0, 0)).ok()?.start_of_day().ok()?;
                at = at.max(midnight.timestamp());
            }
            if !self.day_matches(date) {
                continue;
            }
            loop {
                let civil = zone.to_datetime(at);
                if civil.date() != date {
                    break;
                }
                if self.hour & (1 << civil.hour()) == 0 {
                    // To the next full hour; a change of the clock in between is met there.
                    at += minute * (60 - i32::from(civil.minute()));
                } else if self.minute & (1 << civil.minute()) == 0 {
                    at += minute;
                } else {
                    return Some(at);
                }
            }
        }
        None
    }
}

/// The bits of a field, and whether it is a star.
fn field(text: &str, low: u32, high: u32, names: &[&str]) -> Result<(u64, bool), String> {
    let (mut bits, mut star) = (0, false);
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(number(step, low, &[])?)),
            None => (part, None),
        };
        let (first, last) = match range {
            "*" | "?" => {
                // A star with a step restricts its field, as any other range.
                star |= step.is_none_or(|s| s == 1);
                (low, high)
            }
            _ => match range.split_once('-') {
                Some((first, last)) => (number(first, low, names)?, number(last, low, names)?),
                // `5/10` begins at 5 and goes to the end.
                None => number(range, low, names).map(|n| (n, if step.is_some() { high } else { n }))?,
            },
        };
        if first < low || last > high || first > last || step == Some(0) {
            return Err(format!("the range {part} is not within {low}-{high}"));
        }
        for value in (first..=last).step_by(step.unwrap_or(1) as usize) {
            bits |= 1 << value;
        }
    }
    Ok((bits, star))
}

fn number(text: &str, low: u32, names: &[&str]) -> Result<u32, String> {
    if let Some(i) = names.iter().position(|n| n.eq_ignore_ascii_case(text)) {
        return Ok(i as u32 + low);
    }
    text.parse().map_err(|_| format!("failed to parse int from {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(schedule: &str, after: &str, zone: &str) -> String {
        let zone = TimeZone::get(zone).unwrap();
        Schedule::parse(schedule).unwrap().next(after.parse().unwrap(), &zone).unwrap().to_string()
    }

    #[test]
    fn the_next_time_of_a_schedule() {
        for (schedule, after, expected) in [
            ("* * * * *", "2026-01-01T00:00:30Z", "2026-01-01T00:01:00Z"),
            ("*/15 * * * *", "2026-01-01T00:15:00Z", "2026-01-01T00:30:00Z"),
            ("5/20 * * * *", "2026-01-01T00:30:00Z", "2026-01-01T00:45:00Z"),
            ("0 9-17/4 * * mon-fri", "2026-01-02T17:00:00Z", "2026-01-05T09:00:00Z"),
            ("0 0 29 feb *", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("0 0 13 * 5", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
            ("0 0 13 * *", "2026-01-01T00:00:00Z", "2026-01-13T00:00:00Z"),
            ("@weekly", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"),
            ("@every 90s", "2026-01-01T00:00:00Z", "2026-01-01T00:01:30Z"),
        ] {
            assert_eq!(next(schedule, after, "UTC"), expected, "{schedule}");
        }
    }

    #[test]
    fn a_time_zone_moves_a_schedule_and_its_change_of_clocks_skips_or_repeats() {
        assert_eq!(next("0 9 * * *", "2026-01-01T00:00:00Z", "Asia/Tokyo"), "2026-01-02T00:00:00Z");
        // In Berlin there is no half past two on 29 March 2026.
        assert_eq!(next("30 2 * * *", "2026-03-28T12:00:00Z", "Europe/Berlin"), "2026-03-30T00:30:00Z");
        assert_eq!(next("30 2 * * *", "2026-10-25T00:30:00Z", "Europe/Berlin"), "2026-10-25T01:30:00Z");
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        for text in ["", "* * * *", "60 * * * *", "* * 0 * *", "a * * * *", "5-2 * * * *", "*/0 * * * *", "@never", "@every x"] {
            assert!(Schedule::parse(text).is_err(), "{text}");
        }
        let never = Schedule::parse("0 0 31 2 *").unwrap();
        assert_eq!(never.next("2026-01-01T00:00:00Z".parse().unwrap(), &TimeZone::UTC), None);
    }

    #[test]
    fn the_most_recent_time_is_found_however_long_ago_it_was() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let recent = |schedule: &str, earliest: &str, now: &str| {
            Schedule::parse(schedule).unwrap().most_recent(at(earliest), at(now), &TimeZone::UTC).map(|t| t.to_string())
        };
        assert_eq!(recent("0 * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:59:59Z"), None);
        assert_eq!(recent("* * * * *", "2020-01-01T00:00:00Z", "2026-01-01T00:00:00Z").unwrap(), "2026-01-01T00:00:00Z");
        assert_eq!(recent("0 0 1 1 *", "2020-01-01T00:00:00Z", "2025-12-31T00:00:00Z").unwrap(), "2025-01-01T00:00:00Z");
        assert_eq!(recent("@every 1h", "2026-01-01T00:00:00Z", "2026-01-01T02:30:00Z").unwrap(), "2026-01-01T02:00:00Z");
    }
}
