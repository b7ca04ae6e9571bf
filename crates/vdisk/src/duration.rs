//! Times as people write them: `30s`, `500ms`, `2m`, `1h`; a bare number is seconds.
//!
//! Promises: other spellings are refused with a sentence, and so is a time of more than a year,
//! with which clocks could not reckon.

use std::time::Duration;

const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Reads a time.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let milliseconds = match &text[digits.len()..] {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        unit => return Err(format!("`{unit}` is no unit of time; ms, s, m and h are")),
    };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("a time is a whole number and a unit, like 30s".to_string());
    }
    let number: u64 = digits
        .parse()
        .map_err(|_| "a time is a number and a unit, like 30s")?;
    let time = number.checked_mul(milliseconds).map(Duration::from_millis);
    time.filter(|time| *time <= LONGEST)
        .ok_or_else(|| "this is more than a year".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read() {
        assert_eq!(parse("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse("30"), Ok(Duration::from_secs(30)));
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(parse("0"), Ok(Duration::ZERO));
    }

    #[test]
    fn other_spellings_are_refused() {
        for text in [
            "",
            "s",
            "1.5s",
            "-1s",
            "1d",
            "9999999h",
            "99999999999999999999",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
