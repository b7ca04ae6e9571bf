//! Memory: what a VHDX costs does not follow from what it claims.
//!
//! The process's resident memory is measured, so the tests here take turns.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its functions too")]

mod disk;

use std::sync::{Arc, Mutex};
use std::time::Instant;

use disk::{Disk, pattern, reading, refusal, writing};
use virtdisk_format::{ErrorKind, Place};
use virtdisk_testkit::vhdx_builder::{LogEntry, MIB, VhdxBuilder};
use virtdisk_testkit::{MemoryStore, Rng};

const TIB: u64 = 1 << 40;
static TURN: Mutex<()> = Mutex::new(());

/// Bytes of memory that this process has in use.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}

#[test]
fn the_largest_disk_opens_like_a_small_one() {
    // S-2, X-51: a table of 16 MiB, and one of 512.
    let _turn = TURN.lock();
    for block_size in [32 << 20, 1 << 20] {
        let mut builder = VhdxBuilder::dynamic(64 * TIB, block_size);
        builder.bat.clear();
        let store = Arc::new(MemoryStore::from_pages(builder.build()));
        let (before, start) = (resident(), Instant::now());
        let disk = Disk::open(store.clone(), &reading()).unwrap();
        let read = store.counts().bytes_read;
        assert!(read < 512 << 10, "{read} bytes read");
        for at in [0, 32 * TIB, 64 * TIB - 4096] {
            let read = store.counts().bytes_read;
            assert_eq!(disk.read(at, 4096).unwrap(), [0; 4096]);
            assert!(store.counts().bytes_read - read <= 4096);
        }
        let kept = resident().saturating_sub(before);
        assert!(kept < 2 << 20, "{kept} bytes kept");
        assert!(start.elapsed().as_secs() < 5);
        let disk = Disk::open(store.clone(), &writing()).unwrap();
        assert_eq!(disk.extents(0, 4096).unwrap()[0].place, Place::Zero);
        let kept = resident().saturating_sub(before);
        assert!(kept < 8 << 20, "{kept} bytes kept");
        assert!(start.elapsed().as_secs() < 30);
    }
}

#[test]
fn threads_that_share_a_small_cache_each_see_the_right_entry() {
    // 64 TiB in blocks of 1 MiB: 131,072 pages of the table in 1,024 slots.
    let _turn = TURN.lock();
    const STEP: u64 = 37 * 512 + 1;
    let mut builder = VhdxBuilder::dynamic(64 * TIB, 1 << 20);
    let base = builder.end();
    let wanted = |block: u64| base + block / STEP * MIB;
    for block in (0..64 * TIB / MIB).step_by(STEP as usize) {
        builder.set(block, 6, wanted(block));
    }
    builder.len = Some(wanted(64 * TIB / MIB) + MIB);
    let disk = Disk::open_pages(&builder.build(), &reading()).unwrap();
    drop(builder);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let disk = &disk;
            scope.spawn(move || {
                let mut rng = Rng::new(thread);
                for _ in 0..20_000 {
                    let block = rng.below(64 * TIB / MIB / STEP) * STEP;
                    let extents = disk.extents(block * MIB, MIB + 512).unwrap();
                    let file_offset = wanted(block);
                    assert_eq!(extents[0].place, Place::Data { file_offset });
                    assert_eq!((extents[1].place, extents.len()), (Place::Zero, 2));
                }
            });
        }
    });
}

#[test]
fn a_small_file_that_claims_a_large_disk_costs_nothing() {
    // S-2
    let _turn = TURN.lock();
    let before = resident();
    let mut builder = VhdxBuilder::dynamic(64 * TIB, 1 << 20);
    builder.bat.clear();
    for table in &mut builder.tables {
        table.regions[0].length = 1 << 20;
    }
    builder.len = Some(5 * MIB);
    assert_eq!(refusal(&builder.build(), &writing()), ErrorKind::BatCorrupt);
    for table in &mut builder.tables {
        table.regions[0].length = 0xFFF0_0000;
    }
    let file = builder.build();
    assert_eq!(refusal(&file, &writing()), ErrorKind::RegionCorrupt);
    for header in &mut builder.headers {
        header.log_length = 0xFFF0_0000;
        header.log_guid = [1; 16];
    }
    assert_eq!(
        refusal(&builder.build(), &reading()),
        ErrorKind::HeaderCorrupt
    );
    let kept = resident().saturating_sub(before);
    assert!(kept < 4 << 20, "{kept} bytes kept");
}

#[test]
fn blocks_far_apart_in_a_sparse_file_cost_a_bounded_map() {
    // S-3, S-7: the map has a bit per MiB up to the last block, and ends at 256 TiB.
    let _turn = TURN.lock();
    let before = resident();
    let mut builder = VhdxBuilder::dynamic(8 * MIB, 1 << 20);
    builder.set(0, 6, 200 * TIB);
    builder.len = Some(200 * TIB + MIB);
    for options in [reading(), writing()] {
        let disk = Disk::open_pages(&builder.build(), &options).unwrap();
        assert_eq!(disk.read(0, 512).unwrap(), [0; 512]);
        assert_eq!(disk.image.facts().notices, [""; 0]);
    }
    builder.set(0, 6, 300 * TIB);
    builder.len = Some(300 * TIB + MIB);
    let disk = Disk::open_pages(&builder.build(), &reading()).unwrap();
    assert_eq!(disk.read(0, 512).unwrap(), [0; 512]);
    assert!(disk.notices("256 TiB"));
    assert_eq!(refusal(&builder.build(), &writing()), ErrorKind::BatCorrupt);
    let kept = resident().saturating_sub(before);
    assert!(kept < 40 << 20, "{kept} bytes kept");
}

#[test]
fn a_log_of_nothing_but_descriptors_costs_a_bounded_overlay() {
    // S-2, S-6, S-7: two million zero descriptors apart from each other, then half of them.
    let _turn = TURN.lock();
    let log = *b"the log's own id";
    for (count, opens) in [(2_000_000_u64, false), (500_000, true)] {
        let mut builder = VhdxBuilder::dynamic(8 * MIB, 1 << 20);
        builder.block(0, &pattern(MIB, 1));
        let target = builder.take(16 << 30);
        builder.dirty(log);
        for header in &mut builder.headers {
            header.log_offset = builder.bat_at + MIB + MIB + (16 << 30);
            header.log_length = 64 << 20;
        }
        builder.len = Some(builder.headers[0].log_offset + (64 << 20));
        let mut one = LogEntry::new(log, 1, 0, 0);
        for index in 0..count {
            one = one.zero(target + index * 8192, 4096);
        }
        builder.log_entry(0, &one);
        let file = builder.build();
        drop((builder, one));
        let (before, start) = (resident(), Instant::now());
        let disk = Disk::open_pages(&file, &reading());
        let kept = resident().saturating_sub(before);
        assert!(kept < 64 << 20, "{kept} bytes kept");
        assert!(start.elapsed().as_secs() < 30, "{:?}", start.elapsed());
        match disk {
            Ok(disk) => {
                assert!(opens && disk.read(0, 4096).unwrap() == pattern(4096, 1));
            }
            Err(error) => {
                assert_eq!((error.kind(), opens), (ErrorKind::LogCorrupt, false));
            }
        }
    }
}
