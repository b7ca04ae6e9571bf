//! Data under concurrent load: every byte that was answered is the byte that is there.
//!
//! QEMU's FUSE export under a direct-I/O loop device mixes up writes that overlap in time
//! (performance sheet, section 1); this is what must never happen here.

#![allow(clippy::unwrap_used, reason = "the set-up of a test")]

mod support;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use support::{FileDisk, Loop, ServedFile, file_of, fio_verify, folder, needs, options, run};

const MIB: u64 = 1 << 20;

/// Runs `work` on a loop device on a served file of `length` bytes.
fn on_device(length: u64, work: impl FnOnce(&str)) {
    let folder = folder();
    let path = folder.path().join("image");
    file_of(&path, length);
    let served = ServedFile::new(FileDisk::open(&path), (0, length), false);
    let device = Loop::on(&options(served.file()));
    work(&device.path());
    device.release();
}

#[test]
fn large_concurrent_writes_verify() {
    needs!("fio");
    on_device(128 * MIB, |device| fio_verify(device, "1M", 8, "128M", 2));
}

#[test]
fn small_concurrent_writes_verify() {
    needs!("fio");
    on_device(64 * MIB, |device| {
        fio_verify(device, "4k", 32, "64M", 2);
        fio_verify(device, "4k", 1, "4M", 1);
        fio_verify(device, "512", 16, "2M", 1);
        fio_verify(device, "12k", 16, "48M", 1);
    });
}

/// Page-aligned bytes of one value.
fn aligned(bytes: &mut Vec<u8>, length: usize) -> &mut [u8] {
    bytes.resize(length + 4096, 0);
    let start = bytes.as_ptr().align_offset(4096);
    &mut bytes[start..start + length]
}

fn direct(device: &str) -> File {
    let o_direct = 0o40000;
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(o_direct)
        .open(device)
        .unwrap()
}

#[test]
fn overlapping_writes_leave_each_sector_whole() {
    needs!();
    const WRITERS: u8 = 8;
    const ROUNDS: u64 = 60;
    const REGION: u64 = 2 * MIB;
    on_device(64 * MIB, |device| {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            // Eight writers whose ranges overlap, each with values of its own.
            let writers: Vec<_> = (0..WRITERS)
                .map(|writer| {
                    scope.spawn(move || {
                        let (node, mut memory) = (direct(device), Vec::new());
                        for round in 0..ROUNDS {
                            let turn = (round * 7 + u64::from(writer) * 3) % 16;
                            let length = [4096, 65_536, 512, MIB][(turn % 4) as usize];
                            let offset = turn * 8192;
                            let value = writer << 4 | (round % 16) as u8;
                            let bytes = aligned(&mut memory, length as usize);
                            bytes.fill(value);
                            node.write_all_at(bytes, offset).unwrap();
                        }
                    })
                })
                .collect();
            // Meanwhile every sector that is read is of one value.
            let reader = scope.spawn(|| {
                let (node, mut memory) = (direct(device), Vec::new());
                let bytes = aligned(&mut memory, REGION as usize);
                while !stop.load(Ordering::Relaxed) {
                    node.read_exact_at(bytes, 0).unwrap();
                    for (number, sector) in bytes.chunks(512).enumerate() {
                        assert!(
                            sector.iter().all(|b| *b == sector[0]),
                            "sector {number} is torn"
                        );
                    }
                }
            });
            let written: Vec<_> = writers.into_iter().map(|w| w.join()).collect();
            stop.store(true, Ordering::Relaxed);
            reader.join().unwrap();
            written.into_iter().for_each(|w| w.unwrap());
        });
    });
}

#[test]
fn a_file_system_on_it_keeps_what_it_was_given() {
    needs!("mkfs.ext4", "e2fsck", "blkid");
    on_device(64 * MIB, |device| {
        let folder = folder();
        run("mkfs.ext4", &["-q", "-F", device]);
        let mounted = support::Mounted::new(device, &folder.path().join("mnt"));
        let bytes: Vec<u8> = (0..5_000_000_u32)
            .map(|n| (n >> 3) as u8 ^ n as u8)
            .collect();
        for number in 0..8_u8 {
            let mut own = bytes.clone();
            own[0] = number;
            std::fs::write(mounted.place.join(number.to_string()), own).unwrap();
        }
        drop(mounted);
        let mounted = support::Mounted::new(device, &folder.path().join("mnt"));
        for number in 0..8_u8 {
            let back = std::fs::read(mounted.place.join(number.to_string())).unwrap();
            assert!(back[0] == number && back[1..] == bytes[1..]);
        }
        drop(mounted);
        run("e2fsck", &["-f", "-n", device]);
    });
}
