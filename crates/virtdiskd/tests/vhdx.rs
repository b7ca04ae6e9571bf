//! VHDX through the service: sectors, ids, direct attachments, and workers that die.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use support::*;
use virtdisk::{
    AccessMask, AttachFlags, CreateFlags, CreateOptions, CreateParameters, DetachFlags, StorageType,
};

const MISMATCH: u32 = 0xC03A_000E;
const FIXED: CreateFlags = CreateFlags::FULL_PHYSICAL_ALLOCATION;

fn sectors(logical: u32, physical: u32) -> CreateOptions {
    CreateOptions {
        parameters: CreateParameters {
            maximum_size: 16 * MIB,
            sector_size: logical,
            physical_sector_size: physical,
            ..CreateParameters::default()
        },
        ..CreateOptions::default()
    }
}

fn child_of(parent: &Path) -> CreateOptions {
    CreateOptions {
        parameters: CreateParameters {
            parent_path: Some(parent.to_owned()),
            ..CreateParameters::default()
        },
        ..CreateOptions::default()
    }
}

fn queue(device: &Path, name: &str) -> String {
    let disk = device.file_name().unwrap().to_str().unwrap();
    let text = fs::read_to_string(format!("/sys/block/{disk}/queue/{name}")).unwrap();
    text.trim().to_owned()
}

// R-CRE-8, R-CRE-18, R-PROV-2, R-INFO-7
#[test]
fn sector_sizes_are_those_of_windows_and_the_device_has_them() {
    let host = host!();
    for (index, (asked, got)) in [
        ((0, 0), (512, 4096)),
        ((4096, 0), (4096, 4096)),
        ((512, 0), (512, 4096)),
        ((512, 512), (512, 512)),
    ]
    .into_iter()
    .enumerate()
    {
        let path = host.path(&format!("{index}.vhdx"));
        let disk = host
            .service()
            .create(&path, &sectors(asked.0, asked.1))
            .unwrap();
        assert_eq!(disk.storage_type(), Some(StorageType::VHDX));
        let facts = disk.information().unwrap();
        assert_eq!((facts.sector_size, facts.physical_sector_size), got);
        assert_eq!((facts.block_size, facts.subtype), (32 << 20, 3));
        assert_eq!(facts.virtual_size, 16 * MIB);
        let device = attach_permanent(&disk).device;
        assert_eq!(queue(&device, "logical_block_size"), got.0.to_string());
        write_device(&device, &[9; 4096], 5 * MIB);
        assert!(disk.detach(DetachFlags::NONE).unwrap().gone);
        let device = attach(&disk, AttachFlags::READ_ONLY).device;
        assert_eq!(read_device(&device, 4096, 5 * MIB), [9; 4096]);
        assert!(disk.detach(DetachFlags::NONE).unwrap().gone);
        drop(disk);
        // A child has its parent's sectors, and asks for no others.
        let child = host.path(&format!("{index}-child.vhdx"));
        let made = host.service().create(&child, &child_of(&path)).unwrap();
        let facts = made.information().unwrap();
        assert_eq!((facts.sector_size, facts.physical_sector_size), got);
        drop(made);
        let mut other = child_of(&path);
        other.parameters.sector_size = if got.0 == 512 { 4096 } else { 512 };
        let refused = host.service().create(host.path("other.vhdx"), &other);
        assert_eq!(refused.unwrap_err().code().0, 87);
    }
}

// X-72, R-CRE-14, R-INFO-9
#[test]
fn the_disks_id_is_the_callers_and_its_childs() {
    let host = host!();
    let id = uuid::Uuid::from_u128(0x1234_5678_9abc_def0_1122_3344_5566_7788);
    let mut options = sectors(0, 0);
    options.parameters.unique_id = id;
    let disk = host
        .service()
        .create(host.path("base.vhdx"), &options)
        .unwrap();
    let base = disk.information().unwrap();
    assert_eq!(base.virtual_disk_id, id.to_string());
    drop(disk);
    let child = child_of(&host.path("base.vhdx"));
    let child = host
        .service()
        .create(host.path("child.vhdx"), &child)
        .unwrap();
    let facts = child.information().unwrap();
    assert_eq!(facts.virtual_disk_id, id.to_string());
    assert_eq!(facts.parent_identifier, base.identifier);
    assert_ne!(facts.identifier, base.identifier);
}

// who writes around the worker leaves its mark first; who reads leaves none.
#[test]
fn a_parent_that_was_attached_for_writing_is_another_disk_afterwards() {
    let host = host!();
    let path = host.path("base.vhdx");
    drop(host.create("base.vhdx", 16 * MIB, FIXED));
    let made = host
        .service()
        .create(host.path("child.vhdx"), &child_of(&path));
    drop(made.unwrap());
    let disk = host.open_soon(&path, AccessMask::READ);
    let device = attach(&disk, AttachFlags::READ_ONLY).device;
    // Direct: no worker serves it, the loop device stands on the image itself.
    let backing = device.file_name().unwrap().to_str().unwrap().to_owned();
    let backing = fs::read_to_string(format!("/sys/block/{backing}/loop/backing_file")).unwrap();
    assert!(backing.trim().ends_with("base.vhdx"), "{backing}");
    assert!(disk.detach(DetachFlags::NONE).unwrap().gone);
    drop(disk);
    drop(host.open_soon(&host.path("child.vhdx"), AccessMask::READ));

    let disk = host.open_soon(&path, AccessMask::ALL);
    let device = attach(&disk, AttachFlags::NONE).device;
    write_device(&device, &[1; 4096], 0);
    assert!(disk.detach(DetachFlags::NONE).unwrap().gone);
    drop(disk);
    let mut code = 32;
    wait_for("the base to close", || {
        let opened = host.open("child.vhdx", AccessMask::READ);
        code = opened.err().map_or(0, |error| error.code().0);
        code != 32
    });
    assert_eq!(code, MISMATCH);
}

/// 2 MiB in two blocks that follow each other; what was written in the second is in the log only.
fn dirty_image() -> Vec<u8> {
    use virtdisk_testkit::vhdx_builder::{LogEntry, MIB, VhdxBuilder};
    const LOG: [u8; 16] = *b"the log's own id";
    let mut builder = VhdxBuilder::dynamic(2 * MIB, 1 << 20);
    builder.block(0, &vec![4; 1 << 20]);
    let at = builder.block(1, &vec![5; 1 << 20]);
    let mut page = vec![0; 4096];
    page[..8].copy_from_slice(&builder.bat[0].to_le_bytes());
    page[8..16].copy_from_slice(&(at | 6).to_le_bytes());
    builder.set(1, 0, 0);
    builder.dirty(LOG);
    let entry = LogEntry::new(LOG, 1, 0, builder.end()).data(builder.bat_at, &page);
    builder.log_entry(0, &entry);
    builder.build().to_vec()
}

// R-OPEN-20 as design 3 has it: a log is replayed in memory for reading, in the file for writing.
#[test]
fn a_dirty_log_is_seen_by_readers_and_mended_by_writers() {
    let host = host!();
    let path = host.path("dirty.vhdx");
    fs::write(&path, dirty_image()).unwrap();
    let before = sha256(&path);
    let bytes = |device: &Path| [read_device(device, 1, MIB - 1), read_device(device, 1, MIB)];
    for _ in 0..2 {
        let disk = host.open_soon(&path, AccessMask::READ);
        // Not direct, though its blocks lie in one run: the table that says so is not in the file.
        let device = attach(&disk, AttachFlags::READ_ONLY).device;
        assert_eq!(bytes(&device), [[4], [5]]);
        for pid in host.workers() {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
        assert_eq!(read_device(&device, 4096, MIB + 4096), [5; 4096]);
        assert!(disk.detach(DetachFlags::NONE).unwrap().gone);
        drop(disk);
        assert_eq!(sha256(&path), before, "reading changed the file");
    }
    let disk = host.open_soon(&path, AccessMask::ALL);
    let device = attach(&disk, AttachFlags::NONE).device;
    assert_eq!(bytes(&device), [[4], [5]]);
    write_device(&device, &[6; 4096], MIB);
    assert!(disk.detach(DetachFlags::NONE).unwrap().gone);
    drop(disk);
    let disk = host.open_soon(&path, AccessMask::READ);
    let device = attach(&disk, AttachFlags::READ_ONLY).device;
    assert_eq!(bytes(&device), [[4], [6]]);
    assert!(disk.detach(DetachFlags::NONE).unwrap().gone);
}

// Design 2.4, promise 2, for images with a log, and with bitmaps that say whose a sector is.
#[test]
fn workers_are_killed_again_and_again_and_nothing_is_lost() {
    let host = host!();
    need_tool!("fio", "qemu-img");
    for extension in ["vhdx", "vhd"] {
        let (base, child) = (format!("base.{extension}"), format!("child.{extension}"));
        drop(host.create(&base, 96 * MIB, CreateFlags::NONE));
        let options = child_of(&host.path(&base));
        drop(host.service().create(host.path(&child), &options).unwrap());
    }
    drop(host.create("plain.vhdx", 96 * MIB, CreateFlags::NONE));
    for name in ["plain.vhdx", "child.vhdx", "child.vhd"] {
        let disk = host.open_soon(&host.path(name), AccessMask::ALL);
        let device = attach_permanent(&disk).device;
        let mut kills = 0;
        for (block, depth) in [("4k", 16), ("64k", 4)] {
            let mut job = fio(&device, block, depth);
            while job.try_wait().unwrap().is_none() {
                std::thread::sleep(Duration::from_millis(150));
                for pid in host.workers() {
                    let pid = rustix::process::Pid::from_raw(pid).unwrap();
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                    kills += 1;
                }
            }
            assert!(job.wait().unwrap().success(), "fio {block} saw an error");
        }
        assert!(kills >= 5, "only {kills} kills");
        let seen = sha256(&device);
        assert!(disk.detach(DetachFlags::NONE).unwrap().gone);
        drop(disk);
        let again = host.open_soon(&host.path(name), AccessMask::READ);
        let device = attach(&again, AttachFlags::READ_ONLY).device;
        assert_eq!(sha256(&device), seen, "{name}");
        assert!(again.detach(DetachFlags::NONE).unwrap().gone);
        drop(again);
        println!("{name}: {kills} kills");
    }
    // Another reader sees the same image, with a clean log.
    let (image, raw) = (host.path("plain.vhdx"), host.path("plain.raw"));
    let (image, raw) = (image.to_str().unwrap(), raw.to_str().unwrap());
    let tool = ["check", "-U", "-f", "vhdx", image];
    run("qemu-img", &tool);
    let tool = ["convert", "-U", "-f", "vhdx", "-O", "raw", image, raw];
    run("qemu-img", &tool);
    let disk = host.open_soon(&host.path("plain.vhdx"), AccessMask::READ);
    let device = attach(&disk, AttachFlags::READ_ONLY).device;
    assert_eq!(sha256(&device), sha256(Path::new(raw)));
}

/// Random writes that are verified.
fn fio(device: &Path, block: &str, depth: u32) -> std::process::Child {
    let mut fio = Command::new("fio");
    fio.args(["--name=job", "--direct=1", "--ioengine=libaio"])
        .args([
            "--verify=crc32c",
            "--verify_fatal=1",
            "--verify_state_save=0",
        ])
        .args(["--output-format=terse", "--rw=randwrite", "--size=12m"])
        .args(["--verify_backlog=64", "--do_verify=1", "--rate=16m"])
        .arg(format!("--bs={block}"))
        .arg(format!("--iodepth={depth}"))
        .arg(format!("--filename={}", device.display()))
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}
