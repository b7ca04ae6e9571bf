//! VHD images built field by field, damaged ones too.
//!
//! Independent of the format crate on purpose: byte order, offsets and checksums are written down
//! here a second time, from the formats sheet (section 1), so that a mistake in one place does not
//! hide in the other. Every field of footer, header, locators and table can be set to anything;
//! checksums are right unless a test says otherwise.
//!
//! Sizes and offsets are bytes.

use crate::pages::Pages;

/// Bytes of a sector and of a footer.
pub const SECTOR: u64 = 512;
/// A table entry without a block.
pub const UNALLOCATED: u32 = 0xFFFF_FFFF;
/// Where the footer's checksum stands.
pub const FOOTER_CHECKSUM_AT: usize = 64;
/// Where the header's checksum stands.
pub const HEADER_CHECKSUM_AT: usize = 36;

/// A field of a structure: name, offset in the structure, length.
pub type Field = (&'static str, usize, usize);

/// Every field of the footer.
pub const FOOTER_FIELDS: [Field; 19] = [
    ("cookie", 0, 8),
    ("features", 8, 4),
    ("version", 12, 4),
    ("data offset", 16, 8),
    ("time stamp", 24, 4),
    ("creator application", 28, 4),
    ("creator version", 32, 4),
    ("creator host", 36, 4),
    ("original size", 40, 8),
    ("current size", 48, 8),
    ("cylinders", 56, 2),
    ("heads", 58, 1),
    ("sectors per track", 59, 1),
    ("disk type", 60, 4),
    ("checksum", 64, 4),
    ("unique id", 68, 16),
    ("saved state", 84, 1),
    ("hidden", 85, 1),
    ("reserved", 86, 426),
];

/// Every field of the dynamic header; of the eight locators the first.
pub const HEADER_FIELDS: [Field; 18] = [
    ("cookie", 0, 8),
    ("data offset", 8, 8),
    ("table offset", 16, 8),
    ("header version", 24, 4),
    ("max table entries", 28, 4),
    ("block size", 32, 4),
    ("checksum", 36, 4),
    ("parent id", 40, 16),
    ("parent time stamp", 56, 4),
    ("reserved", 60, 4),
    ("parent name", 64, 512),
    ("locator platform code", 576, 4),
    ("locator data space", 580, 4),
    ("locator data length", 584, 4),
    ("locator reserved", 588, 4),
    ("locator data offset", 592, 8),
    ("other locators", 600, 168),
    ("reserved end", 768, 256),
];

/// The complement of the sum of all bytes, with the four at `field` taken as 0.
#[must_use]
pub fn checksum(bytes: &[u8], field: usize) -> u32 {
    let counts = |(index, _): &(usize, &u8)| !(field..field + 4).contains(index);
    let bytes = bytes.iter().enumerate().filter(counts);
    !bytes.fold(0_u32, |sum, (_, &byte)| sum.wrapping_add(u32::from(byte)))
}

/// Puts the right checksum into a footer or header.
pub fn reseal(bytes: &mut [u8], field: usize) {
    let sum = checksum(bytes, field);
    bytes[field..field + 4].copy_from_slice(&sum.to_be_bytes());
}

/// A footer.
#[derive(Clone, Debug)]
pub struct Footer {
    /// `conectix`.
    pub cookie: [u8; 8],
    /// 2.
    pub features: u32,
    /// 0x00010000.
    pub version: u32,
    /// Of the dynamic header, or all ones.
    pub data_offset: u64,
    /// Seconds since 2000.
    pub time_stamp: u32,
    /// Such as `win `.
    pub creator_application: [u8; 4],
    /// Major and minor.
    pub creator_version: u32,
    /// Such as `Wi2k`.
    pub creator_host: [u8; 4],
    /// At creation.
    pub original_size: u64,
    /// Now.
    pub current_size: u64,
    /// Geometry.
    pub cylinders: u16,
    /// Geometry.
    pub heads: u8,
    /// Geometry.
    pub sectors_per_track: u8,
    /// 2, 3 or 4.
    pub disk_type: u32,
    /// `None` for the right one.
    pub checksum: Option<u32>,
    /// Opaque.
    pub unique_id: [u8; 16],
    /// 0 or 1.
    pub saved_state: u8,
    /// Zeros.
    pub reserved: [u8; 427],
}

impl Footer {
    /// As Windows 10 writes it for a disk of 4 MiB; geometry is that of 4 MiB whatever the size.
    #[must_use]
    pub fn new(disk_type: u32, size: u64) -> Self {
        Self {
            cookie: *b"conectix",
            features: 2,
            version: 0x0001_0000,
            data_offset: if disk_type == 2 { u64::MAX } else { 512 },
            time_stamp: 0x2715_AB07,
            creator_application: *b"win ",
            creator_version: 0x000A_0000,
            creator_host: *b"Wi2k",
            original_size: size,
            current_size: size,
            cylinders: 120,
            heads: 4,
            sectors_per_track: 17,
            disk_type,
            checksum: None,
            unique_id: *b"0123456789abcdef",
            saved_state: 0,
            reserved: [0; 427],
        }
    }

    /// The 512 bytes.
    #[must_use]
    pub fn bytes(&self) -> [u8; 512] {
        let mut bytes = [0; 512];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &self.cookie);
        put(8, &self.features.to_be_bytes());
        put(12, &self.version.to_be_bytes());
        put(16, &self.data_offset.to_be_bytes());
        put(24, &self.time_stamp.to_be_bytes());
        put(28, &self.creator_application);
        put(32, &self.creator_version.to_be_bytes());
        put(36, &self.creator_host);
        put(40, &self.original_size.to_be_bytes());
        put(48, &self.current_size.to_be_bytes());
        put(56, &self.cylinders.to_be_bytes());
        put(58, &[self.heads, self.sectors_per_track]);
        put(60, &self.disk_type.to_be_bytes());
        put(68, &self.unique_id);
        put(84, &[self.saved_state]);
        put(85, &self.reserved);
        seal(&mut bytes, FOOTER_CHECKSUM_AT, self.checksum);
        bytes
    }
}

/// A parent locator slot.
#[derive(Clone, Copy, Debug, Default)]
pub struct Locator {
    /// Such as `W2ku`; 0 for an unused slot.
    pub platform_code: u32,
    /// Bytes or sectors (V-17).
    pub data_space: u32,
    /// Bytes used.
    pub data_length: u32,
    /// 0.
    pub reserved: u32,
    /// In the file.
    pub data_offset: u64,
}

/// A dynamic header.
#[derive(Clone, Debug)]
pub struct Header {
    /// `cxsparse`.
    pub cookie: [u8; 8],
    /// All ones.
    pub data_offset: u64,
    /// Of the table.
    pub table_offset: u64,
    /// 0x00010000.
    pub version: u32,
    /// Entries of the table as the header says.
    pub max_table_entries: u32,
    /// A power of two.
    pub block_size: u32,
    /// `None` for the right one.
    pub checksum: Option<u32>,
    /// Differencing only.
    pub parent_id: [u8; 16],
    /// Differencing only.
    pub parent_time_stamp: u32,
    /// 0.
    pub reserved: u32,
    /// UTF-16BE.
    pub parent_name: Vec<u8>,
    /// The eight slots.
    pub locators: [Locator; 8],
    /// Zeros.
    pub reserved_end: [u8; 256],
}

impl Header {
    /// The 1024 bytes.
    #[must_use]
    pub fn bytes(&self) -> [u8; 1024] {
        let mut bytes = [0; 1024];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &self.cookie);
        put(8, &self.data_offset.to_be_bytes());
        put(16, &self.table_offset.to_be_bytes());
        put(24, &self.version.to_be_bytes());
        put(28, &self.max_table_entries.to_be_bytes());
        put(32, &self.block_size.to_be_bytes());
        put(40, &self.parent_id);
        put(56, &self.parent_time_stamp.to_be_bytes());
        put(60, &self.reserved.to_be_bytes());
        put(64, &self.parent_name);
        for (index, locator) in self.locators.iter().enumerate() {
            let at = 576 + index * 24;
            put(at, &locator.platform_code.to_be_bytes());
            put(at + 4, &locator.data_space.to_be_bytes());
            put(at + 8, &locator.data_length.to_be_bytes());
            put(at + 12, &locator.reserved.to_be_bytes());
            put(at + 16, &locator.data_offset.to_be_bytes());
        }
        put(768, &self.reserved_end);
        seal(&mut bytes, HEADER_CHECKSUM_AT, self.checksum);
        bytes
    }
}

/// Where the table is written: where the header says, unless that is among the headers or in no
/// file.
fn table_place(header: &Header) -> u64 {
    match header.table_offset {
        place @ 0x600..0x100_0000_0000 => place,
        _ => 0x600,
    }
}

fn seal(bytes: &mut [u8], field: usize, wanted: Option<u32>) {
    reseal(bytes, field);
    if let Some(sum) = wanted {
        bytes[field..field + 4].copy_from_slice(&sum.to_be_bytes());
    }
}

/// A block in the file.
#[derive(Clone, Debug)]
pub struct Block {
    /// Where its bitmap starts.
    pub at: u64,
    /// The bitmap; shorter than its space means zeros behind.
    pub bitmap: Vec<u8>,
    /// The data; shorter than the block means zeros behind.
    pub data: Vec<u8>,
}

/// What a parent locator points at.
#[derive(Clone, Debug)]
pub struct LocatorData {
    /// Where it stands in the file.
    pub at: u64,
    /// Bytes that are its own.
    pub space: u64,
    /// The data; shorter than the space means zeros behind.
    pub data: Vec<u8>,
}

/// An image to be. Change any field, then [`VhdBuilder::build`].
#[derive(Clone, Debug)]
pub struct VhdBuilder {
    /// At the end of the file.
    pub footer: Footer,
    /// Whether there is one.
    pub write_footer: bool,
    /// Leave the footer's last byte out (V-5).
    pub short_footer: bool,
    /// At offset 0 of a dynamic disk; `None` for the same as the footer.
    pub copy: Option<Footer>,
    /// Whether there is one.
    pub write_copy: bool,
    /// Of a dynamic disk; `None` for a fixed one.
    pub header: Option<Header>,
    /// The table as it is written, however long.
    pub table: Vec<u32>,
    /// The byte that fills the table's last sector.
    pub table_padding: u8,
    /// The data of parent locators.
    pub locator_data: Vec<LocatorData>,
    /// What is written behind the table.
    pub blocks: Vec<Block>,
    /// A fixed disk's data.
    pub data: Vec<u8>,
    /// Where the footer stands; `None` for behind everything, as Windows places it.
    pub footer_at: Option<u64>,
    /// Bytes put over the finished file.
    pub patches: Vec<(u64, Vec<u8>)>,
    /// The length to which the finished file is cut.
    pub cut: Option<u64>,
}

impl VhdBuilder {
    /// A fixed disk with these data.
    #[must_use]
    pub fn fixed(data: &[u8]) -> Self {
        Self {
            footer: Footer::new(2, data.len() as u64),
            write_footer: true,
            short_footer: false,
            copy: None,
            write_copy: false,
            header: None,
            table: Vec::new(),
            table_padding: 0xFF,
            locator_data: Vec::new(),
            blocks: Vec::new(),
            data: data.to_vec(),
            footer_at: None,
            patches: Vec::new(),
            cut: None,
        }
    }

    /// An empty dynamic disk with its table at 0x600.
    ///
    /// # Panics
    /// If a block has 0 bytes, or the table more than 2^32 entries.
    #[must_use]
    #[allow(clippy::panic)]
    pub fn dynamic(size: u64, block_size: u32) -> Self {
        let Ok(entries) = u32::try_from(size.div_ceil(block_size.into())) else {
            panic!("no VHD has that many blocks");
        };
        let mut builder = Self::fixed(&[]);
        builder.footer = Footer::new(3, size);
        builder.write_copy = true;
        builder.table = vec![UNALLOCATED; entries as usize];
        builder.header = Some(Header {
            cookie: *b"cxsparse",
            data_offset: u64::MAX,
            table_offset: 0x600,
            version: 0x0001_0000,
            max_table_entries: entries,
            block_size,
            checksum: None,
            parent_id: [0; 16],
            parent_time_stamp: 0,
            reserved: 0,
            parent_name: Vec::new(),
            locators: [Locator::default(); 8],
            reserved_end: [0; 256],
        });
        builder
    }

    /// An empty differencing disk as Windows 10 lays it out: the parent is `C:\vm\parent.vhd`,
    /// and `.\parent.vhd` beside the child.
    ///
    /// # Panics
    /// As [`Self::dynamic`].
    #[must_use]
    pub fn differencing(size: u64, block_size: u32, parent_id: [u8; 16]) -> Self {
        let mut builder = Self::dynamic(size, block_size);
        builder.footer.disk_type = 4;
        builder.footer.unique_id = *b"child of a paren";
        let header = builder.header();
        header.table_offset = 0x2000;
        header.parent_id = parent_id;
        let absolute = "C:\\vm\\parent.vhd";
        header.parent_name = absolute.encode_utf16().flat_map(u16::to_be_bytes).collect();
        let little =
            |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };
        let table_end = 0x2000 + (builder.table.len() as u64 * 4).next_multiple_of(4096);
        builder.locator(0, *b"W2ku", (0x1000, 4096), &little(absolute));
        builder.locator(1, *b"W2ru", (table_end, 65536), &little(".\\parent.vhd"));
        builder
    }

    /// Sets a locator slot and writes its data: `place` is where they stand and the bytes that are
    /// theirs.
    ///
    /// # Panics
    /// If there is no such slot, or the disk is fixed.
    pub fn locator(&mut self, slot: usize, code: [u8; 4], place: (u64, u64), data: &[u8]) {
        self.header().locators[slot] = Locator {
            platform_code: u32::from_be_bytes(code),
            data_space: place.1 as u32,
            data_length: data.len() as u32,
            reserved: 0,
            data_offset: place.0,
        };
        self.locator_data.push(LocatorData {
            at: place.0,
            space: place.1,
            data: data.to_vec(),
        });
    }

    /// The header of a dynamic disk, to change it.
    ///
    /// # Panics
    /// If the disk is fixed.
    #[allow(clippy::panic)]
    pub fn header(&mut self) -> &mut Header {
        match &mut self.header {
            Some(header) => header,
            None => panic!("a fixed VHD has no header"),
        }
    }

    /// Bytes of a block's bitmap in the file.
    ///
    /// # Panics
    /// If the disk is fixed.
    #[must_use]
    pub fn bitmap_len(&self) -> u64 {
        let sectors = u64::from(self.block_size()) / SECTOR;
        sectors.div_ceil(8).next_multiple_of(SECTOR)
    }

    fn block_size(&self) -> u32 {
        self.header.as_ref().map_or(0, |header| header.block_size)
    }

    /// The end of what is in the file so far, without the footer.
    #[must_use]
    pub fn end(&self) -> u64 {
        let Some(header) = &self.header else {
            return self.data.len() as u64;
        };
        let table = table_place(header) + (self.table.len() as u64 * 4).next_multiple_of(SECTOR);
        let slot = self.bitmap_len() + u64::from(header.block_size);
        let blocks = self.blocks.iter().map(|block| block.at + slot);
        let locators = self.locator_data.iter().map(|data| data.at + data.space);
        blocks.chain(locators).fold(table, u64::max)
    }

    /// Where Windows puts the next bitmap, and the footer.
    #[must_use]
    pub fn next_place(&self) -> u64 {
        let bitmap = self.bitmap_len();
        self.end().next_multiple_of(4096) + bitmap.next_multiple_of(4096) - bitmap
    }

    /// Adds an allocated block with all bits set, where Windows would put it; answers where.
    ///
    /// # Panics
    /// If the disk has no such block.
    pub fn block(&mut self, number: u32, data: &[u8]) -> u64 {
        let bitmap = vec![0xFF; self.bitmap_len() as usize];
        self.block_with(number, data, bitmap)
    }

    /// The same with a bitmap.
    ///
    /// # Panics
    /// As [`Self::block`].
    pub fn block_with(&mut self, number: u32, data: &[u8], bitmap: Vec<u8>) -> u64 {
        let at = self.next_place();
        self.table[number as usize] = (at / SECTOR) as u32;
        self.blocks.push(Block {
            at,
            bitmap,
            data: data.to_vec(),
        });
        at
    }

    /// The file.
    #[must_use]
    pub fn build(&self) -> Pages {
        let mut file = Pages::default();
        file.write(&self.data, 0);
        if let Some(header) = &self.header {
            if self.write_copy {
                file.write(&self.copy.as_ref().unwrap_or(&self.footer).bytes(), 0);
            }
            file.write(&header.bytes(), 512);
            let mut table: Vec<u8> = self
                .table
                .iter()
                .flat_map(|entry| entry.to_be_bytes())
                .collect();
            table.resize(table.len().next_multiple_of(512), self.table_padding);
            file.write(&table, table_place(header));
            for locator in &self.locator_data {
                file.set_len(file.len().max(locator.at + locator.space));
                file.write(&locator.data, locator.at);
            }
            for block in &self.blocks {
                let data_at = block.at + self.bitmap_len();
                file.set_len(file.len().max(data_at + u64::from(header.block_size)));
                file.write(&block.bitmap, block.at);
                file.write(&block.data, data_at);
            }
        }
        if self.write_footer {
            let place = if self.header.is_some() {
                self.next_place()
            } else {
                self.end()
            };
            let bytes = self.footer.bytes();
            let len = if self.short_footer { 511 } else { 512 };
            file.write(&bytes[..len], self.footer_at.unwrap_or(place));
        }
        for (at, bytes) in &self.patches {
            file.write(bytes, *at);
        }
        if let Some(len) = self.cut {
            file.set_len(len);
        }
        file
    }
}
