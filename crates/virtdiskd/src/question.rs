//! What the broker may ask a worker, and what a worker may answer.
//!
//! The words of the link in `packet`. A worker answers every question once, in order. File names
//! are for messages only; descriptors travel beside the packet.

use serde::{Deserialize, Serialize};
use virtdisk_disk::{Facts, Format, HintKind, Kind, ParentLink};

/// Most parents of one disk: with the image, the FUSE connection and the socket they fit into one
/// packet.
pub const PARENTS_LIMIT: usize = 248;
/// Room for the names of all parents in one packet, bytes.
const NAMES_LIMIT_BYTES: usize = 16 * 1024;
/// Most hints about one parent, and the longest of them: no path of Linux is longer.
const HINTS_LIMIT: usize = 16;
const HINT_LIMIT_BYTES: usize = 4096;

/// A question to a worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Question {
    /// Open the image that comes along as the first descriptor; its parents follow, nearest first.
    Open(Open),
    /// Open the image that comes along, for reading, and ask for one parent after the other: each
    /// `Answer::NeedParent` is followed by a `Parent`. Answers the facts once all are there.
    Resolve(Open),
    /// To `Answer::NeedParent`: the file that comes along may be that parent.
    Parent(String),
    /// Write a new image into the empty file that comes along first. The parent or the source
    /// follows, then the source's parents.
    Create(Create),
    /// The disk's bytes will be written around the worker, straight in the file.
    Touch,
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
    /// Only this format ("raw", "iso", "vhd", "vhdx"); `None` probes.
    pub format: Option<String>,
    /// Open for writing.
    pub writable: bool,
    /// A differencing image is opened without its parents: their bytes can't be read.
    #[serde(default)]
    pub alone: bool,
    /// Names of the parents that come along.
    #[serde(default)]
    pub parents: Vec<String>,
}

/// See [`Question::Create`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Create {
    /// For messages.
    pub name: String,
    /// "raw", "vhd" or "vhdx".
    pub format: String,
    /// True: all space allocated.
    pub fixed: bool,
    /// Fixed, but space is not reserved.
    pub sparse: bool,
    /// Bytes; 0 with a parent; at least the source's size, or 0 for just that.
    pub virtual_size: u64,
    /// Bytes, 0 = default.
    pub block_size: u32,
    /// Logical sector in bytes, 0 = default.
    pub sector_size: u32,
    /// Physical sector in bytes, 0 = default.
    pub physical_sector_size: u32,
    /// Unique id, nil = random.
    pub identifier: uuid::Uuid,
    /// The disk that the new one is made from.
    pub base: Option<Base>,
}

/// The disk that a new one is made from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Base {
    /// How it is opened, with its parents.
    pub open: Open,
    /// What becomes of it.
    pub use_as: UseAs,
}

/// What becomes of the disk that a new one is made from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum UseAs {
    /// The new disk's parent.
    Parent {
        /// Its path as the new image says it: relative, with backslashes.
        relative_path: String,
        /// The new disk takes over its metadata.
        inherit: bool,
    },
    /// Its bytes are copied.
    Source,
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
    /// "raw", "iso", "vhd", "vhdx".
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
    /// What a child records of this image; nil when the format has no such id.
    #[serde(default)]
    pub content_id: uuid::Uuid,
    /// What a differencing image says of its parent.
    #[serde(default)]
    pub parent: Option<Link>,
}

/// What a differencing image says of its parent, as it crosses the link.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Link {
    /// The parent's id is one of these.
    pub identities: Vec<uuid::Uuid>,
    /// When the parent was changed last, seconds since 1970.
    pub modified: Option<u64>,
    /// Where it may be: kind and text.
    pub hints: Vec<(String, String)>,
}

impl Link {
    /// Copies what the lower floor says; hints that are no path of Windows or longer than any of
    /// Linux are left out.
    pub fn new(link: &ParentLink) -> Self {
        let hints = link
            .hints
            .iter()
            .filter(|hint| hint.text.len() <= HINT_LIMIT_BYTES)
            .filter(|hint| !hint.text.chars().any(char::is_control))
            .take(HINTS_LIMIT)
            .map(|hint| (hint_word(hint.kind).to_owned(), hint.text.clone()));
        Self {
            identities: link.identities.clone(),
            modified: link.modified_unix,
            hints: hints.collect(),
        }
    }
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
            content_id: uuid::Uuid::nil(),
            parent: None,
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
            content_id: facts.content_id,
            parent: facts.parent.as_ref().map(Link::new),
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

/// See [`Answer::NeedParent`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NeedParent {
    /// Parents found so far.
    pub depth: u32,
    /// "vhd" or "vhdx".
    pub format: String,
    /// What the child says of it.
    pub link: Link,
    /// Why the file that was sent last is not it.
    pub rejected: Option<Refusal>,
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
    /// To `Open`, and at the end of `Resolve`.
    Facts(Box<ImageFacts>),
    /// During `Resolve`; a `Parent` follows.
    NeedParent(NeedParent),
    /// To `Partitions`.
    Partitions(Vec<PartitionEntry>),
    /// To `Physical`.
    Physical(PhysicalAnswer),
    /// To anything.
    Refused(Refusal),
}

/// First packet of a worker to a broker that found it through its listening socket; the image,
/// the FUSE connection, the listening socket and the parents come along, in this order.
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

/// Names of parents as they fit into a packet: the end of each.
pub fn fitting<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> Vec<String> {
    let room = NAMES_LIMIT_BYTES / names.len().max(1);
    let fit = |name: &'a str| {
        let from = name.len().saturating_sub(room);
        let from = (from..=name.len()).find(|at| name.is_char_boundary(*at));
        name.get(from.unwrap_or(0)..).unwrap_or(name).to_owned()
    };
    names.map(fit).collect()
}

/// The word for what a hint is.
fn hint_word(kind: HintKind) -> &'static str {
    match kind {
        HintKind::Relative => "relative",
        HintKind::Absolute => "absolute",
        HintKind::Volume => "volume",
        HintKind::Url => "url",
        HintKind::Name => "name",
    }
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
