//! What the disk floor says, in the words of the API: a Windows code and a sentence.
//!
//! The offline verbs (convert, hash, diff, map) open images themselves, so their errors come from
//! below; they read like those of the service, which has the same table. No catch-all arm, so a
//! new kind does not compile until it has a code.

use std::error::Error as _;
use std::fmt::Write as _;
use std::path::Path;

use virtdisk::Code;
use virtdisk_disk::ErrorKind;
use virtdisk_disk::lock::Conflict;
use virtdisk_disk::work::Stopped;

use crate::failure::Failure;

/// The code for what a format says.
pub(crate) fn code_of_kind(kind: ErrorKind) -> Code {
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
        ErrorKind::IsoCorrupt
        | ErrorKind::RegionCorrupt
        | ErrorKind::MetadataCorrupt
        | ErrorKind::LogCorrupt => Code::ERROR_FILE_CORRUPT,
        ErrorKind::UnsupportedFeature => Code::ERROR_NOT_SUPPORTED,
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

impl From<virtdisk_disk::Error> for Failure {
    fn from(error: virtdisk_disk::Error) -> Failure {
        let mut sentence = error.to_string();
        let mut cause = error.source();
        while let Some(source) = cause {
            let _ = write!(sentence, ": {source}");
            cause = source.source();
        }
        virtdisk::Error::new(code_of_kind(error.kind()), sentence).into()
    }
}

/// A failure of work on `name`.
pub(crate) fn of_work(name: &Path, stopped: Stopped) -> Failure {
    let name = name.display();
    match stopped {
        Stopped::Disk(error) => error.into(),
        // Whoever reads our stdout is done with us.
        Stopped::Stream(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            Failure::closed_pipe()
        }
        Stopped::Stream(error) => {
            virtdisk::Error::from_io("standard output can't be written", error).into()
        }
        _ => {
            let message = format!("{name}: interrupted, nothing was changed");
            virtdisk::Error::new(Code::ERROR_OPERATION_ABORTED, message).into()
        }
    }
}

/// A failure to lock `name`.
pub(crate) fn of_lock(name: &Path, conflict: Conflict) -> Failure {
    let message = format!("{}: {conflict}", name.display());
    match conflict {
        Conflict::InUse { .. } => {
            virtdisk::Error::new(Code::ERROR_SHARING_VIOLATION, message).into()
        }
        Conflict::Io(error) => virtdisk::Error::from_io(message, error).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_a_disk_has_the_name_of_its_code() {
        let file = tempfile::tempfile().unwrap();
        let options = virtdisk_disk::OpenOptions {
            extension: Some("vhd".into()),
            ..Default::default()
        };
        file.set_len(4096).unwrap();
        let error = virtdisk_disk::Disk::open(file, "a.vhd", &options)
            .err()
            .unwrap();
        let failure = Failure::from(error);
        assert_eq!(failure.code(), Some(Code::ERROR_VHD_DRIVE_FOOTER_MISSING));
    }
}
