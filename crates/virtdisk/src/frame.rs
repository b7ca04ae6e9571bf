//! The words that cross the service's socket: one request and one reply type per method.
//!
//! The service speaks Varlink: JSON objects ended by a NUL byte on a Unix stream socket, file
//! descriptors beside them. One connection is one handle. Every method takes one parameter,
//! `request`, and answers one object; every failure is [`Failure`], sent as the Varlink error
//! [`FAILED`]. Numbers are the Windows numbers; sizes are bytes; GUIDs are lower-case text
//! without braces.

use serde::{Deserialize, Serialize};

/// Name of the Varlink interface.
pub const INTERFACE: &str = "io.virtdisk";
/// Full name of the only error of the interface.
pub const FAILED: &str = "io.virtdisk.Failed";
/// Longest message either side accepts, in bytes.
pub const MESSAGE_LIMIT_BYTES: usize = 256 * 1024;
/// File name of the socket inside the runtime directory.
pub const SOCKET_NAME: &str = "socket";

macro_rules! words {
    ($introspection:ident: $($(#[$meta:meta])* struct $name:ident {
        $($(#[$fm:meta])* $field:ident: $ty:ty,)*
    })*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[cfg_attr(feature = "introspection", derive(zlink::introspect::$introspection))]
        pub struct $name { $($(#[$fm])* pub $field: $ty,)* }
    )*};
}

// What is asked, and what answers are made of: named types in the interface description.
words! {
    CustomType:
    /// `Open`, with one fd: the image, opened by the caller with the caller's own rights
    /// (read-only, or read-write where the access asks to write). The connection becomes the
    /// handle.
    struct OpenRequest {
        /// Absolute path as the caller named it; used for its extension only.
        path: String,
        /// `VIRTUAL_STORAGE_TYPE_DEVICE_*`.
        device_id: u32,
        /// Vendor GUID.
        vendor_id: String,
        /// `VIRTUAL_DISK_ACCESS_MASK`; 0 for versions 2 and 3.
        access_mask: u32,
        /// `OPEN_VIRTUAL_DISK_FLAG`.
        flags: u32,
        /// 1, 2 or 3.
        version: u32,
        /// Version 1: stores opened read-write, counted from the child.
        rw_depth: u32,
        /// Versions 2, 3: handle for queries only.
        get_info_only: bool,
        /// Versions 2, 3: backing store read-only.
        read_only: bool,
        /// Versions 2, 3: identity of the open.
        resiliency_guid: String,
    }
    /// `OpenParent`, with one fd: a file that may be the parent that `OpenReply.need_parent` asks
    /// for, opened for reading by the caller with the caller's own rights. On a handle that was
    /// opened with CUSTOM_DIFF_CHAIN: the next parent of its chain (AddVirtualDiskParent).
    struct OpenParentRequest {
        /// Absolute path as the caller named it; used for its extension only.
        path: String,
    }
    /// The parent that an image names and that has not been sent yet.
    struct NeededParent {
        /// How many parents of the chain were found: 0 asks for the leaf's own parent.
        depth: u32,
        /// Name of the file whose parent is missing.
        child: String,
        /// "vhd" or "vhdx": what the parent must be.
        format: String,
        /// The parent's id is one of these.
        identities: Vec<String>,
        /// Where it may be, in the order in which to look. Paths of another system, written by
        /// whoever wrote the image: never to be opened as they stand.
        hints: Vec<ParentHint>,
        /// Why the file that was sent last is not this parent; 0 when none was sent.
        rejected_code: u32,
        /// The same as a sentence.
        rejected: String,
    }
    /// One place where a parent may be, as its child says it.
    struct ParentHint {
        /// "relative", "absolute", "volume", "url" or "name".
        kind: String,
        /// The text.
        text: String,
    }
    /// `Create`, with one fd: a new, empty file opened read-write by the caller, who removes
    /// it when the answer is a failure; and a second one, opened for reading, when there is a
    /// parent or a source. The connection becomes the handle.
    struct CreateRequest {
        /// Absolute path as the caller named it; its extension decides an UNKNOWN type.
        path: String,
        /// `VIRTUAL_STORAGE_TYPE_DEVICE_*`.
        device_id: u32,
        /// Vendor GUID.
        vendor_id: String,
        /// `VIRTUAL_DISK_ACCESS_MASK`; 0 for versions 2 and up.
        access_mask: u32,
        /// `CREATE_VIRTUAL_DISK_FLAG`.
        flags: u32,
        /// Provider specific flags, 0.
        provider_flags: u32,
        /// 1 to 4.
        version: u32,
        /// Unique id; all zero asks for a random one.
        unique_id: String,
        /// Virtual size in bytes.
        maximum_size: u64,
        /// Block size in bytes, 0 = the format's default.
        block_size: u32,
        /// Logical sector size in bytes, 0 = the format's default.
        sector_size: u32,
        /// Physical sector size in bytes, 0 = the format's default.
        physical_sector_size: u32,
        /// `OPEN_VIRTUAL_DISK_FLAG` for the open that follows.
        open_flags: u32,
        /// Parent path as the caller named it, empty = none.
        parent_path: String,
        /// Source path as the caller named it, empty = none.
        source_path: String,
        /// Identity of the open that follows.
        resiliency_guid: String,
    }
    /// `Attach`.
    struct AttachRequest {
        /// `ATTACH_VIRTUAL_DISK_FLAG`.
        flags: u32,
        /// Provider specific flags, 0.
        provider_flags: u32,
        /// 1 or 2.
        version: u32,
        /// Version 2: first byte to show.
        restricted_offset: u64,
        /// Version 2: bytes to show.
        restricted_length: u64,
        /// SDDL text, empty = NULL.
        security_descriptor: String,
    }
    /// `Detach`.
    struct DetachRequest {
        /// `DETACH_VIRTUAL_DISK_FLAG`, 0.
        flags: u32,
        /// Provider specific flags, 0.
        provider_flags: u32,
        /// What a device in use means: "page" (as the DetachVirtualDisk page: error 170, or 0 and
        /// detach later for a permanent attachment whose attaching handle is closed), "refuse"
        /// (error 170, nothing changes), "when-free" (0, and it detaches when the last holder
        /// lets go).
        in_use: String,
    }
    /// Methods without parameters of their own take this.
    struct EmptyRequest {
    }
    /// `OpenAttached`: a handle (GET_INFO and DETACH) to an attached disk by its device, for
    /// images whose file can't be named any more. Needs the privilege to detach, and the image's
    /// owner or root.
    struct OpenAttachedRequest {
        /// `/dev/loopN`, or one of its partitions.
        device: String,
    }
    /// One attached disk.
    struct AttachedDisk {
        /// Real path of the image file.
        file: String,
        /// Device path, empty for NO_LOCAL_HOST.
        device: String,
        /// Partition nodes.
        partitions: Vec<String>,
        /// "raw", "iso", "vhd", "vhdx".
        format: String,
        /// "fixed", "dynamic", "differencing".
        kind: String,
        /// Bytes a guest sees.
        virtual_size: u64,
        /// Attached read-only.
        read_only: bool,
        /// Attached with PERMANENT_LIFETIME, and that lifetime has not been ended.
        permanent: bool,
        /// "attached", "detaching" (goes when the last holder lets go) or "failed".
        state: String,
        /// Open handles.
        handles: u32,
        /// Who uses the device.
        in_use_by: Vec<Holder>,
    }
    /// Somebody who uses a device.
    struct Holder {
        /// "mount", "process", "swap", "device" (dm, md, loop on top of it).
        kind: String,
        /// The node that is held: `/dev/loop0`, `/dev/loop0p1`.
        node: String,
        /// Mount point, swap node, upper device; empty for a process.
        place: String,
        /// Process id, 0 when there is none.
        pid: u32,
        /// The process's command, empty when there is none.
        command: String,
    }
    /// Parameters of the error [`FAILED`].
    struct Failure {
        /// The Windows code, never 0.
        code: u32,
        /// One sentence: what is wrong, with the file's name.
        message: String,
        /// What to do next; may be empty.
        hint: String,
        /// Who holds the device, for code 170.
        holders: Vec<Holder>,
    }
}

// Answers: the interface description shows their fields at the method.
words! {
    Type:
    /// Answer of `Open`, `Create` and `OpenParent`.
    struct OpenReply {
        /// The real device id, also when opened as UNKNOWN.
        device_id: u32,
        /// The real vendor GUID.
        vendor_id: String,
        /// True when this disk is attached now.
        attached: bool,
        /// Filled: the connection is no handle yet (with CUSTOM_DIFF_CHAIN: its chain is not
        /// complete yet). The caller sends this parent with `OpenParent`, or closes the connection.
        need_parent: Option<NeededParent>,
    }
    /// Answer of `Attach`. Carries one fd for a NO_LOCAL_HOST attachment: the disk as a file.
    struct AttachReply {
        /// Device path, empty for NO_LOCAL_HOST.
        device: String,
        /// Partition nodes, in order of their numbers.
        partitions: Vec<String>,
    }
    /// Answer of `Detach`.
    struct DetachReply {
        /// True: the device is gone and all data is in the file. False: it goes when the last
        /// holder lets go.
        gone: bool,
        /// Who holds it, when it is not gone.
        holders: Vec<Holder>,
    }
    /// Answer of `GetPhysicalPath`.
    struct PathReply {
        /// Device path.
        path: String,
    }
    /// Answer of `GetInformation`: every fact of the information classes at once.
    struct Information {
        /// Real path of the image file.
        file: String,
        /// "raw", "iso", "vhd", "vhdx".
        format: String,
        /// "fixed", "dynamic", "differencing".
        kind: String,
        /// `VIRTUAL_STORAGE_TYPE_DEVICE_*`.
        device_id: u32,
        /// Vendor GUID.
        vendor_id: String,
        /// Bytes a guest sees.
        virtual_size: u64,
        /// Length of the image file in bytes.
        physical_size: u64,
        /// Bytes the image file takes on its file system.
        allocated_size: u64,
        /// Bytes; 0 for a fixed disk.
        block_size: u32,
        /// Logical sector size in bytes.
        sector_size: u32,
        /// Physical sector size of the virtual disk, bytes.
        physical_sector_size: u32,
        /// What a child records of this image: the unique id of a VHD, the data write id of a
        /// VHDX; all zero when the format has none.
        identifier: String,
        /// The identity that SCSI page 83 reports.
        virtual_disk_id: String,
        /// Provider subtype: 2 fixed, 3 dynamic, 4 differencing.
        subtype: u32,
        /// Payload is aligned to 4096 bytes in the file.
        is_4k_aligned: bool,
        /// Host disk: logical sector size, bytes.
        host_logical_sector_size: u32,
        /// Host disk: physical sector size, bytes.
        host_physical_sector_size: u32,
        /// The image lies on a network file system.
        is_remote: bool,
        /// Percent of blocks that do not follow their predecessor in the file; empty when the
        /// question makes no sense for this disk.
        fragmentation: Option<u32>,
        /// Smallest size that keeps every partition, when there is a partition table.
        smallest_safe_size: Option<u64>,
        /// Attached now.
        is_loaded: bool,
        /// Device path when attached.
        device: String,
        /// Who wrote the image, as it says.
        creator: String,
        /// Creation time, seconds since 1970 UTC; 0 when unknown.
        created: u64,
        /// What is odd about the image, though readable.
        notices: Vec<String>,
        /// The chain is open: `parents` are the files that were found.
        parent_resolved: bool,
        /// Real paths of the parents, nearest first; at most those that fit a message.
        parents: Vec<String>,
        /// Where the image says that its parent is.
        parent_hints: Vec<String>,
        /// The parent's id as the image records it; empty for a disk without parent.
        parent_identifier: String,
        /// When the parent was changed last, as the image records it: seconds since 2000-01-01
        /// UTC; 0 where nothing is recorded.
        parent_timestamp: u32,
    }
    /// Answer of `ListAttached`.
    struct ListReply {
        /// Attached disks the caller may see, in order of attachment.
        disks: Vec<AttachedDisk>,
    }
}

/// Methods of the interface, as `io.virtdisk.NAME`.
pub mod method {
    /// [`super::OpenRequest`] → [`super::OpenReply`].
    pub const OPEN: &str = "io.virtdisk.Open";
    /// [`super::OpenParentRequest`] → [`super::OpenReply`].
    pub const OPEN_PARENT: &str = "io.virtdisk.OpenParent";
    /// [`super::OpenAttachedRequest`] → [`super::OpenReply`].
    pub const OPEN_ATTACHED: &str = "io.virtdisk.OpenAttached";
    /// [`super::CreateRequest`] → [`super::OpenReply`].
    pub const CREATE: &str = "io.virtdisk.Create";
    /// [`super::AttachRequest`] → [`super::AttachReply`].
    pub const ATTACH: &str = "io.virtdisk.Attach";
    /// [`super::DetachRequest`] → [`super::DetachReply`].
    pub const DETACH: &str = "io.virtdisk.Detach";
    /// [`super::EmptyRequest`] → [`super::PathReply`].
    pub const GET_PHYSICAL_PATH: &str = "io.virtdisk.GetPhysicalPath";
    /// [`super::EmptyRequest`] → [`super::Information`].
    pub const GET_INFORMATION: &str = "io.virtdisk.GetInformation";
    /// [`super::EmptyRequest`] → [`super::ListReply`]; needs no handle.
    pub const LIST_ATTACHED: &str = "io.virtdisk.ListAttached";
}
