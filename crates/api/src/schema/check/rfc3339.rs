//! What Go's `time.Parse` says of a text that is no RFC 3339 time.
//!
//! Source: Go `time`, `Parse` and `ParseError.Error`; upstream `Time` and
//! `MicroTime` `UnmarshalJSON`, which parse with these two layouts.

use super::ShapeError;

const SECONDS: &str = "2006-01-02T15:04:05Z07:00";
const MICROS: &str = "2006-01-02T15:04:05.000000Z07:00";

/// Checks a time; with `micros` six fractional digits are demanded.
pub(super) fn check(text: &str, micros: bool) -> Result<(), ShapeError> {
    parse(text, micros).map_err(|problem| {
        let problem = match problem {
            Problem::Element { rest, element } => {
                let layout = if micros { MICROS } else { SECONDS };
                format!(" as {layout:?}: cannot parse {rest:?} as {element:?}")
            }
            Problem::Range(what) => format!(": {what} out of range"),
            Problem::Extra(rest) => format!(": extra text: {rest:?}"),
        };
        ShapeError::Time {
            text: text.to_owned(),
            problem,
        }
    })
}

enum Problem<'t> {
    Element { rest: &'t str, element: &'static str },
    Range(&'static str),
    Extra(&'t str),
}

struct Cursor<'t>(&'t str);

impl<'t> Cursor<'t> {
    /// Between `least` and `most` digits.
    fn number(&mut self, least: usize, most: usize, element: &'static str) -> Result<u32, Problem<'t>> {
        let digits = self.0.bytes().take(most).take_while(u8::is_ascii_digit).count();
        if digits < least {
            return Err(Problem::Element { rest: self.0, element });
        }
        let (number, rest) = self.0.split_at(digits);
        self.0 = rest;
        Ok(number.bytes().fold(0, |n, b| n * 10 + u32::from(b - b'0')))
    }

    fn literal(&mut self, literal: &'static str) -> Result<(), Problem<'t>> {
        self.0 = self.0.strip_prefix(literal).ok_or(Problem::Element {
            rest: self.0,
            element: literal,
        })?;
        Ok(())
    }

    fn fraction(&mut self, micros: bool) -> Result<(), Problem<'t>> {
        const ELEMENT: &str = ".000000";
        let digits = self
            .0
            .strip_prefix(['.', ','])
            .map_or(0, |rest| rest.bytes().take_while(u8::is_ascii_digit).count());
        if micros && digits < 6 {
            return Err(Problem::Element {
                rest: self.0,
                element: ELEMENT,
            });
        }
        // Six of them belong to the layout; in the other layout all are accepted.
        let taken = if micros { 6 } else { digits };
        if taken > 0 {
            self.0 = &self.0[taken + 1..];
        }
        Ok(())
    }

    fn zone(&mut self) -> Result<(), Problem<'t>> {
        if let Some(rest) = self.0.strip_prefix('Z') {
            self.0 = rest;
            return Ok(());
        }
        let wrong = Problem::Element {
            rest: self.0,
            element: "Z07:00",
        };
        let bytes = self.0.as_bytes();
        let shape = bytes.len() >= 6 && matches!(bytes[0], b'+' | b'-') && bytes[3] == b':';
        let digits = |range: std::ops::Range<usize>| bytes.get(range).filter(|d| d.iter().all(u8::is_ascii_digit));
        let (true, Some(hours), Some(minutes)) = (shape, digits(1..3), digits(4..6)) else {
            return Err(wrong);
        };
        if hours > b"24".as_slice() {
            return Err(Problem::Range("time zone offset hour"));
        }
        if minutes > b"60".as_slice() {
            return Err(Problem::Range("time zone offset minute"));
        }
        self.0 = &self.0[6..];
        Ok(())
    }
}

fn parse(text: &str, micros: bool) -> Result<(), Problem<'_>> {
    let mut cursor = Cursor(text);
    let within = |n: u32, least: u32, most: u32, what| {
        if (least..=most).contains(&n) {
            Ok(())
        } else {
            Err(Problem::Range(what))
        }
    };
    let year = cursor.number(4, 4, "2006")?;
    cursor.literal("-")?;
    let month = cursor.number(2, 2, "01")?;
    within(month, 1, 12, "month")?;
    cursor.literal("-")?;
    let day = cursor.number(2, 2, "02")?;
    cursor.literal("T")?;
    let hour = cursor.number(1, 2, "15")?;
    within(hour, 0, 23, "hour")?;
    cursor.literal(":")?;
    let minute = cursor.number(2, 2, "04")?;
    within(minute, 0, 59, "minute")?;
    cursor.literal(":")?;
    let second = cursor.number(2, 2, "05")?;
    within(second, 0, 59, "second")?;
    cursor.fraction(micros)?;
    cursor.zone()?;
    if !cursor.0.is_empty() {
        return Err(Problem::Extra(cursor.0));
    }
    within(day, 1, days_of(year, month), "day")
}

fn days_of(year: u32, month: u32) -> u32 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn says_what_go_says() {
        for (text, micros) in [
            ("2024-02-29T23:59:59Z", false),
            ("2024-01-01T00:00:00.5+02:00", false),
            ("2024-01-01T00:00:00.123456Z", true),
            ("2024-01-01T00:00:00.123456-07:00", true),
        ] {
            assert_eq!(check(text, micros), Ok(()), "{text}");
        }
        for (text, micros, want) in [
            (
                "",
                false,
                r#"parsing time "" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "2006""#,
            ),
            (
                "today",
                false,
                r#"parsing time "today" as "2006-01-02T15:04:05Z07:00": cannot parse "today" as "2006""#,
            ),
            (
                "2024-01-01",
                false,
                r#"parsing time "2024-01-01" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "T""#,
            ),
            (
                "2024-13-01T00:00:00Z",
                false,
                r#"parsing time "2024-13-01T00:00:00Z": month out of range"#,
            ),
            (
                "2023-02-29T00:00:00Z",
                false,
                r#"parsing time "2023-02-29T00:00:00Z": day out of range"#,
            ),
            (
                "2024-01-01T00:00:00Zx",
                false,
                r#"parsing time "2024-01-01T00:00:00Zx": extra text: "x""#,
            ),
            (
                "2024-01-01T00:00:00Z",
                true,
                r#"parsing time "2024-01-01T00:00:00Z" as "2006-01-02T15:04:05.000000Z07:00": cannot parse "Z" as ".000000""#,
            ),
        ] {
            assert_eq!(check(text, micros).unwrap_err().to_string(), want);
        }
    }
}
