//! Quantities as people read them. Pure.

/// A length of time as kubectl shows it; see upstream's duration.HumanDuration.
pub fn duration(seconds: i64) -> String {
    if seconds < -1 {
        return "<invalid>".into();
    }
    let s = seconds.max(0);
    let (minutes, hours) = (s / 60, s / 3600);
    let with = |big: i64, unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{big}{unit}") } else { format!("{big}{unit}{small}{small_unit}") }
    };
    match s {
        0..120 => format!("{s}s"),
        120..600 => with(minutes, "m", s % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => with(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => with(hours / 24, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{}d", hours / 24),
        63_072_000..252_288_000 => with(hours / 24 / 365, "y", hours / 24 % 365, "d"),
        _ => format!("{}y", hours / 24 / 365),
    }
}

/// Bytes in the largest binary unit of which there is at least one: `512Ki`, `61.4Mi`.
pub fn bytes(count: u64) -> String {
    let units = [("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)];
    match units.into_iter().find(|(_, shift)| count >> shift > 0) {
        None => format!("{count}"),
        Some((unit, shift)) => {
            // Tenths, cut and not rounded, so that 1023.99Mi does not read as 1024.0Mi.
            let tenths = (u128::from(count) * 10) >> shift;
            if tenths < 1000 { format!("{}.{}{unit}", tenths / 10, tenths % 10) } else { format!("{}{unit}", tenths / 10) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_kubectl_shows_them() {
        for (seconds, expect) in [
            (-5, "<invalid>"),
            (0, "0s"),
            (119, "119s"),
            (125, "2m5s"),
            (600, "10m"),
            (10_800 + 120, "3h2m"),
            (28_800, "8h"),
            (172_800 + 3600, "2d1h"),
            (691_200, "8d"),
            (63_072_000, "2y"),
        ] {
            assert_eq!(duration(seconds), expect);
        }
    }

    #[test]
    fn bytes_read_in_the_largest_unit() {
        for (count, expect) in [(0, "0"), (1023, "1023"), (1024, "1.0Ki"), (64_380_000, "61.3Mi"), (200 << 20, "200Mi"), (3 << 30, "3.0Gi")]
        {
            assert_eq!(bytes(count), expect);
        }
    }
}
