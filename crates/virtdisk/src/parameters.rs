//! What callers say about an open, create, attach or detach, and the frames these become.
//!
//! The versions are those of the structs of `virtdisk.h` (API sheet 1.3 to 1.6 and 1.23). Nothing
//! is judged here: [`crate::check`] does that on the frame, on both sides of the socket.

use std::path::PathBuf;

use uuid::Uuid;

use crate::flags::{AccessMask, AttachFlags, CreateFlags, DetachFlags, OpenFlags};
use crate::frame::{AttachRequest, CreateRequest, DetachRequest, OpenRequest};
use crate::storage_type::StorageType;

/// `OPEN_VIRTUAL_DISK_PARAMETERS`. The default is version 1 with depth 1, as a NULL pointer means
/// in C (R-OPEN-8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenParameters {
    /// Version 1: the rights are in the access mask.
    V1 {
        /// Stores of the chain opened read-write, counted from the child.
        rw_depth: u32,
    },
    /// Version 2: no access mask, every right except what these fields take away.
    V2 {
        /// A handle for queries only.
        get_info_only: bool,
        /// The image is opened read-only.
        read_only: bool,
        /// Identity of the open; all zero is normal.
        resiliency_guid: Uuid,
    },
    /// Version 3: version 2 and a snapshot.
    V3 {
        /// A handle for queries only.
        get_info_only: bool,
        /// The image is opened read-only.
        read_only: bool,
        /// Identity of the open; all zero is normal.
        resiliency_guid: Uuid,
        /// Snapshot of a VHD Set. Anything but all zero is refused with 50.
        snapshot_id: Uuid,
    },
}

impl Default for OpenParameters {
    fn default() -> Self {
        Self::V1 { rw_depth: 1 }
    }
}

/// Arguments of an open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// Which provider reads the image; [`StorageType::UNKNOWN`] finds out.
    pub storage_type: StorageType,
    /// Rights of a version 1 handle; [`AccessMask::NONE`] with later versions.
    pub access: AccessMask,
    /// Flags.
    pub flags: OpenFlags,
    /// Versioned part.
    pub parameters: OpenParameters,
}

impl OpenOptions {
    /// Version 1 with these rights.
    #[must_use]
    pub fn with_access(access: AccessMask) -> Self {
        Self {
            access,
            ..Self::default()
        }
    }

    /// Version 2 with every right; the image is opened read-write unless `read_only`.
    #[must_use]
    pub fn v2(read_only: bool) -> Self {
        let resiliency_guid = Uuid::nil();
        let parameters = OpenParameters::V2 {
            get_info_only: false,
            read_only,
            resiliency_guid,
        };
        Self {
            parameters,
            ..Self::default()
        }
    }

    /// The frame for `path`.
    pub(crate) fn request(&self, path: String) -> OpenRequest {
        let base = OpenRequest {
            path,
            device_id: self.storage_type.device_id,
            vendor_id: self.storage_type.vendor_id.to_string(),
            access_mask: self.access.bits(),
            flags: self.flags.bits(),
            resiliency_guid: Uuid::nil().to_string(),
            ..OpenRequest::default()
        };
        match self.parameters {
            OpenParameters::V1 { rw_depth } => OpenRequest {
                version: 1,
                rw_depth,
                ..base
            },
            OpenParameters::V2 {
                get_info_only,
                read_only,
                resiliency_guid,
            } => OpenRequest {
                version: 2,
                get_info_only,
                read_only,
                resiliency_guid: resiliency_guid.to_string(),
                ..base
            },
            OpenParameters::V3 {
                get_info_only,
                read_only,
                resiliency_guid,
                ..
            } => OpenRequest {
                version: 3,
                get_info_only,
                read_only,
                resiliency_guid: resiliency_guid.to_string(),
                ..base
            },
        }
    }
}

/// Version of `CREATE_VIRTUAL_DISK_PARAMETERS`: which fields the caller may fill.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CreateVersion {
    /// Windows 7. The access mask gives the rights of the handle; no physical sector size, no
    /// open flags, no resiliency GUID.
    V1 = 1,
    /// Windows 8. The access mask must be empty.
    #[default]
    V2 = 2,
    /// Windows 10.
    V3 = 3,
    /// Windows 10 1709.
    V4 = 4,
}

/// `CREATE_VIRTUAL_DISK_PARAMETERS`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CreateParameters {
    /// Which of the fields below count.
    pub version: CreateVersion,
    /// Unique id of the disk; all zero asks for a random one.
    pub unique_id: Uuid,
    /// Virtual size in bytes. 0 with a parent; 0 or more than the source's size with a source.
    pub maximum_size: u64,
    /// Block size in bytes, 0 = the format's default. 0 for a fixed disk.
    pub block_size: u32,
    /// Logical sector size in bytes, 0 = the format's default.
    pub sector_size: u32,
    /// Physical sector size in bytes, 0 = the format's default. Version 2 and up.
    pub physical_sector_size: u32,
    /// Absolute path of the parent of a differencing disk.
    pub parent_path: Option<PathBuf>,
    /// Absolute path of the disk to copy.
    pub source_path: Option<PathBuf>,
    /// Flags of the open that follows. Version 2 and up.
    pub open_flags: OpenFlags,
    /// Identity of the open that follows. Version 2 and up.
    pub resiliency_guid: Uuid,
}

/// Arguments of a create.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CreateOptions {
    /// Which provider writes the image; [`StorageType::UNKNOWN`] goes by the extension.
    pub storage_type: StorageType,
    /// Rights of the handle, version 1 only.
    pub access: AccessMask,
    /// Flags; [`CreateFlags::FULL_PHYSICAL_ALLOCATION`] makes the disk fixed.
    pub flags: CreateFlags,
    /// Provider specific flags, 0.
    pub provider_flags: u32,
    /// Versioned part.
    pub parameters: CreateParameters,
}

impl CreateOptions {
    /// The frame for `path`.
    pub(crate) fn request(&self, path: String) -> CreateRequest {
        let text = |path: &Option<PathBuf>| match path {
            Some(path) => path.to_string_lossy().into_owned(),
            None => String::new(),
        };
        let parameters = &self.parameters;
        CreateRequest {
            path,
            device_id: self.storage_type.device_id,
            vendor_id: self.storage_type.vendor_id.to_string(),
            access_mask: self.access.bits(),
            flags: self.flags.bits(),
            provider_flags: self.provider_flags,
            version: parameters.version as u32,
            unique_id: parameters.unique_id.to_string(),
            maximum_size: parameters.maximum_size,
            block_size: parameters.block_size,
            sector_size: parameters.sector_size,
            physical_sector_size: parameters.physical_sector_size,
            open_flags: parameters.open_flags.bits(),
            parent_path: text(&parameters.parent_path),
            source_path: text(&parameters.source_path),
            resiliency_guid: parameters.resiliency_guid.to_string(),
        }
    }
}

/// `ATTACH_VIRTUAL_DISK_PARAMETERS`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AttachParameters {
    /// Version 1: nothing to say, also what a NULL pointer means (R-ATT-2).
    #[default]
    V1,
    /// Version 2: the range to show, with [`AttachFlags::RESTRICTED_RANGE`].
    V2 {
        /// First byte to show.
        restricted_offset: u64,
        /// Bytes to show.
        restricted_length: u64,
    },
}

/// Arguments of an attach.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttachOptions {
    /// Flags.
    pub flags: AttachFlags,
    /// Provider specific flags, 0.
    pub provider_flags: u32,
    /// Versioned part.
    pub parameters: AttachParameters,
    /// SDDL text for the device node; `None` gives it owner, group and mode of the image file.
    pub security_descriptor: Option<String>,
}

impl AttachOptions {
    /// The frame.
    pub(crate) fn request(&self) -> AttachRequest {
        let (version, restricted_offset, restricted_length) = match self.parameters {
            AttachParameters::V1 => (1, 0, 0),
            AttachParameters::V2 {
                restricted_offset,
                restricted_length,
            } => (2, restricted_offset, restricted_length),
        };
        AttachRequest {
            flags: self.flags.bits(),
            provider_flags: self.provider_flags,
            version,
            restricted_offset,
            restricted_length,
            security_descriptor: self.security_descriptor.clone().unwrap_or_default(),
        }
    }
}

/// What a detach does when the device is in use (`design.md`, section 3).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum InUse {
    /// As the DetachVirtualDisk page: error 170, or success and a later detach for a permanent
    /// attachment whose attaching handle is closed.
    #[default]
    Page,
    /// Error 170, nothing changes.
    Refuse,
    /// Success: it detaches when the last holder lets go.
    WhenFree,
}

impl InUse {
    /// The word in the frame: `page`, `refuse` or `when-free`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Page => "page",
            Self::Refuse => "refuse",
            Self::WhenFree => "when-free",
        }
    }

    /// The meaning of a word in the frame; `None` for any other word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Page, Self::Refuse, Self::WhenFree]
            .into_iter()
            .find(|it| it.as_str() == word)
    }
}

/// Arguments of a detach.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DetachOptions {
    /// No flag was ever defined.
    pub flags: DetachFlags,
    /// Provider specific flags, 0.
    pub provider_flags: u32,
    /// What a device in use means.
    pub in_use: InUse,
}

impl DetachOptions {
    /// The frame.
    pub(crate) fn request(&self) -> DetachRequest {
        DetachRequest {
            flags: self.flags.bits(),
            provider_flags: self.provider_flags,
            in_use: self.in_use.as_str().to_owned(),
        }
    }
}
