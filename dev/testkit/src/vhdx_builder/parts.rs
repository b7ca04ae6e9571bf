//! Headers, region tables, metadata and parent locators.
//!
//! Every field can be set; what says `None` is the right value.

use super::{LOCATOR_TYPE, MIB, seal, utf16};

/// A header.
#[derive(Clone, Debug)]
pub struct Header {
    /// `head`.
    pub signature: [u8; 4],
    /// `None` for the right one.
    pub checksum: Option<u32>,
    /// The larger one counts.
    pub sequence: u64,
    /// Changes with the file.
    pub file_write_guid: [u8; 16],
    /// Changes with the data.
    pub data_write_guid: [u8; 16],
    /// Zeros for nothing to replay.
    pub log_guid: [u8; 16],
    /// 0.
    pub log_version: u16,
    /// 1.
    pub version: u16,
    /// Multiple of 1 MiB.
    pub log_length: u32,
    /// Multiple of 1 MiB.
    pub log_offset: u64,
    /// Zeros follow.
    pub reserved: Vec<u8>,
}

impl Header {
    /// A clean header with this sequence number and a log of 1 MiB at 1 MiB.
    #[must_use]
    pub fn new(sequence: u64) -> Self {
        Self {
            signature: *b"head",
            checksum: None,
            sequence,
            file_write_guid: *b"file write guid.",
            data_write_guid: *b"data write guid.",
            log_guid: [0; 16],
            log_version: 0,
            version: 1,
            log_length: 1 << 20,
            log_offset: MIB,
            reserved: Vec::new(),
        }
    }

    /// The 4096 bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.signature.to_vec();
        bytes.extend([0; 4]);
        bytes.extend(self.sequence.to_le_bytes());
        bytes.extend(self.file_write_guid);
        bytes.extend(self.data_write_guid);
        bytes.extend(self.log_guid);
        bytes.extend(self.log_version.to_le_bytes());
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(self.log_length.to_le_bytes());
        bytes.extend(self.log_offset.to_le_bytes());
        bytes.extend(&self.reserved);
        bytes.resize(4096, 0);
        seal(&mut bytes, self.checksum);
        bytes
    }
}

/// An entry of a region table.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    /// Which region.
    pub guid: [u8; 16],
    /// Multiple of 1 MiB.
    pub offset: u64,
    /// Multiple of 1 MiB.
    pub length: u32,
    /// 1 for required.
    pub flags: u32,
}

/// A region table.
#[derive(Clone, Debug)]
pub struct RegionTable {
    /// `regi`.
    pub signature: [u8; 4],
    /// `None` for the right one.
    pub checksum: Option<u32>,
    /// `None` for the right one.
    pub count: Option<u32>,
    /// 0.
    pub reserved: u32,
    /// At most 2047.
    pub regions: Vec<Region>,
}

impl RegionTable {
    /// The 64 KiB.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.signature.to_vec();
        bytes.extend([0; 4]);
        let count = self.count.unwrap_or(self.regions.len() as u32);
        bytes.extend(count.to_le_bytes());
        bytes.extend(self.reserved.to_le_bytes());
        for region in &self.regions {
            bytes.extend(region.guid);
            bytes.extend(region.offset.to_le_bytes());
            bytes.extend(region.length.to_le_bytes());
            bytes.extend(region.flags.to_le_bytes());
        }
        bytes.resize(64 << 10, 0);
        seal(&mut bytes, self.checksum);
        bytes
    }
}

/// A metadata item.
#[derive(Clone, Debug)]
pub struct Item {
    /// Which item.
    pub guid: [u8; 16],
    /// From the region's start; `None` for behind the one before.
    pub offset: Option<u32>,
    /// `None` for the right one.
    pub length: Option<u32>,
    /// 1 user, 2 virtual disk, 4 required.
    pub flags: u32,
    /// 0.
    pub reserved: u32,
    /// The content.
    pub data: Vec<u8>,
}

impl Item {
    /// An item in its place.
    #[must_use]
    pub fn new(guid: [u8; 16], flags: u32, data: &[u8]) -> Self {
        Self {
            guid,
            offset: None,
            length: None,
            flags,
            reserved: 0,
            data: data.to_vec(),
        }
    }
}

/// The metadata region.
#[derive(Clone, Debug)]
pub struct Metadata {
    /// `metadata`.
    pub signature: [u8; 8],
    /// 0.
    pub reserved: u16,
    /// `None` for the right one.
    pub count: Option<u16>,
    /// Zeros.
    pub reserved_end: [u8; 20],
    /// In the order of the file.
    pub items: Vec<Item>,
}

impl Metadata {
    /// The region's bytes, as far as there are any.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut table = self.signature.to_vec();
        table.extend(self.reserved.to_le_bytes());
        let count = self.count.unwrap_or(self.items.len() as u16);
        table.extend(count.to_le_bytes());
        table.extend(self.reserved_end);
        let (mut content, mut next) = (Vec::<u8>::new(), 0x1_0000);
        for item in &self.items {
            let length = item.data.len() as u32;
            let offset = match item.offset {
                Some(offset) => offset,
                None if length == 0 => 0,
                None => next,
            };
            next += length;
            content.extend(&item.data);
            table.extend(item.guid);
            table.extend(offset.to_le_bytes());
            table.extend(item.length.unwrap_or(length).to_le_bytes());
            table.extend(item.flags.to_le_bytes());
            table.extend(item.reserved.to_le_bytes());
        }
        table.resize(64 << 10, 0);
        table.extend(content);
        table
    }

    /// An item, to change it.
    ///
    /// # Panics
    /// If there is none with that GUID.
    #[allow(clippy::panic)]
    pub fn item(&mut self, guid: [u8; 16]) -> &mut Item {
        match self.items.iter_mut().find(|item| item.guid == guid) {
            Some(item) => item,
            None => panic!("the image has no item {guid:02x?}"),
        }
    }
}

/// The parent locator item with these pairs, texts behind each other.
#[must_use]
pub fn locator(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = LOCATOR_TYPE.to_vec();
    bytes.extend([0; 2]);
    bytes.extend((pairs.len() as u16).to_le_bytes());
    let (start, mut texts) = (20 + 12 * pairs.len(), Vec::new());
    for (key, value) in pairs {
        let (key, value) = (utf16(key), utf16(value));
        let at = start + texts.len();
        bytes.extend((at as u32).to_le_bytes());
        bytes.extend(((at + key.len()) as u32).to_le_bytes());
        bytes.extend((key.len() as u16).to_le_bytes());
        bytes.extend((value.len() as u16).to_le_bytes());
        texts.extend(key);
        texts.extend(value);
    }
    bytes.extend(texts);
    bytes
}
