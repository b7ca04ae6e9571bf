//! Providers: (device id, vendor) → who reads the image (design 2.6).
//!
//! The table that translates Windows' storage types into formats of the lower floors. What no
//! provider claims is ERROR_VIRTDISK_PROVIDER_NOT_FOUND.

use std::path::Path;

use uuid::Uuid;
use virtdisk::{Code, StorageType};

use crate::failure::{Result, fail, hinted};

/// The storage type in a request.
///
/// # Errors
/// 87 when the vendor is no GUID.
pub fn storage_type(device_id: u32, vendor: &str) -> Result<StorageType> {
    let vendor = Uuid::parse_str(vendor).map_err(|_| {
        fail(
            Code::ERROR_INVALID_PARAMETER,
            format!("the vendor id {vendor:?} is no GUID"),
        )
    })?;
    Ok(StorageType::new(device_id, vendor))
}

/// The format to open as; `None` probes the content (R-PROV-1).
///
/// # Errors
/// 0xC03A0014 when no provider claims the type, 50 for a VHD Set.
pub fn format_to_open(storage_type: StorageType, path: &str) -> Result<Option<&'static str>> {
    if storage_type == StorageType::UNKNOWN {
        return Ok(None);
    }
    named(storage_type, path).map(Some)
}

/// The format to create; an UNKNOWN type is decided by the extension (R-PROV-1).
///
/// # Errors
/// As [`format_to_open`], and 0xC03A0014 for an extension that names no format.
pub fn format_to_create(storage_type: StorageType, path: &str) -> Result<&'static str> {
    if storage_type != StorageType::UNKNOWN {
        return named(storage_type, path);
    }
    match StorageType::from_extension(Path::new(path)) {
        Some(found) => named(found, path),
        None => Err(hinted(
            Code::ERROR_VIRTDISK_PROVIDER_NOT_FOUND,
            format!("{path}: the extension names no format"),
            "name the file .vhd, .vhdx, .img or .raw, or give the format",
        )),
    }
}

/// The format of a type that is not UNKNOWN.
fn named(storage_type: StorageType, path: &str) -> Result<&'static str> {
    match storage_type {
        StorageType::VHD => Ok("vhd"),
        StorageType::VHDX => Ok("vhdx"),
        StorageType::ISO => Ok("iso"),
        StorageType::RAW => Ok("raw"),
        StorageType::VHDSET => Err(hinted(
            Code::ERROR_NOT_SUPPORTED,
            format!("{path}: the format of a VHD Set file is not published"),
            "work on the .avhdx files beside it",
        )),
        other => Err(fail(
            Code::ERROR_VIRTDISK_PROVIDER_NOT_FOUND,
            format!(
                "{path}: no provider for device id {} of vendor {}",
                other.device_id, other.vendor_id
            ),
        )),
    }
}

/// The storage type of an open image (R-PROV-2).
pub fn type_of(format: &str) -> StorageType {
    match format {
        "vhd" => StorageType::VHD,
        "vhdx" => StorageType::VHDX,
        "iso" => StorageType::ISO,
        "raw" => StorageType::RAW,
        _ => StorageType::UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(result: Result<impl std::fmt::Debug>) -> u32 {
        result.unwrap_err().code
    }

    // R-PROV-1
    #[test]
    fn unknown_probes_at_open_and_asks_the_extension_at_create() {
        assert_eq!(format_to_open(StorageType::UNKNOWN, "/a").unwrap(), None);
        assert_eq!(
            format_to_create(StorageType::UNKNOWN, "/a/b.VHD").unwrap(),
            "vhd"
        );
        assert_eq!(
            format_to_create(StorageType::UNKNOWN, "/a/b.img").unwrap(),
            "raw"
        );
        assert_eq!(
            format_to_create(StorageType::UNKNOWN, "/a/b.avhdx").unwrap(),
            "vhdx"
        );
        assert_eq!(type_of("vhdx"), StorageType::VHDX);
    }

    // R-PROV-4
    #[test]
    fn an_extension_without_a_format_has_no_provider() {
        assert_eq!(
            code(format_to_create(StorageType::UNKNOWN, "/a/b.doc")),
            0xC03A_0014
        );
    }

    // R-PROV-5
    #[test]
    fn a_foreign_vendor_and_unknown_device_of_microsoft_have_no_provider() {
        for (device, vendor) in [
            (2, Uuid::from_u128(1)),
            (0, StorageType::VENDOR_MICROSOFT),
            (99, StorageType::VENDOR_MICROSOFT),
        ] {
            let storage_type = StorageType::new(device, vendor);
            assert_eq!(code(format_to_open(storage_type, "/a.vhd")), 0xC03A_0014);
        }
        assert_eq!(code(storage_type(2, "not a guid")), 87);
    }
}
