//! Handles: what one open may do, and which opens may stand beside which.
//!
//! Version 1 handles carry the access mask they were opened with; later versions carry the
//! rights that their two booleans leave. Sharing is decided here, before an image is touched
//! (rules R-SHR-1 to R-SHR-6, R-OPEN-15 to R-OPEN-19 of the API sheet).

use std::os::fd::OwnedFd;
use std::sync::Arc;

use virtdisk::frame::OpenRequest;
use virtdisk::{AccessMask, Code};
use virtdisk_disk::lock::Level;

use crate::failure::{Result, fail, hinted};

/// Rights that do not disturb anybody.
const QUIET: AccessMask = AccessMask::DETACH.union(AccessMask::GET_INFO);

/// One open handle of a disk.
#[derive(Debug)]
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

#[cfg(test)]
mod tests {
    use super::*;

    fn v1(mask: AccessMask) -> Handle {
        let request = OpenRequest {
            version: 1,
            rw_depth: 1,
            access_mask: mask.bits(),
            ..OpenRequest::default()
        };
        handle(&request)
    }

    fn v2(read_only: bool, info: bool, guid: &str) -> Handle {
        handle(&OpenRequest {
            version: 2,
            read_only,
            get_info_only: info,
            resiliency_guid: guid.to_owned(),
            ..OpenRequest::default()
        })
    }

    fn handle(request: &OpenRequest) -> Handle {
        Handle {
            rights: rights(request),
            first_version: request.version <= 1,
            resiliency_guid: request.resiliency_guid.clone(),
            flags: 0,
            file: None,
            writes: writes(request),
        }
    }

    fn beside(wanted: &Handle, others: &[Handle], now: Option<AttachedNow>) -> u32 {
        may_open("x", wanted, others.iter(), now).err().map_or(0, |f| f.code)
    }

    // R-SHR-1, R-SHR-5
    #[test]
    fn an_attaching_open_stands_only_beside_quiet_ones() {
        let quiet = v1(AccessMask::DETACH | AccessMask::GET_INFO);
        assert_eq!(beside(&v1(AccessMask::ATTACH_RO), &[quiet], None), 0);
        assert_eq!(beside(&v1(AccessMask::ATTACH_RO), &[v1(AccessMask::ATTACH_RO)], None), 32);
        assert_eq!(beside(&v1(AccessMask::GET_INFO), &[v1(AccessMask::ALL)], None), 0);
    }

    // R-SHR-3
    #[test]
    fn metaops_is_exclusive() {
        let meta = v1(AccessMask::METAOPS);
        assert_eq!(beside(&meta, &[v1(AccessMask::ATTACH_RO)], None), 32);
        assert_eq!(beside(&v1(AccessMask::ATTACH_RO), &[v1(AccessMask::METAOPS)], None), 32);
        assert_eq!(beside(&meta, &[v1(AccessMask::GET_INFO)], None), 0);
    }

    // R-SHR-4, R-OPEN-19
    #[test]
    fn second_version_opens_share_by_identity_or_when_both_read() {
        assert_eq!(beside(&v2(false, false, "a"), &[v2(false, false, "a")], None), 0);
        assert_eq!(beside(&v2(true, false, "b"), &[v2(true, false, "a")], None), 0);
        assert_eq!(beside(&v2(false, false, "b"), &[v2(true, false, "a")], None), 32);
    }

    // R-OPEN-15
    #[test]
    fn a_permanently_attached_disk_opens_with_detach_and_without_new_writes() {
        let now = Some(AttachedNow { read_only: true, permanent: true });
        assert_eq!(beside(&v1(AccessMask::READ), &[], now), 0);
        assert_eq!(beside(&v1(AccessMask::GET_INFO), &[], now), 32);
        assert_eq!(beside(&v1(AccessMask::ALL), &[], now), 32);
        // R-OPEN-16
        assert_eq!(beside(&v2(false, false, ""), &[], now), 0);
    }

    // R-OPEN-17
    #[test]
    fn an_information_handle_may_change_nothing() {
        let info = v2(false, true, "");
        assert!(need("x", &info, AccessMask::GET_INFO, "ask").is_ok());
        for right in [AccessMask::DETACH, AccessMask::ATTACH_RO, AccessMask::METAOPS] {
            assert_eq!(need("x", &info, right, "do").unwrap_err().code, 5);
        }
        assert_eq!(info.level(), Level::None);
    }

    // R-OPEN-9, R-OPEN-10
    #[test]
    fn depth_0_and_reading_masks_do_not_write() {
        let mut request = OpenRequest {
            version: 1,
            rw_depth: 0,
            access_mask: AccessMask::ALL.bits(),
            ..OpenRequest::default()
        };
        assert!(!writes(&request));
        request.rw_depth = 1;
        assert!(writes(&request));
        request.access_mask = AccessMask::READ.bits();
        assert!(!writes(&request));
    }
}
