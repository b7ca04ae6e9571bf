//! Handles: what one open may do, and which opens may stand beside which.
//!
//! Version 1 handles carry the access mask they were opened with; later versions carry the
//! rights that their two booleans leave. Sharing is decided here, before an image is touched
//! (rules R-SHR-1 to R-SHR-6, R-OPEN-15 to R-OPEN-19 of the API sheet).

use std::os::fd::OwnedFd;
use std::sync::Arc;

use virtdisk::frame::OpenRequest;
use virtdisk::{AccessMask, Code, OpenFlags};
use virtdisk_disk::lock::Level;

use crate::entry::FileId;
use crate::failure::{Result, fail, hinted};

/// Rights that do not disturb anybody.
const QUIET: AccessMask = AccessMask::DETACH.union(AccessMask::GET_INFO);

/// One open handle of a disk.
#[derive(Debug, Clone)]
pub struct Handle {
    /// What it may do.
    pub rights: AccessMask,
    /// Opened with version 1 parameters.
    pub first_version: bool,
    /// Identity of a version 2 open.
    pub resiliency_guid: String,
    /// `OPEN_VIRTUAL_DISK_FLAG`.
    pub flags: u32,
    /// The image as this caller opened it; `None` for a handle by device.
    pub file: Option<Arc<OwnedFd>>,
    /// Writes may go through this handle's file.
    pub writes: bool,
    /// The parents that its holder showed, nearest first: only who can read them all gets at the
    /// bytes of a chain, also of one that is open already.
    pub parents: Vec<FileId>,
}

/// The rights that a request asks for.
pub fn rights(request: &OpenRequest) -> AccessMask {
    if request.version <= 1 {
        return AccessMask::from_bits_truncate(request.access_mask);
    }
    if request.get_info_only {
        AccessMask::GET_INFO
    } else if request.read_only {
        AccessMask::READ
    } else {
        AccessMask::READ | AccessMask::ATTACH_RW | AccessMask::METAOPS
    }
}

/// Does the request ask to write? (R-OPEN-9, R-OPEN-10)
pub fn writes(request: &OpenRequest) -> bool {
    let depth = request.version > 1 || request.rw_depth > 0;
    depth && rights(request).intersects(AccessMask::WRITABLE)
}

impl Handle {
    /// The lock on the image file that this handle needs.
    pub fn level(&self) -> Level {
        if self.writes {
            Level::Write
        } else if self.rights.contains(AccessMask::ATTACH_RO) {
            Level::Read
        } else {
            Level::None
        }
    }

    /// Can its holder get at the disk's bytes?
    pub fn reads(&self) -> bool {
        !QUIET.contains(self.rights)
    }

    /// Does it do without parents (R-OPEN-14), or bring them itself later (R-PAR-1)?
    pub fn is_alone(&self) -> bool {
        let flags = OpenFlags::from_bits_truncate(self.flags);
        flags.intersects(OpenFlags::NO_PARENTS | OpenFlags::CUSTOM_DIFF_CHAIN)
    }

    /// Does its holder supply the chain?
    pub fn is_custom(&self) -> bool {
        OpenFlags::from_bits_truncate(self.flags).contains(OpenFlags::CUSTOM_DIFF_CHAIN)
    }

    /// Was it opened to leave the parents out?
    pub fn refuses_parents(&self) -> bool {
        OpenFlags::from_bits_truncate(self.flags).contains(OpenFlags::NO_PARENTS)
    }
}

/// What is attached now, as far as sharing asks.
#[derive(Debug, Clone, Copy)]
pub struct AttachedNow {
    /// Attached read-only.
    pub read_only: bool,
    /// PERMANENT_LIFETIME.
    pub permanent: bool,
}

/// May a handle with these rights be opened beside the others?
///
/// # Errors
/// 32 ERROR_SHARING_VIOLATION.
pub fn may_open<'a>(
    name: &str,
    wanted: &Handle,
    others: impl Iterator<Item = &'a Handle>,
    attached: Option<AttachedNow>,
) -> Result<()> {
    if let Some(now) = attached {
        beside_attachment(name, wanted, now)?;
    }
    for other in others {
        let versions = (wanted.first_version, other.first_version);
        let same_disk =
            versions == (false, false) && wanted.resiliency_guid == other.resiliency_guid;
        let both_read = !wanted.writes && !other.writes && versions == (false, false);
        let quiet = QUIET.contains(wanted.rights) || QUIET.contains(other.rights);
        if !(same_disk || both_read || quiet) {
            return Err(hinted(
                Code::ERROR_SHARING_VIOLATION,
                format!("{name}: another handle holds this disk"),
                "close the other handle first",
            ));
        }
    }
    Ok(())
}

/// R-OPEN-15 (version 1) and R-OPEN-16 (later versions).
fn beside_attachment(name: &str, wanted: &Handle, now: AttachedNow) -> Result<()> {
    if !wanted.first_version {
        return Ok(());
    }
    if now.permanent && !wanted.rights.contains(AccessMask::DETACH) {
        return Err(hinted(
            Code::ERROR_SHARING_VIOLATION,
            format!("{name}: the disk is attached permanently"),
            "open it with the right DETACH",
        ));
    }
    if now.read_only && wanted.writes {
        return Err(hinted(
            Code::ERROR_SHARING_VIOLATION,
            format!("{name}: the disk is attached read-only and can't be opened for writing"),
            "detach it first",
        ));
    }
    Ok(())
}

/// Refuses a handle without a right.
///
/// # Errors
/// 5 ERROR_ACCESS_DENIED.
pub fn need(name: &str, handle: &Handle, right: AccessMask, to: &str) -> Result<()> {
    if handle.rights.contains(right) {
        return Ok(());
    }
    Err(fail(
        Code::ERROR_ACCESS_DENIED,
        format!("{name}: the handle was opened without the right to {to}"),
    ))
}
