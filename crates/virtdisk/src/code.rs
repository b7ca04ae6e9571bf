//! Windows error codes: every number the API answers, and what host errors become.
//!
//! Names and numbers are those of `winerror.h` (API sheet, section 3). Nine general codes are added
//! for what a driver call has no word for: the service is missing, silent or talks nonsense, and
//! host errors. NTSTATUS twins carry other numbers and are not used.

use std::fmt;
use std::io;

use rustix::io::Errno;

/// A Windows error number. Any `u32` can be carried; the named ones are constants.
///
/// ```
/// use virtdisk::Code;
///
/// assert_eq!(Code::ERROR_BUSY.to_string(), "ERROR_BUSY (170)");
/// assert_eq!(Code(0xC03A_0012).name(), Some("ERROR_VHD_INVALID_SIZE"));
///
/// let missing = std::fs::File::open("/no/such/file").unwrap_err();
/// assert_eq!(Code::from(missing), Code::ERROR_FILE_NOT_FOUND);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code(pub u32);

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        #[allow(missing_docs, reason = "every row below has its line")]
        impl Code {
            $($(#[$doc])* pub const $name: Self = Self($number);)*

            /// Every code that has a name, in the order of the table, with that name.
            pub const TABLE: &'static [(&'static str, Self)] =
                &[$((stringify!($name), Self($number)),)*];
        }
    };
}

codes! {
    /// Done.
    ERROR_SUCCESS = 0,
    /// The image is missing.
    ERROR_FILE_NOT_FOUND = 2,
    /// The directory is missing.
    ERROR_PATH_NOT_FOUND = 3,
    /// Out of file descriptors.
    ERROR_TOO_MANY_OPEN_FILES = 4,
    /// File permissions, or the handle lacks the right.
    ERROR_ACCESS_DENIED = 5,
    /// Dead handle; this API answers 87 instead.
    ERROR_INVALID_HANDLE = 6,
    /// Allocation.
    ERROR_NOT_ENOUGH_MEMORY = 8,
    /// The service answered something that is no answer.
    ERROR_INVALID_DATA = 13,
    /// Allocation.
    ERROR_OUTOFMEMORY = 14,
    /// Writing asked for on read-only media.
    ERROR_WRITE_PROTECT = 19,
    /// Detach: the disk is not attached.
    ERROR_NOT_READY = 21,
    /// Not valid in the present state.
    ERROR_BAD_COMMAND = 22,
    /// A failure without a better number.
    ERROR_GEN_FAILURE = 31,
    /// Conflicting open or attach of the same image.
    ERROR_SHARING_VIOLATION = 32,
    /// Byte-range conflict on the image.
    ERROR_LOCK_VIOLATION = 33,
    /// Beyond the end.
    ERROR_HANDLE_EOF = 38,
    /// Operation or flag not known for this image or system.
    ERROR_NOT_SUPPORTED = 50,
    /// Physical path: the disk is not attached.
    ERROR_DEV_NOT_EXIST = 55,
    /// Create: the target exists.
    ERROR_FILE_EXISTS = 80,
    /// An argument is wrong.
    ERROR_INVALID_PARAMETER = 87,
    /// The service closed the connection.
    ERROR_BROKEN_PIPE = 109,
    /// Host out of space.
    ERROR_DISK_FULL = 112,
    /// Not implemented.
    ERROR_CALL_NOT_IMPLEMENTED = 120,
    /// The buffer is too small; the size needed is answered.
    ERROR_INSUFFICIENT_BUFFER = 122,
    /// Malformed path.
    ERROR_INVALID_NAME = 123,
    /// Dependency information: version 0.
    ERROR_INVALID_LEVEL = 124,
    /// The device is in use.
    ERROR_BUSY = 170,
    /// Alternative to 80 in wrappers.
    ERROR_ALREADY_EXISTS = 183,
    /// Larger than the file system allows.
    ERROR_FILE_TOO_LARGE = 223,
    /// Metadata: small buffer, as the samples check it.
    ERROR_MORE_DATA = 234,
    /// Image file compressed, as the OpenVirtualDisk page says.
    ERROR_UNSUPPORTED_COMPRESSION = 618,
    /// Image reached through a share of this machine.
    ERROR_FILE_SYSTEM_LIMITATION = 665,
    /// The operation was cancelled.
    ERROR_OPERATION_ABORTED = 995,
    /// Overlapped operation not finished yet.
    ERROR_IO_INCOMPLETE = 996,
    /// Overlapped operation started.
    ERROR_IO_PENDING = 997,
    /// The service program is not installed.
    ERROR_SERVICE_DOES_NOT_EXIST = 1060,
    /// The service can not be reached or started.
    ERROR_SERVICE_NOT_ACTIVE = 1062,
    /// The host reports an I/O error.
    ERROR_IO_DEVICE = 1117,
    /// Element not found.
    ERROR_NOT_FOUND = 1168,
    /// Cancelled by the user.
    ERROR_CANCELLED = 1223,
    /// The privilege to attach and detach is missing.
    ERROR_PRIVILEGE_NOT_HELD = 1314,
    /// No plausible ISO image.
    ERROR_FILE_CORRUPT = 1392,
    /// Too many symbolic links.
    ERROR_CANT_RESOLVE_FILENAME = 1921,
    /// Image file encrypted, as the OpenVirtualDisk page says.
    ERROR_FILE_ENCRYPTED = 6002,
    /// Warning: querying dependency info failed for some reason.
    ERROR_QUERY_STORAGE_ERROR = 0x803A_0001,
    /// No VHD footer found.
    ERROR_VHD_DRIVE_FOOTER_MISSING = 0xC03A_0001,
    /// Footer checksum wrong.
    ERROR_VHD_DRIVE_FOOTER_CHECKSUM_MISMATCH = 0xC03A_0002,
    /// Footer contents invalid.
    ERROR_VHD_DRIVE_FOOTER_CORRUPT = 0xC03A_0003,
    /// Format not recognised.
    ERROR_VHD_FORMAT_UNKNOWN = 0xC03A_0004,
    /// Format version not supported.
    ERROR_VHD_FORMAT_UNSUPPORTED_VERSION = 0xC03A_0005,
    /// Dynamic header checksum wrong.
    ERROR_VHD_SPARSE_HEADER_CHECKSUM_MISMATCH = 0xC03A_0006,
    /// Dynamic header version.
    ERROR_VHD_SPARSE_HEADER_UNSUPPORTED_VERSION = 0xC03A_0007,
    /// Dynamic header invalid.
    ERROR_VHD_SPARSE_HEADER_CORRUPT = 0xC03A_0008,
    /// Could not allocate a new block.
    ERROR_VHD_BLOCK_ALLOCATION_FAILURE = 0xC03A_0009,
    /// BAT invalid.
    ERROR_VHD_BLOCK_ALLOCATION_TABLE_CORRUPT = 0xC03A_000A,
    /// Block size invalid.
    ERROR_VHD_INVALID_BLOCK_SIZE = 0xC03A_000B,
    /// Block bitmap disagrees with data.
    ERROR_VHD_BITMAP_MISMATCH = 0xC03A_000C,
    /// Parent missing.
    ERROR_VHD_PARENT_VHD_NOT_FOUND = 0xC03A_000D,
    /// Parent GUID differs.
    ERROR_VHD_CHILD_PARENT_ID_MISMATCH = 0xC03A_000E,
    /// Parent timestamp differs.
    ERROR_VHD_CHILD_PARENT_TIMESTAMP_MISMATCH = 0xC03A_000F,
    /// Could not read image metadata.
    ERROR_VHD_METADATA_READ_FAILURE = 0xC03A_0010,
    /// Could not write image metadata.
    ERROR_VHD_METADATA_WRITE_FAILURE = 0xC03A_0011,
    /// Virtual size invalid.
    ERROR_VHD_INVALID_SIZE = 0xC03A_0012,
    /// File size invalid.
    ERROR_VHD_INVALID_FILE_SIZE = 0xC03A_0013,
    /// No provider for this file (also when the driver is missing).
    ERROR_VIRTDISK_PROVIDER_NOT_FOUND = 0xC03A_0014,
    /// Object is not a virtual disk.
    ERROR_VIRTDISK_NOT_VIRTUAL_DISK = 0xC03A_0015,
    /// Parent not accessible.
    ERROR_VHD_PARENT_VHD_ACCESS_DENIED = 0xC03A_0016,
    /// Sizes differ.
    ERROR_VHD_CHILD_PARENT_SIZE_MISMATCH = 0xC03A_0017,
    /// Chain loops.
    ERROR_VHD_DIFFERENCING_CHAIN_CYCLE_DETECTED = 0xC03A_0018,
    /// Failure inside an ancestor.
    ERROR_VHD_DIFFERENCING_CHAIN_ERROR_IN_PARENT = 0xC03A_0019,
    /// Image file compressed or encrypted.
    ERROR_VIRTUAL_DISK_LIMITATION = 0xC03A_001A,
    /// Not applicable to this type of disk.
    ERROR_VHD_INVALID_TYPE = 0xC03A_001B,
    /// Operation not applicable in this state.
    ERROR_VHD_INVALID_STATE = 0xC03A_001C,
    /// Sector size of the physical disk not supported.
    ERROR_VIRTDISK_UNSUPPORTED_DISK_SECTOR_SIZE = 0xC03A_001D,
    /// Source disk already owned.
    ERROR_VIRTDISK_DISK_ALREADY_OWNED = 0xC03A_001E,
    /// Source disk must be offline or read-only.
    ERROR_VIRTDISK_DISK_ONLINE_AND_WRITABLE = 0xC03A_001F,
    /// Change tracking not initialised.
    ERROR_CTLOG_TRACKING_NOT_INITIALIZED = 0xC03A_0020,
    /// Tracking log too large.
    ERROR_CTLOG_LOGFILE_SIZE_EXCEEDED_MAXSIZE = 0xC03A_0021,
    /// Image changed while tracking was off.
    ERROR_CTLOG_VHD_CHANGED_OFFLINE = 0xC03A_0022,
    /// Tracking operation not allowed now.
    ERROR_CTLOG_INVALID_TRACKING_STATE = 0xC03A_0023,
    /// Tracking file inconsistent.
    ERROR_CTLOG_INCONSISTENT_TRACKING_FILE = 0xC03A_0024,
    /// Shrink would cut a partition (NTSTATUS 0xC03A0031).
    ERROR_VHD_RESIZE_WOULD_TRUNCATE_DATA = 0xC03A_0025,
    /// No safe size computable (NTSTATUS 0xC03A0032).
    ERROR_VHD_COULD_NOT_COMPUTE_MINIMUM_VIRTUAL_SIZE = 0xC03A_0026,
    /// Nothing left to shrink (NTSTATUS 0xC03A0033).
    ERROR_VHD_ALREADY_AT_OR_BELOW_MINIMUM_VIRTUAL_SIZE = 0xC03A_0027,
    /// No room for the metadata item.
    ERROR_VHD_METADATA_FULL = 0xC03A_0028,
    /// Unknown tracking id.
    ERROR_VHD_INVALID_CHANGE_TRACKING_ID = 0xC03A_0029,
    /// Tracking disabled.
    ERROR_VHD_CHANGE_TRACKING_DISABLED = 0xC03A_002A,
    /// Tracking information absent.
    ERROR_VHD_MISSING_CHANGE_TRACKING_INFORMATION = 0xC03A_0030,
    /// Image id not the expected one.
    ERROR_VHD_UNEXPECTED_ID = 0xC03A_0034,
}

impl Code {
    /// The name in `winerror.h`, when this table has it.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        Self::TABLE
            .iter()
            .find(|(_, code)| *code == self)
            .map(|(name, _)| *name)
    }

    /// The code of a host error. Errors without an errno are judged by their kind; whatever has
    /// no counterpart becomes [`Code::ERROR_GEN_FAILURE`]. Never 0.
    #[must_use]
    pub fn from_io(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(number) if (1..4096).contains(&number) => {
                Self::from_errno(Errno::from_raw_os_error(number))
            }
            Some(_) => Self::ERROR_GEN_FAILURE,
            None => Self::from_kind(error.kind()),
        }
    }

    /// The code of an errno, as in [`Code::from_io`].
    fn from_errno(errno: Errno) -> Self {
        match errno {
            Errno::NOENT => Self::ERROR_FILE_NOT_FOUND,
            Errno::NOTDIR => Self::ERROR_PATH_NOT_FOUND,
            Errno::ACCESS | Errno::PERM | Errno::ISDIR => Self::ERROR_ACCESS_DENIED,
            Errno::ROFS => Self::ERROR_WRITE_PROTECT,
            Errno::EXIST => Self::ERROR_FILE_EXISTS,
            Errno::NAMETOOLONG => Self::ERROR_INVALID_NAME,
            Errno::LOOP => Self::ERROR_CANT_RESOLVE_FILENAME,
            Errno::INVAL => Self::ERROR_INVALID_PARAMETER,
            Errno::NOSPC | Errno::DQUOT => Self::ERROR_DISK_FULL,
            Errno::FBIG => Self::ERROR_FILE_TOO_LARGE,
            Errno::NOMEM => Self::ERROR_NOT_ENOUGH_MEMORY,
            Errno::MFILE | Errno::NFILE => Self::ERROR_TOO_MANY_OPEN_FILES,
            Errno::BUSY => Self::ERROR_BUSY,
            Errno::TXTBSY => Self::ERROR_SHARING_VIOLATION,
            Errno::AGAIN => Self::ERROR_LOCK_VIOLATION,
            Errno::NODEV | Errno::NXIO => Self::ERROR_DEV_NOT_EXIST,
            Errno::IO => Self::ERROR_IO_DEVICE,
            Errno::PIPE | Errno::CONNRESET => Self::ERROR_BROKEN_PIPE,
            Errno::CONNREFUSED => Self::ERROR_SERVICE_NOT_ACTIVE,
            Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOTTY => Self::ERROR_NOT_SUPPORTED,
            Errno::CANCELED => Self::ERROR_OPERATION_ABORTED,
            _ => Self::ERROR_GEN_FAILURE,
        }
    }

    /// The code of an error that carries no errno.
    fn from_kind(kind: io::ErrorKind) -> Self {
        match kind {
            io::ErrorKind::NotFound => Self::ERROR_FILE_NOT_FOUND,
            io::ErrorKind::PermissionDenied => Self::ERROR_ACCESS_DENIED,
            io::ErrorKind::AlreadyExists => Self::ERROR_FILE_EXISTS,
            io::ErrorKind::InvalidInput => Self::ERROR_INVALID_PARAMETER,
            io::ErrorKind::InvalidData => Self::ERROR_INVALID_DATA,
            io::ErrorKind::UnexpectedEof => Self::ERROR_HANDLE_EOF,
            io::ErrorKind::OutOfMemory => Self::ERROR_NOT_ENOUGH_MEMORY,
            io::ErrorKind::Unsupported => Self::ERROR_NOT_SUPPORTED,
            io::ErrorKind::StorageFull => Self::ERROR_DISK_FULL,
            _ => Self::ERROR_GEN_FAILURE,
        }
    }
}

impl From<&io::Error> for Code {
    fn from(error: &io::Error) -> Self {
        Self::from_io(error)
    }
}

impl From<io::Error> for Code {
    fn from(error: io::Error) -> Self {
        Self::from_io(&error)
    }
}

impl From<u32> for Code {
    fn from(number: u32) -> Self {
        Self(number)
    }
}

impl From<Code> for u32 {
    fn from(code: Code) -> Self {
        code.0
    }
}

impl fmt::Display for Code {
    /// `ERROR_BUSY (170)`, `ERROR_VHD_INVALID_SIZE (0xC03A0012)`, `error 4711`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.0;
        match (self.name(), number >= 0x8000_0000) {
            (Some(name), false) => write!(f, "{name} ({number})"),
            (Some(name), true) => write!(f, "{name} (0x{number:08X})"),
            (None, false) => write!(f, "error {number}"),
            (None, true) => write!(f, "error 0x{number:08X}"),
        }
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_shows_name_and_number() {
        assert_eq!(Code::ERROR_BUSY.to_string(), "ERROR_BUSY (170)");
        let hex = Code::ERROR_VHD_INVALID_SIZE.to_string();
        assert_eq!(hex, "ERROR_VHD_INVALID_SIZE (0xC03A0012)");
        assert_eq!(Code(4711).to_string(), "error 4711");
        assert_eq!(Code(0xC03A_00FF).to_string(), "error 0xC03A00FF");
    }

    #[test]
    fn names_and_numbers_are_unique() {
        for (index, (name, code)) in Code::TABLE.iter().enumerate() {
            for (other_name, other) in &Code::TABLE[index + 1..] {
                assert_ne!(name, other_name);
                assert_ne!(code, other, "{name}");
            }
        }
    }

    #[test]
    fn every_errno_has_a_code_that_is_not_success() {
        for errno in [i32::MIN, -1, 0, 4095, 4096, i32::MAX]
            .into_iter()
            .chain(1..134)
        {
            let code = Code::from_io(&io::Error::from_raw_os_error(errno));
            assert_ne!(code, Code::ERROR_SUCCESS);
        }
        for (errno, number) in [
            (2, 2),
            (13, 5),
            (1, 5),
            (30, 19),
            (21, 5),
            (17, 80),
            (36, 123),
            (28, 112),
            (20, 3),
        ] {
            assert_eq!(
                Code::from_io(&io::Error::from_raw_os_error(errno)),
                Code(number)
            );
        }
    }
}
