//! What a differencing image says of its parent: identity, time, and where it may be.
//!
//! The identity is what counts (V-14). Places are words of another system, read from the locators
//! and the header's parent name; one that cannot be read is left out and noted, for the parent may
//! be found without it. They are listed in the order of P-2: `W2ru`, `MacX`, `W2ku`, the deprecated
//! `Wi2r` and `Wi2k`, the name.

use uuid::Uuid;

use super::header::Header;
use super::layout::{
    EPOCH_2000, LOCATOR, LOCATORS_AT, PLATFORM_MAC, PLATFORM_MACX, PLATFORM_W2KU, PLATFORM_W2RU,
    PLATFORM_WI2K, PLATFORM_WI2R, RawLocator,
};
use crate::error::{Error, ErrorKind, Result};
use crate::facts::{HintKind, ParentHint, ParentLink};
use crate::finding::{Severity, Sink};
use crate::store::Store;

/// Longest locator data in bytes that are read: the longest path of Windows in UTF-16.
const LONGEST: u32 = 64 << 10;

/// How the bytes of a place are text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Coding {
    /// UTF-16, little-endian unless only the other way makes sense (V-16).
    Utf16Le,
    /// The same with big-endian first.
    Utf16Be,
    /// UTF-8, or else one byte a character.
    Bytes,
}

/// The platforms that say something, in the order in which to look.
const PLATFORMS: [(u32, HintKind, Coding); 5] = [
    (PLATFORM_W2RU, HintKind::Relative, Coding::Utf16Le),
    (PLATFORM_MACX, HintKind::Url, Coding::Bytes),
    (PLATFORM_W2KU, HintKind::Absolute, Coding::Utf16Le),
    (PLATFORM_WI2R, HintKind::Relative, Coding::Bytes),
    (PLATFORM_WI2K, HintKind::Absolute, Coding::Bytes),
];

/// Whether locators of that platform are understood, or are the alias of Mac OS, which is not.
pub(super) fn is_known_platform(code: u32) -> bool {
    code == PLATFORM_MAC || PLATFORMS.iter().any(|(known, ..)| *known == code)
}

/// Reads the link of a differencing image with this header. `data_end` is where its data end.
pub(crate) fn link(
    store: &dyn Store,
    header: &Header,
    data_end: u64,
    sink: &mut dyn Sink,
) -> Result<ParentLink> {
    let id = Uuid::from_bytes(header.raw.parent_id);
    if id.is_nil() {
        let error = odd(
            header,
            40,
            "of a differencing disk names no parent".to_owned(),
        );
        sink.fault(error.with_wanted("the parent's unique id").by("V-14"))?;
    }
    let modified_unix = match header.raw.parent_time_stamp.get() {
        0 => None,
        stamp => Some(EPOCH_2000 + u64::from(stamp)),
    };
    Ok(ParentLink {
        identities: vec![id],
        modified_unix,
        hints: hints(store, header, data_end, sink)?,
    })
}

/// All slots count, empty ones among them end nothing (V-15).
fn hints(
    store: &dyn Store,
    header: &Header,
    data_end: u64,
    sink: &mut dyn Sink,
) -> Result<Vec<ParentHint>> {
    let mut hints = Vec::new();
    for (code, kind, coding) in PLATFORMS {
        for (index, locator) in (0_u64..).zip(&header.raw.locators) {
            let field = LOCATORS_AT + index * LOCATOR;
            if locator.platform_code.get() != code {
                continue;
            }
            let Some(bytes) = data(store, locator, data_end)? else {
                let message = format!("has parent locator {index} without data that can be read");
                let error = odd(header, field + 8, message).by("V-17");
                sink.oddity(Severity::Warning, error);
                continue;
            };
            match text(&bytes, coding) {
                Some(text) => add(&mut hints, kind, text),
                None => {
                    let message = format!("has parent locator {index} that is no path");
                    let error = odd(header, field + 16, message).by("V-16");
                    sink.oddity(Severity::Warning, error);
                }
            }
        }
    }
    match text(&header.raw.parent_name, Coding::Utf16Be) {
        Some(name) => add(&mut hints, HintKind::Name, name),
        None if header.raw.parent_name == [0; 512] => {}
        None => {
            let message = "has a parent name that is no path".to_owned();
            sink.oddity(Severity::Warning, odd(header, 64, message).by("V-16"));
        }
    }
    Ok(hints)
}

fn odd(header: &Header, field: u64, message: String) -> Error {
    Error::new(ErrorKind::HeaderCorrupt, "VHD dynamic header", message)
        .at(header.offset.saturating_add(field))
}

fn add(hints: &mut Vec<ParentHint>, kind: HintKind, text: String) {
    let hint = ParentHint { kind, text };
    if !hints.contains(&hint) {
        hints.push(hint);
    }
}

/// The bytes of a locator; their length counts, not their space (V-17).
fn data(store: &dyn Store, locator: &RawLocator, data_end: u64) -> Result<Option<Vec<u8>>> {
    let (at, len) = (locator.data_offset.get(), locator.data_length.get());
    let inside = at
        .checked_add(len.into())
        .is_some_and(|end| end <= data_end);
    if !inside || len == 0 || len > LONGEST {
        return Ok(None);
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    store
        .read_exact_at(&mut bytes, at)
        .map_err(|error| Error::io("VHD parent locator", "cannot be read", error).at(at))?;
    Ok(Some(bytes))
}

/// The text without the zeros behind it; `None` if there is none, or zeros within.
fn text(bytes: &[u8], coding: Coding) -> Option<String> {
    let text = match coding {
        Coding::Bytes => match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => bytes.iter().map(|&byte| char::from(byte)).collect(),
        },
        Coding::Utf16Le => utf16(bytes, u16::from_le_bytes, u16::from_be_bytes),
        Coding::Utf16Be => utf16(bytes, u16::from_be_bytes, u16::from_le_bytes),
    };
    let text = text.trim_end_matches('\0');
    (!text.is_empty() && !text.contains('\0')).then(|| text.to_owned())
}

/// Decodes UTF-16 in the first byte order, or in the second if only that one gives characters of
/// ASCII, as every path has one (V-16). A last odd byte is left out.
fn utf16(bytes: &[u8], first: fn([u8; 2]) -> u16, second: fn([u8; 2]) -> u16) -> String {
    let units = |order: fn([u8; 2]) -> u16| -> Vec<u16> {
        bytes
            .chunks_exact(2)
            .map(|pair| order([pair[0], pair[1]]))
            .collect()
    };
    let plain = |units: &[u16]| units.iter().any(|unit| (1..0x80).contains(unit));
    let mut chosen = units(first);
    if !plain(&chosen) {
        let other = units(second);
        if plain(&other) {
            chosen = other;
        }
    }
    String::from_utf16_lossy(&chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn le(text: &str) -> Vec<u8> {
        text.encode_utf16().flat_map(u16::to_le_bytes).collect()
    }

    fn be(text: &str) -> Vec<u8> {
        text.encode_utf16().flat_map(u16::to_be_bytes).collect()
    }

    #[test]
    fn either_byte_order_is_understood() {
        // V-16
        for path in [r".\basis.vhd", r"C:\Плата\base.vhd", r"\\?\C:\日本\x"] {
            for bytes in [le(path), be(path)] {
                assert_eq!(text(&bytes, Coding::Utf16Le).as_deref(), Some(path));
                assert_eq!(text(&bytes, Coding::Utf16Be).as_deref(), Some(path));
            }
        }
        assert_eq!(text(&be("日本"), Coding::Utf16Be).as_deref(), Some("日本"));
    }

    #[test]
    fn what_is_no_text_is_no_hint() {
        // S-8
        for coding in [Coding::Utf16Le, Coding::Utf16Be, Coding::Bytes] {
            for bytes in [&[][..], &[0], &[0, 0, 0], &[0; 512]] {
                assert_eq!(text(bytes, coding), None);
            }
        }
        assert_eq!(text(&le("a\0b"), Coding::Utf16Le), None);
        assert_eq!(text(b"a\0b", Coding::Bytes), None);
        assert_eq!(text(&le("ab\0"), Coding::Utf16Le).as_deref(), Some("ab"));
        let odd = [&le("ab")[..], &[7]].concat();
        assert_eq!(text(&odd, Coding::Utf16Le).as_deref(), Some("ab"));
        let unpaired = [&le("a")[..], &[0x00, 0xD8]].concat();
        assert_eq!(
            text(&unpaired, Coding::Utf16Le).as_deref(),
            Some("a\u{FFFD}")
        );
        assert_eq!(
            text(b"file:///a%20b", Coding::Bytes).as_deref(),
            Some("file:///a%20b")
        );
        assert_eq!(
            text(b"C:\\\xFCber.vhd", Coding::Bytes).as_deref(),
            Some("C:\\über.vhd")
        );
    }
}
