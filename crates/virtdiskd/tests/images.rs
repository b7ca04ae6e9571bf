//! Real images and real file systems on real devices.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use support::*;
use virtdisk::{AccessMask, AttachFlags, DetachFlags};

/// Attaches read-only, hashes the device, detaches.
fn hash_attached(host: &Host, image: &Path) -> String {
    let options = virtdisk::OpenOptions::with_access(AccessMask::READ);
    let disk = host.service().open(image, &options).unwrap();
    let device = attach(&disk, AttachFlags::READ_ONLY).device;
    let hash = sha256(&device);
    assert!(disk.detach(DetachFlags::NONE).unwrap().gone);
    hash
}

/// Attaches each image read-only: its bytes are those of the table, and its file is not changed.
/// Those that only help are unpacked beside them.
fn real_images_read(names: &[&str], helpers: &[&str]) -> Result<(), String> {
    let host = Host::new();
    let corpus = virtdisk_testkit::corpus::corpus_of(&[names, helpers].concat())?;
    for name in names {
        let image = corpus.path(name);
        let before = sha256(&image);
        let expected = virtdisk_testkit::corpus::sample_named(name).sha256;
        assert_eq!(hash_attached(&host, &image), expected, "{name}");
        assert_eq!(sha256(&image), before, "{name} was changed by reading");
    }
    Ok(())
}

#[test]
fn real_images_read_through_the_device_as_the_table_says() {
    drop(host!());
    let names = [
        "fat-parent.vhd",
        "ntfs-parent.vhd",
        "ntfs-dynamic.vhd",
        "ntfs-fixed.vhd",
        "apple-test.iso",
        "iso9660.iso",
    ];
    if let Err(reason) = real_images_read(&names, &[]) {
        virtdisk_testkit::skip!("{reason}");
    }
}

// P-1, P-2, V-14
#[test]
fn real_chains_of_windows_find_their_parents_beside_them() {
    drop(host!());
    let names = ["fat-differential.vhd", "ntfs-differential.vhd"];
    let helpers = ["fat-parent.vhd", "ntfs-parent.vhd"];
    if let Err(reason) = real_images_read(&names, &helpers) {
        virtdisk_testkit::skip!("{reason}");
    }
}

#[test]
fn real_vhdx_images_read_through_the_device_as_the_table_says() {
    drop(host!());
    let names = [
        "fat-parent.vhdx",
        "fat-differential.vhdx",
        "ntfs-parent.vhdx",
        "ntfs-differential.vhdx",
        "ntfs-dynamic.vhdx",
        "ntfs-fixed.vhdx",
        "hyperv-btrfs.vhdx",
        "windows8-dynamic.vhdx",
    ];
    if let Err(reason) = real_images_read(&names, &[]) {
        virtdisk_testkit::skip!("{reason}");
    }
}

// V-1: 127 GiB, empty: the size is what the geometry says, and the end is readable.
#[test]
fn the_virtual_pc_image_has_the_size_of_its_geometry() {
    let host = host!();
    let name = "virtualpc-dynamic.vhd";
    let corpus = match virtdisk_testkit::corpus::corpus_of(&[name]) {
        Ok(corpus) => corpus,
        Err(reason) => virtdisk_testkit::skip!("{reason}"),
    };
    let options = virtdisk::OpenOptions::with_access(AccessMask::READ);
    let disk = host.service().open(corpus.path(name), &options).unwrap();
    let device = attach(&disk, AttachFlags::READ_ONLY).device;
    let block = device.file_name().unwrap().to_str().unwrap().to_owned();
    let sectors = fs::read_to_string(format!("/sys/block/{block}/size")).unwrap();
    assert_eq!(
        sectors.trim().parse::<u64>().unwrap() * 512,
        136_363_130_880
    );
    assert_eq!(
        read_device(&device, 4096, 136_363_130_880 - 4096),
        vec![0; 4096]
    );
    assert!(disk.detach(DetachFlags::NONE).unwrap().gone);
}

#[test]
fn ntfs_3g_reads_the_partitions_of_real_images() {
    let host = host!();
    need_tool!("ntfs-3g");
    let names = ["ntfs-dynamic.vhd", "ntfs-fixed.vhd"];
    let corpus = match virtdisk_testkit::corpus::corpus_of(&names) {
        Ok(corpus) => corpus,
        Err(reason) => virtdisk_testkit::skip!("{reason}"),
    };
    for name in names {
        let options = virtdisk::OpenOptions::with_access(AccessMask::READ);
        let disk = host.service().open(corpus.path(name), &options).unwrap();
        let attached = attach(&disk, AttachFlags::READ_ONLY);
        let node = attached.partitions.first().unwrap_or(&attached.device);
        let place = host.path("ntfs");
        fs::create_dir_all(&place).unwrap();
        run(
            "ntfs-3g",
            &["-o", "ro", node.to_str().unwrap(), place.to_str().unwrap()],
        );
        let mounted = Mounted(place);
        let files = fs::read_dir(&mounted.0).unwrap().count();
        drop(mounted);
        assert!(files > 0, "{name}: nothing in it");
        wait_for("ntfs-3g to let go", || {
            disk.detach(DetachFlags::NONE).is_ok_and(|d| d.gone)
        });
    }
}

/// Makes, fills, detaches, attaches, checks.
fn round_trip(kind: &str, make: &[&str], check: &[&str], size: u64) {
    let host = host!();
    for tool in [make[0], check[0]] {
        if !virtdisk_testkit::has_program(tool) {
            virtdisk_testkit::skip!("{tool} is not installed");
        }
    }
    let disk = host.dynamic("a.vhd", size);
    let device = attach_permanent(&disk).device;
    let name = device.to_str().unwrap().to_owned();
    run(make[0], &[&make[1..], &[name.as_str()]].concat());
    let place = host.path("mnt");
    let mounted = Mounted::new(&device, &place);
    let mut expected = Vec::new();
    for i in 0..40_u32 {
        let file = place.join(format!("dir{}/file{i}", i % 5));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let bytes: Vec<u8> = (0..(i + 1) * 20_011)
            .map(|b| (b * (i + 3) % 253) as u8)
            .collect();
        fs::write(&file, &bytes).unwrap();
        if i % 3 != 0 {
            expected.push((file, bytes));
        } else {
            fs::remove_file(&file).unwrap();
        }
    }
    let trimmed = Command::new("fstrim").arg(&place).output();
    assert!(trimmed.is_ok_and(|o| o.status.success()), "{kind}: fstrim");
    drop(mounted);
    assert!(disk.detach(DetachFlags::NONE).unwrap().gone);
    for read_only in [true, false] {
        let flags = if read_only {
            AttachFlags::READ_ONLY
        } else {
            AttachFlags::NONE
        };
        let device = attach(&disk, flags).device;
        run(
            check[0],
            &[&check[1..], &[device.to_str().unwrap()]].concat(),
        );
        if !read_only {
            let mounted = Mounted::new(&device, &place);
            for (file, bytes) in &expected {
                assert!(
                    fs::read(file).unwrap() == *bytes,
                    "{kind}: {}",
                    file.display()
                );
            }
            drop(mounted);
        }
        assert!(disk.detach(DetachFlags::NONE).unwrap().gone);
    }
}

#[test]
fn ext4_survives_detach_and_attach() {
    round_trip("ext4", &["mkfs.ext4", "-q"], &["e2fsck", "-fn"], 256 * MIB);
}

#[test]
fn xfs_survives_detach_and_attach() {
    round_trip("xfs", &["mkfs.xfs", "-q"], &["xfs_repair", "-n"], 400 * MIB);
}

#[test]
fn btrfs_survives_detach_and_attach() {
    round_trip(
        "btrfs",
        &["mkfs.btrfs", "-q"],
        &["btrfs", "check", "--readonly"],
        400 * MIB,
    );
}

// S-2: tables on demand.
#[test]
fn a_2040_gib_disk_takes_the_memory_of_a_small_one() {
    let host = host!();
    let worker_memory = |size: u64, name: &str| {
        let disk = host.dynamic(name, size);
        let device = attach_permanent(&disk).device;
        write_device(&device, &[1; 4096], size - 4096);
        assert_eq!(read_device(&device, 4096, size - 4096), vec![1; 4096]);
        let pid = host.workers()[0];
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        assert!(disk.detach(DetachFlags::NONE).unwrap().gone);
        kib
    };
    let small = worker_memory(64 * MIB, "small.vhd");
    let large = worker_memory(2040 << 30, "large.vhd");
    assert!(large < small + 4096, "{large} KiB against {small} KiB");
}

// R-CRE-15
#[test]
fn one_byte_more_than_2040_gib_is_refused() {
    let host = host!();
    let options = virtdisk::CreateOptions {
        parameters: virtdisk::CreateParameters {
            maximum_size: (2040 << 30) + 512,
            ..virtdisk::CreateParameters::default()
        },
        ..virtdisk::CreateOptions::default()
    };
    assert!(host.service().create(host.path("a.vhd"), &options).is_err());
    assert!(!host.path("a.vhd").exists(), "R-CRE-13: nothing is left");
}

#[test]
fn qemus_images_attach_and_ours_pass_qemus_check() {
    let host = host!();
    need_tool!("qemu-img", "qemu-io");
    for subformat in ["dynamic", "fixed"] {
        let image = host.path(&format!("{subformat}.vhd"));
        let name = image.to_str().unwrap();
        let options = format!("subformat={subformat},force_size=on");
        run(
            "qemu-img",
            &["create", "-q", "-f", "vpc", "-o", &options, name, "16M"],
        );
        run("qemu-io", &["-f", "vpc", "-c", "write -P 90 3M 1M", name]);
        let handle = host.service();
        let access = virtdisk::OpenOptions::with_access(AccessMask::ALL);
        let disk = handle.open(&image, &access).unwrap();
        let device = attach_permanent(&disk).device;
        assert_eq!(
            read_device(&device, MIB as usize, 3 * MIB),
            vec![90; MIB as usize]
        );
        write_device(&device, &[91; 1 << 20], 9 * MIB);
        assert!(disk.detach(DetachFlags::NONE).unwrap().gone);
        drop(disk);
        wait_for("the lock to go", || {
            let read = [
                "-f",
                "vpc",
                "-c",
                "read -P 91 9M 1M",
                "-c",
                "read -P 90 3M 1M",
                name,
            ];
            let output = Command::new("qemu-io").args(read).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            output.status.success() && !text.contains("Pattern verification failed")
        });
    }
}

// fsync on the device reaches the image file; discard frees what the format can free.
#[test]
fn discard_gives_space_back_to_the_host() {
    let host = host!();
    need_tool!("blkdiscard");
    let disk = host.dynamic("a.vhd", 64 * MIB);
    let device = attach_permanent(&disk).device;
    write_device(&device, &vec![7; 32 << 20], 0);
    let full = disk.information().unwrap();
    assert!(full.allocated_size >= 32 * MIB, "{full:?}");
    run("blkdiscard", &[device.to_str().unwrap()]);
    let empty = disk.information().unwrap();
    assert!(
        empty.allocated_size < 2 * MIB,
        "{} bytes left",
        empty.allocated_size
    );
    assert_eq!(read_device(&device, 4096, 5 * MIB), vec![0; 4096]);
    run("blkdiscard", &["-z", device.to_str().unwrap()]);
    assert!(disk.detach(DetachFlags::NONE).unwrap().gone);
    let closed = fs::metadata(host.path("a.vhd")).unwrap().len();
    assert!(closed < MIB, "{closed} bytes after detach");
}
