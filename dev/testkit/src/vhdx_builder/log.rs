//! Log entries, whole ones and others.
//!
//! Every field can be set; what says `None` is the right value.

use super::seal;

/// What a log entry does.
#[derive(Clone, Debug)]
pub enum Descriptor {
    /// 4096 bytes at an offset of the file.
    Data {
        /// In the file.
        offset: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Zeros in the file.
    Zero {
        /// In the file.
        offset: u64,
        /// How many.
        length: u64,
    },
}

/// A log entry.
#[derive(Clone, Debug)]
pub struct LogEntry {
    /// `loge`.
    pub signature: [u8; 4],
    /// `None` for the right one.
    pub checksum: Option<u32>,
    /// `None` for the right one.
    pub length: Option<u32>,
    /// Where in the log the oldest entry that is needed stands.
    pub tail: u32,
    /// More than 0.
    pub sequence: u64,
    /// `None` for the right one.
    pub count: Option<u32>,
    /// 0.
    pub reserved: u32,
    /// That of the header.
    pub log_guid: [u8; 16],
    /// Length of the file that is durable.
    pub flushed: u64,
    /// Length of the file that holds everything.
    pub last: u64,
    /// What is done.
    pub descriptors: Vec<Descriptor>,
    /// In descriptors; `None` for the right one.
    pub descriptor_sequence: Option<u64>,
    /// In data sectors; `None` for the right one.
    pub data_sequence: Option<u64>,
}

impl LogEntry {
    /// An entry whose tail is at `tail`, of a file of that length.
    #[must_use]
    pub fn new(log_guid: [u8; 16], sequence: u64, tail: u32, len: u64) -> Self {
        Self {
            signature: *b"loge",
            checksum: None,
            length: None,
            tail,
            sequence,
            count: None,
            reserved: 0,
            log_guid,
            flushed: len,
            last: len,
            descriptors: Vec::new(),
            descriptor_sequence: None,
            data_sequence: None,
        }
    }

    /// The same entry that also writes 4096 bytes.
    #[must_use]
    pub fn data(mut self, offset: u64, bytes: &[u8]) -> Self {
        let bytes = bytes.to_vec();
        self.descriptors.push(Descriptor::Data { offset, bytes });
        self
    }

    /// The same entry that also zeroes a range.
    #[must_use]
    pub fn zero(mut self, offset: u64, length: u64) -> Self {
        self.descriptors.push(Descriptor::Zero { offset, length });
        self
    }

    /// The entry.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.signature.to_vec();
        bytes.extend([0; 8]);
        bytes.extend(self.tail.to_le_bytes());
        bytes.extend(self.sequence.to_le_bytes());
        let count = self.count.unwrap_or(self.descriptors.len() as u32);
        bytes.extend(count.to_le_bytes());
        bytes.extend(self.reserved.to_le_bytes());
        bytes.extend(self.log_guid);
        bytes.extend(self.flushed.to_le_bytes());
        bytes.extend(self.last.to_le_bytes());
        let mut sectors: Vec<u8> = Vec::new();
        let sequence = self.data_sequence.unwrap_or(self.sequence);
        for descriptor in &self.descriptors {
            match descriptor {
                Descriptor::Data {
                    offset,
                    bytes: data,
                } => {
                    bytes.extend(b"desc");
                    bytes.extend(&data[4092..4096]);
                    bytes.extend(&data[..8]);
                    bytes.extend(offset.to_le_bytes());
                    sectors.extend(b"data");
                    sectors.extend(&sequence.to_le_bytes()[4..]);
                    sectors.extend(&data[8..4092]);
                    sectors.extend(&sequence.to_le_bytes()[..4]);
                }
                Descriptor::Zero { offset, length } => {
                    bytes.extend(b"zero");
                    bytes.extend([0; 4]);
                    bytes.extend(length.to_le_bytes());
                    bytes.extend(offset.to_le_bytes());
                }
            }
            let sequence = self.descriptor_sequence.unwrap_or(self.sequence);
            bytes.extend(sequence.to_le_bytes());
        }
        bytes.resize(bytes.len().next_multiple_of(4096), 0);
        bytes.extend(sectors);
        let length = self.length.unwrap_or(bytes.len() as u32);
        bytes[8..12].copy_from_slice(&length.to_le_bytes());
        seal(&mut bytes, self.checksum);
        bytes
    }
}
