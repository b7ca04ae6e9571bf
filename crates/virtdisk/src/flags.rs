//! Access mask and flags under their Windows names (API sheet 2.2 to 2.7).
//!
//! Bits that no name covers can be carried (`from_bits_retain`) and are refused with 87 by
//! [`crate::check`], here and in the service.

use bitflags::bitflags;

bitflags! {
    /// `VIRTUAL_DISK_ACCESS_MASK`: rights of a handle opened with version 1 parameters; must be
    /// [`AccessMask::NONE`] with later versions (API sheet 2.2).
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
    pub struct AccessMask: u32 {
        /// The only value for versions 2 and up.
        const NONE = 0;
        /// Attach read-only.
        const ATTACH_RO = 0x0001_0000;
        /// Attach read-write.
        const ATTACH_RW = 0x0002_0000;
        /// Detach.
        const DETACH = 0x0004_0000;
        /// Query information.
        const GET_INFO = 0x0008_0000;
        /// Create.
        const CREATE = 0x0010_0000;
        /// Offline work: compact, merge, expand, set information.
        const METAOPS = 0x0020_0000;
        /// ATTACH_RO, DETACH and GET_INFO.
        const READ = 0x000D_0000;
        /// Every right that needs a writable image: ATTACH_RW, CREATE, METAOPS.
        const WRITABLE = 0x0032_0000;
        /// Every right.
        const ALL = 0x003F_0000;
    }

    /// `OPEN_VIRTUAL_DISK_FLAG` (API sheet 2.4).
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
    pub struct OpenFlags: u32 {
        /// No flag.
        const NONE = 0;
        /// Open only the given file of a chain.
        const NO_PARENTS = 0x001;
        /// The file is empty, skip verification. Reserved.
        const BLANK_FILE = 0x002;
        /// Boot from VHD. Reserved.
        const BOOT_DRIVE = 0x004;
        /// Buffered access to the image file.
        const CACHED_IO = 0x008;
        /// The chain is supplied with AddVirtualDiskParent.
        const CUSTOM_DIFF_CHAIN = 0x010;
        /// Buffered access to every file of the chain but the leaf.
        const PARENT_CACHED_IO = 0x020;
        /// Open the VHD Set file without a disk in it.
        const VHDSET_FILE_ONLY = 0x040;
        /// Don't use relative locators when searching the parent.
        const IGNORE_RELATIVE_PARENT_LOCATOR = 0x080;
        /// No flush of the image files.
        const NO_WRITE_HARDENING = 0x100;
        /// Accept an image on a compressed file.
        const SUPPORT_COMPRESSED_VOLUMES = 0x200;
        /// Accept an image on a sparse file. Always so on Linux.
        const SUPPORT_SPARSE_FILES_ANY_FS = 0x400;
        /// Accept an image on an encrypted file.
        const SUPPORT_ENCRYPTED_FILES = 0x800;
    }

    /// `CREATE_VIRTUAL_DISK_FLAG` (API sheet 2.5).
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
    pub struct CreateFlags: u32 {
        /// Dynamic, or differencing when there is a parent.
        const NONE = 0;
        /// Fixed: all space is allocated.
        const FULL_PHYSICAL_ALLOCATION = 0x001;
        /// Take ownership of a physical source disk during the copy.
        const PREVENT_WRITES_TO_SOURCE_DISK = 0x002;
        /// The parent is a stand-in: inherit nothing from it.
        const DO_NOT_COPY_METADATA_FROM_PARENT = 0x004;
        /// Create the backing storage disk too.
        const CREATE_BACKING_STORAGE = 0x008;
        /// The source limit path is a change tracking id.
        const USE_CHANGE_TRACKING_SOURCE_LIMIT = 0x010;
        /// The same bit under its older name.
        const USE_RCT_SOURCE_LIMIT = 0x010;
        /// The child inherits change tracking.
        const PRESERVE_PARENT_CHANGE_TRACKING_STATE = 0x020;
        /// VHD Set from a source: adopt the file instead of copying it.
        const VHD_SET_USE_ORIGINAL_BACKING_STORAGE = 0x040;
        /// Fixed disk on a sparse file.
        const SPARSE_FILE = 0x080;
        /// Usable as persistent memory.
        const PMEM_COMPATIBLE = 0x100;
        /// Allow creation on a compressed volume.
        const SUPPORT_COMPRESSED_VOLUMES = 0x200;
        /// Companion of SPARSE_FILE. Always so on Linux.
        const SUPPORT_SPARSE_FILES_ANY_FS = 0x400;
    }

    /// `ATTACH_VIRTUAL_DISK_FLAG` (API sheet 2.6).
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
    pub struct AttachFlags: u32 {
        /// No flag. Not allowed for ISO.
        const NONE = 0;
        /// Read-only device. Mandatory for ISO.
        const READ_ONLY = 0x001;
        /// Nothing is mounted. Always so on Linux.
        const NO_DRIVE_LETTER = 0x002;
        /// Stays attached when all handles are closed, until it is detached.
        const PERMANENT_LIFETIME = 0x004;
        /// No block device: the disk is answered as a file.
        const NO_LOCAL_HOST = 0x008;
        /// The device node keeps the system's default owner and mode.
        const NO_SECURITY_DESCRIPTOR = 0x010;
        /// No default volume encryption policy.
        const BYPASS_DEFAULT_ENCRYPTION_POLICY = 0x020;
        /// Not a plug-and-play device.
        const NON_PNP = 0x040;
        /// Show only the range of version 2 parameters.
        const RESTRICTED_RANGE = 0x080;
        /// Show only the one data partition.
        const SINGLE_PARTITION = 0x100;
        /// Register the disk as a volume.
        const REGISTER_VOLUME = 0x200;
        /// Attach again at every boot.
        const AT_BOOT = 0x400;
    }

    /// `DETACH_VIRTUAL_DISK_FLAG` (API sheet 2.7): no flag was ever defined.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
    pub struct DetachFlags: u32 {
        /// The only value.
        const NONE = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compositions_and_sums_are_those_of_the_header() {
        let read = AccessMask::ATTACH_RO | AccessMask::DETACH | AccessMask::GET_INFO;
        assert_eq!(AccessMask::READ, read);
        let writable = AccessMask::ATTACH_RW | AccessMask::CREATE | AccessMask::METAOPS;
        assert_eq!(AccessMask::WRITABLE, writable);
        assert_eq!(AccessMask::all(), AccessMask::ALL);
        assert_eq!(OpenFlags::all().bits(), 0xFFF);
        assert_eq!(CreateFlags::all().bits(), 0x7FF);
        assert_eq!(AttachFlags::all().bits(), 0x7FF);
        assert_eq!(DetachFlags::all().bits(), 0);
    }
}
