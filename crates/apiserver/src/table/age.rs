//! How long ago, in the few characters a column has.
//!
//! Source: upstream `apimachinery/pkg/util/duration/duration.go`, `HumanDuration`.

use api::Time;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const YEAR: i64 = 365 * DAY;

/// The age of something made at `since`; `<unknown>` when that is not known.
#[must_use]
pub fn age(since: Option<Time>, now: Time) -> String {
    match since {
        None => "<unknown>".to_owned(),
        Some(since) => short((now.0.saturating_sub(since.0)) / 1_000_000_000),
    }
}

/// A span of whole seconds with one or two units. A negative one, from clocks
/// that disagree, is `0s` down to one second and `<invalid>` below.
#[must_use]
pub fn short(elapsed_s: i64) -> String {
    match elapsed_s {
        ..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        s if s < 2 * MINUTE => format!("{s}s"),
        s if s < 10 * MINUTE => two(s / MINUTE, "m", s % MINUTE, "s"),
        s if s < 3 * HOUR => format!("{}m", s / MINUTE),
        s if s < 8 * HOUR => two(s / HOUR, "h", s % HOUR / MINUTE, "m"),
        s if s < 2 * DAY => format!("{}h", s / HOUR),
        s if s < 8 * DAY => two(s / DAY, "d", s % DAY / HOUR, "h"),
        s if s < 2 * YEAR => format!("{}d", s / DAY),
        s if s < 8 * YEAR => two(s / YEAR, "y", s % YEAR / DAY, "d"),
        s => format!("{}y", s / YEAR),
    }
}

fn two(large: i64, large_unit: &str, small: i64, small_unit: &str) -> String {
    if small == 0 {
        format!("{large}{large_unit}")
    } else {
        format!("{large}{large_unit}{small}{small_unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_boundary_of_the_age_format() {
        let rows = [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (1, "1s"),
            (119, "119s"),
            (120, "2m"),
            (121, "2m1s"),
            (599, "9m59s"),
            (600, "10m"),
            (659, "10m"),
            (3 * HOUR - 1, "179m"),
            (3 * HOUR, "3h"),
            (3 * HOUR + MINUTE, "3h1m"),
            (8 * HOUR - 1, "7h59m"),
            (8 * HOUR, "8h"),
            (8 * HOUR + 59 * MINUTE, "8h"),
            (2 * DAY - 1, "47h"),
            (2 * DAY, "2d"),
            (2 * DAY + HOUR, "2d1h"),
            (8 * DAY - 1, "7d23h"),
            (8 * DAY, "8d"),
            (2 * YEAR - 1, "729d"),
            (2 * YEAR, "2y"),
            (2 * YEAR + DAY, "2y1d"),
            (8 * YEAR - 1, "7y364d"),
            (8 * YEAR, "8y"),
            (20 * YEAR + 300 * DAY, "20y"),
        ];
        for (elapsed_s, text) in rows {
            assert_eq!(short(elapsed_s), text, "{elapsed_s}");
        }
    }

    #[test]
    fn an_age_needs_a_start() {
        assert_eq!(age(None, Time::from_secs(5)), "<unknown>");
        assert_eq!(age(Some(Time(1_999_999_999)), Time::from_secs(3)), "1s");
        assert_eq!(age(Some(Time::from_secs(6)), Time::from_secs(5)), "0s");
    }
}
