//! What an open image is: the facts that may not change while it is open.
//!
//! Filled once by `open`; transports and the service copy from here and never ask the format again.

use uuid::Uuid;

/// The container format of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// No container: the file is the disk.
    Raw,
    /// An optical image (ISO 9660, UDF), read-only.
    Iso,
    /// Virtual Hard Disk, specification 1.0.
    Vhd,
    /// Virtual Hard Disk version 2, \[MS-VHDX\].
    Vhdx,
}

/// How the space of a disk is kept. The numbers are those of VHD's disk type field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Kind {
    /// All space is in the file from the start.
    Fixed = 2,
    /// Blocks are allocated at their first write.
    Dynamic = 3,
    /// Blocks not in this file are the parent's.
    Differencing = 4,
}

/// What a differencing image says of its parent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParentLink {
    /// The parent's [`Facts::content_id`] must be one of these (P-1). Never nil, never empty.
    pub identities: Vec<Uuid>,
    /// VHD: when the parent was changed last, seconds since 1970; `None` where nothing is
    /// recorded (V-14).
    pub modified_unix: Option<u64>,
    /// Where it may be, in the order in which to look (P-2).
    pub hints: Vec<ParentHint>,
}

/// One place where the parent may be, as the file says it: a path of another system, to be
/// translated and never to be opened as it stands (S-4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentHint {
    /// What the text is.
    pub kind: HintKind,
    /// The text; what was no well-formed UTF-16 is U+FFFD.
    pub text: String,
}

/// What a [`ParentHint`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HintKind {
    /// A Windows path relative to the child's folder: `.\base.vhdx`.
    Relative,
    /// A whole Windows path: `C:\vm\base.vhdx`, with or without `\\?\`.
    Absolute,
    /// A Windows path below a volume: `\\?\Volume{...}\vm\base.vhdx`.
    Volume,
    /// A `file:` URL (MacX).
    Url,
    /// A name or path without a base: VHD's parent name.
    Name,
}

/// A metadata item of a VHDX that is carried from one image to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataItem {
    /// Which item.
    pub id: Uuid,
    /// Not one of the format's own.
    pub user: bool,
    /// Belongs to the virtual disk, not to the file.
    pub virtual_disk: bool,
    /// Whoever does not know it must not open the image.
    pub required: bool,
    /// Its content, at most 1 MiB.
    pub data: Vec<u8>,
}

/// The facts of an open image.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Facts {
    /// The container format.
    pub format: Format,
    /// How space is kept; raw and ISO are fixed.
    pub kind: Kind,
    /// Size of the virtual disk in bytes, a multiple of `logical_sector_size`.
    pub virtual_size: u64,
    /// Allocation unit of the format in bytes; 0 where there is none (fixed, raw, ISO).
    pub block_size: u32,
    /// Logical sector in bytes: 512, 4096 for some VHDX, 2048 for ISO.
    pub logical_sector_size: u32,
    /// Physical sector in bytes as the format states it: 512, 4096, or 2048 for ISO.
    pub physical_sector_size: u32,
    /// VHD: the unique id, its 16 bytes as they stand in the file. VHDX: the virtual disk id
    /// (page 83). Otherwise nil.
    pub identifier: Uuid,
    /// What a child records of this image (P-1). VHD: the unique id. VHDX: the DataWriteGuid as
    /// it was when the image was opened. Otherwise nil.
    pub content_id: Uuid,
    /// The parent of a differencing image; `None` for every other.
    pub parent: Option<ParentLink>,
    /// The format forbids writing: ISO, and raw files that are no whole number of sectors.
    pub read_only: bool,
    /// Who wrote the image, as it says, with everything but printable ASCII escaped.
    pub creator: String,
    /// When the image was created, in seconds since 1970, as it says; 0 where it doesn't.
    pub created_unix: u64,
    /// VHD: the disk belongs to a suspended machine (V-21); no compact, no resize, no merge.
    pub saved_state: bool,
    /// What is odd about the image and was accepted, a sentence each.
    pub notices: Vec<String>,
}

impl Facts {
    /// Facts of a fixed or blockless disk with 512-byte sectors and nothing else to say.
    #[must_use]
    pub fn new(format: Format, kind: Kind, virtual_size: u64) -> Facts {
        Facts {
            format,
            kind,
            virtual_size,
            block_size: 0,
            logical_sector_size: 512,
            physical_sector_size: 512,
            identifier: Uuid::nil(),
            content_id: Uuid::nil(),
            parent: None,
            read_only: false,
            creator: String::new(),
            created_unix: 0,
            saved_state: false,
            notices: Vec::new(),
        }
    }
}

/// How an image lies in its file, at the moment of asking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Physical {
    /// Blocks that have space in the file; 0 where the format has no blocks.
    pub blocks_allocated: u64,
    /// Share of allocated blocks that do not follow their predecessor in the file, in percent;
    /// `None` where the format has no blocks.
    pub fragmentation_percent: Option<u32>,
    /// Whether the data of every allocated block starts on a 4 KiB boundary of the file.
    pub data_aligned_4k: bool,
}
