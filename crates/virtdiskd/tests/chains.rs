//! Differencing disks through the service: made, found, attached, written, killed and adopted.
//!
//! Each test runs for every format that can have parents.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod support;

use std::fs::{self, File};
use std::path::Path;

use support::*;
use virtdisk::{
    AccessMask, AttachFlags, CreateFlags, CreateOptions, CreateParameters, DetachFlags, OpenFlags,
    OpenOptions, ParentPolicy, VirtualDisk,
};

use virtdiskd::question::PARENTS_LIMIT;

const NOT_FOUND: u32 = 0xC03A_000D;
const MISMATCH: u32 = 0xC03A_000E;
const INVALID_STATE: u32 = 0xC03A_001C;
const CYCLE: u32 = 0xC03A_0018;
const SIZE: u64 = 16 * MIB;

/// Options of a child.
fn child_of(parent: &Path) -> CreateOptions {
    CreateOptions {
        parameters: CreateParameters {
            parent_path: Some(parent.to_owned()),
            ..CreateParameters::default()
        },
        ..CreateOptions::default()
    }
}

/// A new child, closed.
fn child(host: &Host, name: &str, parent: &str) {
    let options = child_of(&host.path(parent));
    drop(host.service().create(host.path(name), &options).unwrap());
}

/// A new dynamic disk with `bytes` at 1 MiB, closed.
fn base(host: &Host, name: &str, bytes: &[u8]) {
    drop(host.create(name, SIZE, CreateFlags::NONE));
    write(host, name, bytes, MIB);
}

/// Writes through an attachment.
fn write(host: &Host, name: &str, bytes: &[u8], offset: u64) {
    let disk = host.open_soon(&host.path(name), AccessMask::ALL);
    let device = attach(&disk, AttachFlags::NONE).device;
    write_device(&device, bytes, offset);
    assert!(disk.detach(DetachFlags::NONE).unwrap().gone);
}

/// Reads through a read-only attachment.
fn read(host: &Host, name: &str, length: usize, offset: u64) -> Vec<u8> {
    let disk = host.open_soon(&host.path(name), AccessMask::READ);
    let device = attach(&disk, AttachFlags::READ_ONLY).device;
    let bytes = read_device(&device, length, offset);
    assert!(disk.detach(DetachFlags::NONE).unwrap().gone);
    bytes
}

/// Opens for reading, when earlier handles have closed; only their 32 is waited for.
fn open(host: &Host, path: &Path, flags: OpenFlags) -> virtdisk::Result<VirtualDisk> {
    let options = OpenOptions {
        flags,
        ..OpenOptions::with_access(AccessMask::READ)
    };
    let mut answer = None;
    wait_for("earlier handles to close", || {
        let opened = host.service().open(path, &options);
        let busy = opened.as_ref().err().is_some_and(|e| e.code().0 == 32);
        answer = Some(opened);
        !busy
    });
    answer.unwrap()
}

fn code(host: &Host, name: &str) -> u32 {
    let opened = open(host, &host.path(name), OpenFlags::NONE);
    opened.unwrap_err().code().0
}

/// The formats that this build makes.
fn formats(host: &Host) -> Vec<&'static str> {
    let made = |extension: &&'static str| {
        let path = host.path(&format!("probe.{extension}"));
        let options = CreateOptions {
            parameters: CreateParameters {
                maximum_size: SIZE,
                ..CreateParameters::default()
            },
            ..CreateOptions::default()
        };
        host.service().create(path, &options).is_ok()
    };
    let found: Vec<_> = ["vhd", "vhdx"].into_iter().filter(made).collect();
    assert!(found.contains(&"vhd"));
    found
}

// R-CRE-10, R-INFO-5, R-INFO-6, R-HND-3
#[test]
fn a_child_is_made_written_and_reads_the_same_again() {
    let host = host!();
    for extension in formats(&host) {
        let (parent, name) = (format!("base.{extension}"), format!("child.{extension}"));
        base(&host, &parent, b"from the base");
        let before = sha256(&host.path(&parent));
        let options = child_of(&host.path(&parent));
        let disk = host.service().create(host.path(&name), &options).unwrap();
        let facts = disk.information().unwrap();
        assert_eq!((facts.subtype, facts.virtual_size), (4, SIZE));
        assert_eq!(facts.block_size, 2 << 20);
        assert!(facts.parent_resolved && facts.fragmentation.is_none());
        let real = fs::canonicalize(host.path(&parent)).unwrap();
        assert_eq!(facts.parents, [real.to_str().unwrap()]);
        let device = attach_permanent(&disk).device;
        assert_eq!(read_device(&device, 13, MIB), b"from the base");
        // Not on a sector's boundary, and across a block's.
        write_device(&device, b"from the child", MIB + 100);
        write_device(&device, &[7; 8192], 4 * MIB - 4096);
        let whole = sha256(&device);
        assert!(disk.detach(DetachFlags::NONE).unwrap().gone);
        drop(disk);
        let disk = open(&host, &host.path(&name), OpenFlags::NONE).unwrap();
        let device = attach(&disk, AttachFlags::READ_ONLY).device;
        assert_eq!(sha256(&device), whole);
        assert_eq!(read_device(&device, 13, MIB), b"from the base");
        assert_eq!(read_device(&device, 14, MIB + 100), b"from the child");
        assert!(disk.detach(DetachFlags::NONE).unwrap().gone);
        drop(disk);
        assert_eq!(sha256(&host.path(&parent)), before, "the base was written");
        let parent_facts = open(&host, &host.path(&parent), OpenFlags::NONE)
            .unwrap()
            .information()
            .unwrap();
        assert_eq!(parent_facts.identifier, facts.parent_identifier);
    }
}

// P-2, R-SHR-6
#[test]
fn a_long_chain_is_found_by_itself_and_its_parents_are_shared() {
    let host = host!();
    for extension in formats(&host) {
        let name = |number: u32| format!("{number}.{extension}");
        base(&host, &name(0), b"0");
        for number in 1..6 {
            child(&host, &name(number), &name(number - 1));
            write(
                &host,
                &name(number),
                &[number as u8],
                MIB + u64::from(number),
            );
        }
        assert_eq!(read(&host, &name(5), 6, MIB), b"0\x01\x02\x03\x04\x05");
        child(&host, &format!("sibling.{extension}"), &name(4));
        let first = open(&host, &host.path(&name(5)), OpenFlags::NONE).unwrap();
        let second = host.path(&format!("sibling.{extension}"));
        let second = open(&host, &second, OpenFlags::NONE).unwrap();
        assert_eq!(first.information().unwrap().parents.len(), 5);
        let devices = [
            attach(&first, AttachFlags::READ_ONLY).device,
            attach(&second, AttachFlags::READ_ONLY).device,
        ];
        assert_eq!(read_device(&devices[1], 6, MIB), b"0\x01\x02\x03\x04\0");
        // What others build upon is not written.
        let writer = host.service().open(
            host.path(&name(2)),
            &OpenOptions::with_access(AccessMask::ALL),
        );
        assert_eq!(writer.unwrap_err().code().0, 32);
        for disk in [first, second] {
            assert!(disk.detach(DetachFlags::NONE).unwrap().gone);
        }
    }
}

// P-1, P-6, S-4
#[test]
fn a_parent_that_is_missing_wrong_or_elsewhere_is_refused_by_name() {
    let host = host!();
    for extension in formats(&host) {
        let file = |name: &str| host.path(&format!("{name}.{extension}"));
        let (parent, name) = (format!("base.{extension}"), format!("child.{extension}"));
        base(&host, &parent, b"base");
        child(&host, &name, &parent);
        wait_for("the child to close", || host.open_v2(&name, false).is_ok());
        fs::rename(file("base"), file("kept")).unwrap();
        let error = open(&host, &file("child"), OpenFlags::NONE).unwrap_err();
        assert_eq!(error.code().0, NOT_FOUND);
        let text = error.to_string();
        assert!(text.contains(&parent) && text.contains(&name), "{text}");

        base(&host, &parent, b"another");
        assert_eq!(code(&host, &name), MISMATCH);
        fs::write(file("base"), vec![1; 1 << 20]).unwrap();
        let damaged = code(&host, &name);
        assert!([0xC03A_0019, MISMATCH].contains(&damaged), "{damaged:#x}");
        fs::remove_file(file("base")).unwrap();
        fs::create_dir(file("base")).unwrap();
        assert_eq!(code(&host, &name), NOT_FOUND);
        fs::remove_dir(file("base")).unwrap();

        // Elsewhere: only where the caller allows it.
        let elsewhere = tempfile::tempdir().unwrap();
        let away = elsewhere.path().join(&parent);
        fs::copy(file("kept"), &away).unwrap();
        std::os::unix::fs::symlink(&away, file("base")).unwrap();
        assert_eq!(code(&host, &name), NOT_FOUND);
        let policy = ParentPolicy {
            allow_dirs: vec![elsewhere.path().to_owned()],
            ..ParentPolicy::default()
        };
        let service = host.service().clone().with_parents(policy);
        let options = OpenOptions::with_access(AccessMask::READ);
        drop(service.open(file("child"), &options).unwrap());
        fs::remove_file(file("base")).unwrap();
        fs::rename(file("kept"), file("base")).unwrap();
        assert_eq!(read(&host, &name, 4, MIB), b"base");
    }
}

/// Puts a text of the same length into a file, wherever the other one stands, UTF-16 of either
/// order.
fn replace_text(path: &Path, from: &str, to: &str) -> usize {
    let mut bytes = fs::read(path).unwrap();
    let mut count = 0;
    for big in [false, true] {
        let wide = |text: &str| -> Vec<u8> {
            let bytes = |unit: u16| {
                if big {
                    unit.to_be_bytes()
                } else {
                    unit.to_le_bytes()
                }
            };
            text.encode_utf16().flat_map(bytes).collect()
        };
        let (from, to) = (wide(from), wide(to));
        assert_eq!(from.len(), to.len());
        for at in 0..bytes.len().saturating_sub(from.len()) {
            if bytes[at..].starts_with(&from) {
                bytes[at..at + to.len()].copy_from_slice(&to);
                count += 1;
            }
        }
    }
    fs::write(path, bytes).unwrap();
    count
}

// S-4: a hint is a text that its writer chose.
#[test]
fn hostile_hints_open_nothing() {
    let host = host!();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let fifo = host.path("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, mode).unwrap();
    for extension in formats(&host) {
        // As long as the hostile ones, so that nothing in the file moves.
        let parent = format!("a-name-of-27-letters--.{extension}");
        let honest = format!(r".\{parent}");
        base(&host, &parent, b"base");
        for (number, hint) in [
            r"..\..\..\..\etc\shadow",
            r"\\server\share\base.vhd",
            r"/etc/shadow",
            r".\fifo",
            r".\.\.\.",
        ]
        .into_iter()
        .enumerate()
        {
            let name = format!("child{number}.{extension}");
            child(&host, &name, &parent);
            wait_for("the child to close", || host.open_v2(&name, false).is_ok());
            // Separators say nothing more when there are several.
            let last = hint.rfind(['\\', '/']).unwrap();
            let more = hint[last..=last].repeat(honest.len() - hint.len());
            let hostile = format!("{}{more}{}", &hint[..last], &hint[last..]);
            assert!(replace_text(&host.path(&name), &honest, &hostile) > 0);
        }
        fs::rename(host.path(&parent), host.path("away")).unwrap();
        for number in 0..5 {
            let refused = code(&host, &format!("child{number}.{extension}"));
            let wanted = [NOT_FOUND, 0xC03A_0016];
            assert!(wanted.contains(&refused), "{number}: {refused:#x}");
        }
        fs::remove_file(host.path("away")).unwrap();
    }
}

// P-5, S-13
#[test]
fn a_chain_that_comes_back_to_itself_is_refused() {
    let host = host!();
    for extension in formats(&host) {
        let file = |name: &str| host.path(&format!("{name}.{extension}"));
        base(&host, &format!("base.{extension}"), b"base");
        child(
            &host,
            &format!("child.{extension}"),
            &format!("base.{extension}"),
        );
        wait_for("the child to close", || {
            host.open_v2(&format!("child.{extension}"), false).is_ok()
        });
        // The child lies in its parent's place too: the same file, then a copy of it.
        fs::remove_file(file("base")).unwrap();
        fs::hard_link(file("child"), file("base")).unwrap();
        assert_eq!(code(&host, &format!("child.{extension}")), CYCLE);
        fs::remove_file(file("base")).unwrap();
        fs::copy(file("child"), file("base")).unwrap();
        let copied = code(&host, &format!("child.{extension}"));
        assert!([CYCLE, MISMATCH].contains(&copied), "{copied:#x}");
    }
}

// R-OPEN-14, R-INFO-6
#[test]
fn without_its_parents_a_disk_can_be_asked_and_not_attached() {
    let host = host!();
    for extension in formats(&host) {
        let (parent, name) = (format!("base.{extension}"), format!("child.{extension}"));
        base(&host, &parent, b"base");
        child(&host, &name, &parent);
        wait_for("the child to close", || host.open_v2(&name, false).is_ok());
        fs::rename(host.path(&parent), host.path("away")).unwrap();
        let alone = open(&host, &host.path(&name), OpenFlags::NO_PARENTS).unwrap();
        let facts = alone.information().unwrap();
        assert!(!facts.parent_resolved && facts.parents.is_empty());
        let hints = facts.parent_hints.join(" ");
        assert!(hints.contains(&parent), "{hints}");
        let error = alone.attach(&attach_with(AttachFlags::READ_ONLY));
        assert_eq!(error.unwrap_err().code().0, INVALID_STATE);
        // Another handle brings them, and the first still leaves them out.
        fs::rename(host.path("away"), host.path(&parent)).unwrap();
        drop(alone);
        let whole = open(&host, &host.path(&name), OpenFlags::NONE).unwrap();
        let device = attach(
            &whole,
            AttachFlags::READ_ONLY | AttachFlags::PERMANENT_LIFETIME,
        );
        assert_eq!(read_device(&device.device, 4, MIB), b"base");
        let options = OpenOptions {
            flags: OpenFlags::NO_PARENTS,
            ..OpenOptions::with_access(AccessMask::GET_INFO | AccessMask::DETACH)
        };
        let beside = host.service().open(host.path(&name), &options).unwrap();
        assert!(!beside.information().unwrap().parent_resolved);
        drop(whole);
        wait_for("the other handle to close", || {
            beside.detach(DetachFlags::NONE).is_ok_and(|d| d.gone)
        });
    }
}

// R-PAR-1, R-PAR-2, R-OPEN-18
#[test]
fn a_chain_is_supplied_by_hand() {
    let host = host!();
    for extension in formats(&host) {
        let name = |name: &str| format!("{name}.{extension}");
        base(&host, &name("base"), b"base");
        child(&host, &name("middle"), &name("base"));
        child(&host, &name("leaf"), &name("middle"));
        wait_for("them to close", || {
            host.open_v2(&name("leaf"), false).is_ok()
        });
        fs::create_dir(host.path("away")).unwrap();
        for it in ["base", "middle"] {
            let path = host.path(&name(it));
            fs::rename(&path, host.path("away").join(format!("{it}.bin"))).unwrap();
        }
        let away = |it: &str| host.path("away").join(format!("{it}.bin"));
        let disk = open(
            &host,
            &host.path(&name("leaf")),
            OpenFlags::CUSTOM_DIFF_CHAIN,
        )
        .unwrap();
        let attach_now = || disk.attach(&attach_with(AttachFlags::READ_ONLY));
        assert_eq!(attach_now().unwrap_err().code().0, INVALID_STATE);
        let wrong = disk.add_parent(away("base")).unwrap_err();
        assert_eq!(wrong.code().0, MISMATCH);
        let itself = disk.add_parent(host.path(&name("leaf"))).unwrap_err();
        assert_eq!(itself.code().0, CYCLE);
        assert!(!disk.add_parent(away("middle")).unwrap());
        assert_eq!(attach_now().unwrap_err().code().0, INVALID_STATE);
        assert_eq!(
            disk.add_parent("/dev/null").unwrap_err().code().0,
            0xC03A_0015
        );
        assert!(disk.add_parent(away("base")).unwrap());
        assert_eq!(
            disk.add_parent(away("base")).unwrap_err().code().0,
            INVALID_STATE
        );
        let device = attach(&disk, AttachFlags::READ_ONLY).device;
        assert_eq!(read_device(&device, 4, MIB), b"base");
        assert!(disk.detach(DetachFlags::NONE).unwrap().gone);
        assert!(disk.information().unwrap().parent_resolved);
        let plain = host.open_v2(&name("probe"), true).unwrap();
        assert_eq!(plain.add_parent(away("base")).unwrap_err().code().0, 87);
        drop((disk, plain));
        fs::remove_dir_all(host.path("away")).unwrap();
    }
}

// R-OPEN-11: who gets at a chain's bytes can read all of its files, also when it is open already.
#[test]
fn a_chain_that_is_open_is_joined_by_those_who_have_its_parents() {
    let host = host!();
    for extension in formats(&host) {
        let (parent, name) = (format!("base.{extension}"), format!("child.{extension}"));
        base(&host, &parent, b"base");
        child(&host, &name, &parent);
        wait_for("the child to close", || host.open_v2(&name, false).is_ok());
        let first = host.open_v2(&name, true).unwrap();
        fs::rename(host.path(&parent), host.path("away")).unwrap();
        assert_eq!(host.open_v2(&name, true).unwrap_err().code().0, NOT_FOUND);
        // Questions need no bytes.
        let quiet = AccessMask::GET_INFO | AccessMask::DETACH;
        let quiet = host.open(&name, quiet).unwrap();
        assert!(quiet.information().unwrap().parent_resolved);
        // A handle that came to an attached disk without its parents can detach it, not attach it.
        let attached = attach_permanent_read_only(&first);
        let late = host.open_v2(&name, true).unwrap();
        drop((first, quiet));
        wait_for("the others to close", || {
            late.detach(DetachFlags::NONE).is_ok_and(|done| done.gone)
        });
        assert!(!is_bound(&attached));
        let refused = late.attach(&attach_with(AttachFlags::READ_ONLY));
        assert_eq!(refused.unwrap_err().code().0, 0xC03A_0016);
        // One that brings its parents itself has them.
        let options = OpenOptions {
            flags: OpenFlags::CUSTOM_DIFF_CHAIN,
            ..OpenOptions::v2(true)
        };
        let custom = host.service().open(host.path(&name), &options).unwrap();
        let refused = custom.attach(&attach_with(AttachFlags::READ_ONLY));
        assert_eq!(refused.unwrap_err().code().0, 0xC03A_0016);
        assert!(custom.add_parent(host.path("away")).unwrap());
        let device = attach(&custom, AttachFlags::READ_ONLY).device;
        assert_eq!(read_device(&device, 4, MIB), b"base");
        drop(late);
        wait_for("the other to close", || {
            custom.detach(DetachFlags::NONE).is_ok_and(|done| done.gone)
        });
        drop(custom);
        fs::remove_file(host.path("away")).unwrap();
    }
}

// R-PAR-1: also for the handle of a create.
#[test]
fn a_create_may_leave_its_chain_to_the_caller() {
    let host = host!();
    for extension in formats(&host) {
        let (parent, name) = (format!("base.{extension}"), format!("child.{extension}"));
        base(&host, &parent, b"base");
        for flags in [OpenFlags::CUSTOM_DIFF_CHAIN, OpenFlags::NO_PARENTS] {
            let mut options = child_of(&host.path(&parent));
            options.parameters.open_flags = flags;
            let disk = host.service().create(host.path(&name), &options).unwrap();
            let attached = disk.attach(&attach_with(AttachFlags::READ_ONLY));
            assert_eq!(attached.unwrap_err().code().0, INVALID_STATE);
            let added = disk.add_parent(host.path(&parent));
            if flags == OpenFlags::NO_PARENTS {
                assert_eq!(added.unwrap_err().code().0, 87);
            } else {
                assert!(added.unwrap());
                let device = attach(&disk, AttachFlags::NONE).device;
                assert_eq!(read_device(&device, 4, MIB), b"base");
                assert!(disk.detach(DetachFlags::NONE).unwrap().gone);
            }
            drop(disk);
            fs::remove_file(host.path(&name)).unwrap();
        }
    }
}

/// Attaches permanently, for reading.
fn attach_permanent_read_only(disk: &VirtualDisk) -> std::path::PathBuf {
    attach(
        disk,
        AttachFlags::PERMANENT_LIFETIME | AttachFlags::READ_ONLY,
    )
    .device
}

// R-SHR-7, R-SHR-2
#[test]
fn a_child_is_made_beside_an_idle_handle_of_its_parent() {
    let host = host!();
    for extension in formats(&host) {
        let (parent, name) = (format!("base.{extension}"), format!("child.{extension}"));
        let handle = host.create(&parent, SIZE, CreateFlags::NONE);
        let options = child_of(&host.path(&parent));
        let made = host.service().create(host.path(&name), &options).unwrap();
        assert!(made.information().unwrap().parent_resolved);
        let written = handle.attach(&attach_with(AttachFlags::NONE));
        assert_eq!(written.unwrap_err().code().0, 32);
        drop(made);
        wait_for("the child to let go", || {
            let attached = handle.attach(&attach_with(AttachFlags::NONE));
            attached.is_ok()
        });
        // While it is attached for writing, nothing can be built upon it.
        let second = host.path(&format!("second.{extension}"));
        let refused = host.service().create(&second, &options);
        assert_eq!(refused.unwrap_err().code().0, 32);
        assert!(!second.exists());
        assert!(handle.detach(DetachFlags::NONE).unwrap().gone);
        drop(handle);
        // A handle that only asks takes no lock; the idle one and then a reader come to it.
        let quiet = host.open_soon(&host.path(&parent), AccessMask::GET_INFO);
        drop(quiet);
        drop(host.open_soon(&host.path(&name), AccessMask::READ));
        let quiet = host.open(&name, AccessMask::GET_INFO).unwrap();
        let mut idle = None;
        wait_for("the reader to close", || {
            idle = host.open_v2(&parent, false).ok();
            idle.is_some()
        });
        let reading = open(&host, &host.path(&name), OpenFlags::NONE).unwrap();
        assert!(reading.information().unwrap().parent_resolved);
        drop((quiet, reading, idle));
    }
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

// Design 2.4
#[test]
fn a_worker_of_a_chain_is_replaced_with_all_its_parents() {
    let host = host!();
    for extension in formats(&host) {
        let name = |number: u32| format!("k{number}.{extension}");
        base(&host, &name(0), b"base");
        child(&host, &name(1), &name(0));
        child(&host, &name(2), &name(1));
        let disk = host.open_soon(&host.path(&name(2)), AccessMask::ALL);
        let device = attach(&disk, AttachFlags::NONE).device;
        for round in 0..8_u8 {
            write_device(
                &device,
                &[round + 1; 5000],
                2 * MIB + u64::from(round) * 5000,
            );
            for pid in host.workers() {
                kill(pid);
            }
            assert_eq!(read_device(&device, 4, MIB), b"base");
        }
        for round in 0..8_u8 {
            let found = read_device(&device, 5000, 2 * MIB + u64::from(round) * 5000);
            assert_eq!(found, vec![round + 1; 5000]);
        }
        assert!(disk.detach(DetachFlags::NONE).unwrap().gone);
        drop(disk);
        assert_eq!(read(&host, &name(2), 4, 2 * MIB + 5000), [2; 4]);
        assert_eq!(read(&host, &name(1), 4, 2 * MIB), [0; 4]);
    }
}

// Design 2.4
#[test]
fn the_next_broker_adopts_a_chain() {
    let mut host = host!();
    for extension in formats(&host) {
        let name = |number: u32| format!("a{number}.{extension}");
        base(&host, &name(0), b"base");
        child(&host, &name(1), &name(0));
        child(&host, &name(2), &name(1));
        let disk = host.open_soon(&host.path(&name(2)), AccessMask::ALL);
        let device = attach_permanent(&disk).device;
        write_device(&device, b"leaf", 3 * MIB);
        drop(disk);
        host.kill_broker();
        assert_eq!(read_device(&device, 4, MIB), b"base");
        host.start_broker();
        assert_eq!(host.attached().len(), 1);
        let handle = host
            .open(&name(2), AccessMask::GET_INFO | AccessMask::DETACH)
            .unwrap();
        let facts = handle.information().unwrap();
        assert!(facts.parent_resolved);
        assert_eq!(facts.parents.len(), 2, "{facts:?}");
        // Its parents are still kept from writers, and an adopted worker that dies has a successor.
        let writer = host
            .service()
            .open(host.path(&name(0)), &OpenOptions::v2(false));
        assert_eq!(writer.unwrap_err().code().0, 32);
        for pid in workers_with(&host) {
            kill(pid);
        }
        assert_eq!(read_device(&device, 4, MIB), b"base");
        assert_eq!(read_device(&device, 4, 3 * MIB), b"leaf");
        assert!(handle.detach(DetachFlags::NONE).unwrap().gone);
        drop(handle);
        assert_eq!(read(&host, &name(2), 4, 3 * MIB), b"leaf");
        write(&host, &format!("probe.{extension}"), b"x", 0);
    }
}

/// Writes a child of the image `parent` without the service.
fn quick_child(parent: &Path, name: &Path) {
    let open = virtdisk_disk::OpenOptions::default();
    let from = File::open(parent).unwrap();
    let from = virtdisk_disk::Disk::open_alone(from, "parent", &open).unwrap();
    let relative = format!(r".\{}", parent.file_name().unwrap().to_str().unwrap());
    let facts = from.facts();
    let options = virtdisk_disk::CreateOptions {
        format: facts.format,
        kind: virtdisk_disk::Kind::Differencing,
        virtual_size: facts.virtual_size,
        block_size: 0,
        logical_sector_size: 0,
        physical_sector_size: 0,
        identifier: None,
        parent: Some(from.as_parent(&relative, "").unwrap()),
        created_unix: 0,
        sparse: true,
    };
    let mut new = File::options();
    let file = new.read(true).write(true).create_new(true).open(name);
    let file = file.unwrap();
    virtdisk_disk::Disk::create(file, "child", &options).unwrap();
}

// P-5: the longest chain crosses the socket, serves, is replaced and adopted; one more does not.
#[test]
fn the_longest_chain_is_served_and_a_longer_one_refused() {
    let mut host = host!();
    let long = "n".repeat(200);
    let path = |host: &Host, number: usize| host.path(&format!("{long}{number}.vhd"));
    drop(host.create("base.vhd", SIZE, CreateFlags::NONE));
    write(&host, "base.vhd", b"base", MIB);
    wait_for("the base to close", || {
        host.open_v2("base.vhd", false).is_ok()
    });
    fs::rename(host.path("base.vhd"), path(&host, 0)).unwrap();
    for number in 1..=PARENTS_LIMIT + 1 {
        quick_child(&path(&host, number - 1), &path(&host, number));
    }
    let leaf = path(&host, PARENTS_LIMIT);
    let disk = host.open_soon(&leaf, AccessMask::ALL);
    let device = attach_permanent(&disk).device;
    assert_eq!(read_device(&device, 4, MIB), b"base");
    write_device(&device, b"leaf", 5 * MIB);
    for pid in host.workers() {
        kill(pid);
    }
    assert_eq!(read_device(&device, 4, MIB), b"base");
    drop(disk);
    host.kill_broker();
    host.start_broker();
    for pid in workers_with(&host) {
        kill(pid);
    }
    assert_eq!(read_device(&device, 4, 5 * MIB), b"leaf");
    let rights = AccessMask::GET_INFO | AccessMask::DETACH;
    let handle = host.open_soon(&leaf, rights);
    assert!(handle.information().unwrap().parents.len() > 50);
    assert!(handle.detach(DetachFlags::NONE).unwrap().gone);
    drop(handle);
    let longer = open(&host, &path(&host, PARENTS_LIMIT + 1), OpenFlags::NONE);
    assert_eq!(longer.unwrap_err().code().0, CYCLE);
}

/// Workers that have a file of this host open, whoever started them.
fn workers_with(host: &Host) -> Vec<i32> {
    let folder = host.path("").display().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let fds = fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten();
        let mut targets = fds.flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
        let ours = |target: std::path::PathBuf| target.to_string_lossy().starts_with(&folder);
        if line.starts_with(b"virtdiskd\0worker") && targets.any(ours) {
            found.push(pid);
        }
    }
    found
}

// R-CRE-11
#[test]
fn a_copy_has_the_bytes_of_its_source_whatever_its_format() {
    let host = host!();
    let formats = formats(&host);
    for from in &formats {
        let (parent, leaf) = (format!("base.{from}"), format!("leaf.{from}"));
        base(&host, &parent, b"base");
        child(&host, &leaf, &parent);
        write(&host, &leaf, b"leaf", 9 * MIB);
        for to in formats.iter().chain(&["img"]) {
            let copy = format!("copy-{from}.{to}");
            let mut options = child_of(Path::new("/"));
            options.parameters.parent_path = None;
            options.parameters.source_path = Some(host.path(&leaf));
            let mut made = None;
            wait_for("the source to close", || {
                made = host.service().create(host.path(&copy), &options).ok();
                made.is_some()
            });
            let facts = made.unwrap().information().unwrap();
            assert_eq!(facts.virtual_size, SIZE);
            assert!(facts.parent_hints.is_empty());
            assert!(facts.allocated_size < SIZE, "the copy is not sparse");
            assert_eq!(read(&host, &copy, 4, MIB), b"base");
            assert_eq!(read(&host, &copy, 4, 9 * MIB), b"leaf");
            options.parameters.maximum_size = SIZE - MIB;
            let small = host.service().create(host.path("small.vhd"), &options);
            assert_eq!(small.unwrap_err().code().0, 87);
            options.parameters.maximum_size = SIZE + MIB;
            let large = format!("large-{from}.{to}");
            let disk = host.service().create(host.path(&large), &options).unwrap();
            assert_eq!(disk.information().unwrap().virtual_size, SIZE + MIB);
        }
    }
}

// R-CRE-9, R-CRE-13
#[test]
fn a_child_of_the_wrong_thing_is_not_made() {
    let host = host!();
    drop(host.create("raw.img", SIZE, CreateFlags::NONE));
    drop(host.create("a.vhd", SIZE, CreateFlags::NONE));
    for (name, parent) in [
        ("a.vhdx", "a.vhd"),
        ("b.vhd", "raw.img"),
        ("c.img", "a.vhd"),
    ] {
        let options = child_of(&host.path(parent));
        let error = host.service().create(host.path(name), &options);
        let code = error.unwrap_err().code().0;
        assert!(![0, 31].contains(&code), "{name}: {code:#x}");
        assert!(!host.path(name).exists(), "{name} is left");
    }
}
