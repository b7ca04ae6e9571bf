//! VHDX images built field by field, damaged ones too, with logs.
//!
//! Independent of the format crate on purpose: byte order, offsets and checksums are written down
//! here a second time, from the formats sheet (section 2), so that a mistake in one place does not
//! hide in the other. Every field of every structure can be set to anything; checksums are right
//! unless a test says otherwise. Where nothing is said, a file is laid out as Windows does it: log
//! at 1 MiB, metadata at 2 MiB, table at 3 MiB, blocks behind.
//!
//! Sizes and offsets are bytes. GUIDs are the 16 bytes that stand in the file.

mod fields;
mod log;
mod parts;

pub use fields::*;
pub use log::{Descriptor, LogEntry};
pub use parts::{Header, Item, Metadata, Region, RegionTable, locator};

use crate::pages::Pages;

/// Unit of everything behind the header section.
pub const MIB: u64 = 1 << 20;
/// Where the two headers stand.
pub const HEADERS_AT: [u64; 2] = [64 << 10, 128 << 10];
/// Where the two region tables stand.
pub const TABLES_AT: [u64; 2] = [192 << 10, 256 << 10];
/// Bytes of a log sector, and of what a data descriptor changes.
pub const SECTOR: u64 = 4096;

/// Region: block allocation table.
pub const BAT_REGION: [u8; 16] = hex("6677C22D23F600429D64115E9BFD4A08");
/// Region: metadata.
pub const METADATA_REGION: [u8; 16] = hex("06A27C8B90479A4BB8FE575F050F886E");
/// Item: file parameters.
pub const FILE_PARAMETERS: [u8; 16] = hex("3767A1CA36FA434DB3B633F0AA44E76B");
/// Item: virtual disk size.
pub const VIRTUAL_SIZE: [u8; 16] = hex("2442A52F1BCD7648B2115DBED83BF4B8");
/// Item: virtual disk id.
pub const DISK_ID: [u8; 16] = hex("AB12CABEE6B2234593EFC309E000C746");
/// Item: logical sector size.
pub const LOGICAL_SECTOR: [u8; 16] = hex("1DBF41816FA90947BA47F233A8FAAB5F");
/// Item: physical sector size.
pub const PHYSICAL_SECTOR: [u8; 16] = hex("C748A3CD5D4471449CC9E9885251C556");
/// Item: parent locator.
pub const PARENT_LOCATOR: [u8; 16] = hex("2D5FD3A80BB34D45ABF7D3D84834AB0C");
/// Item of Microsoft's own implementation: creation did not end.
pub const INCOMPLETE_FILE: [u8; 16] = hex("F085CC71691B284E9558C3BF83AE75D3");
/// Type of a parent locator.
pub const LOCATOR_TYPE: [u8; 16] = hex("B7EF4AB09ED1814AB78925B8E9445913");

/// A GUID from the hexadecimal digits of its bytes in the file.
#[must_use]
pub const fn hex(digits: &str) -> [u8; 16] {
    let digits = digits.as_bytes();
    let mut bytes = [0; 16];
    let mut index = 0;
    while index < 32 {
        let digit = match digits[index] {
            digit @ b'0'..=b'9' => digit - b'0',
            digit => digit - b'A' + 10,
        };
        bytes[index / 2] = bytes[index / 2] << 4 | digit;
        index += 1;
    }
    bytes
}

/// CRC-32C, by the bit.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    let by_table = |sum: u32, &byte: &u8| sum >> 8 ^ CRC[(sum as u8 ^ byte) as usize];
    !bytes.iter().fold(u32::MAX, by_table)
}

const CRC: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut sum = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            sum = sum >> 1 ^ if sum & 1 == 1 { 0x82F6_3B78 } else { 0 };
            bit += 1;
        }
        table[byte] = sum;
        byte += 1;
    }
    table
};

/// Puts the right checksum into a header, a region table or a log entry.
pub fn reseal(bytes: &mut [u8]) {
    bytes[4..8].fill(0);
    let sum = crc32c(bytes);
    bytes[4..8].copy_from_slice(&sum.to_le_bytes());
}

fn seal(bytes: &mut [u8], wanted: Option<u32>) {
    reseal(bytes);
    if let Some(sum) = wanted {
        bytes[4..8].copy_from_slice(&sum.to_le_bytes());
    }
}

/// Bytes of a text in UTF-16LE.
#[must_use]
pub fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// An image to be. Change any field, then [`VhdxBuilder::build`].
#[derive(Clone, Debug)]
pub struct VhdxBuilder {
    /// `vhdxfile`.
    pub signature: [u8; 8],
    /// UTF-16LE.
    pub creator: Vec<u8>,
    /// Both headers.
    pub headers: [Header; 2],
    /// Both region tables.
    pub tables: [RegionTable; 2],
    /// The metadata.
    pub metadata: Metadata,
    /// Where they are written.
    pub metadata_at: u64,
    /// The table as it is written, however long.
    pub bat: Vec<u64>,
    /// Where it is written.
    pub bat_at: u64,
    /// What is written behind the table: offset and bytes.
    pub blocks: Vec<(u64, Vec<u8>)>,
    /// What is written into the log: offset in the log, and bytes, around its end.
    pub log: Vec<(u64, Vec<u8>)>,
    /// Bytes put over the finished file.
    pub patches: Vec<(u64, Vec<u8>)>,
    /// The length to which the finished file is set.
    pub len: Option<u64>,
    block_size: u64,
    ratio: u64,
    next: u64,
}

impl VhdxBuilder {
    /// An empty disk with flags in its file parameters: 0 dynamic, 1 fixed, 2 differencing.
    #[must_use]
    pub fn new(flags: u32, size: u64, block_size: u32, sector: u32) -> Self {
        let block = u64::from(block_size);
        let ratio = ((u64::from(sector) << 23) / block.max(1)).max(1);
        let blocks = size.div_ceil(block.max(1));
        let entries = if flags & 2 == 0 {
            blocks + blocks.saturating_sub(1) / ratio
        } else {
            blocks.div_ceil(ratio) * (ratio + 1)
        };
        let bat_length = (entries * 8).next_multiple_of(MIB).max(MIB);
        let table = RegionTable {
            signature: *b"regi",
            checksum: None,
            count: None,
            reserved: 0,
            regions: vec![
                Region {
                    guid: BAT_REGION,
                    offset: 3 * MIB,
                    length: bat_length as u32,
                    flags: 1,
                },
                Region {
                    guid: METADATA_REGION,
                    offset: 2 * MIB,
                    length: 1 << 20,
                    flags: 1,
                },
            ],
        };
        let parameters = [block_size.to_le_bytes(), flags.to_le_bytes()].concat();
        let mut items = vec![
            Item::new(FILE_PARAMETERS, 4, &parameters),
            Item::new(VIRTUAL_SIZE, 6, &size.to_le_bytes()),
            Item::new(LOGICAL_SECTOR, 6, &sector.to_le_bytes()),
            Item::new(PHYSICAL_SECTOR, 6, &4096_u32.to_le_bytes()),
            Item::new(DISK_ID, 6, b"virtual disk id."),
        ];
        if flags & 2 != 0 {
            let pairs = [
                ("parent_linkage", "{f88d4d92-6fcc-408d-9bef-9b7c89f15c89}"),
                ("absolute_win32_path", r"C:\vm\parent.vhdx"),
                ("relative_path", r".\parent.vhdx"),
            ];
            items.push(Item::new(PARENT_LOCATOR, 4, &locator(&pairs)));
        }
        Self {
            signature: *b"vhdxfile",
            creator: utf16("Microsoft Windows 10.0.19041.0"),
            headers: [Header::new(6), Header::new(7)],
            tables: [table.clone(), table],
            metadata: Metadata {
                signature: *b"metadata",
                reserved: 0,
                count: None,
                reserved_end: [0; 20],
                items,
            },
            metadata_at: 2 * MIB,
            bat: vec![0; entries.min(1 << 27) as usize],
            bat_at: 3 * MIB,
            blocks: Vec::new(),
            log: Vec::new(),
            patches: Vec::new(),
            len: None,
            block_size: block,
            ratio,
            next: 3 * MIB + bat_length,
        }
    }

    /// An empty dynamic disk with 512-byte sectors.
    #[must_use]
    pub fn dynamic(size: u64, block_size: u32) -> Self {
        Self::new(0, size, block_size, 512)
    }

    /// An empty differencing disk with 512-byte sectors.
    #[must_use]
    pub fn differencing(size: u64, block_size: u32) -> Self {
        Self::new(2, size, block_size, 512)
    }

    /// The place of a block's entry in the table.
    #[must_use]
    pub fn index(&self, block: u64) -> usize {
        (block + block / self.ratio) as usize
    }

    /// The place in the table of the entry of a chunk's bitmap.
    #[must_use]
    pub fn bitmap_index(&self, chunk: u64) -> usize {
        (chunk * (self.ratio + 1) + self.ratio) as usize
    }

    /// Where in the file a block's entry is.
    #[must_use]
    pub fn entry_at(&self, block: u64) -> u64 {
        self.bat_at + self.index(block) as u64 * 8
    }

    /// Blocks that a bitmap is about.
    #[must_use]
    pub fn ratio(&self) -> u64 {
        self.ratio
    }

    /// The end of what has a place so far.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.next
    }

    /// Sets a block's entry.
    pub fn set(&mut self, block: u64, state: u64, offset: u64) {
        let index = self.index(block);
        self.bat[index] = offset | state;
    }

    /// Takes space behind everything.
    pub fn take(&mut self, len: u64) -> u64 {
        let at = self.next;
        self.next += len.next_multiple_of(MIB);
        at
    }

    /// A fully present block behind everything; answers where it is.
    pub fn block(&mut self, block: u64, data: &[u8]) -> u64 {
        self.block_in_state(block, 6, data)
    }

    /// A block in any state behind everything; answers where it is.
    pub fn block_in_state(&mut self, block: u64, state: u64, data: &[u8]) -> u64 {
        let at = self.take(self.block_size);
        self.set(block, state, at);
        self.blocks.push((at, data.to_vec()));
        at
    }

    /// The bitmap of a chunk behind everything; answers where it is.
    pub fn bitmap(&mut self, chunk: u64, bits: &[u8]) -> u64 {
        let at = self.take(MIB);
        let index = self.bitmap_index(chunk);
        self.bat[index] = at | 6;
        self.blocks.push((at, bits.to_vec()));
        at
    }

    /// Both headers name this log.
    pub fn dirty(&mut self, log_guid: [u8; 16]) {
        for header in &mut self.headers {
            header.log_guid = log_guid;
        }
    }

    /// Puts an entry into the log; answers where the next one goes.
    pub fn log_entry(&mut self, at: u64, entry: &LogEntry) -> u64 {
        let bytes = entry.bytes();
        let next = (at + bytes.len() as u64) % u64::from(self.headers[0].log_length);
        self.log.push((at, bytes));
        next
    }

    /// The file.
    #[must_use]
    pub fn build(&self) -> Pages {
        let mut file = Pages::default();
        file.set_len(self.next);
        file.write(&self.signature, 0);
        file.write(&self.creator, 8);
        for place in [0, 1] {
            file.write(&self.headers[place].bytes(), HEADERS_AT[place]);
            file.write(&self.tables[place].bytes(), TABLES_AT[place]);
        }
        file.write(&self.metadata.bytes(), self.metadata_at);
        for (page, entries) in (0_u64..).zip(self.bat.chunks(512)) {
            if entries.iter().any(|&entry| entry != 0) {
                let bytes: Vec<u8> = entries.iter().flat_map(|one| one.to_le_bytes()).collect();
                file.write(&bytes, self.bat_at + page * 4096);
            }
        }
        for (at, bytes) in &self.blocks {
            file.write(bytes, *at);
        }
        let [header, _] = &self.headers;
        let log_length = u64::from(header.log_length);
        for (at, bytes) in &self.log {
            for (sector, within) in bytes.chunks(4096).zip((*at..).step_by(4096)) {
                file.write(sector, header.log_offset + within % log_length);
            }
        }
        for (at, bytes) in &self.patches {
            file.write(bytes, *at);
        }
        if let Some(len) = self.len {
            file.set_len(len);
        }
        file
    }
}
