//! Optical images: ISO 9660, UDF, and both at once. Recognised, never interpreted.
//!
//! The disk is the file, read-only, in sectors of 2048 bytes; a file that ends within a sector is
//! padded with zeros, for truncated padding is common. `CD001` counts only in a descriptor at its
//! place with a plausible block size (formats sheet, section 4).

use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::facts::{Facts, Format, Kind};
use crate::image::Image;
use crate::open::OpenOptions;
use crate::run::Run;
use crate::store::Store;
use crate::vhd::check_len;

/// Bytes of an optical sector, and of a descriptor.
const SECTOR: u64 = 2048;
/// The same, as the length of a buffer.
const DESCRIPTOR: usize = 2048;
/// Where descriptors begin, in bytes.
const FIRST_DESCRIPTOR: u64 = 32768;
/// Most descriptors that are looked at.
const MOST_DESCRIPTORS: u64 = 64;
/// Bytes of a sector in a raw dump.
const RAW_SECTOR: u64 = 2352;
/// First bytes of each sector in a raw dump.
const RAW_SYNC: [u8; 12] = [0, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0];
/// The descriptor identifier of ISO 9660.
const ISO_IDENTIFIER: [u8; 5] = *b"CD001";

/// What the content is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Optical {
    /// ISO 9660, UDF or both.
    Volume,
    /// A dump of whole 2352-byte sectors.
    RawDump,
    /// Nothing optical.
    No,
}

/// Looks at the descriptors.
pub(crate) fn recognise(store: &dyn Store) -> Result<Optical> {
    let mut sync = [0; RAW_SYNC.len()];
    if read(store, &mut sync, 0)? && sync == RAW_SYNC {
        for header in [16, 24] {
            let mut identifier = [0; 5];
            if read(store, &mut identifier, 16 * RAW_SECTOR + header + 1)?
                && identifier == ISO_IDENTIFIER
            {
                return Ok(Optical::RawDump);
            }
        }
    }
    let mut extended = false;
    for index in 0..MOST_DESCRIPTORS {
        let mut descriptor = [0; DESCRIPTOR];
        if !read(store, &mut descriptor, FIRST_DESCRIPTOR + index * SECTOR)? {
            break;
        }
        match &descriptor[1..6] {
            b"CD001" if is_primary(&descriptor) => return Ok(Optical::Volume),
            b"NSR02" | b"NSR03" => extended = true,
            b"CD001" | b"BEA01" | b"BOOT2" | b"CDW02" => {}
            _ => break,
        }
    }
    if extended && has_anchor(store)? {
        Ok(Optical::Volume)
    } else {
        Ok(Optical::No)
    }
}

/// A primary volume descriptor with a block size that both byte orders agree on.
fn is_primary(descriptor: &[u8; DESCRIPTOR]) -> bool {
    let little = u16::from_le_bytes([descriptor[128], descriptor[129]]);
    let big = u16::from_be_bytes([descriptor[130], descriptor[131]]);
    descriptor[0] == 1 && descriptor[6] == 1 && little == big && matches!(little, 512 | 1024 | 2048)
}

/// A UDF anchor at one of its places: block 256, N - 256, N. One is enough, for the end of an image
/// may be cut.
fn has_anchor(store: &dyn Store) -> Result<bool> {
    let last = (length(store)? / SECTOR).saturating_sub(1);
    for block in [256, last.saturating_sub(256), last] {
        let mut tag = [0; 16];
        if !read(store, &mut tag, block.saturating_mul(SECTOR))? {
            continue;
        }
        let sum = tag[..4]
            .iter()
            .chain(&tag[5..])
            .fold(0_u8, |sum, &byte| sum.wrapping_add(byte));
        let identifier = u16::from_le_bytes([tag[0], tag[1]]);
        let version = u16::from_le_bytes([tag[2], tag[3]]);
        let location = u32::from_le_bytes([tag[12], tag[13], tag[14], tag[15]]);
        if identifier == 2
            && matches!(version, 2 | 3)
            && tag[4] == sum
            && u64::from(location) == block
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Opens an optical image.
pub(crate) fn open(store: Arc<dyn Store>, options: &OpenOptions) -> Result<Box<dyn Image>> {
    match recognise(&*store)? {
        Optical::Volume => {}
        Optical::RawDump => return Err(raw_dump()),
        Optical::No => {
            return Err(Error::new(
                ErrorKind::IsoCorrupt,
                "ISO volume descriptor",
                "is missing or not plausible",
            )
            .at(FIRST_DESCRIPTOR)
            .with_wanted("CD001 with a block size of 512, 1024 or 2048, or NSR0x and an anchor"));
        }
    }
    let len = length(&*store)?;
    let size = len.checked_next_multiple_of(SECTOR).ok_or_else(|| {
        Error::new(
            ErrorKind::InvalidSize,
            "file",
            "has a length that no disc can have",
        )
        .with_found(len)
    })?;
    let mut facts = Facts::new(Format::Iso, Kind::Fixed, size);
    facts.logical_sector_size = 2048;
    facts.physical_sector_size = 2048;
    facts.read_only = true;
    if size != len {
        facts.notices.push(format!(
            "the file's length {len} is no multiple of 2048: the disc ends in zeros"
        ));
    }
    if is_hybrid(&*store)? {
        facts
            .notices
            .push("the disc also has a partition table (hybrid image)".to_owned());
    }
    let mut first = [0; DESCRIPTOR];
    read(&*store, &mut first, FIRST_DESCRIPTOR)?;
    let run = Run::new(store, facts, options.writable, len, move |store| {
        check_len(store, len)?;
        let mut now = [0; DESCRIPTOR];
        if read(store, &mut now, FIRST_DESCRIPTOR)? && now == first {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::IsoCorrupt,
            "ISO volume descriptor",
            "is not the one that was there when the image was opened",
        )
        .at(FIRST_DESCRIPTOR))
    });
    Ok(Box::new(run))
}

/// The error for dumps of whole sectors.
pub(crate) fn raw_dump() -> Error {
    Error::new(
        ErrorKind::UnsupportedFeature,
        "image",
        "is a raw dump of 2352-byte CD sectors, which is recognised and not read",
    )
    .at(0)
}

/// A boot signature and a partition entry that is not empty.
fn is_hybrid(store: &dyn Store) -> Result<bool> {
    let mut sector = [0; 512];
    Ok(read(store, &mut sector, 0)?
        && sector[510..] == [0x55, 0xAA]
        && sector[446..510].iter().any(|&byte| byte != 0))
}

/// Reads; `false` where the file ends before that.
fn read(store: &dyn Store, buf: &mut [u8], offset: u64) -> Result<bool> {
    match store.read_exact_at(buf, offset) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(Error::io("file", "cannot be read", error).at(offset)),
    }
}

fn length(store: &dyn Store) -> Result<u64> {
    store
        .len()
        .map_err(|error| Error::io("file", "does not tell its length", error))
}
