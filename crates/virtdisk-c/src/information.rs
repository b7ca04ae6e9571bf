//! Information classes: which bytes of the answer each fact becomes (API sheet 1.12, R-INFO-1..11).
//!
//! Every class is built whole, in memory, before a byte of the caller's buffer is touched; its
//! length is exact. What a type of disk has no answer to is an error and never a guess: an ISO
//! image knows its size and its type, a disk without parent has no parent facts.

use api::{Code, Information, StorageType, Uuid};

use crate::fence::{Failed, INVALID, Outcome};
use crate::letter;

/// Provider subtype of a differencing disk.
const DIFFERENCING: u32 = 4;
/// Not for this type of disk.
const TYPE: Failed = Failed(Code::ERROR_VHD_INVALID_TYPE);

/// The facts of a class, from byte 8 of `GET_VIRTUAL_DISK_INFO` on.
///
/// # Errors
/// 87 for class 0 and unknown classes (R-INFO-2); 0xC03A001B for a class that this type of disk
/// does not have (R-INFO-5, R-INFO-11); 0xC03A0026 when there is no safe size; 13 when the service
/// answered a GUID that is none.
pub(crate) fn facts(class: u32, disk: &Information) -> Outcome<Vec<u8>> {
    let storage_type = StorageType::new(disk.device_id, guid(&disk.vendor_id)?);
    if storage_type == StorageType::ISO && ![1, 6].contains(&class) {
        return if is_known(class) {
            Err(TYPE)
        } else {
            Err(INVALID)
        };
    }
    let boolean = |value: bool| Ok(u32::from(value).to_ne_bytes().to_vec());
    let number = |value: u32| Ok(value.to_ne_bytes().to_vec());
    match class {
        1 => Ok(size(disk)),
        2 => identity(&disk.identifier),
        // R-INFO-5
        3..=5 if disk.subtype != DIFFERENCING => Err(TYPE),
        3 => Ok(parent_location(disk)),
        4 => identity(&disk.parent_identifier),
        5 => number(disk.parent_timestamp),
        6 => {
            let mut bytes = storage_type.device_id.to_ne_bytes().to_vec();
            bytes.extend(storage_type.vendor_id.to_bytes_le());
            Ok(bytes)
        }
        7 => number(disk.subtype),
        8 => boolean(disk.is_4k_aligned),
        9 => {
            let sizes = [
                disk.host_logical_sector_size,
                disk.host_physical_sector_size,
            ];
            let words = [sizes[0], sizes[1], u32::from(disk.is_remote)];
            Ok(words.iter().flat_map(|word| word.to_ne_bytes()).collect())
        }
        10 => number(disk.physical_sector_size),
        11 => match disk.smallest_safe_size {
            Some(size) => Ok(size.to_ne_bytes().to_vec()),
            None => Err(Code::ERROR_VHD_COULD_NOT_COMPUTE_MINIMUM_VIRTUAL_SIZE.into()),
        },
        12 => number(disk.fragmentation.ok_or(TYPE)?),
        13 => boolean(disk.is_loaded),
        14 => identity(&disk.virtual_disk_id),
        // Change tracking is off, nothing newer, and an empty UTF-16 text.
        15 => Ok(vec![0; 10]),
        _ => Err(INVALID),
    }
}

/// True for the classes of the header but UNSPECIFIED.
pub(crate) fn is_known(class: u32) -> bool {
    (1..=15).contains(&class)
}

fn size(disk: &Information) -> Vec<u8> {
    let mut bytes = disk.virtual_size.to_ne_bytes().to_vec();
    bytes.extend(disk.physical_size.to_ne_bytes());
    bytes.extend(disk.block_size.to_ne_bytes());
    bytes.extend(disk.sector_size.to_ne_bytes());
    bytes
}

/// Whether the parent is open, and its path; or every place where it may be (R-INFO-6). UTF-16.
fn parent_location(disk: &Information) -> Vec<u8> {
    let found = disk.parents.first().filter(|_| disk.parent_resolved);
    let letters = match found {
        Some(path) => letter::list::<u16>([path.as_str()], false),
        None => letter::list(disk.parent_hints.iter().map(String::as_str), true),
    };
    let mut bytes = u32::from(found.is_some()).to_ne_bytes().to_vec();
    bytes.extend(letters.iter().flat_map(|letter| letter.to_ne_bytes()));
    bytes
}

/// A GUID that the format must have.
fn identity(text: &str) -> Outcome<Vec<u8>> {
    match guid(text)? {
        guid if guid.is_nil() => Err(TYPE),
        guid => Ok(guid.to_bytes_le().to_vec()),
    }
}

fn guid(text: &str) -> Outcome<Uuid> {
    Uuid::try_parse(text).map_err(|_| Code::ERROR_INVALID_DATA.into())
}

#[cfg(test)]
#[path = "../tests/unit/information.rs"]
mod tests;
