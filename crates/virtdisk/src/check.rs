//! Argument rules: what can be refused without looking at the image.
//!
//! The client runs them before it touches the file, the service runs them again on what arrives.
//! Rules are looked at in the order in which the functions name them; the first one broken gives
//! the error. Codes and rule numbers are those of the API sheet, section 4. Version 1 with an
//! empty mask and any RWDepth pass (R-OPEN-7), and so does any ResiliencyGuid (R-OPEN-26).
//!
//! `check::detach` refuses flags, for example, since none was ever defined.

use std::path::Path;

use uuid::Uuid;

use crate::code::Code;
use crate::error::Error;
use crate::flags::{AccessMask, AttachFlags, CreateFlags, OpenFlags};
use crate::frame::{AttachRequest, DetachRequest, Failure, OpenRequest};
use crate::parameters::InUse;
use crate::path::escaped;
use crate::storage_type::StorageType;

mod create;

pub use create::{Geometry, create, create_type, geometry, source_size};

/// Result of a rule; the [`Failure`] goes over the socket as it is.
pub type Checked<T = ()> = Result<T, Failure>;

/// Arguments of an open: path (R-OPEN-2), mask (R-OPEN-3), flags (R-OPEN-4), version (R-OPEN-5),
/// mask against version (R-OPEN-6), ISO given by name (R-OPEN-12, R-OPEN-13), provider (R-PROV-5).
///
/// # Errors
/// 87, or 0xC03A0014 for a type that no provider knows.
pub fn open(request: &OpenRequest) -> Checked {
    let path = &request.path;
    not_empty(path)?;
    access_mask(path, request.access_mask)?;
    known_bits(path, "open flags", request.flags, OpenFlags::all().bits())?;
    if !(1..=3).contains(&request.version) {
        return Err(invalid(
            path,
            format!("open version {} is not known", request.version),
        ));
    }
    mask_for_version(path, request.version, request.access_mask)?;
    guid(path, "resiliency GUID", &request.resiliency_guid)?;
    let storage_type = storage_type(path, request.device_id, &request.vendor_id)?;
    if storage_type == StorageType::ISO {
        open_iso(request)?;
    }
    Ok(())
}

/// What an ISO image refuses: rights that write (R-OPEN-12) and three flags (R-OPEN-13). The
/// service asks again when a probe of the content says ISO.
///
/// # Errors
/// 87.
pub fn open_iso(request: &OpenRequest) -> Checked {
    let writing = request.access_mask & AccessMask::WRITABLE.bits();
    if writing != 0 {
        let what = format!("access 0x{writing:08X} is not valid for an ISO image");
        return Err(hinted(
            invalid(&request.path, what),
            "an ISO image is read-only",
        ));
    }
    let refused = OpenFlags::NO_PARENTS | OpenFlags::BLANK_FILE | OpenFlags::BOOT_DRIVE;
    let flags = request.flags & refused.bits();
    if flags != 0 {
        let what = format!("open flags 0x{flags:X} are not valid for an ISO image");
        return Err(invalid(&request.path, what));
    }
    Ok(())
}

/// Arguments of an attach: flags and version (R-ATT-1), provider flags (R-ATT-22), range.
///
/// A version 2 range of 0/0 without RESTRICTED_RANGE is fine (R-ATT-3); any other range without
/// the flag is refused, since it would show more than was asked for.
///
/// # Errors
/// 87.
pub fn attach(request: &AttachRequest) -> Checked {
    known_bits(
        "attach",
        "attach flags",
        request.flags,
        AttachFlags::all().bits(),
    )?;
    if !(1..=2).contains(&request.version) {
        let what = format!("attach version {} is not known", request.version);
        return Err(invalid("attach", what));
    }
    provider_flags("attach", request.provider_flags)?;
    let restricted = request.flags & AttachFlags::RESTRICTED_RANGE.bits() != 0;
    let (offset, length) = match request.version {
        2 => (request.restricted_offset, request.restricted_length),
        _ => (0, 0),
    };
    if !restricted && (offset, length) != (0, 0) {
        return Err(invalid("attach", "a range needs the flag RESTRICTED_RANGE"));
    }
    if restricted && (length == 0 || offset.checked_add(length).is_none()) {
        return Err(invalid(
            "attach",
            "RESTRICTED_RANGE needs version 2 and a range",
        ));
    }
    Ok(())
}

/// What an ISO image asks of an attach: READ_ONLY, and not NO_LOCAL_HOST (R-ATT-6).
///
/// # Errors
/// 87.
pub fn attach_iso(request: &AttachRequest) -> Checked {
    let flags = AttachFlags::from_bits_retain(request.flags);
    if !flags.contains(AttachFlags::READ_ONLY) {
        let failure = invalid("attach", "an ISO image needs the flag READ_ONLY");
        return Err(hinted(failure, "attach it read-only"));
    }
    if flags.contains(AttachFlags::NO_LOCAL_HOST) {
        return Err(invalid(
            "attach",
            "NO_LOCAL_HOST is not valid for an ISO image",
        ));
    }
    Ok(())
}

/// Arguments of a detach: flags (R-DET-8), provider flags (R-DET-5), and the word for a device in
/// use. Asked before anything is known about the disk (R-DET-26).
///
/// ```
/// use virtdisk::{check, frame::DetachRequest};
///
/// let request = DetachRequest { in_use: "page".to_owned(), ..DetachRequest::default() };
/// assert!(check::detach(&request).is_ok());
/// let flagged = DetachRequest { flags: 1, ..request };
/// assert_eq!(check::detach(&flagged).unwrap_err().code, 87);
/// ```
///
/// # Errors
/// 87.
pub fn detach(request: &DetachRequest) -> Checked {
    known_bits("detach", "detach flags", request.flags, 0)?;
    provider_flags("detach", request.provider_flags)?;
    if InUse::from_word(&request.in_use).is_none() {
        let what = format!("\"{}\" is no way to detach", request.in_use.escape_debug());
        return Err(invalid("detach", what));
    }
    Ok(())
}

/// The storage type of a frame (R-PROV-5).
///
/// # Errors
/// 87 when the vendor is no GUID, 0xC03A0014 when no provider knows the pair.
pub fn storage_type(path: &str, device_id: u32, vendor_id: &str) -> Checked<StorageType> {
    let storage_type = StorageType::new(device_id, guid(path, "vendor", vendor_id)?);
    if storage_type.is_known() {
        return Ok(storage_type);
    }
    let what = format!("no provider for device {device_id} of vendor {vendor_id}");
    Err(failure(Code::ERROR_VIRTDISK_PROVIDER_NOT_FOUND, path, what))
}

/// A GUID in a frame: lower or upper case, hyphens, no braces. Empty text is the zero GUID.
///
/// # Errors
/// 87.
pub fn guid(path: &str, name: &str, text: &str) -> Checked<Uuid> {
    if text.is_empty() {
        return Ok(Uuid::nil());
    }
    Uuid::try_parse(text).map_err(|_| {
        invalid(
            path,
            format!("{name} \"{}\" is no GUID", text.escape_debug()),
        )
    })
}

/// A path must be there (R-OPEN-2).
fn not_empty(path: &str) -> Checked {
    if path.is_empty() {
        Err(invalid("open", "the path is empty"))
    } else {
        Ok(())
    }
}

/// Bits outside ALL (R-OPEN-3, R-CRE-3).
fn access_mask(path: &str, mask: u32) -> Checked {
    known_bits(path, "access mask", mask, AccessMask::ALL.bits())
}

/// Versions 2 and up take no mask (R-OPEN-6, R-CRE-2).
fn mask_for_version(path: &str, version: u32, mask: u32) -> Checked {
    if version < 2 || mask == 0 {
        return Ok(());
    }
    let what = format!("version {version} parameters need an access mask of 0, not 0x{mask:08X}");
    Err(invalid(path, what))
}

/// The Microsoft provider and ours know no flags of their own (R-ATT-22, R-DET-5).
fn provider_flags(path: &str, flags: u32) -> Checked {
    known_bits(path, "provider specific flags", flags, 0)
}

fn known_bits(path: &str, name: &str, bits: u32, known: u32) -> Checked {
    match bits & !known {
        0 => Ok(()),
        unknown => Err(invalid(
            path,
            format!("{name}: 0x{unknown:08X} is not known"),
        )),
    }
}

fn invalid(path: &str, what: impl AsRef<str>) -> Failure {
    failure(Code::ERROR_INVALID_PARAMETER, path, what)
}

fn failure(code: Code, path: &str, what: impl AsRef<str>) -> Failure {
    Failure::from(Error::new(
        code,
        format!("{}: {}", escaped(Path::new(path)), what.as_ref()),
    ))
}

fn hinted(failure: Failure, hint: &str) -> Failure {
    Failure {
        hint: hint.to_owned(),
        ..failure
    }
}

/// True when the create asks for a fixed disk.
fn is_fixed(flags: u32) -> bool {
    flags & CreateFlags::FULL_PHYSICAL_ALLOCATION.bits() != 0
}
