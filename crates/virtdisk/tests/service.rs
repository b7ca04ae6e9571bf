//! The client against the real service, as far as that needs no rights: a captive one.
//!
//! What attaches is tested with the service and with the C library. Needs a service's program in
//! `VIRTDISKD`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;

use virtdisk::{
    AccessMask, Code, CreateFlags, CreateOptions, CreateParameters, OpenFlags, OpenOptions,
    Service, StorageType,
};

macro_rules! private {
    () => {
        match std::env::var_os("VIRTDISKD") {
            Some(program) if Path::new(&program).is_file() => Service::private().unwrap(),
            _ => virtdisk_testkit::skip!("virtdiskd is not built (VIRTDISKD)"),
        }
    };
}

fn sized(maximum_size: u64) -> CreateOptions {
    let parameters = CreateParameters {
        maximum_size,
        ..CreateParameters::default()
    };
    CreateOptions {
        parameters,
        ..CreateOptions::default()
    }
}

// R-OPEN-25, R-PROV-2, R-CRE-6
#[test]
fn created_disk_is_opened_again_with_its_facts() {
    let service = private!();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.vhd");
    drop(service.create(&path, &sized(0x0301_0200)).unwrap());

    let disk = service
        .open(&path, &OpenOptions::with_access(AccessMask::GET_INFO))
        .unwrap();
    assert_eq!(disk.storage_type(), Some(StorageType::VHD));
    assert!(!disk.was_attached());
    let information = disk.information().unwrap();
    assert_eq!(information.virtual_size, 0x0301_0200);
    assert_eq!(
        (information.subtype, information.block_size),
        (3, 0x20_0000)
    );
    assert_eq!(
        disk.physical_path().unwrap_err().code(),
        Code::ERROR_DEV_NOT_EXIST
    );
    assert!(service.attached().unwrap().is_empty());
}

// R-CRE-10, R-INFO-5, R-INFO-6, R-OPEN-14
#[test]
fn child_finds_its_parent_again_without_any_right_but_the_files() {
    let service = private!();
    let folder = tempfile::tempdir().unwrap();
    for extension in ["vhd", "vhdx"] {
        let path = |name: &str| folder.path().join(format!("{name}.{extension}"));
        drop(service.create(path("base"), &sized(8 << 20)).unwrap());
        for (parent, child) in [("base", "middle"), ("middle", "leaf")] {
            let mut options = sized(0);
            options.parameters.parent_path = Some(path(parent));
            drop(service.create(path(child), &options).unwrap());
        }
        let ask = |flags| {
            let options = OpenOptions {
                flags,
                ..OpenOptions::with_access(AccessMask::GET_INFO)
            };
            let disk = service.open(path("leaf"), &options).unwrap();
            disk.information().unwrap()
        };
        let whole = ask(OpenFlags::NONE);
        assert!(whole.parent_resolved);
        assert_eq!((whole.parents.len(), whole.subtype), (2, 4));
        assert_eq!(whole.parent_timestamp, 0);
        let alone = ask(OpenFlags::NO_PARENTS);
        assert!(!alone.parent_resolved && alone.parents.is_empty());
        assert_eq!(alone.parent_identifier, whole.parent_identifier);
        assert!(
            alone
                .parent_hints
                .iter()
                .any(|hint| hint.contains("middle"))
        );
    }
}

#[test]
fn raw_image_of_our_own_vendor_is_created_and_found_again() {
    let service = private!();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.img");
    let fixed = CreateOptions {
        storage_type: StorageType::RAW,
        flags: CreateFlags::FULL_PHYSICAL_ALLOCATION,
        ..sized(1 << 20)
    };
    drop(service.create(&path, &fixed).unwrap());
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 1 << 20);
    let options = OpenOptions {
        storage_type: StorageType::RAW,
        ..OpenOptions::with_access(AccessMask::READ)
    };
    let disk = service.open(&path, &options).unwrap();
    assert_eq!(disk.storage_type(), Some(StorageType::RAW));
}

// R-PROV-3
#[test]
fn what_the_service_finds_wrong_names_the_file() {
    let service = private!();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.vhd");
    std::fs::write(&path, vec![7; 4096]).unwrap();
    let options = OpenOptions {
        storage_type: StorageType::VHD,
        ..OpenOptions::with_access(AccessMask::READ)
    };
    let error = service.open(&path, &options).unwrap_err();
    assert!(
        (0xC03A_0001..=0xC03A_0014).contains(&error.code().0),
        "{error}"
    );
    assert!(error.message().contains("disk.vhd"), "{error}");
}

// R-LIFE-1
#[test]
fn handle_passed_on_as_a_descriptor_is_the_same_handle() {
    let service = private!();
    let folder = tempfile::tempdir().unwrap();
    let disk = service
        .create(folder.path().join("disk.vhd"), &sized(64 << 20))
        .unwrap();
    let passed = virtdisk::VirtualDisk::from_fd(disk.into_fd()).unwrap();
    assert_eq!(passed.information().unwrap().virtual_size, 64 << 20);
    assert_eq!(passed.storage_type(), None);
}
