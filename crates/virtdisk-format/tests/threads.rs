//! Several threads on one image: distinct sectors, the same new blocks, partial blocks, and readers
//! beside them. And what the fast path costs.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its functions too")]

mod disk;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use disk::{Disk, pattern, reading, writing};
use virtdisk_format::{CreateOptions, Extents, Format, Kind, Place, Store, create};
use virtdisk_testkit::vhd_builder::VhdBuilder;
use virtdisk_testkit::{MemoryStore, Rng, SectorModel};

const THREADS: u64 = 4;

fn created(virtual_size: u64, block_size: u32) -> Arc<MemoryStore> {
    let options = CreateOptions {
        format: Format::Vhd,
        kind: Kind::Dynamic,
        virtual_size,
        block_size,
        identifier: None,
        created_unix: 0,
        sparse: false,
        logical_sector_size: 0,
        physical_sector_size: 0,
        parent: None,
    };
    let store = Arc::new(MemoryStore::new());
    create(&*store, &options).unwrap();
    store
}

/// The bytes of a sector in a round; never zeros.
fn sector(number: u64, round: u8) -> Vec<u8> {
    let mut bytes = vec![round; 512];
    bytes[..8].copy_from_slice(&(number + 1).to_le_bytes());
    bytes
}

/// Stops the readers when it goes away, in a panic too: a failed test must end.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Every thread writes the sectors that are its own, in an order of its own, so that all of them
/// meet in every block; two readers require old or new sectors meanwhile.
fn storm(disk: &Disk, seed: u64, before: &SectorModel) -> SectorModel {
    let (size, done) = (disk.size(), AtomicBool::new(false));
    let sectors = size / 512;
    std::thread::scope(|scope| {
        let _stop = Stop(&done);
        let writers: Vec<_> = (0..THREADS)
            .map(|thread| {
                scope.spawn(move || {
                    let mut rng = Rng::new(seed ^ thread);
                    let mut own: Vec<u64> = (0..sectors)
                        .filter(|number| number % THREADS == thread)
                        .collect();
                    for index in (1..own.len()).rev() {
                        own.swap(index, rng.below(index as u64 + 1) as usize);
                    }
                    for number in own {
                        disk.write(&sector(number, 7), number * 512).unwrap();
                        assert!(disk.read(number * 512, 512).unwrap() == sector(number, 7));
                        if rng.one_in(100) {
                            disk.image.flush().unwrap();
                        }
                    }
                })
            })
            .collect();
        for reader in 0..2 {
            let done = &done;
            scope.spawn(move || {
                let mut rng = Rng::new(seed ^ 99 ^ reader);
                while !done.load(Ordering::Relaxed) {
                    let number = rng.below(sectors);
                    let found = disk.read(number * 512, 512).unwrap();
                    let old = before.read(number * 512, 512);
                    assert!(
                        found == old || found == sector(number, 7),
                        "sector {number}"
                    );
                }
            });
        }
        for writer in writers {
            writer.join().unwrap();
        }
    });
    let mut model = SectorModel::new(size);
    (0..sectors).for_each(|number| model.write(&sector(number, 7), number * 512));
    model
}

#[test]
fn threads_that_meet_in_new_blocks_lose_nothing() {
    let seed = Rng::announced("threads_that_meet_in_new_blocks_lose_nothing").seed();
    for (size, block) in [
        (1 << 20, 4096),
        (1 << 20, 512),
        (2 << 20, 65536),
        (4 << 20, 2 << 20),
    ] {
        let store = created(size, block);
        let disk = Disk::open(store.clone(), &writing()).unwrap();
        let model = storm(&disk, seed, &SectorModel::new(size));
        disk.must_be(&model);
        assert_eq!(
            disk.image.physical().unwrap().blocks_allocated,
            size.div_ceil(block.into())
        );
        disk.image.close().unwrap();
        Disk::open(store, &writing()).unwrap().must_be(&model);
    }
}

#[test]
fn threads_that_meet_in_partial_blocks_lose_nothing() {
    let mut rng = Rng::announced("threads_that_meet_in_partial_blocks_lose_nothing");
    let mut builder = VhdBuilder::dynamic(64 * 8192, 8192);
    for number in 0..64 {
        let bitmap = rng.bytes(2);
        builder.block_with(number, &pattern(8192, 0xEE), bitmap);
    }
    let store = Arc::new(MemoryStore::from_pages(builder.build()));
    let disk = Disk::open(store.clone(), &writing()).unwrap();
    let before = SectorModel::from_bytes(&disk.read(0, disk.size()).unwrap());
    let model = storm(&disk, rng.seed(), &before);
    disk.must_be(&model);
    disk.image.close().unwrap();
    Disk::open(store, &reading()).unwrap().must_be(&model);
}

/// A store that takes its time over the table: behind reading a page, before writing an entry.
struct Slow(Arc<MemoryStore>);

impl Store for Slow {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)?;
        if buf.len() == 4096 {
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(())
    }
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        if buf.len() == 4 {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.0.write_all_at(buf, offset)
    }
    fn flush(&self) -> io::Result<()> {
        self.0.flush()
    }
    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        self.0.zero(offset, len)
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        self.0.allocate(len)
    }
}

#[test]
fn a_page_that_is_loaded_while_its_block_is_allocated_is_never_stale() {
    // Two pages in one slot: one thread allocates in them by turns, others load them by turns.
    let store = created(1 << 30, 512);
    let disk = Disk::open(Arc::new(Slow(store)), &writing()).unwrap();
    let (stride, done) = (1024 * 1024 * 512, AtomicBool::new(false));
    std::thread::scope(|scope| {
        let _stop = Stop(&done);
        for reader in 0..3 {
            let (disk, done) = (&disk, &done);
            scope.spawn(move || {
                let mut page = reader;
                while !done.load(Ordering::Relaxed) {
                    disk.read(page % 2 * stride + 1000 * 512, 512).unwrap();
                    page += 1;
                }
            });
        }
        for number in 0..300 {
            let at = number % 2 * stride + number * 512;
            disk.write(&sector(number, 1), at).unwrap();
            for _ in 0..3 {
                assert!(
                    disk.read(at, 512).unwrap() == sector(number, 1),
                    "block {number} is lost"
                );
            }
        }
    });
}

#[test]
fn threads_share_a_table_larger_than_its_cache() {
    // 2 MiB of entries compete for the slots: 4 GiB in blocks of 512 bytes is 8 Mi entries, 8192
    // pages for 1024 slots. Blocks that share a slot are written and read side by side.
    let store = created(4 << 30, 512);
    let disk = Disk::open(store.clone(), &writing()).unwrap();
    let stride = 1024 * 1024 * 512;
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let disk = &disk;
            scope.spawn(move || {
                for round in 0..200 {
                    for page in 0..8 {
                        let at = page * stride + (thread * 50 + round % 50) * 512;
                        disk.write(&sector(at, round as u8), at).unwrap();
                        assert!(disk.read(at, 512).unwrap() == sector(at, round as u8));
                    }
                }
            });
        }
    });
    disk.image.close().unwrap();
    let disk = Disk::open(store, &writing()).unwrap();
    for number in 0..THREADS * 50 {
        for page in 0..8 {
            let at = page * stride + number * 512;
            assert!(disk.read(at, 512).unwrap() == sector(at, 150 + (number % 50) as u8));
        }
    }
}

#[test]
fn a_request_in_a_whole_block_touches_neither_file_nor_lock() {
    let store = created(64 << 20, 2 << 20);
    let disk = Disk::open(store.clone(), &writing()).unwrap();
    disk.write(&pattern(64 << 20, 1), 0).unwrap();
    drop(disk);
    let disk = Disk::open(store.clone(), &writing()).unwrap();
    disk.read(0, 64 << 20).unwrap();
    let before = store.counts();
    let mut out = Extents::new();
    let (rounds, start) = (2_000_000_u64, Instant::now());
    for round in 0..rounds {
        let at = round.wrapping_mul(0x9E37_79B9) % (16 << 10) * 4096;
        out.clear();
        if round % 4 == 0 {
            let ticket = disk.image.reserve(at, 4096, &mut out).unwrap();
            disk.image.complete(ticket).unwrap();
        } else {
            disk.image.map(at, 4096, &mut out).unwrap();
        }
        assert!(matches!(out[0].place, Place::Data { .. }) && out.len() == 1);
    }
    let each = start.elapsed().as_nanos() as f64 / rounds as f64;
    println!("{each:.1} ns for a 4 KiB map or reserve");
    assert_eq!(store.counts(), before);
}
