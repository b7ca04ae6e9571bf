//! AttachVirtualDisk and OpenVirtualDisk against real devices and real images.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod support;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use support::*;
use virtdisk::{
    AccessMask, AttachFlags, AttachOptions, AttachParameters, CreateFlags, DetachFlags,
    OpenOptions, OpenParameters, StorageType, VirtualDisk,
};

/// Code of a failed attach.
fn refused(disk: &VirtualDisk, flags: AttachFlags) -> u32 {
    disk.attach(&attach_with(flags)).unwrap_err().code().0
}

// R-ATT-20, R-HND-3, R-PATH-1, R-PATH-4, R-OPEN-25
#[test]
fn a_created_handle_attaches_and_knows_its_path() {
    let host = host!();
    let disk = host.dynamic("a.vhd", 8 * MIB);
    assert!(!disk.information().unwrap().is_loaded);
    assert_eq!(disk.physical_path().unwrap_err().code().0, 55);
    let device = attach_permanent(&disk).device;
    assert_eq!(disk.physical_path().unwrap(), device);
    assert!(
        device
            .to_str()
            .unwrap()
            .ends_with(|c: char| c.is_ascii_digit())
    );
    assert!(disk.information().unwrap().is_loaded);
}

// R-ATT-1, R-ATT-22
#[test]
fn unknown_flags_and_provider_flags_are_wrong() {
    let host = host!();
    let disk = host.dynamic("a.vhd", 8 * MIB);
    assert_eq!(refused(&disk, AttachFlags::from_bits_retain(0x800)), 87);
    let options = AttachOptions {
        provider_flags: 1,
        ..AttachOptions::default()
    };
    assert_eq!(disk.attach(&options).unwrap_err().code().0, 87);
    // R-ATT-3
    let options = AttachOptions {
        parameters: AttachParameters::V2 {
            restricted_offset: 0,
            restricted_length: 0,
        },
        ..AttachOptions::default()
    };
    disk.attach(&options).unwrap();
}

// R-ATT-4, R-ATT-5
#[test]
fn the_right_decides_how_a_disk_may_be_attached() {
    let host = host!();
    drop(host.dynamic("a.vhd", 8 * MIB));
    let read = host.open("a.vhd", AccessMask::READ).unwrap();
    assert_eq!(refused(&read, AttachFlags::NONE), 5);
    let device = attach(&read, AttachFlags::READ_ONLY).device;
    // R-ATT-21
    let writer = File::options().write(true).open(&device);
    let failed = writer.and_then(|f| f.write_all_at(&[1; 512], 0).and_then(|()| f.sync_all()));
    assert!(failed.is_err());
    assert!(read.detach(DetachFlags::NONE).unwrap().gone);
    drop(read);
    let info = loop {
        // The other handle may still be closing.
        if let Ok(info) = host.open("a.vhd", AccessMask::GET_INFO) {
            break info;
        }
    };
    assert_eq!(refused(&info, AttachFlags::READ_ONLY), 5);
    drop(info);
    let all = host.open("a.vhd", AccessMask::ALL).unwrap();
    attach(&all, AttachFlags::READ_ONLY);
}

// R-OPEN-17, R-OPEN-18
#[test]
fn version_2_handles_are_limited_by_their_booleans() {
    let host = host!();
    drop(host.dynamic("a.vhd", 8 * MIB));
    let read_only = host.open_v2("a.vhd", true).unwrap();
    assert_eq!(refused(&read_only, AttachFlags::NONE), 5);
    attach(&read_only, AttachFlags::READ_ONLY);
    let info = OpenOptions {
        parameters: OpenParameters::V2 {
            get_info_only: true,
            read_only: false,
            resiliency_guid: uuid::Uuid::nil(),
        },
        ..OpenOptions::default()
    };
    let info = host.service().open(host.path("a.vhd"), &info).unwrap();
    assert_eq!(info.information().unwrap().virtual_size, 8 * MIB);
    assert_eq!(refused(&info, AttachFlags::READ_ONLY), 5);
}

// R-ATT-6, R-OPEN-27, R-INFO-11
#[test]
fn an_iso_is_attached_read_only_or_not_at_all() {
    let host = host!();
    need_tool!("xorriso");
    fs::create_dir(host.path("tree")).unwrap();
    fs::write(host.path("tree/hello.txt"), "hello").unwrap();
    let image = host.path("a.iso");
    run(
        "xorriso",
        &[
            "-as",
            "mkisofs",
            "-quiet",
            "-o",
            image.to_str().unwrap(),
            host.path("tree").to_str().unwrap(),
        ],
    );
    let disk = host.open("a.iso", AccessMask::READ).unwrap();
    assert_eq!(refused(&disk, AttachFlags::NONE), 87);
    let both = AttachFlags::READ_ONLY | AttachFlags::NO_LOCAL_HOST;
    assert_eq!(refused(&disk, both), 87);
    let device = attach(&disk, AttachFlags::READ_ONLY).device;
    assert_eq!(sha256(&device), sha256(&image));
    let name = device.file_name().unwrap().to_str().unwrap().to_owned();
    let sector = fs::read_to_string(format!("/sys/block/{name}/queue/logical_block_size"));
    assert_eq!(sector.unwrap().trim(), "2048");
    let information = disk.information().unwrap();
    assert_eq!((information.sector_size, information.device_id), (2048, 1));
    // R-DET-1, R-DET-19
    assert!(disk.detach(DetachFlags::NONE).unwrap().gone);
    // R-OPEN-12
    for access in [AccessMask::ALL, AccessMask::METAOPS, AccessMask::ATTACH_RW] {
        let code = host.open("a.iso", access).err().map(|e| e.code().0);
        assert!(matches!(code, Some(87 | 50 | 32)), "{code:?}");
    }
}

// Design 3: the tail of an ISO that is no multiple of 2048 is not lost.
#[test]
fn an_iso_with_a_cut_tail_is_padded_with_zeros() {
    let host = host!();
    need_tool!("xorriso");
    fs::create_dir(host.path("tree")).unwrap();
    fs::write(host.path("tree/hello.txt"), vec![b'x'; 100_000]).unwrap();
    let image = host.path("a.iso");
    let (tree, out) = (host.path("tree"), image.to_str().unwrap());
    run(
        "xorriso",
        &[
            "-as",
            "mkisofs",
            "-quiet",
            "-o",
            out,
            tree.to_str().unwrap(),
        ],
    );
    let length = fs::metadata(&image).unwrap().len() - 1000;
    File::options()
        .write(true)
        .open(&image)
        .unwrap()
        .set_len(length)
        .unwrap();
    let disk = host.open("a.iso", AccessMask::READ).unwrap();
    let device = attach(&disk, AttachFlags::READ_ONLY).device;
    let shown = fs::read(&device).unwrap();
    let mut expected = fs::read(&image).unwrap();
    expected.resize(expected.len().next_multiple_of(2048), 0);
    assert!(shown == expected);
}

// R-ATT-7
#[test]
fn a_second_attach_fails_on_the_same_handle_and_on_another() {
    let host = host!();
    let disk = host.dynamic("a.vhd", 8 * MIB);
    attach_permanent(&disk);
    assert_eq!(refused(&disk, AttachFlags::READ_ONLY), 22);
    let other = host.open_v2("a.vhd", false).unwrap();
    assert_eq!(refused(&other, AttachFlags::READ_ONLY), 32);
}

// R-ATT-13: owner and mode of the image file, and back to the system's afterwards.
#[test]
fn the_node_gets_the_owner_and_mode_of_the_image_file() {
    let host = host!();
    need_tool!("sfdisk", "chown");
    let disk = host.dynamic("a.vhd", 16 * MIB);
    let image = host.path("a.vhd");
    drop(disk);
    run("chown", &["12345:54321", image.to_str().unwrap()]);
    run("chmod", &["640", image.to_str().unwrap()]);
    let disk = host.open("a.vhd", AccessMask::ALL).unwrap();
    let device = attach_permanent(&disk).device;
    let script = std::process::Command::new("sfdisk")
        .arg("-q")
        .arg(&device)
        .stdin(std::process::Stdio::piped())
        .spawn()
        .and_then(|mut child| {
            use std::io::Write;
            child
                .stdin
                .take()
                .unwrap()
                .write_all(b"label: dos\n,4M\n,8M\n")?;
            child.wait()
        });
    script.unwrap();
    let owner = |path: &Path| {
        let found = fs::metadata(path).unwrap();
        (found.uid(), found.gid(), found.mode() & 0o777)
    };
    assert_eq!(owner(&device), (12345, 54321, 0o640));
    assert!(disk.detach(DetachFlags::NONE).unwrap().gone);
    assert_eq!(owner(&device).0, 0);
    // Again, with the partitions there from the start.
    let attached = attach_permanent(&disk);
    assert_eq!(attached.partitions.len(), 2, "{:?}", attached.partitions);
    let named = |path: &Path| told_owner(&host, path);
    for partition in &attached.partitions {
        assert_eq!(owner(partition), (12345, 54321, 0o640));
        assert_eq!(named(partition).as_deref(), Some("12345 54321 0640"));
    }
    let device = &attached.device;
    assert_eq!(named(device).as_deref(), Some("12345 54321 0640"));
    assert!(disk.detach(DetachFlags::NONE).unwrap().gone);
    for partition in &attached.partitions {
        assert!(!partition.exists(), "{}", partition.display());
    }
    let left = attach_with(AttachFlags::NO_SECURITY_DESCRIPTOR);
    assert_eq!(named(device), None);
    let device = disk.attach(&left).unwrap().device;
    assert_eq!(owner(&device).0, 0);
    assert_eq!(named(&device), None);
}

/// What udev's rule is told of a node.
fn told_owner(host: &Host, node: &Path) -> Option<String> {
    let told = std::process::Command::new(PROGRAM)
        .arg("--runtime-dir")
        .arg(host.run())
        .arg("node-owner")
        .arg(node.file_name().unwrap())
        .output()
        .unwrap();
    let text = String::from_utf8(told.stdout).unwrap();
    told.status.success().then(|| text.trim().to_owned())
}

// R-ATT-14
#[test]
fn a_restricted_range_shows_only_its_bytes() {
    let host = host!();
    for (name, flags) in [
        ("dynamic.vhd", CreateFlags::NONE),
        ("raw.img", CreateFlags::NONE),
        ("fixed.vhd", CreateFlags::FULL_PHYSICAL_ALLOCATION),
    ] {
        let disk = host.create(name, 8 * MIB, flags);
        let device = attach_permanent(&disk).device;
        write_device(&device, &[5; 1 << 20], 3 * MIB);
        assert!(disk.detach(DetachFlags::NONE).unwrap().gone);
        let range = |offset, length| AttachOptions {
            flags: AttachFlags::RESTRICTED_RANGE,
            parameters: AttachParameters::V2 {
                restricted_offset: offset,
                restricted_length: length,
            },
            ..AttachOptions::default()
        };
        for (offset, length) in [(0, 0), (1, 512), (0, 513), (8 * MIB, 512), (512, 8 * MIB)] {
            let code = disk.attach(&range(offset, length)).unwrap_err().code().0;
            assert_eq!(code, 87, "{name} {offset}+{length}");
        }
        let device = disk
            .attach(&range(3 * MIB - 512, MIB + 1024))
            .unwrap()
            .device;
        let shown = fs::read(&device).unwrap();
        assert_eq!(shown.len() as u64, MIB + 1024);
        assert!(shown[..512].iter().all(|b| *b == 0));
        assert!(shown[512..512 + MIB as usize].iter().all(|b| *b == 5));
        assert!(shown[512 + MIB as usize..].iter().all(|b| *b == 0));
    }
}

// R-ATT-15
#[test]
fn flags_without_a_meaning_on_linux_are_not_supported() {
    let host = host!();
    let disk = host.dynamic("a.vhd", 8 * MIB);
    for flags in [
        AttachFlags::AT_BOOT,
        AttachFlags::SINGLE_PARTITION,
        AttachFlags::NON_PNP,
    ] {
        assert_eq!(refused(&disk, flags), 50);
    }
    assert!(host.attached().is_empty());
}

// R-LIFE-2, R-LIFE-3
#[test]
fn the_death_of_the_owner_detaches_or_leaves_a_permanent_disk() {
    let host = host!();
    for (flags, stays) in [
        (AttachFlags::NONE, false),
        (AttachFlags::PERMANENT_LIFETIME, true),
    ] {
        let name = format!("{stays}.vhd");
        drop(host.dynamic(&name, 8 * MIB));
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "attach_and_wait", "--nocapture"])
            .env("VIRTDISKD_TEST_RUN", host.run())
            .env("VIRTDISKD_TEST_IMAGE", host.path(&name))
            .env("VIRTDISKD_TEST_FLAGS", flags.bits().to_string())
            .spawn();
        let mut child = child.unwrap();
        wait_for("the attachment", || !host.attached().is_empty());
        let device = host.attached()[0].device.clone();
        remember(Path::new(&device));
        child.kill().unwrap();
        child.wait().unwrap();
        if stays {
            wait_for("the handle to close", || host.attached()[0].handles == 0);
            assert!(is_bound(Path::new(&device)));
        } else {
            wait_for("the device to go", || !is_bound(Path::new(&device)));
            wait_for("the list to empty", || host.attached().is_empty());
        }
    }
}

/// Run by the test above, and killed.
#[test]
fn attach_and_wait() {
    let Some(run) = std::env::var_os("VIRTDISKD_TEST_RUN") else {
        return;
    };
    let image = std::env::var_os("VIRTDISKD_TEST_IMAGE").unwrap();
    let flags = std::env::var("VIRTDISKD_TEST_FLAGS")
        .unwrap()
        .parse()
        .unwrap();
    let service = virtdisk::Service::at(Path::new(&run));
    let disk = service
        .open(&image, &OpenOptions::with_access(AccessMask::ALL))
        .unwrap();
    attach(&disk, AttachFlags::from_bits_retain(flags));
    std::thread::sleep(std::time::Duration::from_secs(60));
}

// R-SHR-1, R-SHR-3, R-SHR-4, R-SHR-5
#[test]
fn handles_share_a_disk_by_the_rules() {
    let host = host!();
    drop(host.dynamic("a.vhd", 8 * MIB));
    let code = |access| host.open("a.vhd", access).err().map_or(0, |e| e.code().0);
    let quiet = host
        .open("a.vhd", AccessMask::GET_INFO | AccessMask::DETACH)
        .unwrap();
    assert_eq!(code(AccessMask::ALL), 0);
    let all = host.open("a.vhd", AccessMask::ALL);
    // The handle of the line before may still be closing.
    let all = all.or_else(|_| {
        std::thread::sleep(std::time::Duration::from_millis(200));
        host.open("a.vhd", AccessMask::ALL)
    });
    let all = all.unwrap();
    assert_eq!(code(AccessMask::ATTACH_RO), 32);
    assert_eq!(code(AccessMask::METAOPS), 32);
    assert_eq!(code(AccessMask::GET_INFO), 0);
    drop((quiet, all));
}

// R-OPEN-15
#[test]
fn a_permanently_attached_disk_is_opened_with_detach() {
    let host = host!();
    drop(host.dynamic("a.vhd", 8 * MIB));
    let disk = host.open("a.vhd", AccessMask::READ).unwrap();
    let flags = AttachFlags::READ_ONLY | AttachFlags::PERMANENT_LIFETIME;
    attach(&disk, flags);
    drop(disk);
    wait_for("the handle to close", || host.attached()[0].handles == 0);
    let code = |access| host.open("a.vhd", access).err().map_or(0, |e| e.code().0);
    assert_eq!(code(AccessMask::GET_INFO), 32);
    assert_eq!(code(AccessMask::ALL), 32);
    assert_eq!(code(AccessMask::READ), 0);
}

// Design 2.7
#[test]
fn qemu_and_the_service_refuse_each_others_images() {
    let host = host!();
    need_tool!("qemu-img", "qemu-io");
    let disk = host.dynamic("a.vhd", 8 * MIB);
    attach_permanent(&disk);
    let path = host.path("a.vhd");
    let output = std::process::Command::new("qemu-io")
        .args(["-f", "vpc", "-c", "write 0 512"])
        .arg(&path)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("lock"), "{text}");
    assert!(disk.detach(DetachFlags::NONE).unwrap().gone);
    drop(disk);
    wait_for("the lock to go", || {
        std::process::Command::new("qemu-io")
            .args(["-f", "vpc", "-c", "write 0 512"])
            .arg(&path)
            .output()
            .unwrap()
            .status
            .success()
    });
    let mut qemu = std::process::Command::new("qemu-io")
        .args(["-f", "vpc"])
        .arg(&path)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    // It holds the image once it has the file open.
    wait_for("qemu to open the image", || {
        let fds = fs::read_dir(format!("/proc/{}/fd", qemu.id()))
            .into_iter()
            .flatten();
        fds.flatten()
            .filter_map(|fd| fs::read_link(fd.path()).ok())
            .any(|t| t == path)
    });
    std::thread::sleep(std::time::Duration::from_millis(300));
    let refused = host
        .open("a.vhd", AccessMask::ALL)
        .is_err_and(|e| e.code().0 == 32);
    drop(qemu.stdin.take());
    qemu.wait().unwrap();
    assert!(refused, "the service took an image that qemu had open");
}

// R-PROV-2, R-PROV-3
#[test]
fn a_forced_format_is_the_real_one_or_refused() {
    let host = host!();
    drop(host.dynamic("a.vhd", 8 * MIB));
    let as_type = |storage_type| OpenOptions {
        storage_type,
        ..OpenOptions::with_access(AccessMask::READ)
    };
    let open = |storage_type| {
        host.service()
            .open(host.path("a.vhd"), &as_type(storage_type))
    };
    assert_eq!(
        open(StorageType::UNKNOWN).unwrap().storage_type(),
        Some(StorageType::VHD)
    );
    wait_for("the handle to close", || open(StorageType::VHD).is_ok());
    wait_for("the handle to close", || {
        host.open("a.vhd", AccessMask::ALL).is_ok()
    });
    for wrong in [StorageType::ISO, StorageType::VHDX] {
        assert!(open(wrong).is_err());
    }
    fs::write(host.path("noise.vhd"), vec![0x5A; 1 << 20]).unwrap();
    let error = host
        .service()
        .open(host.path("noise.vhd"), &as_type(StorageType::VHD));
    assert_eq!(error.unwrap_err().code().0, 0xC03A_0001);
}

// R-PATH-5, R-PATH-6
#[test]
fn the_list_names_image_files_in_order_of_attachment() {
    let host = host!();
    assert!(host.attached().is_empty());
    let names = ["b.vhd", "a.vhd", "c.vhd"];
    let disks: Vec<_> = names.iter().map(|n| host.dynamic(n, 8 * MIB)).collect();
    disks.iter().for_each(|d| drop(attach_permanent(d)));
    let listed: Vec<_> = host.attached().iter().map(|d| d.file.clone()).collect();
    let expected: Vec<_> = names
        .iter()
        .map(|n| host.path(n).display().to_string())
        .collect();
    assert_eq!(listed, expected);
}

// The device does not outlive the truth when somebody frees it behind the service's back.
#[test]
fn a_device_freed_by_somebody_else_leaves_the_list() {
    let host = host!();
    need_tool!("losetup");
    for (name, flags) in [
        ("dynamic.vhd", CreateFlags::NONE),
        ("fixed.vhd", CreateFlags::FULL_PHYSICAL_ALLOCATION),
    ] {
        let disk = host.create(name, 8 * MIB, flags);
        let device = attach_permanent(&disk).device;
        run("losetup", &["-d", device.to_str().unwrap()]);
        wait_for("the list to notice", || host.attached().is_empty());
        wait_for("the state to notice", || {
            disk.detach(DetachFlags::NONE)
                .is_err_and(|e| e.code().0 == 21)
        });
        attach_permanent(&disk);
        assert!(disk.detach(DetachFlags::NONE).unwrap().gone);
    }
}
