//! The caller's structs, one type for what each version owns (API sheet 1.23).
//!
//! A caller built with an older header passes a shorter block, so a version's type ends where that
//! version ends. Offsets are compared with Microsoft's metadata and with `virtdisk.h` in
//! `tests/layout.rs`, and with the sheet's numbers here, when this is compiled.

use std::mem::offset_of;

use api::{StorageType, Uuid};

/// `GUID`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct Guid {
    data1: u32,
    data2: u16,
    data3: u16,
    data4: [u8; 8],
}

impl From<Guid> for Uuid {
    fn from(guid: Guid) -> Self {
        Self::from_fields(guid.data1, guid.data2, guid.data3, &guid.data4)
    }
}

/// `VIRTUAL_STORAGE_TYPE`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct VirtualStorageType {
    device_id: u32,
    vendor_id: Guid,
}

impl From<VirtualStorageType> for StorageType {
    fn from(found: VirtualStorageType) -> Self {
        Self::new(found.device_id, found.vendor_id.into())
    }
}

/// `OPEN_VIRTUAL_DISK_PARAMETERS`, version 1.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct OpenV1 {
    pub(crate) version: u32,
    pub(crate) rw_depth: u32,
}

/// `OPEN_VIRTUAL_DISK_PARAMETERS`, version 2.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct OpenV2 {
    pub(crate) version: u32,
    pub(crate) get_info_only: i32,
    pub(crate) read_only: i32,
    pub(crate) resiliency_guid: Guid,
}

/// `OPEN_VIRTUAL_DISK_PARAMETERS`, version 3.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct OpenV3 {
    pub(crate) base: OpenV2,
    pub(crate) snapshot_id: Guid,
}

/// `CREATE_VIRTUAL_DISK_PARAMETERS`, version 1. `L` is the letter of its paths.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct CreateV1<L> {
    pub(crate) version: u32,
    padding: u32,
    pub(crate) unique_id: Guid,
    pub(crate) maximum_size: u64,
    pub(crate) block_size: u32,
    pub(crate) sector_size: u32,
    pub(crate) parent_path: *const L,
    pub(crate) source_path: *const L,
}

/// `CREATE_VIRTUAL_DISK_PARAMETERS`, version 2.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct CreateV2<L> {
    pub(crate) version: u32,
    padding: u32,
    pub(crate) unique_id: Guid,
    pub(crate) maximum_size: u64,
    pub(crate) block_size: u32,
    pub(crate) sector_size: u32,
    pub(crate) physical_sector_size: u32,
    padding2: u32,
    pub(crate) parent_path: *const L,
    pub(crate) source_path: *const L,
    pub(crate) open_flags: u32,
    parent_type: VirtualStorageType,
    source_type: VirtualStorageType,
    pub(crate) resiliency_guid: Guid,
    padding3: u32,
}

/// `CREATE_VIRTUAL_DISK_PARAMETERS`, version 3.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct CreateV3<L> {
    pub(crate) base: CreateV2<L>,
    pub(crate) source_limit_path: *const L,
    backing_type: VirtualStorageType,
    padding: u32,
}

/// `CREATE_VIRTUAL_DISK_PARAMETERS`, version 4. The abstraction type begins in what is padding in
/// version 3.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct CreateV4<L> {
    pub(crate) base: CreateV2<L>,
    pub(crate) source_limit_path: *const L,
    backing_type: VirtualStorageType,
    pub(crate) pmem_address_abstraction_type: Guid,
    padding: u32,
    pub(crate) data_alignment: u64,
}

/// `ATTACH_VIRTUAL_DISK_PARAMETERS`, version 2. Version 1 owns its version number alone.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct AttachV2 {
    pub(crate) version: u32,
    padding: u32,
    pub(crate) restricted_offset: u64,
    pub(crate) restricted_length: u64,
}

/// First byte of the facts in `GET_VIRTUAL_DISK_INFO`.
pub(crate) const INFO_FACTS_OFFSET: usize = 8;
/// Size of `GET_VIRTUAL_DISK_INFO` in bytes.
pub(crate) const INFO_SIZE: u32 = 32;

const _: () = {
    assert!(size_of::<VirtualStorageType>() == 20 && align_of::<VirtualStorageType>() == 4);
    assert!(size_of::<OpenV1>() == 8);
    assert!(size_of::<OpenV2>() == 28 && offset_of!(OpenV2, resiliency_guid) == 12);
    assert!(size_of::<OpenV3>() == 44 && offset_of!(OpenV3, snapshot_id) == 28);
    assert!(size_of::<AttachV2>() == 24 && offset_of!(AttachV2, restricted_length) == 16);
};

#[cfg(target_pointer_width = "64")]
const _: () = {
    assert!(size_of::<CreateV1<u16>>() == 56 && offset_of!(CreateV1<u16>, source_path) == 48);
    assert!(size_of::<CreateV2<u16>>() == 128);
    assert!(offset_of!(CreateV2<u16>, open_flags) == 64);
    assert!(offset_of!(CreateV2<u16>, resiliency_guid) == 108);
    assert!(size_of::<CreateV3<u16>>() == 160);
    assert!(offset_of!(CreateV3<u16>, source_limit_path) == 128);
    assert!(offset_of!(CreateV3<u16>, backing_type) == 136);
    assert!(size_of::<CreateV4<u16>>() == 184);
    assert!(offset_of!(CreateV4<u16>, pmem_address_abstraction_type) == 156);
    assert!(offset_of!(CreateV4<u16>, data_alignment) == 176);
};
