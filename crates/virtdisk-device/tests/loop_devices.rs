//! Loop devices: made, used, refused, freed.

#![allow(clippy::unwrap_used, reason = "the set-up of a test")]

mod support;

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use support::{Loop, file_of, folder, needs, options};
use virtdisk_device::loop_device::{LoopDevice, LoopOptions, Release, attach};

const MIB: u64 = 1 << 20;
const NOW: Duration = Duration::ZERO;
const SOON: Duration = Duration::from_secs(2);
/// Taken by tests that look at the owner of a node after its device was freed.
static OWNERS: Mutex<()> = Mutex::new(());

/// A file of 8 MiB whose every 512-byte sector says its number.
fn numbered(folder: &Path) -> File {
    let file = file_of(&folder.join("image"), 8 * MIB);
    for sector in 0..8 * MIB / 512 {
        file.write_all_at(&sector.to_ne_bytes(), sector * 512)
            .unwrap();
    }
    file
}

/// Number of the sector that is at `offset` of the device.
fn sector_at(node: &File, offset: u64) -> u64 {
    let mut number = [0; 8];
    node.read_exact_at(&mut number, offset).unwrap();
    u64::from_ne_bytes(number)
}

fn capacity(device: &LoopDevice) -> u64 {
    let size = format!("/sys/block/loop{}/size", device.index);
    std::fs::read_to_string(size)
        .unwrap()
        .trim()
        .parse::<u64>()
        .unwrap()
        * 512
}

fn access(path: &Path) -> (u32, u32, u32) {
    let seen = std::fs::metadata(path).unwrap();
    (seen.uid(), seen.gid(), seen.mode() & 0o777)
}

#[test]
fn a_part_of_the_file_is_shown_and_nothing_around_it() {
    needs!();
    let folder = folder();
    let file = numbered(folder.path());
    let part = LoopOptions {
        offset: MIB + 512,
        size_limit: 2 * MIB,
        ..options(&file)
    };
    let device = Loop::on(&part);
    assert!(device.device.is_ours());
    assert_eq!(capacity(&device.device), 2 * MIB);
    let node = device.open();
    assert_eq!(sector_at(&node, 0), MIB / 512 + 1);
    assert_eq!(sector_at(&node, 2 * MIB - 512), 3 * MIB / 512);
    node.write_all_at(&[7; 512], 2 * MIB - 512).unwrap();
    assert!(node.write_all_at(&[7; 512], 2 * MIB).is_err());
    node.sync_all().unwrap();
    assert_eq!(sector_at(&file, 3 * MIB), u64::from_ne_bytes([7; 8]));
    assert_eq!(sector_at(&file, 3 * MIB + 512), 3 * MIB / 512 + 1);
    drop(node);
    device.release();
}

#[test]
fn a_read_only_device_refuses_writes_and_the_next_user_of_the_node_may_write() {
    needs!();
    let folder = folder();
    let file = numbered(folder.path());
    let device = Loop::on(&LoopOptions {
        read_only: true,
        ..options(&file)
    });
    let index = device.device.index;
    let node = File::open(device.path()).unwrap();
    assert_eq!(sector_at(&node, 512), 1);
    drop(node);
    let written = OpenOptions::new()
        .write(true)
        .open(device.path())
        .and_then(|node| {
            node.write_all_at(&[7; 512], 0)
                .and_then(|()| node.sync_all())
        });
    assert!(written.is_err());
    device.release();
    let device = Loop::on(&options(&file));
    // The lowest free device, unless another program took it.
    if device.device.index == index {
        let node = device.open();
        node.write_all_at(&[7; 512], 0).unwrap();
        node.sync_all().unwrap();
        assert_eq!(sector_at(&file, 0), u64::from_ne_bytes([7; 8]));
    }
    device.release();
}

#[test]
fn the_block_size_asked_for_is_the_sector_size() {
    needs!();
    let folder = folder();
    let file = numbered(folder.path());
    for block_size in [512, 2048, 4096] {
        let device = Loop::on(&LoopOptions {
            block_size,
            ..options(&file)
        });
        assert_eq!(device.device.block_size().unwrap(), block_size);
        device.release();
    }
}

#[test]
fn a_block_size_that_the_kernel_refuses_becomes_512() {
    needs!();
    let folder = folder();
    let file = numbered(folder.path());
    let device = Loop::on(&LoopOptions {
        block_size: 3000,
        ..options(&file)
    });
    assert_eq!(device.device.block_size().unwrap(), 512);
    device.release();
}

#[test]
fn a_file_without_direct_io_gets_a_buffered_device() {
    needs!();
    let folder = folder();
    let file = numbered(folder.path());
    // Direct I/O needs an offset on a block of the file system below.
    let odd = LoopOptions {
        offset: 100,
        size_limit: MIB,
        ..options(&file)
    };
    let device = Loop::on(&odd);
    assert!(!device.device.direct_io().unwrap());
    let mut byte = [0];
    device.open().read_exact_at(&mut byte, 412).unwrap();
    assert_eq!(byte, [1]);
    device.release();
}

#[test]
fn a_file_that_is_none_is_refused_and_no_device_is_left() {
    needs!();
    let (read, _write) = std::io::pipe().unwrap();
    let null = File::open("/dev/null").unwrap();
    let options = LoopOptions {
        backing: read.as_fd(),
        ..options(&null)
    };
    assert!(attach(&options).is_err());
}

#[test]
fn a_device_in_use_stays_as_it_is() {
    needs!();
    let folder = folder();
    let file = numbered(folder.path());
    let device = Loop::on(&options(&file));
    let node = device.open();
    for _ in 0..3 {
        assert_eq!(device.device.release(NOW).unwrap(), Release::Busy);
        assert!(device.device.is_ours());
        assert!(!device.device.goes_when_free().unwrap());
        assert_eq!(sector_at(&node, 1024), 2);
    }
    drop(node);
    // It would be gone now if a failed release had left its mark.
    assert!(device.device.is_ours());
    assert_eq!(sector_at(&device.open(), 1024), 2);
    device.release();
}

#[test]
fn a_partition_that_is_open_keeps_the_device() {
    needs!();
    let folder = folder();
    let file = numbered(folder.path());
    let device = Loop::on(&options(&file));
    let nodes = device.device.add_partitions(&[(1, MIB, MIB)]).unwrap();
    let partition = File::open(&nodes[0]).unwrap();
    assert_eq!(device.device.release(NOW).unwrap(), Release::Busy);
    assert!(nodes[0].exists());
    drop(partition);
    device.release();
}

#[test]
fn releasing_waits_for_a_passer_by() {
    needs!();
    let folder = folder();
    let file = numbered(folder.path());
    let device = Loop::on(&options(&file));
    let node = device.open();
    let start = Instant::now();
    thread::scope(|scope| {
        scope.spawn(move || {
            thread::sleep(Duration::from_millis(100));
            drop(node);
        });
        assert_eq!(device.device.release(SOON).unwrap(), Release::Gone);
    });
    assert!((Duration::from_millis(90)..SOON).contains(&start.elapsed()));
    assert!(!device.device.is_ours());
}

#[test]
fn a_released_device_is_gone_and_its_file_free() {
    needs!();
    let folder = folder();
    let file = numbered(folder.path());
    let device = attach(&options(&file)).unwrap();
    assert_eq!(device.release(SOON).unwrap(), Release::Gone);
    assert!(!device.is_ours());
    // Again, and everything else on a device that is gone.
    assert_eq!(device.release(NOW).unwrap(), Release::Gone);
    assert_eq!(device.release_when_free().unwrap(), Release::Gone);
    assert!(device.sync().is_err());
    assert!(device.set_owner(0, 0, 0o600).is_err());
    device.reset_owner().unwrap();
    assert!(device.add_partitions(&[(1, 0, MIB)]).is_err());
}

#[test]
fn a_device_goes_by_itself_when_the_last_holder_lets_go() {
    needs!();
    let _alone = OWNERS.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = folder();
    let file = numbered(folder.path());
    let device = Loop::on(&options(&file));
    let nodes = device.device.add_partitions(&[(1, MIB, MIB)]).unwrap();
    device.device.set_owner(1234, 1235, 0o660).unwrap();
    let node = device.open();
    assert_eq!(device.device.release_when_free().unwrap(), Release::Busy);
    assert!(device.device.is_ours() && device.device.goes_when_free().unwrap());
    // A try to release it now changes nothing either: it still goes by itself.
    assert_eq!(device.device.release(NOW).unwrap(), Release::Busy);
    assert!(device.device.goes_when_free().unwrap());
    assert_eq!(sector_at(&node, 1024), 2);
    assert_eq!(access(&device.device.path()), (0, 0, 0o600));
    drop(node);
    assert!(!device.device.is_ours());
    assert!(!nodes[0].exists());
}

#[test]
fn a_device_nobody_holds_goes_at_once() {
    needs!();
    let folder = folder();
    let file = numbered(folder.path());
    let device = Loop::on(&options(&file));
    assert_eq!(device.device.release_when_free().unwrap(), Release::Gone);
    assert!(!device.device.is_ours());
}

#[test]
fn a_stored_device_is_never_taken_for_its_successor() {
    needs!();
    let folder = folder();
    let file = numbered(folder.path());
    let first = attach(&options(&file)).unwrap();
    let stored = serde_json::to_string(&first).unwrap();
    assert_eq!(first.release(SOON).unwrap(), Release::Gone);
    let second = Loop::on(&options(&file));
    let stale = LoopDevice {
        index: second.device.index,
        diskseq: serde_json::from_str::<LoopDevice>(&stored).unwrap().diskseq,
    };
    assert_ne!(stale.diskseq, second.device.diskseq);
    assert!(!stale.is_ours());
    assert_eq!(stale.release(NOW).unwrap(), Release::Gone);
    assert_eq!(stale.release_when_free().unwrap(), Release::Gone);
    assert!(second.device.is_ours());
    second.release();
}

#[test]
fn owner_and_access_cover_the_partitions_and_end_with_the_attachment() {
    needs!();
    let _alone = OWNERS.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = folder();
    let file = numbered(folder.path());
    let device = Loop::on(&options(&file));
    let nodes = device
        .device
        .add_partitions(&[(1, MIB, MIB), (2, 2 * MIB, MIB)])
        .unwrap();
    device.device.set_owner(1234, 1235, 0o6664).unwrap();
    for node in nodes.iter().chain([&device.device.path()]) {
        assert_eq!(access(node), (1234, 1235, 0o664));
    }
    let path = device.device.path();
    device.release();
    assert_eq!(access(&path), (0, 0, 0o600));
}

#[test]
fn a_free_device_that_somebody_holds_exclusively_does_not_stop_an_attach() {
    needs!();
    let folder = folder();
    let file = numbered(folder.path());
    let probe = attach(&options(&file)).unwrap();
    assert_eq!(probe.release(SOON).unwrap(), Release::Gone);
    let o_excl = 0o200;
    let exclusive = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(o_excl)
        .open(probe.path())
        .unwrap();
    let device = Loop::on(&options(&file));
    assert_ne!(device.device.index, probe.index);
    drop(exclusive);
    device.release();
}

#[test]
fn attaching_from_many_threads_gives_each_its_own_device() {
    needs!();
    let folder = folder();
    let devices: Vec<(u64, Loop)> = thread::scope(|scope| {
        let threads: Vec<_> = (1..=8)
            .map(|number| {
                let path = folder.path().join(format!("image{number}"));
                scope.spawn(move || {
                    let file = file_of(&path, MIB);
                    file.write_all_at(&u64::to_ne_bytes(number), 0).unwrap();
                    (number, Loop::on(&options(&file)))
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    for (number, device) in &devices {
        assert_eq!(sector_at(&device.open(), 0), *number);
    }
    for (_, device) in devices {
        device.release();
    }
}

#[test]
fn syncing_puts_what_the_page_caches_hold_into_the_file() {
    needs!();
    let folder = folder();
    let file = numbered(folder.path());
    let device = Loop::on(&options(&file));
    let nodes = device.device.add_partitions(&[(1, MIB, MIB)]).unwrap();
    let disk = device.open();
    let partition = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&nodes[0])
        .unwrap();
    disk.write_all_at(&[1; 4096], 4096).unwrap();
    partition.write_all_at(&[2; 4096], 4096).unwrap();
    device.device.sync().unwrap();
    assert_eq!(sector_at(&file, 4096), u64::from_ne_bytes([1; 8]));
    assert_eq!(sector_at(&file, MIB + 4096), u64::from_ne_bytes([2; 8]));
    drop((disk, partition));
    device.release();
}
