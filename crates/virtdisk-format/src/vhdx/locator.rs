//! The parent locator: which disk the parent is, and where it was.
//!
//! An item of key and value pairs in UTF-16. The identity decides (P-1); the paths are hints, in
//! the order in which they are to be tried (P-2), and are never opened as they stand. The whole
//! item is checked, so that no two readers can see two parents in it (S-8).

use uuid::Uuid;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::identifier::printable;
use super::layout::{
    KEY_ABSOLUTE, KEY_LINKAGE, KEY_LINKAGE_2, KEY_RELATIVE, KEY_VOLUME, LOCATOR_TYPE, MOST_PAIRS,
    RawLocator, RawPair, guid,
};
use crate::error::{Error, ErrorKind, Result};
use crate::facts::{HintKind, ParentHint, ParentLink};

/// A key and its value.
type Pair = (String, String);

/// Reads the item found at `at`.
pub(crate) fn read_locator(item: &[u8], at: u64) -> Result<ParentLink> {
    link(&pairs(item, at)?, at)
}

fn wrong(at: u64, message: impl Into<String>) -> Error {
    Error::new(ErrorKind::MetadataCorrupt, "VHDX parent locator", message)
        .at(at)
        .by("S-8")
}

/// All pairs of the item, in the order of the file.
pub(crate) fn pairs(item: &[u8], at: u64) -> Result<Vec<Pair>> {
    let mut header = RawLocator::new_zeroed();
    let (head, body) = item.split_at(size_of::<RawLocator>().min(item.len()));
    if head.len() < size_of::<RawLocator>() {
        return Err(wrong(at, "is cut short").with_found(item.len()));
    }
    header.as_mut_bytes().copy_from_slice(head);
    let id = guid(header.locator_type);
    if id != LOCATOR_TYPE {
        return Err(Error::new(
            ErrorKind::UnsupportedFeature,
            "VHDX parent locator",
            "is of a type that is not known",
        )
        .at(at)
        .with_found(id)
        .with_wanted(LOCATOR_TYPE));
    }
    let count = header.count.get();
    let entries = usize::from(count) * size_of::<RawPair>();
    if count > MOST_PAIRS || entries > body.len() {
        return Err(wrong(at.saturating_add(18), "has too many pairs")
            .with_found(count)
            .with_wanted(format_args!("at most {MOST_PAIRS}, inside the item")));
    }
    let mut pairs: Vec<Pair> = Vec::with_capacity(count.into());
    let mut ranges = vec![(0, size_of::<RawLocator>() + entries)];
    for (index, entry) in (0_u64..).zip(body[..entries].chunks_exact(size_of::<RawPair>())) {
        let Ok(raw) = RawPair::read_from_bytes(entry) else {
            break;
        };
        let entry_at = at.saturating_add(20 + 12 * index);
        let mut read = |offset: u32, length: u16, what| {
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            let end = start.saturating_add(length.into());
            ranges.push((start, end));
            text(item, start, end).map_err(|reason| {
                wrong(entry_at, format!("has a {what} that {reason}"))
                    .with_found(format_args!("{length} bytes at {offset}"))
            })
        };
        let key = read(raw.key_offset.get(), raw.key_length.get(), "key")?;
        let value = read(raw.value_offset.get(), raw.value_length.get(), "value")?;
        if pairs.iter().any(|(known, _)| *known == key) {
            let key = printable(&key);
            return Err(wrong(entry_at, format!("has the key {key} twice")));
        }
        pairs.push((key, value));
    }
    ranges.sort_unstable();
    if ranges.windows(2).any(|pair| pair[1].0 < pair[0].1) {
        return Err(wrong(at, "has keys or values that share bytes"));
    }
    Ok(pairs)
}

/// The text at `start..end` of the item. What is no well-formed UTF-16 becomes U+FFFD, for a path
/// may hold it; an inner NUL is in no path.
fn text(item: &[u8], start: usize, end: usize) -> std::result::Result<String, &'static str> {
    let bytes = item.get(start..end).ok_or("lies outside the item")?;
    if bytes.is_empty() || !bytes.len().is_multiple_of(2) {
        return Err("has a length that no text can have");
    }
    let mut units: Vec<u16> = bytes
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
        .collect();
    while units.last() == Some(&0) {
        units.pop();
    }
    if units.contains(&0) {
        return Err("has a NUL in it");
    }
    Ok(String::from_utf16_lossy(&units))
}

/// What the pairs say of the parent.
fn link(pairs: &[Pair], at: u64) -> Result<ParentLink> {
    let value = |key: &str| {
        pairs
            .iter()
            .find(|(known, _)| known == key)
            .map(|(_, value)| value.as_str())
    };
    let linkage = value(KEY_LINKAGE).ok_or_else(|| wrong(at, "has no parent_linkage"))?;
    let mut identities = Vec::new();
    for (key, text) in [
        (KEY_LINKAGE, Some(linkage)),
        (KEY_LINKAGE_2, value(KEY_LINKAGE_2)),
    ] {
        let Some(text) = text else {
            continue;
        };
        let id = parse(text).ok_or_else(|| {
            wrong(at, format!("has a {key} that is no GUID")).with_found(printable(text))
        })?;
        if !id.is_nil() && !identities.contains(&id) {
            identities.push(id);
        }
    }
    if identities.is_empty() {
        return Err(wrong(
            at,
            "names no parent: its parent_linkage is all zeros",
        ));
    }
    let hints = [
        (HintKind::Relative, KEY_RELATIVE),
        (HintKind::Volume, KEY_VOLUME),
        (HintKind::Absolute, KEY_ABSOLUTE),
    ]
    .into_iter()
    .filter_map(|(kind, key)| {
        let text = value(key).filter(|text| !text.is_empty())?.to_owned();
        Some(ParentHint { kind, text })
    })
    .collect();
    Ok(ParentLink {
        identities,
        modified_unix: None,
        hints,
    })
}

/// A GUID in text, braces optional, in either case (P-1).
fn parse(text: &str) -> Option<Uuid> {
    let inner = text
        .strip_prefix('{')
        .and_then(|text| text.strip_suffix('}'))
        .unwrap_or(text);
    let hyphenated = inner.len() == 36;
    Uuid::try_parse(inner).ok().filter(|_| hyphenated)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "{f88d4d92-6fcc-408d-9bef-9b7c89f15c89}";

    /// An item with these pairs; the bytes of each text follow each other.
    fn item(pairs: &[(&str, &str)]) -> Vec<u8> {
        let mut header = RawLocator::new_zeroed();
        header.locator_type = LOCATOR_TYPE.to_bytes_le();
        header.count.set(u16::try_from(pairs.len()).unwrap());
        let mut bytes = header.as_bytes().to_vec();
        let mut texts = Vec::new();
        let start = 20 + 12 * pairs.len();
        for (key, value) in pairs {
            let mut raw = RawPair::new_zeroed();
            let mut put = |text: &str| {
                let at = u32::try_from(start + texts.len()).unwrap();
                let from = texts.len();
                texts.extend(text.encode_utf16().flat_map(u16::to_le_bytes));
                (at, u16::try_from(texts.len() - from).unwrap())
            };
            let (key, value) = (put(key), put(value));
            raw.key_offset.set(key.0);
            raw.key_length.set(key.1);
            raw.value_offset.set(value.0);
            raw.value_length.set(value.1);
            bytes.extend_from_slice(raw.as_bytes());
        }
        bytes.extend(texts);
        bytes
    }

    #[test]
    fn the_hints_come_in_the_order_in_which_to_look() {
        // P-1, P-2
        let zeros = "{00000000-0000-0000-0000-000000000000}";
        let item = item(&[
            ("parent_linkage", &ID.to_uppercase()),
            ("absolute_win32_path", r"C:\vm\base.vhdx"),
            ("relative_path", r".\base.vhdx"),
            ("volume_path", r"\\?\Volume{1}\vm\base.vhdx"),
            ("parent_linkage2", zeros),
            ("Relative_Path", "keys are case-sensitive"),
        ]);
        let link = read_locator(&item, 0).unwrap();
        assert_eq!(link.identities, [Uuid::parse_str(ID).unwrap()]);
        assert_eq!(link.modified_unix, None);
        let kinds: Vec<HintKind> = link.hints.iter().map(|hint| hint.kind).collect();
        assert_eq!(
            kinds,
            [HintKind::Relative, HintKind::Volume, HintKind::Absolute]
        );
        assert_eq!(link.hints[0].text, r".\base.vhdx");
    }

    #[test]
    fn a_locator_that_could_be_read_in_two_ways_is_refused() {
        // S-8
        let good = item(&[("parent_linkage", ID), ("relative_path", "a")]);
        assert!(read_locator(&good, 0).is_ok());
        let broken = |at: usize, bytes: &[u8]| {
            let mut item = good.clone();
            item[at..at + bytes.len()].copy_from_slice(bytes);
            read_locator(&item, 0).unwrap_err().kind()
        };
        let corrupt = ErrorKind::MetadataCorrupt;
        assert_eq!(broken(0, &[1]), ErrorKind::UnsupportedFeature);
        assert_eq!(broken(18, &[0xFF, 0xFF]), corrupt, "65535 pairs");
        assert_eq!(broken(20, &[0; 4]), corrupt, "a key on the head");
        assert_eq!(broken(28, &[27]), corrupt, "a key of odd length");
        assert_eq!(broken(28, &[0]), corrupt, "a key of no length");
        assert_eq!(broken(26, &[1]), corrupt, "a value outside");
        assert_eq!(broken(32, &good[20..24]), corrupt, "two keys in one place");
        assert_eq!(broken(46, &[0, 0]), corrupt, "a NUL inside a key");
        for pairs in [
            &[("parent_linkage", ID), ("parent_linkage", ID)][..],
            &[("relative_path", "a")],
            &[("parent_linkage", "f88d4d92")],
            &[("parent_linkage", "{00000000-0000-0000-0000-000000000000}")],
        ] {
            assert_eq!(read_locator(&item(pairs), 0).unwrap_err().kind(), corrupt);
        }
        for len in 0..good.len() {
            assert!(read_locator(&good[..len], 0).is_err(), "{len} bytes");
        }
    }
}
