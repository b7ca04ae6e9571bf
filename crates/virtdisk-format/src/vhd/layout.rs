//! The byte map of VHD: every structure, field, constant and unit, and nothing else.
//!
//! All integers are big-endian; the types here carry that. Sections are those of the formats
//! sheet, which follows the Virtual Hard Disk Image Format Specification 1.0. A value of these
//! types is raw: it says what stands in the file, not that it makes sense.

use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a sector, everywhere in VHD (1.1).
pub(crate) const SECTOR: u64 = 512;
/// Bytes of a footer (1.2).
pub(crate) const FOOTER: u64 = 512;
/// Bytes of the footer that products before Virtual PC 2004 wrote: the last byte is missing (V-5).
pub(crate) const SHORT_FOOTER: u64 = 511;
/// Bytes of the dynamic header (1.6).
pub(crate) const HEADER: u64 = 1024;
/// Bytes of a BAT entry (1.8).
pub(crate) const ENTRY: u64 = 4;
/// Boundary on which Windows starts a block's data, in bytes (1.8).
pub(crate) const ALIGNMENT: u64 = 4096;

/// First bytes of a footer.
pub(crate) const FOOTER_COOKIE: [u8; 8] = *b"conectix";
/// First bytes of a dynamic header.
pub(crate) const HEADER_COOKIE: [u8; 8] = *b"cxsparse";
/// First bytes of XenServer's batmap header (1.10).
pub(crate) const BATMAP_COOKIE: [u8; 8] = *b"tdbatmap";

/// Features: this bit is always set (1.2).
pub(crate) const FEATURE_RESERVED: u32 = 2;
/// Features: a temporary disk.
pub(crate) const FEATURE_TEMPORARY: u32 = 1;
/// File format and header version: major in the upper 16 bits (1.2, 1.6).
pub(crate) const VERSION: u32 = 0x0001_0000;
/// "Nothing there" in a 64-bit offset.
pub(crate) const NO_OFFSET: u64 = u64::MAX;
/// The same as the specification's text has it, in 32 bits (V-7).
pub(crate) const NO_OFFSET_SHORT: u64 = 0xFFFF_FFFF;
/// A BAT entry without a block.
pub(crate) const UNALLOCATED: u32 = 0xFFFF_FFFF;
/// The highest sector at which a block can start (1.9).
pub(crate) const LAST_SECTOR: u32 = 0xFFFF_FFFE;
/// Largest virtual size in bytes of a dynamic disk: 2040 GiB (1.9).
pub(crate) const LARGEST_DISK: u64 = 2040 << 30;
/// Seconds from 1970 to 2000, where VHD's clock starts (1.1).
pub(crate) const EPOCH_2000: u64 = 946_684_800;

/// Where created images have their dynamic header (1.6).
pub(crate) const HEADER_AT: u64 = 512;
/// Where created images have their BAT (1.6).
pub(crate) const TABLE_AT: u64 = 0x600;
/// Block size in bytes that creation chooses (1.6).
pub(crate) const DEFAULT_BLOCK: u32 = 0x0020_0000;

/// Disk type numbers (1.2).
pub(crate) const TYPE_FIXED: u32 = 2;
/// Blocks on demand.
pub(crate) const TYPE_DYNAMIC: u32 = 3;
/// Blocks over a parent.
pub(crate) const TYPE_DIFFERENCING: u32 = 4;

/// Parent locator platforms (1.7): the relative and the absolute Windows path in UTF-16.
pub(crate) const PLATFORM_W2RU: u32 = u32::from_be_bytes(*b"W2ru");
/// Absolute.
pub(crate) const PLATFORM_W2KU: u32 = u32::from_be_bytes(*b"W2ku");
/// The same in bytes, deprecated: relative.
pub(crate) const PLATFORM_WI2R: u32 = u32::from_be_bytes(*b"Wi2r");
/// Absolute.
pub(crate) const PLATFORM_WI2K: u32 = u32::from_be_bytes(*b"Wi2k");
/// A file URL in UTF-8.
pub(crate) const PLATFORM_MACX: u32 = u32::from_be_bytes(*b"MacX");
/// Platform: an alias of Mac OS, which is not understood.
pub(crate) const PLATFORM_MAC: u32 = u32::from_be_bytes(*b"Mac ");

/// Where created differencing images have the data of their `W2ku` locator (1.7).
pub(crate) const ABSOLUTE_PATH_AT: u64 = 0x1000;
/// Bytes that its data take, and the boundary on which what is behind it begins.
pub(crate) const ABSOLUTE_PATH_SPACE: u64 = 4096;
/// Bytes that the data of their `W2ru` locator take, behind the BAT.
pub(crate) const RELATIVE_PATH_SPACE: u64 = 64 << 10;

/// Creator application, version and host that creation writes (1.4): current size counts.
pub(crate) const CREATOR_APPLICATION: [u8; 4] = *b"win ";
/// Windows 10.
pub(crate) const CREATOR_VERSION: u32 = 0x000A_0000;
/// Windows.
pub(crate) const CREATOR_HOST: [u8; 4] = *b"Wi2k";

/// The footer (1.2): the file's last 512 bytes, and a copy at 0 for dynamic disks.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawFooter {
    /// `conectix`.
    pub(crate) cookie: [u8; 8],
    /// Bit 1 set; bit 0 for temporary disks.
    pub(crate) features: U32,
    /// Major and minor, 16 bits each.
    pub(crate) version: U32,
    /// File offset of the dynamic header in bytes; all ones for a fixed disk.
    pub(crate) data_offset: U64,
    /// Creation time, seconds since 2000.
    pub(crate) time_stamp: U32,
    /// Who wrote it (1.4).
    pub(crate) creator_application: [u8; 4],
    /// Its version, major and minor.
    pub(crate) creator_version: U32,
    /// Its operating system.
    pub(crate) creator_host: [u8; 4],
    /// Bytes at creation.
    pub(crate) original_size: U64,
    /// Bytes now.
    pub(crate) current_size: U64,
    /// Geometry (1.5).
    pub(crate) cylinders: U16,
    /// Geometry.
    pub(crate) heads: u8,
    /// Geometry.
    pub(crate) sectors_per_track: u8,
    /// 2 fixed, 3 dynamic, 4 differencing.
    pub(crate) disk_type: U32,
    /// Of the 512 bytes with this field as 0 (1.3).
    pub(crate) checksum: U32,
    /// Opaque 16 bytes.
    pub(crate) unique_id: [u8; 16],
    /// 1: belongs to a suspended machine.
    pub(crate) saved_state: u8,
    /// Zeros; XenServer uses the first as "hidden".
    pub(crate) reserved: [u8; 427],
}

/// The dynamic header (1.6).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawHeader {
    /// `cxsparse`.
    pub(crate) cookie: [u8; 8],
    /// Unused, all ones.
    pub(crate) data_offset: U64,
    /// File offset of the BAT in bytes.
    pub(crate) table_offset: U64,
    /// Major and minor.
    pub(crate) version: U32,
    /// Entries of the BAT.
    pub(crate) max_table_entries: U32,
    /// Bytes of a block's data, a power of two.
    pub(crate) block_size: U32,
    /// Of the 1024 bytes with this field as 0 (1.3).
    pub(crate) checksum: U32,
    /// Differencing: the parent's unique id.
    pub(crate) parent_id: [u8; 16],
    /// Differencing: advice only (V-14).
    pub(crate) parent_time_stamp: U32,
    /// 0.
    pub(crate) reserved: U32,
    /// UTF-16BE, zero padded.
    pub(crate) parent_name: [u8; 512],
    /// Eight slots (1.7).
    pub(crate) locators: [RawLocator; 8],
    /// 0.
    pub(crate) reserved_end: [u8; 256],
}

/// A parent locator entry (1.7).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawLocator {
    /// 0 for an unused slot.
    pub(crate) platform_code: U32,
    /// Space taken: sectors by the specification, bytes by its writers (V-17).
    pub(crate) data_space: U32,
    /// Bytes used.
    pub(crate) data_length: U32,
    /// 0.
    pub(crate) reserved: U32,
    /// File offset in bytes.
    pub(crate) data_offset: U64,
}

/// XenServer's batmap header, on the sector after the BAT (1.10).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawBatmap {
    /// `tdbatmap`.
    pub(crate) cookie: [u8; 8],
    /// File offset of the map in bytes.
    pub(crate) offset: U64,
    /// Its size in sectors.
    pub(crate) size_sectors: U32,
}

/// Where the eight locator entries stand in a header.
pub(crate) const LOCATORS_AT: u64 = 576;
/// Bytes of a locator entry.
pub(crate) const LOCATOR: u64 = 24;
/// Where the checksum field of a footer stands.
pub(crate) const FOOTER_CHECKSUM_AT: usize = 64;
/// Where the checksum field of a header stands.
pub(crate) const HEADER_CHECKSUM_AT: usize = 36;
/// Where XenServer's "hidden" byte stands in a footer (1.10).
pub(crate) const HIDDEN_AT: usize = 85;

const _: () = assert!(size_of::<RawFooter>() == 512);
const _: () = assert!(size_of::<RawHeader>() == 1024);
const _: () = assert!(size_of::<RawLocator>() == 24);
const _: () = assert!(std::mem::offset_of!(RawFooter, checksum) == FOOTER_CHECKSUM_AT);
const _: () = assert!(std::mem::offset_of!(RawFooter, reserved) == HIDDEN_AT);
const _: () = assert!(std::mem::offset_of!(RawHeader, checksum) == HEADER_CHECKSUM_AT);
const _: () = assert!(std::mem::offset_of!(RawHeader, locators) == 576);

/// The checksum of 1.3: the complement of the sum of all bytes, with the four of the field at
/// `field` taken as 0.
pub(crate) fn checksum(bytes: &[u8], field: usize) -> u32 {
    let sum = |part: &[u8]| {
        part.iter()
            .fold(0_u32, |sum, &byte| sum.wrapping_add(byte.into()))
    };
    let without = bytes.get(field..field.saturating_add(4)).map_or(0, sum);
    !sum(bytes).wrapping_sub(without)
}

/// `value` rounded up to a multiple of `unit`, or `None` past 2^64.
pub(crate) fn round_up(value: u64, unit: u64) -> Option<u64> {
    value.checked_next_multiple_of(unit)
}
