//! Where the words of the lower floors become Windows codes.
//!
//! Two total tables: what a format or a file says → code, and what the operating system says →
//! code. No catch-all arm, so a new kind does not compile until it has a code.

use std::io;

use virtdisk::Code;
use virtdisk_disk::ErrorKind;

/// The code for what a format says.
pub fn code_of_kind(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::FooterMissing => Code::ERROR_VHD_DRIVE_FOOTER_MISSING,
        ErrorKind::FooterChecksum => Code::ERROR_VHD_DRIVE_FOOTER_CHECKSUM_MISMATCH,
        ErrorKind::FooterCorrupt => Code::ERROR_VHD_DRIVE_FOOTER_CORRUPT,
        ErrorKind::FormatUnknown => Code::ERROR_VHD_FORMAT_UNKNOWN,
        ErrorKind::VersionUnsupported => Code::ERROR_VHD_FORMAT_UNSUPPORTED_VERSION,
        ErrorKind::HeaderChecksum => Code::ERROR_VHD_SPARSE_HEADER_CHECKSUM_MISMATCH,
        ErrorKind::HeaderVersion => Code::ERROR_VHD_SPARSE_HEADER_UNSUPPORTED_VERSION,
        ErrorKind::HeaderCorrupt => Code::ERROR_VHD_SPARSE_HEADER_CORRUPT,
        ErrorKind::BatCorrupt => Code::ERROR_VHD_BLOCK_ALLOCATION_TABLE_CORRUPT,
        ErrorKind::InvalidBlockSize => Code::ERROR_VHD_INVALID_BLOCK_SIZE,
        ErrorKind::BitmapMismatch => Code::ERROR_VHD_BITMAP_MISMATCH,
        ErrorKind::InvalidSize => Code::ERROR_VHD_INVALID_SIZE,
        ErrorKind::InvalidFileSize => Code::ERROR_VHD_INVALID_FILE_SIZE,
        ErrorKind::IsoCorrupt => Code::ERROR_FILE_CORRUPT,
        ErrorKind::UnsupportedFeature => Code::ERROR_NOT_SUPPORTED,
        ErrorKind::RegionCorrupt | ErrorKind::MetadataCorrupt | ErrorKind::LogCorrupt => {
            Code::ERROR_FILE_CORRUPT
        }
        ErrorKind::ParentMissing => Code::ERROR_VHD_PARENT_VHD_NOT_FOUND,
        ErrorKind::ParentMismatch => Code::ERROR_VHD_CHILD_PARENT_ID_MISMATCH,
        ErrorKind::ChainCycle => Code::ERROR_VHD_DIFFERENCING_CHAIN_CYCLE_DETECTED,
        ErrorKind::ReadOnly => Code::ERROR_WRITE_PROTECT,
        ErrorKind::OutOfRange => Code::ERROR_HANDLE_EOF,
        ErrorKind::InvalidParameter => Code::ERROR_INVALID_PARAMETER,
        ErrorKind::NoSpace => Code::ERROR_DISK_FULL,
        ErrorKind::WritesRefused => Code::ERROR_VHD_METADATA_WRITE_FAILURE,
        ErrorKind::Io => Code::ERROR_VHD_METADATA_READ_FAILURE,
    }
}

/// The code for what the operating system says while a device is made or freed.
pub fn code_of_io(error: &io::Error) -> Code {
    match error.kind() {
        io::ErrorKind::PermissionDenied => Code::ERROR_ACCESS_DENIED,
        io::ErrorKind::StorageFull => Code::ERROR_DISK_FULL,
        io::ErrorKind::OutOfMemory => Code::ERROR_NOT_ENOUGH_MEMORY,
        io::ErrorKind::ReadOnlyFilesystem => Code::ERROR_WRITE_PROTECT,
        io::ErrorKind::ResourceBusy => Code::ERROR_BUSY,
        // 21 would say that the disk is not attached.
        _ => Code::ERROR_GEN_FAILURE,
    }
}
