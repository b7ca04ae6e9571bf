//! Several threads on one VHDX: distinct sectors of the same new blocks, with readers and flushes
//! beside them; what is answered is there after a kill. And what the fast path costs.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its functions too")]

mod disk;
mod layered;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use disk::{pattern, reading, writing};
use layered::{Layered, inherited};
use uuid::Uuid;
use virtdisk_format::{CreateOptions, Extents, Format, Kind, NewParent, Place, Store, create};
use virtdisk_testkit::{MemoryStore, Rng, SectorModel};

const MIB: u64 = 1 << 20;
const THREADS: u64 = 4;

fn created(kind: Kind, virtual_size: u64, block_size: u32) -> Arc<MemoryStore> {
    let parent = NewParent {
        content_id: Uuid::from_u128(7),
        ..NewParent::default()
    };
    let options = CreateOptions {
        format: Format::Vhdx,
        kind,
        virtual_size,
        block_size,
        identifier: None,
        created_unix: 0,
        sparse: true,
        logical_sector_size: 0,
        physical_sector_size: 0,
        parent: (kind == Kind::Differencing).then_some(parent),
    };
    let store = Arc::new(MemoryStore::new());
    create(&*store, &options).unwrap();
    store
}

/// The bytes of a sector; never zeros.
fn sector(number: u64) -> Vec<u8> {
    let mut bytes = vec![7; 512];
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

/// Every thread writes those of `sectors` that are its own, in an order of its own, so that all of
/// them meet in every block; two readers require old or new sectors meanwhile.
fn storm(layers: &Layered, seed: u64, before: &SectorModel, sectors: &[u64]) -> SectorModel {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = Stop(&done);
        let writers: Vec<_> = (0..THREADS)
            .map(|thread| {
                scope.spawn(move || {
                    let mut rng = Rng::new(seed ^ thread);
                    let mut own: Vec<u64> = sectors
                        .iter()
                        .copied()
                        .filter(|number| number % THREADS == thread)
                        .collect();
                    for index in (1..own.len()).rev() {
                        own.swap(index, rng.below(index as u64 + 1) as usize);
                    }
                    for number in own {
                        layers.write(&sector(number), number * 512).unwrap();
                        assert!(layers.read(number * 512, 512).unwrap() == sector(number));
                        if rng.one_in(100) {
                            layers.disk.image.flush().unwrap();
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
                    let number = *rng.pick(sectors);
                    let found = layers.read(number * 512, 512).unwrap();
                    let old = before.read(number * 512, 512);
                    assert!(found == old || found == sector(number), "sector {number}");
                }
            });
        }
        for writer in writers {
            writer.join().unwrap();
        }
    });
    let mut model = before.clone();
    for &number in sectors {
        model.write(&sector(number), number * 512);
    }
    model
}

#[test]
fn threads_that_meet_in_new_blocks_lose_nothing() {
    let seed = Rng::announced("threads_that_meet_in_new_blocks_lose_nothing").seed();
    for kind in [Kind::Dynamic, Kind::Differencing] {
        for (size, block) in [(24 * MIB, 1 << 20), (8 * MIB, 4 << 20)] {
            let store = created(kind, size, block);
            let parent = match kind {
                Kind::Differencing => SectorModel::from_bytes(&pattern(size - MIB, 0xAA)),
                _ => SectorModel::new(512),
            };
            let layers = Layered::open(store.clone(), &writing(), &parent).unwrap();
            // 64 sectors of each block, at both of its ends.
            let sectors: Vec<u64> = (0..size / 512)
                .filter(|number| number % (u64::from(block) / 512) < 48 || number % 2048 >= 2032)
                .collect();
            let model = storm(&layers, seed, &inherited(&parent, size), &sectors);
            layers.must_be(&model);
            let killed = Layered::open_pages(&store.pages(), &reading(), &parent).unwrap();
            killed.must_be(&model);
            let blocks = layers.disk.image.physical().unwrap().blocks_allocated;
            assert_eq!(blocks, size / u64::from(block));
            layers.disk.image.close().unwrap();
            let again = Layered::open(store, &writing(), &parent).unwrap();
            again.must_be(&model);
        }
    }
}

/// A store whose flushes take their time, as those of a disk do.
struct Slow(Arc<MemoryStore>);

impl Store for Slow {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(buf, offset)
    }
    fn flush(&self) -> io::Result<()> {
        std::thread::sleep(Duration::from_millis(2));
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
fn completes_that_wait_together_share_their_flushes() {
    let store = created(Kind::Differencing, 64 * MIB, 32 << 20);
    let parent = SectorModel::new(512);
    let slow = Arc::new(Slow(store.clone()));
    let layers = Layered::open(slow, &writing(), &parent).unwrap();
    layers.write(&sector(0), 0).unwrap();
    let before = store.counts().flushes;
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let layers = &layers;
            scope.spawn(move || {
                for number in 1..100 {
                    let at = (number * 8 + thread) * 512;
                    layers.write(&sector(number), at).unwrap();
                }
            });
        }
    });
    let flushes = store.counts().flushes - before;
    println!("{flushes} flushes for 792 writes to sectors of the parent");
    assert!(flushes < 792 * 2 / 3, "{flushes}");
}

#[test]
fn a_request_in_a_whole_block_touches_neither_file_nor_lock() {
    for kind in [Kind::Dynamic, Kind::Differencing] {
        let store = created(kind, 64 * MIB, 2 << 20);
        let parent = SectorModel::new(512);
        let layers = Layered::open(store.clone(), &writing(), &parent).unwrap();
        layers.write(&pattern(64 * MIB, 1), 0).unwrap();
        let image = &layers.disk.image;
        image.flush().unwrap();
        let before = store.counts();
        let mut out = Extents::new();
        let (rounds, start) = (200_000_u64, Instant::now());
        for round in 0..rounds {
            let at = round.wrapping_mul(0x9E37_79B9) % (16 << 10) * 4096;
            out.clear();
            if round % 4 == 0 {
                let ticket = image.reserve(at, 4096, &mut out).unwrap();
                image.complete(ticket).unwrap();
            } else {
                image.map(at, 4096, &mut out).unwrap();
            }
            assert!(matches!(out[0].place, Place::Data { .. }) && out.len() == 1);
        }
        let each = start.elapsed().as_nanos() as f64 / rounds as f64;
        println!("{kind:?}: {each:.1} ns for a 4 KiB map or reserve");
        assert_eq!(store.counts(), before);
    }
}
