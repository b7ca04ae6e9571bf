//! What the broker may ask a worker, and what a worker may answer.
//!
//! The words of the link in `packet`. A worker answers every question once, in order. File names
//! are for messages only; descriptors travel beside the packet.

use serde::{Deserialize, Serialize};
use virtdisk_disk::{Facts, Format, Kind};

/// A question to a worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Question {
    /// Open the image that comes along as the one descriptor.
    Open(Open),
    /// Write a new image into the empty file that comes along.
    Create(Create),
    /// The partition table of the open disk.
    Partitions,
    /// Serve the open disk on the FUSE connection that comes along as the first descriptor;
    /// the second is a listening packet socket on which a later broker finds this worker.
    Serve(Serve),
    /// Is the image still what was opened?
    Validate,
    /// Make all data durable.
    Flush,
    /// What changes while a disk is open: sizes, fragmentation, partitions' end.
    Physical,
    /// Stop, give slack back, make all durable; the worker ends after its answer.
    Close,
}

/// See [`Question::Open`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Open {
    /// For messages.
    pub name: String,
    /// File name extension, lower case, without the dot.
    pub extension: Option<String>,
    /// Only this format ("raw", "iso", "vhd"); `None` probes.
    pub format: Option<String>,
    /// Open for writing.
    pub writable: bool,
}

/// See [`Question::Create`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Create {
    /// For messages.
    pub name: String,
    /// "raw" or "vhd".
    pub format: String,
    /// True: all space allocated.
    pub fixed: bool,
    /// Fixed, but space is not reserved.
    pub sparse: bool,
    /// Bytes.
    pub virtual_size: u64,
    /// Bytes, 0 = default.
    pub block_size: u32,
    /// Unique id, nil = random.
    pub identifier: uuid::Uuid,
}

/// See [`Question::Serve`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Serve {
    /// First byte of the disk to show.
    pub offset: u64,
    /// Bytes to show.
    pub length: u64,
    /// Refuse writes.
    pub read_only: bool,
    /// Another worker served this connection before: have its requests sent again.
    pub resend: bool,
}

/// The facts of an open image, as they cross the link.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct ImageFacts {
    /// "raw", "iso", "vhd".
    pub format: String,
    /// "fixed", "dynamic", "differencing".
    pub kind: String,
    /// Provider subtype: 2, 3, 4.
    pub subtype: u32,
    /// Bytes a guest sees.
    pub virtual_size: u64,
    /// Bytes, 0 for fixed.
    pub block_size: u32,
    /// Bytes.
    pub sector_size: u32,
    /// Bytes.
    pub physical_sector_size: u32,
    /// Unique id, nil when the format has none.
    pub identifier: uuid::Uuid,
    /// The format forbids writing.
    pub read_only: bool,
    /// Who wrote it.
    pub creator: String,
    /// Seconds since 1970.
    pub created: u64,
    /// What is odd, though readable.
    pub notices: Vec<String>,
    /// The disk is one run of the file from this offset.
    pub direct: Option<u64>,
}

impl ImageFacts {
    /// The facts of an image that nobody has read yet.
    pub fn blank() -> Self {
        Self {
            format: String::new(),
            kind: String::new(),
            subtype: 0,
            virtual_size: 0,
            block_size: 0,
            sector_size: 0,
            physical_sector_size: 0,
            identifier: uuid::Uuid::nil(),
            read_only: true,
            creator: String::new(),
            created: 0,
            notices: Vec::new(),
            direct: None,
        }
    }

    /// Copies what the lower floor says.
    pub fn new(facts: &Facts, direct: Option<u64>) -> Self {
        Self {
            format: format_name(facts.format).to_owned(),
            kind: kind_name(facts.kind).to_owned(),
            subtype: facts.kind as u32,
            virtual_size: facts.virtual_size,
            block_size: facts.block_size,
            sector_size: facts.logical_sector_size,
            physical_sector_size: facts.physical_sector_size,
            identifier: facts.identifier,
            read_only: facts.read_only,
            creator: facts.creator.clone(),
            created: facts.created_unix,
            notices: facts.notices.clone(),
            direct,
        }
    }
}

/// See [`Question::Physical`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PhysicalAnswer {
    /// Length of the image file, bytes.
    pub file_length: u64,
    /// Bytes it takes on its file system.
    pub allocated: u64,
    /// Percent of blocks out of order; `None` where the question makes no sense.
    pub fragmentation: Option<u32>,
    /// Payload aligned to 4096.
    pub aligned_4k: bool,
    /// End of the last partition, when there is a table.
    pub smallest_safe_size: Option<u64>,
}

/// A partition as it crosses the link.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PartitionEntry {
    /// Number, from 1.
    pub number: u32,
    /// Bytes from the start of the disk.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// Why a worker says no.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Refusal {
    /// The Windows code.
    pub code: u32,
    /// One sentence with the file's name.
    pub message: String,
}

/// A worker's answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Answer {
    /// Done, nothing to tell.
    Done,
    /// To `Open` and `Create`.
    Facts(ImageFacts),
    /// To `Partitions`.
    Partitions(Vec<PartitionEntry>),
    /// To `Physical`.
    Physical(PhysicalAnswer),
    /// To anything.
    Refused(Refusal),
}

/// First packet of a worker to a broker that found it through its listening socket; the image,
/// the FUSE connection and the listening socket come along, in this order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Introduction {
    /// What was asked with `Open`.
    pub open: Open,
    /// What was answered.
    pub facts: ImageFacts,
    /// What was asked with `Serve`.
    pub serve: Serve,
    /// Process id.
    pub pid: u32,
}

/// The word for a format.
pub fn format_name(format: Format) -> &'static str {
    match format {
        Format::Raw => "raw",
        Format::Iso => "iso",
        Format::Vhd => "vhd",
        Format::Vhdx => "vhdx",
    }
}

/// The format for a word.
pub fn format_of(name: &str) -> Option<Format> {
    match name {
        "raw" => Some(Format::Raw),
        "iso" => Some(Format::Iso),
        "vhd" => Some(Format::Vhd),
        "vhdx" => Some(Format::Vhdx),
        _ => None,
    }
}

/// The word for a kind.
fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Fixed => "fixed",
        Kind::Dynamic => "dynamic",
        Kind::Differencing => "differencing",
    }
}
