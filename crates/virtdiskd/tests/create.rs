//! CreateVirtualDisk and GetVirtualDiskInformation through the service.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod support;

use std::fs;

use support::*;
use virtdisk::{
    AccessMask, CreateFlags, CreateOptions, CreateParameters, CreateVersion, StorageType,
    VirtualDisk,
};

/// Options for an image.
fn options(size: u64, block_size: u32, flags: CreateFlags) -> CreateOptions {
    CreateOptions {
        flags,
        parameters: CreateParameters {
            maximum_size: size,
            block_size,
            ..CreateParameters::default()
        },
        ..CreateOptions::default()
    }
}

/// Code of a failed create, after which no file may be left.
fn refused(host: &Host, name: &str, options: &CreateOptions) -> u32 {
    let code = host
        .service()
        .create(host.path(name), options)
        .unwrap_err()
        .code()
        .0;
    assert!(!host.path(name).exists(), "a file is left after {code}");
    code
}

// R-CRE-2, R-CRE-3, R-CRE-4, R-CRE-5, R-CRE-7, R-CRE-13
#[test]
fn wrong_arguments_are_87_and_leave_no_file() {
    let host = host!();
    let none = CreateFlags::NONE;
    assert_eq!(
        refused(&host, "a.vhd", &options(3 * MIB - 512, 0, none)),
        87
    );
    assert_eq!(refused(&host, "a.vhd", &options(8 * MIB + 1, 0, none)), 87);
    assert_eq!(
        refused(&host, "a.vhd", &options(8 * MIB, 0x10_0000, none)),
        87
    );
    let fixed = CreateFlags::FULL_PHYSICAL_ALLOCATION;
    assert_eq!(
        refused(&host, "a.vhd", &options(8 * MIB, 0x20_0000, fixed)),
        87
    );
    let unknown = CreateFlags::from_bits_retain(0x8000);
    assert_eq!(refused(&host, "a.vhd", &options(8 * MIB, 0, unknown)), 87);
    let masked = CreateOptions {
        access: AccessMask::CREATE,
        ..options(8 * MIB, 0, none)
    };
    assert_eq!(refused(&host, "a.vhd", &masked), 87);
}

// R-CRE-4, R-CRE-6, R-CRE-8, R-CRE-14, R-INFO-7
#[test]
fn sizes_are_kept_exactly_and_defaults_are_windows() {
    let host = host!();
    for (index, size) in [3 * MIB, 0x0301_0200, 0x0301_0400, 0x0081_0400, 100 << 30]
        .into_iter()
        .enumerate()
    {
        let disk = host.dynamic(&format!("{index}.vhd"), size);
        let facts = disk.information().unwrap();
        assert_eq!(facts.virtual_size, size);
        assert_eq!((facts.block_size, facts.subtype), (0x20_0000, 3));
        assert_eq!((facts.sector_size, facts.physical_sector_size), (512, 512));
        assert_eq!(facts.fragmentation, Some(0));
        assert_eq!(facts.smallest_safe_size, None);
        assert!(facts.is_4k_aligned && !facts.is_loaded && !facts.is_remote);
        assert!(facts.physical_size < size);
        assert_ne!(facts.identifier, uuid::Uuid::nil().to_string());
    }
}

// R-CRE-16, R-CRE-7
#[test]
fn a_fixed_image_has_all_its_space() {
    let host = host!();
    let disk = host.create("a.vhd", 8 * MIB, CreateFlags::FULL_PHYSICAL_ALLOCATION);
    let facts = disk.information().unwrap();
    assert_eq!(
        (facts.kind.as_str(), facts.subtype, facts.block_size),
        ("fixed", 2, 0)
    );
    assert!(facts.physical_size >= 8 * MIB && facts.allocated_size >= 8 * MIB);
    let sparse = CreateFlags::FULL_PHYSICAL_ALLOCATION | CreateFlags::SPARSE_FILE;
    let disk = host.create("b.vhd", 8 * MIB, sparse);
    assert!(disk.information().unwrap().allocated_size < MIB);
}

// R-CRE-12
#[test]
fn an_existing_file_is_never_touched() {
    let host = host!();
    fs::write(host.path("a.vhd"), "precious").unwrap();
    let answer = host
        .service()
        .create(host.path("a.vhd"), &options(8 * MIB, 0, CreateFlags::NONE));
    assert_eq!(answer.unwrap_err().code().0, 80);
    assert_eq!(fs::read(host.path("a.vhd")).unwrap(), b"precious");
}

// R-CRE-14, R-INFO-10
#[test]
fn the_callers_identifier_is_kept_and_copies_share_it() {
    let host = host!();
    let id = uuid::Uuid::from_u128(0x1234_5678_9abc_def0_1122_3344_5566_7788);
    let mut with_id = options(8 * MIB, 0x8_0000, CreateFlags::NONE);
    with_id.parameters.unique_id = id;
    let disk = host.service().create(host.path("a.vhd"), &with_id).unwrap();
    let facts = disk.information().unwrap();
    assert_eq!(
        (facts.identifier, facts.block_size),
        (id.to_string(), 0x8_0000)
    );
    drop(disk);
    fs::copy(host.path("a.vhd"), host.path("b.vhd")).unwrap();
    let copy = host.open("b.vhd", AccessMask::GET_INFO).unwrap();
    assert_eq!(copy.information().unwrap().identifier, id.to_string());
}

// R-CRE-17, R-CRE-22, R-PROV-1, R-PROV-4, R-PROV-5
#[test]
fn the_type_or_the_extension_decides_the_format() {
    let host = host!();
    let none = CreateFlags::NONE;
    assert_eq!(
        refused(&host, "a.doc", &options(8 * MIB, 0, none)),
        0xC03A_0014
    );
    let code = refused(&host, "a.iso", &options(8 * MIB, 0, none));
    assert!(matches!(code, 50 | 87), "{code}");
    let mut foreign = options(8 * MIB, 0, none);
    foreign.storage_type = StorageType::new(2, uuid::Uuid::from_u128(7));
    assert_eq!(refused(&host, "a.vhd", &foreign), 0xC03A_0014);
    let mut first = options(8 * MIB, 0, none);
    first.parameters.version = CreateVersion::V1;
    first.access = AccessMask::ALL;
    first.storage_type = StorageType::VHD;
    let disk = host
        .service()
        .create(host.path("named.bin"), &first)
        .unwrap();
    assert_eq!(disk.information().unwrap().format, "vhd");
    let raw = host.create("a.img", 8 * MIB, none);
    let facts = raw.information().unwrap();
    assert_eq!(
        (facts.format.as_str(), facts.kind.as_str()),
        ("raw", "fixed")
    );
    assert_eq!(raw.storage_type(), Some(StorageType::RAW));
}

// R-CRE-9; what a parent makes is tested in chains.rs.
#[test]
fn a_parent_and_a_source_exclude_each_other() {
    let host = host!();
    drop(host.dynamic("parent.vhd", 8 * MIB));
    let mut both = options(0, 0, CreateFlags::NONE);
    both.parameters.parent_path = Some(host.path("parent.vhd"));
    both.parameters.source_path = Some(host.path("parent.vhd"));
    assert_eq!(refused(&host, "child.vhd", &both), 87);
    let mut sized = options(8 * MIB, 0, CreateFlags::NONE);
    sized.parameters.parent_path = Some(host.path("parent.vhd"));
    assert_eq!(refused(&host, "child.vhd", &sized), 87);
}

// R-INFO-1
#[test]
fn information_needs_the_right() {
    let host = host!();
    drop(host.dynamic("a.vhd", 8 * MIB));
    let mut found: Option<VirtualDisk> = None;
    wait_for("the handle to close", || {
        found = host.open("a.vhd", AccessMask::DETACH).ok();
        found.is_some()
    });
    assert_eq!(found.unwrap().information().unwrap_err().code().0, 5);
}

// R-HOST-3
#[test]
fn a_sparse_image_file_is_normal() {
    let host = host!();
    let disk = host.create("a.img", 64 * MIB, CreateFlags::NONE);
    assert!(disk.information().unwrap().allocated_size < MIB);
    assert!(attach_permanent(&disk).device.exists());
}
