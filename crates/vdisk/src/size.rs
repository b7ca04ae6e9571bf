//! Sizes as people write them: `512`, `64K`, `10G`, `1T`; K M G T are powers of 1024.
//!
//! Promises: every other spelling is refused with a sentence, `10GB` too, for it means 1000 to
//! some; a size that does not fit 64 bits is refused, never cut.

/// Reads a size; the answer is in bytes.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = &text[digits.len()..];
    let shift = match unit.to_ascii_uppercase().as_str() {
        "" => 0,
        "K" | "KIB" => 10,
        "M" | "MIB" => 20,
        "G" | "GIB" => 30,
        "T" | "TIB" => 40,
        _ => {
            return Err(format!(
                "`{unit}` is no unit; K, M, G and T are, as powers of 1024"
            ));
        }
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("a size is a whole number and a unit, like 10G".to_string());
    }
    let number: u64 = digits
        .parse()
        .map_err(|_| "this is more than 64 bits hold".to_string())?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| "this is more than 64 bits hold".to_string())
}

/// `bytes` in the largest unit that shows it exactly, or with one decimal: `10 GiB`, `1.4 MiB`.
pub(crate) fn show(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let Some((unit, shift)) = units.into_iter().find(|(_, shift)| bytes >= 1 << shift) else {
        return format!("{bytes} bytes");
    };
    let whole = bytes >> shift;
    let rest = bytes & ((1 << shift) - 1);
    if rest == 0 {
        return format!("{whole} {unit}");
    }
    // Ten times a rest below 2^40 fits; rounded down, so that nothing looks larger than it is.
    format!("{whole}.{} {unit}", (rest * 10) >> shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_powers_of_1024() {
        assert_eq!(parse("512"), Ok(512));
        assert_eq!(parse("64K"), Ok(65536));
        assert_eq!(parse("3m"), Ok(3 << 20));
        assert_eq!(parse("10G"), Ok(10 << 30));
        assert_eq!(parse("2040GiB"), Ok(2040 << 30));
        assert_eq!(parse("64T"), Ok(64 << 40));
    }

    #[test]
    fn other_spellings_are_refused() {
        for text in [
            "", "G", "10GB", "10 G", "1.5G", "-1", "+1", "0x10", "10X", "１", "K10",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(parse("18446744073709551615").is_ok());
        assert!(parse("18446744073709551616").is_err());
        assert!(parse("16777216T").is_err());
    }

    #[test]
    fn sizes_are_shown_shortly() {
        assert_eq!(show(0), "0 bytes");
        assert_eq!(show(1023), "1023 bytes");
        assert_eq!(show(10 << 30), "10 GiB");
        assert_eq!(show((1 << 20) + (1 << 19)), "1.5 MiB");
        assert_eq!(show(u64::MAX), "16777215.9 TiB");
    }
}
