//! Argument rules of a create: version, mask, flags, type, paths, sector and block sizes, size.
//!
//! Sizes are bytes. Limits of VHD and VHDX are those of the CreateVirtualDisk page and the format
//! sheet; a raw image (our own vendor) only needs whole sectors of 512 bytes. What only the parent
//! or the source can answer (size, sector sizes, format) is left to the service.

use std::path::Path;

use super::{
    Checked, access_mask, failure, guid, invalid, is_fixed, known_bits, mask_for_version,
    not_empty, provider_flags, storage_type,
};
use crate::code::Code;
use crate::flags::{CreateFlags, OpenFlags};
use crate::frame::CreateRequest;
use crate::path::escaped;
use crate::storage_type::StorageType;

const KIB: u32 = 1024;
const MIB: u32 = 1024 * KIB;
/// Smallest disk of the Microsoft provider (R-CRE-4).
const SIZE_MINIMUM_BYTES: u64 = 3 * MIB as u64;
/// Largest VHD: 2040 GiB, 0xFF000000 sectors (R-CRE-15).
const VHD_SIZE_MAXIMUM_BYTES: u64 = 2040 << 30;
/// Largest VHDX: 64 TiB (R-CRE-15).
const VHDX_SIZE_MAXIMUM_BYTES: u64 = 64 << 40;
/// Largest raw image: what a file offset can say, in whole sectors.
const RAW_SIZE_MAXIMUM_BYTES: u64 = i64::MAX as u64 & !511;

/// Sizes of a new disk with the defaults filled in, bytes (R-CRE-8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Block size; 0 for a fixed disk.
    pub block_size: u32,
    /// Logical sector size.
    pub sector_size: u32,
    /// Physical sector size.
    pub physical_sector_size: u32,
}

/// Arguments of a create: version (R-CRE-1), mask against version (R-CRE-2), mask and flags
/// (R-CRE-3), type (R-CRE-22, R-PROV-5, R-CRE-17), paths (R-CRE-9), sector and block sizes
/// (R-CRE-7), size (R-CRE-4, R-CRE-5, R-CRE-15), then what is never made (50).
///
/// # Errors
/// 87; 0xC03A0014 for a type or extension that no provider knows; 0xC03A0012 above the format's
/// maximum; 50 for ISO, VHD Set, and a parent of a raw image.
pub fn create(request: &CreateRequest) -> Checked {
    let path = &request.path;
    not_empty(path)?;
    if !(1..=4).contains(&request.version) {
        return Err(invalid(
            path,
            format!("create version {} is not known", request.version),
        ));
    }
    access_mask(path, request.access_mask)?;
    mask_for_version(path, request.version, request.access_mask)?;
    known_bits(
        path,
        "create flags",
        request.flags,
        CreateFlags::all().bits(),
    )?;
    known_bits(
        path,
        "open flags",
        request.open_flags,
        OpenFlags::all().bits(),
    )?;
    provider_flags(path, request.provider_flags)?;
    guid(path, "unique id", &request.unique_id)?;
    let resiliency_guid = guid(path, "resiliency GUID", &request.resiliency_guid)?;
    let later = request.physical_sector_size != 0 || request.open_flags != 0;
    if request.version == 1 && (later || !resiliency_guid.is_nil()) {
        return Err(invalid(
            path,
            "a field of version 2 is filled in version 1 parameters",
        ));
    }
    let storage_type = create_type(request)?;
    paths(request, storage_type)?;
    let geometry = geometry(request)?;
    if request.parent_path.is_empty() {
        size(request, storage_type, geometry.sector_size)?;
    }
    offered(request, storage_type)
}

/// The type a create makes: the request's, or the extension's for UNKNOWN (R-PROV-1).
///
/// # Errors
/// 50 for ISO (R-CRE-22); 87 for VHDX and VHD Set with version 1 (R-CRE-17); 0xC03A0014 when
/// nobody knows the type or the extension.
pub fn create_type(request: &CreateRequest) -> Checked<StorageType> {
    let path = &request.path;
    let mut found = storage_type(path, request.device_id, &request.vendor_id)?;
    if found == StorageType::UNKNOWN {
        found = StorageType::from_extension(Path::new(path)).ok_or_else(|| {
            let what = "the extension names no type of disk";
            let failure = failure(Code::ERROR_VIRTDISK_PROVIDER_NOT_FOUND, path, what);
            super::hinted(failure, "name the type, or use .vhd or .img")
        })?;
    }
    if found == StorageType::ISO {
        let what = "an ISO image can't be created as a virtual disk";
        return Err(failure(Code::ERROR_NOT_SUPPORTED, path, what));
    }
    if request.version == 1 && [StorageType::VHDX, StorageType::VHDSET].contains(&found) {
        return Err(invalid(path, "a VHDX needs version 2 parameters"));
    }
    Ok(found)
}

/// Block and sector sizes, checked, with the format's defaults for 0 (R-CRE-7, R-CRE-8).
///
/// # Errors
/// 87 for a size that the format doesn't have; those of [`create_type`].
pub fn geometry(request: &CreateRequest) -> Checked<Geometry> {
    let vhdx = match create_type(request)? {
        StorageType::VHD => return vhd_geometry(request),
        StorageType::VHDX | StorageType::VHDSET => true,
        _ => false,
    };
    if !vhdx {
        let (block_size, sector_size) = (request.block_size, 512);
        one_of(request, "block size", block_size, &[0])?;
        one_of(request, "sector size", request.sector_size, &[0, 512])?;
        one_of(
            request,
            "physical sector size",
            request.physical_sector_size,
            &[0, 512],
        )?;
        return Ok(Geometry {
            block_size,
            sector_size,
            physical_sector_size: sector_size,
        });
    }
    one_of(request, "sector size", request.sector_size, &[0, 512, 4096])?;
    one_of(
        request,
        "physical sector size",
        request.physical_sector_size,
        &[0, 512, 4096],
    )?;
    let default = if request.parent_path.is_empty() {
        32 * MIB
    } else {
        2 * MIB
    };
    let block_size = match request.block_size {
        0 if is_fixed(request.flags) => 0,
        0 => default,
        size if !is_fixed(request.flags) && is_vhdx_block(size) => size,
        size => return Err(bad_size(request, "block size", size)),
    };
    let sector_size = match request.sector_size {
        0 => 512,
        size => size,
    };
    let physical_sector_size = match request.physical_sector_size {
        0 => 4096,
        size if size < sector_size => {
            return Err(bad_size(request, "physical sector size", size));
        }
        size => size,
    };
    Ok(Geometry {
        block_size,
        sector_size,
        physical_sector_size,
    })
}

fn vhd_geometry(request: &CreateRequest) -> Checked<Geometry> {
    one_of(request, "sector size", request.sector_size, &[0, 512])?;
    one_of(
        request,
        "physical sector size",
        request.physical_sector_size,
        &[0, 512],
    )?;
    let fixed = is_fixed(request.flags);
    let sizes: &[u32] = if fixed {
        &[0]
    } else {
        &[0, 512 * KIB, 2 * MIB]
    };
    one_of(request, "block size", request.block_size, sizes)?;
    let block_size = match request.block_size {
        0 if !fixed => 2 * MIB,
        size => size,
    };
    Ok(Geometry {
        block_size,
        sector_size: 512,
        physical_sector_size: 512,
    })
}

/// The virtual size of a copy: 0 takes the source's, a larger one is allowed (R-CRE-11).
///
/// # Errors
/// 87 when the disk would be smaller than its source.
pub fn source_size(path: &str, maximum_size: u64, source_size: u64) -> Checked<u64> {
    match maximum_size {
        0 => Ok(source_size),
        size if size >= source_size => Ok(size),
        size => {
            let what = format!("{size} bytes are less than the source's {source_size}");
            Err(invalid(path, what))
        }
    }
}

/// Parent and source (R-CRE-9). A disk with a parent is never fixed, and a raw image has none.
fn paths(request: &CreateRequest, storage_type: StorageType) -> Checked {
    let path = &request.path;
    let (parent, source) = (&request.parent_path, &request.source_path);
    if !parent.is_empty() && !source.is_empty() {
        return Err(invalid(path, "a disk has a parent or a source, not both"));
    }
    if !parent.is_empty() && request.maximum_size != 0 {
        return Err(invalid(
            path,
            "a disk with a parent has the parent's size; ask for 0",
        ));
    }
    if !parent.is_empty() && is_fixed(request.flags) {
        return Err(invalid(path, "a disk with a parent can't be fixed"));
    }
    if !parent.is_empty() && storage_type == StorageType::RAW {
        let what = "a raw image can't have a parent";
        return Err(failure(Code::ERROR_NOT_SUPPORTED, path, what));
    }
    for other in [parent, source] {
        if !other.is_empty() && !other.starts_with('/') {
            let what = format!("{} is not an absolute path", escaped(Path::new(other)));
            return Err(invalid(path, what));
        }
    }
    Ok(())
}

/// Virtual size of a disk without a parent; any multiple of the sector size is kept exactly
/// (R-CRE-6).
fn size(request: &CreateRequest, storage_type: StorageType, sector_size: u32) -> Checked {
    let (path, size) = (&request.path, request.maximum_size);
    if size == 0 && !request.source_path.is_empty() {
        return Ok(());
    }
    let (minimum, maximum) = match storage_type {
        StorageType::VHD => (SIZE_MINIMUM_BYTES, VHD_SIZE_MAXIMUM_BYTES),
        StorageType::VHDX | StorageType::VHDSET => (SIZE_MINIMUM_BYTES, VHDX_SIZE_MAXIMUM_BYTES),
        _ => (512, RAW_SIZE_MAXIMUM_BYTES),
    };
    if size < minimum {
        return Err(invalid(
            path,
            format!("{size} bytes are less than the minimum of {minimum}"),
        ));
    }
    if size % u64::from(sector_size) != 0 {
        let what = format!("{size} bytes are no multiple of the sector size {sector_size}");
        return Err(invalid(path, what));
    }
    if size > maximum {
        let what = format!("{size} bytes are more than the format's maximum of {maximum}");
        return Err(failure(Code::ERROR_VHD_INVALID_SIZE, path, what));
    }
    Ok(())
}

/// What passes every rule and can't be made: the layout of a VHD Set is not published.
fn offered(request: &CreateRequest, storage_type: StorageType) -> Checked {
    if storage_type == StorageType::VHDSET {
        let what = "VHD Set images can't be created";
        return Err(failure(Code::ERROR_NOT_SUPPORTED, &request.path, what));
    }
    Ok(())
}

fn is_vhdx_block(size: u32) -> bool {
    size.is_power_of_two() && (MIB..=256 * MIB).contains(&size)
}

fn one_of(request: &CreateRequest, name: &str, size: u32, sizes: &[u32]) -> Checked {
    if sizes.contains(&size) {
        Ok(())
    } else {
        Err(bad_size(request, name, size))
    }
}

fn bad_size(request: &CreateRequest, name: &str, size: u32) -> crate::frame::Failure {
    let what = format!("{name} {size} is not valid for this type of disk");
    invalid(&request.path, what)
}
