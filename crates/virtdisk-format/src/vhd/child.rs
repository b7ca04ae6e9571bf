//! What a new differencing image says of its parent, and where that stands in the file.
//!
//! The layout is that of Windows 10 (1.7): the absolute path at 0x1000, the table behind it, the
//! relative path on the next 4 KiB behind the table; spaces are counted in bytes, as Windows counts
//! them (V-17). The arguments are checked before anything is written.

use uuid::Uuid;
use zerocopy::IntoBytes;

use super::footer::time_stamp;
use super::layout::{
    ABSOLUTE_PATH_AT, ABSOLUTE_PATH_SPACE, HEADER_CHECKSUM_AT, PLATFORM_W2KU, PLATFORM_W2RU,
    RELATIVE_PATH_SPACE, RawHeader, RawLocator, checksum,
};
use crate::create::CreateOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::facts::Kind;

/// Longest path of Windows in UTF-16 units, without the zero behind it.
const LONGEST_PATH: usize = 32_767;
/// Bytes of the header's parent name that are used at most: a zero stands behind it.
const LONGEST_NAME: usize = 510;

/// What is written for the parent.
pub(crate) struct Child {
    parent_id: Uuid,
    time_stamp: u32,
    /// UTF-16BE.
    name: Vec<u8>,
    /// UTF-16LE, as the relative one; empty where there is none.
    absolute: Vec<u8>,
    relative: Vec<u8>,
}

/// A locator with its data.
pub(crate) struct Place<'a> {
    code: u32,
    pub(crate) at: u64,
    space: u64,
    pub(crate) data: &'a [u8],
}

impl Child {
    /// What the options say of a parent: `None` for a disk that has none.
    pub(crate) fn of(options: &CreateOptions, id: Uuid) -> Result<Option<Child>> {
        let parent = match (options.kind, &options.parent) {
            (Kind::Differencing, Some(parent)) => parent,
            (Kind::Fixed | Kind::Dynamic, None) => return Ok(None),
            (Kind::Differencing, None) => {
                return Err(Error::new(
                    ErrorKind::ParentMissing,
                    "image",
                    "cannot be created as a differencing disk without a parent",
                ));
            }
            (Kind::Fixed | Kind::Dynamic, Some(_)) => {
                return Err(Error::new(
                    ErrorKind::InvalidParameter,
                    "parent",
                    "is for differencing disks only",
                ));
            }
        };
        if parent.content_id.is_nil() || parent.content_id == id {
            return Err(Error::new(
                ErrorKind::InvalidParameter,
                "parent",
                "has an identifier that no parent of this disk can have",
            )
            .with_found(parent.content_id)
            .with_wanted("one that is neither nil nor the disk's own"));
        }
        for path in [&parent.absolute_path, &parent.relative_path] {
            let units = path.encode_utf16().count();
            if units > LONGEST_PATH || path.contains('\0') {
                return Err(Error::new(
                    ErrorKind::InvalidParameter,
                    "parent",
                    "has an impossible path",
                )
                .with_found(format_args!("{units} characters"))
                .with_wanted(format_args!("at most {LONGEST_PATH}, none of them 0")));
            }
        }
        Ok(Some(Child {
            parent_id: parent.content_id,
            time_stamp: time_stamp(parent.modified_unix),
            name: name_of(&parent.absolute_path, &parent.relative_path),
            absolute: little_endian(&parent.absolute_path),
            relative: little_endian(&parent.relative_path),
        }))
    }

    /// Where the table begins.
    pub(crate) fn table_at(&self) -> u64 {
        ABSOLUTE_PATH_AT + self.absolute_space()
    }

    fn absolute_space(&self) -> u64 {
        let used = self.absolute.len() as u64;
        used.max(1).next_multiple_of(ABSOLUTE_PATH_SPACE)
    }

    /// The locators behind and before a table that ends at `table_end`.
    pub(crate) fn places(&self, table_end: u64) -> Vec<Place<'_>> {
        let absolute = Place {
            code: PLATFORM_W2KU,
            at: ABSOLUTE_PATH_AT,
            space: self.absolute_space(),
            data: &self.absolute,
        };
        let relative = Place {
            code: PLATFORM_W2RU,
            at: table_end.next_multiple_of(ABSOLUTE_PATH_SPACE),
            space: RELATIVE_PATH_SPACE,
            data: &self.relative,
        };
        let mut places = vec![absolute, relative];
        places.retain(|place| !place.data.is_empty());
        places
    }

    /// Where the blocks can begin behind a table that ends at `table_end`.
    pub(crate) fn end(&self, table_end: u64) -> u64 {
        let ends = self.places(table_end).into_iter();
        ends.fold(table_end, |end, place| end.max(place.at + place.space))
    }

    /// Puts all of it into the header of a new dynamic disk.
    pub(crate) fn fill(&self, raw: &mut RawHeader, table_end: u64) {
        raw.table_offset.set(self.table_at());
        raw.parent_id = self.parent_id.into_bytes();
        raw.parent_time_stamp.set(self.time_stamp);
        for (stored, &byte) in raw.parent_name.iter_mut().zip(&self.name) {
            *stored = byte;
        }
        let places = self.places(table_end);
        for (locator, place) in raw.locators.iter_mut().zip(&places) {
            *locator = place.locator();
        }
        raw.checksum
            .set(checksum(raw.as_bytes(), HEADER_CHECKSUM_AT));
    }
}

impl Place<'_> {
    fn locator(&self) -> RawLocator {
        // Paths and their spaces are far below 2^32 bytes.
        let bytes = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
        RawLocator {
            platform_code: self.code.into(),
            data_space: bytes(self.space).into(),
            data_length: bytes(self.data.len() as u64).into(),
            reserved: 0.into(),
            data_offset: self.at.into(),
        }
    }
}

/// The whole path as Windows writes it, or its last part where the whole does not fit; empty where
/// that does not fit either.
fn name_of(absolute: &str, relative: &str) -> Vec<u8> {
    let last = |path: &str| -> Vec<u8> {
        let last = path.rsplit(['\\', '/']).next().unwrap_or_default();
        big_endian(last)
    };
    let names = [big_endian(absolute), last(absolute), last(relative)];
    let fits = |name: &Vec<u8>| !name.is_empty() && name.len() <= LONGEST_NAME;
    names.into_iter().find(fits).unwrap_or_default()
}

fn little_endian(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn big_endian(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_be_bytes).collect()
}
