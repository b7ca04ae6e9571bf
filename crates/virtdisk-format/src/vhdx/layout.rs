//! The byte map of VHDX: every structure, field, constant and unit, and nothing else.
//!
//! All integers are little-endian; the types here carry that. GUIDs stand in the file in their
//! mixed-endian form; [`guid`] and [`Uuid::to_bytes_le`] translate. Sections are those of the
//! formats sheet, which follows \[MS-VHDX\]. A value of these types is raw: it says what stands in
//! the file, not that it makes sense.

use uuid::Uuid;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Boundary and unit of everything behind the header section, in bytes (2.1).
pub(crate) const MIB: u64 = 1 << 20;
/// Bytes of a sector of the log, and of a piece of metadata that a descriptor carries (2.5).
pub(crate) const LOG_SECTOR: u64 = 4096;
/// Bytes of the file identifier's place (2.2).
pub(crate) const IDENTIFIER_AREA: u64 = 64 << 10;
/// Where the two headers stand (2.1).
pub(crate) const HEADERS_AT: [u64; 2] = [64 << 10, 128 << 10];
/// Where the two region tables stand (2.1).
pub(crate) const REGION_TABLES_AT: [u64; 2] = [192 << 10, 256 << 10];
/// Bytes of a region table; its checksum covers all of them (2.4).
pub(crate) const REGION_TABLE: u64 = 64 << 10;
/// First byte that a log entry may change.
pub(crate) const LOG_TARGETS_FROM: u64 = REGION_TABLES_AT[0];
/// End of the header section: nothing else lies before it (2.1).
pub(crate) const HEADER_SECTION: u64 = MIB;
/// Bytes of the metadata table at the start of its region (2.7).
pub(crate) const METADATA_TABLE: u64 = 64 << 10;

/// First bytes of a file.
pub(crate) const FILE_SIGNATURE: [u8; 8] = *b"vhdxfile";
/// First bytes of a header.
pub(crate) const HEADER_SIGNATURE: [u8; 4] = *b"head";
/// First bytes of a region table.
pub(crate) const REGION_SIGNATURE: [u8; 4] = *b"regi";
/// First bytes of the metadata table.
pub(crate) const METADATA_SIGNATURE: [u8; 8] = *b"metadata";
/// First bytes of a log entry.
pub(crate) const ENTRY_SIGNATURE: [u8; 4] = *b"loge";
/// First bytes of a data descriptor.
pub(crate) const DATA_DESCRIPTOR: [u8; 4] = *b"desc";
/// First bytes of a zero descriptor.
pub(crate) const ZERO_DESCRIPTOR: [u8; 4] = *b"zero";
/// First bytes of a data sector.
pub(crate) const DATA_SIGNATURE: [u8; 4] = *b"data";

/// Version of the format (2.3).
pub(crate) const VERSION: u16 = 1;
/// Version of the log's format (2.3).
pub(crate) const LOG_VERSION: u16 = 0;

/// Most entries of a region or metadata table (2.4, 2.7).
pub(crate) const MOST_ENTRIES: u16 = 2047;
/// Most bytes of a metadata item (2.7).
pub(crate) const LARGEST_ITEM: u32 = 1 << 20;
/// Most pairs of a parent locator (2.9, S-8).
pub(crate) const MOST_PAIRS: u16 = 256;
/// Largest log in bytes that is read (2.9, S-2).
pub(crate) const LARGEST_LOG: u64 = 1 << 30;
/// Largest metadata region in bytes that is accepted (2.9, S-2).
pub(crate) const LARGEST_METADATA: u64 = 128 << 20;
/// Largest virtual disk in bytes (2.9).
pub(crate) const LARGEST_DISK: u64 = 64 << 40;
/// Smallest and largest block in bytes (2.9).
pub(crate) const SMALLEST_BLOCK: u32 = 1 << 20;
/// Largest block in bytes.
pub(crate) const LARGEST_BLOCK: u32 = 256 << 20;
/// Largest file in bytes: what the offsets of BAT entries and logs can name.
pub(crate) const LARGEST_FILE: u64 = 1 << 63;

/// Region: the block allocation table (2.4).
pub(crate) const BAT_REGION: Uuid = Uuid::from_u128(0x2DC27766_F623_4200_9D64_115E9BFD4A08);
/// Region: the metadata.
pub(crate) const METADATA_REGION: Uuid = Uuid::from_u128(0x8B7CA206_4790_4B9A_B8FE_575F050F886E);
/// Region flag: whoever does not know the region must not open the file.
pub(crate) const REGION_REQUIRED: u32 = 1;

/// Item: block size and [`HAS_PARENT`], [`LEAVE_ALLOCATED`] (2.7).
pub(crate) const FILE_PARAMETERS: Uuid = Uuid::from_u128(0xCAA16737_FA36_4D43_B3B6_33F0AA44E76B);
/// Item: virtual disk size in bytes.
pub(crate) const VIRTUAL_SIZE: Uuid = Uuid::from_u128(0x2FA54224_CD1B_4876_B211_5DBED83BF4B8);
/// Item: virtual disk id, SCSI page 83.
pub(crate) const DISK_ID: Uuid = Uuid::from_u128(0xBECA12AB_B2E6_4523_93EF_C309E000C746);
/// Item: logical sector size in bytes.
pub(crate) const LOGICAL_SECTOR: Uuid = Uuid::from_u128(0x8141BF1D_A96F_4709_BA47_F233A8FAAB5F);
/// Item: physical sector size in bytes.
pub(crate) const PHYSICAL_SECTOR: Uuid = Uuid::from_u128(0xCDA348C7_445D_4471_9CC9_E9885251C556);
/// Item: parent locator (2.8).
pub(crate) const PARENT_LOCATOR: Uuid = Uuid::from_u128(0xA8D35F2D_B30B_454D_ABF7_D3D84834AB0C);
/// Item of Microsoft's own implementation: geometry.
pub(crate) const CHS_PARAMETERS: Uuid = Uuid::from_u128(0xDA02D7BC_3D3A_423C_AC88_2A36AB21479B);
/// Item of Microsoft's own implementation: the creation did not come to its end.
pub(crate) const INCOMPLETE_FILE: Uuid = Uuid::from_u128(0x71CC85F0_1B69_4E28_9558_C3BF83AE75D3);
/// Item of Microsoft's own implementation: NVDIMM labels.
pub(crate) const PMEM_LABELS: Uuid = Uuid::from_u128(0x10E1AE8A_4B7E_4169_A40F_CD70DE928393);
/// Type of a parent locator whose parent is a VHDX (2.8).
pub(crate) const LOCATOR_TYPE: Uuid = Uuid::from_u128(0xB04AEFB7_D19E_4A81_B789_25B8E9445913);

/// Item flag: not one of the format's own.
pub(crate) const ITEM_USER: u32 = 1;
/// Item flag: belongs to the virtual disk, and goes along to its children.
pub(crate) const ITEM_VIRTUAL_DISK: u32 = 2;
/// Item flag: whoever does not know the item must not open the file.
pub(crate) const ITEM_REQUIRED: u32 = 4;

/// File parameter: a fixed disk, whose blocks stay allocated.
pub(crate) const LEAVE_ALLOCATED: u32 = 1;
/// File parameter: a differencing disk.
pub(crate) const HAS_PARENT: u32 = 2;

/// Locator key: the parent's DataWriteGuid at link time (2.8).
pub(crate) const KEY_LINKAGE: &str = "parent_linkage";
/// Locator key: a second accepted DataWriteGuid.
pub(crate) const KEY_LINKAGE_2: &str = "parent_linkage2";
/// Locator key: path relative to the child's folder.
pub(crate) const KEY_RELATIVE: &str = "relative_path";
/// Locator key: path below a volume.
pub(crate) const KEY_VOLUME: &str = "volume_path";
/// Locator key: whole path.
pub(crate) const KEY_ABSOLUTE: &str = "absolute_win32_path";

/// Bytes of a BAT entry (2.6).
pub(crate) const BAT_ENTRY: u64 = 8;
/// BAT entry: bits of the state.
pub(crate) const STATE_BITS: u64 = 7;
/// BAT entry: bits that are 0.
pub(crate) const RESERVED_BITS: u64 = 0x000F_FFF8;
/// BAT entry: bits that are the file offset in bytes.
pub(crate) const OFFSET_BITS: u64 = !(MIB - 1);
/// State of a payload or bitmap block: no space (2.6).
pub(crate) const NOT_PRESENT: u64 = 0;
/// State of a payload block: any data.
pub(crate) const UNDEFINED: u64 = 1;
/// State of a payload block: zeros.
pub(crate) const ZERO: u64 = 2;
/// State of a payload block: trimmed; read as zeros.
pub(crate) const UNMAPPED: u64 = 3;
/// What UNMAPPED was in the draft 0.95.
pub(crate) const DRAFT_UNMAPPED: u64 = 5;
/// State of a payload or bitmap block: all of it is in the file.
pub(crate) const FULLY_PRESENT: u64 = 6;
/// State of a payload block: the sector bitmap says what is in the file.
pub(crate) const PARTIALLY_PRESENT: u64 = 7;
/// Bytes of a sector bitmap block.
pub(crate) const BITMAP_BLOCK: u64 = MIB;
/// Logical sectors that a sector bitmap block covers: a chunk (2.6).
pub(crate) const CHUNK_SECTORS: u64 = 1 << 23;

/// The file identifier (2.2); zeros follow it up to [`IDENTIFIER_AREA`].
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawIdentifier {
    /// `vhdxfile`.
    pub(crate) signature: [u8; 8],
    /// UTF-16LE, zero padded, may lack a terminator.
    pub(crate) creator: [u8; 512],
}

/// A header (2.3); its checksum covers all of it.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawHeader {
    /// `head`.
    pub(crate) signature: [u8; 4],
    /// CRC-32C of the 4096 bytes with this field as 0.
    pub(crate) checksum: U32,
    /// The larger of the two counts.
    pub(crate) sequence: U64,
    /// Changes with the file.
    pub(crate) file_write_guid: [u8; 16],
    /// Changes with what a guest can see.
    pub(crate) data_write_guid: [u8; 16],
    /// Zeros: nothing to replay.
    pub(crate) log_guid: [u8; 16],
    /// 0.
    pub(crate) log_version: U16,
    /// 1.
    pub(crate) version: U16,
    /// Bytes of the log, a multiple of 1 MiB.
    pub(crate) log_length: U32,
    /// File offset of the log in bytes, a multiple of 1 MiB.
    pub(crate) log_offset: U64,
    /// 0; preserved.
    pub(crate) reserved: [u8; 4016],
}

/// The start of a region table (2.4).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawRegionHeader {
    /// `regi`.
    pub(crate) signature: [u8; 4],
    /// CRC-32C of the 64 KiB with this field as 0.
    pub(crate) checksum: U32,
    /// Entries that follow.
    pub(crate) count: U32,
    /// 0.
    pub(crate) reserved: U32,
}

/// An entry of a region table (2.4).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawRegion {
    /// Which region.
    pub(crate) guid: [u8; 16],
    /// File offset in bytes, a multiple of 1 MiB.
    pub(crate) offset: U64,
    /// Bytes, a multiple of 1 MiB.
    pub(crate) length: U32,
    /// [`REGION_REQUIRED`].
    pub(crate) flags: U32,
}

/// The start of the metadata table (2.7).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawMetadataHeader {
    /// `metadata`.
    pub(crate) signature: [u8; 8],
    /// 0.
    pub(crate) reserved: U16,
    /// Entries that follow.
    pub(crate) count: U16,
    /// 0.
    pub(crate) reserved_end: [u8; 20],
}

/// An entry of the metadata table (2.7).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawItem {
    /// Which item.
    pub(crate) guid: [u8; 16],
    /// From the start of the region in bytes, at least 64 KiB; 0 where the length is.
    pub(crate) offset: U32,
    /// Bytes.
    pub(crate) length: U32,
    /// [`ITEM_USER`], [`ITEM_VIRTUAL_DISK`], [`ITEM_REQUIRED`].
    pub(crate) flags: U32,
    /// 0.
    pub(crate) reserved: U32,
}

/// The file parameters item (2.7).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawFileParameters {
    /// Bytes of a block.
    pub(crate) block_size: U32,
    /// [`LEAVE_ALLOCATED`], [`HAS_PARENT`].
    pub(crate) flags: U32,
}

/// The start of the parent locator item (2.8).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawLocator {
    /// [`LOCATOR_TYPE`].
    pub(crate) locator_type: [u8; 16],
    /// 0.
    pub(crate) reserved: U16,
    /// Pairs that follow.
    pub(crate) count: U16,
}

/// A pair of the parent locator (2.8). Offsets count from the start of the item, in bytes.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawPair {
    /// Of the key, UTF-16LE.
    pub(crate) key_offset: U32,
    /// Of the value, UTF-16LE.
    pub(crate) value_offset: U32,
    /// Bytes.
    pub(crate) key_length: U16,
    /// Bytes.
    pub(crate) value_length: U16,
}

/// The start of a log entry (2.5).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawEntry {
    /// `loge`.
    pub(crate) signature: [u8; 4],
    /// CRC-32C of the whole entry with this field as 0.
    pub(crate) checksum: U32,
    /// Bytes of the entry, a multiple of 4096.
    pub(crate) length: U32,
    /// Where in the log the oldest entry stands that is still needed, in bytes.
    pub(crate) tail: U32,
    /// One more than the entry before.
    pub(crate) sequence: U64,
    /// Descriptors that follow.
    pub(crate) count: U32,
    /// 0.
    pub(crate) reserved: U32,
    /// That of the header.
    pub(crate) log_guid: [u8; 16],
    /// Length of the file in bytes that was durable when the entry was written.
    pub(crate) flushed_file_offset: U64,
    /// Length of the file in bytes that holds all structures.
    pub(crate) last_file_offset: U64,
}

/// A descriptor of a log entry (2.5): a data descriptor, or a zero descriptor by its signature.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawDescriptor {
    /// `desc` or `zero`.
    pub(crate) signature: [u8; 4],
    /// `desc`: the last 4 of the 4096 bytes. `zero`: 0.
    pub(crate) trailing: [u8; 4],
    /// `desc`: the first 8 of the 4096 bytes. `zero`: bytes to zero, a multiple of 4096.
    pub(crate) leading: [u8; 8],
    /// Where in the file, in bytes, a multiple of 4096.
    pub(crate) file_offset: U64,
    /// That of the entry.
    pub(crate) sequence: U64,
}

/// A data sector of a log entry (2.5).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawDataSector {
    /// `data`.
    pub(crate) signature: [u8; 4],
    /// Upper half of the entry's sequence number.
    pub(crate) sequence_high: U32,
    /// Bytes 8 to 4092 of what belongs in the file.
    pub(crate) middle: [u8; 4084],
    /// Lower half of the entry's sequence number.
    pub(crate) sequence_low: U32,
}

/// Where the checksum stands in a header, a region table and a log entry.
pub(crate) const CHECKSUM_AT: usize = 4;

const _: () = assert!(size_of::<RawIdentifier>() == 520);
const _: () = assert!(size_of::<RawHeader>() == 4096);
const _: () = assert!(size_of::<RawRegionHeader>() == 16);
const _: () = assert!(size_of::<RawRegion>() == 32);
const _: () = assert!(size_of::<RawMetadataHeader>() == 32);
const _: () = assert!(size_of::<RawItem>() == 32);
const _: () = assert!(size_of::<RawFileParameters>() == 8);
const _: () = assert!(size_of::<RawLocator>() == 20);
const _: () = assert!(size_of::<RawPair>() == 12);
const _: () = assert!(size_of::<RawEntry>() == 64);
const _: () = assert!(size_of::<RawDescriptor>() == 32);
const _: () = assert!(size_of::<RawDataSector>() == 4096);
const _: () = assert!(std::mem::offset_of!(RawHeader, checksum) == CHECKSUM_AT);
const _: () = assert!(std::mem::offset_of!(RawHeader, log_offset) == 72);
const _: () = assert!(std::mem::offset_of!(RawRegionHeader, checksum) == CHECKSUM_AT);
const _: () = assert!(std::mem::offset_of!(RawEntry, checksum) == CHECKSUM_AT);
const _: () = assert!(std::mem::offset_of!(RawEntry, log_guid) == 32);

/// The GUID that stands in the file as these bytes.
pub(crate) fn guid(raw: [u8; 16]) -> Uuid {
    Uuid::from_bytes_le(raw)
}

/// The checksum of header, region table and log entry: CRC-32C of all bytes with the four at
/// [`CHECKSUM_AT`] taken as 0.
pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    let (before, rest) = bytes.split_at(bytes.len().min(CHECKSUM_AT));
    let after = rest.get(4..).unwrap_or_default();
    let sum = crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]);
    crc32c::crc32c_append(sum, after)
}
