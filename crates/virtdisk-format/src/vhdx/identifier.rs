//! The file identifier: that a file is a VHDX, and who says so.
//!
//! Written once at creation. The creator is for people to read and changes nothing.

use zerocopy::{FromZeros, IntoBytes};

use super::layout::{FILE_SIGNATURE, RawIdentifier};
use crate::error::{Error, ErrorKind, Result};
use crate::store::Store;

/// Reads the identifier; the answer is the creator, everything but printable ASCII escaped.
pub(crate) fn read_identifier(store: &dyn Store) -> Result<String> {
    let mut raw = RawIdentifier::new_zeroed();
    store
        .read_exact_at(raw.as_mut_bytes(), 0)
        .map_err(|error| Error::io("VHDX file identifier", "cannot be read", error).at(0))?;
    if raw.signature != FILE_SIGNATURE {
        return Err(Error::new(
            ErrorKind::FormatUnknown,
            "VHDX file identifier",
            "is missing",
        )
        .at(0)
        .with_found(raw.signature.escape_ascii())
        .with_wanted("vhdxfile")
        .by("X-1"));
    }
    Ok(creator(&raw.creator))
}

/// The text up to its terminator or the field's end.
fn creator(bytes: &[u8; 512]) -> String {
    let units: Vec<u16> = bytes
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
        .take_while(|&unit| unit != 0)
        .collect();
    printable(&String::from_utf16_lossy(&units))
}

/// A text with everything but printable ASCII escaped, for messages and facts (S-8).
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            ' '..='~' => shown.push(letter),
            other => shown.extend(other.escape_default()),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_creator_may_fill_its_field_and_is_printed_without_control_bytes() {
        // 2.2, S-8
        let field = |text: &str| {
            let mut bytes = [0; 512];
            for (place, unit) in bytes.chunks_exact_mut(2).zip(text.encode_utf16()) {
                place.copy_from_slice(&unit.to_le_bytes());
            }
            bytes
        };
        let windows = "Microsoft Windows 10.0.19041.0";
        assert_eq!(creator(&field(windows)), windows);
        assert_eq!(creator(&field(&"x".repeat(256))).len(), 256);
        assert_eq!(creator(&field("a\u{1b}[0mé")), "a\\u{1b}[0m\\u{e9}");
        assert_eq!(creator(&[0; 512]), "");
    }
}
